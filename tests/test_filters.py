"""Filters from plain JSON data: the language of the rules, every fault named, everything bounded."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.filters import MAX_FILTER_DEPTH, MAX_FILTER_VALUES, NO_FILTERS, FilterError, Filters, parse_filters
from schemas.rules import MAX_CONDITIONS, All, Any_, Band, Equals, Not, parse_rules
from tests.strategies import CATALOGUE, Spec, conditions


def parse(filters: Any) -> Filters:
    return parse_filters(filters, CATALOGUE)


def test_filters_are_read_in_the_language_of_the_rules() -> None:
    found = parse({"price": {"gte": 5_000, "lt": 2e4}, "not": {"any": [{"make": ["Kia", "BMW"]}, {"fuel_type": "diesel"}]}})
    makers, fuel = Equals("make", frozenset({"Kia", "BMW"})), Equals("fuel_type", frozenset({"diesel"}))
    assert found.condition == All((Band("price", gte=5_000.0, lt=20_000.0), Not(Any_((makers, fuel)))))
    assert found.attributes == ("fuel_type", "make", "price")


@given(conditions())
def test_what_a_rule_says_a_filter_says(spec: Spec) -> None:
    (rule,) = parse_rules(json.dumps({"version": 1, "segments": [{"name": "a", "when": spec}]}), CATALOGUE, "r.yaml").rules
    assert parse(json.loads(json.dumps(spec))).condition == rule.when


def test_an_empty_mapping_is_no_filter() -> None:
    assert parse({}) == NO_FILTERS == Filters(None, ())


def nested(levels: int) -> dict[str, Any]:
    """A condition whose innermost value lies ``levels`` levels deep."""
    filters: dict[str, Any] = {"make": "Kia"}
    for _ in range(levels - 2):
        filters = {"not": filters}
    return filters


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "filters == [], must be a mapping of attributes, all, any or not"),
        (None, "filters == None, must be a mapping"),
        ("make", "filters == 'make', must be a mapping"),
        (
            {"colour": "red"},
            "filters: attribute == 'colour', must be one of body_type, fuel_type, make, mileage, model",
        ),
        ({"any": [{"make": "x"}, {"colour": 1}]}, "filters.any[1]: attribute == 'colour', must be one of"),
        ({"a\nb" * 99: 1}, r"filters: attribute == 'a\nba\n"),
        ({"fuel_type": "coal"}, "filters.fuel_type == 'coal', must be one of cng, diesel"),
        ({"fuel_type": 3}, "filters.fuel_type == 3.0, must be text"),
        ({"make": None}, "filters.make == None, must be text"),
        ({"make": []}, "filters.make == [], must not be an empty list"),
        ({"make": {"gte": 3}}, "filters.make == {'gte': 3.0}, must be a value or a list: make is a category"),
        ({"make": "x" * 257}, "must be at most 256 bytes of UTF-8"),
        ({"make": "é" * 129}, "must be at most 256 bytes of UTF-8"),
        ({"make": "\ud800"}, r"filters.make == '\ud800', must be at most 256 bytes of UTF-8"),
        ({"price": "cheap"}, "filters.price == 'cheap', must be a number"),
        ({"price": True}, "filters.price == True, must be a number"),
        ({"price": {"lt": False}}, "filters.price.lt == False, must be a number"),
        ({"price": math.nan}, "filters.price == nan, must be a finite number"),
        ({"price": {"lt": math.inf}}, "filters.price.lt == inf, must be a finite number"),
        ({"price": [1, 10**400]}, "filters.price[1] == an integer beyond 1e308, must be a finite number"),
        ({"price": {}}, "filters.price == {}, must have at least one of gte, gt, lte, lt"),
        ({"price": {"max": 3}}, "filters.price.max == 3.0, must be absent: the keys are gt, gte, lt, lte"),
        ({"price": {"lt": b"3"}}, "filters.price.lt is bytes, must be JSON"),
        ({"not": [{"make": "x"}]}, "filters.not == [{'make': 'x'}], must be a mapping of attributes"),
        ({"not": {}}, "filters.not == {}, must be a mapping of attributes, all, any or not, and not empty"),
        ({"all": {"make": "x"}}, "filters.all == {'make': 'x'}, must be a list of conditions"),
        ({1: "x"}, "filters: key == 1, must be text"),
        (nested(MAX_FILTER_DEPTH + 1), ": nesting == 17, must be at most 16 levels"),
        ({"price": list(range(MAX_FILTER_VALUES))}, ": more than 1024 values, must be at most 1024"),
        ({"any": [{"make": "x"}] * MAX_CONDITIONS}, "more than 256 conditions, must be at most 256"),
    ],
)
def test_each_fault_has_place_value_and_what_would_be_right(filters: Any, message: str) -> None:
    with pytest.raises(FilterError, match=re.escape(message)) as raised:
        parse(filters)
    assert str(raised.value).startswith("filters")
    assert len(str(raised.value)) < 600


def test_the_bounds_themselves_are_allowed() -> None:
    assert parse(nested(MAX_FILTER_DEPTH)).attributes == ("make",)
    assert parse({"price": list(range(MAX_FILTER_VALUES - 2))}).attributes == ("price",)
    assert parse({"any": [{"make": "x"}] * (MAX_CONDITIONS - 1)}).attributes == ("make",)
    assert parse({"make": "é" * 128}).attributes == ("make",)


def test_a_cycle_is_refused_like_anything_too_deep() -> None:
    cycle: dict[str, Any] = {}
    cycle["not"] = cycle
    with pytest.raises(FilterError, match="nesting == 17"):
        parse(cycle)


def test_the_place_is_the_callers() -> None:
    with pytest.raises(FilterError, match=r"^body\.filters\.price == 'x', must be a number$"):
        parse_filters({"price": "x"}, CATALOGUE, "body.filters")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["electric", "lpg"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["make", "price", "fuel_type", "all", "any", "not", "gte", "lt", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_data_are_filters_or_a_filter_error(data: Any) -> None:
    try:
        found = parse(data)
    except FilterError as error:
        assert str(error).startswith("filters")  # noqa: PT017
    else:
        assert (found.condition is None) == (not data)
