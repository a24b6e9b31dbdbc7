"""What batch knows of people (SEMANTICS §6-7): of whom each id is, since when their views count, and who is forgotten. In columns.

The links, consents and tombstones of an archive and its ledger, put together, come to what the rows of a store come to
(``transforms.people``); so nothing here depends on an order either. Memory is bounded by who is linked to whom, not by events.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.identity import EVIDENCE_DAYS, FOR_EVER, MAX_LINKS, NEVER, Said, Voice, counting_from, digest_of
from schemas.instants import DAY_MS
from schemas.ledger import LINK, OPT_IN, OPT_OUT, TOMBSTONE, UNLINK
from transforms.event_columns import hashes_of
from transforms.evidence import EVIDENCE
from transforms.known_ids import WHOSE
from transforms.ledger import void_until

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

GATHERED_ROWS: Final = 1 << 20  # of evidence, before what says nothing is left out
SAID: Final = pa.schema([("person", pa.string()), ("start", pa.int64()), ("theirs", pa.bool_()), *EVIDENCE])


class KnownPeople(NamedTuple):
    """Of whom ids are that aren't their own person's, or whose views don't all count; ``whose`` in order of hash, see ``WHOSE``.

    ``start``: from when on views count, ms UTC, ``FOR_EVER`` for none; ``forgotten``: until when nothing does. ``graves`` are the
    instants of tombstones by digest. ``said`` is what rows must say (``SAID``), by person, ``theirs`` where a link says whose an id
    is. ``counts`` are ids with an owner, ids with evidence for another too, and persons who have opted out.
    """

    whose: pa.Table
    graves: Mapping[bytes, int]
    said: pa.Table
    counts: Mapping[str, int]


NOBODY_KNOWN: Final = KnownPeople(WHOSE.empty_table(), {}, SAID.empty_table(), {"links": 0, "conflicts": 0, "opted_out": 0})


def gathered(parts: Iterable[pa.Table], graves: dict[bytes, int]) -> pa.Table:
    """Entries of ledgers as one table without what says nothing; tombstones go into ``graves``, instants (ms UTC) by digest.

    The first part must have what undoes links.
    """
    kept, waiting = EVIDENCE.empty_table(), 0
    pending: list[pa.Table] = []
    for part in parts:
        part = part.select(EVIDENCE.names).cast(EVIDENCE)
        is_grave = pc.equal(part["kind"].cast(pa.string()), TOMBSTONE)
        buried = part.filter(is_grave)
        for digest, time in zip(buried["key"].to_pylist(), buried["time"].to_pylist(), strict=True):
            bury(graves, bytes.fromhex(digest), time)
        pending.append(part.filter(pc.invert(is_grave)))
        waiting += len(pending[-1])
        if waiting > max(GATHERED_ROWS, len(kept)):
            kept, pending, waiting = _told(pa.concat_tables([kept, *pending]), {}, graves, whole=False).table, [], 0
    return pa.concat_tables([kept, *pending])


def bury(graves: dict[bytes, int], digest: bytes, time: int) -> None:
    """Add a tombstone: of several the newest stays."""
    graves[digest] = max(time, graves.get(digest, NEVER))


def people_of(table: pa.Table, graves: dict[bytes, int], names: Mapping[str, str]) -> KnownPeople:
    """What ``gathered`` entries come to. ``names`` are pseudonyms of other key versions, and the ones to take them for.

    Adds to ``graves`` those who were linked to somebody forgotten.
    """
    told = _counted(_told(table, names, graves))
    links = told.is_kind(LINK)
    owners, since = _owners(told, np.flatnonzero(links))
    places = np.arange(len(told.ids))
    owned = owners >= 0
    theirs = owned & (owners[owners] < 0)
    astray = owned & ~theirs  # linked to one that is linked itself
    persons = np.where(owned & theirs, owners, places)
    starts = _starts(told, persons, astray, np.where(owned, since, NEVER))
    starts_of = np.where(astray, FOR_EVER, starts[persons])
    pairs = np.unique(told.keys[links] * len(told.ids) + told.others[links])
    counts = {
        "links": int((owned & theirs).sum()),
        "conflicts": int((np.bincount(pairs // max(len(told.ids), 1), minlength=1) > 1).sum()),
        "opted_out": int((starts == FOR_EVER).sum()),
    }
    whose = _whose(told, persons, starts_of)
    if names:
        whose = _with_names(whose, names, graves)
    return KnownPeople(whose, graves, _said(told, persons, starts, owners, theirs), counts)


class _Coded(NamedTuple):
    """Entries, with places in ``ids`` for their two; ``forgotten``: until when, by tombstones, by id."""

    table: pa.Table
    ids: pa.Array
    keys: Ints
    others: Ints
    forgotten: Ints

    @property
    def times(self) -> Ints:
        return np.asarray(self.table["time"].to_numpy())

    def is_kind(self, *kinds: str) -> Flags:
        return np.asarray(pc.is_in(self.table["kind"].cast(pa.string()), pa.array(kinds)).to_numpy())

    def take(self, rows: Ints) -> _Coded:
        return self._replace(table=self.table.take(pa.array(rows)), keys=self.keys[rows], others=self.others[rows])


def _coded(table: pa.Table, names: Mapping[str, str], graves: Mapping[bytes, int]) -> _Coded:
    """The entries with places; ids by other keys have the place of the name that they are taken for."""
    table = table.unify_dictionaries().combine_chunks()
    key, other = (_dictionary(table[name]) for name in ("key", "other"))
    texts = pa.concat_arrays([key.dictionary, other.dictionary])
    buried = [graves.get(digest_of(text), NEVER) for text in texts.to_pylist()] if graves else [NEVER] * len(texts)
    if names:
        texts = pa.array([names.get(text, text) for text in texts.to_pylist()], pa.string())
    together = texts.dictionary_encode()
    places = together.indices.to_numpy().astype(np.int64)
    forgotten = np.full(len(together.dictionary), NEVER, np.int64)
    np.maximum.at(forgotten, places, np.array(buried, np.int64))
    keys, others = places[: len(key.dictionary)], places[len(key.dictionary) :]
    return _Coded(table, together.dictionary, keys[key.indices.to_numpy()], others[other.indices.to_numpy()], forgotten)


def _told(table: pa.Table, names: Mapping[str, str], graves: dict[bytes, int], *, whole: bool = True) -> _Coded:
    """The entries that count and say something; who was linked to somebody forgotten gets a tombstone."""
    coded = _coded(table, names, graves)
    keys, others, times, forgotten = coded.keys, coded.others, coded.times, coded.forgotten
    unlinked = np.full(len(coded.ids), NEVER, np.int64)
    undone, links = coded.is_kind(UNLINK), coded.is_kind(LINK)
    np.maximum.at(unlinked, keys[undone], void_until(times[undone]))
    stands = links & (keys != others) & (times > unlinked[keys])
    while (implied := stands & (times <= forgotten[others]) & (forgotten[keys] < forgotten[others])).any():
        np.maximum.at(forgotten, keys[implied], forgotten[others[implied]])
        for place in np.unique(keys[implied]).tolist():
            bury(graves, digest_of(coded.ids[place].as_py()), int(forgotten[place]))
    stands &= times > void_until(np.maximum(forgotten[keys], forgotten[others]))
    evidence = _evidence(coded, np.flatnonzero(stands), whole=whole)
    said = np.flatnonzero(~links & (times > np.where(undone, void_until(forgotten[keys]), forgotten[keys])))
    said = said[np.lexsort((_dictionary(coded.table["kind"]).indices.to_numpy()[said], times[said], keys[said]))]
    kinds = _dictionary(coded.table["kind"]).indices.to_numpy()[said]
    new = _changes(keys[said], times[said], kinds)
    return coded.take(np.concatenate((evidence, said[new])))


def _evidence(coded: _Coded, rows: Ints, *, whole: bool) -> Ints:
    """Of these links the rows of ``schemas.identity.evidence_of``, in order of key, time, event id and user.

    Unless this is the ``whole``, nothing is left out that others may make evidence: which users are an id's first hundred isn't
    known, and what is recent is so by each user's own newest date, which is no later than the newest of all.
    """
    rows = _in_order(coded, rows)
    by_pair = np.argsort(coded.keys[rows] * len(coded.ids) + coded.others[rows], kind="stable")
    keys, others, days = coded.keys[rows][by_pair], coded.others[rows][by_pair], coded.times[rows][by_pair] // DAY_MS
    begins = _changes(keys, others)
    pairs = np.cumsum(begins) - 1
    among = _first_users(coded.keys[rows], by_pair[begins])[pairs] if whole else np.ones(len(rows), np.bool_)
    of = keys if whole else pairs
    newest = np.full(max(len(coded.ids), len(rows)), NEVER, np.int64)
    np.maximum.at(newest, of[among], days[among])
    kept = among & _changes(keys, others, days) & (begins | (days > newest[of] - EVIDENCE_DAYS))
    return np.asarray(rows[np.sort(by_pair[kept])])


def _first_users(keys: Ints, firsts: Ints) -> Flags:
    """Of pairs of id and user, given by the place of their first link, whether the user is one of the id's first hundred.

    ``keys`` are the ids of all links, in order.
    """
    is_first = np.zeros(len(keys), np.int64)
    is_first[firsts] = 1
    users, begins = np.cumsum(is_first), _changes(keys)
    before = (users - is_first)[begins][np.cumsum(begins) - 1]
    return np.asarray((users - before)[firsts] <= MAX_LINKS)


def _counted(told: _Coded) -> _Coded:
    """Without links of ids beyond those that count of a user, see ``schemas.identity.counted``: as if they weren't.

    Only when all is together, for of which ids are the first that shows then.
    """
    links = np.flatnonzero(told.is_kind(LINK))
    keys, others = told.keys[links], told.others[links]
    order = np.lexsort((_ranks(told.ids)[keys], others))
    begins = _changes(others[order])
    pairs = np.cumsum(_changes(others[order], keys[order]))
    position = pairs - pairs[begins][np.cumsum(begins) - 1]
    beyond = np.zeros(len(told.keys), np.bool_)
    beyond[links[order[position >= MAX_LINKS]]] = True
    return told.take(np.flatnonzero(~beyond)) if beyond.any() else told


def _owners(told: _Coded, links: Ints) -> tuple[Ints, Ints]:
    """By id: of whom it is by its first link (-1: nobody), and since when. ``links`` are in order, see ``_evidence``."""
    keys = told.keys[links]
    first = links[_changes(keys)]
    owners, since = np.full(len(told.ids), -1, np.int64), np.full(len(told.ids), NEVER, np.int64)
    owners[told.keys[first]], since[told.keys[first]] = told.others[first], told.times[first]
    return owners, since


def _starts(told: _Coded, persons: Ints, astray: Flags, since: Ints) -> Ints:
    """By person, from when on their views count."""
    starts = np.full(len(told.ids), NEVER, np.int64)
    outs, said = told.is_kind(OPT_OUT), told.is_kind(OPT_IN, OPT_OUT) & ~astray[told.keys]
    whose = persons[told.keys]
    rows = np.flatnonzero(said & np.isin(whose, whose[outs & said]))
    rows = rows[np.lexsort((told.keys[rows], whose[rows]))]
    spoken = zip(whose[rows].tolist(), told.keys[rows].tolist(), told.times[rows].tolist(), outs[rows].tolist(), strict=True)
    for person, theirs in itertools.groupby(spoken, lambda row: row[0]):
        by_id = itertools.groupby(theirs, lambda row: row[1])
        starts[person] = counting_from([Voice([Said(*row[2:]) for row in row_s], int(since[key])) for key, row_s in by_id])
    return starts


def _whose(told: _Coded, persons: Ints, starts: Ints) -> pa.Table:
    """What of the ids isn't plain."""
    known = np.flatnonzero((persons != np.arange(len(told.ids))) | (starts != NEVER) | (told.forgotten != NEVER))
    ids = told.ids.take(pa.array(known))
    of = told.ids.take(pa.array(persons[known]))
    return _by_hash(pa.table([ids, ids, of, starts[known], told.forgotten[known]], names=WHOSE.names[1:]))


def _with_names(whose: pa.Table, names: Mapping[str, str], graves: Mapping[bytes, int]) -> pa.Table:
    """With the ids by other keys; what one of the pseudonyms of an id has for a tombstone, all have."""
    found = {row["id"]: row for row in whose.drop_columns("hash").to_pylist()}
    until: dict[str, int] = {}
    for old, new in names.items():
        until[new] = max(until.get(new, NEVER), *(graves.get(digest_of(name), NEVER) for name in (old, new)))
    for old, new in names.items():
        row = found.setdefault(new, {"id": new, "row": new, "person": new, "start": NEVER, "forgotten": NEVER})
        row["forgotten"] = max(row["forgotten"], until[new])
        found[old] = {**row, "id": old}
    return _by_hash(pa.Table.from_pylist(list(found.values()), schema=pa.schema(list(WHOSE)[1:])))


def _by_hash(table: pa.Table) -> pa.Table:
    hashes = hashes_of(table["id"].combine_chunks()) if len(table) else np.zeros(0, np.uint64)
    return table.add_column(0, "hash", pa.array(hashes, pa.uint64())).cast(WHOSE).sort_by("hash").combine_chunks()


def _said(told: _Coded, persons: Ints, starts: Ints, owners: Ints, theirs: Flags) -> pa.Table:
    whose = persons[told.keys]
    links = told.is_kind(LINK)
    columns = {name: told.table[name] for name in EVIDENCE.names}
    columns |= {
        "person": told.ids.take(pa.array(whose)),
        "start": pa.array(starts[whose]),
        "theirs": pa.array(links & theirs[told.keys] & (owners[told.keys] == told.others)),
        "key": told.ids.take(pa.array(told.keys)),
        "other": told.ids.take(pa.array(told.others)),
    }
    return pa.table([columns[name] for name in SAID.names], names=SAID.names).cast(SAID)


def _changes(*columns: NDArray[Any]) -> Flags:
    """Where, in sorted columns, a row differs from the one before it."""
    new = np.zeros(len(columns[0]), np.bool_)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def _in_order(coded: _Coded, rows: Ints) -> Ints:
    """Links in order of key, time, event id and user."""
    keys, times = coded.keys[rows], coded.times[rows]
    order = np.lexsort((times, keys))
    rows, keys, times = rows[order], keys[order], times[order]
    same = ~_changes(keys, times)
    tied = np.flatnonzero(same | np.append(same[1:], False)[: len(same)])
    if len(tied):
        events = _ranks(coded.table["event_id"].take(pa.array(rows[tied])).combine_chunks())
        users = _ranks(coded.ids.take(pa.array(coded.others[rows[tied]])))
        rows[tied] = rows[tied][np.lexsort((users, events, times[tied], keys[tied]))]
    return np.asarray(rows)


def _ranks(texts: pa.Array) -> Ints:
    """The place of each text in their order; equal ones have the same."""
    return np.asarray(pc.rank(texts, sort_keys="ascending", tiebreaker="dense").to_numpy().astype(np.int64))


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
