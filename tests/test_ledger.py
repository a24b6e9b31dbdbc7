"""The ledger keeps what must outlive the archive's events, and nothing of whom was forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.identity import NEVER, Link, Tombstone, digest_of, evidence_of, links_void_until
from schemas.instants import DAY_MS
from schemas.ledger import SCHEMA, TOMBSTONE, Entry, Kind, entries_in, entry_of_tombstone, ledger_of, tombstone_in
from tests.memory_files import OBJECTS
from transforms.ageing import told
from transforms.ledger import change_ledger, ledger_mark, ledger_path, read_ledger, settled, void_until, with_entries

A, B, U, V = (f"1:{letter * 64}" for letter in "abef")


def link(anonymous: str, user: str, time: int) -> Entry:
    return Entry("link", anonymous, time, f"e{time}", "identify", user)


def grave(pseudonym: str, time: int) -> Entry:
    return entry_of_tombstone(Tombstone(digest_of(pseudonym), 1, time))


def adding(*entries: Entry) -> Callable[[pa.Table], pa.Table]:
    return lambda ledger: with_entries(ledger, list(entries))


@pytest.fixture(params=["local", "remote"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("transforms.whole_files.CLAIM_SETTLES_S", 0.01)
    OBJECTS.clear()
    return str(tmp_path) if request.param == "local" else "memory://bucket/archive"


def test_an_archive_without_a_ledger_has_an_empty_one(archive: str) -> None:
    assert read_ledger(archive).schema == SCHEMA
    assert len(read_ledger(archive)) == 0
    assert ledger_mark(archive) == ""


def test_what_is_written_is_read_again_in_order_and_once(archive: str) -> None:
    entries = [link(A, U, 5), Entry("opt_out", U, 9, "e9", "opt_out", sealed=b"\1"), link(A, U, 5), Entry("unlink", A, 4)]
    change_ledger(archive, adding(*entries))
    assert entries_in(read_ledger(archive)) == sorted(set(entries))


def test_its_mark_changes_when_it_does_and_only_then(archive: str) -> None:
    change_ledger(archive, adding(link(A, U, 5)))
    first = ledger_mark(archive)
    change_ledger(archive, lambda ledger: ledger)
    assert ledger_mark(archive) == first
    change_ledger(archive, adding(link(A, U, 5), link(B, U, 6)))
    assert ledger_mark(archive) != first


def test_a_change_that_fails_leaves_all_as_it_was(tmp_path: Path) -> None:
    change_ledger(str(tmp_path), adding(link(A, U, 5)))
    with pytest.raises(ZeroDivisionError):
        change_ledger(str(tmp_path), lambda ledger: 1 // 0)
    assert entries_in(read_ledger(str(tmp_path))) == [link(A, U, 5)]


def test_changes_made_at_once_are_all_there(tmp_path: Path) -> None:
    def add(number: int) -> None:
        for time in range(number * 100, number * 100 + 8):
            change_ledger(str(tmp_path), adding(link(A, U, time)))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_ledger(str(tmp_path))) == 32


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = Path(ledger_path(str(tmp_path)))
    path.parent.mkdir()
    path.write_bytes(b"no Parquet")
    with pytest.raises(ConfigError, match=r"identity ledger == .*ledger.parquet, must be readable Parquet"):
        read_ledger(str(tmp_path))


def test_nothing_of_a_forgotten_id_gets_back_in(tmp_path: Path) -> None:
    change_ledger(str(tmp_path), adding(link(A, U, 5), link(B, V, 5), Entry("opt_out", U, 6), Entry("opt_in", U, 11)))
    change_ledger(str(tmp_path), adding(grave(U, 10)))
    change_ledger(str(tmp_path), adding(link(A, U, 3), Entry("opt_out", U, 10)))
    kept = [entry for entry in entries_in(read_ledger(str(tmp_path))) if entry.kind != TOMBSTONE]
    assert kept == [link(B, V, 5), Entry("opt_in", U, 11)]
    data = Path(ledger_path(str(tmp_path))).read_bytes()
    assert A[2:].encode() not in data


def test_an_anonymous_id_of_a_forgotten_user_is_forgotten_too_unless_it_was_unlinked() -> None:
    ledger = settled(ledger_of([link(A, U, DAY_MS), link(B, U, DAY_MS), Entry("unlink", B, DAY_MS + 7), grave(U, 2 * DAY_MS)]))
    buried = {tombstone_in(entry).digest for entry in entries_in(ledger) if entry.kind == TOMBSTONE}
    assert buried == {digest_of(U), digest_of(A)}


def test_links_of_a_forgotten_id_are_barred_to_the_end_of_that_date() -> None:
    ledger = ledger_of(
        [link(A, U, DAY_MS - 1), link(A, U, DAY_MS), link(B, V, 12), Entry("opt_out", U, 11), grave(U, 10), grave(B, 11)]
    )
    kept = [entry for entry in entries_in(settled(ledger)) if entry.kind != TOMBSTONE]
    assert kept == [link(A, U, DAY_MS), Entry("opt_out", U, 11)]


def test_an_unlinking_of_the_date_of_a_forgetting_goes_with_it(tmp_path: Path) -> None:
    unlinkings = [Entry("unlink", A, DAY_MS - 1, sealed=b"\1"), Entry("unlink", B, 2 * DAY_MS - 1, sealed=b"\2")]
    change_ledger(str(tmp_path), adding(*unlinkings, grave(A, 10), grave(B, 10)))
    kept = [entry for entry in entries_in(read_ledger(str(tmp_path))) if entry.kind != TOMBSTONE]
    assert kept == unlinkings[1:], "that of another date is newer"
    assert A[2:].encode() not in Path(ledger_path(str(tmp_path))).read_bytes()


def test_void_is_void_in_columns_as_in_one() -> None:
    times = [NEVER, 0, 5, DAY_MS - 1, DAY_MS]
    assert void_until(np.array(times)).tolist() == [links_void_until(time) for time in times]


def test_of_several_tombstones_of_an_id_the_newest_stays() -> None:
    assert entries_in(settled(ledger_of([grave(U, 10), grave(U, 12), grave(U, 11)]))) == [grave(U, 12)]


ids = st.sampled_from([A, B, U, V])
said: list[Kind] = ["opt_in", "opt_out", "unlink"]
instants = st.integers(0, 9).map(lambda third: third * DAY_MS // 3)
entries = st.lists(
    st.one_of(
        st.builds(link, ids, ids, instants),
        st.builds(lambda kind, key, time: Entry(kind, key, time), st.sampled_from(said), ids, instants),
        st.builds(grave, ids, instants),
    ),
    max_size=12,
)


@given(entries, st.data())
def test_the_order_of_entries_and_settling_them_twice_change_nothing(made: list[Entry], data: st.DataObject) -> None:
    once = settled(ledger_of(made))
    shuffled = pa.concat_tables([ledger_of([entry]) for entry in data.draw(st.permutations(made))] or [ledger_of([])])
    assert settled(shuffled).equals(once)
    assert settled(once).equals(once)


unlinkings = st.builds(lambda key, time: Entry("unlink", key, time), ids, instants)
few = st.sampled_from([0, 1, DAY_MS, 12 * DAY_MS])


@given(st.lists(st.one_of(st.builds(link, st.just(A), st.just(U), few), st.builds(link, ids, ids, few), unlinkings), max_size=6))
def test_of_a_ledgers_links_those_that_are_evidence_stay(made: list[Entry]) -> None:
    expected = {entry for entry in made if entry.kind != "link"}
    for key in {entry.key for entry in made}:
        void = max((entry.time for entry in made if entry[:2] == ("unlink", key)), default=NEVER)
        links = {
            Link(each.time, each.event_id, each.other, each.event_type, b""): each for each in made if each[:2] == ("link", key)
        }
        expected |= {links[link] for link in evidence_of(links, void)}
    assert entries_in(told(ledger_of(made))) == sorted(expected)
