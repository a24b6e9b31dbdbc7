"""The effect of an experiment on a mean or a ratio, right whatever was randomised: one formula, clustered by user.

With ``x`` the numerator and ``d`` the denominator of session ``s`` (1 for a mean), arm ``a`` has ``R_a = Σx / Σd``; the effect is
``D = R_T - R_C``. Each session pulls at it by ``ψ_s = ±(x_s - R_a d_s) / Σ_a d``, and

    V = G/(G-1) · (N-1)/(N-2) · Σ_u (Σ_{s∈u} ψ_s)²

over ``G`` users and ``N`` sessions. Both arms' pulls of one user are added before squaring, so this holds where a user has
sessions in both arms as well as where users were assigned. It is what weighted least squares of ``x/d`` on the arm gives with
standard errors clustered by user (Liang and Zeger 1986; the correction is that of Stata and statsmodels). All of it follows from
six numbers a user, ``Sums``, which add up: over parts of a table, and over time.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import stats

from experiments.sessions import CONTROL, TREATMENT, Floats, Ints

ALPHA: Final = 0.05
ARMS: Final = (("control", CONTROL), ("treatment", TREATMENT))
ALIKE: Final = "every user is alike: the variance is 0"
TOO_LARGE: Final = "the numbers are too large to compute with"
NOT_RELATIVE: Final = "control is not above 0: there is no relative effect"


class Sums(NamedTuple):
    """By arm and user, shape (2, users): sums of ``x`` and of ``d``, and the number of sessions. Sums of parts add up."""

    x: Floats
    d: Floats
    sessions: Floats


class Effect(NamedTuple):
    """What came of treatment against control; intervals are (low, high). What can't be computed is ``None``, ``reason`` says why.

    ``rel`` is ``treatment / control - 1``, its interval by the delta method. ``df`` is users less one.
    """

    control: float | None = None
    treatment: float | None = None
    effect: float | None = None
    se: float | None = None
    ci: tuple[float, float] | None = None
    rel: float | None = None
    rel_ci: tuple[float, float] | None = None
    p: float | None = None
    df: int | None = None
    reason: str | None = None


class Pulls(NamedTuple):
    """How each user pulls at each arm's ratio, shape (2, users), and the factor that makes variances of sums of squares."""

    ratios: tuple[float, float]
    pulls: Floats
    factor: float
    df: int

    def variance(self, of_control: float, of_treatment: float) -> float:
        """The variance of ``of_treatment · R_T + of_control · R_C``."""
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large is told by ``unfit``
            pull = of_control * self.pulls[CONTROL] + of_treatment * self.pulls[TREATMENT]
            return self.factor * float(pull @ pull)


def sums_of(x: Floats, d: Floats | None, arm: Any, user: Ints, users: int) -> Sums:
    """The sums of sessions, arrays of shape (n,); ``d`` is ``None`` for a mean; user codes are below ``users``."""
    place = user + users * arm.astype(np.int64)

    def summed(weights: Floats | None) -> Floats:
        return np.bincount(place, weights, 2 * users).astype(np.float64, copy=False).reshape(2, users)

    sessions = summed(None)
    return Sums(summed(x), sessions if d is None else summed(d), sessions)


def pulls_of(sums: Sums) -> Pulls | str:
    """The pulls of each user at each arm's ratio, or the reason why there are none."""
    sessions = sums.sessions.sum(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        x, d = sums.x.sum(axis=1), sums.d.sum(axis=1)
        for name, arm in ARMS:
            if sessions[arm] == 0:
                return f"no sessions in {name}"
            if not d[arm] > 0:
                return f"nothing to divide by in {name}: its denominators add up to 0"
        ratios = x / d
        if not np.isfinite(ratios).all():
            return TOO_LARGE
        pulls = (sums.x - ratios[:, None] * sums.d) / d[:, None]
    clusters, rows = int((sums.sessions.sum(axis=0) > 0).sum()), float(sessions.sum())
    return Pulls((float(ratios[CONTROL]), float(ratios[TREATMENT])), pulls, correction_of(clusters, rows, 2), clusters - 1)


def correction_of(clusters: int, sessions: float, parameters: int) -> float:
    """``G/(G-1) · (N-1)/(N-K)``: what makes up for few clusters and for ``K`` means that were estimated; NaN with too few."""
    if clusters < 2 or sessions <= parameters:
        return math.nan
    return clusters / (clusters - 1) * (sessions - 1) / (sessions - parameters)


def effect_of(sums: Sums, alpha: float = ALPHA) -> Effect:
    """The effect in the sums, with intervals at level ``1 - alpha`` and the two-sided p-value, by t with users less one degrees."""
    pulls = pulls_of(sums)
    if isinstance(pulls, str):
        return _partly(sums, pulls)
    control, treatment = pulls.ratios
    effect = treatment - control
    rel = finite(effect / control) if control > 0 else None
    bare = Effect(control, treatment, finite(effect), rel=rel)
    if reason := unsure(sums):
        return bare._replace(reason=reason)
    se = math.sqrt(pulls.variance(-1, 1))
    if reason := unfit(se, control, treatment):
        return bare._replace(se=0.0 if math.isfinite(se) else None, df=pulls.df, reason=reason)
    wide = float(stats.t.ppf(1 - alpha / 2, pulls.df))
    rel_ci = None
    if rel is not None:
        rel_se = math.sqrt(pulls.variance(-treatment / control / control, 1 / control))
        rel_ci = (rel - wide * rel_se, rel + wide * rel_se) if math.isfinite(wide * rel_se) else None
    p = float(2 * stats.t.sf(abs(effect) / se, pulls.df))
    reason = NOT_RELATIVE if rel is None else None
    return bare._replace(se=se, ci=(effect - wide * se, effect + wide * se), rel_ci=rel_ci, p=p, df=pulls.df, reason=reason)


def unsure(sums: Sums) -> str | None:
    """Why the sums can't tell how sure an effect is: with one user, an arm's own spread is unknown.

    A user with nothing to divide by (no impressions, of a click-through rate) tells nothing of the spread and isn't counted.
    """
    for name, arm in ARMS:
        if (users := int((sums.d[arm] > 0).sum())) < 2:
            return f"{users} user{'' if users == 1 else 's'} in {name}, at least 2 are needed"
    return None


def unfit(se: float, control: float, treatment: float) -> str | None:
    """Why a standard error can't be divided by: it is 0, but for rounding, or beyond what a number can hold."""
    if not math.isfinite(se):
        return TOO_LARGE
    return ALIKE if is_nothing(se, control, treatment) else None


def is_nothing(se: float, control: float, treatment: float) -> bool:
    """Whether a standard error is 0 but for rounding."""
    return se <= 1e-12 * max(abs(control), abs(treatment), 1e-300)


def finite(number: float) -> float | None:
    """The number, or ``None`` where there is none."""
    return number if math.isfinite(number) else None


def _partly(sums: Sums, reason: str) -> Effect:
    """What is known of each arm where there is no effect."""
    with np.errstate(over="ignore", invalid="ignore"):
        totals = zip(sums.x.sum(axis=1).tolist(), sums.d.sum(axis=1).tolist(), strict=True)
        ratios = [finite(x / d) if d > 0 else None for x, d in totals]
    return Effect(ratios[CONTROL], ratios[TREATMENT], reason=reason)
