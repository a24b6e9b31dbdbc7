"""Shards: the archive's events, in columns, brought together by user. Memory is bounded by a shard, not by the archive.

An item of work is some files of one date, read at once. Its events are cut into a slice a shard, by hash of the user. Where the
runner has a shuffle service (Dataflow) the slices themselves travel; on one machine they lie in a file of the item's, and only
their places travel.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numba
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from schemas.catalogue import AttributeValue
from schemas.view import pack_attributes
from transforms.archive_files import parts_of
from transforms.conditions import Categories, bits_of
from transforms.event_columns import EventColumns, hashes_of
from transforms.kernel import MAX_VIEWS

ITEM_BYTES: Final = 16 << 20  # of Parquet: some 400,000 events
SHARD_BYTES: Final = 24 << 20
WORK: Final = "work"  # a counter: bytes of items that were read, and their share of shards that were evaluated
_BITS: Final = "bits"


class Item(NamedTuple):
    """Some files of one date and their size in bytes."""

    date: str
    paths: tuple[str, ...]
    size: int


class Place(NamedTuple):
    """Where a slice lies: ``length`` bytes of a file from ``offset`` on."""

    path: str
    offset: int
    length: int


class Shard(NamedTuple):
    """All events of some users, copies left out, in order of user, time and event id.

    ``offsets[u]:offsets[u + 1]`` are those of user ``users[u]``. ``bits`` are matches, uint64[n, words]; ``packed`` attributes and
    ``linked`` (whether the event links two ids) only where asked for.
    """

    users: Sequence[str]
    offsets: NDArray[np.int64]
    ids: pa.Array
    times: NDArray[np.int64]
    views: NDArray[np.bool_]
    bits: NDArray[np.uint64]
    packed: Categories | None
    linked: NDArray[np.bool_] | None


def items_of(archive: str, dates: Iterable[str]) -> list[Item]:
    """The work that the dates of an archive are, in order of date."""
    items: list[Item] = []
    for date in dates:
        paths: list[str] = []
        size = 0
        for path, length in _sizes_of(parts_of(archive, [date])):
            paths.append(path)
            size += length
            if size >= ITEM_BYTES:
                items.append(Item(date, tuple(paths), size))
                paths, size = [], 0
        if paths:
            items.append(Item(date, tuple(paths), size))
    return items


def shards_for(items: Sequence[Item], workers: int) -> int:
    """How many shards to cut the items into: none larger than fits, at least two a worker."""
    return max(2 * workers, -(-sum(item.size for item in items) // SHARD_BYTES))


def slices_of(events: EventColumns, conditions: Sequence[Any], shards: int, *, packed: bool) -> Iterator[tuple[int, pa.Table]]:
    """(shard, its events) of every shard that has any; ``packed``: with their attributes and links."""
    shard_of_user = (hashes_of(events.users.dictionary) % np.uint64(shards)).astype(np.int16 if shards < 1 << 15 else np.int64)
    users = events.users.indices.to_numpy()
    order = np.argsort(shard_of_user[users], kind="stable")
    edges = np.searchsorted(shard_of_user[users][order], np.arange(shards + 1))
    bits = bits_of(conditions, events.attributes, len(events))
    columns = {
        "id": events.ids,
        "hash": pa.array(events.hashes),
        "time": pa.array(events.times),
        "view": pa.array(events.views),
        **{f"{_BITS}{word}": pa.array(bits[:, word]) for word in range(bits.shape[1])},
    }
    coded = {"user": (users, events.users.dictionary)}
    if packed:
        attributes = packed_of(events)
        columns["linked"] = pa.array(events.linked)
        coded["packed"] = (attributes.codes, pa.array(attributes.values, pa.string()))
    table = pa.table(columns)
    for number in range(shards):
        rows = order[edges[number] : edges[number + 1]]
        if len(rows):
            part = table.take(rows)
            for name, (codes, values) in coded.items():  # with the values that the slice has alone: a slice is to be small
                used = np.zeros(len(values), np.bool_)
                used[codes[rows]] = True
                places = (np.cumsum(used, dtype=np.int32) - 1)[codes[rows]]
                part = part.append_column(name, pa.DictionaryArray.from_arrays(places, values.filter(pa.array(used))))
            yield number, part


def packed_of(events: EventColumns) -> Categories:
    """The packed attributes of the events, each distinct value once (as latin-1 text, for bytes have no dictionary here)."""
    codes = np.zeros(len(events), np.int64)
    names = sorted(events.attributes)
    for name in names:
        column = events.attributes[name]
        part = column.codes if isinstance(column, Categories) else _ranked(column.view(np.int64))
        codes = _ranked(codes * (int(part.max(initial=0)) + 2) + part + 1)
    first = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    values = [pack_attributes(_attributes_at(events, names, place)).decode("latin-1") for place in first.tolist()]
    return Categories(codes.astype(np.int32), values)


def _ranked(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """A small whole number for each distinct one."""
    return np.asarray(pa.array(numbers).dictionary_encode().indices.to_numpy(), np.int64)


def shard_of(slices: Iterable[pa.Table]) -> Shard:
    """The events of slices, each once, in order. Of copies the earliest counts, then the one with the smallest attributes."""
    table = pa.concat_tables(slices).unify_dictionaries().combine_chunks()
    users = _categories(table["user"])
    ids, times = table["id"].chunk(0), table["time"].to_numpy()
    hashes, views = table["hash"].to_numpy(), table["view"].to_numpy()
    words = [table[name].to_numpy() for name in table.column_names if name.startswith(_BITS)]
    packed = _categories(table["packed"]) if "packed" in table.column_names else None
    ranks = [np.argsort(np.argsort(packed.values))[packed.codes]] if packed is not None and len(packed.values) else words
    kept = _without_copies(ids, hashes, users.codes, times, views, ranks)
    codes, times = users.codes[kept], times[kept]
    order = kept[_in_order(codes, times, ids, kept)]
    codes = users.codes[order]
    present = np.flatnonzero(np.bincount(codes, minlength=len(users.values)))
    return Shard(
        [users.values[code] for code in present.tolist()],
        np.append(np.searchsorted(codes, present), len(codes)).astype(np.int64),
        ids.take(pa.array(order)),
        table["time"].to_numpy()[order],
        views[order],
        np.stack([word[order] for word in words], axis=1) if words else np.zeros((len(order), 0), np.uint64),
        None if packed is None else Categories(packed.codes[order], packed.values),
        table["linked"].to_numpy()[order] if "linked" in table.column_names else None,
    )


class SliceFile:
    """Slices one after the other in a file; ``None`` for a folder keeps them in memory, to travel themselves."""

    def __init__(self, folder: str | None) -> None:
        self._path = None if folder is None else os.path.join(folder, f"{secrets.token_hex(8)}.slices")
        self._offset = 0

    def add(self, table: pa.Table) -> Place | bytes:
        """Keep a slice; where it is."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        if self._path is None:
            return bytes(data)
        with open(self._path, "ab") as file:
            file.write(data)
        place = Place(self._path, self._offset, len(data))
        self._offset += len(data)
        return place


def slice_at(place: Place | bytes) -> pa.Table:
    """The slice that ``SliceFile.add`` kept."""
    if isinstance(place, bytes):
        return pa.ipc.open_stream(place).read_all()
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        return pa.ipc.open_stream(file.read(place.length)).read_all()


def _sizes_of(paths: Sequence[str]) -> list[tuple[str, int]]:
    found = (
        {file.path: file.size_in_bytes for match in FileSystems.match(list(paths)) for file in match.metadata_list} if paths else {}
    )
    return sorted(found.items())


def _categories(column: pa.ChunkedArray) -> Categories:
    array = column.chunk(0)
    return Categories(array.indices.to_numpy(), array.dictionary.to_pylist())


def _attributes_at(events: EventColumns, names: Sequence[str], place: int) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {}
    for name in names:
        column = events.attributes[name]
        if isinstance(column, Categories):
            if column.codes[place] >= 0:
                found[name] = column.values[column.codes[place]]
        elif not np.isnan(column[place]):
            found[name] = float(column[place])
    return found


def _without_copies(
    ids: pa.Array,
    hashes: NDArray[np.uint64],
    users: NDArray[np.int32],
    times: NDArray[np.int64],
    views: NDArray[np.bool_],
    ranks: Sequence[NDArray[Any]],
) -> NDArray[np.int64]:
    """The places of events that count: of a user's copies of an id the earliest, then a view, then the smallest ranks."""
    keys = hashes ^ (users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    suspects = np.flatnonzero(_seen_twice(keys))
    if not len(suspects):
        return np.arange(len(keys))
    exact = ids.take(pa.array(suspects)).dictionary_encode().indices.to_numpy()
    ranked = [rank[suspects] for rank in reversed(ranks)]
    best = np.lexsort((*ranked, ~views[suspects], times[suspects], exact, users[suspects]))
    same = (np.diff(exact[best]) == 0) & (np.diff(users[suspects][best]) == 0)
    counts = np.ones(len(keys), np.bool_)
    counts[suspects[best[1:][same]]] = False
    return np.flatnonzero(counts)


def _in_order(users: NDArray[np.int32], times: NDArray[np.int64], ids: pa.Array, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order by user and time; by event id too where that can matter, among the views of a user who has more than count."""
    if not len(times):
        return np.zeros(0, np.int64)
    order: NDArray[np.int64] = _by_user_and_time(users, times)
    keys, ordered = users[order], times[order]
    equal = (np.diff(keys) == 0) & (np.diff(ordered) == 0)
    tied = np.append(False, equal) | np.append(equal, False)
    tied &= (np.bincount(users) > MAX_VIEWS)[keys]
    if tied.any():
        places = np.flatnonzero(tied)
        texts = ids.take(pa.array(kept[order[places]])).dictionary_encode()
        rank = np.argsort(np.argsort(np.array([text.encode() for text in texts.dictionary.to_pylist()], object)))
        order[places] = order[places][np.lexsort((rank[texts.indices.to_numpy()], ordered[places], keys[places]))]
    return order


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _seen_twice(keys):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Which keys stand in the array more than once, by a hash table of open addresses; keys are well mixed."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    table = np.full(size, -1, np.int32)
    twice = np.zeros(len(keys), np.bool_)
    mask = np.uint64(size - 1)
    for i in range(len(keys)):
        slot = keys[i] & mask
        while table[slot] >= 0 and keys[table[slot]] != keys[i]:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] < 0:
            table[slot] = i
        else:
            twice[i] = twice[table[slot]] = True
    return twice


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _by_user_and_time(users, times):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The stable order by user, then by time: a counting sort, then insertion, for a user's events mostly come in order."""
    starts = np.zeros(np.max(users) + 2, np.int64)
    for user in users:
        starts[user + 1] += 1
    starts = np.cumsum(starts)
    order = np.empty(len(users), np.int64)
    places = starts.copy()
    for i in range(len(users)):
        order[places[users[i]]] = i
        places[users[i]] += 1
    for user in range(len(starts) - 1):
        first, last = starts[user], starts[user + 1]
        falls = 0
        for k in range(first + 1, last):
            falls += times[order[k]] < times[order[k - 1]]
        if falls * (last - first) > 64 * (last - first) + 4096:  # too many for insertion
            order[first:last] = order[first:last][np.argsort(times[order[first:last]], kind="mergesort")]
        elif falls:
            for k in range(first + 1, last):
                moved, at = order[k], k
                while at > first and times[order[at - 1]] > times[moved]:
                    order[at] = order[at - 1]
                    at -= 1
                order[at] = moved
    return order


@dataclasses.dataclass(eq=False)
class ShardByUser(beam.PTransform):  # type: ignore[misc]
    """(shard, slice of it) of every item → (shard, all its slices)."""

    def expand(self, slices: beam.PCollection[tuple[int, Any]]) -> beam.PCollection[tuple[int, Iterable[Any]]]:
        """Group by shard."""
        return slices | "Together" >> beam.GroupByKey()
