"""Pseudonyms: ``1:`` (the key's version) and the hex of HMAC-SHA256(key, id). Ids are stored and written only as these."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from schemas.errors import ConfigError
from schemas.event import Event

KEY_VERSION: Final = 1
MIN_KEY_BYTES: Final = 16
_PSEUDONYM: Final = re.compile(r"\d{1,6}:[0-9a-f]{64}", re.ASCII)
_MAX_KNOWN: Final = 100_000


class PseudonymKey(NamedTuple):
    """The secret key; its ``repr`` doesn't show it."""

    secret: bytes

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return "PseudonymKey(…)"


def key_of(text: str, where: str) -> PseudonymKey:
    """The key in a text; ``ConfigError`` when it is shorter than 16 bytes."""
    secret = text.strip().encode()
    if len(secret) < MIN_KEY_BYTES:
        msg = f"{where}: length == {len(secret)} bytes, must be at least {MIN_KEY_BYTES} (try: openssl rand -hex 32)"
        raise ConfigError(msg)
    return PseudonymKey(secret)


def pseudonym_of(key: PseudonymKey, raw_id: str) -> str:
    """The pseudonym of a raw id.

    >>> pseudonym_of(PseudonymKey(b"k" * 16), "u1")[:10]
    '1:a57d21c9'
    """
    return f"{KEY_VERSION}:{hmac.digest(key.secret, raw_id.encode(), hashlib.sha256).hex()}"


def is_pseudonym(text: str) -> bool:
    """Whether a text has the form of a pseudonym."""
    return _PSEUDONYM.fullmatch(text) is not None


class Pseudonyms:
    """``pseudonym_of`` with one key, remembering the ids seen of late; at most 100,000 of them."""

    def __init__(self, key: PseudonymKey) -> None:
        self._key = key
        self._known: dict[str, str] = {}

    def __call__(self, raw_id: str) -> str:
        """Return the pseudonym of a raw id."""
        known = self._known.get(raw_id)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[raw_id] = pseudonym_of(self._key, raw_id)
        return known


def replaced(value: Any, replacements: Mapping[Any, str]) -> Any:
    """JSON data in which every text or number, and every key, that is a key of ``replacements`` is replaced.

    >>> replaced({"unit": "u1", "arm": "b"}, {"u1": "1:00"})
    {'unit': '1:00', 'arm': 'b'}
    """
    if isinstance(value, list):
        return [replaced(item, replacements) for item in value]
    if isinstance(value, dict):
        return {replacements.get(key, key): replaced(item, replacements) for key, item in value.items()}
    return replacements.get(value, value)


def pseudonymise(event: Event, pseudonyms: Callable[[str], str]) -> Event:
    """The event with pseudonyms for its ids, in its experiment object too; an event that has them already as it is."""
    if event.pseudonymised:
        return event
    user_id, anonymous_id = event.user_id, event.anonymous_id
    user = None if user_id is None else pseudonyms(user_id)
    anonymous = None if anonymous_id is None else pseudonyms(anonymous_id)
    experiment = event.experiment
    if experiment is not None:
        pairs = ((user_id, user), (anonymous_id, anonymous))
        experiment = replaced(experiment, {raw: known for raw, known in pairs if raw is not None and known is not None})
    event_id, event_type, event_time, _, _, session_id, listing_id, packed, _, _ = event
    return Event(event_id, event_type, event_time, user, anonymous, session_id, listing_id, packed, experiment, True)
