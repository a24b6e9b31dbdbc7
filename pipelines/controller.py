"""What to do with each segment of an experiment: ramp up, roll back or wait; printed, or written into the experiments file.

forecourt experiment controller --experiments FILE --experiment NAME --sessions FILE [--mode ask|act] [--log FILE] [--max-age HOURS]
    [--at TIME] [--json]

To act takes a log: it alone tells which sessions came after the last step, so that no segment climbs twice on the same ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.analysis import analysis_of
from experiments.controller import Decision, Evidence, applied, decide, evidence_of, settings_of, srm_by_segment
from experiments.sessions import Ints, Sessions, triggered
from experiments.settings import AnalysisSettings
from experiments.units import screened
from experiments.wording import number_text
from pipelines.console import say, table_console
from pipelines.decisions_log import PENDING, append, check_log, stages_of
from pipelines.experiments_writer import Held, hold, write
from pipelines.options import instant_in
from pipelines.sessions_file import SessionsFile, read_sessions_file
from schemas.errors import EXIT_OK, ConfigError
from schemas.experiment import CONTROL, MODES, Arm, Controller, Experiment, Experiments, Flag, Mode
from schemas.instants import DAY_MS, HOUR_MS, MINUTE_MS, clock_ms, format_instant, parse_date

MAX_AGE_H: Final = 36.0
MAX_AHEAD_MS: Final = 5 * MINUTE_MS
"""By how much the clocks of those who made the table may be ahead of this one."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Which experiment, by which sessions, and whether to act; ``ConfigError`` when it can't be done."""

    experiments: str
    experiment: str
    sessions: str
    mode: Mode | None = None
    log: str | None = None
    max_age_h: float = MAX_AGE_H
    at: str | None = None
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        if not 0 < self.max_age_h < math.inf:
            msg = f"--max-age == {self.max_age_h}, must be a number of hours above 0"
            raise ConfigError(msg)
        self.instant(0)

    def instant(self, now: int) -> int:
        """The instant asked for, ``now`` when none was; ms UTC."""
        return instant_in("--at", self.at, now)


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line, whose first word is ``controller``."""
    parser = argparse.ArgumentParser(
        prog="forecourt experiment controller", description="Ramps up, rolls back or waits, segment by segment."
    )
    parser.add_argument("--experiments", required=True, metavar="FILE", help="the experiments file (YAML)")
    parser.add_argument("--experiment", required=True, metavar="NAME", help="an experiment of the file")
    parser.add_argument("--sessions", required=True, metavar="FILE", help="its sessions table, CSV or Parquet")
    parser.add_argument("--mode", choices=MODES, help="ask: print only; act: write the file; default: the file's, else ask")
    parser.add_argument("--log", metavar="FILE", help="append each decision with its numbers, a JSON line each; to act takes one")
    parser.add_argument(
        "--max-age", type=float, default=MAX_AGE_H, dest="max_age_h", metavar="HOURS", help="of the newest session; default: 36"
    )
    parser.add_argument("--at", metavar="TIME", help="the instant, RFC 3339; default: now")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON on stdout and nothing else")
    return Config(**vars(parser.parse_args(argv[1:])))


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment controller …``; the exit status."""
    config = parse_args(argv)
    now = config.instant(clock_ms())
    held = hold(config.experiments)
    experiment = held.experiment(config.experiment)
    control, treatment = arms_of(experiment)
    controller = experiment.controller or Controller()
    mode = config.mode or controller.mode
    steps: Mapping[str, int] = {}
    if config.log is not None:
        steps = steps_of(config.log, experiment, now)
        check_log(config.log)
    elif mode == "act":
        msg = "--log == None, must be a file where the mode is act: it tells which sessions came after the last step"
        raise ConfigError(msg)
    table = read_sessions_file(config.sessions, (control.name, treatment.name))
    reading = AnalysisSettings(
        experiment.unit,
        (control.weight, treatment.weight),
        controller.alpha,
        controller.planned_sessions,
        experiment=experiment.name,
    )
    units = screened(table.sessions, experiment.unit)
    analysed = analysis_of(units, reading)
    unusable = stopped(held.experiments, experiment, now) or _varying(table)
    stale = stale_reason(table.sessions, now, config.max_age_h)
    core = triggered(units.sessions)
    srm = srm_by_segment(core, experiment.unit, (control.weight, treatment.weight))
    decisions = decisions_of(experiment, analysed, fresh_of(core, steps), unusable, stale, srm)
    after = applied(held.experiments, experiment.name, decisions) if mode == "act" else held.experiments
    document = _document(config, experiment, analysed, decisions, held.experiments, after, mode, now)
    if config.log is not None:
        _act(held, after, document, config.log)
    if config.as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document)
    return EXIT_OK


def arms_of(experiment: Experiment) -> tuple[Arm, Arm]:
    """Control and the arm that is compared with it; ``ConfigError`` where a controller can't tell what to do."""
    others = [arm for arm in experiment.arms if arm.name != CONTROL]
    if len(others) != 1:
        names = ", ".join(arm.name for arm in experiment.arms)
        msg = f"{experiment.name}: arms == {names}, must be {CONTROL} and one other: a controller compares two"
        raise ConfigError(msg)
    if experiment.bandit is not None:
        msg = f"{experiment.name}: bandit is given, must be absent: either a controller or a bandit has an experiment"
        raise ConfigError(msg)
    return next(arm for arm in experiment.arms if arm.name == CONTROL), others[0]


def decisions_of(
    experiment: Experiment,
    analysed: Mapping[str, Any],
    fresh: Mapping[str, int],
    unusable: str | None = None,
    stale: str | None = None,
    srm: Mapping[str, float | None] | None = None,
) -> list[Decision]:
    """A decision for each segment of the file or of the data, by name; they share the controller's ``alpha``."""
    names = sorted({*experiment.segments, *analysed["segments"]})
    settings = settings_of(experiment.controller or Controller(), len(names))

    def evidence(name: str) -> Evidence:
        srm_p = (srm or {}).get(name)
        return evidence_of(name, analysed, fresh=fresh.get(name, 0), unusable=unusable, stale=stale, srm_p=srm_p)

    return [decide(experiment.segments.get(name, Flag()), evidence(name), settings) for name in names]


def stopped(experiments: Experiments, experiment: Experiment, now: int) -> str | None:
    """Why an experiment isn't running at all; ``None`` when it is."""
    if experiments.kill:
        return "the file's kill switch is on"
    if not experiment.running:
        return "the experiment is switched off"
    if experiment.starts is not None and now < experiment.starts:
        return f"the experiment starts at {format_instant(experiment.starts)}"
    if experiment.ends is not None and now >= experiment.ends:
        return f"the experiment is over since {format_instant(experiment.ends)}"
    return None


def stale_reason(sessions: Sessions, now: int, max_age_h: float) -> str | None:
    """Why a table is too old to climb on, or of a time to come; ``None`` when it isn't."""
    times = _times(sessions)
    if times is None:
        return "the table has neither started_at nor dates: how old it is can't be told"
    if not len(times):
        return "there are no sessions"
    latest = int(times.max())
    if latest > now + MAX_AHEAD_MS:
        return f"the newest session is of {format_instant(latest)}, which is yet to come: a clock is wrong, or the table"
    newest = latest + (0 if sessions.started is not None else DAY_MS - 1)  # some time on that day
    age_h = (now - newest) / HOUR_MS
    return f"the newest session is {age_h:.1f} hours old, at most {max_age_h:g} are allowed" if age_h > max_age_h else None


def steps_of(log: str, experiment: Experiment, now: int) -> dict[str, int]:
    """Since when each segment is at the stage that it has, by the log, ms UTC; ``now`` where somebody else has put it there."""
    stages = stages_of(log, experiment.name, experiment.version)
    return {name: stage.since_when(experiment.segments.get(name, Flag()).ramp, now) for name, stage in stages.items()}


def fresh_of(core: Sessions, steps: Mapping[str, int]) -> dict[str, int]:
    """How many sessions of each segment began since its last step (ms UTC); all, where no step is known.

    ``core`` are triggered sessions, screened.
    """
    times = _times(core)
    found = {}
    for code, name in enumerate(core.segments):
        rows = core.segment == code
        if name in steps:
            rows &= False if times is None else times >= steps[name]
        found[name] = int(rows.sum())
    return found


def show(document: Mapping[str, Any]) -> None:
    """Print the decisions."""
    out = table_console()
    title = f"{document['experiment']} version {document['version']} at {document['at']}, mode {document['mode']}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("segment", "decision", "ramp", "sessions", "effect", "from", "to", "why"):
        numeric = column in {"ramp", "sessions", "effect", "from", "to"}
        table.add_column(column, justify="right" if numeric else "left", no_wrap=column != "why")
    for each in document["decisions"]:
        ramp = " → ".join(f"{stage:g}" for stage in dict.fromkeys((each["stage_from"], each["stage_to"])))
        figures = [number_text(value, each["se"], sign=True) for value in (each["effect"], *(each["ci"] or (None, None)))]
        off = "" if each["running"] else " (off)"
        table.add_row(each["segment"], each["action"], ramp + off, f"{each['sessions']:,}", *figures, each["reason"])
    out.print(table if document["decisions"] else "no segments, in the file or in the table")
    for reason in document["reasons"]:
        say(out, f"not readable: {reason}")
    wanted = sum(each["action"] in {"ramp_up", "roll_back"} for each in document["decisions"])
    if document["applied"]:
        say(out, f"written: version {document['version_after']} of the experiments file")
    elif wanted:
        say(out, f"{wanted} to change: --mode act writes the experiments file")


def _act(held: Held, after: Experiments, document: Mapping[str, Any], log: str) -> None:
    """Log the decisions, then write the file where it changes, and log that: whatever breaks off, nothing changes unlogged."""
    about = {key: value for key, value in document.items() if key != "decisions"}
    lines = [about | decision for decision in document["decisions"]]
    append(log, [line | {"applied": PENDING if line["applied"] else False} for line in lines])
    changed = [line for line in lines if line["applied"]]
    if not changed:
        return
    try:
        write(held, after)
    except ConfigError as error:
        append(log, [line | {"version_after": line["version_before"], "applied": False, "error": str(error)} for line in changed])
        raise
    append(log, changed)


def _document(
    config: Config,
    experiment: Experiment,
    analysed: Mapping[str, Any],
    decisions: Sequence[Decision],
    before: Experiments,
    after: Experiments,
    mode: Mode,
    now: int,
) -> dict[str, Any]:
    changed = after is not before
    return {
        "at": format_instant(now),
        "experiment": experiment.name,
        "version": experiment.version,
        "mode": mode,
        "sessions_file": config.sessions,
        "version_before": before.version,
        "version_after": after.version,
        "applied": changed,
        "readable": analysed["readable"],
        "reasons": analysed["reasons"],
        "population": analysed["population"],
        "srm": analysed["srm"],
        "decisions": [_decision(each, changed=changed) for each in decisions],
    }


def _decision(decision: Decision, *, changed: bool) -> dict[str, Any]:
    values = decision._asdict()
    del values["numbers"]
    return {**values, **decision.numbers, "applied": changed and decision.changes}


def _varying(table: SessionsFile) -> str | None:
    """Why sessions of different stages can't be pooled, where the arms' shares weren't the same throughout."""
    if not table.probabilities_vary:
        return None
    return "arm_probability differs within an arm: the arms' shares must be the same throughout"


def _times(sessions: Sessions) -> Ints | None:
    """When each session began, ms UTC, or its day; ``None`` where days aren't dates."""
    if sessions.started is not None:
        return sessions.started
    try:
        starts = np.array([parse_date(day) for day in sessions.days], np.int64)
    except ValueError:
        return None
    return np.asarray(starts[sessions.day], np.int64)
