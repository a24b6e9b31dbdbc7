"""A circuit breaker: when the store has failed for a while nobody waits for it any more, until a probe has got through."""

from __future__ import annotations

from typing import Final, Literal

FAILURES_TO_OPEN: Final = 5
SECONDS_TO_OPEN: Final = 0.2

State = Literal["closed", "open"]


class Breaker:
    """Closed while reads succeed; open after ``failures`` in a row over ``seconds`` or longer, until one succeeds.

    Both, for a store that stops for a moment (to collect garbage, say) fails all reads under way at once, and is back at once.

    >>> breaker = Breaker(failures=3, seconds=0.2)
    >>> [breaker.failed(now) for now in (0.0, 0.05, 0.05, 0.25)], breaker.state
    ([False, False, False, True], 'open')
    >>> breaker.succeeded()
    >>> breaker.state
    'closed'
    """

    def __init__(self, failures: int = FAILURES_TO_OPEN, seconds: float = SECONDS_TO_OPEN) -> None:
        self._failures, self._seconds = failures, seconds
        self._in_a_row, self._first_s = 0, 0.0
        self.state: State = "closed"

    def failed(self, now: float) -> bool:
        """Count a failure at an instant (seconds of a steady clock); whether this one opened the breaker."""
        if not self._in_a_row:
            self._first_s = now
        self._in_a_row += 1
        if self.state == "open" or self._in_a_row < self._failures or now - self._first_s < self._seconds:
            return False
        self.state = "open"
        return True

    def succeeded(self) -> None:
        """Close the breaker."""
        self._in_a_row = 0
        self.state = "closed"
