"""What a backtest says: each segment under the old rules and the new ones, a sweep of its threshold, who changes most.

Shares are ``None`` where their denominator is 0; intervals are 95 % Wilson.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

Course = Literal["stayed_out", "entered", "left", "stayed_in"]
Difference = Literal["changed", "new", "removed", "unchanged"]
Matrix = dict[Course, dict[Course, int]]

COURSES: Final[tuple[Course, ...]] = ("stayed_out", "entered", "left", "stayed_in")  # in order of ``transforms.kernel``'s numbers


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a threshold is to reach: the wanted precision where there is one, else the best F-beta."""

    wanted_precision: float | None = None
    beta: float = 1.0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A segment under one rule over all days: its views judged by the membership just before them.

    ``members`` are those inside at the end, ``member_days`` the users inside at any time of a day, summed over the days.
    """

    enter: float
    exit: float
    tp: int
    fp: int
    fn: int
    tn: int
    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    f_beta: float | None
    members: int
    flips: int
    member_days: int
    flips_per_member_day: float | None


class Side(Measured, frozen=True, kw_only=True):
    """A segment as one of the two rule sets has it; ``members_by_day``: those inside at each day's 24:00."""

    members_by_day: list[int]


class Overlap(msgspec.Struct, frozen=True, kw_only=True):
    """The users at the end, by who has them inside."""

    both: int
    only_old: int
    only_new: int
    neither: int


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment, old and new; ``None`` where that rule set lacks it, and then it has nobody inside.

    ``changes`` are old and new value of each key that differs, as a rules file has them.
    ``matrix[old][new]`` are users by what they did over the days under the old rule and under the new one. ``sweep`` has the new
    rule with other thresholds, ``suggested`` the one of them that reaches the goal; neither is there for a removed segment.
    """

    segment: str
    difference: Difference
    changes: dict[str, tuple[Any, Any]]
    old: Side | None
    new: Side | None
    overlap: Overlap
    matrix: Matrix
    sweep: list[Measured]
    suggested: Measured | None


class Mover(msgspec.Struct, frozen=True, kw_only=True):
    """A user, by pseudonym, and the segments that the new rules alone, or the old rules alone, have them in at the end."""

    user: str
    gained: list[str]
    lost: list[str]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A rule set and the hash of its file."""

    version: int
    sha256: str


class BacktestReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that ``forecourt backtest --json`` prints.

    ``dates`` are the archived ones from ``from`` to ``to``; ``missing`` are days between them, or of the ten before, that the
    archive lacks. ``users`` are those with an event on these days, ``users_changed`` those of them whose segments differ at the
    end; ``record`` is where the release folder keeps that the backtest was made.
    """

    first: str = msgspec.field(name="from")
    last: str = msgspec.field(name="to")
    dates: list[str]
    missing: list[str]
    old: Version
    new: Version
    goal: Goal
    events: int
    users: int
    users_changed: int
    segments: list[Segment]
    changed_most: list[Mover]
    record: str | None
    seconds: float
