"""The segments of a user at an instant, answered from the spans in the row: no evaluation, no write."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from schemas.errors import ConfigError
from schemas.instants import format_instant
from schemas.profile_row import MAX_CLOCK_SKEW_MS, Membership


class Segment(NamedTuple):
    """Membership of one segment; ``until`` (ms UTC) is when it ends if no further view arrives."""

    name: str
    score: float
    views: int
    matching: int
    until: int


def segments_at(membership: Membership | None, at: int, withdrawn: Collection[str] = ()) -> list[Segment]:
    """The segments whose span holds ``at`` (ms UTC), highest score first, then by name; those ``withdrawn`` are not offered.

    An ``at`` up to five minutes before ``as_of`` counts as ``as_of``: clocks differ by that much. Further back the row
    can't tell, and ``ConfigError`` says so.
    """
    if membership is None:
        return []
    if at < membership.as_of - MAX_CLOCK_SKEW_MS:
        msg = f"at == {format_instant(at)}, must not be before the row's newest view at {format_instant(membership.as_of)}"
        raise ConfigError(msg)
    instant = max(at, membership.as_of)
    found = [
        Segment(segment.name, span.score, span.views, span.matching, span.until)
        for segment in membership.segments
        for span in segment.spans
        if span.start <= instant < span.until and segment.name not in withdrawn
    ]
    return sorted(found, key=lambda segment: (-segment.score, segment.name))


def segments_document(user: str, membership: Membership | None, at: int, withdrawn: Collection[str] = ()) -> dict[str, Any]:
    """What ``forecourt segments --json`` prints for a user."""
    return {
        "user": user,
        "at": format_instant(at),
        "as_of": None if membership is None else format_instant(membership.as_of),
        "rule_version": None if membership is None else membership.rule_version,
        "segments": [{**each._asdict(), "until": format_instant(each.until)} for each in segments_at(membership, at, withdrawn)],
    }
