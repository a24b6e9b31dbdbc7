"""Forgetting people in the store: tombstones first, then what rows hold of them up to that instant (SEMANTICS §7).

Whoever writes rows looks for new tombstones after the write, so that of a writer and a forget that race, one cleans up after both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from schemas.identity import NEVER, NOBODY, digest_of, tombstone_of
from schemas.profile_row import LINKED, cells_of, linked_cell, user_link_cell
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
        elif change.other is not None and change.time <= graves.time_of(change.other):
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
    identities = store.read_windows(list(people), 1).identities
    links = [(link, time) for key, time in people.items() if key in identities for link in identities[key].linked]
    others = store.read_windows([link.other for link, _ in links], 1).identities if links else {}
    for link, time in links:
        if others.get(link.other, NOBODY).unlinked < link.time <= time:
            everybody[link.other] = max(time, everybody.get(link.other, NEVER))
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
    idle: list[tuple[str, bytes]] = []
    named: dict[str, None] = {}
    for key, time in people.items():
        identity = read.identities.get(key, NOBODY)
        idle += [(key, cell.qualifier) for cell in cells_of(identity) if cell.time <= time]
        named.update(dict.fromkeys(link.other for link in (*identity.links, *identity.linked) if link.time <= time))
    others = store.read_windows(list(named), 1).identities if named else {}
    for key, identity in others.items():
        about = [(user_link_cell(link), link.other) for link in identity.links]
        about += [(linked_cell(link), link.other) for link in identity.linked]
        idle += [(key, cell.qualifier) for cell, other in about if cell.time <= people.get(other, NEVER)]
    for key, time in people.items():
        store.empty_row(key, time)
        store.drop_membership(key, read.time)
    store.delete_identity(list(dict.fromkeys(idle)))  # last: whoever begins anew must still find whose the others were
    refresh_rows(store, rules, list({**people, **named}), relinked=set(named))
