"""YAML as data: what is read, what is refused and where, and that nothing else is ever raised."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RulesError
from schemas.safe_yaml import MAX_BYTES, MAX_DEPTH, load, plain_of

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"


@pytest.mark.parametrize(
    "text", ["no", "on", "Yes", "off", "y", "1:30", "2024-01-01", "0x1f", "0o17", "1_000", ".inf", ".nan", "=", "<<"]
)
def test_what_other_readers_turn_into_something_else_stays_text(text: str) -> None:
    assert plain_of(load(f"a: {text}", "f")) == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("False", False),
        ("7", 7),
        ("-3", -3),
        ("+3", 3),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("9" * 19, float("9" * 19)),
        ('"7"', "7"),
        ("'null'", "null"),
        ("[1, {b: c}]", [1, {"b": "c"}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("ünï 🚗", "ünï 🚗"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    found = plain_of(load(f"a: {text}", "f"))
    assert found == {"a": value}
    assert isinstance(found, dict)
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "f:1:4: an anchor or alias, must be written out"),
        ("a: *b", "f:1:4: an anchor or alias, must be written out"),
        ("? &k x\n: 1", "f:1:3: an anchor or alias, must be written out"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "f:1:4: tag == 'tag:yaml.org,2002:python/object/apply:os.system', must be absent",
        ),
        ("a: !!int 7", "f:1:4: tag == 'tag:yaml.org,2002:int', must be absent"),
        ("a: !own {b: 1}", "f:1:4: tag == '!own', must be absent"),
        ("a: 1\nb: 2\na: 3", "f:3:1: key == 'a', must be unique, it stands at f:1:1 already"),
        ("a: {b: 1, b: 2}", "f:1:11: key == 'b', must be unique, it stands at f:1:5 already"),
        ("7: x", "f:1:1: key == 7, must be text"),
        ("? [a]\n: x", r"f:1:3: key == ['a'], must be text"),
        ("a: 1\n---\nb: 2", "f:2:1: a second document, must be one document a file"),
        ("a: 1e999", "f:1:4: 1e999, must be a finite number"),
        ("a: -1e999", "f:1:4: -1e999, must be a finite number"),
        ("", "f: empty, must hold one YAML document"),
        ("# nothing\n", "f: empty, must hold one YAML document"),
        ("a: [1, 2", "must be valid YAML: did not find expected ',' or ']'"),
        ("a:\n\t- b", "f:2:1: must be valid YAML: found character that cannot start any token"),
        ("a: b\x00c", "f: must be valid YAML: unacceptable character #x0000: control characters are not allowed"),
    ],
)
def test_what_is_refused_has_its_place_and_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(RulesError, match=re.escape(message)):
        load(text, "f")


def test_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(RulesError, match=re.escape(r"f: byte 3 == b'\xff', must be UTF-8 text")):
        load(b"a: \xff", "f")


def test_one_mebibyte_is_read_and_a_byte_more_is_not() -> None:
    text = b"a: b #" + b"." * (MAX_BYTES - 6)
    assert plain_of(load(text, "f")) == {"a": "b"}
    with pytest.raises(RulesError, match=f"f: size == {MAX_BYTES + 1} bytes, must be at most {MAX_BYTES}"):
        load(text + b".", "f")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}")])
def test_nesting_is_bounded_and_a_bracket_bomb_ends_there(opening: str, closing: str) -> None:
    load(opening * (MAX_DEPTH - 1) + "x" + closing * (MAX_DEPTH - 1), "f")
    for depth in (MAX_DEPTH, MAX_BYTES // 5):
        with pytest.raises(RulesError, match=f"nesting == {MAX_DEPTH + 1}, must be at most {MAX_DEPTH} levels"):
            load(opening * depth + "x", "f")


@given(st.binary(max_size=200) | st.text("{}[]:,-?&*!|>'\"%@`#ab1 \n\t\x00\x85\ufeff", max_size=60).map(str.encode))
def test_any_bytes_are_data_or_a_rules_error(data: bytes) -> None:
    try:
        load(data, "f")
    except RulesError as error:
        assert str(error).startswith("f:")  # noqa: PT017


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_a_long_or_odd_text_never_makes_a_message_of_many_lines(text: str) -> None:
    with pytest.raises(RulesError) as caught:
        load(f"a: !<{text * 20}> x", "f")
    assert len(str(caught.value).splitlines()) == 1
