"""Tables as bytes, in Arrow's stream format: how they travel between steps, and lie in files that are soon gone."""

from __future__ import annotations

import pyarrow as pa


def stream_of(table: pa.Table) -> bytes:
    """The table as bytes.

    >>> table_in(stream_of(pa.table({"a": [1, 2]})))["a"].to_pylist()
    [1, 2]
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def table_in(data: bytes) -> pa.Table:
    """The table in bytes that ``stream_of`` made."""
    return pa.ipc.open_stream(data).read_all()
