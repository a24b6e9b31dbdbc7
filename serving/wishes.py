"""A user's segments as wishes about the featured listing: what the listing should be like, and how much that counts."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final, NamedTuple

from schemas.rules import Condition, RuleSet
from serving.segments import Segment

MAX_WISHES: Final = 64


class Wish(NamedTuple):
    """A segment that the user is in: ``score`` (0 to 1) is the user's, ``weight`` and ``priority`` are the rule's."""

    name: str
    score: float
    weight: float
    priority: int
    when: Condition

    @property
    def worth(self) -> float:
        """How much the wish counts: weight times score, always above 0."""
        return max(self.weight * self.score, sys.float_info.min)


def wishes_of(segments: Iterable[Segment], rules: RuleSet) -> tuple[Wish, ...]:
    """The segments that the rules know, highest first; ``unknown_segments`` are those they don't."""
    by_name = {rule.name: rule for rule in rules.rules}
    found = []
    for segment in segments:
        if (rule := by_name.get(segment.name)) is not None:
            found.append(Wish(segment.name, segment.score, rule.weight, rule.priority, rule.when))
    return ordered(found)


def unknown_segments(segments: Iterable[Segment], rules: RuleSet) -> tuple[str, ...]:
    """The names of segments that no rule has: the row was made by another version of the rules."""
    names = {rule.name for rule in rules.rules}
    return tuple(segment.name for segment in segments if segment.name not in names)


def ordered(wishes: Iterable[Wish]) -> tuple[Wish, ...]:
    """The wishes by priority, the highest first, then by worth, then by name."""
    return tuple(sorted(wishes, key=lambda wish: (-wish.priority, -wish.worth, wish.name)))
