"""False alarms of the controller: A/A experiments of many segments, decided on at the end of every day."""

from __future__ import annotations

from typing import Final

import numpy as np

from benchmarks.aa_experiments import Setting, aa_experiment, falling_shares
from experiments.controller import Evidence, decide, settings_of
from experiments.effect import ALPHA
from experiments.multiplicity import holm
from experiments.sequential import Look, looks_of
from experiments.sessions import Sessions, where
from schemas.experiment import Controller, Flag
from schemas.experiments import UNITS, Unit

SEGMENTS: Final = (12, 30)
CONTROLLER_READINGS: Final = {
    "rolled_back": "controller: any segment rolled back, decided every day",
    "p_sequential": "any segment's always-valid p < 0.05, Holm, every day",
    "rolled_back_from_2_users": "without a least number of users: any rolled back",
}


def controller_runs_of(setting: Setting, segments: int, unit: Unit, runs: int, seed: int) -> list[dict[str, bool]]:
    """Which readings of so many experiments gave a false alarm; of ``segments``, the k-th has a share as 1/k."""
    many = setting._replace(segment_shares=falling_shares(segments))
    seeds = np.random.SeedSequence([seed, UNITS.index(unit), setting.users, segments]).spawn(runs)
    return [decided(aa_experiment(np.random.default_rng(each), many, unit), setting.expected_sessions) for each in seeds]


def decided(sessions: Sessions, planned: int) -> dict[str, bool]:
    """One experiment, decided on as the command does at the end of each day, and read by segment as the analysis does."""
    segments = len(sessions.segments)
    settings = settings_of(Controller(planned_sessions=planned), segments)
    by_segment = []
    for code in range(segments):
        of_segment = where(sessions, sessions.segment == code)
        by_segment.append(looks_of(of_segment, of_segment.vehicles, None, planned / segments))

    def rolled_back(look: Look, missing: str | None) -> bool:
        evidence = Evidence("", look.sessions, look.sessions, look.effect, look.se, missing=missing)
        return decide(Flag(), evidence, settings).action == "roll_back"

    looks = [look for each in by_segment for look in each]
    last: list[float | None] = [None] * segments
    below = False
    for day in range(len(sessions.days)):
        for code, each in enumerate(by_segment):
            last[code] = next((look.p for look in each if look.day == day), last[code])
        below |= any(p is not None and p < ALPHA for p in holm(last))
    return {
        "rolled_back": any(rolled_back(look, look.reason) for look in looks),
        "p_sequential": below,
        "rolled_back_from_2_users": any(rolled_back(look, None) for look in looks),
    }
