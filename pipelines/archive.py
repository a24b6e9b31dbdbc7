"""The master data set: every valid event, pseudonymised, as Parquet by UTC event date.

forecourt archive --source file:events.jsonl.gz --archive DIR --key-of sqlite:///profiles.db
forecourt archive --source pubsub://P/subscriptions/S --archive gs://BUCKET/events
forecourt archive --source pubsub://P/subscriptions/S --archive gs://BUCKET/events --runner DataflowRunner --project P …
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import StandardOptions

from pipelines.dead_letters import WriteDeadLetters
from pipelines.launch import DATAFLOW, add_runner_options, dry_run, launched, pipeline_options, summary_of
from pipelines.sinks import check_sink_uri
from pipelines.source import ReadEvents, check_source, file_path
from rules import CATALOGUE_PATH
from schemas.errors import EXIT_FAILED, EXIT_OK, ConfigError
from schemas.instants import clock_ms
from serving.keys import load_ring
from serving.store import check_uri
from transforms.archive import FLUSH_EVENTS, FLUSH_SECONDS, FORGOTTEN, MAX_BUFFERED, WriteArchive
from transforms.archive_files import check_archive_path, prepare_archive
from transforms.decode import DecodeEvents
from transforms.pseudonymise import Pseudonymise
from transforms.rules_file import load_catalogue

MAX_FLUSH_SECONDS: Final = 180.0
LEASES: Final = 3  # a message's lease, in bundles: one waiting, one filling, one being written
MIN_LEASE_S: Final = 10  # Pub/Sub's least
STREAM_KEEPS_THEM: Final = "the dead letters of forecourt stream (--dead-letters keeps them here too)"


@dataclasses.dataclass(frozen=True)
class Config:
    """What one archive run does; ``ConfigError`` when it can't be done."""

    source: str
    archive: str
    catalogue: str = CATALOGUE_PATH
    dead_letters: str | None = None
    key_of: str | None = None
    flush_seconds: float = FLUSH_SECONDS
    flush_events: int = FLUSH_EVENTS
    runner: str = "DirectRunner"
    dry_run: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_archive_path(self.archive)
        if self.dead_letters is not None:
            check_sink_uri(self.dead_letters, "dead letters")
        if self.key_of is not None:
            check_uri(self.key_of)
        if not 0 < self.flush_seconds <= MAX_FLUSH_SECONDS:
            msg = f"--flush-seconds == {self.flush_seconds}, must be above 0 and at most {MAX_FLUSH_SECONDS:g}"
            raise ConfigError(msg)
        if not 1 <= self.flush_events <= MAX_BUFFERED:
            msg = f"--flush-events == {self.flush_events}, must be between 1 and {MAX_BUFFERED}"
            raise ConfigError(msg)
        if self.runner == DATAFLOW and "://" not in self.archive:
            msg = f"--archive == {self.archive}, must be remote (gs://…) on Dataflow: its workers' disks go with them"
            raise ConfigError(msg)

    @property
    def live(self) -> bool:
        """Whether events are judged by this machine's clock."""
        return file_path(self.source) is None

    @property
    def lease_s(self) -> int:
        """For how long messages are ours before they are acknowledged."""
        return max(MIN_LEASE_S, round(LEASES * self.flush_seconds))


class Built(NamedTuple):
    """The named outputs of the graph."""

    files: Any  # Written
    dead_letters: Any  # batches of DeadLetter


def parse_args(argv: Sequence[str]) -> tuple[Config, list[str]]:
    """The config in a command line, and the options that are Beam's."""
    parser = argparse.ArgumentParser(prog="forecourt archive", description="Every valid event to Parquet, by UTC event date.")
    parser.add_argument("--source", required=True, help="file:PATH (JSONL, .gz too; runs to its end) or pubsub://P/subscriptions/S")
    parser.add_argument("--archive", required=True, metavar="DIR", help="a folder, made if need be, or gs://BUCKET/FOLDER")
    parser.add_argument("--catalogue", default=CATALOGUE_PATH, help="attribute catalogue (YAML); default: the one shipped")
    parser.add_argument("--dead-letters", help="file:PATH or pubsub://P/topics/T; default: refused messages are only counted")
    parser.add_argument(
        "--key-of", metavar="STORE", help="share the key file of this sqlite: store when FORECOURT_PSEUDONYM_KEY isn't set"
    )
    parser.add_argument(
        "--flush-seconds", type=float, default=FLUSH_SECONDS, help="Pub/Sub: write and acknowledge this often; default: %(default)g"
    )
    parser.add_argument(
        "--flush-events", type=int, default=FLUSH_EVENTS, help="and whenever this many events have come; default: %(default)d"
    )
    add_runner_options(parser)
    known, beams = parser.parse_known_args(argv)
    return Config(**vars(known)), beams


def build(pipeline: beam.Pipeline, config: Config) -> Built:
    """The graph: ``ReadEvents → DecodeEvents → Pseudonymise → WriteArchive``."""
    dataflow = config.runner == DATAFLOW
    key_from = config.key_of or ""
    messages = pipeline | "ReadEvents" >> ReadEvents(config.source, dataflow=dataflow, limits=_bundle_limits(config))
    decoded = messages | "DecodeEvents" >> DecodeEvents(config.catalogue, key_from, live=config.live)
    files = (
        decoded.events
        | "Pseudonymise" >> Pseudonymise(key_from)
        | "WriteArchive"
        >> WriteArchive(
            config.archive,
            config.catalogue,
            live=config.live,
            flush_events=config.flush_events,
            regroup_s=config.flush_seconds if dataflow else None,
            key_from=key_from,
        )
    )
    if config.dead_letters is not None:
        decoded.dead | "WriteDeadLetters" >> WriteDeadLetters(config.dead_letters, archive=config.archive, key_from=key_from)
    return Built(files, decoded.dead)


def run(argv: Sequence[str]) -> int:
    """Run the archive; the exit status."""
    config, beams = parse_args(argv)
    load_catalogue(config.catalogue)
    options = pipeline_options(config.runner, beams)
    options.view_as(StandardOptions).streaming = config.live
    if config.dry_run:
        return dry_run(lambda pipeline: build(pipeline, config))
    load_ring(config.key_of or "")
    check_source(config.source)
    prepare_archive(config.archive, clock_ms())
    finished = launched(config.runner, options, lambda pipeline: build(pipeline, config), "archive")
    counts = summary_of(finished, config.dead_letters or STREAM_KEEPS_THEM, as_json=config.as_json)
    unusable = sum(number for reason, number in counts.refused.items() if reason != FORGOTTEN)
    if not config.live and counts.read and counts.read == unusable:
        msg = f"source == {config.source}, must hold usable events: all {counts.read} were refused, see --dead-letters"
        raise ConfigError(msg)
    return EXIT_OK if counts.holds else EXIT_FAILED


def _bundle_limits(config: Config) -> Any:
    """When a bundle of Pub/Sub messages ends, ``None`` for a file."""
    if not config.live:
        return None
    from pipelines.pubsub_source import BundleLimits

    return BundleLimits(seconds=config.flush_seconds, messages=config.flush_events, lease_s=config.lease_s)
