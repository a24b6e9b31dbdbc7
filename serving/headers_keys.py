"""The secrets that sign headers on the internal hop: several, so that they can be changed without a gap."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from schemas.errors import ConfigError

VARIABLE: Final = "FORECOURT_HEADER_KEYS"
MIN_SECRET_BYTES: Final = 16
MAX_KEYS: Final = 16
_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_SEPARATOR: Final = re.compile(r"[,\s]+")
_FORM: Final = "must be ID:SECRET, an id of lower-case letters, digits, - and _, and a secret in hex (try: openssl rand -hex 32)"


class HeaderKey(NamedTuple):
    """One secret and the name it goes by; its ``repr`` doesn't show the secret."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return f"HeaderKey({self.id}, …)"


class HeaderKeys(NamedTuple):
    """The key that signs, and all that verify, by id."""

    active: HeaderKey
    known: Mapping[str, HeaderKey]


def parse_header_keys(text: str, where: str) -> HeaderKeys:
    """The keys in ``k2:hexsecret,k1:hexsecret`` (a comma or a line end apart), of which the first signs.

    ``ConfigError`` says which key is wrong by its place alone: what stands there may be the secret.

    >>> parse_header_keys("k2:" + "ab" * 16 + ",k1:" + "cd" * 16, "keys").active
    HeaderKey(k2, …)
    """
    parts = [part for part in _SEPARATOR.split(text) if part]
    if not 0 < len(parts) <= MAX_KEYS:
        msg = f"{where}: number of keys == {len(parts)}, must be between 1 and {MAX_KEYS}"
        raise ConfigError(msg)
    keys: dict[str, HeaderKey] = {}
    for place, part in enumerate(parts, 1):
        key = _key(part, f"{where}: key {place} of {len(parts)}")
        if key.id in keys:
            msg = f"{where}: key {place} of {len(parts)}: its id stands there already, must be unique"
            raise ConfigError(msg)
        keys[key.id] = key
    return HeaderKeys(next(iter(keys.values())), keys)


def load_header_keys(path: str | None = None, environ: Mapping[str, str] = os.environ) -> HeaderKeys:
    """The keys in the file at ``path``, or without one in the environment variable ``FORECOURT_HEADER_KEYS``."""
    if path is None:
        text = environ.get(VARIABLE)
        if not text:
            msg = f"environment variable {VARIABLE} is not set, must hold the keys of the headers as ID:SECRET,ID:SECRET"
            raise ConfigError(msg)
        return parse_header_keys(text, f"environment variable {VARIABLE}")
    try:
        return parse_header_keys(Path(path).read_text(encoding="utf-8"), path)
    except OSError as error:
        msg = f"header keys {path}: {error.strerror}, must be a file of ID:SECRET lines"
        raise ConfigError(msg) from error
    except UnicodeDecodeError:
        msg = f"header keys {path}: must be UTF-8 text"
        raise ConfigError(msg) from None  # the error holds the file


def _key(part: str, where: str) -> HeaderKey:
    name, colon, digits = part.partition(":")
    try:
        secret = bytes.fromhex(digits)
    except ValueError:
        secret = None
    if not colon or secret is None or not _ID.fullmatch(name):
        msg = f"{where}: {_FORM}"
        raise ConfigError(msg)
    if len(secret) < MIN_SECRET_BYTES:
        msg = f"{where}: length of the secret == {len(secret)} bytes, must be at least {MIN_SECRET_BYTES}"
        raise ConfigError(msg)
    return HeaderKey(name, secret)
