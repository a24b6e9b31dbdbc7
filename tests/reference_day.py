"""Brute-force reference for a day's precision, recall and flips, written from SEMANTICS.md §5 alone: slow on purpose.

    membership   ______________|‾‾‾‾‾‾|_________|‾‾‾‾‾‾‾‾‾‾‾‾‾‾      members 1, entered 1, flips 3, inside 1
    instants          v    v   v      e   v     v    e
               00:00                                         24:00   v: a view, e: a view is W old

A view is judged by the membership just before it, that of the views in ``[τ - W, τ)``; so is the day at 00:00 and at 24:00.
At an instant within the day the views in ``(t - W, t]`` count. Membership changes only where a view comes or turns ``W`` old.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

from tests.reference import _DEFAULTS, DAY_MS, MAX_VIEWS, SeenView, distinct, duration, matches

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_Z = NormalDist().inv_cdf(0.975)


class DayCounts(NamedTuple):
    """One segment's day; views are counted in the first four, users in the others but ``flips``."""

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
    """What follows from the counts; ``None`` where a denominator is 0."""

    precision: float | None
    recall: float | None
    precision_low: float | None
    precision_high: float | None
    recall_low: float | None
    recall_high: float | None
    base_rate: float | None
    lift: float | None
    flips_per_member: float | None


class Mark(NamedTuple):
    """All of a view that a rule looks at: when it was, ms UTC, and whether it matches."""

    time: int
    hit: bool


def day_of(views_by_user: Mapping[str, list[SeenView]], rule: Mapping[str, Any], day_start_ms: int) -> DayCounts:
    """What §5 counts for one segment on the day that starts at ``day_start_ms`` (ms UTC), over all users."""
    spec = _DEFAULTS | dict(rule)
    users = [_day_of_user(views, spec, day_start_ms) for views in views_by_user.values()]
    return DayCounts(*map(sum, zip(DayCounts(*[0] * 9), *users, strict=True)))


def rates_of(counts: DayCounts) -> Rates:
    """Precision, recall and the rest, the intervals at 95 %."""
    shown, matching = counts.tp + counts.fp, counts.tp + counts.fn
    precision, recall = _ratio(counts.tp, shown), _ratio(counts.tp, matching)
    precision_low, precision_high = wilson(counts.tp, shown)
    recall_low, recall_high = wilson(counts.tp, matching)
    base_rate = _ratio(matching, shown + counts.fn + counts.tn)
    lift = None if precision is None or not base_rate else precision / base_rate
    flips = _ratio(counts.flips, counts.inside)
    return Rates(precision, recall, precision_low, precision_high, recall_low, recall_high, base_rate, lift, flips)


def wilson(hits: int, trials: int) -> tuple[float, float] | tuple[None, None]:
    """The 95 % score interval of a proportion, without continuity correction (Wilson 1927, JASA 22:209-212)."""
    if trials == 0:
        return None, None
    share, z2 = hits / trials, _Z * _Z
    centre, half = share + z2 / (2 * trials), _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, (centre - half) / (1 + z2 / trials)), min(1.0, (centre + half) / (1 + z2 / trials))


def views_of_events(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[SeenView]]:
    """Each user's distinct views, in order of (time, id), from events as they stand in JSONL; other events don't count."""
    views: dict[str, list[SeenView]] = {}
    for event in lines:
        if event["event_type"] == "listing_view":
            time = (dt.datetime.fromisoformat(event["event_time"]) - _EPOCH) // dt.timedelta(milliseconds=1)
            view = SeenView(time, event["event_id"], event.get("attributes") or {})
            views.setdefault(event.get("user_id") or event["anonymous_id"], []).append(view)
    return {user: distinct(seen) for user, seen in views.items()}


def member_after(marks: list[Mark], spec: Mapping[str, Any]) -> bool:
    """Membership after a replay of these views: ``tests.reference.replay``, but each prefix starts from the sums of the last.

    A view adds 1 to them; with a half life, all that came before it weighs less by the same factor.
    """
    half_life = duration(spec["half_life"]) if spec["half_life"] else None
    member, total, matched, days, before = False, 0.0, 0.0, set(), None
    for k, (time, hit) in enumerate(marks):
        scale = 2.0 ** ((before - time) / half_life) if half_life and before is not None else 1.0
        total, matched, before = total * scale + 1, matched * scale + hit, time
        if hit:
            days.add(time // DAY_MS)
        if k + 1 < len(marks) and marks[k + 1].time == time:
            continue
        share = (matched + spec["prior_views"] * spec["prior_share"]) / (total + spec["prior_views"])
        if k + 1 >= spec["min_views"] and len(days) >= spec["min_days"] and share >= spec["enter"] - 1e-9:
            member = True
        elif share < spec["exit"] - 1e-9:
            member = False
    return member


def _day_of_user(views: list[SeenView], spec: Mapping[str, Any], start: int) -> DayCounts:
    length, end = duration(spec["window"]), start + DAY_MS
    # No window that is looked at holds another view; a user without one is never inside.
    near = [view for view in distinct(views) if start - length <= view.time < end]
    marks = [Mark(view.time, matches(spec["when"], view.attributes)) for view in near]

    def just_before(at: int) -> bool:
        return member_after([mark for mark in marks if at - length <= mark.time < at][-MAX_VIEWS:], spec)

    def right_at(at: int) -> bool:
        return member_after([mark for mark in marks if at - length < mark.time <= at][-MAX_VIEWS:], spec)

    tp = fp = fn = tn = 0
    for mark in marks:
        if start <= mark.time:
            member = just_before(mark.time)
            tp, fn = tp + (member and mark.hit), fn + (mark.hit and not member)
            fp, tn = fp + (member and not mark.hit), tn + (not member and not mark.hit)
    first, last = just_before(start), just_before(end)
    instants = sorted({time for mark in marks for time in (mark.time, mark.time + length) if start <= time < end})
    states = [first, *(right_at(instant) for instant in instants)]
    flips = sum(states[k] != states[k - 1] for k in range(1, len(states)))
    return DayCounts(tp, fp, fn, tn, last, last and not first, first and not last, flips, any(states))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
