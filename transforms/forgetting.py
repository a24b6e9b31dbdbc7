"""Forgetting people in the store: tombstones first, then what rows hold of them up to that instant (SEMANTICS §7).

Whoever writes rows looks for new tombstones after the write, so that of a writer and a forget that race, one cleans up after both.
A writer that was killed in between gets its events again, and then cleans up what it may have left. A forget that was killed begins
anew: so what leads from an id to others goes last.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from schemas.identity import (
    NEVER,
    NOBODY,
    UNLINKING,
    Identity,
    digest_of,
    goes_until,
    links_void_until,
    tombstone_of,
)
from schemas.instants import clock_ms
from schemas.profile_row import LINKED, SEALED, UNLINKED, cells_of, link_cell, linked_cell, sealed_cell
from serving.store import Store, WindowRead
from transforms.canary import Prepared
from transforms.changes import Change
from transforms.people import read_identities
from transforms.rows import refresh_rows


class Graves:
    """The tombstones of a store, as of the last look."""

    def __init__(self) -> None:
        self.burials = 0  # the number of the store's at the last look
        self._looked_at = NEVER
        self._times: dict[bytes, int] = {}
        self._seen: dict[bytes, int] = {}
        self._names: Callable[[str], Sequence[str]] = lambda key: (key,)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._times)

    def look(self, store: Store) -> bool:
        """Read what is new; whether anything was taken out of the store since the last look."""
        self._names = store.names
        now, burials = clock_ms(), store.burials()
        if burials == self.burials:
            return False
        for digest, _, time in store.tombstones(self._looked_at):
            if time > self._times.get(digest, NEVER):
                self._times[digest], self._seen[digest] = time, burials
        self.burials, self._looked_at = burials, now
        return True

    @property
    def unlinkings(self) -> int:
        """How often links were undone, up to the last look."""
        return self.burials // UNLINKING

    def is_news(self, key: str, burials: int) -> bool:
        """Whether it was first seen at a look after the one that told ``burials`` until when the id was forgotten."""
        return burials != self.burials and any(self._seen.get(digest_of(name), 0) > burials for name in self._names(key))

    def time_of(self, key: str) -> int:
        """When the id of a pseudonym was forgotten (ms UTC), under whichever key; ``NEVER`` if it wasn't."""
        return max(map(self.exactly, self._names(key))) if self._times else NEVER

    def exactly(self, key: str) -> int:
        """When the id of a pseudonym was forgotten under this very name."""
        return self._times.get(digest_of(key), NEVER)

    def among(self, keys: Iterable[str]) -> dict[str, int]:
        """Those that were forgotten, and when."""
        return {key: time for key in keys if (time := self.time_of(key)) != NEVER} if self._times else {}


class Allowed(NamedTuple):
    """Changes that may be made, those that may not, and ids to forget, with the instant (ms UTC), because users say so.

    ``implied`` are links to forgotten users that came late: the anonymous id was theirs. (id, time of the link) and until when.
    ``barred`` are rows that changes which may not be made, or not wholly, are about.
    """

    changes: list[Change]
    refused: list[Change]
    forgotten: dict[str, int]
    implied: dict[tuple[str, int], int]
    barred: list[str]


def allowed(changes: Sequence[Change], graves: Graves) -> Allowed:
    """What may be written: nothing of a forgotten id up to the instant it was forgotten at."""
    if not graves and not any(change.forget for change in changes):
        return Allowed(list(changes), [], {}, {}, [])
    found = Allowed([], [], {}, {}, [])
    for change in changes:
        buried = graves.time_of(change.key)
        if change.forget:  # a copy too: whoever saw the first may have been killed before it was done
            found.forgotten[change.key] = max(change.time, found.forgotten.get(change.key, NEVER))
            buried = max(change.time, buried)
        elif change.time <= buried:
            found.refused.append(change)
            found.barred.append(change.key)
        elif change.other is not None and change.time <= links_void_until(max(buried, graves.time_of(change.other))):
            cells = tuple((row, cell) for row, cell in change.cells if row == change.key and cell.qualifier[:1] != LINKED)
            found.changes.append(change._replace(other=None, cells=cells))
            found.barred.extend((change.key, change.other))
        else:
            found.changes.append(change)
        if change.other is not None and change.time <= buried:
            found.implied[change.other, change.time] = buried
            found.barred.append(change.other)
    return found


def forget_people(store: Store, rules: Prepared, people: Mapping[str, int], graves: Graves | None = None) -> dict[str, int]:
    """Forget ids, each up to an instant (ms UTC), and every anonymous id that was linked to them by then; all that are forgotten.

    What is newer stays. On a shared device nobody can tell whose the views without a user were: they go too. ``graves`` of the
    store, where the caller has looked at them before, spare reading all of them once more.
    """
    graves = Graves() if graves is None else graves
    everybody: dict[str, int] = {}
    found = dict(people)
    while found:
        # Before looking: a link that comes later is told by it.
        store.bury([tombstone_of(name, time) for key, time in found.items() for name in store.names(key)])
        everybody |= found
        found = _linked_by_then(store, found, everybody)
    clear_rows(store, rules, list(everybody), last=people, graves=graves)
    return everybody


def implied_people(store: Store, implied: Mapping[tuple[str, int], int]) -> dict[str, int]:
    """The anonymous ids of late links to forgotten users, but where the link is void, and until when they are to be forgotten."""
    identities = read_identities(store, list(dict.fromkeys(key for key, _ in implied))).identities if implied else {}
    people: dict[str, int] = {}
    for (key, linked_at), time in implied.items():
        if identities.get(key, NOBODY).unlinked < linked_at:
            people[key] = max(time, people.get(key, NEVER))
    return people


def clear_rows(
    store: Store, rules: Prepared, keys: Sequence[str], last: Collection[str] = (), graves: Graves | None = None
) -> None:
    """Take out of rows what is of forgotten ids, and out of the rows around them what they say of those; evaluate all anew.

    Rows in ``last`` keep what leads to the others until nothing else is left to do. ``graves`` as in ``forget_people``.
    """
    scene = _scene_of(store, keys, Graves() if graves is None else graves)
    people, around = scene.people, [key for key in scene.identities if key not in scene.people]
    for key, time in people.items():
        store.empty_row(key, time)
        store.drop_membership(key, scene.read.time)
    idle = _idle_in(scene)
    for rows in (around, [key for key in people if key not in last], [key for key in people if key in last]):
        if rows:
            store.delete_identity([(key, column) for key in rows for column in idle.get(key, ())])
            done = refresh_rows(store, rules, rows, relinked=rows, forgotten=people)
            _seal_again(store, scene, done.unsealed.intersection(rows))


def _seal_again(store: Store, scene: _Scene, rows: Collection[str]) -> None:
    """Write back the sealed ids of rows that something new came into meanwhile: whoever wrote it may have seen them still there."""
    sealed = [(key, sealed_cell(scene.identities[key].sealed)) for key in rows if scene.identities[key].sealed]
    if sealed:
        store.write_identity(sealed)


class _Scene(NamedTuple):
    """Forgotten ids and until when, and what their rows and those around them say: who is linked to them, or was."""

    people: dict[str, int]
    identities: dict[str, Identity]
    read: WindowRead


def _scene_of(store: Store, keys: Sequence[str], graves: Graves) -> _Scene:
    graves.look(store)
    read = WindowRead(NEVER, {}, {})
    people: dict[str, int] = {}
    unread = list(dict.fromkeys(keys))
    while unread:
        more = read_identities(store, unread)
        read = WindowRead(read.time if read.cells else more.time, read.cells | more.cells, read.identities | more.identities)
        people |= graves.among(unread)
        said = [read.identities.get(key, NOBODY) for key in people]
        named = dict.fromkeys(other for identity in said for other in _named_in(identity))
        unread = [key for key in named if key not in read.cells]
    return _Scene(people, {key: read.identities.get(key, NOBODY) for key in read.cells}, read)


def _named_in(identity: Identity) -> list[str]:
    return [*(link.other for link in identity.links), *(linked.other for linked in identity.linked)]


def _idle_in(scene: _Scene) -> dict[str, list[bytes]]:
    """Per row the identity columns that must go."""
    people = scene.people
    idle: dict[str, list[bytes]] = {key: [] for key in scene.identities}
    kept: set[tuple[str, str]] = set()
    for key, identity in scene.identities.items():
        for link in identity.links:
            if link.time <= links_void_until(max(people.get(key, NEVER), people.get(link.other, NEVER))):
                idle[key].append(link_cell(link).qualifier)
            else:
                kept.add((key, link.other))
    for key, identity in scene.identities.items():
        for linked in identity.linked:
            if (key in people or linked.other in people) and (linked.other, key) not in kept:
                idle[key].append(linked_cell(linked).qualifier)
    linked_still = {key for pair in kept for key in pair}
    for key, time in people.items():
        own = cells_of(scene.identities[key]._replace(links=(), linked=()))
        gone = [cell for cell in own if cell.time <= (links_void_until(time) if cell.qualifier == UNLINKED else time)]
        cells = scene.read.cells[key]
        alive = key in linked_still or (cells and cells[0].time > time) or len(gone) < len(own)
        idle[key] += [cell.qualifier for cell in gone if not (alive and cell.qualifier == SEALED)]
    return idle


def _linked_by_then(store: Store, people: Mapping[str, int], everybody: Mapping[str, int]) -> dict[str, int]:
    """Anonymous ids with a link that isn't void to people by the instant these are forgotten at, where that is news."""
    linked = {linked.other for identity in read_identities(store, list(people)).identities.values() for linked in identity.linked}
    identities = read_identities(store, sorted(linked)).identities if linked else {}
    found = {key: goes_until(identity, people) for key, identity in identities.items()}
    return {key: until for key, until in found.items() if until > everybody.get(key, NEVER)}
