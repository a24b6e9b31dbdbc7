"""Where a unit falls in [0, 1): its position, by SHA-256 of a salt and its id, the same in any language and on any machine."""

from __future__ import annotations

import hashlib
from typing import Final

POSITIONS: Final = 1 << 64


def position_of(salt: str, unit: str) -> int:
    """The first 8 bytes, big endian, of SHA-256 of ``salt:unit``: a whole number from 0, below ``POSITIONS``.

    >>> position_of("salt", "unit") == int(hashlib.sha256(b"salt:unit").hexdigest()[:16], 16)
    True
    """
    text = f"{salt}:{unit}".encode("utf-8", "surrogatepass")  # any text has a position
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def within(position: int, share: float) -> bool:
    """Whether a position lies in the first ``share`` (0 to 1) of all; a greater share holds the same positions and more.

    A whole number is compared with a float exactly, and a float times a power of two is exact.

    >>> within(0, 0.0), within(0, 1e-19), within(POSITIONS - 1, 1.0)
    (False, True, True)
    """
    return position < share * POSITIONS
