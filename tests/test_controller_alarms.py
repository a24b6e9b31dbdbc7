"""Where nothing differs, the controller takes nothing back, though it looks every day at many small segments."""

from __future__ import annotations

import pytest

from benchmarks.aa_experiments import Setting, falling_shares
from benchmarks.controller_alarms import CONTROLLER_READINGS, controller_runs_of
from schemas.experiments import UNITS, Unit

RUNS = 50
SETTING = Setting(users=400, spread=0.8)  # the larger of 12 segments get enough users, most don't


@pytest.mark.parametrize("unit", UNITS)
def test_small_segments_are_not_taken_back_by_chance(unit: Unit) -> None:
    runs = controller_runs_of(SETTING, 12, unit, RUNS, seed=2)
    alarms = {name: sum(run[name] for run in runs) for name in CONTROLLER_READINGS}
    assert alarms["rolled_back"] + alarms["p_sequential"] <= 4
    assert all(run["rolled_back_from_2_users"] >= run["rolled_back"] for run in runs)


def test_without_a_least_number_of_users_they_would_be() -> None:
    runs = controller_runs_of(Setting(users=150), 12, "user", RUNS, seed=2)
    assert sum(run["rolled_back_from_2_users"] for run in runs) > 5
    assert not any(run["rolled_back"] for run in runs)


def test_shares_fall_and_add_up_to_all() -> None:
    assert falling_shares(3) == pytest.approx((6 / 11, 3 / 11, 2 / 11))
