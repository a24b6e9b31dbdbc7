"""Poison for simulated traffic: messages that a pipeline must refuse, each with the reason it must give.

Every variant is wrong in one way only, so that its reason doesn't depend on the order in which a decoder checks. None contains
a newline: a poison message is one line of a file. ``future`` only means something to a clock, so it takes no part in files, where
the newest event *is* the clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

Event = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_TOO_LARGE_BYTES: Final = 66_000  # the limit is 64 KiB a message
_TOO_DEEP: Final = 10_000  # the limit is 32; a decoder that recurses on this one ends with the process's stack
_HUGE_ID: Final = "x" * 10_240  # the limit is 256 bytes, and 8 KiB for an experiment
_FAR_FUTURE: Final = "2999-01-01T00:00:00.000Z"


def _with(**changes: object) -> Callable[[Event], bytes]:
    return lambda event: _encode(event | changes)


def _without(key: str) -> Callable[[Event], bytes]:
    return lambda event: _encode({name: value for name, value in event.items() if name != key})


def _with_attribute(**changes: object) -> Callable[[Event], bytes]:
    return lambda event: _encode(event | {"attributes": event["attributes"] | changes})


def _with_raw_price(raw: bytes) -> Callable[[Event], bytes]:
    """The event with a price that an encoder would not write."""
    encode = _with_attribute(price="@price")
    return lambda event: encode(event).replace(b'"@price"', raw)


VARIANTS: Final[dict[str, tuple[Callable[[Event], bytes], ...]]] = {
    "not_utf8": (
        lambda event: b"\xff\xfe\x00\x80 binary \xc3\x28" + event["event_id"].encode(),
        lambda event: _with(session_id="@session")(event).replace(b"@session", b"caf\xe9"),
    ),
    "not_json": (
        lambda event: _encode(event)[:-20],
        lambda event: b"event_id=" + event["event_id"].encode(),
        lambda event: _encode(event) + b"}",
    ),
    "too_large": (lambda event: _encode(event | {"padding": "x" * _TOO_LARGE_BYTES}),),
    "too_deep": (
        lambda event: _with(attributes="@deep")(event).replace(b'"@deep"', b'{"a":' * 100 + b"1" + b"}" * 100),
        lambda event: _with(attributes="@deep")(event).replace(b'"@deep"', b"[" * _TOO_DEEP + b"]" * _TOO_DEEP),
    ),
    "wrong_type": (
        _with(event_id=17),
        _with(user_id=["u1", "u2"]),
        _with(attributes="electric"),
        lambda event: b"[" + _encode(event) + b"]",
    ),
    "missing": (_without("event_id"), _without("event_type"), _without("event_time")),
    "unknown_event_type": (_with(event_type="listing_hover"),),
    "bad_time": (_with(event_time="yesterday"), _with(event_time="2024-13-45T25:61:00.000Z")),
    "bad_id": (
        lambda event: _encode(event | {"event_id": event["event_id"] + _HUGE_ID}),
        _with(user_id=_HUGE_ID),
    ),
    "not_finite": (_with_raw_price(b"NaN"), _with_raw_price(b"-Infinity"), _with_raw_price(b"1e999")),
    "future": (_with(event_time=_FAR_FUTURE),),
    "no_identity": (_with(user_id=None, anonymous_id=None),),
    "bad_attribute": (_with_attribute(price="cheap"), _with_attribute(fuel_type=7)),
    "bad_experiment": (_with(experiment={"name": _HUGE_ID}),),
}
REASONS: Final = tuple(VARIANTS)
TIMELESS_REASONS: Final = tuple(reason for reason in REASONS if reason != "future")


def poison_of(reason: str, variant: int, event: Event) -> bytes:
    """A message that must be refused for ``reason``: ``event``, a valid ``listing_view``, spoilt.

    ``variant`` picks among the reason's forms, modulo their number.

    >>> poison_of("unknown_event_type", 0, {"event_id": "s0-x1", "event_type": "listing_view"})
    b'{"event_id":"s0-x1","event_type":"listing_hover"}'
    """
    variants = VARIANTS[reason]
    return variants[variant % len(variants)](event)
