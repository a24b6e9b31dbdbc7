"""What the archive's events say of people, read in columns: links, consents, and that somebody is to be forgotten.

Of the events of one UTC date with the same two ids only the first is evidence (``schemas.identity.Link``), so what is read of
a file is small, however many events of signed-in visitors carry both. Nobody is left out here: what counts shows when all is
together.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from schemas.errors import ConfigError
from schemas.event import FORGET
from schemas.identity import digest_of
from schemas.instants import DAY_MS
from schemas.ledger import LINK, OPT_IN, OPT_OUT, SCHEMA, TOMBSTONE
from schemas.pseudonym import version_of

_TEXT: Final = pa.dictionary(pa.int32(), pa.string())
EVIDENCE: Final = pa.schema(  # a ledger's columns, texts that repeat as dictionaries
    [
        ("kind", _TEXT),
        ("key", _TEXT),
        ("time", pa.int64()),
        ("event_id", pa.large_string()),
        ("event_type", _TEXT),
        ("other", _TEXT),
        ("sealed", pa.large_binary()),
        ("sealed_other", pa.large_binary()),
    ]
)
NAMES: Final = pa.schema([("id", pa.string()), ("sealed", pa.binary())])
_CONSENTS: Final = (OPT_IN, OPT_OUT)
_IDS: Final = ("user_id", "anonymous_id")
_SEALED: Final = ("sealed_user_id", "sealed_anonymous_id")
_CODED: Final = ["event_type", *_IDS]
_NOTHING: Final = {pa.string(): "", pa.binary(): b"", pa.int32(): 0, pa.int64(): 0}
_PLAIN: Final = CompressionTypes.UNCOMPRESSED


class Asked(NamedTuple):
    """What to read: events before ``end`` (ms UTC); with the ids ``sealed``; the sealed ids of pseudonyms of other key versions.

    ``version`` is that of the key that writes, ``None`` where there is but one.
    """

    end: int
    sealed: bool = False
    version: int | None = None


class Evidence(NamedTuple):
    """What some events say: entries of a ledger, as ``EVIDENCE``, in no order; and ids with what they are sealed, as ``NAMES``."""

    said: pa.Table
    names: pa.Table


def read_evidence(paths: Sequence[str], asked: Asked) -> Evidence:
    """The evidence in some files; ``ConfigError`` names the one that can't be read."""
    parts = [part for path in paths for part in _read(path, asked)]
    said = pa.concat_tables([SCHEMA.empty_table(), *(part.said for part in parts)])
    said = said.combine_chunks().select(EVIDENCE.names).cast(EVIDENCE)
    return Evidence(said, _distinct(pa.concat_tables([NAMES.empty_table(), *(part.names for part in parts)])))


def _read(path: str, asked: Asked) -> list[Evidence]:
    try:
        source: Any = path if os.path.exists(path) else pa.PythonFile(FileSystems.open(path, compression_type=_PLAIN), mode="r")
        file = pq.ParquetFile(source, read_dictionary=_CODED)
        return [_evidence_in(file, number, asked) for number in range(file.num_row_groups)]
    except Exception as error:  # pyarrow, and FileSystems, raise whatever they find
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        msg = f"archive file == {path}, must be readable Parquet that forecourt archive wrote: {reason}"
        raise ConfigError(msg) from error


def _evidence_in(file: pq.ParquetFile, number: int, asked: Asked) -> Evidence:
    """The evidence in one row group. Columns that few of its rows are looked at in are read only where there are such."""
    rows = file.read_row_group(number, columns=["event_time", *_CODED], use_threads=False)
    kinds, users, others = (_coded(rows[name]) for name in _CODED)
    group = _Group(file, number, _instants(rows["event_time"]), kinds, users, others)
    said = [_links_in(group, asked), _consents_in(group, asked), _forgets_in(group)]
    return Evidence(pa.concat_tables(said), NAMES.empty_table() if asked.version is None else _names_in(group, asked.version))


class _Coded(NamedTuple):
    """A column of texts: places in a dictionary, -1 for null."""

    codes: NDArray[np.int64]
    texts: pa.Array

    def at(self, rows: NDArray[np.int64]) -> pa.Array:
        return self.texts.take(pa.array(self.codes[rows], mask=self.codes[rows] < 0))


class _Group(NamedTuple):
    """A row group: the columns that are always looked at, and where the others are."""

    file: pq.ParquetFile
    number: int
    times: NDArray[np.int64]
    kinds: _Coded
    users: _Coded
    others: _Coded

    def is_kind(self, kind: str) -> NDArray[np.bool_]:
        place = self.kinds.texts.index(kind).as_py()
        return self.kinds.codes == place if place >= 0 else np.zeros(len(self.times), np.bool_)

    def profiles(self, rows: NDArray[np.int64]) -> pa.Array:
        return pc.coalesce(self.users.at(rows), self.others.at(rows))

    def column(self, name: str, rows: NDArray[np.int64]) -> pa.Array:
        if name not in self.file.schema_arrow.names:  # an archive of version 0.1.0 has no sealed ids
            return pa.nulls(len(rows), pa.binary())
        column = self.file.read_row_group(self.number, columns=[name], use_threads=False)[name]
        return column.take(pa.array(rows)).combine_chunks()


def _links_in(group: _Group, asked: Asked) -> pa.Table:
    """Of each date and two ids the first event, and those of the same instant: which of them counts, their ids say later."""
    users, others, times = group.users.codes, group.others.codes, group.times
    rows = np.flatnonzero((users >= 0) & (others >= 0) & (times < asked.end))
    pairs = users[rows] * len(group.others.texts) + others[rows]
    # Files are mostly in order of user and time: most events come after one that says the same.
    again = (np.diff(pairs) == 0) & (np.diff(times[rows]) > 0) & (np.diff(times[rows] // DAY_MS) == 0)
    told = np.append(True, ~again)[: len(rows)]
    rows, pairs = rows[told], pairs[told]
    order = np.lexsort((times[rows], pairs))
    rows, pairs = rows[order], pairs[order]
    days = times[rows] // DAY_MS
    new = np.append(True, (np.diff(pairs) != 0) | (np.diff(days) != 0))[: len(rows)]
    firsts = times[rows][new][np.cumsum(new) - 1]
    rows = rows[times[rows] == firsts]
    keys, of = group.others.at(rows), group.users.at(rows)
    distinct = pc.not_equal(keys, of).to_numpy(zero_copy_only=False)
    rows, keys, of = rows[distinct], keys.filter(pa.array(distinct)), of.filter(pa.array(distinct))
    if not len(rows):
        return SCHEMA.empty_table()
    sealed = {}
    if asked.sealed:
        sealed = {"sealed": group.column("sealed_anonymous_id", rows), "sealed_other": group.column("sealed_user_id", rows)}
    given = {"event_id": group.column("event_id", rows), "event_type": group.kinds.at(rows), **sealed}
    return _entries(LINK, keys, times[rows], other=of, **given)


def _consents_in(group: _Group, asked: Asked) -> pa.Table:
    tables = []
    for kind in _CONSENTS:
        rows = np.flatnonzero(group.is_kind(kind) & (group.times < asked.end))
        given = {"sealed": _sealed_profiles(group, rows)} if asked.sealed and len(rows) else {}
        tables.append(_entries(kind, group.profiles(rows), group.times[rows], **given))
    return pa.concat_tables(tables)


def _sealed_profiles(group: _Group, rows: NDArray[np.int64]) -> pa.Array:
    """The sealed ids of the profiles in some rows."""
    of_users, of_others = (group.column(name, rows) for name in _SEALED)
    return pc.if_else(pa.array(group.users.codes[rows] >= 0), of_users, of_others)


def _forgets_in(group: _Group) -> pa.Table:
    """Tombstones of the profiles that are to be forgotten, whenever that was said."""
    rows = np.flatnonzero(group.is_kind(FORGET))
    ids = group.profiles(rows).to_pylist()
    versions = pa.array([version_of(each) for each in ids], pa.int32())
    return _entries(TOMBSTONE, pa.array([digest_of(each).hex() for each in ids], pa.string()), group.times[rows], version=versions)


def _names_in(group: _Group, version: int) -> pa.Table:
    """The ids that another key than this version's made, with what they are sealed, where an event says so."""
    tables = [NAMES.empty_table()]
    for name, ids in zip(_SEALED, (group.users, group.others), strict=True):
        foreign = pc.invert(pc.starts_with(ids.texts, f"{version}:")).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero((ids.codes >= 0) & np.append(foreign, False)[ids.codes])
        if len(rows):
            sealed = group.column(name, rows)
            known = sealed.is_valid()
            tables.append(_distinct(pa.table([ids.at(rows).filter(known), sealed.filter(known)], schema=NAMES)))
    return pa.concat_tables(tables)


def _distinct(names: pa.Table) -> pa.Table:
    return names.group_by("id", use_threads=False).aggregate([("sealed", "min")]).rename_columns(NAMES.names).cast(NAMES)


def _entries(kind: str, keys: pa.Array, times: NDArray[np.int64], **given: pa.Array) -> pa.Table:
    """Entries of one kind; columns that aren't given, or null, are empty."""
    columns = {"kind": pa.repeat(kind, len(keys)), "key": keys, "time": pa.array(times, pa.int64()), **given}
    for field in SCHEMA:
        nothing = pa.scalar(_NOTHING[field.type], field.type)
        column = columns.get(field.name)
        columns[field.name] = pa.repeat(nothing, len(keys)) if column is None else pc.fill_null(column.cast(field.type), nothing)
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def _coded(column: pa.ChunkedArray) -> _Coded:
    array = column.cast(_TEXT).unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], _TEXT)
    return _Coded(array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), array.dictionary)


def _instants(column: pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(column.cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()).to_numpy())
