"""What is left under each pseudonym key, in store and archive, and so whether it may be destroyed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from schemas.instants import DAY_MS
from schemas.pseudonym import KeyRing, version_of
from serving.store import Store
from transforms.archive_files import parts_of
from transforms.moving_archive import ledger_versions, versions_in

TOMBSTONE_DAYS: Final = 38  # Pub/Sub keeps messages for at most 31 days, dead letters are kept for 7


class KeyUse(NamedTuple):
    """What bears a key's version: rows, files of archives, entries of their ledgers, tombstones and the newest's time (ms UTC).

    ``files`` and ``entries`` are ``None`` where no archive was looked at.
    """

    version: int
    known: bool
    writes: bool
    rows: int
    files: int | None
    entries: int | None
    tombstones: int
    newest_tombstone: int | None

    def kept_by(self, now: int) -> list[str]:
        """Why the key can't be destroyed yet; empty when it may be."""
        if self.writes:
            return ["it writes"]
        why: list[str] = []
        for number, what in ((self.rows, "rows"), (self.files or 0, "archive files"), (self.entries or 0, "ledger entries")):
            if number:
                why.append(f"{number} {what}")
        if self.newest_tombstone is not None and self.newest_tombstone > now - TOMBSTONE_DAYS * DAY_MS:
            days = (now - self.newest_tombstone) / DAY_MS
            why.append(f"its newest tombstone is {max(days, 0):.1f} days old, must be {TOMBSTONE_DAYS}")
        return why


def key_uses(ring: KeyRing, store: Store, archives: Sequence[str]) -> list[KeyUse]:
    """The use of every key of the ring, and of others that were met, newest first."""
    rows = Counter(map(version_of, store.keys()))
    graves: dict[int, list[int]] = {}
    files, entries = Counter[int](), Counter[int]()
    for tombstone in store.tombstones():
        graves.setdefault(tombstone.version, []).append(tombstone.time)
    for archive in archives:
        for path in parts_of(archive):
            files.update(versions_in(path))
        named, buried = ledger_versions(archive)
        entries.update(named)
        for version, times in buried.items():
            graves.setdefault(version, []).extend(times)
    keys = {key.version for key in ring.keys}
    return [
        KeyUse(
            version,
            version in keys,
            version == ring.current.version,
            rows[version],
            files[version] if archives else None,
            entries[version] if archives else None,
            len(graves.get(version, ())),
            max(graves.get(version, ()), default=None),
        )
        for version in sorted(keys.union(rows, files, entries, graves), reverse=True)
    ]


def all_older_unused(uses: Iterable[KeyUse], current: int, now: int) -> bool:
    """Whether every key older than the one that writes may be destroyed."""
    return not any(use.kept_by(now) for use in uses if use.version < current)
