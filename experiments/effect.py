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

from experiments.sessions import CONTROL, TREATMENT, Flags, Floats, Ints

ALPHA: Final = 0.05


class Sums(NamedTuple):
    """By arm and user, shape (2, users): sums of ``x`` and of ``d``, and the number of sessions. Sums of parts add up."""

    x: Floats
    d: Floats
    sessions: Floats

    def plus(self, other: Sums) -> Sums:
        """Of both parts together."""
        return Sums(self.x + other.x, self.d + other.d, self.sessions + other.sessions)


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
        pull = of_control * self.pulls[CONTROL] + of_treatment * self.pulls[TREATMENT]
        return self.factor * float(pull @ pull)


def sums_of(x: Floats, d: Floats | None, arm: Any, user: Ints, users: int) -> Sums:
    """The sums of sessions, arrays of shape (n,); ``d`` is ``None`` for a mean; user codes are below ``users``."""
    place = user + users * arm.astype(np.int64)

    def summed(weights: Floats | None) -> Floats:
        return np.bincount(place, weights, 2 * users).astype(np.float64).reshape(2, users)

    sessions = summed(None)
    return Sums(summed(x), sessions if d is None else summed(d), sessions)


def pulls_of(sums: Sums) -> Pulls | str:
    """The pulls of each user at each arm's ratio, or the reason why there are none."""
    there = sums.sessions > 0
    of_arms = there.sum(axis=1)
    for name, arm in (("control", CONTROL), ("treatment", TREATMENT)):
        if of_arms[arm] == 0:
            return f"no sessions in {name}"
        if sums.d[arm].sum() <= 0:
            return f"nothing to divide by in {name}: its denominators add up to 0"
    total = sums.d.sum(axis=1)
    ratios = sums.x.sum(axis=1) / total
    pulls = (sums.x - ratios[:, None] * sums.d) / total[:, None]
    clusters, sessions = int(_either(there).sum()), float(sums.sessions.sum())
    factor = clusters / (clusters - 1) * (sessions - 1) / (sessions - 2) if clusters > 1 and sessions > 2 else math.nan
    return Pulls((float(ratios[CONTROL]), float(ratios[TREATMENT])), pulls, factor, clusters - 1)


def effect_of(sums: Sums, alpha: float = ALPHA) -> Effect:
    """The effect in the sums, with intervals at level ``1 - alpha`` and the two-sided p-value, by t with users less one degrees."""
    pulls = pulls_of(sums)
    if isinstance(pulls, str):
        return _partly(sums, pulls)
    control, treatment = pulls.ratios
    effect = treatment - control
    rel = effect / control if control > 0 else None
    bare = Effect(control, treatment, effect, rel=rel)
    if reason := unsure(sums):
        return bare._replace(reason=reason)
    se = math.sqrt(pulls.variance(-1, 1))
    if is_nothing(se, control, treatment):
        return bare._replace(se=0.0, df=pulls.df, reason="every user is alike: the variance is 0")
    wide = float(stats.t.ppf(1 - alpha / 2, pulls.df))
    rel_ci = None
    if rel is not None:
        rel_se = math.sqrt(pulls.variance(-treatment / control**2, 1 / control))
        rel_ci = (rel - wide * rel_se, rel + wide * rel_se)
    p = float(2 * stats.t.sf(abs(effect) / se, pulls.df))
    return bare._replace(se=se, ci=(effect - wide * se, effect + wide * se), rel_ci=rel_ci, p=p, df=pulls.df)


def unsure(sums: Sums) -> str | None:
    """Why the sums can't tell how sure an effect is: with one user, an arm's own spread is unknown."""
    for name, arm in (("control", CONTROL), ("treatment", TREATMENT)):
        if (users := int((sums.sessions[arm] > 0).sum())) < 2:
            return f"{users} user{'' if users == 1 else 's'} in {name}, at least 2 are needed"
    return "2 sessions, at least 3 are needed" if sums.sessions.sum() <= 2 else None


def is_nothing(se: float, control: float, treatment: float) -> bool:
    """Whether a standard error is 0 but for rounding."""
    return se <= 1e-12 * max(abs(control), abs(treatment), 1e-300)


def _partly(sums: Sums, reason: str) -> Effect:
    """What is known of each arm where there is no effect."""
    totals = sums.d.sum(axis=1)
    ratios = [float(x / d) if d > 0 else None for x, d in zip(sums.x.sum(axis=1), totals, strict=True)]
    return Effect(ratios[CONTROL], ratios[TREATMENT], reason=reason)


def _either(there: Flags) -> Flags:
    return there[CONTROL] | there[TREATMENT]
