"""The profile row: its key, families, qualifiers and cell formats. The only owner of the layout.

| family       | qualifier                                              | value                          | cell timestamp    |
|--------------|--------------------------------------------------------|--------------------------------|-------------------|
| `speed`      | reversed ms (8 B), complement of event id, FF, CRC-32  | packed attributes of one view  | event time        |
| `base`       | `views`                                                | packed views of the archive    | end of their day  |
| `membership` | `current`, `candidate`                                 | JSON of `Membership`           | time of the read  |
| `profile`    | `summary`                                              | JSON of `Profile`              | time of the read  |
| `identity`   | `alias`, `consent`                                     | user key, opt state, tombstone | event time        |

The qualifier of a view orders cells newest first, by (event time, event id) as the window does, so "the newest 1,000"
is a column limit. The CRC of the value keeps copies of one event that disagree apart; the reader picks among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from schemas.errors import RowError, shown
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
CONSENT: Final = b"consent"
CURRENT: Final = b"current"
SUMMARY: Final = b"summary"

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


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Membership over ``[start, until)`` (ms UTC), with share, views and matching views as they are at ``start``."""

    start: int
    until: int
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
    as_of: int
    segments: list[SegmentSpans]


class Profile(msgspec.Struct, frozen=True):
    """The preference profile: views in the window, the newest's time, and per category attribute its top values' shares."""

    views: int
    last_seen: int
    shares: dict[str, dict[str, float]]


class Consent(msgspec.Struct, frozen=True):
    """Whether a user lets themselves be profiled, as of the event that said so (ms UTC)."""

    opted_out: bool
    time: int


class ProfileRow(NamedTuple):
    """What a reader of one row sees; ``None`` where nothing was written. ``candidate``: the shadow of rules on trial."""

    key: str
    membership: Membership | None
    profile: Profile | None
    candidate: Membership | None = None
    consent: Consent | None = None


_BASE_LAYOUT: Final = b"\x01"
_ENCODE_BASE: Final = msgspec.msgpack.Encoder().encode
_DECODE_BASE: Final = msgspec.msgpack.Decoder(list[ViewCell]).decode
_ENCODE: Final = msgspec.json.Encoder().encode
_MEMBERSHIP: Final = msgspec.json.Decoder(Membership).decode
_PROFILE: Final = msgspec.json.Decoder(Profile).decode
_CONSENT: Final = msgspec.json.Decoder(Consent).decode


def encode_cell(value: Membership | Profile | Consent) -> bytes:
    """The JSON of a ``membership``, ``profile`` or ``consent`` cell; equal values give equal bytes."""
    return _ENCODE(value)


def decode_row(
    key: str, membership: bytes | None, profile: bytes | None, candidate: bytes | None = None, consent: bytes | None = None
) -> ProfileRow:
    """The row from its cells' bytes; ``RowError`` names the row's cell that can't be read."""
    try:
        return ProfileRow(
            key,
            None if membership is None else _MEMBERSHIP(membership),
            None if profile is None else _PROFILE(profile),
            None if candidate is None else _MEMBERSHIP(candidate),
            None if consent is None else _CONSENT(consent),
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"row {key[:10]}…: a cell can't be read, must be JSON of a membership, profile or consent: {error}"
        raise RowError(msg) from error
