"""The events of a session → its rows of the sessions table, one for each arm that it was exposed in. Pure, and order-free.

A session belongs to who has its id. Where sessions are the unit, a visitor who signs in on the way goes on with the same session,
and what they do then counts too; where users are, somebody who signs in is another unit, and a row tells of its own users' events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec
import pyarrow as pa

from schemas.exposure import Click, Exposure
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

_EXPOSURE: Final = msgspec.json.Decoder(Exposure).decode
_CLICK: Final = msgspec.json.Decoder(Click).decode


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
    """The experiment that a table is of, and when it began (ms UTC): exposures before don't count, events before are history."""

    experiment: str
    version: int
    start: int


class Row(NamedTuple):
    """A row of the table, its fields those of ``schemas.sessions.COLUMNS``; ``started_at`` is ms UTC."""

    session_id: str
    user_id: str
    started_at: int
    day: str
    arm: str
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


def exposure_in(text: str | None) -> Exposure | None:
    """The exposure in an impression's JSON, ``None`` where there is none that can be read."""
    try:
        return _EXPOSURE(text or "null")
    except msgspec.DecodeError:
        return None


def click_in(text: str | None) -> Click | None:
    """The click in a click's JSON, ``None`` where there is none that can be read."""
    try:
        return _CLICK(text or "null")
    except msgspec.DecodeError:
        return None


def use_of(exposure: Exposure | None, time: int, session: str | None, chosen: Chosen) -> str:
    """``ASSIGNED`` for an exposure that makes a row, else why it doesn't: each exposure has one answer.

    >>> use_of(None, 0, "s1", Chosen("featured_first", 1, 0))
    'unreadable'
    """
    if exposure is None:
        return UNREADABLE
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


def rows_of(session: str, events: Iterable[SessionEvent]) -> Iterator[Row]:
    """The rows of a session, in order of time. Its impressions are those of one experiment (``use_of``); no event comes twice."""
    ordered = sorted(events, key=lambda event: (event.time, event.event_id))
    shown: dict[str, list[Shown]] = {}
    for event in ordered:
        if event.kind == IMPRESSION and (exposure := exposure_in(event.experiment)) is not None and exposure.arm is not None:
            shown.setdefault(exposure.arm, []).append(Shown(event, exposure))
    clicked = clicked_in(ordered)
    for arm, exposures in shown.items():
        yield _row_of(session, arm, exposures, ordered, clicked)


def clicked_in(events: Iterable[SessionEvent]) -> set[str]:
    """The impressions that were clicked on."""
    clicks = (click_in(event.experiment) for event in events if event.kind == CLICK)
    return {click.impression_id for click in clicks if click is not None}


def primary_segment_of(exposures: Iterable[Exposure]) -> str | None:
    """What the first place was credited to, in control too, the first time; where to none, the visitor's highest segment.

    With a bandit always the highest: by that one an arm is drawn, and what is credited follows from the arm. ``exposures`` are in
    order of time, at least one.
    """
    several = list(exposures)
    first = next((each for each in several if each.position == 1), several[0])
    if not first.segments or (first.segment is not None and first.arm_probability is None):
        return first.segment
    return min(first.segments, key=lambda offer: (-offer.score, offer.name)).name


def table_of(rows: Iterable[Row]) -> pa.Table:
    """Rows as a table, in their order."""
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _row_of(session: str, arm: str, shown: list[Shown], events: list[SessionEvent], clicked: set[str]) -> Row:
    event, first = shown[0]
    whose = {each.event.user for each in shown} if first.unit_kind == "user" else None
    since = [each for each in events if each.time >= event.time and (whose is None or each.user in whose)]
    viewed = {each.listing for each in since if each.kind == VIEW and each.listing is not None}
    impressions = {each.event.event_id for each in shown}
    return Row(
        session,
        event.user,
        event.time,
        date_of(event.time),
        arm,
        len(first.segments) + first.segments_dropped,
        primary_segment_of(each.exposure for each in shown),
        float(len(viewed)),
        float(len(impressions)),
        float(len(impressions & clicked)),
        float(any(each.kind == LEAD for each in since)),
        event.pre,
        first.policy,
        first.arm_probability,
        first.holdout,
    )
