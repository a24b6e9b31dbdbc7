"""``forecourt forget`` on an archive of ten million events, beside writing everything anew.

    make bench-forget
    python -m benchmarks.forget [--events N] [--users N] [--keep DIR]

The archive has 35 dates, files of 50,000 events as a busy stream leaves them, ids sealed, browsers beside the users and exposures
in the experiment column. One user with a few events is forgotten, then one with some on every date, then eight at once. Whole
processes, the search at the end included. The other way is what one does without looking: read every file, filter it, write it.
Prints tables and writes benchmarks/results/forget.json. Machines are noisy: compare within a run.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.archives import WRITERS, Market, _day, _market, _parts, _table
from benchmarks.results import folder_at, say, write_results
from pipelines.console import table_console
from rules import CATALOGUE_PATH
from schemas.instants import DAY_MS, clock_ms, date_of
from schemas.pseudonym import pseudonym_of, ring_of, seal
from serving.keys import KEY_VARIABLE
from serving.store import open_store
from transforms.archive_files import parquet_of, parts_of, prepare_archive, write_part
from transforms.rules_file import load_catalogue

EVENTS: Final = 10_000_000
USERS: Final = 400_000
DAYS: Final = 35
LISTINGS: Final = 100_000
KEY: Final = "a key for a benchmark, long enough"
LIGHT: Final = "light-user-of-the-benchmark"
HEAVY: Final = "heavy-user-of-the-benchmark"
SEVERAL: Final = tuple(f"user-{number}-of-the-benchmark" for number in range(8))
_SHARES: Final = {LIGHT: 6e-6, HEAVY: 2e-4, **dict.fromkeys(SEVERAL, 2e-5)}  # of all sessions
_IMPRESSION: Final = (
    '{"arm": "treatment", "conflict_sample": 0.0, "conflicts": null, "differs": true, "experiment": "featured", '
    '"impression_id": "i-0", "k": 1, "policy": "highest", "position": 0, "probability": 0.5, "reason": "assigned", '
    '"rung": "segment", '
    '"segments": [{"name": "electric", "score": 0.8}, {"name": "suv", "score": 0.7}], "shown": true, "unit": "'
)


def make_archive(directory: Path, events: int, users: int) -> dict[str, str]:
    """An archive with the people to be forgotten in it; the browser of each."""
    prepare_archive(str(directory), clock_ms())
    ring = ring_of(KEY, "benchmark")
    rng = np.random.default_rng(7)
    market = _market(rng, users, DAYS, LISTINGS, load_catalogue(CATALOGUE_PATH))
    market, sealed, devices = _planted(rng, market, ring.current)
    edges = [number * events // DAYS for number in range(DAYS + 1)]
    sizes = [after - before for before, after in itertools.pairwise(edges)]
    work = functools.partial(_write_day, directory, market, sealed, devices)
    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(work, range(DAYS), sizes))
    return {raw: f"browser-of-{raw}" for raw in _SHARES}


def _planted(rng: np.random.Generator, market: Market, key: Any) -> tuple[Market, pa.Array, pa.Table]:
    """The market with the people among its users, signed in and as active as they are to be; all ids; and everybody's browser."""
    people, planted = market.users, list(_SHARES)
    ids = people.ids.to_pylist()[: len(people.ids) - len(planted)] + [pseudonym_of(key, raw) for raw in planted]
    order = np.argsort(np.array(ids))
    places = {raw: int(np.flatnonzero(order == len(ids) - len(planted) + n)[0]) for n, raw in enumerate(planted)}
    activity, anonymous = np.diff(people.sessions_up_to, prepend=0.0), people.anonymous.copy()
    blobs = people.sealed.to_pylist()
    browsers = [f"1:{digits}" for digits in (rng.bytes(32).hex() for _ in ids)]
    browser_blobs = [rng.bytes(32) for _ in ids]
    for raw, place in places.items():
        activity[place], anonymous[place], blobs[place] = _SHARES[raw], False, seal(key, raw)
        browsers[place], browser_blobs[place] = pseudonym_of(key, f"browser-of-{raw}"), seal(key, f"browser-of-{raw}")
    shares = np.cumsum(activity)
    known = people._replace(ids=pa.array([ids[at] for at in order]), anonymous=anonymous, sessions_up_to=shares / shares[-1])
    devices = pa.table({"id": browsers, "sealed": pa.array(browser_blobs, pa.binary())})
    return market._replace(users=known._replace(sealed=pa.array(blobs, pa.binary()))), known.ids, devices


def _write_day(directory: Path, market: Market, ids: pa.Array, devices: pa.Table, number: int, events: int) -> None:
    date = date_of(clock_ms() - (DAYS - number) * DAY_MS)
    rng = np.random.default_rng([7, number])
    day = _day(rng, events, number, market)
    shift = clock_ms() // DAY_MS * DAY_MS - (DAYS - number) * DAY_MS - day.times[0] // DAY_MS * DAY_MS
    day = day._replace(times=day.times + shift, received=day.received + shift)
    for count, (chosen, received) in enumerate(_parts(rng, day)):
        table = _with_browsers(_table(day, chosen, received, market), ids, devices)
        write_part(str(directory), date, hashlib.sha256(f"{date} {count}".encode()).hexdigest()[:32], table)


def _with_browsers(table: pa.Table, ids: pa.Array, devices: pa.Table) -> pa.Table:
    """Signed-in users' events with the browser's id too, and searches as impressions with an exposure."""
    places = pc.index_in(table["user"].combine_chunks(), value_set=ids)
    columns = {"anonymous_id": devices["id"], "sealed_anonymous_id": devices["sealed"]}
    signed_in = table["user_id"].is_valid()
    for name, column in columns.items():
        table = _put(table, name, pc.if_else(signed_in, column.combine_chunks().take(places), table[name]))
    shown = pc.equal(table["event_type"], "search")
    text = pc.binary_join_element_wise(_IMPRESSION, table["user"], '"}', "")
    table = _put(table, "event_type", pc.if_else(shown, "featured_impression", table["event_type"]))
    return _put(table, "experiment", pc.if_else(shown, text, pa.scalar(None, pa.string())))


def _put(table: pa.Table, name: str, column: Any) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), column.cast(table.schema.field(place).type))


def forgotten(folder: Path, archive: Path, people: Sequence[str]) -> dict[str, Any]:
    """Run ``forecourt forget`` in a process of its own; what it says, and its seconds with start-up."""
    command = [sys.executable, "-m", "forecourt", "forget", "-", "--store", f"sqlite:///{folder}/store.db", "--json"]
    began = time.monotonic()
    environment = os.environ | {KEY_VARIABLE: KEY}
    ran = subprocess.run(
        [*command, "--archive", str(archive)], input="\n".join(people), env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:] + ran.stdout[-2000:])
    document: dict[str, Any] = json.loads(ran.stdout)
    return {
        "wall_s": round(seconds, 2),
        "people": document["people"],
        "browsers": document["linked_ids"],
        "files": document["archive"]["files"],
        "rewritten": document["archive"]["rewritten"],
        "events_deleted": document["deleted"].get("events", 0),
        "searched_events": document["scanned"]["events"],
        "phases_s": document["phases"],
    }


def rewritten_all(archive: Path, ids: Sequence[str]) -> dict[str, Any]:
    """Read every file, leave the people's rows out, write it: two threads, nothing but that. Files are written elsewhere."""
    gone = pa.array(ids)
    began = time.monotonic()

    def work(path: str) -> int:
        table = pq.read_table(path, partitioning=None, use_threads=False)
        kept = table.filter(pc.invert(pc.or_kleene(pc.is_in(table["user"], gone), pc.is_in(table["anonymous_id"], gone))))
        data = parquet_of(kept)
        Path(f"{archive}-anew").write_bytes(data)
        return len(table) - len(kept)

    with ThreadPoolExecutor(WRITERS) as pool:
        removed = sum(pool.map(work, parts_of(str(archive))))
    Path(f"{archive}-anew").unlink()
    return {"wall_s": round(time.monotonic() - began, 2), "events_deleted": removed}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options in a command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forget", description="Deletion on a large archive.")
    parser.add_argument("--events", type=int, default=EVENTS, help="default: %(default)s")
    parser.add_argument("--users", type=int, default=USERS, help="default: %(default)s")
    parser.add_argument("--keep", metavar="DIR", help="keep the archive there; what was forgotten stays forgotten")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Make the archive, forget, print and write; the exit status."""
    options = parse_args(argv)
    with folder_at(options.keep) as folder:
        archive = folder / "archive"
        open_store(f"sqlite:///{folder}/store.db").init()
        if not archive.exists():
            say(f"an archive of {options.events:,} events")
            make_archive(archive, options.events, options.users)
        parts = parts_of(str(archive))
        facts = {
            "events": sum(pq.read_metadata(path).num_rows for path in parts),
            "files": len(parts),
            "megabytes": round(sum(os.stat(path).st_size for path in parts) / 2**20, 1),
        }
        key = ring_of(KEY, "benchmark").current
        say(f"{facts}; everything written anew")
        everything = rewritten_all(archive, [pseudonym_of(key, raw) for raw in (HEAVY, f"browser-of-{HEAVY}")])
        results = {}
        for name, people in (("a light user", [LIGHT]), ("a heavy user", [HEAVY]), ("eight users", SEVERAL)):
            results[name] = forgotten(folder, archive, people)
            say(f"{name}: {results[name]['wall_s']} s")
    _show(facts, results, everything)
    path = write_results("forget", {"archive": facts, "forget": results, "everything_written_anew": everything})
    say(f"written to {path}")
    return 0


def _show(facts: dict[str, Any], results: dict[str, dict[str, Any]], everything: dict[str, Any]) -> None:
    title = f"{facts['events']:,} events in {facts['files']:,} files, {facts['megabytes']:,} MB"
    names = ("wall_s", "rewritten", "events_deleted", "browsers")
    rows = [[name, *(f"{row[each]:,}" for each in names)] for name, row in results.items()]
    anew = [f"{everything['wall_s']:,}", f"{facts['files']:,}", f"{everything['events_deleted']:,}", ""]
    _print(title, ["forgotten", *names], [*rows, ["a heavy user, every file written anew, no search", *anew]])
    phases = list(next(iter(results.values()))["phases_s"])
    times = [[name, *(f"{row['phases_s'][each]:.1f}" for each in phases)] for name, row in results.items()]
    _print("seconds by phase, the rest is start-up", ["forgotten", *phases], times)


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    table_console().print(table)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
