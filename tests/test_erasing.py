"""People taken out of the archive, and kept out of it: against a brute force over events, and with writers that race."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.archive import run as run_archive
from rules import CATALOGUE_PATH
from schemas.archive_rows import archive_table, events_of
from schemas.event import Event
from schemas.identity import NEVER, digest_of, tombstone_of
from schemas.instants import DAY_MS, MINUTE_MS, date_of, parse_instant
from schemas.ledger import UNLINK, Entry, entry_of_tombstone
from schemas.pseudonym import pseudonym_of, seal
from schemas.tables import ARCHIVE_ORDER
from schemas.view import pack_attributes
from serving.keys import KEY_VARIABLE
from tests.forgotten import KEY, RING, event, lines_of, traces_in
from transforms.archive import Received, Waiting, Written, name_of, write_archive
from transforms.archive_files import parts_of, read_archive, write_part
from transforms.archive_graves import ArchiveGraves
from transforms.erasing import Digests, cleansed, counted_ids, erase_part, links_in, rewriting, united
from transforms.ledger import change_ledger, read_ledger, with_entries
from transforms.rules_file import load_catalogue
from transforms.traces import Traces

CATALOGUE = load_catalogue(CATALOGUE_PATH)
DAY = parse_instant("2026-05-01T00:00:00Z")
DATE = date_of(DAY)


def p(raw_id: str) -> str:
    return pseudonym_of(RING.current, raw_id)


def seen(number: int, time: int, user: str | None, anonymous: str | None = None, **more: Any) -> Event:
    """A pseudonymised event."""
    return Event(
        f"e{number}",
        more.get("kind", "listing_view"),
        time,
        None if user is None else p(user),
        None if anonymous is None else p(anonymous),
        "s1",
        "l1",
        pack_attributes({"fuel_type": "electric"}),
        more.get("experiment"),
        True,
        None if user is None else seal(RING.current, user),
        None if anonymous is None else seal(RING.current, anonymous),
    )


def table_of(*events: Event) -> pa.Table:
    return archive_table(events, CATALOGUE, [None] * len(events))


def bury(archive: Path, people: dict[str, int]) -> None:
    entries = [entry_of_tombstone(tombstone_of(p(raw_id), time)) for raw_id, time in people.items()]
    change_ledger(str(archive), lambda ledger: with_entries(ledger, entries))


def archived(archive: Path) -> dict[str, Event]:
    return {each.event_id: each for each in events_of(read_archive(str(archive), CATALOGUE))}


def waiting(*events: Event) -> Waiting:
    return Waiting(DATE, [Received(each, None) for each in events])


# A table against a brute force


ids = st.sampled_from([None, "u0", "u1", "a0", "a1"])
some_events = st.lists(
    st.builds(lambda time, user, anonymous: (time, user, anonymous), st.integers(0, 5), ids, ids).filter(lambda x: x[1] or x[2]),
    max_size=12,
)


@given(some_events, st.dictionaries(st.sampled_from(["u0", "u1", "a0", "a1"]), st.integers(0, 5)), st.booleans())
def test_what_goes_is_what_a_brute_force_says(rows: list[Any], forgotten: dict[str, int], by_digest: bool) -> None:
    events = [
        seen(number, DAY + time, user, anonymous, experiment={"unit": p(user or anonymous), "also": [p(anonymous or user)]})
        for number, (time, user, anonymous) in enumerate(rows)
    ]
    until = {raw_id: DAY + time for raw_id, time in forgotten.items()}
    buried: Digests | Traces = Traces({p(raw_id): time for raw_id, time in until.items()})
    if by_digest:
        buried = Digests({digest_of(p(raw_id)): time for raw_id, time in until.items()})
    done = cleansed(table_of(*events), buried)
    kept: list[Event] = []
    for each, (_, user, anonymous) in zip(events, rows, strict=True):
        if each.event_time <= until.get(user or anonymous, NEVER):
            continue
        if each.event_time <= until.get(anonymous, NEVER):
            unit = None if user == anonymous else p(user)
            experiment = {"unit": unit, "also": [None]}
            each = each._replace(anonymous_id=None, sealed_anonymous_id=None, experiment=experiment)
        kept.append(each)
    assert list(events_of(done.table)) == kept
    assert done.removed == len(events) - len(kept)
    follow = {
        p(anonymous)
        for time, user, anonymous in rows
        if user and anonymous and user != anonymous and DAY + time <= until.get(user, NEVER)
    }
    assert set(done.implied) == follow


def test_an_experiment_that_names_somebody_else_loses_the_name() -> None:
    other = seen(1, DAY, "u1", experiment={"unit": p("u1"), "friend": p("u0"), p("u0"): 1, "text": f"seen by {p('u0')}"})
    (kept,) = events_of(cleansed(table_of(other), Traces({p("u0"): DAY})).table)
    assert kept.experiment == {"unit": p("u1"), "friend": None, "text": "seen by "}


# Files


def test_only_files_that_hold_something_are_written_anew(tmp_path: Path) -> None:
    for number in range(6):
        write_part(str(tmp_path), DATE, f"n{number}", table_of(seen(number, DAY, f"u{number}"), seen(9, DAY, "u9")))
    before = {path: Path(path).stat().st_mtime_ns for path in parts_of(str(tmp_path))}
    buried = Traces({p("u3"): DAY})
    done = [erase_part(path, buried) for path in parts_of(str(tmp_path))]
    assert [(each.rewritten, each.removed) for each in done] == [(int(n == 3), int(n == 3)) for n in range(6)]
    assert [path for path, time in before.items() if Path(path).stat().st_mtime_ns != time] == [parts_of(str(tmp_path))[3]]
    assert traces_in([tmp_path], ["u3"], RING._replace(keys=RING.keys)) == []
    assert set(archived(tmp_path)) == {"e0", "e1", "e2", "e4", "e5", "e9"}


def test_a_file_keeps_its_schema_its_order_and_what_is_newer(tmp_path: Path) -> None:
    table = table_of(*(seen(n, DAY + n, f"u{n % 3}", f"a{n % 2}") for n in range(9))).sort_by(ARCHIVE_ORDER)
    path = write_part(str(tmp_path), DATE, "n", table)
    erase_part(path, Traces({p("u1"): DAY + 4}))
    left = pq.ParquetFile(path).read()
    assert left.schema == table.schema
    assert left.equals(table.filter(pa.array([row["event_id"] not in ("e1", "e4") for row in table.to_pylist()])))


def test_a_file_that_is_all_theirs_becomes_an_empty_one_that_readers_bear(tmp_path: Path) -> None:
    path = write_part(str(tmp_path), DATE, "n", table_of(seen(1, DAY, "u1")))
    assert erase_part(path, Traces({p("u1"): DAY})).removed == 1
    assert archived(tmp_path) == {}
    assert erase_part(path, Traces({p("u1"): DAY})).rewritten == 0


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    path = write_part(str(tmp_path), DATE, "n", table_of(seen(1, DAY, "u1")))
    assert erase_part(path, Traces({p("u1"): DAY}), dry=True).removed == 1
    assert set(archived(tmp_path)) == {"e1"}


def test_files_of_version_0_1_0_have_no_sealed_ids_and_are_written_anew_as_they_are(tmp_path: Path) -> None:
    old = table_of(seen(1, DAY, "u1", "a1"), seen(2, DAY, "u2", "a1")).drop_columns(["sealed_user_id", "sealed_anonymous_id"])
    path = write_part(str(tmp_path), DATE, "n", old)
    assert set(links_in(path, Traces({p("u1"): DAY}))) == {(p("u1"), p("a1"))}
    erase_part(path, Traces({p("u1"): DAY, p("a1"): DAY}))
    assert pq.ParquetFile(path).read().schema == old.schema
    assert archived(tmp_path)["e2"].anonymous_id is None


def test_two_that_write_files_anew_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.whole_files.LOCK_WAIT_S", 0.05)
    with rewriting(str(tmp_path)), pytest.raises(Exception, match="must be free"), rewriting(str(tmp_path), patience_s=0.1):
        pass


# Kept out


def test_what_is_forgotten_is_not_written(tmp_path: Path) -> None:
    bury(tmp_path, {"u0": DAY + 5, "a1": DAY + 5})
    events = [
        seen(0, DAY + 5, "u0"),
        seen(1, DAY + 6, "u0"),
        seen(2, DAY, None, "a1"),
        seen(3, DAY, "u1", "a1"),
        seen(4, DAY, "u1"),
    ]
    written = write_archive(str(tmp_path), waiting(*events, events[0]), CATALOGUE)
    assert written[1:] == (3, 1, 2)
    assert {name: each.anonymous_id for name, each in archived(tmp_path).items()} == {"e1": None, "e3": None, "e4": None}
    assert traces_in([tmp_path / f"date={DATE}"], ["a1"]) == []
    assert write_archive(str(tmp_path), waiting(events[0]), CATALOGUE) == Written("", 0, 0, 1)


def test_a_late_link_to_somebody_forgotten_takes_the_anonymous_id_along(tmp_path: Path) -> None:
    bury(tmp_path, {"u0": DAY + 5})
    events = [seen(0, DAY + 1, "u0", "a0"), seen(1, DAY + 2, None, "a0"), seen(2, DAY + 9, None, "a0")]
    assert write_archive(str(tmp_path), waiting(*events), CATALOGUE).forgotten == 2
    assert set(archived(tmp_path)) == {"e2"}
    assert write_archive(str(tmp_path), waiting(seen(3, DAY + 3, None, "a0")), CATALOGUE).forgotten == 1


def test_a_link_that_was_undone_takes_nobody_along(tmp_path: Path) -> None:
    undone = Entry(UNLINK, p("a0"), DAY + 3)
    change_ledger(str(tmp_path), lambda ledger: with_entries(ledger, [undone]))
    bury(tmp_path, {"u0": DAY + 5})
    events = [seen(0, DAY + 1, "u0", "a0"), seen(1, DAY + 2, None, "a0")]
    assert write_archive(str(tmp_path), waiting(*events), CATALOGUE).forgotten == 1
    assert set(archived(tmp_path)) == {"e1"}


def test_a_forget_is_heard_and_not_written(tmp_path: Path) -> None:
    forget = seen(9, DAY + 5, "u0", "a0", kind="forget")
    events = [seen(0, DAY + 1, "u0"), seen(1, DAY + 6, "u0"), seen(2, DAY + 1, None, "a0"), seen(3, DAY + 1, "u1")]
    assert write_archive(str(tmp_path), waiting(*events, forget, forget), CATALOGUE)[1:] == (3, 1, 2)
    assert set(archived(tmp_path)) == {"e1", "e3"}
    graves = ArchiveGraves(str(tmp_path))
    graves.look()
    assert graves.digests == {digest_of(p("u0")): DAY + 5, digest_of(p("a0")): DAY + 5}


def test_an_archive_without_tombstones_reads_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.archive_graves.read_ledger", lambda _: pytest.fail("read"))
    assert write_archive(str(tmp_path), waiting(seen(1, DAY, "u0")), CATALOGUE).events == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_of_a_writer_and_a_forget_that_race_one_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    # writer   look ─────────── write ── look ─ (again)         the tombstone comes between its looks,
    # forget         bury, list ─┴─ bury, list                  and finds no file, or finds it
    events = [seen(0, DAY, "u0"), seen(1, DAY, "u1")]
    calls: list[Any] = []

    def racing(*given: Any) -> str:
        calls.append(given)
        if len(calls) == 1 and when == "before":
            bury(tmp_path, {"u0": DAY})
        path = write_part(*given)
        if len(calls) == 1 and when == "after":
            bury(tmp_path, {"u0": DAY})
        return path

    monkeypatch.setattr("transforms.archive.write_part", racing)
    written = write_archive(str(tmp_path), waiting(*events), CATALOGUE)
    assert written == Written(f"{tmp_path}/date={DATE}/part-{name_of(events)}.parquet", 1, 0, 1)
    assert set(archived(tmp_path)) == {"e1"}
    assert len(calls) == 2


actions = st.permutations(["write 0", "write 1", "forget", "late"])


@settings(max_examples=25)
@given(actions, st.integers(0, 3))
def test_no_order_of_writing_and_forgetting_leaves_anything(tmp_path_factory: Any, order: list[str], until: int) -> None:
    archive = tmp_path_factory.mktemp("archive")
    events = [seen(n, DAY + n, "u0" if n % 2 else None, "a0") for n in range(4)]
    batches = {"write 0": events[:2], "write 1": events[2:], "late": events[::2]}
    for action in order:
        if action == "forget":
            bury(archive, {"u0": DAY + until})
        else:
            write_archive(str(archive), waiting(*batches[action]), CATALOGUE)
    graves = ArchiveGraves(str(archive))
    graves.look()
    parts = parts_of(str(archive))
    graves.bury(graves.follow(counted_ids(united(links_in(path, graves) for path in parts))))
    for path in parts:
        erase_part(path, graves)
    linked = any(each.user_id and each.event_time <= DAY + until for each in events)
    left = {each.event_id for each in events if each.event_time > DAY + until or (not linked and each.user_id is None)}
    assert set(archived(archive)) == left


def test_a_run_counts_them_as_refused_and_the_balance_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    events = [event(n, DAY + n * MINUTE_MS, f"user-{n % 2}") for n in range(10)]
    events.append(event("last", DAY + 3 * MINUTE_MS, "user-1", event_type="forget"))
    (tmp_path / "e.jsonl").write_bytes(lines_of([*events, events[0]]))
    assert run_archive(["--source", f"file:{tmp_path}/e.jsonl", "--archive", str(tmp_path / "archive"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["read"], document["applied"], document["duplicate"]) == (12, 9, 1)
    assert document["refused"] == {"forgotten": 2}
    assert document["holds"]
    assert sorted(archived(tmp_path / "archive")) == ["e0", "e2", "e4", "e5", "e6", "e7", "e8", "e9"]


def test_the_ledger_holds_digests_and_no_pseudonym(tmp_path: Path) -> None:
    write_archive(str(tmp_path), waiting(seen(9, DAY + 5, "user-0-of-all", "browser-0", kind="forget")), CATALOGUE)
    assert traces_in([tmp_path], ["user-0-of-all", "browser-0"]) == []
    assert read_ledger(str(tmp_path)).num_rows == 2


# Traces


def test_ids_are_found_as_words_and_codes_anywhere() -> None:
    traces = Traces({p("user-3-xy"): DAY}, {"user-3-xy": DAY, "u1": DAY}, [seal(RING.current, "user-3-xy")])
    for text in (
        b"user-3-xy",
        b'{"x":"user-3-xy"}',
        b"...:user-3-xy;",
        b'"user_id":"u1"',
        b'"unit": "u1"',
        p("user-3-xy").encode(),
    ):
        assert traces.found_in(text), text
    for text in (b"user-3-xyz", b"a.user-3-xy", b"user-3-xy@example.org", b'"listing_id":"u1"', b"u1", b"", p("user-3").encode()):
        assert not traces.found_in(text), text
    assert traces.found_in(b"\xff\x00" + seal(RING.current, "user-3-xy") + b"\x80")


def test_hundreds_of_people_are_looked_for_at_once() -> None:
    traces = Traces({p(f"user-{n}"): DAY for n in range(300)})
    assert [traces.found_in(p(f"user-{n}").encode()) for n in (0, 150, 299, 300)] == [True, True, True, False]
    assert traces.until_of(pa.array([p("user-299"), p("user-300")])).tolist() == [DAY, NEVER]


def test_a_day_later_is_newer() -> None:
    work = functools.partial(cleansed, table_of(seen(1, DAY + DAY_MS, "u0")))
    assert work(Traces({p("u0"): DAY + DAY_MS - 1})).removed == 0
    assert work(Traces({p("u0"): DAY + DAY_MS})).removed == 1
