"""A token bucket: at most ``burst`` requests at once and ``rate_per_s`` in the long run. Pure: time and state are handed in."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

_TOLERANCE: Final = 1e-9  # a wait of exactly as long as told must do, in spite of rounding


class Limit(NamedTuple):
    """How fast a bucket fills, and how much it holds."""

    rate_per_s: float
    burst: int


class Bucket(NamedTuple):
    """What was in the bucket, and when (ms UTC)."""

    tokens: float
    at: int


class Taken(NamedTuple):
    """The bucket afterwards, whether the request is allowed, and if not in how many whole seconds the next one is."""

    bucket: Bucket
    allowed: bool
    retry_after_s: int


def full(limit: Limit, now: int) -> Bucket:
    """The bucket of someone who hasn't asked yet."""
    return Bucket(float(limit.burst), now)


def take(bucket: Bucket, limit: Limit, now: int) -> Taken:
    """One request at ``now`` (ms UTC). When the clock was set back nothing flows in, and time counts from there.

    >>> limit = Limit(rate_per_s=0.5, burst=1)
    >>> first = take(full(limit, 0), limit, 0)
    >>> first.allowed, take(first.bucket, limit, 100).retry_after_s, take(first.bucket, limit, 2_000).allowed
    (True, 2, True)
    """
    elapsed = max(0, now - bucket.at)
    tokens = min(float(limit.burst), bucket.tokens + elapsed * limit.rate_per_s / 1000)
    if tokens >= 1 - _TOLERANCE:
        return Taken(Bucket(max(0.0, tokens - 1), now), True, 0)
    wait_s = (1 - tokens) / limit.rate_per_s
    return Taken(Bucket(tokens, now), False, max(1, math.ceil(wait_s - _TOLERANCE)))
