"""The stream against Google's emulators: sustained events a second, freshness, memory over time; and a file into SQLite."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from benchmarks.results import memory_mb, percentile
from pipelines.market import Emission, Market, events_of
from pipelines.pubsub import TopicSink, create_subscription
from schemas.instants import DAY_MS, clock_ms, format_instant
from schemas.pseudonym import Pseudonyms
from serving.keys import KEY_VARIABLE, load_ring
from serving.store import Store, open_store
from transforms.kernel import MAX_VIEWS

PROBES_PER_S: Final = 10
USER_EVENTS: Final = 40  # a user in nine days
_POLL_S: Final = 0.005
_GIVE_UP_S: Final = 30.0
_TABLE: Final = "bigtable://demo/demo/{}"

Say = Callable[[str], None]


class Throughput(NamedTuple):
    """Events taken from a full subscription, or from a file, to readable rows."""

    way: str
    events: int
    seconds: float
    events_per_s: float
    peak_mb: float


class Freshness(NamedTuple):
    """Publish call → row readable, in ms, under a steady load."""

    load_per_s: int
    probes: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Soak(NamedTuple):
    """Memory of the stream's process under a steady load."""

    load_per_s: int
    minutes: float
    warm_up_minutes: float
    first_mb: float
    last_mb: float
    peak_mb: float
    slope_mb_per_h: float | None


def messages(count: int, users: int, seed: int = 1) -> list[bytes]:
    """Simulated events of the last nine days."""
    now = clock_ms()
    market = Market(count, users, seed, now - 9 * DAY_MS, now)
    return [emission.data for emission in events_of(market)]


def file_throughput(count: int, say: Say) -> Throughput:
    """``forecourt stream`` from a file into SQLite, start-up included."""
    with tempfile.TemporaryDirectory() as folder:
        path, store = Path(folder) / "events.jsonl", f"sqlite:///{folder}/profiles.db"
        path.write_bytes(b"\n".join(messages(count, count // USER_EVENTS)) + b"\n")
        open_store(store).init()
        say(f"{count:,} events: file → SQLite")
        process = _stream("--source", f"file:{path}", "--store", store, "--dead-letters", f"file:{folder}/dead")
        peak = [0.0]
        watcher = threading.Thread(target=_watch_peak, args=(process.pid, peak), daemon=True)
        watcher.start()
        balance = json.loads(process.communicate()[0])
        _require(balance["applied"] == count, f"applied == {balance['applied']}, must be {count}")
        return Throughput("file → SQLite", count, balance["seconds"], round(count / balance["seconds"]), round(peak[0], 1))


def backlog_throughput(count: int, say: Say) -> Throughput:
    """A full subscription drained into Bigtable; the clock runs from the first row readable to the last."""
    with _subscription() as (topic, subscription, store, uri):
        say(f"{count:,} events: Pub/Sub emulator → Bigtable emulator")
        sink = TopicSink(topic)
        data = messages(count, max(count // USER_EVENTS, 100))
        for start in range(0, count, 5_000):
            sink.write(data[start : start + 5_000])
        views = _readable_views(data)
        with _streaming(subscription, uri) as process:
            # Views in rows are counted by the profiles' numbers, at first coarsely so that looking doesn't slow the run.
            started = _wait_for(lambda: _views_in(store) > 0, 0.05)
            finished = _wait_for(lambda: _views_in(store) >= views, 0.5)
            peak = memory_mb(process.pid, "VmHWM")
        seconds = finished - started
        return Throughput(
            "Pub/Sub → Bigtable, emulators included", count, round(seconds, 2), round(count / seconds), round(peak, 1)
        )


def freshness_and_memory(load_per_s: int, probe_s: float, soak_s: float, warm_up_s: float, say: Say) -> tuple[Freshness, Soak]:
    """A steady load; for ``probe_s`` probes of users of their own, for ``soak_s`` in all the memory every ten seconds."""
    with _subscription() as (topic, subscription, store, uri), _streaming(subscription, uri) as process:
        stop = threading.Event()
        load = threading.Thread(target=_publish_steadily, args=(topic, load_per_s, stop), daemon=True)
        load.start()
        _wait_for(lambda: _views_in(store) > 0, 0.2)
        say(f"freshness at {load_per_s} events/s, {probe_s:.0f} s")
        time.sleep(5)  # the start's backlog
        delays = _probe(topic, store, uri, probe_s)
        fresh = Freshness(
            load_per_s,
            len(delays),
            round(percentile(delays, 0.5), 1),
            round(percentile(delays, 0.99), 1),
            round(max(delays), 1),
        )
        say(f"memory at {load_per_s} events/s, {soak_s / 60:.0f} minutes")
        samples: list[tuple[float, float]] = []
        start = time.monotonic()
        while time.monotonic() - start < soak_s:
            samples.append((time.monotonic() - start, memory_mb(process.pid)))
            time.sleep(min(10.0, soak_s / 20))
        stop.set()
        load.join()
        peak = memory_mb(process.pid, "VmHWM")
    after = [(at, mb) for at, mb in samples if at >= warm_up_s]
    slope = float(np.polyfit([at for at, _ in after], [mb for _, mb in after], 1)[0]) * 3600 if len(after) >= 10 else None
    soak = Soak(
        load_per_s,
        round(soak_s / 60, 1),
        round(warm_up_s / 60, 1),
        round(samples[0][1], 1),
        round(samples[-1][1], 1),
        round(peak, 1),
        None if slope is None else round(slope, 1),
    )
    return fresh, soak


@contextlib.contextmanager
def _subscription() -> Iterator[tuple[str, str, Store, str]]:
    name = secrets.token_hex(4)
    topic, subscription = f"pubsub://demo/topics/events-{name}", f"pubsub://demo/subscriptions/speed-{name}"
    create_subscription(topic, subscription)
    uri = _TABLE.format(f"profiles-{name}")
    store = open_store(uri)
    store.init()
    yield topic, subscription, store, uri
    store.close()


def _stream(*arguments: str) -> subprocess.Popen[str]:
    os.environ.setdefault(KEY_VARIABLE, secrets.token_hex(32))
    command = [sys.executable, "-m", "forecourt", "stream", "--json", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@contextlib.contextmanager
def _streaming(subscription: str, store: str) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory() as folder:
        process = _stream("--source", subscription, "--store", store, "--dead-letters", f"file:{folder}/dead")
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            balance = json.loads(process.communicate(timeout=60)[0])
            _require(process.returncode == 0 and balance["holds"], f"the stream ended with {process.returncode}, {balance}")
        finally:
            process.kill()


def _readable_views(data: list[bytes]) -> int:
    """How many views the rows show in all when everything is in: at most 1,000 a profile."""
    events = [msgspec.json.decode(message) for message in data]
    views = Counter(event["user_id"] or event["anonymous_id"] for event in events if event["event_type"] == "listing_view")
    return sum(min(number, MAX_VIEWS) for number in views.values())


def _views_in(store: Store) -> int:
    return sum(row.profile.views for row in store.scan() if row.profile)


def _publish_steadily(topic: str, per_s: int, stop: threading.Event) -> None:
    """Simulated events with live times; in steps of 20 ms, as evenly as sleeping allows."""
    sink, number, seed = TopicSink(topic), 0, 0
    start = time.monotonic()
    emissions: Iterator[Emission] = iter(())
    while not stop.is_set():
        due = int((time.monotonic() - start) * per_s) - number
        batch: list[bytes] = []
        while len(batch) < due:
            emission = next(emissions, None)
            if emission is None:
                seed += 1
                now = clock_ms()
                emissions = events_of(Market(50_000, 2_000, seed, now - DAY_MS, now), clock_ms)
                continue
            batch.append(emission.data)
        sink.write(batch)
        number += len(batch)
        time.sleep(0.02)


def _probe(topic: str, store: Store, uri: str, seconds: float) -> list[float]:
    """Delays in ms from the publish call to the first read of the row that has the view."""
    sink, pseudonyms, run = TopicSink(topic), Pseudonyms(load_ring(uri)), secrets.token_hex(3)
    waiting: dict[str, tuple[float, int]] = {}
    delays: list[float] = []
    start = time.monotonic()
    sent = 0
    while time.monotonic() - start < seconds or waiting:
        if time.monotonic() - start > seconds + _GIVE_UP_S:
            _require(False, f"{len(waiting)} probes are not readable after {_GIVE_UP_S:.0f} s")
        if sent < (time.monotonic() - start) * PROBES_PER_S and time.monotonic() - start < seconds:
            user, at = f"probe-{run}-{sent}", clock_ms()
            event = {
                "event_id": user,
                "event_type": "listing_view",
                "event_time": format_instant(at),
                "user_id": user,
                "attributes": {"fuel_type": "electric"},
            }
            waiting[user] = (time.monotonic(), at)
            sink.write([msgspec.json.encode(event)])
            sent += 1
        rows = store.read_rows([pseudonyms(user) for user in waiting]) if waiting else {}
        for user in list(waiting):
            row = rows[pseudonyms(user)]
            if row.profile is not None:
                delays.append((time.monotonic() - waiting.pop(user)[0]) * 1000)
        time.sleep(_POLL_S)
    return delays


def _watch_peak(pid: int, peak: list[float]) -> None:
    with contextlib.suppress(OSError):
        while True:
            peak[0] = max(peak[0], memory_mb(pid, "VmHWM"))
            time.sleep(0.05)


def _wait_for(condition: Callable[[], bool], every_s: float, limit_s: float = 300.0) -> float:
    deadline = time.monotonic() + limit_s
    while not condition():
        _require(time.monotonic() < deadline, f"nothing came of it in {limit_s:.0f} s")
        time.sleep(every_s)
    return time.monotonic()


def _require(holds: bool, message: str) -> None:  # noqa: FBT001
    if not holds:
        raise RuntimeError(message)
