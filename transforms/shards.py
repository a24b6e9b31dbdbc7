"""Shards: the events of slices as one, copies left out and in order, ready for the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from transforms.conditions import Categories
from transforms.kernel import MAX_VIEWS
from transforms.slices import BITS


class Shard(NamedTuple):
    """All events of some users, copies left out, in order of user, time and event id.

    ``offsets[u]:offsets[u + 1]`` are those of user ``users[u]``. ``bits`` are matches, uint64[n, words]. ``packed`` attributes, and
    the ``rows`` they lie in and ``sealed`` ids of these (as ``EventColumns`` has both), only where they came with the slices.
    """

    users: Sequence[str]
    offsets: NDArray[np.int64]
    ids: pa.Array
    times: NDArray[np.int64]
    views: NDArray[np.bool_]
    bits: NDArray[np.uint64]
    packed: Categories | None
    rows: Categories | None
    sealed: Categories | None


def shard_of(slices: Iterable[pa.Table]) -> Shard:
    """The events of slices, each once, in order. Of copies the earliest counts, then the one with the smallest attributes."""
    table = pa.concat_tables(slices).unify_dictionaries().combine_chunks()
    users = _categories(table["user"])
    ids, times = table["id"].chunk(0), table["time"].to_numpy()
    hashes, views = table["hash"].to_numpy(), table["view"].to_numpy()
    words = [table[name].to_numpy() for name in table.column_names if name.startswith(BITS)]
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
        *(_in_places(table, name, order) for name in ("row", "sealed")),
    )


def no_events(conditions: int) -> Shard:
    """A shard of nobody; ``conditions``: of how many there would be matches."""
    nothing, words = np.zeros(0, np.int64), np.zeros((0, -(-conditions // 64)), np.uint64)
    texts = Categories(np.zeros(0, np.int32), [])
    return Shard([], np.zeros(1, np.int64), pa.array([], pa.string()), nothing, np.zeros(0, np.bool_), words, texts, texts, texts)


def _in_places(table: pa.Table, name: str, places: NDArray[np.int64]) -> Categories | None:
    if name not in table.column_names:
        return None
    column = _categories(table[name])
    return Categories(column.codes[places], column.values)


def _categories(column: pa.ChunkedArray) -> Categories:
    array = column.chunk(0)
    return Categories(array.indices.to_numpy(), array.dictionary.to_pylist())


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
