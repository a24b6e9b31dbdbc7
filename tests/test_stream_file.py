"""``forecourt stream`` from a file into SQLite, through the command line: right answers, bad input, bad arguments."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import forecourt
from pipelines.dead_letters import decode_dead_letter, encode_dead_letter
from pipelines.file_source import BATCH
from pipelines.poison import TIMELESS_REASONS
from rules import CATALOGUE_PATH
from schemas.dead_letter import DeadLetter
from schemas.decoding import Attributes, decode_event
from schemas.errors import EventError
from schemas.instants import DAY_MS, HOUR_MS, format_instant, parse_instant
from serving.file_sink import FileSink
from serving.keys import KEY_VARIABLE
from serving.store import sqlite_file
from tests.live import ROOT
from tests.reference import SeenView
from tests.traffic import KEY, RAW_ID, RULES, Balance, Spans, Traffic, balance_of, expected_spans, letters_in, market_of, traffic_of
from transforms.rules_file import load_catalogue

pytestmark = pytest.mark.alone

ATTRIBUTES = Attributes(load_catalogue(CATALOGUE_PATH))
NEWEST = "2026-01-31T12:00:00.000Z"


class Outcome(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document: dict[str, Any] = json.loads(self.out)
        return document


Command = Callable[..., Outcome]


@pytest.fixture
def command(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """``forecourt`` in this process, in a folder of its own with rules, a key and no emulators."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.delenv("BIGTABLE_EMULATOR_HOST", raising=False)
    (tmp_path / "rules.yaml").write_text(RULES)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr("sys.argv", ["forecourt", *arguments])
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        capfd.readouterr()
        log = logging.StreamHandler(sys.stderr)  # main() sets this up, but for pytest's own handlers
        logging.getLogger().addHandler(log)
        with pytest.raises(SystemExit) as stop:
            forecourt.main()
        logging.getLogger().removeHandler(log)
        return Outcome(int(stop.value.code or 0), *capfd.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def store(command: Command, tmp_path: pathlib.Path) -> str:
    uri = f"sqlite:///{tmp_path}/profiles.db"
    assert command("store", "init", "--store", uri).status == 0
    return uri


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    """Events in random order with many copies: more lines than are read at once."""
    made = traffic_of(market_of(events=3_000, users=600, seed=11, reasons=TIMELESS_REASONS))
    assert {reason for reason, _ in made.poison} == set(TIMELESS_REASONS)
    rng = random.Random(11)
    usable = [message for message in made.messages if is_usable(message)]
    messages = made.messages + rng.choices(usable, k=BATCH)
    rng.shuffle(messages)
    return made._replace(messages=messages)


@pytest.fixture(scope="module")
def expected(traffic: Traffic) -> dict[str, Spans]:
    return expected_spans(traffic.people)


def is_usable(message: bytes) -> bool:
    try:
        decode_event(message, ATTRIBUTES, None)
    except EventError:
        return False
    return True


def written(path: pathlib.Path, messages: list[bytes]) -> str:
    """The messages as a file; its URI."""
    data = b"\n".join(messages) + b"\n"
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return f"file:{path}"


def in_file(traffic: Traffic) -> frozenset[tuple[str, int]]:
    """Its poison as a file's dead letters tell it: too long a line is cut one byte behind the limit."""
    return frozenset((reason, min(size, 65_537)) for reason, size in traffic.poison)


def balance(store: str, folder: pathlib.Path, traffic: Traffic, expected: dict[str, Spans], version: int = 41) -> Balance:
    return balance_of(store, folder / "dead-letters.jsonl", traffic._replace(poison=in_file(traffic)), expected, version)


def process(folder: pathlib.Path, *arguments: str) -> subprocess.Popen[str]:
    """``forecourt`` as a process of its own."""
    environment = os.environ | {KEY_VARIABLE: KEY, "PYTHONPATH": str(ROOT)}
    whole = [sys.executable, "-m", "forecourt", *arguments]
    return subprocess.Popen(whole, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_file_becomes_the_right_rows(
    command: Command, store: str, tmp_path: pathlib.Path, traffic: Traffic, expected: dict[str, Spans]
) -> None:
    source = written(tmp_path / "events.jsonl.gz", traffic.messages)
    stream = ("stream", "--source", source, "--store", store, "--rules", "rules.yaml")
    with process(tmp_path, *stream, "--json") as ran:
        out, err = ran.communicate(timeout=60)
    assert (ran.returncode, err) == (0, "")
    document = json.loads(out)
    planted = dict(sorted(Counter(reason for reason, _ in traffic.poison).items()))
    assert (document["refused"], document["holds"]) == (planted, True)
    assert document["read"] == len(traffic.messages)
    events = 3_000
    assert (document["applied"], document["duplicate"]) == (events, document["read"] - events - sum(planted.values()))
    assert balance(store, tmp_path, traffic, expected).faults == {}

    # Once more: the same answers, and every view is a copy. This time for a person.
    again = command(*stream)
    assert (again.status, again.out) == (0, "")
    assert "read = applied + duplicate + refused" in " ".join(again.err.split())
    assert "refused messages are in file:dead-letters.jsonl" in again.err
    assert balance(store, tmp_path, traffic, expected).faults == {}

    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "events.jsonl.gz"}
    assert {"profiles.db", "dead-letters.jsonl"} <= kept.keys()
    assert [name for name, data in kept.items() if RAW_ID in data] == []
    assert RAW_ID.decode() not in again.err


def test_two_processes_at_once_make_the_same_rows(
    store: str, tmp_path: pathlib.Path, traffic: Traffic, expected: dict[str, Spans]
) -> None:
    halves = [written(tmp_path / f"{i}.jsonl", traffic.messages[i::2]) for i in (0, 1)]
    options = ("--store", store, "--rules", "rules.yaml", "--json")
    running = [process(tmp_path, "stream", "--source", half, *options) for half in halves]
    documents = [json.loads(each.communicate(timeout=60)[0]) for each in running]
    assert [each.returncode for each in running] == [0, 0]
    assert balance(store, tmp_path, traffic, expected).faults == {}
    assert sum(document["read"] for document in documents) == len(traffic.messages)
    assert all(document["holds"] for document in documents)


def test_views_that_have_left_the_window_count_no_more(command: Command, store: str, tmp_path: pathlib.Path) -> None:
    # ├──────── twenty days of views ────────┤
    #                    ├─ the window at the newest view ─┤
    long = traffic_of(market_of(events=1_500, users=100, seed=4, days=20, reasons=TIMELESS_REASONS))
    source = written(tmp_path / "events.jsonl", long.messages)
    assert command("stream", "--source", source, "--store", store, "--rules", "rules.yaml", "--json").document["holds"]
    found = balance(store, tmp_path, long, expected_spans(long.people))
    assert (found.memberships_wrong, found.repeated, found.strange, found.poison_missing) == (0, 0, 0, 0)
    assert found.memberships > 100


def test_rebase_shifts_all_times_by_the_same(command: Command, store: str, tmp_path: pathlib.Path, traffic: Traffic) -> None:
    source = written(tmp_path / "events.jsonl", traffic.messages)
    ran = command("stream", "--source", source, "--store", store, "--rules", "rules.yaml", "--rebase", NEWEST, "--json")
    assert ran.status == 0
    # The newest event of all types is what lands on the time asked for.
    times = [json.loads(message)["event_time"] for message in traffic.messages if is_usable(message)]
    shift = parse_instant(NEWEST) - max(map(parse_instant, times))
    assert shift != 0
    views = {raw_id: [SeenView(v.time + shift, *v[1:]) for v in seen] for raw_id, seen in traffic.views.items()}
    shifted = traffic._replace(views=views)
    assert balance(store, tmp_path, shifted, expected_spans(shifted.people)).faults == {}


def expected_segments(spans: Spans, at: int) -> dict[str, tuple[Any, int, int, str]]:
    """Per segment what a reader at an instant must be told: score, views, matching, until."""
    return {
        name: (pytest.approx(score, abs=1e-6), views, matching, format_instant(until))
        for name, periods in spans.items()
        for start, until, score, views, matching in periods
        if start <= at < until
    }


def test_segments_answers_from_the_rows(
    command: Command, store: str, tmp_path: pathlib.Path, traffic: Traffic, expected: dict[str, Spans]
) -> None:
    source = written(tmp_path / "events.jsonl", traffic.messages)
    assert command("stream", "--source", source, "--store", store, "--rules", "rules.yaml", "--json").status == 0
    people = traffic.people
    newest = max(seen[-1].time for seen in people.values())
    members = 0
    for at in (newest, newest + 6 * HOUR_MS, newest + 2 * DAY_MS + 1, newest + 7 * DAY_MS):
        instant = format_instant(at)
        ids = "\n".join(traffic.ids) + "\n\n"
        answered = command("segments", "-", "--store", store, "--at", instant, stdin=ids)
        documents = {document["user"]: document for document in map(json.loads, answered.out.splitlines())}
        assert (answered.status, answered.err, list(documents)) == (0, "", traffic.ids)
        for raw_id, document in documents.items():
            told = {each["name"]: (each["score"], each["views"], each["matching"], each["until"]) for each in document["segments"]}
            assert told == expected_segments(expected[traffic.person(raw_id)], at), f"{raw_id} at {instant}"
            ranks = [(-each["score"], each["name"]) for each in document["segments"]]
            assert ranks == sorted(ranks), "highest score first, then by name"
            assert (document["at"], document["rule_version"]) == (instant, 41)
            assert document["as_of"] == format_instant(people[traffic.person(raw_id)][-1].time)
            members += len(told)
    assert members > 500

    busiest = max(people, key=lambda raw_id: len(expected[raw_id]))
    one = command("segments", busiest, "--store", store, "--at", format_instant(newest), "--json")
    assert len(one.document["segments"]) == len(expected_segments(expected[busiest], newest))
    shown = command("segments", busiest, "--store", store, "--at", format_instant(newest))
    assert "rules version 41" in shown.out
    early = people[busiest][-1].time - HOUR_MS
    before = command("segments", busiest, "--store", store, "--at", format_instant(early), "--json")
    assert (before.status, before.out) == (2, "")
    assert before.err.startswith(f"forecourt: at == {format_instant(early)}, must not be before the row's newest view at ")
    assert before.err.count("\n") == 1


def test_a_user_without_a_row_is_in_no_segment(command: Command, store: str) -> None:
    nobody = command("segments", "nobody", "--store", store, "--at", NEWEST, "--json")
    assert nobody.status == 0
    assert nobody.document == {"user": "nobody", "at": NEWEST, "as_of": None, "rule_version": None, "segments": []}
    assert command("segments", "nobody", "--store", store).out == "nobody: no row\n"
    assert command("segments", "-", "--store", store).out == ""


def test_a_store_that_is_away_for_a_while_is_waited_for(
    command: Command,
    store: str,
    tmp_path: pathlib.Path,
    traffic: Traffic,
    expected: dict[str, Spans],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.1)
    source = written(tmp_path / "events.jsonl", traffic.messages)
    other = sqlite3.connect(tmp_path / "profiles.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    def free() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not any("trying again" in text for text in caplog.messages):
            time.sleep(0.05)
        time.sleep(0.5)
        other.execute("COMMIT")
        other.close()

    thread = threading.Thread(target=free)
    thread.start()
    with caplog.at_level(logging.WARNING):
        ran = command("stream", "--source", source, "--store", store, "--rules", "rules.yaml", "--json")
    thread.join()
    assert any("has been locked" in text and "nothing is acknowledged meanwhile" in text for text in caplog.messages)
    assert (ran.status, ran.document["holds"]) == (0, True)
    assert balance(store, tmp_path, traffic, expected).faults == {}


def event(**changes: object) -> dict[str, Any]:
    return {
        "event_id": "e-1",
        "event_type": "listing_view",
        "event_time": "2026-01-31T12:00:00Z",
        "user_id": "ann" + RAW_ID.decode(),
        "attributes": {"fuel_type": "electric", "price": 30_000},
    } | changes


def line(**changes: object) -> bytes:
    return json.dumps(event(**changes)).encode()


def priced(raw: str) -> bytes:
    return line(attributes={"price": "@"}).replace(b'"@"', raw.encode())


BAD_LINES: dict[str, tuple[bytes, str, str | None]] = {
    "1 MB": (line(padding="x" * 1_000_000), "too_large", None),
    "1 MB without any JSON": (b"x" * 1_000_000, "too_large", None),
    "a depth bomb": (b"[" * 60_000, "too_deep", None),
    "a depth bomb in an attribute": (priced('{"a":' * 5_000 + "1" + "}" * 5_000), "too_deep", None),
    "depth 33": (priced("[" * 31 + "]" * 31), "too_deep", None),
    "NaN": (priced("NaN"), "not_finite", None),
    "a number beyond all floats": (priced("1" + "0" * 400), "not_finite", "attributes.price"),
    "an exponent beyond all floats": (priced("-1e999"), "not_finite", "attributes[...]"),
    "binary": (b"\x00\xff\xfe\x80", "not_utf8", None),
    "latin-1": (line(session_id="@").replace(b"@", b"caf\xe9"), "not_utf8", None),
    "half an event": (line()[:60], "not_json", None),
    "two events on a line": (line() + line(), "not_json", None),
    "half a surrogate pair": (line(user_id="@").replace(b"@", b"\\ud800 alone"), "not_json", None),
    "null": (b"null", "wrong_type", None),
    "a list": (b"[" + line() + b"]", "wrong_type", None),
    "a number for an id": (line(event_id=7), "wrong_type", "event_id"),
    "text for attributes": (line(attributes="electric"), "wrong_type", "attributes"),
    "a number for a time": (line(event_time=1_769_860_800), "wrong_type", "event_time"),
    "an unknown type": (line(event_type="listing_hover"), "unknown_event_type", "event_type"),
    "a time without an offset": (line(event_time="2026-01-31T12:00:00"), "bad_time", "event_time"),
    "a time before 1970": (line(event_time="1969-12-31T23:59:59Z"), "bad_time", "event_time"),
    "a day that isn't": (line(event_time="2026-02-30T12:00:00Z"), "bad_time", "event_time"),
    "no event id": (json.dumps({k: v for k, v in event().items() if k != "event_id"}).encode(), "missing", "event_id"),
    "no user": (line(user_id=None), "no_identity", "user_id"),
    "an empty user": (line(user_id=""), "bad_id", "user_id"),
    "an id of 10 KB": (line(event_id="x" * 10_240), "bad_id", "event_id"),
    "a user of 10 KB": (line(user_id="x" * 10_240), "bad_id", "user_id"),
    "an id of 300 bytes in 100 characters": (line(event_id="語" * 100), "bad_id", "event_id"),
    "a control character": (line(event_id="a\x00b"), "bad_id", "event_id"),
    "text for a number": (line(attributes={"price": "cheap"}), "bad_attribute", "attributes.price"),
    "true for a number": (line(attributes={"price": True}), "bad_attribute", "attributes.price"),
    "a number for text": (line(attributes={"fuel_type": 7}), "bad_attribute", "attributes.fuel_type"),
    "text of 10 KB": (line(attributes={"make": "x" * 10_240}), "bad_attribute", "attributes.make"),
    "an experiment of 10 KB": (line(experiment={"name": "x" * 10_240}), "bad_experiment", "experiment"),
}  # fmt: skip


def test_each_bad_line_has_its_reason_and_no_good_one_is_lost(command: Command, store: str, tmp_path: pathlib.Path) -> None:
    good = [SeenView(parse_instant(NEWEST) + number, f"good-{number}", {"fuel_type": "electric"}) for number in range(99)]
    user = "bob" + RAW_ID.decode()
    messages = [line(event_id=v.event_id, event_time=format_instant(v.time), user_id=user, attributes=v.attributes) for v in good]
    for number, (bad, _, _) in enumerate(BAD_LINES.values()):
        messages.insert(2 * number, bad)
    source = written(tmp_path / "events.jsonl", messages)
    ran = command("stream", "--source", source, "--store", store, "--rules", "rules.yaml", "--json")
    assert ran.status == 0
    letters = letters_in(tmp_path / "dead-letters.jsonl")
    found = {name: (letter.reason, letter.field) for name, letter in zip(BAD_LINES, letters, strict=True)}
    assert found == {name: (reason, field) for name, (_, reason, field) in BAD_LINES.items()}
    assert ran.document["refused"] == Counter(reason for _, reason, _ in BAD_LINES.values())
    assert (ran.document["holds"], ran.document["applied"]) == (True, len(good))
    fair = Traffic(messages, {user: good}, frozenset((letter.reason, letter.size) for letter in letters))
    assert balance(store, tmp_path, fair, expected_spans(fair.views)).faults == {}
    assert RAW_ID not in (tmp_path / "dead-letters.jsonl").read_bytes()
    assert all(letter.payload is None or len(str(letter.payload)) < 2_000 for letter in letters), "payloads are bounded"


def test_a_future_time_is_refused_by_the_clock_alone() -> None:
    # A file's newest event is its clock; a live event is judged by ours, with five minutes to spare.
    now = parse_instant("2026-01-31T12:00:00Z")
    assert decode_event(line(event_time="2026-01-31T12:05:00Z"), ATTRIBUTES, now).event.event_time == now + 300_000
    assert decode_event(line(event_time="2999-01-01T00:00:00Z"), ATTRIBUTES, None).event.event_time > now
    with pytest.raises(EventError, match=r"event_time == 2026-01-31T12:05:00.001Z, must be at most 5 minutes ahead") as refused:
        decode_event(line(event_time="2026-01-31T12:05:00.001Z"), ATTRIBUTES, now)
    assert (refused.value.reason, refused.value.field) == ("future", "event_time")


def test_a_gzip_that_breaks_off_is_used_up_to_there(command: Command, store: str, tmp_path: pathlib.Path) -> None:
    messages = [line(event_id=f"e-{number}", session_id=f"{random.Random(number).random()}") for number in range(4_000)]
    whole = gzip.compress(b"\n".join(messages))
    (tmp_path / "events.jsonl.gz").write_bytes(whole[: len(whole) * 3 // 4])
    ran = command("stream", "--source", "file:events.jsonl.gz", "--store", store, "--rules", "rules.yaml", "--json")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("forecourt: source == file:events.jsonl.gz, must be a whole readable file; it breaks off after ")
    assert ran.err.count("\n") == 1
    used = int(ran.err.split("breaks off after ")[1].split()[0])
    assert 0.7 * len(messages) < used < 0.8 * len(messages), "what can be read must be used"
    with sqlite3.connect(tmp_path / "profiles.db") as rows:
        assert rows.execute("SELECT count(*) FROM views").fetchone() == (used,)


UNUSABLE = {
    "empty": (b"", "must hold at least one event: it is empty"),
    "blank": (b"\n \n\n", "must hold at least one event: it is empty"),
    "binary": (random.Random(1).randbytes(20_000), "must hold usable events: all {read} were refused, see file:dead-letters.jsonl"),
    "gzip's head and no body": (b"\x1f\x8b\x08\x00junk", "must be a whole readable file; it breaks off after 0 lines"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_of_no_use_is_told_in_one_line(kind: str, command: Command, store: str, tmp_path: pathlib.Path) -> None:
    data, must = UNUSABLE[kind]
    (tmp_path / "events").write_bytes(data)
    ran = command("stream", "--source", "file:events", "--store", store, "--json")
    read = ran.document["read"] if ran.out else 0
    assert ran.status == 2
    assert ran.err.startswith("forecourt: source == file:events, " + must.format(read=read))
    assert ran.err.count("\n") == 1
    assert "[while running" not in ran.err


BAD_ARGUMENTS = {
    "--source file:nowhere.jsonl": "source == file:nowhere.jsonl, must be a readable file: No such file or directory",
    "--source file:.": "source == file:., must be a file, is a directory",
    "--source kafka:x": "source == 'kafka:x', must be file:PATH or pubsub://PROJECT/subscriptions/SUBSCRIPTION",
    "--source pubsub://p/s": "source == 'pubsub://p/s', must be file:PATH or pubsub://PROJECT/subscriptions/SUBSCRIPTION",
    "--store redis://x": "store == 'redis://x', must be bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH",
    "--store sqlite://profiles.db": "store == 'sqlite://profiles.db', must be bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH",
    "--rules nowhere.yaml": "file == nowhere.yaml, must be readable",
    "--rules broken.yaml": "broken.yaml:3",
    "--dead-letters ftp://x": "dead letters == 'ftp://x', must be file:PATH or pubsub://PROJECT/topics/TOPIC",
    "--dead-letters file:nowhere/x": "dead letters == file:nowhere/x, must lie in a folder that exists: nowhere",
    "--runner SparkRunner": "--runner == 'SparkRunner', must be DirectRunner or DataflowRunner",
    "--rebase noon": "--rebase == 'noon', must be an RFC 3339 date-time with an offset",
    "--source pubsub://p/subscriptions/s --rebase 2026-01-31T12:00:00Z": (
        "--rebase == 2026-01-31T12:00:00Z, must go with a file: source"
    ),
    "--nonsense": "option == '--nonsense', must be one that --help lists or one of Beam's",
}  # fmt: skip


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS)
def test_bad_arguments_are_told_in_one_line(arguments: str, command: Command, store: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(line() + b"\n")
    (tmp_path / "broken.yaml").write_text("version: 1\nsegments:\n  - {name: electric, when: {fuel_type: steam}}\n")
    ran = command("stream", "--source", "file:events.jsonl", "--store", store, "--json", *arguments.split())
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("forecourt: " + BAD_ARGUMENTS[arguments])
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "dead-letters.jsonl").exists()


def test_what_is_missing_is_named(command: Command, store: str, tmp_path: pathlib.Path) -> None:
    without = command("stream", "--store", store)
    assert without.status == 2
    assert without.err.splitlines()[-1] == "forecourt stream: error: the following arguments are required: --source"
    (tmp_path / "events.jsonl").write_bytes(line() + b"\n")
    uncreated = command("stream", "--source", "file:events.jsonl", "--store", f"sqlite:///{tmp_path}/other.db")
    assert (uncreated.status, uncreated.out) == (1, "")
    assert f"must be created first: forecourt store init --store sqlite:///{tmp_path}/other.db" in uncreated.err
    assert not (tmp_path / "other.db").exists()


def test_bigtable_without_a_key_is_refused(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(line() + b"\n")
    monkeypatch.delenv(KEY_VARIABLE)
    ran = command("stream", "--source", "file:events.jsonl", "--store", "bigtable://p/i/t")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"forecourt: environment variable {KEY_VARIABLE} is not set, must hold the pseudonym key")
    monkeypatch.setenv(KEY_VARIABLE, "short")
    short = command("stream", "--source", "file:events.jsonl", "--store", "bigtable://p/i/t")
    assert short.status == 2
    assert f"{KEY_VARIABLE}: length == 5 bytes, must be at least 16" in short.err
    assert "short" not in short.err


def test_a_letter_cut_short_by_a_kill_costs_no_other(tmp_path: pathlib.Path) -> None:
    letter = DeadLetter(reason="not_json", field=None, message="…", refused_at=NEWEST, size=1, payload=None)
    path = tmp_path / "dead-letters.jsonl"
    path.write_bytes(encode_dead_letter(letter)[:40])
    FileSink(str(path)).write([encode_dead_letter(letter)])
    FileSink(str(path)).write([])
    FileSink(str(path)).write([encode_dead_letter(letter)])
    assert path.read_bytes().splitlines()[0] == encode_dead_letter(letter)[:40]
    assert [decode_dead_letter(each) for each in path.read_bytes().splitlines()[1:]] == [letter, letter]
