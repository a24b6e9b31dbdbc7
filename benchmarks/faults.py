"""Does the speed layer lose or repeat anything? Kills, outages and company under load, then every row is compared.

    make bench-faults
    python -m benchmarks.faults [--kills N] [--outage SECONDS] [--seed N] [--json]

Real processes against both emulators; right is what the simulator sent and what the brute-force reference makes of it. Prints
tables, writes benchmarks/results/faults.json, and exits with 1 when anything is lost, repeated or wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.results import machine, write_results
from pipelines.emulators import Endpoints, emulators
from tests.faults import Kill, freeze, kill_at_random, two_at_once
from tests.live import Bench, bench_in
from tests.traffic import Balance, Spans, Traffic, expected_spans, market_of, traffic_of

EVENTS_A_KILL: Final = 2_400
EVENTS_A_USER: Final = 5  # few, as the reference takes cubic time
SHORT_EVENTS: Final = 8_000
SETTLE_S: Final = 180.0


class Case(NamedTuple):
    """One kind of fault and what was found afterwards; ``recovered_s``: from the end of the fault until everything was in."""

    name: str
    balance: Balance
    recovered_s: float
    messages: int
    remark: str = ""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The sizes in a command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="kill -9 at so many random moments (default: %(default)s)")
    parser.add_argument(
        "--outage",
        type=float,
        default=35.0,
        help="seconds that each emulator is away; calls give up after 30 (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the traffic and of the moments (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON document on stdout")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run all faults; the exit status."""
    config = parse_args(argv)
    console = Console(stderr=config.json)
    kills: list[Kill] = []
    cases: list[Case] = []
    with tempfile.TemporaryDirectory(prefix="forecourt-faults-") as folder, emulators() as endpoints:
        os.environ.update(endpoints.environment())
        work = Path(folder)
        cases.append(_killed(config, endpoints, work, kills, console))
        short = traffic_of(market_of(SHORT_EVENTS, SHORT_EVENTS // EVENTS_A_USER, config.seed + 1))
        expected = expected_spans(short.people)
        for emulator, name in (("bigtable", "store away"), ("pubsub", "Pub/Sub away")):
            with _bench(console, f"{name} for {config.outage:.0f} s", endpoints, work) as bench:
                outage = freeze(bench, short, expected, emulator, config.outage)
                well = outage.survived and outage.status == 0 and outage.document.get("holds")
                remark = f"tried again {outage.said.count('trying again')} times" if well else "THE STREAM FAILED"
                cases.append(Case(f"{name} {config.outage:.0f} s", outage.balance, outage.recovered_s, len(short.messages), remark))
        cases.append(_two(endpoints, work, short, expected, console))
    results = _results(config, kills, cases)
    path = write_results("faults", results)
    _print(console, kills, cases)
    console.print(f"written to {path}", soft_wrap=True)
    if config.json:
        print(json.dumps({"machine": machine(), **results}))
    return 0 if results["good"] else 1


@contextlib.contextmanager
def _bench(console: Console, title: str, endpoints: Endpoints, folder: Path, ack_deadline_s: int = 60) -> Iterator[Bench]:
    console.print(f"[bold]{title}[/]")
    own = folder / title.split(" for ")[0].replace(" ", "-").replace("/", "-")
    own.mkdir()
    with bench_in(own, endpoints, ack_deadline_s) as bench:
        yield bench


def _killed(config: argparse.Namespace, endpoints: Endpoints, folder: Path, kills: list[Kill], console: Console) -> Case:
    """Kill after kill under load, then one stream that finishes; unacknowledged messages come again after ten seconds."""
    events = EVENTS_A_KILL * config.kills
    traffic = traffic_of(market_of(events, events // EVENTS_A_USER, config.seed))
    with (
        _bench(console, f"killed for {config.kills} times, {len(traffic.messages):,} messages", endpoints, folder, 10) as bench,
        ThreadPoolExecutor(1) as pool,
    ):
        expected = pool.submit(expected_spans, traffic.people)
        for kill in kill_at_random(bench, random.Random(config.seed), config.kills, traffic.messages):
            kills.append(kill)
            console.print(f"  kill {kill.number} at {kill.second:.1f} s, {kill.worked_s:.2f} s into its work")
        bench.stream()
        start = time.monotonic()
        balance = bench.settled(traffic, expected.result(), SETTLE_S)
    idle = sum(not kill.under_load for kill in kills)
    remark = f"{idle} kills came after the load" if idle else ""
    return Case(f"{len(kills)} kills", balance, time.monotonic() - start, len(traffic.messages), remark)


def _two(endpoints: Endpoints, folder: Path, traffic: Traffic, expected: dict[str, Spans], console: Console) -> Case:
    with _bench(console, "two streams on one subscription", endpoints, folder) as bench:
        pair = two_at_once(bench, traffic, expected)
        shares = " + ".join(f"{document['read']:,}" for document in pair.documents)
        remark = f"read {shares}" if all(document["holds"] for document in pair.documents) else "THE BALANCE DOES NOT HOLD"
        return Case("two streams", pair.balance, pair.settled_s, len(traffic.messages), remark)


def _results(config: argparse.Namespace, kills: list[Kill], cases: list[Case]) -> dict[str, Any]:
    shouted = any(case.remark.isupper() for case in cases)
    return {
        "seed": config.seed,
        "good": not shouted and all(kill.under_load for kill in kills) and not any(case.balance.faults for case in cases),
        "kills": [kill._asdict() for kill in kills],
        "cases": [{**case._asdict(), "balance": case.balance._asdict()} for case in cases],
    }


def _print(console: Console, kills: list[Kill], cases: list[Case]) -> None:
    moments = Table(title="kill -9; messages come again when they weren't acknowledged", title_justify="left")
    for column in ("kill", "at s", "worked s", "dead letters", "of them again"):
        moments.add_column(column, justify="right")
    for kill in kills:
        moments.add_row(str(kill.number), f"{kill.second:.1f}", f"{kill.worked_s:.2f}", f"{kill.letters:,}", f"{kill.again:,}")
    console.print(moments)
    found = Table(title="afterwards; those with a * must be 0", title_justify="left")
    found.add_column("")
    for case in cases:
        found.add_column(case.name, justify="right")
    columns = [_column(case) for case in cases]
    for name in columns[0]:
        found.add_row(name, *(column[name] for column in columns))
    console.print(found)
    for case in cases:
        if case.remark:
            console.print(f"{case.name}: {case.remark}")


def _column(case: Case) -> dict[str, str]:
    """What the table says of a case. How many messages came again is an estimate from the poison: a killed stream tells nothing."""
    balance = case.balance
    numbers = {
        "messages": case.messages,
        "delivered again, about": round(balance.again / max(balance.poison, 1) * case.messages),
        "views": balance.views,
        "lost *": balance.lost,
        "repeated *": balance.repeated + balance.strange,
        "poison": balance.poison,
        "poison missing *": balance.poison_missing,
        "memberships": balance.memberships,
        "rows with wrong ones *": balance.memberships_wrong + balance.versions_wrong,
    }
    return {name: f"{number:,}" for name, number in numbers.items()} | {"all in after, s": f"{case.recovered_s:.1f}"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
