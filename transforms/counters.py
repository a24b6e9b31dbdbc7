"""Counters with conservation: ``read = applied + duplicate + refused``, as Beam metrics and in this process.

Every message is counted once as read, and once as one of the others: applied (handled; views are in their rows),
duplicate (a copy of a view already there) or refused, by reason. Views that nobody may have are refused too, but no dead letters.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from apache_beam.metrics import Metrics
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineResult

NAMESPACE: Final = "forecourt"
READ: Final = "read"
APPLIED: Final = "applied"
DUPLICATE: Final = "duplicate"
REFUSED: Final = "refused:"  # and the reason
OPTED_OUT: Final = "opted_out"
FORGOTTEN: Final = "forgotten"
UNWANTED: Final = (OPTED_OUT, FORGOTTEN)  # of the reasons those that make no dead letter
UNKNOWN_ATTRIBUTES: Final = "unknown_attributes"
UNKNOWN_VALUES: Final = "unknown_values"
LINK_CONFLICTS: Final = "link_conflicts"  # events that name another user than the one an anonymous id is linked to
RULES_REFUSED: Final = "rules_refused"

_here: Counter[str] = Counter()
_lock: Final = threading.Lock()


class Conservation(NamedTuple):
    """What became of the messages of a run."""

    read: int
    applied: int
    duplicate: int
    refused: dict[str, int]
    unknown_attributes: int
    unknown_values: int
    link_conflicts: int

    @property
    def holds(self) -> bool:
        """Whether every message that was read is accounted for."""
        return self.read == self.applied + self.duplicate + sum(self.refused.values())

    @property
    def dead(self) -> int:
        """Messages that are dead letters."""
        return sum(number for reason, number in self.refused.items() if reason not in UNWANTED)


def count(name: str, amount: int = 1) -> None:
    """Add to a counter, both Beam's and this process's."""
    if amount:
        Metrics.counter(NAMESPACE, name).inc(amount)
        with _lock:
            _here[name] += amount


def counted_here() -> dict[str, int]:
    """The counters of this process, at any time."""
    with _lock:
        return dict(_here)


def counted_by(result: PipelineResult) -> dict[str, int]:
    """The counters of a finished pipeline, on any runner."""
    counters = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    totals: Counter[str] = Counter()
    for counter in counters:
        totals[counter.key.metric.name] += counter.result
    return dict(totals)


def conservation_of(counters: Mapping[str, int]) -> Conservation:
    """The balance in a set of counters.

    >>> conservation_of({"read": 3, "applied": 1, "duplicate": 1, "refused:not_json": 1}).holds
    True
    """
    return Conservation(
        read=counters.get(READ, 0),
        applied=counters.get(APPLIED, 0),
        duplicate=counters.get(DUPLICATE, 0),
        refused={name.removeprefix(REFUSED): number for name, number in sorted(counters.items()) if name.startswith(REFUSED)},
        unknown_attributes=counters.get(UNKNOWN_ATTRIBUTES, 0),
        unknown_values=counters.get(UNKNOWN_VALUES, 0),
        link_conflicts=counters.get(LINK_CONFLICTS, 0),
    )
