"""CUPED: the effect after taking out what was known of users before the experiment, which narrows it and moves it nowhere.

Deng, Xu, Kohavi and Walker 2013, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment data".
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from experiments.effect import ALPHA, Effect, effect_of, finite, sums_of
from experiments.sessions import Flags, Floats, Sessions

NOT_KNOWN: Final = "pre_vehicles is not known: there is nothing to adjust by"
UNVARIED: Final = "without the adjustment the variance is 0: there is no ratio of variances"
NO_SPREAD: Final = "pre_vehicles is the same wherever it is known: there is nothing to adjust by"


class Cuped(NamedTuple):
    """The adjusted effect: ``theta`` is by how much it was adjusted for one of ``pre``, ``covered`` the share of sessions with one.

    ``variance_ratio`` is the variance beside that of the effect without adjustment: below 1 where it helped.
    """

    theta: float | None = None
    effect: float | None = None
    se: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None
    covered: float | None = None
    reason: str | None = None
    variance_ratio: float | None = None


def cuped_of(sessions: Sessions, y: Floats, alpha: float = ALPHA) -> Cuped:
    """The effect on the mean of ``y``, shape (n,), adjusted by ``sessions.pre``; a session without one keeps its ``y``."""
    if sessions.pre is None or not sessions.rows:
        return Cuped(reason=NOT_KNOWN)
    known = ~np.isnan(sessions.pre)
    covered = float(known.mean())
    if not covered:
        return Cuped(covered=covered, reason=NOT_KNOWN)
    adjusted = adjusted_by(y, sessions.pre, known)
    if adjusted is None:
        return Cuped(covered=covered, reason=NO_SPREAD)
    theta, values = adjusted
    found, plain = _effect(sessions, values, alpha), _effect(sessions, y, alpha)
    narrower = found.se / plain.se if found.se is not None and plain.se else math.inf
    ratio = finite(narrower * narrower)
    reason = found.reason if found.p is None else UNVARIED if ratio is None else None
    return Cuped(theta, found.effect, found.se, found.ci, found.p, covered, reason, ratio)


def adjusted_by(y: Floats, pre: Floats, known: Flags) -> tuple[float, Floats] | None:
    """θ over both arms, ``cov(y, pre) / var(pre)``, and ``y - θ (pre - mean)`` where that is known; ``None`` without spread."""
    before = pre[known]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(before.mean())
        away = np.where(known, pre - mean, 0.0)
        spread = float(away @ away)
        if not len(before) * max(mean * mean, 1e-300) * 1e-24 < spread < math.inf:
            return None
        theta = float(away @ y) / spread  # ``away`` adds up to 0: no need to centre ``y``
        return (theta, y - theta * away) if math.isfinite(theta) else None


def _effect(sessions: Sessions, y: Floats, alpha: float) -> Effect:
    return effect_of(sums_of(y, None, sessions.arm, sessions.user, sessions.users), alpha)
