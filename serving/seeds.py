"""Chance that repeats: numbers drawn from a session and what they are for, by SHA-256, the same on any machine."""

from __future__ import annotations

import hashlib
from typing import Final

from schemas.hashing import position_of

MAX_SEED: Final = (1 << 64) - 1


def seed_of(session: str, purpose: str) -> int:
    """A 64-bit seed for one purpose within a session; purposes have no colon."""
    return position_of(f"featured:{purpose}", session)


def uniform_of(seed: int) -> float:
    """The seed as a number strictly between 0 and 1, of 52 bits.

    >>> 0 < uniform_of(0) < 1e-15 and 1 - 1e-15 < uniform_of(MAX_SEED) < 1
    True
    """
    return ((seed >> 12) + 0.5) / (1 << 52)


def number_of(listing_id: str) -> int:
    """64 bits of the SHA-256 of a listing's id: its ticket in every draw."""
    return int.from_bytes(hashlib.sha256(listing_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
