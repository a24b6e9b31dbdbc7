"""Rows from views: what a person's views come to, as the cells of their row, and rows read, evaluated and written."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from schemas.identity import FOR_EVER, MAX_LINKS, NEVER, Identity, Linked, counted, emptied_until, evidence_of, owning_link, telling
from schemas.instants import LAST_INSTANT_MS
from schemas.profile_row import (
    RETENTION_MS,
    Emptied,
    Emptiness,
    Profile,
    ViewCell,
    consent_cell,
    encode_cell,
    link_cell,
    linked_cell,
)
from schemas.view import unpack_attributes
from serving.store import RowUpdate, Store
from transforms.canary import Prepared, answers_of
from transforms.kernel import MAX_VIEWS
from transforms.membership import Views
from transforms.people import People, Person, read_identities, read_people

TOP_VALUES: Final = 5
_CACHED_PROFILES: Final = 1 << 16


class Refreshed(NamedTuple):
    """What refreshing rows came to: keys that the store refused for good, and why; by row since when its views count (ms UTC).

    ``full``: the last id that counts of users with as many as may be. ``owners``: whose the rows are whose links changed.
    ``unsealed``: rows read that hold something, but not their own id.
    """

    refused: dict[str, str]
    counting_from: dict[str, int]  # only of rows whose person ever opted out
    full: dict[str, str]
    owners: dict[str, str | None]
    unsealed: set[str]


def views_of(cells: Sequence[ViewCell]) -> Views:
    """The distinct views in a row's cells (newest first), in order of (event time, event id)."""
    cells = distinct_cells(cells)
    prefixes = b"".join([cell.qualifier[:8] for cell in cells])
    times = LAST_INSTANT_MS - np.frombuffer(prefixes, ">i8").astype(np.int64)[::-1]
    return Views(times, [cell.value for cell in reversed(cells)])


def profile_of(views: Views) -> Profile:
    """The preference profile of a window: per category attribute the shares of its five most seen values."""
    seen = Counter(itertools.chain.from_iterable(map(_categories, views.packed)))
    shares: dict[str, dict[str, float]] = {}
    for (name, value), number in sorted(seen.items(), key=lambda item: (item[0][0], -item[1], item[0][1])):
        top = shares.setdefault(name, {})
        if len(top) < TOP_VALUES:
            top[value] = round(number / len(views.packed), 4)
    return Profile(len(views.packed), int(views.times[-1]), shares)


def distinct_cells(cells: Sequence[ViewCell]) -> list[ViewCell]:
    """A row's cells, newest first, with each event once: of its copies the earliest, then the one of the smallest value."""
    if len({cell.event for cell in cells}) == len(cells):
        return list(cells)
    first: dict[bytes, ViewCell] = {}
    for cell in cells:
        known = first.get(cell.event)
        if known is None or (cell.time, cell.value) < (known.time, known.value):
            first[cell.event] = cell
    return sorted(first.values())


def kept_views(views: Views) -> Views:
    """Those of a user's views that the row rests on: the newest 1,000 of the ten days up to the newest."""
    oldest = int(np.searchsorted(views.times, views.times[-1] - RETENTION_MS, "right"))
    kept = slice(max(oldest, len(views.times) - MAX_VIEWS), None)
    return Views(views.times[kept], views.packed[kept])


def update_of(key: str, cells: Sequence[ViewCell], read_time: int, rules: Prepared) -> RowUpdate:
    """What a row's membership and profile must be, from its person's views as read at ``read_time``."""
    views = kept_views(views_of(cells))
    as_of = int(views.times[-1])
    current, shadow = answers_of(key, views, rules)
    candidate = None if shadow is None else encode_cell(shadow)
    return RowUpdate(key, read_time, encode_cell(current), encode_cell(profile_of(views)), as_of - RETENTION_MS, candidate)


def refresh_rows(
    store: Store,
    rules: Prepared,
    keys: Sequence[str],
    relinked: Collection[str] = (),
    forgotten: Collection[str] = (),
    told: Callable[[Iterable[str]], None] = lambda _: None,
) -> Refreshed:
    """Read the people of some rows, evaluate, write their memberships.

    ``relinked`` are rows whose links changed: all who were ever linked to them are refreshed too, and what others gave them goes.
    Where nothing is left of those that are ``forgotten``, not even that is written. ``told`` hears whose rows are to be written.
    """
    people = read_people(store, keys, relinked)
    updates: list[RowUpdate] = []
    starts: dict[str, int] = {}
    for key in people.keys:
        person = people.person(key)
        if person.start != NEVER:
            starts.update(dict.fromkeys(person.rows, person.start))
        update = _update_of_person(person, people, rules, written=key in relinked and key not in forgotten)
        if update is not None:
            updates.append(update)
    updates += [_emptied(key, "alias", people) for key in relinked if people.owner(key) is not None]
    told(update.key for update in updates)
    refused = {updates[refusal.position].key: refusal.message for refusal in store.write_memberships(updates)}
    for key in {*keys, *people.keys}.intersection(forgotten).difference(update.key for update in updates):
        store.drop_membership(key, people.read.time)
    _tidy(store, rules, people, [*keys, *people.keys], relinked, forgotten, told)
    full = {key: linked[-1].other for key in people.keys if len(linked := counted(people.identity(key).linked)) == MAX_LINKS}
    owners = {key: people.owner(key) for key in relinked}
    identities = people.read.identities
    unsealed = {key for key, cells in people.read.cells.items() if not people.identity(key).sealed and (cells or key in identities)}
    return Refreshed(refused, starts, full, owners, unsealed)


def _update_of_person(person: Person, people: People, rules: Prepared, *, written: bool) -> RowUpdate | None:
    """Their row; ``None`` where there is nothing to say, nor anything ``written`` that no longer holds."""
    if people.owner(person.key) is not None:
        return None
    if cells := person.counting:
        update = update_of(person.key, cells, people.read.time, rules)
        return update if person.rows == (person.key,) else update._replace(keep_from=_oldest_kept(person.key, people))
    if person.start == FOR_EVER:
        return _emptied(person.key, "opted_out", people)
    identity = people.identity(person.key)
    if written or identity.links or identity.linked or identity.said or identity.unlinked != NEVER:
        return _emptied(person.key, "no_views", people)
    return None


def _emptied(key: str, why: Emptiness, people: People) -> RowUpdate:
    return RowUpdate(key, people.read.time, encode_cell(Emptied(why)), b"", _oldest_kept(key, people))


def _oldest_kept(key: str, people: People) -> int:
    """Until when a row's own views may be removed: by the newest of its own, for one day they may be its own again."""
    cells = people.read.cells.get(key)
    return cells[0].time - RETENTION_MS if cells else NEVER


def _tidy(
    store: Store,
    rules: Prepared,
    people: People,
    keys: Sequence[str],
    relinked: Collection[str],
    forgotten: Collection[str],
    told: Callable[[Iterable[str]], None],
) -> None:
    """Remove views that an opt-out of their own row emptied it of, and links and consents that say nothing beside others."""
    idle: list[tuple[str, bytes]] = []
    for key in dict.fromkeys(key for key in keys if people.identity(key).said):
        said, cells = people.identity(key).said, people.read.cells.get(key)
        until = emptied_until(said)
        if until != NEVER and cells and cells[-1].time <= until:
            store.empty_row(key, until)
        idle += [(key, consent_cell(each).qualifier) for each in set(said).difference(telling(said))]
    idle += [column for key in dict.fromkeys([*relinked, *people.keys]) for column in _idle_links(people, key)]
    if idle:
        store.delete_identity(idle)
    beyond = [(key, linked) for key in people.keys for linked in _beyond(people.identity(key))]
    if beyond:
        _cut_off(store, rules, beyond, told)
    loose = (
        [(key, column) for key in people.keys if key not in forgotten for column in _loose_ends(people, key)] if relinked else []
    )
    if loose:
        store.delete_identity(loose)


def _idle_links(people: People, key: str) -> list[tuple[str, bytes]]:
    """Rows and columns: links that are no evidence, and what the rows say of them whose links don't count beside so many others."""
    identity = people.identity(key)
    if len(identity.links) < 2 and identity.unlinked == NEVER:
        return []
    evidence = evidence_of(identity.links, identity.unlinked)
    idle = [(key, link_cell(link).qualifier) for link in set(identity.links).difference(evidence)]
    if len(users := {link.other for link in evidence}) == MAX_LINKS:
        pointer = linked_cell(Linked(key, b"")).qualifier
        idle += [(user, pointer) for user in {link.other for link in identity.links if link.time > identity.unlinked} - users]
    return idle


def _beyond(identity: Identity) -> list[Linked]:
    """Ids linked to a user beyond those that count."""
    return sorted(identity.linked)[MAX_LINKS:]


def _cut_off(store: Store, rules: Prepared, beyond: Sequence[tuple[str, Linked]], told: Callable[[Iterable[str]], None]) -> None:
    """Undo links to users who have more than count: ids that are no part of them are by themselves, and no row says otherwise."""
    pairs = {(linked.other, key) for key, linked in beyond}
    others = list(dict.fromkeys(linked.other for _, linked in beyond))
    links = [(key, link) for key, identity in read_identities(store, others).identities.items() for link in identity.links]
    store.delete_identity([(key, link_cell(link).qualifier) for key, link in links if (key, link.other) in pairs])
    store.delete_identity([(key, linked_cell(linked).qualifier) for key, linked in beyond])
    refresh_rows(store, rules, others, relinked=others, told=told)


def _loose_ends(people: People, key: str) -> list[bytes]:
    """What a user's row says of ids whose links were all undone, or have so many users that this one doesn't count."""
    theirs = [(linked, people.identity(linked.other)) for linked in people.identity(key).linked]
    return [linked_cell(linked).qualifier for linked, other in theirs if _is_loose(key, other)]


def _is_loose(key: str, other: Identity) -> bool:
    if len(other.links) >= MAX_LINKS and len(users := _users_of(other)) == MAX_LINKS and key not in users:
        return True
    return other.unlinked != NEVER and owning_link(other.links, other.unlinked) is None


def _users_of(identity: Identity) -> set[str]:
    """The users whose links with an anonymous id count."""
    return {link.other for link in evidence_of(identity.links, identity.unlinked)}


@functools.lru_cache(_CACHED_PROFILES)
def _categories(packed: bytes) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in unpack_attributes(packed).items() if isinstance(value, str))
