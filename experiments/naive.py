"""What one would read who forgot that sessions of one user are alike: the same effects with the standard errors of the textbook.

Right only where users come once. It stands beside the clustered reading, to show what the difference is.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.effect import ARMS, unfit
from experiments.sessions import Floats


class Naive(NamedTuple):
    """A standard error and a two-sided p-value, or the reason why there are none."""

    se: float | None = None
    p: float | None = None
    reason: str | None = None


class Spread(NamedTuple):
    """An arm's mean, the variance of that mean, and the degrees of freedom it was found with."""

    mean: float
    variance: float
    df: float


def naive_of(x: Floats, d: Floats | None, arm: Any) -> Naive:
    """Of sessions, arrays of shape (n,): Welch's t-test of ``x``; with ``d``, the z-test of shares, each trial on its own.

    The z-test is Wald's, of unpooled shares ``Σx/Σd``: that of the confidence interval.
    """
    found = []
    for name, each in ARMS:
        chosen = arm == each
        with np.errstate(over="ignore", invalid="ignore"):
            spread = _of_mean(name, x[chosen]) if d is None else _of_share(name, float(x[chosen].sum()), float(d[chosen].sum()))
        if isinstance(spread, str):
            return Naive(reason=spread)
        found.append(spread)
    control, treatment = found
    variance = control.variance + treatment.variance
    if reason := unfit(se := math.sqrt(variance), control.mean, treatment.mean):
        return Naive(0.0 if math.isfinite(se) else None, reason=reason)
    weights = [each.variance / variance for each in found]  # Welch and Satterthwaite's, safe from overflow
    df = 1 / sum(weight**2 / each.df for weight, each in zip(weights, found, strict=True)) if d is None else math.inf
    return Naive(se, float(2 * stats.t.sf(abs(treatment.mean - control.mean) / se, df)))


def _of_mean(name: str, x: Floats) -> Spread | str:
    if len(x) < 2:
        return f"{len(x)} session{'' if len(x) == 1 else 's'} in {name}, at least 2 are needed"
    return Spread(float(x.mean()), float(x.var(ddof=1)) / len(x), len(x) - 1)


def _of_share(name: str, x: float, d: float) -> Spread | str:
    if not d > 0:
        return f"nothing to divide by in {name}: its denominators add up to 0"
    share = x / d
    return Spread(share, share * (1 - share) / d, d) if 0 <= share <= 1 else f"more in {name} than were tried: no share"
