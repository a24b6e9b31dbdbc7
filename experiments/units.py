"""Which sessions may be read at all: copies count once, and a unit that was exposed in both arms is in neither."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from experiments.sessions import Flags, Ints, Sessions, where
from schemas.experiments import Unit

MOST_IN_BOTH_ARMS: Final = 0.01
"""The share of units in both arms above which nothing is read: then it is the assignment that is broken."""


class Screened(NamedTuple):
    """The sessions that may be read, and what was left out: ``units`` counts those dropped too, ``share`` is theirs among them.

    ``dropped_sessions`` are the distinct sessions of units in both arms, ``copies`` the rows beyond the first of a session and arm.
    ``users_in_both_arms`` counts those dropped too; no fault where sessions were assigned.
    """

    sessions: Sessions
    units: int
    units_in_both_arms: int
    dropped_sessions: int
    copies: int
    share: float
    users_in_both_arms: int

    @property
    def mixed(self) -> bool:
        """Whether too many units were in both arms."""
        return self.share > MOST_IN_BOTH_ARMS


def screened(sessions: Sessions, unit: Unit) -> Screened:
    """The sessions without copies and without units in both arms; the unit is what was randomised."""
    firsts = _firsts(2 * sessions.session + sessions.arm)
    copies = sessions.rows - int(firsts.sum())
    kept = where(sessions, firsts) if copies else sessions
    of_unit = codes_of(kept, unit)
    there = arms_of(kept, of_unit)
    both = np.asarray(there.all(axis=0))
    units, in_both = int(there.any(axis=0).sum()), int(both.sum())
    users = in_both if unit == "user" else int(arms_of(kept, kept.user).all(axis=0).sum())
    dropped = 0
    if in_both:
        gone = both[of_unit]
        dropped = distinct(kept.session[gone])
        kept = where(kept, ~gone)
    return Screened(kept, units, in_both, dropped, copies, in_both / units if units else 0.0, users)


def codes_of(sessions: Sessions, unit: Unit) -> Ints:
    """The code of each session's unit, shape (n,)."""
    return sessions.user if unit == "user" else sessions.session


def arms_of(sessions: Sessions, codes: Ints) -> Flags:
    """Whether each code is in control and in treatment, shape (2, codes)."""
    there = np.zeros((2, _below(codes)), bool)
    there[sessions.arm, codes] = True
    return there


def distinct(codes: Ints) -> int:
    """How many different codes there are."""
    there = np.zeros(_below(codes), bool)
    there[codes] = True
    return int(there.sum())


def _firsts(codes: Ints) -> Flags:
    """Whether each row is the first with its code."""
    rows = np.arange(len(codes))
    first = np.zeros(_below(codes), np.int64)
    first[codes[::-1]] = rows[::-1]  # of several, numpy keeps the last
    return np.asarray(first[codes] == rows)


def _below(codes: Ints) -> int:
    return int(codes.max()) + 1 if len(codes) else 0
