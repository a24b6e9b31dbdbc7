"""Tombstones of an archive that a store lacks: one that was made anew from the archive refuses forgotten people too."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from schemas.identity import NEVER, Tombstone, digest_of
from schemas.ledger import TOMBSTONE, entries_in
from schemas.release import Release
from serving.store import open_store
from transforms.canary import prepared
from transforms.forgetting import clear_rows
from transforms.ledger import read_ledger
from transforms.pages import pages_of

KEYS_AT_ONCE: Final = 250


def bury_as_archived(store_uri: str, archive: str, release: Release) -> int:
    """Bury in a store whom an archive's ledger says to be forgotten, and clear their rows; how many tombstones it lacked."""
    store = open_store(store_uri)
    try:
        held = {tombstone.digest: tombstone.time for tombstone in store.tombstones()}
        lacking = [each for each in _tombstones_in(read_ledger(archive)) if each.time > held.get(each.digest, NEVER)]
        if lacking:
            store.bury(lacking)
            digests, rules = {tombstone.digest for tombstone in lacking}, prepared(release)
            for keys in pages_of((key for key in store.keys() if digest_of(key) in digests), KEYS_AT_ONCE):  # noqa: SIM118  (no mapping)
                clear_rows(store, rules, keys)
            store.purge()
        return len(lacking)
    finally:
        store.close()


def _tombstones_in(ledger: pa.Table) -> list[Tombstone]:
    graves = ledger.filter(pc.equal(ledger["kind"], TOMBSTONE))
    return [Tombstone(bytes.fromhex(entry.key), entry.version, entry.time) for entry in entries_in(graves)]
