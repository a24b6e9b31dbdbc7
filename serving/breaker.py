"""A circuit breaker: after failures in a row nobody waits for the store any more, until a probe has got through."""

from __future__ import annotations

from typing import Final, Literal

FAILURES_TO_OPEN: Final = 5

State = Literal["closed", "open"]


class Breaker:
    """Closed while reads succeed; open after ``failures`` of them failed in a row, until one succeeds.

    >>> breaker = Breaker(failures=2)
    >>> breaker.failed(), breaker.failed(), breaker.state
    (False, True, 'open')
    >>> breaker.succeeded()
    >>> breaker.state
    'closed'
    """

    def __init__(self, failures: int = FAILURES_TO_OPEN) -> None:
        self._limit = failures
        self._in_a_row = 0
        self.state: State = "closed"
        self.opened = 0

    def failed(self) -> bool:
        """Count a failure; whether this one opened the breaker."""
        self._in_a_row += 1
        if self.state == "open" or self._in_a_row < self._limit:
            return False
        self.state = "open"
        self.opened += 1
        return True

    def succeeded(self) -> None:
        """Close the breaker."""
        self._in_a_row = 0
        self.state = "closed"
