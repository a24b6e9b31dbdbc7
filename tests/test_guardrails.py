"""Non-inferiority against statsmodels' test of the same contrast, and what passes."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.effect import Sums, sums_of
from experiments.guardrails import guardrail_of
from experiments.sessions import Sessions
from schemas.errors import ConfigError
from tests.made_sessions import assert_plain, drawn, table, tables


def mean_sums(sessions: Sessions) -> Sums:
    return sums_of(sessions.vehicles, None, sessions.arm, sessions.user, sessions.users)


@pytest.mark.parametrize("margin", [0, 0.02, 0.3])
@pytest.mark.parametrize("ratio", [False, True])
def test_it_equals_the_clustered_contrast(margin: float, ratio: bool) -> None:
    sessions = drawn(4)
    x, d = (sessions.clicks, sessions.impressions) if ratio else (sessions.vehicles, np.ones(sessions.rows))
    assert x is not None
    assert d is not None
    arms = np.stack([sessions.arm == 0, sessions.arm == 1], axis=1).astype(float)
    y = np.divide(x, d, out=np.zeros(len(x)), where=d > 0)
    fit = sm.WLS(y, arms, weights=d).fit(cov_type="cluster", cov_kwds={"groups": sessions.user}, use_t=True)
    contrast = fit.t_test([-(1 - margin), 1])
    found = guardrail_of("lead", margin, sums_of(x, d, sessions.arm, sessions.user, sessions.users))
    assert found.p == pytest.approx(stats.t.sf(contrast.tvalue.item(), 59), rel=1e-6)
    assert found.low == pytest.approx(contrast.conf_int(alpha=0.1)[0, 0], rel=1e-6)  # one side of 5 % is a two-sided 90 %


@settings(max_examples=30)
@given(tables(largest=1e308), st.floats(0, 0.9), st.floats(0.01, 0.5))
def test_it_passes_exactly_when_p_is_below_the_level_and_is_plain(sessions: Sessions, margin: float, alpha: float) -> None:
    found = guardrail_of("vehicles_viewed", margin, mean_sums(sessions), alpha)
    assert_plain(found)
    assert (found.passed is None) == (found.p is None) == (found.low is None)
    if found.p is not None and abs(found.p - alpha) > 1e-9:
        assert found.passed == (found.p < alpha)


@settings(max_examples=25)
@given(st.integers(0, 100), st.floats(0, 0.5), st.floats(0, 0.4))
def test_a_wider_margin_is_easier_to_hold(seed: int, margin: float, more: float) -> None:
    sums = mean_sums(drawn(seed, n=80))
    narrow, wide = guardrail_of("m", margin, sums), guardrail_of("m", margin + more, sums)
    assert narrow.low is not None
    assert wide.low is not None
    assert wide.low >= narrow.low - 1e-12


def test_no_harm_passes_great_harm_and_too_little_to_tell_do_not() -> None:
    rng = np.random.default_rng(0)
    arm = np.arange(4_000) % 2
    for lift, n, passed in ((0.0, 4_000, True), (-0.5, 4_000, False), (0.0, 40, False)):
        sessions = table(arm[:n].tolist(), range(n), rng.poisson(5 + lift * 5 * arm[:n]).tolist())
        assert guardrail_of("m", 0.05, mean_sums(sessions)).passed is passed


@pytest.mark.parametrize("margin", [-0.1, 1, 2, float("nan")])
def test_a_margin_that_is_none_is_told(margin: float) -> None:
    with pytest.raises(ConfigError, match="margin of lead == .*, must be at least 0 and below 1"):
        guardrail_of("lead", margin, mean_sums(drawn(0)))


def test_what_cannot_be_told_has_a_reason() -> None:
    assert guardrail_of("m", 0.1, mean_sums(table([], [], []))).reason == "no sessions in control"
    assert guardrail_of("m", 0.1, mean_sums(table([0, 1], [0, 1], [1, 2]))).reason == "1 user in control, at least 2 are needed"
    alike = guardrail_of("m", 0.1, mean_sums(table([0, 0, 1, 1], range(4), [2] * 4)))
    assert (alike.passed, alike.reason) == (None, "every user is alike: the variance is 0")
