"""A store that is made anew from an archive: whom the archive says to be forgotten doesn't come back by it."""

from __future__ import annotations

from pathlib import Path

from rules import CATALOGUE_PATH, RULES_PATH
from schemas.identity import digest_of
from schemas.instants import DAY_MS, clock_ms
from schemas.ledger import TOMBSTONE, Entry
from schemas.profile_row import view_cell
from schemas.view import pack_attributes
from serving.store import open_store
from tests.maintained import maintain_windows
from transforms.burying import bury_as_archived
from transforms.canary import prepared
from transforms.ledger import change_ledger, with_entries
from transforms.rules_file import load_catalogue, load_release

ANN, BOB = "1:" + "a" * 64, "1:" + "b" * 64


def test_a_store_that_lacks_tombstones_of_the_archive_gets_them_and_its_rows_are_cleared(
    tmp_path: Path, sqlite_store_uri: str
) -> None:
    release = load_release(RULES_PATH, load_catalogue(CATALOGUE_PATH))
    store, now = open_store(sqlite_store_uri), clock_ms()
    store.init()
    views = [(key, view_cell(time, f"{key}-{time}", pack_attributes({}))) for key in (ANN, BOB) for time in (now - DAY_MS, now)]
    maintain_windows(store, prepared(release), views)
    archive, forgotten = str(tmp_path / "archive"), now - 1
    change_ledger(archive, lambda ledger: with_entries(ledger, [Entry(TOMBSTONE, digest_of(ANN).hex(), forgotten, version=1)]))
    assert bury_as_archived(sqlite_store_uri, archive, release) == 1
    held = store.read_windows([ANN, BOB], 9).cells
    assert ([cell.time for cell in held[ANN]], len(held[BOB])) == ([now], 2)
    assert [(each.digest, each.time) for each in store.tombstones()] == [(digest_of(ANN), forgotten)]
    profile = store.read_row(ANN).profile
    assert profile is not None
    assert profile.views == 1
    assert bury_as_archived(sqlite_store_uri, archive, release) == 0
    again = maintain_windows(store, prepared(release), views)
    assert again.unwanted["forgotten"] == 1
