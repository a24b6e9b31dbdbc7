"""Forgetting people everywhere, step by step: tombstones, rows, archive, ledger, files. Each step can be done again.

Whoever writes looks for tombstones before and after, so once these are there nothing comes back; what came meanwhile is found by
the search at the end (``pipelines.verification``), and then it is all done once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from apache_beam.io.filesystems import FileSystems

from schemas.errors import StoreUnavailableError
from schemas.identity import NEVER, goes_until, tombstone_of
from schemas.instants import SECOND_MS, clock_ms
from schemas.ledger import LINK, TOMBSTONE, entries_in, entry_of_tombstone
from schemas.profile_row import identity_of
from schemas.pseudonym import Pseudonyms, pseudonym_of, seal
from serving.store import Store
from transforms.archive_files import TEMPORARY, parts_of
from transforms.archive_graves import ArchiveGraves
from transforms.canary import Prepared
from transforms.erasing import Erased, Implied, Pair, counted_ids, erase_part, in_parallel, links_in, rewriting, united
from transforms.erasing_files import erase_lines, erase_table, kind_of
from transforms.forgetting import clear_rows, forget_people
from transforms.ledger import change_ledger, read_ledger, with_entries
from transforms.people import read_identities
from transforms.plain_files import Rewritten, pending_path
from transforms.traces import Traces

LEFTOVER_AGE_MS: Final = 60 * SECOND_MS  # a writer renames its file within seconds
_SETTLES_S: Final = 0.5
_ROWS_AT_ONCE: Final = 500
_COMPACT_WAIT_S: Final = 60.0

Say = Callable[[str], None]


class Places(NamedTuple):
    """Where people are forgotten; of files the paths. In ``rows``, over ``store``, the rows of all names of an id are one."""

    store: Store
    rows: Store
    archive: str | None
    dead_letters: tuple[str, ...]
    sessions: tuple[str, ...]
    files: tuple[str, ...]


class Person:
    """The ids to forget up to ``at`` (ms UTC), with all that they may be written as; more come when links lead to them."""

    def __init__(self, pseudonyms: Pseudonyms, at: int) -> None:
        self.at = at
        self._pseudonyms = pseudonyms
        self._keys: dict[str, None] = {}
        self._raw: dict[str, None] = {}
        self._sealed: set[bytes] = set()

    def add(self, raw_id: str) -> None:
        """Forget an id as senders write it."""
        self._raw[raw_id] = None
        for key in self._pseudonyms.ring.keys:
            self._keys[pseudonym_of(key, raw_id)] = None
            self._sealed.add(seal(key, raw_id))

    def add_key(self, key: str, sealed: bytes) -> None:
        """Forget an id by one of its pseudonyms, and by the others where it is what was sealed."""
        self._keys[key] = None
        raw_id = self._pseudonyms.raw_of(key, sealed)
        if raw_id is not None:
            self.add(raw_id)

    @property
    def until(self) -> dict[str, int]:
        """Until when each pseudonym is forgotten."""
        return dict.fromkeys(self._keys, self.at)

    @property
    def traces(self) -> Traces:
        """What to look for."""
        return Traces(self.until, dict.fromkeys(self._raw, self.at), self._sealed)


@dataclasses.dataclass
class Done:
    """What went, by kind; how the archive was gone through; and how long each phase took, in seconds."""

    deleted: Counter[str] = dataclasses.field(default_factory=Counter)
    archive: Erased = Erased()
    seconds: Counter[str] = dataclasses.field(default_factory=Counter)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        began = time.monotonic()
        yield
        self.seconds[name] += round(time.monotonic() - began, 3)  # type: ignore[assignment]


def bury(places: Places, person: Person) -> None:
    """Put tombstones of all ids known so far into the store and the ledger; of the ledger that takes what it says of them, too."""
    tombstones = [tombstone_of(key, time) for key, time in person.until.items()]
    places.store.bury(tombstones)
    if places.archive is not None:
        entries = [entry_of_tombstone(tombstone) for tombstone in tombstones]
        change_ledger(places.archive, lambda ledger: with_entries(ledger, entries))


def follow_links(places: Places, person: Person, say: Say) -> None:
    """Add every anonymous id that counts and was linked to the users by then: what rows, ledger and archive tell of that."""
    follow_rows(places.rows, person)
    if places.archive is None:
        return
    graves, until = ArchiveGraves(places.archive), person.until
    graves.look()
    found: list[Mapping[Pair, Implied]] = []
    for entry in entries_in(read_ledger(places.archive)):
        if entry.kind == LINK and entry.time <= until.get(entry.other, -1):
            found.append({(entry.other, entry.key): Implied(entry.time, person.at, entry.sealed)})
    work = functools.partial(links_in, buried=person.traces)
    found += in_parallel(work, parts_of(places.archive), functools.partial(_tell, say, "looked for links in"))
    implied = counted_ids(united(found))
    for key in graves.follow(implied):
        person.add_key(key, implied[key].sealed)


def count_rows(places: Places, person: Person, done: Done) -> None:
    """Count what rows have of people, before there are tombstones: once a writer sees these, it takes people out, too."""
    follow_rows(places.rows, person)
    dumps = [places.store.dump(key) for key in person.until]
    done.deleted["views"] += sum(cell.time <= person.at for dump in dumps for cell in dump.views)
    done.deleted["rows"] += sum(bool(dump.views or dump.base or dump.identity) for dump in dumps)


def erase_rows(places: Places, rules: Prepared, person: Person) -> None:
    """Take people out of the store's rows."""
    for key in forget_people(places.rows, rules, person.until):
        for name in places.rows.names(key):
            person.add_key(name, b"")


def clear_naming(places: Places, rules: Prepared, person: Person, rows: Iterable[str]) -> None:
    """Take out of others' rows what names people, no more; anonymous ids whose rows have evidence of theirs are followed."""
    until, others = person.until, dict[str, list[str]]()
    for key in sorted(rows):
        identity = identity_of(places.store.dump(key).identity)
        if goes_until(identity, until) != NEVER:
            person.add_key(key, identity.sealed)
        else:
            named = [*(link.other for link in identity.links), *(linked.other for linked in identity.linked)]
            others[key] = [other for other in named if other in until]
    for start in range(0, len(others), _ROWS_AT_ONCE):
        page = dict(itertools.islice(others.items(), start, start + _ROWS_AT_ONCE))
        clear_rows(places.rows, rules, list(dict.fromkeys([*page, *itertools.chain.from_iterable(page.values())])))


def erase_archive(places: Places, person: Person, done: Done, say: Say) -> None:
    """Write the archive's files anew that hold anything of people, also those that come into being meanwhile."""
    assert places.archive is not None
    seen: set[tuple[str, float]] = set()
    traces = person.traces

    def erased(path: str) -> tuple[str, Erased]:
        return path, erase_part(path, traces)

    with rewriting(places.archive):
        while paths := [path for path in parts_of(places.archive) if (path, _changed_at(path)) not in seen]:
            seen.update((path, _changed_at(path)) for path in paths)
            found = list(in_parallel(erased, paths, functools.partial(_tell, say, "went through")))
            done.archive = sum((each for _, each in found), done.archive)
            seen.update((path, _changed_at(path)) for path, each in found if each.rewritten)
    done.deleted["events"] = done.archive.removed
    done.deleted["anonymous_ids_in_events"] = done.archive.changed
    done.deleted["leftovers"] += _remove_leftovers(places.archive)


def erase_ledger(places: Places, before: int, done: Done) -> None:
    """Count what the tombstones took out of the ledger, which had ``before`` entries of other kinds."""
    assert places.archive is not None
    done.deleted["ledger_entries"] += max(0, before - ledger_size(places.archive))


def ledger_size(archive: str) -> int:
    """How many entries a ledger has that are no tombstones."""
    return sum(kind != TOMBSTONE for kind in read_ledger(archive)["kind"].to_pylist())


def erase_files(places: Places, person: Person, done: Done) -> None:
    """Take people out of dead letters, sessions tables and other files, as far as these have lines or rows."""
    traces = person.traces
    for path in places.dead_letters:
        if os.path.exists(path):
            _count(done, "dead_letters", erase_lines(path, traces))
    for path in places.sessions:
        _count(done, "sessions", erase_table(path, traces))
    for path in places.files:
        kind = kind_of(path)
        if kind == "lines":
            _count(done, "lines", erase_lines(path, traces))
        elif kind == "table":
            _count(done, "table_rows", erase_table(path, traces))
    for path in (*places.dead_letters, *places.files):
        pending_path(path).unlink(missing_ok=True)


def compact(store: Store) -> None:
    """Write a SQLite store's file anew: what lies between its cells is no cell, so overwriting cells as they go leaves it.

    It takes as long as copying the file; writers wait meanwhile. ``StoreUnavailableError`` while others don't let go of it.
    """
    try:
        with contextlib.closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"), timeout=_COMPACT_WAIT_S)) as connection:
            connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        msg = f"store {store.uri} can't be written anew, must be free for that, on a disk with room for a copy: {error}"
        raise StoreUnavailableError(msg) from error
    store.purge()


def wait(seconds: float, since: float) -> None:
    """Wait until so many seconds have passed since an instant of the monotonic clock."""
    time.sleep(max(0.0, since + seconds - time.monotonic()))


def settle() -> None:
    """Wait a little for writers that had begun before they saw the tombstones."""
    time.sleep(_SETTLES_S)


def follow_rows(store: Store, person: Person) -> None:
    """Add every anonymous id that the store's rows say was linked to the users by then."""
    until = person.until
    users = read_identities(store, list(until)).identities
    sealed = {linked.other: linked.sealed for identity in users.values() for linked in identity.linked}
    theirs = read_identities(store, list(sealed)).identities if sealed else {}
    for key, identity in theirs.items():
        if goes_until(identity, until) != NEVER:
            person.add_key(key, sealed[key] or identity.sealed)


def _remove_leftovers(archive: str) -> int:
    """Remove unfinished files of writers that were killed."""
    found = FileSystems.match([FileSystems.join(archive, TEMPORARY, "*")])[0].metadata_list
    old = [file.path for file in found if file.last_updated_in_seconds * SECOND_MS < clock_ms() - LEFTOVER_AGE_MS]
    if old:
        FileSystems.delete(old)
    return len(old)


def _changed_at(path: str) -> float:
    """When a file was last written, by its file system; ``NEVER`` when it is gone: its date may have been removed."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_mtime_ns
    found = FileSystems.match([path])[0].metadata_list
    return float(found[0].last_updated_in_seconds) if found else NEVER


def _count(done: Done, what: str, rewritten: Rewritten) -> None:
    done.deleted[what] += rewritten.removed
    done.deleted["anonymous_ids_in_lines"] += rewritten.changed


def _tell(say: Say, what: str, number: int, of: int) -> None:
    if number == of or number % 100 == 0:
        say(f"{what} {number:,} of {of:,} files of the archive")
