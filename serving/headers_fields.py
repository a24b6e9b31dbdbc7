"""A user's segments as two Structured Fields (RFC 9651): what they say, written and read.

    X-User-Segments: electric;s=0.83, suv;s=0.61
    X-User-Segments-Meta: v=7, age=12, source=store

A List of Tokens, highest score first, each with its score ``s`` as a Decimal of three places. A user in no segment has the one
member ``?0``, which is no Token: an empty List can't be written. The Dictionary beside it has the rules' version ``v``, the
answer's ``age`` in whole seconds since the user's newest view, its ``source``, the ``reason`` when there is no segment, and how
many segments of the lowest scores were ``left_out`` for want of room.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final, NamedTuple

import http_sf

from schemas.errors import shown
from schemas.instants import SECOND_MS
from schemas.rules import MAX_SEGMENTS
from serving.reader import SegmentsRead
from serving.signatures import HeaderRefusedError, parsed

SEGMENTS: Final = "x-user-segments"
META: Final = "x-user-segments-meta"
MAX_LIST_BYTES: Final = 4 << 10
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_COUNTS: Final = ("v", "age", "left_out")
_WORDS: Final = ("source", "reason")


class ScoredSegment(NamedTuple):
    """A segment and the user's score in it, 0 to 1 in three places."""

    name: str
    score: float


class UserSegments(NamedTuple):
    """What the headers say of a user; ``age_s`` whole seconds since the newest view, ``reason`` why there is no segment."""

    segments: tuple[ScoredSegment, ...]
    rule_version: int | None
    age_s: int | None
    source: str
    reason: str | None
    left_out: int = 0


def fields_of(read: SegmentsRead) -> dict[str, str]:
    """The two fields by name; ``ValueError`` for what ``parse_fields`` would refuse: a name or a score that is none.

    >>> from serving.segments import Segment
    >>> fields_of(SegmentsRead((Segment("suv", 2 / 3, 9, 6, 0),), 7, 0, 12_345, "store", None))
    {'x-user-segments': 'suv;s=0.667', 'x-user-segments-meta': 'v=7, age=12, source=store'}
    >>> fields_of(SegmentsRead((), None, None, None, "none", "unknown_user"))["x-user-segments"]
    '?0'
    """
    written: list[str] = []
    room = MAX_LIST_BYTES
    for segment in read.segments[:MAX_SEGMENTS]:
        if not _NAME.fullmatch(segment.name) or not 0 <= round(segment.score, 3) <= 1:
            msg = f"segment == {shown(segment.name)};s={segment.score!r}, must be a segment's name and a score from 0 to 1"
            raise ValueError(msg)
        member: Any = (http_sf.Token(segment.name), {"s": float(segment.score)})
        text = http_sf.ser(member)
        room -= len(text) + len(", ")
        if room < 0:
            break
        written.append(text)
    meta: dict[str, Any] = {}
    if read.rule_version is not None:
        meta["v"] = read.rule_version
    if read.age_ms is not None:
        meta["age"] = read.age_ms // SECOND_MS
    meta["source"] = http_sf.Token(read.source)
    if not read.segments:
        meta["reason"] = http_sf.Token(read.reason or "no_segments")
    if left_out := len(read.segments) - len(written):
        meta["left_out"] = left_out
    return {SEGMENTS: ", ".join(written) or http_sf.ser([False]), META: http_sf.ser(meta)}


def parse_fields(segments: str, meta: str) -> UserSegments:
    """What the two fields say; ``HeaderRefusedError`` when they aren't of the form in which ``fields_of`` writes."""
    members = parsed(segments, SEGMENTS, "list")
    if len(members) > MAX_SEGMENTS:
        reason, message = "oversized", f"{SEGMENTS}: number of segments == {len(members)}, must be at most {MAX_SEGMENTS}"
        raise HeaderRefusedError(reason, message)
    empty = len(members) == 1 and members[0] == (False, {}) and members[0][0] is False
    found = () if empty else tuple(_segment(member) for member in members)
    if not empty and not found or len({segment.name for segment in found}) != len(found):
        raise HeaderRefusedError(reason="malformed", message=f"{SEGMENTS}: must be ?0, or segments each named once")
    said = parsed(meta, META, "dictionary")
    values = {key: _plain(key, member) for key, member in said.items()}
    if "source" not in values or ("reason" in values) != empty:
        reason, message = "malformed", f"{META}: must have source, and reason when and only when there is no segment"
        raise HeaderRefusedError(reason, message)
    return UserSegments(
        found, values.get("v"), values.get("age"), values["source"], values.get("reason"), values.get("left_out", 0)
    )


def _segment(member: Any) -> ScoredSegment:
    name, parameters = member
    score = parameters.get("s") if isinstance(name, http_sf.Token) and _NAME.fullmatch(str(name)) else None
    if not isinstance(score, Decimal) or not 0 <= score <= 1 or len(parameters) != 1:
        reason, message = "malformed", f"{SEGMENTS}: a member must be a segment's name with its score, such as suv;s=0.61"
        raise HeaderRefusedError(reason, message)
    return ScoredSegment(str(name), float(score))


def _plain(key: str, member: Any) -> Any:
    value, parameters = member
    if key in _COUNTS and type(value) is int and value >= 0 and not parameters:
        return value
    if key in _WORDS and isinstance(value, http_sf.Token) and not parameters:
        return str(value)
    reason, message = "malformed", f"{META}: {shown(key)} must be one of the keys, with a whole number or a word"
    raise HeaderRefusedError(reason, message)
