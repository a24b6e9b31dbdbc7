"""Erasing people from files beside the archive: JSON lines (dead letters, exposures, events), tables of sessions (CSV, Parquet)."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import ConfigError
from schemas.identity import NEVER
from schemas.instants import parse_instant
from transforms.erasing import without
from transforms.plain_files import GZIP, Change, Rewritten, rewrite_lines
from transforms.traces import Traces
from transforms.whole_files import replace_bytes

_PARQUET: Final = b"PAR1"
_PEOPLE: Final = ("user_id", "user", "anonymous_id", "unit")
_TIMES: Final = ("started_at", "event_time")


def erase_lines(path: str, traces: Traces) -> Rewritten:
    """Take people out of a file of JSON lines, also while others append to it."""
    return rewrite_lines(path, lines_without(traces))


def lines_without(traces: Traces) -> Change:
    """A function of lines: each itself, or without a forgotten anonymous id, or ``None`` where it is of a forgotten person."""

    def change(lines: list[bytes]) -> list[bytes | None]:
        found = traces.among(pa.array(lines, pa.large_binary()))
        return [without_people(line, traces) if hit else line for line, hit in zip(lines, found.tolist(), strict=True)]

    return change


def without_people(line: bytes, traces: Traces) -> bytes | None:
    """A line that holds a trace, without it; one that can't be understood goes whole. What is newer stays.

    A dead letter is as old as its event, or where that tells no time, as when it was refused.
    """
    try:
        letter = json.loads(line)
    except ValueError:
        return None
    event = letter.get("payload", letter) if isinstance(letter, dict) else None
    if not isinstance(event, dict):
        return None
    time = _time_in(event.get("event_time"), letter.get("refused_at"))
    user, anonymous = (traces.time_of(event.get(name)) for name in ("user_id", "anonymous_id"))
    if time is None:
        time = NEVER
    if time > (traces.newest if user == anonymous == NEVER else max(user, anonymous)):
        return line
    if time <= user or event.get("user_id") is None:
        return None
    gone = _Gone(traces, time)
    nameless = {name: value for name, value in event.items() if anonymous == NEVER or not name.endswith("anonymous_id")}
    kept = {name: value if name == "listing_id" else without(value, gone) for name, value in nameless.items()}
    text = json.dumps({**letter, "payload": kept} if "payload" in letter else kept, separators=(",", ":")).encode()
    return None if traces.found_in(text) else text


@dataclasses.dataclass(frozen=True)
class _Gone:
    """Holds the ids that were forgotten at an instant (ms UTC) or after it."""

    traces: Traces
    time: int

    def __contains__(self, some_id: object) -> bool:
        """Whether it is one."""
        until = self.traces.time_of(some_id)
        return until != NEVER and until >= self.time


def erase_table(path: str, traces: Traces, *, dry: bool = False) -> Rewritten:
    """Take people's rows out of a table with a column of their ids, CSV (``.gz`` too) or Parquet; ``dry``: count them only.

    ``ConfigError`` when it is no such table.
    """
    data = Path(path).read_bytes()
    parts = _parquet_without(data, traces, path) if data.startswith(_PARQUET) else _csv_without(data, traces, path)
    kept, lines, removed = parts
    if removed and not dry:
        replace_bytes(path, kept, Path(path).stat().st_mode & 0o7777)
    return Rewritten(lines, len(data), removed, 0)


def kind_of(path: str) -> str:
    """How a file can be written anew: as ``lines``, as a ``table``, or not at all: ``other``.

    Lines are JSON objects, one each; a table has a column ``user_id``, ``user``, ``anonymous_id`` or ``unit``.
    """
    with open(path, "rb") as file:
        head = file.read(len(_PARQUET))
    if head == _PARQUET:
        return "table" if set(pq.read_schema(path).names) & set(_PEOPLE) else "other"
    with gzip.open(path, "rb") if head.startswith(GZIP) else open(path, "rb") as lines:
        first = lines.readline().strip()
    if first.startswith(b"{") and first.endswith(b"}"):
        return "lines"
    names = first.decode("utf-8", "replace").lstrip("\ufeff").split(",")
    return "table" if set(names) & set(_PEOPLE) else "other"


def texts_in(path: str) -> Iterator[Any]:
    """What stands in a file, in parts, so that it can be looked through: columns of a Parquet file, else bytes, unpacked."""
    with open(path, "rb") as file:
        head = file.read(len(_PARQUET))
    if head == _PARQUET:
        yield from columns_of(path)
        return
    with gzip.open(path, "rb") if head.startswith(GZIP) else open(path, "rb") as whole:
        before = b""
        while block := whole.read(1 << 24):
            yield before + block
            before = block[-1024:]  # what stands across two blocks


def columns_of(source: Any) -> Iterator[pa.Array]:
    """The texts and bytes in a Parquet file, a column of a row group at a time, of equal values one."""
    with pq.ParquetFile(source) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, use_threads=False)
            while any(pa.types.is_struct(field.type) for field in table.schema):
                table = table.flatten()
            for column in table.columns:
                if pa.types.is_string(column.type) or pa.types.is_binary(column.type) or pa.types.is_large_string(column.type):
                    yield from column.chunks
                elif pa.types.is_dictionary(column.type):
                    yield from (chunk.dictionary for chunk in column.chunks)


def _time_in(*texts: Any) -> int | None:
    for text in texts:
        try:
            return parse_instant(text)
        except (ValueError, TypeError):
            continue
    return None


def _parquet_without(data: bytes, traces: Traces, path: str) -> tuple[bytes, int, int]:
    try:
        table = pq.read_table(io.BytesIO(data), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        msg = f"table == {path}, must be readable CSV or Parquet: {error}"
        raise ConfigError(msg) from error
    if not set(table.column_names) & set(_PEOPLE):
        msg = f"table == {path}, must have a column {', '.join(_PEOPLE)}"
        raise ConfigError(msg)
    until = np.full(len(table), NEVER, np.int64)
    times = np.full(len(table), NEVER, np.int64)
    for name in _TIMES:
        if name in table.column_names and pa.types.is_timestamp(table[name].type):
            times = table[name].cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).fill_null(NEVER).to_numpy()
    for name in set(table.column_names) & set(_PEOPLE):
        ids = table[name].cast(pa.string()).combine_chunks().dictionary_encode()
        of = np.array([*map(traces.time_of, ids.dictionary.to_pylist()), NEVER], np.int64)
        until = np.maximum(until, of[ids.indices.fill_null(len(ids.dictionary)).to_numpy(zero_copy_only=False)])
    gone = (until != NEVER) & (times <= until)
    sink = io.BytesIO()
    pq.write_table(table.filter(pa.array(~gone)), sink, compression="zstd")
    return sink.getvalue(), len(table), int(gone.sum())


def _csv_without(data: bytes, traces: Traces, path: str) -> tuple[bytes, int, int]:
    packed = data.startswith(GZIP)
    try:
        text = (gzip.decompress(data) if packed else data).decode("utf-8")
    except (UnicodeDecodeError, EOFError, OSError) as error:
        msg = f"table == {path}, must be readable CSV or Parquet: {error}"
        raise ConfigError(msg) from error
    rows = list(csv.reader(io.StringIO(text, newline="")))
    names = [name.lstrip("\ufeff") for name in rows[0]] if rows else []
    if not set(names) & set(_PEOPLE):
        msg = f"table == {path}, must have a column {', '.join(_PEOPLE)}"
        raise ConfigError(msg)
    kept = [row for row in rows[1:] if not _is_of_forgotten(dict(zip(names, row, strict=False)), traces)]
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n" if "\r\n" in text[:4096] else "\n").writerows([rows[0], *kept])
    whole = out.getvalue().encode()
    return gzip.compress(whole) if packed else whole, len(rows) - 1, len(rows) - 1 - len(kept)


def _is_of_forgotten(row: Mapping[str, str], traces: Traces) -> bool:
    until = max(traces.time_of(row.get(name, "")) for name in _PEOPLE)
    time = _time_in(*(row.get(name) for name in _TIMES))
    return until != NEVER and (time is None or time <= until)
