"""Whether the effect differs between segments: effects of all segments at once, with the covariance that shared users give them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from scipy import sparse, stats

from experiments.effect import ALPHA, Effect, Sums, correction_of, effect_of, pulls_of, sums_of
from experiments.sessions import CONTROL, TREATMENT, Floats, Ints, Sessions, dense

TOO_FEW: Final = "effects of fewer than 2 segments are known: there is nothing to compare"
ONE_FROM_ANOTHER: Final = "too few users: one segment's effect follows from the others'"


class Interaction(NamedTuple):
    """Wald's test that the effect is the same in all ``segments``, those where it can be computed; ``df`` is one less of them."""

    chi2: float | None = None
    df: int | None = None
    p: float | None = None
    reason: str | None = None
    segments: tuple[str, ...] = ()


class Joint(NamedTuple):
    """The effects of ``k`` segments (indices of ``Sessions.segments``), shape (k,), and their covariance, shape (k, k)."""

    segments: tuple[int, ...]
    effects: Floats
    covariance: Floats


class Part(NamedTuple):
    """A segment's rows, its sums over its own users, numbered anew, and those numbers."""

    segment: int
    rows: Ints
    user: Ints
    sums: Sums


def parts_of(sessions: Sessions, x: Floats, d: Floats | None) -> Iterator[Part]:
    """Each segment that has sessions, in the order of ``Sessions.segments``; ``x`` and ``d`` of shape (n,) as for ``sums_of``."""
    order = np.argsort(sessions.segment, kind="stable")
    ends = np.searchsorted(sessions.segment[order], np.arange(len(sessions.segments) + 1))
    for segment, (start, end) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
        if start < end:
            rows = order[start:end]
            user, users = dense(sessions.user[rows], sessions.users)
            sums = sums_of(x[rows], None if d is None else d[rows], sessions.arm[rows], user, users)
            yield Part(segment, rows, user, sums)


def effects_by_segment(sessions: Sessions, x: Floats, d: Floats | None, alpha: float = ALPHA) -> dict[str, Effect]:
    """The effect within each segment that has sessions, each by its own users."""
    return {sessions.segments[part.segment]: effect_of(part.sums, alpha) for part in parts_of(sessions, x, d)}


def joint_of(sessions: Sessions, x: Floats, d: Floats | None) -> Joint:
    """The effects of those segments where one can be computed, and how they vary together.

    As one regression of ``x/d`` on segment by arm has it, clustered by user: the correction is over the users and sessions of these
    segments, with two means a segment.
    """
    kept, effects, pulls = [], [], []
    for part in parts_of(sessions, x, d):
        found, of_part = effect_of(part.sums), pulls_of(part.sums)
        if found.p is None or found.effect is None or isinstance(of_part, str):
            continue
        pull = of_part.pulls[TREATMENT] - of_part.pulls[CONTROL]
        numbers = np.zeros(len(pull), np.int64)
        numbers[part.user] = sessions.user[part.rows]
        kept.append((part.segment, float(part.sums.sessions.sum())))
        effects.append(found.effect)
        pulls.append((numbers, pull))
    if not kept:
        return Joint((), np.zeros(0), np.zeros((0, 0)))
    by_user = _beside(pulls, sessions.users)
    clusters = int((np.diff(by_user.indptr) > 0).sum())
    factor = correction_of(clusters, sum(rows for _, rows in kept), 2 * len(kept))
    return Joint(tuple(segment for segment, _ in kept), np.array(effects), factor * (by_user.T @ by_user).toarray())


def interaction_of(sessions: Sessions, x: Floats, d: Floats | None = None) -> Interaction:
    """The test on the metric ``x/d``, arrays of shape (n,)."""
    joint = joint_of(sessions, x, d)
    names = tuple(sessions.segments[segment] for segment in joint.segments)
    df = len(names) - 1
    if df < 1:
        return Interaction(reason=TOO_FEW, segments=names)
    scale = math.sqrt(float(np.diag(joint.covariance).max()))
    contrasts = np.eye(df, df + 1, 1) - np.eye(df, df + 1)  # each less the one before
    apart, varies = contrasts @ (joint.effects / scale), contrasts @ (joint.covariance / scale**2) @ contrasts.T
    spreads = np.sqrt(np.maximum(np.diag(varies), 1e-300))
    values, vectors = np.linalg.eigh(varies / np.outer(spreads, spreads))
    if not values[0] > 1e-10:
        return Interaction(reason=ONE_FROM_ANOTHER, segments=names)
    chi2 = float((((vectors.T @ (apart / spreads)) ** 2) / values).sum())
    return Interaction(chi2, df, float(stats.chi2.sf(chi2, df)), segments=names)


def _beside(pulls: list[tuple[Ints, Floats]], users: int) -> sparse.csr_matrix:
    """The pulls of segments as columns, a row a user: most users are in few segments."""
    rows = np.concatenate([numbers for numbers, _ in pulls])
    columns = np.repeat(np.arange(len(pulls)), [len(pull) for _, pull in pulls])
    values = np.concatenate([pull for _, pull in pulls])
    return sparse.csr_matrix((values, (rows, columns)), shape=(users, len(pulls)))
