"""Brute-force reference for membership, written from SEMANTICS.md alone: slow on purpose, nothing shared with the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

DAY_MS = 86_400_000
MAX_VIEWS = 1_000
_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_DEFAULTS: dict[str, Any] = {
    "window": "10d",
    "enter": 0.5,
    "exit": 0.4,
    "min_views": 5,
    "min_days": 1,
    "half_life": None,
    "prior_views": 0,
    "prior_share": 0.0,
}


class SeenView(NamedTuple):
    """One view: event time in ms UTC, id, attributes."""

    time: int
    event_id: str
    attributes: Mapping[str, Any]


class Answer(NamedTuple):
    """What a replay ends with."""

    member: bool
    score: float
    views: int
    matching: int


def duration(text: str) -> int:
    """A duration in ms."""
    return int(float(text[:-1]) * _UNITS[text[-1]])


def matches(condition: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Whether the view's attributes satisfy a ``when`` as written in the rules file."""
    return all(_holds(key, want, attributes) for key, want in condition.items())


def _holds(key: str, want: Any, attributes: Mapping[str, Any]) -> bool:
    if key == "all":
        return all(matches(inner, attributes) for inner in want)
    if key == "any":
        return any(matches(inner, attributes) for inner in want)
    if key == "not":
        return not matches(want, attributes)
    have = attributes.get(key)
    if have is None:
        return False
    if isinstance(want, dict):
        compare = {"gte": have.__ge__, "gt": have.__gt__, "lte": have.__le__, "lt": have.__lt__}
        return all(
            compare[name](type(have)(bound) if bound == type(have)(bound) else bound) is True for name, bound in want.items()
        )
    return have in want if isinstance(want, list) else bool(have == want)


def distinct(views: Iterable[SeenView]) -> list[SeenView]:
    """One view an event id, the earliest, sorted by (time, id)."""
    first: dict[str, SeenView] = {}
    for view in views:
        if view.event_id not in first or view.time < first[view.event_id].time:
            first[view.event_id] = view
    return sorted(first.values(), key=lambda view: (view.time, view.event_id))


def window(views: list[SeenView], length: int, at: int) -> list[SeenView]:
    """The views with ``at - length < time <= at``, the newest 1,000."""
    return [view for view in views if at - length < view.time <= at][-MAX_VIEWS:]


def replay(views: list[SeenView], rule: Mapping[str, Any]) -> Answer:
    """Replay the views of one window from an empty start."""
    spec = _DEFAULTS | dict(rule)
    half_life = duration(spec["half_life"]) if spec["half_life"] else None
    member, share = False, 0.0
    for k in range(len(views)):
        if k + 1 < len(views) and views[k + 1].time == views[k].time:
            continue
        prefix = views[: k + 1]
        weights = [2.0 ** ((view.time - prefix[-1].time) / half_life) if half_life else 1.0 for view in prefix]
        hits = [matches(spec["when"], view.attributes) for view in prefix]
        total = sum(weights) + spec["prior_views"]
        share = (sum(w for w, hit in zip(weights, hits, strict=True) if hit) + spec["prior_views"] * spec["prior_share"]) / total
        days = {view.time // DAY_MS for view, hit in zip(prefix, hits, strict=True) if hit}
        if len(prefix) >= spec["min_views"] and len(days) >= spec["min_days"] and share >= spec["enter"] - 1e-9:
            member = True
        elif share < spec["exit"] - 1e-9:
            member = False
    return Answer(member, share, len(views), sum(matches(spec["when"], view.attributes) for view in views))


def spans(views: list[SeenView], rule: Mapping[str, Any]) -> list[tuple[int, int, float, int, int]]:
    """``(from, until, score, views, matching)`` of membership from the newest view on."""
    length = duration((_DEFAULTS | dict(rule))["window"])
    as_of = views[-1].time
    instants = [as_of, *sorted({view.time + length for view in views if view.time + length > as_of})]
    found: list[tuple[int, int, float, int, int]] = []
    opened: tuple[int, Answer] | None = None
    for instant in instants:
        answer = replay(window(views, length, instant), rule)
        if answer.member and opened is None:
            opened = (instant, answer)
        if not answer.member and opened is not None:
            found.append((opened[0], instant, opened[1].score, opened[1].views, opened[1].matching))
            opened = None
    return found
