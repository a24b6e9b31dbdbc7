"""``forecourt experiment sessions``: from messages by the archive to the table, beside brute force; and the whole chain."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import analyse, archive, experiment, power, simulate
from schemas.errors import ConfigError, StoppedError, StoreError
from schemas.exposure import Exposure, Offer
from schemas.identity import tombstone_of
from schemas.instants import DAY_MS, HOUR_MS, MINUTE_MS, format_instant, parse_date
from schemas.ledger import entry_of_tombstone
from schemas.pseudonym import Pseudonyms, ring_of
from schemas.sessions import COLUMNS, SCHEMA
from serving.keys import KEY_VARIABLE
from tests.session_logs import Logged, click, exposure, rows_by_hand, text_of
from transforms.ledger import change_ledger, with_entries
from transforms.session_files import pending_table, put_in_place, write_sessions
from transforms.session_found import Plan
from transforms.session_rows import Row
from transforms.sessions import Summary
from transforms.stopping import STOPPING

KEY = "sessions-tests-" + "k" * 32
PSEUDONYM = Pseudonyms(ring_of(KEY, "test"))
FIRST, LAST = "2026-05-02", "2026-05-03"
NOON = parse_date(FIRST) + 12 * HOUR_MS


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    STOPPING.clear()


def message(kind: str, number: int, at: int, user: str, session: str | None, body: Any = None, listing: str | None = None) -> bytes:
    """A message as it is sent: the gateway's own have pseudonyms already."""
    event: dict[str, Any] = {"event_id": f"e{number}", "event_type": kind, "event_time": format_instant(at), "session_id": session}
    event |= {"user_id": PSEUDONYM(user), "pseudonymised": True} if body is not None else {"user_id": user}
    if listing is not None:
        event["listing_id"] = listing
    if body is not None:
        event["experiment"] = body if isinstance(body, dict) else msgspec.to_builtins(body)
    return json.dumps(event).encode()


def shown(number: int, at: int, user: str, session: str | None, arm: str | None = "control", **more: Any) -> bytes:
    unit = {"unit": PSEUDONYM(user) if more.get("unit_kind") == "user" else session, "session": session}
    return message("featured_impression", number, at, user, session, exposure(f"e{number}", arm, **(unit | more)))


def traffic() -> list[bytes]:
    """History, two days of exposures, sessions over midnight, a session in two arms, and all that doesn't belong."""
    sent: list[bytes] = []
    for number in range(240):
        user, at = f"u{number % 13}", NOON + (number - 60) * 11 * MINUTE_MS
        session, n = f"s{number // 39}-{number % 13}", 10 * number
        sent.append(message("session_start", n, at - 1, user, session))
        sent.append(message("listing_view", n + 1, at + 5, user, session, listing=f"l{number % 7}"))
        sent.append(message("listing_view", n + 2, at + 6, user, session if number % 5 else None, listing=f"l{number % 4}"))
        if number >= 60:
            arm = "treatment" if hash_of(session) % 2 or number % 50 == 0 else "control"
            sent.append(shown(n + 3, at, user, session, arm, segments_dropped=number % 2))
            if number % 4 == 0:
                sent.append(message("featured_click", n + 4, at + 9, user, session, click(f"e{n + 3}", arm=arm)))
            if number % 9 == 0:
                sent.append(message("lead", n + 5, at + 7, user, session))
        if number > 70 and number % 20 == 0:
            sent += [
                shown(n + 6, at, user, session, None, reason="not_in_ramp"),
                shown(n + 7, at, user, session, "control", experiment="second"),
                message("featured_impression", n + 8, at, user, session, {"arm": 7}),
                shown(n + 9, at, user, None, "control"),
            ]
    return sent


def hash_of(text: str) -> int:
    return sum(map(ord, text))


def copies_of(sent: list[bytes]) -> list[bytes]:
    """Exact copies, and some that disagree: they came later and say another arm, or were seen in another session."""
    copies = sent[::3]
    for each in sent[5::17]:
        event = json.loads(each)
        event |= {"event_time": max(format_instant(NOON + 30 * HOUR_MS), event["event_time"]), "session_id": "elsewhere"}
        if "arm" in event.get("experiment", {}) and "unit" in event["experiment"]:
            event["experiment"]["arm"] = "treatment"
        copies.append(json.dumps(event).encode())
    return copies


def logged(messages: Iterable[bytes]) -> list[Logged]:
    """The messages as brute force takes them."""
    found = []
    for each in map(json.loads, messages):
        body = each.get("experiment")
        user = each["user_id"] if each.get("pseudonymised") else PSEUDONYM(each["user_id"])
        at = parse_date(each["event_time"][:10]) + _of_day(each["event_time"])
        text = None if body is None else json.dumps(body, sort_keys=True)
        found.append(Logged(each["event_id"], each["event_type"], at, user, each["session_id"], each.get("listing_id"), text))
    return found


def _of_day(text: str) -> int:
    hours, minutes, seconds = text[11:-1].split(":")
    return int(hours) * HOUR_MS + int(minutes) * MINUTE_MS + round(float(seconds) * 1000)


def archived(folder: Path, *parts: Iterable[bytes], capsys: pytest.CaptureFixture[str]) -> Path:
    for number, part in enumerate(parts):
        (folder / f"{number}.jsonl").write_bytes(b"\n".join(part) + b"\n")
        source = f"file:{folder / f'{number}.jsonl'}"
        assert archive.run(["--source", source, "--archive", str(folder / "archive"), "--json", "--flush-events", "97"]) == 0
    capsys.readouterr()
    return folder / "archive"


def sessions(folder: Path, *options: str, to: str = "sessions.parquet") -> int:
    where = ["--archive", str(folder / "archive"), "--sessions", str(folder / to), "--workers", "2"]
    return experiment.run(["sessions", *where, *options])


def rows_in(path: Path) -> list[Row]:
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA)
    rows = [Row(**row) for row in table.to_pylist()]
    return [row._replace(started_at=round(row.started_at.timestamp() * 1000)) for row in rows]  # type: ignore[attr-defined]


def test_the_table_is_that_of_brute_force_with_copies_that_disagree_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = traffic()
    copies = copies_of(sent)
    archived(tmp_path, sent, copies, capsys=capsys)
    assert sessions(tmp_path, "--experiment", "first", "--from", FIRST, "--to", LAST, "--json") == 0
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert output.err == ""
    rows, uses = rows_by_hand(logged([*sent, *copies]), FIRST, LAST)
    assert rows_in(tmp_path / "sessions.parquet") == rows
    arms = Counter(row.arm for row in rows)
    assert min(arms.values()) > 10
    assert document["exposures"].pop("holds") is True
    assert document["exposures"].pop("read") == sum(uses.values()) == sum(document["exposures"].values())
    assert {use: number for use, number in document["exposures"].items() if number} == dict(uses)
    assert min(uses[use] for use in ("unreadable", "not_assigned", "other_experiments", "without_session")) > 5
    assert (document["rows"], document["arms"], document["version"]) == (len(rows), dict(sorted(arms.items())), 1)
    assert document["starts"] == format_instant(NOON)
    assert document["dates"] == [FIRST, LAST]
    assert document["copies"] > 0
    assert any(row.pre_vehicles for row in rows)
    assert any(row.clicks for row in rows)
    assert len({row.session_id for row in rows}) < len(rows), "some session was exposed in both arms"

    assert sessions(tmp_path, "--experiment", "first", "--from", FIRST, "--to", LAST, "--workers", "1", to="sessions.csv") == 0
    lines = (tmp_path / "sessions.csv").read_text().splitlines()
    assert lines[0] == ",".join(column.name for column in COLUMNS)
    assert len(lines) == len(rows) + 1
    first, fields = rows[0], lines[1].replace('"', "").split(",")
    assert fields[:5] == [first.session_id, first.user_id, format_instant(first.started_at), first.day, first.arm]
    assert fields[5:8] == [str(first.segment_count), first.primary_segment, f"{first.vehicles_viewed:g}"]
    assert fields[-2:] == ["", ""]
    printed = capsys.readouterr().out
    assert f"{len(rows):,} rows" in printed
    assert "exposures read" in printed
    assert not [path for path in tmp_path.iterdir() if ".new" in path.name]


def test_the_newest_version_is_taken_and_others_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = [message("listing_view", 1, NOON - 9, "ann", "s0", listing="a")]
    sent += [shown(2, NOON, "ann", "s1"), shown(3, NOON + 5, "ann", "s2", "treatment", version=2)]
    archived(tmp_path, sent, capsys=capsys)
    assert sessions(tmp_path, "--experiment", "first", "--json") == 0
    output = capsys.readouterr()
    document = json.loads(output.out)
    assert "first has versions 1 (1 exposures), 2 (1 exposures); the table is of 2" in output.err
    assert (document["version"], document["versions"], document["exposures"]["other_versions"]) == (2, {"1": 1, "2": 1}, 1)
    (row,) = rows_in(tmp_path / "sessions.parquet")
    assert (row.session_id, row.arm, row.pre_vehicles) == ("s2", "treatment", 1.0)
    assert sessions(tmp_path, "--experiment", "first", "--version", "1", "--starts", format_instant(NOON - 10), "--json") == 0
    output = capsys.readouterr()
    assert output.err == ""
    (row,) = rows_in(tmp_path / "sessions.parquet")
    assert (row.session_id, row.arm, row.pre_vehicles) == ("s1", "control", None)


def test_where_there_is_nothing_the_error_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archived(tmp_path, [shown(1, NOON, "ann", "s1"), message("search", 2, NOON + 3 * DAY_MS, "ann", "s1")], capsys=capsys)
    with pytest.raises(ConfigError, match="--experiment == second, must have exposures in .*: it has first"):
        sessions(tmp_path, "--experiment", "second")
    with pytest.raises(ConfigError, match="--from 2026-06-01 --to .*, must have dates of .* to 2026-05-05"):
        sessions(tmp_path, "--experiment", "first", "--from", "2026-06-01")
    (tmp_path / "archive/date=2026-05-02/part-broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(ConfigError, match="part-broken.parquet, must be readable Parquet"):
        sessions(tmp_path, "--experiment", "first")
    assert not (tmp_path / "sessions.parquet").exists()


@pytest.mark.parametrize(
    ("summary", "told"),
    [
        (Summary(None, None, {}, [], {}), "--experiment == first, must have exposures in archive .*: it has no experiments"),
        (Summary(None, None, {"1": 4}, [], {}), "--version == 7, must be one that first has exposures of: 1"),
        (
            Summary(7, NOON, {"7": 4}, [], {"other_dates": 3, "unreadable": 1}),
            "sessions of first version 7, DATES == 0, must be .*: there are exposures 3 of sessions of other dates, 1 that",
        ),
    ],
)
def test_no_table_is_told_by_its_reason(summary: Summary, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        experiment.check_found(experiment.Config("archive", "first", "s.csv", version=7), summary, "DATES")
    with pytest.raises(ConfigError, match="sessions in archive, DATES == 0, must be at least 1 with a listing viewed or featured"):
        experiment.check_found(experiment.Config("archive", None, "s.csv", every=True), summary, "DATES")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--experiment First", "--experiment == 'First', must be lower_snake_case"),
        ("--all", "--experiment NAME or --all, must be given, and not both"),
        ("--version 0", "--version == 0, must be a whole number, at least 1"),
        ("--from may", "--from == 'may', must be a date such as 2026-05-01"),
        ("--from 2026-05-03 --to 2026-05-02", "--from == 2026-05-03, must be at most --to == 2026-05-02"),
        ("--starts noon", "--starts == 'noon', must be an RFC 3339 date-time"),
        ("--sessions table.xlsx", "--sessions == 'table.xlsx', must be a file that ends in .csv or .parquet"),
        ("--runner DataflowRunner", "--archive == archive, must be remote"),
        ("--workers 0", "--workers == 0, must be between 1 and 64"),
    ],
)
def test_bad_options_are_named(options: str, told: str) -> None:
    with pytest.raises(ConfigError, match="--experiment NAME or --all, must be given"):
        experiment.parse_args(["sessions", "--archive", "archive", "--sessions", "s.csv"])
    with pytest.raises(ConfigError, match="--version == 2, must be given with --experiment"):
        experiment.parse_args(["sessions", "--archive", "archive", "--sessions", "s.csv", "--all", "--version", "2"])
    given = ["--archive", "archive", "--experiment", "first", "--sessions", "s.csv", *options.split()]
    with pytest.raises(ConfigError, match=told):
        experiment.parse_args(["sessions", *given])


def test_a_table_is_whole_or_what_was_there_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "new/s.csv")
    with pending_table(path) as pending:
        assert write_sessions(pending, [SCHEMA.empty_table()]) == 0
        assert not Path(path).exists()
        put_in_place(pending, path)
    before = Path(path).read_text()
    assert before.startswith("session_id,")

    def days() -> Iterator[pa.Table]:
        yield SCHEMA.empty_table()
        raise StoppedError

    with pytest.raises(StoppedError), pending_table(path) as pending:
        write_sessions(pending, days())
    with pytest.raises(StoreError, match="--sessions == .*s.csv/t.csv, must be writable"), pending_table(f"{path}/t.csv"):
        pytest.fail("there is nothing to do before a place is there")
    assert [each.read_text() for each in Path(path).parent.iterdir()] == [before]


def test_two_runs_to_one_file_do_not_write_into_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "s.parquet")
    with pending_table(path) as one, pending_table(path) as other:
        assert one != other
        with pq.ParquetWriter(one, SCHEMA) as writer:  # half written
            write_sessions(other, [SCHEMA.empty_table()])
            put_in_place(other, path)
            writer.write_table(SCHEMA.empty_table())
        assert pq.read_table(path).schema == SCHEMA
        put_in_place(one, path)
    assert pq.read_table(path).schema == SCHEMA
    assert [each.name for each in tmp_path.iterdir()] == ["s.parquet"]


def test_where_the_balance_does_not_hold_the_table_of_before_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(config: Any, options: Any, plan: Plan, items: Any) -> Summary:
        write_sessions(plan.to, [SCHEMA.empty_table()])
        return Summary(1, NOON, {"1": 9}, [], {"exposures": 9, "in_table": lost, "rows": 5})

    monkeypatch.setattr(experiment, "_summary", made)
    monkeypatch.setattr(experiment, "dates_of", lambda _: [FIRST, LAST])
    monkeypatch.setattr(experiment, "items_of", lambda *_: [])
    (tmp_path / "s.csv").write_text("what was there")
    lost = 8
    assert sessions(tmp_path, "--experiment", "first", "--json", to="s.csv") == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["exposures"]["holds"] is False
    assert f"the balance of exposures does not hold; {tmp_path}/s.csv is left as it was" in output.err
    assert [each.read_text() for each in tmp_path.iterdir()] == ["what was there"]
    lost = 9
    assert sessions(tmp_path, "--experiment", "first", "--json", to="s.csv") == 0
    assert [each.read_text()[:11] for each in tmp_path.iterdir()] == ["session_id,"]


def test_power_measures_in_an_archive_that_no_experiment_was_in_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = {"experiment": None, "version": None, "reason": "no_experiment", "unit": None}
    sent = []
    for number in range(60):
        session, at = f"s{number}", NOON + number * 30 * MINUTE_MS
        offers = () if number % 3 == 0 else (Offer("suv", 0.8),)
        body = msgspec.structs.replace(exposure(f"e{4 * number}", None, **nowhere), session=session, segments=offers)
        sent.append(message("featured_impression", 4 * number, at, f"u{number % 20}", session, body))
        sent += [
            message("listing_view", 4 * number + k, at + k, f"u{number % 20}", session, listing=f"l{k % (1 + number % 2)}")
            for k in (1, 2)
        ]
    archived(tmp_path, sent, capsys=capsys)
    assert sessions(tmp_path, "--all", "--json", to="all.csv") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["experiment"], document["version"], document["rows"], document["arms"]) == (None, None, 60, {})
    assert (document["exposures"]["in_table"], document["exposures"]["holds"]) == (60, True)
    assert power.run(["power", "--sessions", str(tmp_path / "all.csv"), "--unit", "user", "--replays", "5", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["trigger_rate"] == pytest.approx(2 / 3)
    assert planned["mean"] == pytest.approx(1.5)
    assert planned["sources"]["design_effect"] == "measured"
    assert sessions(tmp_path, "--all", "--from", LAST, to="all.parquet") == 0
    assert "all sessions, since 2026-05-03T00:00:00.000Z: 36 rows" in capsys.readouterr().out
    rows = rows_in(tmp_path / "all.parquet")
    assert {(row.arm, row.day) for row in rows} == {(None, LAST)}
    assert all(row.pre_vehicles in (1, 1.5, 2) for row in rows)


def test_the_graph_is_checked_without_an_archive(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--archive", "nowhere", "--experiment", "first", "--sessions", "s.csv", "--dry_run"]
    assert experiment.run(["sessions", *given]) == 0
    assert "the graph is sound" in capsys.readouterr().err


# simulate → archive → sessions → analyse

EXPERIMENTS = """
version: 1
layers: [{name: featured}]
experiments:
  - name: featured_first
    version: 1
    layer: featured
    unit: session
    ramp: 1
    starts: 2026-05-05T00:00:00Z
    arms:
      - {name: control, weight: 1, shows: false}
      - {name: treatment, weight: 1, shows: true}
"""
PLANTED = {"electric": 0.8, "suv": -0.5}


def test_a_planted_uplift_and_a_planted_harm_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experiments.yaml").write_text(EXPERIMENTS)
    market = "--events 40000 --users 2500 --seed 11 --days 12 --until 2026-05-13T00:00:00Z --duplicates 0.02 --late 0.02".split()
    effects = [part for name, effect in PLANTED.items() for part in ("--effect", f"{name}={effect}")]
    planted = ["--experiments", str(tmp_path / "experiments.yaml"), "--experiment", "featured_first", *effects]
    assert simulate.run([*market, *planted, "--to", f"file:{tmp_path / 'events.jsonl'}"]) == 0
    source = f"file:{tmp_path / 'events.jsonl'}"
    assert archive.run(["--source", source, "--archive", str(tmp_path / "archive"), "--json", "--flush-events", "2000"]) == 0
    capsys.readouterr()
    assert sessions(tmp_path, "--experiment", "featured_first", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["exposures"]["holds"]
    assert made["exposures"]["not_assigned"] > 1_000, "before it started"
    assert made["starts"].startswith("2026-05-05")
    assert made["copies"] > 100
    assert analyse.run(["analyse", "--sessions", str(tmp_path / "sessions.parquet"), "--unit", "session", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["readable"], document["reasons"]
    assert document["population"]["copies"] == 0
    for name, segment in document["segments"].items():
        low, high = segment["rel_ci"]
        effect = PLANTED.get(name, 0.0)
        if effect:
            assert low < effect < high, name
            assert segment["action"] == ("ramp_up" if effect > 0 else "roll_back")
        else:
            assert segment["action"] == "keep_testing", name
    assert document["interaction"]["p"] < 1e-6
    assert document["cuped"]["covered"] > 0.5
    assert document["cuped"]["variance_ratio"] < 1


def test_what_is_simulated_is_an_exposure_in_the_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Raw ids become pseudonyms on the way, in the exposure too."""
    (tmp_path / "experiments.yaml").write_text(EXPERIMENTS.replace("unit: session", "unit: user"))
    planted = ["--experiments", str(tmp_path / "experiments.yaml"), "--experiment", "featured_first"]
    market = "--events 400 --users 9 --days 3 --until 2026-05-08T00:00:00Z".split()
    assert simulate.run([*market, *planted, "--to", f"file:{tmp_path / 'events.jsonl'}"]) == 0
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    archived(tmp_path, lines, capsys=capsys)
    raw = {PSEUDONYM(each["user_id"] or each["anonymous_id"]) for each in map(json.loads, lines)}
    assert sessions(tmp_path, "--experiment", "featured_first", "--json") == 0
    rows = rows_in(tmp_path / "sessions.parquet")
    assert len(rows) > 30
    assert {row.user_id for row in rows} <= raw
    table = pq.read_table(tmp_path / "archive", columns=["event_type", "experiment", "user"]).to_pylist()
    for each in table:
        if each["event_type"] == "featured_impression":
            body = msgspec.json.decode(each["experiment"], type=Exposure)
            assert body.unit == each["user"]
            assert text_of(body) == json.dumps(json.loads(each["experiment"]), sort_keys=True)


# --- people --------------------------------------------------------------------------------------------------------------


def of_device(sent: bytes, device: str, **more: Any) -> bytes:
    """The message as of a visitor who hasn't signed in."""
    event = json.loads(sent) | {"user_id": None, "anonymous_id": device} | more
    if event.get("pseudonymised"):
        event["anonymous_id"] = PSEUDONYM(device)
    return json.dumps(event).encode()


def both(sent: bytes, device: str) -> bytes:
    return json.dumps(json.loads(sent) | {"anonymous_id": device}).encode()


def test_who_signs_in_is_no_other_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = [
        of_device(message("listing_view", 1, NOON - HOUR_MS, "ann", "before", listing="l1"), "phone"),
        of_device(message("listing_view", 2, NOON - HOUR_MS, "ann", "before", listing="l2"), "phone"),
        of_device(shown(3, NOON, "phone", "s1", unit_kind="user"), "phone"),
        both(message("identify", 4, NOON + 1, "ann", "s1"), "phone"),
        message("listing_view", 5, NOON + 2, "ann", "s1", listing="l3"),
        message("lead", 6, NOON + 3, "ann", "s1"),
    ]
    archived(tmp_path, sent, capsys=capsys)
    assert sessions(tmp_path, "--experiment", "first", "--json") == 0
    (row,) = rows_in(tmp_path / "sessions.parquet")
    assert (row.user_id, row.session_id) == (PSEUDONYM("ann"), "s1")
    assert (row.vehicles_viewed, row.lead, row.pre_vehicles) == (1.0, 1.0, 2.0)


def test_exposures_of_who_has_opted_out_stay_and_their_views_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sent = [
        shown(1, NOON, "ann", "s1"),
        message("listing_view", 2, NOON + 2, "ann", "s1", listing="l3"),
        message("opt_out", 3, NOON + 3, "ann", "s1"),
        shown(4, NOON, "bob", "s2"),
        message("listing_view", 5, NOON + 2, "bob", "s2", listing="l3"),
    ]
    archived(tmp_path, sent, capsys=capsys)
    assert sessions(tmp_path, "--experiment", "first", "--json") == 0
    assert {row.session_id: (row.impressions, row.vehicles_viewed) for row in rows_in(tmp_path / "sessions.parquet")} == {
        "s1": (1.0, 0.0),
        "s2": (1.0, 1.0),
    }


def test_nothing_of_the_forgotten_is_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = archived(tmp_path, [shown(1, NOON, "ann", "s1"), shown(2, NOON, "bob", "s2")], capsys=capsys)
    grave = entry_of_tombstone(tombstone_of(PSEUDONYM("ann"), NOON))
    change_ledger(str(folder), lambda ledger: with_entries(ledger, [grave]))
    assert sessions(tmp_path, "--experiment", "first", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rows"], document["exposures"]["read"]) == (1, 1)
    assert [row.user_id for row in rows_in(tmp_path / "sessions.parquet")] == [PSEUDONYM("bob")]
