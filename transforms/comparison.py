"""Old rules against new ones, segment by segment: what a backtest's tally says of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from schemas.backtest import COURSES, Difference, Goal, Matrix, Measured, Overlap, Segment, Side
from schemas.instants import format_duration
from schemas.rules import All, Band, Condition, Equals, Not, Rule
from transforms.backtest import NOWHERE, Plan, Tally
from transforms.kernel import INSIDE_AT_END
from transforms.metrics import DayCounts, rates_of
from transforms.sweep import f_beta, suggested


def segments_of(tally: Tally, plan: Plan, goal: Goal) -> list[Segment]:
    """Every segment of either rule set: the new one's in its order, then those removed."""
    trials = plan.trials
    before, after = ({rule.name: rule for rule in rules.rules} for rules in (plan.old, plan.new))
    rules = [measured(rule, counts, goal) for rule, counts in zip(trials.rules, tally.counts, strict=True)]
    sides = [_side(rules[place], [day[place] for day in tally.members]) for place in range(trials.compared)]
    segments = []
    for number, name in enumerate(trials.names):
        old, new = trials.old[number], trials.new[number]
        users = [tally.courses[number][first : first + len(COURSES)] for first in range(0, len(COURSES) ** 2, len(COURSES))]
        sweep = [rules[place] for place in trials.sweeps[number]]
        segments.append(
            Segment(
                segment=name,
                difference=difference_of(before.get(name), after.get(name)),
                changes=changes_of(before.get(name), after.get(name)),
                old=None if old == NOWHERE else sides[old],
                new=None if new == NOWHERE else sides[new],
                overlap=overlap_of(users),
                matrix=matrix_of(users),
                sweep=sweep,
                suggested=suggested(sweep, goal),
            )
        )
    return segments


def difference_of(old: Rule | None, new: Rule | None) -> Difference:
    """How a segment's two rules differ; one at least is there.

    >>> difference_of(None, Rule("suv", *[None] * 9))
    'new'
    """
    if old is None:
        return "new"
    if new is None:
        return "removed"
    return "unchanged" if old == new else "changed"


def changes_of(old: Rule | None, new: Rule | None) -> dict[str, tuple[Any, Any]]:
    """Old and new value of each key that differs, as a rules file has them; empty where a rule is missing."""
    if old is None or new is None:
        return {}
    differ = [key for key in Rule._fields if getattr(old, key) != getattr(new, key)]
    return {key: (_written(key, getattr(old, key)), _written(key, getattr(new, key))) for key in differ}


def condition_written(condition: Condition) -> dict[str, Any]:
    """The condition as it stands under ``when``.

    >>> condition_written(All((Equals("fuel_type", frozenset({"electric"})), Not(Band("price", gte=40_000.0)))))
    {'all': [{'fuel_type': 'electric'}, {'not': {'price': {'gte': 40000.0}}}]}
    """
    if isinstance(condition, Equals):
        values = sorted(condition.values, key=str)
        return {condition.attribute: values[0] if len(values) == 1 else values}
    if isinstance(condition, Band):
        bounds = {"gte": condition.gte, "gt": condition.gt, "lte": condition.lte, "lt": condition.lt}
        return {condition.attribute: {key: bound for key, bound in bounds.items() if math.isfinite(bound)}}
    if isinstance(condition, Not):
        return {"not": condition_written(condition.condition)}
    return {"all" if isinstance(condition, All) else "any": [condition_written(inner) for inner in condition.conditions]}


def measured(rule: Rule, counts: Sequence[int], goal: Goal) -> Measured:
    """What one rule's counts over the days say of it, members at the end."""
    found = DayCounts(*counts)
    rates = rates_of(found)
    return Measured(
        enter=rule.enter,
        exit=rule.exit,
        tp=found.tp,
        fp=found.fp,
        fn=found.fn,
        tn=found.tn,
        precision=rates.precision,
        precision_low=rates.precision_low,
        precision_high=rates.precision_high,
        recall=rates.recall,
        recall_low=rates.recall_low,
        recall_high=rates.recall_high,
        f_beta=f_beta(found.tp, found.fp, found.fn, goal.beta),
        members=found.members,
        flips=found.flips,
        member_days=found.inside,
        flips_per_member_day=rates.flips_per_member,
    )


def overlap_of(users: Sequence[Sequence[int]]) -> Overlap:
    """The users by who has them inside at the end; ``users[old][new]`` are those of two courses.

    >>> overlap_of([[1, 0, 0, 2], [0] * 4, [0] * 4, [0, 0, 4, 8]])
    Overlap(both=8, only_old=4, only_new=2, neither=1)
    """
    sums = [[0, 0], [0, 0]]
    for old, row in enumerate(users):
        for new, number in enumerate(row):
            sums[old & INSIDE_AT_END][new & INSIDE_AT_END] += number
    return Overlap(both=sums[1][1], only_old=sums[1][0], only_new=sums[0][1], neither=sums[0][0])


def matrix_of(users: Sequence[Sequence[int]]) -> Matrix:
    """The users by the names of their courses."""
    return {old: dict(zip(COURSES, row, strict=True)) for old, row in zip(COURSES, users, strict=True)}


def _written(key: str, value: Any) -> Any:
    if key == "when":
        return condition_written(value)
    return format_duration(value) if key in {"window", "half_life"} and value is not None else value


def _side(point: Measured, members_by_day: list[int]) -> Side:
    return Side(**{name: getattr(point, name) for name in Measured.__struct_fields__}, members_by_day=members_by_day)
