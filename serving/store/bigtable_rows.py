"""Profile rows of Bigtable for an event loop: the data client's connection, and its ReadRows called directly.

The data client's ``read_rows`` takes two to three times the processor time of the call itself (benchmarks/serving.py): request and
response are wrapped, retried and measured on the way, which a read that is given up after 50 ms has no use for. So here the filter
is built once a second and chunks are read as they come.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Final

import grpc
from google.api_core import exceptions as api
from google.cloud.bigtable.data import BigtableDataClientAsync
from google.cloud.bigtable_v2.types import bigtable as messages

from schemas.errors import RowError
from schemas.instants import SECOND_MS, clock_ms
from schemas.profile_row import ProfileRow
from serving.store.bigtable_decoding import profile_row
from serving.store.bigtable_faults import translated_faults
from serving.store.bigtable_filters import newest_until
from serving.store.row_chunks import RowMerger
from serving.store.rows import Rows

_METHOD: Final = "/google.bigtable.v2.Bigtable/ReadRows"
_REQUEST: Final = messages.ReadRowsRequest.pb()
_RESPONSE: Final = messages.ReadRowsResponse.pb()


class BigtableRows:
    """``serving.store.rows.RowReader`` over one table."""

    def __init__(self, uri: str, project: str, instance: str, table: str) -> None:
        self._uri = uri
        self._project = project
        self._table = f"projects/{project}/instances/{instance}/tables/{table}"
        self._metadata = (("x-goog-request-params", f"table_name={self._table}&app_profile_id="),)
        self._client = self._connected()

    async def read(self, keys: Sequence[str], deadline_s: float) -> Rows:
        """The rows, in one call; once more when the connection was lost."""
        request = _REQUEST(table_name=self._table, filter=_filter_until(clock_ms() // SECOND_MS + 1))
        request.rows.row_keys.extend(key.encode() for key in keys)
        with translated_faults(self._uri, deadline_s):
            try:
                found = await self._called(request, deadline_s)
            except api.ServiceUnavailable:
                found = await self._called(request, deadline_s)
        rows: dict[str, ProfileRow | RowError] = {}
        for key in keys:
            try:
                rows[key] = profile_row(key, found.rows.get(key.encode()))
            except RowError as fault:
                rows[key] = fault
        return rows

    async def reconnect(self) -> None:
        """Replace the client: a channel that has lost its peer waits up to two minutes before it tries again."""
        # The old one goes first: gRPC lets channels to one address share a connection, and with it the wait.
        await self._client.close()
        self._client = self._connected()

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()

    async def _called(self, request: Any, deadline_s: float) -> RowMerger:
        # Anew each time: the client changes channels under way.
        read_rows = self._client.transport.grpc_channel.unary_stream(
            _METHOD, request_serializer=_REQUEST.SerializeToString, response_deserializer=_RESPONSE.FromString
        )
        merger = RowMerger()
        try:
            async for response in read_rows(request, timeout=deadline_s, metadata=self._metadata):
                merger.add(response.chunks)
        except grpc.RpcError as error:
            raise api.from_grpc_error(error) from error
        merger.end()
        return merger

    def _connected(self) -> BigtableDataClientAsync:
        with translated_faults(self._uri, 0.0), warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # the emulator's
            return BigtableDataClientAsync(project=self._project)


@functools.lru_cache(maxsize=2)
def _filter_until(second: int) -> Any:
    """The filter as the message holds it, for reads before a second since 1970."""
    wrapped = newest_until(second * SECOND_MS)._to_pb()
    return type(wrapped).pb(wrapped)
