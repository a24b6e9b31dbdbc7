"""The segment rules: their types, and the parser that says file, place, value and what would be right."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from schemas import safe_yaml
from schemas.catalogue import Attribute, Catalogue
from schemas.errors import RulesError, shown
from schemas.instants import DAY_MS, SECOND_MS, parse_duration
from schemas.safe_yaml import Node

MAX_WINDOW_MS: Final = 10 * DAY_MS
MIN_HALF_LIFE_MS: Final = SECOND_MS
MAX_SEGMENTS: Final = 500
MAX_CONDITIONS: Final = 256  # in one segment
MAX_WEIGHT: Final = 1e6
MAX_PRIORITY: Final = 1_000

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_BAND_KEYS: Final = ("gte", "gt", "lte", "lt")
_COMBINATIONS: Final = ("all", "any", "not")


# Conditions are no tuples, whose equality doesn't see the type: all of some conditions would be any of them.


@dataclasses.dataclass(frozen=True, slots=True)
class Equals:
    """The attribute is one of the values."""

    attribute: str
    values: frozenset[str] | frozenset[float]


@dataclasses.dataclass(frozen=True, slots=True)
class Band:
    """The attribute lies within the bounds; an absent bound is infinite."""

    attribute: str
    gte: float = -math.inf
    gt: float = -math.inf
    lte: float = math.inf
    lt: float = math.inf


@dataclasses.dataclass(frozen=True, slots=True)
class All:
    """Every condition holds."""

    conditions: tuple[Condition, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Any_:  # noqa: N801  (Any is typing's)
    """At least one condition holds."""

    conditions: tuple[Condition, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Not:
    """The condition does not hold."""

    condition: Condition


Condition = Equals | Band | All | Any_ | Not


class Rule(NamedTuple):
    """One segment: which views match, and when the share of matching views makes a member; durations in ms.

    Under a floor, ``min_precision`` or ``min_recall``, the night withdraws the segment. ``weight`` and ``priority`` say nothing of
    who is a member: they tell segments of one user apart when a featured listing is chosen.
    """

    name: str
    when: Condition
    window: int
    enter: float
    exit: float
    min_views: int
    min_days: int
    half_life: int | None
    prior_views: float
    prior_share: float
    min_precision: float | None = None
    min_recall: float | None = None
    weight: float = 1.0
    priority: int = 0


class RuleSet(NamedTuple):
    """The segments of one version of the rules."""

    version: int
    rules: tuple[Rule, ...]


def attributes_of(condition: Condition) -> frozenset[str]:
    """The attributes that a condition looks at."""
    if isinstance(condition, Equals | Band):
        return frozenset({condition.attribute})
    if isinstance(condition, Not):
        return attributes_of(condition.condition)
    return frozenset().union(*map(attributes_of, condition.conditions))


class _Field(NamedTuple):
    parse: Callable[[Node, str], Any]
    default: Any


def parse_rules(text: str | bytes, catalogue: Catalogue, name: str) -> RuleSet:
    """The rule set in a YAML text; ``RulesError`` names file, place, value and what would be right."""
    root = safe_yaml.load(text, name)
    body = _mapping(root, "rules", {"version", "defaults", "segments"})
    for key in ("version", "segments"):
        if key not in body:
            msg = f"{root.place}: {key} is missing, must be given"
            raise RulesError(msg)
    version = _whole(body["version"], "version")
    defaults_node = body.get("defaults")
    defaults = {key: field.default for key, field in _FIELDS.items()}
    if defaults_node is not None:
        given = _mapping(defaults_node, "defaults", set(_FIELDS))
        defaults |= {key: _FIELDS[key].parse(node, f"defaults.{key}") for key, node in given.items()}
    segments = body["segments"].value
    if not isinstance(segments, list) or not 0 < len(segments) <= MAX_SEGMENTS:
        raise body["segments"].fault("segments", f"must be a list of 1 to {MAX_SEGMENTS} segments")
    rules: dict[str, Rule] = {}
    for index, node in enumerate(segments):
        rule = _rule(node, f"segments[{index}]", defaults, catalogue)
        if rule.name in rules:
            msg = f"{node.place}: segments[{index}].name == {rule.name!r}, must be unique"
            raise RulesError(msg)
        rules[rule.name] = rule
    return RuleSet(version, tuple(rules.values()))


def _rule(node: Node, path: str, defaults: dict[str, Any], catalogue: Catalogue) -> Rule:
    body = _mapping(node, path, {"name", "when", *_FIELDS})
    for key in ("name", "when"):
        if key not in body:
            msg = f"{node.place}: {path}.{key} is missing, must be given"
            raise RulesError(msg)
    name = body["name"].value
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise body["name"].fault(f"{path}.name", "must be lower_snake_case, at most 63 characters")
    when = parse_condition(body["when"], f"{path}.when", catalogue)
    values = defaults | {key: field.parse(body[key], f"{path}.{key}") for key, field in _FIELDS.items() if key in body}
    if values["exit"] > values["enter"]:
        place = body.get("exit", body.get("enter", node)).place
        msg = f"{place}: {path}.exit == {values['exit']}, must be at most enter == {values['enter']}"
        raise RulesError(msg)
    return Rule(name, when, **values)


def parse_condition(node: Node, path: str, catalogue: Catalogue) -> Condition:
    """The condition that a node holds; ``RulesError`` names place, ``path``, value and what would be right.

    >>> from schemas.catalogue import parse_catalogue
    >>> catalogue = parse_catalogue("attributes: {price: {kind: number}}", "attributes.yaml")
    >>> parse_condition(safe_yaml.load("price: [1, 2]", "when.yaml"), "when", catalogue)
    Equals(attribute='price', values=frozenset({1.0, 2.0}))
    """
    return _condition(node, path, catalogue, [MAX_CONDITIONS])


def _condition(node: Node, path: str, catalogue: Catalogue, budget: list[int]) -> Condition:
    if not isinstance(node.value, dict) or not node.value:
        raise node.fault(path, "must be a mapping of attributes, all, any or not, and not empty")
    parts: list[Condition] = []
    for key, child in node.value.items():
        budget[0] -= 1
        if budget[0] < 0:
            msg = f"{child.place}: {path}: more than {MAX_CONDITIONS} conditions, must be at most {MAX_CONDITIONS}"
            raise RulesError(msg)
        below = f"{path}.{key}"
        if key == "not":
            parts.append(Not(_condition(child, below, catalogue, budget)))
        elif key in _COMBINATIONS:
            if not isinstance(child.value, list) or not child.value:
                raise child.fault(below, "must be a list of conditions, and not empty")
            inner = tuple(_condition(item, f"{below}[{i}]", catalogue, budget) for i, item in enumerate(child.value))
            parts.append(All(inner) if key == "all" else Any_(inner))
        elif key in catalogue.attributes:
            parts.append(_attribute_condition(child, below, catalogue.attributes[key]))
        else:
            msg = f"{child.place}: {path}: attribute == {shown(key)}, must be one of {', '.join(sorted(catalogue.attributes))}"
            raise RulesError(msg)
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _attribute_condition(node: Node, path: str, attribute: Attribute) -> Condition:
    if isinstance(node.value, dict):
        if attribute.kind != "number":
            raise node.fault(path, f"must be a value or a list: {attribute.name} is a category, bands are for numbers")
        bounds = _mapping(node, path, set(_BAND_KEYS))
        if not bounds:
            raise node.fault(path, f"must have at least one of {', '.join(_BAND_KEYS)}")
        return Band(attribute.name, **{key: _number(child, f"{path}.{key}") for key, child in bounds.items()})
    items = node.value if isinstance(node.value, list) else [node]
    if not items:
        raise node.fault(path, "must not be an empty list")
    if attribute.kind == "number":
        return Equals(attribute.name, frozenset(_number(item, path) for item in items))
    return Equals(attribute.name, frozenset(_category(item, path, attribute) for item in items))


def _category(node: Node, path: str, attribute: Attribute) -> str:
    if not isinstance(node.value, str):
        raise node.fault(path, "must be text (put it in quotes)")
    if attribute.values and node.value not in attribute.values:
        raise node.fault(path, f"must be one of {', '.join(sorted(attribute.values))}")
    return node.value


def _mapping(node: Node, path: str, keys: set[str]) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise node.fault(path, f"must be a mapping with the keys {', '.join(sorted(keys))}")
    for key, child in node.value.items():
        if key not in keys:
            raise child.fault(f"{path}.{key}", f"must be absent: the keys are {', '.join(sorted(keys))}")
    return node.value


def _number(node: Node, path: str) -> float:
    if isinstance(node.value, bool) or not isinstance(node.value, int | float):
        raise node.fault(path, "must be a number")
    return float(node.value)


def _whole(node: Node, path: str) -> int:
    if isinstance(node.value, bool) or not isinstance(node.value, int) or node.value < 1:
        raise node.fault(path, "must be a whole number, at least 1")
    return node.value


def _share(node: Node, path: str) -> float:
    number = _number(node, path)
    if not 0 < number <= 1:
        raise node.fault(path, "must be above 0 and at most 1")
    return number


def _prior_share(node: Node, path: str) -> float:
    number = _number(node, path)
    if not 0 <= number <= 1:
        raise node.fault(path, "must be within 0 and 1")
    return number


def _prior_views(node: Node, path: str) -> float:
    number = _number(node, path)
    if not 0 <= number <= 1e6:
        raise node.fault(path, "must be within 0 and 1000000")
    return number


def _weight(node: Node, path: str) -> float:
    number = _number(node, path)
    if not 0 < number <= MAX_WEIGHT:
        raise node.fault(path, "must be above 0 and at most 1000000")
    return number


def _priority(node: Node, path: str) -> int:
    if isinstance(node.value, bool) or not isinstance(node.value, int) or abs(node.value) > MAX_PRIORITY:
        raise node.fault(path, "must be a whole number within -1000 and 1000")
    return node.value


def _floor(node: Node, path: str) -> float | None:
    return None if node.value is None else _prior_share(node, path)


def _duration(node: Node, path: str) -> int:
    try:
        if not isinstance(node.value, str):
            raise ValueError  # noqa: TRY301
        return parse_duration(node.value)
    except ValueError:
        raise node.fault(path, "must be a number with a unit, such as 90s, 15m, 36h or 10d") from None


def _window(node: Node, path: str) -> int:
    length = _duration(node, path)
    if not 0 < length <= MAX_WINDOW_MS:
        raise node.fault(path, "must be above 0 and at most 10d")
    return length


def _half_life(node: Node, path: str) -> int | None:
    if node.value is None:
        return None
    length = _duration(node, path)
    if length < MIN_HALF_LIFE_MS:
        raise node.fault(path, "must be null or at least 1s")
    return length


_FIELDS: Final[dict[str, _Field]] = {
    "window": _Field(_window, MAX_WINDOW_MS),
    "enter": _Field(_share, 0.5),
    "exit": _Field(_share, 0.4),
    "min_views": _Field(_whole, 5),
    "min_days": _Field(_whole, 1),
    "half_life": _Field(_half_life, None),
    "prior_views": _Field(_prior_views, 0.0),
    "prior_share": _Field(_prior_share, 0.0),
    "min_precision": _Field(_floor, None),
    "min_recall": _Field(_floor, None),
    "weight": _Field(_weight, 1.0),
    "priority": _Field(_priority, 0),
}
