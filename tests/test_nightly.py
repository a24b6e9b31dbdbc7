"""The night, whole: an archive evaluated, judged and published, through SQLite and the Bigtable emulator.

The archives are small and of days of now, for Bigtable's garbage collection goes by the clock.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines import archive, nightly, release, simulate, stream
from schemas.errors import ConfigError, ForecourtError
from schemas.instants import DAY_MS, clock_ms, date_of, format_instant, parse_date
from schemas.profile_row import Membership, encode_cell
from schemas.pseudonym import Pseudonyms, ring_of
from schemas.tables import TABLES, meaning_of
from serving.keys import KEY_VARIABLE
from serving.segments import segments_at
from serving.store import RowUpdate, Store, open_store
from serving.withdrawn import withdrawn_in
from tests.reference_day import day_of, rates_of, views_of_events
from tests.strategies import ROOT

KEY = "nightly-tests-" + "k" * 32
TODAY = clock_ms() // DAY_MS * DAY_MS
DATE = date_of(TODAY - DAY_MS)
RULES: dict[str, Any] = {
    "version": 5,
    "defaults": {"min_views": 4},
    "segments": [
        {"name": "electric", "when": {"fuel_type": "electric"}, "enter": 0.4, "exit": 0.3},
        {"name": "suv", "when": {"body_type": ["suv", "crossover"]}, "half_life": "2d"},
        {"name": "premium", "when": {"price": {"gte": 40000}}, "prior_views": 4, "prior_share": 0.1},
        {"name": "budget", "when": {"price": {"lt": 12000}}, "window": "36h", "enter": 0.6},
        {"name": "steady", "when": {"not": {"fuel_type": "diesel"}}, "enter": 0.9, "exit": 0.8, "min_days": 2},
    ],
}


class Told(NamedTuple):
    """What a command said: its status, its JSON document where there was one, and its complaints."""

    status: int
    document: dict[str, Any]
    errors: str


class Place(NamedTuple):
    """A folder with events (JSONL), their archive and rules, and where metrics go."""

    folder: Path
    events: list[dict[str, Any]]

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics"

    @property
    def rules(self) -> Path:
        return self.folder / "rules.yaml"

    def options(self, *more: str, date: str = DATE) -> list[str]:
        where = ["--archive", str(self.archive), "--date", date, "--metrics", str(self.metrics), "--rules", str(self.rules)]
        return [*where, "--workers", "2", "--json", *more]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Twenty days of a simulated marketplace and their archive."""
    folder = tmp_path_factory.mktemp("simulated")
    sizes = ["--events", "40000", "--users", "400", "--days", "20", "--seed", "3", "--anonymous", "0"]
    assert simulate.run([*sizes, "--until", format_instant(TODAY), "--to", f"file:{folder}/events.jsonl", "--json"]) == 0
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    place = Place(folder, events)
    archived(place, events)
    place.rules.write_text(yaml.safe_dump(RULES))
    return place


@pytest.fixture
def place(simulated: Place, tmp_path: Path) -> Place:
    """A copy that a test may spoil."""
    shutil.copytree(simulated.archive, tmp_path / "archive")
    shutil.copy(simulated.rules, tmp_path / "rules.yaml")
    return Place(tmp_path, simulated.events)


def archived(place: Place, events: Sequence[dict[str, Any]]) -> None:
    shutil.rmtree(place.archive, ignore_errors=True)
    written(place.folder / "to-archive.jsonl", events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        assert archive.run(["--source", f"file:{place.folder}/to-archive.jsonl", "--archive", str(place.archive)]) == 0


def written(path: Path, events: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return f"file:{path}"


def night(capfd: pytest.CaptureFixture[str], options: list[str]) -> Told:
    capfd.readouterr()
    try:
        status = nightly.run(options)
    except ForecourtError as fault:
        return Told(fault.exit_status, {}, str(fault))
    printed = capfd.readouterr()
    return Told(status, json.loads(printed.out), printed.err)


def streamed(place: Place, store_uri: str, events: Sequence[dict[str, Any]]) -> Store:
    store = open_store(store_uri)
    store.init()
    source = written(place.folder / "to-stream.jsonl", events)
    letters = f"file:{place.folder}/dead.jsonl"
    where = ["--source", source, "--store", store_uri, "--rules", str(place.rules), "--dead-letters", letters]
    assert stream.run([*where, "--json"]) == 0
    return store


def rows_in(store: Store) -> dict[str, bytes]:
    return {row.key: encode_cell(row.membership) for row in store.scan() if row.membership is not None}


def metrics_in(place: Place, date: str = DATE) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (place.metrics / f"date={date}").glob("*.parquet")}


def window_of(events: Sequence[dict[str, Any]]) -> set[str]:
    """The pseudonyms of users with a view in the ten days before today."""
    first, pseudonyms = format_instant(TODAY - 10 * DAY_MS), Pseudonyms(ring_of(KEY, "tests"))
    return {pseudonyms(each["user_id"]) for each in events if each["event_type"] == "listing_view" and each["event_time"] > first}


# --- metrics -------------------------------------------------------------------------------------------------------------


def test_every_number_is_the_references(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    told = night(capfd, place.options())
    assert told.status == 0, told
    views = views_of_events(place.events)
    table = pq.read_table(place.metrics / f"date={DATE}" / "segments.parquet", partitioning=None).to_pylist()
    assert [row["segment"] for row in table] == [rule["name"] for rule in RULES["segments"]]
    for rule, row, printed in zip(RULES["segments"], table, told.document["segments"], strict=True):
        counts = day_of(views, {**RULES["defaults"], **rule}, parse_date(DATE))
        expected = {**counts._asdict(), **rates_of(counts)._asdict()}
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=False), rule["name"]
        assert counts.tp > 0, "a day without a hit shows nothing"
        assert {**printed, "date": DATE, "rule_version": 5} == row


def test_running_a_day_twice_leaves_the_same_bytes(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    assert night(capfd, place.options()).status == 0
    first = metrics_in(place)
    assert night(capfd, [*place.options(), "--workers", "1"]).status == 0
    assert set(first) == {f"{name}.parquet" for name in TABLES}
    assert metrics_in(place) == first


def test_copies_order_and_files_change_no_metric(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    assert night(capfd, place.options()).status == 0
    before = metrics_in(place)["segments.parquet"]
    events = [*place.events, *random.Random(5).sample(place.events, 1_000)]
    random.Random(6).shuffle(events)
    shutil.rmtree(place.archive)
    for start in range(0, len(events), 4_000):
        part = Place(place.folder / str(start), [])
        part.folder.mkdir()
        archived(part, events[start : start + 4_000])
        shutil.copytree(part.archive, place.archive, dirs_exist_ok=True)
    told = night(capfd, place.options("--override", "copies are meant"))
    assert told.status == 0, told
    assert metrics_in(place)["segments.parquet"] == before


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_as_documented(place: Place, capfd: pytest.CaptureFixture[str], name: str) -> None:
    documented = (ROOT / "docs/metrics.md").read_text()
    for field in TABLES[name]:
        assert f"| `{field.name}` | {field.type} | {meaning_of(field)} |" in documented, field.name


def test_the_volume_table_counts_the_day(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    night(capfd, place.options())
    table = pq.read_table(place.metrics / f"date={DATE}" / "volume.parquet", partitioning=None).to_pylist()
    assert len(table) == 8
    of_day = [event for event in place.events if event["event_time"].startswith(DATE)]
    row = table[-1]
    assert (row["date"], row["rows"], row["events"], row["duplicates"]) == (DATE, len(of_day), len(of_day), 0)
    assert row["users"] == len({event["user_id"] for event in of_day})
    assert row["views"] == sum(event["event_type"] == "listing_view" for event in of_day)


# --- publishing and parity -----------------------------------------------------------------------------------------------


def test_stream_and_night_write_the_same_bytes(place: Place, store_uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    shuffled = [*place.events, *place.events[::7]]
    random.Random(1).shuffle(shuffled)
    store = streamed(place, store_uri, shuffled)
    by_stream = rows_in(store)
    other = open_store(store_uri + "-batch")
    other.init()
    told = night(capfd, place.options("--store", other.uri))
    by_night = rows_in(other)
    seen = window_of(place.events)
    assert told.status == 0, told
    assert by_night.keys() == seen
    assert by_night == {key: cell for key, cell in by_stream.items() if key in seen}
    assert told.document["parity"] == {"missing_row": len(seen)}
    again = night(capfd, place.options("--store", store_uri))
    assert again.document["parity"] == {"agree": len(seen)}
    assert again.document["published"] == len(seen)
    assert rows_in(store) == by_stream, "publishing what is right changes nothing"
    for each in (store, other):
        each.close()


def test_late_events_missing_rows_and_old_rules_are_told_apart_and_put_right(
    place: Place, store_uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pseudonyms = Pseudonyms(ring_of(KEY, "tests"))
    users = sorted({event["user_id"] for event in place.events})
    late, missing, old = users[0], users[1], users[2]
    recent = [event["event_id"] for event in place.events if event["user_id"] == late and event["event_type"] == "listing_view"][
        -3:
    ]
    right = rows_in(streamed(place, store_uri + "-right", place.events))
    kept = [event for event in place.events if event["event_id"] not in recent and event["user_id"] != missing]
    store = streamed(place, store_uri, kept)
    row = store.read_row(pseudonyms(old))
    assert row.membership is not None
    assert row.profile is not None
    outdated = Membership(4, row.membership.as_of, [])
    time = store.read_windows([pseudonyms(old)], 1).time
    store.write_memberships([RowUpdate(pseudonyms(old), time, encode_cell(outdated), encode_cell(row.profile), 0)])
    told = night(capfd, place.options("--store", store_uri))
    assert told.status == 0, told
    assert {name: told.document["parity"][name] for name in ("late_event", "missing_row", "rule_version")} == dict.fromkeys(
        ("late_event", "missing_row", "rule_version"), 1
    )
    seen = window_of(place.events)
    assert {key: cell for key, cell in rows_in(store).items() if key in seen} == {key: right[key] for key in seen}
    store.close()


def test_what_came_after_the_day_is_not_overwritten(place: Place, store_uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    earlier = date_of(parse_date(DATE) - DAY_MS)
    store = streamed(place, store_uri, place.events)
    before = rows_in(store)
    told = night(capfd, place.options("--store", store_uri, date=earlier))
    assert told.status == 0, told
    after_the_day = {
        key for key, row in ((row.key, row) for row in store.scan()) if row.membership and row.membership.as_of >= parse_date(DATE)
    }
    assert after_the_day
    assert sum(told.document["parity"].values()) + len(after_the_day & window_of(place.events)) >= len(window_of(place.events)) - 5
    assert set(told.document["parity"]) == {"agree"}
    assert rows_in(store) == before
    store.close()


def test_rows_that_nothing_explains_stop_the_rows_but_not_the_metrics(
    place: Place, store_uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    store = streamed(place, store_uri, place.events)
    key = next(iter(window_of(place.events)))
    row = store.read_row(key)
    assert row.membership is not None
    assert row.profile is not None
    time = store.read_windows([key], 1).time
    wrong = Membership(5, row.membership.as_of, [])
    if row.membership == wrong:
        wrong = Membership(5, row.membership.as_of - 1, [])
    store.write_memberships([RowUpdate(key, time, encode_cell(wrong), encode_cell(row.profile), 0)])
    told = night(capfd, place.options("--store", store_uri))
    assert told.status == 1
    assert told.document["parity"]["unexplained"] == 1
    assert told.document["published"] is None
    assert "unexplained, must be at most 0.1%: metrics are published, rows are not" in told.errors
    assert metrics_in(place)
    assert store.read_row(key).membership == wrong, "rows are not published"
    store.close()


def test_rows_get_what_the_release_has_for_their_user(place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    releases = f"{tmp_path}/releases"
    candidate = {**RULES, "version": 6, "segments": [{**RULES["segments"][0], "enter": 0.3, "exit": 0.2}]}
    (tmp_path / "candidate.yaml").write_text(yaml.safe_dump(candidate))
    for command in (
        ["publish", str(place.rules)],
        ["publish", str(tmp_path / "candidate.yaml"), "--force", "a test"],
        ["canary", "6", "--percent", "40"],
    ):
        assert release.run([*command, "--releases", releases, "--by", "ann"]) == 0
    store = open_store(f"sqlite:///{tmp_path}/profiles.db")
    store.init()
    told = night(capfd, [*place.options("--store", store.uri), "--rules", releases])
    assert told.status == 0, told
    assert told.document["rule_version"] == 5
    rows = list(store.scan())
    versions = {row.key: row.membership.rule_version for row in rows if row.membership is not None}
    canaries = {key for key, version in versions.items() if version == 6}
    assert 0.3 < len(canaries) / len(versions) < 0.5
    assert {row.key for row in rows if row.candidate is None} == canaries, "everybody else has a shadow"
    told = night(capfd, [*place.options("--store", store.uri), "--rules", releases])
    assert told.document["parity"] == {"agree": len(versions)}


# --- the gate ------------------------------------------------------------------------------------------------------------


def spoil(place: Place, change: Any) -> None:
    """Rewrite the day's events."""
    events = [event for event in place.events if not event["event_time"].startswith(DATE)]
    of_day = [event for event in place.events if event["event_time"].startswith(DATE)]
    archived(place, [*events, *change(of_day)])


def without_a_third(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return random.Random(2).sample(events, round(0.7 * len(events)))


def half_without_fuel(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**event, "attributes": {**(event["attributes"] or {}), "fuel_type": None}} if index % 2 else event
        for index, event in enumerate(events)
    ]


@pytest.mark.parametrize(
    ("change", "subject"), [(without_a_third, "events"), (half_without_fuel, "fuel_type")], ids=["30 % gone", "no fuel in half"]
)
def test_a_day_that_is_not_right_closes_the_gate(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: Any, subject: str
) -> None:
    spoil(place, change)
    store = open_store(f"sqlite:///{tmp_path}/profiles.db")
    store.init()
    told = night(capfd, place.options("--store", store.uri))
    assert told.status == 3
    assert any(subject in finding["subject"] for finding in told.document["verdict"]["failed"])
    assert not metrics_in(place)
    assert not rows_in(store)
    assert (place.metrics / "_verdicts" / f"date={DATE}" / "docs" / "index.html").is_file()
    overridden = night(capfd, place.options("--store", store.uri, "--override", "campaign ended"))
    assert overridden.status == 0
    assert rows_in(store)
    quality = pq.read_table(place.metrics / f"date={DATE}" / "quality.parquet", partitioning=None)
    assert set(quality["override"].to_pylist()) == {"campaign ended"}
    assert not all(quality["success"].to_pylist())


def test_an_empty_day_closes_the_gate(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (place.archive / f"date={DATE}").glob("*.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).slice(0, 0), path)
    told = night(capfd, place.options())
    assert told.status == 3
    assert not metrics_in(place)


def test_a_missing_date_is_unusable_input(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place.archive / f"date={DATE}")
    told = night(capfd, place.options())
    assert told.status == 2
    assert f"--date == {DATE}, must be a date of the archive" in told.errors
    assert not metrics_in(place)


def test_a_date_missing_from_the_window_closes_the_gate(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place.archive / f"date={date_of(parse_date(DATE) - 3 * DAY_MS)}")
    told = night(capfd, place.options())
    assert told.status == 3
    assert any("missing" in finding["subject"] for finding in told.document["verdict"]["failed"])


@pytest.mark.parametrize("back", [0, 9], ids=["of the day", "of the window"])
def test_a_corrupt_file_is_named(place: Place, capfd: pytest.CaptureFixture[str], back: int) -> None:
    path = next((place.archive / f"date={date_of(parse_date(DATE) - back * DAY_MS)}").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-100])
    told = night(capfd, place.options())
    assert told.status == 2
    assert f"archive file == {path}, must be readable Parquet" in told.errors
    assert not metrics_in(place)


# --- floors --------------------------------------------------------------------------------------------------------------


def test_a_segment_under_its_floor_is_withdrawn_until_two_good_days(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/profiles.db")
    store.init()

    def with_floor(floor: float | None, back: int) -> dict[str, Any]:
        rules = {**RULES, "segments": [{**RULES["segments"][0], "min_precision": floor}, *RULES["segments"][1:]]}
        place.rules.write_text(yaml.safe_dump(rules))
        told = night(capfd, place.options("--store", store.uri, date=date_of(parse_date(DATE) - back * DAY_MS)))
        assert told.status == 0, told
        row: dict[str, Any] = told.document["segments"][0]
        return row

    row = with_floor(0.99, 2)
    assert row["withdrawn"]
    assert row["withdrawn_why"] == f"precision_low == {row['precision_low']:.4f}, must be at least 0.99"
    assert withdrawn_in(store) == {"electric"}
    members = [each.membership for each in store.scan() if each.membership and segments_at(each.membership, each.membership.as_of)]
    electric = next(each for each in members if "electric" in {found.name for found in segments_at(each, each.as_of)})
    assert "electric" not in {found.name for found in segments_at(electric, electric.as_of, withdrawn_in(store))}
    row = with_floor(0.01, 1)
    assert not row["withdrawn"], "with today's floor yesterday was good too"
    row = with_floor(0.99, 1)
    assert row["withdrawn"]
    row = with_floor(0.01, 0)
    assert not row["withdrawn"]
    assert withdrawn_in(store) == frozenset()


# --- running it ----------------------------------------------------------------------------------------------------------


def test_catching_up_runs_the_missed_days_in_order(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    dates = [date_of(parse_date(DATE) - back * DAY_MS) for back in (3, 2, 1, 0)]
    assert night(capfd, place.options(date=dates[0])).status == 0
    capfd.readouterr()
    assert nightly.run(place.options("--catch-up")) == 0
    done = [json.loads(line)["date"] for line in capfd.readouterr().out.splitlines()]
    assert done == dates[1:]


def test_two_runs_do_not_overlap(place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from transforms import whole_files

    monkeypatch.setattr(whole_files, "LOCK_WAIT_S", 0.1)
    with whole_files.alone(f"{place.metrics}/_lock"):
        told = night(capfd, place.options())
    assert told.status == 2
    assert "_lock, must be free" in told.errors


def test_yesterday_is_a_date(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    assert night(capfd, place.options(date="yesterday")).document["date"] == DATE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--date", "2026-5-1"], "--date == '2026-5-1', must be a date such as 2026-05-01, or yesterday"),
        (["--override", " "], "--override == '', must say why"),
        (["--workers", "0"], "--workers == 0, must be between 1 and 64"),
        (["--store", "redis://x"], "store == 'redis://x', must be"),
        (["--rules", "nowhere.yaml"], "file == nowhere.yaml, must be readable"),
        (["--archive", "nowhere"], "archive == nowhere, must be a folder that forecourt archive has written"),
    ],
)
def test_options_that_cannot_be_used_say_what_can(place: Place, options: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        nightly.run([*place.options(), *options])
    assert message in str(caught.value)


def test_nothing_is_left_of_a_run(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    night(capfd, place.options())
    assert {path.name for path in place.metrics.iterdir()} == {f"date={DATE}", "_verdicts", "_lock"}


def test_a_dry_run_checks_the_graph_and_does_nothing(place: Place) -> None:
    assert nightly.run([*place.options(), "--dry_run"]) == 0
    assert not place.metrics.exists()


def test_a_signal_stops_the_night_and_nothing_is_published(place: Place) -> None:
    command = [sys.executable, "-m", "forecourt", "nightly", *place.options()]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(place.metrics.glob("_slices-*/*.slices")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert errors == "forecourt: stopped by a signal before the end; running it again starts anew\n"
    assert not metrics_in(place)
    assert {path.name for path in place.metrics.iterdir()} <= {"_lock", "_staging"}
