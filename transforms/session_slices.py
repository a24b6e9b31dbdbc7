"""The archive's events as sessions need them: read in columns, without copies, with a user's history, cut by user or session."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from schemas.errors import ConfigError
from transforms.event_columns import hashes_of
from transforms.known_ids import look_up
from transforms.known_people import KnownPeople
from transforms.session_rows import CLICK, IMPRESSION, VIEW, SessionEvent

EVENTS: Final = pa.schema(
    [
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("event_time", pa.int64()),
        ("user", pa.string()),
        ("session_id", pa.string()),
        ("listing_id", pa.string()),
        ("experiment", pa.string()),
    ]
)
_PLAIN: Final = CompressionTypes.UNCOMPRESSED
_REQUIRED: Final = ("event_id", "event_type", "event_time", "user")
_AT_A_TIME: Final = 20_000
_TELLING: Final = pa.array([IMPRESSION, CLICK])


def read_session_events(paths: Sequence[str]) -> pa.Table:
    """The rows of some archive files that have a session, or are impressions or clicks; ``ConfigError`` names a broken file."""
    return pa.concat_tables([EVENTS.empty_table(), *map(_read, paths)]).combine_chunks()


def of_people(events: pa.Table, known: KnownPeople) -> pa.Table:
    """The events as people's: without those that are forgotten, and the views that don't count.

    What else the gateway did with who has opted out stays. An id that is linked but nobody's stands for itself.
    """
    users = events["user"].combine_chunks().dictionary_encode()
    ids, codes, times = (
        look_up(known.whose, known.graves, users.dictionary),
        users.indices.to_numpy(),
        events["event_time"].to_numpy(),
    )
    views = pc.equal(events["event_type"], VIEW).to_numpy()
    counting = (times > ids.forgotten[codes]) & ~(views & (times < ids.starts[codes]))
    whose = ids.persons.take(users.indices).cast(pa.string())
    return events.set_column(EVENTS.get_field_index("user"), EVENTS.field("user"), whose).filter(pa.array(counting))


def without_copies(events: pa.Table) -> pa.Table:
    """The events with each id of a user once: of its copies the one with the smallest time, of those the smallest in all the rest.

    It is the same row whatever the order. Attributes aren't looked at. No order is promised.
    """
    ids = _codes(events["event_id"])
    if len(events) == 0 or int(ids.max()) + 1 == len(events):
        return events
    repeated = np.bincount(ids)[ids] > 1
    suspects = events.filter(pa.array(repeated))
    keys = ["user", "event_id", "event_time", "event_type", "session_id", "listing_id", "experiment"]
    suspects = suspects.sort_by([(key, "ascending") for key in keys])
    users, again = _codes(suspects["user"]), _codes(suspects["event_id"])
    first = (np.diff(users, prepend=-1) != 0) | (np.diff(again, prepend=-1) != 0)
    return pa.concat_tables([events.filter(pa.array(~repeated)), suspects.filter(pa.array(first))])


def with_history(events: pa.Table, start: int) -> pa.Table:
    """The events with ``pre``: the user's mean number of distinct listings viewed a session, before ``start`` (ms UTC).

    Over the sessions that the user began before; what was viewed in them later isn't history. Null where there are none. All events
    of a user must be there.
    """
    users = _codes(events["user"])
    sessions, times = _codes(events["session_id"]), events["event_time"].to_numpy()
    before = (times < start) & (sessions >= 0)
    viewed = before & pc.equal(events["event_type"], VIEW).to_numpy() & events["listing_id"].is_valid().to_numpy()
    pairs = users * (sessions.max(initial=0) + 1) + sessions
    listings = _codes(events["listing_id"])
    triples = pairs * (listings.max(initial=0) + 1) + listings
    places = int(users.max(initial=-1)) + 1
    held = _distinct_by(users[before], pairs[before], places)
    seen = _distinct_by(users[viewed], triples[viewed], places)
    with np.errstate(invalid="ignore"):
        means = np.where(held > 0, seen / held, np.nan)
    return events.append_column("pre", pa.array(means[users], from_pandas=True))


def cut_by(events: pa.Table, column: str, shards: int) -> Iterator[tuple[int, pa.Table]]:
    """(shard, its events) of every shard that has any, by hash of a column without nulls."""
    places = hashes_of(events[column].combine_chunks()) % np.uint64(shards) if len(events) else np.zeros(0, np.uint64)
    order = np.argsort(places, kind="stable")
    edges = np.searchsorted(places[order], np.arange(shards + 1, dtype=np.uint64))
    ordered = events.take(pa.array(order)).combine_chunks()
    for number, (first, last) in enumerate(itertools.pairwise(edges.tolist())):
        if last > first:
            yield number, ordered.slice(first, last - first)


def sessions_in(events: pa.Table, kinds: Sequence[str] = (IMPRESSION,)) -> Iterator[tuple[str, list[SessionEvent]]]:
    """The sessions that have an event of one of the kinds, with all their events; none of these is without a session."""
    codes = _codes(events["session_id"])
    there = np.zeros(int(codes.max(initial=-1)) + 1, np.bool_)
    there[codes[pc.is_in(events["event_type"], pa.array(kinds)).to_numpy()]] = True
    kept = np.flatnonzero(there[codes])
    events = events.take(pa.array(kept[np.argsort(codes[kept], kind="stable")]))
    names = ("session_id", "event_id", "event_type", "event_time", "user", "listing_id", "experiment", "pre")
    for session, group in itertools.groupby(_rows_of(events, names), lambda row: row[0]):
        yield session, [SessionEvent(*row[1:]) for row in group]


def texts_of(events: pa.Table, kind: str) -> Iterable[tuple[int, int, str | None, str | None]]:
    """(place, time, session, experiment) of the events of a kind."""
    places = np.flatnonzero(pc.equal(events["event_type"], kind).to_numpy())
    found = events.select(["event_time", "session_id", "experiment"]).take(pa.array(places))
    rows = _rows_of(found, ("event_time", "session_id", "experiment"))
    return ((place, *row) for place, row in zip(places.tolist(), rows, strict=True))


def _rows_of(events: pa.Table, names: Sequence[str]) -> Iterator[Any]:
    """The rows as tuples, some at a time: as Python objects they take several times what they take in columns."""
    for batch in events.select(names).to_batches(max_chunksize=_AT_A_TIME):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _read(path: str) -> pa.Table:
    try:
        source: Any = path if os.path.exists(path) else pa.PythonFile(FileSystems.open(path, compression_type=_PLAIN), mode="r")
        table = pq.read_table(source, columns=EVENTS.names, partitioning=None)
        instants = table["event_time"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64())
        table = table.set_column(table.column_names.index("event_time"), "event_time", instants).select(EVENTS.names).cast(EVENTS)
        for name in _REQUIRED:
            if table[name].null_count:
                msg = f"{name} is null in {table[name].null_count} rows, must be given"
                raise ValueError(msg)
    except Exception as error:  # pyarrow, and FileSystems, raise whatever they find
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        msg = f"archive file == {path}, must be readable Parquet that forecourt archive wrote: {reason}"
        raise ConfigError(msg) from error
    telling = pc.is_in(table["event_type"], _TELLING)
    texts = pc.if_else(telling, table["experiment"], pa.scalar(None, pa.string()))
    table = table.set_column(EVENTS.get_field_index("experiment"), "experiment", texts)
    return table.filter(pc.or_(table["session_id"].is_valid(), telling))


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A small whole number for each distinct text, -1 for null."""
    indices = column.combine_chunks().dictionary_encode().indices
    return np.asarray(indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _distinct_by(users: NDArray[np.int64], keys: NDArray[np.int64], places: int) -> NDArray[np.int64]:
    """How many distinct keys each user has; a key has one user."""
    _, first = np.unique(keys, return_index=True)
    return np.bincount(users[first], minlength=places)
