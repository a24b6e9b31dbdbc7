"""The sessions table as one file, CSV or Parquet by its name, written a day at a time.

It is written beside the file that it is to be, each time to another place, and takes that one's when it has been looked at: so the
file is always a whole table, and who makes another at the same time doesn't write into this one.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

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


@contextlib.contextmanager
def pending_table(path: str) -> Iterator[str]:
    """A place beside a table to write it to; gone afterwards, so a table that is to stay is put in place before.

    ``StoreError`` when nothing can be written there, before any work is done.
    """
    folder, name = os.path.split(path)
    pending = f"{folder}{'/' if folder else ''}.new-{secrets.token_hex(8)}-{name}"
    if is_local(path):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(pending).touch(exist_ok=False)
        except OSError as error:
            raise _fault(path, error) from error
    try:
        yield pending
    finally:
        if is_local(path):
            Path(pending).unlink(missing_ok=True)
        elif FileSystems.exists(pending):
            FileSystems.delete([pending])


def put_in_place(pending: str, path: str) -> None:
    """Put a table that was written in the place of another, or of none. ``StoreError`` when it can't be put there."""
    try:
        if is_local(path):
            Path(pending).replace(path)
        else:
            FileSystems.rename([pending], [path])
    except (OSError, BeamIOError) as error:
        raise _fault(path, error) from error


def write_sessions(path: str, days: Iterable[pa.Table]) -> int:
    """Write tables of ``schemas.sessions.SCHEMA`` as one file; how many rows. ``StoreError`` when it can't be written.

    A remote file is put together in memory.
    """
    write = _write_csv if path.endswith(".csv") else _write_parquet
    if not is_local(path):
        data = io.BytesIO()
        rows = write(data, days)
        replace_bytes(path, data.getvalue())
        return rows
    try:
        with open(path, "wb") as file:
            rows = write(file, days)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _fault(path, error) from error
    return rows


def _fault(path: str, error: Exception) -> StoreError:
    return StoreError(f"--sessions == {path}, must be writable: {getattr(error, 'strerror', None) or error}")


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
