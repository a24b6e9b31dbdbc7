"""The speed layer: events in, segment rows out.

forecourt stream --source file:events.jsonl.gz --store sqlite:///profiles.db
forecourt stream --source pubsub://P/subscriptions/S --store bigtable://P/I/T --dead-letters pubsub://P/topics/D
forecourt stream --source pubsub://P/subscriptions/S --store bigtable://P/I/T --runner DataflowRunner --project P …
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import StandardOptions

from pipelines.dead_letters import WriteDeadLetters
from pipelines.file_source import newest_event_time
from pipelines.launch import add_runner_options, dry_run, launched, pipeline_options, summary_of
from pipelines.sinks import check_sink_uri
from pipelines.source import ReadEvents, check_source, file_path
from rules import CATALOGUE_PATH, RULES_PATH
from schemas.errors import EXIT_FAILED, ConfigError, shown
from schemas.instants import parse_instant
from serving.keys import load_ring
from serving.store import check_uri, open_store
from transforms.decode import DecodeEvents
from transforms.pseudonymise import Pseudonymise
from transforms.rules_file import load_catalogue, load_release
from transforms.windows import KeyByUser, MaintainWindows

DEFAULT_DEAD_LETTERS: Final = "file:dead-letters.jsonl"


@dataclasses.dataclass(frozen=True)
class Config:
    """What one stream does; ``ConfigError`` when it can't be done."""

    source: str
    store: str
    rules: str = RULES_PATH
    catalogue: str = CATALOGUE_PATH
    dead_letters: str = DEFAULT_DEAD_LETTERS
    runner: str = "DirectRunner"
    rebase: str | None = None
    dry_run: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_uri(self.store)
        check_sink_uri(self.dead_letters, "dead letters")
        if self.rebase is not None:
            if file_path(self.source) is None:
                msg = f"--rebase == {self.rebase}, must go with a file: source"
                raise ConfigError(msg)
            try:
                parse_instant(self.rebase)
            except ValueError as error:
                msg = f"--rebase == {shown(self.rebase)}, {error}"
                raise ConfigError(msg) from error

    @property
    def live(self) -> bool:
        """Whether events are judged by this machine's clock."""
        return file_path(self.source) is None


class Built(NamedTuple):
    """The named outputs of the graph."""

    rows: Any  # lists of row keys written
    dead_letters: Any  # lists of DeadLetter


def parse_args(argv: Sequence[str]) -> tuple[Config, list[str]]:
    """The config in a command line, and the options that are Beam's."""
    parser = argparse.ArgumentParser(prog="forecourt stream", description="The speed layer: events in, segment rows out.")
    parser.add_argument("--source", required=True, help="file:PATH (JSONL, .gz too; runs to its end) or pubsub://P/subscriptions/S")
    parser.add_argument("--store", required=True, help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")
    parser.add_argument(
        "--rules", default=RULES_PATH, help="segment rules (YAML) or a release folder, polled; default: those shipped"
    )
    parser.add_argument("--catalogue", default=CATALOGUE_PATH, help="attribute catalogue (YAML); default: the one shipped")
    parser.add_argument(
        "--dead-letters", default=DEFAULT_DEAD_LETTERS, help="file:PATH or pubsub://P/topics/T; default: %(default)s"
    )
    parser.add_argument("--rebase", metavar="TIME", help="shift a file's event times so that the newest is TIME")
    add_runner_options(parser)
    known, beams = parser.parse_known_args(argv)
    return Config(**vars(known)), beams


def build(pipeline: beam.Pipeline, config: Config, *, shift: int = 0) -> Built:
    """The graph: ``ReadEvents → DecodeEvents → Pseudonymise → KeyByUser → MaintainWindows``; ``shift`` in ms."""
    messages = pipeline | "ReadEvents" >> ReadEvents(config.source, dataflow=config.runner == "DataflowRunner")
    decoded = messages | "DecodeEvents" >> DecodeEvents(config.catalogue, config.store, live=config.live, shift=shift)
    windows = (
        decoded.events
        | "Pseudonymise" >> Pseudonymise(config.store)
        | "KeyByUser" >> KeyByUser()
        | "MaintainWindows" >> MaintainWindows(config.store, config.rules, config.catalogue)
    )
    decoded.dead | "WriteDeadLetters" >> WriteDeadLetters(config.dead_letters, config.store, key_from=config.store)
    windows.dead | "WriteRefusedViews" >> WriteDeadLetters(config.dead_letters, config.store, key_from=config.store)
    return Built(windows.rows, decoded.dead)


def run(argv: Sequence[str]) -> int:
    """Run the stream; the exit status."""
    config, beams = parse_args(argv)
    catalogue = load_catalogue(config.catalogue)
    load_release(config.rules, catalogue)
    options = pipeline_options(config.runner, beams)
    options.view_as(StandardOptions).streaming = config.live
    if config.dry_run:
        return dry_run(lambda pipeline: build(pipeline, config))
    load_ring(config.store)
    check_source(config.source)
    open_store(config.store).check()
    path = file_path(config.source)
    shift = 0
    if config.rebase is not None and path is not None:
        shift = parse_instant(config.rebase) - newest_event_time(path, catalogue)
    finished = launched(config.runner, options, lambda pipeline: build(pipeline, config, shift=shift), "stream")
    counts = summary_of(finished, config.dead_letters, as_json=config.as_json)
    if path is not None and counts.read and counts.read == counts.dead:
        msg = f"source == {config.source}, must hold usable events: all {counts.read} were refused, see {config.dead_letters}"
        raise ConfigError(msg)
    return 0 if counts.holds else EXIT_FAILED
