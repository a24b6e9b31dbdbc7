"""What a web framework costs: the gateway's two endpoints without anything behind them, in five ways on two servers, in one run.

    make bench-frameworks
    python -m benchmarks.frameworks [--rounds N] [--seconds S] [--connections N]

All servers are up at the same time in one environment, one worker each on the same core, and are asked in turn, in short rounds; a
round's requests a second are set against those of ASGI by hand on uvicorn in the same round. The processor time of a request is
what stays when others use the machine too. Prints a table and writes benchmarks/results/frameworks.json. Machines are noisy:
compare within a run.

The choice is Falcon on uvicorn, by speed and by what comes along with it. It is the cheapest of the four for a GET and second for a
POST; it brings no other package into the process that everyone's requests go through; and it is an old, well-kept project whose API
changes with major versions only. BlackSheep takes a POST for about a tenth less and brings thirteen; the difference is microseconds
of a request that reads a store. Granian costs more than uvicorn under every one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.environments import brought_in, environment, versions
from benchmarks.http_load import LoadResult, get, load, post, write_requests
from benchmarks.results import say, write_results
from benchmarks.servers import Server, cores, free_port, serving

FOLDER: Final = Path(__file__).parent / "frameworks"
APPS: Final = {
    "ASGI by hand": "bare",
    "Starlette": "starlette",
    "Falcon": "falcon_app",
    "Litestar": "litestar",
    "BlackSheep": "blacksheep",
}
SERVERS: Final = ("uvicorn", "granian")
YARDSTICK: Final = ("ASGI by hand", "uvicorn")
TABLE_WIDTH: Final = 130
USERS: Final = 1_000


class Asked(NamedTuple):
    """A load and the processor time that the server took for one of its requests, in µs."""

    load: LoadResult
    cpu_us: float


_Rounds = dict[tuple[str, str], list[tuple[Asked, Asked]]]


class Cost(NamedTuple):
    """One framework on one server: medians of the rounds. Shares are of the yardstick's requests a second in the same round."""

    framework: str
    server: str
    get_per_s: float
    get_share: float
    get_p99_ms: float
    get_cpu_us: float
    post_per_s: float
    post_share: float
    post_p99_ms: float
    post_cpu_us: float
    rss_mb: float
    brings: int


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The sizes in a command line."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="benchmarks.frameworks", description=__doc__, formatter_class=raw)
    parser.add_argument("--rounds", type=int, default=7, help="of each; the median counts (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=8, help="(default: %(default)s)")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Run it all; the exit status."""
    arguments = parse_args(argv)
    programs, pins = environment("frameworks", FOLDER / "requirements.txt", say), cores()
    brings = brought_in(programs, *(name.lower() for name in list(APPS)[1:]))
    with contextlib.ExitStack() as stack:
        servers: dict[tuple[str, str], Server] = {}
        for framework in APPS:
            for name in SERVERS:
                port = free_port()
                up = serving(
                    name,
                    _command(programs, name, APPS[framework], port),
                    port,
                    "/v1/users/u1/segments",
                    core=pins.server,
                    folder=FOLDER,
                )
                servers[framework, name] = stack.enter_context(up)
        with tempfile.TemporaryDirectory() as folder:
            segments = write_requests(Path(folder, "get"), [get(f"/v1/users/u{user}/segments") for user in range(USERS)])
            featured = write_requests(Path(folder, "post"), [post("/v1/featured", _ask(user)) for user in range(USERS)])
            rounds: _Rounds = {each: [] for each in servers}
            for number in range(arguments.rounds):
                say(f"round {number + 1} of {arguments.rounds}")
                for each, server in servers.items():
                    got, posted = (_asked(server, requests, arguments, pins.client) for requests in (segments, featured))
                    rounds[each].append((got, posted))
        memory = {each: server.memory().rss_mb for each, server in servers.items()}
    costs = [_cost(each, rounds, memory[each], len(brings.get(each[0].lower(), ()))) for each in rounds]
    wanted = [line.partition("==")[0].partition("[")[0] for line in (FOLDER / "requirements.txt").read_text().splitlines()]
    results: dict[str, Any] = {
        "connections": arguments.connections,
        "cores": pins.document(),
        "versions": {name: version for name, version in versions(programs).items() if name in wanted},
        "brings": brings,
        "frameworks": [cost._asdict() for cost in costs],
        "rounds": {
            f"{framework} on {server}": [[asked.load.requests_per_s for asked in pair] for pair in pairs]
            for (framework, server), pairs in rounds.items()
        },
    }
    out = Console(width=max(Console().width, TABLE_WIDTH))
    out.print(_table(costs))
    out.print(f"written: {write_results('frameworks', results)}")
    return 0


def _command(programs: Path, server: str, app: str, port: int) -> list[str]:
    common = [
        str(programs / server),
        f"apps:{app}",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--no-access-log",
    ]
    if server == "uvicorn":
        return [*common, "--loop", "uvloop", "--http", "httptools", "--log-level", "error"]
    return [*common, "--interface", "asgi", "--loop", "uvloop", "--log-level", "error"]


def _ask(user: int) -> dict[str, Any]:
    return {"session_id": f"s{user}", "user_id": f"u{user}", "filters": {"fuel_type": "electric", "price": {"lte": 40_000}}}


def _cost(each: tuple[str, str], rounds: _Rounds, rss_mb: float, brings: int) -> Cost:
    got, posted = zip(*rounds[each], strict=True)
    got_bare, posted_bare = zip(*rounds[YARDSTICK], strict=True)
    return Cost(*each, *_middle(got, got_bare), *_middle(posted, posted_bare), rss_mb, brings)


def _asked(server: Server, requests: Path, arguments: argparse.Namespace, core: int | None) -> Asked:
    before = server.cpu_s()
    result = load(server.port, requests, arguments.connections, arguments.seconds, core=core).required()
    return Asked(result, round(1e6 * (server.cpu_s() - before) / result.sent, 1))


def _middle(ours: Sequence[Asked], bare: Sequence[Asked]) -> tuple[float, float, float, float]:
    """Requests a second, their share of the yardstick's in the same round, p99 and processor time; the median of each."""
    rates, shares, p99s = (
        statistics.median(values)
        for values in (
            [each.load.requests_per_s for each in ours],
            [each.load.requests_per_s / other.load.requests_per_s for each, other in zip(ours, bare, strict=True)],
            [each.load.p99_ms for each in ours],
        )
    )
    return round(rates), round(shares, 2), round(p99s, 2), statistics.median(each.cpu_us for each in ours)


def _table(costs: Sequence[Cost]) -> Table:
    table = Table(title="frameworks", title_justify="left")
    for column in Cost._fields:
        table.add_column(column.replace("_", " "), justify="left" if column in {"framework", "server"} else "right")
    for cost in sorted(costs, key=lambda cost: -cost.get_per_s - cost.post_per_s):
        table.add_row(*(f"{value:,}" if isinstance(value, int | float) else value for value in cost))
    return table


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
