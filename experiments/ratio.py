"""A mean or a ratio of one group of sessions, clustered by user: ``experiments.effect``'s formula with one arm in place of two."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from experiments.sessions import Floats, Ints


class Ratio(NamedTuple):
    """``value = Σx / Σd`` and its standard error. What can't be computed is ``None``, and ``reason`` says why."""

    value: float | None = None
    se: float | None = None
    users: int = 0
    reason: str | None = None


def ratio_of(x: Floats, d: Floats, user: Ints) -> Ratio:
    """The ratio of sessions, arrays of shape (n,); ``user`` are codes.

    Each user pulls by ``ψ_u = Σ_{s∈u} (x_s - R d_s) / Σd``, and ``V = G/(G-1) · Σ_u ψ_u²`` over ``G`` users: what weighted least
    squares of ``x/d`` on a constant gives with standard errors clustered by user. Sessions with ``x = d = 0`` pull at nothing.

    >>> ratio_of(np.array([1.0, 3.0]), np.array([1.0, 1.0]), np.array([0, 1]))
    Ratio(value=2.0, se=1.0, users=2, reason=None)
    """
    total = float(d.sum())
    if not len(x):
        return Ratio(reason="no sessions")
    if total <= 0:
        return Ratio(reason="nothing to divide by: the denominators add up to 0")
    value = float(x.sum()) / total
    _, codes = np.unique(user, return_inverse=True)
    pulls = np.bincount(codes, x - value * d) / total
    users = len(pulls)
    if users < 2:
        return Ratio(value, users=users, reason="1 user, at least 2 are needed")
    return Ratio(value, math.sqrt(users / (users - 1) * float(pulls @ pulls)), users)
