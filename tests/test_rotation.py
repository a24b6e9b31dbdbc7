"""Keys rotated while real streams work and readers read; and raw ids, which must be nowhere, looked for everywhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from google.cloud.bigtable.data import BigtableDataClient, ReadRowsQuery

from pipelines import archive, keys, stream
from pipelines.emulators import Endpoints
from pipelines.pubsub import create_subscription
from rules import CATALOGUE_PATH
from schemas.decoding import Attributes, decode_event
from schemas.errors import EventError
from schemas.event import Event
from schemas.instants import clock_ms, date_of, format_instant
from schemas.pseudonym import Pseudonyms, pseudonymise, ring_of
from serving.keys import KEY_VARIABLE
from serving.reader import SegmentReader
from serving.row_loader import Limits
from serving.store import Store, open_store
from serving.store.rows import open_rows
from tests.live import Stream, publishing, wait_until
from tests.test_moving import NEW, OLD, contents, fresh, streamed, versions
from tests.traffic import RULES, market_of, traffic_of
from transforms.archive import Received, Waiting, write_archive
from transforms.archive_files import parts_of, read_part
from transforms.moving_archive import versions_in
from transforms.rules_file import load_catalogue

pytestmark = pytest.mark.alone

CATALOGUE: Final = load_catalogue(CATALOGUE_PATH)
OLD_FIRST, NEW_FIRST = f"{OLD}\n{NEW}", f"{NEW}\n{OLD}"
PATIENT: Final = Limits(deadline_s=10.0, max_waiting=10_000)


class Watch:
    """Reads all ids over and over, as the gateway does; whoever was found once must be found ever after."""

    def __init__(self, store: str, raw_ids: list[str]) -> None:
        self.ring, self.rounds, self.seen = OLD, 0, set[str]()
        self.lost: list[tuple[str, str]] = []
        self._store, self._raw_ids, self._leaving = store, raw_ids, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def looked_with(self, ring: str) -> None:
        """Read with a ring from now on; return when everybody has been read with it."""
        self.ring = ring
        rounds = self.rounds
        wait_until(lambda: self.rounds > rounds + 1, 30, "nobody reads")

    async def _watch(self) -> None:
        while not self._leaving.is_set():
            ring = self.ring
            reader = SegmentReader(open_rows(self._store), Pseudonyms(ring_of(ring, "tests")), limits=PATIENT, ttl_s=0.0)
            while ring == self.ring and not self._leaving.is_set():
                for raw_id in self._raw_ids:
                    read = await reader.read(raw_id, now=clock_ms())
                    if read.reason not in (None, "no_segments"):
                        self.lost += [(ring, read.reason)] if raw_id in self.seen else []
                    else:
                        self.seen.add(raw_id)
                self.rounds += 1
                await asyncio.sleep(0.02)
            await reader.close()


@pytest.mark.parametrize("kind", ["sqlite", "bigtable"])
def test_keys_rotate_under_load_with_nobody_unreadable_and_nothing_lost(
    kind: str, tmp_path: Path, emulators_endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # stream  1 (2)   ▶─ first ─── load ──■
    # stream  2 (1)   ▶─ first ─── load ──────────────────────────────────────■
    # keys                                  rotate ▶────■
    # stream  2                                           ▶──── load ────────── after ──▶
    # reads   1 │ 1 and 2 ────────────────│ 2 and 1 ──────────────────────────│ 2 ──────▶
    bench = Rotation(tmp_path, kind)
    store, folder = open_store(bench.store_uri), str(tmp_path / "archive")
    store.init()
    traffic = traffic_of(market_of(events=3_300, users=160, seed=11, days=5))
    cuts = (0, 1_200, 1_900, 3_200, len(traffic.messages))
    before, first, load, after = (traffic.messages[start:end] for start, end in itertools.pairwise(cuts))
    events = events_in(traffic.messages)
    archived(folder, events[::2], OLD)
    archived(folder, events[1::2], OLD_FIRST)
    streamed(store, Pseudonyms(ring_of(OLD, "tests")), events_in(before))
    monkeypatch.setenv(KEY_VARIABLE, NEW_FIRST)
    with contextlib.ExitStack() as stack:
        stack.callback(bench.close)
        watch = stack.enter_context(Watch(bench.store_uri, traffic.ids))
        watch.looked_with(OLD)
        watch.looked_with(OLD_FIRST)
        one, two = bench.stream("a", OLD_FIRST), bench.stream("b", NEW_FIRST)
        with publishing(bench.topic("a"), first[::2]), publishing(bench.topic("b"), first[1::2]):
            bench.at_work(one, two)
        with publishing(bench.topic("a"), load[::2], 80), publishing(bench.topic("b"), load[1::2], 80) as sent:
            time.sleep(1.0)
            documents = [one.stopped()]
            watch.looked_with(NEW_FIRST)
            capsys.readouterr()
            arguments = ["--store", bench.store_uri, "--archive", folder, "--rules", str(bench.rules), "--json"]
            assert keys.run(["rotate", *arguments]) == 0
            assert not sent.done(), "the load was over: this shows nothing"
            rotated = json.loads(capsys.readouterr().out)
            three = bench.stream("a", NEW)
            expected = unrotated(tmp_path / "most.db", events_in([*before, *first, *load]))
            wait_until(lambda: settled(store, expected), 60, "the rows are not those of an unrotated run")
        watch.looked_with(NEW)
        documents.append(two.stopped())
        with publishing(bench.topic("a"), after):
            expected = unrotated(tmp_path / "all.db", events)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: settled(store, expected), 30, "the rows are not those of an unrotated run")
        watch.looked_with(NEW)
        documents.append(three.stopped())
    assert contents(store) == expected
    assert watch.lost == []
    assert watch.seen >= set(traffic.ids)
    assert versions(store) == {2}
    assert {version for path in parts_of(folder) for version in versions_in(path)} == {2}
    assert rotated["rows"]["moved"] > 0
    assert all(status == 0 and document["holds"] and document["applied"] > 0 for status, document in documents)
    monkeypatch.setenv(KEY_VARIABLE, NEW)
    assert keys.run(["status", "--store", bench.store_uri, "--archive", folder]) == 0


class Rotation:
    """Topics with a subscription each and a store, used by nobody else, and streams with rings of their own."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._name, self._folder = f"r{uuid.uuid4().hex[:10]}", folder
        self.store_uri = f"bigtable://demo/demo/{self._name}" if kind == "bigtable" else f"sqlite:///{folder}/store.db"
        self.rules = folder / "rules.yaml"
        self.rules.write_text(RULES)
        self._streams: dict[Stream, Path] = {}
        for name in "ab":  # what a stream had taken when it stopped comes again after ten seconds
            create_subscription(self.topic(name), self._subscription(name), 10)

    def topic(self, name: str) -> str:
        """Where traffic goes."""
        return f"pubsub://demo/topics/{self._name}{name}"

    def stream(self, name: str, ring: str) -> Stream:
        """Start a stream with a ring, and dead letters of its own."""
        letters = self._folder / f"letters-{len(self._streams)}.jsonl"
        where = ["--source", self._subscription(name), "--store", self.store_uri, "--dead-letters", f"file:{letters}"]
        begun = Stream(self._folder, *where, "--rules", str(self.rules), "--json", key=ring)
        self._streams[begun] = letters
        return begun

    def at_work(self, *streams: Stream) -> None:
        """Wait until streams have refused poison, of which there is some in all traffic."""
        for begun in streams:
            letters = self._streams[begun]
            wait_until(lambda: letters.exists() and letters.stat().st_size > 0, 60, "a stream does not begin to work")  # noqa: B023

    def close(self) -> None:
        """Kill what still runs."""
        for begun in self._streams:
            begun.kill()

    def _subscription(self, name: str) -> str:
        return f"pubsub://demo/subscriptions/{self._name}{name}"


def settled(store: Store, expected: dict[str, Any]) -> bool:
    """Whether rows are what is expected; not asked without a pause, the machine has other work."""
    time.sleep(0.3)
    return contents(store) == expected


def events_in(messages: list[bytes]) -> list[Event]:
    """The events in messages that are any good."""
    attributes, found = Attributes(CATALOGUE), []
    for message in messages:
        with contextlib.suppress(EventError):
            found.append(decode_event(message, attributes, clock_ms()).event)
    return found


def unrotated(path: Path, events: list[Event]) -> dict[str, Any]:
    """What rows hold when the new key has always been the only one."""
    store = fresh(path)
    streamed(store, Pseudonyms(ring_of(NEW, "tests")), events)
    return contents(store)


def archived(folder: str, events: list[Event], ring: str) -> None:
    pseudonyms, days = Pseudonyms(ring_of(ring, "tests")), dict[str, list[Received]]()
    for event in events:
        days.setdefault(date_of(event.event_time), []).append(Received(pseudonymise(event, pseudonyms), None))
    for date, received in days.items():
        write_archive(folder, Waiting(date, received), CATALOGUE)


# --- raw ids -------------------------------------------------------------------------------------------------------------

MARK: Final = "raw7Qz"  # in every id, and in nothing else


def messages_with_marks() -> Iterator[bytes]:
    """Good and bad events of ids that are easy to find."""
    now = format_instant(clock_ms() - 60_000)
    for number in range(40):
        user, browser = f"{MARK}-user-{number % 5}", f"{MARK}-browser-{number % 7}"
        event = {"event_id": f"e{number}", "event_type": "listing_view", "event_time": now, "attributes": {"fuel_type": "electric"}}
        ids = [{"user_id": user}, {"anonymous_id": browser}, {"user_id": user, "anonymous_id": browser}][number % 3]
        yield json.dumps(event | ids).encode()
        experiment = {"unit": user, "nested": [{browser: user}], "arm": "b"}
        click = event | {"event_id": f"c{number}", "event_type": "featured_click", "user_id": user, "anonymous_id": browser}
        yield json.dumps(click | {"experiment": experiment}).encode()
    good = {
        "event_id": "b",
        "event_type": "listing_view",
        "event_time": now,
        "user_id": f"{MARK}-bad",
        "anonymous_id": f"{MARK}-worse",
    }
    for broken in (
        {"event_time": "yesterday"},
        {"event_type": "nothing"},
        {"user_id": f"{MARK}\u0000"},
        {"user_id": [f"{MARK}-list"]},
        {"user_id": f"{MARK}" * 100},
        {"session_id": 5},
        {"attributes": {"price": f"{MARK}-bad"}},
        {"experiment": {"unit": f"{MARK}-bad", "text": "x" * 9_000}},
        {"event_time": "2999-01-01T00:00:00Z"},
    ):
        yield json.dumps(good | broken).encode()
    yield f'{{"user_id": "{MARK}'.encode()
    yield f"{MARK} is no JSON".encode()


@pytest.mark.parametrize("kind", ["sqlite", "bigtable"])
def test_raw_ids_are_in_no_row_file_log_or_dead_letter(
    kind: str,
    tmp_path: Path,
    emulators_endpoints: Endpoints,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, source = tmp_path / "work", tmp_path / "events.jsonl"
    folder.mkdir()
    source.write_bytes(b"\n".join(messages_with_marks()) + b"\n")
    name = f"m{uuid.uuid4().hex[:10]}"
    store_uri = f"bigtable://demo/demo/{name}" if kind == "bigtable" else f"sqlite:///{folder}/store.db"
    open_store(store_uri).init()
    letters = ["--source", f"file:{source}", "--dead-letters", f"file:{folder}/letters.jsonl", "--json"]
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    said = ""
    with caplog.at_level("DEBUG"):
        for ring in (OLD, NEW_FIRST):
            monkeypatch.setenv(KEY_VARIABLE, ring)
            capfd.readouterr()
            assert stream.run([*letters, "--store", store_uri]) == 0
            document, error = capfd.readouterr()
            assert sum(json.loads(document)["refused"].values()) >= 9, "the bad ones must have been met"
            assert archive.run([*letters, "--archive", f"{folder}/archive"]) == 0
            assert keys.run(["rotate", "--store", store_uri, "--archive", f"{folder}/archive", "--json"]) == 0
            said += document + error + "".join(capfd.readouterr())
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert MARK not in said + caplog.text
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".parquet", ".jsonl"}
    assert [path for path in files if MARK.encode() in path.read_bytes()] == []
    for path in parts_of(f"{folder}/archive"):
        assert MARK not in str(read_part(path).to_pylist()), "Parquet is packed"
    if kind == "bigtable":
        project, instance, table = store_uri.removeprefix("bigtable://").split("/")
        with BigtableDataClient(project=project) as client:
            rows = client.get_table(instance, table).read_rows(ReadRowsQuery())
        assert rows
        for row in rows:
            assert MARK.encode() not in row.row_key
            assert not any(MARK.encode() in cell.qualifier or MARK.encode() in cell.value for cell in row)
