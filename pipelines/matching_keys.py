"""Whether the keys at hand are those that a store's rows were made with: by another nobody is found, and nothing is told of it."""

from __future__ import annotations

import itertools
from typing import Final

from schemas.errors import ConfigError
from schemas.pseudonym import KeyRing, opened, version_of
from serving.store import Store

LOOKED_AT: Final = 100  # rows


def check_keys(store: Store, ring: KeyRing) -> None:
    """Return when the first rows' sealed ids can be opened; ``ConfigError`` when a key has their version and isn't theirs."""
    versions = {key.version for key in ring.keys}
    keys = [key for key in itertools.islice(store.keys(), LOOKED_AT) if version_of(key) in versions]
    for key, identity in store.read_windows(keys, 1).identities.items():
        if identity.sealed and opened(ring, identity.sealed) is None:
            msg = f"pseudonym key of version {version_of(key)}, must be that of {store.uri}: the ids in its rows don't open with it"
            raise ConfigError(msg)
