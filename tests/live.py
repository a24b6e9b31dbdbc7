"""A live bench: both emulators, messages going out, and real ``forecourt stream`` processes to do things to."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from pipelines.emulators import Endpoints
from pipelines.pubsub import create_subscription
from pipelines.simulate import sink_of
from serving.keys import KEY_VARIABLE
from serving.store import open_store
from tests.traffic import KEY, RULES, Balance, Spans, Traffic, balance_of

ROOT: Final = Path(__file__).parents[1]
START_S: Final = 60.0  # a stream's first work: imports on a busy machine
SETTLE_S: Final = 60.0
_LOOK_S: Final = 0.02


class Stream:
    """One ``forecourt stream``, as a process group of its own."""

    def __init__(self, folder: Path, *options: str, key: str = KEY) -> None:
        name = uuid.uuid4().hex[:8]
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        command = [sys.executable, "-m", "forecourt", "stream", *options]
        environment = os.environ | {KEY_VARIABLE: key, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}  # a kill leaves Beam's
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err, start_new_session=True)

    def kill(self) -> None:
        """``kill -9`` of the process and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ended(self, timeout: float = SETTLE_S) -> tuple[int, dict[str, Any]]:
        """Its exit status and what ``--json`` printed, once it has ended by itself."""
        status = self.process.wait(timeout)
        text = self.out.read_text()
        return status, json.loads(text) if text else {}

    def stopped(self, timeout: float = SETTLE_S) -> tuple[int, dict[str, Any]]:
        """The same after SIGTERM."""
        self.process.terminate()
        return self.ended(timeout)

    @property
    def said(self) -> str:
        """Its stderr so far."""
        return self.err.read_text(errors="replace")


@dataclasses.dataclass(frozen=True)
class Bench:
    """A topic, a subscription to it, a table and a folder, used by nobody else."""

    endpoints: Endpoints
    folder: Path
    name: str
    streams: list[Stream] = dataclasses.field(default_factory=list)

    @property
    def topic(self) -> str:
        """Where traffic goes."""
        return f"pubsub://demo/topics/{self.name}"

    @property
    def subscription(self) -> str:
        """Where streams pull."""
        return f"pubsub://demo/subscriptions/{self.name}"

    @property
    def store_uri(self) -> str:
        """Where rows are."""
        return f"bigtable://demo/demo/{self.name}"

    @property
    def rules(self) -> Path:
        """The rules file, which a test may change."""
        return self.folder / "rules.yaml"

    @property
    def dead_letters(self) -> Path:
        """The dead letters of all streams."""
        return self.folder / "dead-letters.jsonl"

    @property
    def options(self) -> list[str]:
        """What ``forecourt stream`` is told."""
        where = ["--source", self.subscription, "--store", self.store_uri, "--dead-letters", f"file:{self.dead_letters}"]
        return [*where, "--rules", str(self.rules), "--json"]

    def stream(self) -> Stream:
        """Start a stream; it is killed when the bench closes."""
        self.streams.append(Stream(self.folder, *self.options))
        return self.streams[-1]

    def balance(self, traffic: Traffic, expected: dict[str, Spans], version: int | None = 41) -> Balance:
        """How things are now."""
        return balance_of(self.store_uri, self.dead_letters, traffic, expected, version)

    def settled(self, traffic: Traffic, expected: dict[str, Spans], timeout: float = SETTLE_S) -> Balance:
        """How things are once nothing is wrong, or when ``timeout`` has passed."""
        deadline = time.monotonic() + timeout
        while True:
            start = time.monotonic()
            balance = self.balance(traffic, expected)
            if not balance.faults or start > deadline:
                return balance
            time.sleep(max(0.25, time.monotonic() - start))

    def letters(self) -> int:
        """The size of the dead letters: it grows as soon as a stream works, when there is poison in the traffic."""
        return self.dead_letters.stat().st_size if self.dead_letters.exists() else 0

    def at_work(self, stream: Stream) -> None:
        """Wait until a stream has begun to work on messages."""
        before = self.letters()
        wait_until(lambda: self.letters() > before or stream.process.poll() is not None, START_S, "a stream does not begin to work")
        assert stream.process.poll() is None, stream.said

    @contextlib.contextmanager
    def frozen(self, emulator: str) -> Iterator[None]:
        """An outage: the emulator (``pubsub`` or ``bigtable``) takes connections, and answers nothing."""
        pid = {"pubsub": self.endpoints.pubsub_pid, "bigtable": self.endpoints.bigtable_pid}[emulator]
        os.killpg(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(pid, signal.SIGCONT)


@contextlib.contextmanager
def bench_in(folder: Path, endpoints: Endpoints, ack_deadline_s: int = 60) -> Iterator[Bench]:
    """A bench; unacknowledged messages come again after the deadline. The environment must name the emulators."""
    bench = Bench(endpoints, folder, f"b{uuid.uuid4().hex[:12]}")
    create_subscription(bench.topic, bench.subscription, ack_deadline_s)
    open_store(bench.store_uri).init()
    bench.rules.write_text(RULES)
    try:
        yield bench
    finally:
        for stream in bench.streams:
            stream.kill()


@contextlib.contextmanager
def publishing(topic: str, messages: Sequence[bytes], rate: float = 0.0) -> Iterator[Future[None]]:
    """Messages going out from a thread at ``rate`` a second (0: as fast as possible); the future is done when all are taken."""
    leaving = threading.Event()

    def publish() -> None:
        start = time.monotonic()
        with sink_of(topic) as write:
            for number, message in enumerate(messages):
                if rate and leaving.wait(max(0.0, start + number / rate - time.monotonic())):
                    return
                write(message)

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(publish)
        try:
            yield sent
        finally:
            leaving.set()


def wait_until(holds: Callable[[], bool], timeout: float, what: str) -> float:
    """The seconds until something holds; ``TimeoutError`` says what never did."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > timeout:
            msg = f"{what}, not in {timeout:.0f} s"
            raise TimeoutError(msg)
        time.sleep(_LOOK_S)
    return time.monotonic() - start
