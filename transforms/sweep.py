"""A threshold swept: the same rule with other values of ``enter``, how good each is, and which of them to take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from schemas.backtest import Goal, Measured
from schemas.rules import Rule

THRESHOLDS: Final = tuple(step / 20 for step in range(4, 19))  # 0.20, 0.25 … 0.90


def swept(rule: Rule) -> list[Rule]:
    """The rule with each threshold to enter; the one to leave keeps its proportion to it."""
    return [rule._replace(enter=enter, exit=min(enter, enter * rule.exit / rule.enter)) for enter in THRESHOLDS]


def f_beta(tp: int, fp: int, fn: int, beta: float) -> float | None:
    """F-beta: recall counts ``beta`` times as much as precision (van Rijsbergen 1979, ch. 7); ``None`` without any of the three.

    >>> f_beta(6, 2, 2, 1.0), f_beta(0, 0, 0, 1.0)
    (0.75, None)
    """
    weight = beta * beta
    whole = (1 + weight) * tp + weight * fn + fp
    return (1 + weight) * tp / whole if whole else None


def suggested(sweep: Sequence[Measured], goal: Goal) -> Measured | None:
    """The smallest threshold whose precision is at least the one wanted, else the one with the best F-beta, of equals the smallest.

    The precision is the share itself, not the lower end of its interval. ``None`` where no threshold does.
    """
    if goal.wanted_precision is not None:
        reached = (point for point in sweep if point.precision is not None and point.precision >= goal.wanted_precision)
        return min(reached, key=lambda point: point.enter, default=None)
    return max((point for point in sweep if point.f_beta), key=lambda point: (point.f_beta or 0.0, -point.enter), default=None)
