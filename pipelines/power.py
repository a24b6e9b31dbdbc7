"""How many sessions and days an experiment needs, and which effect it can find; measured in a sessions table where there is one.

forecourt experiment power (--sessions FILE | --mean M --sd S) --unit session|user [--metric vehicles_viewed|ctr|lead]
    [--mde REL] [--planned-sessions N] [--sessions-per-day N] [--trigger-rate R] [--design-effect F] [--weights 50,50]
    [--alpha 0.05] [--power 0.8] [--replays 200] [--seed 0] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from experiments.design_effect import REPLAYS, DesignEffect, baseline_of, design_effect, first_rows
from experiments.effect import ALPHA
from experiments.metrics import columns_of
from experiments.power import EQUAL, POWER, Baseline, Design, mde_of, sessions_for, size_of
from experiments.sessions import Sessions, triggered
from experiments.settings import METRICS, MOST_PLANNED, PRIMARY, check_weights
from experiments.wording import count_text
from pipelines.power_table import show
from pipelines.sessions_file import NO_DAYS, read_all_sessions
from pipelines.table_options import numbers_in
from schemas.errors import EXIT_OK, ConfigError, shown
from schemas.experiments import UNITS, Unit

LEAST_MDE: Final = 1e-6
MDES: Final = (0.01, 0.02, 0.05, 0.1, 0.2)
TOLD_FROM: Final = 1_000_000  # sessions: reading and replaying takes seconds
GIVEN, MEASURED, ASSUMED = "given", "measured", "assumed"


@dataclasses.dataclass(frozen=True)
class Config:
    """What is planned; ``None``: to be measured. ``ConfigError`` when it can't be planned."""

    unit: Unit
    sessions: str | None = None
    mean: float | None = None
    sd: float | None = None
    metric: str = PRIMARY
    mde: float | None = None
    planned_sessions: int | None = None
    sessions_per_day: float | None = None
    trigger_rate: float | None = None
    design_effect: float | None = None
    weights: tuple[float, ...] = EQUAL
    alpha: float = ALPHA
    power: float = POWER
    replays: int = REPLAYS
    seed: int = 0
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        if self.sessions is None and (self.mean is None or self.sd is None):
            msg = "--sessions is missing, must be a sessions table, or else --mean and --sd must both be given"
            raise ConfigError(msg)
        check_weights(self.weights)
        for option in ("mean", "sd", "sessions_per_day", "design_effect"):
            _check(option, getattr(self, option), 0, math.inf)
        if self.mde is not None and not LEAST_MDE <= self.mde < math.inf:
            msg = f"--mde == {self.mde}, must be at least {LEAST_MDE:g}"
            raise ConfigError(msg)
        _check("alpha", self.alpha, 0, 1)
        _check("power", self.power, self.alpha, 1)
        if self.trigger_rate is not None and not 0 < self.trigger_rate <= 1:
            msg = f"--trigger-rate == {self.trigger_rate}, must be above 0 and at most 1"
            raise ConfigError(msg)
        for option, least in (("planned_sessions", 1), ("replays", 2), ("seed", 0)):
            if (number := getattr(self, option)) is not None and number < least:
                msg = f"--{option.replace('_', '-')} == {number}, must be at least {least}"
                raise ConfigError(msg)
        if self.planned_sessions is not None and self.planned_sessions > MOST_PLANNED:
            msg = f"--planned-sessions == {shown(self.planned_sessions)}, must be at most {MOST_PLANNED:g}"
            raise ConfigError(msg)

    @property
    def design(self) -> Design:
        """How it will be judged."""
        return Design(self.alpha, self.power, (self.weights[0], self.weights[1]))


class Value(NamedTuple):
    """A number, and whether it was given, measured or assumed."""

    value: float | None
    source: str


class Plan(NamedTuple):
    """What the sizes follow from; ``design_effects`` as measured, a text where one could not be."""

    mean: Value
    sd: Value
    trigger_rate: Value
    sessions_per_day: Value
    design_effect: Value
    design_effects: dict[Unit, DesignEffect | str]
    warnings: list[str]
    days: int | None = None


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line, whose first word is ``power``."""
    parser = argparse.ArgumentParser(
        prog="forecourt experiment power", description="How many sessions and days an experiment needs."
    )
    parser.add_argument("--sessions", metavar="FILE", help="a sessions table (CSV or Parquet) to measure in; arms don't matter")
    parser.add_argument("--mean", type=float, help="the metric's mean a session; for ctr clicks over impressions")
    parser.add_argument("--sd", type=float, help="the metric's standard deviation a session")
    parser.add_argument("--unit", required=True, choices=UNITS, help="what will be randomised")
    parser.add_argument("--metric", choices=METRICS, default=PRIMARY, help="default: %(default)s")
    parser.add_argument("--mde", type=float, metavar="REL", help="a relative effect to find, such as 0.03, beside 1 to 20 %%")
    parser.add_argument("--planned-sessions", type=int, metavar="N", help="which effect so many triggered sessions find")
    parser.add_argument("--sessions-per-day", type=float, metavar="N", help="all sessions a day, triggered or not")
    parser.add_argument("--trigger-rate", type=float, metavar="R", help="the share of sessions that are triggered")
    parser.add_argument("--design-effect", type=float, metavar="F", help="how much more variance than independent sessions have")
    parser.add_argument("--weights", default="50,50", metavar="A,B", help="of control and treatment; default: %(default)s")
    parser.add_argument("--alpha", type=float, default=ALPHA, help="two-sided; default: %(default)s")
    parser.add_argument("--power", type=float, default=POWER, help="default: %(default)s")
    parser.add_argument("--replays", type=int, default=REPLAYS, metavar="N", help="A/A tests replayed; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the replays; default: %(default)s")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON on stdout and nothing else")
    given = vars(parser.parse_args(argv[1:]))
    return Config(**given | {"weights": numbers_in("--weights", given["weights"])})


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment power …``; the exit status."""
    config = parse_args(argv)
    plan = given(config) if config.sessions is None else measured(config, read_all_sessions(config.sessions))
    document = document_of(config, plan)
    if config.as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document)
    return EXIT_OK


def given(config: Config) -> Plan:
    """The plan where there is no table."""
    warnings = []
    if config.design_effect is None and config.unit == "user":
        warnings.append(
            "design effect assumed to be 1, as if each user had one session: too few sessions where users come back; "
            "measure it in a table (--sessions) or give it (--design-effect)"
        )
    return Plan(
        _value(config.mean),
        _value(config.sd),
        _value(config.trigger_rate, 1.0, ASSUMED),
        _value(config.sessions_per_day),
        _value(config.design_effect, 1.0, ASSUMED),
        {},
        warnings,
    )


def measured(config: Config, table: Sessions) -> Plan:
    """The plan where there is a table: what was not given is measured in it, with no eye to its arms."""
    every = first_rows(table)
    there = triggered(every)
    count, counted = every.rows, there.rows
    if counted < 2:
        msg = f"{config.sessions} has {count_text(counted, 'triggered session')}, must have at least 2 with segment_count above 0"
        raise ConfigError(msg)
    columns = columns_of(there, config.metric)
    baseline = columns if isinstance(columns, str) else baseline_of(*columns)
    if isinstance(baseline, str):
        msg = f"--metric == {config.metric}, can't be measured in {config.sessions}: {baseline}"
        raise ConfigError(msg)
    mean, sd = _value(config.mean, baseline.mean, MEASURED), _value(config.sd, baseline.sd, MEASURED)
    for name, each in (("mean", mean), ("standard deviation", sd)):
        if not (each.value or 0) > 0:
            msg = f"the {name} of {config.metric} in {config.sessions} == {each.value}, must be above 0"
            raise ConfigError(msg)
    days = _days_in(every)
    effects = _design_effects(config, there)
    factor = effects[config.unit]
    if config.design_effect is None and isinstance(factor, str):
        msg = f"--design-effect is missing, must be given: it can't be measured in {config.sessions}: {factor}"
        raise ConfigError(msg)
    return Plan(
        mean,
        sd,
        _value(config.trigger_rate, counted / count, MEASURED),
        _value(config.sessions_per_day, None if days is None else count / days, MEASURED),
        _value(config.design_effect, None if isinstance(factor, str) else factor.factor, MEASURED),
        effects,
        [],
        days,
    )


def document_of(config: Config, plan: Plan) -> dict[str, Any]:
    """What ``--json`` prints: what the sizes follow from and where that comes from, a row an effect, the effect of a plan."""
    values = {name: getattr(plan, name) for name in ("mean", "sd", "trigger_rate", "sessions_per_day", "design_effect")}
    rows = [row_of(config, plan, mde) for mde in sorted({*MDES, *([config.mde] if config.mde else [])})]
    return {
        "metric": config.metric,
        "unit": config.unit,
        "alpha": config.alpha,
        "power": config.power,
        "weights": list(config.weights),
        **{name: each.value for name, each in values.items()},
        "sources": {name: each.source for name, each in values.items() if each.value is not None},
        "measured_days": plan.days,
        "design_effects": {
            unit: {"factor": None, "reason": each} if isinstance(each, str) else {**each._asdict(), "reason": None}
            for unit, each in plan.design_effects.items()
        },
        "rows": rows,
        "planned": planned_of(config, plan),
        "warnings": plan.warnings + _too_short(config, plan, rows),
    }


def row_of(config: Config, plan: Plan, mde: float) -> dict[str, Any]:
    """The sessions and days that find a relative effect."""
    size = size_of(
        sessions_for(_baseline(plan), mde, config.design),
        config.design,
        plan.trigger_rate.value or 1.0,
        plan.sessions_per_day.value,
    )
    return {
        "mde": mde,
        "mde_absolute": mde * _baseline(plan).mean,
        "control": size.control,
        "treatment": size.treatment,
        "triggered_sessions": size.triggered,
        "all_sessions": size.sessions,
        "days": size.days,
    }


def planned_of(config: Config, plan: Plan) -> dict[str, Any] | None:
    """The effect that the planned sessions find, where a number is planned."""
    if config.planned_sessions is None:
        return None
    mde = mde_of(_baseline(plan), config.planned_sessions, config.design)
    size = size_of(config.planned_sessions, config.design, plan.trigger_rate.value or 1.0, plan.sessions_per_day.value)
    return {
        "planned_sessions": config.planned_sessions,
        "mde": mde,
        "mde_absolute": mde * _baseline(plan).mean,
        "all_sessions": size.sessions,
        "days": size.days,
    }


def _design_effects(config: Config, there: Sessions) -> dict[Unit, DesignEffect | str]:
    if there.rows >= TOLD_FROM:
        print(f"forecourt: {config.replays} A/A tests by each unit are replayed", file=sys.stderr)
    settings: dict[str, Any] = {"metric": config.metric, "weights": config.weights}
    return {unit: design_effect(there, unit, config.replays, config.seed, **settings) for unit in UNITS}


def _days_in(table: Sessions) -> int | None:
    """How many days the table has sessions of; ``None`` where it doesn't tell days."""
    return None if table.days == NO_DAYS else len(np.unique(table.day))


def _too_short(config: Config, plan: Plan, rows: list[dict[str, Any]]) -> list[str]:
    """Users come back the more the longer an experiment lasts, so what was measured in few days tells too little of many."""
    longer = [row for row in rows if plan.days is not None and row["days"] is not None and row["days"] > 2 * plan.days]
    if config.unit != "user" or not longer or plan.design_effect.source != MEASURED:
        return []
    return [
        f"the design effect was measured over {count_text(plan.days or 0, 'day')}; over more than twice as many, users "
        "come back more often, and it would be greater: measure it over a longer time"
    ]


def _baseline(plan: Plan) -> Baseline:
    assert plan.mean.value is not None
    assert plan.sd.value is not None
    return Baseline(plan.mean.value, plan.sd.value, plan.design_effect.value or 1.0)


def _value(option: float | None, otherwise: float | None = None, source: str = ASSUMED) -> Value:
    return Value(option, GIVEN) if option is not None else Value(otherwise, source)


def _check(option: str, value: float | None, above: float, below: float) -> None:
    if value is not None and not above < value < below:
        limit = f"above {above:g}" + ("" if math.isinf(below) else f" and below {below:g}")
        msg = f"--{option.replace('_', '-')} == {value}, must be {limit}"
        raise ConfigError(msg)
