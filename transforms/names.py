"""One id under several pseudonym keys: its names, and a store in which the rows of all its names are one.

While a ring has several keys, what is known of an id may lie in rows of several names. Sealed ids, in rows and in events, tell
which names are one id's; nobody who claims so is believed, the pseudonym is computed again. Rows of ids that nobody has sealed
stay by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

from schemas.identity import NOBODY, Identity, Link, Linked
from schemas.profile_row import LINKED, LINKS, SEALED, IdentityCell, ProfileRow, ViewCell
from schemas.pseudonym import Pseudonyms, seal, version_of
from serving.store import SAID_AT_ONCE, Appended, Refusal, RowUpdate, Store, WindowRead

MAX_NAMES: Final = 100_000

L = TypeVar("L", Link, Linked)


class Names:
    """Which pseudonyms are one id's, as far as sealed ids have told; it forgets when there are too many."""

    def __init__(self, pseudonyms: Pseudonyms) -> None:
        self._pseudonyms = pseudonyms
        self._keys = {key.version: key for key in pseudonyms.ring.keys}
        self._current = pseudonyms.ring.current.version
        self._all: dict[str, tuple[str, ...]] = {}
        self._raw: dict[str, str] = {}

    def learn(self, key: str, sealed: bytes) -> None:
        """Take note of the sealed id of a pseudonym, where it is that."""
        if key in self._all or not sealed:
            return
        raw_id = self._pseudonyms.opened(sealed)
        if raw_id is not None:
            names = self._pseudonyms.names(raw_id)
            for name in names:  # of whose they are: the key isn't among them where somebody claims what isn't so
                self._all[name], self._raw[name] = names, raw_id

    def learn_identity(self, key: str, identity: Identity) -> None:
        """Take note of all sealed ids in a row."""
        self.learn(key, identity.sealed)
        for link in identity.links:
            self.learn(link.other, link.sealed)
        for linked in identity.linked:
            self.learn(linked.other, linked.sealed)

    def bound(self) -> None:
        """Forget everything when it is too much; not while rows that were read with it are still to be written."""
        if len(self._all) > MAX_NAMES:
            self._all, self._raw = {}, {}

    def of(self, key: str) -> tuple[str, ...]:
        """All names of an id, the newest key's first; the one given where no other is known."""
        return self._all.get(key, (key,))

    def current(self, key: str) -> str:
        """The id's name under the key that writes."""
        return self.under(key, self._current)

    def under(self, key: str, version: int) -> str:
        """The id's name under the key of a version; the one given where that isn't known."""
        return next((name for name in self._all.get(key, ()) if version_of(name) == version), key)

    def sealed(self, key: str, version: int, otherwise: bytes = b"") -> bytes:
        """The id, sealed with the key of a version, where it is known."""
        return seal(self._keys[version], self._raw[key]) if key in self._raw and version in self._keys else otherwise

    def renamed(self, identity: Identity, version: int | None = None) -> Identity:
        """What a row says, with the names of others under one key: that of a version, else the one that writes."""
        under = version or self._current
        return identity._replace(
            links=tuple(sorted({self._renamed(link, under) for link in identity.links})),
            linked=tuple(sorted({self._renamed(linked, under) for linked in identity.linked})),
        )

    def _renamed(self, link: L, version: int) -> L:
        name, sealed = self.under(link.other, version), self.sealed(link.other, version, link.sealed)
        return link._replace(other=name, sealed=sealed)


class OneRowEach:
    """``serving.store.Store`` over another in which the rows of all names of an id are one, that of the key which writes.

    A membership is written under the newest name that has a row, so it is always where readers look first. With ``moves`` it takes
    note of rows that ought to be moved, for who asks for ``older_rows`` after each batch.
    """

    def __init__(self, store: Store, pseudonyms: Pseudonyms, *, moves: bool = False) -> None:
        self._moves = moves
        self.beneath, self.known = store, Names(pseudonyms)
        self._current = pseudonyms.ring.current.version
        self.knows_newer = self._current < pseudonyms.ring.keys[0].version
        self._newest: dict[str, str] = {}  # by name under the current key, where a newer one has a row
        self._older: dict[str, str] = {}
        self.uri, self.init, self.check, self.close = store.uri, store.init, store.check, store.close
        self.write_state, self.read_state, self.purge = store.write_state, store.read_state, store.purge
        self.bury, self.burials, self.tombstones = store.bury, store.burials, store.tombstones
        self.dump, self.dumps, self.take_out = store.dump, store.dumps, store.take_out
        self.keys, self.scan = store.keys, store.scan

    def names(self, key: str) -> Sequence[str]:
        """The keys of all rows of an id, newest first."""
        return self.known.of(key)

    def learn(self, cells: Iterable[tuple[str, IdentityCell]]) -> None:
        """Take note of the sealed ids among cells that are to be written."""
        self.bound()
        for key, cell in cells:
            if cell.qualifier == SEALED:
                self.known.learn(key, cell.value)

    def bound(self) -> None:
        """Forget what is too much; not while rows that were read with it are still to be written."""
        self.known.bound()
        if len(self._newest) > MAX_NAMES:
            self._newest = {}

    def is_older(self, key: str) -> bool:
        """Whether a name is one of an older key than the one that writes."""
        return version_of(key) < self._current

    def older_rows(self) -> dict[str, str]:
        """Rows seen since the last call that ought to be moved: by key, the key of the row that they belong into."""
        older, self._older = self._older, {}
        return older

    def append(self, views: Sequence[tuple[str, ViewCell]]) -> Appended:
        """Write views into the rows of the key that writes."""
        return self.beneath.append([(self.known.current(key), cell) for key, cell in views])

    def write_bases(self, bases: Sequence[tuple[str, bytes]], until: int) -> list[Refusal]:
        """Write the archive's views into the rows of the key that writes."""
        return self.beneath.write_bases([(self.known.current(key), views) for key, views in bases], until)

    def write_identity(self, cells: Sequence[tuple[str, IdentityCell]]) -> list[Refusal]:
        """Write identity cells into the rows of the key that writes."""
        return self.beneath.write_identity([(self.known.current(key), cell) for key, cell in cells])

    def delete_identity(self, columns: Sequence[tuple[str, bytes]]) -> None:
        """Delete identity cells in the rows of all names, whichever name of another id they have in them."""
        self.beneath.delete_identity(
            list(
                dict.fromkeys(
                    (name, variant)
                    for key, qualifier in columns
                    for variant in self._variants(qualifier)
                    for name in self.known.of(key)
                )
            )
        )

    def empty_row(self, key: str, until: int) -> None:
        """Delete views in the rows of all names."""
        for name in self.known.of(key):
            self.beneath.empty_row(name, until)

    def drop_membership(self, key: str, time: int) -> None:
        """Delete membership and profile in the rows of all names."""
        for name in self.known.of(key):
            self.beneath.drop_membership(name, time)

    def forget(self, keys: Sequence[str]) -> None:
        """Delete the rows of all names."""
        self.beneath.forget([name for key in keys for name in self.known.of(key)])

    def read_windows(self, keys: Sequence[str], limit: int, said: int = SAID_AT_ONCE) -> WindowRead:
        """The newest views of each id, in whichever of its rows they lie, and what those say of it."""
        read = self.beneath.read_windows(self._all_names(keys), limit, said)
        identities, cells = dict(read.identities), dict(read.cells)
        for key, identity in read.identities.items():
            self.known.learn_identity(key, identity)
        if missing := [name for name in self._all_names(keys) if name not in cells]:  # a row told of its id only now
            more = self.beneath.read_windows(missing, limit, said)
            cells, identities = cells | more.cells, identities | more.identities
            for key, identity in more.identities.items():
                self.known.learn_identity(key, identity)
        merged = {key: sorted({cell for name in self.known.of(key) for cell in cells[name]})[:limit] for key in keys}
        who = {key: self._merged(self.known.of(key), identities) for key in keys}
        for key in keys:
            self._see(key, [name for name in self.known.of(key) if cells[name] or name in identities])
        return WindowRead(read.time, merged, {key: identity for key, identity in who.items() if identity != NOBODY})

    def write_memberships(self, updates: Sequence[RowUpdate]) -> list[Refusal]:
        """Write membership and profile into the newest row of each id."""
        return self.beneath.write_memberships([update._replace(key=self._written(update.key)) for update in updates])

    def read_row(self, key: str) -> ProfileRow:
        """The row of one id."""
        return self.read_rows([key])[key]

    def read_rows(self, keys: Sequence[str]) -> dict[str, ProfileRow]:
        """Of the rows of each id the newest that has a membership, or says why there is none."""
        found = self.beneath.read_rows(self._all_names(keys))
        return {key: next(filter(_speaks, map(found.__getitem__, self.known.of(key))), found[key]) for key in keys}

    def _all_names(self, keys: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(name for key in keys for name in self.known.of(key)))

    def _merged(self, names: Iterable[str], identities: Mapping[str, Identity]) -> Identity:
        found = [self.known.renamed(identities[name]) for name in names if name in identities]
        if not found:
            return NOBODY
        return Identity(
            tuple(sorted({link for each in found for link in each.links})),
            tuple(sorted({link for each in found for link in each.linked})),
            tuple(sorted({said for each in found for said in each.said})),
            max(each.unlinked for each in found),
            next((each.sealed for each in found if each.sealed), b""),
        )

    def _see(self, key: str, rows: Sequence[str]) -> None:
        """Take note of which of an id's rows there are, newest first."""
        current = self.known.current(key)
        newest = max([current, *rows], key=version_of)
        self._newest.pop(current, None)
        if newest != current:
            self._newest[current] = newest
        if self._moves:
            self._older |= {row: newest for row in rows if version_of(row) < version_of(newest)}

    def _written(self, key: str) -> str:
        current = self.known.current(key)
        return self._newest.get(current, current)

    def _variants(self, qualifier: bytes) -> Iterator[bytes]:
        """The column, and if it names another id, those with its other names."""
        if qualifier[:1] == LINKS:
            before, nul, other = qualifier.rpartition(b"\0")
            yield from (before + nul + name.encode() for name in self.known.of(other.decode()))
        elif qualifier[:1] == LINKED:
            yield from (LINKED + name.encode() for name in self.known.of(qualifier[1:].decode()))
        else:
            yield qualifier


def _speaks(row: ProfileRow) -> bool:
    """Whether a reader learns something from a row."""
    return row.membership is not None or row.emptied is not None or row.link is not None or row.opted_out
