"""What came of an experiment, from its sessions table: a table for people, or one JSON document.

forecourt experiment analyse --sessions FILE --unit session|user [--weights 50,50] [--planned-sessions N] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from experiments.analysis import analysis_of
from experiments.settings import GUARDRAILS, METRICS, AnalysisSettings
from experiments.units import Screened, screened
from pipelines.analysis_report import show
from pipelines.sessions_file import ARMS, read_sessions_file
from pipelines.table_options import Progress, add_table_options, arms_in, numbers_in, tell_unknown
from schemas.errors import EXIT_OK, ConfigError, shown

VARYING: Final = "arm probabilities vary between rows, so sessions of different times don't compare; see --holdout"


@dataclasses.dataclass(frozen=True)
class Config:
    """What to read, and how; ``ConfigError`` when it can't be done."""

    sessions: str
    settings: AnalysisSettings
    arms: tuple[str, ...] = ARMS
    holdout: bool = False
    as_json: bool = False


class Analysed(NamedTuple):
    """The document, and the sessions that it is of."""

    document: dict[str, Any]
    units: Screened


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
    settings = AnalysisSettings(
        given.unit,
        numbers_in("--weights", given.weights),
        given.alpha,
        given.planned_sessions,
        given.winsorise,
        _guardrails(given.guardrail) or dict(GUARDRAILS),
        tuple(given.bandit),
        given.experiment,
    )
    return Config(given.sessions, settings, arms_in(given.arms), given.holdout, given.as_json)


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment analyse …``; the exit status."""
    config = parse_args(argv)
    document = analysed(config).document
    if config.as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document)
    return EXIT_OK


def analysed(config: Config) -> Analysed:
    """Read and analyse. Tells on stderr what was left out, and how it goes when it takes a while."""
    progress = Progress()
    found = read_sessions_file(config.sessions, config.arms, holdout=config.holdout)
    tell_unknown(found.unknown, config.sessions)
    progress.say(f"{found.sessions.rows:,} sessions read")
    warnings = [VARYING] if found.probabilities_vary else []
    units = screened(found.sessions, config.settings.unit)
    document = analysis_of(units, config.settings, found.other_arms, warnings)
    progress.say("analysed")
    return Analysed(document, units)


def _guardrails(texts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric, margin in map(_guardrail, texts):
        if metric in found:
            msg = f"--guardrail == {metric}={margin:g}, must be given once for {metric}: it was {found[metric]:g}"
            raise ConfigError(msg)
        found[metric] = margin
    return found


def _guardrail(text: str) -> tuple[str, float]:
    metric, _, margin = text.partition("=")
    try:
        return metric, float(margin)
    except ValueError:
        msg = f"--guardrail == {shown(text)}, must be METRIC=MARGIN, such as lead=0.1"
        raise ConfigError(msg) from None
