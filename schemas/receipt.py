"""The receipt of a deletion: what was looked through and what went, signed (Ed25519). It names nobody, in whatever form."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from schemas.errors import ConfigError

FORMAT: Final = "forecourt receipt 1"
SEED_BYTES: Final = 32
_KEY_ID_DIGITS: Final = 16


def signing_key(seed: str, where: str) -> Ed25519PrivateKey:
    """The key in 64 hex digits; ``ConfigError`` for any other text."""
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed.strip()))
    except ValueError:
        msg = f"{where}: length == {len(seed.strip())}, must be {2 * SEED_BYTES} hex digits (try: openssl rand -hex 32)"
        raise ConfigError(msg) from None


def signed(body: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The receipt: the body with its format and the key's id, the public key and the signature over the body.

    >>> key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    >>> fault_in(signed({"people": 1}, key)) is None
    True
    """
    public = key.public_key().public_bytes_raw()
    whole = {"format": FORMAT, "key_id": key_id_of(public), **body}
    return {"receipt": whole, "public_key": public.hex(), "signature": key.sign(_bytes_of(whole)).hex()}


def fault_in(receipt: Any, public_key: str | None = None) -> str | None:
    """What is wrong with a receipt, ``None`` when it was signed as it is; by ``public_key`` (hex) where one is given.

    Without one, that says no more than that it wasn't changed since somebody signed it. ``ConfigError`` for a key that is none.
    """
    try:
        body, public, signature = receipt["receipt"], bytes.fromhex(receipt["public_key"]), bytes.fromhex(receipt["signature"])
        held = Ed25519PublicKey.from_public_bytes(public)
        if body["format"] != FORMAT or body["key_id"] != key_id_of(public):
            return f"format and key_id must be {FORMAT} and that of its public key"
    except (KeyError, TypeError, ValueError):
        return "must be a receipt: JSON with receipt, public_key and signature"
    if public_key is not None and public_key.strip().lower() != public.hex():
        if len(public_key.strip()) != 2 * SEED_BYTES:
            msg = f"--public-key: length == {len(public_key.strip())}, must be {2 * SEED_BYTES} hex digits"
            raise ConfigError(msg)
        return "was signed with another key"
    try:
        held.verify(signature, _bytes_of(body))
    except InvalidSignature:
        return "was changed since it was signed"
    return None


def key_id_of(public: bytes) -> str:
    """A short name of a public key."""
    return hashlib.sha256(public).hexdigest()[:_KEY_ID_DIGITS]


def _bytes_of(body: dict[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
