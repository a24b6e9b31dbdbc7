"""Profile rows in Bigtable through the data client: bulk calls, a deadline on each, every entry's error looked at."""

from __future__ import annotations

import datetime as dt
import os
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import grpc
from google.api_core import exceptions as api
from google.auth.exceptions import GoogleAuthError
from google.cloud.bigtable.data import (
    BigtableDataClient,
    DeleteAllFromRow,
    DeleteRangeFromColumn,
    MutationsExceptionGroup,
    ReadRowsQuery,
    Row,
    RowMutationEntry,
    RowRange,
    SetCell,
    Table,
)
from google.cloud.bigtable.data.read_modify_write_rules import IncrementRule
from google.cloud.bigtable.data.row_filters import (
    CellsColumnLimitFilter,
    CellsRowLimitFilter,
    ColumnRangeFilter,
    RowFilter,
    RowFilterChain,
    RowFilterUnion,
    StripValueTransformerFilter,
    TimestampRangeFilter,
)

from schemas.errors import StoreError, StoreTimeoutError, StoreUnavailableError
from schemas.identity import MAX_LINKS, NEVER, NOBODY, UNLINKING, Identity, Tombstone
from schemas.instants import LAST_INSTANT_MS, clock_ms
from schemas.profile_row import (
    BASE,
    BASE_VIEWS,
    CANDIDATE,
    CONSENTS,
    CURRENT,
    FAMILIES,
    GARBAGE_AGE_MS,
    IDENTITY,
    LINKED,
    LINKS,
    MAX_CLOCK_SKEW_MS,
    MEMBERSHIP,
    PROFILE,
    SEALED,
    SPEED,
    SUMMARY,
    UNLINKED,
    IdentityCell,
    ProfileRow,
    ViewCell,
    decode_base,
    decode_row,
    encode_base,
    identity_of,
    united,
)
from serving.recent import Recent
from serving.store.protocol import SAID_AT_ONCE, Appended, Dump, Refusal, RowUpdate, WindowRead
from serving.store.row_chunks import Cell

READ_DEADLINE_S: Final = 10.0
ROW_DEADLINE_S: Final = 0.25
WRITE_DEADLINE_S: Final = 30.0
ADMIN_DEADLINE_S: Final = 30.0
CHECK_DEADLINE_S: Final = 5.0
MAX_READS_IN_FLIGHT: Final = 16
MAX_ROWS_A_READ: Final = 250
ROWS_A_SCANNED_PAGE: Final = 1_000
CELLS_A_PAGE: Final = 1_000
FIRST_KEY: Final = b"0"  # rows of users begin with a digit
MAX_ENTRIES_A_WRITE: Final = 1_000  # Bigtable allows 100,000 mutations a request; the emulator doesn't check

STATE_ROW: Final = "!state"  # below every row key; in columns of their own, which no reader of rows asks for
TOMBSTONES_ROW: Final = "!tombstones"  # how many there are; they themselves lie in 256 rows, by the first byte of their digest
TOMBSTONES_A_WRITE: Final = 10_000
TOMBSTONE_ROWS_A_READ: Final = 16
BURIED_WITHIN_MS: Final = 3 * MAX_CLOCK_SKEW_MS  # from a tombstone's timestamp until it is counted, by anybody's clock
BURIALS: Final = b"!burials"
LINKS_OF_READERS: Final = 20  # the first that isn't void says whose a row is; void ones are soon deleted
EMULATOR: Final = "BIGTABLE_EMULATOR_HOST"
_PERMANENT: Final = (
    api.InvalidArgument,
    api.OutOfRange,
    api.FailedPrecondition,
    api.NotFound,
    api.PermissionDenied,
    api.Unauthenticated,
)

_clients: dict[tuple[str, str | None], BigtableDataClient] = {}  # by project, and emulator where there is one
_clients_lock = threading.Lock()


class BigtableStore:
    """``serving.store.Store`` over one Bigtable table. One client a project in a process, at most 16 reads in flight."""

    def __init__(self, uri: str, project: str, instance: str, table: str) -> None:
        self.uri = uri
        self._names = (project, instance, table)
        self._opened: Table | None = None
        self._lock = threading.Lock()
        self._last_read = 0
        self._known = Recent()
        self._readers = ThreadPoolExecutor(MAX_READS_IN_FLIGHT, thread_name_prefix="bigtable-read")

    def init(self) -> list[str]:
        """Create the table and the families that are missing, each with its garbage collection."""
        from google.cloud import bigtable_admin_v2 as admin
        from google.cloud.bigtable_admin_v2.services.bigtable_table_admin.transports import BigtableTableAdminGrpcTransport
        from google.protobuf.duration_pb2 import Duration

        emulator = os.environ.get(EMULATOR)
        transport = BigtableTableAdminGrpcTransport(channel=grpc.insecure_channel(emulator)) if emulator else None
        client = admin.BaseBigtableTableAdminClient(transport=transport)
        project, instance, table = self._names
        parent = f"projects/{project}/instances/{instance}"
        age = admin.GcRule(max_age=Duration(seconds=GARBAGE_AGE_MS // 1000))
        newest = admin.GcRule(max_num_versions=1)
        rules = {SPEED: age, BASE: admin.GcRule(union=admin.GcRule.Union(rules=[newest, age]))}
        families = {name: admin.ColumnFamily(gc_rule=rules.get(name, newest)) for name in FAMILIES}
        created: list[str] = []
        # retry=None: the admin client would go on for a minute, whatever the timeout of one attempt.
        with translated_faults(self.uri, ADMIN_DEADLINE_S):
            try:
                client.create_table(parent=parent, table_id=table, table=admin.Table(), retry=None, timeout=ADMIN_DEADLINE_S)
                created.append(f"table {table}")
            except api.AlreadyExists:
                pass
            name = f"{parent}/tables/{table}"
            have = set(client.get_table(name=name, retry=None, timeout=ADMIN_DEADLINE_S).column_families)
            change = admin.ModifyColumnFamiliesRequest.Modification
            missing = [change(id=family, create=rule) for family, rule in families.items() if family not in have]
            if missing:
                client.modify_column_families(name=name, modifications=missing, retry=None, timeout=ADMIN_DEADLINE_S)
                created += [f"family {modification.id}" for modification in missing]
        return created

    def check(self) -> None:
        """Return when the table can be read within five seconds."""
        with translated_faults(self.uri, CHECK_DEADLINE_S):
            self._table.read_row(b"0", row_filter=_ROW, operation_timeout=CHECK_DEADLINE_S, attempt_timeout=CHECK_DEADLINE_S)

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
        refused = [Refusal(index, fault.message) for fault in self._mutate(entries) for index in groups[fault.position][1]]
        lost = {fault.position for fault in refused}
        written = (view for index, view in enumerate(views) if index not in lost)
        return Appended(sum(self._known.is_new((key, cell.qualifier)) for key, cell in written), refused)

    def write_bases(self, bases: Sequence[tuple[str, bytes]], until: int) -> list[Refusal]:
        """Write the archive's views under the time they reach to; readers take the newest."""
        return self._mutate(
            [RowMutationEntry(key, [SetCell(BASE, BASE_VIEWS, views, timestamp_micros=until * 1000)]) for key, views in bases]
        )

    def write_identity(self, cells: Sequence[tuple[str, IdentityCell]]) -> list[Refusal]:
        """Write identity cells, each under its own time; readers take the newest."""
        return self._mutate(
            [
                RowMutationEntry(key, [SetCell(IDENTITY, cell.qualifier, cell.value, timestamp_micros=cell.time * 1000)])
                for key, cell in cells
            ]
        )

    def delete_identity(self, columns: Sequence[tuple[str, bytes]]) -> None:
        """Delete identity cells."""
        self._delete(RowMutationEntry(key, [DeleteRangeFromColumn(IDENTITY, qualifier)]) for key, qualifier in columns)

    def empty_row(self, key: str, until: int) -> None:
        """Delete the row's views up to an instant, page by page; the cell of the archive's is written anew under its own time."""
        for row in self._read([key], RowFilterChain([_column(BASE, BASE_VIEWS), CellsColumnLimitFilter(1)])):
            cell = row.cells[0]
            if kept := [view for view in decode_base(cell.value) if view.time > until]:
                again = SetCell(BASE, BASE_VIEWS, encode_base(kept), timestamp_micros=cell.timestamp_micros)
                older = DeleteRangeFromColumn(BASE, BASE_VIEWS, end_timestamp_micros=cell.timestamp_micros)
                self._delete([RowMutationEntry(key, [again, older])])
            else:
                all_of_it = DeleteRangeFromColumn(BASE, BASE_VIEWS, end_timestamp_micros=cell.timestamp_micros + 1000)
                self._delete([RowMutationEntry(key, [all_of_it])])
        first = (LAST_INSTANT_MS - until).to_bytes(8, "big")
        page = RowFilterChain(
            [ColumnRangeFilter(SPEED, first), CellsRowLimitFilter(CELLS_A_PAGE), StripValueTransformerFilter(flag=True)]
        )
        while cells := [cell for row in self._read([key], page) for cell in row]:
            self._delete([RowMutationEntry(key, [DeleteRangeFromColumn(SPEED, cell.qualifier) for cell in cells])])

    def drop_membership(self, key: str, time: int) -> None:
        """Delete membership and profile, but versions of newer reads."""
        columns = ((MEMBERSHIP, CURRENT), (MEMBERSHIP, CANDIDATE), (PROFILE, SUMMARY))
        end = (time + 1) * 1000
        self._delete([RowMutationEntry(key, [DeleteRangeFromColumn(*column, end_timestamp_micros=end) for column in columns])])

    def read_windows(self, keys: Sequence[str], limit: int, said: int = SAID_AT_ONCE) -> WindowRead:
        """At most ``limit`` newest views of each row; the read's time is the clock just before it."""
        with self._lock:
            time = self._last_read = max(clock_ms(), self._last_read + 1)
        cells: dict[str, list[ViewCell]] = {key: [] for key in keys}
        identities: dict[str, Identity] = {}
        speed = RowFilterChain([ColumnRangeFilter(SPEED), CellsColumnLimitFilter(1), CellsRowLimitFilter(limit)])
        base = RowFilterChain([_column(BASE, BASE_VIEWS), CellsColumnLimitFilter(1)])
        for row in self._read(keys, RowFilterUnion([speed, base, _who(said)])):
            key = row.row_key.decode()
            views: list[ViewCell] = []
            of_archive: list[ViewCell] = []
            who: list[IdentityCell] = []
            for cell in row:
                if (family := cell.family) == SPEED:
                    views.append(ViewCell(cell.qualifier, cell.value))
                elif family == IDENTITY:
                    who.append(_identity_cell(cell))
                else:
                    of_archive += decode_base(cell.value)
            cells[key] = united(views, of_archive, limit)
            if who and (identity := identity_of(who)) != NOBODY:
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
        return self._mutate(entries)

    def read_row(self, key: str) -> ProfileRow:
        """The membership, profile and identity of one row, within 250 ms."""
        with translated_faults(self.uri, ROW_DEADLINE_S):
            row = self._table.read_row(
                key, row_filter=newest_until(clock_ms()), operation_timeout=ROW_DEADLINE_S, attempt_timeout=ROW_DEADLINE_S
            )
        return profile_row(key, row)

    def read_rows(self, keys: Sequence[str]) -> dict[str, ProfileRow]:
        """The rows of all keys, read in bulk."""
        found = {row.row_key.decode(): row for row in self._read(keys, newest_until(clock_ms()))}
        return {key: profile_row(key, found.get(key)) for key in keys}

    def write_state(self, name: str, value: bytes, until: int) -> None:
        """Keep a value under a name and the time it holds for."""
        cell = SetCell(PROFILE, f"!{name}".encode(), value, timestamp_micros=until * 1000)
        for fault in self._mutate([RowMutationEntry(STATE_ROW, [cell])]):
            raise StoreError(fault.message)

    def read_state(self, name: str) -> bytes | None:
        """The newest value under a name, within 250 ms."""
        column = RowFilterChain([_column(PROFILE, f"!{name}".encode()), CellsColumnLimitFilter(1)])
        row = self._state_row(STATE_ROW, column, ROW_DEADLINE_S)
        return None if row is None else bytes(row.cells[0].value)

    def bury(self, tombstones: Sequence[Tombstone]) -> None:
        """Keep tombstones, each instant in a column of its own; then count, so that nobody who saw the count lacks one."""
        for start in range(0, len(tombstones), TOMBSTONES_A_WRITE):
            now, cells = clock_ms(), defaultdict[str, list[SetCell]](list)
            for digest, version, time in tombstones[start : start + TOMBSTONES_A_WRITE]:
                column = digest + time.to_bytes(8, "big")
                cell = SetCell(IDENTITY, column, version.to_bytes(4, "big"), timestamp_micros=now * 1000)
                cells[_tombstones_row(digest[0])].append(cell)
            self._delete(RowMutationEntry(*entry) for entry in cells.items())
        rule = IncrementRule(PROFILE, BURIALS, 1 if tombstones else UNLINKING)
        with translated_faults(self.uri, WRITE_DEADLINE_S):
            self._table.read_modify_write_row(TOMBSTONES_ROW, rule, operation_timeout=WRITE_DEADLINE_S)

    def burials(self) -> int:
        """How often somebody was buried; nobody counts as ``UNLINKING``."""
        number = RowFilterChain([_column(PROFILE, BURIALS), CellsColumnLimitFilter(1)])
        row = self._state_row(TOMBSTONES_ROW, number, READ_DEADLINE_S)
        return 0 if row is None else int.from_bytes(row.cells[0].value, "big")

    def tombstones(self, since: int = NEVER) -> list[Tombstone]:
        """Those counted since an instant, and some more."""
        start = dt.datetime.fromtimestamp(max(since - BURIED_WITHIN_MS, 0) / 1000, dt.UTC)
        newest = RowFilterChain([ColumnRangeFilter(IDENTITY), TimestampRangeFilter(start=start), CellsColumnLimitFilter(1)])
        found: dict[bytes, Tombstone] = {}
        for row in self._read([_tombstones_row(first) for first in range(256)], newest, TOMBSTONE_ROWS_A_READ):
            for cell in row:  # in order of time
                digest, time = cell.qualifier[:-8], int.from_bytes(cell.qualifier[-8:], "big")
                found[digest] = Tombstone(digest, int.from_bytes(cell.value, "big"), time)
        return list(found.values())

    def forget(self, keys: Sequence[str]) -> None:
        """Delete rows with all they hold."""
        self._delete(RowMutationEntry(key, [DeleteAllFromRow()]) for key in keys)

    def purge(self) -> None:
        """Nothing to do on this machine; Google removes deleted cells when it next compacts, within a week."""

    def dump(self, key: str) -> Dump:
        """All that a row rests on."""
        return self.dumps([key])[key]

    def dumps(self, keys: Sequence[str]) -> dict[str, Dump]:
        """All that rows rest on, read in bulk."""
        everything = RowFilterChain(
            [
                RowFilterUnion([ColumnRangeFilter(family) for family in (SPEED, BASE, IDENTITY)]),
                CellsColumnLimitFilter(1),
            ]
        )
        found = {row.row_key.decode(): _dump_of(row) for row in self._read(keys, everything)}
        return {key: found.get(key) or _dump_of(()) for key in keys}

    def take_out(self, dumps: Mapping[str, Dump], time: int) -> None:
        """Delete what dumps hold: a row's views page by page, then the rest of it at once."""
        last: list[RowMutationEntry] = []
        columns = ((MEMBERSHIP, CURRENT), (MEMBERSHIP, CANDIDATE), (PROFILE, SUMMARY))
        for key, dump in dumps.items():
            views = [DeleteRangeFromColumn(SPEED, cell.qualifier) for cell in dump.views]
            while len(views) > CELLS_A_PAGE:
                self._delete([RowMutationEntry(key, views[:CELLS_A_PAGE])])
                del views[:CELLS_A_PAGE]
            ends = [(*column, time) for column in columns]
            ends += [(IDENTITY, cell.qualifier, cell.time) for cell in dump.identity]
            ends += [] if dump.base is None else [(BASE, BASE_VIEWS, dump.base[0])]
            rest = [DeleteRangeFromColumn(family, name, end_timestamp_micros=(end + 1) * 1000) for family, name, end in ends]
            last.append(RowMutationEntry(key, [*views, *rest]))
        self._delete(last)

    def names(self, key: str) -> Sequence[str]:
        """The key alone."""
        return (key,)

    def keys(self) -> Iterator[str]:
        """The keys of all rows of users, in order, read in pages."""
        only_keys = RowFilterChain([CellsRowLimitFilter(1), StripValueTransformerFilter(flag=True)])
        for row in self._pages(only_keys):
            yield row.row_key.decode()

    def scan(self) -> Iterator[ProfileRow]:
        """Every row with a membership, in order of key."""
        found = (profile_row(row.row_key.decode(), row) for row in self._pages(newest_until(clock_ms())))
        yield from (row for row in found if row.membership is not None)  # some have only an identity

    def close(self) -> None:
        """Stop the reading threads; the process's client stays open for other stores."""
        self._readers.shutdown()

    @property
    def _table(self) -> Table:
        if self._opened is None:
            project, instance, table = self._names
            known = project, os.environ.get(EMULATOR)
            with _clients_lock:
                if known not in _clients:
                    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # "connecting to the emulator"
                        _clients[known] = BigtableDataClient(project=project)
                self._opened = _clients[known].get_table(instance, table)
        return self._opened

    def _state_row(self, key: str, row_filter: RowFilter, deadline_s: float) -> Row | None:
        with translated_faults(self.uri, deadline_s):
            return self._table.read_row(key, row_filter=row_filter, operation_timeout=deadline_s, attempt_timeout=deadline_s)

    def _pages(self, row_filter: RowFilter) -> Iterator[Row]:
        """All rows of users, in order of key, read in pages: a stream has no deadline that fits any table."""
        ranges = [RowRange(start_key=FIRST_KEY)]
        while True:
            query = ReadRowsQuery(row_ranges=ranges, row_filter=row_filter, limit=ROWS_A_SCANNED_PAGE)
            with translated_faults(self.uri, WRITE_DEADLINE_S):
                page = self._table.read_rows(query, operation_timeout=WRITE_DEADLINE_S, attempt_timeout=WRITE_DEADLINE_S)
            yield from page
            if len(page) < ROWS_A_SCANNED_PAGE:
                return
            ranges = [RowRange(start_key=page[-1].row_key, start_is_inclusive=False)]

    def _delete(self, entries: Iterable[RowMutationEntry]) -> None:
        for fault in self._mutate(list(entries)):
            raise StoreError(fault.message)

    def _read(self, keys: Sequence[str], row_filter: RowFilter, at_once: int = MAX_ROWS_A_READ) -> list[Row]:
        pages = [list(keys[i : i + at_once]) for i in range(0, len(keys), at_once)]
        if not pages:
            return []
        self._table  # noqa: B018  (connect once, not in every thread)

        def read(page: list[str]) -> list[Row]:
            query = ReadRowsQuery(row_keys=page, row_filter=row_filter)
            with translated_faults(self.uri, READ_DEADLINE_S):
                return list(self._table.read_rows(query, operation_timeout=READ_DEADLINE_S, attempt_timeout=READ_DEADLINE_S))

        found = [read(pages[0])] if len(pages) == 1 else self._readers.map(read, pages)
        return [row for page in found for row in page]

    def _mutate(self, entries: list[RowMutationEntry]) -> list[Refusal]:
        refused: list[Refusal] = []
        for start in range(0, len(entries), MAX_ENTRIES_A_WRITE):
            page = entries[start : start + MAX_ENTRIES_A_WRITE]
            try:
                with translated_faults(self.uri, WRITE_DEADLINE_S):
                    self._table.bulk_mutate_rows(page, operation_timeout=WRITE_DEADLINE_S, attempt_timeout=WRITE_DEADLINE_S)
            except MutationsExceptionGroup as group:
                refused += [Refusal(start + index, message) for index, message in self._permanent(group)]
        return refused

    def _permanent(self, group: MutationsExceptionGroup) -> list[tuple[int, str]]:
        """The entries refused for good; raises when any failed in a way that may pass, or the table itself is missing."""
        permanent: list[tuple[int, str]] = []
        for failed in group.exceptions:
            cause: BaseException | None = failed.__cause__
            if isinstance(cause, api.NotFound | api.PermissionDenied | api.Unauthenticated):
                raise _fault_of(self.uri, cause, WRITE_DEADLINE_S) from group
            if not isinstance(cause, _PERMANENT) or failed.index is None:
                msg = f"store {self.uri} did not take a write in {WRITE_DEADLINE_S:.0f} s: {cause}"
                raise StoreUnavailableError(msg) from group
            permanent.append((failed.index, str(cause)))
        return permanent


@contextmanager
def translated_faults(uri: str, deadline_s: float) -> Iterator[None]:
    """Google's exceptions as ``StoreUnavailableError`` and ``StoreError``; ``uri`` and the deadline are for their messages."""
    try:
        yield
    except api.GoogleAPICallError as error:
        raise _fault_of(uri, error, deadline_s) from error
    except (api.RetryError, grpc.RpcError, TimeoutError) as error:
        raise _fault_of(uri, error, deadline_s) from error
    except GoogleAuthError as error:
        msg = f"store {uri}: {str(error).splitlines()[0]}"
        raise StoreError(msg) from error


def _fault_of(uri: str, error: BaseException, deadline_s: float) -> StoreError:
    reason = str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__
    if isinstance(error, api.NotFound):
        return StoreError(f"store {uri}: table or family missing ({reason}); create it: forecourt store init --store {uri}")
    if isinstance(error, _PERMANENT):
        return StoreError(f"store {uri}: {reason}")
    where = os.environ.get(EMULATOR)
    hint = f"is the emulator at {EMULATOR}={where} running (forecourt emulators)?" if where else "can this machine reach Bigtable?"
    kind = StoreTimeoutError if isinstance(error, api.DeadlineExceeded | api.Cancelled | TimeoutError) else StoreUnavailableError
    return kind(f"store {uri} does not answer within {deadline_s:g} s: {reason}; {hint}")


def newest_until(now: int) -> RowFilter:
    """What `profile_row` needs, the newest cell each, none from further ahead than clocks may differ."""
    end = dt.datetime.fromtimestamp((now + MAX_CLOCK_SKEW_MS) / 1000, dt.UTC)
    return RowFilterChain([_ROW, TimestampRangeFilter(end=end), CellsColumnLimitFilter(1)])


def profile_row(key: str, row: Row | Iterable[Cell] | None) -> ProfileRow:
    """The row; a shadow counts only when it was written together with the membership, else it is of rules no longer on trial."""
    found = list(row) if row else []
    cells = {(cell.family, cell.qualifier): cell for cell in found if cell.family != IDENTITY}
    current, candidate = cells.get((MEMBERSHIP, CURRENT)), cells.get((MEMBERSHIP, CANDIDATE))
    if current is None or (candidate is not None and candidate.timestamp_micros != current.timestamp_micros):
        candidate = None
    membership, profile, shadow = (
        None if cell is None else cell.value for cell in (current, cells.get((PROFILE, SUMMARY)), candidate)
    )
    return decode_row(key, membership, profile, shadow, _identity_cells(found))


def _dump_of(row: Row | Iterable[Cell]) -> Dump:
    cells = list(row)
    base = [(cell.timestamp_micros // 1000, cell.value) for cell in cells if cell.family == BASE]
    views = [ViewCell(cell.qualifier, cell.value) for cell in cells if cell.family == SPEED]
    return Dump(views, base[0] if base else None, _identity_cells(cells))


def _identity_cells(cells: Iterable[Cell]) -> list[IdentityCell]:
    return [_identity_cell(cell) for cell in cells if cell.family == IDENTITY]


def _identity_cell(cell: Cell) -> IdentityCell:
    return IdentityCell(cell.qualifier, cell.value, cell.timestamp_micros // 1000)


def _tombstones_row(first: int) -> str:
    """The row of tombstones whose digest begins with a byte."""
    return f"{TOMBSTONES_ROW}-{first:02x}"


def _column(family: str, first: bytes, last: bytes | None = None) -> RowFilter:
    """One column of a family, or all from the first to the last."""
    return ColumnRangeFilter(family, start_qualifier=first, end_qualifier=last or first)


def _columns_of(kind: bytes, limit: int) -> RowFilter:
    """The first identity columns of a kind."""
    after = bytes([kind[0] + 1])
    kinds = ColumnRangeFilter(IDENTITY, start_qualifier=kind, end_qualifier=after, inclusive_end=False)
    return RowFilterChain([kinds, CellsColumnLimitFilter(1), CellsRowLimitFilter(limit)])


def _who(said: int) -> RowFilter:
    """A row's identity, of each kind the first cells: behind a "user" may stand a million browsers."""
    kinds = [_columns_of(kind, said) for kind in (LINKS, LINKED, CONSENTS)]
    return RowFilterUnion([*kinds, RowFilterChain([_column(IDENTITY, SEALED, UNLINKED), CellsColumnLimitFilter(1)])])


_ROW: Final = RowFilterUnion(
    [
        _column(MEMBERSHIP, CANDIDATE, CURRENT),
        _column(PROFILE, SUMMARY),
        _columns_of(LINKS, LINKS_OF_READERS),
        _columns_of(CONSENTS, MAX_LINKS),
        _column(IDENTITY, UNLINKED),
    ]
)
