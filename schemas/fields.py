"""The fields of a YAML mapping: each with what parses it and its default. Faults say place, value and what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from schemas.errors import RulesError, shown
from schemas.instants import parse_instant
from schemas.safe_yaml import Node

MAX_WHOLE: Final = 10**15
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_NO_DEFAULT: Final = object()


class Field(NamedTuple):
    """What parses a field's node (given its path); without a default the field must be given."""

    parse: Callable[[Node, str], Any]
    default: Any = _NO_DEFAULT


def fault(node: Node, path: str, must: str) -> RulesError:
    """The error that says: at the node's place, ``path == value, must be …``."""
    return node.fault(path, must)


def in_effect(node: Node, path: str, key: str, value: object, must: str) -> RulesError:
    """The error about a value that may be a default: then it stands nowhere in the file."""
    return RulesError(f"{child_of(node, key).place}: {path}.{key} == {shown(value)}, {must}")


def child_of(node: Node, key: str) -> Node:
    """What stands under a key, or where it would stand."""
    return node.value.get(key, node) if isinstance(node.value, dict) else node


def items_of(node: Node, key: str) -> list[Node]:
    """The nodes of the list under a key; none when there is no list."""
    value = child_of(node, key).value
    return value if isinstance(value, list) else []


def values_of(node: Node, path: str, fields: Mapping[str, Field]) -> dict[str, Any]:
    """A mapping's values by the fields it may have; unknown ones and missing ones are faults."""
    if not isinstance(node.value, dict):
        raise fault(node, path, f"must be a mapping with the keys {', '.join(fields)}")
    for key, child in node.value.items():
        if key not in fields:
            raise fault(child, f"{path}.{key}", f"must be absent: the keys are {', '.join(fields)}")
    for key, field in fields.items():
        if key not in node.value and field.default is _NO_DEFAULT:
            msg = f"{node.place}: {path}.{key} is missing, must be given"
            raise RulesError(msg)
    return {
        key: field.parse(node.value[key], f"{path}.{key}") if key in node.value else field.default for key, field in fields.items()
    }


def listed(least: int, most: int, what: str) -> Callable[[Node, str], list[Node]]:
    """Parses a list of ``least`` to ``most`` nodes, which it leaves as they are."""

    def parse(node: Node, path: str) -> list[Node]:
        if not isinstance(node.value, list) or not least <= len(node.value) <= most:
            raise fault(node, path, f"must be a list of {least} to {most} {what}")
        return node.value

    return parse


def name(node: Node, path: str) -> str:
    """A name in lower_snake_case."""
    if not isinstance(node.value, str) or not NAME.fullmatch(node.value):
        raise fault(node, path, "must be lower_snake_case, at most 63 characters")
    return node.value


def optional_name(node: Node, path: str) -> str | None:
    """A name, or null."""
    return None if node.value is None else name(node, path)


def one_of(words: tuple[str, ...]) -> Callable[[Node, str], str]:
    """Parses one of some words."""

    def parse(node: Node, path: str) -> str:
        if not isinstance(node.value, str) or node.value not in words:
            raise fault(node, path, f"must be {' or '.join(words)}")
        return node.value

    return parse


def whole(node: Node, path: str) -> int:
    """A whole number from 1."""
    if isinstance(node.value, bool) or not isinstance(node.value, int) or not 1 <= node.value <= MAX_WHOLE:
        raise fault(node, path, "must be a whole number, at least 1")
    return node.value


def flag(node: Node, path: str) -> bool:
    """True or false."""
    if not isinstance(node.value, bool):
        raise fault(node, path, "must be true or false")
    return node.value


def share(node: Node, path: str) -> float:
    """A number from 0 to 1."""
    if isinstance(node.value, bool) or not isinstance(node.value, int | float) or not 0 <= node.value <= 1:
        raise fault(node, path, "must be a number from 0 to 1")
    return float(node.value)


def instant(node: Node, path: str) -> int | None:
    """An instant (RFC 3339) in ms UTC, or null."""
    if node.value is None:
        return None
    try:
        return parse_instant(node.value if isinstance(node.value, str) else "")
    except ValueError as error:
        must = str(error)
        raise fault(node, path, must) from error
