"""Messages → events: what is kept, each reason for a refusal with its field and message, and that nothing else is raised."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import REASONS
from schemas.decoding import Attributes, Decoded, decode_event
from schemas.errors import EventError
from schemas.event import FUTURE_TOLERANCE_MS, MAX_DEPTH, MAX_EXPERIMENT_BYTES, MAX_MESSAGE_BYTES, Event
from schemas.instants import format_instant, parse_instant
from schemas.profile_row import view_cell
from schemas.pseudonym import PseudonymKey, pseudonym_of
from tests.strategies import CATALOGUE
from tests.test_event import GOOD, without
from transforms.windows import keyed_view

ATTRIBUTES = Attributes(CATALOGUE)
NOW = parse_instant(GOOD["event_time"])
PSEUDONYM = pseudonym_of(PseudonymKey(b"k" * 16), "u1")


def message(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def decoded(data: bytes, now: int | None = NOW) -> Decoded:
    return decode_event(data, ATTRIBUTES, now)


def with_number(field: str, number: str) -> bytes:
    """A message in which a number is spelled as given."""
    return json.dumps({**GOOD, field: {"price": 7777}}).replace("7777", number).encode()


REFUSED: list[tuple[str, str | None, bytes, str]] = [
    ("not_utf8", None, message()[:-1] + b"\xff}", r"byte \d+ == b'\\xff', must be UTF-8"),
    ("not_utf8", None, json.dumps(GOOD).encode("utf-16"), r"byte 0 == b'\\xff', must be UTF-8"),
    ("not_utf8", None, message(attributes={"make": "?"}).replace(b"?", b"\xff"), r"byte \d+ == b'\\xff', must be UTF-8"),
    ("not_utf8", None, message(experiment={"make": "?"}).replace(b"?", b"\xc3"), r"byte \d+ == b'\\xc3', must be UTF-8"),
    ("not_json", None, b"", "message of 0 bytes, must be one JSON object"),
    ("not_json", None, message()[:-1], "must be one JSON object"),
    ("not_json", None, message() + b"x", "must be one JSON object"),
    ("not_json", None, message() * 2, "must be one JSON object"),
    ("not_json", None, b"\xef\xbb\xbf" + message(), "must be one JSON object"),
    ("not_json", None, message(user_id="\ud800"), "must be one JSON object"),
    ("not_json", None, message(attributes={"make": "\udfff"}), "must be one JSON object"),
    ("not_json", None, with_number("attributes", "01"), "must be one JSON object"),
    ("not_finite", None, with_number("attributes", "NaN"), "a number == NaN, must be finite"),
    ("not_finite", None, with_number("experiment", "-Infinity"), "a number == -Infinity, must be finite"),
    ("not_finite", "attributes[...]", with_number("attributes", "1e999"), "must be finite"),
    ("not_finite", "experiment[...]", with_number("experiment", "-1e999"), "must be finite"),
    ("not_finite", "attributes.price", with_number("attributes", "9" * 400), "attributes.price, must be a finite number"),
    ("not_finite", "experiment[...]", with_number("experiment", "9" * 5_000), "must be finite"),
    ("too_large", None, b" " * (MAX_MESSAGE_BYTES + 1), "message == 65537 bytes, must be at most 65536"),
    ("too_deep", None, b"[" * 60_000, "nesting == 60000, must be at most 32 levels"),
    ("missing", "event_id", json.dumps(without("event_id")).encode(), "event_id is missing, must be given"),
    ("missing", "event_time", json.dumps(without("event_time")).encode(), "event_time is missing, must be given"),
    ("wrong_type", None, b"[]", "message: Expected `object`, got `array`"),
    ("wrong_type", None, b"null", "message: Expected `object`, got `null`"),
    ("wrong_type", "event_id", message(event_id=7), "event_id: Expected `str`, got `int`"),
    ("wrong_type", "user_id", message(user_id=[]), r"user_id: Expected `str \| null`, got `array`"),
    ("wrong_type", "event_time", message(event_time=1), "event_time: Expected `str`, got `int`"),
    ("wrong_type", "attributes", message(attributes="red"), r"attributes: Expected `object \| null`, got `str`"),
    ("wrong_type", "experiment", message(experiment=[1]), r"experiment: Expected `object \| null`, got `array`"),
    ("wrong_type", "pseudonymised", message(pseudonymised=1), "pseudonymised: Expected `bool`, got `int`"),
    ("unknown_event_type", "event_type", message(event_type="view"), "event_type.*, must be one of"),
    ("bad_time", "event_time", message(event_time="today"), "event_time.*, must be an RFC 3339 date-time with an offset"),
    ("bad_time", "event_time", message(event_time="2023-02-29T00:00:00Z"), "event_time.*, day is out of range for month"),
    ("bad_time", "event_time", message(event_time="1969-12-31T00:00:00Z"), "must lie between 1970-01-01T00:00:00Z and"),
    ("future", "event_time", message(event_time="2026-05-01T12:05:00.001Z"), "must be at most 5 minutes ahead of 2026-05-01T12:00"),
    *(
        (("bad_id", field, message(**{field: value}), must))
        for field in ("event_id", "user_id", "anonymous_id", "session_id", "listing_id")
        for value, must in [
            ("", "length >= 1"),
            ("x" * 257, "length <= 256"),
            ("x" * 10_000, "length <= 256"),
            ("é" * 129, f"{field}, must be at most 256 bytes of UTF-8"),
            ("🚗" * 65, f"{field}, must be at most 256 bytes of UTF-8"),
            ("a\x00b", f"{field}, must have no control characters"),
            ("a\n", f"{field}, must have no control characters"),
            ("\x7f", f"{field}, must have no control characters"),
            ("é\x85", f"{field}, must have no control characters"),
        ]
    ),
    ("bad_id", "user_id", message(pseudonymised=True), "user_id, must be a pseudonym"),
    ("bad_id", "anonymous_id", message(user_id=PSEUDONYM, anonymous_id="a", pseudonymised=True), "anonymous_id, must be a pseu"),
    ("no_identity", "user_id", message(user_id=None), "user_id and anonymous_id are both absent, must give at least one"),
    ("bad_attribute", "attributes.price", message(attributes={"price": "7"}), "attributes.price, must be a number, is str"),
    ("bad_attribute", "attributes.make", message(attributes={"make": 7}), "attributes.make, must be text, is int"),
    ("bad_attribute", "attributes.make", message(attributes={"make": "é" * 129}), "attributes.make, must be at most 256 bytes"),
    (
        "bad_experiment",
        "experiment",
        message(experiment={"a": "x" * MAX_EXPERIMENT_BYTES}),
        "experiment, must be at most 8192 bytes",
    ),
]


@pytest.mark.parametrize(("reason", "field", "data", "must"), REFUSED)
def test_each_refusal_has_its_reason_field_and_what_would_be_right(reason: str, field: str | None, data: bytes, must: str) -> None:
    with pytest.raises(EventError, match=must) as caught:
        decoded(data)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert len(str(caught.value)) < 300


def test_every_reason_that_decoding_can_give_is_shown_above() -> None:
    assert {reason for reason, *_ in REFUSED} == set(REASONS) - {"store_refused"}


# --- what is taken -------------------------------------------------------------------------------------------------------

IDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=64)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {"event_id": IDS, "event_time": st.integers(0, 10**13), "user_id": IDS},
        optional={
            "anonymous_id": IDS,
            "session_id": st.none() | IDS,
            "listing_id": IDS,
            "experiment": st.dictionaries(IDS, JSON, max_size=2),
        },
    ),
    st.fixed_dictionaries(
        {}, optional={"make": IDS, "fuel_type": st.just("lpg"), "price": st.integers(-(10**18), 10**18) | st.floats(-1e9, 1e9)}
    ),
)
def test_an_event_survives_its_json(fields: dict[str, Any], attributes: dict[str, Any]) -> None:
    wire = {"event_type": "lead", **fields, "event_time": format_instant(fields["event_time"]), "attributes": attributes}
    for text in (json.dumps(wire), json.dumps(wire, ensure_ascii=False, indent=1)):
        event = decoded(text.encode(), None).event
        expected = {**dict.fromkeys(Event._fields), "event_type": "lead", **fields, "packed": event.packed, "pseudonymised": False}
        assert event._asdict() == expected
        assert event.attributes == {name: value if isinstance(value, str) else float(value) for name, value in attributes.items()}


def test_attributes_outside_the_catalogue_are_dropped_and_counted() -> None:
    found = decoded(message(attributes={"colour": "red", "deep": {"a": [1]}, "fuel_type": "coal", "make": None, "year": 2020}))
    assert (found.event.attributes, found.unknown_attributes, found.unknown_values) == ({"year": 2020.0}, 2, 1)


def test_equal_attributes_spelled_otherwise_are_equal_cells() -> None:
    one = decoded(b'{"attributes":{"price":7,"make":"\\u00e9"},' + json.dumps(without("attributes"))[1:].encode()).event
    two = decoded(message(attributes={"make": "é", "colour": 1, "price": 7.0})).event
    assert keyed_view(one) == keyed_view(two) == ("u1", view_cell(one.event_time, "e1", one.packed))


def test_the_user_is_whose_profile_it_is_and_else_the_device() -> None:
    assert decoded(message(anonymous_id="a1")).event.profile_id == "u1"
    assert decoded(message(anonymous_id="a1", user_id=None)).event.profile_id == "a1"


# --- bounds --------------------------------------------------------------------------------------------------------------


def test_a_message_of_64_kib_is_taken() -> None:
    assert decoded(message() + b" " * (MAX_MESSAGE_BYTES - len(message()))).event.event_id == "e1"


@pytest.mark.parametrize("field", ["event_id", "user_id", "session_id"])
@pytest.mark.parametrize("value", ["x" * 256, "é" * 128, "🚗" * 64])
def test_an_id_of_256_bytes_is_taken(field: str, value: str) -> None:
    assert getattr(decoded(message(**{field: value})).event, field) == value


def test_32_levels_are_taken_and_33_are_not() -> None:
    def nested(levels: int) -> bytes:
        return message(experiment={"a": "?"}).replace(b'"?"', b"[" * levels + b"]" * levels)

    assert decoded(nested(MAX_DEPTH - 2)).event.experiment is not None
    with pytest.raises(EventError, match="nesting == 33, must be at most 32 levels"):
        decoded(nested(MAX_DEPTH - 1))


@pytest.mark.parametrize("text", ["[" * 99, '"' + "{" * 99, "\\" * 3 + '"' + "[" * 99])
def test_brackets_in_text_are_no_nesting(text: str) -> None:
    assert decoded(message(listing_id=text)).event.listing_id == text


def test_brackets_in_text_that_never_ends_are_no_nesting_either() -> None:
    # Looking for the end of such a text anew from each quote in it takes half a minute for 64 KiB of escaped quotes.
    with pytest.raises(EventError, match="must be one JSON object") as caught:
        decoded(b'{"event_id":"\\"' + b"[" * 99)
    assert caught.value.reason == "not_json"


def test_an_event_five_minutes_ahead_is_taken_and_in_a_replay_any() -> None:
    ahead = message(event_time=format_instant(NOW + FUTURE_TOLERANCE_MS))
    assert decoded(ahead).event.event_time == NOW + FUTURE_TOLERANCE_MS
    assert decoded(message(event_time="2999-01-01T00:00:00Z"), now=None).event.event_time > NOW


def test_a_refused_message_is_refused_again() -> None:
    bad, attributes = message(attributes={"price": "7"}), Attributes(CATALOGUE)
    for _ in range(2):
        with pytest.raises(EventError, match="attributes.price, must be a number"):
            decode_event(bad, attributes, NOW)


# --- anything at all -----------------------------------------------------------------------------------------------------

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=4), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["event_id", "event_type", "event_time", "user_id", "anonymous_id", "attributes", "experiment", "pseudonymised"]
ANY_ATTRIBUTES = st.dictionaries(st.sampled_from(["make", "price", "fuel_type", "x"]), ANY_JSON, max_size=3)


def assert_event_or_event_error(data: bytes) -> None:
    try:
        assert isinstance(decoded(data).event, Event)
    except EventError as error:
        assert error.reason in REASONS  # noqa: PT017


@given(st.binary(max_size=200) | st.text('{}[]",:\\ntrue01-e.', max_size=60).map(str.encode))
def test_any_bytes_are_an_event_or_an_event_error(data: bytes) -> None:
    assert_event_or_event_error(data)


@given(st.dictionaries(st.sampled_from(FIELDS), ANY_JSON | ANY_ATTRIBUTES, max_size=3))
def test_any_json_in_any_field_is_an_event_or_an_event_error(changes: dict[str, Any]) -> None:
    assert_event_or_event_error(message(**changes))


@given(st.data())
def test_a_damaged_event_is_an_event_or_an_event_error(data: st.DataObject) -> None:
    whole = message(experiment={"arm": "b", "n": [1, 2]}, attributes={"make": "é", "price": 1.5})
    at, length = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 6))
    assert_event_or_event_error(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + length :])
