"""The batch layer: a day of the archive evaluated, judged, and published.

forecourt nightly --archive DIR --date yesterday --rules segments.yaml --metrics DIR
forecourt nightly --archive DIR --date 2026-05-01 --rules RELEASES --metrics DIR --store sqlite:///profiles.db
forecourt nightly --archive gs://B/events --date yesterday --rules gs://B/rules --metrics gs://B/metrics --runner DataflowRunner …

Exit status: 3 when the quality gate says no, and then nothing is published; 1 when more rows of the store differ from the batch
answer, unexplained, than may: the metrics are published then, the rows are not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from expectations.gate import Evidence, Verdict, judge, quality_table
from pipelines.batch import add_workers_option, batch_options, check_workers, evaluated, keys_of, slices_folder
from pipelines.launch import DATAFLOW, add_runner_options, dry_run, launched
from pipelines.nightly_report import parity_table, people_table, show, verdict_document, volume_table
from rules import CATALOGUE_PATH, QUALITY_PATH, RULES_PATH
from schemas.catalogue import Catalogue
from schemas.day_profile import empty_profile
from schemas.errors import EXIT_FAILED, EXIT_GATE_CLOSED, EXIT_OK, ConfigError, shown
from schemas.instants import DAY_MS, clock_ms, date_of, parse_date
from schemas.quality import Thresholds, parse_thresholds
from schemas.release import Release
from schemas.safe_yaml import MAX_BYTES
from schemas.tables import PEOPLE
from serving.store import check_uri, open_store
from serving.withdrawn import WITHDRAWN, encode_withdrawn
from transforms.archive_files import check_archive_path, dates_of
from transforms.burying import bury_as_archived
from transforms.metrics import DayCounts, segments_table
from transforms.metrics_files import check_metrics_path, dates_with_metrics, last_segments, parquet_of, write_metrics
from transforms.night import EvaluateNight, Night, Plan, decode_night, encode_night, nothing, sample_in
from transforms.publishing import REFUSED_ROWS, PublishRows
from transforms.rules_file import load_catalogue, load_release
from transforms.slices import Item, items_of, shards_for
from transforms.whole_files import alone, read_bytes, replace_bytes

UNEXPLAINED_SHARE: Final = 0.001
YESTERDAY: Final = "yesterday"


@dataclasses.dataclass(frozen=True)
class Config:
    """What one night does; ``ConfigError`` when it can't be done."""

    archive: str
    date: str
    metrics: str
    rules: str = RULES_PATH
    catalogue: str = CATALOGUE_PATH
    quality: str = QUALITY_PATH
    store: str | None = None
    override: str | None = None
    catch_up: bool = False
    workers: int = 2
    runner: str = "DirectRunner"
    dry_run: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_archive_path(self.archive)
        check_metrics_path(self.metrics)
        if self.store is not None:
            check_uri(self.store)
        if self.date != YESTERDAY:
            try:
                parse_date(self.date)
            except ValueError as error:
                msg = f"--date == {shown(self.date)}, {error}, or {YESTERDAY}"
                raise ConfigError(msg) from error
        if self.override is not None and not self.override.strip():
            msg = "--override == '', must say why"
            raise ConfigError(msg)
        check_workers(self.workers)
        if self.runner == DATAFLOW and not all("://" in path for path in (self.archive, self.metrics)):
            msg = "--archive and --metrics must be remote (gs://…) on Dataflow: its workers' disks go with them"
            raise ConfigError(msg)

    def date_at(self, now: int) -> str:
        """The date asked for; ``now`` in ms UTC."""
        return date_of(now - DAY_MS) if self.date == YESTERDAY else self.date


class Given(NamedTuple):
    """What the files that a night was told of say."""

    release: Release
    catalogue: Catalogue
    thresholds: Thresholds


class Outcome(NamedTuple):
    """How a night went: its exit status and what ``--json`` prints."""

    status: int
    document: dict[str, Any]


def parse_args(argv: Sequence[str]) -> tuple[Config, list[str]]:
    """The config in a command line, and the options that are Beam's."""
    parser = argparse.ArgumentParser(prog="forecourt nightly", description="A day of the archive evaluated, judged and published.")
    parser.add_argument("--archive", required=True, metavar="DIR", help="what forecourt archive has written")
    parser.add_argument("--date", required=True, help="a UTC date, YYYY-MM-DD, or yesterday")
    parser.add_argument("--metrics", required=True, metavar="DIR", help="where metrics go; a folder, made if need be, or gs://…")
    parser.add_argument("--rules", default=RULES_PATH, help="segment rules (YAML) or a release folder; default: those shipped")
    parser.add_argument("--catalogue", default=CATALOGUE_PATH, help="attribute catalogue (YAML); default: the one shipped")
    parser.add_argument("--quality", default=QUALITY_PATH, help="bounds of the quality gate (YAML); default: those shipped")
    parser.add_argument("--store", help="publish rows there: bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")
    parser.add_argument("--override", metavar="REASON", help="publish though the quality gate says no; the reason is recorded")
    parser.add_argument("--catch-up", action="store_true", help="first the dates since the last one with metrics, in order")
    add_workers_option(parser)
    add_runner_options(parser)
    known, beams = parser.parse_known_args(argv)
    return Config(**vars(known)), beams


def build(pipeline: beam.Pipeline, plan: Plan, items: Sequence[Item], to: str) -> Any:
    """The graph: ``Items → EvaluateNight → WriteNight``; one file, ``to``, holds what came of it."""
    night = (
        pipeline
        | "Items" >> beam.Create(items, reshuffle=False)
        | "Spread" >> beam.Reshuffle().with_output_types(Any)
        | "EvaluateNight" >> EvaluateNight(plan)
    )
    return night | "WriteNight" >> beam.Map(_write_night, to).with_output_types(int)


def run(argv: Sequence[str]) -> int:
    """Run the night, or several to catch up; the exit status."""
    config, beams = parse_args(argv)
    catalogue = load_catalogue(config.catalogue)
    release = load_release(config.rules, catalogue)
    given = Given(release, catalogue, parse_thresholds(read_bytes(config.quality, MAX_BYTES + 1), config.quality))
    date = config.date_at(clock_ms())
    options = batch_options(config.runner, beams, config.workers)
    if config.dry_run:
        plan = Plan(date, given.release, catalogue, 2, 0, None, config.store, f"{config.metrics}/_staging", config.archive)
        return dry_run(lambda pipeline: build(pipeline, plan, [Item(date, (), 0)], f"{config.metrics}/_staging/night.json"))
    if config.store is not None:
        open_store(config.store).check()
    with alone(f"{config.metrics}/_lock"):
        for due in _due_dates(config, date):
            outcome = _night(config, options, given, due)
            if config.as_json:
                print(json.dumps(outcome.document))
            if outcome.status != EXIT_OK:
                break
    return outcome.status


def evidence_of(night: Night, plan: Plan, segments: pa.Table, archived: Sequence[str]) -> Evidence:
    """What the gate judges; ``archived`` are all dates of the archive."""
    *before, day = plan.profiled
    profiles = {date: night.days.get(date, empty_profile(date, plan.catalogue)) for date in plan.profiled}
    known = set(archived)
    week = [profiles[date] for date in before if date in known]
    window = plan.dates[-11:-1]
    missing = [date for date in window if date not in known and date_of(parse_date(date) - 7 * DAY_MS) in known]
    sample = sample_in(night, plan.catalogue)
    return Evidence(day, profiles[day], week, missing, sample, plan.catalogue, segments, night.rows)


def _due_dates(config: Config, date: str) -> list[str]:
    """The dates to run, in order: ``date``, and to catch up those of the archive since the last one with metrics."""
    archived = dates_of(config.archive)
    if date not in archived:
        near = f"it has {archived[0]} to {archived[-1]}" if archived else "it has none"
        msg = f"--date == {date}, must be a date of the archive {config.archive}: {near}"
        raise ConfigError(msg)
    if not config.catch_up:
        return [date]
    done = [each for each in dates_with_metrics(config.metrics) if each <= date]
    return [each for each in archived if each <= date and (not done or each > done[-1] or each == date)]


def _night(config: Config, options: Any, given: Given, date: str) -> Outcome:
    began = time.monotonic()
    staging = f"{config.metrics}/_staging"
    if config.store is not None:
        bury_as_archived(config.store, config.archive, given.release)  # whatever the quality gate says of the day
    with _work_folder(config, staging) as spill:
        keys = keys_of(config.store)
        plan = Plan(date, given.release, given.catalogue, 0, 0, spill, config.store, staging, config.archive, *keys)
        archived = dates_of(config.archive)
        items = items_of(config.archive, [each for each in archived if each <= date])  # of all: links and consents
        read = [item for item in items if item.date in plan.dates]
        plan = dataclasses.replace(plan, shards=shards_for(read, config.workers), size=sum(item.size for item in read))
        night = _evaluated(config, options, plan, items)
        before = last_segments(config.metrics, date)
        counts = [DayCounts(*row) for row in night.counts]
        segments = segments_table(
            date,
            given.release.active.version,
            given.release.active.rules,
            counts,
            {} if before is None else before[1],
            fresh=before is not None and parse_date(before[0]) == plan.start - DAY_MS,
        )
        verdict = judge(evidence_of(night, plan, segments, archived), given.thresholds, _docs_folder(config, date))
        quality = quality_table(verdict, config.override)
        replace_bytes(f"{config.metrics}/_verdicts/date={date}/quality.parquet", parquet_of(quality))
        outcome = _published(config, options, plan, night, segments, verdict, quality)
    document = {
        "date": date,
        "rule_version": given.release.active.version,
        "events": night.days[date].events if date in night.days else 0,
        "people": {name: night.people.get(name, 0) for name in PEOPLE.names[1:]},
        "verdict": verdict_document(verdict, config.override),
        "segments": segments.drop_columns(["date", "rule_version"]).to_pylist(),
        **outcome.document,
        "seconds": round(time.monotonic() - began, 3),
    }
    if not config.as_json:
        show(document, verdict, config.override)
    return Outcome(outcome.status, document)


def _evaluated(config: Config, options: Any, plan: Plan, items: Sequence[Item]) -> Night:
    if not items:
        return nothing(plan)
    path = f"{plan.staging}/night.json"

    def graph(pipeline: beam.Pipeline) -> Any:
        return build(pipeline, plan, items, path)

    return decode_night(evaluated(config.runner, options, graph, "nightly", size=plan.size, path=path))


def _published(
    config: Config, options: Any, plan: Plan, night: Night, segments: pa.Table, verdict: Verdict, quality: pa.Table
) -> Outcome:
    """Publish metrics and rows as far as they may be; how that went."""
    parity = parity_table(plan.date, night.parity)
    document: dict[str, Any] = {"parity": night.parity if config.store is not None else None, "published": None, "refused_rows": 0}
    if not verdict.passed and config.override is None:
        return Outcome(EXIT_GATE_CLOSED, document)
    volume, people = volume_table([night.days[date] for date in sorted(night.days)]), people_table(plan.date, night.people)
    tables = {"segments": segments, "parity": parity, "quality": quality, "volume": volume, "people": people}
    write_metrics(config.metrics, plan.date, tables)
    if config.store is None:
        return Outcome(EXIT_OK, document)
    compared, unexplained = sum(night.parity.values()), night.parity.get("unexplained", 0)
    if unexplained > UNEXPLAINED_SHARE * compared:
        print(
            f"forecourt: parity: {unexplained} of {compared} rows differ from the batch answer, unexplained, must be at most "
            f"{UNEXPLAINED_SHARE:.1%}: metrics are published, rows are not",
            file=sys.stderr,
        )
        return Outcome(EXIT_FAILED, document)
    published, refused = _publish_rows(config, options, plan)
    names = [row["segment"] for row in segments.to_pylist() if row["withdrawn"]]
    open_store(config.store).write_state(WITHDRAWN, encode_withdrawn(plan.date, names), plan.end)
    document |= {"published": published, "refused_rows": refused}
    if refused:
        print(f"forecourt: {refused} rows were refused by the store {config.store} for good", file=sys.stderr)
    return Outcome(EXIT_FAILED if refused else EXIT_OK, document)


def _publish_rows(config: Config, options: Any, plan: Plan) -> tuple[int, int]:
    """Publish the staged rows; how many were, and how many the store refused."""
    assert config.store is not None
    store, until = config.store, min(plan.end, clock_ms())
    paths = sorted(file.path for file in FileSystems.match([f"{plan.staging}/rows-*.arrow"])[0].metadata_list)

    def graph(pipeline: beam.Pipeline) -> Any:
        staged = pipeline | "Staged" >> beam.Create(paths, reshuffle=False) | "Spread" >> beam.Reshuffle()
        return staged | "PublishRows" >> PublishRows(store, plan.release, until, plan.key_from)

    counters = launched(config.runner, options, graph, "publish").counters if paths else {}
    return counters.get("applied", 0), counters.get(REFUSED_ROWS, 0)


@contextmanager
def _work_folder(config: Config, staging: str) -> Iterator[str | None]:
    """An empty staging folder, and a folder for slices where they lie on this machine; both are gone afterwards."""
    _remove(staging)
    FileSystems.mkdirs(staging)
    try:
        with slices_folder(config.runner, config.metrics if "://" not in config.metrics else None) as spill:
            yield spill
    finally:
        _remove(staging)


def _remove(folder: str) -> None:
    if "://" not in folder:
        shutil.rmtree(folder, ignore_errors=True)
    elif found := FileSystems.match([f"{folder}/*"])[0].metadata_list:
        FileSystems.delete([file.path for file in found])


def _docs_folder(config: Config, date: str) -> str | None:
    """Where the gate writes its page: on this machine only."""
    return None if "://" in config.metrics else f"{config.metrics}/_verdicts/date={date}/docs"


def _write_night(night: Night, to: str) -> int:
    replace_bytes(to, encode_night(night))
    return 1
