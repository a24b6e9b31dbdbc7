"""Who is whom and who wants to be profiled (SEMANTICS §6-7): what rows and archive say of it, and what follows. No I/O.

A view belongs to the id that its event is keyed by. An id that is linked belongs, with all its views, to the user of its first
link. All of it is a function of the set of events, so no order of arrival matters.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from schemas.instants import DAY_MS
from schemas.pseudonym import version_of

NEVER: Final = -1  # before every instant
FOR_EVER: Final = 1 << 62  # after every instant
MAX_LINKS: Final = 100  # ids that may be linked to one user, and users to one id: behind one of more is no person
EVIDENCE_DAYS: Final = 10  # for which evidence is kept beside the first, back from the newest
MAX_EVIDENCE: Final = MAX_LINKS * (1 + EVIDENCE_DAYS)  # in one row
DIGEST_BYTES: Final = 16
UNLINKING: Final = 1 << 32  # by what a store's number of burials grows when links were undone and nobody was buried
_TOMBSTONE: Final = b"forecourt tombstone\0"


class Link(NamedTuple):
    """Evidence that an anonymous id is a user's: an event with both, at ``time`` (ms UTC). In order of (time, event id, user).

    Of the events of one UTC date with the same two ids only the first is evidence.
    """

    time: int
    event_id: str
    other: str  # the user
    event_type: str
    sealed: bytes  # the user's id; empty where it isn't known


class Linked(NamedTuple):
    """In a user's row: there is evidence, in the row of the anonymous id ``other``, that it is theirs, or was said to be."""

    other: str
    sealed: bytes  # that id; empty where it isn't known


class Said(NamedTuple):
    """A profile opted out, or in, at ``time`` (ms UTC)."""

    time: int
    opted_out: bool


class Identity(NamedTuple):
    """What a row says of its id, beside views: links to users, anonymous ids that are linked to it, and consents; all sorted.

    Links at or before ``unlinked`` (ms UTC) are void. ``sealed`` is the row's own id.
    """

    links: tuple[Link, ...] = ()
    linked: tuple[Linked, ...] = ()
    said: tuple[Said, ...] = ()
    unlinked: int = NEVER
    sealed: bytes = b""


class Voice(NamedTuple):
    """What one of a person's profiles said, and since when it is the person's (ms UTC; ``NEVER`` for the user's own)."""

    said: Sequence[Said]
    since: int


class Tombstone(NamedTuple):
    """Of a forgotten id: a digest of its pseudonym, which key version that is of, and the instant (ms UTC) it was forgotten at.

    Events of the id at or before that instant are refused.
    """

    digest: bytes
    version: int
    time: int


NOBODY: Final = Identity()


def owning_link(links: Iterable[Link], unlinked: int = NEVER) -> Link | None:
    """The link that says whose an anonymous id is: the first that isn't void, by (time, event id, user).

    >>> owning_link([Link(5, "e2", "v", "lead", b""), Link(3, "e1", "u", "identify", b"")]).other
    'u'
    """
    return min((link for link in links if link.time > unlinked), default=None)


def counted(linked: Iterable[Linked]) -> list[Linked]:
    """Of the ids linked to one user those that count: a hundred, the first by pseudonym, for that is no order of arrival."""
    return sorted(linked)[:MAX_LINKS]


def evidence_of(links: Iterable[Link], unlinked: int = NEVER) -> list[Link]:
    """Of links those that say something: of a user and UTC date the first that isn't void, of the first and the newest ten dates.

    The first alone says whose an id is; the others are for when it is forgotten, or unlinked, by an event that comes late. Of an
    id of many users, a kiosk, the first hundred count.

    >>> day = 86_400_000
    >>> links = [Link(time, "e", "u", "lead", b"") for time in (1, 2, day, 20 * day, 21 * day, 21 * day + 1)]
    >>> [link.time // day for link in evidence_of(links)]
    [0, 20, 21]
    """
    first: dict[tuple[str, int], Link] = {}
    for link in sorted(links):
        if link.time > unlinked:
            first.setdefault((link.other, link.time // DAY_MS), link)
    among = set(itertools.islice(dict.fromkeys(link.other for link in sorted(first.values())), MAX_LINKS))
    kept = sorted(link for link in first.values() if link.other in among)
    newest = kept[-1].time // DAY_MS if kept else 0
    users: set[str] = set()
    found: list[Link] = []
    for link in kept:
        if link.other not in users or link.time // DAY_MS > newest - EVIDENCE_DAYS:
            found.append(link)
        users.add(link.other)
    return found


def goes_until(identity: Identity, forgotten: Mapping[str, int]) -> int:
    """Until when an anonymous id is forgotten (ms UTC) with users it was linked to by when they were; ``NEVER`` with none.

    >>> browser = Identity((Link(5, "e", "u", "lead", b""),))
    >>> goes_until(browser, {"u": 9}), goes_until(browser, {"u": 4}), goes_until(browser._replace(unlinked=5), {"u": 9})
    (9, -1, -1)
    """
    times = [(link.time, forgotten.get(link.other, NEVER)) for link in identity.links]
    return max((until for time, until in times if identity.unlinked < time <= until), default=NEVER)


def links_void_until(time: int) -> int:
    """Up to when links are void (ms UTC) that were forgotten or undone at ``time``: the end of that UTC date.

    Of a date only the first evidence is kept, so whether there was more, later, can't be told.

    >>> links_void_until(5) == 86_400_000 - 1, links_void_until(NEVER) == NEVER
    (True, True)
    """
    return NEVER if time == NEVER else time // DAY_MS * DAY_MS + DAY_MS - 1


def counting_from(voices: Sequence[Voice]) -> int:
    """From when on a person's views count (ms UTC): ``NEVER`` when nobody opted out, ``FOR_EVER`` while somebody has.

    An opt-out empties the profile and holds until an opt-in. What a profile says holds for the others of the person from their
    link on; at the link the strictest wins: an opt-in before it lifts its own profile's opt-outs alone. Of an opt-out and an
    opt-in at one instant the opt-out counts.

    >>> counting_from([Voice([Said(3, True), Said(5, False)], NEVER)])
    5
    >>> counting_from([Voice([Said(4, False)], NEVER), Voice([Said(3, True)], 6)]) == FOR_EVER
    True
    """
    outs = [emptied_until(voice.said) for voice in voices]  # an earlier one of the same profile is lifted no later
    if max(outs, default=NEVER) == NEVER:
        return NEVER
    opt_ins = [sorted(said.time for said in voice.said if not said.opted_out) for voice in voices]
    start = NEVER
    for out_voice, out in enumerate(outs):
        if out != NEVER:
            lifted = FOR_EVER
            for in_voice, times in enumerate(opt_ins):
                since = NEVER if in_voice == out_voice else max(voices[out_voice].since, voices[in_voice].since)
                place = bisect_right(times, max(out, since - 1))
                lifted = min(lifted, times[place]) if place < len(times) else lifted
            start = max(start, lifted)
    return start


def telling(said: Iterable[Said]) -> list[Said]:
    """Of what a profile said that which matters: its last opt-out and the opt-ins after it.

    An opt-in before it may lift an opt-out of another profile of the person, but not before its own is lifted, and that opt-in does
    as much.

    >>> telling([Said(1, True), Said(2, False), Said(3, True), Said(4, False)])
    [Said(time=3, opted_out=True), Said(time=4, opted_out=False)]
    """
    said = sorted(said)
    until = emptied_until(said)
    return [each for each in said if each.time > until or each == Said(until, opted_out=True)]


def emptied_until(said: Iterable[Said]) -> int:
    """Up to when a profile's own opt-outs emptied it (ms UTC), whatever else comes; ``NEVER`` without any."""
    return max((each.time for each in said if each.opted_out), default=NEVER)


def digest_of(pseudonym: str) -> bytes:
    """What a tombstone keeps of a pseudonym: enough to know it again, and no byte of it."""
    return hashlib.sha256(_TOMBSTONE + pseudonym.encode()).digest()[:DIGEST_BYTES]


def tombstone_of(pseudonym: str, time: int) -> Tombstone:
    """The tombstone of an id that was forgotten at ``time`` (ms UTC)."""
    return Tombstone(digest_of(pseudonym), version_of(pseudonym), time)
