"""What a day's counts say of a segment (SEMANTICS §5): precision, recall, lift, and whether serving may go on offering it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import pyarrow as pa

from schemas.rules import Rule
from schemas.tables import SEGMENTS

_Z: Final = 1.959963984540054  # of the standard normal distribution 97.5 % lie below it


class DayCounts(NamedTuple):
    """One segment's day, in the order in which the kernel counts: views by outcome, users, changes."""

    tp: int
    fp: int
    fn: int
    tn: int
    members: int
    entered: int
    left: int
    flips: int
    inside: int


class Rates(NamedTuple):
    """What follows from the counts; ``None`` where a denominator is 0. Intervals are 95 % Wilson."""

    precision: float | None
    recall: float | None
    precision_low: float | None
    precision_high: float | None
    recall_low: float | None
    recall_high: float | None
    base_rate: float | None
    lift: float | None
    flips_per_member: float | None


class Standing(NamedTuple):
    """Whether a segment is withdrawn, and why or why not yet back."""

    withdrawn: bool
    why: str | None


def wilson(hits: float, trials: float) -> tuple[float | None, float | None]:
    """The 95 % score interval of a proportion (Wilson 1927, JASA 22:209-212); ``(None, None)`` without trials.

    >>> [round(end, 4) for end in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if not trials:
        return None, None
    share, square = hits / trials, _Z * _Z / trials
    centre = share + square / 2
    half = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def rates_of(counts: DayCounts) -> Rates:
    """Precision, recall and the rest of one segment's day."""
    shown, matching = counts.tp + counts.fp, counts.tp + counts.fn
    precision, base_rate = _ratio(counts.tp, shown), _ratio(matching, shown + counts.fn + counts.tn)
    lift = None if precision is None or not base_rate else precision / base_rate
    return Rates(
        precision,
        _ratio(counts.tp, matching),
        *wilson(counts.tp, shown),
        *wilson(counts.tp, matching),
        base_rate,
        lift,
        _ratio(counts.flips, counts.inside),
    )


def faults_of(rule: Rule, rates: Mapping[str, Any]) -> list[str]:
    """The floors of the rules file that a day's rates are under, by their lower bounds."""
    floors = (("precision", rule.min_precision), ("recall", rule.min_recall))
    return [
        f"{name}_low == {low:.4f}, must be at least {floor:g}"
        for name, floor in floors
        if floor is not None and (low := rates[f"{name}_low"]) is not None and low < floor
    ]


def is_good(rule: Rule, rates: Mapping[str, Any] | None) -> bool:
    """Whether a day shows that the segment keeps its floors: a day that can't be judged doesn't."""
    floors = (("precision", rule.min_precision), ("recall", rule.min_recall))
    return rates is not None and all(
        floor is None or ((low := rates[f"{name}_low"]) is not None and low >= floor) for name, floor in floors
    )


def standing_of(rule: Rule, today: Mapping[str, Any], yesterday: Mapping[str, Any] | None, *, was: bool) -> Standing:
    """Whether the segment is withdrawn after today: under a floor it is, and then until two days running were good.

    ``yesterday``: the rates of the day before, ``None`` when there are none; ``was``: whether it was withdrawn before today.
    """
    faults = faults_of(rule, today)
    if faults:
        return Standing(True, "; ".join(faults))
    if was and (rule.min_precision is not None or rule.min_recall is not None):
        if not (is_good(rule, today) and is_good(rule, yesterday)):
            return Standing(True, "was withdrawn, must be good for two days running")
    return Standing(False, None)


def segments_table(
    date: str,
    version: int,
    rules: Sequence[Rule],
    counts: Sequence[DayCounts],
    before: Mapping[str, Mapping[str, Any]],
    *,
    fresh: bool,
) -> pa.Table:
    """A row a segment. ``before`` has the last rows known, by segment; ``fresh``: they are of the day just before."""
    rows = []
    for rule, counted in zip(rules, counts, strict=True):
        rates, last = rates_of(counted)._asdict(), before.get(rule.name)
        standing = standing_of(rule, rates, last if fresh else None, was=last is not None and bool(last["withdrawn"]))
        row = {"date": date, "rule_version": version, "segment": rule.name, **counted._asdict(), **rates}
        rows.append({**row, "withdrawn": standing.withdrawn, "withdrawn_why": standing.why})
    return pa.Table.from_pylist(rows, schema=SEGMENTS)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
