"""The gateway's reader beside the bare data client on the same Bigtable table: reads a second, and how long one takes.

    python -m benchmarks.serving_reads --store URI --users N [--seconds S] [--rounds N] [--core N]     prints one JSON document

Both in one process and event loop, in short turns, each with a connection of its own: so many tasks as said, each reading the next
user when it has the last. The bare client is ``read_row`` with the filter of the reader and keys made before; what it finds is not
even decoded. ``cold``: the reader has no user in its cache when asked. ``warm``: it has all thousand of them, and keeps them for as
long as it is measured; the gateway lets go of a row after two seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import itertools
import json
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from google.cloud.bigtable.data import BigtableDataClientAsync

from benchmarks.results import percentile
from benchmarks.serving_rows import user_id
from schemas.instants import clock_ms
from schemas.pseudonym import Pseudonyms
from serving.keys import load_ring
from serving.reader import SegmentReader
from serving.store.bigtable_filters import newest_until
from serving.store.rows import open_rows

AT_ONCE: Final = (1, 8, 16)
WARM_USERS: Final = 1_000
BARE, READER = "read_row", "reader"
_BARE_DEADLINE_S: Final = 10.0
_WARM_TTL_S: Final = 3_600.0

User = tuple[str, str]  # raw id and row key
Read = Callable[[User], Awaitable[bool]]


class Turn(NamedTuple):
    """One turn of one of the two. ``failed``: reads that gave no row, their time counts all the same."""

    who: str
    at_once: int
    reads_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int


async def turn_of(who: str, read: Read, users: Iterator[User], at_once: int, seconds: float) -> Turn:
    """Read for some seconds."""
    times: list[float] = []
    failed = 0
    clock = time.perf_counter
    gc.collect()

    async def go_on() -> None:
        nonlocal failed
        while (began := clock()) < end:
            failed += not await read(next(users))
            times.append(clock() - began)

    cpu, began = time.process_time(), clock()
    end = began + seconds
    await asyncio.gather(*(go_on() for _ in range(at_once)))
    took, cpu = clock() - began, time.process_time() - cpu
    p50, p99 = (round(1000 * percentile(times, share), 4) for share in (0.5, 0.99))
    return Turn(who, at_once, round(len(times) / took, 1), p50, p99, round(1e6 * cpu / len(times), 1), failed)


async def measure(store: str, count: int, seconds: float, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All turns and what they come to."""
    pseudonym = Pseudonyms(load_ring(store))
    users = [(user_id(number), pseudonym(user_id(number))) for number in range(count)]
    random.Random(1).shuffle(users)
    project, *names = store.removeprefix("bigtable://").split("/")
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # "connecting to the emulator"
        client = BigtableDataClientAsync(project=project)
    table = client.get_table(*names)
    cold, warm = SegmentReader(open_rows(store), pseudonym), SegmentReader(open_rows(store), pseudonym, ttl_s=_WARM_TTL_S)
    sources: list[str] = []

    async def read_bare(user: User) -> bool:
        timeouts = {"operation_timeout": _BARE_DEADLINE_S, "attempt_timeout": _BARE_DEADLINE_S}
        return await table.read_row(user[1], row_filter=newest_until(clock_ms()), **timeouts) is not None

    async def read_by(reader: SegmentReader, user: User) -> bool:
        found = await reader.read(user[0], now=clock_ms())
        sources.append(found.source)
        return found.as_of is not None

    # Each has the users in the same order, and doesn't come back to one before the reader's cache has let go of it.
    order = {BARE: itertools.cycle(users), READER: itertools.cycle(users)}
    reads: dict[str, Read] = {BARE: read_bare, READER: functools.partial(read_by, cold)}
    turns: list[list[Turn]] = []
    for who, read in reads.items():
        await turn_of(who, read, order[who], 8, min(1.0, seconds))
    sources.clear()
    for at_once in AT_ONCE:
        for number in range(rounds):
            say(f"reads, {at_once} at once, round {number + 1} of {rounds}")
            pair = [BARE, READER] if number % 2 == 0 else [READER, BARE]
            done = {who: await turn_of(who, reads[who], order[who], at_once, seconds) for who in pair}
            turns.append([done[BARE], done[READER]])
    from_cache = sources.count("cache") / len(sources)
    warm_users, read_warm, warm_turns = users[:WARM_USERS], functools.partial(read_by, warm), []
    for user in warm_users:
        while not await read_warm(user):  # a busy machine can let one wait too long
            pass
    for at_once in (1, 8):
        sources.clear()
        turn = await turn_of(READER, read_warm, itertools.cycle(warm_users), at_once, seconds)
        warm_turns.append({**turn._asdict(), "from_cache": round(sources.count("cache") / len(sources), 4)})
    await cold.close()
    await warm.close()
    await client.close()
    return {
        "cold": [_summary(at_once, [pair for pair in turns if pair[0].at_once == at_once]) for at_once in AT_ONCE],
        "cold_from_cache": round(from_cache, 4),
        "warm": warm_turns,
    }


def _summary(at_once: int, pairs: Sequence[Sequence[Turn]]) -> dict[str, Any]:
    """Medians of the turns of each, and of the ratios of the two turns of a round; ``pairs`` have the bare client first."""
    told: dict[str, Any] = {"at_once": at_once}
    for place, who in enumerate((BARE, READER)):
        for field in ("reads_per_s", "p50_ms", "p99_ms", "cpu_us"):
            told[f"{who} {field}"] = round(statistics.median(getattr(pair[place], field) for pair in pairs), 3)
        told[f"{who} failed"] = sum(pair[place].failed for pair in pairs)
        told[f"rounds {who} p99_ms"] = [pair[place].p99_ms for pair in pairs]
    for field in ("reads_per_s", "p99_ms"):
        told[f"{field} ratio"] = round(statistics.median(getattr(ours, field) / getattr(bare, field) for bare, ours in pairs), 3)
    return told


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The sizes in a command line."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="benchmarks.serving_reads", description=__doc__, formatter_class=raw)
    parser.add_argument("--store", required=True, help="bigtable://PROJECT/INSTANCE/TABLE, filled by benchmarks.serving_rows")
    parser.add_argument("--users", type=int, required=True, help="that are in it")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--core", type=int, help="the only one to run on")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Run it; the exit status."""
    import uvloop  # as the gateway does

    arguments = parse_args(argv)
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})

    def say(text: str) -> None:
        print(f"… {text}", file=sys.stderr, flush=True)

    print(json.dumps(uvloop.run(measure(arguments.store, arguments.users, arguments.seconds, arguments.rounds, say))))
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
