"""The metrics folder: ``METRICS/date=YYYY-MM-DD/{segments,parity,quality,volume}.parquet``, local or at any path Beam knows.

Equal tables are equal bytes, so a day that is run again leaves the same files. Names that begin with an underscore are not
metrics: ``_verdicts`` (of refused days too), ``_staging`` (what a run under way keeps), ``_lock``.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from schemas.errors import ConfigError, shown
from schemas.instants import DAY_MS, date_of, parse_date
from schemas.tables import TABLES
from transforms.whole_files import read_bytes, replace_bytes

LOOK_BACK_DAYS: Final = 14  # how old the last metrics may be that say whether a segment was withdrawn
_DATE_FOLDER: Final = re.compile(r"date=(\d{4}-\d\d-\d\d)$", re.ASCII)


def check_metrics_path(folder: str) -> str:
    """The folder itself; ``ConfigError`` when metrics can't be kept there."""
    if not folder or set(folder) & set("*?["):
        msg = f"--metrics == {shown(folder)}, must be a local folder or a path Beam can write to, such as gs://BUCKET/FOLDER"
        raise ConfigError(msg)
    return folder


def write_metrics(folder: str, date: str, tables: Mapping[str, pa.Table]) -> None:
    """Write a day's tables, by name; ``segments`` last, for a day that has it is complete."""
    for name in sorted(tables, key=lambda name: name == "segments"):
        replace_bytes(f"{folder}/date={date}/{name}.parquet", parquet_of(tables[name].cast(TABLES[name])))


def parquet_of(table: pa.Table) -> bytes:
    """A metrics table as a Parquet file; equal tables are equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_metrics(folder: str, date: str, name: str) -> pa.Table | None:
    """One table of a day, ``None`` when the day has none."""
    path = f"{folder}/date={date}/{name}.parquet"
    if not FileSystems.exists(path):
        return None
    try:
        return pq.read_table(io.BytesIO(read_bytes(path)), partitioning=None)
    except pa.ArrowInvalid as error:
        msg = f"metrics file == {path}, must be readable Parquet: {error}"
        raise ConfigError(msg) from error


def dates_with_metrics(folder: str) -> list[str]:
    """The dates that have segments' metrics, oldest first."""
    found = FileSystems.match([f"{folder}/date=*/segments.parquet"])[0].metadata_list
    dates = (_DATE_FOLDER.search(file.path.replace(os.sep, "/").rpartition("/")[0]) for file in found)
    return sorted(date[1] for date in dates if date)


def last_segments(folder: str, date: str) -> tuple[str, dict[str, dict[str, Any]]] | None:
    """The newest day before ``date`` with metrics, at most two weeks back, and its rows by segment."""
    earliest = date_of(max(parse_date(date) - LOOK_BACK_DAYS * DAY_MS, 0))
    before = [each for each in dates_with_metrics(folder) if earliest <= each < date]
    if not before:
        return None
    table = read_metrics(folder, before[-1], "segments")
    assert table is not None
    return before[-1], {row["segment"]: row for row in table.to_pylist()}
