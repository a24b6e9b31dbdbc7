"""The effect formula against statsmodels and loops, what it says where there is nothing to say, and its laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.effect import ALPHA, Effect, Sums, effect_of, is_nothing, pulls_of, sums_of
from experiments.sessions import CONTROL, TREATMENT, Sessions, dense, triggered, where
from tests.made_sessions import assert_plain, drawn, table, tables

FEW = settings(max_examples=30)


def mean_of(sessions: Sessions, alpha: float = ALPHA) -> Effect:
    return effect_of(sums_of(sessions.vehicles, None, sessions.arm, sessions.user, sessions.users), alpha)


def rate_of(sessions: Sessions, alpha: float = ALPHA) -> Effect:
    assert sessions.clicks is not None
    return effect_of(sums_of(sessions.clicks, sessions.impressions, sessions.arm, sessions.user, sessions.users), alpha)


def regressed(sessions: Sessions, x: Any, d: Any) -> Any:
    """x/d on a constant for each arm, weighted by d, clustered by user; sessions with d = 0 stay, at weight 0."""
    ratio = np.divide(x, d, out=np.zeros(len(x)), where=d > 0)
    arms = np.stack([sessions.arm == CONTROL, sessions.arm == TREATMENT], axis=1).astype(float)
    return sm.WLS(ratio, arms, weights=d).fit(cov_type="cluster", cov_kwds={"groups": sessions.user}, use_t=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("by_user", [False, True])
@pytest.mark.parametrize("ratio", [False, True])
def test_it_equals_clustered_least_squares(seed: int, by_user: bool, ratio: bool) -> None:
    sessions = drawn(seed, by_user=by_user)
    assert sessions.clicks is not None
    assert sessions.impressions is not None
    x, d = (sessions.clicks, sessions.impressions) if ratio else (sessions.vehicles, np.ones(sessions.rows))
    assert not ratio or (d == 0).any()
    fit = regressed(sessions, x, d)
    contrast = fit.t_test([-1, 1])
    found = rate_of(sessions) if ratio else mean_of(sessions)
    assert (found.control, found.treatment) == pytest.approx(tuple(fit.params), rel=1e-9)
    assert found.effect == pytest.approx(contrast.effect.item(), rel=1e-6)
    assert found.se == pytest.approx(contrast.sd.item(), rel=1e-6)
    assert found.p == pytest.approx(contrast.pvalue.item(), rel=1e-6)
    assert found.ci == pytest.approx(contrast.conf_int()[0], rel=1e-6)
    assert found.df == len(set(sessions.user.tolist())) - 1


def test_a_mean_is_the_slope_of_ordinary_least_squares() -> None:
    sessions = drawn(7)
    fit = sm.OLS(sessions.vehicles, sm.add_constant(sessions.arm.astype(float))).fit(
        cov_type="cluster", cov_kwds={"groups": sessions.user}, use_t=True
    )
    found = mean_of(sessions)
    assert (found.effect, found.se, found.p) == pytest.approx((fit.params[1], fit.bse[1], fit.pvalues[1]), rel=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_the_relative_effect_is_by_the_delta_method_on_both_arms_together(alpha: float) -> None:
    sessions = drawn(3)
    fit = regressed(sessions, sessions.clicks, sessions.impressions)
    control, treatment = fit.params
    gradient = np.array([-treatment / control**2, 1 / control])
    wide = stats.t.ppf(1 - alpha / 2, 59) * math.sqrt(gradient @ fit.cov_params() @ gradient)
    found = rate_of(sessions, alpha)
    assert found.rel == pytest.approx(treatment / control - 1, rel=1e-9)
    assert found.rel_ci == pytest.approx((treatment / control - 1 - wide, treatment / control - 1 + wide), rel=1e-6)


def test_it_equals_the_formula_user_by_user() -> None:
    sessions = drawn(5, n=90, users=20)
    assert sessions.clicks is not None
    assert sessions.impressions is not None
    rows = list(zip(sessions.user, sessions.arm, sessions.clicks, sessions.impressions, strict=True))
    totals = [[sum(row[column] for row in rows if row[1] == arm) for column in (2, 3)] for arm in (0, 1)]
    pulls: dict[int, float] = {}
    for user, arm, x, d in rows:
        share = totals[arm][0] / totals[arm][1]
        pulls[user] = pulls.get(user, 0) + (1 if arm else -1) * (x - share * d) / totals[arm][1]
    users, n = len(pulls), len(rows)
    variance = users / (users - 1) * (n - 1) / (n - 2) * sum(pull**2 for pull in pulls.values())
    assert rate_of(sessions).se == pytest.approx(math.sqrt(variance), rel=1e-9)


def test_one_session_a_user_is_the_classical_robust_error() -> None:
    sessions = table([0, 0, 0, 1, 1, 1], range(6), [1, 2, 6, 2, 5, 8])
    # by hand: squares about the means 3 and 5 are 14 and 18, each arm's 3 sessions squared 9, corrected by 6/5 · 5/4
    assert mean_of(sessions).se == pytest.approx(math.sqrt(1.5 * (14 + 18) / 9), rel=1e-12)
    assert mean_of(sessions).effect == pytest.approx(2)


def test_a_user_who_likes_both_arms_alike_does_not_blur_the_effect() -> None:
    both = table([0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2], [1, 2, 5, 6, 9, 10.5])
    apart = both._replace(user=np.arange(6), users=6)
    together, separate = mean_of(both), mean_of(apart)
    assert together.effect == separate.effect
    assert together.se is not None
    assert separate.se is not None
    assert together.se < separate.se / 5


NOTHING: Any = "nothing to divide by in "


@pytest.mark.parametrize(
    ("sessions", "expected", "reason"),
    [
        (table([], [], []), (None, None, None), "no sessions in control"),
        (table([0], [0], [3]), (3, None, None), "no sessions in treatment"),
        (table([1, 1], [0, 1], [3, 5]), (None, 4, None), "no sessions in control"),
        (table([0, 1], [0, 1], [3, 5]), (3, 5, 2), "1 user in control, at least 2 are needed"),
        (table([0, 0, 1, 1], [0, 1, 2, 2], [3, 5, 4, 6]), (4, 5, 1), "1 user in treatment, at least 2 are needed"),
        (table([0, 0, 1, 1], [0, 1, 2, 3], [2, 2, 2, 2]), (2, 2, 0), "every user is alike: the variance is 0"),
        (table([0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 0, 0]), (0, 0, 0), "every user is alike: the variance is 0"),
        (table([0, 0, 1, 1], [0, 1, 2, 3], [0.1, 0.1, 0.7, 0.7]), (0.1, 0.7, 0.6), "every user is alike: the variance is 0"),
        (table([0, 0, 1, 1], [0, 1, 2, 3], [1e200, 1, 1, 3e200]), (5e199, 1.5e200, 1e200), "the numbers are too large"),
        (table([0, 0, 1, 1], [0, 1, 2, 3], [1.5e308] * 4), (None, None, None), "the numbers are too large"),
    ],
)
def test_what_cannot_be_told_has_a_reason(sessions: Sessions, expected: tuple[Any, ...], reason: str) -> None:
    found = mean_of(sessions)
    assert (found.control, found.treatment, found.effect) == pytest.approx(expected)
    assert found.reason is not None
    assert found.reason.startswith(reason)
    assert (found.p, found.ci, found.rel_ci) == (None, None, None)


def test_a_rate_needs_something_to_divide_by_for_two_users_in_each_arm() -> None:
    arms, users = [0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5]
    none = table(arms, users, users, clicks=[0, 1, 1, 0, 0, 0], impressions=[2, 4, 1, 0, 0, 0])
    assert rate_of(none)[:2] == (2 / 7, None)
    assert rate_of(none).reason == "nothing to divide by in treatment: its denominators add up to 0"
    one = table(arms, users, users, clicks=[0, 1, 1, 1, 0, 0], impressions=[2, 4, 1, 4, 0, 0])
    assert rate_of(one).reason == "1 user in treatment, at least 2 are needed"
    two = table(arms, users, users, clicks=[0, 1, 1, 1, 0, 0], impressions=[2, 4, 1, 4, 1, 0])
    assert rate_of(two).reason is None
    assert rate_of(two).df == 5


def test_there_is_no_relative_effect_on_nothing() -> None:
    found = mean_of(table([0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 1, 3]))
    assert (found.rel, found.rel_ci, found.reason) == (None, None, "control is not above 0: there is no relative effect")
    assert found.p is not None


@FEW
@given(tables(largest=1e308))
def test_whatever_the_table_holds_the_result_is_plain(sessions: Sessions) -> None:
    assert_plain(mean_of(sessions))
    assert_plain(rate_of(sessions))


@FEW
@given(tables(), st.integers(1, 4), st.randoms())
def test_sums_of_parts_add_up(sessions: Sessions, parts: int, random: Any) -> None:
    whole = sums_of(sessions.vehicles, sessions.impressions, sessions.arm, sessions.user, sessions.users)
    of_part = np.array([random.randrange(parts) for _ in range(sessions.rows)], int)
    added = Sums(*np.zeros((3, 2, sessions.users)))
    for part in range(parts):
        some = where(sessions, of_part == part)
        of_some = sums_of(some.vehicles, some.impressions, some.arm, some.user, some.users)
        added = Sums(*(one + other for one, other in zip(added, of_some, strict=True)))
    for ours, theirs in zip(added, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def assert_alike(found: Effect, other: Effect, times: float = 1) -> None:
    assert (found.p is None) == (other.p is None)
    if found.p is None or found.se is None or found.effect is None or other.se is None or other.effect is None:
        return
    assert found.se == pytest.approx(abs(times) * other.se, rel=1e-6)
    assert found.effect == pytest.approx(times * other.effect, rel=1e-6, abs=1e-9 * found.se)
    assert found.p == pytest.approx(other.p, rel=1e-6)


@FEW
@given(tables(least=4), st.randoms())
def test_the_order_of_rows_and_the_numbers_of_users_do_not_matter(sessions: Sessions, random: Any) -> None:
    order = list(range(sessions.rows))
    random.shuffle(order)
    shuffled = Sessions._make(each[order] if isinstance(each, np.ndarray) else each for each in sessions)
    assert_alike(mean_of(shuffled), mean_of(sessions))
    assert_alike(mean_of(sessions._replace(user=sessions.user + 5, users=sessions.users + 9)), mean_of(sessions))
    user, users = dense(sessions.user, sessions.users)
    assert_alike(rate_of(sessions._replace(user=user, users=users)), rate_of(sessions))


@FEW
@given(tables(least=4), st.floats(1e-3, 1e3))
def test_scaling_the_metric_scales_the_effect(sessions: Sessions, times: float) -> None:
    found, scaled = mean_of(sessions), mean_of(sessions._replace(vehicles=sessions.vehicles * times))
    assert_alike(scaled, found, times)
    assert found.rel is None or scaled.rel == pytest.approx(found.rel, rel=1e-6, abs=1e-9)


@FEW
@given(tables(least=4))
def test_swapping_the_arms_negates_the_effect(sessions: Sessions) -> None:
    swapped = sessions._replace(arm=(1 - sessions.arm).astype(np.int8))
    for effect in (mean_of, rate_of):
        found, other = effect(sessions), effect(swapped)
        assert (found.control, found.treatment) == (other.treatment, other.control)
        assert_alike(found, other, -1)


@FEW
@given(tables(least=4))
def test_more_of_the_same_in_both_arms_moves_nothing(sessions: Sessions) -> None:
    lifted = mean_of(sessions._replace(vehicles=np.floor(sessions.vehicles) + 3))
    assert_alike(lifted, mean_of(sessions._replace(vehicles=np.floor(sessions.vehicles))))


@FEW
@given(tables(least=4), st.floats(0.01, 0.5))
def test_the_interval_leaves_nothing_out_exactly_when_p_is_above_the_level(sessions: Sessions, alpha: float) -> None:
    found = mean_of(sessions, alpha)
    if found.p is not None and found.ci is not None and abs(found.p - alpha) > 1e-9:
        assert (found.ci[0] <= 0 <= found.ci[1]) == (found.p > alpha)


def test_the_variance_of_one_arm_is_that_of_its_mean() -> None:
    sessions = drawn(2, by_user=True)
    pulls = pulls_of(sums_of(sessions.vehicles, None, sessions.arm, sessions.user, sessions.users))
    assert not isinstance(pulls, str)
    covariance = regressed(sessions, sessions.vehicles, np.ones(sessions.rows)).cov_params()
    assert pulls.variance(1, 0) == pytest.approx(covariance[0, 0], rel=1e-6)
    assert pulls.variance(0, 1) == pytest.approx(covariance[1, 1], rel=1e-6)
    assert pulls.variance(-1, 1) == pytest.approx(covariance[0, 0] + covariance[1, 1], rel=1e-6)


def test_rounding_is_not_taken_for_variance() -> None:
    rng = np.random.default_rng(0)
    alike = table(rng.integers(0, 2, 5_000).tolist(), rng.integers(0, 900, 5_000).tolist(), [0.1] * 5_000)
    assert mean_of(alike).reason == "every user is alike: the variance is 0"
    assert is_nothing(1e-17, 0.1, 0.1)
    assert not is_nothing(1e-9, 0.1, 0.1)


def test_only_sessions_whose_visitor_had_segments_are_triggered() -> None:
    sessions = table([0, 1, 0], [0, 1, 2], [1, 2, 3], segment=[0, -1, 1])
    found = triggered(sessions)
    assert found.vehicles.tolist() == [1, 3]
    assert found.user.tolist() == [0, 2]
    assert (found.users, found.segments, found.clicks) == (3, ("a", "b"), None)


@FEW
@given(st.lists(st.integers(0, 40)))
def test_dense_codes_keep_their_order(codes: list[int]) -> None:
    for below in (41, 1_000):  # both ways of counting
        found, count = dense(np.array(codes, np.int64), below)
        ranks = {code: rank for rank, code in enumerate(sorted(set(codes)))}
        assert (found.tolist(), count) == ([ranks[code] for code in codes], len(ranks))
