"""Nothing differs, and the readings say so: the share of false alarms by simulation, users coming again and again.

Bounds are five binomial standard deviations wide; ``python -m benchmarks.false_alarms`` narrows them with thousands of runs.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy import stats

from benchmarks.aa_experiments import Setting, aa_experiment
from benchmarks.false_alarms import READINGS, Share, by_day_of, run_of, runs_of, share_of, shares_of
from experiments.naive import naive_of
from schemas.experiments import UNITS, Unit

RUNS = 250
SETTING = Setting(users=1_000)


@functools.cache
def shares(unit: Unit) -> dict[str, Share]:
    return shares_of(runs_of(SETTING, unit, RUNS, seed=3))


def deviations(share: Share, expected: float) -> float:
    return float((share.share - expected) / (expected * (1 - expected) / share.runs) ** 0.5)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("reading", ["fixed", "fixed_ctr", "fixed_lead"])
def test_one_in_twenty_is_a_false_alarm_at_the_planned_end(unit: Unit, reading: str) -> None:
    found = shares(unit)[reading]
    assert abs(deviations(found, 0.05)) < 5
    assert found.share > 0.01  # five deviations below would be 0: a reading that never finds anything is wrong too


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("reading", ["always_valid", "segments_holm"])
def test_looking_daily_or_at_many_segments_gives_no_more(unit: Unit, reading: str) -> None:
    assert deviations(shares(unit)[reading], 0.05) < 5


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("reading", ["srm", "srm_sequential"])
def test_arms_as_they_were_meant_raise_no_alarm(unit: Unit, reading: str) -> None:
    assert shares(unit)[reading].alarms <= 3


@pytest.mark.parametrize(
    ("unit", "reading"),
    [
        ("user", "naive"),
        ("user", "naive_ctr"),
        ("user", "srm_sessions"),
        ("user", "peeked_naive"),
        ("session", "peeked"),
        ("session", "segments"),
    ],
)
def test_the_naive_readings_are_wrong(unit: Unit, reading: str) -> None:
    """If they weren't, the simulation would show nothing."""
    assert deviations(shares(unit)[reading], 0.05) > 5


def test_a_tenth_of_the_users_make_half_of_the_sessions() -> None:
    sessions = aa_experiment(np.random.default_rng(1), Setting(users=20_000), "user")
    counts = np.sort(np.bincount(sessions.user, minlength=20_000))
    assert 0.4 < counts[-2_000:].sum() / counts.sum() < 0.6
    assert sessions.rows == pytest.approx(Setting(users=20_000).expected_sessions, rel=0.1)


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_is_what_falls_into_an_arm(unit: Unit) -> None:
    sessions = aa_experiment(np.random.default_rng(2), Setting(users=2_000), unit)
    together = {(user, arm) for user, arm in zip(sessions.user.tolist(), sessions.arm.tolist(), strict=True)}
    users = len(set(sessions.user.tolist()))
    assert len(together) == users if unit == "user" else len(together) > 1.2 * users


def test_the_last_daily_reading_is_that_of_the_end() -> None:
    for seed in range(8):
        sessions = aa_experiment(np.random.default_rng(seed), Setting(users=300), "user")
        run = run_of(sessions, "user", Setting(users=300))
        assert set(run.alarms) == set(READINGS)
        naive = naive_of(sessions.vehicles, None, sessions.arm)
        assert run.alarms["naive"] == (naive.p is not None and naive.p < 0.05)
        for reading, daily in (("naive", "peeked_naive"), ("fixed", "peeked")):
            assert run.alarms[daily] >= run.alarms[reading]


def test_alarms_by_day_only_grow() -> None:
    by_day = by_day_of(runs_of(Setting(users=200), "session", 20, seed=1), 14)
    assert all(before <= after for days in by_day.values() for before, after in zip(days, days[1:], strict=False))


def test_a_share_has_its_exact_interval() -> None:
    """Clopper and Pearson by the beta distribution."""
    share = share_of(7, 200)
    assert share.low == pytest.approx(stats.beta.ppf(0.025, 7, 194))
    assert share.high == pytest.approx(stats.beta.ppf(0.975, 8, 193))
