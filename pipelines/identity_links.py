"""Links of an id as its rows hold them: what is evidence, which link wins, and how one is undone in rows and ledger."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from schemas.errors import ConfigError, StoreError
from schemas.identity import NEVER, NOBODY, Identity, Link, Linked, counted, links_void_until, owning_link
from schemas.instants import format_instant
from schemas.ledger import UNLINK, Entry, entries_in
from schemas.profile_row import linked_cell, unlinked_cell
from schemas.pseudonym import Pseudonyms, is_pseudonym
from transforms.canary import Prepared
from transforms.forgetting import Graves
from transforms.ledger import change_ledger, read_ledger, with_entries
from transforms.names import OneRowEach
from transforms.people import read_people
from transforms.rows import refresh_rows

LINKS_VOID: Final = "events with both ids link them anew from {} on"
_DIGITS: Final = re.compile(r"(?:[1-9]\d{0,5}:)?([0-9a-f]{4,64})", re.ASCII)

Verdict = Literal["first", "same", "conflict", "void"]


class Known(NamedTuple):
    """A store, in which the rows of all names of an id are one, and the names of ids."""

    store: OneRowEach
    pseudonyms: Pseudonyms

    def key(self, raw_id: str) -> str:
        """The id's name under the key that writes; the store learns its others."""
        key = self.pseudonyms(raw_id)
        self.store.known.learn(key, self.pseudonyms.seal(raw_id))
        return key

    def identities(self, keys: Iterable[str]) -> Mapping[str, Identity]:
        """What rows say of their ids."""
        return self.store.read_windows(list(dict.fromkeys(keys)), 1).identities


class Found(NamedTuple):
    """A link that can be undone: the anonymous id, its user, and what its row says; ``done``: in the rows it is already."""

    anonymous: str
    user: str
    identity: Identity
    done: bool = False


def verdict_of(link: Link, identity: Identity) -> Verdict:
    """What a link of an anonymous row comes to: it wins, says the same again, comes too late for another user, or was undone."""
    if link.time <= identity.unlinked:
        return "void"
    first = owning_link(identity.links, identity.unlinked)
    if first is None or link == first:
        return "first"
    return "same" if link.other == first.other else "conflict"


def identity_document(known: Known, raw_id: str) -> dict[str, Any]:
    """What ``forecourt identity --json`` prints: links from both sides, consents, whether forgotten; ids as pseudonyms."""
    key = known.key(raw_id)
    people = read_people(known.store, [key])
    identity, owner = people.identity(key), people.owner(key)
    theirs = known.identities(linked.other for linked in identity.linked)
    graves = Graves()
    graves.look(known.store)
    counts = {linked.other for linked in counted(identity.linked)}
    return {
        "user": raw_id,
        "pseudonym": key,
        "belongs_to": owner,
        "person_opted_out": people.person(owner or key).opted_out,
        **_said(key, identity, graves),
        "linked": [
            _linked(key, linked.other, theirs.get(linked.other, NOBODY), graves, counts=linked.other in counts)
            for linked in identity.linked
        ],
    }


def find(known: Known, user: str, text: str, archive: str | None) -> Found:
    """The link that is meant; ``ConfigError`` when there is none that can be undone. With an archive one may be half undone."""
    key = known.key(user)
    identity = known.identities([key]).get(key)
    if identity is None:
        msg = "USER, must be an id with a row that says something of whom it is linked to: nothing is known of this one"
        raise ConfigError(msg)
    given = known.key(text)
    candidates = [linked.other for linked in identity.linked]
    chosen = [given] if given in candidates else [other for other in candidates if _is_prefix(text, other)]
    if len(chosen) > 1:
        msg = f"LINK == {text}…, must tell one of USER's links from the others: {len(chosen)} begin so"
        raise ConfigError(msg)
    anonymous = chosen[0] if chosen else text if is_pseudonym(text) else given
    theirs = known.identities([anonymous]).get(anonymous, NOBODY)
    owner = owning_link(theirs.links, theirs.unlinked)
    if owner is None and theirs.unlinked != NEVER:
        if archive is not None and not _in_ledger(archive, anonymous, theirs.unlinked):
            return Found(anonymous, key, theirs, done=True)
        msg = f"LINK, must be a link that counts: it was undone already, all up to {format_instant(theirs.unlinked)} are void"
        raise ConfigError(msg)
    if owner is not None and owner.other == key:
        return Found(anonymous, key, theirs)
    if owner is not None and any(link.other == key for link in theirs.links):
        msg = f"LINK, must belong to USER: its first link is to {_short(owner.other)}, USER's came later and moved nothing"
        raise ConfigError(msg)
    msg = "LINK, must be an id that is linked to USER, or begin as its pseudonym does: there is none (forecourt identity USER)"
    raise ConfigError(msg)


def unlink(known: Known, rules: Prepared, found: Found, archive: str | None, now: int) -> dict[str, Any]:
    """Undo all links of an anonymous id up to the end of the day of ``now`` (ms UTC); what ``--json`` prints.

    The ledger goes first: whoever is killed in between can do it again, which rows that know it already would refuse.
    """
    until = found.identity.unlinked if found.done else links_void_until(now)
    if archive is not None:
        entry = Entry(UNLINK, found.anonymous, until, sealed=found.identity.sealed)
        change_ledger(archive, lambda ledger: with_entries(ledger, [entry]))
    refreshed = [found.anonymous] if found.done else _undone(known.store, rules, found, until)
    return {
        "anonymous": found.anonymous,
        "user": found.user,
        "void_until": format_instant(until),
        "refreshed": refreshed,
        "ledger": archive is not None,
    }


def _undone(store: OneRowEach, rules: Prepared, found: Found, until: int) -> list[str]:
    """Say so in the row, to running streams, and refresh everybody who was ever linked: only then do the links go."""
    for refusal in store.write_identity([(found.anonymous, unlinked_cell(until))]):
        raise StoreError(refusal.message)
    store.bury([])
    for message in refresh_rows(store, rules, [found.anonymous], relinked=[found.anonymous]).refused.values():
        raise StoreError(message)
    users = list(dict.fromkeys(link.other for link in found.identity.links))
    idle = [(user, linked_cell(Linked(found.anonymous, b"")).qualifier) for user in users]
    store.delete_identity(idle)
    return [found.anonymous, *users]


def _said(key: str, identity: Identity, graves: Graves) -> dict[str, Any]:
    """What a row says of its id."""
    forgotten = graves.time_of(key)
    return {
        "consents": [{"time": format_instant(said.time), "opted_out": said.opted_out} for said in identity.said],
        "forgotten": None if forgotten == NEVER else format_instant(forgotten),
        "unlinked": None if identity.unlinked == NEVER else format_instant(identity.unlinked),
        "links": [
            {
                "user": link.other,
                "time": format_instant(link.time),
                "event_id": link.event_id,
                "event_type": link.event_type,
                "verdict": verdict_of(link, identity),
            }
            for link in identity.links
        ],
    }


def _linked(user: str, key: str, identity: Identity, graves: Graves, *, counts: bool) -> dict[str, Any]:
    """An anonymous id that was seen with a user."""
    owner = owning_link(identity.links, identity.unlinked)
    belongs_to = None if owner is None else owner.other
    about = {"anonymous": key, "belongs_to": belongs_to, "belongs": belongs_to == user, "counts": belongs_to == user and counts}
    return {**about, **_said(key, identity, graves)}


def _is_prefix(text: str, pseudonym: str) -> bool:
    digits = _DIGITS.fullmatch(text)
    return digits is not None and (pseudonym.startswith(text) or pseudonym.partition(":")[2].startswith(text))


def _in_ledger(archive: str, anonymous: str, until: int) -> bool:
    return any(
        entry.kind == UNLINK and entry.key == anonymous and links_void_until(entry.time) >= until
        for entry in entries_in(read_ledger(archive))
    )


def _short(pseudonym: str) -> str:
    return f"{pseudonym.partition(':')[2][:12]}…"
