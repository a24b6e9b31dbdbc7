"""The sessions table as one file, CSV or Parquet by its name, written a day at a time; it comes into being whole."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from schemas.errors import ConfigError, StoreError, shown
from schemas.sessions import SCHEMA
from transforms.whole_files import is_local, replace_bytes

SUFFIXES: Final = (".csv", ".parquet")
ORDER: Final = [("started_at", "ascending"), ("session_id", "ascending"), ("arm", "ascending")]
_RFC_3339: Final = "%Y-%m-%dT%H:%M:%SZ"


def check_sessions_path(path: str) -> str:
    """The path itself; ``ConfigError`` when its name doesn't say what to write."""
    if not path.endswith(SUFFIXES) or Path(path).name in SUFFIXES or (is_local(path) and Path(path).is_dir()):
        msg = f"--sessions == {shown(path)}, must be a file that ends in {' or '.join(SUFFIXES)}"
        raise ConfigError(msg)
    return path


def write_sessions(path: str, days: Iterable[pa.Table]) -> int:
    """Write tables of ``schemas.sessions.SCHEMA`` as one file, which replaces another; how many rows.

    A local file is there when it is complete; a remote one is put together in memory. ``StoreError`` when it can't be written.
    """
    write = _write_csv if path.endswith(".csv") else _write_parquet
    if not is_local(path):
        data = io.BytesIO()
        rows = write(data, days)
        replace_bytes(path, data.getvalue())
        return rows
    pending = Path(path).with_name(f".{Path(path).name}.new")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with pending.open("wb") as file:
            rows = write(file, days)
            file.flush()
            os.fsync(file.fileno())
        pending.replace(path)
    except OSError as error:
        msg = f"--sessions == {path}, must be writable: {error.strerror or error}"
        raise StoreError(msg) from error
    finally:
        with contextlib.suppress(OSError):
            pending.unlink()
    return rows


def _write_parquet(file: IO[bytes], days: Iterable[pa.Table]) -> int:
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        return _written(writer.write_table, days)


def _write_csv(file: IO[bytes], days: Iterable[pa.Table]) -> int:
    as_text = SCHEMA.set(SCHEMA.get_field_index("started_at"), pa.field("started_at", pa.string()))
    # Quotes where they are needed: then an empty field is a null.
    options = pyarrow.csv.WriteOptions(quoting_style="needed", quoting_header="none")
    with pyarrow.csv.CSVWriter(file, as_text, write_options=options) as writer:
        return _written(lambda table: writer.write_table(_with_text(table, as_text)), days)


def _with_text(table: pa.Table, schema: pa.Schema) -> pa.Table:
    place = schema.get_field_index("started_at")
    return table.set_column(place, schema.field(place), pc.strftime(table["started_at"], _RFC_3339))


def _written(write: Callable[[pa.Table], Any], days: Iterable[pa.Table]) -> int:
    rows = 0
    for table in days:
        write(table)
        rows += len(table)
    return rows
