"""Segment membership (SEMANTICS §3-4): views and rules in, spans of membership out. No Beam, no I/O.

Without further views a window only loses its oldest views, so each instant's window is a suffix ``j..n``, and each is one
replay (``transforms.kernel``). A whole schedule of spans costs O(n log n) in the n views of a window, not O(n²).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.profile_row import Membership, SegmentSpans, Span
from schemas.rules import Condition, RuleSet
from transforms.conditions import MatchTable
from transforms.kernel import MAX_VIEWS, TOLERANCE, spans_of


class Views(NamedTuple):
    """A user's views in order of (event time, event id): ``times`` int64 ms UTC, ``packed`` their packed attributes."""

    times: NDArray[np.int64]
    packed: Sequence[bytes]


class RuleArrays(NamedTuple):
    """A rule set as the compiled kernel takes it, a row a rule.

    ``columns`` says which condition is whose, ``windows`` are ms, ``minima`` views and days, ``shares`` enter, exit, half life
    (ms, 0 for none), the prior's views and share.
    """

    columns: NDArray[np.int64]
    windows: NDArray[np.int64]
    minima: NDArray[np.int64]
    shares: NDArray[np.float64]


def conditions_of(rule_set: RuleSet) -> list[Condition]:
    """The distinct conditions of a rule set: matches are kept a bit for each, in this order."""
    return list(dict.fromkeys(rule.when for rule in rule_set.rules))


class Rules:
    """A rule set made ready for ``evaluate``: thresholds as arrays, conditions as a table of matches."""

    def __init__(self, rule_set: RuleSet) -> None:
        rules = rule_set.rules
        self.version = rule_set.version
        self.names = [rule.name for rule in rules]
        conditions = conditions_of(rule_set)
        self.matches = MatchTable(conditions)
        places = {condition: place for place, condition in enumerate(conditions)}
        self.arrays = RuleArrays(
            np.array([places[rule.when] for rule in rules], np.int64),
            np.array([rule.window for rule in rules], np.int64),
            np.array([(rule.min_views, rule.min_days) for rule in rules], np.int64),
            np.array(
                [(r.enter - TOLERANCE, r.exit - TOLERANCE, r.half_life or 0.0, r.prior_views, r.prior_share) for r in rules],
                np.float64,
            ),
        )


def evaluate(views: Views, rules: Rules) -> Membership:
    """Membership from the newest view's event time on, as spans; ``views`` is not empty, its newest 1,000 count.

    Raises ``ValueError`` when there are no views or their times are out of order.
    """
    times = views.times[-MAX_VIEWS:]
    if not len(times):
        msg = "number of views == 0, must be at least 1"
        raise ValueError(msg)
    bits = rules.matches.bits_of(views.packed[-MAX_VIEWS:])
    of_rule, whole, scores = spans_of(times, bits, *rules.arrays)
    starts, untils, seen, matching = whole.T.tolist()
    spans: list[Span] = []
    segments: list[SegmentSpans] = []
    last = -1
    for rule, span in zip(of_rule.tolist(), map(Span, starts, untils, scores.tolist(), seen, matching), strict=True):
        if rule != last:
            spans, last = [], rule
            segments.append(SegmentSpans(rules.names[rule], spans))
        spans.append(span)
    return Membership(rules.version, int(times[-1]), segments)


def warm_up() -> None:
    """Compile the kernel, or load it from the disk cache, so that the first user doesn't wait for it."""
    spans_of(*_kernel_arguments_of_nothing())


def _kernel_arguments_of_nothing() -> tuple[NDArray[Any], ...]:
    one = np.zeros(1, np.int64)
    return one, np.zeros((1, 1), np.uint64), one, one + 1, np.ones((1, 2), np.int64), np.ones((1, 5))
