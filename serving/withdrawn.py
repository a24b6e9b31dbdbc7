"""Segments that serving must not offer, for they are under a floor of the rules: decided by the night, kept in the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from schemas.errors import StoreError
from serving.store.protocol import Store

WITHDRAWN: Final = "withdrawn"  # the name of the state


class Withdrawn(msgspec.Struct, frozen=True):
    """Which segments are withdrawn, as of the end of a date."""

    date: str
    segments: list[str]


def encode_withdrawn(date: str, segments: Sequence[str]) -> bytes:
    """The state as the store keeps it."""
    return msgspec.json.encode(Withdrawn(date, sorted(segments)))


def withdrawn_in(store: Store) -> frozenset[str]:
    """The segments that are withdrawn now; ``StoreError`` when the state can't be read."""
    value = store.read_state(WITHDRAWN)
    if value is None:
        return frozenset()
    try:
        return frozenset(msgspec.json.decode(value, type=Withdrawn).segments)
    except msgspec.DecodeError as error:
        msg = f"state {WITHDRAWN} of {store.uri} can't be read: {error}"
        raise StoreError(msg) from error
