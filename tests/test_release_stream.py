"""Release folders under ``forecourt stream`` from a file into SQLite: each row by its version, shadows as promotion serves them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import release, stream
from schemas.profile_row import view_cell
from schemas.release import Pointer
from schemas.view import pack_attributes
from serving.keys import KEY_VARIABLE
from serving.store import Store, open_store
from tests.maintained import maintain_windows
from tests.reference import SeenView
from tests.release_rows import (
    ACTIVE,
    CANDIDATE,
    CANDIDATE_RULES,
    PSEUDONYMS,
    Expected,
    Rows,
    answers,
    drawn,
    expected_of,
    versions_of,
    wrong,
)
from tests.strategies import CATALOGUE
from tests.traffic import KEY, RULES, Traffic, market_of, traffic_of
from transforms.canary import Prepared, prepared
from transforms.release_folder import read_pointer
from transforms.rules_file import load_release


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return traffic_of(market_of(events=900, users=150, seed=31, reasons=("not_json",)))


@pytest.fixture(scope="module")
def expected(traffic: Traffic) -> Expected:
    expected = expected_of(traffic.people)
    assert expected.by_version[ACTIVE] != expected.by_version[CANDIDATE]
    return expected


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Market:
    """A SQLite store, a release folder and traffic: streams run over it, commands change the release."""

    def __init__(self, folder: Path, traffic: Traffic) -> None:
        self.folder, self.traffic = folder, traffic
        self.store_uri, self.releases = f"sqlite:///{folder}/profiles.db", folder / "releases"
        open_store(self.store_uri).init()
        (folder / "events.jsonl").write_bytes(b"\n".join(traffic.messages) + b"\n")
        for version, text in ((ACTIVE, RULES), (CANDIDATE, CANDIDATE_RULES)):
            (folder / f"{version}.yaml").write_text(text)
            self.rules(f"publish {folder}/{version}.yaml --force tests")

    def rules(self, line: str) -> Pointer:
        """Run ``forecourt rules``; the pointer then."""
        assert release.run([*line.split(), "--releases", str(self.releases)]) == 0
        return read_pointer(str(self.releases))

    def stream(self, rules: Path | None = None) -> None:
        """Run the whole file through the stream; the second time nothing is new, and every row is evaluated again."""
        options = ["--source", f"file:{self.folder}/events.jsonl", "--store", self.store_uri, "--json"]
        letters = ["--dead-letters", f"file:{self.folder}/dead.jsonl"]
        assert stream.run([*options, *letters, "--rules", str(rules or self.releases)]) == 0

    def store(self) -> Store:
        return open_store(self.store_uri)

    def rows(self) -> Rows:
        """The rows by raw id."""
        found = self.store().read_rows([PSEUDONYMS(raw_id) for raw_id in self.traffic.people])
        return {raw_id: found[PSEUDONYMS(raw_id)] for raw_id in self.traffic.people}


@pytest.fixture
def market(tmp_path: Path, traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> Market:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    return Market(tmp_path, traffic)


def test_rows_are_as_the_release_says_at_every_step(market: Market, expected: Expected, capfd: pytest.CaptureFixture[str]) -> None:
    # publish      canary 0      canary 30          promote     rollback
    # 41           41 (42)       42 │ 41 (42)       42          41            served (shadow)
    pointers = [read_pointer(str(market.releases))]
    shadows: dict[str, bytes] = {}
    for step in ("", "canary 42 --percent 0", "canary 42 --percent 30", "promote", "rollback"):
        if step:
            pointers.append(market.rules(step))
        market.stream()
        rows = market.rows()
        assert wrong(rows, expected, pointers[-1]) == [], step
        if step.startswith("canary"):
            inside = [raw_id for raw_id in market.traffic.people if drawn(raw_id, pointers[-1])]
            share = pointers[-1].percent / 100  # the salt is drawn anew in every run: within five standard deviations
            assert abs(len(inside) / len(rows) - share) <= 5 * (share * (1 - share) / len(rows)) ** 0.5
            shadows = answers(rows, shadow=True)
            assert len(shadows) == len(rows) - len(inside)
        if step == "promote":
            served = answers(rows, shadow=False)
            assert {raw_id: served[raw_id] for raw_id in shadows} == shadows, "what was the shadow is now served"
    assert len({pointer.salt for pointer in pointers if pointer.candidate}) == 1
    counts = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith('{"read"')]
    assert [count["holds"] for count in counts] == [True] * 5


def test_a_row_that_no_event_touches_keeps_what_it_had_until_one_does(market: Market, traffic: Traffic) -> None:
    market.rules("canary 42 --percent 0")
    market.stream()
    market.rules("promote")
    assert {versions_of(row) for row in market.rows().values()} == {(41, 42)}
    touched, *others = traffic.people
    before, newest = market.rows(), traffic.people[touched][-1]
    cell = view_cell(newest.time + 1, "one more", pack_attributes(newest.attributes))
    rules = prepared(load_release(str(market.releases), CATALOGUE))
    maintain_windows(market.store(), rules, [(PSEUDONYMS(touched), cell)])
    after = market.rows()
    assert versions_of(after[touched]) == (42, None), "a shadow doesn't outlive its trial"
    assert {raw_id: after[raw_id] for raw_id in others} == {raw_id: before[raw_id] for raw_id in others}
    told = {touched: [*traffic.people[touched], SeenView(newest.time + 1, "one more", newest.attributes)]}
    assert wrong(after, expected_of(told), read_pointer(str(market.releases))) == []


def test_a_plain_file_makes_the_same_rows_as_its_version_in_a_folder(market: Market) -> None:
    market.stream()
    in_folder = answers(market.rows(), shadow=False)
    market.stream(market.folder / "41.yaml")
    assert answers(market.rows(), shadow=False) == in_folder
    assert answers(market.rows(), shadow=True) == {}


def test_without_a_candidate_there_is_no_shadow_and_at_100_percent_neither(market: Market, traffic: Traffic) -> None:
    packed = pack_attributes({"fuel_type": "electric"})
    views = [(PSEUDONYMS(raw_id), view_cell(seen[0].time, "e", packed)) for raw_id, seen in traffic.people.items()]
    folder = str(market.releases)
    for step, version in (("canary 42 --percent 100", 42), ("rollback", 41)):
        market.rules(step)
        maintain_windows(market.store(), prepared(load_release(folder, CATALOGUE)), views)
        assert {versions_of(row) for row in market.rows().values()} == {(version, None)}
    alone = Prepared(prepared(load_release(folder, CATALOGUE)).active)
    maintain_windows(market.store(), alone, views)
    assert {versions_of(row) for row in market.rows().values()} == {(41, None)}


def test_comparison_counts_what_the_rows_hold(market: Market, capfd: pytest.CaptureFixture[str]) -> None:
    market.rules("canary 42 --percent 30")
    market.stream()
    rows = market.rows().values()
    at = "2999-01-01T00:00:00Z"
    capfd.readouterr()
    for instant in (None, at):
        line = ["compare", "--store", market.store_uri, "--releases", str(market.releases), "--json"]
        assert release.run(line if instant is None else [*line, "--at", instant]) == 0
    now, never = map(json.loads, capfd.readouterr().out.splitlines())
    both = [row for row in rows if row.candidate is not None]
    assert (now["rows"], now["compared"], now["candidate"]) == (len(market.traffic.people), len(both), 42)
    electric = next(each for each in now["segments"] if each["segment"] == "electric")
    assert electric["enter"] > 0, "the candidate lets more users in"
    assert electric["candidate"] - electric["served"] == electric["enter"] - electric["leave"]
    assert never["segments"] == []
