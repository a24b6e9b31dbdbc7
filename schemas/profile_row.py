"""The profile row: its key, families, qualifiers and cell formats. The only owner of the layout.

| family       | qualifier                                              | value                          | cell timestamp    |
|--------------|--------------------------------------------------------|--------------------------------|-------------------|
| `speed`      | reversed ms (8 B), complement of event id, FF, CRC-32  | packed attributes of one view  | event time        |
| `base`       | `views`                                                | packed views of the archive    | time of the run   |
| `membership` | `current`, `candidate`                                 | JSON of `Membership`           | time of the read  |
| `profile`    | `summary`                                              | JSON of `Profile`              | time of the read  |
| `identity`   | `alias`, `consent`                                     | user key, opt state, tombstone | event time        |

The qualifier of a view orders cells newest first, by (event time, event id) as the window does, so "the newest 1,000"
is a column limit. The CRC of the value keeps copies of one event that disagree apart; the reader picks among them.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from schemas.errors import StoreError
from schemas.instants import LAST_INSTANT_MS
from schemas.rules import MAX_WINDOW_MS

SPEED: Final = "speed"
BASE: Final = "base"
MEMBERSHIP: Final = "membership"
PROFILE: Final = "profile"
IDENTITY: Final = "identity"
FAMILIES: Final = (SPEED, BASE, MEMBERSHIP, PROFILE, IDENTITY)

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


class ProfileRow(NamedTuple):
    """What a reader of one row sees; ``None`` where nothing was written."""

    key: str
    membership: Membership | None
    profile: Profile | None


_ENCODE: Final = msgspec.json.Encoder().encode
_MEMBERSHIP: Final = msgspec.json.Decoder(Membership).decode
_PROFILE: Final = msgspec.json.Decoder(Profile).decode


def encode_cell(value: Membership | Profile) -> bytes:
    """The JSON of a ``membership`` or ``profile`` cell; equal values give equal bytes."""
    return _ENCODE(value)


def decode_row(key: str, membership: bytes | None, profile: bytes | None) -> ProfileRow:
    """The row from its cells' bytes; ``StoreError`` names the row's cell that can't be read."""
    try:
        return ProfileRow(
            key,
            None if membership is None else _MEMBERSHIP(membership),
            None if profile is None else _PROFILE(profile),
        )
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"row {key[:10]}…: a cell can't be read, must be JSON of a membership or profile: {error}"
        raise StoreError(msg) from error
