"""The events of a session → its rows of the sessions table, one for each arm that it was exposed in. Pure, and order-free.

In a table of all sessions, each has one row, without an arm: as if its first impression had been an exposure.

A session belongs to who has its id. Where sessions are the unit, a visitor who signs in on the way goes on with the same session,
and what they do then counts too; where users are, somebody who signs in is another unit, and a row tells of its own users' events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import pyarrow as pa

from schemas.exposure import Exposure, click_in, exposure_in
from schemas.instants import date_of
from schemas.sessions import SCHEMA

VIEW: Final = "listing_view"
IMPRESSION: Final = "featured_impression"
CLICK: Final = "featured_click"
LEAD: Final = "lead"
ASSIGNED: Final = "assigned"

# What an impression was no use for, in the order in which it is asked.
UNREADABLE: Final = "unreadable"
NOT_ASSIGNED: Final = "not_assigned"
OTHER_EXPERIMENTS: Final = "other_experiments"
OTHER_VERSIONS: Final = "other_versions"
WITHOUT_SESSION: Final = "without_session"
BEFORE_START: Final = "before_start"


class SessionEvent(NamedTuple):
    """An event of a session, ``time`` in ms UTC; ``experiment`` is JSON. ``pre`` is the user's, see ``Row``."""

    event_id: str
    kind: str
    time: int
    user: str
    listing: str | None
    experiment: str | None
    pre: float | None


class Chosen(NamedTuple):
    """The experiment that a table is of, and when it began (ms UTC): exposures before don't count, events before are history.

    Without an ``experiment``, all sessions have rows. ``by_highest``: these go by the visitor's highest segment, see
    ``primary_segment_of``.
    """

    experiment: str | None
    version: int | None
    start: int
    by_highest: bool = False


class Row(NamedTuple):
    """A row of the table, its fields those of ``schemas.sessions.COLUMNS``; ``started_at`` is ms UTC."""

    session_id: str
    user_id: str
    started_at: int
    day: str
    arm: str | None
    segment_count: int
    primary_segment: str | None
    vehicles_viewed: float
    impressions: float
    clicks: float
    lead: float
    pre_vehicles: float | None
    policy: str | None
    arm_probability: float | None
    holdout: bool | None


class Shown(NamedTuple):
    """An exposure and the event that it came in."""

    event: SessionEvent
    exposure: Exposure


def use_of(exposure: Exposure | None, time: int, session: str | None, chosen: Chosen) -> str:
    """``ASSIGNED`` for an exposure that makes a row, else why it doesn't: each exposure has one answer.

    >>> use_of(None, 0, "s1", Chosen("featured_first", 1, 0))
    'unreadable'
    """
    if exposure is None:
        return UNREADABLE
    if chosen.experiment is not None:
        if exposure.experiment is None:
            return NOT_ASSIGNED
        if exposure.experiment != chosen.experiment:
            return OTHER_EXPERIMENTS
        if exposure.version != chosen.version:
            return OTHER_VERSIONS
        if exposure.reason != ASSIGNED or exposure.arm is None:
            return NOT_ASSIGNED
    if session is None:
        return WITHOUT_SESSION
    return BEFORE_START if time < chosen.start else ASSIGNED


def rows_of(session: str, events: Iterable[SessionEvent], *, by_highest: bool = False) -> Iterator[Row]:
    """The rows of a session, in order of time. Its impressions are those of one experiment (``use_of``); no event comes twice."""
    ordered = _ordered(events)
    shown: dict[str, list[Shown]] = {}
    for each in _shown_in(ordered):
        if each.exposure.arm is not None:
            shown.setdefault(each.exposure.arm, []).append(each)
    clicked = clicked_in(ordered)
    for exposures in shown.values():
        event, first = exposures[0]
        whose = {each.event.user for each in exposures} if first.unit_kind == "user" else None
        since = [each for each in ordered if each.time >= event.time and (whose is None or each.user in whose)]
        row = _row_of(session, event, exposures, since, clicked, by_highest=by_highest)
        yield row._replace(arm=first.arm, policy=first.policy, arm_probability=first.arm_probability, holdout=first.holdout)


def row_of(session: str, events: Iterable[SessionEvent]) -> Row | None:
    """The row of a session in a table of all: since its first impression, or its first view; ``None`` where it has neither."""
    ordered = _ordered(events)
    shown = list(_shown_in(ordered))
    event = shown[0].event if shown else next((each for each in ordered if each.kind == VIEW), None)
    if event is None:
        return None
    since = [each for each in ordered if each.time >= event.time]
    return _row_of(session, event, shown, since, clicked_in(ordered), by_highest=True)


def clicked_in(events: Iterable[SessionEvent]) -> set[str]:
    """The impressions that were clicked on."""
    clicks = (click_in(event.experiment) for event in events if event.kind == CLICK)
    return {click.impression_id for click in clicks if click is not None}


def primary_segment_of(exposures: Iterable[Exposure], *, by_highest: bool = False) -> str | None:
    """What the first place was credited to, in control too, the first time; where to none, the visitor's highest segment.

    ``by_highest``: that one always. It must be so where what is credited follows from the arm, else arms' visitors would differ
    within a segment: with a bandit, which draws the arm by it, and where arms have policies of their own. ``exposures`` are in
    order of time, at least one.
    """
    several = list(exposures)
    first = next((each for each in several if each.position == 1), several[0])
    if not first.segments or (first.segment is not None and not by_highest):
        return first.segment
    return min(first.segments, key=lambda offer: (-offer.score, offer.name)).name


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Rows as a table, in their order."""
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _ordered(events: Iterable[SessionEvent]) -> list[SessionEvent]:
    return sorted(events, key=lambda event: (event.time, event.event_id))


def _shown_in(events: Iterable[SessionEvent]) -> Iterator[Shown]:
    for event in events:
        if event.kind == IMPRESSION and (exposure := exposure_in(event.experiment)) is not None:
            yield Shown(event, exposure)


def _row_of(
    session: str, event: SessionEvent, shown: list[Shown], since: list[SessionEvent], clicked: set[str], *, by_highest: bool
) -> Row:
    """The row that begins with an event, without an arm; ``since`` are the events that count from then on."""
    viewed = {each.listing for each in since if each.kind == VIEW and each.listing is not None}
    impressions = {each.event.event_id for each in shown}
    first = shown[0].exposure if shown else None
    return Row(
        session,
        event.user,
        event.time,
        date_of(event.time),
        None,
        0 if first is None else len(first.segments) + first.segments_dropped,
        primary_segment_of((each.exposure for each in shown), by_highest=by_highest) if shown else None,
        float(len(viewed)),
        float(len(impressions)),
        float(len(impressions & clicked)),
        float(any(each.kind == LEAD for each in since)),
        event.pre,
        None,
        None,
        None,
    )
