"""Moving rows to the names of a newer pseudonym key: all that they hold, while others write.

First copied, then evaluated, then taken out, and of the old row only what was copied: killed anywhere, done twice, or racing a
writer that knows the old key alone, nothing is lost, and a reader that asks for the newer name first always finds somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from schemas.identity import NEVER, Link, Linked, tombstone_of
from schemas.profile_row import IdentityCell, ViewCell, cells_of, decode_base, identity_of
from schemas.pseudonym import version_of
from serving.store import Dump, Store
from transforms.canary import Prepared
from transforms.forgetting import Graves, clear_rows
from transforms.names import Names, OneRowEach
from transforms.pages import pages_of
from transforms.rows import refresh_rows

ROWS_AT_ONCE: Final = 200
CELLS_AT_ONCE: Final = 20_000  # Bigtable takes 100,000 mutations a request


class RowsMoved(NamedTuple):
    """What became of rows under older keys: moved, with how many views; left, as nobody sealed their ids; memberships dropped.

    ``names``: older names of others that stay in what was moved, of ids that nobody sealed. ``refused``: by the store, for good.
    """

    moved: int = 0
    views: int = 0
    unsealed: int = 0
    dropped: int = 0
    names: int = 0
    refused: int = 0

    def __add__(self, other: tuple[int, ...]) -> RowsMoved:  # type: ignore[override]
        """Return both together."""
        return RowsMoved(*map(sum, zip(self, other, strict=True)))


def move_rows(
    store: OneRowEach,
    rules: Prepared,
    rows: Mapping[str, str],
    graves: Graves,
    told: Callable[[Iterable[str]], None] = lambda _: None,
) -> RowsMoved:
    """Move rows: by key, the key of the row that each belongs into. Doing it again, or half of it, changes nothing.

    Who was forgotten meanwhile is cleared away again before the old rows go: as long as those are there, it is all done anew.
    ``told`` hears whose rows are to be written.
    """
    done = RowsMoved()
    for page in pages_of(rows, ROWS_AT_ONCE):
        time = store.beneath.read_windows([], 1).time
        for part in _parts(store.dumps(page)):
            done += _move(store, rules, {old: rows[old] for old in part}, part, time, graves, told)
    return done


def move_older(
    store: OneRowEach, rules: Prepared, keys: Sequence[str], graves: Graves, told: Callable[[Iterable[str]], None]
) -> None:
    """Move the older rows of people whose rows were read just now. ``keys`` are those that were written.

    Who doesn't write with the newest key looks again: another may have begun rows under a newer one meanwhile.
    """
    if store.knows_newer:
        store.read_windows(keys, 1)
    rows = store.older_rows()
    move_rows(store, rules, rows, graves, told)
    store.older_rows()  # of others, whom these are linked to: they are moved when it is about them


def rotate_rows(store: OneRowEach, rules: Prepared, told: Callable[[RowsMoved], None] = lambda _: None) -> RowsMoved:
    """Move all rows that lie under older keys than the one that writes; ``told`` hears how far it is after each page."""
    done, graves = RowsMoved(), Graves()
    graves.look(store)
    for page in pages_of((key for key in store.keys() if store.is_older(key)), ROWS_AT_ONCE):
        store.bound()
        read = store.beneath.read_windows(page, 1)
        for key, identity in read.identities.items():
            store.known.learn_identity(key, identity)
        rows = {key: new for key in page if (new := store.known.current(key)) != key}
        bury_again(store, rows.values(), graves)
        done += move_rows(store, rules, rows, graves)
        for key in page:
            if key not in rows and (read.cells[key] or key in read.identities):
                done += RowsMoved(unsealed=1)
            elif key not in rows:  # what a writer that lost a race left
                store.beneath.drop_membership(key, read.time)
                done += RowsMoved(dropped=1)
        told(done)
    return done


def bury_again(store: Store, keys: Iterable[str], graves: Graves) -> None:
    """Tombstones are of names: who was forgotten under an old one is forgotten under all, also when the old key is gone."""
    again = [
        tombstone_of(name, time)
        for key in dict.fromkeys(keys)
        if (time := graves.time_of(key)) != NEVER
        for name in store.names(key)
        if graves.exactly(name) < time
    ]
    if again:
        store.bury(again)


def copied(dump: Dump, old: str, new: str, known: Names) -> tuple[list[ViewCell], list[IdentityCell]]:
    """What the new row gets of an old one: views, those of the archive as cells of their own, and what it says of whom.

    Others are named, and all ids sealed, under the key of the new row.
    """
    version = version_of(new)
    views = dump.views if dump.base is None else sorted({*dump.views, *decode_base(dump.base[1])})
    who = known.renamed(identity_of(dump.identity), version)
    return views, cells_of(who._replace(sealed=known.sealed(old, version, who.sealed)))


def _move(
    store: OneRowEach,
    rules: Prepared,
    rows: Mapping[str, str],
    dumps: Mapping[str, Dump],
    time: int,
    graves: Graves,
    told: Callable[[Iterable[str]], None],
) -> RowsMoved:
    # Under the names that this store gives to others: a person is found by one name alone.
    ours = {new: store.known.current(new) for new in rows.values()}
    about = set(ours.values())

    def noted(keys: Iterable[str]) -> None:
        about.update(keys := list(keys))
        told(keys)

    told(about)
    _learn_others(store, dumps)
    views: list[tuple[str, ViewCell]] = []
    cells: list[tuple[str, IdentityCell]] = []
    for old, new in rows.items():
        its_views, its_cells = copied(dumps[old], old, new, store.known)
        views += [(new, cell) for cell in its_views]
        cells += [(new, cell) for cell in its_cells]
    lost: set[str] = set()
    for start in range(0, len(views), CELLS_AT_ONCE):
        part = views[start : start + CELLS_AT_ONCE]
        lost |= {part[refusal.position][0] for refusal in store.beneath.append(part).refused}
    lost |= {cells[refusal.position][0] for refusal in store.beneath.write_identity(cells)}
    linked = {ours[new] for old, new in rows.items() if _links_in(dumps[old])}
    refused = refresh_rows(store, rules, list(about), linked, told=noted).refused
    lost |= {new for new, key in ours.items() if key in refused}
    graves.look(store)
    if buried := list(graves.among(about)):
        clear_rows(store, rules, buried, graves=graves)
    done = {old: dumps[old] for old, new in rows.items() if new not in lost}
    store.take_out(done, time)
    names = sum(store.is_older(store.known.current(link.other)) for dump in done.values() for link in _links_in(dump))
    return RowsMoved(len(done), sum(len(dump.views) for dump in done.values()), names=names, refused=len(rows) - len(done))


def _learn_others(store: OneRowEach, dumps: Mapping[str, Dump]) -> None:
    """Find out who the ids are that rows name without their sealed ids: their own rows know."""
    others = {link.other for dump in dumps.values() for link in _links_in(dump) if not link.sealed}
    unknown = [other for other in others if store.known.of(other) == (other,)]
    for key, identity in store.beneath.read_windows(unknown, 1).identities.items():
        store.known.learn_identity(key, identity)


def _links_in(dump: Dump) -> tuple[Link | Linked, ...]:
    identity = identity_of(dump.identity)
    return (*identity.links, *identity.linked)


def _parts(dumps: Mapping[str, Dump]) -> Iterator[dict[str, Dump]]:
    """The dumps in parts that a store takes at once."""
    part: dict[str, Dump] = {}
    size = 0
    for key, dump in dumps.items():
        size += len(dump.views) + len(dump.identity)
        if part and size > CELLS_AT_ONCE:
            yield part
            part, size = {}, len(dump.views) + len(dump.identity)
        part[key] = dump
    if part:
        yield part
