"""``forecourt experiment analyse`` on ten million sessions, from Parquet and from CSV, beside pandas and statsmodels on a part.

    python -m benchmarks.analysis [--sessions N] [--part N] [--rounds N] [--keep DIR]

Whole processes, start-up and imports included. The peer reads the same columns and does the plain things only: three effects with
clustered errors and one a segment. Its figures are those of the part, and on that part both must agree. Prints a table and writes
benchmarks/results/analysis.json. Machines are noisy: compare within a run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.results import folder_at, memory_mb, say, write_results
from schemas.instants import DAY_MS, parse_date

DAYS: Final = 14
SEGMENTS: Final = 10
CHUNK_ROWS: Final = 500_000
LIMIT_S: Final = 60.0
LIMIT_MB: Final = 4096.0
SAMPLED_S: Final = 0.02
_AGREE: Final = 1e-6


class Result(NamedTuple):
    """One whole process: seconds, those of the processor (which others on the machine don't change), and its peak memory."""

    what: str
    file: str
    sessions: int
    file_mb: float
    seconds: float
    cpu_s: float
    sessions_per_s: float
    peak_mb: float


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The sizes in a command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.analysis", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000_000, help="(default: %(default)s)")
    parser.add_argument("--part", type=int, default=500_000, help="sessions for the peer; 0: none (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="of each; the median counts (default: %(default)s)")
    parser.add_argument("--keep", metavar="DIR", help="make the tables here, or use those that are there")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Run it all; the exit status is 1 when it took too long or too much, or the peer found something else."""
    arguments = parse_args(argv)
    with folder_at(arguments.keep) as folder:
        results, documents = [], []
        for sessions in filter(None, (arguments.sessions, arguments.part)):
            for path in tables_of(folder, sessions, say):
                result, document = _median([ours(path, sessions, say) for _ in range(arguments.rounds)])
                results.append(result)
                documents.append(document)
        agree = None
        if arguments.part:
            result, found = peer(path.with_suffix(".parquet"), arguments.part, say)
            results.append(result)
            agree = _agree(documents[-1], found)
    good = all(each.seconds < LIMIT_S and each.peak_mb < LIMIT_MB for each in results[:2]) and agree is not False
    out = Console()
    out.print(_table(results))
    out.print(f"the peer finds the same on the part: {agree}")
    document = {"results": [each._asdict() for each in results], "peer_agrees": agree, "good": good}
    out.print(f"written: {write_results('analysis', document)}")
    return 0 if good else 1


def tables_of(folder: Path, sessions: int, say: Callable[[str], None]) -> list[Path]:
    """The Parquet and the CSV file of so many sessions, made when they aren't there."""
    parquet, text = folder / f"sessions-{sessions}.parquet", folder / f"sessions-{sessions}.csv"
    if not (parquet.exists() and text.exists()):
        say(f"tables of {sessions:,} sessions")
        with contextlib.ExitStack() as stack:
            chunks = chunks_of(sessions)
            first = next(chunks)
            packed = stack.enter_context(pq.ParquetWriter(parquet, first.schema))
            lines = stack.enter_context(pacsv.CSVWriter(text, _as_text(first).schema))
            for chunk in itertools.chain([first], chunks):
                packed.write_table(chunk)
                lines.write_table(_as_text(chunk))
    return [parquet, text]


def chunks_of(sessions: int, seed: int = 7) -> Iterator[Any]:
    """Sessions of users who come again and again, in order of time; a third of users as sessions, ids as long as real ones."""
    rng = np.random.default_rng(seed)
    users = max(1, sessions // 3)
    names = _ids(rng, users, 64, "1:")
    liking = rng.gamma(2.0, 2.0, users)
    start = parse_date("2026-05-01")
    for at in range(0, sessions, CHUNK_ROWS):
        rows = min(CHUNK_ROWS, sessions - at)
        user = (users * rng.random(rows) ** 2).astype(np.int64)
        arm = rng.integers(0, 2, rows)
        count = np.where(rng.random(rows) < 0.6, rng.integers(1, 4, rows), 0)
        segment = np.where(count > 0, rng.integers(0, SEGMENTS, rows), SEGMENTS)
        impressions = rng.poisson(2.0, rows).astype(np.float64)
        started = start + ((at + np.arange(rows)) * (DAYS * DAY_MS) // sessions)
        segment_names = pa.array([*(f"segment_{number}" for number in range(SEGMENTS)), None])
        yield pa.table(
            {
                "session_id": _ids(rng, rows, 32),
                "user_id": names.take(pa.array(user)),
                "started_at": pa.array(started).cast(pa.timestamp("ms", "UTC")),
                "day": pc.strftime(pa.array(started).cast(pa.timestamp("ms", "UTC")), "%Y-%m-%d"),
                "arm": pa.array(["control", "treatment"]).take(pa.array(arm)),
                "segment_count": pa.array(count, pa.int32()),
                "primary_segment": segment_names.take(pa.array(segment)),
                "vehicles_viewed": rng.poisson(liking[user] * (1 + 0.01 * arm * (count > 0))).astype(np.float64),
                "impressions": impressions,
                "clicks": rng.binomial(impressions.astype(np.int64), 0.05).astype(np.float64),
                "lead": (rng.random(rows) < 0.03).astype(np.float64),
                "pre_vehicles": pa.array(liking[user].round(3), mask=user % 3 == 0),
            }
        )


def ours(path: Path, sessions: int, say: Callable[[str], None]) -> tuple[Result, dict[str, Any]]:
    """One whole ``forecourt experiment analyse`` in a process of its own."""
    command = [str(Path(sys.executable).parent / "forecourt"), "experiment", "analyse", "--sessions", str(path)]
    return _measured("forecourt experiment analyse", [*command, "--unit", "session", "--json"], path, sessions, say)


def peer(path: Path, sessions: int, say: Callable[[str], None]) -> tuple[Result, dict[str, Any]]:
    """Pandas and statsmodels in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.analysis_peer", str(path)]
    return _measured("pandas and statsmodels", command, path, sessions, say)


def _measured(
    what: str, command: Sequence[str], path: Path, sessions: int, say: Callable[[str], None]
) -> tuple[Result, dict[str, Any]]:
    began, used = time.monotonic(), _cpu_of_children()
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.DEVNULL)
        peak = _peak_while_running(process)
        seconds, cpu = time.monotonic() - began, _cpu_of_children() - used
        printed.seek(0)
        document = json.load(printed)
    say(f"{what}, {path.name}: {seconds:.1f} s ({cpu:.1f} s of processor), {peak:,.0f} MB")
    size = path.stat().st_size / 1e6
    figures = (round(size), round(seconds, 2), round(cpu, 2), round(sessions / seconds), round(peak))
    return Result(what, path.suffix[1:], sessions, *figures), document


def _peak_while_running(process: subprocess.Popen[bytes]) -> float:
    """Peak memory of a process in MB, looked at until it ends."""
    peak = 0.0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            peak = max(peak, memory_mb(process.pid, "VmHWM"))
        time.sleep(SAMPLED_S)
    return peak


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _agree(document: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether effects and standard errors are the peer's."""
    parts = [*document["metrics"].items(), *document["segments"].items()]
    pairs = [(part[key], found[name][key]) for name, part in parts for key in ("effect", "se")]
    return all(abs(one - other) <= _AGREE * abs(other) for one, other in pairs)


def _ids(rng: np.random.Generator, count: int, digits: int, prefix: str = "") -> Any:
    """Random hexadecimal ids, without a Python object for each."""
    text = np.frombuffer(rng.bytes(count * digits // 2).hex().encode(), np.uint8).reshape(count, digits)
    start = np.broadcast_to(np.frombuffer(prefix.encode(), np.uint8), (count, len(prefix)))
    data = np.ascontiguousarray(np.hstack([start, text]))
    offsets = np.arange(count + 1, dtype=np.int64) * data.shape[1]
    return pa.Array.from_buffers(pa.large_string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _as_text(table: Any) -> Any:
    place = table.column_names.index("started_at")
    return table.set_column(place, "started_at", pc.strftime(table["started_at"], "%Y-%m-%dT%H:%M:%SZ"))


def _median(runs: Sequence[tuple[Result, dict[str, Any]]]) -> tuple[Result, dict[str, Any]]:
    return sorted(runs, key=lambda each: each[0].seconds)[len(runs) // 2]


def _table(results: Sequence[Result]) -> Table:
    table = Table(title=f"aim: {LIMIT_S:.0f} s, {LIMIT_MB:,.0f} MB", title_justify="left")
    for column in Result._fields:
        table.add_column(column, justify="left" if column in {"what", "file"} else "right")
    for each in results:
        table.add_row(*(f"{value:,}" if isinstance(value, int | float) else value for value in each))
    return table


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
