"""Speed, freshness and memory of the speed layer, beside the two ways people do it today, in one run.

    make bench-stream
    python -m benchmarks.stream [--events N] [--soak-minutes M] [--no-baselines]

Prints tables and writes benchmarks/results/stream.json. Machines are noisy: compare within a run, not between runs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.baselines import baselines
from benchmarks.kernel import kernel_times
from benchmarks.live import backlog_throughput, file_throughput, freshness_and_memory
from benchmarks.results import say, write_results
from pipelines.emulators import emulators


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The sizes in a command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.stream", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--events", type=int, default=60_000, help="for throughput (default: %(default)s; a file gets five times as many)"
    )
    parser.add_argument("--load", type=int, default=500, help="events/s for freshness and memory (default: %(default)s)")
    parser.add_argument("--probe-seconds", type=float, default=60.0, help="(default: %(default)s)")
    parser.add_argument("--soak-minutes", type=float, default=20.0, help="(default: %(default)s)")
    parser.add_argument("--warm-up-minutes", type=float, default=11.0, help="not in the memory's slope (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each throughput; the median counts (default: %(default)s)")
    parser.add_argument("--no-baselines", action="store_true", help="leave the other ways out")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Run it all; the exit status."""
    arguments = parse_args(argv)
    results: dict[str, Any] = {}
    say("kernel")
    results["kernel"] = [each._asdict() for each in kernel_times()]
    results["throughput"] = []
    files = [file_throughput(5 * arguments.events, say) for _ in range(arguments.rounds)]
    with emulators() as endpoints:
        os.environ.update(endpoints.environment())
        live = [backlog_throughput(arguments.events, say) for _ in range(arguments.rounds)]
    for rounds in (files, live):
        median = sorted(rounds, key=lambda each: each.events_per_s)[len(rounds) // 2]
        every = [each.events_per_s for each in rounds]
        results["throughput"].append({**median._asdict(), "rounds_events_per_s": every})
    if not arguments.no_baselines:
        with emulators(("pubsub",)) as endpoints:
            os.environ.update(endpoints.environment())
            results["baselines"] = [each._asdict() for each in baselines(say)]
    with emulators() as endpoints:
        os.environ.update(endpoints.environment())
        soak_s, warm_up_s = arguments.soak_minutes * 60, arguments.warm_up_minutes * 60
        fresh, soak = freshness_and_memory(arguments.load, arguments.probe_seconds, soak_s, warm_up_s, say)
        results["freshness"], results["memory"] = fresh._asdict(), soak._asdict()
    out = Console()
    for name, rows in results.items():
        out.print(_table(name, rows if isinstance(rows, list) else [rows]))
    out.print(f"written: {write_results('stream', results)}")
    return 0


def _table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=name, title_justify="left")
    for column in rows[0] if rows else ():
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(
            *(
                f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
                for value in row.values()
            )
        )
    return table


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
