"""The columns of a sessions file as Arrow has them, CSV (also .gz) or Parquet; what is in them is for others to check.

Columns are read when they are asked for, so that the ids of ten million sessions and of their users are not in memory together.
A CSV file is read with the types that it should have, which is fast. Where that fails it is read again as bytes, slowly, so that
what checks the columns finds the bad value, and its row.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from schemas.errors import ConfigError
from schemas.sessions import COLUMNS, SCHEMA

REQUIRED: Final = tuple(column.name for column in COLUMNS if column.required)
_READ: Final = tuple(column.name for column in COLUMNS if column.name != "policy")  # which is of no use here
_LARGEST: Final = "session_id"
_INSTANT: Final = pa.timestamp("ns", "UTC")
_NAME: Final = pa.dictionary(pa.int32(), pa.string())
_CSV_TYPES: Final[Mapping[str, Any]] = {
    **{name: pa.large_string() for name in ("session_id", "user_id")},
    **{name: _NAME for name in ("day", "arm", "primary_segment", "lead", "holdout")},
    **{name: pa.float64() for name in ("segment_count", "vehicles_viewed", "impressions", "clicks", "pre_vehicles")},
    "arm_probability": pa.float64(),
    "started_at": _INSTANT,
}
_BLOCK_BYTES: Final = 4 << 20
_PARQUET: Final = b"PAR1"
_GZIP: Final = b"\x1f\x8b"


class Columns:
    """The columns of a file. ``unknown`` are the names that nobody knows."""

    def __init__(self, path: str) -> None:
        self._path = path
        with _readable(path):
            with open(path, "rb") as file:
                magic = file.read(4)
            if not magic:
                msg = f"{path}: is empty, must have a header with {', '.join(REQUIRED)}"
                raise ConfigError(msg)
            self._parquet = pq.ParquetFile(path) if magic == _PARQUET else None
            self._packed = magic.startswith(_GZIP)
            names = _header(path, self._packed) if self._parquet is None else list(map(str, self._parquet.schema_arrow.names))
        _check_names(names, path)
        self._left = {name for name in names if name in _READ}
        self._read: dict[str, Any] = {}
        self.unknown = tuple(name for name in names if name not in SCHEMA.names)

    def take(self, name: str) -> Any:
        """A column, once; ``None`` when the file has none, or an optional one that is empty throughout."""
        if name not in self._left:
            return None
        self._left.remove(name)
        pa.default_memory_pool().release_unused()  # of the columns before
        if name not in self._read:
            with _readable(self._path):
                self._read.update(self._columns(name))
        column = self._read.pop(name)
        return column if name in REQUIRED or column.null_count < max(1, len(column)) else None

    def _columns(self, name: str) -> dict[str, Any]:
        """The column; of a CSV file all others too, for to read it is to go through it all."""
        if self._parquet is not None:
            return {name: self._parquet.read(columns=[name]).column(0)}
        wanted = [name] if name == _LARGEST else sorted({name, *self._left} - {_LARGEST})
        table = _csv(self._path, self._packed, wanted)
        return {each: table[each] for each in wanted}


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, csv.Error) as error:  # Arrow's are OSError or ValueError
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        msg = f"--sessions == {path}, must be a readable CSV or Parquet file: {reason}"
        raise ConfigError(msg) from error


def _header(path: str, packed: bool) -> list[str]:
    text: Any = {"encoding": "utf-8-sig", "errors": "replace", "newline": ""}  # what isn't UTF-8 is told with its row
    with gzip.open(path, "rt", **text) if packed else open(path, **text) as file:
        return next(csv.reader(file), [])


def _csv(path: str, packed: bool, wanted: Sequence[str]) -> Any:
    types = {name: _CSV_TYPES[name] for name in wanted}
    try:
        return _read_csv(path, packed, types)
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):  # a header that no line break follows
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})
        return _explained_csv(path, packed, wanted)


def _explained_csv(path: str, packed: bool, wanted: Sequence[str]) -> Any:
    """All columns as bytes; a row of too many or too few cells is refused."""
    bad: list[Any] = []

    def refuse(row: Any) -> str:
        bad.append(row)
        return "error"

    try:
        return _read_csv(path, packed, {name: pa.large_binary() for name in wanted}, refuse)
    except pa.ArrowInvalid as error:
        if not bad:
            raise
        row = bad[0]
        msg = f"{path}, row {row.number - 1}: has {row.actual_columns} cells, must have {row.expected_columns} as the header"
        raise ConfigError(msg) from error


def _read_csv(path: str, packed: bool, types: Mapping[str, Any], refuse: Any = None) -> Any:
    """The columns in ``types``; rows that ``refuse`` is asked about have a number only when one thread reads."""
    with pa.input_stream(path, compression="gzip" if packed else None, buffer_size=_BLOCK_BYTES) as file:
        return pacsv.read_csv(
            file,
            pacsv.ReadOptions(use_threads=refuse is None, block_size=_BLOCK_BYTES),
            pacsv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
            pacsv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True, check_utf8=True
            ),
        )


def _check_names(names: Sequence[str], path: str) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        msg = f"{path}: has no column {', '.join(missing)}, must have {', '.join(REQUIRED)}"
        raise ConfigError(msg)
    for name in SCHEMA.names:
        if (times := list(names).count(name)) > 1:
            msg = f"{path}: has {times} columns {name}, must have one"
            raise ConfigError(msg)
