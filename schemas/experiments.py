"""The experiments file: the parser that says file, place, value and what would be right, and the writer."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from schemas import fields, safe_yaml
from schemas.adaptation import allocation, bandit, by_segment, check_allocation, controller
from schemas.experiment import CONTROL, UNITS, Arm, Experiment, Experiments, Flag, Layer, Unit
from schemas.instants import format_instant
from schemas.safe_yaml import Node

__all__ = ["CONTROL", "UNITS", "Arm", "Experiment", "Experiments", "Flag", "Layer", "Unit", "experiments_text", "parse_experiments"]

MAX_EXPERIMENTS: Final = 200
MAX_ARMS: Final = 20
MAX_WEIGHT: Final = 1e6

_SALT: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def parse_experiments(text: str | bytes, name: str, policies: Collection[str] | None = None) -> Experiments:
    """The experiments in a YAML text; ``RulesError`` names file, place, value and what would be right.

    ``policies``: the names that an arm's policy may have; ``None``: any.
    """
    root = safe_yaml.load(text, name)
    values = fields.values_of(root, "experiments", _FILE)
    layers: tuple[Layer, ...] = values["layers"]
    nodes: list[Node] = values["experiments"]
    _check_unique(fields.items_of(root, "layers"), "layers", layers)
    salts = {layer.name: layer.salt for layer in layers}
    found: list[Experiment] = []
    for index, node in enumerate(nodes):
        experiment = _experiment(node, f"experiments[{index}]", policies)
        _check_beside(node, f"experiments[{index}]", experiment, found, salts)
        found.append(experiment)
    return Experiments(values["version"], layers, tuple(found), values["kill"])


def experiments_text(experiments: Experiments) -> str:
    """A file that parses to equal experiments: YAML with one line a layer, one an experiment.

    All keys are written out but those of controllers and bandits that there aren't: a server of before reads it too.
    """
    lines = [f"version: {experiments.version}", f"kill: {json.dumps(experiments.kill)}"]
    for key, items in (("layers", experiments.layers), ("experiments", map(_document, experiments.experiments))):
        rows = [f"  - {json.dumps(item if isinstance(item, dict) else item._asdict())}" for item in items]
        lines += [f"{key}:", *rows] if rows else [f"{key}: []"]
    return "\n".join(lines) + "\n"


def _document(experiment: Experiment) -> dict[str, Any]:
    values = experiment._asdict()
    del values["controller"], values["bandit"], values["allocation"]
    adaptive = {
        "controller": experiment.controller and experiment.controller._asdict(),
        "bandit": experiment.bandit and experiment.bandit._asdict(),
        "allocation": {segment: dict(shares) for segment, shares in experiment.allocation.items()},
    }
    return {
        **values,
        "arms": [arm._asdict() for arm in experiment.arms],
        "segments": {name: flag._asdict() for name, flag in experiment.segments.items()},
        "starts": None if experiment.starts is None else format_instant(experiment.starts),
        "ends": None if experiment.ends is None else format_instant(experiment.ends),
        **{key: value for key, value in adaptive.items() if value},
    }


def _experiment(node: Node, path: str, policies: Collection[str] | None) -> Experiment:
    values = fields.values_of(node, path, _EXPERIMENT)
    experiment = Experiment(**{**values, "salt": values["salt"] or values["name"]})
    arms = fields.items_of(node, "arms")
    _check_unique(arms, f"{path}.arms", experiment.arms)
    controls = [arm for arm in experiment.arms if arm.name == CONTROL]
    if len(controls) != 1 or controls[0].shows:
        must = f"must have one arm named {CONTROL}, whose shows is false"
        raise fields.fault(fields.child_of(node, "arms"), f"{path}.arms", must)
    if controls[0].policy not in {arm.policy for arm in experiment.arms if arm.name != CONTROL}:
        at = arms[experiment.arms.index(controls[0])]
        raise fields.fault(at, f"{path}.arms", f"must give {CONTROL} the policy of another arm: both sides make the same choice")
    for index, arm in enumerate(experiment.arms):
        if policies is not None and arm.policy is not None and arm.policy not in policies:
            must = f"must be one of {', '.join(sorted(policies))}"
            raise fields.fault(fields.child_of(arms[index], "policy"), f"{path}.arms[{index}].policy", must)
    if experiment.segments and len({arm.policy for arm in experiment.arms}) > 1:
        must = "must be absent where arms differ in policy: they choose different segments, so a flag would cut them differently"
        raise fields.fault(fields.child_of(node, "segments"), f"{path}.segments", must)
    if experiment.starts is not None and experiment.ends is not None and experiment.starts >= experiment.ends:
        must = f"must be after starts == {format_instant(experiment.starts)}"
        raise fields.fault(fields.child_of(node, "ends"), f"{path}.ends", must)
    check_allocation(node, path, experiment)
    return experiment


def _check_beside(node: Node, path: str, experiment: Experiment, others: Iterable[Experiment], salts: Mapping[str, str]) -> None:
    """Check an experiment against the layers and the experiments before it."""
    if experiment.layer not in salts:
        must = f"must be one of the layers: {', '.join(salts) or 'there are none'}"
        raise fields.fault(fields.child_of(node, "layer"), f"{path}.layer", must)
    for other in others:
        if experiment.name == other.name:
            raise fields.fault(fields.child_of(node, "name"), f"{path}.name", "must be unique")
        if experiment.salt == other.salt:
            must = f"must be another than that of {other.name} ({other.salt}): both would draw the same units"
            raise fields.in_effect(node, path, "salt", experiment.salt, must)
        if experiment.layer != other.layer:
            continue
        if experiment.unit != other.unit:
            must = f"must be {other.unit}, as {other.name} has it in this layer: else a request could be in two experiments"
            raise fields.fault(fields.child_of(node, "unit"), f"{path}.unit", must)
        if experiment.slice[0] < other.slice[1] and other.slice[0] < experiment.slice[1]:
            must = f"must not overlap with {list(other.slice)}, which {other.name} has of this layer"
            raise fields.in_effect(node, path, "slice", list(experiment.slice), must)


def _check_unique(nodes: list[Node], path: str, items: Iterable[Any]) -> None:
    """No two names, and of layers no two salts."""
    seen: set[tuple[str, str]] = set()
    for index, (node, item) in enumerate(zip(nodes, items, strict=True)):
        for key in ("name", "salt") if isinstance(item, Layer) else ("name",):
            if (key, getattr(item, key)) in seen:
                raise fields.fault(fields.child_of(node, key), f"{path}[{index}].{key}", "must be unique")
            seen.add((key, getattr(item, key)))


def _layers(node: Node, path: str) -> tuple[Layer, ...]:
    found = []
    for index, item in enumerate(fields.listed(0, MAX_EXPERIMENTS, "layers")(node, path)):
        values = fields.values_of(item, f"{path}[{index}]", _LAYER)
        found.append(Layer(values["name"], values["salt"] or values["name"]))
    return tuple(found)


def _arms(node: Node, path: str) -> tuple[Arm, ...]:
    items = fields.listed(2, MAX_ARMS, "arms")(node, path)
    return tuple(Arm(**fields.values_of(item, f"{path}[{index}]", _ARM)) for index, item in enumerate(items))


def _segments(node: Node, path: str) -> dict[str, Flag]:
    return by_segment(node, path, lambda child, where: Flag(**fields.values_of(child, where, _FLAG)))


def _salt(node: Node, path: str) -> str:
    if not isinstance(node.value, str) or not _SALT.fullmatch(node.value):
        raise fields.fault(node, path, "must be text of 1 to 64 letters, digits, dots, dashes or underscores (a number: in quotes)")
    return node.value


def _weight(node: Node, path: str) -> float:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float) or not 0 < node.value <= MAX_WEIGHT:
        raise fields.fault(node, path, f"must be a number above 0 and at most {MAX_WEIGHT:g}")
    return float(node.value)


def _slice(node: Node, path: str) -> tuple[float, float]:
    if not isinstance(node.value, list) or len(node.value) != 2:
        raise fields.fault(node, path, "must be [from, to], each from 0 to 1")
    start, end = (fields.share(item, f"{path}[{index}]") for index, item in enumerate(node.value))
    if start >= end:
        raise fields.fault(node, path, "must be [from, to] with from below to")
    return start, end


_LAYER: Final = {"name": fields.Field(fields.name), "salt": fields.Field(_salt, None)}
_ARM: Final = {
    "name": fields.Field(fields.name),
    "weight": fields.Field(_weight),
    "shows": fields.Field(fields.flag),
    "policy": fields.Field(fields.optional_name, None),
}
_FLAG: Final = {"running": fields.Field(fields.flag, default=True), "ramp": fields.Field(fields.share, 1.0)}
_EXPERIMENT: Final = {
    "name": fields.Field(fields.name),
    "version": fields.Field(fields.whole),
    "layer": fields.Field(fields.name),
    "slice": fields.Field(_slice, (0.0, 1.0)),
    "unit": fields.Field(fields.one_of(UNITS)),
    "salt": fields.Field(_salt, None),
    "ramp": fields.Field(fields.share),
    "running": fields.Field(fields.flag, default=True),
    "starts": fields.Field(fields.instant, None),
    "ends": fields.Field(fields.instant, None),
    "arms": fields.Field(_arms),
    "segments": fields.Field(_segments, {}),
    "controller": fields.Field(controller, None),
    "bandit": fields.Field(bandit, None),
    "allocation": fields.Field(allocation, {}),
}
_FILE: Final = {
    "version": fields.Field(fields.whole),
    "kill": fields.Field(fields.flag, default=False),
    "layers": fields.Field(_layers),
    "experiments": fields.Field(fields.listed(0, MAX_EXPERIMENTS, "experiments")),
}
