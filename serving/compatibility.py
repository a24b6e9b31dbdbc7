"""Whether a listing can exist that satisfies the user's filters and a segment's condition: if not, they conflict.

Conditions look at one attribute each, so of an attribute only finitely many values need trying: those that some condition
mentions, for numbers also one between and beyond them, and the attribute's absence. Absence stands for every category that
nobody mentions: no condition can tell the two apart. Values that a condition on their attribute alone rules out go first. Then the
search tries the attributes one by one and leaves a branch as soon as what is chosen decides it. It is exact within its budget.
Beyond it the answer is "compatible", which is harmless, for the filters are part of every query.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from schemas.catalogue import AttributeValue
from schemas.rules import All, Any_, Band, Condition, Equals, Not, attributes_of

MAX_STEPS: Final = 20_000  # conditions looked at, each time they are; some 10 ms
SOON_STEPS: Final = 100  # a value takes at least one, so that what is remembered is small: 30 KB at the worst, 30 MB in all
MAX_REMEMBERED: Final = 1_024

_Values = Mapping[str, AttributeValue | None]


class OutOfStepsError(Exception):
    """The search has looked at more conditions than it may."""


class Steps:
    """How many conditions may still be looked at: one budget for all segments of an answer."""

    def __init__(self, left: int = MAX_STEPS) -> None:
        self.left = left

    def take(self, number: int) -> None:
        """Count so many looks; ``OutOfStepsError`` when fewer are left."""
        self.left -= number
        if self.left < 0:
            raise OutOfStepsError


class Cluster(NamedTuple):
    """Conditions of the filters that share attributes, be it through one another, and share none with the others."""

    attributes: frozenset[str]
    conditions: tuple[Condition, ...]


def clusters_of(filters: Condition | None) -> tuple[Cluster, ...]:
    """The filters, of which every one must hold, by the attributes that they share.

    >>> [sorted(cluster.attributes) for cluster in clusters_of(All((Band("price", lt=9.0), Band("year", gt=1.0))))]
    [['price'], ['year']]
    """
    clusters: list[Cluster] = []
    for condition in () if filters is None else _conjuncts(filters):
        conditions: tuple[Condition, ...] = (condition,)
        attributes, apart = attributes_of(condition), list[Cluster]()
        for cluster in clusters:
            if attributes.isdisjoint(cluster.attributes):
                apart.append(cluster)
            else:
                attributes, conditions = attributes | cluster.attributes, cluster.conditions + conditions
        clusters = [*apart, Cluster(attributes, conditions)]
    return tuple(clusters)


def compatible(condition: Condition, filters: Condition | None, steps: Steps | None = None) -> bool:
    """Whether some listing can satisfy both; ``True`` when that takes more than the ``steps`` left.

    >>> cheap, dear = Band("price", lt=10.0), Band("price", gte=10.0)
    >>> compatible(cheap, dear), compatible(cheap, Not(dear)), compatible(cheap, None)
    (False, True, True)
    """
    return fits_in(condition, clusters_of(filters), steps or Steps())


def fits_in(condition: Condition, filters: Sequence[Cluster], steps: Steps) -> bool:
    """The same of filters that many conditions are held against."""
    linked: tuple[Condition, ...] = (condition,)
    attributes, apart = attributes_of(condition), list[Cluster]()
    for cluster in filters:
        if attributes.isdisjoint(cluster.attributes):
            apart.append(cluster)
        else:
            linked += cluster.conditions
    try:
        return _decided(linked, steps) and all(_decided(cluster.conditions, steps) for cluster in apart)
    except OutOfStepsError:
        return True


def clashing(condition: Condition, filters: Condition, steps: Steps | None = None) -> tuple[str, ...]:
    """The filter attributes that make the two incompatible, sorted; for two that are. More of them when the steps run out.

    >>> clashing(Equals("fuel_type", frozenset({"diesel"})), All((Equals("fuel_type", frozenset({"lpg"})), Band("price", lt=9.0))))
    ('fuel_type',)
    """
    steps = steps or Steps()
    parts = _conjuncts(filters)
    guilty = [part for part in parts if not compatible(condition, part, steps)]
    if guilty:
        names = frozenset[str]().union(*map(attributes_of, guilty))
        return tuple(sorted(names & attributes_of(condition) or names))
    guilty = list(parts)  # they clash only together: leave out what isn't needed for it
    for part in parts:
        if steps.left < 0:
            break
        rest = tuple(each for each in guilty if each is not part)
        if rest and not compatible(condition, All(rest), steps):
            guilty = list(rest)
    return tuple(sorted(frozenset[str]().union(*map(attributes_of, guilty))))


def _conjuncts(condition: Condition) -> tuple[Condition, ...]:
    return condition.conditions if isinstance(condition, All) else (condition,)


def _decided(conditions: tuple[Condition, ...], steps: Steps) -> bool:
    """Whether a listing can satisfy all conditions. Most users set the same few filters: what is decided soon is remembered.

    What was remembered takes as many steps as before, or an answer would depend on those before it.
    """
    steps.take(len(conditions))
    try:
        found, taken = _soon(conditions)
    except OutOfStepsError:
        steps.take(SOON_STEPS)
        return _satisfiable(conditions, steps)
    steps.take(taken)
    return found


@functools.lru_cache(MAX_REMEMBERED)
def _soon(conditions: tuple[Condition, ...]) -> tuple[bool, int]:
    """Whether a listing can satisfy all conditions, and how many steps that took; what takes more than a few isn't remembered."""
    steps = Steps(SOON_STEPS)
    return _satisfiable(conditions, steps), SOON_STEPS - steps.left


def _satisfiable(conditions: tuple[Condition, ...], steps: Steps) -> bool:
    leaves: dict[str, list[Equals | Band]] = {}
    alone: dict[str, list[Condition]] = {}  # what is said of one attribute only
    together = list[Condition]()
    for condition in conditions:
        for part in _parts(condition):
            for leaf in _leaves(part):
                leaves.setdefault(leaf.attribute, []).append(leaf)
            names = attributes_of(part)
            if len(names) == 1:
                alone.setdefault(min(names), []).append(part)
            else:
                together.append(part)
    candidates = {}
    for name, found in leaves.items():
        fitting = All(tuple(alone.get(name, ())))
        candidates[name] = [value for value in _candidates(found, steps) if _holds(fitting, {name: value}, steps)]
        if not candidates[name]:
            return False
    left, several = All(tuple(together)), attributes_of(All(tuple(together)))
    order = sorted(several, key=lambda name: (len(candidates[name]), name))

    def search(depth: int, chosen: dict[str, AttributeValue | None]) -> bool:
        known = _holds(left, chosen, steps)
        if known is not None:
            return known
        name = order[depth]
        return any(search(depth + 1, {**chosen, name: value}) for value in candidates[name])

    return search(0, {})


def _parts(condition: Condition) -> Iterator[Condition]:
    """The conditions that all must hold, those within one another too."""
    if isinstance(condition, All):
        for part in condition.conditions:
            yield from _parts(part)
    else:
        yield condition


def _holds(condition: Condition, chosen: _Values, steps: Steps) -> bool | None:
    """Whether the condition holds, whatever the attributes not chosen yet may be; ``None`` when that depends on them."""
    steps.take(1)
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


def satisfied(condition: Condition, attributes: Mapping[str, AttributeValue]) -> bool:
    """Whether a listing with these attributes satisfies a condition."""
    if isinstance(condition, Equals | Band):
        return satisfies(condition, attributes.get(condition.attribute))
    if isinstance(condition, Not):
        return not satisfied(condition.condition, attributes)
    parts = (satisfied(part, attributes) for part in condition.conditions)
    return all(parts) if isinstance(condition, All) else any(parts)


def satisfies(leaf: Equals | Band, value: AttributeValue | None) -> bool:
    """Whether an attribute's value satisfies a condition on it; ``None``, its absence, satisfies none."""
    if value is None:
        return False
    if isinstance(leaf, Equals):
        return value in leaf.values
    assert isinstance(value, float)
    return leaf.gte <= value <= leaf.lte and leaf.gt < value < leaf.lt


def _leaves(condition: Condition) -> Iterator[Equals | Band]:
    if isinstance(condition, Equals | Band):
        yield condition
    elif isinstance(condition, Not):
        yield from _leaves(condition.condition)
    else:
        for part in condition.conditions:
            yield from _leaves(part)


def _candidates(leaves: list[Equals | Band], steps: Steps) -> list[AttributeValue | None]:
    """Values of an attribute such that any value at all is told apart from one of them by none of the conditions."""
    texts: set[str] = set()
    points: set[float] = set()
    for leaf in leaves:
        for value in leaf.values if isinstance(leaf, Equals) else (leaf.gte, leaf.gt, leaf.lte, leaf.lt):
            if isinstance(value, str):
                texts.add(value)
            elif math.isfinite(value):
                points.add(value)
    values = (None, *sorted(texts), *_points_and_gaps(sorted(points)))
    steps.take(len(values) * len(leaves))
    by_answer: dict[tuple[bool, ...], AttributeValue | None] = {}
    for candidate in values:
        by_answer.setdefault(tuple(satisfies(leaf, candidate) for leaf in leaves), candidate)
    return list(by_answer.values())


def _points_and_gaps(points: list[float]) -> list[float]:
    """The points, one number strictly between each two if there is one, and one beyond each end."""
    if not points:
        return [0.0]
    ends = [math.nextafter(points[0], -math.inf), *points, math.nextafter(points[-1], math.inf)]
    gaps = [math.nextafter(low, math.inf) for low, high in itertools.pairwise(points) if math.nextafter(low, math.inf) < high]
    return [number for number in (*ends, *gaps) if math.isfinite(number)]
