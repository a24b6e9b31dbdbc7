"""The published JSON Schema: the file is what the code says, and it agrees with the decoder."""

from __future__ import annotations

import json
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.decoding import Attributes, decode_event
from schemas.errors import EventError
from schemas.event import EventType, json_schema
from schemas.pseudonym import PseudonymKey, pseudonym_of
from tests.strategies import CATALOGUE, ROOT

GOOD: dict[str, Any] = {
    "event_id": "e1",
    "event_type": "listing_view",
    "event_time": "2026-05-01T12:00:00Z",
    "user_id": "u1",
    "attributes": {"fuel_type": "electric", "price": 39900},
}
SCHEMA = jsonschema.Draft202012Validator(json_schema())


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in names}


def decodes(event: Any) -> bool:
    try:
        decode_event(json.dumps(event).encode(), Attributes(CATALOGUE), None)
    except EventError:
        return False
    return True


def test_the_published_schema_is_the_generated_one() -> None:
    published = (ROOT / "docs/event.schema.json").read_text()
    assert published == json.dumps(json_schema(), indent=2) + "\n"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize(
    "event",
    [
        GOOD,
        *({**GOOD, "event_type": name} for name in get_args(EventType)),
        {**without("user_id"), "anonymous_id": "a1"},
        {**GOOD, "anonymous_id": "a1", "session_id": "s1", "listing_id": "l1"},
        {
            **GOOD,
            "user_id": None,
            "anonymous_id": "a1",
            "session_id": None,
            "listing_id": None,
            "attributes": None,
            "experiment": None,
        },
        {**GOOD, "experiment": {"name": "featured", "arm": "b", "positions": [1, 2]}},
        {**GOOD, "attributes": {}},
        {**GOOD, "attributes": {"colour": "red", "fuel_type": "coal"}},
        {**GOOD, "unknown_field": {"a": [1]}},
        {**GOOD, "user_id": pseudonym_of(PseudonymKey(b"k" * 16), "u1"), "pseudonymised": True},
        {**GOOD, "event_id": "é" * 128},
    ],
)
def test_schema_and_decoder_take_good_events(event: dict[str, Any]) -> None:
    assert (SCHEMA.is_valid(event), decodes(event)) == (True, True)


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "text",
        {},
        *(without(name) for name in ("event_id", "event_type", "event_time", "user_id")),
        {**GOOD, "user_id": None},
        {**GOOD, "user_id": None, "anonymous_id": None},
        {**GOOD, "event_id": ""},
        {**GOOD, "event_id": None},
        {**GOOD, "event_id": 7},
        {**GOOD, "event_type": "view"},
        {**GOOD, "event_time": 1777636800000},
        {**GOOD, "user_id": 7},
        {**GOOD, "user_id": ""},
        {**GOOD, "anonymous_id": ["a"]},
        {**GOOD, "session_id": {}},
        {**GOOD, "listing_id": "l" * 257},
        {**GOOD, "attributes": []},
        {**GOOD, "attributes": "red"},
        {**GOOD, "experiment": "b"},
        {**GOOD, "experiment": 3},
        {**GOOD, "pseudonymised": "yes"},
        {**GOOD, "pseudonymised": None},
    ],
)
def test_schema_and_decoder_refuse_bad_events(event: Any) -> None:
    assert (SCHEMA.is_valid(event), decodes(event)) == (False, False)


FIELDS = [
    "event_id",
    "event_type",
    "event_time",
    "user_id",
    "anonymous_id",
    "session_id",
    "attributes",
    "experiment",
    "pseudonymised",
]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=3)
    | st.just("opt_in")
    | st.lists(st.none(), max_size=1)
    | st.just({"a": "b"})
)


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_what_the_decoder_takes_the_schema_takes(changes: dict[str, Any]) -> None:
    # The schema can't say all that the decoder checks (bytes, control characters, calendar dates), so not the other way round.
    event = {**GOOD, **changes}
    assert SCHEMA.is_valid(event) or not decodes(event)
