"""What a request came to, before it is told."""

from __future__ import annotations

from typing import Any, NamedTuple

from experiments.assignment import Assignment
from serving.featured import Ask, Featured, Position
from serving.messages import FeaturedRequest
from serving.reader import SegmentsRead


class Searches(NamedTuple):
    """What a search service has to ask: for what the visitor sees; and for the other answer, where that is another question."""

    query: dict[str, Any]
    other: dict[str, Any] | None = None


class Chosen(NamedTuple):
    """A request and its answer. Without an inventory there are no positions yet, until the searches' responses are brought.

    ``searches`` is ``None`` once they are.
    """

    request: FeaturedRequest
    ask: Ask
    read: SegmentsRead
    rules: int  # the version of those that the wishes are of
    unknown: int  # segments that no rule has: nothing can be chosen by them
    assignment: Assignment
    file_version: int | None  # of the experiments that assigned
    policy: str
    featured: Featured
    impressions: tuple[str, ...]  # an id for each position
    now: int
    searches: Searches | None = None

    @property
    def known(self) -> bool:
        """Whether it is known what is shown."""
        return bool(self.featured.positions)

    @property
    def shown(self) -> tuple[Position, ...]:
        """The positions that the visitor sees."""
        return self.featured.positions if self.assignment.shows else self.featured.default

    @property
    def reason(self) -> str | None:
        """Why no segment chose what the visitor sees first."""
        if not self.read.segments:
            return self.read.reason
        if self.featured.reason is not None:
            return self.featured.reason
        return None if self.assignment.shows else self.assignment.arm or self.assignment.reason
