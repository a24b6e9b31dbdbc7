"""What came of an experiment, from its sessions table: a table for people, or one JSON document.

forecourt experiment analyse --sessions FILE --unit session|user [--weights 50,50] [--planned-sessions N] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from experiments.analysis import analyse
from experiments.settings import GUARDRAILS, METRICS, Settings
from pipelines.analysis_report import show
from pipelines.sessions_file import ARMS, read_sessions_file
from schemas.errors import EXIT_OK, ConfigError, shown
from schemas.experiments import UNITS

QUIET_S: Final = 2.0
VARYING: Final = "arm probabilities vary between rows, so sessions of different times don't compare; see --holdout"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to read, and how; ``ConfigError`` when it can't be done."""

    sessions: str
    settings: Settings
    arms: tuple[str, ...] = ARMS
    holdout: bool = False
    as_json: bool = False


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line, whose first word is ``analyse``."""
    parser = argparse.ArgumentParser(
        prog="forecourt experiment analyse", description="What came of an experiment, from its sessions table."
    )
    add_options(parser)
    return config_of(parser.parse_args(argv[1:]))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what to read, and how."""
    add_table_options(parser)
    parser.add_argument(
        "--planned-sessions",
        type=int,
        metavar="N",
        help="triggered sessions at which it ends; p-values for one look come then",
    )
    parser.add_argument("--alpha", type=float, default=0.05, help="the level of intervals and tests; default: %(default)s")
    parser.add_argument("--winsorise", type=float, metavar="Q", help="bound vehicles viewed by this quantile, such as 0.999")
    parser.add_argument(
        "--guardrail",
        action="append",
        default=[],
        metavar="METRIC=MARGIN",
        help=f"{', '.join(METRICS)}: the share that may be lost; may be repeated; default: lead=0.1",
    )
    parser.add_argument("--bandit", action="append", default=[], metavar="SEGMENT", help="a bandit has it; may be repeated")
    parser.add_argument("--holdout", action="store_true", help="read only the rows that a bandit leaves alone")
    parser.add_argument("--experiment", metavar="NAME", help="what the document calls it")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON on stdout and nothing else")


def config_of(given: argparse.Namespace) -> Config:
    """The config in such options."""
    settings = Settings(
        given.unit,
        numbers_in("--weights", given.weights),
        given.alpha,
        given.planned_sessions,
        given.winsorise,
        dict(map(_guardrail, given.guardrail)) or dict(GUARDRAILS),
        tuple(given.bandit),
        given.experiment,
    )
    return Config(given.sessions, settings, arms_in(given.arms), given.holdout, given.as_json)


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment analyse …``; the exit status."""
    config = parse_args(argv)
    document = document_of(config)
    if config.as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document)
    return EXIT_OK


def document_of(config: Config) -> dict[str, Any]:
    """Read and analyse; tells on stderr what was left out, and how it goes when it takes a while."""
    progress = Progress()
    found = read_sessions_file(config.sessions, config.arms, holdout=config.holdout)
    tell_unknown(found.unknown, config.sessions)
    progress.say(f"{found.sessions.rows:,} sessions read")
    warnings = [VARYING] if found.probabilities_vary else []
    document = analyse(found.sessions, config.settings, found.other_arms, warnings)
    progress.say("analysed")
    return document


class Progress:
    """Tells on stderr what is done, once it has taken more than two seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        """Tell it, with the seconds since the start."""
        if (seconds := time.monotonic() - self._began) > QUIET_S:
            print(f"{what}, {seconds:.1f} s", file=sys.stderr)


def add_table_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that say which table, and what was randomised in which proportion."""
    parser.add_argument("--sessions", required=required, metavar="FILE", help="the sessions table: CSV (.gz too) or Parquet")
    parser.add_argument("--unit", required=required, choices=UNITS, help="what was randomised")
    parser.add_argument("--weights", default="50,50", metavar="A,B", help="of control and treatment; default: %(default)s")
    parser.add_argument(
        "--arms", default=",".join(ARMS), metavar="A,B", help="the names of control and treatment; default: %(default)s"
    )


def numbers_in(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        msg = f"{option} == {shown(text)}, must be numbers with commas between them, such as 50,50"
        raise ConfigError(msg) from None


def arms_in(text: str) -> tuple[str, ...]:
    """The names of two arms."""
    arms = tuple(each.strip() for each in text.split(","))
    if len(arms) != 2 or not all(arms) or arms[0] == arms[1]:
        msg = f"--arms == {shown(text)}, must be two names with a comma between them, such as control,treatment"
        raise ConfigError(msg)
    return arms


def tell_unknown(columns: Sequence[str], path: str) -> None:
    """Tell on stderr which columns are left alone."""
    if columns:
        print(f"{path}: left alone, for they are unknown: {', '.join(map(repr, columns))}", file=sys.stderr)


def _guardrail(text: str) -> tuple[str, float]:
    metric, _, margin = text.partition("=")
    try:
        return metric, float(margin)
    except ValueError:
        msg = f"--guardrail == {shown(text)}, must be METRIC=MARGIN, such as lead=0.1"
        raise ConfigError(msg) from None
