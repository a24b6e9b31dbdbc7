"""The sessions table of an experiment, from the archive: what analyse reads. Or of all sessions: what power measures in beforehand.

forecourt experiment sessions --archive DIR --experiment featured_first --sessions sessions.parquet
forecourt experiment sessions --archive DIR --experiment featured_first --from 2026-05-01 --to 2026-05-14 --sessions S.csv
forecourt experiment sessions --archive DIR --all --sessions all.parquet
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from rich.table import Table

from pipelines.batch import add_workers_option, batch_options, check_workers, evaluated, keys_of, slices_folder
from pipelines.console import say, table_console
from pipelines.launch import DATAFLOW, add_runner_options, dry_run
from pipelines.options import check_dates, instant_in
from schemas.errors import EXIT_FAILED, EXIT_OK, ConfigError, shown
from schemas.fields import MAX_WHOLE, NAME
from schemas.instants import DAY_MS, date_of, format_instant, parse_date
from transforms.archive_files import check_archive_path, dates_of
from transforms.session_files import check_sessions_path, pending_table, put_in_place
from transforms.session_found import Plan
from transforms.session_rows import BEFORE_START, NOT_ASSIGNED, OTHER_EXPERIMENTS, OTHER_VERSIONS, UNREADABLE, WITHOUT_SESSION
from transforms.sessions import (
    ARM,
    CLICKS_ELSEWHERE,
    CLICKS_UNREADABLE,
    CLICKS_WITHOUT_SESSION,
    COPIES,
    EXPOSURES,
    IN_TABLE,
    OTHER_DATES,
    ROWS,
    SHARD_BYTES,
    MakeSessions,
    Summary,
    decode_summary,
    encode_summary,
)
from transforms.slices import Item, items_of
from transforms.whole_files import replace_bytes

USES: Final = {
    IN_TABLE: "in the table",
    OTHER_EXPERIMENTS: "of other experiments",
    OTHER_VERSIONS: "of other versions",
    NOT_ASSIGNED: "not assigned to an arm",
    WITHOUT_SESSION: "without a session",
    BEFORE_START: "before --starts",
    OTHER_DATES: "of sessions of other dates",
    UNREADABLE: "that could not be read",
}
CLICKS: Final = {
    CLICKS_UNREADABLE: "could not be read",
    CLICKS_WITHOUT_SESSION: "are without a session",
    CLICKS_ELSEWHERE: "are on no impression that is in the table",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What one run makes; ``ConfigError`` when it can't be done."""

    archive: str
    experiment: str | None
    sessions: str
    every: bool = False
    version: int | None = None
    first: str | None = None
    last: str | None = None
    starts: str | None = None
    workers: int = 2
    runner: str = "DirectRunner"
    dry_run: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_archive_path(self.archive)
        check_workers(self.workers)
        check_sessions_path(self.sessions)
        if self.every == (self.experiment is not None):
            msg = "--experiment NAME or --all, must be given, and not both"
            raise ConfigError(msg)
        if self.every and self.version is not None:
            msg = f"--version == {self.version}, must be given with --experiment"
            raise ConfigError(msg)
        if self.experiment is not None and not NAME.fullmatch(self.experiment):
            msg = f"--experiment == {shown(self.experiment)}, must be lower_snake_case, at most 63 characters"
            raise ConfigError(msg)
        if self.version is not None and not 1 <= self.version <= MAX_WHOLE:
            msg = f"--version == {self.version}, must be a whole number, at least 1"
            raise ConfigError(msg)
        check_dates(self.first, self.last)
        _ = self.start
        for option, path in (("--archive", self.archive), ("--sessions", self.sessions)):
            if self.runner == DATAFLOW and "://" not in path:
                msg = f"{option} == {path}, must be remote (gs://…) on Dataflow: its workers' disks go with them"
                raise ConfigError(msg)

    @property
    def start(self) -> int | None:
        """When the experiment began, ms UTC, where that is told."""
        return instant_in("--starts", self.starts, None)

    def plan(self, first: str, last: str, to: str) -> Plan:
        """The plan of a small run, which writes the table to a file."""
        return Plan(self.experiment, self.version, self.start, first, last, to, 2, 0, None, archive=self.archive)


def parse_args(argv: Sequence[str]) -> tuple[Config, list[str]]:
    """The config in a command line, whose first word is ``sessions``, and the options that are Beam's."""
    parser = argparse.ArgumentParser(
        prog="forecourt experiment sessions", description="The sessions table of an experiment, from the archive."
    )
    parser.add_argument("--archive", required=True, metavar="DIR", help="what forecourt archive has written")
    parser.add_argument("--experiment", metavar="NAME", help="the experiment's name")
    parser.add_argument("--all", action="store_true", dest="every", help="all sessions instead, without arms: for power")
    parser.add_argument("--sessions", required=True, metavar="FILE", help="where the table goes: FILE.csv or FILE.parquet")
    parser.add_argument("--version", type=int, metavar="N", help="the experiment's version; default: the newest in the archive")
    parser.add_argument("--from", dest="first", metavar="DATE", help="sessions exposed from this UTC date on; default: the first")
    parser.add_argument("--to", dest="last", metavar="DATE", help="the last date, included; default: the archive's last")
    parser.add_argument(
        "--starts",
        metavar="TIME",
        help="when the experiment began: before is history; default: its first exposure in the archive, with --all the first date",
    )
    add_workers_option(parser)
    add_runner_options(parser)
    known, beams = parser.parse_known_args(argv[1:])
    return Config(**vars(known)), beams


def build(pipeline: beam.Pipeline, plan: Plan, items: Sequence[Item], to: str) -> Any:
    """The graph: ``Items → MakeSessions → WriteSummary``; the table is written on the way, ``to`` holds the summary."""
    summary = (
        pipeline
        | "Items" >> beam.Create(items, reshuffle=False)
        | "Spread" >> beam.Reshuffle().with_output_types(Any)
        | "MakeSessions" >> MakeSessions(plan)
    )
    return summary | "WriteSummary" >> beam.Map(_write_summary, to).with_output_types(int)


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment sessions …``; the exit status."""
    began = time.monotonic()
    config, beams = parse_args(argv)
    options = batch_options(config.runner, beams, config.workers)
    if config.dry_run:
        plan = config.plan("2026-05-01", "2026-05-01", config.sessions)
        return dry_run(lambda pipeline: build(pipeline, plan, [Item(plan.first, (), 0)], "summary.json"))
    archived = dates_of(config.archive)
    if not archived:
        msg = f"archive == {config.archive}, must hold events: it has no dates"
        raise ConfigError(msg)
    first, last = config.first or archived[0], config.last or archived[-1]
    if not any(first <= date <= last for date in archived):
        msg = f"--from {first} --to {last}, must have dates of the archive {config.archive}: it has {archived[0]} to {archived[-1]}"
        raise ConfigError(msg)
    # What came before is history, and a session may go on after midnight.
    items = items_of(config.archive, [date for date in archived if date <= date_of(parse_date(last) + DAY_MS)])
    with pending_table(config.sessions) as pending:
        summary = _summary(config, options, config.plan(first, last, pending), items)
        check_found(config, summary, f"{first} to {last}")
        document = document_of(config, summary, [first, last], time.monotonic() - began)
        if document["exposures"]["holds"]:
            put_in_place(pending, config.sessions)
    if config.version is None and len(summary.versions) > 1:
        several = ", ".join(f"{number} ({exposures:,} exposures)" for number, exposures in summary.versions.items())
        print(f"forecourt: {config.experiment} has versions {several}; the table is of {summary.version}", file=sys.stderr)
    if config.as_json:
        print(json.dumps(document))
    else:
        show(document)
    if not document["exposures"]["holds"]:
        print(f"forecourt: the balance of exposures does not hold; {config.sessions} is left as it was", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


def document_of(config: Config, summary: Summary, dates: list[str], seconds: float) -> dict[str, Any]:
    """What ``--json`` prints. ``exposures`` are distinct impressions; ``read`` is the sum of the others when ``holds``."""
    counts = summary.counts
    exposures = {use: counts.get(use, 0) for use in USES}
    read = counts.get(EXPOSURES, 0)
    return {
        "experiment": config.experiment,
        "version": summary.version,
        "versions": summary.versions,
        "starts": None if summary.start is None else format_instant(summary.start),
        "dates": dates,
        "sessions": config.sessions,
        "rows": counts.get(ROWS, 0),
        "arms": {name.removeprefix(ARM): rows for name, rows in sorted(counts.items()) if name.startswith(ARM)},
        "exposures": {"read": read, **exposures, "holds": read == sum(exposures.values())},
        "copies": counts.get(COPIES, 0),
        **{of: counts.get(of, 0) for of in CLICKS},
        "seconds": round(seconds, 3),
    }


def show(document: dict[str, Any]) -> None:
    """Print how many rows there are, and what became of the exposures."""
    out = table_console()
    of = f"{document['experiment']} version {document['version']}" if document["experiment"] else "all sessions"
    say(out, f"{of}, since {document['starts']}: {document['rows']:,} rows to {document['sessions']}")
    for arm, rows in document["arms"].items():
        say(out, f"  {arm}: {rows:,}")
    exposures = document["exposures"]
    table = Table(title="exposures read" if exposures["holds"] else "THE BALANCE DOES NOT HOLD", title_justify="left")
    table.add_column("exposures")
    table.add_column("number", justify="right")
    table.add_row("read", f"{exposures['read']:,}")
    for use, text in USES.items():
        if exposures[use] or use == IN_TABLE:
            table.add_row(text, f"{exposures[use]:,}")
    out.print(table)
    if document["copies"]:
        say(out, f"{document['copies']:,} copies of events were left out")
    for of, text in CLICKS.items():
        if document[of]:
            say(out, f"{document[of]:,} clicks {text}")
    say(out, f"{document['seconds']:.1f} s")


def _summary(config: Config, options: PipelineOptions, plan: Plan, items: Sequence[Item]) -> Summary:
    size = sum(item.size for item in items)
    with slices_folder(config.runner) as spill, _summary_path(options, spill) as path:
        least = 2 * config.workers
        plan = dataclasses.replace(plan, shards=max(least, -(-size // SHARD_BYTES)), size=size, spill=spill, least=least)
        key_from, version = keys_of(None)
        plan = dataclasses.replace(plan, folder=os.path.dirname(path), key_from=key_from, version_of_key=version)

        def graph(pipeline: beam.Pipeline) -> Any:
            return build(pipeline, plan, items, path)

        return decode_summary(evaluated(config.runner, options, graph, "sessions", size=size, path=path))


def check_found(config: Config, summary: Summary, dates: str) -> None:
    """``ConfigError`` when there is nothing to make a table of; then no file was written."""
    if config.every:
        if not summary.counts.get(ROWS, 0):
            msg = f"sessions in {config.archive}, {dates} == 0, must be at least 1 with a listing viewed or featured"
            raise ConfigError(msg)
        return
    if not summary.versions:
        others = f"it has {', '.join(summary.others)}" if summary.others else "it has no experiments"
        msg = f"--experiment == {config.experiment}, must have exposures in {config.archive} up to the last date: {others}"
        raise ConfigError(msg)
    if summary.version is None:
        msg = f"--version == {config.version}, must be one that {config.experiment} has exposures of: {', '.join(summary.versions)}"
        raise ConfigError(msg)
    if not summary.counts.get(ROWS, 0):
        why = ", ".join(f"{summary.counts[use]:,} {text}" for use, text in USES.items() if summary.counts.get(use, 0))
        what = f"sessions of {config.experiment} version {summary.version}, {dates}"
        msg = f"{what} == 0, must be at least 1: there are exposures {why}"
        raise ConfigError(msg)


@contextmanager
def _summary_path(options: PipelineOptions, spill: str | None) -> Iterator[str]:
    """Where the last step leaves the summary: beside the slices, or in Beam's ``--temp_location``; gone afterwards."""
    if spill is not None:
        yield f"{spill}/summary.json"
        return
    folder = options.view_as(GoogleCloudOptions).temp_location
    if not folder:
        msg = "--temp_location must be given on Dataflow, such as gs://BUCKET/tmp"
        raise ConfigError(msg)
    path = FileSystems.join(folder, f"sessions-{secrets.token_hex(8)}", "summary.json")
    try:
        yield path
    finally:
        if found := FileSystems.match([f"{os.path.dirname(path)}/*"])[0].metadata_list:
            FileSystems.delete([file.path for file in found])


def _write_summary(summary: Summary, to: str) -> int:
    replace_bytes(to, encode_summary(summary))
    return 1
