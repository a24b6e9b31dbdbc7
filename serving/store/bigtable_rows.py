"""Profile rows of Bigtable for an event loop, through the data client's asynchronous half."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from google.cloud.bigtable.data import BigtableDataClientAsync, ReadRowsQuery, TableAsync

from schemas.errors import StoreError
from schemas.instants import clock_ms
from schemas.profile_row import ProfileRow
from serving.store.bigtable import newest_until, profile_row, translated_faults
from serving.store.rows import Rows


class BigtableRows:
    """``serving.store.rows.RowReader`` over one table."""

    def __init__(self, uri: str, project: str, instance: str, table: str) -> None:
        self._uri = uri
        self._project, self._names = project, (instance, table)
        self._client, self._table = self._connected()

    async def read(self, keys: Sequence[str], deadline_s: float) -> Rows:
        """The rows, in one call."""
        query = ReadRowsQuery(row_keys=list(keys), row_filter=newest_until(clock_ms()))
        with translated_faults(self._uri, deadline_s):
            found = await self._table.read_rows(query, operation_timeout=deadline_s, attempt_timeout=deadline_s)
        rows: dict[str, ProfileRow | StoreError] = {key: ProfileRow(key, None, None) for key in keys}
        for row in found:
            key = row.row_key.decode()
            try:
                rows[key] = profile_row(key, row)
            except StoreError as fault:
                rows[key] = fault
        return rows

    async def reconnect(self) -> None:
        """Replace the client: a channel that has lost its peer waits up to two minutes before it tries again."""
        # The old one goes first: gRPC lets channels to one address share a connection, and with it the wait.
        await self._client.close()
        self._client, self._table = self._connected()

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()

    def _connected(self) -> tuple[BigtableDataClientAsync, TableAsync]:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # "connecting to the emulator"
            client = BigtableDataClientAsync(project=self._project)
        return client, client.get_table(*self._names)
