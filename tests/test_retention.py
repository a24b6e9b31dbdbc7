"""What is too old goes, and nothing else: told first, done when asked, and done again after a kill."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems

from pipelines.retention import Config, retain, run
from schemas.archive_rows import archive_table
from schemas.errors import ConfigError
from schemas.event import Event
from schemas.identity import Link, Said, tombstone_of
from schemas.instants import DAY_MS, HOUR_MS, clock_ms, date_of, format_instant, parse_instant
from schemas.ledger import LINK, OPT_OUT, TOMBSTONE, UNLINK, Entry, entries_in, entry_of_tombstone, ledger_of
from schemas.profile_row import (
    GARBAGE_AGE_MS,
    Membership,
    Profile,
    consent_cell,
    encode_base,
    encode_cell,
    link_cell,
    sealed_cell,
    view_cell,
)
from schemas.pseudonym import pseudonym_of
from schemas.tables import SEGMENTS
from serving.store import RowUpdate, Store, open_store
from tests.forgotten import RING, lines_of
from tests.test_erasing import CATALOGUE, archived, seen
from transforms import ageing
from transforms.ageing import told
from transforms.archive_files import dates_of, write_part
from transforms.erasing import rewriting
from transforms.ledger import change_ledger, read_ledger, with_entries

NOW = parse_instant("2026-06-30T10:00:00Z")
OLD = NOW - 40 * DAY_MS
LETTER = {"reason": "future", "field": None, "message": "", "size": 1, "payload": None}


def p(raw_id: str) -> str:
    return pseudonym_of(RING.current, raw_id)


def put(archive: Path, *events: Event) -> None:
    for each in events:
        write_part(str(archive), date_of(each.event_time), each.event_id, archive_table([each], CATALOGUE, [None]))


def retained(archive: Path, *, apply: bool = True, now: int = NOW, **more: Any) -> dict[str, Any]:
    return retain(Config(str(archive), apply=apply, **more), now)


def said_in(archive: Path) -> list[tuple[str, str, int]]:
    return [(entry.kind, entry.key, entry.time) for entry in entries_in(read_ledger(str(archive)))]


# Dates


def test_only_dates_that_are_too_old_go_and_a_dry_run_takes_none(tmp_path: Path) -> None:
    put(tmp_path, *(seen(n, NOW - n * DAY_MS, f"u{n}") for n in (0, 34, 35, 36, 60)))
    dry = retained(tmp_path, apply=False)
    assert [(each["date"], each["events"]) for each in dry["dates"]] == [("2026-05-01", 1), ("2026-05-25", 1)]
    assert all(each["bytes"] > 0 for each in dry["dates"])
    assert len(dates_of(str(tmp_path))) == 5
    assert retained(tmp_path)["dates"] == dry["dates"]
    assert dates_of(str(tmp_path)) == ["2026-05-26", "2026-05-27", "2026-06-30"]
    assert not (tmp_path / "date=2026-05-01").exists()
    assert retained(tmp_path)["dates"] == []


def test_what_dates_say_of_people_outlives_them(tmp_path: Path) -> None:
    put(
        tmp_path,
        seen(1, OLD, "u1", "a1", kind="identify"),
        seen(2, OLD + 1, "u1", "a1"),
        seen(3, OLD + 2, "u2", kind="opt_out"),
        seen(4, OLD + 3, "u3"),
        seen(5, NOW, "u1"),
    )
    retained(tmp_path)
    assert set(archived(tmp_path)) == {"e5"}
    assert sorted(said_in(tmp_path)) == [(LINK, p("a1"), OLD), (OPT_OUT, p("u2"), OLD + 2)]
    (link,) = [entry for entry in entries_in(read_ledger(str(tmp_path))) if entry.kind == LINK]
    assert link.other == p("u1")
    assert link.sealed
    assert link.sealed_other


def test_a_ledger_keeps_evidence_and_not_every_day(tmp_path: Path) -> None:
    for day in range(60):
        put(tmp_path, seen(day, NOW - 100 * DAY_MS + day * DAY_MS, "u1", "a1"))
    retained(tmp_path)
    times = [(time - (NOW - 100 * DAY_MS)) // DAY_MS for _, _, time in said_in(tmp_path)]
    assert times == [0, *range(50, 60)]


def test_links_that_were_undone_are_not_kept() -> None:
    entries = [Entry(LINK, "1:a", 5, "e1", "lead", "1:u"), Entry(UNLINK, "1:a", 7), Entry(LINK, "1:a", 9, "e2", "lead", "1:v")]
    assert entries_in(told(ledger_of(entries))) == sorted([entries[1], entries[2]])


@pytest.mark.parametrize("step", ["read_evidence", "change_ledger", "FileSystems.delete"])
def test_killed_anywhere_the_rest_goes_the_next_time_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    put(tmp_path, *(seen(n, OLD + n * DAY_MS, f"u{n % 2}", f"a{n}") for n in range(4)), seen(9, NOW, "u9"))
    whole = {p(f"a{n}") for n in range(4)}
    calls = []
    owner, name = (FileSystems, "delete") if "." in step else (ageing, step)
    work: Callable[..., Any] = getattr(owner, name)

    def killed(*given: Any, **more: Any) -> Any:
        calls.append(given)
        done = work(*given, **more)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, staticmethod(killed) if "." in step else killed)
        with pytest.raises(KeyboardInterrupt):
            retained(tmp_path)
    known = {key for _, key, _ in said_in(tmp_path)} | {each.anonymous_id for each in archived(tmp_path).values()} - {None}
    assert known == whole
    retained(tmp_path)
    assert {key for _, key, _ in said_in(tmp_path)} == whole
    assert set(archived(tmp_path)) == {"e9"}


def test_a_date_goes_when_nobody_writes_its_files_anew(tmp_path: Path) -> None:
    put(tmp_path, seen(1, OLD, "u1"))
    (old,) = ageing.old_dates(str(tmp_path), 35, NOW)
    with rewriting(str(tmp_path)):
        removing = threading.Thread(target=ageing.remove_date, args=(str(tmp_path), old))
        removing.start()
        removing.join(0.2)
        assert all(map(os.path.exists, old.files)), "a rewriter would bring it back"
    removing.join(20)
    assert not any(map(os.path.exists, old.files))
    ageing.remove_date(str(tmp_path), old)  # another did


def test_a_forget_that_version_0_1_0_archived_becomes_a_tombstone(tmp_path: Path) -> None:
    put(tmp_path, seen(1, OLD, "u1", kind="forget"), seen(2, OLD - 1, "u1", "a1"), seen(3, NOW, None, "a1"))
    retained(tmp_path)
    (entry,) = [entry for entry in entries_in(read_ledger(str(tmp_path))) if entry.key == tombstone_of(p("u1"), OLD).digest.hex()]
    assert (entry.time, entry.version) == (OLD, 1)
    assert {kind for kind, *_ in said_in(tmp_path)} == {TOMBSTONE}
    assert set(archived(tmp_path)) == {"e3"}


# Forgotten people


def test_what_forget_events_have_left_is_taken_out(tmp_path: Path, sqlite_store_uri: str) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    store.bury([tombstone_of(p("u2"), NOW)])
    put(tmp_path, seen(1, NOW - 5, "u1", "a1"), seen(2, NOW - 6, None, "a1"), seen(3, NOW, "u1"), seen(4, NOW, "u2"))
    change_ledger(str(tmp_path), lambda ledger: with_entries(ledger, [entry_of_tombstone(tombstone_of(p("u1"), NOW - 1))]))
    assert retained(tmp_path, apply=False)["forgotten"] == {"files": 1, "events": 1, "anonymous_ids": 0}
    assert len(archived(tmp_path)) == 4
    assert retained(tmp_path, store=sqlite_store_uri)["forgotten"] == {"files": 3, "events": 3, "anonymous_ids": 0}
    assert set(archived(tmp_path)) == {"e3"}
    assert [kind for kind, *_ in said_in(tmp_path)] == [TOMBSTONE] * 3
    assert retained(tmp_path)["forgotten"]["files"] == 0


# Dead letters


def test_dead_letters_go_by_the_time_of_their_refusal(tmp_path: Path) -> None:
    put(tmp_path / "archive", seen(1, NOW, "u1"))
    path = tmp_path / "dead.jsonl"
    ages = (6, 8, 7.5, 0)
    letters = [{**LETTER, "refused_at": format_instant(int(NOW - days * DAY_MS))} for days in ages]
    path.write_bytes(lines_of(letters) + b"no letter\n")
    asked: dict[str, Any] = {"dead_letters": (f"file:{path}", "file:/nowhere.jsonl")}
    dry = retained(tmp_path / "archive", apply=False, **asked)
    assert dry["dead_letters"] == [{"file": str(path), "letters": 5, "old": 2}]
    assert retained(tmp_path / "archive", **asked)["dead_letters"] == dry["dead_letters"]
    assert path.read_bytes() == lines_of([letters[0], letters[3]]) + b"no letter\n"


# Rows


def row(store: Store, raw_id: str, *times: int, as_of: int | None = None) -> None:
    """A row with views at some times and a membership as of one."""
    store.append([(p(raw_id), view_cell(time, f"e{time}", b"\x01")) for time in times])
    if as_of is not None:
        membership = encode_cell(Membership(1, as_of, []))
        read = store.read_windows([p(raw_id)], 1)
        store.write_memberships([RowUpdate(p(raw_id), read.time, membership, encode_cell(Profile(1, as_of, {})), 0)])


def test_old_views_and_rows_with_nothing_left_go(tmp_path: Path, store_uri: str) -> None:
    now = clock_ms()  # by which Bigtable collects
    store = open_store(store_uri)
    store.init()
    put(tmp_path / "archive", seen(1, now, "u1"))
    gone, young = now - GARBAGE_AGE_MS - HOUR_MS, now - GARBAGE_AGE_MS + HOUR_MS
    sqlite = store_uri.startswith("sqlite")
    row(store, "all-old", *([gone] if sqlite else []), as_of=gone)  # Bigtable's own collection took it
    row(store, "half", gone, young, as_of=young)
    row(store, "young", young, as_of=now - HOUR_MS)
    row(store, "said", as_of=gone)
    store.write_identity([(p("said"), consent_cell(Said(gone, True))), (p("all-old"), sealed_cell(b"sealed"))])
    store.write_identity([(p("linked"), link_cell(Link(gone, "e", p("half"), "lead", b"")))])
    row(store, "running", as_of=now - HOUR_MS)
    store.write_bases([(p("base"), encode_base([view_cell(young, "e", b"\x01")]))], now - DAY_MS)
    asked: dict[str, Any] = {"store": store_uri, "now": now}
    dry = retained(tmp_path / "archive", apply=False, **asked)["store"]
    assert dry == {"views": 2 if sqlite else 0, "rows": 1, "memberships": 1}
    assert set(store.keys()) == {p(name) for name in ("all-old", "half", "young", "said", "linked", "running", "base")}
    assert retained(tmp_path / "archive", **asked)["store"] == dry
    assert set(store.keys()) == {p(name) for name in ("half", "young", "said", "linked", "running", "base")}
    assert len(store.dump(p("half")).views) in ({1} if sqlite else {1, 2})  # Bigtable takes the old one in its own time
    assert store.read_row(p("said")).membership is None
    assert store.read_row(p("said")).opted_out
    assert store.read_row(p("half")).membership is not None
    assert retained(tmp_path / "archive", **asked)["store"] == {"views": 0, "rows": 0, "memberships": 0}
    assert retained(tmp_path / "archive", **asked)["faults"] == []


def test_a_row_that_a_view_comes_into_meanwhile_keeps_its_sealed_id(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # stream     view ─ reads: the id is there       without it, nobody could move the row to another key
    # retention  ───────────────────────────── take_out ─ looks again
    now = clock_ms()  # by which Bigtable collects
    store = open_store(store_uri)
    store.init()
    row(store, "back", as_of=now - 30 * DAY_MS)
    store.write_identity([(p("back"), sealed_cell(b"sealed"))])
    take_out = store.take_out

    def raced(*given: Any) -> None:
        store.append([(p("back"), view_cell(now, "e1", b"\x01"))])
        take_out(*given)

    monkeypatch.setattr(store, "take_out", raced)
    assert ageing.old_rows(store, now, dry=False).rows == 1
    assert store.read_windows([p("back")], 1).identities[p("back")].sealed == b"sealed"
    assert len(store.dump(p("back")).views) == 1


def test_a_bigtable_table_without_age_rules_is_told(tmp_path: Path, bigtable_store_uri: str) -> None:
    import grpc
    from google.cloud import bigtable_admin_v2 as admin
    from google.cloud.bigtable_admin_v2.services.bigtable_table_admin.transports import BigtableTableAdminGrpcTransport

    store = open_store(bigtable_store_uri)
    store.init()
    put(tmp_path, seen(1, NOW, "u1"))
    project, instance, table = bigtable_store_uri.removeprefix("bigtable://").split("/")
    channel = grpc.insecure_channel(os.environ["BIGTABLE_EMULATOR_HOST"])
    client = admin.BaseBigtableTableAdminClient(transport=BigtableTableAdminGrpcTransport(channel=channel))
    change = admin.ModifyColumnFamiliesRequest.Modification
    name = f"projects/{project}/instances/{instance}/tables/{table}"
    for rule, faults in ((admin.GcRule(max_num_versions=1), 1), (admin.GcRule(), 1)):
        family = admin.ColumnFamily(gc_rule=rule)
        client.modify_column_families(name=name, modifications=[change(id="speed", update=family)])
        found = retained(tmp_path, store=bigtable_store_uri)["faults"]
        assert found == [f"store {bigtable_store_uri}: family speed has no age rule, must have one: views stay for ever"] * faults


# Metrics


def test_metrics_stay_and_may_not_name_anybody(tmp_path: Path) -> None:
    archive, metrics = tmp_path / "archive", tmp_path / "metrics"
    put(archive, seen(1, NOW, "u1"))
    folder = metrics / "date=2020-01-01"
    folder.mkdir(parents=True)
    pq.write_table(SEGMENTS.empty_table(), folder / "segments.parquet")
    assert retained(archive, metrics=str(metrics))["faults"] == []
    assert (folder / "segments.parquet").exists()
    pq.write_table(pa.table({"user": ["x"]}), folder / "by-user.parquet")
    (folder / "page.html").write_text(f"<p>{p('u1')}</p>")
    pq.write_table(pa.table({"segment": [p("u1")]}), folder / "hidden.parquet")
    faults = retained(archive, metrics=str(metrics))["faults"]
    assert [fault.split(",")[0].split("/")[-1] for fault in faults] == ["by-user.parquet", "hidden.parquet", "page.html"]


# The command


def test_the_command_tells_and_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "archive", seen(1, OLD - 900 * DAY_MS, "u1"))
    assert run(["--archive", str(tmp_path / "archive")]) == 0
    said = capsys.readouterr().out
    assert "would go" in said
    assert "nothing was deleted; --apply does" in said
    assert run(["--archive", str(tmp_path / "archive"), "--apply", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["applied"]
    assert len(document["dates"]) == 1
    assert dates_of(str(tmp_path / "archive")) == []
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "page.html").write_text(p("u1"))
    assert run(["--archive", str(tmp_path / "archive"), "--metrics", str(metrics)]) == 1
    assert "must name nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--archive-days", "20"], r"--archive-days == 20, must be at least 21"),
        (["--dead-letter-days", "0"], r"--dead-letter-days == 0, must be at least 1"),
        (["--dead-letters", "pubsub://p/topics/t"], r"must be file:PATH"),
        (["--store", "x"], r"store == 'x', must be"),
    ],
)
def test_what_can_not_be_is_told(tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(["--archive", str(tmp_path), *options])
