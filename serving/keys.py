"""Where the pseudonym keys come from."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from schemas.pseudonym import KeyRing, ring_of

KEY_VARIABLE: Final = "FORECOURT_PSEUDONYM_KEY"


def load_ring(key_from: str) -> KeyRing:
    """The keys from the environment; where ``key_from`` is a ``sqlite:`` store's URI, else from the file beside it.

    The file is made when it isn't there. ``ConfigError`` for any other store, and for no store (``""``), without a key in the
    environment.
    """
    text = os.environ.get(KEY_VARIABLE)
    if text:
        return ring_of(text, f"environment variable {KEY_VARIABLE}")
    if not key_from.startswith("sqlite:///"):
        msg = f"environment variable {KEY_VARIABLE} is not set, must hold the pseudonym key (try: openssl rand -hex 32)"
        if not key_from:
            msg += "; on one machine --key-of shares the key file of a sqlite: store"
        raise ConfigError(msg)
    path = Path(key_from.removeprefix("sqlite:///") + ".key")
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_hex(32) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        msg = f"key file {path}: {error.strerror}; set {KEY_VARIABLE} instead"
        raise ConfigError(msg) from error
    return ring_of(path.read_text(), str(path))
