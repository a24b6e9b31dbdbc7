"""Guardrails: metrics that the treatment may not harm by more than a margin, shown by a test of non-inferiority."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy import stats

from experiments.effect import ALPHA, Sums, pulls_of, unfit, unsure
from schemas.errors import ConfigError


class Guardrail(NamedTuple):
    """Whether treatment keeps at least ``1 - margin`` of control: ``low`` is the one-sided lower bound of ``R_T - (1-margin)·R_C``.

    ``p`` is one-sided; ``passed`` when it is below the level, that is when ``low`` is above 0. Not passed isn't harm: it may be too
    early to tell. ``None`` with a ``reason`` where nothing can be told.
    """

    metric: str
    margin: float
    low: float | None = None
    p: float | None = None
    passed: bool | None = None
    reason: str | None = None


def guardrail_of(metric: str, margin: float, sums: Sums, alpha: float = ALPHA) -> Guardrail:
    """The guardrail on a metric where more is better; ``margin`` is the share of control's that may be lost, from 0 to below 1."""
    if not 0 <= margin < 1:
        msg = f"margin of {metric} == {margin}, must be at least 0 and below 1"
        raise ConfigError(msg)
    bare, pulls = Guardrail(metric, margin), pulls_of(sums)
    if isinstance(pulls, str):
        return bare._replace(reason=pulls)
    if reason := unsure(sums):
        return bare._replace(reason=reason)
    control, treatment = pulls.ratios
    kept, se = treatment - (1 - margin) * control, math.sqrt(pulls.variance(-(1 - margin), 1))
    if reason := unfit(se, control, treatment):
        return bare._replace(reason=reason)
    low = kept - float(stats.t.ppf(1 - alpha, pulls.df)) * se
    return bare._replace(low=low, p=float(stats.t.sf(kept / se, pulls.df)), passed=low > 0)
