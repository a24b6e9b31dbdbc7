"""The gateway beside the bare Bigtable client and the Feast feature server, on one Bigtable emulator, in one run.

    make bench-serving
    python -m benchmarks.serving [--users N] [--listings N] [--seconds S] [--rounds N] [--smoke] [--no-feast]

All servers are up at the same time and asked in turn, in short rounds, for the same users in the same order: ``cold`` are all
users, at random, few of whom the gateway has in its cache; ``warm`` are a hundred of them. What is measured runs on one core, the
load and the emulator on another; only Feast with the workers that its guide asks for has both. Figures are medians of the rounds,
ratios are medians of those within a round. Answers without the user's row (``unread``) count as none when they are set against
Feast's. Prints tables and writes benchmarks/results/serving.json. Machines are noisy: compare within a run.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import feast_peer
from benchmarks.http_load import HOST, LoadResult, get, load, post, write_requests
from benchmarks.results import say, write_results
from benchmarks.servers import Cores, Server, cores, free_port, on_core, serving
from benchmarks.serving_rows import DrawnUser, drawn_users, facts, features_of, fill, keep_all_cells, user_id, write_features
from pipelines.emulators import emulators
from pipelines.listings import BODY_TYPES, FUEL_TYPES, write_listings
from rules import RULES_PATH
from schemas.instants import clock_ms
from schemas.pseudonym import Pseudonyms, ring_of
from serving.keys import KEY_VARIABLE
from serving.segments import segments_at
from serving.store import open_store

EMULATOR_GOGC: Final = "1000"  # it is a Go program, whose own collector would take time of the one core it has
CONNECTIONS: Final = (1, 8, 32)
STORE: Final = "bigtable://demo/demo/profiles"
KEY: Final = "a key for benchmarks, not a secret"
SPONSORED_SHARE: Final = 0.05
WARM_USERS: Final = 100
CHECKED_USERS: Final = 50
TABLE_WIDTH: Final = 150
SEGMENTS, FEATURED, FEAST, FEAST_GUIDED = "GET segments", "POST featured", "Feast", "Feast, workers as guided"
COLD, WARM = "cold", "warm"
_SOURCES: Final = re.compile(rb'^forecourt_stage_seconds_count\{source="(\w+)",stage="read"\} (\S+)$', re.MULTILINE)

Say = Callable[[str], None]


@dataclasses.dataclass
class Asked:
    """What is asked of a server, in order; ``at`` is where the next load goes on."""

    name: str
    users: str
    server: Server
    requests: Path
    core: int | None  # of the load
    at: int = 0

    @property
    def ours(self) -> bool:
        """Whether it is the gateway that answers."""
        return not self.name.startswith(FEAST)


class Round(NamedTuple):
    """One load: its answers, the server's processor time for a request, and the share of users that came from each source."""

    load: LoadResult
    cpu_us: float
    sources: dict[str, float]

    @property
    def read_per_s(self) -> float:
        """Answers a second that rest on the user's row."""
        return self.load.requests_per_s * (1 - self.sources.get("none", 0.0))


class Row(NamedTuple):
    """Medians of the rounds at one number of connections; ``unread`` is the share of answers that don't rest on the user's row."""

    what: str
    users: str
    connections: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    cpu_us: float
    from_cache: float | None
    unread: float | None
    rounds_requests_per_s: list[float]
    rounds_p99_ms: list[float]


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The sizes in a command line."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__, formatter_class=raw)
    parser.add_argument("--users", type=int, default=100_000, help="with a row in the table (default: %(default)s)")
    parser.add_argument("--listings", type=int, default=100_000, help="in the inventory (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of each; the median counts (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="whether it all works, in a minute: 5,000 of each, one short round")
    parser.add_argument("--no-feast", action="store_true", help="leave Feast out")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.users, arguments.listings, arguments.seconds, arguments.rounds = 5_000, 5_000, 0.5, 1
    return arguments


def run(argv: Sequence[str]) -> int:
    """Run it all; the exit status."""
    arguments, pins = parse_args(argv), cores()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with on_core(pins.client):
            os.environ.setdefault("GOGC", EMULATOR_GOGC)
            endpoints = stack.enter_context(emulators(("bigtable",)))
        os.environ.update(endpoints.environment(), **{KEY_VARIABLE: KEY})
        now = clock_ms()
        drawn = drawn_users(now)
        store = open_store(STORE)
        store.init()
        fill(store, Pseudonyms(ring_of(KEY, "benchmark")), drawn, arguments.users, say)
        store.close()
        keep_all_cells(endpoints.bigtable)
        results: dict[str, Any] = {
            "users": arguments.users,
            "listings": arguments.listings,
            "rows": facts(drawn, now),
            "cores": pins.document(),
            "emulator's GOGC": os.environ["GOGC"],
            "reads": _reads(arguments, pins),
        }
        asked = stack.enter_context(_up(arguments, folder, drawn, now, pins, say, results))
        keep_all_cells(endpoints.bigtable)  # Feast's table is there now
        rounds = _rounds(asked, arguments, say)
        results["memory"] = {each.server.name: each.server.memory()._asdict() for each in asked}
    rows = [_row(each, rounds[each.name, each.users, connections]) for connections in CONNECTIONS for each in asked]
    results["http"] = [row._asdict() for row in rows]
    results["ratios"] = _ratios(results, rounds, feast=not arguments.no_feast)
    _print(results, rows)
    return 0


def _reads(arguments: argparse.Namespace, pins: Cores) -> dict[str, Any]:
    """The reader beside the bare client, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving_reads", "--store", STORE, "--users", str(arguments.users)]
    command += ["--seconds", str(arguments.seconds), "--rounds", str(arguments.rounds)]
    command += [] if pins.server is None else ["--core", str(pins.server)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


@contextlib.contextmanager
def _up(
    arguments: argparse.Namespace,
    folder: Path,
    drawn: Sequence[DrawnUser],
    now: int,
    pins: Cores,
    say: Say,
    results: dict[str, Any],
) -> Iterator[list[Asked]]:
    """Everything that is asked, with its servers up and their answers looked at."""
    rng = random.Random(2)
    cold = [user_id(number) for number in rng.sample(range(arguments.users), arguments.users)]
    users = {COLD: cold, WARM: cold[:WARM_USERS]}
    checked = {user_id(number): drawn[number % len(drawn)] for number in rng.sample(range(arguments.users), CHECKED_USERS)}
    with contextlib.ExitStack() as stack:
        say(f"the gateway, {arguments.listings:,} listings")
        gateway = stack.enter_context(_gateway(folder, arguments.listings, pins))
        _check_segments(gateway.port, checked, now)
        asked: list[Asked] = []
        for name, of in users.items():
            segments = [get(f"/v1/users/{user}/segments") for user in of]
            featured = [post("/v1/featured", _search(user, number, arguments.listings, rng)) for number, user in enumerate(of)]
            for what, requests in ((SEGMENTS, segments), (FEATURED, featured)):
                path = write_requests(folder / f"{what} {name}", requests)
                # Featured begins elsewhere: whom the segments were just asked of, the cache still has.
                asked.append(Asked(what, name, gateway, path, pins.client, at=len(of) // 2 * (what == FEATURED)))
        if not arguments.no_feast:
            programs = feast_peer.programs(say)
            results["feast"] = {"versions": feast_peer.pinned_versions(programs), "settings": feast_peer.SETTINGS}
            rows = write_features(folder / "rows.parquet", drawn, arguments.users, now)
            feast_peer.fill(programs, folder, rows, {}, say)
            path = write_requests(folder / "feast", feast_peer.requests_of(cold))
            guided = 2 * (os.cpu_count() or 1) + 1
            for name, workers, pinned in ((FEAST, 1, pins), (FEAST_GUIDED, guided, Cores(None, None))):
                say(f"{name}, workers: {workers}")
                server = stack.enter_context(feast_peer.server(programs, folder, workers, {}, pinned.server))
                feast_peer.check_answers(server.port, {user: features_of(row, now) for user, row in checked.items()})
                asked.append(Asked(name, COLD, server, path, pins.client))
        yield asked


@contextlib.contextmanager
def _gateway(folder: Path, listings: int, pins: Cores) -> Iterator[Server]:
    inventory, port = folder / "listings.jsonl", free_port()
    write_listings(inventory, listings, SPONSORED_SHARE, seed=1)
    command = [str(Path(sys.executable).parent / "forecourt"), "serve", "--store", STORE, "--rules", RULES_PATH]
    command += ["--inventory", str(inventory), "--events", f"file:{folder / 'events'}", "--host", HOST, "--port", str(port)]
    with serving("forecourt serve", command, port, "/readyz", core=pins.server) as server:
        yield server


def _search(user: str, number: int, listings: int, rng: random.Random) -> dict[str, Any]:
    """A search as they come: a quarter without filters, the others with one to three; some listings were just seen."""
    filters: dict[str, Any] = {}
    if number % 4 in (1, 2):
        filters["fuel_type" if number % 8 < 4 else "body_type"] = rng.choice(FUEL_TYPES if number % 8 < 4 else BODY_TYPES)
    if number % 4 in (2, 3):
        low = rng.randrange(5_000, 40_000, 1_000)
        filters["price"] = {"gte": low, "lt": low + 20_000}
    if number % 4 == 3:
        filters["year"] = {"gte": rng.randrange(2012, 2022)}
    seen = [f"l-{rng.randrange(listings)}" for _ in range(rng.randrange(10))]
    return {"session_id": f"session-{number}", "user_id": user, "filters": filters, "seen": seen}


def _check_segments(port: int, expected: dict[str, DrawnUser], now: int) -> None:
    """Ask for each user's segments; ``RuntimeError`` unless they are those of the row."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    for user, row in expected.items():
        connection.request("GET", f"/v1/users/{user}/segments")
        answer = json.loads(connection.getresponse().read())
        found = [(segment["name"], segment["score"]) for segment in answer["segments"]]
        wanted = {tuple((each.name, each.score) for each in segments_at(row.membership, at)) for at in (now, clock_ms())}
        if tuple(found) not in wanted:
            msg = f"the gateway's segments of {user} == {found}, must be {sorted(wanted)}"
            raise RuntimeError(msg)
    connection.close()


_Key = tuple[str, str, int]


def _rounds(asked: Sequence[Asked], arguments: argparse.Namespace, say: Say) -> dict[_Key, list[Round]]:
    """By what was asked, of which users, over how many connections; one round of everything before the next."""
    rounds: dict[_Key, list[Round]] = {(each.name, each.users, number): [] for number in CONNECTIONS for each in asked}
    say("warming up")
    for each in asked:
        _round(each, CONNECTIONS[-1], arguments.seconds)
    for number in range(arguments.rounds):
        for connections in CONNECTIONS:
            say(f"{connections} connections, round {number + 1} of {arguments.rounds}")
            for each in asked:
                rounds[each.name, each.users, connections].append(_round(each, connections, arguments.seconds))
    return rounds


def _round(asked: Asked, connections: int, seconds: float) -> Round:
    cpu_s, before = asked.server.cpu_s(), _sources(asked)
    result = load(asked.server.port, asked.requests, connections, seconds, start=asked.at, core=asked.core).required()
    asked.at += result.sent
    after = _sources(asked)
    reads = sum(after.values()) - sum(before.values())
    shares = {source: round((count - before.get(source, 0)) / reads, 4) for source, count in after.items()}
    return Round(result, round(1e6 * (asked.server.cpu_s() - cpu_s) / result.sent, 1), shares)


def _sources(asked: Asked) -> dict[str, float]:
    """How often the gateway has had a user's row from each source, by its own metrics."""
    if not asked.ours:
        return {}
    connection = http.client.HTTPConnection(HOST, asked.server.port, timeout=30)
    connection.request("GET", "/metrics")
    found = {source.decode(): float(count) for source, count in _SOURCES.findall(connection.getresponse().read())}
    connection.close()
    return found


def _row(asked: Asked, rounds: Sequence[Round]) -> Row:
    def middle(values: Iterator[float], digits: int) -> float:
        return round(statistics.median(values), digits)

    return Row(
        asked.name,
        asked.users,
        rounds[0].load.connections,
        middle((each.load.requests_per_s for each in rounds), 1),
        middle((each.load.p50_ms for each in rounds), 2),
        middle((each.load.p99_ms for each in rounds), 2),
        max(each.load.worst_ms for each in rounds),
        middle((each.cpu_us for each in rounds), 0),
        middle((each.sources.get("cache", 0.0) for each in rounds), 4) if asked.ours else None,
        middle((each.sources.get("none", 0.0) for each in rounds), 4) if asked.ours else None,
        [each.load.requests_per_s for each in rounds],
        [each.load.p99_ms for each in rounds],
    )


def _ratios(results: dict[str, Any], rounds: dict[_Key, list[Round]], *, feast: bool) -> dict[str, float]:
    """What was to be reached: medians of the ratios of two in one round; p99 of a featured listing in ms."""
    told = {f"reader's p99, read_row = 1, {row['at_once']} at once": row["p99_ms ratio"] for row in results["reads"]["cold"]}
    for connections in CONNECTIONS if feast else ():
        for peer in (FEAST, FEAST_GUIDED):
            pairs = list(zip(rounds[SEGMENTS, COLD, connections], rounds[peer, COLD, connections], strict=True))
            rates = (ours.read_per_s / theirs.read_per_s for ours, theirs in pairs)
            p99s = (ours.load.p99_ms / theirs.load.p99_ms for ours, theirs in pairs)
            told[f"{SEGMENTS}, requests/s, {peer} = 1, {connections} connections"] = round(statistics.median(rates), 2)
            told[f"{SEGMENTS}, p99, {peer} = 1, {connections} connections"] = round(statistics.median(p99s), 2)
    told[f"{FEATURED}, p99 in ms, 8 connections"] = statistics.median(each.load.p99_ms for each in rounds[FEATURED, COLD, 8])
    return told


def _print(results: dict[str, Any], rows: Sequence[Row]) -> None:
    out = Console(width=max(Console().width, TABLE_WIDTH))
    out.print(_table("reader, cold cache", results["reads"]["cold"]))
    out.print(_table("reader, warm cache", results["reads"]["warm"]))
    out.print(_table("http", [row._asdict() for row in rows]))
    out.print(_table("memory", [{"server": name, **memory} for name, memory in results["memory"].items()]))
    out.print(results["ratios"])
    out.print(f"written: {write_results('serving', results)}")


def _table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=name, title_justify="left")
    shown = {column: value for column, value in rows[0].items() if not column.startswith("rounds")}
    for column, value in shown.items():
        table.add_column(column.replace("_", " "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        values = (row[column] for column in shown)
        table.add_row(*("" if value is None else value if isinstance(value, str) else f"{value:,}" for value in values))
    return table


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
