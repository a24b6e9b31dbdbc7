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
from types import MappingProxyType
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


def views_of_people(
    lines: Iterable[Mapping[str, Any]],
    end: int,
    unlinked: Mapping[str, int] = MappingProxyType({}),
    forgotten: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, list[SeenView]]:
    """Each person's distinct views that count, by the id that is their own, by all that was said before ``end`` (ms UTC)."""
    events = _said_before(lines, end)
    people, until = people_of_events(events, unlinked, forgotten)
    by_profile: dict[str, list[SeenView]] = {}
    for event in events:
        profile = event["user_id"] or event["anonymous_id"]
        if event["event_type"] == "listing_view" and event["time"] > until.get(profile, -1):
            view = SeenView(event["time"], event["event_id"], event.get("attributes") or {})
            by_profile.setdefault(profile, []).append(view)
    views = {}
    for key, person in people.items():
        if person.start is not None:
            theirs = [view for each in person.ids for view in by_profile.get(each, []) if view.time >= person.start]
            if theirs:
                views[key] = distinct(theirs)
    return views


def whose_ids(lines: Iterable[Mapping[str, Any]], end: int) -> dict[str, str]:
    """By id, whose it is; nobody's are left out."""
    people, _ = people_of_events(_said_before(lines, end), {}, {})
    return {each: key for key, person in people.items() for each in person.ids}


def _said_before(lines: Iterable[Mapping[str, Any]], end: int) -> list[dict[str, Any]]:
    """The events before an instant (ms UTC), and who is to be forgotten, whenever that was said."""
    events = []
    for line in lines:
        time = (dt.datetime.fromisoformat(line["event_time"]) - _EPOCH) // dt.timedelta(milliseconds=1)
        if time < end or line["event_type"] == "forget":
            events.append({"user_id": None, "anonymous_id": None, **line, "time": time})
    return events


class Person(NamedTuple):
    """Who somebody is: their ids, from when on their views count (ms UTC, ``None``: not at all)."""

    ids: frozenset[str]
    start: int | None


def people_of_events(
    events: Iterable[Mapping[str, Any]], unlinked: Mapping[str, int], forgotten: Mapping[str, int]
) -> tuple[dict[str, Person], dict[str, int]]:
    """The people by the id that is their own, and until when each id is forgotten (ms UTC); from SEMANTICS.md §6-7 alone.

    ``events`` have a ``time`` (ms UTC) and are all there are up to an instant; what was undone or forgotten by hand comes beside.
    Who isn't there has one id, and nobody has said anything.
    """
    events = list(events)
    until = dict(forgotten)
    for event in events:
        if event["event_type"] == "forget":
            _raise(until, event["user_id"] or event["anonymous_id"], event["time"])
    links = [
        (event["anonymous_id"], event["time"], event["event_id"], event["user_id"])
        for event in events
        if None not in (event["user_id"], event["anonymous_id"])
    ]
    links = [link for link in links if link[0] != link[3] and link[1] > _midnight(unlinked.get(link[0]))]
    growing = True
    while growing:
        before = dict(until)
        for device, time, _, user in links:
            if time <= until.get(user, -1):
                _raise(until, device, until[user])
        growing = until != before
    links = [link for link in links if all(link[1] > _midnight(until.get(each)) for each in (link[0], link[3]))]
    owner: dict[str, tuple[str, int]] = {}
    for device, time, _, user in sorted(links, key=lambda link: link[1:]):
        owner.setdefault(device, (user, time))
    ids = {event[name] for event in events for name in ("user_id", "anonymous_id")} - {None}
    people = {}
    for key in ids - set(owner):
        devices = sorted({device for device, _, _, user in links if user == key})[:100]
        theirs = {key: -1, **{device: owner[device][1] for device in devices if owner[device][0] == key}}
        said = [
            (event["time"], event["user_id"] or event["anonymous_id"], event["event_type"] == "opt_out")
            for event in events
            if event["event_type"] in ("opt_in", "opt_out")
        ]
        said = [each for each in said if each[1] in theirs and each[0] > until.get(each[1], -1)]
        people[key] = Person(frozenset(theirs), _start(said, theirs))
    return people, until


def _start(said: list[tuple[int, str, bool]], since: Mapping[str, int]) -> int | None:
    """When the last opt-out was lifted: by its own profile, or by another of the person once both were theirs."""
    start = -1
    for time, profile, out in said:
        if out:
            after = [each for each in said if not each[2] and each[0] > time]
            lifts = [at for at, by, _ in after if by == profile or (at >= since[by] and at >= since[profile])]
            if not lifts:
                return None
            start = max(start, min(lifts))
    return start


def _midnight(time: int | None) -> int:
    """The last instant of the date."""
    return -1 if time is None or time < 0 else (time // DAY_MS + 1) * DAY_MS - 1


def _raise(instants: dict[str, int], key: str, time: int) -> None:
    instants[key] = max(time, instants.get(key, -1))


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
