"""A dead letter: a message that could not be used, why, and what of it may be kept. JSON, one a line or a message.

The payload has pseudonyms for ids and only what an event may hold, so it can be kept, read by people and replayed.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from schemas.catalogue import Catalogue
from schemas.event import MAX_EXPERIMENT_BYTES, MAX_ID_BYTES, WireEvent
from schemas.pseudonym import Pseudonyms, is_pseudonym, replaced

_IDENTITIES: Final = ("user_id", "anonymous_id")
_SEALED: Final = ("sealed_user_id", "sealed_anonymous_id")
_SEALED_TEXT: Final = re.compile(r"[A-Za-z0-9+/]{1,512}={0,2}", re.ASCII)

REASONS: Final = {
    "not_utf8": "the message is not UTF-8 text",
    "not_json": "the message is not one JSON value",
    "not_finite": "a number is NaN or infinite",
    "too_large": "the message is longer than 64 KiB",
    "too_deep": "the JSON nests deeper than 32 levels",
    "missing": "a required field is missing",
    "wrong_type": "a field has the wrong JSON type",
    "unknown_event_type": "event_type is none of the known ones",
    "bad_time": "event_time is not an RFC 3339 date-time with an offset",
    "future": "event_time is more than 5 minutes ahead of the clock",
    "bad_id": "an id is empty, longer than 256 bytes or has control characters",
    "no_identity": "neither user_id nor anonymous_id is given",
    "bad_attribute": "an attribute has the wrong kind or is too long",
    "bad_experiment": "the experiment object is larger than 8 KiB",
    "store_refused": "the store refused the view for good",
}


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Why a message was refused; ``payload`` is the sanitised event, ``None`` where nothing may be kept of it."""

    reason: str
    field: str | None
    message: str
    refused_at: str
    size: int
    payload: dict[str, Any] | None


def sanitised_payload(raw: Any, catalogue: Catalogue, pseudonyms: Pseudonyms) -> dict[str, Any] | None:
    """What may be kept of a parsed message: known fields of bearable size, ids as pseudonyms; ``None`` when it is no object.

    Ids that are kept as pseudonyms are kept sealed too, as in an event. A raw id is replaced wherever a field, or a key or
    value of the experiment, equals it, also when the id itself is too bad to be kept.
    """
    if not isinstance(raw, dict):
        return None
    known: dict[Any, str] = {}
    for raw_id in _scalars([raw.get(name) for name in _IDENTITIES]):
        text = str(raw_id)
        if text and _encodable(text):
            known[raw_id] = known[text] = text if is_pseudonym(text) else pseudonyms(text)
    kept: dict[str, Any] = {}
    for name in WireEvent.__struct_fields__:
        value = raw.get(name)
        if name in _IDENTITIES:
            if isinstance(value, str | int | float) and _bearable(value) and value in known:
                kept[name] = known[value]
                if not is_pseudonym(str(value)):
                    kept[f"sealed_{name}"] = b64encode(pseudonyms.seal(str(value))).decode()
        elif name in _SEALED:
            if raw.get("pseudonymised") is True and isinstance(value, str) and _SEALED_TEXT.fullmatch(value):
                kept[name] = value
        elif name == "attributes":
            if isinstance(value, dict):
                bearable = {key: item for key, item in value.items() if key in catalogue.attributes and _bearable(item)}
                kept[name] = {key: replaced(item, known) for key, item in bearable.items()}
        elif name == "experiment":
            if isinstance(value, dict) and len(json.dumps(value)) <= MAX_EXPERIMENT_BYTES:
                if _encodable(json.dumps(value, ensure_ascii=False)):
                    kept[name] = replaced(value, known)
        elif name in raw and _bearable(value):
            kept[name] = replaced(value, known)
    return {**kept, "pseudonymised": True}


def shows_an_id(raw: Any, field: str | None) -> bool:
    """Whether a field's value holds one of the message's own ids: then no message may show it."""
    if not isinstance(raw, dict) or field is None or field in _IDENTITIES:
        return False
    ids = {str(raw_id) for raw_id in _scalars([raw.get(name) for name in _IDENTITIES])} - {""}
    value = str(raw.get(field.split(".")[0]))
    return any(raw_id in value for raw_id in ids)


def _scalars(value: Any) -> Iterator[str | int | float]:
    """The texts and numbers in JSON data."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            yield from _scalars(item)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield value


def _bearable(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_ID_BYTES and _encodable(value)
    return value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() <= 1024)


def _encodable(text: str) -> bool:
    """False for text with lone surrogates, which JSON can spell and UTF-8 can't."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
