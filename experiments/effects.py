"""What came of an experiment, as parts of its document: metrics, guardrails, CUPED, the always-valid reading, segments."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from experiments.cuped import cuped_of
from experiments.effect import Effect, Sums, effect_of, sums_of
from experiments.guardrails import Guardrail, guardrail_of
from experiments.interaction import interaction_of, parts_of
from experiments.metrics import MetricColumns, columns_of
from experiments.multiplicity import benjamini_hochberg, holm
from experiments.naive import Naive, naive_of
from experiments.readability import KEEP_TESTING, share_of_one_user
from experiments.sequential import looks_of
from experiments.sessions import Floats, Ints, Sessions
from experiments.settings import METRICS, PRIMARY, AnalysisSettings
from experiments.winsorise import winsorised

RAMP_UP: Final = "ramp_up"
ROLL_BACK: Final = "roll_back"
BANDIT: Final = "bandit"


def effects_of(core: Sessions, everyone: Sessions, settings: AnalysisSettings) -> tuple[dict[str, Any], float | None]:
    """All that is withheld when the experiment must not be read; and the share of one user in the variance."""
    early = settings.early(core.rows)
    cap = cap_of(core, settings)
    metrics: dict[str, Any] = {}
    guardrails = []
    share = None
    for name in METRICS:
        metric, sums = _metric(core, everyone, name, cap, settings)
        metrics[name] = _early(metric, early) | {part: _early(metric[part], early) for part in ("naive", "diluted")}
        if name in settings.guardrails:
            guardrails.append(_early(_guardrail(name, settings.guardrails[name], sums, settings.alpha)._asdict(), early))
        if name == PRIMARY and not isinstance(sums, str):
            share = share_of_one_user(sums)
    for name, p in zip(METRICS[1:], benjamini_hochberg([metrics[name]["p"] for name in METRICS[1:]]), strict=True):
        metrics[name]["p_bh"] = p
    x = np.minimum(core.vehicles, cap)
    slim = core._replace(impressions=None, clicks=None, lead=None, pre=None, started=None)
    effects = {
        "metrics": metrics,
        "guardrails": guardrails,
        "cuped": _early(cuped_of(core, x, settings.alpha)._asdict(), early),
        "sequential": _sequential(slim, x, settings),
        "segments": _segments(slim, x, settings, early),
        "interaction": _early(_without(interaction_of(slim, x)._asdict(), "segments"), early),
    }
    return effects, share


def action_of(effect: float | None, p: float | None, alpha: float, *, bandit: bool) -> str:
    """What to do in a segment. A segment that a bandit has is left to it, unless it does harm.

    >>> action_of(0.2, 0.01, 0.05, bandit=False), action_of(-0.2, 0.01, 0.05, bandit=True), action_of(0.2, None, 0.05, bandit=False)
    ('ramp_up', 'roll_back', 'keep_testing')
    """
    if effect is not None and p is not None and p < alpha and effect < 0:
        return ROLL_BACK
    if bandit:
        return BANDIT
    return RAMP_UP if effect is not None and p is not None and p < alpha and effect > 0 else KEEP_TESTING


def _columns(sessions: Sessions, name: str, cap: float) -> MetricColumns | str:
    """A metric's columns, the primary one bounded; or why there are none."""
    found = columns_of(sessions, name)
    if isinstance(found, str):
        return f"not known: {found}"
    return found._replace(x=np.minimum(found.x, cap)) if name == PRIMARY else found


def _sums(sessions: Sessions, columns: MetricColumns) -> Sums:
    return sums_of(columns.x, columns.d, sessions.arm, sessions.user, sessions.users)


def _guardrail(name: str, margin: float, sums: Sums | str, alpha: float) -> Guardrail:
    return Guardrail(name, margin, reason=sums) if isinstance(sums, str) else guardrail_of(name, margin, sums, alpha)


def _metric(
    core: Sessions, everyone: Sessions, name: str, cap: float, settings: AnalysisSettings
) -> tuple[dict[str, Any], Sums | str]:
    """A metric's part of the document, and the sums of triggered sessions that it is made of."""
    columns, of_all = _columns(core, name, cap), _columns(everyone, name, cap)
    if isinstance(columns, str) or isinstance(of_all, str):
        reason = str(columns)
        return _metric_document(Effect(reason=reason), Naive(), Effect()), reason
    sums = _sums(core, columns)
    diluted = effect_of(_sums(everyone, of_all), settings.alpha)
    return _metric_document(effect_of(sums, settings.alpha), naive_of(columns.x, columns.d, core.arm), diluted), sums


def _metric_document(found: Effect, naive: Naive, diluted: Effect) -> dict[str, Any]:
    return {
        **found._asdict(),
        "naive": {"se": naive.se, "p": naive.p},
        "diluted": {part: getattr(diluted, part) for part in ("control", "treatment", "effect", "se", "ci", "p")},
    }


def _sequential(core: Sessions, x: Floats, settings: AnalysisSettings) -> dict[str, Any]:
    looks = looks_of(core, x, None, settings.horizon, settings.alpha)
    if not looks:
        return {"p": None, "ci": None, "planned_sessions": settings.horizon, "looks": 0, "reason": "no triggered sessions"}
    last = looks[-1]
    return {
        "p": last.p_running,
        "ci": last.ci,
        "planned_sessions": settings.horizon,
        "looks": len(looks),
        "reason": last.reason,
    }


def _segments(core: Sessions, x: Floats, settings: AnalysisSettings, early: str | None) -> dict[str, Any]:
    """The segments; those that the table names share the planned sessions evenly. Before the end the last look decides."""
    found: dict[str, Any] = {}
    last: list[float | None] = []
    horizon = settings.horizon / max(len(core.segments), 1)
    for part in parts_of(core, x, None):
        name = core.segments[part.segment]
        looks = looks_of(_rows_of(core, part.rows), x[part.rows], None, horizon, settings.alpha)
        last.append(looks[-1].p)
        effect = _without(effect_of(part.sums, settings.alpha)._asdict(), "df")
        reason = effect.pop("reason")
        found[name] = {
            "sessions": len(part.rows),
            **effect,
            "p_holm": None,
            "p_sequential": looks[-1].p_running,
            "ci_sequential": looks[-1].ci,
            "p_action": None,
            "action": KEEP_TESTING,
            "reason": looks[-1].reason or reason,
        }
    adjusted = holm([each["p"] for each in found.values()])
    for (name, each), p_holm, p_last in zip(found.items(), adjusted, holm(last), strict=True):
        each["p_holm"] = p_holm
        each["p_action"] = p_last if early else p_holm  # the last look's: the least so far may be of an effect the other way
        each["action"] = action_of(each["effect"], each["p_action"], settings.alpha, bandit=name in settings.bandit)
        found[name] = _early(each, early)
    return found


def _rows_of(sessions: Sessions, rows: Ints) -> Sessions:
    return Sessions._make(each[rows] if isinstance(each, np.ndarray) else each for each in sessions)


def _early(part: dict[str, Any], early: str | None) -> dict[str, Any]:
    """The part without what holds only at the planned end."""
    if early is None:
        return part
    hidden = {name: None for name in ("p", "p_holm", "passed") if name in part}
    return part | hidden | ({"reason": part["reason"] or early} if "reason" in part else {})


def cap_of(core: Sessions, settings: AnalysisSettings) -> float:
    """The bound of the primary metric, from triggered sessions: the same for all."""
    if settings.winsorise is None or not core.rows:
        return math.inf
    return float(winsorised(core.vehicles, settings.winsorise).max())


def _without(part: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != name}
