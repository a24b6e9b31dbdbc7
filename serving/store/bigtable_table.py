"""One Bigtable table: bulk calls through the data client, a deadline on each, every entry's error looked at."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from google.api_core import exceptions as api
from google.cloud.bigtable.data import (
    BigtableDataClient,
    MutationsExceptionGroup,
    ReadRowsQuery,
    Row,
    RowMutationEntry,
    RowRange,
    Table,
)
from google.cloud.bigtable.data.read_modify_write_rules import IncrementRule
from google.cloud.bigtable.data.row_filters import RowFilter

from schemas.errors import StoreError, StoreUnavailableError
from serving.store.bigtable_faults import EMULATOR, PERMANENT, fault_of, translated_faults
from serving.store.protocol import Refusal

READ_DEADLINE_S: Final = 10.0
WRITE_DEADLINE_S: Final = 30.0
MAX_READS_IN_FLIGHT: Final = 16
MAX_ROWS_A_READ: Final = 250
ROWS_A_SCANNED_PAGE: Final = 1_000
MAX_ENTRIES_A_WRITE: Final = 1_000  # Bigtable allows 100,000 mutations a request; the emulator doesn't check

_clients: dict[tuple[str, str | None], BigtableDataClient] = {}  # by project, and emulator where there is one
_clients_lock = threading.Lock()


class BigtableTable:
    """A table, connected to when it is first asked. One client a project in a process, at most 16 reads in flight.

    Every call raises ``StoreUnavailableError`` for what may pass and ``StoreError`` for what stays.
    """

    def __init__(self, uri: str, project: str, instance: str, table: str) -> None:
        self._uri = uri
        self._names = (project, instance, table)
        self._opened: Table | None = None
        self._readers = ThreadPoolExecutor(MAX_READS_IN_FLIGHT, thread_name_prefix="bigtable-read")

    def row(self, key: str, row_filter: RowFilter, deadline_s: float) -> Row | None:
        """One row; ``None`` when it has nothing that the filter lets through."""
        with translated_faults(self._uri, deadline_s):
            return self._table.read_row(key, row_filter=row_filter, operation_timeout=deadline_s, attempt_timeout=deadline_s)

    def rows(self, keys: Sequence[str], row_filter: RowFilter, at_once: int = MAX_ROWS_A_READ) -> list[Row]:
        """The rows there are, so many in one call, in any order."""
        pages = [list(keys[i : i + at_once]) for i in range(0, len(keys), at_once)]
        if not pages:
            return []
        self._table  # noqa: B018  (connect once, not in every thread)

        def read(page: list[str]) -> list[Row]:
            query = ReadRowsQuery(row_keys=page, row_filter=row_filter)
            with translated_faults(self._uri, READ_DEADLINE_S):
                return list(self._table.read_rows(query, operation_timeout=READ_DEADLINE_S, attempt_timeout=READ_DEADLINE_S))

        found = [read(pages[0])] if len(pages) == 1 else self._readers.map(read, pages)
        return [row for page in found for row in page]

    def scan(self, row_filter: RowFilter | None, first: str) -> Iterator[Row]:
        """All rows from a key on, in order of key, read in pages: a stream has no deadline that fits any table."""
        ranges = [RowRange(start_key=first)]
        while True:
            query = ReadRowsQuery(row_ranges=ranges, row_filter=row_filter, limit=ROWS_A_SCANNED_PAGE)
            with translated_faults(self._uri, WRITE_DEADLINE_S):
                page = self._table.read_rows(query, operation_timeout=WRITE_DEADLINE_S, attempt_timeout=WRITE_DEADLINE_S)
            yield from page
            if len(page) < ROWS_A_SCANNED_PAGE:
                return
            ranges = [RowRange(start_key=page[-1].row_key, start_is_inclusive=False)]

    def mutate(self, entries: Sequence[RowMutationEntry]) -> list[Refusal]:
        """Write; the entries refused for good."""
        refused: list[Refusal] = []
        for start in range(0, len(entries), MAX_ENTRIES_A_WRITE):
            page = entries[start : start + MAX_ENTRIES_A_WRITE]
            try:
                with translated_faults(self._uri, WRITE_DEADLINE_S):
                    self._table.bulk_mutate_rows(page, operation_timeout=WRITE_DEADLINE_S, attempt_timeout=WRITE_DEADLINE_S)
            except MutationsExceptionGroup as group:
                refused += [Refusal(start + index, message) for index, message in self._permanent(group)]
        return refused

    def apply(self, entries: Iterable[RowMutationEntry]) -> None:
        """Write; ``StoreError`` when an entry is refused."""
        for fault in self.mutate(list(entries)):
            raise StoreError(fault.message)

    def increase(self, key: str, family: str, column: bytes, by: int) -> None:
        """Add to a number in a cell."""
        with translated_faults(self._uri, WRITE_DEADLINE_S):
            self._table.read_modify_write_row(key, IncrementRule(family, column, by), operation_timeout=WRITE_DEADLINE_S)

    def close(self) -> None:
        """Stop the reading threads; the process's client stays open for other tables."""
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

    def _permanent(self, group: MutationsExceptionGroup) -> list[tuple[int, str]]:
        """The entries refused for good; raises when any failed in a way that may pass, or the table itself is missing."""
        permanent: list[tuple[int, str]] = []
        for failed in group.exceptions:
            cause: BaseException | None = failed.__cause__
            if isinstance(cause, api.NotFound | api.PermissionDenied | api.Unauthenticated):
                raise fault_of(self._uri, cause, WRITE_DEADLINE_S) from group
            if not isinstance(cause, PERMANENT) or failed.index is None:
                msg = f"store {self._uri} did not take a write in {WRITE_DEADLINE_S:.0f} s: {cause}"
                raise StoreUnavailableError(msg) from group
            permanent.append((failed.index, str(cause)))
        return permanent
