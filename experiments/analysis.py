"""An experiment's sessions → the document that tells what came of it, or why it must not be read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.effects import effects_of
from experiments.readability import ONE_USER, reasons_of, without_numbers
from experiments.sessions import CONTROL, NO_SEGMENT, TREATMENT, Sessions, dense, triggered
from experiments.settings import PRIMARY, AnalysisSettings
from experiments.srm import ALERT, counts_by_look, sequential_srm, srm_of
from experiments.units import Screened, distinct, screened
from experiments.wording import share_text


def analyse(
    sessions: Sessions, settings: AnalysisSettings, other_arms: Mapping[str, int] | None = None, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """The document of the sessions in a table, as ``analysis_of`` has it."""
    return analysis_of(screened(sessions, settings.unit), settings, other_arms, warnings)


def analysis_of(
    units: Screened, settings: AnalysisSettings, other_arms: Mapping[str, int] | None = None, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """The document; docs/analysis.md says what each part is. ``warnings`` are put before those found here."""
    everyone = units.sessions
    core = triggered(everyone)
    user, users = dense(core.user, core.users)
    core = core._replace(user=user, users=users)
    population: dict[str, Any] = {
        "all": _by_arm(everyone),
        "triggered": _by_arm(core),
        "users": distinct(everyone.user),
        "users_in_both_arms": units.users_in_both_arms,
        "trigger_rate": core.rows / everyone.rows if everyone.rows else None,
        "units": units.units,
        "units_in_both_arms": units.units_in_both_arms,
        "dropped_sessions": units.dropped_sessions,
        "copies": units.copies,
        "other_arms": dict(other_arms or {}),
    }
    srm = srm_of_arms(everyone, core, settings)
    reasons = reasons_of(srm, units, population["triggered"])
    effects, share = effects_of(core, everyone, settings)
    told = [*warnings, *_warnings(population, settings, core, share)]
    if not reasons:
        told += _when_to_read(core.rows, settings)
    withheld = None
    if reasons:
        withheld, effects = effects, without_numbers(effects, f"withheld: {'; '.join(reasons)}")
    document: dict[str, Any] = _plain(
        {
            "experiment": settings.experiment,
            "unit": settings.unit,
            "alpha": settings.alpha,
            "planned_sessions": settings.horizon,
            "planned_sessions_given": settings.planned is not None,
            "population": population,
            "srm": srm,
            **effects,
            "warnings": told,
            "readable": not reasons,
            "reasons": reasons,
            "withheld": withheld,
        }
    )
    return document


def srm_of_arms(everyone: Sessions, core: Sessions, settings: AnalysisSettings) -> dict[str, Any]:
    """The document's part on the sample ratio: of all units, and of those with triggered sessions."""
    found = {"all": _srm(everyone, settings), "triggered": _srm(core, settings)}
    ps = [counts[p] for counts in found.values() for p in ("p", "sequential_p")]
    alert = any(p is not None and p < ALERT for p in ps)
    return {"unit": settings.unit, "weights": list(settings.weights), **found, "alert": alert}


def _srm(sessions: Sessions, settings: AnalysisSettings) -> dict[str, Any]:
    looks = counts_by_look(sessions, settings.unit)
    counts = looks[-1] if len(looks) else np.zeros(2, np.int64)
    return {
        "control": int(counts[CONTROL]),
        "treatment": int(counts[TREATMENT]),
        "p": srm_of(counts, settings.weights),
        "sequential_p": sequential_srm(looks, settings.weights),
    }


def _warnings(population: Mapping[str, Any], settings: AnalysisSettings, core: Sessions, share: float | None) -> list[str]:
    told = []
    if others := population["other_arms"]:
        rows = ", ".join(f"{name} ({number:,})" for name, number in sorted(others.items()))
        told.append(f"rows of other arms are left out: {rows}; --arms names the two that are compared")
    if share is not None and share > ONE_USER:
        hint = "a crawler? --winsorise 0.999 bounds what a session counts"
        told.append(f"one user carries {share_text(share, 0)} of the variance of the effect on {PRIMARY}: {hint}")
    if core.clicks is not None and core.impressions is not None and (odd := int((core.clicks > core.impressions).sum())):
        told.append(f"{odd:,} triggered sessions have more clicks than impressions: is each impression written down?")
    if core.segments and (without := int((core.segment == NO_SEGMENT).sum())):
        told.append(f"{without:,} triggered sessions have no primary_segment, and are in no segment's effect")
    told += [f"--bandit {name}: no triggered session has this segment" for name in settings.bandit if name not in core.segments]
    return told


def _when_to_read(sessions: int, settings: AnalysisSettings) -> list[str]:
    if early := settings.early(sessions):
        return [f"{early}; only what is always valid holds now"]
    if settings.planned is None:
        return ["p-values hold if it was settled beforehand when to read (--planned-sessions), the always-valid ones whenever"]
    return []


def _by_arm(sessions: Sessions) -> dict[str, int]:
    return {"control": int((sessions.arm == CONTROL).sum()), "treatment": int((sessions.arm == TREATMENT).sum())}


def _plain(value: Any) -> Any:
    """As JSON has it: lists, and no number that isn't finite."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
