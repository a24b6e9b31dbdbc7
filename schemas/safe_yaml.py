"""YAML as plain data with places: no aliases, tags, duplicate keys or ``no``→False, bounded in size and depth.

Scalars follow the YAML 1.2 core schema, so ``no``, ``on``, ``1:30`` and ``2024-01-01`` stay text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

import yaml

from schemas.errors import RulesError, shown

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?\d{1,18}", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?", re.ASCII)
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Scalar = str | int | float | bool | None


class Node(NamedTuple):
    """A value with the place it stands at; mappings are ``dict[str, Node]``, sequences ``list[Node]``."""

    value: dict[str, Node] | list[Node] | Scalar
    place: str  # "file:line:column"

    def fault(self, path: str, must: str) -> RulesError:
        """The error that says: at this place, ``path == value, must be …``."""
        plain = plain_of(self)
        return RulesError(f"{self.place}: {path} == {shown(plain)}, {must}")


def load(text: str | bytes, name: str) -> Node:
    """The one document in ``text``; ``name`` is the file's, for the places in errors."""
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MAX_BYTES:
        msg = f"{name}: size == {len(data)} bytes, must be at most {MAX_BYTES}"
        raise RulesError(msg)
    try:
        events = yaml.parse(data.decode("utf-8"), Loader=_LOADER)
        root = _document(events, name)
    except UnicodeDecodeError as error:
        msg = f"{name}: byte {error.start} == {shown(data[error.start : error.start + 1])}, must be UTF-8 text"
        raise RulesError(msg) from error
    except yaml.YAMLError as error:
        mark: yaml.Mark | None = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        msg = f"{place}: must be valid YAML: {what}"
        raise RulesError(msg) from error
    return root


def plain_of(node: Node) -> object:
    """The node as plain Python data, places dropped."""
    if isinstance(node.value, dict):
        return {key: plain_of(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain_of(child) for child in node.value]
    return node.value


def _document(events: Iterator[yaml.Event], name: str) -> Node:
    root: Node | None = None
    for event in events:
        if isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentEndEvent):
            continue
        if isinstance(event, yaml.DocumentStartEvent):
            if root is not None:
                msg = f"{_place(event, name)}: a second document, must be one document a file"
                raise RulesError(msg)
            continue
        root = _node(event, events, name, 1)
    if root is None:
        msg = f"{name}: empty, must hold one YAML document"
        raise RulesError(msg)
    return root


def _place(event: yaml.Event, name: str) -> str:
    mark = event.start_mark
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name


def _node(event: yaml.Event, events: Iterator[yaml.Event], name: str, depth: int) -> Node:
    place = _place(event, name)
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        msg = f"{place}: an anchor or alias, must be written out (aliases are not read)"
        raise RulesError(msg)
    if tag := getattr(event, "tag", None):
        msg = f"{place}: tag == {shown(tag)}, must be absent (tags are not read)"
        raise RulesError(msg)
    if depth > MAX_DEPTH:
        msg = f"{place}: nesting == {depth}, must be at most {MAX_DEPTH} levels"
        raise RulesError(msg)
    if isinstance(event, yaml.ScalarEvent):
        return Node(_scalar(event, place), place)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(child := next(events), yaml.SequenceEndEvent):
            items.append(_node(child, events, name, depth + 1))
        return Node(items, place)
    mapping: dict[str, Node] = {}
    while not isinstance(child := next(events), yaml.MappingEndEvent):
        key = _node(child, events, name, depth + 1)
        if not isinstance(key.value, str):
            raise key.fault("key", "must be text")
        if key.value in mapping:
            raise key.fault("key", f"must be unique, it stands at {mapping[key.value].place} already")
        mapping[key.value] = _node(next(events), events, name, depth + 1)._replace(place=key.place)
    return Node(mapping, place)


def _scalar(event: yaml.ScalarEvent, place: str) -> Scalar:
    text: str = event.value
    if not event.implicit[0]:  # quoted
        return text
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            msg = f"{place}: {text}, must be a finite number"
            raise RulesError(msg)
        return number
    return text
