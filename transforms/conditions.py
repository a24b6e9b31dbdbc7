"""Which views match which rules: a condition as a function of attributes, and a table of answers by packed attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.catalogue import AttributeValue
from schemas.rules import All, Any_, Band, Condition, Equals, Not
from schemas.view import unpack_attributes

Predicate = Callable[[Mapping[str, AttributeValue]], bool]

MAX_ROWS: Final = 1 << 16
_WORD: Final = (1 << 64) - 1


def predicate_of(condition: Condition) -> Predicate:
    """The condition as a function of a view's attributes; an attribute that the view lacks makes it false.

    >>> predicate_of(Not(Equals("fuel_type", frozenset({"diesel"}))))({})
    True
    """
    if isinstance(condition, Equals):
        name, values = condition
        return lambda attributes: attributes.get(name) in values
    if isinstance(condition, Band):
        name, gte, gt, lte, lt = condition
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


class MatchTable:
    """Matches by distinct packed attributes, as bits: bit ``c % 64`` of word ``c // 64`` is set where condition ``c`` holds.

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
