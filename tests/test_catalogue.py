"""The attribute catalogue: what it keeps of an event, what it drops and counts, and what its author is told."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import forecourt
from pipelines.dead_letters import encode_dead_letter
from schemas.archive_rows import archive_table
from schemas.catalogue import MAX_ATTRIBUTES, Attribute, Catalogue, Kept, keep_attributes, parse_catalogue
from schemas.decoding import Attributes, dead_letter_of, decode_event
from schemas.errors import EventError, RulesError
from schemas.pseudonym import Pseudonyms, pseudonymise, ring_of
from tests.strategies import CATALOGUE
from transforms.changes import change_of

PSEUDONYMS = Pseudonyms(ring_of("a key for tests, not a secret", "tests"))

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
            "c:1:37: attributes.make.size == 1, must be absent: the keys are kind, unit, values, allow_sensitive",
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


SENSITIVE = """
user_email customer_phone_number birth_date birthdate useremail vin licence_plate license_plate_number ip ip_address lat lon
latitude
iban age gender race user_race religion political_party trade_union union_member disability wheelchair_accessible sexual_orientation
dna fingerprint criminal_record first_name name last_name full_name owner_name seller_id user_id contact mail home_address street
postal_code customer_ages nationality ethnic_origin health_status health user_location email2 phones vehicle_owner_age
model_user_name
""".split()
OF_VEHICLES = """
make model model_name trim trim_name race_package race_mode seat_position engine engine_power vehicle_age battery_health seats
first_registration registration_year number_of_owners previous_owners body_type price mileage colour doors fuel_type generation
facelift country_of_origin location city gearbox drive_type emission_class driver_seat_height child_seats id listing_id title
heading latch platform orientation weight voice_control latency saloon rating union_jack_roof
""".split()


@pytest.mark.parametrize("name", SENSITIVE)
def test_an_attribute_that_tells_of_people_is_refused(name: str) -> None:
    with pytest.raises(RulesError, match=re.escape(f"c:2:3: attribute name == {name!r}, must not tell of people (")):
        parse_catalogue(f"attributes:\n  {name}: {{kind: number}}", "c")


@pytest.mark.parametrize("name", OF_VEHICLES)
def test_an_attribute_of_vehicles_is_not(name: str) -> None:
    assert name in parse_catalogue(f"attributes: {{{name}: {{kind: category}}}}", "c").attributes


@pytest.mark.parametrize("value", ["Muslim", "gay", "disabled access", "wheelchair", "female", "trade-union"])
def test_so_is_a_value_that_does(value: str) -> None:
    message = f"c:1:46: attributes.p.values == {value!r}, must not tell of people ("
    with pytest.raises(RulesError, match=re.escape(message)):
        parse_catalogue(f"attributes: {{p: {{kind: category, values: [a, {value}]}}}}", "c")


@pytest.mark.parametrize("value", ["MAN", "Swift", "Street Triple", "people mover", "Iris", "Race", "Union"])
def test_makes_and_models_are_no_such_values(value: str) -> None:
    parse_catalogue(f"attributes: {{p: {{kind: category, values: [{value}]}}}}", "c")


def test_one_that_must_be_kept_says_why() -> None:
    text = "attributes: {{wheelchair: {{kind: category, values: [ramp, wheelchair lift]{}}}}}"
    with pytest.raises(RulesError, match='if it must be kept, say why: allow_sensitive: "the reason"'):
        parse_catalogue(text.format(""), "c")
    assert (
        "wheelchair"
        in parse_catalogue(text.format(', allow_sensitive: "a filter of the search; agreed with the DPO"'), "c").attributes
    )
    for reason in ("true", '" "', "null", "[a]"):
        with pytest.raises(
            RulesError, match=r"attributes\.wheelchair\.allow_sensitive == .*, must be text: the reason why it may be kept"
        ):
            parse_catalogue(text.format(f", allow_sensitive: {reason}"), "c")


def test_rules_check_tells_it_too(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rules.yaml").write_text("version: 1\nsegments: [{name: cheap, when: {price: {lt: 9}}}]\n")
    (tmp_path / "attributes.yaml").write_text("attributes:\n  price: {kind: number}\n  user_email: {kind: category}\n")
    with pytest.raises(
        RulesError, match=r"attributes\.yaml:3:3: attribute name == 'user_email', must not tell of people \(contact\)"
    ):
        forecourt.rules_check(str(tmp_path / "rules.yaml"), str(tmp_path / "attributes.yaml"))


def test_only_what_the_catalogue_has_reaches_rows_archive_and_dead_letters() -> None:
    secret = "ann.smith at example"
    attributes = {"fuel_type": "electric", "price": 7, "email": secret, "nested": {"price": secret}, secret: 1}
    event = {
        "event_id": "e",
        "event_type": "listing_view",
        "event_time": "2026-01-31T12:00:00Z",
        "user_id": "u",
        "attributes": attributes,
    }
    decoded = decode_event(json.dumps(event).encode(), Attributes(CATALOGUE), None)
    change = change_of(pseudonymise(decoded.event, PSEUDONYMS))
    table = archive_table([decoded.event], CATALOGUE, [None])
    bad = json.dumps(event | {"event_type": "stare"}).encode()
    with pytest.raises(EventError) as refused:
        decode_event(bad, Attributes(CATALOGUE), None)
    letter = dead_letter_of(bad, refused.value, CATALOGUE, PSEUDONYMS, 0)
    assert decoded.unknown_attributes == 3
    assert letter.payload is not None
    assert letter.payload["attributes"] == {"fuel_type": "electric", "price": 7}
    assert {name for name, value in table["attributes"][0].as_py().items() if value is not None} == {"fuel_type", "price"}
    for kept in (change, table.to_pylist(), encode_dead_letter(letter)):
        assert "electric" in str(kept)
        assert secret not in str(kept)


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
