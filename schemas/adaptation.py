"""The parts of an experiment that change it while it runs, parsed and checked: its controller, its bandit, its allocation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from schemas import fields
from schemas.experiment import METRICS, MODES, Bandit, Controller, Experiment
from schemas.safe_yaml import Node

MAX_SEGMENTS: Final = 500
ROUNDING: Final = 1e-6  # by which the probabilities of an allocation may miss 1, and an arm its floor


def controller(node: Node, path: str) -> Controller | None:
    """A controller, or null."""
    return None if node.value is None else Controller(**fields.values_of(node, path, _CONTROLLER))


def bandit(node: Node, path: str) -> Bandit | None:
    """A bandit, or null."""
    return None if node.value is None else Bandit(**fields.values_of(node, path, _BANDIT))


def allocation(node: Node, path: str) -> dict[str, dict[str, float]]:
    """By segment the probabilities of arms."""
    return by_segment(node, path, _probabilities)


def by_segment(node: Node, path: str, parse: Callable[[Node, str], Any]) -> dict[str, Any]:
    """What stands under each segment's name, parsed."""
    if not isinstance(node.value, dict) or len(node.value) > MAX_SEGMENTS:
        raise fields.fault(node, path, f"must be a mapping of at most {MAX_SEGMENTS} segments")
    for key, child in node.value.items():
        if not fields.NAME.fullmatch(key):
            raise fields.fault(child, f"{path}.{key}", "must stand under a segment's name: lower_snake_case, at most 63 characters")
    return {key: parse(child, f"{path}.{key}") for key, child in node.value.items()}


def check_allocation(node: Node, path: str, experiment: Experiment) -> None:
    """Every arm of every allocation has its floor, and each adds up to 1."""
    bandit, names = experiment.bandit, [arm.name for arm in experiment.arms]
    if bandit is not None and experiment.controller is not None:
        must = "must be absent where there is a controller: one of them decides who is shown what"
        raise fields.fault(fields.child_of(node, "bandit"), f"{path}.bandit", must)
    if bandit is not None and bandit.floor * len(names) >= 1:
        must = f"must be below 1/{len(names)}: each of the {len(names)} arms gets it, and some must be left to share out"
        raise fields.in_effect(fields.child_of(node, "bandit"), f"{path}.bandit", "floor", bandit.floor, must)
    at = fields.child_of(node, "allocation")
    if bandit is None and experiment.allocation:
        raise fields.fault(at, f"{path}.allocation", "must be absent without bandit")
    for segment, shares in experiment.allocation.items():
        there, where = fields.child_of(at, segment), f"{path}.allocation.{segment}"
        if shares.keys() != set(names):
            raise fields.fault(there, where, f"must have a probability for each of the arms: {', '.join(names)}")
        for arm, probability in shares.items():
            if bandit is not None and probability < bandit.floor - ROUNDING:
                raise fields.fault(fields.child_of(there, arm), f"{where}.{arm}", f"must be at least floor == {bandit.floor:g}")
        if abs((total := math.fsum(shares.values())) - 1) > ROUNDING:
            raise fields.fault(there, where, f"must add up to 1, not {total:.6g}")


def _probabilities(node: Node, path: str) -> dict[str, float]:
    if not isinstance(node.value, dict):
        raise fields.fault(node, path, "must be a mapping of arms to probabilities")
    return {arm: fields.share(child, f"{path}.{arm}") for arm, child in node.value.items()}


def _planned(node: Node, path: str) -> int | None:
    return None if node.value is None else fields.whole(node, path)


def _alpha(node: Node, path: str) -> float:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float) or not 0 < node.value < 1:
        raise fields.fault(node, path, "must be a number above 0 and below 1")
    return float(node.value)


def _part(node: Node, path: str) -> float:
    if (value := fields.share(node, path)) == 1:
        raise fields.fault(node, path, "must be a number from 0, below 1")
    return value


_CONTROLLER: Final = {
    "mode": fields.Field(fields.one_of(MODES), Controller().mode),
    "min_sessions": fields.Field(fields.whole, Controller().min_sessions),
    "planned_sessions": fields.Field(_planned, None),
    "alpha": fields.Field(_alpha, Controller().alpha),
}
_BANDIT: Final = {
    "metric": fields.Field(fields.one_of(METRICS), Bandit().metric),
    "floor": fields.Field(_part, Bandit().floor),
    "holdout": fields.Field(_part, Bandit().holdout),
}
