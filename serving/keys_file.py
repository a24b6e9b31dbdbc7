"""A file of pseudonym keys changed: a key added, made the one that writes, or destroyed; each in one step."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from schemas.errors import ConfigError
from schemas.pseudonym import MAX_VERSION, KeyRing, PseudonymKey

SECRET_BYTES: Final = 32


def text_of(ring: KeyRing) -> str:
    """The ring as a file or an environment variable holds it: ``ring_of`` reads it back. It shows the secrets."""
    others = [key for key in ring.keys if key != ring.current]
    return "".join(f"{key.version}:{key.secret.decode()}\n" for key in (ring.current, *others))


def with_new_key(ring: KeyRing) -> KeyRing:
    """The ring and a new key of the next version, which is known and doesn't write yet."""
    version = ring.keys[0].version + 1
    if version > MAX_VERSION:
        msg = f"version == {version}, must be at most {MAX_VERSION}"
        raise ConfigError(msg)
    return KeyRing((PseudonymKey(secrets.token_hex(SECRET_BYTES).encode(), version), *ring.keys), ring.current)


def promoted(ring: KeyRing, version: int) -> KeyRing:
    """The ring in which the key of a version writes; ``ConfigError`` when there is none, or an older one than now."""
    key = key_of(ring, version)
    if version < ring.current.version:
        msg = f"version == {version}, must be at least {ring.current.version}, which writes: rows only move to newer keys"
        raise ConfigError(msg)
    return ring._replace(current=key)


def without_key(ring: KeyRing, version: int) -> KeyRing:
    """The ring without the key of a version; ``ConfigError`` when there is none, or when it is the one that writes."""
    key = key_of(ring, version)
    if key == ring.current:
        msg = f"version == {version}, must be another than the one that writes"
        raise ConfigError(msg)
    return ring._replace(keys=tuple(each for each in ring.keys if each != key))


def key_of(ring: KeyRing, version: int) -> PseudonymKey:
    """The key of a version; ``ConfigError`` when there is none."""
    for key in ring.keys:
        if key.version == version:
            return key
    msg = f"version == {version}, must be one of the ring: {', '.join(str(key.version) for key in ring.keys)}"
    raise ConfigError(msg)


def replace_file(path: Path, ring: KeyRing) -> None:
    """Put the ring in the place of what the file holds, readable for its owner alone; once it returns, it is on disk.

    What the file held is overwritten before it goes, as far as its file system does that where it stands.
    """
    pending = path.with_name(f".{path.name}.new")
    try:
        pending.unlink(missing_ok=True)
        with open(pending, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(text_of(ring))
            file.flush()
            os.fsync(file.fileno())
        with path.open("r+b") as old:  # kept open: its bytes outlive the name
            pending.replace(path)
            old.write(b"\0" * os.fstat(old.fileno()).st_size)
            old.flush()
            os.fsync(old.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        msg = f"key file {path} must be one that can be replaced: {error.strerror}"
        raise ConfigError(msg) from error
