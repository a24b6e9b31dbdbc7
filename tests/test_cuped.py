"""CUPED against tea-tasting and statsmodels, and what is known of nobody."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.cuped import cuped_of
from experiments.effect import effect_of, sums_of
from experiments.sessions import Sessions
from tests.made_sessions import assert_plain, drawn, table, tables


def test_it_equals_tea_tastings_where_each_user_comes_once() -> None:
    rng = np.random.default_rng(1)
    pre = rng.gamma(2, 2, 200)
    y = rng.poisson(pre + 0.5 * (np.arange(200) % 2)).astype(float)
    sessions = table([0, 1] * 100, range(200), y.tolist(), pre=pre.tolist())
    rows = pd.DataFrame({"variant": sessions.arm.astype(int), "y": y, "pre": pre})
    expected = tt.Experiment({"y": tt.Mean("y", "pre", use_t=True, equal_var=True)}).analyze(rows)["y"]
    found = cuped_of(sessions, y)
    assert found.effect == pytest.approx(expected.effect_size, rel=1e-9)
    assert found.se == pytest.approx(expected.effect_size / expected.statistic, rel=1e-6)
    assert found.variance_ratio is not None
    assert found.variance_ratio < 0.7


def test_theta_is_the_slope_over_both_arms_and_the_error_is_clustered() -> None:
    sessions = drawn(6)
    pre, y = sessions.pre, sessions.vehicles
    assert pre is not None
    known = ~np.isnan(pre)
    covariance = np.cov(y[known], pre[known])
    theta = covariance[0, 1] / covariance[1, 1]
    adjusted = np.array(
        [
            value - theta * (before - pre[known].mean()) if there else value
            for value, before, there in zip(y, pre, known, strict=True)
        ]
    )
    expected = effect_of(sums_of(adjusted, None, sessions.arm, sessions.user, sessions.users))
    plain = effect_of(sums_of(y, None, sessions.arm, sessions.user, sessions.users))
    found = cuped_of(sessions, y)
    assert found.theta == pytest.approx(theta, rel=1e-9)
    assert (found.effect, found.se, found.p) == pytest.approx((expected.effect, expected.se, expected.p), rel=1e-9)
    assert found.ci == pytest.approx(expected.ci, rel=1e-9)
    assert found.covered == known.mean()
    assert expected.se is not None
    assert plain.se is not None
    assert found.variance_ratio == pytest.approx((expected.se / plain.se) ** 2, rel=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 1_000), st.floats(-50, 50), st.floats(0.1, 10))
def test_in_which_unit_it_was_known_before_does_not_matter(seed: int, shift: float, times: float) -> None:
    sessions = drawn(seed, n=80, users=15)
    assert sessions.pre is not None
    found = cuped_of(sessions, sessions.vehicles)
    other = cuped_of(sessions._replace(pre=shift + times * sessions.pre), sessions.vehicles)
    assert (other.effect, other.se) == pytest.approx((found.effect, found.se), rel=1e-6, abs=1e-9)
    assert found.theta is not None
    assert other.theta == pytest.approx(found.theta / times, rel=1e-6, abs=1e-9)


def test_what_is_known_of_nobody_or_the_same_of_all_adjusts_nothing() -> None:
    sessions = drawn(2)
    assert (
        cuped_of(sessions._replace(pre=None), sessions.vehicles).reason
        == "pre_vehicles is not known: there is nothing to adjust by"
    )
    nobody = cuped_of(sessions._replace(pre=np.full(sessions.rows, math.nan)), sessions.vehicles)
    assert (nobody.covered, nobody.theta, nobody.reason) == (0, None, "pre_vehicles is not known: there is nothing to adjust by")
    alike = cuped_of(sessions._replace(pre=np.full(sessions.rows, 1.1)), sessions.vehicles)
    assert (alike.covered, alike.theta, alike.p) == (1, None, None)
    assert alike.reason == "pre_vehicles is the same wherever it is known: there is nothing to adjust by"


def test_where_everything_was_known_before_no_variance_is_left() -> None:
    sessions = drawn(2)
    pre = (np.arange(sessions.rows) % 7).astype(np.float64)
    found = cuped_of(sessions._replace(pre=pre), 2 * pre + 3)
    assert found.theta == pytest.approx(2)
    assert found.reason == "every user is alike: the variance is 0"
    assert found.p is None


def test_where_nothing_varied_before_the_adjustment_there_is_no_ratio_of_variances() -> None:
    found = cuped_of(table([0, 0, 1, 1], [0, 1, 2, 3], [2, 2, 5, 5], pre=[1, 2, 1, 3]), np.array([2.0, 2.0, 5.0, 5.0]))
    assert found.p is not None
    assert (found.variance_ratio, found.reason) == (
        None,
        "without the adjustment the variance is 0: there is no ratio of variances",
    )


@settings(max_examples=30)
@given(tables(largest=1e308))
def test_whatever_the_table_holds_the_result_is_plain(sessions: Sessions) -> None:
    assert_plain(cuped_of(sessions, sessions.vehicles))
