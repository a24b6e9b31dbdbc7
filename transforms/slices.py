"""Slices: the archive's events, in columns, cut up by user. Memory is bounded by what a shard's slices hold, not by the archive.

An item of work is some files of one date, read at once. Its events are cut into a slice a shard, by hash of the user. Where the
runner has a shuffle service (Dataflow) the slices themselves travel; on one machine they lie in a file of the item's, and only
their places travel.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from schemas.catalogue import AttributeValue
from schemas.rules import Condition
from schemas.view import pack_attributes
from transforms.archive_files import parts_of
from transforms.arrow_stream import stream_of, table_in
from transforms.conditions import Categories, bits_of
from transforms.event_columns import EventColumns, hashes_of

ITEM_BYTES: Final = 16 << 20  # of Parquet: some 400,000 events
SHARD_BYTES: Final = 24 << 20
WORK: Final = "work"  # a counter: bytes of items that were read, and their share of shards that were evaluated
BITS: Final = "bits"  # and a number: the columns of matches


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


def is_of(item: Item, dates: frozenset[str]) -> bool:
    """Whether an item is of one of the dates."""
    return item.date in dates


def shards_for(items: Sequence[Item], workers: int) -> int:
    """How many shards to cut the items into: none larger than fits, at least two a worker."""
    return max(2 * workers, -(-sum(item.size for item in items) // SHARD_BYTES))


def slices_of(
    events: EventColumns, conditions: Sequence[Condition], shards: int, *, packed: bool
) -> Iterator[tuple[int, pa.Table]]:
    """(shard, its events) of every shard that has any; ``packed``: with their attributes, and the rows they lie in."""
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
        **{f"{BITS}{word}": pa.array(bits[:, word]) for word in range(bits.shape[1])},
    }
    coded = {"user": (users, events.users.dictionary)}
    if packed:
        plain = Categories(np.zeros(len(events), np.int32), [""])
        for name, column in (("packed", packed_of(events)), ("row", events.rows or plain), ("sealed", events.sealed or plain)):
            coded[name] = (column.codes, pa.array(column.values, pa.string()))
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


class SliceFile:
    """Slices one after the other in a file; ``None`` for a folder keeps them in memory, to travel themselves."""

    def __init__(self, folder: str | None) -> None:
        self._path = None if folder is None else os.path.join(folder, f"{secrets.token_hex(8)}.slices")
        self._offset = 0

    def add(self, table: pa.Table) -> Place | bytes:
        """Keep a slice; where it is."""
        data = stream_of(table)
        if self._path is None:
            return data
        with open(self._path, "ab") as file:
            file.write(data)
        place = Place(self._path, self._offset, len(data))
        self._offset += len(data)
        return place


def slice_at(place: Place | bytes) -> pa.Table:
    """The slice that ``SliceFile.add`` kept."""
    if isinstance(place, bytes):
        return table_in(place)
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        return table_in(file.read(place.length))


def _sizes_of(paths: Sequence[str]) -> list[tuple[str, int]]:
    found = (
        {file.path: file.size_in_bytes for match in FileSystems.match(list(paths)) for file in match.metadata_list} if paths else {}
    )
    return sorted(found.items())


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
