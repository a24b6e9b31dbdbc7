"""A rule change before it ships: the archived days under the old rules, the new ones, and the new thresholds swept.

forecourt backtest --archive DIR --from 2026-05-01 --to 2026-05-07 --rules segments.yaml --candidate new.yaml --report new.html
forecourt backtest --archive DIR --from 2026-05-01 --to 2026-05-07 --rules RELEASES --candidate new.yaml --wanted-precision 0.8

With a release folder for ``--rules`` the active version is the old one, and the folder keeps a record of the backtest, without
which ``forecourt rules publish`` refuses the candidate.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import apache_beam as beam
import msgspec
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from pipelines.backtest_report import print_report
from pipelines.batch import add_workers_option, batch_options, check_workers, evaluated, keys_of, slices_folder
from pipelines.launch import DATAFLOW, add_runner_options, dry_run
from rules import CATALOGUE_PATH
from schemas.backtest import BacktestReport, Goal, Version
from schemas.catalogue import Catalogue
from schemas.errors import EXIT_OK, ConfigError, shown
from schemas.instants import DAY_MS, clock_ms, format_instant, parse_date
from schemas.release import Backtest, sha256_of
from schemas.rules import RuleSet, parse_rules
from schemas.safe_yaml import MAX_BYTES
from transforms.archive_files import check_archive_path, dates_of
from transforms.backtest import Plan, Tally, TryRules, decode_tally, encode_tally
from transforms.comparison import segments_of
from transforms.release_folder import is_release_folder, record_backtest, release_of
from transforms.rules_file import load_catalogue, texts_at
from transforms.slices import Item, items_of, shards_for
from transforms.whole_files import read_bytes, replace_bytes

MAX_DAYS: Final = 100


@dataclasses.dataclass(frozen=True)
class Config:
    """What one backtest does; ``ConfigError`` when it can't be done."""

    archive: str
    first: str
    last: str
    rules: str
    candidate: str
    catalogue: str = CATALOGUE_PATH
    report: str | None = None
    wanted_precision: float | None = None
    beta: float | None = None
    workers: int = 2
    runner: str = "DirectRunner"
    dry_run: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_archive_path(self.archive)
        check_workers(self.workers)
        if _date(self.first, "--from") > (last := _date(self.last, "--to")):
            msg = f"--from == {self.first}, must be at most --to == {self.last}"
            raise ConfigError(msg)
        if (days := (last - _date(self.first, "--from")) // DAY_MS + 1) > MAX_DAYS:
            msg = f"days from --from to --to == {days}, must be at most {MAX_DAYS}"
            raise ConfigError(msg)
        if self.wanted_precision is not None and not 0 < self.wanted_precision <= 1:
            msg = f"--wanted-precision == {self.wanted_precision:g}, must be above 0 and at most 1"
            raise ConfigError(msg)
        if self.beta is not None and not (0 < self.beta < math.inf):
            msg = f"--beta == {self.beta:g}, must be above 0"
            raise ConfigError(msg)
        if self.report is not None and ("://" not in self.report and Path(self.report).is_dir() or not self.report):
            msg = f"--report == {shown(self.report)}, must be a file, such as backtest.html"
            raise ConfigError(msg)
        if self.runner == DATAFLOW and "://" not in self.archive:
            msg = f"--archive == {self.archive}, must be remote (gs://…) on Dataflow: its workers' disks go with them"
            raise ConfigError(msg)

    @property
    def goal(self) -> Goal:
        """What the suggested thresholds are to reach."""
        return Goal(wanted_precision=self.wanted_precision, beta=1.0 if self.beta is None else self.beta)


class Given(NamedTuple):
    """What the files that a backtest was told of say; the hashes are those of the bytes that were read."""

    catalogue: Catalogue
    old: RuleSet
    old_sha256: str
    new: RuleSet
    new_sha256: str
    releases: str | None  # the folder, where --rules is one


def parse_args(argv: Sequence[str]) -> tuple[Config, list[str]]:
    """The config in a command line, and the options that are Beam's."""
    parser = argparse.ArgumentParser(prog="forecourt backtest", description="A rule change tried on archived days.")
    parser.add_argument("--archive", required=True, metavar="DIR", help="what forecourt archive has written")
    parser.add_argument("--from", required=True, dest="first", metavar="DATE", help="the first day, YYYY-MM-DD (UTC)")
    parser.add_argument("--to", required=True, dest="last", metavar="DATE", help="the last day, YYYY-MM-DD (UTC)")
    parser.add_argument(
        "--rules", required=True, metavar="F", help="the old rules (YAML), or a release folder: its active version, and a record"
    )
    parser.add_argument("--candidate", required=True, metavar="F", help="the new rules (YAML)")
    parser.add_argument("--catalogue", default=CATALOGUE_PATH, help="attribute catalogue (YAML); default: the one shipped")
    parser.add_argument("--report", metavar="FILE.html", help="write a page with plots, which loads nothing from elsewhere")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--wanted-precision", type=float, metavar="P", help="suggest the smallest threshold whose precision is at least this"
    )
    goal.add_argument("--beta", type=float, metavar="B", help="suggest the threshold with the best F-beta; default: 1")
    add_workers_option(parser)
    add_runner_options(parser)
    known, beams = parser.parse_known_args(argv)
    return Config(**vars(known)), beams


def build(pipeline: beam.Pipeline, plan: Plan, items: Sequence[Item], to: str) -> Any:
    """The graph: ``Items → TryRules → WriteTally``; one file, ``to``, holds what came of it."""
    tally = (
        pipeline
        | "Items" >> beam.Create(items, reshuffle=False)
        | "Spread" >> beam.Reshuffle().with_output_types(Any)
        | "TryRules" >> TryRules(plan)
    )
    return tally | "WriteTally" >> beam.Map(_write_tally, to).with_output_types(int)


def run(argv: Sequence[str]) -> int:
    """Run the backtest; the exit status."""
    began = time.monotonic()
    config, beams = parse_args(argv)
    given = _given(config)
    options = batch_options(config.runner, beams, config.workers)
    plan = Plan(config.first, config.last, given.old, given.new, given.catalogue, 2, 0, None, config.archive)
    if config.dry_run:
        return dry_run(lambda pipeline: build(pipeline, plan, [Item(config.first, (), 0)], "tally.json"))
    archived = _archived(config, plan)
    tally = _tally(config, options, plan, archived)
    report = BacktestReport(
        first=config.first,
        last=config.last,
        dates=[date for date in archived if date >= config.first],
        missing=[date for date in plan.dates if date not in archived],
        old=Version(version=given.old.version, sha256=given.old_sha256),
        new=Version(version=given.new.version, sha256=given.new_sha256),
        goal=config.goal,
        events=tally.events,
        users=tally.users,
        users_changed=tally.changed,
        segments=segments_of(tally, plan, config.goal),
        changed_most=tally.movers,
        record=None,
        seconds=round(time.monotonic() - began, 3),
    )
    _told(config, given, report)
    return EXIT_OK


def record_of(report: BacktestReport, now: int) -> Backtest:
    """What a release folder keeps of a backtest; ``now`` in ms UTC."""
    kept = ("precision", "recall", "members", "flips_per_member_day")
    segments = {
        each.segment: {
            "difference": each.difference,
            **{
                name: None if side is None else {rate: getattr(side, rate) for rate in kept}
                for name, side in (("old", each.old), ("new", each.new))
            },
        }
        for each in report.segments
    }
    return Backtest(
        candidate_sha256=report.new.sha256,
        rules_sha256=report.old.sha256,
        dates=report.dates,
        at=format_instant(now),
        report={"old": report.old.version, "new": report.new.version, "users": report.users, "segments": segments},
    )


def _given(config: Config) -> Given:
    catalogue = load_catalogue(config.catalogue)
    folder = is_release_folder(config.rules)
    texts = texts_at(config.rules, folder=folder)
    old = release_of(texts, config.rules, catalogue).active
    text = read_bytes(config.candidate, MAX_BYTES + 1)
    new = parse_rules(text, catalogue, config.candidate)
    if new == old:
        msg = (
            f"--candidate == {config.candidate}, must differ from --rules == {config.rules}: both are version {old.version}, alike"
        )
        raise ConfigError(msg)
    return Given(catalogue, old, sha256_of(texts.active), new, sha256_of(text), config.rules if folder else None)


def _archived(config: Config, plan: Plan) -> list[str]:
    """The dates to read; ``ConfigError`` when none of the days themselves is archived."""
    every = dates_of(config.archive)
    archived = [date for date in plan.dates if date in set(every)]
    if not archived or archived[-1] < config.first:
        near = f"it has {every[0]} to {every[-1]}" if every else "it has none"
        msg = f"--from {config.first} --to {config.last}, must have dates of the archive {config.archive}: {near}"
        raise ConfigError(msg)
    return archived


def _tally(config: Config, options: PipelineOptions, plan: Plan, archived: Sequence[str]) -> Tally:
    before = [date for date in dates_of(config.archive) if date < archived[0]]
    items = items_of(config.archive, [*before, *archived])  # of all dates up to the last: links and consents
    read = [item for item in items if item.date in archived]
    size = sum(item.size for item in read)
    key_from, version = keys_of(None)
    with slices_folder(config.runner) as spill, _result_path(options, spill) as path:
        plan = dataclasses.replace(plan, shards=shards_for(read, config.workers), size=size, spill=spill)
        plan = dataclasses.replace(plan, folder=os.path.dirname(path), key_from=key_from, version=version)

        def graph(pipeline: beam.Pipeline) -> Any:
            return build(pipeline, plan, items, path)

        return decode_tally(evaluated(config.runner, options, graph, "backtest", size=size, path=path))


@contextmanager
def _result_path(options: PipelineOptions, spill: str | None) -> Iterator[str]:
    """Where the last step leaves the tally: beside the slices, or in Beam's ``--temp_location``; gone afterwards."""
    if spill is not None:
        yield f"{spill}/tally.json"
        return
    folder = options.view_as(GoogleCloudOptions).temp_location
    if not folder:
        msg = "--temp_location must be given on Dataflow, such as gs://BUCKET/tmp"
        raise ConfigError(msg)
    path = FileSystems.join(folder, f"backtest-{secrets.token_hex(8)}", "tally.json")
    try:
        yield path
    finally:
        if found := FileSystems.match([f"{os.path.dirname(path)}/*"])[0].metadata_list:
            FileSystems.delete([file.path for file in found])


def _told(config: Config, given: Given, report: BacktestReport) -> None:
    """Write the page and the record, and print the rest."""
    if report.missing:
        print(f"forecourt: not in the archive: {', '.join(report.missing)}; they count as days without views", file=sys.stderr)
    if config.report is not None:
        from pipelines.backtest_page import page_of  # plots take a second to import

        replace_bytes(config.report, page_of(report).encode())
    if given.releases is not None:
        record = record_backtest(given.releases, record_of(report, clock_ms()))
        report = msgspec.structs.replace(report, record=record)
    if config.as_json:
        print(msgspec.json.encode(report).decode())
    else:
        print_report(report, config.report)


def _write_tally(tally: Tally, to: str) -> int:
    replace_bytes(to, encode_tally(tally))
    return 1


def _date(text: str, option: str) -> int:
    try:
        return parse_date(text)
    except ValueError as error:
        msg = f"{option} == {shown(text)}, {error}"
        raise ConfigError(msg) from error
