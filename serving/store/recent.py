"""Which cells this process has written of late: how copies are told apart from new views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from schemas.profile_row import ViewCell

REMEMBERED_CELLS: Final = 300_000


class Split(NamedTuple):
    """Views whose cells were not known, and those that were."""

    new: list[tuple[str, ViewCell]]
    known: list[tuple[str, ViewCell]]


class RecentCells:
    """The last 150,000 to 300,000 cells, as hashes in two generations; only for counting, never for leaving a write out."""

    def __init__(self) -> None:
        self._young: set[int] = set()
        self._old: set[int] = set()

    def split(self, views: Sequence[tuple[str, ViewCell]]) -> Split:
        """Tell new from known, and know all of them from now on."""
        result = Split([], [])
        for view in views:
            mark = hash((view[0], view[1].qualifier))
            if mark in self._young or mark in self._old:
                result.known.append(view)
            else:
                self._young.add(mark)
                result.new.append(view)
        if len(self._young) >= REMEMBERED_CELLS // 2:
            self._old, self._young = self._young, set()
        return result
