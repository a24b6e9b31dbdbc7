"""What each session brought, in which arm, and with which probability it was there: what a bandit learns from."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from experiments.sessions import Flags, Floats, Ints
from schemas.experiment import Metric

OVERALL: Final = "(all)"
"""In place of a segment's name: sessions of every segment, and of none."""


class Rewards(NamedTuple):
    """``n`` sessions of visitors who had segments, each array of shape (n,): the metric is ``Σx / Σd``.

    ``arm`` is an index of ``arms``, ``segment`` one of ``segments`` or -1, ``user`` any codes; ``probability`` is that of the arm.
    The segment must be known before the arm is: one that the arm's policy chose can't tell arms apart.
    """

    x: Floats
    d: Floats
    user: Ints
    arm: Ints
    arms: tuple[str, ...]
    segment: Ints
    segments: tuple[str, ...]
    probability: Floats
    metric: Metric = "clicks"

    @property
    def unseen(self) -> list[str]:
        """The arms that have no sessions."""
        return [name for code, name in enumerate(self.arms) if not (self.arm == code).any()]

    def where(self, chosen: Flags) -> Rewards:
        """The sessions that are chosen, by flags of shape (n,); codes keep their meaning."""
        arrays: dict[str, Any] = {name: each[chosen] for name, each in self._asdict().items() if isinstance(each, np.ndarray)}
        return self._replace(**arrays)

    def of_segment(self, name: str) -> Rewards:
        """The sessions of a segment, or of ``OVERALL``."""
        return self if name == OVERALL else self.where(self.segment == self.segments.index(name))
