"""The attribute catalogue: which attributes of a view are kept, their kind and their values. An allow-list.

Attributes that tell of people, not of vehicles, are refused (``schemas.sensitive``), unless ``allow_sensitive`` gives a reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

from schemas import safe_yaml
from schemas.errors import EventError, RulesError, shown
from schemas.sensitive import sensitive_name, sensitive_value

Kind = Literal["category", "number"]
AttributeValue = str | float

MAX_CATEGORY_BYTES: Final = 256
MAX_ATTRIBUTES: Final = 64
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_RESERVED: Final = frozenset({"all", "any", "not"})
_ALLOWING: Final = 'if it must be kept, say why: allow_sensitive: "the reason"'


class Attribute(NamedTuple):
    """One attribute of a view; ``values`` lists what a category may be, empty when it may be anything."""

    name: str
    kind: Kind
    unit: str | None
    values: frozenset[str]


class Catalogue(NamedTuple):
    """The attributes by name; an attribute outside it is dropped and counted."""

    attributes: Mapping[str, Attribute]


class Kept(NamedTuple):
    """What the catalogue lets through of an event's attributes, and how many it dropped."""

    attributes: dict[str, AttributeValue]
    unknown_attributes: int
    unknown_values: int


def parse_catalogue(text: str | bytes, name: str) -> Catalogue:
    """The catalogue in a YAML text; ``RulesError`` names file, place, value and what would be right."""
    root = safe_yaml.load(text, name)
    body = root.value.get("attributes") if isinstance(root.value, dict) else None
    if not isinstance(root.value, dict) or set(root.value) != {"attributes"} or body is None or not isinstance(body.value, dict):
        raise root.fault("catalogue", "must be a mapping with the one key attributes, itself a mapping of names")
    if not 0 < len(body.value) <= MAX_ATTRIBUTES:
        msg = f"{body.place}: number of attributes == {len(body.value)}, must be between 1 and {MAX_ATTRIBUTES}"
        raise RulesError(msg)
    return Catalogue({key: _attribute(key, node) for key, node in body.value.items()})


def _attribute(name: str, node: safe_yaml.Node) -> Attribute:
    path = f"attributes.{name}"
    if not _NAME.fullmatch(name) or name in _RESERVED:
        msg = f"{node.place}: attribute name == {shown(name)}, must be lower_snake_case and none of {sorted(_RESERVED)}"
        raise RulesError(msg)
    if not isinstance(node.value, dict):
        raise node.fault(path, "must be a mapping with kind, and optionally unit and values")
    for key, child in node.value.items():
        if key not in {"kind", "unit", "values", "allow_sensitive"}:
            raise child.fault(f"{path}.{key}", "must be absent: the keys are kind, unit, values, allow_sensitive")
    kind = node.value["kind"].value if "kind" in node.value else None
    if kind != "category" and kind != "number":
        raise node.value.get("kind", node).fault(f"{path}.kind", "must be category or number")
    unit = node.value.get("unit")
    if unit is not None and not isinstance(unit.value, str):
        raise unit.fault(f"{path}.unit", "must be text")
    values = node.value.get("values")
    if values is not None and (kind == "number" or not isinstance(values.value, list) or not values.value):
        raise values.fault(f"{path}.values", "must be a list of categories, and only a category has one")
    texts = []
    for item in values.value if values is not None and isinstance(values.value, list) else []:
        if not isinstance(item.value, str):
            raise item.fault(f"{path}.values", "must be text (put it in quotes)")
        texts.append(item.value)
    _check_sensitive(name, node, values)
    return Attribute(name, kind, None if unit is None else str(unit.value), frozenset(texts))


def _check_sensitive(name: str, node: safe_yaml.Node, values: safe_yaml.Node | None) -> None:
    """Refuse what tells of people, but where the catalogue gives a reason why it may."""
    assert isinstance(node.value, dict)
    allowed = node.value.get("allow_sensitive")
    if allowed is not None:
        if not isinstance(allowed.value, str) or not allowed.value.strip():
            raise allowed.fault(f"attributes.{name}.allow_sensitive", "must be text: the reason why it may be kept")
        return
    if (told := sensitive_name(name)) is not None:
        msg = f"{node.place}: attribute name == {shown(name)}, must not tell of people ({told}); {_ALLOWING}"
        raise RulesError(msg)
    for item in values.value if values is not None and isinstance(values.value, list) else []:
        if (told := sensitive_value(str(item.value))) is not None:
            raise item.fault(f"attributes.{name}.values", f"must not tell of people ({told}); {_ALLOWING}")


def keep_attributes(catalogue: Catalogue, attributes: Mapping[str, Any]) -> Kept:
    """What of an event's attributes the catalogue keeps; numbers become floats, ``None`` is absence.

    Unknown attributes and unknown values of a closed category are dropped and counted.
    A value of the wrong kind raises ``EventError``.
    """
    kept: dict[str, AttributeValue] = {}
    unknown_attributes = unknown_values = 0
    known = catalogue.attributes
    for name, value in attributes.items():
        attribute = known.get(name)
        if attribute is None:
            unknown_attributes += 1
        elif value is None:
            continue
        elif attribute.kind == "number":
            if type(value) is not int and type(value) is not float:
                reason, must = "bad_attribute", f"must be a number, is {type(value).__name__}"
                raise EventError(reason, f"attributes.{name}", f"attributes.{name}, {must}")
            number = _float_of(value)
            if not math.isfinite(number):
                reason, message = "not_finite", f"attributes.{name}, must be a finite number"
                raise EventError(reason, f"attributes.{name}", message)
            kept[name] = number
        elif type(value) is not str:
            reason, must = "bad_attribute", f"must be text, is {type(value).__name__}"
            raise EventError(reason, f"attributes.{name}", f"attributes.{name}, {must}")
        elif len(value) > MAX_CATEGORY_BYTES or len(value.encode()) > MAX_CATEGORY_BYTES:
            reason, must = "bad_attribute", f"must be at most {MAX_CATEGORY_BYTES} bytes of UTF-8"
            raise EventError(reason, f"attributes.{name}", f"attributes.{name}, {must}")
        elif attribute.values and value not in attribute.values:
            unknown_values += 1
        else:
            kept[name] = value
    return Kept(kept, unknown_attributes, unknown_values)


def _float_of(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf
