"""The naive reading equals the textbook tests, and is wrong where users come more than once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats
from statsmodels.stats.proportion import test_proportions_2indep as proportions_test

from experiments.effect import effect_of, sums_of
from experiments.naive import naive_of
from experiments.sessions import Sessions
from tests.made_sessions import assert_plain, drawn, table, tables


def test_of_means_it_is_welchs_test() -> None:
    sessions = drawn(1)
    found = naive_of(sessions.vehicles, None, sessions.arm)
    control, treatment = (sessions.vehicles[sessions.arm == arm] for arm in (0, 1))
    expected = stats.ttest_ind(treatment, control, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.se == pytest.approx((treatment.mean() - control.mean()) / expected.statistic, rel=1e-9)


def test_of_rates_each_impression_is_a_trial_of_its_own() -> None:
    sessions = drawn(1)
    assert sessions.clicks is not None
    assert sessions.impressions is not None
    (c, n), (k, m) = (
        (sessions.clicks[sessions.arm == arm].sum(), sessions.impressions[sessions.arm == arm].sum()) for arm in (0, 1)
    )
    found = naive_of(sessions.clicks, sessions.impressions, sessions.arm)
    assert found.p == pytest.approx(proportions_test(k, m, c, n, method="wald").pvalue, rel=1e-9)
    assert found.se == pytest.approx((c / n * (1 - c / n) / n + k / m * (1 - k / m) / m) ** 0.5, rel=1e-9)


def test_once_a_user_and_as_many_in_each_arm_it_is_the_clustered_error() -> None:
    rng = np.random.default_rng(4)
    sessions = table([0, 1] * 50, range(100), rng.poisson(3, 100).tolist())
    clustered = effect_of(sums_of(sessions.vehicles, None, sessions.arm, sessions.user, sessions.users))
    assert naive_of(sessions.vehicles, None, sessions.arm).se == pytest.approx(clustered.se, rel=1e-9)


def test_where_users_were_assigned_it_is_far_too_sure() -> None:
    rng = np.random.default_rng(4)
    user = np.repeat(np.arange(40), 25)
    sessions = table((user % 2).tolist(), user.tolist(), rng.poisson(rng.gamma(2, 2, 40)[user]).tolist())
    clustered = effect_of(sums_of(sessions.vehicles, None, sessions.arm, sessions.user, sessions.users))
    naive = naive_of(sessions.vehicles, None, sessions.arm)
    assert naive.se is not None
    assert clustered.se is not None
    assert naive.se < clustered.se / 3


@pytest.mark.parametrize(
    ("sessions", "of_mean", "of_rate"),
    [
        (table([], [], [], impressions=[], clicks=[]), "0 sessions in control, at least", "nothing to divide by in control"),
        (table([0, 0, 1], [0] * 3, [1, 2, 3], impressions=[1, 1, 0], clicks=[0] * 3), "1 session in treatment", "nothing to"),
        (table([0, 0, 1, 1], [0] * 4, [2] * 4, impressions=[1] * 4, clicks=[1] * 4), "every user is alike", "every user is alike"),
        (
            table([0, 0, 1, 1], [0] * 4, [1e200] * 3 + [1], impressions=[1] * 4, clicks=[0, 1, 2, 1]),
            "the numbers are too large",
            "more in treatment than were tried",
        ),
    ],
)
def test_what_cannot_be_told_has_a_reason(sessions: Sessions, of_mean: str, of_rate: str) -> None:
    assert sessions.clicks is not None
    for found, reason in (
        (naive_of(sessions.vehicles, None, sessions.arm), of_mean),
        (naive_of(sessions.clicks, sessions.impressions, sessions.arm), of_rate),
    ):
        assert found.p is None
        assert found.reason is not None
        assert found.reason.startswith(reason)


@settings(max_examples=30)
@given(tables(largest=1e308))
def test_whatever_the_table_holds_the_result_is_plain(sessions: Sessions) -> None:
    assert sessions.clicks is not None
    assert_plain(naive_of(sessions.vehicles, None, sessions.arm))
    assert_plain(naive_of(sessions.clicks, sessions.impressions, sessions.arm))
