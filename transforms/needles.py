"""Thousands of byte strings looked for at once, each as fast as one: by eight bytes of each, and then the whole.

A table tells for most places of the text that none of them is there; NumPy asks it without Python's lock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

WINDOW_BYTES: Final = 8  # no needle may be shorter
WITHIN: Final = frozenset(b"-._@+0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")  # what a word doesn't end at
_TABLE_BITS: Final = 20
_SPREAD: Final = np.uint64(0x9E3779B97F4A7C15)


class Needles:
    """``codes`` are found anywhere, ``words`` where no letter, digit or ``-._@+`` is next to them; all of eight bytes or more."""

    def __init__(self, codes: Collection[bytes], words: Collection[bytes]) -> None:
        self._codes, self._words = frozenset(codes), frozenset(words)
        from_end = len({word[-WINDOW_BYTES:] for word in words}) >= len({word[:WINDOW_BYTES] for word in words})
        shapes: defaultdict[int, set[tuple[int, int, bool]]] = defaultdict(set)
        for needles, last, is_word in ((self._codes, True, False), (self._words, from_end, True)):
            for needle in needles:
                start = len(needle) - WINDOW_BYTES if last else 0
                shapes[int.from_bytes(needle[start : start + WINDOW_BYTES], "little")].add((start, len(needle), is_word))
        self._shapes = {window: sorted(each) for window, each in shapes.items()}
        self._windows = np.array(sorted(shapes), np.uint64)
        self._table = np.zeros(1 << _TABLE_BITS, np.bool_)
        self._table[_slots(self._windows)] = True

    def among(self, texts: pa.Array, *, whole: bool = True) -> NDArray[np.bool_]:
        """Which large binaries hold a needle; ``whole=False``: words within others, too."""
        found = np.zeros(len(texts), np.bool_)
        _, ends, data = texts.buffers()
        if data is None or not len(texts):
            return found
        bounds = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        places = self._places(data, int(bounds[0]), int(bounds[-1]))
        rows = np.searchsorted(bounds, places, "right") - 1
        view = memoryview(data)
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            if not found[row]:
                found[row] = self._is_at(view, place, int(bounds[row]), int(bounds[row + 1]), whole=whole)
        return np.asarray(found & texts.is_valid().to_numpy(zero_copy_only=False))

    def _places(self, data: Any, start: int, end: int) -> NDArray[np.int64]:
        """Where the eight bytes of a needle are, in order."""
        found = [np.zeros(0, np.int64)]
        for first in range(start, min(start + WINDOW_BYTES, end - WINDOW_BYTES + 1)):
            windows = np.frombuffer(data, "<u8", (end - first) // WINDOW_BYTES, first)
            suspects = np.flatnonzero(self._table[_slots(windows)])
            hits = suspects[np.isin(windows[suspects], self._windows)]
            found.append(hits * WINDOW_BYTES + first)
        return np.sort(np.concatenate(found))

    def _is_at(self, data: memoryview, place: int, start: int, end: int, *, whole: bool) -> bool:
        """Whether a needle lies around a place, between a text's start and end."""
        for before, length, is_word in self._shapes[int.from_bytes(data[place : place + WINDOW_BYTES], "little")]:
            first, last = place - before, place - before + length
            if start <= first and last <= end and bytes(data[first:last]) in (self._words if is_word else self._codes):
                inside = is_word and whole and (_within(data, first - 1, start, end) or _within(data, last, start, end))
                if not inside:
                    return True
        return False


def _within(data: memoryview, place: int, start: int, end: int) -> bool:
    return start <= place < end and data[place] in WITHIN


def _slots(windows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    slots: NDArray[np.uint64] = (windows * _SPREAD) >> np.uint64(64 - _TABLE_BITS)
    return slots
