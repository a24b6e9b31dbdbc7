"""Parts of the archive as columns: what a batch job needs of them, read once, texts as dictionaries, no element an event."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from schemas.catalogue import Catalogue
from schemas.errors import ConfigError
from transforms.conditions import Categories, Columns, Numbers

VIEW: Final = "listing_view"
_PLAIN: Final = CompressionTypes.UNCOMPRESSED
_SEALED: Final = ("sealed_user_id", "sealed_anonymous_id")


class Wanted(NamedTuple):
    """What to read beside id, type, time and user: attributes; when it was received; the user's id, sealed."""

    attributes: tuple[str, ...]
    received: bool = False
    sealed: bool = False


class EventColumns(NamedTuple):
    """Events as columns, in no order. ``users`` is a dictionary array, ``ids`` one of strings, ``hashes`` 64 mixed bits of each id.

    ``times`` and ``received`` are ms UTC, the latter -1 where it isn't known. ``rows`` are the ids that the events are keyed by
    where ``users`` are people, and these others' (empty where it is the same); ``sealed`` are those ids, sealed, as latin-1 text.
    """

    ids: pa.Array
    hashes: NDArray[np.uint64]
    times: NDArray[np.int64]
    users: pa.DictionaryArray
    views: NDArray[np.bool_]
    attributes: Columns
    received: NDArray[np.int64] | None
    sealed: Categories | None
    rows: Categories | None = None

    def __len__(self) -> int:
        """Return the number of events; a tuple's own length is of no use to anybody."""
        return len(self.times)


def read_events(paths: Sequence[str], catalogue: Catalogue, wanted: Wanted) -> EventColumns:
    """The rows of some files; ``ConfigError`` names the one that can't be read.

    What a file lacks, or holds as another kind than the catalogue says, is absent.
    """
    return _columns_of([_read(path, catalogue, wanted) for path in paths], catalogue, wanted)


def between(events: EventColumns, first: int, end: int) -> EventColumns:
    """The events with ``first <= time < end``: others lie under a date that isn't theirs."""
    return those(events, (events.times >= first) & (events.times < end))


def keyed_by(events: EventColumns, users: pa.DictionaryArray, rows: Categories) -> EventColumns:
    """The events with other users, and the rows that they lie in."""
    ids, hashes, times, _, views, attributes, received, sealed, _ = events
    return EventColumns(ids, hashes, times, users, views, attributes, received, sealed, rows)


def those(events: EventColumns, which: NDArray[np.bool_]) -> EventColumns:
    """Some of the events."""
    if which.all():
        return events
    kept = np.flatnonzero(which)

    def of(column: Categories | Numbers) -> Any:
        return column._replace(codes=column.codes[kept]) if isinstance(column, Categories) else column[kept]

    return EventColumns(
        events.ids.take(pa.array(kept)),
        events.hashes[kept],
        events.times[kept],
        events.users.take(pa.array(kept)),
        events.views[kept],
        {name: of(column) for name, column in events.attributes.items()},
        None if events.received is None else events.received[kept],
        None if events.sealed is None else of(events.sealed),
        None if events.rows is None else of(events.rows),
    )


def hashes_of(texts: pa.Array) -> NDArray[np.uint64]:
    """64 well-mixed bits of each text, the same on every machine.

    >>> hashes_of(pa.array(["a", "b", "a"])).tolist() == [int(hashes_of(pa.array([text]))[0]) for text in "aba"]
    True
    """
    if not len(texts):
        return np.zeros(0, np.uint64)
    _, offsets, data = texts.buffers()
    places = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.asarray(_hashes(np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8), places))


def categories_of(array: pa.DictionaryArray) -> Categories:
    """A dictionary array as codes and values."""
    return Categories(array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32), array.dictionary.to_pylist())


def _read(path: str, catalogue: Catalogue, wanted: Wanted) -> pa.Table:
    texts = [name for name in wanted.attributes if catalogue.attributes[name].kind == "category"]
    columns = ["event_id", "event_type", "event_time", "user", *(f"attributes.{name}" for name in wanted.attributes)]
    columns += ["received_at"] * wanted.received + ["user_id", *_SEALED] * wanted.sealed
    try:
        source: Any = path if os.path.exists(path) else pa.PythonFile(FileSystems.open(path, compression_type=_PLAIN), mode="r")
        metadata = pq.ParquetFile(source).metadata
        held = {metadata.schema.column(number).path for number in range(metadata.num_columns)}
        plain = held & {"user", "event_type", "user_id", *_SEALED}
        try:
            groups = _row_groups(source, metadata, columns, plain | (held & {f"attributes.{name}" for name in texts}))
        except pa.ArrowNotImplementedError:  # a nested column that isn't one dictionary throughout
            groups = _row_groups(source, metadata, columns, plain)
        return pa.concat_tables([_conformed(group, catalogue, wanted) for group in groups])
    except Exception as error:  # pyarrow, and FileSystems, raise whatever they find
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        msg = f"archive file == {path}, must be readable Parquet that forecourt archive wrote: {reason}"
        raise ConfigError(msg) from error


def _row_groups(source: Any, metadata: pq.FileMetaData, columns: list[str], coded: set[str]) -> list[pa.Table]:
    """A file's tables, one a row group: of several at once pyarrow can't read nested dictionaries."""
    file = pq.ParquetFile(source, metadata=metadata, read_dictionary=sorted(coded))
    groups = [file.read_row_group(number, columns=columns, use_threads=False) for number in range(file.num_row_groups)]
    return groups or [file.read(columns=columns, use_threads=False)]


def _conformed(table: pa.Table, catalogue: Catalogue, wanted: Wanted) -> pa.Table:
    """The columns by plain names, in the types that all files share."""
    text = pa.dictionary(pa.int32(), pa.string())
    columns: dict[str, pa.ChunkedArray] = {
        "event_id": table["event_id"].cast(pa.string()),
        "event_type": table["event_type"].cast(text),
        "event_time": table["event_time"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()),
        "user": table["user"].cast(text),
    }
    for name in ("event_id", "event_time", "user"):
        if columns[name].null_count:
            msg = f"{name} is null in {columns[name].null_count} rows, must be given"
            raise ValueError(msg)
    held = {}
    if "attributes" in table.column_names:
        struct = table["attributes"].combine_chunks()
        held = dict(zip([field.name for field in struct.type], struct.flatten(), strict=True))
    for name in wanted.attributes:
        kind = text if catalogue.attributes[name].kind == "category" else pa.float64()
        columns[f"attributes.{name}"] = pa.chunked_array([_of_kind(held.get(name), kind, len(table))])
    if wanted.received:
        columns["received_at"] = table["received_at"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
    if wanted.sealed:
        columns["sealed"] = _sealed_in(table)
    return pa.table(columns)


def _sealed_in(table: pa.Table) -> pa.ChunkedArray:
    """The sealed id of each event's profile, as text, for bytes have no dictionary here; empty where there is none."""
    if not set(_SEALED) <= set(table.column_names):  # an archive of version 0.1.0
        return pa.chunked_array([_coded(np.zeros(len(table), np.int32), [""])])
    of_user, of_device = (categories_of(_one(table[name])) for name in _SEALED)
    codes = np.where(table["user_id"].is_valid().to_numpy(), of_user.codes, of_device.codes + len(of_user.values))
    nowhere = codes == np.where(table["user_id"].is_valid().to_numpy(), -1, len(of_user.values) - 1)
    held: list[Any] = [*of_user.values, *of_device.values]
    values = [value.decode("latin-1") for value in held]
    return pa.chunked_array([_coded(np.where(nowhere, len(values), codes).astype(np.int32), [*values, ""])])


def _coded(codes: NDArray[np.int32], values: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string()))


def _one(column: pa.ChunkedArray) -> pa.DictionaryArray:
    array = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array = array.unify_dictionaries().combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _of_kind(array: pa.Array | None, kind: pa.DataType, rows: int) -> pa.Array:
    """The column as this kind; nulls where there is none, or one of another kind: a text "12" is no number."""
    if array is None or not (pa.types.is_floating(array.type) if kind == pa.float64() else _is_text(array.type)):
        return pa.nulls(rows, kind)
    return array.cast(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind.value_type if pa.types.is_dictionary(kind) else kind))


def _columns_of(tables: Sequence[pa.Table], catalogue: Catalogue, wanted: Wanted) -> EventColumns:
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    one = {name: table[name].chunk(0) if table[name].num_chunks else table.schema.field(name).type for name in table.column_names}
    if not len(table):
        one = {name: pa.array([], table.schema.field(name).type) for name in table.column_names}
    attributes: dict[str, Any] = {}
    for name in wanted.attributes:
        array = one[f"attributes.{name}"]
        if catalogue.attributes[name].kind == "category":
            attributes[name] = categories_of(array)
        else:
            attributes[name] = array.fill_null(np.nan).to_numpy(zero_copy_only=False)
    kinds = categories_of(one["event_type"])
    is_view = np.array([kind == VIEW for kind in kinds.values] + [False])
    return EventColumns(
        one["event_id"],
        hashes_of(one["event_id"]),
        one["event_time"].to_numpy(),
        one["user"],
        is_view[kinds.codes],
        attributes,
        one["received_at"].fill_null(-1).to_numpy(zero_copy_only=False) if wanted.received else None,
        categories_of(one["sealed"]) if wanted.sealed else None,
    )


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _hashes(data, places):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """FNV-1a of each text, its bits mixed once more (the finalizer of MurmurHash3)."""
    out = np.empty(len(places) - 1, np.uint64)
    for i in range(len(out)):
        h = np.uint64(0xCBF29CE484222325)
        for place in range(places[i], places[i + 1]):
            h = (h ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
        h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
        out[i] = h ^ (h >> np.uint64(33))
    return out
