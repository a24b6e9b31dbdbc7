"""Requests over HTTP/1.1 from a process of its own, each connection sending its next when the last is answered.

    python -m benchmarks.http_load --port N --requests FILE [--connections N] [--seconds S]     prints one JSON document

Not wrk, which needs installing, and where a body that differs by request is Lua. Side by side both got 29,600 answers a second out
of the same server; this keeps the time of every answer, from the write of the request to the last byte, so what this program takes
to get to it counts too.

The requests are made before (``write_requests``) and sent in order, from ``--start`` on and round and round.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from benchmarks.results import percentile

HOST: Final = "127.0.0.1"
WARM_UP_S: Final = 0.3
GIVE_UP_S: Final = 10.0
_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"


class LoadError(RuntimeError):
    """The answers are none to measure: connections refused or lost, another status than asked for, nothing at all."""


class LoadResult(NamedTuple):
    """Answers in ``seconds``, and times in ms of the requests sent in them.

    ``sent`` are all requests, those of the warm-up too: what the server worked for. ``lost`` are connections that ended before we
    were done, and answers that didn't come.
    """

    connections: int
    seconds: float
    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    statuses: dict[str, int]
    sent: int
    lost: int

    def required(self, status: int = 200) -> LoadResult:
        """The result itself; ``LoadError`` when anything but answers of one status came."""
        if self.lost or set(self.statuses) != {str(status)}:
            msg = f"statuses == {self.statuses}, lost == {self.lost}, must be {status} alone and 0"
            raise LoadError(msg)
        return self


def get(path: str, headers: Sequence[str] = ()) -> bytes:
    """The bytes of a GET.

    >>> get("/x").splitlines()
    [b'GET /x HTTP/1.1', b'Host: 127.0.0.1', b'']
    """
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {HOST}", *headers, "", ""]).encode()


def post(path: str, document: Any, headers: Sequence[str] = ()) -> bytes:
    """The bytes of a POST of JSON."""
    body = msgspec.json.encode(document)
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def write_requests(path: Path, requests: Iterable[bytes]) -> Path:
    """Requests for ``load`` in a file; its path."""
    path.write_bytes(msgspec.msgpack.encode(list(requests)))
    return path


def load(
    port: int,
    requests: Path,
    connections: int,
    seconds: float,
    *,
    start: int = 0,
    warm_up_s: float = WARM_UP_S,
    give_up_s: float = GIVE_UP_S,
    core: int | None = None,
) -> LoadResult:
    """What a process of its own measures, on one core if asked so."""
    command = [sys.executable, "-m", "benchmarks.http_load", "--port", str(port), "--requests", str(requests)]
    command += ["--connections", str(connections), "--seconds", str(seconds), "--start", str(start)]
    command += ["--warm-up", str(warm_up_s), "--give-up", str(give_up_s)]
    command += [] if core is None else ["--core", str(core)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"the load failed: {done.stderr.strip().splitlines()[-1]}"
        raise LoadError(msg)
    return LoadResult(**json.loads(done.stdout))


class Framing:
    """Statuses of the answers in a stream of bytes. Knows ``Content-Length`` only."""

    def __init__(self) -> None:
        self._bytes = b""

    def statuses(self, data: bytes) -> Iterator[int]:
        """The statuses of the answers that these bytes complete."""
        self._bytes = self._bytes + data if self._bytes else data
        while (end := self._bytes.find(_HEAD_END)) >= 0:
            size = end + len(_HEAD_END) + self._length(self._bytes[:end])
            if len(self._bytes) < size:
                return
            status = int(self._bytes[9:12])
            self._bytes = self._bytes[size:]
            yield status

    @staticmethod
    def _length(head: bytes) -> int:
        at = head.lower().find(_LENGTH)
        if at < 0:
            msg = f"an answer's head == {head[:200]!r}, must have a Content-Length"
            raise LoadError(msg)
        return int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])


class _Record:
    """What all connections note: the time of each answer, by when its request was sent."""

    def __init__(self, requests: Sequence[bytes], start: int) -> None:
        self.requests = itertools.islice(itertools.cycle(requests), start % len(requests), None)
        self.begin = self.end = float("inf")  # of what counts, on the loop's clock
        self.stopped = False
        self.sent = self.answered = 0
        self.times: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.lost = 0
        self.fault: Exception | None = None

    def note(self, status: int, sent: float, now: float) -> None:
        if sent >= self.begin:
            self.times.append(now - sent)
            self.statuses[str(status)] += 1
        self.answered += self.begin <= now < self.end


class _Connection(asyncio.Protocol):
    def __init__(self, record: _Record) -> None:
        self._record = record
        self._framing = Framing()
        self._sent = 0.0
        self._write: Any = None
        self.waiting = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._write = self.transport.write
        self._send(time.perf_counter())

    def data_received(self, data: bytes) -> None:
        try:
            for status in self._framing.statuses(data):
                now = time.perf_counter()
                self.waiting = False
                self._record.note(status, self._sent, now)
                self._send(now)
        except (LoadError, ValueError) as fault:
            self._record.fault = fault
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._record.lost += self.waiting or not self._record.stopped
        self.waiting = False

    def _send(self, now: float) -> None:
        if not self._record.stopped:
            self._sent = now
            self.waiting = True
            self._record.sent += 1
            self._write(next(self._record.requests))


async def _run(arguments: argparse.Namespace, requests: Sequence[bytes]) -> LoadResult:
    record = _Record(requests, arguments.start)
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: _Connection(record), HOST, arguments.port) for _ in range(arguments.connections)]
    connections = [protocol for _, protocol in opened]
    await asyncio.sleep(arguments.warm_up)
    record.begin = time.perf_counter()
    record.end = record.begin + arguments.seconds
    await asyncio.sleep(arguments.seconds)
    record.stopped = True
    deadline = time.perf_counter() + arguments.give_up
    while any(each.waiting for each in connections) and time.perf_counter() < deadline and not record.fault:
        await asyncio.sleep(0.01)
    for each in connections:
        record.lost += each.waiting
        each.transport.abort()
    if record.fault:
        raise record.fault
    if not record.times:
        msg = f"no answer in {arguments.seconds:g} s, {record.lost} connections lost"
        raise LoadError(msg)
    times = sorted(record.times)
    p50, p99, worst = (round(1000 * value, 3) for value in (percentile(times, 0.5), percentile(times, 0.99), times[-1]))
    rate, statuses = round(record.answered / arguments.seconds, 1), dict(sorted(record.statuses.items()))
    asked = record.answered, rate, p50, p99, worst, statuses, record.sent
    return LoadResult(arguments.connections, arguments.seconds, *asked, record.lost)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The load in a command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.http_load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True, help=f"of {HOST}")
    parser.add_argument("--requests", type=Path, required=True, help="what write_requests wrote")
    parser.add_argument("--start", type=int, default=0, help="the number of the first one (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="that count (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=WARM_UP_S, help="seconds before that don't (default: %(default)s)")
    parser.add_argument("--give-up", type=float, default=GIVE_UP_S, help="seconds to wait for the last ones (default: %(default)s)")
    parser.add_argument("--core", type=int, help="the only one to run on")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Run it; the exit status."""
    import uvloop

    arguments = parse_args(argv)
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    requests = msgspec.msgpack.decode(arguments.requests.read_bytes(), type=list[bytes])
    gc.collect()
    gc.disable()  # a pause of ours would be a slow answer
    try:
        result = uvloop.run(_run(arguments, requests))
    except (LoadError, OSError) as fault:
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        return 1
    print(json.dumps(result._asdict()))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
