"""Who was forgotten stays out under every name: while keys are rotated, a late copy comes under another than its tombstone's."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines import archive, stream
from rules import CATALOGUE_PATH
from schemas.identity import digest_of, tombstone_of
from schemas.instants import DAY_MS, clock_ms
from schemas.pseudonym import pseudonym_of, ring_of, seal
from serving.keys import KEY_VARIABLE
from serving.store import open_store
from tests.forgotten import KEY, RING, event, lines_of
from tests.test_erasing import CATALOGUE, DATE, DAY, seen
from transforms.archive import Received, Waiting, write_archive
from transforms.archive_files import read_archive
from transforms.archive_graves import ArchiveGraves
from transforms.rules_file import load_catalogue

BOTH = f"2:another key, long enough too\n1:{KEY}"
THEN = clock_ms() - DAY_MS
ANNA, PHONE, BEN = "anna-of-the-graves", "phone-of-the-graves", "ben-of-the-graves"


@pytest.fixture(autouse=True)
def _with_both_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, BOTH)


def run(command: Any, folder: Path, events: Sequence[dict[str, Any]], *given: str) -> None:
    source = folder / "late.jsonl"
    source.write_bytes(lines_of(events))
    assert command.run(["--source", f"file:{source}", *given, "--dead-letters", f"file:{folder}/dead.jsonl", "--json"]) == 0
    source.unlink()


def archived(folder: Path) -> list[str]:
    return sorted(row["event_id"] for row in read_archive(str(folder), load_catalogue(CATALOGUE_PATH)).to_pylist())


def letters(folder: Path) -> list[Any]:
    return [json.loads(line)["payload"] for line in (folder / "dead.jsonl").read_text().splitlines()]


LATE = [
    event("hers", THEN, ANNA, PHONE),
    event("phone", THEN, None, PHONE),
    event("his", THEN, BEN),
    event("newer", THEN + 2, ANNA),
    event("bad", THEN, ANNA, event_type="party"),
]


def test_a_late_copy_under_a_newer_key_stays_out_of_the_archive_and_of_its_dead_letters(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    ArchiveGraves(str(folder)).bury({pseudonym_of(RING.current, ANNA): THEN})
    run(archive, tmp_path, LATE, "--archive", str(folder))
    assert archived(folder) == ["his", "newer"], "the phone goes with its user"
    assert letters(tmp_path) == [None]
    graves = ArchiveGraves(str(folder))
    graves.look()
    assert graves.digests[digest_of(pseudonym_of(ring_of(BOTH, "tests").current, ANNA))] == THEN, "when the old key is gone too"


def test_a_late_copy_under_an_older_key_stays_out_too(tmp_path: Path) -> None:
    # A process that still writes with the old key knows the new one, under which somebody was forgotten.
    ring, folder = ring_of(BOTH, "tests"), tmp_path / "archive"
    ArchiveGraves(str(folder)).bury({pseudonym_of(ring.current, ANNA): THEN})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, "\n".join(reversed(BOTH.splitlines())))
        run(archive, tmp_path, LATE, "--archive", str(folder))
    assert archived(folder) == ["his", "newer"]
    assert letters(tmp_path) == [None]


def test_nobody_is_forgotten_for_a_sealed_id_that_isnt_theirs(tmp_path: Path) -> None:
    new, folder = ring_of(BOTH, "tests").current, tmp_path / "archive"
    ArchiveGraves(str(folder)).bury({pseudonym_of(RING.current, ANNA): THEN})
    wrong = event("his", THEN, pseudonym_of(new, BEN), pseudonymised=True)
    wrong["sealed_user_id"] = b64encode(seal(new, ANNA)).decode()
    run(archive, tmp_path, [wrong, LATE[0]], "--archive", str(folder))
    assert archived(folder) == ["his"]


def test_the_streams_dead_letters_know_all_names_too(tmp_path: Path, sqlite_store_uri: str) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    store.bury([tombstone_of(pseudonym_of(RING.current, ANNA), THEN)])
    run(stream, tmp_path, [LATE[2], LATE[-1], event("bad2", THEN, BEN, event_type="party")], "--store", sqlite_store_uri)
    kept = [payload and payload["event_id"] for payload in letters(tmp_path)]
    assert sorted(kept, key=str) == [None, "bad2"]


def test_a_file_that_a_killed_try_left_of_whom_was_forgotten_meanwhile_is_emptied(tmp_path: Path) -> None:
    waiting = Waiting(DATE, [Received(seen(1, DAY, "u0"), None)])
    write_archive(str(tmp_path), waiting, CATALOGUE)  # then killed before it looks once more, while somebody buries
    ArchiveGraves(str(tmp_path)).bury({pseudonym_of(RING.current, "u0"): DAY})
    assert write_archive(str(tmp_path), waiting, CATALOGUE).forgotten == 1
    assert archived(tmp_path) == []
