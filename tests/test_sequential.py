"""The confidence sequence as published, looks against the table cut off at each day, and what never changes its mind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from experiments import sequential
from experiments.effect import effect_of, sums_of
from experiments.sequential import Running, half_width, looks_of, p_value
from experiments.sessions import Sessions, where
from schemas.errors import ConfigError
from tests.made_sessions import assert_plain, drawn, table, tables

alphas = st.floats(1e-6, 0.5)
numbers = st.floats(1, 1e7)


def published(sd: float, t: float, rho: float, alpha: float) -> float:
    """Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021: half the width at time ``t``."""
    return sd * math.sqrt(2 * (t * rho**2 + 1) / (t**2 * rho**2) * math.log(math.sqrt(t * rho**2 + 1) / alpha))


@given(st.floats(0.01, 100), numbers, numbers, alphas)
def test_the_width_is_as_published(sd: float, n: float, planned: float, alpha: float) -> None:
    # with ρ as the paper chooses it, to be narrowest at a time
    rho = math.sqrt((-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / planned)
    assert half_width(sd**2 / n, n, planned, alpha) == pytest.approx(published(sd, n, rho, alpha), rel=1e-9)


def test_at_the_planned_end_no_other_plan_would_be_much_narrower() -> None:
    def width(log_plan: float) -> float:
        return half_width(1, 10_000, math.exp(log_plan))

    best = optimize.minimize_scalar(width, bounds=(math.log(100), math.log(1e6)), method="bounded").fun
    assert half_width(1, 10_000, 10_000) <= best * 1.001
    assert half_width(1, 10_000, 200) > best * 1.1
    assert half_width(1, 10_000, 500_000) > best * 1.1


@pytest.mark.parametrize(
    ("effect", "variance", "n", "planned", "half", "p"),
    [
        # by hand: ρ² n* = -2 ln 0.05 + ln(1 - 2 ln 0.05) = 5.991465 + 1.944690 = 7.936155
        (0.1, 0.001, 10_000, 10_000, math.sqrt(0.001 * (1 + 1 / 7.936155) * math.log(8.936155 / 0.0025)), 0.035_25),
        (0.05, 0.001, 5_000, 10_000, math.sqrt(0.001 * (1 + 1 / 3.968077) * math.log(4.968077 / 0.0025)), 0.821_36),
    ],
)
def test_it_is_as_by_hand(effect: float, variance: float, n: float, planned: float, half: float, p: float) -> None:
    assert half_width(variance, n, planned) == pytest.approx(half, rel=1e-6)
    assert p_value(effect, variance, n, planned) == pytest.approx(p, rel=1e-3)


@given(st.floats(-10, 10), st.floats(1e-6, 10), numbers, numbers, alphas)
def test_p_is_at_most_the_level_exactly_when_the_interval_leaves_nothing_out(
    effect: float, variance: float, n: float, planned: float, alpha: float
) -> None:
    half, p = half_width(variance, n, planned, alpha), p_value(effect, variance, n, planned, alpha)
    assert 0 <= p <= 1
    if abs(abs(effect) - half) > 1e-9 * half:
        assert (abs(effect) > half) == (p <= alpha)


def test_it_is_wider_than_for_one_look_at_any_number() -> None:
    for n in (10, 1_000, 10_000, 10**6, 10**8):
        assert half_width(1, n, 10_000) > 1.96


def test_without_variance_nothing_is_told() -> None:
    assert p_value(1, 0, 100, 100) == 1
    assert half_width(0, 100, 100) == 0


@pytest.mark.parametrize(
    ("planned", "alpha"), [(0, 0.05), (-5, 0.05), (math.inf, 0.05), (math.nan, 0.05), (10, 0), (10, 1), (10, 5)]
)
def test_plans_and_levels_that_are_none_are_told(planned: float, alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"(planned == .*, must be above 0|alpha == .*, must be above 0 and below 1)"):
        half_width(1, 10, planned, alpha)


def assert_is_as_cut_off(sessions: Sessions, x: Any, d: Any) -> None:
    """Each look is the effect of all rows up to its day."""
    running = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "FEWEST_USERS", 2)
        looks = looks_of(sessions, x, d, 300)
    for look in looks:
        upto = sessions.day <= look.day
        some = where(sessions, upto)
        found = effect_of(sums_of(x[upto], None if d is None else d[upto], some.arm, some.user, some.users))
        assert look.sessions == some.rows
        assert (look.reason, look.p is None) == (found.reason if found.p is None else None, found.p is None)
        assert look.effect == pytest.approx(found.effect, rel=1e-9, abs=1e-12) if found.effect is not None else look.effect is None
        if look.p is not None and found.se is not None and look.ci is not None and look.effect is not None:
            half = half_width(found.se**2, some.rows, 300)
            assert look.se == pytest.approx(found.se, rel=1e-9)
            assert look.ci == pytest.approx((look.effect - half, look.effect + half), rel=1e-6)
            assert look.p == pytest.approx(p_value(look.effect, found.se**2, some.rows, 300), rel=1e-6)
            running = look.p if running is None else min(running, look.p)
        assert look.p_running == running
    assert {look.day for look in looks} == set(sessions.day.tolist())


@pytest.mark.parametrize("by_user", [False, True])
def test_a_look_is_the_effect_of_the_sessions_so_far(by_user: bool) -> None:
    sessions = drawn(3, by_user=by_user, days=7)
    assert_is_as_cut_off(sessions, sessions.vehicles, None)
    assert_is_as_cut_off(sessions, sessions.clicks, sessions.impressions)


@settings(max_examples=30)
@given(tables())
def test_also_of_small_tables(sessions: Sessions) -> None:
    whole = sessions._replace(vehicles=np.floor(sessions.vehicles))
    assert_is_as_cut_off(whole, whole.vehicles, None)


@settings(max_examples=30)
@given(tables(largest=1e308))
def test_whatever_the_table_holds_a_look_is_plain(sessions: Sessions) -> None:
    for x, d in ((sessions.vehicles, None), (sessions.clicks, sessions.impressions)):
        assert x is not None
        for look in looks_of(sessions, x, d):
            assert_plain(look)


@settings(max_examples=30)
@given(tables(least=1), st.randoms())
def test_the_order_of_rows_does_not_matter(sessions: Sessions, random: Any) -> None:
    order = list(range(sessions.rows))
    random.shuffle(order)
    whole = sessions._replace(vehicles=np.floor(sessions.vehicles))
    shuffled = Sessions._make(each[order] if isinstance(each, np.ndarray) else each for each in whole)
    for look, other in zip(looks_of(whole, whole.vehicles, None), looks_of(shuffled, shuffled.vehicles, None), strict=True):
        assert (look.day, look.sessions, look.reason) == (other.day, other.sessions, other.reason)
        assert look.p == (None if other.p is None else pytest.approx(other.p, rel=1e-6))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_the_running_p_never_rises(seed: int, days: int) -> None:
    sessions = drawn(seed, n=400, users=200, days=days)
    ps = [look.p_running for look in looks_of(sessions, sessions.vehicles, None, 80) if look.p_running is not None]
    assert ps == sorted(ps, reverse=True)


def test_a_day_that_tells_nothing_leaves_the_least_p_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequential, "FEWEST_USERS", 2)
    assert Running().seen(None) == Running(None)
    assert Running().seen(0.4).seen(None).seen(0.6).seen(0.3).seen(0.5) == Running(0.3)
    looks = looks_of(table([0, 0, 1, 1, 1], range(5), [1, 2, 3, 5, 4], day=[0, 0, 0, 2, 4]), np.array([1.0, 2, 3, 5, 4]), None)
    assert [look.day for look in looks] == [0, 2, 4]
    assert looks[0].reason == "1 user in treatment, at least 2 are needed"
    assert looks[0].p_running is None
    assert looks[1].p_running is not None


def test_before_enough_users_are_in_each_arm_nothing_is_always_valid() -> None:
    arm, user = [0, 1] * 60, [*range(98), 1, *range(99, 120)]  # one of treatment came twice
    sessions = table(arm, user, np.arange(120.0).tolist(), day=[0] * 99 + [1, 2] + [3] * 19)
    looks = looks_of(sessions, sessions.vehicles, None)
    reasons = [f"{users} users in treatment, always-valid intervals need 50" for users in (49,)]
    assert [look.reason for look in looks] == [*reasons, None, None, None]
    assert [(look.ci, look.p, look.p_running) for look in looks][0] == (None, None, None)
    assert looks[0].effect is not None
    assert looks[0].se
    assert None not in (looks[1].ci, looks[1].p)


def test_users_with_nothing_to_divide_by_do_not_count_as_enough() -> None:
    sessions = table([0, 1] * 50, range(100), np.arange(100.0).tolist())
    d = np.ones(100)
    assert looks_of(sessions, sessions.vehicles, d)[-1].ci is not None
    d[4] = 0
    assert looks_of(sessions, sessions.vehicles, d)[-1].reason == "49 users in control, always-valid intervals need 50"


def test_no_sessions_are_no_looks() -> None:
    nothing = table([], [], [])
    assert looks_of(nothing, nothing.vehicles, None) == []


def test_looking_every_day_at_nothing_raises_few_false_alarms() -> None:
    rng = np.random.default_rng(11)
    runs, users, days = 300, 70, 10
    false, peeked = 0, 0
    for _ in range(runs):
        user = rng.integers(0, users, 300)
        sessions = table(
            rng.integers(0, 2, 300).tolist(), user.tolist(), (rng.gamma(2, 2, users)[user] + rng.normal(0, 1, 300)).tolist()
        )
        sessions = sessions._replace(day=np.arange(300) * days // 300, days=tuple(map(str, range(days))))
        looks = looks_of(sessions, sessions.vehicles, None, 300)
        false += looks[-1].p_running is not None and looks[-1].p_running <= 0.05
        peeked += any(look.se and look.effect is not None and abs(look.effect) > 1.96 * look.se for look in looks)
    assert 0 < false / runs <= 0.05
    assert peeked / runs > 0.1  # what the sequence is there for


def test_an_effect_that_is_there_is_found_before_the_end() -> None:
    rng = np.random.default_rng(5)
    arm = rng.integers(0, 2, 4_000)
    sessions = table(arm.tolist(), rng.integers(0, 1_000, 4_000).tolist(), rng.poisson(3 + arm).tolist())
    sessions = sessions._replace(day=np.arange(4_000) // 400, days=tuple(map(str, range(10))))
    looks = looks_of(sessions, sessions.vehicles, None, 4_000)
    found = next(look for look in looks if look.p_running is not None and look.p_running < 0.05)
    assert found.day < 5
    assert all(look.ci is not None and look.ci[0] < 1 < look.ci[1] for look in looks)
