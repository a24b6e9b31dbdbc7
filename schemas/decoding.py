"""Message bytes → checked events, or a dead letter that says what is wrong. Everything is bounded before it is parsed deep."""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

import msgspec

from schemas.catalogue import Catalogue, keep_attributes
from schemas.dead_letter import DeadLetter, sanitised_payload, shows_an_id
from schemas.errors import EventError, shown
from schemas.event import FUTURE_TOLERANCE_MS, MAX_DEPTH, MAX_EXPERIMENT_BYTES, MAX_ID_BYTES, MAX_MESSAGE_BYTES, Event, WireEvent
from schemas.instants import format_instant, parse_instant
from schemas.pseudonym import Pseudonyms, is_pseudonym
from schemas.view import pack_attributes

_DECODE: Final = msgspec.json.Decoder(WireEvent).decode
_DECODE_ATTRIBUTES: Final = msgspec.json.Decoder(dict[str, Any] | None).decode
_MAX_KNOWN: Final = 1 << 16
_MAX_KNOWN_BYTES: Final = 1_024  # each; a listing's attributes are some hundred
_FIELD: Final = re.compile(r" - at `\$\.?([^`]*)`")
_MISSING: Final = re.compile(r"missing required field `(\w+)`")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_MAX_KEPT_FIELD: Final = 80
_ID_FIELDS: Final = ("event_id", "user_id", "anonymous_id", "session_id", "listing_id")


class Decoded(NamedTuple):
    """An event with how many of its attributes, and of its values, the catalogue doesn't know."""

    event: Event
    unknown_attributes: int
    unknown_values: int


def decode_event(data: bytes, attributes: Attributes, now: int | None) -> Decoded:
    """The event in a message; ``now`` (ms UTC) is the clock that "ahead" is judged by, ``None`` when nothing is ahead.

    Raises ``EventError`` with one of ``schemas.dead_letter.REASONS``.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        _refuse("too_large", None, f"message == {len(data)} bytes, must be at most {MAX_MESSAGE_BYTES}")
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and (depth := _depth_of(data)) > MAX_DEPTH:
        _refuse("too_deep", None, f"nesting == {depth}, must be at most {MAX_DEPTH} levels")
    try:
        wire = _DECODE(data)
    except msgspec.ValidationError as error:
        raise _validation_fault(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _syntax_fault(data, str(error)) from error
    _check_ids(wire)
    try:
        kept = attributes.packed(bytes(memoryview(wire.attributes)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # text in them isn't looked at before
        raise _syntax_fault(data, str(error)) from error
    try:
        event_time = parse_instant(wire.event_time)
    except ValueError as error:
        raise EventError("bad_time", "event_time", f"event_time == {shown(wire.event_time)}, {error}") from error  # noqa: EM101, EM102
    if now is not None and event_time > now + FUTURE_TOLERANCE_MS:
        _refuse(
            "future", "event_time", f"event_time == {wire.event_time}, must be at most 5 minutes ahead of {format_instant(now)}"
        )
    if wire.experiment is not None and len(json.dumps(wire.experiment)) > MAX_EXPERIMENT_BYTES:
        _refuse("bad_experiment", "experiment", f"experiment, must be at most {MAX_EXPERIMENT_BYTES} bytes of JSON")
    event = Event(
        wire.event_id,
        wire.event_type,
        event_time,
        wire.user_id,
        wire.anonymous_id,
        wire.session_id,
        wire.listing_id,
        kept.packed,
        wire.experiment,
        wire.pseudonymised,
        wire.sealed_user_id if wire.pseudonymised else None,
        wire.sealed_anonymous_id if wire.pseudonymised else None,
    )
    return Decoded(event, kept.unknown_attributes, kept.unknown_values)


def dead_letter_of(data: bytes, fault: EventError, catalogue: Catalogue, pseudonyms: Pseudonyms, now: int) -> DeadLetter:
    """The dead letter for a message that ``decode_event`` refused; ids in it are pseudonyms."""
    raw = _parsed(data)
    return DeadLetter(
        reason=fault.reason,
        field=fault.field,
        message=f"{fault.field} holds an id, must not" if shows_an_id(raw, fault.field) else str(fault),
        refused_at=format_instant(now),
        size=len(data),
        payload=sanitised_payload(raw, catalogue, pseudonyms),
    )


class PackedAttributes(NamedTuple):
    """What the catalogue keeps of a JSON object of attributes, packed, and how many attributes and values it dropped."""

    packed: bytes
    unknown_attributes: int
    unknown_values: int


class Attributes:
    """Packs the attributes of events as a catalogue keeps them, remembering the last 65,536 distinct JSON texts.

    The same listings are viewed again and again, and mostly spelled the same.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._known: dict[bytes, PackedAttributes] = {}

    def packed(self, text: bytes) -> PackedAttributes:
        """The packed attributes in a JSON text; ``EventError`` when it is no object or an attribute has the wrong kind."""
        if len(text) > _MAX_KNOWN_BYTES:
            return self._pack(text)
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[text] = self._pack(text)
        return known

    def _pack(self, text: bytes) -> PackedAttributes:
        try:
            attributes = _DECODE_ATTRIBUTES(text)
        except msgspec.ValidationError as error:
            raise _validation_fault(str(error), below="attributes") from error
        kept = keep_attributes(self.catalogue, attributes or {})
        return PackedAttributes(pack_attributes(kept.attributes), kept.unknown_attributes, kept.unknown_values)


def _refuse(reason: str, field: str | None, message: str) -> None:
    raise EventError(reason, field, message)


def _check_ids(wire: WireEvent) -> None:
    if wire.user_id is None and wire.anonymous_id is None:
        _refuse("no_identity", "user_id", "user_id and anonymous_id are both absent, must give at least one")
    together = f"{wire.event_id}{wire.user_id}{wire.anonymous_id}{wire.session_id}{wire.listing_id}"
    for field in () if together.isascii() and together.isprintable() else _ID_FIELDS:
        value = getattr(wire, field)
        if value is None or (value.isascii() and value.isprintable()):
            continue
        if len(value.encode()) > MAX_ID_BYTES:
            _refuse("bad_id", field, f"{field}, must be at most {MAX_ID_BYTES} bytes of UTF-8")
        if _CONTROL.search(value):
            _refuse("bad_id", field, f"{field}, must have no control characters")
    if wire.pseudonymised:
        for field, value in (("user_id", wire.user_id), ("anonymous_id", wire.anonymous_id)):
            if value is not None and not is_pseudonym(value):
                _refuse(
                    "bad_id", field, f"{field}, must be a pseudonym (1:… with 64 hex digits) in an event with pseudonymised true"
                )


def _depth_of(data: bytes) -> int:
    """How deep brackets nest outside strings."""
    depth = deepest = 0
    for token in _BRACKETS.finditer(data):
        mark = token[0][:1]
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest


def _validation_fault(text: str, below: str | None = None) -> EventError:
    at = _FIELD.search(text)
    field = at[1][:_MAX_KEPT_FIELD] or None if at else None
    if below is not None:
        field = f"{below}{'' if field is None else field if field.startswith('[') else '.' + field}"
    if missing := _MISSING.search(text):
        return EventError("missing", missing[1], f"{missing[1]} is missing, must be given")
    what = _FIELD.sub("", text)
    if "Invalid enum value" in text:
        return EventError("unknown_event_type", field, f"event_type: {what[:120]}, must be one of the event types")
    if "out of range" in text:
        return EventError("not_finite", field, f"{field}: a number is out of range, must be finite")
    if "of length" in text:
        return EventError("bad_id", field, f"{field}: {what}")
    return EventError("wrong_type", field, f"{field or 'message'}: {what}")


def _syntax_fault(data: bytes, text: str) -> EventError:
    try:
        decoded = data.decode()
    except UnicodeDecodeError as error:
        return EventError("not_utf8", None, f"byte {error.start} == {data[error.start : error.start + 1]!r}, must be UTF-8")
    constants: list[str] = []
    try:
        json.loads(decoded, parse_constant=constants.append)
    except (ValueError, RecursionError):
        return EventError("not_json", None, f"message of {len(data)} bytes, must be one JSON object: {text}")
    if constants:
        return EventError("not_finite", None, f"a number == {constants[0]}, must be finite")
    return EventError("not_json", None, f"message of {len(data)} bytes, must be one JSON object: {text}")


def _parsed(data: bytes) -> Any:
    """The message as Python data where it can be parsed at all; NaN and infinities become ``None``."""
    if len(data) > MAX_MESSAGE_BYTES or _depth_of(data) > MAX_DEPTH:
        return None
    try:
        return json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
