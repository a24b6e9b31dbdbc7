"""The two fields: how scores and empty answers are written, and that nothing else is read."""

from __future__ import annotations

import pytest

from serving.headers_fields import SEGMENTS, ScoredSegment, fields_of, parse_fields
from serving.reader import SegmentsRead
from serving.segments import Segment
from serving.signatures import HeaderRefusedError

READ = SegmentsRead((), 7, 0, 12_345, "store", None)


@pytest.mark.parametrize(
    ("score", "text"), [(1.0, "1.0"), (0.0, "0.0"), (2 / 3, "0.667"), (0.9996, "1.0"), (0.1 + 0.2, "0.3"), (5e-9, "0.0")]
)
def test_scores_have_three_places(score: float, text: str) -> None:
    assert fields_of(READ._replace(segments=(Segment("suv", score, 1, 1, 0),)))[SEGMENTS] == f"suv;s={text}"


@pytest.mark.parametrize(
    ("name", "score"),
    [("Suv", 0.5), ("s-v", 0.5), ("s:v", 0.5), ("s" * 64, 0.5), ("", 0.5), ("suv", 1.001), ("suv", -0.001), ("suv", float("nan"))],
)
def test_what_could_not_be_read_is_not_written(name: str, score: float) -> None:
    with pytest.raises(ValueError, match="must be a segment's name and a score from 0 to 1"):
        fields_of(READ._replace(segments=(Segment(name, score, 1, 1, 0),)))


@pytest.mark.parametrize(
    ("segments", "meta"),
    [
        ("", "source=store"),
        ("?1", "source=none, reason=x"),
        ("0", "source=none, reason=x"),
        ("?0;s=1.0", "source=none, reason=x"),
        ("?0, suv;s=0.5", "source=none, reason=x"),
        ("?0", "source=none"),
        ("suv;s=0.5", "source=none, reason=x"),
        ("suv;s=0.5, suv;s=0.5", "source=store"),
        ("suv", "source=store"),
        ("suv;s=1", "source=store"),
        ("suv;s=1.1", "source=store"),
        ("suv;s=-0.1", "source=store"),
        ("suv;s=0.5;t=1", "source=store"),
        ("Suv;s=0.5", "source=store"),
        ("s:v;s=0.5", "source=store"),
        ('"suv";s=0.5', "source=store"),
        ("(suv);s=0.5", "source=store"),
        ("suv;s=0.5", ""),
        ("suv;s=0.5", "v=7"),
        ("suv;s=0.5", "v=7.0, source=store"),
        ("suv;s=0.5", "v=-7, source=store"),
        ("suv;s=0.5", "v=?1, source=store"),
        ("suv;s=0.5", "v=7;a, source=store"),
        ("suv;s=0.5", 'source="store"'),
        ("suv;s=0.5", "source=store;a"),
        ("suv;s=0.5", "source=store, else=1"),
        ("suv;s=0.5", "source=(store)"),
    ],
)
def test_fields_that_we_would_not_write_are_refused(segments: str, meta: str) -> None:
    assert parse_fields("suv;s=0.5", "source=store").segments == (ScoredSegment("suv", 0.5),)
    with pytest.raises(HeaderRefusedError) as refused:
        parse_fields(segments, meta)
    assert refused.value.reason == "malformed"


def test_over_500_segments_are_too_many() -> None:
    members = [f"s{n};s=0.5" for n in range(501)]
    assert len(parse_fields(", ".join(members[:500]), "source=store").segments) == 500
    with pytest.raises(HeaderRefusedError, match="number of segments == 501, must be at most 500") as refused:
        parse_fields(", ".join(members), "source=store")
    assert refused.value.reason == "oversized"
