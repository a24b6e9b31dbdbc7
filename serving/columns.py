"""Attributes of many listings as columns of small whole numbers, and conditions answered on them: a few passes of numpy each."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.catalogue import AttributeValue
from schemas.rules import All, Band, Condition, Equals, Not

Flags = NDArray[np.bool_]
_CODE_TYPES: Final = (np.uint8, np.uint16, np.uint32)


class Column(NamedTuple):
    """One attribute: listing ``i`` has ``values[codes[i]]``, or lacks it where the code is ``len(values)``.

    The values are distinct and ascending, so that the values in a band are a range of codes.
    """

    values: NDArray[Any]  # texts (object) or float64
    codes: NDArray[np.unsignedinteger[Any]]

    def at(self, row: int) -> AttributeValue | None:
        """The value of one listing."""
        code = int(self.codes[row])
        if code == len(self.values):
            return None
        value = self.values[code]
        return value if isinstance(value, str) else float(value)

    def code_of(self, value: AttributeValue) -> int | None:
        """The code of a value; ``None`` when no listing has it."""
        place = bisect.bisect_left(self.values, value)  # numpy would cut a text at its NUL
        return place if place < len(self.values) and self.values[place] == value else None


def column_of(values: NDArray[Any], codes: NDArray[np.integer[Any]]) -> Column:
    """The column with the smallest codes that do; ``codes`` point into ascending ``values``, -1 for none."""
    size = len(values)
    kind = next(kind for kind in _CODE_TYPES if size <= np.iinfo(kind).max)
    return Column(values, np.where(codes < 0, size, codes).astype(kind))


def mask_of(condition: Condition, columns: Mapping[str, Column], rows: slice) -> Flags:
    """Which of the listings in ``rows`` satisfy the condition, bool for each; a listing satisfies none on what it lacks.

    >>> price = column_of(np.array([1.0, 2.0]), np.array([0, 1, -1]))
    >>> mask_of(Not(Band("price", lt=2.0)), {"price": price}, slice(3)).tolist()
    [False, True, True]
    """
    if isinstance(condition, Equals):
        column = columns[condition.attribute]
        codes = column.codes[rows]
        wanted = [code for value in condition.values if (code := column.code_of(value)) is not None]
        if len(wanted) == 1:
            return np.asarray(codes == wanted[0])
        held = np.zeros(len(column.values) + 1, np.bool_)
        held[wanted] = True
        return np.asarray(held[codes])
    if isinstance(condition, Band):
        column = columns[condition.attribute]
        codes = column.codes[rows]
        place = column.values.searchsorted
        least = max(place(condition.gte), place(condition.gt, "right"))
        beyond = min(place(condition.lte, "right"), place(condition.lt))
        if least >= beyond:
            return np.zeros(len(codes), np.bool_)
        return np.asarray(codes < beyond) if least == 0 else np.asarray((codes >= least) & (codes < beyond))
    if isinstance(condition, Not):
        return ~mask_of(condition.condition, columns, rows)
    combine = np.logical_and if isinstance(condition, All) else np.logical_or
    found = mask_of(condition.conditions[0], columns, rows)
    for part in condition.conditions[1:]:
        combine(found, mask_of(part, columns, rows), out=found)
    return found
