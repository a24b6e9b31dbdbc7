"""A day of ten plain rules with DuckDB and with pandas: what the nightly job is measured beside.

    python -m benchmarks.peers duckdb|duckdb-frames|pandas --archive DIR --date D     prints one JSON document

Both read the same files as the nightly job, drop copies, and count for each rule tp, fp, fn, tn and members (SEMANTICS.md §5).
They do so for plain rules only: a share of the views in the last ten days, with ``exit == enter`` and neither half life, prior nor
``min_days``. The replay's answer then is its last evaluation: before ``min_views`` nobody has entered yet, and from there on a
share that isn't ``>= enter`` is ``< exit``; so what was in the window is all there is to know, and counting it is exact as long as
the window holds no more than 1,000 views (``capped`` says of how many views it does).

Doubts go in their favour: each is the fastest of several ways to say it, two threads for what can use them, no rows to publish, no
quality gate, no flips. DuckDB tells users apart by a 64-bit hash. The process ends with the counts, in memory.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import math
import operator
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.results import memory_mb
from rules import CATALOGUE_PATH
from schemas.catalogue import parse_catalogue
from schemas.errors import EXIT_OK, ConfigError, ForecourtError, shown
from schemas.instants import DAY_MS, date_of, parse_instant
from schemas.rules import All, Band, Condition, Equals, Not, Rule, parse_rules

WINDOW_MS: Final = 10 * DAY_MS
MAX_VIEWS: Final = 1_000
THREADS: Final = 2
PLAIN_RULES: Final = """\
version: 1
defaults: {window: 10d, enter: 0.5, exit: 0.5, min_views: 5}
segments:
  - {name: electric, when: {fuel_type: electric}}
  - {name: hybrid, when: {fuel_type: [hybrid, plug_in_hybrid, mild_hybrid]}, enter: 0.4, exit: 0.4}
  - {name: not_diesel, when: {not: {fuel_type: diesel}}, enter: 0.9, exit: 0.9, min_views: 10}
  - {name: suv, when: {body_type: [suv, crossover]}, enter: 0.6, exit: 0.6}
  - {name: ute, when: {body_type: [ute, ute / tray, pickup]}, enter: 0.4, exit: 0.4, min_views: 3}
  - {name: premium, when: {price: {gte: 40000}}}
  - {name: mid_price, when: {price: {gte: 15000, lt: 30000}}}
  - {name: low_mileage, when: {mileage: {lte: 30000}}}
  - {name: german, when: {make: [Audi, BMW, Mercedes-Benz, Volkswagen]}, enter: 0.3, exit: 0.3, min_views: 6}
  - {name: electric_suv, when: {all: [{fuel_type: electric}, {body_type: [suv, crossover]}]}, enter: 0.3, exit: 0.3, min_views: 8}
"""
_ANSWERS: Final = ("tp", "fp", "fn", "tn", "members")


class SegmentCounts(NamedTuple):
    """One segment's day; ``None`` where a denominator is 0."""

    tp: int
    fp: int
    fn: int
    tn: int
    members: int
    precision: float | None
    recall: float | None


class Answer(NamedTuple):
    """A peer's day: rows read, copies and other events too; counts by segment; how many views had over 1,000 views before them."""

    events: int
    counts: dict[str, SegmentCounts]
    capped: int


class PeerResult(NamedTuple):
    """A peer's day and what it took: ``seconds`` of wall time, ``import_seconds`` of them for imports, memory at its peak in MB."""

    name: str
    seconds: float
    import_seconds: float
    events: int
    peak_mb: float
    counts: dict[str, SegmentCounts]
    capped: int


class PeerError(Exception):
    """A peer didn't come to an end; the message has its last words."""


def plain_rules(text: str | bytes = PLAIN_RULES, name: str = "PLAIN_RULES") -> tuple[Rule, ...]:
    """The rules in a YAML text; ``ConfigError`` for one that the peers can't express."""
    rules = parse_rules(text, parse_catalogue(Path(CATALOGUE_PATH).read_bytes(), CATALOGUE_PATH), name).rules
    for rule in rules:
        must = {"exit": rule.enter, "window": WINDOW_MS, "min_days": 1, "half_life": None, "prior_views": 0}
        for key, value in must.items():
            if getattr(rule, key) != value:
                msg = f"{name}: {rule.name}.{key} == {getattr(rule, key)}, must be {value} for a peer"
                raise ConfigError(msg)
    return rules


def duckdb_job(archive: str, date: str, rules: Sequence[Rule]) -> Answer:
    """The day in one query, read and computed by two threads; the fastest way found to say it.

    The window before a view is what the user had in the ten days before 00:00, plus what came since, less what has expired since;
    so only two dates are put in order. In CPU time a ``RANGE`` frame over all eleven took 3.5 times as long, an ``ASOF`` join of
    running sums 2.3 times, and a join of each view with those before it 1.2 times on users with some 25 views.

    What it can't say: hysteresis, flips, spans, as a state that depends on the one before is no window function (``list_reduce``
    over a list of views for each view could, at a cost that is quadratic in them); and the newest 1,000 views, as a frame is of
    time or of rows, not both. ``min_days``, priors and, if it isn't short, a half life without hysteresis it could.
    """
    return _duckdb_answer(archive, date, rules, _before_sql)


def duckdb_frames_job(archive: str, date: str, rules: Sequence[Rule]) -> Answer:
    """The same as one says it first: for each view a frame of the ten days before it, over the views of all eleven dates."""
    return _duckdb_answer(archive, date, rules, _before_by_frames_sql)


def _duckdb_answer(archive: str, date: str, rules: Sequence[Rule], before: Callable[[Sequence[Rule], int], str]) -> Answer:
    import duckdb

    start = parse_instant(f"{date}T00:00:00Z")
    with duckdb.connect() as connection:
        connection.execute(f"SET threads = {THREADS}")
        connection.execute("SET preserve_insertion_order = false")
        files = _files_of(archive, start)
        (events,) = connection.execute("SELECT sum(num_rows)::BIGINT FROM parquet_file_metadata($1)", [files]).fetchall()[0]
        names = [f"{answer}{i}" for i in range(len(rules)) for answer in _ANSWERS]
        query = f"{_views_sql(rules, start)}, {before(rules, start)}, {_members_sql(rules, start)} SELECT * FROM judged, held"
        found = connection.execute(query, [files])
        row = dict(zip([column[0] for column in found.description], found.fetchall()[0], strict=True))
    values = iter(row[name] for name in names)
    return Answer(events, {rule.name: _counts_of(*(next(values) for _ in _ANSWERS)) for rule in rules}, row["capped"])


def pandas_job(archive: str, date: str, rules: Sequence[Rule]) -> Answer:
    """The day with pandas: columns read by pyarrow with two threads, views in one order of user and time, running sums, lookups.

    User and time in one integer make the two ends of a view's window two ``searchsorted``; ``groupby().rolling("10d")`` alone took
    four times as long as all of this. Text stays in Arrow or categories; as Python objects the ids took longer than the rest.

    What it can't say, short of a Python loop over views: hysteresis, flips, spans; the rest as DuckDB, and the newest 1,000 views
    as well. All users' views of eleven dates are in memory at once.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.dataset as ds

    pa.set_cpu_count(THREADS)
    start, end = (parse_instant(f"{date}T00:00:00Z") + shift for shift in (0, DAY_MS))
    first = start - WINDOW_MS
    wanted = sorted({name for rule in rules for name in _attributes_of(rule.when)})
    files = _files_of(archive, start)
    texts = [f.name for f in ds.dataset(files[:1]).schema.field("attributes").type if f.name in wanted and f.type == pa.string()]
    options = ds.ParquetReadOptions(dictionary_columns=["user", *(f"attributes.{name}" for name in texts)])
    archived = ds.dataset(files, format=ds.ParquetFileFormat(read_options=options))
    columns = {name: ds.field(name) for name in ("event_id", "user", "event_time")}
    columns |= {name: ds.field("attributes", name) for name in wanted}
    table = archived.to_table(columns=columns, filter=ds.field("event_type") == "listing_view").unify_dictionaries()
    seen = table.drop_columns("event_id").to_pandas()
    views = pd.DataFrame({"user": seen["user"].cat.codes.astype("int64"), "time": seen["event_time"].astype("int64")})
    views["event"] = pd.factorize(table["event_id"].to_pandas(types_mapper=pd.ArrowDtype))[0]
    for rule in rules:
        views[rule.name] = _mask_of(rule.when, seen)
    del seen, table

    copies = views["event"].duplicated(keep=False)
    views = pd.concat([views[~copies], views[copies].sort_values("time").drop_duplicates("event")])
    views = views[(views["time"] >= first) & (views["time"] < end)]
    places = (views["user"] * (WINDOW_MS + DAY_MS) + views["time"] - first).to_numpy()
    order = np.argsort(places, kind="stable")
    views, places = views.iloc[order], places[order]

    user, time_ = views["user"].to_numpy(), views["time"].to_numpy()
    today, recent = time_ >= start, time_ >= end - WINDOW_MS
    low, high = np.searchsorted(places, places[today] - WINDOW_MS), np.searchsorted(places, places[today])
    before, held = high - low, np.bincount(user[recent])
    counts = {}
    for rule in rules:
        matches = views[rule.name].to_numpy()
        sums = np.concatenate([[0], np.cumsum(matches)])
        inside, hit = _inside(rule, before, sums[high] - sums[low]), matches[today]
        members = _inside(rule, held, np.bincount(user[recent & matches], minlength=len(held)))
        cells = (inside & hit, inside & ~hit, ~inside & hit, ~inside & ~hit, members)
        counts[rule.name] = _counts_of(*(int(cell.sum()) for cell in cells))
    return Answer(archived.count_rows(), counts, int((before > MAX_VIEWS).sum()))


PEERS: Final[dict[str, tuple[Callable[[str, str, Sequence[Rule]], Answer], tuple[str, ...]]]] = {
    "duckdb": (duckdb_job, ("duckdb",)),
    "duckdb-frames": (duckdb_frames_job, ("duckdb",)),
    "pandas": (pandas_job, ("numpy", "pandas", "pyarrow", "pyarrow.dataset")),
}


def run_peer(name: str, archive: str, date: str) -> PeerResult:
    """What a peer takes in a process of its own, start and imports and all; ``PeerError`` when it fails."""
    command = [sys.executable, "-m", "benchmarks.peers", name, "--archive", os.path.abspath(archive), "--date", date]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        msg = f"{name}: exit status == {done.returncode}, must be 0: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
        raise PeerError(msg)
    result = json.loads(done.stdout)
    counts = {segment: SegmentCounts(**counted) for segment, counted in result["counts"].items()}
    return PeerResult(**(result | {"seconds": round(seconds, 3), "counts": counts}))


def _inside(rule: Rule, views: Any, matching: Any) -> Any:
    """Whether a user with so many views, so many of them matching, is a member; arrays."""
    return (views >= rule.min_views) & (matching >= (rule.enter - 1e-9) * views)


def _counts_of(tp: int, fp: int, fn: int, tn: int, members: int) -> SegmentCounts:
    precision, recall = (tp / whole if whole else None for whole in (tp + fp, tp + fn))
    return SegmentCounts(tp, fp, fn, tn, members, precision, recall)


def _files_of(archive: str, start: int) -> list[str]:
    """The files of the eleven dates that a day needs."""
    dates = [date_of(start - days * DAY_MS) for days in range(WINDOW_MS // DAY_MS + 1)]
    files = sorted(str(path) for date in dates for path in Path(archive).glob(f"date={date}/part-*.parquet"))
    if not files:
        msg = f"archive == {shown(archive)}, must have files of {dates[-1]} to {dates[0]}"
        raise ConfigError(msg)
    return files


def _views_sql(rules: Sequence[Rule], start: int) -> str:
    """``views(u, t, m0, m1, …)``: each event once, the earliest of its copies. Only ids that come twice are grouped as text."""
    flags = _each(rules, lambda i: f"({_sql_of(rules[i].when)})::TINYINT AS m{i}")
    picked = _each(rules, lambda i: f"arg_min(m{i}, t)")
    return f"""
        WITH found AS MATERIALIZED (
            SELECT event_id, hash(event_id) AS h, hash("user") AS u, epoch_ms(event_time) AS t, {flags}
            FROM read_parquet($1, hive_partitioning = false) WHERE event_type = 'listing_view'
        ), twice AS (
            SELECT h FROM found GROUP BY h HAVING count(*) > 1
        ), views AS MATERIALIZED (
            SELECT * FROM (
                SELECT u, t, {_each(rules, "m{}".format)} FROM found WHERE h NOT IN (FROM twice)
                UNION ALL SELECT arg_min(u, t), min(t), {picked} FROM found WHERE h IN (FROM twice) GROUP BY event_id
            ) WHERE t >= {start - WINDOW_MS} AND t < {start + DAY_MS}
        )"""


def _before_by_frames_sql(rules: Sequence[Rule], start: int) -> str:
    """``judged``, as in ``_before_sql``, by a frame for each view."""
    return f"""
        framed AS (
            SELECT t, {_each(rules, "m{}".format)}, count(*) OVER w AS n,
                {_each(rules, "coalesce(sum(m{0}) OVER w, 0) AS s{0}".format)}
            FROM views WINDOW w AS (PARTITION BY u ORDER BY t RANGE BETWEEN {WINDOW_MS} PRECEDING AND 1 PRECEDING)
        ), before AS (
            SELECT * FROM framed WHERE t >= {start}
        ), {_judged_sql(rules)}"""


def _judged_sql(rules: Sequence[Rule]) -> str:
    """``judged``: tp, fp, fn, tn by rule, and ``capped``, from ``before(n, m0, s0, m1, s1, …)``."""
    cells = [
        ("tp", "i{0} AND m{0} = 1"),
        ("fp", "i{0} AND m{0} = 0"),
        ("fn", "NOT i{0} AND m{0} = 1"),
        ("tn", "NOT i{0} AND m{0} = 0"),
    ]
    counted = _each(rules, lambda i: ", ".join(f"count(*) FILTER ({cell.format(i)}) AS {name}{i}" for name, cell in cells))
    return f"""judged AS (
            SELECT count(*) FILTER (n > {MAX_VIEWS}) AS capped, {counted}
            FROM (SELECT n, {_each(rules, "m{}".format)}, {_inside_sql(rules)} FROM before)
        )"""


def _before_sql(rules: Sequence[Rule], start: int) -> str:
    """``judged``: tp, fp, fn, tn by rule, and ``capped``."""
    return f"""
        active AS (
            SELECT DISTINCT u FROM views WHERE t >= {start}
        ), base AS (
            SELECT u, count(*) AS n, {_each(rules, "sum(m{0}) AS s{0}".format)}
            FROM views WHERE t < {start} AND u IN (FROM active) GROUP BY u
        ), steps AS (
            SELECT u, t, 1 AS d, {_each(rules, "m{}".format)} FROM views WHERE t >= {start}
            UNION ALL SELECT u, t + {WINDOW_MS}, -1, {_each(rules, "-m{}".format)} FROM views
            WHERE t < {start + DAY_MS - WINDOW_MS} AND u IN (FROM active)
        ), since AS (
            SELECT u, d, {_each(rules, "m{}".format)}, coalesce(sum(d) OVER w, 0) AS n,
                {_each(rules, "coalesce(sum(m{0}) OVER w, 0) AS s{0}".format)}
            FROM steps WINDOW w AS (PARTITION BY u ORDER BY t RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        ), before AS (
            SELECT {_each(rules, "m{}".format)}, since.n + coalesce(base.n, 0) AS n,
                {_each(rules, "since.s{0} + coalesce(base.s{0}, 0) AS s{0}".format)}
            FROM since LEFT JOIN base USING (u) WHERE d = 1
        ), {_judged_sql(rules)}"""


def _members_sql(rules: Sequence[Rule], start: int) -> str:
    """``held``: members at 24:00 by rule."""
    return f"""
        held AS (
            SELECT {_each(rules, "count(*) FILTER (i{0}) AS members{0}".format)} FROM (
                SELECT {_inside_sql(rules)} FROM (
                    SELECT count(*) AS n, {_each(rules, "sum(m{0}) AS s{0}".format)}
                    FROM views WHERE t >= {start + DAY_MS - WINDOW_MS} GROUP BY u
                )
            )
        )"""


def _inside_sql(rules: Sequence[Rule]) -> str:
    return _each(rules, lambda i: f"n >= {rules[i].min_views} AND s{i} >= ({rules[i].enter!r} - 1e-9) * n AS i{i}")


def _each(rules: Sequence[Rule], column: Callable[[int], str]) -> str:
    return ", ".join(column(i) for i in range(len(rules)))


def _sql_of(condition: Condition) -> str:
    """The condition in SQL; an attribute that the view lacks makes it false, not null."""
    if isinstance(condition, Equals):
        values = ", ".join(repr(value) if isinstance(value, float) else _text_sql(value) for value in condition.values)
        return f"coalesce({_column_sql(condition.attribute)} IN ({values}), false)"
    if isinstance(condition, Band):
        bounds = [f"{_column_sql(condition.attribute)} {sign} {bound!r}" for sign, bound in _bounds_of(condition)]
        return f"coalesce({' AND '.join(bounds)}, false)"
    if isinstance(condition, Not):
        return f"NOT ({_sql_of(condition.condition)})"
    joined = " AND " if isinstance(condition, All) else " OR "
    return f"({joined.join(_sql_of(part) for part in condition.conditions)})"


def _text_sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _column_sql(attribute: str) -> str:
    return f'attributes."{attribute}"'


def _mask_of(condition: Condition, seen: Any) -> Any:
    """The condition as a mask over a frame of attributes; missing ones are false."""
    if isinstance(condition, Equals):
        return seen[condition.attribute].isin(condition.values)
    if isinstance(condition, Band):
        signs = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
        masks = [signs[sign](seen[condition.attribute], bound) for sign, bound in _bounds_of(condition)]
        return functools.reduce(operator.and_, masks)
    if isinstance(condition, Not):
        return ~_mask_of(condition.condition, seen)
    return functools.reduce(
        operator.and_ if isinstance(condition, All) else operator.or_, [_mask_of(part, seen) for part in condition.conditions]
    )


def _bounds_of(band: Band) -> list[tuple[str, float]]:
    bounds = ((">=", band.gte), (">", band.gt), ("<=", band.lte), ("<", band.lt))
    return [(sign, bound) for sign, bound in bounds if not math.isinf(bound)]


def _attributes_of(condition: Condition) -> Iterable[str]:
    if isinstance(condition, Equals | Band):
        return {condition.attribute}
    parts = [condition.condition] if isinstance(condition, Not) else condition.conditions
    return {name for part in parts for name in _attributes_of(part)}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The peer and the day in a command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="A day of plain rules, one JSON document.")
    parser.add_argument("name", choices=sorted(PEERS))
    parser.add_argument("--archive", required=True, metavar="DIR")
    parser.add_argument("--date", required=True, metavar="YYYY-MM-DD")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Run one peer in this process; the exit status."""
    arguments = parse_args(argv)
    job, modules = PEERS[arguments.name]
    started = time.perf_counter()
    for module in modules:
        importlib.import_module(module)
    imported = time.perf_counter()
    try:
        answer = job(arguments.archive, arguments.date, plain_rules())
    except ForecourtError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    result = {
        "name": arguments.name,
        "seconds": round(time.perf_counter() - started, 3),
        "import_seconds": round(imported - started, 3),
        "events": answer.events,
        "peak_mb": round(memory_mb(os.getpid(), "VmHWM"), 1),
        "counts": {name: counted._asdict() for name, counted in answer.counts.items()},
        "capped": answer.capped,
    }
    print(json.dumps(result))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
