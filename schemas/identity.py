"""Who is whom and who wants to be profiled (SEMANTICS §6-7): what rows and archive say of it, and what follows. No I/O.

A view belongs to the id that its event is keyed by. An id that is linked belongs, with all its views, to the user of its first
link. All of it is a function of the set of events, so no order of arrival matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from schemas.pseudonym import version_of

NEVER: Final = -1  # before every instant
FOR_EVER: Final = 1 << 62  # after every instant
MAX_LINKS: Final = 100  # ids that may be linked to one user: behind a "user" of more is no person
DIGEST_BYTES: Final = 16
_TOMBSTONE: Final = b"forecourt tombstone\0"


class Link(NamedTuple):
    """Evidence that two ids are one person: an event with both, at ``time`` (ms UTC).

    On the anonymous id's side ``other`` is the user, on the user's side the anonymous id. In order of (time, event id, other).
    """

    time: int
    event_id: str
    other: str
    event_type: str
    sealed: bytes  # the other id; empty where it isn't known


class Said(NamedTuple):
    """A profile opted out, or in, at ``time`` (ms UTC)."""

    time: int
    opted_out: bool


class Identity(NamedTuple):
    """What a row says of its id, beside views: sorted links to users (``links``) and of anonymous ids (``linked``), and consents.

    Links at or before ``unlinked`` (ms UTC) are void. ``sealed`` is the row's own id.
    """

    links: tuple[Link, ...] = ()
    linked: tuple[Link, ...] = ()
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


def conflicts_of(links: Iterable[Link], unlinked: int = NEVER) -> set[str]:
    """The users who came after the first: their links move nothing."""
    links = list(links)
    first = owning_link(links, unlinked)
    return {link.other for link in links if first is not None and link.time > unlinked and link.other != first.other}


def counted_links(linked: Iterable[Link]) -> list[Link]:
    """Of the ids linked to one user the first link each, for the first hundred ids.

    >>> [link.other for link in counted_links([Link(2, "e2", "a", "lead", b""), Link(1, "e1", "a", "lead", b"")])]
    ['a']
    """
    first: dict[str, Link] = {}
    for link in sorted(linked):
        first.setdefault(link.other, link)
        if len(first) == MAX_LINKS:
            break
    return list(first.values())


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
    start = NEVER
    for out_voice, voice in enumerate(voices):
        for out in voice.said:
            if out.opted_out:
                lifted = [
                    said.time
                    for in_voice, other in enumerate(voices)
                    for said in other.said
                    if not said.opted_out
                    and said.time > out.time
                    and (in_voice == out_voice or said.time >= max(voice.since, other.since))
                ]
                start = max(start, min(lifted, default=FOR_EVER))
    return start


def emptied_until(said: Iterable[Said]) -> int:
    """Up to when a profile's own opt-outs emptied it (ms UTC), whatever else comes; ``NEVER`` without any."""
    return max((each.time for each in said if each.opted_out), default=NEVER)


def digest_of(pseudonym: str) -> bytes:
    """What a tombstone keeps of a pseudonym: enough to know it again, and no byte of it."""
    return hashlib.sha256(_TOMBSTONE + pseudonym.encode()).digest()[:DIGEST_BYTES]


def tombstone_of(pseudonym: str, time: int) -> Tombstone:
    """The tombstone of an id that was forgotten at ``time`` (ms UTC)."""
    return Tombstone(digest_of(pseudonym), version_of(pseudonym), time)
