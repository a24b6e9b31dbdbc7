"""The profile row: its key, families, qualifiers and cell formats. The only owner of the layout.

| family       | qualifier                                              | value                          | cell timestamp    |
|--------------|--------------------------------------------------------|--------------------------------|-------------------|
| `speed`      | reversed ms (8 B), complement of event id, FF, CRC-32  | packed attributes of one view  | event time        |
| `base`       | `views`                                                | packed views of the archive    | end of their day  |
| `membership` | `current`, `candidate`                                 | JSON of `Membership`           | time of the read  |
| `profile`    | `summary`                                              | JSON of `Profile`              | time of the read  |
| `identity`   | `a`, ms (8 B), event id, NUL, user                     | event type, NUL, sealed user   | event time        |
|              | `l`, anonymous id                                      | that id, sealed                | 0                 |
|              | `c`, reversed ms (8 B), `i` or `o`                     | empty: opted in or out         | event time        |
|              | `s`                                                    | the row's id, sealed           | 0                 |
|              | `u`                                                    | empty: links so far are void   | of the unlinking  |

Views lie in the row of the id that their event is keyed by, for ever: a link moves no cell, it only says whose the row is. A row
whose `membership` is empty says why instead (`Emptied`).

The qualifier of a view orders cells newest first, by (event time, event id) as the window does, so "the newest 1,000"
is a column limit. The CRC of the value keeps copies of one event that disagree apart; the reader picks among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, NamedTuple
from zlib import crc32

import msgspec

from schemas.errors import RowError, shown
from schemas.identity import FOR_EVER, NEVER, Identity, Link, Linked, Said, Voice, counting_from, owning_link
from schemas.instants import LAST_INSTANT_MS
from schemas.rules import MAX_WINDOW_MS

SPEED: Final = "speed"
BASE: Final = "base"
MEMBERSHIP: Final = "membership"
PROFILE: Final = "profile"
IDENTITY: Final = "identity"
FAMILIES: Final = (SPEED, BASE, MEMBERSHIP, PROFILE, IDENTITY)

BASE_VIEWS: Final = b"views"
CANDIDATE: Final = b"candidate"
CONSENTS: Final = b"c"
CURRENT: Final = b"current"
LINKED: Final = b"l"
LINKS: Final = b"a"
SEALED: Final = b"s"
SUMMARY: Final = b"summary"
UNLINKED: Final = b"u"

RETENTION_MS: Final = MAX_WINDOW_MS
# A row says something until 10 days after its newest view, and its membership from that view on rests on the 10 days before
# it. Collected at 10 days of age by the clock, a replay or a late event would find half a window and write another row.
GARBAGE_AGE_MS: Final = 2 * MAX_WINDOW_MS
MAX_CLOCK_SKEW_MS: Final = 5 * 60_000  # also how far ahead of the clock an event may be

_COMPLEMENT: Final = bytes(255 - byte for byte in range(256))
_TERMINATOR: Final = b"\xff"
_TAIL: Final = 5  # terminator and CRC


class ViewCell(NamedTuple):
    """One view in a row: its column and its packed attributes."""

    qualifier: bytes
    value: bytes

    @property
    def time(self) -> int:
        """Event time, ms UTC."""
        return LAST_INSTANT_MS - int.from_bytes(self.qualifier[:8], "big")

    @property
    def event(self) -> bytes:
        """What is equal for copies of one event: its id, complemented."""
        return self.qualifier[8:-_TAIL]

    @property
    def event_id(self) -> str:
        """The event id."""
        return self.event.translate(_COMPLEMENT).decode()


def view_cell(time: int, event_id: str, packed: bytes) -> ViewCell:
    """The cell of a view at ``time`` (ms UTC); ``event_id`` has no NUL.

    >>> cell = view_cell(1_291_191_960_000, "or-1", b"")
    >>> cell.time, cell.event_id
    (1291191960000, 'or-1')
    >>> view_cell(2, "a", b"").qualifier < view_cell(1, "b", b"").qualifier < view_cell(1, "ab", b"").qualifier
    True
    """
    return ViewCell(
        (LAST_INSTANT_MS - time).to_bytes(8, "big")
        + event_id.encode().translate(_COMPLEMENT)
        + _TERMINATOR
        + crc32(packed).to_bytes(4, "big"),
        packed,
    )


def encode_base(cells: Iterable[ViewCell]) -> bytes:
    """The views of the archive as one cell, newest first; equal views give equal bytes.

    >>> decode_base(encode_base([view_cell(1, "a", b"x"), view_cell(2, "b", b"y")]))[0].event_id
    'b'
    """
    return _BASE_LAYOUT + _ENCODE_BASE(sorted(cells))


def decode_base(packed: bytes) -> list[ViewCell]:
    """The views in a cell that ``encode_base`` made, newest first; ``RowError`` for bytes that are none."""
    if packed[:1] != _BASE_LAYOUT:
        msg = f"layout of base views == {shown(packed[:1])}, must be {_BASE_LAYOUT!r}: is a newer version writing this table?"
        raise RowError(msg)
    try:
        return _DECODE_BASE(packed[1:])
    except msgspec.DecodeError as error:
        msg = f"base views of {len(packed)} bytes can't be read: {error}"
        raise RowError(msg) from error


def united(speed: Sequence[ViewCell], base: Sequence[ViewCell], limit: int) -> list[ViewCell]:
    """The newest ``limit`` views of two parts of a row, each newest first, as one: what stands in both counts once."""
    return sorted({*speed, *base})[:limit] if base else list(speed)


Instant = Annotated[int, msgspec.Meta(ge=0, le=LAST_INSTANT_MS)]  # any other in a cell is damage, and could not be told as a date


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Membership over ``[start, until)`` (ms UTC), with share, views and matching views as they are at ``start``."""

    start: Instant
    until: Instant
    score: float
    views: int
    matching: int


class SegmentSpans(msgspec.Struct, frozen=True):
    """One segment's spans of membership, in order of time, never empty."""

    name: str
    spans: list[Span]


class Membership(msgspec.Struct, frozen=True):
    """A user's segments from ``as_of`` (event time of the newest view, ms UTC) on, if no further view arrives."""

    rule_version: int
    as_of: Instant
    segments: list[SegmentSpans]


class Profile(msgspec.Struct, frozen=True):
    """The preference profile: views in the window, the newest's time, and per category attribute its top values' shares."""

    views: int
    last_seen: Instant
    shares: dict[str, dict[str, float]]


Emptiness = Literal["alias", "opted_out", "no_views"]


class Emptied(msgspec.Struct, frozen=True):
    """In the place of a membership: the row is another's (``alias``), its person opted out, or has no views left."""

    empty: Emptiness


class ProfileRow(NamedTuple):
    """What a reader of one row sees; ``None`` where nothing was written. ``candidate``: the shadow of rules on trial.

    ``emptied`` says why there is no membership, where that was written. ``link`` says whose the row is, if another's;
    ``opted_out`` is what the row itself says, before anybody evaluated it.
    """

    key: str
    membership: Membership | None
    profile: Profile | None
    candidate: Membership | None = None
    emptied: Emptiness | None = None
    link: Link | None = None
    opted_out: bool = False


class IdentityCell(NamedTuple):
    """One cell of the family ``identity``: its column, value and timestamp (ms UTC). The newest of a column counts."""

    qualifier: bytes
    value: bytes
    time: int


def link_cell(link: Link) -> IdentityCell:
    """In an anonymous id's row: the user whom it was seen with."""
    qualifier = LINKS + link.time.to_bytes(8, "big") + link.event_id.encode() + b"\0" + link.other.encode()
    return IdentityCell(qualifier, link.event_type.encode() + b"\0" + link.sealed, link.time)


def linked_cell(linked: Linked) -> IdentityCell:
    """In a user's row: an anonymous id that was seen with them."""
    return IdentityCell(LINKED + linked.other.encode(), linked.sealed, 0)


def consent_cell(said: Said) -> IdentityCell:
    """That a profile opted in or out."""
    newest_first = (LAST_INSTANT_MS - said.time).to_bytes(8, "big")
    return IdentityCell(CONSENTS + newest_first + (b"o" if said.opted_out else b"i"), b"", said.time)


def sealed_cell(sealed: bytes) -> IdentityCell:
    """The row's own id, sealed."""
    return IdentityCell(SEALED, sealed, 0)


def unlinked_cell(time: int) -> IdentityCell:
    """That an anonymous id's links so far are void."""
    return IdentityCell(UNLINKED, b"", time)


def identity_of(cells: Iterable[IdentityCell]) -> Identity:
    """What a row's identity cells say; ``RowError`` for a column that isn't known.

    >>> identity_of([consent_cell(Said(5, True)), unlinked_cell(7)])
    Identity(links=(), linked=(), said=(Said(time=5, opted_out=True),), unlinked=7, sealed=b'')
    """
    links: list[Link] = []
    linked: list[Linked] = []
    said: list[Said] = []
    sealed, unlinked = b"", NEVER
    for qualifier, value, time in sorted(cells):
        kind = qualifier[:1]
        if kind == LINKS:
            links.append(_link_in(qualifier, value))
        elif kind == LINKED:
            linked.append(Linked(qualifier[1:].decode(), value))
        elif kind == CONSENTS:
            said.append(Said(LAST_INSTANT_MS - int.from_bytes(qualifier[1:9], "big"), qualifier[9:] == b"o"))
        elif qualifier == SEALED:
            sealed = value
        elif qualifier == UNLINKED:
            unlinked = max(time, unlinked)
        else:
            msg = f"identity column == {shown(qualifier)}, must be one this version knows: is a newer one writing this table?"
            raise RowError(msg)
    return Identity(tuple(links), tuple(linked), tuple(sorted(said)), unlinked, sealed)


def cells_of(identity: Identity) -> list[IdentityCell]:
    """The cells that say it: the reverse of ``identity_of``."""
    cells = [*map(link_cell, identity.links), *map(linked_cell, identity.linked), *map(consent_cell, identity.said)]
    if identity.sealed:
        cells.append(sealed_cell(identity.sealed))
    if identity.unlinked != NEVER:
        cells.append(unlinked_cell(identity.unlinked))
    return sorted(cells)


def _link_in(qualifier: bytes, value: bytes) -> Link:
    event_id, _, other = qualifier[9:].partition(b"\0")
    event_type, _, sealed = value.partition(b"\0")
    return Link(int.from_bytes(qualifier[1:9], "big"), event_id.decode(), other.decode(), event_type.decode(), sealed)


_BASE_LAYOUT: Final = b"\x01"
_ENCODE_BASE: Final = msgspec.msgpack.Encoder().encode
_DECODE_BASE: Final = msgspec.msgpack.Decoder(list[ViewCell]).decode
_ENCODE: Final = msgspec.json.Encoder().encode
_MEMBERSHIP: Final = msgspec.json.Decoder(Membership).decode
_EMPTIED: Final = msgspec.json.Decoder(Emptied).decode
_IS_EMPTIED: Final = b'{"empty"'
_PROFILE: Final = msgspec.json.Decoder(Profile).decode


def encode_cell(value: Membership | Emptied | Profile) -> bytes:
    """The JSON of a ``membership`` or ``profile`` cell; equal values give equal bytes."""
    return _ENCODE(value)


def decode_row(
    key: str,
    membership: bytes | None,
    profile: bytes | None,
    candidate: bytes | None = None,
    identity: Iterable[IdentityCell] = (),
) -> ProfileRow:
    """The row from its cells; ``RowError`` names the row whose cell can't be read. ``identity``: what there is of that family."""
    try:
        emptied = None
        if membership is not None and membership.startswith(_IS_EMPTIED):
            emptied, membership, profile, candidate = _EMPTIED(membership).empty, None, None, None
        who = identity_of(identity)
        return ProfileRow(
            key,
            None if membership is None else _MEMBERSHIP(membership),
            None if not profile else _PROFILE(profile),
            None if candidate is None else _MEMBERSHIP(candidate),
            emptied,
            owning_link(who.links, who.unlinked),
            counting_from([Voice(who.said, NEVER)]) == FOR_EVER,
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"row {key[:10]}…: a cell can't be read, must be JSON of a membership or profile: {error}"
        raise RowError(msg) from error
