"""``forecourt export``: all that is held of a person, from every place, of nobody else, and no raw id but the one given."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import export as command
from pipelines.export import Config, export, run
from rules import RULES_PATH
from schemas.archive_rows import archive_table
from schemas.errors import ConfigError
from schemas.event import Event
from schemas.identity import tombstone_of
from schemas.instants import DAY_MS, clock_ms, date_of, format_instant
from schemas.ledger import OPT_OUT, Entry, entry_of_tombstone
from schemas.profile_row import encode_base, view_cell
from schemas.pseudonym import Pseudonyms, pseudonymise, ring_of
from schemas.view import pack_attributes
from serving.keys import KEY_VARIABLE
from serving.store import Store, open_store
from tests.gateways import KEY, PSEUDONYMS
from tests.strategies import CATALOGUE
from transforms import archive_files
from transforms.archive_files import write_part
from transforms.canary import prepared
from transforms.changes import change_of
from transforms.ledger import change_ledger, with_entries
from transforms.rules_file import load_release
from transforms.windows import Maintainer

pytestmark = pytest.mark.alone

RULES = prepared(load_release(RULES_PATH, CATALOGUE))
NOW = clock_ms() - DAY_MS
ANN, BOB, LAPTOP, PHONE = map(PSEUDONYMS, ("ann", "bob", "laptop", "phone"))
HER_NAMES = {ANN, LAPTOP}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr(archive_files, "ROW_GROUP_ROWS", 5)


def event(kind: str, at: int, user: str | None, anonymous: str | None = None, pseudonyms: Pseudonyms = PSEUDONYMS) -> Event:
    packed, experiment = pack_attributes({"fuel_type": "electric"}), {"unit": user} if kind == "featured_click" else None
    raw = Event(f"{kind}-{at}", kind, NOW + at, user, anonymous, "s1", "l1", packed, experiment, pseudonymised=False)
    return pseudonymise(raw, pseudonyms)


IDS = [("ann", None), ("bob", None), (None, "laptop"), (None, "phone")]
EVENTS = [event("listing_view", 10 * place + at, *ids) for place, ids in enumerate(IDS) for at in range(6)]
EVENTS += [event("identify", 100, "ann", "laptop"), event("identify", 200, "bob", "phone"), event("lead", 300, "ann", "phone")]
EVENTS += [event("featured_click", 400, "ann"), event("opt_out", 500, "bob")]
HERS = [each for each in EVENTS if each.profile_id in HER_NAMES]


def told(store: Store, events: list[Event]) -> None:
    Maintainer(store).maintain(RULES, [change for each in events if (change := change_of(each)) is not None])


def archived(directory: Path, events: list[Event]) -> str:
    for date in {date_of(each.event_time) for each in events}:
        of_date = [each for each in events if date_of(each.event_time) == date]
        table = archive_table(of_date, CATALOGUE, [None] * len(of_date)).sort_by("user")
        write_part(str(directory), date, "a", table)
    return str(directory)


def exported(store: Store, user: str, **places: Any) -> dict[str, Any]:
    document = export(Config(user, store.uri, **places), lambda _: None)
    text = json.dumps(document)
    assert [raw for raw in ("ann", "bob", "laptop", "phone") if f'"{raw}"' in text] == [user]
    return document


@pytest.mark.parametrize("asked", ["ann", "laptop"])
def test_a_person_is_told_what_is_held_of_all_their_ids_and_nothing_of_others(store: Store, tmp_path: Path, asked: str) -> None:
    told(store, EVENTS)
    packed = encode_base([view_cell(NOW - 5, "old", pack_attributes({"price": 9.0}))])
    store.write_bases([(ANN, packed), (BOB, packed)], NOW)
    archive = archived(tmp_path / "archive", EVENTS)
    entries = [Entry(OPT_OUT, key, NOW - 9, "e9", "opt_out") for key in (ANN, BOB)]
    entries += [entry_of_tombstone(tombstone_of(key, NOW - 99)) for key in (LAPTOP, PHONE)]
    change_ledger(archive, lambda ledger: with_entries(ledger, entries))
    document = exported(store, asked, archive=archive)
    assert (document["schema_version"], document["user"]) == (1, asked)
    roles = {each["pseudonyms"][0]: (each["role"], each["asked_for"], each["forgotten"]) for each in document["ids"]}
    assert roles == {ANN: ("user", asked == "ann", None), LAPTOP: ("linked", asked == "laptop", None)}
    rows = {row["pseudonym"]: row for row in document["rows"]}
    assert rows.keys() == HER_NAMES
    assert {view["event_id"] for row in rows.values() for view in row["views"]} == {
        each.event_id for each in HERS if each.event_type == "listing_view"
    }
    assert rows[ANN]["archived_views"] == [{"time": format_instant(NOW - 5), "event_id": "old", "attributes": {"price": 9.0}}]
    assert (rows[ANN]["profile"]["views"], rows[LAPTOP]["emptied"], "profile" in rows[LAPTOP]) == (12, "alias", False)
    assert [(link["other"], link["event_id"]) for link in rows[LAPTOP]["links"]] == [(ANN, "identify-100")]
    assert {linked["other"] for linked in rows[ANN]["linked"]} == {LAPTOP, PHONE}  # the phone is Bob's, and was seen with Ann
    assert [each["event_id"] for each in document["archive"]] == [
        each.event_id for each in sorted(HERS, key=lambda each: (each.event_time, each.event_id))
    ]
    click = next(each for each in document["archive"] if each["event_type"] == "featured_click")
    assert click == {
        "event_id": "featured_click-400",
        "event_type": "featured_click",
        "event_time": format_instant(NOW + 400),
        "user": ANN,
        "user_id": ANN,
        "anonymous_id": None,
        "session_id": "s1",
        "listing_id": "l1",
        "attributes": {"fuel_type": "electric"},
        "experiment": {"unit": ANN},
        "received_at": None,
        "sealed_user_id": click["sealed_user_id"],
        "sealed_anonymous_id": None,
    }
    assert {(each["kind"], each["time"]) for each in document["ledger"]} == {
        (OPT_OUT, format_instant(NOW - 9)),
        ("tombstone", format_instant(NOW - 99)),
    }


def test_dead_letters_and_sessions_are_told_from_every_kind_of_file(
    sqlite_store_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    told(store, EVENTS)
    payloads = [{"user_id": ANN}, {"anonymous_id": LAPTOP}, {"user_id": BOB, "anonymous_id": LAPTOP}, {"user_id": BOB}, None]
    lines = [json.dumps({"reason": "bad_time", "payload": payload}) for payload in payloads] + [f"broken {ANN}"]
    (tmp_path / "letters.jsonl").write_text("\n".join(lines))
    (tmp_path / "letters.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[:1]).encode()))
    rows = [{"session_id": f"s{number}", "user_id": key, "arm": "control"} for number, key in enumerate((ANN, BOB, ""))]
    with (tmp_path / "sessions.csv").open("w") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    times = pa.array([NOW] * 3, pa.timestamp("ms", "UTC"))
    pq.write_table(pa.Table.from_pylist(rows).append_column("started_at", times), tmp_path / "sessions.parquet", row_group_size=2)
    letters, tables = (["letters.jsonl", "letters.jsonl.gz"], ["sessions.csv", "sessions.parquet"])
    options = [word for name in letters for word in ("--dead-letters", f"file:{tmp_path}/{name}")]
    options += ["--sessions", *(f"{tmp_path}/{name}" for name in tables)]
    capsys.readouterr()
    assert run(["ann", "--store", store.uri, *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [letter["payload"] for letter in document["dead_letters"]] == [*payloads[:2], payloads[0]]
    first = {"file": f"{tmp_path}/sessions.csv", "session_id": "s0", "user_id": ANN, "arm": "control"}
    assert document["sessions"] == [
        first,
        first | {"file": f"{tmp_path}/sessions.parquet", "started_at": format_instant(NOW)},
    ]
    assert (document["archive"], document["ledger"]) == (None, None)


def test_rows_and_events_under_an_older_key_are_hers_too(
    sqlite_store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    told(store, EVENTS)
    keys = f"2:another key that is long enough\n1:{KEY}"
    monkeypatch.setenv(KEY_VARIABLE, keys)
    new = Pseudonyms(ring_of(keys, "tests"))
    later = event("search", 900, None, "laptop", new)
    document = exported(store, "ann", archive=archived(tmp_path / "archive", [*EVENTS, later]))
    assert [each["pseudonyms"] for each in document["ids"]] == [[new("ann"), ANN], [new("laptop"), LAPTOP]]
    assert {row["pseudonym"] for row in document["rows"]} == HER_NAMES
    assert len(document["archive"]) == len(HERS) + 1


def test_only_row_groups_that_may_hold_something_are_read(
    sqlite_store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    read: list[int] = []
    whole = pq.ParquetFile.read_row_group

    def noted(file: pq.ParquetFile, number: int, *arguments: Any, **options: Any) -> pa.Table:
        read.append(number)
        return whole(file, number, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    many = [event("search", number, f"user-{number}") for number in range(200)]
    document = exported(store, "ann", archive=archived(tmp_path / "archive", [*EVENTS, *many]))
    assert [each["event_id"] for each in document["archive"]] == [each.event_id for each in HERS if each.user_id == ANN]
    assert len(set(read)) < 10 < 200 // 5


def test_of_who_was_forgotten_the_time_is_told_and_of_nobody_nothing(sqlite_store_uri: str) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    store.bury([tombstone_of(ANN, NOW)])
    document = exported(store, "ann")
    assert [each["forgotten"] for each in document["ids"]] == [format_instant(NOW)]
    nobody = exported(store, "bob")
    assert (nobody["rows"], [each["forgotten"] for each in nobody["ids"]]) == ([], [None])


def test_progress_is_told_only_when_it_takes_long() -> None:
    said: list[str] = []
    clock = iter([0.0, 1.0, 2.5, 2.5, 3.0])
    told_of = command._Told(said.append, lambda: next(clock))
    for done in (1, 2, 3):
        told_of(done, 3)
    assert said == ["went through 2 of 3 files of the archive"]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"user": ""}, "USER is empty or too long"),
        ({"store": "x"}, "store == 'x'"),
        ({"sessions": ("/no/such",)}, "file == /no/such, must be there"),
        ({"dead_letters": ("pubsub://p/topics/t",)}, "must be file:PATH"),
    ],
)
def test_what_cannot_be_looked_through_is_told(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        Config(**{"user": "ann", "store": "sqlite:////tmp/x.db", **options})


def test_a_table_without_users_is_refused(sqlite_store_uri: str, tmp_path: Path) -> None:
    open_store(sqlite_store_uri).init()
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="must have a column user_id"):
        export(Config("ann", sqlite_store_uri, sessions=(str(tmp_path / "t.csv"),)), print)
