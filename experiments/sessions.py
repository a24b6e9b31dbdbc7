"""Sessions as arrays: what every analysis here works on. Pure; files are read in ``pipelines``."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

CONTROL, TREATMENT = 0, 1
NO_SEGMENT: Final = -1


class Sessions(NamedTuple):
    """``n`` sessions, each array of shape (n,); in order of time, as far as the table tells it.

    ``session``, ``user``, ``segment`` and ``day`` are codes: whole numbers from 0. ``user`` codes lie below ``users``, whether or
    not each is there; ``segment`` is ``NO_SEGMENT`` or an index of ``segments``, ``day`` an index of ``days``, which are in order.
    ``arm`` is ``CONTROL`` or ``TREATMENT``. ``started`` is ms UTC. What a table didn't have is ``None``; an unknown ``pre`` is NaN.
    """

    session: Ints
    user: Ints
    users: int
    arm: NDArray[np.int8]
    segment_count: Ints
    segment: Ints
    segments: tuple[str, ...]
    day: Ints
    days: tuple[str, ...]
    vehicles: Floats
    impressions: Floats | None = None
    clicks: Floats | None = None
    lead: Floats | None = None
    pre: Floats | None = None
    started: Ints | None = None

    @property
    def rows(self) -> int:
        """How many sessions there are."""
        return len(self.session)


def where(sessions: Sessions, chosen: Flags) -> Sessions:
    """The sessions that are chosen, by flags of shape (n,); codes keep their meaning."""
    return Sessions._make(each[chosen] if isinstance(each, np.ndarray) else each for each in sessions)


def triggered(sessions: Sessions) -> Sessions:
    """The sessions whose visitor had segments: for the others no arm could show anything else, so they tell nothing."""
    return where(sessions, sessions.segment_count > 0)


def dense(codes: Ints, below: int) -> tuple[Ints, int]:
    """The codes numbered anew without gaps, in their order, and how many there are: small sums for a small part of a table.

    >>> dense(np.array([7, 2, 7]), below=10)
    (array([1, 0, 1]), 2)
    """
    if 16 * len(codes) < below:  # sorting few is cheaper than looking all through
        found, places = np.unique(codes, return_inverse=True)
        return places, len(found)
    there = np.zeros(below, bool)
    there[codes] = True
    anew = np.cumsum(there) - 1
    return anew[codes], int(there.sum())
