"""Profile rows in Bigtable through the data client: bulk calls, a deadline on each, every entry's error looked at."""

from __future__ import annotations

import datetime as dt
import os
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import grpc
from google.api_core import exceptions as api
from google.auth.exceptions import GoogleAuthError
from google.cloud.bigtable.data import (
    BigtableDataClient,
    DeleteAllFromRow,
    MutationsExceptionGroup,
    ReadRowsQuery,
    Row,
    RowMutationEntry,
    RowRange,
    SetCell,
    Table,
)
from google.cloud.bigtable.data.row_filters import (
    CellsColumnLimitFilter,
    CellsRowLimitFilter,
    ColumnRangeFilter,
    RowFilter,
    RowFilterChain,
    RowFilterUnion,
    TimestampRangeFilter,
)

from schemas.errors import StoreError, StoreTimeoutError, StoreUnavailableError
from schemas.instants import clock_ms
from schemas.profile_row import (
    BASE,
    BASE_VIEWS,
    CANDIDATE,
    CONSENT,
    CURRENT,
    FAMILIES,
    GARBAGE_AGE_MS,
    IDENTITY,
    MAX_CLOCK_SKEW_MS,
    MEMBERSHIP,
    PROFILE,
    SPEED,
    SUMMARY,
    Consent,
    ProfileRow,
    ViewCell,
    decode_base,
    decode_row,
    encode_cell,
    united,
)
from serving.recent import Recent
from serving.store.protocol import Appended, Refusal, RowUpdate, WindowRead
from serving.store.row_chunks import Cell

READ_DEADLINE_S: Final = 10.0
ROW_DEADLINE_S: Final = 0.25
WRITE_DEADLINE_S: Final = 30.0
ADMIN_DEADLINE_S: Final = 30.0
CHECK_DEADLINE_S: Final = 5.0
MAX_READS_IN_FLIGHT: Final = 16
MAX_ROWS_A_READ: Final = 250
ROWS_A_SCANNED_PAGE: Final = 1_000
MAX_ENTRIES_A_WRITE: Final = 1_000  # Bigtable allows 100,000 mutations a request; the emulator doesn't check

STATE_ROW: Final = "!state"  # below every row key; in columns of their own, which no reader of rows asks for
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

    def read_windows(self, keys: Sequence[str], limit: int) -> WindowRead:
        """At most ``limit`` newest views of each row; the read's time is the clock just before it."""
        with self._lock:
            time = self._last_read = max(clock_ms(), self._last_read + 1)
        cells: dict[str, list[ViewCell]] = {key: [] for key in keys}
        speed = RowFilterChain([ColumnRangeFilter(SPEED), CellsColumnLimitFilter(1), CellsRowLimitFilter(limit)])
        base = RowFilterChain([_column(BASE, BASE_VIEWS), CellsColumnLimitFilter(1)])
        for row in self._read(keys, RowFilterUnion([speed, base])):
            views = [ViewCell(cell.qualifier, cell.value) for cell in row if cell.family == SPEED]
            of_archive = [view for cell in row if cell.family == BASE for view in decode_base(cell.value)]
            cells[row.row_key.decode()] = united(views, of_archive, limit)
        return WindowRead(time, cells)

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

    def write_consent(self, key: str, consent: Consent) -> None:
        """Write the consent under its own time; readers take the newest."""
        cell = SetCell(IDENTITY, CONSENT, encode_cell(consent), timestamp_micros=consent.time * 1000)
        for fault in self._mutate([RowMutationEntry(key, [cell])]):
            raise StoreError(fault.message)

    def read_row(self, key: str) -> ProfileRow:
        """The membership, profile and consent of one row, within 250 ms."""
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
        newest = RowFilterChain([_column(PROFILE, f"!{name}".encode()), CellsColumnLimitFilter(1)])
        with translated_faults(self.uri, ROW_DEADLINE_S):
            row = self._table.read_row(
                STATE_ROW, row_filter=newest, operation_timeout=ROW_DEADLINE_S, attempt_timeout=ROW_DEADLINE_S
            )
        return None if row is None else bytes(row.cells[0].value)

    def forget(self, key: str) -> None:
        """Delete the row with all it holds."""
        for fault in self._mutate([RowMutationEntry(key, [DeleteAllFromRow()])]):
            raise StoreError(fault.message)

    def scan(self) -> Iterator[ProfileRow]:
        """Every row with a membership, in order of key, read in pages: a stream has no deadline that fits any table."""
        ranges: list[RowRange] = []
        while True:
            query = ReadRowsQuery(row_ranges=ranges, row_filter=newest_until(clock_ms()), limit=ROWS_A_SCANNED_PAGE)
            with translated_faults(self.uri, WRITE_DEADLINE_S):
                page = self._table.read_rows(query, operation_timeout=WRITE_DEADLINE_S, attempt_timeout=WRITE_DEADLINE_S)
            found = (profile_row(row.row_key.decode(), row) for row in page)
            yield from (row for row in found if row.membership is not None)  # some have only a consent
            if len(page) < ROWS_A_SCANNED_PAGE:
                return
            ranges = [RowRange(start_key=page[-1].row_key, start_is_inclusive=False)]

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

    def _read(self, keys: Sequence[str], row_filter: RowFilter) -> list[Row]:
        pages = [list(keys[i : i + MAX_ROWS_A_READ]) for i in range(0, len(keys), MAX_ROWS_A_READ)]
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
    cells = {(cell.family, cell.qualifier): cell for cell in row} if row else {}
    current, candidate = cells.get((MEMBERSHIP, CURRENT)), cells.get((MEMBERSHIP, CANDIDATE))
    if current is None or (candidate is not None and candidate.timestamp_micros != current.timestamp_micros):
        candidate = None
    wanted = (current, cells.get((PROFILE, SUMMARY)), candidate, cells.get((IDENTITY, CONSENT)))
    return decode_row(key, *(None if cell is None else cell.value for cell in wanted))


def _column(family: str, first: bytes, last: bytes | None = None) -> RowFilter:
    """One column of a family, or all from the first to the last."""
    return ColumnRangeFilter(family, start_qualifier=first, end_qualifier=last or first)


_ROW: Final = RowFilterUnion([_column(MEMBERSHIP, CANDIDATE, CURRENT), _column(PROFILE, SUMMARY), _column(IDENTITY, CONSENT)])
