"""The identity ledger of an archive: what must outlive its events, or isn't one (SEMANTICS §6-7).

Links and consents of dates that retention removed, links that were undone, and the tombstones of forgotten ids. What else is known
of people stands in the archive's own events. Equal ledgers are equal tables: entries come once, in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import pyarrow as pa

from schemas.identity import Tombstone

Kind = Literal["link", "unlink", "opt_in", "opt_out", "tombstone"]
LINK: Final = "link"
UNLINK: Final = "unlink"
OPT_IN: Final = "opt_in"
OPT_OUT: Final = "opt_out"
TOMBSTONE: Final = "tombstone"

SCHEMA: Final = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("time", pa.int64(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("other", pa.string(), nullable=False),
        pa.field("sealed", pa.binary(), nullable=False),
        pa.field("sealed_other", pa.binary(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
    ]
)


class Entry(NamedTuple):
    """One thing known, at ``time`` (ms UTC); what a kind has no use for is empty.

    ``key`` is the pseudonym of the row that it is said in: of a link and an unlinking the anonymous id, of a consent the profile.
    Of a tombstone it is the digest, in hex, and ``version`` the pseudonym's key's. ``other`` is the user of a link. ``sealed`` is
    the sealed id of ``key``, ``sealed_other`` that of ``other``.
    """

    kind: Kind
    key: str
    time: int
    event_id: str = ""
    event_type: str = ""
    other: str = ""
    sealed: bytes = b""
    sealed_other: bytes = b""
    version: int = 0


def ledger_of(entries: Iterable[Entry]) -> pa.Table:
    """Entries as a table: each once, in order.

    >>> ledger_of([Entry("opt_out", "1:00", 5), Entry("opt_out", "1:00", 5)]).num_rows
    1
    """
    columns = list(zip(*sorted(set(entries)), strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def entries_in(ledger: pa.Table) -> list[Entry]:
    """The entries of a table."""
    return [Entry(*row) for row in zip(*(ledger[name].to_pylist() for name in SCHEMA.names), strict=True)]


def entry_of_tombstone(tombstone: Tombstone) -> Entry:
    """A tombstone as an entry."""
    return Entry(TOMBSTONE, tombstone.digest.hex(), tombstone.time, version=tombstone.version)


def tombstone_in(entry: Entry) -> Tombstone:
    """The tombstone that ``entry_of_tombstone`` made an entry of."""
    return Tombstone(bytes.fromhex(entry.key), entry.version, entry.time)
