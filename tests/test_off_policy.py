"""Off-policy values: against brute force and statsmodels, unbiased where the log is lopsided, and loud about what is no log."""

from __future__ import annotations

import re

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.off_policy import allocated, always, value_of
from experiments.ratio import Ratio, ratio_of
from experiments.rewards import Rewards
from schemas.errors import ConfigError

ARMS = ("a", "b", "c")
SEGMENTS = ("suv", "van")
CHANCES = {"suv": (0.1, 0.2, 0.7), "van": (0.6, 0.3, 0.1)}
LIKED = {"suv": (0.1, 0.5, 0.2), "van": (0.3, 0.2, 0.6)}


def drawn(seed: int, n: int = 2_000, users: int = 300) -> Rewards:
    """Sessions whose arms are drawn by ``CHANCES`` of their segment, and clicked on by ``LIKED``; users come again."""
    random = np.random.default_rng(seed)
    segment = random.integers(0, 2, n)
    chances = np.array([CHANCES[name] for name in SEGMENTS])[segment]
    arm = (random.random(n)[:, None] > np.cumsum(chances, axis=1)).sum(axis=1)
    x = (random.random(n) < np.array([LIKED[name] for name in SEGMENTS])[segment, arm]).astype(float)
    return Rewards(x, np.ones(n), random.integers(0, users, n), arm, ARMS, segment, SEGMENTS, chances[np.arange(n), arm])


def few(*rows: tuple[float, int, int, float]) -> Rewards:
    """Sessions of one segment, ``(x, user, arm, probability)`` each."""
    x, user, arm, probability = map(np.array, zip(*rows, strict=True))
    n = len(rows)
    return Rewards(x.astype(float), np.ones(n), user, arm, ARMS, np.zeros(n, int), ("suv",), probability)


def test_the_value_is_that_of_a_brute_force() -> None:
    rewards = drawn(1)
    shares = {"suv": {"a": 0.2, "b": 0.3, "c": 0.5}}
    even = dict.fromkeys(ARMS, 1 / 3)
    up = down = squares = 0.0
    for x, arm, segment, p in zip(rewards.x, rewards.arm, rewards.segment, rewards.probability, strict=True):
        w = (shares if SEGMENTS[segment] == "suv" else {"suv": even})["suv"][ARMS[arm]] / p
        up, down, squares = up + w * x, down + w, squares + w * w
    found = value_of(rewards, allocated(rewards, shares, even))
    assert found.value == pytest.approx(up / down)
    assert found.effective == pytest.approx(down**2 / squares)
    assert found.mean_weight == pytest.approx(down / 2_000)
    assert found.max_weight == pytest.approx(1 / 3 / 0.1)


def test_a_session_without_a_segment_goes_by_the_rest() -> None:
    rewards = few((1, 0, 0, 0.5), (1, 1, 1, 0.5))._replace(segment=np.array([-1, 0]))
    target = allocated(rewards, {"suv": {"a": 0.9, "b": 0.1, "c": 0.0}}, {"a": 0.2, "b": 0.3, "c": 0.5})
    assert target.tolist() == [0.2, 0.1]


@pytest.mark.parametrize("seed", range(3))
def test_the_standard_error_is_that_of_weighted_least_squares_clustered_by_user(seed: int) -> None:
    rewards = drawn(seed, n=400, users=50)
    target = allocated(rewards, {}, {"a": 0.2, "b": 0.3, "c": 0.5})
    weights = target / rewards.probability
    found = value_of(rewards, target)
    oracle = sm.WLS(rewards.x, np.ones(400), weights=weights).fit(cov_type="cluster", cov_kwds={"groups": rewards.user}, use_t=True)
    assert found.value == pytest.approx(oracle.params[0], rel=1e-9)
    assert found.se == pytest.approx(oracle.bse[0], rel=1e-9)
    assert found.ci == pytest.approx(tuple(oracle.conf_int()[0]), rel=1e-9)


def test_values_of_all_arms_and_of_an_allocation_are_those_that_hold() -> None:
    truth = {arm: float(np.mean([LIKED[name][code] for name in SEGMENTS])) for code, arm in enumerate(ARMS)}
    best = {"suv": {"a": 0.0, "b": 1.0, "c": 0.0}, "van": {"a": 0.0, "b": 0.0, "c": 1.0}}
    found: dict[str, list[float]] = {name: [] for name in (*ARMS, "best")}
    even = dict.fromkeys(ARMS, 1 / 3)
    inside = 0
    for seed in range(200):
        rewards = drawn(seed)
        for arm in ARMS:
            value = value_of(rewards, always(rewards, arm))
            found[arm].append(value.value or 0.0)
            low, high = value.ci or (0.0, 0.0)
            inside += int(low <= truth[arm] <= high)
        found["best"].append(value_of(rewards, allocated(rewards, best, even)).value or 0.0)
    for name, expected in {**truth, "best": (0.5 + 0.6) / 2}.items():
        error = np.std(found[name]) / np.sqrt(200)
        assert abs(np.mean(found[name]) - expected) < 5 * error  # five standard errors of the simulation
    naive = float(np.mean([drawn(seed).x[drawn(seed).arm == 2].mean() for seed in range(20)]))
    assert abs(naive - truth["c"]) > 0.1  # the plain mean of the arm is of the segments that it was shown in
    assert stats.binomtest(inside, 600, 0.95).pvalue > 1e-4


def test_what_was_logged_evenly_is_a_plain_mean() -> None:
    rewards = drawn(3)._replace(probability=np.full(2_000, 1 / 3))
    for code, arm in enumerate(ARMS):
        found = value_of(rewards, always(rewards, arm))
        plain = ratio_of(
            rewards.x[rewards.arm == code], np.ones(int((rewards.arm == code).sum())), rewards.user[rewards.arm == code]
        )
        assert (found.value, found.se) == pytest.approx((plain.value, plain.se))
        assert found.effective == pytest.approx(found.sessions)


def test_of_clicks_the_value_is_per_impression() -> None:
    rewards = few((1, 0, 0, 0.5), (0, 1, 0, 0.25), (1, 2, 1, 0.5))._replace(d=np.array([2.0, 5.0, 1.0]))
    assert value_of(rewards, always(rewards, "a")).value == pytest.approx((2 * 1 + 4 * 0) / (2 * 2 + 4 * 5))


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(0, 3), st.integers(0, 2), st.floats(0.01, 1)), min_size=1, max_size=12))
def test_a_value_lies_among_the_rewards_and_is_worth_no_more_sessions_than_there_are(
    rows: list[tuple[float, int, int, float]],
) -> None:
    rewards = few(*rows)
    found = value_of(rewards, always(rewards, "b"))
    seen = [x for x, _, arm, _ in rows if arm == 1]
    assert found.sessions == len(seen)
    assert (found.value is None) == (not seen)
    if seen:
        assert min(seen) - 1e-9 <= (found.value or 0) <= max(seen) + 1e-9
        assert 1 - 1e-9 <= (found.effective or 0) <= len(seen) + 1e-9


def test_the_mean_weight_is_that_of_all_sessions_and_so_about_1_where_the_log_is_right() -> None:
    rewards = few((1, 0, 0, 0.5), (0, 1, 1, 0.25), (1, 2, 0, 0.5), (0, 3, 2, 0.25))
    found = value_of(rewards, always(rewards, "a"))
    assert (found.sessions, found.mean_weight) == (2, 1.0)
    means = [value_of(rewards := drawn(seed), always(rewards, "c")).mean_weight or 0.0 for seed in range(20)]
    assert np.mean(means) == pytest.approx(1, abs=0.05)


def test_without_support_there_is_no_value_but_a_reason() -> None:
    rewards = few((1, 0, 0, 0.5), (1, 1, 1, 0.5))
    found = value_of(rewards, always(rewards, "c"))
    assert (found.value, found.se, found.ci, found.effective, found.sessions) == (None, None, None, None, 0)
    assert found.reason == "no support: no session is in an arm that the target would draw"
    assert value_of(rewards, always(rewards, "a")).reason == "1 user, at least 2 are needed"
    nothing = rewards.where(np.array([False, False]))
    assert value_of(nothing, always(nothing, "a")).value is None


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, float("nan")])
def test_a_probability_that_is_none_is_refused_with_its_row(bad: float) -> None:
    rewards = few((1, 0, 0, 0.5), (1, 1, 1, bad))
    with pytest.raises(ConfigError, match=re.escape(f"row 2: arm_probability == {bad:g}, must be from 1e-06 to 1")):
        value_of(rewards, always(rewards, "a"))


def test_a_ratio_that_cannot_be_computed_says_why() -> None:
    one, none = np.ones(1), np.zeros(0)
    assert ratio_of(none, none, none.astype(int)) == Ratio(reason="no sessions")
    assert ratio_of(one, one * 0, np.zeros(1, int)).reason == "nothing to divide by: the denominators add up to 0"
    assert ratio_of(one, one, np.zeros(1, int)) == Ratio(1.0, None, 1, "1 user, at least 2 are needed")
