"""The filters that a user set in a search: plain JSON data in the language of the rules' ``when``, checked and bounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from schemas.catalogue import MAX_CATEGORY_BYTES, Catalogue
from schemas.errors import EXIT_UNUSABLE_INPUT, ForecourtError, RulesError, shown
from schemas.rules import Condition, attributes_of, parse_condition
from schemas.safe_yaml import Node

MAX_FILTER_DEPTH: Final = 16
MAX_FILTER_VALUES: Final = 1_024  # mappings, lists and what is in them, all counted


class FilterError(ForecourtError):
    """The asker's fault: filters that can't be used."""

    exit_status = EXIT_UNUSABLE_INPUT


class Filters(NamedTuple):
    """What the user wants to see: ``condition`` (``None``: anything) and the ``attributes`` that it looks at, sorted."""

    condition: Condition | None
    attributes: tuple[str, ...]


NO_FILTERS: Final = Filters(None, ())


def parse_filters(filters: Mapping[str, Any], catalogue: Catalogue, place: str = "filters") -> Filters:
    """The filters in plain JSON data; ``FilterError`` names place, value and what would be right. None is no filter.

    >>> from schemas.catalogue import parse_catalogue
    >>> catalogue = parse_catalogue("attributes: {make: {kind: category}, price: {kind: number}}", "attributes.yaml")
    >>> parse_filters({"price": {"lt": 20_000}}, catalogue).attributes
    ('price',)
    >>> parse_filters({"colour": "red"}, catalogue)
    Traceback (most recent call last):
    schemas.filters.FilterError: filters: attribute == 'colour', must be one of make, price
    """
    if not isinstance(filters, Mapping):
        msg = f"{place} == {shown(filters)}, must be a mapping of attributes, all, any or not"
        raise FilterError(msg)
    if not filters:
        return NO_FILTERS
    root = _node(filters, place, 1, [MAX_FILTER_VALUES])
    try:
        condition = parse_condition(root, place, catalogue)
    except RulesError as error:
        raise FilterError(str(error).removeprefix(f"{root.place}: ")) from error
    return Filters(condition, tuple(sorted(attributes_of(condition))))


def _node(value: Any, path: str, depth: int, budget: list[int]) -> Node:
    """The value as the rules' parser takes it. The places of all nodes are empty: JSON data has no lines, the path says it all."""
    budget[0] -= 1
    if budget[0] < 0:
        msg = f"{path}: more than {MAX_FILTER_VALUES} values, must be at most {MAX_FILTER_VALUES}"
        raise FilterError(msg)
    if depth > MAX_FILTER_DEPTH:
        msg = f"{path}: nesting == {depth}, must be at most {MAX_FILTER_DEPTH} levels"
        raise FilterError(msg)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                msg = f"{path}: key == {shown(key)}, must be text"
                raise FilterError(msg)
        return Node({key: _node(child, f"{path}.{_key(key)}", depth + 1, budget) for key, child in value.items()}, "")
    if isinstance(value, list | tuple):
        return Node([_node(child, f"{path}[{index}]", depth + 1, budget) for index, child in enumerate(value)], "")
    return Node(_scalar(value, path), "")


def _key(key: str) -> str:
    """The key as a path shows it: itself where it is a name, else cut and quoted."""
    return key if key.isidentifier() and len(key) <= 63 else shown(key)


def _scalar(value: Any, path: str) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool):
        return value  # told to the asker by the rules' parser, which knows what belongs here
    if isinstance(value, str):
        if not _is_text(value):
            msg = f"{path} == {shown(value)}, must be at most {MAX_CATEGORY_BYTES} bytes of UTF-8"
            raise FilterError(msg)
        return value
    if isinstance(value, int | float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            msg = f"{path} == {number if isinstance(value, float) else 'an integer beyond 1e308'}, must be a finite number"
            raise FilterError(msg)
        return number
    msg = f"{path} is {type(value).__name__}, must be JSON: a mapping, a list, text or a number"
    raise FilterError(msg)


def _is_text(value: str) -> bool:
    try:
        return len(value) <= MAX_CATEGORY_BYTES and len(value.encode()) <= MAX_CATEGORY_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
