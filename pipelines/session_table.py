"""The columns of a sessions file as Arrow has them, CSV (also .gz) or Parquet; what is in them is for others to check.

A CSV file is read with the types that it should have, which is fast. Where that fails it is read again as bytes, slowly, so that
what checks the columns finds the bad value, and its row.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from schemas.errors import ConfigError
from schemas.sessions import COLUMNS, SCHEMA

REQUIRED: Final = tuple(column.name for column in COLUMNS if column.required)
_READ: Final = tuple(column.name for column in COLUMNS if column.name != "policy")  # which is of no use here
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


def columns_in(path: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The known columns of a file that aren't empty throughout, and the names of the unknown ones."""
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        if not magic:
            msg = f"{path}: is empty, must have a header with {', '.join(REQUIRED)}"
            raise ConfigError(msg)
        table, names = _parquet(path) if magic == _PARQUET else _csv(path, packed=magic.startswith(_GZIP))
    except (OSError, EOFError, ValueError, csv.Error) as error:  # Arrow's are OSError or ValueError
        msg = f"--sessions == {path}, must be a readable CSV or Parquet file: {str(error).splitlines()[0][:200]}"
        raise ConfigError(msg) from error
    columns = {name: table[name] for name in table.column_names}
    kept = {name: column for name, column in columns.items() if name in REQUIRED or column.null_count < max(1, len(column))}
    return kept, tuple(name for name in names if name not in SCHEMA.names)


def _parquet(path: str) -> tuple[Any, list[str]]:
    file = pq.ParquetFile(path)
    names = [str(name) for name in file.schema_arrow.names]
    _check_names(names, path)
    return file.read(columns=[name for name in names if name in _READ]), names


def _csv(path: str, *, packed: bool) -> tuple[Any, list[str]]:
    text: Any = {"encoding": "utf-8-sig", "errors": "replace", "newline": ""}  # what isn't UTF-8 is told with its row
    with gzip.open(path, "rt", **text) if packed else open(path, **text) as file:
        names = next(csv.reader(file), [])
    _check_names(names, path)
    wanted = [name for name in names if name in _READ]
    try:
        return _read_csv(path, packed, {name: _CSV_TYPES[name] for name in wanted}), names
    except pa.ArrowInvalid:
        return _explained_csv(path, packed, wanted), names


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
