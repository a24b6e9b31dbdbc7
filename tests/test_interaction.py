"""Effects of segments together, against one saturated regression clustered by user."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings

from experiments.effect import effect_of, sums_of
from experiments.interaction import effects_by_segment, interaction_of, joint_of
from experiments.sessions import Sessions, where
from tests.made_sessions import assert_plain, drawn, table, tables


def regressed(sessions: Sessions, x: Any, d: Any) -> tuple[Any, Any]:
    """x/d on each segment's constant and treatment, clustered by user, and where the treatments' coefficients are."""
    present = sorted(set(sessions.segment.tolist()))
    columns = [(sessions.segment == each) & in_arm for in_arm in (True, sessions.arm == 1) for each in present]
    y = np.divide(x, d, out=np.zeros(len(x)), where=d > 0)
    fit = sm.WLS(y, np.stack(columns, axis=1).astype(float), weights=d)
    return fit.fit(cov_type="cluster", cov_kwds={"groups": sessions.user}, use_t=True), slice(len(present), None)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ratio", [False, True])
def test_it_equals_a_saturated_clustered_regression(seed: int, ratio: bool) -> None:
    sessions = drawn(seed, segments=4)
    x, d = (sessions.clicks, sessions.impressions) if ratio else (sessions.vehicles, np.ones(sessions.rows))
    assert x is not None
    assert d is not None
    fit, treatments = regressed(sessions, x, d)
    joint = joint_of(sessions, x, d)
    assert joint.segments == (0, 1, 2, 3)
    np.testing.assert_allclose(joint.effects, fit.params[treatments], rtol=1e-6)
    np.testing.assert_allclose(joint.covariance, fit.cov_params()[treatments, treatments], rtol=1e-6, atol=1e-12)
    assert (joint.covariance[np.triu_indices(4, 1)] != 0).all()  # users are in several segments
    contrasts = np.zeros((3, 8))
    contrasts[:, 4] = -1
    contrasts[range(3), [5, 6, 7]] = 1
    expected = fit.wald_test(contrasts, use_f=False, scalar=True)
    found = interaction_of(sessions, x, d)
    assert (found.chi2, found.p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-6)
    assert (found.df, found.segments) == (3, ("a", "b", "c", "d"))


def test_each_segments_effect_is_that_of_its_own_sessions() -> None:
    sessions = drawn(8)
    found = effects_by_segment(sessions, sessions.vehicles, None)
    assert list(found) == ["a", "b", "c"]
    for number, name in enumerate(found):
        own = where(sessions, sessions.segment == number)
        expected = effect_of(sums_of(own.vehicles, None, own.arm, own.user, own.users))
        assert found[name].p is not None
        assert found[name].df == expected.df == len(set(own.user.tolist())) - 1
        for ours, theirs in zip(found[name], expected, strict=True):
            assert ours == theirs or ours == pytest.approx(theirs, rel=1e-9)


def test_up_in_one_and_down_in_the_other_is_found_though_both_together_show_nothing() -> None:
    rng = np.random.default_rng(2)
    arm, segment = np.arange(2_000) % 2, np.arange(2_000) // 2 % 2
    vehicles = rng.poisson(4 + np.where(segment == 0, 1, -1) * arm)
    sessions = table(arm.tolist(), rng.integers(0, 500, 2_000).tolist(), vehicles.tolist(), segment=segment.tolist())
    found = interaction_of(sessions, sessions.vehicles)
    assert found.p is not None
    assert found.p < 1e-6
    together = effect_of(sums_of(sessions.vehicles, None, sessions.arm, sessions.user, sessions.users))
    assert together.p is not None
    assert together.p > 0.05


def test_segments_of_which_nothing_can_be_told_are_left_out() -> None:
    sessions = drawn(3)
    lonely = sessions._replace(
        segment=np.r_[sessions.segment[:-5], [3, 4, 4, -1, -1]],
        segments=("a", "b", "c", "one session", "one arm"),
        arm=np.r_[sessions.arm[:-4], [1, 1, 0, 1]].astype(np.int8),
    )
    without = where(lonely, (lonely.segment >= 0) & (lonely.segment < 3))
    found = interaction_of(lonely, lonely.vehicles)
    assert found.segments == ("a", "b", "c")
    assert found == interaction_of(without, without.vehicles)
    effects = effects_by_segment(lonely, lonely.vehicles, None)
    assert effects["one session"].reason is not None
    assert effects["one arm"].reason == "no sessions in control"


def test_the_order_of_segments_and_the_numbers_of_users_do_not_matter() -> None:
    sessions = drawn(4, segments=4)
    found = interaction_of(sessions, sessions.vehicles)
    assert interaction_of(sessions._replace(user=3 * sessions.user + 1, users=500), sessions.vehicles) == found
    other = interaction_of(sessions._replace(segment=3 - sessions.segment), sessions.vehicles)
    assert (other.chi2, other.p) == pytest.approx((found.chi2, found.p), rel=1e-9)


def test_one_segment_or_none_is_nothing_to_compare() -> None:
    reason = "effects of fewer than 2 segments are known: there is nothing to compare"
    for sessions in (drawn(1, segments=1), table([], [], [])):
        found = interaction_of(sessions, sessions.vehicles)
        assert (found.chi2, found.df, found.p, found.reason) == (None, None, None, reason)


def test_three_users_cannot_tell_four_segments_apart() -> None:
    rng = np.random.default_rng(0)
    sessions = table(
        rng.integers(0, 2, 80).tolist(),
        rng.integers(0, 3, 80).tolist(),
        rng.poisson(4, 80).tolist(),
        segment=(np.arange(80) % 4).tolist(),
    )
    found = interaction_of(sessions, sessions.vehicles)
    assert (found.p, found.reason) == (None, "too few users: one segment's effect follows from the others'")


@settings(max_examples=30)
@given(tables(most=40, largest=1e308))
def test_whatever_the_table_holds_the_result_is_plain(sessions: Sessions) -> None:
    assert sessions.clicks is not None
    assert_plain(interaction_of(sessions, sessions.vehicles))
    assert_plain(interaction_of(sessions, sessions.clicks, sessions.impressions))
    assert_plain(list(effects_by_segment(sessions, sessions.clicks, sessions.impressions).values()))
