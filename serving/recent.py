"""What this process has handled of late: how copies are told from what is new, for counting only, never for leaving a write out."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final

REMEMBERED: Final = 300_000


class Recent:
    """The last 150,000 to 300,000 marks, as hashes in two generations."""

    def __init__(self) -> None:
        self._young: set[int] = set()
        self._old: set[int] = set()

    def is_new(self, mark: Hashable) -> bool:
        """Whether the mark was not known; from now on it is."""
        number = hash(mark)
        if number in self._young or number in self._old:
            return False
        self._young.add(number)
        if len(self._young) >= REMEMBERED // 2:
            self._old, self._young = self._young, set()
        return True
