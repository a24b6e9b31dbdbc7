"""The tombstones of an archive: who may not come back into it, and how somebody gets one.

A tombstone is of a name. While there are several keys, sealed ids tell which names are one id's: who was forgotten under one of
them gets a tombstone under the one that comes, so that it still holds when the other key is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.identity import NEVER, digest_of, tombstone_of
from schemas.ledger import TOMBSTONE, UNLINK, entry_of_tombstone
from schemas.pseudonym import KeyRing, Pseudonyms
from transforms.erasing import Cleansed, Implied, cleansed
from transforms.ledger import change_ledger, ledger_mark, read_ledger, with_entries
from transforms.names import Names

SEALED_OF: Final = {"user_id": "sealed_user_id", "anonymous_id": "sealed_anonymous_id"}


class ArchiveGraves:
    """The tombstones and unlinkings in an archive's ledger, as of the last look; with a ``ring`` of keys, under all names."""

    def __init__(self, directory: str, ring: KeyRing | None = None) -> None:
        self._directory = directory
        self._names = None if ring is None or len(ring.keys) == 1 else Names(Pseudonyms(ring))
        self._mark = ""
        self._times: dict[bytes, int] = {}
        self._unlinked: dict[str, int] = {}

    @property
    def digests(self) -> Mapping[bytes, int]:
        """When each forgotten id was forgotten (ms UTC), by digest."""
        return self._times

    def look(self) -> bool:
        """Read the ledger when it has changed since the last look; whether it has."""
        mark = ledger_mark(self._directory)
        if mark == self._mark:
            return False
        ledger = read_ledger(self._directory)
        self._times = {bytes.fromhex(digest): time for digest, time in _newest(ledger, TOMBSTONE)}
        self._unlinked = dict(_newest(ledger, UNLINK))
        self._mark = mark
        return True

    def until_of(self, ids: pa.Array) -> NDArray[np.int64]:
        """For each pseudonym when it was forgotten (ms UTC), ``NEVER`` if it wasn't."""
        if not self._times:
            return np.full(len(ids), NEVER, np.int64)
        return np.array([self._times.get(digest_of(each), NEVER) for each in ids.to_pylist()], np.int64)

    def bury(self, people: Mapping[str, int]) -> None:
        """Put tombstones of ids, each forgotten at an instant (ms UTC), into the ledger, but those that are there."""
        new = {key: time for key, time in people.items() if self._times.get(digest_of(key), NEVER) < time}
        if new:
            entries = [entry_of_tombstone(tombstone_of(key, time)) for key, time in new.items()]
            change_ledger(self._directory, lambda ledger: with_entries(ledger, entries))
            self.look()

    def follow(self, implied: Mapping[str, Implied]) -> dict[str, int]:
        """Who is forgotten with a user they were linked to, and until when: where a link isn't void."""
        return {key: found.until for key, found in implied.items() if self._unlinked_at(key) < found.linked_at}

    def admitted(self, table: pa.Table) -> Cleansed:
        """Rows without what is of forgotten ids; who is forgotten because of a link in them gets a tombstone first."""
        if self._times and self._names is not None:
            self.bury(self._under_other_names(table, self._names))
        while self._times:
            done = cleansed(table, self)
            follow = {key: time for key, time in self.follow(done.implied).items() if self._times.get(digest_of(key), NEVER) < time}
            if not follow:
                return done
            self.bury(follow)
        return Cleansed(table, 0, 0, {})

    def hear(self, forgets: pa.Table) -> None:
        """Give those whom ``forget`` events are of a tombstone, and an anonymous id that such an event carries beside the user."""
        columns = (forgets[name].to_pylist() for name in ("user", "anonymous_id"))
        people: dict[str, int] = {}
        for user, anonymous, time in zip(*columns, forgets["event_time"].cast(pa.int64()).to_pylist(), strict=True):
            with_it = [anonymous] if anonymous not in (None, user) and self._unlinked_at(anonymous) < time else []
            for key in (user, *with_it):
                people[key] = max(time, people.get(key, NEVER))
        self.bury(people)

    def _unlinked_at(self, key: str) -> int:
        names = (key,) if self._names is None else self._names.of(key)
        return max(self._unlinked.get(name, NEVER) for name in names)

    def _under_other_names(self, table: pa.Table, known: Names) -> dict[str, int]:
        """Ids in some rows that were forgotten under another name than this, and when (ms UTC)."""
        known.bound()
        named: set[str] = set()
        for name, sealed in SEALED_OF.items():
            if sealed in table.column_names:
                for pair in table.select([name, sealed]).group_by([name, sealed], use_threads=False).aggregate([]).to_pylist():
                    if pair[name] is not None and pair[sealed] is not None:
                        known.learn(pair[name], pair[sealed])
                        named.add(pair[name])
        return {key: max(self._times.get(digest_of(name), NEVER) for name in known.of(key)) for key in named}


def _newest(ledger: pa.Table, kind: str) -> Iterable[tuple[str, int]]:
    """The keys of the entries of a kind, each with its newest time (ms UTC)."""
    newest = ledger.filter(pc.equal(ledger["kind"], kind)).group_by("key", use_threads=False).aggregate([("time", "max")])
    return zip(newest["key"].to_pylist(), newest["time_max"].to_pylist(), strict=True)
