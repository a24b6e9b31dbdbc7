"""Which signatures were used already: each holds for one request."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final, Literal

CAPACITY: Final = 200_000  # 3,300 requests a second for 60 s; about 40 MB when full
CLOCK_STEP_MS: Final = 5_000

Claim = Literal["new", "seen", "full"]


class Nonces:
    """The nonces of signatures that still hold, at most ``capacity`` of them; for any number of threads.

    When full it takes in no new one, which the verifier refuses: searches go on without segments rather than with segments that
    may have been used before. Room comes back as signatures run out, a minute later at most. The memory is the process's own: of
    several processes each lets a signature through once, unless they have ``serving.headers_nonces_file.SharedNonces``.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._seen: set[str] = set()
        self._order: deque[tuple[int, str]] = deque()
        self._lock = threading.Lock()

    def claim(self, nonce: str, until: int, now: int) -> Claim:
        """Take in a nonce of a signature that holds until then (ms UTC), and say whether it was new.

        It is kept a little longer, for clocks are set back at times.
        """
        with self._lock:
            # Signatures hold equally long, so the oldest run out first; one that doesn't waits for those before it.
            while self._order and self._order[0][0] <= now:
                self._seen.discard(self._order.popleft()[1])
            if nonce in self._seen:
                return "seen"
            if len(self._seen) >= self._capacity:
                return "full"
            self._seen.add(nonce)
            self._order.append((until + CLOCK_STEP_MS, nonce))
            return "new"

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._seen)
