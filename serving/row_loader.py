"""Rows on demand: one read for all who ask for a user at once, keys that wait read together, and a bound on everything.

Keys asked for in one turn of the event loop go into one call. At most ``max_reads`` calls are under way; a key that comes when all
are goes into the next one with the others that wait. So under load the store sees fewer and larger reads (a row in bulk costs a
sixth of a row alone). When ``max_waiting`` keys wait,
further ones are shed. While the breaker is open nobody is let in; a probe looks whether the store is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from schemas.errors import RowError, StoreError, StoreTimeoutError
from schemas.profile_row import ProfileRow
from serving.bounded_rows import BoundedRows
from serving.breaker import Breaker
from serving.store.rows import RowReader, Rows

PROBE_KEY: Final = "0"  # no row has it
TELL_EVERY_S: Final = 10.0

Miss = Literal["timeout", "store_down", "overloaded", "bad_row"]
Loaded = ProfileRow | Miss

_log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """How much may go on at once, and how long a read and the time between probes may take."""

    deadline_s: float = 0.05
    max_reads: int = 4
    max_rows_a_read: int = 64
    max_waiting: int = 256
    probe_every_s: float = 0.25
    reconnect_every_s: float = 0.5


@dataclass(slots=True, eq=False)
class _Load:
    key: str
    until_s: float  # when who asked last goes, by the loop's clock
    done: asyncio.Future[Loaded]


class RowLoader:
    """Loads rows by key within the limits. Used in one event loop; ``loaded`` is told of every row that was read."""

    def __init__(self, rows: RowReader, breaker: Breaker, limits: Limits, loaded: Callable[[ProfileRow], None]) -> None:
        self._rows, self._breaker, self._limits, self._loaded = BoundedRows(rows), breaker, limits, loaded
        self._loads: dict[str, _Load] = {}
        self._waiting: deque[_Load] = deque()
        self._reads: set[asyncio.Task[None]] = set()
        self._next: asyncio.Handle | None = None
        self._probe: asyncio.Task[None] | None = None
        self._bad_rows, self._told_s = 0, -TELL_EVERY_S
        self._closed = False

    async def load(self, key: str, until_s: float) -> Loaded:
        """The row, or why there is none; until an instant of the loop's clock. It never raises for a fault of the store."""
        if self._breaker.state == "open":
            return "store_down"
        load = self._asked(key, until_s)
        if load is None:
            return "overloaded"
        self._read_soon()
        await asyncio.wait((load,), timeout=until_s - asyncio.get_running_loop().time())
        return load.result() if load.done() else "timeout"

    async def load_all(self, keys: Sequence[str], until_s: float) -> list[Loaded]:
        """The same for several keys, in their order; those that nobody is waiting for are read together."""
        if self._breaker.state == "open":
            return ["store_down"] * len(keys)
        asked = [self._asked(key, until_s) for key in keys]
        self._read_soon()
        waits = [load for load in asked if load is not None]
        if waits:
            await asyncio.wait(waits, timeout=until_s - asyncio.get_running_loop().time())
        return ["overloaded" if load is None else load.result() if load.done() else "timeout" for load in asked]

    def forget(self, key: str) -> None:
        """Let a read that is under way answer those who wait for it, and nobody after them."""
        self._loads.pop(key, None)

    async def close(self) -> None:
        """End what is under way, then the connection."""
        self._closed = True
        if self._next is not None:
            self._next.cancel()
        tasks = [*self._reads, *([self._probe] if self._probe else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._rows.close()

    def _asked(self, key: str, until_s: float) -> asyncio.Future[Loaded] | None:
        """The read that a key is in; ``None`` when there is no room for one."""
        load = self._loads.get(key)
        if load is None:
            if len(self._waiting) >= self._limits.max_waiting:
                return None
            load = self._loads[key] = _Load(key, until_s, asyncio.get_running_loop().create_future())
            self._waiting.append(load)
        load.until_s = max(load.until_s, until_s)
        return load.done

    def _read_soon(self) -> None:
        """Start a call when all who ask in this turn of the loop have done so; at once when they fill one."""
        if len(self._waiting) >= self._limits.max_rows_a_read:
            self._read_on()
        elif self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        while self._waiting and len(self._reads) < self._limits.max_reads:
            now_s = asyncio.get_running_loop().time()
            loads: list[_Load] = []
            while self._waiting and len(loads) < self._limits.max_rows_a_read:
                load = self._waiting.popleft()
                if load.until_s < now_s:  # all who asked have gone
                    self._settle(load, "timeout")
                else:
                    loads.append(load)
            if loads:
                task = asyncio.create_task(self._read(loads))
                self._reads.add(task)
                task.add_done_callback(self._read_done)

    def _read_done(self, task: asyncio.Task[None]) -> None:
        self._reads.discard(task)
        if not self._closed:
            self._read_soon()

    async def _read(self, loads: list[_Load]) -> None:
        miss: Miss = "store_down"
        found: Rows = {}
        try:
            found = await self._rows.read([load.key for load in loads], self._limits.deadline_s)
        except StoreError as fault:
            miss = "timeout" if isinstance(fault, StoreTimeoutError) else "store_down"
            self._failed(str(fault))
        else:
            if self._breaker.state == "closed":  # an open one is closed by the probe alone
                self._breaker.succeeded()
        finally:
            for load in loads:
                self._settle(load, found.get(load.key, miss))

    def _settle(self, load: _Load, found: ProfileRow | RowError | Miss) -> None:
        wanted = self._loads.get(load.key) is load
        if wanted:
            del self._loads[load.key]
        if isinstance(found, ProfileRow):
            if wanted:
                self._loaded(found)
        elif isinstance(found, RowError):
            self._tell(found)
            found = "bad_row"
        load.done.set_result(found)

    def _tell(self, fault: RowError) -> None:
        """Log a row that can't be understood, which names a few digits of its pseudonym; not each of thousands."""
        self._bad_rows += 1
        now = asyncio.get_running_loop().time()
        if now - self._told_s >= TELL_EVERY_S:
            _log.error("%s (%d such rows so far)", fault, self._bad_rows)
            self._told_s = now

    def _failed(self, why: str) -> None:
        if self._breaker.failed(asyncio.get_running_loop().time()) and not self._closed:
            _log.error("the store is given up until a probe gets through: %s", why)
            self._probe = asyncio.create_task(self._probe_until_back())

    async def _probe_until_back(self) -> None:
        loop = asyncio.get_running_loop()
        connected_s = began_s = loop.time()
        while True:
            await asyncio.sleep(self._limits.probe_every_s)
            try:
                await self._rows.read([PROBE_KEY], self._limits.deadline_s)
            except Exception:  # whatever it is, the probe goes on: nobody else lets anyone in again
                if loop.time() - connected_s >= self._limits.reconnect_every_s:
                    connected_s = loop.time()
                    await self._reconnect()
            else:
                self._breaker.succeeded()
                _log.warning("the store is back after %.1f s", loop.time() - began_s)
                return

    async def _reconnect(self) -> None:
        try:
            await self._rows.reconnect()
        except Exception as fault:
            _log.error("the store can't be connected to: %s: %s", type(fault).__name__, fault)  # noqa: TRY400
