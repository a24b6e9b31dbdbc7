"""The attribute catalogue: what it keeps of an event, what it drops and counts, and what its author is told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalogue import MAX_ATTRIBUTES, Attribute, Catalogue, Kept, keep_attributes, parse_catalogue
from schemas.errors import EventError, RulesError
from tests.strategies import CATALOGUE

SMALL = parse_catalogue(
    "attributes: {make: {kind: category}, fuel: {kind: category, values: [gas, lpg]}, price: {kind: number}}", "c"
)


def test_an_attribute_has_kind_unit_and_values() -> None:
    text = "attributes:\n  fuel: {kind: category, values: [gas, 'no']}\n  price: {kind: number, unit: EUR}\n"
    assert parse_catalogue(text, "c") == Catalogue(
        {
            "fuel": Attribute("fuel", "category", None, frozenset({"gas", "no"})),
            "price": Attribute("price", "number", "EUR", frozenset()),
        }
    )


def test_the_shipped_catalogue_is_one() -> None:
    assert {"make", "fuel_type", "body_type", "price", "mileage", "year"} <= set(CATALOGUE.attributes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "c:1:1: catalogue == [], must be a mapping with the one key attributes"),
        ("a: 1", "c:1:1: catalogue == {'a': 1}, must be a mapping with the one key attributes"),
        ("attributes: [a]", "must be a mapping with the one key attributes, itself a mapping of names"),
        ("attributes: {}", f"c:1:1: number of attributes == 0, must be between 1 and {MAX_ATTRIBUTES}"),
        ("attributes: {Make: {kind: category}}", "c:1:14: attribute name == 'Make', must be lower_snake_case"),
        (
            "attributes: {any: {kind: category}}",
            "attribute name == 'any', must be lower_snake_case and none of ['all', 'any', 'not']",
        ),
        ("attributes:\n  make: category", "c:2:3: attributes.make == 'category', must be a mapping with kind"),
        ("attributes: {make: {}}", "c:1:14: attributes.make.kind == {}, must be category or number"),
        ("attributes: {make: {kind: text}}", "c:1:21: attributes.make.kind == 'text', must be category or number"),
        (
            "attributes: {make: {kind: category, size: 1}}",
            "c:1:37: attributes.make.size == 1, must be absent: the keys are kind, unit",
        ),
        ("attributes: {p: {kind: number, unit: 1}}", "attributes.p.unit == 1, must be text"),
        ("attributes: {p: {kind: number, values: [a]}}", "attributes.p.values == ['a'], must be a list of categories, and only a"),
        ("attributes: {p: {kind: category, values: []}}", "attributes.p.values == [], must be a list of categories"),
        ("attributes: {p: {kind: category, values: x}}", "attributes.p.values == 'x', must be a list of categories"),
        ("attributes: {p: {kind: category, values: [a, 1]}}", "c:1:46: attributes.p.values == 1, must be text (put it in quotes)"),
        ("attributes: {p: {kind: number, kind: category}}", "c:1:32: key == 'kind', must be unique, it stands at c:1:18 already"),
    ],
)
def test_each_error_has_place_value_and_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(RulesError, match=re.escape(message)):
        parse_catalogue(text, "c")


def test_the_number_of_attributes_is_bounded() -> None:
    names = [f"a{i}: {{kind: number}}" for i in range(MAX_ATTRIBUTES + 1)]
    parse_catalogue(f"attributes: {{{', '.join(names[1:])}}}", "c")
    with pytest.raises(RulesError, match="number of attributes == 65, must be between 1 and 64"):
        parse_catalogue(f"attributes: {{{', '.join(names)}}}", "c")


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ({}, Kept({}, 0, 0)),
        ({"make": "Škoda", "price": 7}, Kept({"make": "Škoda", "price": 7.0}, 0, 0)),
        ({"make": None, "price": None}, Kept({}, 0, 0)),
        ({"colour": "red", "vin": {"deep": 1}}, Kept({}, 2, 0)),
        ({"fuel": "coal", "make": ""}, Kept({"make": ""}, 0, 1)),
        ({"price": -0.0, "fuel": "gas"}, Kept({"price": 0.0, "fuel": "gas"}, 0, 0)),
        ({"make": "é" * 128}, Kept({"make": "é" * 128}, 0, 0)),
    ],
)
def test_what_is_kept_and_what_is_counted(attributes: dict[str, Any], kept: Kept) -> None:
    assert keep_attributes(SMALL, attributes) == kept


@pytest.mark.parametrize(
    ("attributes", "reason", "message"),
    [
        ({"price": "7"}, "bad_attribute", "attributes.price, must be a number, is str"),
        ({"price": True}, "bad_attribute", "attributes.price, must be a number, is bool"),
        ({"price": [7]}, "bad_attribute", "attributes.price, must be a number, is list"),
        ({"price": float("nan")}, "not_finite", "attributes.price, must be a finite number"),
        ({"price": float("-inf")}, "not_finite", "attributes.price, must be a finite number"),
        ({"price": 10**400}, "not_finite", "attributes.price, must be a finite number"),
        ({"make": 7}, "bad_attribute", "attributes.make, must be text, is int"),
        ({"make": {}}, "bad_attribute", "attributes.make, must be text, is dict"),
        ({"make": "x" * 257}, "bad_attribute", "attributes.make, must be at most 256 bytes of UTF-8"),
        ({"make": "é" * 129}, "bad_attribute", "attributes.make, must be at most 256 bytes of UTF-8"),
    ],
)
def test_a_value_of_the_wrong_kind_is_the_senders_fault(attributes: dict[str, Any], reason: str, message: str) -> None:
    with pytest.raises(EventError, match=f"^{re.escape(message)}$") as caught:
        keep_attributes(SMALL, attributes)
    assert (caught.value.reason, caught.value.field) == (reason, f"attributes.{next(iter(attributes))}")


@given(st.binary(max_size=120) | st.text("attributeskindm: {}[],\n", max_size=60).map(str.encode))
def test_any_bytes_are_a_catalogue_or_a_rules_error(data: bytes) -> None:
    try:
        parse_catalogue(data, "c")
    except RulesError as error:
        assert str(error).startswith("c:")  # noqa: PT017
