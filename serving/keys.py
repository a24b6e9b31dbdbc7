"""Where the pseudonym key comes from."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from schemas.pseudonym import PseudonymKey, key_of

KEY_VARIABLE: Final = "FORECOURT_PSEUDONYM_KEY"


def load_key(store_uri: str) -> PseudonymKey:
    """The key from the environment; for a ``sqlite:`` store else from the file beside it, made when it isn't there.

    Raises ``ConfigError`` for any other store without a key in the environment.
    """
    text = os.environ.get(KEY_VARIABLE)
    if text:
        return key_of(text, f"environment variable {KEY_VARIABLE}")
    if not store_uri.startswith("sqlite:///"):
        msg = f"environment variable {KEY_VARIABLE} is not set, must hold the pseudonym key (try: openssl rand -hex 32)"
        raise ConfigError(msg)
    path = Path(store_uri.removeprefix("sqlite:///") + ".key")
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_hex(32) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        msg = f"key file {path}: {error.strerror}; set {KEY_VARIABLE} instead"
        raise ConfigError(msg) from error
    return key_of(path.read_text(), str(path))
