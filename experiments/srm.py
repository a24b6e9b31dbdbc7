"""Sample-ratio mismatch: whether the arms got the shares of units that they were meant to. If not, no effect can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy import stats
from scipy.special import gammaln

from experiments.sessions import Floats, Ints, Sessions
from experiments.units import codes_of
from schemas.errors import ConfigError, shown
from schemas.experiments import MAX_WEIGHT, Unit

ALERT: Final = 0.001
"""Below this p-value there is a mismatch: strict, for it is looked at often (Fabijan et al. 2019)."""
CONCENTRATION: Final = 100
"""How firmly the sequential test's prior holds to the weights: mismatches of some percentage points are found soonest."""


def srm_of(counts: Sequence[float] | Ints, weights: Sequence[float]) -> float | None:
    """The p-value of Pearson's chi-square test that units fell on the arms by the weights; ``None`` without units.

    >>> round(srm_of([821_588, 815_482], [50, 50]), 10)  # Kohavi, Tang and Xu 2020, chapter 21: 1.8E-6
    1.8218e-06
    """
    shares, seen = _shares(weights, np.shape(counts)), np.asarray(counts, np.float64)
    if not seen.sum() > 0:
        return None
    expected = shares * seen.sum()
    with np.errstate(over="ignore"):
        chi2 = float((((seen - expected) ** 2) / expected).sum())
    return float(stats.chi2.sf(chi2, len(shares) - 1))


def sequential_srm(looks: Any, weights: Sequence[float]) -> float | None:
    """The p-value that holds however often one looks; ``looks`` are cumulative counts, shape (looks, arms), in order of time.

    One over the largest Bayes factor so far of multinomial counts with a Dirichlet prior of mean ``weights`` and concentration 100
    against the weights themselves (Lindon and Malek 2022, "Anytime-valid inference for multinomial count data", NeurIPS).
    ``None`` without units.
    """
    seen = np.asarray(looks, np.float64).reshape(-1, len(weights))
    shares = _shares(weights, seen.shape[1:])
    if not len(seen) or not seen.max() > 0:
        return None
    return float(min(1.0, math.exp(-min(700.0, max(0.0, float(log_bayes_factors(seen, shares).max()))))))


def log_bayes_factors(looks: Floats, shares: Floats) -> Floats:
    """The logarithm of the Bayes factor against the shares at each look, shape (looks,)."""
    prior = CONCENTRATION * shares
    total = looks.sum(axis=1)
    of_arms = gammaln(prior + looks) - gammaln(prior) - looks * np.log(shares)
    return np.asarray(gammaln(prior.sum()) - gammaln(prior.sum() + total) + of_arms.sum(axis=1))


def counts_by_look(sessions: Sessions, unit: Unit) -> Ints:
    """Units by arm up to the end of each day, shape (days, 2): a unit counts from the first day on that it is seen in the arm."""
    codes, days = 2 * codes_of(sessions, unit) + sessions.arm, len(sessions.days)
    first = np.full(int(codes.max()) + 1 if len(codes) else 0, days, sessions.day.dtype)  # of one kind with day: ten times as fast
    np.minimum.at(first, codes, sessions.day)
    by_day = np.stack([np.bincount(first[arm::2], minlength=days + 1)[:days] for arm in (0, 1)], axis=1)
    return np.asarray(by_day.cumsum(axis=0))


def _shares(weights: Sequence[float], shape: tuple[int, ...]) -> Floats:
    given = np.asarray(weights, np.float64)
    shares = given / given.sum() if len(given) > 1 and ((given > 0) & (given <= MAX_WEIGHT)).all() else np.zeros(1)
    if shape != shares.shape or not (shares > 0).all():
        must = f"a number above 0 and at most {MAX_WEIGHT:g} for each arm, of which there are at least 2"
        msg = f"weights == {shown(list(weights))}, must be {must}"
        raise ConfigError(msg)
    return np.asarray(shares)
