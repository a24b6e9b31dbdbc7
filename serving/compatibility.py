"""Whether a listing can exist that satisfies the user's filters and a segment's condition: if not, they conflict.

Conditions look at one attribute each, so of an attribute only finitely many values need trying: those that some condition
mentions, for numbers also one between and beyond them, and the attribute's absence. Absence stands for every category that
nobody mentions: no condition can tell the two apart. The search tries the attributes one by one and leaves a branch as soon as
what is chosen decides it. It is exact within its budget. Beyond it the answer is "compatible", which is harmless, for the filters
are part of every query.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Final

from schemas.catalogue import AttributeValue
from schemas.rules import All, Any_, Band, Condition, Equals, Not, attributes_of

MAX_STEPS: Final = 20_000  # conditions looked at; some 10 ms

_Values = Mapping[str, AttributeValue | None]


class OutOfStepsError(Exception):
    """The search has looked at more conditions than it may."""


class Steps:
    """How many conditions may still be looked at: one budget for all segments of an answer."""

    def __init__(self, left: int = MAX_STEPS) -> None:
        self.left = left

    def take(self) -> None:
        """One step; ``OutOfStepsError`` when none is left."""
        if self.left <= 0:
            raise OutOfStepsError
        self.left -= 1


def compatible(condition: Condition, filters: Condition | None, steps: Steps | None = None) -> bool:
    """Whether some listing can satisfy both; ``True`` when that takes more than the ``steps`` left.

    >>> cheap, dear = Band("price", lt=10.0), Band("price", gte=10.0)
    >>> compatible(cheap, dear), compatible(cheap, Not(dear)), compatible(cheap, None)
    (False, True, True)
    """
    both = condition if filters is None else All((filters, condition))
    try:
        return _satisfiable(both, steps or Steps())
    except OutOfStepsError:
        return True


def clashing(condition: Condition, filters: Condition, steps: Steps | None = None) -> tuple[str, ...]:
    """The filter attributes that make the two incompatible, sorted; for two that are.

    >>> clashing(Equals("fuel_type", frozenset({"diesel"})), All((Equals("fuel_type", frozenset({"lpg"})), Band("price", lt=9.0))))
    ('fuel_type',)
    """
    steps = steps or Steps()
    parts = filters.conditions if isinstance(filters, All) else (filters,)
    guilty = [part for part in parts if not compatible(condition, part, steps)]
    if guilty:
        names = frozenset[str]().union(*map(attributes_of, guilty))
        return tuple(sorted(names & attributes_of(condition) or names))
    guilty = list(parts)  # they clash only together: leave out what isn't needed for it
    for part in parts:
        rest = tuple(each for each in guilty if each is not part)
        if rest and not compatible(condition, All(rest), steps):
            guilty = list(rest)
    return tuple(sorted(frozenset[str]().union(*map(attributes_of, guilty))))


def _satisfiable(condition: Condition, steps: Steps) -> bool:
    candidates = {name: _candidates(leaves) for name, leaves in _leaves_by_attribute(condition).items()}
    order = sorted(candidates, key=lambda name: len(candidates[name]))

    def search(depth: int, chosen: dict[str, AttributeValue | None]) -> bool:
        known = _holds(condition, chosen, steps)
        if known is not None:
            return known
        name = order[depth]
        return any(search(depth + 1, {**chosen, name: value}) for value in candidates[name])

    return search(0, {})


def _holds(condition: Condition, chosen: _Values, steps: Steps) -> bool | None:
    """Whether the condition holds, whatever the attributes not chosen yet may be; ``None`` when that depends on them."""
    steps.take()
    if isinstance(condition, Equals | Band):
        return satisfies(condition, chosen[condition.attribute]) if condition.attribute in chosen else None
    if isinstance(condition, Not):
        inner = _holds(condition.condition, chosen, steps)
        return None if inner is None else not inner
    decisive = isinstance(condition, Any_)
    known: bool | None = not decisive
    for part in condition.conditions:
        holds = _holds(part, chosen, steps)
        if holds is decisive:
            return decisive
        if holds is None:
            known = None
    return known


def satisfies(leaf: Equals | Band, value: AttributeValue | None) -> bool:
    """Whether an attribute's value satisfies a condition on it; ``None``, its absence, satisfies none."""
    if value is None:
        return False
    if isinstance(leaf, Equals):
        return value in leaf.values
    assert isinstance(value, float)
    return leaf.gte <= value <= leaf.lte and leaf.gt < value < leaf.lt


def _leaves_by_attribute(condition: Condition) -> dict[str, list[Equals | Band]]:
    leaves: dict[str, list[Equals | Band]] = {}
    for leaf in _leaves(condition):
        leaves.setdefault(leaf.attribute, []).append(leaf)
    return leaves


def _leaves(condition: Condition) -> Iterator[Equals | Band]:
    if isinstance(condition, Equals | Band):
        yield condition
    elif isinstance(condition, Not):
        yield from _leaves(condition.condition)
    else:
        for part in condition.conditions:
            yield from _leaves(part)


def _candidates(leaves: list[Equals | Band]) -> list[AttributeValue | None]:
    """Values of an attribute such that any value at all is told apart from one of them by none of the conditions."""
    texts: set[str] = set()
    points: set[float] = set()
    for leaf in leaves:
        for value in leaf.values if isinstance(leaf, Equals) else (leaf.gte, leaf.gt, leaf.lte, leaf.lt):
            if isinstance(value, str):
                texts.add(value)
            elif math.isfinite(value):
                points.add(value)
    by_answer: dict[tuple[bool, ...], AttributeValue | None] = {}
    for candidate in (None, *sorted(texts), *_points_and_gaps(sorted(points))):
        by_answer.setdefault(tuple(satisfies(leaf, candidate) for leaf in leaves), candidate)
    return list(by_answer.values())


def _points_and_gaps(points: list[float]) -> list[float]:
    """The points, one number strictly between each two if there is one, and one beyond each end."""
    if not points:
        return [0.0]
    ends = [math.nextafter(points[0], -math.inf), *points, math.nextafter(points[-1], math.inf)]
    gaps = [math.nextafter(low, math.inf) for low, high in itertools.pairwise(points) if math.nextafter(low, math.inf) < high]
    return [number for number in (*ends, *gaps) if math.isfinite(number)]
