"""Holm and Benjamini-Hochberg: as published, against statsmodels, scipy and the definition, and what becomes of the unknown."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from experiments.multiplicity import benjamini_hochberg, holm

# The 15 p-values of Benjamini and Hochberg 1995, "Controlling the false discovery rate", section 4.1. At 0.05, their procedure
# rejects the first four, Holm's (by steps, as Hochberg's there) the first three.
PUBLISHED = [
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344),
    *(0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.000),
]
ps = st.lists(st.none() | st.floats(0, 1), max_size=12)


def test_they_reject_what_they_did_where_they_were_published() -> None:
    assert [p is not None and p < 0.05 for p in benjamini_hochberg(PUBLISHED)] == [True] * 4 + [False] * 11
    assert [p is not None and p < 0.05 for p in holm(PUBLISHED)] == [True] * 3 + [False] * 12
    assert benjamini_hochberg(PUBLISHED)[3] == pytest.approx(0.0095 * 15 / 4)
    assert holm(PUBLISHED)[2] == pytest.approx(0.0019 * 13)


@pytest.mark.parametrize(("ours", "method"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_they_equal_statsmodels(ours: Callable[[list[float]], list[float]], method: str) -> None:
    raw = [0.03, 0.001, 0.04, 0.04, 0.9, 0.011, 1.0, 0.0]
    assert ours(raw) == pytest.approx(multipletests(raw, method=method)[1].tolist(), rel=1e-12)


@given(ps)
def test_holm_is_as_defined(raw: list[float | None]) -> None:
    known = sorted(p for p in raw if p is not None)
    steps = [min(1.0, (len(known) - place) * p) for place, p in enumerate(known)]
    for p, adjusted in zip(raw, holm(raw), strict=True):
        if p is None:
            assert adjusted is None
        else:
            assert adjusted == pytest.approx(max(step for step, other in zip(steps, known, strict=True) if other <= p), rel=1e-12)


@given(ps)
def test_benjamini_hochberg_equals_scipys(raw: list[float | None]) -> None:
    known = [p for p in raw if p is not None]
    found = benjamini_hochberg(raw)
    assert [p is None for p in found] == [p is None for p in raw]
    assert [p for p in found if p is not None] == pytest.approx(stats.false_discovery_control(known).tolist() if known else [])


@given(ps)
def test_no_adjusted_p_is_below_its_own_and_holms_is_the_stricter(raw: list[float | None]) -> None:
    for p, strict, mild in zip(raw, holm(raw), benjamini_hochberg(raw), strict=True):
        if p is not None and strict is not None and mild is not None:
            assert p <= mild * (1 + 1e-12)
            assert mild <= strict * (1 + 1e-12)
            assert strict <= 1


def test_what_is_unknown_stays_so_and_does_not_count() -> None:
    assert holm([None, 0.02, None]) == [None, 0.02, None]
    assert holm([]) == []
    assert benjamini_hochberg([None]) == [None]
