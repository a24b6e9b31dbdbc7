"""Pseudonyms: ``1:`` (the key's version) and the hex of HMAC-SHA256(key, id). Ids are stored and written only as these.

An HMAC can't be made into another key's without the id. So that keys can be rotated, ids also travel sealed: encrypted (AES-SIV,
RFC 5297, which needs no nonce) under a key that follows from the pseudonym key of the same version. Whoever destroys that key makes
pseudonyms and sealed ids of its version unreadable for ever.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from schemas.errors import ConfigError
from schemas.event import Event

MIN_KEY_BYTES: Final = 16
MAX_VERSION: Final = 999_999
PSEUDONYM: Final = re.compile(r"[1-9]\d{0,5}:[0-9a-f]{64}", re.ASCII)
_VERSIONED: Final = re.compile(r"([1-9]\d{0,5}):(.*)", re.ASCII)
_VERSION_BYTES: Final = 3
_PURPOSE: Final = b"forecourt sealed ids"
_MAX_KNOWN: Final = 100_000


class PseudonymKey(NamedTuple):
    """A secret key and its version; its ``repr`` doesn't show it."""

    secret: bytes
    version: int = 1

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return f"PseudonymKey(…, version={self.version})"


class KeyRing(NamedTuple):
    """The keys that are in use, newest version first, and the one that writes.

    The others read: what older ones wrote is moved; newer ones are known before any process writes with them.
    """

    keys: tuple[PseudonymKey, ...]
    current: PseudonymKey


def ring_of(text: str, where: str) -> KeyRing:
    """The keys in a text, one a line, each ``VERSION:SECRET``; a bare secret is version 1. The first writes.

    ``ConfigError`` when there is none, one is shorter than 16 bytes, or two have one version.
    """
    keys: dict[int, PseudonymKey] = {}
    for part in filter(None, map(str.strip, text.splitlines())):
        versioned = _VERSIONED.fullmatch(part)
        version, secret = (int(versioned[1]), versioned[2]) if versioned else (1, part)
        if len(secret.encode()) < MIN_KEY_BYTES:
            size = len(secret.encode())
            msg = f"{where}: length == {size} bytes, must be at least {MIN_KEY_BYTES} (try: openssl rand -hex 32)"
            raise ConfigError(msg)
        if version in keys:
            msg = f"{where}: version {version} is given twice, must be given once (VERSION:SECRET, one a line)"
            raise ConfigError(msg)
        keys[version] = PseudonymKey(secret.encode(), version)
    if not keys:
        msg = f"{where}: length == 0 bytes, must be at least {MIN_KEY_BYTES} (try: openssl rand -hex 32)"
        raise ConfigError(msg)
    return KeyRing(tuple(keys[version] for version in sorted(keys, reverse=True)), next(iter(keys.values())))


def pseudonym_of(key: PseudonymKey, raw_id: str) -> str:
    """The pseudonym of a raw id.

    >>> pseudonym_of(PseudonymKey(b"k" * 16), "u1")[:10]
    '1:a57d21c9'
    """
    return f"{key.version}:{hmac.digest(key.secret, raw_id.encode(), hashlib.sha256).hex()}"


def is_pseudonym(text: str) -> bool:
    """Whether a text has the form of a pseudonym."""
    return PSEUDONYM.fullmatch(text) is not None


def version_of(pseudonym: str) -> int:
    """The version of the key that a pseudonym was made with.

    >>> version_of("12:00")
    12
    """
    return int(pseudonym.partition(":")[0])


def seal(key: PseudonymKey, raw_id: str) -> bytes:
    """The raw id, encrypted: equal ids give equal bytes.

    >>> opened(ring_of("k" * 16, "an example"), seal(PseudonymKey(b"k" * 16), "u1"))
    'u1'
    """
    return key.version.to_bytes(_VERSION_BYTES, "big") + _cipher_of(key.secret).encrypt(raw_id.encode(), None)


def opened(ring: KeyRing, sealed: bytes) -> str | None:
    """The raw id that was sealed; ``None`` without its key, or when it wasn't sealed with it."""
    version = int.from_bytes(sealed[:_VERSION_BYTES], "big")
    for key in ring.keys:
        if key.version == version:
            try:
                return _cipher_of(key.secret).decrypt(sealed[_VERSION_BYTES:], None).decode()
            except (InvalidTag, ValueError):
                return None
    return None


class Pseudonyms:
    """``pseudonym_of`` with the current key of a ring, remembering the ids seen of late; at most 100,000 of them."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self._known: dict[str, str] = {}
        self._sealed: dict[str, bytes] = {}

    def __call__(self, raw_id: str) -> str:
        """Return the pseudonym of a raw id."""
        known = self._known.get(raw_id)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            known = self._known[raw_id] = pseudonym_of(self.ring.current, raw_id)
        return known

    def names(self, raw_id: str) -> tuple[str, ...]:
        """All pseudonyms of a raw id that may be in use, the newest key's first."""
        if len(self.ring.keys) == 1:
            return (self(raw_id),)
        return tuple(pseudonym_of(key, raw_id) for key in self.ring.keys)

    def seal(self, raw_id: str) -> bytes:
        """The raw id, encrypted with the current key."""
        known = self._sealed.get(raw_id)
        if known is None:
            if len(self._sealed) >= _MAX_KNOWN:
                self._sealed.clear()
            known = self._sealed[raw_id] = seal(self.ring.current, raw_id)
        return known

    def opened(self, sealed: bytes) -> str | None:
        """The raw id that was sealed with one of the keys, ``None`` without its key."""
        return opened(self.ring, sealed)

    def raw_of(self, pseudonym: str, sealed: bytes | None) -> str | None:
        """The raw id of a pseudonym, where it is what was sealed. Nobody who claims so is believed: it is computed again."""
        raw_id = self.opened(sealed) if sealed else None
        return raw_id if raw_id is not None and pseudonym in self.names(raw_id) else None

    def names_of(self, pseudonym: str, sealed: bytes | None) -> tuple[str, ...]:
        """All pseudonyms of an id by one of them and the sealed id; that one alone where it isn't what was sealed."""
        raw_id = self.raw_of(pseudonym, sealed)
        return (pseudonym,) if raw_id is None else self.names(raw_id)


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


def pseudonymise(event: Event, pseudonyms: Pseudonyms) -> Event:
    """The event with pseudonyms for its ids, in its experiment object too, and the ids sealed.

    An event that has pseudonyms already stays as it is, but those of another key of the ring become the current one's, where
    they come with the sealed id.
    """
    if event.pseudonymised:
        return event if len(pseudonyms.ring.keys) == 1 else renamed(event, pseudonyms)
    user_id, anonymous_id = event.user_id, event.anonymous_id
    user = None if user_id is None else pseudonyms(user_id)
    anonymous = None if anonymous_id is None else pseudonyms(anonymous_id)
    experiment = event.experiment
    if experiment is not None:
        pairs = ((user_id, user), (anonymous_id, anonymous))
        experiment = replaced(experiment, {raw: known for raw, known in pairs if raw is not None and known is not None})
    event_id, event_type, event_time, _, _, session_id, listing_id, packed, *_ = event
    return Event(
        event_id,
        event_type,
        event_time,
        user,
        anonymous,
        session_id,
        listing_id,
        packed,
        experiment,
        True,
        None if user_id is None else pseudonyms.seal(user_id),
        None if anonymous_id is None else pseudonyms.seal(anonymous_id),
    )


def renamed(event: Event, pseudonyms: Pseudonyms) -> Event:
    """The event with the current key's pseudonyms for those of other keys of the ring whose sealed ids it has."""
    current, new = pseudonyms.ring.current.version, {}
    for known, sealed in ((event.user_id, event.sealed_user_id), (event.anonymous_id, event.sealed_anonymous_id)):
        if known is not None and sealed and version_of(known) != current:
            raw_id = pseudonyms.raw_of(known, sealed)
            if raw_id is not None:
                new[known] = (pseudonyms(raw_id), pseudonyms.seal(raw_id))
    if not new:
        return event
    user, sealed_user = new.get(event.user_id or "", (event.user_id, event.sealed_user_id))
    anonymous, sealed_anonymous = new.get(event.anonymous_id or "", (event.anonymous_id, event.sealed_anonymous_id))
    experiment = event.experiment
    if experiment is not None:
        experiment = replaced(experiment, {old: name for old, (name, _) in new.items()})
    return event._replace(
        user_id=user,
        anonymous_id=anonymous,
        experiment=experiment,
        sealed_user_id=sealed_user,
        sealed_anonymous_id=sealed_anonymous,
    )


@functools.lru_cache(16)
def _cipher_of(secret: bytes) -> AESSIV:
    return AESSIV(HKDF(SHA512(), 32, None, _PURPOSE).derive(secret))
