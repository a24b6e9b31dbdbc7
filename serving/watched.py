"""Values that files and the store keep, read anew every second beside the requests, so that no request waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

LOOK_S: Final = 1.0

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """A value and how to read it anew. The first reading may raise; later the last good value stays.

    >>> watched = Watched(iter((1, 2)).__next__)
    >>> watched.value, watched.look(), watched.value
    (1, None, 2)
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self.value = read()

    def look(self) -> None:
        """Read the value anew."""
        self.value = self._read()


async def keep_looking(look: Callable[[], object], failed: Callable[[], None], every_s: float = LOOK_S) -> None:
    """Call it in a thread, again and again; what it raises is logged when that begins, and counted by ``failed``."""
    failing = False
    while True:
        try:
            await asyncio.to_thread(look)
            failing = False
        except Exception as fault:
            failed()
            if not failing:
                _log.error("the last good value stays in force: %s: %s", type(fault).__name__, fault)  # noqa: TRY400
            failing = True
        await asyncio.sleep(every_s)
