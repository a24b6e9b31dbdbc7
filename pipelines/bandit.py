"""Which share each arm should get next, by segment; what other ways of drawing arms would have brought; and, asked to, the change.

forecourt experiment bandit --sessions FILE [--arms A,B,…] [--weights W,W,…] [--metric clicks|vehicles_viewed|lead] [--floor F]
    [--seed N] [--experiments FILE --experiment NAME [--apply]] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.bandit import SEED, Share, allocation_of, check_floor, cross_fitted, shares_of
from experiments.off_policy import Value, always, value_of
from experiments.rewards import OVERALL, Rewards
from experiments.wording import NONE, number_text, share_text
from pipelines.arms_file import ArmsFile, read_arms
from pipelines.console import say, table_console
from pipelines.experiments_writer import Held, hold, write
from schemas.errors import EXIT_OK, ConfigError, shown
from schemas.experiment import METRICS, Bandit, Experiment, Metric
from schemas.fields import NAME

_COLUMNS: Final = ("segment", "arm", "sessions", "mean", "believed", "best", "share")


@dataclasses.dataclass(frozen=True)
class Config:
    """What to look at, by which metric, and whether to write the outcome; ``ConfigError`` when it can't be done."""

    sessions: str
    arms: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    metric: Metric | None = None
    floor: float | None = None
    seed: int = SEED
    experiments: str | None = None
    experiment: str | None = None
    apply: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        if (self.experiments is None) != (self.experiment is None):
            msg = "--experiments and --experiment, must be given both or neither"
            raise ConfigError(msg)
        if self.apply and self.experiments is None:
            msg = "--apply, must be given with --experiments and --experiment"
            raise ConfigError(msg)
        if self.arms is not None and (len(set(self.arms)) != len(self.arms) or not all(self.arms) or len(self.arms) < 2):
            msg = f"--arms == {','.join(self.arms)}, must be two or more different names"
            raise ConfigError(msg)
        if self.floor is not None and not 0 <= self.floor < 1:
            msg = f"--floor == {self.floor}, must be a number from 0, below 1 divided by the number of arms"
            raise ConfigError(msg)
        if self.seed < 0:
            msg = f"--seed == {self.seed}, must be at least 0"
            raise ConfigError(msg)


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line, whose first word is ``bandit``."""
    parser = argparse.ArgumentParser(
        prog="forecourt experiment bandit", description="Which share each arm should get next, by segment, over a floor."
    )
    parser.add_argument("--sessions", required=True, metavar="FILE", help="the sessions table, CSV or Parquet")
    parser.add_argument("--arms", metavar="A,B,…", type=_words, help="default: the experiment's, else all that the table has")
    parser.add_argument(
        "--weights",
        metavar="W,W,…",
        type=_numbers,
        help="where there is no arm_probability; default: the experiment's, else even",
    )
    parser.add_argument("--metric", choices=METRICS, help="default: the experiment's, else clicks")
    parser.add_argument("--floor", type=float, metavar="F", help="the least share of an arm; default: the experiment's, else 0.05")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="of the draws; default: %(default)d")
    parser.add_argument("--experiments", metavar="FILE", help="the experiments file (YAML)")
    parser.add_argument("--experiment", metavar="NAME", help="an experiment of the file")
    parser.add_argument("--apply", action="store_true", help="write the shares into the experiments file")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON on stdout and nothing else")
    return Config(**vars(parser.parse_args(argv[1:])))


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt experiment bandit …``; the exit status."""
    config = parse_args(argv)
    held = None if config.experiments is None else hold(config.experiments)
    experiment = None if held is None else held.experiment(config.experiment or "")
    bandit = _settings(config, experiment)
    names = config.arms or (None if experiment is None else tuple(arm.name for arm in experiment.arms))
    weights = config.weights or _weights(experiment, names)
    table = read_arms(config.sessions, bandit.metric, names, weights)
    check_floor(bandit.floor, len(table.rewards.arms))
    for arm in table.rewards.unseen:
        print(f"{config.sessions}: has no sessions of arm {shown(arm)}: a new arm, or a name that is wrong", file=sys.stderr)
    document = document_of(table, bandit, config.seed, weights)
    if held is not None and experiment is not None:
        document |= _applied(held, experiment, document["allocation"], apply=config.apply)
    if config.as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        show(document)
    return EXIT_OK


def document_of(table: ArmsFile, bandit: Bandit, seed: int = SEED, weights: Sequence[float] | None = None) -> dict[str, Any]:
    """What ``--json`` prints, but for the experiments file: the arms by segment and overall, and values of target policies.

    The value of the allocation is that of one learnt from other users than it is tried on.
    """
    rewards = table.rewards
    shares = shares_of(rewards, bandit.floor, seed)
    total = math.fsum(weights or [1.0] * len(rewards.arms))
    by_weights = {arm: weight / total for arm, weight in zip(rewards.arms, weights or [1.0] * len(rewards.arms), strict=True)}
    segments = {name: _segment(rewards.of_segment(name), found) for name, found in shares.items()}
    overall = segments.pop(OVERALL)
    return {
        "metric": bandit.metric,
        "floor": bandit.floor,
        "seed": seed,
        "arms": list(rewards.arms),
        "sessions": len(rewards.x),
        "sessions_with_probability": table.logged,
        "copies": table.copies,
        "sessions_in_several_arms": table.mixed,
        "other_arms": table.other_arms,
        "segments": segments,
        "overall": overall,
        "values": {
            **{f"always {arm}": _value(value_of(rewards, always(rewards, arm))) for arm in rewards.arms},
            "allocation": _value(value_of(rewards, cross_fitted(rewards, bandit.floor, by_weights, seed))),
        },
        "allocation": allocation_of(shares),
    }


def show(document: Mapping[str, Any]) -> None:
    """Print the arms by segment, and the values."""
    out = table_console()
    table = _table(f"{document['sessions']:,} sessions with segments, {document['metric']}, floor {document['floor']:g}")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in {"segment", "arm"} else "right", no_wrap=True)
    for segment, found in (*document["segments"].items(), (OVERALL, document["overall"])):
        for index, (arm, each) in enumerate(found["arms"].items()):
            posterior = each["posterior"]
            mean, believed, sd = (
                number_text(value, posterior["sd"]) for value in (each["mean"], posterior["mean"], posterior["sd"])
            )
            figures = (f"{each['sessions']:,}", mean, f"{believed} ± {sd}", share_text(each["w"]), share_text(each["p"]))
            table.add_row("" if index else segment, arm, *figures)
        table.add_section()
    out.print(table)
    values = _table(f"what would have been, by {_basis(document['sessions'], document['sessions_with_probability'])}")
    for column in ("drawing", "value", "from", "to", "sessions", "worth", "greatest weight"):
        values.add_column(column, justify="left" if column == "drawing" else "right", no_wrap=column == "drawing")
    for name, value in document["values"].items():
        told = [number_text(each, value["se"]) for each in (value["value"], *(value["ci"] or (None, None)))]
        worth = NONE if value["effective"] is None else f"{value['effective']:,.0f}"
        values.add_row(name, *told, f"{value['sessions']:,}", worth, number_text(value["max_weight"]))
    out.print(values)
    for name, value in document["values"].items():
        if value["reason"]:
            say(out, f"{name}: {value['reason']}")
    if document.get("applied"):
        say(out, f"written: version {document['version_after']} of the experiments file")


def _basis(sessions: int, logged: int) -> str:
    """What the probabilities are that values go by."""
    if not logged:
        return "the weights, for the table logs no probabilities"
    rest = f", the weights of {sessions - logged:,}" if logged < sessions else ""
    return f"logged probabilities of {logged:,} sessions{rest}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _settings(config: Config, experiment: Experiment | None) -> Bandit:
    """The bandit of the experiment, with what the command line says instead."""
    own = experiment and experiment.bandit
    if config.apply and experiment is not None and own is None:
        msg = f"experiment == {experiment.name}, must have a bandit in {config.experiments} for --apply"
        raise ConfigError(msg)
    bandit = own or Bandit()
    floor = bandit.floor if config.floor is None else config.floor
    if config.apply and floor < bandit.floor:
        msg = f"--floor == {floor:g}, must be at least that of the experiment, {bandit.floor:g}, for --apply"
        raise ConfigError(msg)
    if config.apply and experiment is not None and config.arms and set(config.arms) != {arm.name for arm in experiment.arms}:
        msg = f"--arms == {','.join(config.arms)}, must be the experiment's for --apply"
        raise ConfigError(msg)
    return bandit._replace(metric=config.metric or bandit.metric, floor=floor)


def _weights(experiment: Experiment | None, names: Sequence[str] | None) -> tuple[float, ...] | None:
    """The experiment's weights of arms, where it has all of them."""
    of_arms = {} if experiment is None else {arm.name: arm.weight for arm in experiment.arms}
    return tuple(of_arms[name] for name in names) if names and set(names) <= of_arms.keys() else None


def _applied(held: Held, experiment: Experiment, allocation: Mapping[str, Mapping[str, float]], *, apply: bool) -> dict[str, Any]:
    """What becomes of the file; segments that the table doesn't have keep their shares."""
    before = held.experiments
    about = {"experiment": experiment.name, "version_before": before.version, "version_after": before.version, "applied": False}
    changed = experiment._replace(allocation={**experiment.allocation, **allocation})
    if not apply or changed == experiment:
        return about
    for name in allocation:
        if not NAME.fullmatch(name):
            msg = f"primary_segment == {shown(name)}, must be a segment's name in lower_snake_case to stand in {held.path}"
            raise ConfigError(msg)
    every = tuple(changed if each.name == experiment.name else each for each in before.experiments)
    write(held, before._replace(version=before.version + 1, experiments=every))
    return about | {"version_after": before.version + 1, "applied": True}


def _segment(rewards: Rewards, shares: Sequence[Share]) -> dict[str, Any]:
    return {
        "sessions": len(rewards.x),
        "arms": {
            share.arm: {
                "sessions": share.sessions,
                "mean": share.mean,
                "posterior": {"kind": share.posterior.kind, "mean": share.posterior.mean, "sd": share.posterior.sd},
                "w": share.w,
                "p": share.p,
            }
            for share in shares
        },
    }


def _value(value: Value) -> dict[str, Any]:
    return {**value._asdict(), "ci": None if value.ci is None else list(value.ci)}


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _numbers(text: str) -> tuple[float, ...]:
    found = tuple(float(word) for word in text.split(","))
    if not all(0 < each < math.inf for each in found):
        raise ValueError
    return found
