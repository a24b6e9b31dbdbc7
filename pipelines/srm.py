"""Whether the arms got the shares of units that they were meant to.

forecourt experiment srm --sessions FILE --unit session|user [--weights 50,50] [--json]
forecourt experiment srm --counts 5021,4893 [--weights 50,50] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final

from experiments.analysis import srm_of_arms
from experiments.sessions import triggered
from experiments.settings import AnalysisSettings
from experiments.srm import ALERT, sequential_srm, srm_of
from experiments.units import MOST_IN_BOTH_ARMS, screened
from experiments.wording import p_text, percent_text
from pipelines.analysis_report import srm_table
from pipelines.console import say, table_console
from pipelines.sessions_file import ARMS, read_sessions_file
from pipelines.table_options import Progress, add_table_options, arms_in, numbers_in, tell_unknown
from schemas.errors import EXIT_OK, ConfigError, shown

NO_UNITS: Final = "no units"


@dataclasses.dataclass(frozen=True)
class Config:
    """Counts, or a table to count in; ``ConfigError`` when it can't be done."""

    weights: tuple[float, ...]
    counts: tuple[float, ...] = ()
    sessions: str | None = None
    settings: AnalysisSettings | None = None
    arms: tuple[str, ...] = ARMS
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check the counts."""
        if (self.counts == ()) == (self.sessions is None):
            msg = "must have either --sessions or --counts"
            raise ConfigError(msg)
        if self.sessions is not None and self.settings is None:
            msg = "--unit must be given with --sessions: what was randomised"
            raise ConfigError(msg)
        if any(not 0 <= count < 1e15 or count != int(count) for count in self.counts):
            msg = f"--counts == {shown(list(self.counts))}, must be whole numbers, at least 0"
            raise ConfigError(msg)
        if self.counts and len(self.counts) != len(self.weights):
            msg = f"--weights == {shown(list(self.weights))}, must be {len(self.counts)}, one for each of --counts"
            raise ConfigError(msg)


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line, whose first word is ``srm``."""
    parser = argparse.ArgumentParser(
        prog="forecourt experiment srm", description="Whether the arms got the shares of units that they were meant to."
    )
    parser.add_argument("--counts", metavar="A,B", help="units by arm, instead of a table")
    add_table_options(parser, required=False)
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON on stdout and nothing else")
    given = parser.parse_args(argv[1:])
    weights = numbers_in("--weights", given.weights)
    counts = () if given.counts is None else numbers_in("--counts", given.counts)
    settings = None if given.unit is None or counts else AnalysisSettings(given.unit, weights)
    return Config(weights, counts, given.sessions, settings, arms_in(given.arms), given.as_json)


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment srm …``; the exit status."""
    config = parse_args(argv)
    document = document_of_counts(config.counts, config.weights) if config.counts else document_of_table(config)
    if config.as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document)
    return EXIT_OK


def document_of_counts(counts: Sequence[float], weights: Sequence[float]) -> dict[str, Any]:
    """``counts``, ``weights``, ``p``, ``sequential_p`` of one look, ``alert``; ``reason`` where there is no p-value."""
    p, sequential_p = srm_of(counts, weights), sequential_srm([counts], weights)
    alert = any(each is not None and each < ALERT for each in (p, sequential_p))
    whole = [int(count) for count in counts]
    return {
        "counts": whole,
        "weights": list(weights),
        "p": p,
        "sequential_p": sequential_p,
        "alert": alert,
        "reason": NO_UNITS if p is None else None,
    }


def document_of_table(config: Config) -> dict[str, Any]:
    """The same as ``srm`` in what ``analyse`` prints, how many units were in both arms, and why there is no p-value."""
    assert config.sessions is not None, "checked by Config"
    assert config.settings is not None, "checked by Config"
    progress = Progress()
    found = read_sessions_file(config.sessions, config.arms)
    tell_unknown(found.unknown, config.sessions)
    progress.say(f"{found.sessions.rows:,} sessions read")
    units = screened(found.sessions, config.settings.unit)
    document = srm_of_arms(units.sessions, triggered(units.sessions), config.settings)
    reason = NO_UNITS if document["all"]["p"] is None else None
    counted = {"units": units.units, "units_in_both_arms": units.units_in_both_arms, "copies": units.copies}
    return {**document, **counted, "reason": reason}


def show(document: dict[str, Any]) -> None:
    """Print the counts, and whether they are as meant."""
    out = table_console()
    wrong = []
    if document["alert"]:
        wrong.append(f"mismatch: a p-value is below {ALERT}")
    if "counts" in document:
        say(out, f"p {p_text(document['p'])}, always valid p {p_text(document['sequential_p'])}")
    else:
        out.print(srm_table(document))
        say(out, f"{document['units']:,} {document['unit']}s, {document['units_in_both_arms']:,} of them in both arms")
        if document["units_in_both_arms"] > MOST_IN_BOTH_ARMS * document["units"]:
            wrong.append(f"more than {percent_text(MOST_IN_BOTH_ARMS)} of the {document['unit']}s were in both arms")
    good = "no mismatch" if document["reason"] is None else f"{document['reason']}: nothing can be told"
    say(out, f"{'; '.join(wrong)}: no effect can be believed" if wrong else good)
