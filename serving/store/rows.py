"""Reading profile rows from an event loop: what serving needs of a store, and the stores that have it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from schemas.errors import RowError, StoreTimeoutError
from schemas.profile_row import ProfileRow
from serving.store import check_uri, open_store
from serving.store.protocol import Store

Rows = Mapping[str, ProfileRow | RowError]

_THREADS: Final = 4


class RowReader(Protocol):
    """Reads rows in bulk. Made and used in one running event loop."""

    async def read(self, keys: Sequence[str], deadline_s: float) -> Rows:
        """The rows of all keys; in place of one that can't be understood the fault.

        Raises ``StoreUnavailableError`` or ``StoreError`` when nothing could be read within the deadline.
        """

    async def reconnect(self) -> None:
        """Connect anew at once, rather than when the client next would."""

    async def close(self) -> None:
        """Give back connections."""


def open_rows(uri: str) -> RowReader:
    """The reader of rows at a store's URI; ``ConfigError`` when it names no store."""
    if check_uri(uri).startswith("sqlite:"):
        return ThreadedRows(open_store(uri))
    from serving.store.bigtable_rows import BigtableRows

    return BigtableRows(uri, *uri.partition("://")[2].split("/"))


class ThreadedRows:
    """A store that blocks, read in a few threads. A read past its deadline is given up, though its thread is still at it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rows")

    async def read(self, keys: Sequence[str], deadline_s: float) -> Rows:
        """The rows, from a thread."""
        reading = asyncio.get_running_loop().run_in_executor(self._threads, self._read, keys)
        try:
            return await asyncio.wait_for(reading, deadline_s)
        except TimeoutError as error:
            msg = f"store {self._store.uri} does not answer within {deadline_s:g} s"
            raise StoreTimeoutError(msg) from error

    async def reconnect(self) -> None:
        """Nothing to do: a file has no connection that could be lost."""

    async def close(self) -> None:
        """Close the store when its reads are done."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    def _read(self, keys: Sequence[str]) -> Rows:
        try:
            return self._store.read_rows(keys)
        except RowError:
            return {key: self._row_or_fault(key) for key in keys}

    def _row_or_fault(self, key: str) -> ProfileRow | RowError:
        try:
            return self._store.read_row(key)
        except RowError as fault:
            return fault
