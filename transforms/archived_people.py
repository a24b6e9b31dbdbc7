"""The people of an archive, for batch jobs: found by a step before all others, left in files, looked up by the steps that follow.

Links and consents are those before an instant. What was undone or forgotten counts whenever it was.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from schemas.ledger import TOMBSTONE, UNLINK
from schemas.pseudonym import KeyRing, opened, pseudonym_of, version_of
from serving.keys import load_ring
from serving.store import open_store
from transforms.arrow_stream import stream_of, table_in
from transforms.conditions import Categories
from transforms.event_columns import EventColumns, hashes_of, keyed_by, those
from transforms.evidence import NAMES, Asked, read_evidence
from transforms.known_ids import look_up
from transforms.known_people import NOBODY_KNOWN, SAID, KnownPeople, bury, gathered, people_of
from transforms.ledger import read_ledger
from transforms.slices import Item, SliceFile, slice_at
from transforms.stopping import go_on

COUNTS: Final = "counts"
PATH: Final = "path"
_GRAVES: Final = pa.schema([("digest", pa.binary()), ("time", pa.int64())])
_PLAIN: Final = CompressionTypes.UNCOMPRESSED


@dataclasses.dataclass(frozen=True)
class Register:
    """Whom to find: the people of an archive before ``end`` (ms UTC), left in a ``folder``.

    ``spill`` as a night's. With ``shards``, also what rows must say, cut by person; with a ``store``, its
    tombstones count too. ``key_from`` names the store whose keys tell which pseudonyms are of one id, ``version`` that of the one
    that writes, see ``load_ring``; ``None`` where there is but one.
    """

    archive: str
    end: int
    folder: str
    spill: str | None
    shards: int = 0
    store: str | None = None
    key_from: str | None = None
    version: int | None = None


def names_of(sealed: pa.Table, ring: KeyRing) -> dict[str, str]:
    """Pseudonyms by keys other than the one that writes, each with its id's by that one.

    A sealed id counts only where it is that pseudonym's.
    """
    keys, names = {key.version: key for key in ring.keys}, {}
    for name, text in zip(sealed["id"].to_pylist(), sealed["sealed"].to_pylist(), strict=True):
        raw = opened(ring, text) if version_of(name) in keys else None
        if raw is not None and pseudonym_of(keys[version_of(name)], raw) == name:
            names[name] = pseudonym_of(ring.current, raw)
    return names


def entries_of(register: Register) -> tuple[pa.Table, dict[bytes, int]]:
    """What the ledger says that counts, and the instants of tombstones by digest."""
    ledger = read_ledger(register.archive)
    counts = pc.or_(pc.is_in(ledger["kind"], pa.array([UNLINK, TOMBSTONE])), pc.less(ledger["time"], register.end))
    graves: dict[bytes, int] = {}
    if register.store is not None:
        store = open_store(register.store)
        try:
            for tombstone in store.tombstones():
                bury(graves, tombstone.digest, tombstone.time)
        finally:
            store.close()
    return ledger.filter(counts), graves


def of_people(events: EventColumns, known: KnownPeople) -> EventColumns:
    """The events as people's: without those that are forgotten, and the views that don't count."""
    ids, codes = look_up(known.whose, known.graves, events.users.dictionary), events.users.indices.to_numpy()
    counting = (events.times > ids.forgotten[codes]) & ~(events.views & (events.times < ids.starts[codes]))
    persons = ids.persons.dictionary_encode()
    rows = pc.if_else(pc.equal(ids.rows, ids.persons), "", ids.rows).dictionary_encode()
    users = pa.DictionaryArray.from_arrays(persons.indices.take(events.users.indices), persons.dictionary)
    places = rows.indices.to_numpy().astype(np.int32)[codes] if len(codes) else np.zeros(0, np.int32)
    return those(keyed_by(events, users, Categories(places, rows.dictionary.to_pylist())), counting)


@functools.lru_cache(2)
def known_at(path: str) -> KnownPeople:
    """The people that ``KnowPeople`` left there; read once a process, a local file where it lies. ``""``: nobody is known."""
    if not path:
        return NOBODY_KNOWN
    graves = _read(f"{path}-graves.arrow")
    times = dict(zip(graves["digest"].to_pylist(), graves["time"].to_pylist(), strict=True))
    return NOBODY_KNOWN._replace(whose=_read(f"{path}-whose.arrow").combine_chunks(), graves=times)


def said_at(path: str, shard: int) -> pa.Table:
    """What the rows of a shard's people must say, by person."""
    return _read(_said_path(path, shard)) if path else SAID.empty_table()


def leave(known: KnownPeople, register: Register) -> str:
    """Leave the people in files; what to ask ``known_at`` and ``said_at`` for."""
    path: str = FileSystems.join(register.folder, f"people-{secrets.token_hex(8)}")
    _write(f"{path}-whose.arrow", known.whose)
    graves = {"digest": list(known.graves), "time": list(known.graves.values())}
    _write(f"{path}-graves.arrow", pa.table(graves, schema=_GRAVES))
    if register.shards:
        shards = hashes_of(known.said["person"].combine_chunks()) % np.uint64(register.shards)
        for shard in range(register.shards):
            _write(_said_path(path, shard), known.said.filter(pa.array(shards == shard)).sort_by("person"))
    return path


@dataclasses.dataclass(eq=False)
class KnowPeople(beam.PTransform):  # type: ignore[misc]
    """Items of all dates → ``path``: where the people were left, and ``counts`` of them; one of each."""

    register: Register

    def expand(self, items: beam.PCollection[Item]) -> Any:
        """Apply to all items."""
        return (
            items
            | "FindEvidence" >> beam.ParDo(_FindEvidence(self.register)).with_output_types(tuple[int, Any])
            | "Together" >> beam.GroupByKey()
            | "PutTogether"
            >> beam.ParDo(_PutTogether(self.register)).with_output_types(str, counts=Any).with_outputs(COUNTS, main=PATH)
        )


class _Found(NamedTuple):
    said: Any
    names: Any


class _FindEvidence(beam.DoFn):  # type: ignore[misc]
    def __init__(self, register: Register) -> None:
        self._spill = register.spill
        self._asked = Asked(register.end, bool(register.shards), register.version)

    def process(self, item: Item) -> Iterator[tuple[int, _Found]]:
        go_on()
        found, slices = read_evidence(item.paths, self._asked), SliceFile(self._spill)
        yield 0, _Found(slices.add(found.said), slices.add(found.names))


class _PutTogether(beam.DoFn):  # type: ignore[misc]
    def __init__(self, register: Register) -> None:
        self._register = register

    def process(self, parts: tuple[int, Iterable[_Found]]) -> Iterator[Any]:
        ledger, graves = entries_of(self._register)
        found = list(parts[1])
        entries = gathered(_in_turn(ledger, found), graves)
        known = people_of(entries, graves, _names(self._register, found))
        yield leave(known, self._register)
        yield beam.pvalue.TaggedOutput(COUNTS, dict(known.counts))


def _in_turn(ledger: pa.Table, found: Iterable[_Found]) -> Iterator[pa.Table]:
    yield ledger
    for part in found:
        go_on()
        yield slice_at(part.said)


def _names(register: Register, found: Iterable[_Found]) -> Mapping[str, str]:
    if register.key_from is None:
        return {}
    sealed = pa.concat_tables([NAMES.empty_table(), *(slice_at(part.names) for part in found)])
    return names_of(sealed, load_ring(register.key_from))


def _said_path(path: str, shard: int) -> str:
    return f"{path}-said-{shard:05}.arrow"


def _write(path: str, table: pa.Table) -> None:
    with FileSystems.create(path, compression_type=_PLAIN) as file:
        file.write(stream_of(table))


def _read(path: str) -> pa.Table:
    if os.path.exists(path):
        with pa.memory_map(path) as source:
            return pa.ipc.open_stream(source).read_all()
    with FileSystems.open(path, compression_type=_PLAIN) as file:
        return table_in(file.read())
