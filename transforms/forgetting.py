"""Forgetting people in the store: tombstones first, then what rows hold of them up to that instant (SEMANTICS §7).

Whoever writes rows looks for new tombstones after the write, so that of a writer and a forget that race, one cleans up after both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from schemas.identity import NEVER, NOBODY, Link, Linked, digest_of, links_void_until, tombstone_of
from schemas.profile_row import LINKED, cells_of, link_cell, linked_cell
from serving.store import Store
from transforms.canary import Prepared
from transforms.changes import Change
from transforms.rows import refresh_rows


class Graves:
    """The tombstones of a store, as of the last look."""

    def __init__(self) -> None:
        self._burials = 0
        self._times: dict[bytes, int] = {}

    def look(self, store: Store) -> bool:
        """Read what is new; whether anything was taken out of the store since the last look."""
        burials = store.burials()
        if burials == self._burials:
            return False
        self._times = {tombstone.digest: tombstone.time for tombstone in store.tombstones()}
        self._burials = burials
        return True

    def time_of(self, key: str) -> int:
        """When the id of a pseudonym was forgotten (ms UTC), ``NEVER`` if it wasn't."""
        return self._times.get(digest_of(key), NEVER) if self._times else NEVER

    def among(self, keys: Iterable[str]) -> dict[str, int]:
        """Those that were forgotten, and when."""
        return {key: time for key in keys if (time := self.time_of(key)) != NEVER} if self._times else {}


class Allowed(NamedTuple):
    """Changes that may be made, those that may not, and ids to forget, with the instant (ms UTC), because users say so.

    ``implied`` are links to forgotten users that came late: the anonymous id was theirs. (id, time of the link) and until when.
    """

    changes: list[Change]
    refused: list[Change]
    forgotten: dict[str, int]
    implied: dict[tuple[str, int], int]


def allowed(changes: Sequence[Change], graves: Graves) -> Allowed:
    """What may be written: nothing of a forgotten id up to the instant it was forgotten at."""
    found = Allowed([], [], {}, {})
    for change in changes:
        buried = graves.time_of(change.key)
        if change.forget:  # a copy too: whoever saw the first may have been killed before it was done
            found.forgotten[change.key] = max(change.time, found.forgotten.get(change.key, NEVER))
        elif change.time <= buried:
            found.refused.append(change)
            if change.other is not None:
                found.implied[change.other, change.time] = buried
        elif change.other is not None and change.time <= links_void_until(max(buried, graves.time_of(change.other))):
            cells = tuple((row, cell) for row, cell in change.cells if row == change.key and cell.qualifier[:1] != LINKED)
            found.changes.append(change._replace(other=None, cells=cells))
        else:
            found.changes.append(change)
    return found


def forget_people(store: Store, rules: Prepared, people: Mapping[str, int]) -> dict[str, int]:
    """Forget ids, each up to an instant (ms UTC), and every anonymous id that was linked to them by then; all that are forgotten.

    What is newer stays. On a shared device nobody can tell whose the views without a user were: they go too.
    """
    store.bury([tombstone_of(key, time) for key, time in people.items()])
    everybody = dict(people)
    for key, link in _evidence(store, people):
        if link.time <= people[link.other]:
            everybody[key] = max(people[link.other], everybody.get(key, NEVER))
    store.bury([tombstone_of(key, time) for key, time in everybody.items() if people.get(key) != time])
    clear_rows(store, rules, everybody)
    return everybody


def forget_implied(store: Store, rules: Prepared, implied: Mapping[tuple[str, int], int]) -> dict[str, int]:
    """Forget the anonymous ids of late links to forgotten users, but where the link is void; those that are forgotten."""
    identities = store.read_windows([key for key, _ in implied], 1).identities
    people: dict[str, int] = {}
    for (key, linked_at), time in implied.items():
        if identities.get(key, NOBODY).unlinked < linked_at:
            people[key] = max(time, people.get(key, NEVER))
    return forget_people(store, rules, people) if people else {}


def clear_rows(store: Store, rules: Prepared, people: Mapping[str, int]) -> None:
    """Take out of the rows all that is of these ids up to an instant each (ms UTC), and what other rows say of them."""
    read = store.read_windows(list(people), 1)
    evidence = _evidence(store, people)
    evidence += [(key, link) for key in people for link in read.identities.get(key, NOBODY).links if link.other not in people]
    idle: list[tuple[str, bytes]] = []
    void: set[tuple[str, str]] = set()
    kept: set[tuple[str, str]] = set()
    for key, link in evidence:
        if link.time <= links_void_until(max(people.get(key, NEVER), people.get(link.other, NEVER))):
            idle.append((key, link_cell(link).qualifier))
            void.add((key, link.other))
        else:
            kept.add((key, link.other))
    idle += [(user, linked_cell(Linked(key, b"")).qualifier) for key, user in void - kept]
    for key, time in people.items():
        identity = read.identities.get(key, NOBODY)
        own = cells_of(identity._replace(links=(), linked=()))
        idle += [(key, cell.qualifier) for cell in own if cell.time <= time]
        store.empty_row(key, time)
        store.drop_membership(key, read.time)
    store.delete_identity(list(dict.fromkeys(idle)))  # last: whoever begins anew must still find whose the others were
    named = {row for pair in void | kept for row in pair}
    refresh_rows(store, rules, list({**people, **dict.fromkeys(sorted(named))}), relinked=named)


def _evidence(store: Store, users: Iterable[str]) -> list[tuple[str, Link]]:
    """(anonymous id, link) of all ids that are linked to some users, as far as the links are to them and not void."""
    users = list(users)
    read = store.read_windows(users, 1).identities
    linked = list(dict.fromkeys(linked.other for identity in read.values() for linked in identity.linked))
    theirs = store.read_windows(linked, 1).identities if linked else {}
    return [
        (key, link)
        for key, identity in theirs.items()
        for link in identity.links
        if link.other in read and link.time > identity.unlinked
    ]
