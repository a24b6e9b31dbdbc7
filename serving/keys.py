"""Where the pseudonym keys come from: the environment, a file, or Google Secret Manager.

No message and no ``repr`` shows anything of a secret.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from schemas.pseudonym import KeyRing, ring_of

KEY_VARIABLE: Final = "FORECOURT_PSEUDONYM_KEY"
FILE_VARIABLE: Final = "FORECOURT_PSEUDONYM_KEY_FILE"
SECRET_MANAGER: Final = "secret-manager://"
_MAX_FILE_BYTES: Final = 64 * 1024
_HINT: Final = "try: openssl rand -hex 32"


def load_ring(key_from: str) -> KeyRing:
    """The keys that a process works with, and which of them writes.

    From ``FORECOURT_PSEUDONYM_KEY``: the keys themselves, or ``secret-manager://projects/P/secrets/S``; else from the file that
    ``FORECOURT_PSEUDONYM_KEY_FILE`` names; else, where ``key_from`` is a ``sqlite:`` store's URI, from the file beside it, which is
    made when it isn't there. ``ConfigError`` for any other store, and for no store (``""``), without one of those.
    """
    text, path = os.environ.get(KEY_VARIABLE), os.environ.get(FILE_VARIABLE)
    if text and path:
        msg = f"environment variables {KEY_VARIABLE} and {FILE_VARIABLE} are both set, one of them must be"
        raise ConfigError(msg)
    if text and text.startswith(SECRET_MANAGER):
        from serving.keys_secret_manager import secret_ring

        return secret_ring(text)
    if text:
        return ring_of(text, f"environment variable {KEY_VARIABLE}")
    if path:
        return ring_in_file(Path(path))
    if not key_from.startswith("sqlite:///"):
        msg = f"environment variable {KEY_VARIABLE} is not set, must hold the pseudonym key ({_HINT})"
        if not key_from:
            msg += "; on one machine --key-of shares the key file of a sqlite: store"
        raise ConfigError(msg)
    path_beside = key_file_of(key_from)
    try:
        with open(path_beside, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(secrets.token_hex(32) + "\n")
    except FileExistsError:
        pass
    except OSError as error:
        msg = f"key file {path_beside}: {error.strerror}; set {KEY_VARIABLE} instead"
        raise ConfigError(msg) from error
    return ring_in_file(path_beside)


def key_file_of(store: str) -> Path:
    """Where the keys of a ``sqlite:`` store lie."""
    return Path(store.removeprefix("sqlite:///") + ".key")


def ring_in_file(path: Path) -> KeyRing:
    """The keys in a file; ``ConfigError`` when it can't be read or holds none."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        msg = f"key file {path} must be readable: {error.strerror}"
        raise ConfigError(msg) from error
    try:
        text = data.decode()
    except UnicodeDecodeError:  # its own text would show what it met
        text = "\0"
    if "\0" in text:
        msg = f"key file {path} must be text; if it has been replaced just now, try again"
        raise ConfigError(msg)
    return ring_of(text, f"key file {path}")
