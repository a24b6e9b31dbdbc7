"""Looking at an experiment as often as one likes: an interval and a p-value that hold at every look at once.

The normal mixture of Robbins, as an asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021,
"Time-uniform central limit theory and asymptotic confidence sequences"). After ``n`` sessions, with ``V`` the variance
of the effect and ``r = n ρ²``, it is ``effect ± sqrt(V (1 + 1/r) ln((1 + r)/α²))``. Any ``ρ`` will do; with

    ρ² = (-2 ln α + ln(1 - 2 ln α)) / n*

it is about as narrow as can be at ``n*`` sessions, those that were planned. It holds as the variance becomes known; with a handful
of users it isn't, and whoever looks often finds the look at which it is far too small. So there is neither interval nor p-value
before ``FEWEST_USERS``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.effect import ALPHA, ARMS, Sums, effect_of
from experiments.sessions import Floats, Ints, Sessions, dense
from schemas.errors import ConfigError

PLANNED_SESSIONS: Final = 10_000
"""Where nothing was planned. The sequence holds for any number, fixed before the data are seen."""
FEWEST_USERS: Final = 50
"""In each arm, before anything is always valid; so there are at least 100 sessions too.

By simulation of experiments without a difference, each segment with 65 to 800 users of whom few make most of the sessions, sessions
or users randomised, counts as they are or with 70 % zeros, 100 to 10,000 sessions planned, 1,400 seen in each segment: how often
something is found in any of 1, 12, 30 or 60 segments, at level 0.05 for all of them together, in the worst of these settings:

    looked at after each 100 sessions, from 20 users on     –   10 %  16 %  21 %
                                       from 30 users on     –   5 %   7 %   10 %
                                       from 50 users on     –   3 %   4 %   4 %
    harm found, looked at after each session, from 20 users 3 %  8 %   14 %  18 %
                                       from 30 users on     2 %  6 %   8 %   12 %
                                       from 50 users on     1 %  3 %   4 %   5 %
    a difference either way, the same, from 50 users on     3 %  5 %   8 %   10 %
"""


class Look(NamedTuple):
    """The experiment up to the end of a day (an index of ``Sessions.days``). ``p`` is this look's, ``p_running`` the least so far.

    What can't be computed yet is ``None``, and ``reason`` says why.
    """

    day: int
    sessions: int
    effect: float | None
    se: float | None
    ci: tuple[float, float] | None
    p: float | None
    p_running: float | None
    reason: str | None = None


class Running(NamedTuple):
    """The least p-value of all looks so far; ``None`` before the first that had one."""

    p: float | None = None

    def seen(self, p: float | None) -> Running:
        """After one more look."""
        return self if p is None or (self.p is not None and self.p <= p) else Running(p)


def half_width(variance: float, n: float, planned: float, alpha: float = ALPHA) -> float:
    """Half the width of the interval of level ``1 - alpha`` after ``n > 0`` sessions; ``variance`` is that of the effect.

    >>> round(half_width(variance=1, n=10_000, planned=10_000) / 1.959964, 2)  # wider than an interval for one look only
    1.55
    """
    r = n * _rho2(planned, alpha)
    return math.sqrt(variance) * math.sqrt((1 + 1 / r) * (math.log1p(r) - 2 * math.log(alpha)))


def p_value(effect: float, variance: float, n: float, planned: float, alpha: float = ALPHA) -> float:
    """The always-valid p-value after ``n`` sessions; at most ``alpha`` when the interval of level ``1 - alpha`` leaves 0 out.

    ``alpha`` says only for which level the sequence was made narrow. 1 where the variance is 0, which tells nothing.
    """
    if not variance > 0:
        return 1.0
    r = n * _rho2(planned, alpha)
    z = effect / math.sqrt(variance)
    return math.exp(min(0.0, 0.5 * math.log1p(r) - 0.5 * z * z * r / (1 + r)))


def look_of(day: int, sums: Sums, planned: float, alpha: float = ALPHA, running: Running = Running()) -> Look:  # noqa: B008
    """The look at sums of all sessions so far; ``running`` is of the looks before."""
    n, found = int(sums.sessions.sum()), effect_of(sums, alpha)
    if found.p is None or found.effect is None or not found.se:
        return Look(day, n, found.effect, found.se, None, None, running.p, found.reason)
    if reason := too_few(sums):
        return Look(day, n, found.effect, found.se, None, None, running.p, reason)
    variance = found.se**2
    wide, p = half_width(variance, n, planned, alpha), p_value(found.effect, variance, n, planned, alpha)
    return Look(day, n, found.effect, found.se, (found.effect - wide, found.effect + wide), p, running.seen(p).p)


def too_few(sums: Sums) -> str | None:
    """Why the sums have no always-valid interval yet; ``None`` from ``FEWEST_USERS`` on, counted as for an effect."""
    for name, arm in ARMS:
        if (users := int((sums.d[arm] > 0).sum())) < FEWEST_USERS:
            return f"{users} user{'' if users == 1 else 's'} in {name}, always-valid intervals need {FEWEST_USERS}"
    return None


def looks_of(
    sessions: Sessions, x: Floats, d: Floats | None, planned: float = PLANNED_SESSIONS, alpha: float = ALPHA
) -> list[Look]:
    """A look at the end of each day that has sessions; ``x`` and ``d`` (``None`` for a mean) of shape (n,), as for ``sums_of``.

    Each session is added up once; a look takes a step a user.
    """
    looks: list[Look] = []
    if not sessions.rows:
        return looks
    user, users = dense(sessions.user, sessions.users)
    so_far, running = Sums(*np.zeros((3, 2, users))), Running()
    for day, rows in _days(sessions.day):
        add_sessions(so_far, x[rows], None if d is None else d[rows], sessions.arm[rows], user[rows])
        looks.append(look := look_of(day, so_far, planned, alpha, running))
        running = Running(look.p_running)
    return looks


def add_sessions(sums: Sums, x: Floats, d: Floats | None, arm: NDArray[np.int8], user: Ints) -> None:
    """The sessions added to the sums where they stand, at a cost that doesn't grow with the users."""
    place = user + sums.x.shape[1] * arm.astype(np.int64)
    for total, values in zip(sums, (x, 1.0 if d is None else d, 1.0), strict=True):
        with np.errstate(over="ignore"):  # an effect of what is too large has a reason, not a number
            np.add.at(total.reshape(-1), place, values)


def _days(day: Ints) -> Iterator[tuple[int, slice | Ints]]:
    """Each day with its rows: slices of a table in order of time."""
    order = None if (day[1:] >= day[:-1]).all() else np.argsort(day, kind="stable")
    in_order = day if order is None else day[order]
    starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])
    for start, end in zip(starts, np.r_[starts[1:], len(day)], strict=True):
        yield int(in_order[start]), slice(start, end) if order is None else order[start:end]


def _rho2(planned: float, alpha: float) -> float:
    if not 0 < alpha < 1:
        msg = f"alpha == {alpha}, must be above 0 and below 1"
        raise ConfigError(msg)
    if not 0 < planned < math.inf:
        msg = f"planned == {planned}, must be above 0"
        raise ConfigError(msg)
    return (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / planned
