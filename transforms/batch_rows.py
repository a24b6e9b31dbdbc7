"""Rows by the archive: what a person's row must hold, the views by the rows that they lie in, and what these say of their ids."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa

from schemas.identity import FOR_EVER, NEVER, NOBODY, Identity, Link, Linked, Said, links_void_until
from schemas.ledger import LINK, OPT_OUT, UNLINK
from schemas.profile_row import RETENTION_MS, Membership, ViewCell, view_cell
from transforms.canary import Prepared, answers_of
from transforms.conditions import Categories
from transforms.kernel import MAX_VIEWS
from transforms.membership import Views
from transforms.rows import kept_views
from transforms.shards import Shard

NOTHING_SAID: Final = ()


class BatchRow(NamedTuple):
    """A person's row by the archive: the views it rests on, newest first, and its membership, ``None`` without any.

    ``parts`` are the views by the row that they lie in; ``ids`` all rows that are theirs; ``start`` is from when on views count (ms
    UTC), ``FOR_EVER`` while they are opted out. ``identities`` are what these rows, and others about them, must say.
    """

    key: str
    cells: list[ViewCell]
    membership: Membership | None
    parts: Mapping[str, list[ViewCell]]
    ids: frozenset[str]
    start: int
    identities: Mapping[str, Identity]

    @property
    def opted_out(self) -> bool:
        """Whether no view counts, whenever it was."""
        return self.start == FOR_EVER


class Told(NamedTuple):
    """What is known of a person beside their views: as ``BatchRow`` has it."""

    ids: frozenset[str]
    start: int
    identities: Mapping[str, Identity]
    ever_out: bool


def batch_rows(shard: Shard, offsets: Any, end: int, rules: Prepared, said: pa.Table) -> Iterator[BatchRow]:
    """The rows of a shard's people with a view in the window at ``end`` (ms UTC), and of those who ever opted out.

    ``offsets`` are as the shard's, among views alone; ``said`` is what the rows must say, see ``transforms.known_people.SAID``.
    """
    assert shard.packed is not None
    assert shard.rows is not None
    assert shard.sealed is not None
    people = told_of(said)
    times, codes = shard.times[shard.views], shard.packed.codes[shard.views]
    ids = shard.ids.filter(pa.array(shard.views))
    rows, sealed = (Categories(column.codes[shard.views], column.values) for column in (shard.rows, shard.sealed))
    values = [value.encode("latin-1") for value in shard.packed.values]
    for user, (first, last) in enumerate(itertools.pairwise(offsets.tolist())):
        if first == last or times[last - 1] <= end - RETENTION_MS:
            continue
        key = shard.users[user]
        first = max(first, last - MAX_VIEWS)
        views = kept_views(Views(times[first:last], [values[code] for code in codes[first:last]]))
        of = slice(last - len(views.times), last)
        kept = ids.slice(of.start, len(views.times)).to_pylist()
        cells = [view_cell(*cell) for cell in zip(views.times.tolist(), kept, views.packed, strict=True)]
        told = people.pop(key, Told(frozenset({key}), NEVER, {}, False))
        parts, names = _parts(key, cells, rows, sealed, of)
        identities = _with_sealed(told.identities, names)
        yield BatchRow(key, cells[::-1], answers_of(key, views, rules).current, parts, told.ids, told.start, identities)
    for key, told in people.items():
        if told.ever_out:
            yield BatchRow(key, [], None, {}, told.ids, told.start, told.identities)


def told_of(said: pa.Table) -> dict[str, Told]:
    """What is known of the people, by key; the table is in order of person."""
    people = {}
    for key, entries in itertools.groupby(said.to_pylist(), lambda entry: entry["person"]):
        several = list(entries)
        ids = frozenset({key, *(entry["key"] for entry in several if entry["theirs"])})
        ever_out = any(entry["kind"] == OPT_OUT for entry in several)
        people[key] = Told(ids, several[0]["start"], _identities(several), ever_out)
    return people


def _identities(entries: list[dict[str, Any]]) -> dict[str, Identity]:
    rows: dict[str, Identity] = {}
    for entry in entries:
        key, time, other = entry["key"], entry["time"], entry["other"]
        row = rows.get(key, NOBODY)
        if entry["kind"] == LINK:
            link = Link(time, entry["event_id"], other, entry["event_type"], entry["sealed_other"])
            rows[key] = row._replace(links=(*row.links, link), sealed=row.sealed or entry["sealed"])
            user = rows.get(other, NOBODY)
            linked = (*user.linked, Linked(key, entry["sealed"]))
            rows[other] = user._replace(linked=tuple(dict.fromkeys(linked)), sealed=user.sealed or entry["sealed_other"])
        elif entry["kind"] == UNLINK:
            rows[key] = row._replace(unlinked=max(row.unlinked, links_void_until(time)))
        else:
            said = (*row.said, Said(time, entry["kind"] == OPT_OUT))
            rows[key] = row._replace(said=said, sealed=row.sealed or entry["sealed"])
    return rows


def _parts(
    key: str, cells: list[ViewCell], rows: Categories, sealed: Categories, of: slice
) -> tuple[dict[str, list[ViewCell]], dict[str, bytes]]:
    """The views by the row that they lie in, and of these rows the sealed ids, where an event has them."""
    lie_in, names = rows.codes[of].tolist(), sealed.codes[of].tolist()
    if len(set(lie_in)) == len(set(names)) == 1:
        row = rows.values[lie_in[0]] or key
        return {row: cells[::-1]}, {row: sealed.values[names[0]].encode("latin-1")}
    parts: dict[str, list[ViewCell]] = {}
    ids: dict[str, bytes] = {}
    for cell, code, name in zip(cells[::-1], lie_in[::-1], names[::-1], strict=True):
        row = rows.values[code] or key
        parts.setdefault(row, []).append(cell)
        ids[row] = ids.get(row) or sealed.values[name].encode("latin-1")
    return parts, ids


def _with_sealed(identities: Mapping[str, Identity], names: Mapping[str, bytes]) -> dict[str, Identity]:
    found = dict(identities)
    for row, sealed in names.items():
        if sealed:
            found[row] = found.get(row, NOBODY)._replace(sealed=sealed)
    return found
