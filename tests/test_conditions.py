"""Conditions against the reference, and the table of matches that remembers them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.rules import Band, Condition, Equals, attributes_of, parse_rules
from schemas.view import pack_attributes
from tests import reference
from tests.strategies import CATALOGUE, Spec, attributes, conditions
from transforms import conditions as module
from transforms.conditions import Categories, MatchTable, bits_of, predicate_of


def condition_of(spec: Spec) -> Condition:
    return parse_rules(json.dumps({"version": 1, "segments": [{"name": "a", "when": spec}]}), CATALOGUE, "r").rules[0].when


@given(conditions(), attributes())
def test_a_condition_holds_as_in_the_reference(spec: Spec, view: dict[str, Any]) -> None:
    assert predicate_of(condition_of(spec))(view) is reference.matches(spec, view)


@pytest.mark.parametrize(
    ("band", "inside", "outside"),
    [
        (Band("price", gte=5), [5.0, 6.0], [4.999]),
        (Band("price", gt=5), [5.001], [5.0, 4.0]),
        (Band("price", lte=5), [5.0, -1.0], [5.001]),
        (Band("price", lt=5), [4.999], [5.0, 6.0]),
        (Band("price", gte=5, lt=9), [5.0, 8.999], [9.0, 4.0]),
    ],
)
def test_a_band_has_its_ends_in_or_out(band: Band, inside: list[float], outside: list[float]) -> None:
    holds = predicate_of(band)
    assert [holds({"price": price}) for price in inside + outside] == [True] * len(inside) + [False] * len(outside)


@pytest.mark.parametrize("view", [{}, {"make": "x"}])
def test_a_condition_on_an_attribute_that_the_view_lacks_is_false_and_its_not_true(view: Mapping[str, str]) -> None:
    for spec in ({"fuel_type": "lpg"}, {"price": {"lt": 5}}, {"price": {"gte": -1e9}}, {"year": [0, 2020]}):
        assert not predicate_of(condition_of(spec))(view)
        assert predicate_of(condition_of({"not": spec}))(view)


def test_conditions_of_the_same_parts_are_not_the_same() -> None:
    inner = [{"fuel_type": "electric"}, {"price": {"gte": 5}}]
    specs: list[Spec] = [{"all": inner}, {"any": inner}, {"not": {"not": {"not": inner[0]}}}, {"all": [{"all": inner[:1]}]}]
    assert len({condition_of(spec) for spec in specs}) == len(specs)
    only_electric = pack_attributes({"fuel_type": "electric"})
    assert MatchTable(list(dict.fromkeys(map(condition_of, specs)))).bits_of([only_electric]).tolist() == [[0b1010]]


def test_the_table_gives_each_view_its_matches_however_often_it_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 5)
    table = MatchTable([Equals("year", frozenset({float(year)})) for year in range(3)])
    for first in range(40):
        packed = [pack_attributes({"year": float(year % 7)}) for year in range(first, first + 4)]
        matched = [[bool(int(bits[0]) >> rule & 1) for rule in range(3)] for bits in table.bits_of(packed + packed[:2])]
        assert matched == [[year % 7 == rule for rule in range(3)] for year in [*range(first, first + 4), first, first + 1]]


def test_the_table_grows_past_its_first_size() -> None:
    table = MatchTable([Equals("year", frozenset({4_999.0}))])
    bits = table.bits_of([pack_attributes({"year": float(year)}) for year in range(5_000)])
    assert bits[:, 0].tolist() == [0] * 4_999 + [1]


@given(specs=st.lists(conditions(), min_size=1, max_size=5), views=st.lists(attributes(), max_size=12), repeats=st.integers(1, 30))
def test_columns_match_as_single_views_do(specs: list[Spec], views: list[dict[str, str | float]], repeats: int) -> None:
    asked = [condition_of(spec) for spec in specs] * repeats  # over 64 need a second word
    fuels = sorted({str(view["fuel_type"]) for view in views if "fuel_type" in view})
    codes = np.array([fuels.index(str(view["fuel_type"])) if "fuel_type" in view else -1 for view in views], np.int32)
    prices = np.array([view.get("price", math.nan) for view in views], np.float64)
    bits = bits_of(asked, {"fuel_type": Categories(codes, fuels), "price": prices}, len(views))
    predicates = [predicate_of(condition) for condition in asked]
    expected = [[predicate(view) for predicate in predicates] for view in views]
    assert [[bool(int(row[c // 64]) >> c % 64 & 1) for c in range(len(asked))] for row in bits] == expected
    if views:
        assert (MatchTable(asked).bits_of([pack_attributes(view) for view in views]) == bits).all()
    assert set().union(*map(attributes_of, asked)) <= {"fuel_type", "price"}
