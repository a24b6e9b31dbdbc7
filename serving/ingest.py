"""Events that clients send through the gateway: validated, stamped, pseudonymised, and put on their way."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from schemas.decoding import Attributes, decode_event
from schemas.errors import EventError
from schemas.event import Event, EventType
from schemas.exposure import check_click
from schemas.instants import format_instant
from schemas.pseudonym import Pseudonyms, pseudonymise
from schemas.view import pack_attributes
from serving.messages import MAX_EVENTS, EventsAnswer, RefusedEvent

CONSENT_TYPES: Final = frozenset({"opt_in", "opt_out", "forget"})  # not for every key that may send views
_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any]).decode


class NoRoomError(Exception):
    """Events can't be taken now: as many as may be already wait."""


def taken(
    body: bytes, attributes: Attributes, pseudonyms: Pseudonyms, put: Callable[[Sequence[bytes]], bool], now: int
) -> EventsAnswer:
    """Take the events in a body, one JSON object or an array of them; each refused one is told with its reason.

    ``event_id`` and ``event_time`` are set where absent; ``now`` in ms UTC. ``EventError`` for a body that holds no events;
    ``NoRoomError`` when ``put``, which takes all or none, takes none.
    """
    messages, refused = [], []
    for position, data in enumerate(_events_in(body)):
        try:
            event = decode_event(_stamped(data, now), attributes, now).event
            if event.pseudonymised:
                reason, field, must = "bad_id", "pseudonymised", "pseudonymised == True, must be absent: ids are raw here"
                raise EventError(reason, field, must)  # noqa: TRY301
            if event.event_type in CONSENT_TYPES:
                reason, field = "wrong_type", "event_type"
                where = event.event_type.replace("_", "-")
                must = f"event_type == {event.event_type}, must be asked for by a key that may: /v1/users/ID/{where}"
                raise EventError(reason, field, must)  # noqa: TRY301
            if event.event_type == "featured_click":
                check_click(event.experiment, event.session_id)
        except EventError as fault:
            refused.append(RefusedEvent(position, fault.reason, fault.field, str(fault)))
            continue
        messages.append(encoded(pseudonymise(event, pseudonyms)))
    if not put(messages):
        msg = "too many events wait to be published"
        raise NoRoomError(msg)
    return EventsAnswer(len(messages), refused)


def encoded(event: Event) -> bytes:
    """An event as a message, as ``decode_event`` reads it."""
    wire = {**event._asdict(), "event_time": format_instant(event.event_time), "attributes": event.attributes}
    del wire["packed"]
    return _ENCODE({name: value for name, value in wire.items() if value is not None})


def control_event(kind: EventType, user: str, now: int, pseudonyms: Pseudonyms) -> bytes:
    """The message that a user, by the raw id, opted out or in or wants to be forgotten, at ``now`` (ms UTC)."""
    event = Event(uuid.uuid4().hex, kind, now, user, None, None, None, pack_attributes({}), None, pseudonymised=False)
    return encoded(pseudonymise(event, pseudonyms))


def forget_event(anonymous: str, sealed: bytes, now: int) -> bytes:
    """The message that an anonymous id, by its pseudonym, is to be forgotten up to ``now`` (ms UTC)."""
    event = Event(uuid.uuid4().hex, "forget", now, None, anonymous, None, None, pack_attributes({}), None, pseudonymised=True)
    return encoded(event._replace(sealed_anonymous_id=sealed or None))


def _events_in(body: bytes) -> list[bytes]:
    if not body.lstrip().startswith(b"["):
        return [body]
    try:
        items = [bytes(item) for item in _DECODE(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason, must = "not_json", f"body of {len(body)} bytes, must be one event or an array of events: {error}"
        raise EventError(reason, None, must) from error
    if not 0 < len(items) <= MAX_EVENTS:
        reason, must = "wrong_type", f"number of events == {len(items)}, must be from 1 to {MAX_EVENTS}"
        raise EventError(reason, None, must)
    return items


def _stamped(data: bytes, now: int) -> bytes:
    """The event with an id and a time; what is no object is left for ``decode_event`` to refuse."""
    try:
        event = _OBJECT(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data
    stamps = {"event_id": uuid.uuid4().hex, "event_time": format_instant(now)}
    missing = {name: value for name, value in stamps.items() if name not in event}
    return _ENCODE({**missing, **event}) if missing else data
