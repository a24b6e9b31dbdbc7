"""The segment reader over a store that misbehaves at random, in a time that is played: what holds whatever happens.

Every read ends within its deadline, with segments or a reason, never with those of another visitor, nor with what was forgotten
before it was asked; no more calls are under way than may be; nothing is left behind; and the store is found again.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from schemas.errors import StoreTimeoutError, StoreUnavailableError
from schemas.profile_row import Membership, ProfileRow, SegmentSpans, Span
from schemas.pseudonym import Pseudonyms, ring_of
from serving.reader import SegmentReader
from serving.row_loader import Limits

NOW = 1_000_000_000_000
USERS = [f"u{number}" for number in range(40)]
MODES = ("sound", "sound", "slow", "frozen", "down", "odd", "never")
PLAYED_S = 3.0
RECOVERY_S = 2.0


class PlayedTime(selectors.SelectSelector):
    """Waits by setting the clock forward."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing will ever happen again"
        self.now += timeout + 1e-7 if timeout > 0 else 0.0
        return []


class PlayedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = PlayedTime()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


class Names(Pseudonyms):
    def __init__(self) -> None:
        super().__init__(ring_of("a key that is long enough", "tests"))

    def __call__(self, raw_id: str) -> str:
        return raw_id

    def names(self, raw_id: str) -> tuple[str, ...]:
        return (raw_id,)


class Misbehaving:
    """A store whose rows have one segment: the user's name and the version of their row, as of some instant of the call."""

    def __init__(self, drawn: random.Random) -> None:
        self.drawn, self.mode, self.versions = drawn, "sound", Counter[str]()
        self.at_once = self.most_at_once = 0

    async def read(self, keys: Sequence[str], deadline_s: float) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self._answer(keys, deadline_s)
        finally:
            self.at_once -= 1

    async def reconnect(self) -> None:
        await asyncio.sleep(self.drawn.choice((0.0, 99.0)))

    async def close(self) -> None:
        pass

    async def _answer(self, keys: Sequence[str], deadline_s: float) -> Any:
        if self.mode == "never":
            await asyncio.sleep(99)
        if self.mode == "down":
            raise StoreUnavailableError("away")
        if self.mode == "odd" and self.drawn.random() < 0.8:
            await asyncio.sleep(0.001)
            raise self.drawn.choice((asyncio.CancelledError, KeyError, TimeoutError))()
        delay_s = {"slow": self.drawn.uniform(0.03, 0.08), "frozen": 99.0}.get(self.mode, self.drawn.expovariate(250))
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.sleep(delay_s / 2)
                versions = {key: self.versions[key] for key in keys}
                await asyncio.sleep(delay_s / 2)
        except TimeoutError as error:
            raise StoreTimeoutError("no answer") from error
        return {key: self._row(key, version) for key, version in versions.items() if self.mode != "odd" or version % 2}

    def _row(self, key: str, version: int) -> ProfileRow:
        spans = [SegmentSpans(f"{key} {version}", [Span(0, 2 * NOW, 0.5, 10, 5)])]
        return ProfileRow(key, Membership(7, NOW, spans), None)


async def check_read(reader: SegmentReader, rows: Misbehaving, user: str, browser: str | None, deadline_s: float) -> None:
    forgotten = rows.versions[user]
    began = asyncio.get_running_loop().time()
    read = await reader.read(user, browser, now=NOW)
    assert asyncio.get_running_loop().time() - began < deadline_s + 0.001
    assert (read.reason is None) == bool(read.segments)
    for segment in read.segments:
        whose, version = segment.name.split()
        assert whose == user
        assert int(version) >= forgotten


async def play(seed: int) -> None:
    drawn, loop = random.Random(seed), asyncio.get_running_loop()
    rows, limits = Misbehaving(drawn), Limits(max_reads=drawn.choice((1, 4)), max_rows_a_read=drawn.choice((2, 64)), max_waiting=20)
    reader = SegmentReader(rows, Names(), limits=limits, ttl_s=drawn.choice((0.0, 0.02, 2.0)), timer=loop.time)
    tasks: list[asyncio.Task[None]] = []
    while loop.time() < PLAYED_S:
        await asyncio.sleep(drawn.expovariate(200))
        for _ in range(drawn.choice((1, 1, 1, 30))):
            browser = drawn.choice((None, drawn.choice(USERS)))
            tasks.append(asyncio.create_task(check_read(reader, rows, drawn.choice(USERS), browser, limits.deadline_s)))
        if drawn.random() < 0.05:
            drawn.choice(tasks).cancel()
        if drawn.random() < 0.05:
            user = drawn.choice(USERS)
            rows.versions[user] += 1
            reader.forget(user)
        if drawn.random() < 0.02:
            rows.mode = drawn.choice(MODES)
    rows.mode = "sound"
    while (await reader.read(f"later{loop.time()}", now=NOW)).reason is not None:
        await asyncio.sleep(0.01)
    assert loop.time() < PLAYED_S + 0.2 + RECOVERY_S
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert ended is None or isinstance(ended, asyncio.CancelledError)
    await asyncio.sleep(1)
    assert rows.at_once == 0
    assert rows.most_at_once <= limits.max_reads + 1  # and the probe
    await reader.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_store_does_each_read_ends_in_time_and_is_the_visitors_own(seed: int) -> None:
    with asyncio.Runner(loop_factory=PlayedLoop) as runner:
        runner.run(play(seed))
