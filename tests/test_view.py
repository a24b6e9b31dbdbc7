"""The packed layout of a view: round trips, equal bytes for equal attributes, and what damage looks like."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import StoreError
from schemas.view import LAYOUT, pack_attributes, unpack_attributes

ATTRIBUTES = st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.floats(allow_nan=False), max_size=6)


@given(ATTRIBUTES)
def test_attributes_survive_packing(attributes: dict[str, str | float]) -> None:
    assert unpack_attributes(pack_attributes(attributes)) == attributes


@given(ATTRIBUTES, st.data())
def test_equal_attributes_are_equal_bytes_in_any_order(attributes: dict[str, str | float], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(attributes.items()))))
    assert pack_attributes(shuffled) == pack_attributes(attributes)


def test_layout_1_stays_readable() -> None:
    # Bytes as they lie in rows: a change of layout needs a new number, and this one goes on being read.
    packed = b"\x01\x82\xa9fuel_type\xa3lpg\xa5price\xcb@\x23\x00\x00\x00\x00\x00\x00"
    assert unpack_attributes(packed) == {"fuel_type": "lpg", "price": 9.5}
    assert pack_attributes({"price": 9.5, "fuel_type": "lpg"}) == packed


@pytest.mark.parametrize("packed", [b"", b"\x00", b"\x02\x80", b"\xff", b"{}"])
def test_an_unknown_layout_names_itself_and_asks_for_a_newer_version(packed: bytes) -> None:
    message = f"view layout == {packed[:1]!r}, must be one of [1]: is a newer version writing this table?"
    with pytest.raises(StoreError, match=re.escape(message)):
        unpack_attributes(packed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x81",
        b"\x81\xa1a",
        b"\xc1",
        b"\x80\x80",
        b"\x90",
        b"\x01",
        *map(msgspec.msgpack.encode, ({"a": None}, {"a": [1]}, {1: "a"})),
    ],
)
def test_a_damaged_view_is_a_store_error(body: bytes) -> None:
    with pytest.raises(StoreError, match=f"packed view of {len(body) + 1} bytes can't be read: "):
        unpack_attributes(bytes([LAYOUT]) + body)


@given(st.binary(max_size=40))
def test_any_bytes_are_attributes_or_a_store_error(body: bytes) -> None:
    try:
        unpack_attributes(b"\x01" + body)
    except StoreError as error:
        assert "can't be read" in str(error)  # noqa: PT017
