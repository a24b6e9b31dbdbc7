"""Dead letters: they keep what may be kept, never a raw id, and what they keep can be replayed."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dead_letters import decode_dead_letter, encode_dead_letter
from schemas.dead_letter import REASONS, DeadLetter
from schemas.decoding import Attributes, dead_letter_of, decode_event
from schemas.errors import EventError
from schemas.event import Event
from schemas.instants import format_instant
from schemas.pseudonym import Pseudonyms, is_pseudonym, pseudonymise, ring_of
from tests.strategies import CATALOGUE
from tests.test_decode import ANY_ATTRIBUTES, ANY_JSON, FIELDS, NOW, REFUSED, message
from tests.test_event import GOOD, without
from transforms.windows import keyed_view, refused_view

ATTRIBUTES = Attributes(CATALOGUE)
PSEUDONYMS = Pseudonyms(ring_of("k" * 16, "tests"))
RAW = "raw-id-4711"


def refused(data: bytes, now: int = NOW) -> DeadLetter:
    """The letter of a message that is refused, as it comes out of a file or a topic."""
    with pytest.raises(EventError) as caught:
        decode_event(data, ATTRIBUTES, now)
    return decode_dead_letter(encode_dead_letter(dead_letter_of(data, caught.value, CATALOGUE, PSEUDONYMS, now)))


def replayed(letter: DeadLetter) -> Event:
    return pseudonymise(decode_event(json.dumps(letter.payload).encode(), ATTRIBUTES, None).event, PSEUDONYMS)


# --- what is kept --------------------------------------------------------------------------------------------------------


def test_a_letter_says_why_when_and_how_long_the_message_was() -> None:
    data = message(event_time="today")
    letter = refused(data)
    assert letter.reason == "bad_time"
    assert letter.field == "event_time"
    assert "must be an RFC 3339 date-time" in letter.message
    assert (letter.refused_at, letter.size) == ("2026-05-01T12:00:00.000Z", len(data))


@pytest.mark.parametrize(("reason", "data"), [(reason, data) for reason, _, data, _ in REFUSED])
def test_every_refusal_makes_a_letter_that_can_be_read_back(reason: str, data: bytes) -> None:
    letter = refused(data)
    assert (letter.reason, letter.size) == (reason, len(data))
    assert reason in REASONS
    assert len(encode_dead_letter(letter)) < 20_000


@pytest.mark.parametrize("data", [b"", b"[1]", b"null", b"[" * 99, b" " * 70_000, message()[:-1], b"\xff"])
def test_of_what_is_no_event_nothing_is_kept(data: bytes) -> None:
    assert refused(data).payload is None


def test_only_known_fields_and_attributes_of_bearable_size_are_kept() -> None:
    extra = {"password": "p", "attributes": {"make": "x" * 300, "colour": "red", "year": 2020, "price": "cheap", "model": ["m"]}}
    payload = refused(message(session_id={"a": 1}, listing_id="l1", experiment={"a": "x" * 9_000}, **extra)).payload
    assert payload == {
        **without("user_id", "attributes"),
        "user_id": PSEUDONYMS("u1"),
        "sealed_user_id": b64encode(PSEUDONYMS.seal("u1")).decode(),
        "listing_id": "l1",
        "attributes": {"year": 2020, "price": "cheap"},
        "pseudonymised": True,
    }


@pytest.mark.parametrize("field", ["experiment", "attributes", "user_id", "event_id"])
def test_text_that_utf8_cannot_spell_is_not_kept(field: str) -> None:
    lone = "\ud800"
    letter = refused(message(event_type="view", **{field: {"make": lone} if field in ("experiment", "attributes") else lone}))
    assert letter.payload is not None
    assert not letter.payload.get(field)


@pytest.mark.parametrize("value", ["", None, True, [], {}])
def test_what_names_nobody_gets_no_pseudonym(value: Any) -> None:
    payload = refused(message(event_type="view", user_id=value, anonymous_id="a1")).payload
    assert payload is not None
    assert "user_id" not in payload
    assert payload["anonymous_id"] == PSEUDONYMS("a1")


# --- ids never leak ------------------------------------------------------------------------------------------------------

SPELLED: list[Any] = [RAW, 47114711, [RAW], {"id": RAW}, RAW * 40, RAW + "\x00", "é" + RAW]
BAD: list[dict[str, Any]] = [
    {"event_id": 7},
    {"event_type": "view"},
    {"event_type": 7},
    {"event_time": "today"},
    {"event_time": "2999-01-01T00:00:00Z"},
    {"session_id": ["s"]},
    {"listing_id": "l" * 300},
    {"attributes": "red"},
    {"attributes": {"price": "7"}},
    {"experiment": "b"},
    {"pseudonymised": True},
    {"pseudonymised": 7},
]


def leaks(letter: DeadLetter) -> bool:
    text = encode_dead_letter(letter).decode()
    return RAW in text or "47114711" in text


@pytest.mark.parametrize("field", ["user_id", "anonymous_id"])
@pytest.mark.parametrize("spelled", SPELLED, ids=repr)
@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_an_id_never_leaks_whatever_is_bad(field: str, spelled: Any, bad: dict[str, Any]) -> None:
    leaf = next(iter(spelled.values())) if isinstance(spelled, dict) else spelled[0] if isinstance(spelled, list) else spelled
    experiment = {"unit": leaf, "units": [{"deep": leaf}], str(leaf): "control", "text": str(leaf)}
    other = "anonymous_id" if field == "user_id" else "user_id"
    letter = refused(message(**{other: "other", "experiment": experiment, field: spelled, **bad}))
    assert not leaks(letter), letter


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "pseudonymised"] + ["session_id", "listing_id"])
def test_an_id_in_the_wrong_field_does_not_leak_either(field: str) -> None:
    value = {"make": RAW, "price": RAW} if field == "attributes" else RAW
    changes = {"user_id": RAW, "pseudonymised": 7, field: value}
    assert not leaks(refused(message(**changes)))


@pytest.mark.parametrize("field", ["event_type", "event_time"])
def test_a_message_does_not_show_an_id_that_stands_where_another_value_belongs(field: str) -> None:
    assert not leaks(refused(message(**{"user_id": RAW, field: RAW})))


def test_a_pseudonym_stays_the_same_when_a_letter_is_refused_again() -> None:
    first = refused(message(event_type="view")).payload
    assert first is not None
    assert is_pseudonym(first["user_id"])
    assert refused(json.dumps(first).encode()).payload == first


@given(st.dictionaries(st.sampled_from(FIELDS), ANY_JSON | ANY_ATTRIBUTES, max_size=4))
def test_a_letter_of_anything_can_be_written_read_and_refused_again(changes: dict[str, Any]) -> None:
    letter = refused(message(**{"event_type": "view", **changes, "event_id": 7}))
    again = refused(json.dumps(letter.payload).encode())
    assert again.payload == letter.payload


# --- replay --------------------------------------------------------------------------------------------------------------


@given(
    st.fixed_dictionaries(
        {}, optional={"make": st.text("aé", max_size=4), "price": st.integers(-(10**30), 10**30) | st.floats(-1e9, 1e9)}
    ),
    st.none()
    | st.fixed_dictionaries({"unit": st.sampled_from(["u1", "a1"]), "u1": st.lists(st.sampled_from(["u1", "b", 1.5, None]))}),
)
def test_a_letter_of_a_future_event_replays_as_the_event(attributes: dict[str, Any], experiment: Any) -> None:
    data = message(
        event_time="2999-01-01T00:00:00Z", attributes=attributes, experiment=experiment, anonymous_id="a1", session_id="s1"
    )
    letter = refused(data)
    assert letter.reason == "future"
    assert replayed(letter) == pseudonymise(decode_event(data, ATTRIBUTES, None).event, PSEUDONYMS)


def test_a_letter_of_a_view_that_the_store_refused_replays_as_the_view() -> None:
    data = message(attributes={"make": "é", "price": 1.5})
    view = keyed_view(pseudonymise(decode_event(data, ATTRIBUTES, NOW).event, PSEUDONYMS))
    letter = decode_dead_letter(encode_dead_letter(refused_view(view, "row too large", NOW)))
    assert (letter.reason, letter.field, letter.message) == ("store_refused", None, "row too large")
    assert letter.refused_at == format_instant(NOW)
    assert keyed_view(replayed(letter)) == view


def test_a_line_that_is_no_letter_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError, match="missing required field"):
        decode_dead_letter(json.dumps(GOOD).encode())
