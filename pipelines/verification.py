"""The search for traces of forgotten people, over everything: cells of the store, rows of the archive, bytes of files.

What is newer than the forgetting may be there; it is counted apart. Archives are compressed, so columns are searched; a SQLite
file is searched as bytes too, for deleted cells can outlive their deletion there.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from pipelines.forgetting import Places, Say
from schemas.errors import StoreError
from schemas.profile_row import BASE, IDENTITY, LINKED, SEALED, SPEED, decode_base
from serving.store.cells import AnyCell, all_cells
from transforms.archive_files import TEMPORARY, parts_of
from transforms.erasing import data_of, in_parallel, opened_part
from transforms.erasing_files import columns_of, erase_table, kind_of, texts_in, without_people
from transforms.ledger import ledger_path
from transforms.plain_files import open_lines, pending_path
from transforms.traces import Traces

_CELLS_AT_ONCE: Final = 20_000
_BLOCK_BYTES: Final = 1 << 20
STORE_FILES: Final = "store_files"


class Found(NamedTuple):
    """What a search came to: how much was looked through, what was found that may not be there, and what is newer; all by kind.

    ``rows`` are keys of store rows that name somebody. No id, pseudonym or path is in anything else.
    """

    scanned: Counter[str]
    traces: Counter[str]
    newer: Counter[str]
    rows: frozenset[str] = frozenset()

    def __add__(self, other: Found) -> Found:  # type: ignore[override]
        """Return both together."""
        scanned, traces, newer, rows = other
        return Found(self.scanned + scanned, self.traces + traces, self.newer + newer, self.rows | rows)


NOTHING: Final = Found(Counter(), Counter(), Counter())


def found_in(places: Places, traces: Traces, at: int, say: Say) -> Found:
    """Search everything for traces of people who were forgotten at ``at`` (ms UTC); ``say`` is told files that hold some."""
    found = in_store(places, traces, at)
    if places.archive is not None:
        found += _in_archive(places.archive, traces, at, say)
    for path in places.dead_letters:
        if os.path.exists(path):
            found += _in_file(path, "dead_letters", traces, say)
    for path in places.sessions:
        found += _in_file(path, "sessions", traces, say)
    for path in places.files:
        found += _in_file(path, "files", traces, say)
    for path in (*places.dead_letters, *places.files):
        if pending_path(path).exists():
            found += _in_file(str(pending_path(path)), "leftovers", traces, say)
    return found


def in_store(places: Places, traces: Traces, at: int) -> Found:
    """Search every cell, and the bytes of a SQLite store's files."""
    scanned: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    newer: Counter[str] = Counter()
    theirs: dict[str, list[AnyCell]] = defaultdict(list)
    naming: list[AnyCell] = []
    batch: list[AnyCell] = []
    for cell in all_cells(places.store):
        scanned["cells"] += 1
        if cell.row in traces.until:
            theirs[cell.row].append(cell)
        else:
            batch.append(cell)
        if len(batch) == _CELLS_AT_ONCE:
            naming += _naming(batch, traces)
            batch = []
    naming += _naming(batch, traces)
    fresh = {row for row, cells in theirs.items() if any(_is_newer(cell, at) for cell in cells)}
    for row, cells in theirs.items():
        old = [cell for cell in cells if row not in fresh or _is_old(cell, at)]
        bad["cells"] += len(old)
        newer["cells"] += len(cells) - len(old)
    rows = set()
    for cell in naming:
        if _is_newer(cell, at) or (cell.qualifier[:1] == LINKED and cell.qualifier[1:].decode() in fresh):
            newer["cells"] += 1
        else:
            bad["cells"] += 1
            rows.add(cell.row)
    found = Found(scanned, +bad, +newer, frozenset(rows))
    return found + (in_sqlite_files(places.store.uri, traces) if not newer else NOTHING)


def _naming(cells: Sequence[AnyCell], traces: Traces) -> list[AnyCell]:
    """Those cells that hold a trace; together first, for that is fast."""
    texts = pa.array([b"\n".join((cell.row.encode(), cell.qualifier, cell.value)) for cell in cells], pa.large_binary())
    return [cells[place] for place in np.flatnonzero(traces.among(texts)).tolist()]


def _is_newer(cell: AnyCell, at: int) -> bool:
    """Whether a cell shows by itself that there is something newer."""
    if cell.family == BASE:
        return all(view.time > at for view in decode_base(cell.value))
    return cell.time > at and (cell.family == SPEED or (cell.family == IDENTITY and cell.qualifier[:1] != SEALED))


def _is_old(cell: AnyCell, at: int) -> bool:
    """Whether a cell in a row that holds something newer must be gone: views, links and consents tell their time."""
    if cell.family == BASE:
        return any(view.time <= at for view in decode_base(cell.value))
    timeless = cell.family == IDENTITY and cell.qualifier[:1] in (SEALED, LINKED)
    return cell.time <= at and (cell.family == SPEED or (cell.family == IDENTITY and not timeless))


def in_sqlite_files(uri: str, traces: Traces) -> Found:
    """Search the bytes of a SQLite store's files. Where a row holds something newer, they tell nothing."""
    scanned: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    if uri.startswith("sqlite:"):
        for end in ("", "-wal", "-shm"):
            path = Path(uri.removeprefix("sqlite:///") + end)
            if path.exists():
                scanned["store_bytes"] += path.stat().st_size
                bad[STORE_FILES] += any(map(traces.found_in, _blocks(path)))
    return Found(scanned, +bad, Counter())


def _blocks(path: Path) -> Iterator[bytes]:
    before = b""
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            yield before + block
            before = block[-1024:]


def _in_archive(archive: str, traces: Traces, at: int, say: Say) -> Found:
    work = functools.partial(_in_part, traces=traces, at=at)
    parts = parts_of(archive)
    found = sum(in_parallel(work, parts, functools.partial(_tell, say)), NOTHING)
    for path in (ledger_path(archive), *_leftovers(archive)):
        if FileSystems.exists(path):
            found += _in_ledger(path, traces)
    return found


def _in_part(path: str, traces: Traces, at: int) -> Found:
    """Search a file's columns; where one holds a trace, row by row, for that may be newer."""
    with opened_part(path) as (file, size):
        hit, rows = False, 0
        for number in range(file.num_row_groups):
            table = _flat(file.read_row_group(number, use_threads=False))
            rows += len(table)
            hit = hit or any(traces.may_be_in(data) for column in table.columns for data in data_of(column))
        old = newer = 0
        if hit:
            table = _flat(file.read(use_threads=False))
            marked = np.zeros(len(table), np.bool_)
            for column in table.columns:
                if pa.types.is_dictionary(column.type):
                    column = column.cast(column.type.value_type)
                if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
                    marked |= traces.among(column)
            is_newer = table["event_time"].cast(pa.int64()).to_numpy() > at
            old, newer = int((marked & ~is_newer).sum()), int((marked & is_newer).sum())
    scanned = Counter(archive_files=1, archive_bytes=size, events=rows)
    return Found(scanned, +Counter(events=old), +Counter(events=newer))


def _flat(table: pa.Table) -> pa.Table:
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _in_ledger(path: str, traces: Traces) -> Found:
    """Search a table of the archive that is no part of it: the ledger, or a file that was not finished."""
    try:
        with FileSystems.open(path) as file:
            data = file.read()
        bad = any(traces.among(texts).any() for texts in columns_of(pa.BufferReader(data)))
    except (pa.ArrowException, OSError, StoreError):
        bad = traces.found_in(data) if (data := _bytes_of(path)) is not None else False
    return Found(Counter(archive_files=1), +Counter(ledger=int(bad)), Counter())


def _bytes_of(path: str) -> bytes | None:
    """A file's bytes; ``None`` when it has got its name meanwhile, and is a part now."""
    try:
        with FileSystems.open(path) as file:
            return bytes(file.read())
    except OSError:
        return None


def _leftovers(archive: str) -> list[str]:
    return [file.path for file in FileSystems.match([FileSystems.join(archive, TEMPORARY, "*")])[0].metadata_list]


def _in_file(path: str, what: str, traces: Traces, say: Say) -> Found:
    """Search a file; of one of lines those that are newer may be there."""
    scanned: Counter[str] = Counter()
    scanned[f"{what}_files"] += 1
    scanned[f"{what}_bytes"] += os.stat(path).st_size
    hit = any(traces.among(part).any() if isinstance(part, pa.Array) else traces.found_in(part) for part in texts_in(path))
    kind = kind_of(path)
    rows = erase_table(path, traces, dry=True).removed if kind == "table" else 0  # short ids are found by their column only
    if not hit and not rows:
        return Found(scanned, Counter(), Counter())
    bad, newer = rows or 1, 0
    if kind == "lines":
        with open_lines(path) as lines:
            hits = [line.rstrip(b"\n") for line in _naming_lines(lines, traces)]
        newer = sum(without_people(line, traces) == line for line in hits)
        bad = len(hits) - newer
    if bad:
        say(f"{path} holds something of a forgotten id" + ("" if kind != "other" else "; it has no rows to take out"))
    return Found(scanned, +Counter({what: bad}), +Counter({what: newer}))


def _naming_lines(file: Any, traces: Traces) -> Iterator[bytes]:
    while lines := file.readlines(_BLOCK_BYTES):
        yield from itertools.compress(lines, traces.among(pa.array(lines, pa.large_binary())))


def _tell(say: Say, number: int, of: int) -> None:
    if number == of or number % 100 == 0:
        say(f"searched {number:,} of {of:,} files of the archive")
