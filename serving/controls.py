"""What people may ask of their own profile, done in the store at once; the stream does the rest of it when the event gets there.

So that serving obeys with the next request, the row that answers for the person is written as the stream would write it, where that
needs no evaluation: nothing counts after an opt-out, nor, as a rule, just after an opt-in.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from schemas.errors import StoreError
from schemas.identity import (
    FOR_EVER,
    NEVER,
    NOBODY,
    Identity,
    Said,
    Voice,
    counted,
    counting_from,
    goes_until,
    owning_link,
    tombstone_of,
)
from schemas.profile_row import Emptied, Emptiness, consent_cell, encode_cell
from schemas.pseudonym import Pseudonyms
from serving.store.protocol import RowUpdate, Store, WindowRead


class Buried(NamedTuple):
    """Keys of rows that say nothing now, and the anonymous ids that go with the one asked for: by pseudonym, sealed."""

    keys: list[str]
    others: dict[str, bytes]


def keep_consent(store: Store, key: str, said: Said) -> list[str]:
    """Write that an id opted in or out into its row; the keys of rows that answer otherwise now."""
    for refusal in store.write_identity([(key, consent_cell(said))]):
        raise StoreError(refusal.message)
    read = store.read_windows([key], 1)
    identity = read.identities.get(key, NOBODY)
    link = owning_link(identity.links, identity.unlinked)
    if link is not None:
        return _of_user(store, key, link.other, said)
    if said.opted_out:
        return _written(store, key, read, "opted_out")
    start = FOR_EVER if identity.linked else counting_from([Voice(identity.said, NEVER)])
    if start != FOR_EVER and not any(cell.time >= start for cell in read.cells[key]):
        return _written(store, key, read, "no_views")
    return [key]  # what counts now is for the stream to tell


def bury_id(store: Store, pseudonyms: Pseudonyms, raw_id: str, now: int) -> Buried:
    """Begin to forget an id, and the anonymous ids that were linked to it, with all of them up to ``now`` (ms UTC).

    What their rows say of other ids stays until the stream has seen whose views go with it. That takes an event for each of them: a
    late event of the first, once it is barred, lets the stream clear a row that alone led to the others.
    """
    everybody: dict[str, None] = {}
    others: dict[str, bytes] = {}
    found = set(pseudonyms.names(raw_id))
    while found:
        store.bury([tombstone_of(name, now) for name in sorted(found)])  # before looking: a link that comes later is barred
        everybody |= dict.fromkeys(sorted(found))
        linked = {key: sealed for key, sealed in _linked_by_then(store, found, now).items() if key not in everybody}
        others |= linked
        found = {name for key, sealed in linked.items() for name in pseudonyms.names_of(key, sealed)}.difference(everybody)
    read = store.read_windows([], 1)
    for key in everybody:
        store.empty_row(key, now)
        store.drop_membership(key, read.time)
    return Buried(list(everybody), others)


def _linked_by_then(store: Store, keys: Collection[str], now: int) -> dict[str, bytes]:
    """The anonymous ids that were linked to any of these, each with its sealed id."""
    named = {
        linked.other: linked.sealed
        for identity in store.read_windows(sorted(keys), 1).identities.values()
        for linked in identity.linked
    }
    theirs = store.read_windows(sorted(named), 1).identities if named else {}
    return {
        key: identity.sealed or named[key]
        for key, identity in theirs.items()
        if goes_until(identity, dict.fromkeys(keys, now)) != NEVER
    }


def _of_user(store: Store, key: str, user: str, said: Said) -> list[str]:
    """The same for an id that belongs to a user."""
    if said.opted_out:
        read = store.read_windows([user], 1)
        identity: Identity = read.identities.get(user, NOBODY)
        if any(link.other == key for link in counted(identity.linked)):
            return [key, *_written(store, user, read, "opted_out")]
    return [key, user]


def _written(store: Store, key: str, read: WindowRead, why: Emptiness) -> list[str]:
    for refusal in store.write_memberships([RowUpdate(key, read.time, encode_cell(Emptied(why)), b"", NEVER)]):
        raise StoreError(refusal.message)
    return [key]
