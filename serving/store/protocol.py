"""What every store of profile rows can do. All writes are idempotent and may come in any order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from schemas.identity import MAX_EVIDENCE, MAX_LINKS, NEVER, Identity, Tombstone
from schemas.profile_row import IdentityCell, ProfileRow, ViewCell

SAID_AT_ONCE: Final = MAX_EVIDENCE + MAX_LINKS  # more than any row says of each kind, once what says nothing is deleted


class Refusal(NamedTuple):
    """One write that the store refused for good: its position in the call's sequence, and why."""

    position: int
    message: str


class Appended(NamedTuple):
    """How an append went: cells that weren't there before, as far as the store can tell, and those refused for good."""

    new: int
    refused: list[Refusal]


class WindowRead(NamedTuple):
    """The newest views of each asked row, newest first, those of the speed and the base layer as one set.

    Of two reads with unequal ``time`` the greater saw no less. Bigtable's is the clock, ms UTC; SQLite counts appends.
    """

    time: int
    cells: dict[str, list[ViewCell]]
    identities: dict[str, Identity]  # of the rows that say something


class Dump(NamedTuple):
    """All that a row rests on: views of the speed layer; those of the archive, packed, and until when (ms UTC); identity cells."""

    views: list[ViewCell]
    base: tuple[int, bytes] | None
    identity: list[IdentityCell]


class RowUpdate(NamedTuple):
    """What a read of a row's views produced; views at or before ``keep_from`` (ms UTC) may be removed.

    ``membership`` is one, or an ``Emptied``: then ``profile`` is empty.
    ``candidate`` is the membership by rules on trial, the shadow; with ``None`` no shadow of an earlier write survives.
    """

    key: str
    time: int
    membership: bytes
    profile: bytes
    keep_from: int
    candidate: bytes | None = None


class Store(Protocol):
    """A table of profile rows. Every call has a deadline.

    Calls raise ``StoreUnavailableError`` for a fault that may pass and ``StoreError`` for one that stays.
    """

    uri: str

    def init(self) -> list[str]:
        """Create what is missing; the names of what was created. Safe to repeat."""

    def check(self) -> None:
        """Return when the table can be read; else raise an error that says what to do."""

    def append(self, views: Sequence[tuple[str, ViewCell]]) -> Appended:
        """Write views into their rows; writing one twice changes nothing."""

    def write_bases(self, bases: Sequence[tuple[str, bytes]], until: int) -> list[Refusal]:
        """Write the archive's views up to ``until`` (ms UTC), each ``encode_base``; of several the newest stays."""

    def write_identity(self, cells: Sequence[tuple[str, IdentityCell]]) -> list[Refusal]:
        """Write what rows say of their ids; of several writes to a column the one with the newest time stays."""

    def delete_identity(self, columns: Sequence[tuple[str, bytes]]) -> None:
        """Delete identity cells, by row and qualifier."""

    def empty_row(self, key: str, until: int) -> None:
        """Delete the row's views at or before ``until`` (ms UTC), those of the archive too."""

    def drop_membership(self, key: str, time: int) -> None:
        """Delete the row's membership and profile, unless they are of a read after ``time``, a ``WindowRead.time``."""

    def read_windows(self, keys: Sequence[str], limit: int, said: int = SAID_AT_ONCE) -> WindowRead:
        """At most ``limit`` newest view cells of each row, and its identity; a row without views has an empty list.

        Of more than ``said`` identity cells of a kind a store may leave out the last: that a row says no more can't be told then.
        """

    def write_memberships(self, updates: Sequence[RowUpdate]) -> list[Refusal]:
        """Write membership and profile; of several writes to a row, the one with the newest read stays."""

    def read_row(self, key: str) -> ProfileRow:
        """The membership, profile and identity of one row."""

    def read_rows(self, keys: Sequence[str]) -> dict[str, ProfileRow]:
        """The rows of all keys; one that isn't there has ``None`` in its fields."""

    def write_state(self, name: str, value: bytes, until: int) -> None:
        """Keep what is not one user's, under a name; of several writes the one with the newest ``until`` (ms UTC) stays."""

    def read_state(self, name: str) -> bytes | None:
        """What was last kept under a name, ``None`` when nothing was."""

    def bury(self, tombstones: Sequence[Tombstone]) -> None:
        """Keep tombstones; of several with one digest the newest stays. With none, only ``burials`` grows: links were undone."""

    def burials(self) -> int:
        """A number that grows with each ``bury``, by ``UNLINKING`` with one of nobody.

        Who remembers what rows hold can tell by it that something was taken out.
        """

    def tombstones(self, since: int = NEVER) -> list[Tombstone]:
        """All tombstones; maybe without those buried well before ``since`` (ms UTC, by the clock)."""

    def forget(self, keys: Sequence[str]) -> None:
        """Delete rows with all they hold."""

    def purge(self) -> None:
        """Leave no byte of what was deleted where files of this machine can be read."""

    def dump(self, key: str) -> Dump:
        """All that a row rests on."""

    def dumps(self, keys: Sequence[str]) -> dict[str, Dump]:
        """All that rows rest on; a row that isn't there has an empty one."""

    def take_out(self, dumps: Mapping[str, Dump], time: int) -> None:
        """Delete what dumps of rows hold, but what was written since; membership and profile as ``drop_membership`` does."""

    def names(self, key: str) -> Sequence[str]:
        """The keys of all rows of the id that this is a row of, newest first; here the key alone, see ``transforms.moving``."""

    def keys(self) -> Iterator[str]:
        """The keys of all rows that hold anything, in order."""

    def scan(self) -> Iterator[ProfileRow]:
        """Every row with a membership, in order of key."""

    def close(self) -> None:
        """Give back connections; the store can't be used afterwards."""
