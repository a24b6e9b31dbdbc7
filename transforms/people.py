"""People: rows of profiles and what they say of each other, read as far as it matters, and put together (SEMANTICS §6-7).

A row's views never leave it. Whose they are follows from the links in it, so a person is a user's row and those of the ids that are
theirs. Appending comes before reading, in every process: of two that race, at least one sees both.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from schemas.identity import (
    FOR_EVER,
    NEVER,
    NOBODY,
    Identity,
    Voice,
    counted,
    counting_from,
    owning_link,
)
from schemas.profile_row import ViewCell
from serving.store import SAID_AT_ONCE, Store, WindowRead
from transforms.kernel import MAX_VIEWS

READ_LIMIT: Final = MAX_VIEWS + 100  # room for copies that disagree; read again with more when that wasn't enough


class Person(NamedTuple):
    """A person: the key of their row, the rows whose views are theirs, those views (newest first), and from when on they count.

    ``start`` is ms UTC, ``FOR_EVER`` while they are opted out.
    """

    key: str
    rows: tuple[str, ...]
    cells: list[ViewCell]
    start: int

    @property
    def counting(self) -> list[ViewCell]:
        """The views that count."""
        return self.cells if self.start == NEVER else [cell for cell in self.cells if cell.time >= self.start]

    @property
    def opted_out(self) -> bool:
        """Whether no view counts, whenever it was."""
        return self.start == FOR_EVER


class People(NamedTuple):
    """Rows as read, and the keys of those who may have changed; ``time`` is of the first read, see ``WindowRead``."""

    read: WindowRead
    keys: list[str]

    def identity(self, key: str) -> Identity:
        """What a row says of its id."""
        return self.read.identities.get(key, NOBODY)

    def owner(self, key: str) -> str | None:
        """Whose a row is, if another's."""
        identity = self.identity(key)
        link = owning_link(identity.links, identity.unlinked) if identity.links else None
        return None if link is None else link.other

    def person(self, key: str) -> Person:
        """The person of a row that is no other's."""
        identity = self.identity(key)
        rows, voices = ([key], [Voice(identity.said, NEVER)]) if self.owner(key) is None else ([], [])
        for linked in counted(identity.linked):
            theirs = self.identity(linked.other)
            link = owning_link(theirs.links, theirs.unlinked)
            if link is not None and link.other == key and linked.other != key:
                rows.append(linked.other)
                voices.append(Voice(theirs.said, link.time))
        cells = self.read.cells.get(rows[0], []) if rows else []
        if len(rows) > 1:
            cells = list(itertools.islice(_distinct(heapq.merge(*(self.read.cells.get(row, []) for row in rows))), READ_LIMIT))
        return Person(key, tuple(rows), cells, counting_from(voices))


def read_people(store: Store, keys: Sequence[str], relinked: Collection[str] = ()) -> People:
    """The people whose rows these are, with all their rows; of rows in ``relinked`` all who were ever linked to them."""
    people = People(read_whole_windows(store, keys), [])
    whose = _whose(people, keys, relinked)
    people = _with_rows(store, people, whose)
    people = _with_rows(store, people, [linked.other for key in whose for linked in counted(people.identity(key).linked)])
    return people._replace(keys=whose)


def read_whole_windows(store: Store, keys: Sequence[str]) -> WindowRead:
    """Each row's newest cells, enough for 1,000 distinct views where the row has them, and all that it says."""
    read = _with_all_said(store, store.read_windows(keys, READ_LIMIT))
    limit = READ_LIMIT
    while short := [
        key for key, cells in read.cells.items() if len(cells) >= limit and len({cell.event for cell in cells}) < MAX_VIEWS
    ]:
        limit *= 4
        read = read._replace(cells=read.cells | store.read_windows(short, limit).cells)
    return read


def read_identities(store: Store, keys: Sequence[str]) -> WindowRead:
    """Each row's newest cell, and all that it says, however much that is."""
    return _with_all_said(store, store.read_windows(keys, 1))


def _with_all_said(store: Store, read: WindowRead) -> WindowRead:
    said = SAID_AT_ONCE
    while cut := [key for key, who in read.identities.items() if max(map(len, (who.links, who.linked, who.said))) >= said]:
        said *= 4
        read = read._replace(identities=read.identities | store.read_windows(cut, 1, said).identities)
    return read


def _whose(people: People, keys: Sequence[str], relinked: Collection[str]) -> list[str]:
    """Who may have changed: whom the rows belong to, and where links came, everybody who is named in them."""
    whose: dict[str, None] = {}
    for key in keys:
        whose[people.owner(key) or key] = None
        if key in relinked:
            whose.update(dict.fromkeys(_who_may_have_changed(people, key, relinked)))
            whose[key] = None
    return list(whose)


def _who_may_have_changed(people: People, key: str, relinked: Collection[str]) -> set[str]:
    """Of those named in the links of a row those who may have won or lost it.

    New links that aren't the first move nothing: of their users alone there may be news. Of several that race the first is read
    by whoever wrote it, and they see to all.
    """
    identity = people.identity(key)
    named = {link.other for link in identity.links}
    new = named.intersection(relinked)
    return new if new and identity.unlinked == NEVER and people.owner(key) not in new else named


def _with_rows(store: Store, people: People, keys: Iterable[str]) -> People:
    missing = [key for key in dict.fromkeys(keys) if key not in people.read.cells]
    if not missing:
        return people
    more = read_whole_windows(store, missing)
    cells: Mapping[str, list[ViewCell]] = people.read.cells
    return people._replace(read=WindowRead(people.read.time, {**cells, **more.cells}, people.read.identities | more.identities))


def _distinct(cells: Iterable[ViewCell]) -> Iterable[ViewCell]:
    """The cells, which come in order, each once."""
    return (cell for cell, _ in itertools.groupby(cells))
