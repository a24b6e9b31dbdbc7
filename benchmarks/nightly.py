"""The nightly job and its kernel, beside DuckDB SQL and pandas on the same Parquet files, in one run.

    make bench-nightly
    python -m benchmarks.nightly [--events N] [--users N] [--rounds N] [--no-peers] [--keep DIR]

Whole processes, start-up, imports and the quality gate included; the peers only count, so what they do is a part of what the
night does. DuckDB stands there twice: the fastest query found, and the one that is written first, a window frame for each view.
Prints tables and writes benchmarks/results/nightly.json. Machines are noisy: compare within a run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.archives import make_archive
from benchmarks.kernel import rule_set, rules_text
from benchmarks.peers import PLAIN_RULES, PeerResult, run_peer
from benchmarks.results import folder_at, memory_mb, say, write_results
from rules import CATALOGUE_PATH
from schemas.instants import parse_date
from schemas.release import Release
from schemas.rules import RuleSet, parse_rules
from transforms.archive_files import dates_of
from transforms.event_columns import read_events
from transforms.kernel import days_of
from transforms.membership import Rules, conditions_of
from transforms.night import Plan, wanted_of
from transforms.rules_file import load_catalogue
from transforms.shards import shard_of
from transforms.slices import items_of, slices_of

DAYS: Final = 11  # the day and the ten before it: what a day without rows to publish reads
KERNEL_ROUNDS: Final = 7
SAMPLED_S: Final = 0.02
_WITH_FEATURES: Final = "rules with every feature"
_PLAIN: Final = "plain share rules"


class JobResult(NamedTuple):
    """One whole ``forecourt nightly``: seconds, events read, the process's peak memory, and what it counted by segment."""

    what: str
    rules: str
    events: int
    seconds: float
    events_per_s: float
    peak_mb: float
    segments: dict[str, Any]


class KernelResult(NamedTuple):
    """``days_of`` alone on one core: events (those of the ten days before count too) a second, median of several rounds."""

    rules: str
    events: int
    events_per_s: float
    rounds_events_per_s: list[float]
    shard_mb: float


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The sizes in a command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.nightly", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000_000, help="(default: %(default)s; memory also with twice as many)")
    parser.add_argument("--users", type=int, default=400_000, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each job; the median counts (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="leave DuckDB and pandas out")
    parser.add_argument("--keep", metavar="DIR", help="make the archives here, or use those that are there")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Run it all; the exit status."""
    arguments = parse_args(argv)
    with folder_at(arguments.keep) as folder:
        once = _archive(folder / "once", arguments.events, arguments.users, say)
        twice = _archive(folder / "twice", 2 * arguments.events, 2 * arguments.users, say)
        date = dates_of(str(once))[-1]
        plain, full = folder / "plain.yaml", folder / "full.yaml"
        plain.write_text(PLAIN_RULES)
        full.write_text(rules_text(10))
        results: dict[str, Any] = {"date": date, "kernel": [each._asdict() for each in kernel_results(once, date, say)]}
        jobs: list[JobResult] = []
        peers: list[PeerResult] = []
        for number in range(arguments.rounds):
            say(f"round {number + 1} of {arguments.rounds}")
            jobs.append(job_result(_PLAIN, once, date, plain, arguments.workers, say))
            if not arguments.no_peers:
                peers.append(_peer("duckdb", once, date, say))
                if number == 0:
                    peers += [_peer(name, once, date, say) for name in ("duckdb-frames", "pandas")]
        jobs += [job_result(_WITH_FEATURES, once, date, full, arguments.workers, say) for _ in range(arguments.rounds)]
        jobs += [job_result(f"{_PLAIN}, twice the archive", twice, date, plain, arguments.workers, say)]
    results["jobs"] = [_median(group) for group in _groups(jobs, lambda job: job.rules)]
    results["peers"] = [_median(group) for group in _groups(peers, lambda peer: peer.name)]
    ours = results["jobs"][0]
    results["ratios"] = {
        f"events/s of the whole job, {peer['name']} = 1": round(ours["events_per_s"] / (peer["events"] / peer["seconds"]), 2)
        for peer in results["peers"]
    }
    results["counts_agree"] = _agree(jobs[0].segments, peers)
    out = Console()
    for name in ("kernel", "jobs", "peers"):
        if results[name]:
            out.print(_table(name, results[name]))
    out.print(results["ratios"])
    out.print(f"written: {write_results('nightly', results)}")
    return 0


def kernel_results(archive: Path, date: str, say: Callable[[str], None]) -> list[KernelResult]:
    """The kernel on one shard of the archive's users, by plain rules and by rules with every feature."""
    catalogue = load_catalogue(CATALOGUE_PATH)
    sets = {_PLAIN: parse_rules(PLAIN_RULES, catalogue, "plain.yaml"), _WITH_FEATURES: rule_set(10)}
    return [_kernel_result(name, archive, date, rules, say) for name, rules in sets.items()]


def job_result(rules: str, archive: Path, date: str, path: Path, workers: int, say: Callable[[str], None]) -> JobResult:
    """One whole ``forecourt nightly`` in a process of its own."""
    with tempfile.TemporaryDirectory() as metrics:
        where = ["--archive", str(archive), "--date", date, "--rules", str(path), "--metrics", metrics, "--json"]
        command = [str(Path(sys.executable).parent / "forecourt"), "nightly", *where, "--workers", str(workers)]
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peak = _peak_while_running(process)
        document = json.loads(process.communicate()[0])
        seconds = time.monotonic() - began
    events = _rows_of(archive)
    counted = {row["segment"]: row for row in document["segments"]}
    if document["verdict"]["failed"]:
        say(f"the gate said no: {document['verdict']['failed']}")
    say(f"nightly, {rules}: {events / seconds:,.0f} events/s")
    return JobResult("forecourt nightly", rules, events, round(seconds, 2), round(events / seconds), round(peak), counted)


def _kernel_result(name: str, archive: Path, date: str, rules: RuleSet, say: Callable[[str], None]) -> KernelResult:
    catalogue = load_catalogue(CATALOGUE_PATH)
    plan = Plan(date, Release(rules), catalogue, 1, 0, None)
    items = items_of(str(archive), plan.dates)
    conditions, shards = conditions_of(rules), max(1, sum(item.size for item in items) // (24 << 20))
    slices = []
    for item in items:
        events = read_events(item.paths, catalogue, wanted_of(plan, item.date))
        slices += [table for number, table in slices_of(events, conditions, shards, packed=False) if number == 0]
    shard = shard_of(slices)
    places = np.concatenate(([0], np.cumsum(shard.views)))[shard.offsets]
    times, bits = shard.times[shard.views], shard.bits[shard.views]
    call = (times, bits, places, parse_date(date), 1, *Rules(rules).arrays)
    days_of(*call)
    rounds: list[float] = []
    for _ in range(KERNEL_ROUNDS):
        began = time.process_time()
        days_of(*call)
        rounds.append(round(len(times) / (time.process_time() - began)))
    median = statistics.median(rounds)
    say(f"kernel, {name}: {median:,.0f} events/s on one core")
    return KernelResult(name, len(times), median, rounds, round((times.nbytes + bits.nbytes) / 1e6, 1))


def _archive(folder: Path, events: int, users: int, say: Callable[[str], None]) -> Path:
    if not folder.is_dir():
        say(f"an archive of {events:,} events")
        make_archive(str(folder), events, users, days=DAYS, catalogue=load_catalogue(CATALOGUE_PATH))
    return folder


def _peer(name: str, archive: Path, date: str, say: Callable[[str], None]) -> PeerResult:
    result = run_peer(name, str(archive), date)
    say(f"{name}: {result.events / result.seconds:,.0f} events/s")
    return result


def _peak_while_running(process: subprocess.Popen[str]) -> float:
    """Peak memory of a process in MB, looked at until it ends."""
    peak = 0.0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            peak = max(peak, memory_mb(process.pid, "VmHWM"))
        time.sleep(SAMPLED_S)
    return peak


def _rows_of(archive: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in archive.glob("date=*/part-*.parquet"))


def _groups(results: Sequence[Any], key: Callable[[Any], str]) -> list[list[Any]]:
    return [[each for each in results if key(each) == name] for name in dict.fromkeys(map(key, results))]


def _median(results: Sequence[Any]) -> dict[str, Any]:
    """The result of median time, with the times of all."""
    middle = sorted(results, key=lambda each: each.seconds)[len(results) // 2]._asdict()
    for counts in ("counts", "segments"):
        middle.pop(counts, None)
    return {**middle, "rounds_s": [each.seconds for each in results]}


def _agree(ours: dict[str, dict[str, int]], peers: Sequence[PeerResult]) -> bool:
    """Whether the peers counted what the night did."""
    names = ("tp", "fp", "fn", "tn", "members")
    theirs = [{segment: {name: getattr(row, name) for name in names} for segment, row in peer.counts.items()} for peer in peers]
    return all(each == {segment: {name: row[name] for name in names} for segment, row in ours.items()} for each in theirs)


def _table(name: str, rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=name, title_justify="left")
    shown = [column for column in rows[0] if not column.startswith("rounds")]
    for column in shown:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{row[column]:,}" if isinstance(row[column], int | float) else str(row[column]) for column in shown))
    return table


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
