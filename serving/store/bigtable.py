"""Profile rows in Bigtable: a view is a cell under its own time, whatever was evaluated of them one under the time of the read."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.cloud.bigtable.data import DeleteAllFromRow, DeleteRangeFromColumn, RowMutationEntry, SetCell

from schemas.errors import StoreError
from schemas.identity import NEVER, NOBODY, UNLINKING, Identity, Tombstone
from schemas.instants import clock_ms
from schemas.profile_row import (
    BASE,
    BASE_VIEWS,
    CANDIDATE,
    CURRENT,
    IDENTITY,
    MAX_CLOCK_SKEW_MS,
    MEMBERSHIP,
    PROFILE,
    SPEED,
    SUMMARY,
    IdentityCell,
    ProfileRow,
    ViewCell,
    decode_base,
    encode_base,
)
from serving.recent import Recent
from serving.store.bigtable_admin import create_missing
from serving.store.bigtable_decoding import dump_of, profile_row, window
from serving.store.bigtable_filters import (
    ALL_THAT_COUNTS,
    CELLS_A_PAGE,
    ONLY_KEYS,
    newest,
    newest_since,
    newest_until,
    views_until,
    window_of,
)
from serving.store.bigtable_table import READ_DEADLINE_S, BigtableTable
from serving.store.protocol import SAID_AT_ONCE, Appended, Dump, Refusal, RowUpdate, WindowRead

ROW_DEADLINE_S: Final = 0.25
CHECK_DEADLINE_S: Final = 5.0
FIRST_KEY: Final = "0"  # rows of users begin with a digit

STATE_ROW: Final = "!state"  # below every row key; in columns of their own, which no reader of rows asks for
TOMBSTONES_ROW: Final = "!tombstones"  # how many there are; they themselves lie in 256 rows, by the first byte of their digest
TOMBSTONES_A_WRITE: Final = 10_000
TOMBSTONE_ROWS_A_READ: Final = 16
BURIED_WITHIN_MS: Final = 3 * MAX_CLOCK_SKEW_MS  # from a tombstone's timestamp until it is counted, by anybody's clock
BURIALS: Final = b"!burials"


class BigtableStore:
    """``serving.store.Store`` over one Bigtable table."""

    def __init__(self, uri: str, project: str, instance: str, table: str) -> None:
        self.uri = uri
        self._names = (project, instance, table)
        self.table = BigtableTable(uri, project, instance, table)
        self._lock = threading.Lock()
        self._last_read = 0
        self._known = Recent()

    def init(self) -> list[str]:
        """Create the table and the families that are missing, each with its garbage collection."""
        return create_missing(self.uri, *self._names)

    def check(self) -> None:
        """Return when the table can be read within five seconds."""
        self.table.row(FIRST_KEY, newest_until(clock_ms()), CHECK_DEADLINE_S)

    def append(self, views: Sequence[tuple[str, ViewCell]]) -> Appended:
        """Write views, each under its own event time; "new" is as far as this process remembers."""
        by_row: dict[str, list[int]] = defaultdict(list)
        for index, (key, _) in enumerate(views):
            by_row[key].append(index)
        groups = list(by_row.items())
        entries = [
            RowMutationEntry(
                key,
                [
                    SetCell(SPEED, views[i][1].qualifier, views[i][1].value, timestamp_micros=views[i][1].time * 1000)
                    for i in indexes
                ],
            )
            for key, indexes in groups
        ]
        refused = [Refusal(index, fault.message) for fault in self.table.mutate(entries) for index in groups[fault.position][1]]
        lost = {fault.position for fault in refused}
        written = (view for index, view in enumerate(views) if index not in lost)
        return Appended(sum(self._known.is_new((key, cell.qualifier)) for key, cell in written), refused)

    def write_bases(self, bases: Sequence[tuple[str, bytes]], until: int) -> list[Refusal]:
        """Write the archive's views under the time they reach to; readers take the newest."""
        return self.table.mutate(
            [RowMutationEntry(key, [SetCell(BASE, BASE_VIEWS, views, timestamp_micros=until * 1000)]) for key, views in bases]
        )

    def write_identity(self, cells: Sequence[tuple[str, IdentityCell]]) -> list[Refusal]:
        """Write identity cells, each under its own time; readers take the newest."""
        return self.table.mutate(
            [
                RowMutationEntry(key, [SetCell(IDENTITY, cell.qualifier, cell.value, timestamp_micros=cell.time * 1000)])
                for key, cell in cells
            ]
        )

    def delete_identity(self, columns: Sequence[tuple[str, bytes]]) -> None:
        """Delete identity cells."""
        self.table.apply(RowMutationEntry(key, [DeleteRangeFromColumn(IDENTITY, qualifier)]) for key, qualifier in columns)

    def empty_row(self, key: str, until: int) -> None:
        """Delete the row's views up to an instant, page by page; the cell of the archive's is written anew under its own time."""
        for row in self.table.rows([key], newest(BASE, BASE_VIEWS)):
            cell = row.cells[0]
            if kept := [view for view in decode_base(cell.value) if view.time > until]:
                again = SetCell(BASE, BASE_VIEWS, encode_base(kept), timestamp_micros=cell.timestamp_micros)
                older = DeleteRangeFromColumn(BASE, BASE_VIEWS, end_timestamp_micros=cell.timestamp_micros)
                self.table.apply([RowMutationEntry(key, [again, older])])
            else:
                all_of_it = DeleteRangeFromColumn(BASE, BASE_VIEWS, end_timestamp_micros=cell.timestamp_micros + 1000)
                self.table.apply([RowMutationEntry(key, [all_of_it])])
        page = views_until(until)
        while cells := [cell for row in self.table.rows([key], page) for cell in row]:
            self.table.apply([RowMutationEntry(key, [DeleteRangeFromColumn(SPEED, cell.qualifier) for cell in cells])])

    def drop_membership(self, key: str, time: int) -> None:
        """Delete membership and profile, but versions of newer reads."""
        columns = ((MEMBERSHIP, CURRENT), (MEMBERSHIP, CANDIDATE), (PROFILE, SUMMARY))
        end = (time + 1) * 1000
        self.table.apply([RowMutationEntry(key, [DeleteRangeFromColumn(*column, end_timestamp_micros=end) for column in columns])])

    def read_windows(self, keys: Sequence[str], limit: int, said: int = SAID_AT_ONCE) -> WindowRead:
        """At most ``limit`` newest views of each row; the read's time is the clock just before it."""
        with self._lock:
            time = self._last_read = max(clock_ms(), self._last_read + 1)
        cells: dict[str, list[ViewCell]] = {key: [] for key in keys}
        identities: dict[str, Identity] = {}
        for row in self.table.rows(keys, window_of(limit, said)):
            key = row.row_key.decode()
            cells[key], identity = window(row, limit)
            if identity != NOBODY:
                identities[key] = identity
        return WindowRead(time, cells, identities)

    def write_memberships(self, updates: Sequence[RowUpdate]) -> list[Refusal]:
        """Write membership and profile under the time of the read that produced them; readers take the newest."""
        entries = [
            RowMutationEntry(
                update.key,
                [
                    SetCell(family, qualifier, value, timestamp_micros=update.time * 1000)
                    for family, qualifier, value in (
                        (MEMBERSHIP, CURRENT, update.membership),
                        (PROFILE, SUMMARY, update.profile),
                        (MEMBERSHIP, CANDIDATE, update.candidate),
                    )
                    if value is not None
                ],
            )
            for update in updates
        ]
        return self.table.mutate(entries)

    def read_row(self, key: str) -> ProfileRow:
        """The membership, profile and identity of one row, within 250 ms."""
        return profile_row(key, self.table.row(key, newest_until(clock_ms()), ROW_DEADLINE_S))

    def read_rows(self, keys: Sequence[str]) -> dict[str, ProfileRow]:
        """The rows of all keys, read in bulk."""
        found = {row.row_key.decode(): row for row in self.table.rows(keys, newest_until(clock_ms()))}
        return {key: profile_row(key, found.get(key)) for key in keys}

    def write_state(self, name: str, value: bytes, until: int) -> None:
        """Keep a value under a name and the time it holds for."""
        cell = SetCell(PROFILE, f"!{name}".encode(), value, timestamp_micros=until * 1000)
        for fault in self.table.mutate([RowMutationEntry(STATE_ROW, [cell])]):
            raise StoreError(fault.message)

    def read_state(self, name: str) -> bytes | None:
        """The newest value under a name, within 250 ms."""
        row = self.table.row(STATE_ROW, newest(PROFILE, f"!{name}".encode()), ROW_DEADLINE_S)
        return None if row is None else bytes(row.cells[0].value)

    def bury(self, tombstones: Sequence[Tombstone]) -> None:
        """Keep tombstones, each instant in a column of its own; then count, so that nobody who saw the count lacks one."""
        for start in range(0, len(tombstones), TOMBSTONES_A_WRITE):
            now, cells = clock_ms(), defaultdict[str, list[SetCell]](list)
            for digest, version, time in tombstones[start : start + TOMBSTONES_A_WRITE]:
                column = digest + time.to_bytes(8, "big")
                cell = SetCell(IDENTITY, column, version.to_bytes(4, "big"), timestamp_micros=now * 1000)
                cells[_tombstones_row(digest[0])].append(cell)
            self.table.apply(RowMutationEntry(*entry) for entry in cells.items())
        self.table.increase(TOMBSTONES_ROW, PROFILE, BURIALS, 1 if tombstones else UNLINKING)

    def burials(self) -> int:
        """How often somebody was buried; nobody counts as ``UNLINKING``."""
        row = self.table.row(TOMBSTONES_ROW, newest(PROFILE, BURIALS), READ_DEADLINE_S)
        return 0 if row is None else int.from_bytes(row.cells[0].value, "big")

    def tombstones(self, since: int = NEVER) -> list[Tombstone]:
        """Those counted since an instant, and some more."""
        counted = newest_since(IDENTITY, max(since - BURIED_WITHIN_MS, 0))
        found: dict[bytes, Tombstone] = {}
        for row in self.table.rows([_tombstones_row(first) for first in range(256)], counted, TOMBSTONE_ROWS_A_READ):
            for cell in row:  # in order of time
                digest, time = cell.qualifier[:-8], int.from_bytes(cell.qualifier[-8:], "big")
                found[digest] = Tombstone(digest, int.from_bytes(cell.value, "big"), time)
        return list(found.values())

    def forget(self, keys: Sequence[str]) -> None:
        """Delete rows with all they hold."""
        self.table.apply(RowMutationEntry(key, [DeleteAllFromRow()]) for key in keys)

    def purge(self) -> None:
        """Nothing to do on this machine; Google removes deleted cells when it next compacts, within a week."""

    def dump(self, key: str) -> Dump:
        """All that a row rests on."""
        return self.dumps([key])[key]

    def dumps(self, keys: Sequence[str]) -> dict[str, Dump]:
        """All that rows rest on, read in bulk."""
        found = {row.row_key.decode(): dump_of(row) for row in self.table.rows(keys, ALL_THAT_COUNTS)}
        return {key: found.get(key) or dump_of(()) for key in keys}

    def take_out(self, dumps: Mapping[str, Dump], time: int) -> None:
        """Delete what dumps hold: a row's views page by page, then the rest of it at once."""
        last: list[RowMutationEntry] = []
        columns = ((MEMBERSHIP, CURRENT), (MEMBERSHIP, CANDIDATE), (PROFILE, SUMMARY))
        for key, dump in dumps.items():
            views = [DeleteRangeFromColumn(SPEED, cell.qualifier) for cell in dump.views]
            while len(views) > CELLS_A_PAGE:
                self.table.apply([RowMutationEntry(key, views[:CELLS_A_PAGE])])
                del views[:CELLS_A_PAGE]
            ends = [(*column, time) for column in columns]
            ends += [(IDENTITY, cell.qualifier, cell.time) for cell in dump.identity]
            ends += [] if dump.base is None else [(BASE, BASE_VIEWS, dump.base[0])]
            rest = [DeleteRangeFromColumn(family, name, end_timestamp_micros=(end + 1) * 1000) for family, name, end in ends]
            last.append(RowMutationEntry(key, [*views, *rest]))
        self.table.apply(last)

    def names(self, key: str) -> Sequence[str]:
        """The key alone."""
        return (key,)

    def keys(self) -> Iterator[str]:
        """The keys of all rows of users, in order, read in pages."""
        for row in self.table.scan(ONLY_KEYS, FIRST_KEY):
            yield row.row_key.decode()

    def scan(self) -> Iterator[ProfileRow]:
        """Every row with a membership, in order of key."""
        found = (profile_row(row.row_key.decode(), row) for row in self.table.scan(newest_until(clock_ms()), FIRST_KEY))
        yield from (row for row in found if row.membership is not None)  # some have only an identity

    def close(self) -> None:
        """Stop the reading threads; the process's client stays open for other stores."""
        self.table.close()


def _tombstones_row(first: int) -> str:
    """The row of tombstones whose digest begins with a byte."""
    return f"{TOMBSTONES_ROW}-{first:02x}"
