"""Which views match which rules: a condition as a function of one view's attributes, and of columns of many.

Matches travel as bits: bit ``c % 64`` of word ``c // 64`` is set where condition ``c`` holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.catalogue import AttributeValue
from schemas.rules import All, Any_, Band, Condition, Equals, Not
from schemas.view import unpack_attributes

Predicate = Callable[[Mapping[str, AttributeValue]], bool]


class Categories(NamedTuple):
    """A column of texts: ``codes`` int32[n] are places in ``values``, -1 where the view lacks the attribute."""

    codes: NDArray[np.int32]
    values: Sequence[str]


Numbers = NDArray[np.float64]  # NaN where the view lacks the attribute
Columns = Mapping[str, Categories | Numbers]

MAX_ROWS: Final = 1 << 16
_WORD: Final = (1 << 64) - 1


def predicate_of(condition: Condition) -> Predicate:
    """The condition as a function of a view's attributes; an attribute that the view lacks makes it false.

    >>> predicate_of(Not(Equals("fuel_type", frozenset({"diesel"}))))({})
    True
    """
    if isinstance(condition, Equals):
        name, values = condition.attribute, condition.values
        return lambda attributes: attributes.get(name) in values
    if isinstance(condition, Band):
        name, gte, gt, lte, lt = condition.attribute, condition.gte, condition.gt, condition.lte, condition.lt
        return lambda attributes: (have := attributes.get(name)) is not None and gte <= have <= lte and gt < have < lt  # type: ignore[operator]
    if isinstance(condition, Not):
        inner = predicate_of(condition.condition)
        return lambda attributes: not inner(attributes)
    parts = [predicate_of(part) for part in condition.conditions]
    if isinstance(condition, All):
        return lambda attributes: all(part(attributes) for part in parts)
    assert isinstance(condition, Any_)
    return lambda attributes: any(part(attributes) for part in parts)


def words_for(conditions: int) -> int:
    """How many 64-bit words hold a bit for each condition."""
    return -(-conditions // 64)


def mask_of(condition: Condition, columns: Columns) -> NDArray[np.bool_]:
    """Which views of the columns satisfy the condition, bool[n]: as ``predicate_of`` says of each of them.

    >>> mask_of(Band("price", gte=2.0), {"price": np.array([1.0, 2.0, np.nan])}).tolist()
    [False, True, False]
    """
    if isinstance(condition, Equals):
        column = columns[condition.attribute]
        if isinstance(column, Categories):
            held = np.array([value in condition.values for value in column.values] + [False])  # the last is for -1
            return held[column.codes]
        return np.isin(column, np.array(sorted(condition.values), np.float64))
    if isinstance(condition, Band):
        numbers = columns[condition.attribute]
        assert isinstance(numbers, np.ndarray)
        return (numbers >= condition.gte) & (numbers > condition.gt) & (numbers <= condition.lte) & (numbers < condition.lt)
    if isinstance(condition, Not):
        return ~mask_of(condition.condition, columns)
    parts = [mask_of(part, columns) for part in condition.conditions]
    combine = np.logical_and if isinstance(condition, All) else np.logical_or
    return np.asarray(combine.reduce(parts), np.bool_)


def bits_of(conditions: Sequence[Condition], columns: Columns, views: int) -> NDArray[np.uint64]:
    """The matches of all views with all conditions, uint64[views, words]."""
    bits = np.zeros((views, words_for(len(conditions))), np.uint64)
    for place, condition in enumerate(conditions):
        word, shift = divmod(place, 64)
        bits[:, word] |= mask_of(condition, columns).astype(np.uint64) << np.uint64(shift)
    return bits


class MatchTable:
    """Matches by distinct packed attributes.

    Marketplaces show the same listings to many users, so a view's conditions are mostly looked up, not evaluated.
    Remembers at most ``MAX_ROWS`` distinct attributes, then starts anew.
    """

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._predicates = [predicate_of(condition) for condition in conditions]
        self._rows: dict[bytes, int] = {}
        self._table = np.zeros((1024, words_for(len(conditions))), np.uint64)

    def bits_of(self, packed: Sequence[bytes]) -> NDArray[np.uint64]:
        """The matches of views with these packed attributes, uint64[n, words]."""
        try:
            return self._table[[self._rows[attributes] for attributes in packed]]
        except KeyError:
            self._learn(packed)
        return self._table[[self._rows[attributes] for attributes in packed]]

    def _learn(self, packed: Sequence[bytes]) -> None:
        new = [attributes for attributes in dict.fromkeys(packed) if attributes not in self._rows]
        if len(self._rows) + len(new) > MAX_ROWS:
            self._rows.clear()
            new = list(dict.fromkeys(packed))
        needed = len(self._rows) + len(new)
        if needed > len(self._table):
            self._table = np.concatenate([self._table, np.zeros((needed, self._table.shape[1]), np.uint64)])
        for attributes in new:
            view = unpack_attributes(attributes)
            row = len(self._rows)
            held = sum(predicate(view) << place for place, predicate in enumerate(self._predicates))
            self._table[row] = [held >> 64 * word & _WORD for word in range(self._table.shape[1])]
            self._rows[attributes] = row
