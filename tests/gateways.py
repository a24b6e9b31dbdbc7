"""A real ``forecourt serve``, a proxy between it and its store to do things to, and visitors who come at a steady rate."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from schemas.profile_row import Membership, Profile, SegmentSpans, Span, encode_cell
from schemas.pseudonym import Pseudonyms, ring_of
from serving.keys import KEY_VARIABLE
from serving.store import RowUpdate, Store
from tests.strategies import ROOT

KEY: Final = "a key that is long enough for tests"
START_S: Final = 60.0
HOST: Final = "127.0.0.1"
PSEUDONYMS: Final = Pseudonyms(ring_of(KEY, "tests"))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        return int(held.getsockname()[1])


def members(store: Store, users: Sequence[str], now: int, segment: str = "electric") -> None:
    """Rows of users who are in a segment since ``now`` (ms UTC)."""
    membership = encode_cell(Membership(1, now, [SegmentSpans(segment, [Span(now, now + 10**9, 0.8, 20, 16)])]))
    profile = encode_cell(Profile(20, now, {"fuel_type": {"electric": 0.8}}))
    read = store.read_windows([], 1)  # of two writes the one of the later read stays
    store.write_memberships([RowUpdate(PSEUDONYMS(user), read.time, membership, profile, 0) for user in users])


def listings(path: Path, count: int = 40) -> Path:
    """Listings, a quarter of them electric, half of them sponsored, one an SUV; by default the diesel of highest rank is shown."""
    with path.open("w") as file:
        for number in range(count):
            fuel = "electric" if number % 4 == 0 else "diesel"
            body = "suv" if number == 6 else "wagon"
            listing = {"listing_id": f"l-{number}", "sponsored": number % 2 == 0, "fuel_type": fuel, "body_type": body}
            file.write(json.dumps({**listing, "rank": 1.0 if number == 2 else 0.5}) + "\n")
    return path


class Gateway:
    """One ``forecourt serve`` at a free port, ready to answer."""

    def __init__(self, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.err = folder / f"gateway-{self.port}.err"
        command = [sys.executable, "-m", "forecourt", "serve", "--port", str(self.port), *options]
        variables = {**os.environ, KEY_VARIABLE: KEY, "PYTHONPATH": str(ROOT), **(environment or {})}
        with self.err.open("wb") as err:
            self.process = subprocess.Popen(command, cwd=folder, env=variables, stdout=err, stderr=err)
        deadline = time.monotonic() + START_S
        while b"serving at" not in self.err.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(self.said)
            time.sleep(0.05)

    @property
    def said(self) -> str:
        """What it has logged."""
        return self.err.read_text(errors="replace")

    def get(self, path: str) -> Any:
        """The answer to a GET, from JSON where it is that."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=10) as answer:
            text = answer.read().decode()
        return json.loads(text) if "json" in answer.headers["content-type"] else text

    def stop(self) -> int:
        """End it; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextlib.contextmanager
def gateway_in(folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Gateway]:
    """A gateway, ended at the end."""
    gateway = Gateway(folder, *options, environment=environment)
    try:
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.stop()


class Proxy:
    """A TCP proxy in a thread: passes bytes on after ``delay_s``; with no ``target`` it lets nobody in."""

    def __init__(self, target: str) -> None:
        self.target: str | None = target
        self.delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.address = f"{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Close every connection."""

        async def close() -> None:
            for writer in self._writers:
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()

    def close(self) -> None:
        """End the proxy."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, HOST, 0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.target is None:
            writer.transport.abort()
            return
        host, port = self.target.split(":")
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
        self._writers -= {writer, there_writer}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
        writer.close()


class Visit(NamedTuple):
    """One request and what came of it: when it was due (by the steady clock), and how long after that it was answered."""

    at_s: float
    took_s: float
    status: int
    answer: dict[str, Any]

    @property
    def reason(self) -> str | None:
        """Why the default was served."""
        return None if self.status != 200 else self.answer["reason"]

    @property
    def listing(self) -> str | None:
        """What is shown."""
        found = self.answer["positions"][0]["listing"] if self.status == 200 else None
        return None if found is None else str(found["listing_id"])


async def visits(port: int, bodies: Sequence[bytes], rate: float) -> list[Visit]:
    """POST each body to ``/v1/featured``, ``rate`` a second, whether or not those before are answered."""
    loop = asyncio.get_running_loop()
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    start = loop.time() + 0.5

    async def visit(number: int, body: bytes) -> Visit:
        due = start + number / rate
        await asyncio.sleep(due - loop.time())
        async with _connection(port, idle) as (reader, writer):
            writer.write(b"POST /v1/featured HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            answer = json.loads(await reader.readexactly(length))
        return Visit(due, loop.time() - due, int(head.split()[1]), answer)

    return list(await asyncio.gather(*[visit(number, body) for number, body in enumerate(bodies)]))


@contextlib.asynccontextmanager
async def _connection(
    port: int, idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    pair = idle.pop() if idle else await asyncio.open_connection(HOST, port)
    yield pair
    idle.append(pair)


def visits_during(port: int, users: Sequence[str], rate: float) -> list[Visit]:
    """One visit of each user, from a loop of its own."""
    bodies = [json.dumps({"session_id": f"s-{user}", "user_id": user}).encode() for user in users]
    gc.disable()  # what it stops would look like a gateway that waits
    try:
        return asyncio.run(visits(port, bodies, rate))
    finally:
        gc.enable()


def reasons(found: Sequence[Visit]) -> Counter[str | None]:
    """How many visits had which reason."""
    return Counter(visit.reason for visit in found)
