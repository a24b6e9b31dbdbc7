"""The segments at an instant: from the spans alone, clamped by the clocks' skew, refused further back."""

from __future__ import annotations

import re
from typing import Any

import pytest

from schemas.errors import ConfigError
from schemas.instants import format_instant
from schemas.profile_row import MAX_CLOCK_SKEW_MS, Membership, SegmentSpans, Span
from serving.segments import Segment, segments_at, segments_document
from tests.strategies import START

# as_of   +10       +20       +30       +40
# |=== suv ========|          |== suv ==|
# |=== bev ==================|
# |        |= van =|
ROW = Membership(
    7,
    START,
    [
        SegmentSpans("suv", [Span(START, START + 20, 0.5, 8, 4), Span(START + 30, START + 40, 0.6, 5, 3)]),
        SegmentSpans("bev", [Span(START, START + 30, 0.5, 8, 4)]),
        SegmentSpans("van", [Span(START + 10, START + 20, 0.9, 7, 6)]),
    ],
)


@pytest.mark.parametrize(
    ("after", "names"),
    [
        (-MAX_CLOCK_SKEW_MS, ["bev", "suv"]),  # clocks differ: as at as_of
        (-1, ["bev", "suv"]),
        (0, ["bev", "suv"]),  # equal scores: by name
        (9, ["bev", "suv"]),
        (10, ["van", "bev", "suv"]),  # highest score first
        (19, ["van", "bev", "suv"]),
        (20, ["bev"]),
        (29, ["bev"]),
        (30, ["suv"]),
        (39, ["suv"]),
        (40, []),
        (10**12, []),
    ],
)
def test_a_span_holds_from_its_start_until_just_before_its_end(after: int, names: list[str]) -> None:
    assert [segment.name for segment in segments_at(ROW, START + after)] == names


def test_a_segment_has_the_numbers_of_the_span_that_holds() -> None:
    assert segments_at(ROW, START + 35) == [Segment("suv", 0.6, 5, 3, START + 40)]


def test_further_back_than_clocks_differ_the_row_cannot_tell() -> None:
    at = START - MAX_CLOCK_SKEW_MS - 1
    message = f"at == {format_instant(at)}, must not be before the row's newest view at {format_instant(START)}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        segments_at(ROW, at)


def test_a_user_without_a_row_is_in_no_segment_at_any_time() -> None:
    assert segments_at(None, 0) == []
    nobody: dict[str, Any] = {"user": "u1", "at": "1970-01-01T00:00:00.000Z", "as_of": None, "rule_version": None, "segments": []}
    assert segments_document("u1", None, 0) == nobody


def test_the_document_has_what_the_command_line_promises() -> None:
    until = "2026-01-01T00:00:00.040Z"
    assert segments_document("u1", ROW, START + 35) == {
        "user": "u1",
        "at": "2026-01-01T00:00:00.035Z",
        "as_of": "2026-01-01T00:00:00.000Z",
        "rule_version": 7,
        "segments": [{"name": "suv", "score": 0.6, "views": 5, "matching": 3, "until": until}],
    }
