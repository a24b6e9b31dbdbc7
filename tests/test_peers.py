"""The benchmark's archives are what they say, and its peers count a day as the reference does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks import archives
from benchmarks.archives import Facts, make_archive
from benchmarks.peers import PLAIN_RULES, Answer, PeerError, duckdb_frames_job, duckdb_job, pandas_job, plain_rules, run_peer
from rules import CATALOGUE_PATH
from schemas.errors import ConfigError
from schemas.instants import DAY_MS, parse_instant
from schemas.rules import Rule
from schemas.tables import ARCHIVE_ORDER, archive_schema
from tests.reference import SeenView
from tests.reference_day import day_of, rates_of
from transforms.archive_files import parts_of, read_archive, read_part, write_part
from transforms.rules_file import load_catalogue

CATALOGUE = load_catalogue(CATALOGUE_PATH)
DATE = "2026-03-12"  # the last but one: what comes after must not count
DAY = parse_instant(f"{DATE}T00:00:00Z")

# Every other form of a condition.
RULES = (
    PLAIN_RULES
    + """\
  - {name: old_or_new, when: {any: [{year: {lt: 2013}}, {year: {gt: 2022}}]}, enter: 0.3, exit: 0.3}
  - {name: of_two_years, when: {year: [2020, 2021]}, enter: 0.2, exit: 0.2}
  - {name: no_name, when: {not: {any: [{make: "o'er"}, {model: [Golf, Corolla]}]}}, enter: 0.95, exit: 0.95}
"""
)

Job = Callable[[str, str, Sequence[Rule]], Answer]


class Archive(NamedTuple):
    path: str
    facts: Facts


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = str(tmp_path_factory.mktemp("archives") / "made")
    return Archive(path, make_archive(path, 20_000, 250, 13, catalogue=CATALOGUE))


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive with what a made one has little of.

        D-10          D-9             D
    |              |      … |         v    |    a view of D,
    |         v    |      … |         v    |    once more at its instant, and once W before it
    |        v     |      … |         v    |    another one, and once W + 1 ms before it
    |   v          |   c  … |              |    a view of D-10, and a copy a day later with other attributes
    """
    path = str(tmp_path_factory.mktemp("archives") / "hard")
    make_archive(path, 12_000, 800, 13, seed=7, catalogue=CATALOGUE)  # windows of few views, in which each one counts
    today = _views_of(path, DATE)
    some, others, oldest = today.slice(0, 250), today.slice(250, 250), _views_of(path, "2026-03-02")
    write_part(path, DATE, "again", _renamed(some, "a"))
    write_part(path, "2026-03-02", "window", _renamed(_shifted(some, -10 * DAY_MS), "w"))
    write_part(path, "2026-03-02", "longer", _renamed(_shifted(others, -10 * DAY_MS - 1), "l"))
    mixed = oldest["attributes"].take(pa.array(np.roll(np.arange(len(oldest)), 1)))
    place = oldest.schema.get_field_index("attributes")
    write_part(path, "2026-03-03", "copies", _shifted(oldest, DAY_MS).set_column(place, oldest.schema.field("attributes"), mixed))
    return path


def _views_of(path: str, date: str) -> pa.Table:
    table = read_archive(path, CATALOGUE, [date])
    return table.filter(pc.equal(table["event_type"], "listing_view"))


def _shifted(table: pa.Table, by: int) -> pa.Table:
    field = table.schema.field("event_time")
    times = pc.add(table["event_time"].cast(pa.int64()), by).cast(field.type)
    return table.set_column(table.schema.get_field_index("event_time"), field, times)


def _renamed(table: pa.Table, name: str) -> pa.Table:
    ids = pa.array([f"{name}-{number}" for number in range(len(table))])
    return table.set_column(0, table.schema.field("event_id"), ids)


def seen_in(path: str) -> dict[str, list[SeenView]]:
    """All views by user, copies too."""
    views: dict[str, list[SeenView]] = {}
    for part in parts_of(path):
        table = read_part(part)
        for row in table.set_column(2, "event_time", table["event_time"].cast(pa.int64())).to_pylist():
            if row["event_type"] == "listing_view":
                known = {name: value for name, value in row["attributes"].items() if value is not None}
                views.setdefault(row["user"], []).append(SeenView(row["event_time"], row["event_id"], known))
    return views


def expected_of(path: str) -> dict[str, tuple[Any, ...]]:
    document, views = yaml.safe_load(RULES), seen_in(path)
    expected = {}
    for segment in document["segments"]:
        counted = day_of(views, document["defaults"] | segment, DAY)
        expected[segment["name"]] = (*counted[:5], *rates_of(counted)[:2])
    return expected


# --- peers ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answers(archive: Archive, hard: str) -> dict[str, dict[str, tuple[Any, ...]]]:
    return {path: expected_of(path) for path in (archive.path, hard)}


@pytest.mark.parametrize("job", [duckdb_job, duckdb_frames_job, pandas_job])
@pytest.mark.parametrize("which", ["made", "hard"])
def test_a_peer_counts_as_the_reference_does(job: Job, which: str, archive: Archive, hard: str, answers: dict[str, Any]) -> None:
    path = archive.path if which == "made" else hard
    answer = job(path, DATE, plain_rules(RULES))
    assert {name: tuple(counted) for name, counted in answer.counts.items()} == answers[path]
    assert answer.events == sum(len(read_part(part)) for part in parts_of(path, [f"2026-03-{day:02}" for day in range(2, 13)]))
    assert answer.capped == 0


def test_the_counts_are_worth_comparing(archive: Archive, answers: dict[str, Any]) -> None:
    columns = list(zip(*answers[archive.path].values(), strict=True))
    assert all(sum(cell > 0 for cell in column) >= 11 for column in columns[:5]), "nearly every rule has some of each"
    assert all(precision > (tp + fn) / (tp + fp + fn + tn) for tp, fp, fn, tn, _, precision, _ in answers[archive.path].values()), (
        "members look at more of what they are members for than all do"
    )


@pytest.mark.parametrize("job", [duckdb_job, pandas_job])
def test_a_window_that_is_over_the_cap_is_told(job: Job, tmp_path: Path) -> None:
    make_archive(str(tmp_path / "few"), 8_000, 2, 13, catalogue=CATALOGUE)
    assert job(str(tmp_path / "few"), DATE, plain_rules()).capped > 0


@pytest.mark.parametrize("name", ["duckdb", "pandas"])
def test_a_peer_is_measured_in_a_process_of_its_own(name: str, archive: Archive, answers: dict[str, Any]) -> None:
    result = run_peer(name, archive.path, DATE)
    assert result.name == name
    assert [tuple(counted) for counted in result.counts.values()] == [answers[archive.path][segment] for segment in result.counts]
    assert len(result.counts) == 10
    assert 0 < result.import_seconds < result.seconds
    assert result.peak_mb > 20


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        PeerError, match=r"duckdb: exit status == 2, must be 0: archive == .*, must have files of 2026-03-02 to 2026"
    ):
        run_peer("duckdb", str(tmp_path), DATE)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("exit: 0.4", r"electric.exit == 0.4, must be 0.5 for a peer"),
        ("window: 3d", r"electric.window == 259200000, must be 864000000"),
        ("half_life: 2d", r"electric.half_life == 172800000, must be None"),
        ("min_days: 2", r"electric.min_days == 2, must be 1"),
        ("prior_views: 4", r"electric.prior_views == 4.0, must be 0"),
    ],
)
def test_a_rule_that_is_not_plain_is_refused(more: str, message: str) -> None:
    text = PLAIN_RULES.replace("{fuel_type: electric}}", "{fuel_type: electric}, " + more + "}", 1)
    with pytest.raises(ConfigError, match=message):
        plain_rules(text)


# --- archives ------------------------------------------------------------------------------------------------------------


def test_an_archive_is_what_forecourt_archive_would_write(archive: Archive) -> None:
    tables = [pq.read_table(part, partitioning=None) for part in parts_of(archive.path)]
    for table in tables:
        assert table.schema.equals(archive_schema(CATALOGUE))
        assert table.equals(table.sort_by(ARCHIVE_ORDER))
        assert len(pc.unique(table["event_id"])) == len(table), "copies lie in other files"
        assert pc.all(pc.match_substring_regex(table["user"], "^1:[0-9a-f]{64}$")).as_py()
        assert pc.all(pc.equal(table["user"], pc.coalesce(table["user_id"], table["anonymous_id"]))).as_py()
        assert pc.all(pc.greater_equal(table["received_at"], table["event_time"])).as_py()
    for part, table in zip(parts_of(archive.path), tables, strict=True):
        assert set(pc.strftime(table["event_time"], "date=%Y-%m-%d").to_pylist()) == {Path(part).parent.name}


def test_an_archive_holds_what_its_facts_say(archive: Archive) -> None:
    facts, events = archive.facts, read_archive(archive.path, CATALOGUE)
    tables = [read_part(part) for part in parts_of(archive.path)]
    assert (facts.first_date, facts.last_date) == (archives.FIRST_DATE, "2026-03-13")
    assert facts.events == len(events) == 20_000
    assert facts.rows == sum(map(len, tables)) == facts.events + facts.copies
    assert facts.files == len(tables)
    assert facts.copies == pytest.approx(200, abs=13)
    assert facts.views == pc.sum(pc.equal(events["event_type"], "listing_view")).as_py()
    assert facts.users == len(pc.unique(events["user"]))
    lags = pa.concat_arrays([_lag_of(table) for table in tables])
    assert facts.late == pc.sum(pc.greater(lags, 3_600_000)).as_py() > 0
    listed = events.filter(pc.equal(events["event_type"], "listing_view"))["attributes"].combine_chunks()
    for name in CATALOGUE.attributes:
        assert 0 < pc.struct_field(listed, name).null_count < 0.05 * len(listed), name


def _lag_of(table: pa.Table) -> pa.Array:
    received, happened = (table[name].cast(pa.int64()).combine_chunks() for name in ("received_at", "event_time"))
    return pc.subtract(received, happened)


def test_equal_arguments_make_equal_files(archive: Archive, tmp_path: Path) -> None:
    def digests(path: str) -> dict[str, str]:
        return {part.removeprefix(path): hashlib.sha256(Path(part).read_bytes()).hexdigest() for part in parts_of(path)}

    for seed in (archives.SEED, 2):
        again = str(tmp_path / str(seed))
        facts = make_archive(again, 20_000, 250, 13, seed=seed, catalogue=CATALOGUE)
        assert (facts == archive.facts) is (seed == archives.SEED)
        assert (digests(again) == digests(archive.path)) is (seed == archives.SEED)


@pytest.mark.parametrize(("events", "users", "days"), [(2, 1, 1), (41, 3, 20)])
def test_the_smallest_archives(events: int, users: int, days: int, tmp_path: Path) -> None:
    facts = make_archive(str(tmp_path / "tiny"), events, users, days, catalogue=CATALOGUE)
    assert len(read_archive(str(tmp_path / "tiny"), CATALOGUE)) == events == facts.events


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events": 39}, "events == 39, must be at least 40"),
        ({"users": 0}, "users == 0, must be at least 1"),
        ({"days": 0}, "days == 0, must be at least 1"),
        ({"listings": 1_999}, "listings == 1999, must be at least 2000"),
    ],
)
def test_an_archive_that_makes_no_sense_is_refused(arguments: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_archive(str(tmp_path / "none"), **({"events": 1_000, "users": 10, "days": 20} | arguments), catalogue=CATALOGUE)


def test_a_folder_with_something_in_it_is_refused(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert archives.run([archive.path, "--events", "100", "--users", "1", "--days", "1"]) == 2
    assert "must be a folder that is empty or not there yet" in capsys.readouterr().err


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert archives.run([str(tmp_path / "made"), "--events", "1000", "--users", "20", "--days", "2"]) == 0
    assert "events       1,000\n" in capsys.readouterr().out
