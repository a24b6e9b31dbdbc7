"""Sample-ratio mismatch: by hand, as published, against scipy and tea-tasting; the sequential test unit by unit."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.sessions import Sessions
from experiments.srm import ALERT, counts_by_look, sequential_srm, srm_of
from schemas.errors import ConfigError
from tests.made_sessions import table, tables


@pytest.mark.parametrize(
    ("counts", "weights", "p"),
    [
        ([60, 40], [1, 1], 0.045500264),  # chi2 = 100/50 + 100/50 = 4, which is 2 standard deviations
        ([5_100, 4_900], [50, 50], 0.045500264),
        ([970, 30], [90, 10], 1.6e-13),  # chi2 = 70²/900 + 70²/100 = 54.4
        ([50, 50], [1, 1], 1),
        ([0, 16], [1, 1], 6.334e-5),  # chi2 = 16, which is 4 standard deviations
    ],
)
def test_it_is_as_by_hand(counts: list[int], weights: list[float], p: float) -> None:
    assert srm_of(counts, weights) == pytest.approx(p, rel=1e-2 if p < 1e-6 else 1e-4)


def test_it_is_as_published() -> None:
    # Kohavi, Tang and Xu 2020, "Trustworthy Online Controlled Experiments", chapter 21, scenario 1: "1.8E-6"
    p = srm_of([821_588, 815_482], [50, 50])
    assert p is not None
    assert f"{p:.1E}" == "1.8E-06"
    # the same counts in Fabijan et al. 2019, "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments": "< 1 in 500,000"
    assert p < 1 / 500_000 < ALERT
    # Wikipedia, "Sample ratio mismatch": 600 and 400 of 1,000: "2.54 × 10^-10"
    assert srm_of([600, 400], [1, 1]) == pytest.approx(2.54e-10, rel=2e-3)


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=4).filter(any), st.data())
def test_it_equals_scipys(counts: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 99), min_size=len(counts), max_size=len(counts)))
    expected = np.array(weights) / sum(weights) * sum(counts)
    assert srm_of(counts, weights) == pytest.approx(stats.chisquare(counts, expected).pvalue, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(("counts", "ratio"), [((5_021, 4_893), 1.0), ((880, 120), 1 / 9), ((310, 690), 2.0)])
def test_it_equals_tea_tastings(counts: tuple[int, int], ratio: float) -> None:
    rows = pd.DataFrame({"variant": np.repeat([0, 1], counts)})
    metrics = {"srm": tt.SampleRatio(ratio, method="norm", correction=False)}
    assert srm_of(counts, [1, ratio]) == pytest.approx(tt.Experiment(metrics).analyze(rows)["srm"].pvalue, rel=1e-9)


def unit_by_unit(arms: list[int], weights: list[float]) -> list[float]:
    """The Bayes factor after each unit: by how much the posterior predictive foretold it better than the weights, multiplied up."""
    shares = [weight / sum(weights) for weight in weights]
    seen, factor, factors = [0] * len(weights), 1.0, []
    for arm in arms:
        factor *= (100 * shares[arm] + seen[arm]) / (100 + sum(seen)) / shares[arm]
        seen[arm] += 1
        factors.append(factor)
    return factors


@settings(max_examples=50)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.lists(st.integers(1, 9), min_size=3, max_size=3), st.data())
def test_the_sequential_test_equals_betting_unit_by_unit(arms: list[int], weights: list[float], data: st.DataObject) -> None:
    cumulative = np.cumsum(np.eye(3, dtype=int)[arms], axis=0)
    looks = sorted(data.draw(st.sets(st.integers(0, len(arms) - 1), min_size=1)))
    largest = max(unit_by_unit(arms, weights)[look] for look in looks)
    assert sequential_srm(cumulative[looks], weights) == pytest.approx(min(1, 1 / largest), rel=1e-9)


def test_all_possible_streams_together_rarely_raise_a_false_alarm() -> None:
    # Ville's inequality, over every stream of 12 units: P(1/max BF <= a) <= a
    streams = list(itertools.product([0, 1], repeat=12))
    ps = [min(1.0, 1 / max(unit_by_unit(list(stream), [1, 1]))) for stream in streams]
    for level in (0.05, 0.2, 0.5, 0.9):
        assert sum(p <= level for p in ps) / len(ps) <= level
    assert sequential_srm(np.cumsum(np.eye(2, dtype=int)[[0] * 12], axis=0), [1, 1]) == pytest.approx(min(ps), rel=1e-9)


def test_a_mismatch_that_has_been_seen_is_not_forgotten() -> None:
    looks = [[100, 20], [200, 190], [2_000, 2_000]]
    assert sequential_srm(looks, [1, 1]) == sequential_srm(looks[:1], [1, 1])
    assert sequential_srm(looks[2:], [1, 1]) == 1


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=8))
def test_the_sequential_p_never_rises_from_look_to_look(parts: list[tuple[int, int]]) -> None:
    looks = np.cumsum(parts, axis=0)
    ps = [sequential_srm(looks[:upto], [70, 30]) for upto in range(1, len(looks) + 1)]
    known = [p for p in ps if p is not None]
    assert known == sorted(known, reverse=True)
    assert ps[: len(ps) - len(known)] == [None] * (len(ps) - len(known))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9_000), min_size=2, max_size=2), st.floats(0.1, 50))
def test_only_the_ratio_of_the_weights_counts(counts: list[int], times: float) -> None:
    for test in (srm_of, lambda counts, weights: sequential_srm([counts], weights)):
        plain, scaled = test(counts, [2, 3]), test(counts, [2 * times, 3 * times])
        assert plain == scaled or plain == pytest.approx(scaled, rel=1e-6)


def test_tens_of_millions_of_units_are_no_trouble() -> None:
    assert sequential_srm([[10_000_000, 10_000_000]], [1, 1]) == 1
    p = sequential_srm([[10_000_000, 1]], [1, 1])
    assert p is not None
    assert 0 <= p < 1e-300
    assert srm_of([10_000_000, 1], [1, 1]) == 0


def test_without_units_there_is_nothing_to_tell() -> None:
    assert srm_of([0, 0], [1, 1]) is None
    assert sequential_srm([[0, 0]], [1, 1]) is None
    assert sequential_srm(np.zeros((0, 2)), [1, 1]) is None


@pytest.mark.parametrize(
    "weights", [[1], [1, 0], [1, -1], [1, math.nan], [1, math.inf], [1, 1, 1], [1e308, 1e308], [2e6, 1], [1e6, 5e-324]]
)
def test_weights_that_are_none_are_told(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"weights == \[.*\], must be a number above 0 and at most 1e\+06 for each arm"):
        srm_of([1, 1], weights)


def test_a_unit_counts_from_its_first_day_on() -> None:
    sessions = table([0, 0, 1, 1, 0], [0, 0, 1, 2, 0], [0] * 5, day=[0, 1, 1, 3, 3])
    assert counts_by_look(sessions, "user").tolist() == [[1, 0], [1, 1], [1, 1], [1, 2]]
    assert counts_by_look(sessions, "session").tolist() == [[1, 0], [2, 1], [2, 1], [3, 2]]


@settings(max_examples=30)
@given(tables())
def test_counts_by_look_equal_sets(sessions: Sessions) -> None:
    rows = list(zip(sessions.day.tolist(), sessions.arm.tolist(), sessions.user.tolist(), strict=True))
    expected = [
        [len({user for day, arm, user in rows if day <= look and arm == each}) for each in (0, 1)]
        for look in range(len(sessions.days))
    ]
    assert counts_by_look(sessions, "user").tolist() == expected
