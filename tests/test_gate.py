"""The quality gate: each bound from both sides, what it does when it can't judge, and what it says.

A good day is made by hand; each case changes one thing about it and names the findings that must fail, and no others may.
"""

from __future__ import annotations

import html
import json
import math
import os
import pathlib
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations import validation
from expectations.day import chance_variation, day_suite
from expectations.evidence import MAX_SAMPLE_ROWS
from expectations.gate import Evidence, Finding, Verdict, judge, quality_table, verdict_text
from expectations.metrics import metrics_suite
from expectations.rows import rows_suite
from expectations.sample import sample_suite
from expectations.verdict import SCREEN_COLUMNS, SCREEN_ROWS
from expectations.volume import Band, band_of
from schemas.day_profile import AttributeProfile, DayProfile, RowsProfile, empty_profile, total_variation
from schemas.errors import ConfigError
from schemas.instants import DAY_MS, parse_instant
from schemas.quality import Thresholds
from schemas.tables import QUALITY, SEGMENTS, archive_schema
from tests.strategies import CATALOGUE, ROOT

DATE: Final = "2026-05-08"
START: Final = parse_instant(f"{DATE}T00:00:00Z")
WEEK: Final = tuple(f"2026-05-0{day}" for day in range(1, 8))
VIEWS: Final = 10_000
MIX: Final = {"a": 5_000, "b": 3_000, "c": 1_900}  # and 100 without
USER: Final = "1:" + "0123456789abcdef" * 4
SUITES: Final = {"day": day_suite, "sample": sample_suite, "metrics": metrics_suite, "rows": rows_suite}

Edit = Callable[[Evidence], Evidence]
Rows = list[dict[str, Any]]


def profile_of(date: str, **changes: Any) -> DayProfile:
    attributes = {name: AttributeProfile(each.kind, 100, 0, MIX) for name, each in sorted(CATALOGUE.attributes.items())}
    good = DayProfile(date, 12_100, 12_000, VIEWS, 2_000, VIEWS, 12_100, 120, 0, 0, attributes)
    return good._replace(**changes)


def sample_rows(count: int = 60) -> Rows:
    attributes = {
        "make": "Kia",
        "model": "Rio",
        "fuel_type": "petrol",
        "body_type": "suv",
        "price": 9.0,
        "mileage": None,
        "year": 2020.0,
    }
    row = {"event_type": "listing_view", "user": USER, "user_id": USER, "anonymous_id": None, "session_id": "s", "listing_id": "l"}
    instants = [START + place * DAY_MS // count for place in range(count)]
    return [
        {**row, "event_id": f"e{at}", "event_time": at, "received_at": at, "attributes": dict(attributes), "experiment": None}
        for at in instants
    ]


def segment_rows() -> Rows:
    """Four segments; nobody is a member of the last, and nothing matches the third."""
    rows = []
    for name, tp, fp, fn in (("electric", 900, 100, 300), ("suv", 4_000, 1_000, 2_000), ("rare", 0, 10, 0), ("empty", 0, 0, 50)):
        precision, recall = tp / (tp + fp) if tp + fp else None, tp / (tp + fn) if tp + fn else None
        row = {"date": DATE, "rule_version": 3, "segment": name, "tp": tp, "fp": fp, "fn": fn, "tn": VIEWS - tp - fp - fn}
        for rate, value in (("precision", precision), ("recall", recall)):
            low, high = (None, None) if value is None else (value * 0.9, value * 0.9 + 0.1)
            row |= {rate: value, f"{rate}_low": low, f"{rate}_high": high}
        row |= {
            "base_rate": (tp + fn) / VIEWS,
            "lift": 1.5 if tp else None,
            "members": 80,
            "entered": 20,
            "left": 15,
        }
        rows.append(row | {"flips": 50, "inside": 95, "flips_per_member": 50 / 95, "withdrawn": False, "withdrawn_why": None})
    return rows


def table_of(rows: Rows, schema: pa.Schema) -> pa.Table:
    loose = pa.schema([field.with_nullable(True) for field in schema])  # so that a test can take a value away
    return pa.Table.from_pylist(rows, loose)


ROWS: Final = RowsProfile(2_000, 60_000, 600, 3_000, 0.4, 1.0, 50_000, START + DAY_MS - 1)
GOOD: Final = Evidence(
    DATE,
    profile_of(DATE),
    [profile_of(date) for date in WEEK],
    [],
    table_of(sample_rows(), archive_schema(CATALOGUE)),
    CATALOGUE,
    table_of(segment_rows(), SEGMENTS),
    ROWS,
)


def failures(evidence: Evidence, suite: str, thresholds: Thresholds = Thresholds()) -> set[str]:  # noqa: B008  immutable
    """The subjects of the findings of one suite that fail."""
    outcome = validation.validated(SUITES[suite](evidence, thresholds), render=False)
    return {finding.subject for finding in outcome.findings if not finding.success}


def day(**changes: Any) -> Edit:
    return lambda evidence: evidence._replace(day=evidence.day._replace(**changes))


def week(**changes: Any) -> Edit:
    return lambda evidence: evidence._replace(week=[each._replace(**changes) for each in evidence.week])


def attribute(name: str, **changes: Any) -> Edit:
    def edit(evidence: Evidence) -> Evidence:
        attributes = dict(evidence.day.attributes)
        return day(attributes={**attributes, name: attributes[name]._replace(**changes)})(evidence)

    return edit


def sample(**changes: Any) -> Edit:
    """The first row of the sample changed; ``attributes`` are added to its own."""

    def edit(evidence: Evidence) -> Evidence:
        first, *others = evidence.sample.to_pylist()
        changed = {**first, **changes, "attributes": {**first["attributes"], **changes.get("attributes", {})}}
        return evidence._replace(sample=table_of([changed, *others], evidence.sample.schema))

    return edit


def segment(place: int, **changes: Any) -> Edit:
    def edit(evidence: Evidence) -> Evidence:
        rows = evidence.segments.to_pylist()
        rows[place] |= changes
        return evidence._replace(segments=table_of(rows, SEGMENTS))

    return edit


def published(**changes: Any) -> Edit:
    return lambda evidence: evidence._replace(rows=None if evidence.rows is None else evidence.rows._replace(**changes))


def both(*edits: Edit) -> Edit:
    def edit(evidence: Evidence) -> Evidence:
        for each in edits:
            evidence = each(evidence)
        return evidence

    return edit


def without_week(evidence: Evidence) -> Evidence:
    return evidence._replace(week=[])


T: Final = Thresholds()
NULLS: Final = "fuel_type: null share"
SHIFTED: Final = "fuel_type: total variation"
SUM: Final = "tp + fp + fn + tn"

PERFECT: Final = {
    **{"tp": 6_000, "fp": 0, "fn": 0, "tn": 4_000, "precision": 1.0, "precision_low": 0.999, "precision_high": 1 - 1e-12},
    **{"recall": 1.0, "recall_low": 0.999, "recall_high": 1 + 1e-12},
}

WRONG: Final = {
    **{"event_id": "", "event_type": "view", "event_time": START - 1, "received_at": -1},
    **{"user": "anna@example.org", "user_id": "u1", "anonymous_id": "b7", "session_id": "x" * 257, "listing_id": "x" * 257},
    **{"attributes": {"make": "x" * 257, "model": "x" * 257, "price": math.inf, "mileage": math.nan, "year": -math.inf}},
    **{"experiment": "{"},
}
WRONG_SUBJECTS: Final = (
    *("event_id: bytes", "event_type", "event_time: hours into the day", "received_at: ms", "user: a pseudonym"),
    *("user_id: a pseudonym", "anonymous_id: a pseudonym", "session_id: bytes", "listing_id: bytes", "make: bytes", "model: bytes"),
    *("price: finite", "mileage: finite", "year: finite", "experiment: JSON"),
)
REQUIRED: Final = {
    "event_id": "event_id: bytes",
    "event_type": "event_type",
    "event_time": "event_time: hours into the day",
    "user": "user: a pseudonym",
}

# The band of 12,000 events: 0.85 of it to 1.5 of it; of 2,000 users 0.8 to 1.5 (chance: 3 / sqrt(2,000) = 0.07).
PASSES: Final[list[tuple[str, str, Edit]]] = [
    ("day", "the fewest events", day(events=10_200, rows=10_300)),
    ("day", "the most events", day(events=18_000, rows=18_000)),
    ("day", "the fewest views", day(views=8_500)),
    ("day", "the fewest users", day(users=1_600)),
    ("day", "the most users", day(users=3_000)),
    ("day", "a tenth late", day(late=1_210)),
    ("day", "a few in the future", day(future=12)),
    ("day", "a twentieth are copies", day(rows=12_000, events=11_400)),
    ("day", "nothing received", day(received=0, late=0, future=0)),
    ("day", "as many nulls as may be", attribute("fuel_type", nulls=631)),
    ("day", "a hundredth unknown", attribute("fuel_type", unknown=100)),
    ("day", "a mix a little shifted", attribute("fuel_type", mix={"a": 3_600, "b": 4_400, "c": 1_900})),
    ("day", "the first day", without_week),
    ("day", "the first day, and many nulls", both(without_week, attribute("fuel_type", nulls=4_000))),
    ("day", "an attribute that is new", both(attribute("fuel_type", nulls=0), week(attributes={}))),
    ("day", "a week of days without an event", week(events=0, views=0, users=0)),
    ("sample", "as many rows as may be", lambda e: e._replace(sample=table_of(sample_rows(MAX_SAMPLE_ROWS), e.sample.schema))),
    ("sample", "the ends of the day", sample(event_time=START + DAY_MS - 1)),
    ("sample", "an event of a visitor", sample(user_id=None, anonymous_id=USER)),
    ("sample", "an experiment", sample(experiment='{"arm": "b"}')),
    ("sample", "no attributes", sample(attributes=dict.fromkeys(CATALOGUE.attributes))),
    ("metrics", "shares of one, but for rounding", segment(1, **PERFECT)),
    ("rows", "as many in no segment as may be", published(empty=1_980)),
    ("rows", "the largest cell that may be", published(largest=1 << 20)),
    (
        "rows",
        "no views, no rows",
        both(day(views=0), published(rows=0, views=0, empty=0, lowest_score=None, highest_score=None, newest=None)),
    ),
]
FAILS: Final[list[tuple[str, str, Edit, set[str]]]] = [
    ("day", "one event too few", day(events=10_199, rows=10_300), {"events"}),
    ("day", "one event too many", day(events=18_001, rows=18_100), {"events"}),
    ("day", "a flat day that lost 30 %", day(events=8_400, rows=8_470, views=7_000), {"events", "views"}),
    ("day", "one view too few", day(views=8_499), {"views"}),
    ("day", "one view too many", day(views=15_001), {"views"}),
    ("day", "one user too few", day(users=1_599), {"users"}),
    ("day", "one user too many", day(users=3_001), {"users"}),
    ("day", "late", day(late=1_211), {"late: share of rows received"}),
    ("day", "in the future", day(future=13), {"future: share of rows received"}),
    ("day", "copies", day(rows=12_000, events=11_399), {"duplicates: share of rows"}),
    ("day", "more events than rows", day(rows=11_000), {"duplicates: share of rows"}),
    ("day", "misfiled", day(misfiled=1), {"misfiled: share of rows"}),
    ("day", "a date missing", lambda e: e._replace(missing_dates=["2026-05-03"]), {"missing dates"}),
    ("day", "the profile of another date", day(date="2026-05-07"), {"date"}),
    ("day", "fuel type null for half the views", attribute("fuel_type", nulls=5_000), {NULLS}),
    ("day", "more nulls than the week", attribute("fuel_type", nulls=632), {NULLS}),
    ("day", "null for half the views on the first day", both(without_week, attribute("fuel_type", nulls=4_001)), {NULLS}),
    ("day", "unknown", attribute("fuel_type", unknown=101), {"fuel_type: unknown share"}),
    ("day", "a mix shifted", attribute("fuel_type", mix={"a": 3_300, "b": 4_700, "c": 1_900}), {SHIFTED}),
    ("day", "no value at all", attribute("fuel_type", nulls=10_000, mix={}), {NULLS, SHIFTED}),
    ("sample", "wrong in every column", sample(**WRONG), set(WRONG_SUBJECTS)),
    ("sample", "nothing given", sample(**dict.fromkeys(REQUIRED)), set(REQUIRED.values())),
    ("sample", "the day after", sample(event_time=START + DAY_MS), {"event_time: hours into the day"}),
    ("sample", "outside the catalogue", lambda e: e._replace(sample=fuel("steam", 4)), {"fuel_type"}),
    ("metrics", "views lost", segment(1, tn=2_999), {SUM}),
    ("metrics", "other views than the day's", day(views=10_001), {SUM}),
    ("metrics", "counts", both(segment(1, tp=None), segment(2, fp=-10, tn=10_010)), {"tp", "fp", SUM}),
    (
        "metrics",
        "a segment twice, another date, another version, withdrawn or not",
        both(segment(1, segment="electric", withdrawn=None), segment(2, date="2026-05-07"), segment(3, rule_version=4)),
        {"segment", "date", "rule_version", "withdrawn"},
    ),
    ("metrics", "no name", segment(1, segment=None, date=None, rule_version=None), {"segment", "date", "rule_version"}),
    (
        "metrics",
        "another precision than of the counts, another recall",
        both(segment(0, precision=1.1, precision_high=1.1), segment(1, recall=0.65)),
        {"precision", "precision_high", "precision - tp / (tp + fp)", "recall - tp / (tp + fn)"},
    ),
    (
        "metrics",
        "low above the value, high below it",
        both(segment(0, precision_low=0.91), segment(1, recall_high=0.6)),
        {"precision - precision_low", "recall_high - recall"},
    ),
    (
        "metrics",
        "given where it can't be computed, lacking where it can",
        both(
            segment(3, precision=0.0, lift=1.0),
            segment(0, recall=None, recall_low=None),
            segment(1, base_rate=None),
            segment(2, members=0, entered=0, inside=0),
        ),
        {f"{name}: null or not" for name in ("precision", "lift", "recall", "recall_low", "base_rate", "flips_per_member")},
    ),
    ("metrics", "a number that is none", segment(0, precision=math.nan), {"precision: null or not"}),
    (
        "metrics",
        "below zero",
        both(segment(0, base_rate=-0.1, lift=-1.0), segment(1, flips_per_member=-1.0)),
        {"base_rate", "lift", "flips_per_member"},
    ),
    (
        "metrics",
        "more entered than members, more members than inside, fewer flips than changes",
        both(segment(0, entered=81, flips=96), segment(1, inside=79), segment(2, flips=34)),
        {"members", "inside", "flips"},
    ),
    ("metrics", "no segments", lambda e: e._replace(segments=e.segments.slice(0, 0)), {"segments", "rule_version"}),
    ("rows", "none", published(rows=0, views=0, empty=0), {"rows", "in no segment: share of rows"}),
    ("rows", "fewer views than rows", published(views=1_999), {"views"}),
    ("rows", "a score below 0", published(lowest_score=-0.1), {"lowest score"}),
    ("rows", "a score above 1", published(highest_score=1.1), {"highest score"}),
    (
        "rows",
        "scores that can't be computed",
        published(lowest_score=math.nan, highest_score=None),
        {"lowest score", "highest score"},
    ),
    ("rows", "too many in no segment", published(empty=1_981), {"in no segment: share of rows"}),
    ("rows", "all in no segment", published(empty=2_000, lowest_score=None, highest_score=None), {"in no segment: share of rows"}),
    ("rows", "a cell too large", published(largest=(1 << 20) + 1), {"largest cell: bytes"}),
    ("rows", "a view of the next day", published(newest=START + DAY_MS), {"newest view"}),
    ("rows", "no newest view", published(newest=None), {"newest view"}),
]


def fuel(value: str, count: int) -> pa.Table:
    rows = sample_rows()
    for row in rows[:count]:
        row["attributes"]["fuel_type"] = value
    return table_of(rows, archive_schema(CATALOGUE))


MOVES: Final[list[tuple[str, Edit, Mapping[str, Any]]]] = [
    ("day", day(events=8_000, rows=8_000), {"volume_drop": 0.34}),
    ("day", day(events=20_000, rows=20_000), {"volume_rise": 0.7}),
    ("day", day(users=1_500), {"users_drop": 0.3}),
    ("day", day(users=3_100), {"users_rise": 0.6}),
    ("day", attribute("fuel_type", nulls=640), {"noise_sigmas": 4.0}),
    ("day", attribute("fuel_type", nulls=700), {"null_rise": 0.07}),
    ("day", both(without_week, attribute("fuel_type", nulls=5_000)), {"null_share": 0.5}),
    ("day", both(without_week, attribute("fuel_type", nulls=9_000)), {"sparse": frozenset({"fuel_type"})}),
    ("day", attribute("fuel_type", unknown=200), {"unknown_share": 0.02}),
    ("day", attribute("fuel_type", mix={"a": 3_300, "b": 4_700, "c": 1_900}), {"mix_shift": 0.2}),
    ("day", day(rows=12_000, events=11_000), {"duplicate_share": 0.1}),
    ("day", day(late=2_000), {"late_share": 0.2}),
    ("day", day(future=100), {"future_share": 0.01}),
    ("day", day(misfiled=10), {"misfiled_share": 0.001}),
    ("sample", lambda evidence: evidence._replace(sample=fuel("steam", 4)), {"unknown_share": 0.05}),
    ("sample", sample(event_time=START - 1), {"misfiled_share": 0.02}),
    ("rows", published(empty=1_990), {"empty_share": 0.995}),
    ("rows", published(largest=2 << 20), {"cell_bytes": 2 << 20}),
]


@pytest.fixture(scope="module")
def good() -> Verdict:
    return judge(GOOD, T, None)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    """Something wrong in every suite, written as Data Docs."""
    edit = both(
        attribute("fuel_type", nulls=5_000), sample(user="anna@example.org"), segment(1, precision_low=0.95), published(views=7)
    )
    evidence = edit(GOOD)._replace(missing_dates=["2026-05-03"])
    hostile = evidence.sample.to_pylist()
    for row in hostile[20:30]:
        row["attributes"]["fuel_type"] = "<script>alert(1)</script>"
    evidence = evidence._replace(sample=table_of(hostile, evidence.sample.schema))
    return judge(evidence, T, str(tmp_path_factory.mktemp("gate") / "docs"))


def test_a_good_day_passes(good: Verdict) -> None:
    assert [finding for finding in good.findings if not finding.success] == []
    assert good.passed
    assert good.docs is None
    assert {finding.suite for finding in good.findings} == set(SUITES)


@pytest.mark.parametrize(("suite", "edit"), [pytest.param(suite, edit, id=name) for suite, name, edit in PASSES])
def test_a_day_at_its_bounds_passes(suite: str, edit: Edit) -> None:
    assert failures(edit(GOOD), suite) == set()


@pytest.mark.parametrize(
    ("suite", "edit", "expected"), [pytest.param(suite, edit, failed, id=name) for suite, name, edit, failed in FAILS]
)
def test_a_day_beyond_a_bound_fails_there_and_nowhere_else(suite: str, edit: Edit, expected: set[str]) -> None:
    assert failures(edit(GOOD), suite) == expected


@pytest.mark.parametrize(("suite", "edit", "passing"), MOVES)
def test_a_threshold_moves_its_bound(suite: str, edit: Edit, passing: Mapping[str, Any]) -> None:
    evidence = edit(GOOD)
    assert failures(evidence, suite, T) != set()
    assert failures(evidence, suite, T._replace(**passing)) == set()


# How many a day may have


def band(counts: list[int], **changes: Any) -> Band:
    found = band_of(dict(enumerate(counts, 1)), 0.15, 0.5, T._replace(**changes))
    assert found is not None
    return found


def test_one_bad_day_does_not_blind_the_gate_for_the_week() -> None:
    assert band([10_000, 10_000, 3_000, 10_000, 10_000, 10_000, 10_000]).low == 8_500
    assert band([10_000, 10_000, 30_000, 10_000, 10_000, 10_000, 10_000]).high == 15_000


def test_in_a_short_week_every_day_counts() -> None:
    assert band([10_000, 7_000, 10_000, 10_000]).low == 5_950


def test_a_quiet_sunday_passes_by_the_sunday_before() -> None:
    weekdays = [10_000] * 6
    assert band([*weekdays, 5_000]).low == 4_250
    assert band([*weekdays, 20_000]).high == 30_000
    assert band(weekdays).low == 8_500


def test_a_week_whose_days_spread_widens_the_band() -> None:
    uneven = [7_000, 8_500, 10_000, 12_000, 14_000, 9_000, 11_000]
    assert band(uneven).low < 0.7 * 8_500
    assert band(uneven, spread_free=1.0).low == 7_225
    assert band(uneven, spread_factor=0.0).low == 7_225
    assert band(uneven).high > 2 * 12_000


def test_the_band_is_never_narrower_than_chance() -> None:
    assert band([25] * 7).low == math.ceil(25 * math.exp(-3 / 5))
    assert band([25] * 7, noise_sigmas=0.0).low == math.ceil(25 * 0.85)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=7), st.randoms())
def test_the_band_knows_no_order_but_the_weekday_and_holds_the_middle(counts: list[int], shuffle: random.Random) -> None:
    *others, weekday = counts
    shuffled = shuffle.sample(others, len(others))
    ago = dict(zip(range(7 - len(others), 8), [*others, weekday], strict=True))
    again = dict(zip(range(7 - len(others), 8), [*shuffled, weekday], strict=True))
    found = band_of(ago, 0.15, 0.5, T)
    assert found == band_of(again, 0.15, 0.5, T)
    present = sorted(count for count in counts if count)
    assert (found is None) == (not present)
    if found is not None:
        assert found.low <= present[len(present) // 2] <= found.high


@pytest.mark.parametrize("mix", [{"a": 50, "b": 30, "c": 20}, {str(value): 1 for value in range(100)}])
def test_chance_variation_is_what_two_samples_of_one_mix_have(mix: dict[str, int]) -> None:
    chooser = random.Random(1)
    pairs = []
    for _ in range(200):
        one, other = (Counter(chooser.choices(list(mix), list(mix.values()), k=size)) for size in (400, 2_000))
        pairs.append((total_variation(one, other), chance_variation(one, other, 400, 2_000)))
    seen, expected = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    assert seen == pytest.approx(expected, rel=0.05)


# Fails closed


@pytest.mark.parametrize("column", ["event_id", "event_time", "user", "attributes", "experiment", "received_at"])
def test_a_column_that_is_missing_from_the_sample_fails(column: str) -> None:
    failed = failures(GOOD._replace(sample=GOOD.sample.drop_columns(column)), "sample")
    assert "columns" in failed
    assert len(failed) == 1 + (len(CATALOGUE.attributes) if column == "attributes" else 1)


def test_an_attribute_that_is_missing_from_the_sample_fails() -> None:
    fields = [field for field in GOOD.sample.schema.field("attributes").type if field.name != "price"]
    attributes = pa.array(GOOD.sample["attributes"].to_pylist(), pa.struct(fields))
    table = GOOD.sample.drop_columns("attributes").append_column("attributes", attributes)
    assert failures(GOOD._replace(sample=table), "sample") == {"columns", "price: finite"}


@pytest.mark.parametrize("column", ["segment", "tp", "precision_low", "withdrawn_why"])
def test_a_column_that_is_missing_from_the_segments_fails(column: str) -> None:
    assert failures(GOOD._replace(segments=GOOD.segments.drop_columns(column)), "metrics") >= {"columns"}


def test_a_sample_without_rows_or_with_too_many_fails() -> None:
    assert failures(GOOD._replace(sample=GOOD.sample.slice(0, 0)), "sample") == {"rows"}
    many = pa.concat_tables([GOOD.sample] * (MAX_SAMPLE_ROWS // len(GOOD.sample) + 1))
    assert failures(GOOD._replace(sample=many), "sample") == {"rows"}


def test_a_day_without_rows_fails() -> None:
    for edit in (GOOD, without_week(GOOD)):
        failed = failures(edit._replace(day=empty_profile(DATE, CATALOGUE)), "day")
        assert failed >= {"rows", "events", "views", "users", NULLS, "fuel_type: unknown share", "duplicates: share of rows"}
        assert (SHIFTED in failed) == bool(edit.week)


def findings_of(verdict: Verdict, suite: str) -> list[Finding]:
    return [finding for finding in verdict.findings if finding.suite == suite]


def test_an_exception_in_a_suite_fails_that_suite_and_the_others_are_judged(good: Verdict) -> None:
    broken = GOOD._replace(week=[*GOOD.week, profile_of(DATE)])
    verdict = judge(broken, T, None)
    message = f"ValueError: 'week has {DATE}, must be of the seven dates before {DATE}, each once'"
    assert findings_of(verdict, "day") == [Finding("day", "the suite ran", "day", message, "without an exception", success=False)]
    assert not verdict.passed
    for suite in ("sample", "metrics", "rows"):
        assert findings_of(verdict, suite) == findings_of(good, suite)


def test_a_profile_that_lacks_an_attribute_fails() -> None:
    (finding,) = findings_of(judge(day(attributes={})(GOOD), T, None), "day")
    assert "must have body_type" in finding.observed
    assert not finding.success


def test_an_exception_in_great_expectations_fails_every_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(suite: Any) -> Any:
        msg = "no such batch"
        raise MemoryError(msg)

    monkeypatch.setattr(validation, "_run", broken)
    verdict = judge(GOOD, T, None)
    assert not verdict.passed
    assert [(each.suite, each.observed, each.success) for each in verdict.findings] == [
        (suite, "MemoryError: 'no such batch'", False) for suite in SUITES
    ]


def test_a_result_that_is_missing_or_holds_an_exception_is_a_failure_whatever_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    run = validation._run

    def claims_success(suite: Any) -> Any:
        result = run(suite)
        by_check = {each.expectation_config.meta["check"]: each for each in result.results}
        by_check[0].exception_info = {"raised_exception": True, "exception_message": "of one", "exception_traceback": ""}
        by_check[1].exception_info = {"a metric": {"raised_exception": True, "exception_message": "of a metric"}}
        by_check[2].result = {"observed_value": math.nan}
        by_check[3].result = {}
        result.results.remove(by_check[4])
        assert all(each.success for each in result.results)
        return result

    monkeypatch.setattr(validation, "_run", claims_success)
    outcome = validation.validated(rows_suite(GOOD, T), render=False)
    observed = [(finding.observed, finding.success) for finding in outcome.findings]
    assert observed[:5] == [("of one", False), ("of a metric", False), (None, False), (None, False), ("no result", False)]
    assert all(success for _, success in observed[5:])


def test_a_suite_without_expectations_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expectations.gate.validated", lambda suite, render: validation.Outcome((), ""))
    assert not judge(GOOD, T, None).passed


def test_rows_are_judged_only_when_there_are_to_be_any(good: Verdict) -> None:
    verdict = judge(GOOD._replace(rows=None), T, None)
    assert verdict.findings == tuple(finding for finding in good.findings if finding.suite != "rows")
    assert verdict.passed


def test_with_nothing_to_compare_to_the_findings_say_so() -> None:
    outcome = validation.validated(day_suite(without_week(GOOD), T), render=False)
    said = {finding.subject: finding for finding in outcome.findings}
    assert said["events"].bound == "at least 1; nothing to compare to: no day in the week before"
    assert said[SHIFTED] == Finding(
        "day", "expect_column_to_exist", SHIFTED, None, "nothing to compare to: no day in the week before", success=True
    )


# What it says


def test_a_number_that_is_none_or_infinite_is_no_value() -> None:
    outcome = validation.validated(rows_suite(published(lowest_score=-math.inf, highest_score=math.nan)(GOOD), T), render=False)
    failed = {finding.subject: finding.observed for finding in outcome.findings if not finding.success}
    assert failed == {"lowest score": None, "highest score": None}
    assert quality_table(Verdict(DATE, False, outcome.findings, None), None).num_rows == len(outcome.findings)


def test_the_rows_that_fail_are_named_with_their_values_in_one_order() -> None:
    outcome = validation.validated(metrics_suite(segment(1, tn=2_999)(GOOD), T), render=False)
    (finding,) = [finding for finding in outcome.findings if not finding.success]
    assert json.dumps(finding.observed) == json.dumps(
        {"unexpected": 1, "of": 4, "examples": [{"fn": 2000, "fp": 1000, "segment": "suv", "tn": 2999, "tp": 4000}]}
    )


def test_the_same_evidence_gives_the_same_findings_in_the_same_order(good: Verdict) -> None:
    assert judge(GOOD, T, None) == good


def test_the_bounds_say_how_they_came_about(good: Verdict) -> None:
    bounds = {finding.subject: finding.bound for finding in good.findings}
    assert bounds["events"] == "between 10,200 and 18,000: 0.85 × 12,000 and 1.5 × 12,000 of the week"
    assert bounds[NULLS] == "at most 0.06319: the week's 0.01 + 0.05 + 0.003191 by chance"
    assert bounds[SHIFTED] == "at most 0.1671 from the week's mix: 0.15 + 0.01707 by chance"


def test_the_table_holds_every_finding_and_the_reason_of_an_override(bad: Verdict) -> None:
    for override in (None, "the shop moved house"):
        table = quality_table(bad, override)
        assert table.schema.equals(QUALITY, check_metadata=True)
        rows = table.to_pylist()
        assert {row["override"] for row in rows} == {override}
        assert {row["date"] for row in rows} == {DATE}
        back = [
            Finding(row["suite"], row["expectation"], row["subject"], json.loads(row["observed"]), row["bound"], row["success"])
            for row in rows
        ]
        assert tuple(back) == bad.findings


def test_the_text_names_what_failed_with_value_and_bound_and_counts_what_passed(bad: Verdict) -> None:
    text = verdict_text(bad, "the shop moved house")
    assert f"quality of {DATE}: FAILED, 6 of 116 expectations" in text
    assert "day | fuel_type: null share | expect_column_max_to_be_between\n  0.5; must be at most 0.06319: the week's" in text
    assert 'day | missing dates | expect_column_max_to_be_between\n  ["2026-05-03"]; must be none' in text
    assert (
        "metrics | precision - precision_low | expect_column_values_to_be_between\n  1 of 4 (precision - precision_low -0.15"
        in text
    )
    assert "rows | views | expect_column_max_to_be_between\n  7; must be at least one a row" in text
    assert "passed: 29 of 31 day, 21 of 23 sample, 54 of 55 metrics, 6 of 7 rows" in text
    assert "published all the same: the shop moved house" in text
    assert f"Data Docs: {bad.docs}" in " ".join(text.split()) or len(str(bad.docs)) > SCREEN_COLUMNS


def test_the_text_of_a_good_day_is_short(good: Verdict) -> None:
    assert verdict_text(good, None) == (
        f"quality of {DATE}: passed, all 116\npassed: 31 of 31 day, 23 of 23 sample, 55 of 55 metrics, 7 of 7 rows"
    )


def findings() -> st.SearchStrategy[Finding]:
    texts = st.text(max_size=200)
    observed = st.none() | st.floats(allow_nan=False, allow_infinity=False) | texts | st.lists(texts, max_size=3)
    unexpected = st.builds(lambda examples: {"unexpected": 3, "of": 9, "examples": examples}, st.lists(observed, max_size=3))
    return st.builds(Finding, st.sampled_from(sorted(SUITES)), texts, texts, observed | unexpected, texts, st.booleans())


@given(st.lists(findings(), min_size=1, max_size=40), st.none() | st.text(max_size=300), st.none() | st.text(max_size=300))
def test_the_text_fits_a_screen(drawn: list[Finding], override: str | None, docs: str | None) -> None:
    text = verdict_text(Verdict(DATE, False, tuple(drawn), docs), override)
    lines = text.split("\n")
    assert len(lines) <= SCREEN_ROWS
    assert all(len(line) <= SCREEN_COLUMNS and line.isprintable() for line in lines)


@pytest.mark.parametrize("bound", ["at most 1", "at most " + "1 " * 60])
def test_what_does_not_fit_the_screen_is_counted(bound: str) -> None:
    for count in range(1, 41):
        findings = [
            Finding("day", "expect_column_to_exist", f"column {number}", 2, bound, success=False) for number in range(count)
        ]
        lines = verdict_text(Verdict(DATE, False, tuple(findings), "docs/index.html"), "a reason").split("\n")
        named = [line for line in lines if line.startswith("day | column ")]
        more = [int(line.split()[2]) for line in lines if line.startswith("… and ")]
        assert len(lines) <= SCREEN_ROWS
        assert len(named) + sum(more) == count
        assert len(named) >= min(count, 6)


def test_the_page_shows_expectation_value_and_bound_and_asks_nothing_of_anybody(bad: Verdict) -> None:
    assert bad.docs is not None
    page = pathlib.Path(bad.docs).read_text()
    assert f'<h1>Quality of {DATE}: <span class="failed">failed</span></h1>' in page
    row = "<tr><td>day</td><td>fuel_type: null share</td><td>expect_column_max_to_be_between</td><td>0.5</td><td>at most 0.06319: "
    assert row in page
    for suite in SUITES:
        assert f"<h2>Suite: {suite}</h2>" in page
    for finding in bad.findings:
        assert html.escape(f"{finding.subject} must be {finding.bound} ({finding.expectation})") in page
    assert "default-src 'none'" in page
    assert not [word for word in ("http://", "https://", "src=", "<script", "<link", "anna@example.org") if word in page]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Can't be shown" not in page


def test_the_findings_stand_without_a_rendering(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    def broken(result: Any) -> str:
        raise KeyError(result)

    monkeypatch.setattr(validation, "_rendered", broken)
    verdict = judge(published(views=7)(GOOD), T, str(tmp_path))
    assert [finding.subject for finding in verdict.findings if not finding.success] == ["views"]
    page = (tmp_path / "index.html").read_text()
    assert "Can't be shown: KeyError" in page
    assert "<td>at least one a row</td>" in page


def test_a_folder_that_cannot_be_written_is_the_operators_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr("expectations.gate.validated", lambda suite, render: validation.Outcome((), ""))
    (tmp_path / "docs").write_text("a file")
    with pytest.raises(ConfigError, match=r"docs == .*/docs, must be a folder that can be written: "):
        judge(GOOD, T, str(tmp_path / "docs"))


def test_no_raw_id_is_told_anywhere(bad: Verdict) -> None:
    told = quality_table(bad, None).to_pylist()
    assert "anna" not in json.dumps(told) + verdict_text(bad, None)


ALONE: Final = """
import json, sys
tried = []
def watch(event, _):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"}:
        tried.append(event)
sys.addaudithook(watch)
import expectations.gate
assert not {"great_expectations", "pandas", "apache_beam"} & set(sys.modules), "imported before it is needed"
from tests.test_gate import GOOD, T
verdict = expectations.gate.judge(GOOD, T, sys.argv[1])
assert "great_expectations" in sys.modules
assert tried == [], tried
print(json.dumps(verdict.findings))
"""


def test_alone_without_a_network_it_says_the_same_and_prints_nothing(good: Verdict, tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", ALONE, str(tmp_path / "docs")]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert process.stderr == ""
    assert process.returncode == 0
    assert [Finding(*each) for each in json.loads(process.stdout)] == list(good.findings)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["index.html"]


def test_every_threshold_has_a_case() -> None:
    moved = {name for _, _, passing in MOVES for name in passing}
    assert moved | {"spread_free", "spread_factor"} == set(Thresholds._fields)
