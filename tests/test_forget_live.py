"""Forgotten while everything runs: real streams and archives go on receiving what the person sent, and nothing of it is left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.emulators import Endpoints
from pipelines.pubsub import create_subscription
from pipelines.simulate import sink_of
from rules import CATALOGUE_PATH
from schemas.instants import MINUTE_MS, SECOND_MS, clock_ms
from schemas.pseudonym import Pseudonyms, ring_of
from serving.keys import KEY_VARIABLE
from serving.store import open_store
from tests.forgotten import event, traces_in
from tests.live import ROOT, Bench, bench_in, wait_until
from tests.traffic import KEY
from transforms.archive_files import read_archive
from transforms.rules_file import load_catalogue

pytestmark = pytest.mark.alone

ANNA, PHONE, BEN = "anna-of-the-live-test", "phone-of-anna", "ben-of-the-live-test"
RATE = 300.0
PSEUDONYM = Pseudonyms(ring_of(KEY, "tests"))


class Crowd:
    """Messages that go on and on: Anna with her phone, her phone alone, what is wrong of her, Ben; new ones and copies."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.newest = clock_ms() - MINUTE_MS
        self.ben: set[str] = set()
        self._rng = random.Random(3)
        self._sent: list[dict[str, Any]] = []

    def publish(self, topic: str) -> None:
        """Publish until told to stop; all that is Anna's is older than a minute."""
        start = time.monotonic()
        with sink_of(topic) as write:
            number = 0
            while not self.stop.wait(max(0.0, start + number / RATE - time.monotonic())):
                write(json.dumps(self._next(number)).encode())
                number += 1

    def _next(self, number: int) -> dict[str, Any]:
        if self._sent and self._rng.random() < 0.3:
            return self._rng.choice(self._sent)
        at = self.newest - self._rng.randrange(5 * MINUTE_MS)
        kinds = [
            event(number, at, ANNA, PHONE, experiment={"unit": ANNA}),
            event(number, at, None, PHONE),
            event(number, at, ANNA),
            event(number, at, ANNA, PHONE, event_type="party"),
            event(number, at, BEN),
        ]
        made = self._rng.choice(kinds)
        self._sent.append(made)
        if made["user_id" if "user_id" in made else "anonymous_id"] == BEN:
            self.ben.add(made["event_id"])
        return made


@contextlib.contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours in a process group of its own, killed at the end."""
    told = os.environ | {KEY_VARIABLE: KEY, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    with (folder / f"{command[0]}.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "forecourt", *command],
            cwd=folder,
            env=told,
            stdout=err,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def forgotten(folder: Path, *options: str) -> dict[str, Any]:
    """What ``forecourt forget`` says of it."""
    environment = os.environ | {KEY_VARIABLE: KEY, "PYTHONPATH": str(ROOT), "FORECOURT_RECEIPT_KEY": "6d" * 32}
    command = [sys.executable, "-m", "forecourt", "forget", ANNA, "--json", *options]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


@pytest.mark.parametrize("kind", ["sqlite", "bigtable"])
def test_nothing_is_left_while_everything_runs(tmp_path: Path, emulators_endpoints: Endpoints, kind: str) -> None:
    # published   ▶─ Anna, late and again, Ben ────────────────────────────▶ stop     a newer view of Anna
    # stream      ▶─────────────────────────────────────────────────────────────────────────────────▶
    # archive     ▶─────────────────────────────────────────────────────────────────────────────────▶
    # forget                       ├── tombstones … search ──┤
    with bench_in(tmp_path, emulators_endpoints, ack_deadline_s=10) as bench, ThreadPoolExecutor(1) as pool:
        crowd, places = Crowd(), _places(bench, kind)
        try:
            with running(tmp_path, "stream", *places.stream), running(tmp_path, "archive", *places.archiver):
                published = pool.submit(crowd.publish, bench.topic)
                wait_until(lambda: places.views(ANNA) > 20 and places.archived(ANNA) > 20, 60, "Anna is not there")
                document = forgotten(tmp_path, *places.forget)
                assert document["clean"]
                assert document["deleted"]["views"] > 0
                assert document["deleted"]["events"] > 0
                time.sleep(1.5)  # copies go on coming
                crowd.stop.set()
                published.result()
                wait_until(lambda: places.views(BEN) >= len(crowd.ben), 60, "the stream does not come to an end")
                wait_until(lambda: places.archived(BEN) >= len(crowd.ben), 60, "the archive does not come to an end")
                time.sleep(1.0)
                ids = [ANNA, PHONE]
                assert traces_in([places.store, places.archive, places.letters], ids, ring_of(KEY, "tests")) == []
                with sink_of(bench.topic) as write:
                    write(json.dumps(event("newer", clock_ms() + SECOND_MS, ANNA)).encode())
                wait_until(lambda: places.views(ANNA) == 1 and places.archived(ANNA) == 1, 30, "what is newer is not there")
        finally:
            crowd.stop.set()


class _Places:
    """Where everything is."""

    def __init__(self, bench: Bench, store: str, subscription: str) -> None:
        self.store, self.archive, self.letters = store, bench.folder / "archive", bench.folder / "letters"
        self.letters.mkdir()
        letters = ["--dead-letters", f"file:{self.letters}/dead.jsonl"]
        self.stream = ["--source", bench.subscription, "--store", store, "--rules", str(bench.rules), *letters]
        self.archiver = ["--source", subscription, "--archive", str(self.archive), "--flush-seconds", "0.5", *letters]
        self.forget = ["--store", store, "--archive", str(self.archive), *letters]

    def views(self, raw_id: str) -> int:
        """The distinct views in a row."""
        return len({cell.event for cell in open_store(self.store).dump(PSEUDONYM(raw_id)).views})

    def archived(self, raw_id: str) -> int:
        """The events of a profile in the archive."""
        if not list(self.archive.glob("date=*/*.parquet")):
            return 0
        users = read_archive(str(self.archive), load_catalogue(CATALOGUE_PATH))["user"].to_pylist()
        return int(users.count(PSEUDONYM(raw_id)))


def _places(bench: Bench, kind: str) -> _Places:
    store = bench.store_uri
    if kind == "sqlite":
        store = f"sqlite:///{bench.folder}/store.db"
        open_store(store).init()
    subscription = f"{bench.subscription}-archive"
    create_subscription(bench.topic, subscription, 10)
    return _Places(bench, store, subscription)
