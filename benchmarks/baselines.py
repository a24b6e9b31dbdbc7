"""Windowed segments as they are computed with Beam today: the yardstick for the speed layer.

    python -m benchmarks.baselines [all | sliding | keyed] [--period SECONDS] [--events N] [--limit SECONDS] [--json]

Both ways answer one question: of a user's views in the last ten days, which share matches each of ten rules?
`sliding` is `SlidingWindows` + `CombinePerKey` over bounded input on `FnApiRunner`. `keyed` is `ReadFromPubSub` + keyed state with
an expiry timer a user on the stock streaming direct runner, against the emulator that PUBSUB_EMULATOR_HOST names.
Doubts go in their favour: one vector of counts a user instead of a key a segment, sums instead of a rescan of the window, a fast
decoder, no duplicates to remove, no store to write to, start-up of the streaming job not counted. Every measurement is a process
of its own, so that memory peaks and leaks don't mix; one that overruns its limit is killed with whatever it started.
"""

import argparse
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np
from apache_beam.coders import TupleCoder, VarIntCoder
from apache_beam.coders.coders import ListCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, CombiningValueStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import SlidingWindows, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp
from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient
from rich.console import Console
from rich.table import Table

WINDOW_S, DAY_S, HOUR_S = 864_000, 86_400, 3_600
LIMIT_S = 120.0
START_UP_S = 60.0  # what a process may take beside its measurement: imports, publishing, cleaning up
VIEWS_PER_USER = 25  # as in ten days of a real shop's log
EVENTS = {DAY_S: 20_000, HOUR_S: 5_000}  # fewer where each is copied into 240 windows
KEYED, KEYED_EVENTS = "ReadFromPubSub + keyed state", 5_000
REPLAY_NEWEST_MS = 1_767_225_600_000  # bounded input is the same in every run

View = tuple[str, list[int]]  # user; 1, then whether each rule matches
Row = tuple[str, tuple[float, ...]]  # user; views in the window, then the share of each rule

RULES: tuple[Callable[[Mapping[str, Any]], bool], ...] = (
    lambda a: a["fuel_type"] == "electric",
    lambda a: a["fuel_type"] == "hybrid",
    lambda a: a["fuel_type"] != "diesel",
    lambda a: a["body_type"] in ("suv", "crossover"),
    lambda a: a["body_type"] == "estate",
    lambda a: a["price"] >= 40_000,
    lambda a: a["price"] < 8_000,
    lambda a: a["mileage"] < 10_000,
    lambda a: a["make"] in ("Audi", "BMW", "Volkswagen"),
    lambda a: a["fuel_type"] == "electric" and a["body_type"] == "suv",
)
COLUMNS: Mapping[str, Sequence[str] | range] = {
    "fuel_type": ("petrol", "diesel", "hybrid", "electric"),
    "body_type": ("suv", "crossover", "estate", "hatchback", "saloon"),
    "make": ("Audi", "BMW", "Volkswagen", "Toyota", "Nissan", "Ford", "Kia"),
    "price": range(2_000, 80_000),
    "mileage": range(200_000),
}


class BaselineError(Exception):
    """The operator asked for a measurement that can't be made here."""


class Measured(NamedTuple):
    """One measurement: `events` came through in `seconds`; memory in MiB; None is what could not be measured."""

    name: str
    events: int
    seconds: float
    events_per_s: float | None
    peak_mb: float | None
    complete: bool
    note: str


def synthetic_views(count: int, newest_ms: int, seed: int = 0) -> list[bytes]:
    """Views as JSON, spread over the ten days up to `newest_ms`, oldest first; a few users make most of them.

    >>> views = synthetic_views(100, REPLAY_NEWEST_MS)
    >>> views == synthetic_views(100, REPLAY_NEWEST_MS), time_ms_of(views[99]) <= REPLAY_NEWEST_MS
    (True, True)
    """
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, max(2, count // VIEWS_PER_USER) + 1)
    users = rng.choice(len(weights), count, p=weights / weights.sum())
    times = (newest_ms - np.sort(rng.integers(WINDOW_S * 1_000, size=count))[::-1]).astype("datetime64[ms]")
    drawn = [rng.choice(values, count).tolist() for values in COLUMNS.values()]
    views = zip(users, times, *drawn, strict=True)
    common = {"event_type": "listing_view", "anonymous_id": None, "session_id": None, "listing_id": "l-1"}
    return [
        msgspec.json.encode(
            common
            | {"event_id": f"b-{i}", "event_time": f"{at}Z", "user_id": f"u-{user}"}
            | {"attributes": dict(zip(COLUMNS, attributes, strict=True))}
        )
        for i, (user, at, *attributes) in enumerate(views)
    ]


def time_ms_of(line: bytes) -> int:
    """Event time in ms UTC."""
    return int(np.datetime64(msgspec.json.decode(line)["event_time"].removesuffix("Z"), "ms").astype(int))


def view_of(line: bytes) -> View:
    """The user and the view as counts of one.

    >>> view_of(b'{"user_id":"u","attributes":{"fuel_type":"hybrid","body_type":"suv","price":45000,"mileage":9,"make":"Kia"}}')
    ('u', [1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0])
    """
    event = msgspec.json.decode(line)
    return event["user_id"], [1, *(int(rule(event["attributes"])) for rule in RULES)]


def timed_view_of(line: bytes) -> TimestampedValue:
    """The view at its event time, which bounded input does not bring along."""
    return TimestampedValue(view_of(line), Timestamp(micros=time_ms_of(line) * 1_000))


class ShareCounts(beam.CombineFn):
    """Views as counts of one → how many, and the share that matches each rule."""

    def create_accumulator(self) -> list[int]:
        """No views."""
        return [0] * (1 + len(RULES))

    def add_input(self, accumulator: list[int], counts: list[int]) -> list[int]:
        """One view more."""
        return [a + c for a, c in zip(accumulator, counts, strict=True)]

    def merge_accumulators(self, accumulators: Iterable[list[int]]) -> list[int]:
        """The views of all."""
        return [sum(column) for column in zip(*accumulators, strict=True)]

    def extract_output(self, accumulator: list[int]) -> tuple[float, ...]:
        """Views, then shares."""
        return accumulator[0], *(matching / max(accumulator[0], 1) for matching in accumulator[1:])


# Beam's own metrics stop after each thread's first bundle on the streaming direct runner; both runners live in this process.
TALLY = collections.Counter[str]()
TALLY_LOCK = threading.Lock()


def tally(name: str, count: int = 1) -> None:
    """Counts up, from whichever thread the runner uses."""
    with TALLY_LOCK:
        TALLY[name] += count


def take_row(row: Row) -> None:
    """Stands where the write to a store would be."""
    tally("rows")
    tally("views", int(row[1][0]))


class KeepWindow(beam.DoFn):
    """Views → a `Row` after each view and each expiry; keeps the sums, the views they are made of and one timer a user."""

    EXPIRY = TimerSpec("expiry", TimeDomain.WATERMARK)
    AT, USER, TIMER = beam.DoFn.TimestampParam, beam.DoFn.KeyParam, beam.DoFn.TimerParam(EXPIRY)
    WINDOW = beam.DoFn.StateParam(BagStateSpec("window", TupleCoder((VarIntCoder(), ListCoder(VarIntCoder())))))
    COUNTS = beam.DoFn.StateParam(CombiningValueStateSpec("counts", ListCoder(VarIntCoder()), ShareCounts()))
    OLDEST = beam.DoFn.StateParam(ReadModifyWriteStateSpec("oldest", VarIntCoder()))

    def process(
        self, element: View, at: Any = AT, window: Any = WINDOW, counts: Any = COUNTS, oldest: Any = OLDEST, timer: Any = TIMER
    ) -> Iterator[Row]:
        """Takes the view in; the timer is moved only when the view is the oldest."""
        user, view = element
        known = oldest.read()
        if known is None or at.micros < known:
            oldest.write(at.micros)
            timer.set(at + Duration(WINDOW_S))
        window.add((at.micros, view))
        counts.add(view)
        tally("counted")
        yield user, counts.read()

    @on_timer(EXPIRY)
    def expire(
        self, user: Any = USER, at: Any = AT, window: Any = WINDOW, counts: Any = COUNTS, oldest: Any = OLDEST, timer: Any = TIMER
    ) -> Iterator[Row]:
        """Rebuilds the state from the views that are still in the window."""
        kept = sorted((time, view) for time, view in window.read() if time > at.micros - WINDOW_S * 1_000_000)
        for state in (window, counts, oldest):
            state.clear()
        for time_and_view in kept:
            window.add(time_and_view)
            counts.add(time_and_view[1])
        if kept:
            oldest.write(kept[0][0])
            timer.set(Timestamp(micros=kept[0][0]) + Duration(WINDOW_S))
        tally("expired")
        yield user, counts.read()


def sliding_windows(events: Sequence[bytes], period_s: int) -> Measured:
    """Every window of every user, computed in this process; complete when each view was counted in each of its windows."""
    if period_s < 1 or WINDOW_S % period_s:
        message = f"period == {period_s}, must divide {WINDOW_S} s"
        raise BaselineError(message)
    TALLY.clear()
    start = time.perf_counter()
    with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([])) as pipeline:
        _ = (
            pipeline
            | "ReadEvents" >> beam.Create(events)
            | "DecodeEvents" >> beam.Map(timed_view_of).with_output_types(View)
            | "SlideWindows" >> beam.WindowInto(SlidingWindows(WINDOW_S, period_s))
            | "CountPerUser" >> beam.CombinePerKey(ShareCounts()).with_output_types(Row)
            | "TakeRows" >> beam.Map(take_row)
        )
    seconds, copies = time.perf_counter() - start, WINDOW_S // period_s
    note, complete = f"{copies} windows an event, {TALLY['rows']:,} rows", TALLY["views"] == len(events) * copies
    return Measured(sliding_name(period_s), len(events), seconds, len(events) / seconds, peak_mb(), complete, note)


def keyed_state(events: Sequence[bytes], limit_s: float = LIMIT_S) -> Measured:
    """Published events counted by `KeepWindow` until all are in or `limit_s` has passed; the clock starts at the first."""
    require_emulator()
    TALLY.clear()
    with subscription_holding(events) as subscription:
        # Reading Pub/Sub rules out FnApiRunner and combining state rules out Prism, so Beam's switch picks BundleBasedDirectRunner.
        pipeline = beam.Pipeline(options=PipelineOptions(["--runner=DirectRunner", "--streaming"]))
        _ = (
            pipeline
            | "ReadEvents" >> beam.io.ReadFromPubSub(subscription=subscription, timestamp_attribute="event_time")
            | "DecodeEvents" >> beam.Map(view_of).with_output_types(View)
            | "KeepWindow" >> beam.ParDo(KeepWindow()).with_output_types(Row)
            | "TakeRows" >> beam.Map(take_row)
        )
        result = pipeline.run()
        deadline = time.perf_counter() + limit_s
        first, start = await_counted(1, deadline), time.perf_counter()
        counted, seconds = await_counted(len(events), deadline), time.perf_counter() - start
        # Cancelling waits for a pull of up to 30 s, which is no part of the measurement.
        threading.Thread(target=result.cancel, daemon=True).start()
    rate = (counted - first) / seconds if counted > first else None
    note = f"{counted:,} of {len(events):,} messages, {TALLY['expired']:,} expiries"
    return Measured(KEYED, counted, seconds, rate, peak_mb(), counted == len(events), note)


def await_counted(count: int, deadline: float) -> int:
    """The messages counted when they are at least `count`, or at the deadline."""
    while TALLY["counted"] < count and time.perf_counter() < deadline:
        time.sleep(0.02)
    return TALLY["counted"]


@contextlib.contextmanager
def subscription_holding(events: Sequence[bytes]) -> Iterator[str]:
    """A new subscription with the events published; it and its topic are removed at the end."""
    name = f"baseline-{uuid.uuid4().hex[:12]}"
    with PublisherClient() as publisher, SubscriberClient() as subscriber:
        topic, subscription = publisher.topic_path("benchmark", name), subscriber.subscription_path("benchmark", name)
        publisher.create_topic(name=topic)
        subscriber.create_subscription(name=subscription, topic=topic)
        for message in [publisher.publish(topic, event, event_time=str(time_ms_of(event))) for event in events]:
            message.result(timeout=START_UP_S)
        yield subscription
        subscriber.delete_subscription(subscription=subscription)
        publisher.delete_topic(topic=topic)


def require_emulator() -> None:
    """Nothing, unless the clients would talk to the real service."""
    if not os.environ.get("PUBSUB_EMULATOR_HOST"):
        message = "PUBSUB_EMULATOR_HOST is not set, must be the host:port of the Pub/Sub emulator"
        raise BaselineError(message)


def sliding_name(period_s: int) -> str:
    """What the table calls it."""
    return f"SlidingWindows(10 d, {period_s / HOUR_S:g} h)"


def peak_mb(pid: int | str = "self") -> float | None:
    """Peak resident memory of a process in MiB; None where the system does not tell."""
    # Not getrusage: its peak is inherited from the parent across exec.
    with contextlib.suppress(OSError):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines())
        return int(status["VmHWM"].split()[0]) / 1024
    return None


def measured_apart(name: str, arguments: Sequence[str], limit_s: float) -> Measured:
    """The measurement that `arguments` ask for, from a process of its own; past `limit_s` its process group is killed."""
    command = [sys.executable, "-m", "benchmarks.baselines", *arguments, "--json"]
    start, root = time.perf_counter(), Path(__file__).parents[1]
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            out, err = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return Measured(name, 0, limit_s, None, peak_mb(child.pid), False, f"killed after {limit_s:g} s without a result")
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode:
        reason = (err.strip().splitlines() or ["no message"])[-1]
        return Measured(name, 0, time.perf_counter() - start, None, None, False, f"failed: {reason}")
    return Measured(**json.loads(out)["baselines"][0])


def baselines(progress: Callable[[str], None], limit_s: float = LIMIT_S) -> list[Measured]:
    """All three, each in its own process and at most `limit_s` plus start-up; `progress` hears what is running."""
    require_emulator()
    runs = [(sliding_name(period), ("sliding", f"--period={period}", f"--events={n}")) for period, n in EVENTS.items()]
    runs.append((KEYED, ("keyed", f"--events={KEYED_EVENTS}", f"--limit={limit_s}")))
    rows = []
    for name, arguments in runs:
        progress(f"measuring {name}")
        rows.append(measured_apart(name, arguments, limit_s + START_UP_S))
    return rows


def table_of(rows: Sequence[Measured]) -> Table:
    """For people."""
    table = Table("way", "events", "seconds", "events/s", "peak MB", "complete", "note")
    for row in rows:
        rate, peak = (f"{x:,.0f}" if x is not None else "-" for x in (row.events_per_s, row.peak_mb))
        table.add_row(row.name, f"{row.events:,}", f"{row.seconds:.1f}", rate, peak, "yes" if row.complete else "no", row.note)
    return table


def run(argv: Sequence[str]) -> int:
    """Exit status 0, or 2 when it can't be measured here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines")
    parser.add_argument("way", nargs="?", choices=("all", "sliding", "keyed"), default="all")
    parser.add_argument("--period", type=int, default=DAY_S, help="of the sliding windows, in seconds")
    parser.add_argument("--events", type=int, help="how many to count (default: fewer for shorter periods)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds a measurement may take (sliding alone: not bounded)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    args = parser.parse_args(argv)
    try:
        if args.way == "all":
            rows = baselines(Console(stderr=True).print, args.limit)
        elif args.way == "sliding":
            events = synthetic_views(args.events or EVENTS.get(args.period, EVENTS[HOUR_S]), REPLAY_NEWEST_MS)
            rows = [sliding_windows(events, args.period)]
        else:
            rows = [keyed_state(synthetic_views(args.events or KEYED_EVENTS, time.time_ns() // 1_000_000), args.limit)]
    except BaselineError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"baselines": [row._asdict() for row in rows]}))
    else:
        Console().print(table_of(rows))
    return 0


if __name__ == "__main__":
    from benchmarks import baselines as importable  # so that DoFns are not pickled as members of __main__

    status = importable.run(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # a cancelled streaming direct runner still sits in a pull of up to 30 s
