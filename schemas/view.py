"""A view as the rows keep it: its attributes packed behind a version byte.

Layout 1: ``01`` then a MessagePack map of attribute name → text or float64, names sorted. Self-describing, so a view
stays readable when the attribute catalogue changes, and equal attributes are equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from schemas.catalogue import AttributeValue
from schemas.errors import StoreError, shown

LAYOUT: Final = 1
_LAYOUT_BYTE: Final = bytes([LAYOUT])
_ENCODE: Final = msgspec.msgpack.Encoder(order="sorted").encode
_DECODERS: Final = {1: msgspec.msgpack.Decoder(dict[str, str | float]).decode}


def pack_attributes(attributes: Mapping[str, AttributeValue]) -> bytes:
    """The attributes as bytes in the newest layout; equal attributes give equal bytes.

    >>> unpack_attributes(pack_attributes({"price": 9.5, "fuel_type": "lpg"}))
    {'fuel_type': 'lpg', 'price': 9.5}
    """
    return _LAYOUT_BYTE + _ENCODE(attributes)


def unpack_attributes(packed: bytes) -> dict[str, AttributeValue]:
    """The attributes from bytes of any layout that was ever written; ``StoreError`` for bytes that are none."""
    decode = _DECODERS.get(packed[0]) if packed else None
    if decode is None:
        msg = f"view layout == {shown(packed[:1])}, must be one of {sorted(_DECODERS)}: is a newer version writing this table?"
        raise StoreError(msg)
    try:
        return decode(packed[1:])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"packed view of {len(packed)} bytes can't be read: {error}"
        raise StoreError(msg) from error
