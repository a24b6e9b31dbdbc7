"""Which experiment and arm a session or user has, by an experiments file; ids are raw.

forecourt experiment assign --experiments FILE --layer LAYER (--session S | --user U) [--segment SEGMENT] [--at TIME] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from experiments.assignment import REASONS, assign, with_segment
from pipelines.options import instant_in
from schemas.errors import EXIT_OK, ConfigError, shown
from schemas.experiments import Experiments, Unit
from schemas.instants import clock_ms
from serving.experiments_file import load_experiments
from serving.policies import POLICIES

STDIN: Final = "-"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to assign, and by what; ``ConfigError`` when it can't be done."""

    experiments: str
    layer: str
    session: str | None = None
    user: str | None = None
    segment: str | None = None
    at: str | None = None
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        if not self.unit:
            msg = f"--{self.kind} == '', must be an id, or - for ids from stdin"
            raise ConfigError(msg)
        self.instant(0)

    @property
    def kind(self) -> Unit:
        """What the id is the id of."""
        return "user" if self.session is None else "session"

    @property
    def unit(self) -> str:
        """The id, or ``-``."""
        return (self.user if self.session is None else self.session) or ""

    def instant(self, now: int) -> int:
        """The instant asked for, ``now`` when none was; ms UTC."""
        return instant_in("--at", self.at, now)


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line, whose first word is ``assign``."""
    parser = argparse.ArgumentParser(
        prog="forecourt experiment assign", description="Which experiment and arm a session or user has."
    )
    parser.add_argument("--experiments", required=True, metavar="FILE", help="the experiments file (YAML)")
    parser.add_argument("--layer", required=True, help="a layer of the file")
    unit = parser.add_mutually_exclusive_group(required=True)
    unit.add_argument("--session", metavar="ID", help="a session; - reads ids from stdin, one a line, one document a line goes out")
    unit.add_argument("--user", metavar="ID", help="a user's raw id, or -")
    parser.add_argument("--segment", metavar="NAME", help="the segment chosen: its flag, ramp and allocation count too")
    parser.add_argument("--at", metavar="TIME", help="the instant, RFC 3339; default: now")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON on stdout and nothing else")
    return Config(**vars(parser.parse_args(argv[1:])))


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment assign …``; the exit status."""
    config = parse_args(argv)
    experiments = load_experiments(config.experiments, POLICIES)
    if config.layer not in {layer.name for layer in experiments.layers}:
        known = ", ".join(layer.name for layer in experiments.layers)
        msg = f"--layer == {shown(config.layer)}, must be one of {config.experiments}'s: {known or 'it has none'}"
        raise ConfigError(msg)
    units = _lines(sys.stdin) if config.unit == STDIN else [config.unit]
    for document in documents_of(units, config, experiments, config.instant(clock_ms())):
        print(json.dumps(document) if config.as_json or config.unit == STDIN else told(document))
    return EXIT_OK


def documents_of(units: Iterable[str], config: Config, experiments: Experiments, now: int) -> Iterator[dict[str, Any]]:
    """What is printed of each unit."""
    for unit in units:
        ids = {"session": None, "user": None, config.kind: unit}
        found = assign(experiments, config.layer, session=ids["session"], user=ids["user"], now=now, segment=config.segment)
        found = with_segment(found, config.segment, experiments)
        yield {
            config.kind: unit,
            "layer": config.layer,
            "experiment": found.experiment,
            "version": found.version,
            "arm": found.arm,
            "shows": found.shows,
            "policy": found.policy,
            "reason": found.reason,
            **({} if found.probability is None else {"probability": found.probability, "holdout": found.holdout}),
        }


def told(document: dict[str, Any]) -> str:
    """An assignment in one line."""
    why = f"{document['reason']}: {REASONS[document['reason']]}"
    if document["experiment"] is None:
        return f"in no experiment ({why})"
    where = f"{document['experiment']} version {document['version']}"
    return (
        f"{where}, arm {document['arm']}, {'shown' if document['shows'] else 'not shown'}"
        if document["arm"]
        else f"{where} ({why})"
    )


def _lines(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if line.strip():
            yield line.rstrip("\r\n")
