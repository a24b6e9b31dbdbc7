"""Brute-force reference for people, written from SEMANTICS.md §6-7 alone: a set of events in, what must be left of it out.

Nothing is shared with the code under test. Times are ms UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.reference import DAY_MS, SeenView, distinct

BEFORE_ALL, AFTER_ALL = -1, 1 << 62


class Happening(NamedTuple):
    """One event, as far as people are concerned."""

    event_id: str
    event_type: str
    time: int
    user: str | None
    anonymous: str | None
    attributes: Mapping[str, Any]

    @property
    def profile(self) -> str:
        """Whose event it is."""
        return self.user or self.anonymous or ""

    @property
    def pair(self) -> tuple[str, str] | None:
        """(anonymous id, user) of an event that has both."""
        return (self.anonymous, self.user) if self.user and self.anonymous and self.user != self.anonymous else None


class Says(NamedTuple):
    """What the row of an id must say: it is another's (``alias``), nothing by request (``opted_out``), or these views' segments."""

    alias: str | None
    opted_out: bool
    views: list[SeenView]


class Left(NamedTuple):
    """What must be left: what each id's row says, until when ids are forgotten, and the ids that may still be named anywhere."""

    rows: dict[str, Says]
    forgotten: dict[str, int]
    named: set[str]


def left_of(happenings: Iterable[Happening]) -> Left:
    """What must be left of a set of events."""
    events = sorted(set_of(happenings), key=lambda each: (each.time, each.event_id))
    forgotten = {key: max(times) for key, times in forgets_of(events).items()}
    alive = [each for each in events if each.time > forgotten.get(each.profile, BEFORE_ALL)]
    links = [each for each in alive if each.pair and not any(each.time <= void_until(forgotten.get(key)) for key in each.pair)]
    first: dict[str, Happening] = {}
    for link in sorted(links, key=lambda each: (each.time, each.event_id, str(each.user))):
        first.setdefault(str(link.anonymous), link)
    consents = [each for each in alive if each.event_type in ("opt_in", "opt_out")]
    views = [each for each in alive if each.event_type == "listing_view"]
    ids = {key for each in events for key in (each.user, each.anonymous) if key}
    named = {key for link in links for key in link.pair or ()} | {each.profile for each in (*consents, *views)}
    return Left({key: _says(key, first, consents, views) for key in ids}, forgotten, named)


def set_of(happenings: Iterable[Happening]) -> list[Happening]:
    """Each event once."""
    return list({each.event_id: each for each in happenings}.values())


def forgets_of(events: Iterable[Happening]) -> dict[str, set[int]]:
    """Per id the instants that it is forgotten at: its own, and those of users with whom it was seen by then."""
    events = list(events)
    found: dict[str, set[int]] = {}
    for each in events:
        if each.event_type == "forget":
            found.setdefault(each.profile, set()).add(each.time)
    while True:
        before = sum(map(len, found.values()))
        for each in events:
            if each.pair:
                inherited = {time for time in found.get(each.pair[1], ()) if each.time <= time}
                if inherited:
                    found.setdefault(each.pair[0], set()).update(inherited)
        if sum(map(len, found.values())) == before:
            return found


def void_until(forgotten: int | None) -> int:
    """Until when a forgotten id's links are void: the end of that UTC date."""
    return BEFORE_ALL if forgotten is None else (forgotten // DAY_MS + 1) * DAY_MS - 1


def _says(key: str, first: Mapping[str, Happening], consents: list[Happening], views: list[Happening]) -> Says:
    if key in first:
        return Says(first[key].user, opted_out=False, views=[])
    since = {key: BEFORE_ALL} | {anonymous: link.time for anonymous, link in first.items() if link.user == key}
    start = BEFORE_ALL
    for out in consents:
        if out.event_type == "opt_out" and out.profile in since:
            back = [
                each.time
                for each in consents
                if each.event_type == "opt_in"
                and each.profile in since
                and each.time > out.time
                and (each.profile == out.profile or each.time >= max(since[each.profile], since[out.profile]))
            ]
            start = max(start, min(back, default=AFTER_ALL))
    seen = [SeenView(v.time, v.event_id, v.attributes) for v in views if v.profile in since and v.time >= start]
    return Says(None, opted_out=start == AFTER_ALL, views=distinct(seen))
