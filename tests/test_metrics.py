"""Rates, intervals and floors of segments; the metrics folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.launch import fault_told_in
from schemas.errors import ConfigError, StoreError
from schemas.rules import Rule, parse_rules
from tests.reference_day import DayCounts as ReferenceCounts
from tests.reference_day import rates_of as reference_rates_of
from tests.strategies import CATALOGUE
from transforms.metrics import DayCounts, Standing, rates_of, segments_table, standing_of, wilson
from transforms.metrics_files import dates_with_metrics, last_segments, parquet_of, read_metrics, write_metrics

COUNTS = st.builds(DayCounts, *[st.integers(0, 10**6)] * 9)


def rule(**floors: float | None) -> Rule:
    spec = {"name": "a", "when": {"fuel_type": "lpg"}, **floors}
    return parse_rules(f"version: 1\nsegments: [{spec}]".replace("None", "null"), CATALOGUE, "rules.yaml").rules[0]


def rates(precision: float | None, recall: float | None = 0.9) -> dict[str, Any]:
    return {"precision_low": precision, "recall_low": recall}


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_the_published_ones(hits: int, trials: int, low: float, high: float) -> None:
    found_low, found_high = wilson(hits, trials)
    assert found_low == pytest.approx(low, abs=5e-5)
    assert found_high == pytest.approx(high, abs=5e-5)


@given(COUNTS)
def test_rates_are_the_references(counts: DayCounts) -> None:
    found, expected = rates_of(counts), reference_rates_of(ReferenceCounts(*counts))
    for name, value in expected._asdict().items():
        have = getattr(found, name)
        assert (have is None) == (value is None)
        assert value is None or math.isclose(have, value, abs_tol=1e-12)


def test_what_cannot_be_computed_is_nothing() -> None:
    assert set(rates_of(DayCounts(*[0] * 9))) == {None}


# day       1     2     3     4     5     6
# low       .3    .5    .3    .5    .5    .5     floor .4
# standing  out   out   out   out   in    in     two good days running bring it back
def test_a_segment_comes_back_after_two_good_days_running() -> None:
    floor, was, yesterday = rule(min_precision=0.4), False, None
    course = []
    for low in (0.3, 0.5, 0.3, 0.5, 0.5, 0.5):
        today = rates(low)
        standing = standing_of(floor, today, yesterday, was=was)
        course.append(standing.withdrawn)
        was, yesterday = standing.withdrawn, today
    assert course == [True, True, True, True, False, False]


@pytest.mark.parametrize(
    ("floors", "today", "yesterday", "was", "expected"),
    [
        ({}, rates(0.0, 0.0), None, False, Standing(False, None)),
        ({}, rates(0.0, 0.0), None, True, Standing(False, None)),  # its floors were taken away
        ({"min_precision": 0.4}, rates(0.4), None, False, Standing(False, None)),
        ({"min_precision": 0.4}, rates(0.39), None, False, Standing(True, "precision_low == 0.3900, must be at least 0.4")),
        ({"min_recall": 0.4}, rates(0.1, 0.2), None, False, Standing(True, "recall_low == 0.2000, must be at least 0.4")),
        ({"min_precision": 0.4}, rates(None), None, False, Standing(False, None)),  # not judged
        ({"min_precision": 0.4}, rates(None), rates(0.9), True, Standing(True, "was withdrawn, must be good for two days running")),
        ({"min_precision": 0.4}, rates(0.9), None, True, Standing(True, "was withdrawn, must be good for two days running")),
        ({"min_precision": 0.4}, rates(0.9), rates(0.9), True, Standing(False, None)),
    ],
)
def test_standings(
    floors: dict[str, float], today: dict[str, Any], yesterday: dict[str, Any] | None, was: bool, expected: Standing
) -> None:
    assert standing_of(rule(**floors), today, yesterday, was=was) == expected


def test_a_metrics_folder_gives_back_what_was_put(tmp_path: Path) -> None:
    folder = f"{tmp_path}/metrics"
    assert dates_with_metrics(folder) == []
    assert last_segments(folder, "2026-05-03") is None
    table = segments_table("2026-05-01", 3, [rule()], [DayCounts(1, 2, 3, 4, 5, 6, 7, 8, 9)], {}, fresh=False)
    for date in ("2026-05-01", "2026-05-02"):
        write_metrics(folder, date, {"segments": table})
    assert dates_with_metrics(folder) == ["2026-05-01", "2026-05-02"]
    assert read_metrics(folder, "2026-05-01", "segments") == table
    assert read_metrics(folder, "2026-05-01", "volume") is None
    found = last_segments(folder, "2026-05-02")
    assert found is not None
    assert (found[0], found[1]["a"]["tp"]) == ("2026-05-01", 1)
    assert last_segments(folder, "2026-06-01") is None, "too long ago to say anything"
    assert parquet_of(table) == parquet_of(table)


def test_a_fault_is_found_in_the_traceback_that_a_worker_sent() -> None:
    text = "Traceback\n  File x\nschemas.errors.ConfigError: file == a, must be b\n\nRuntimeError: schemas.errors.StoreError: c [x]"
    fault = fault_told_in(text)
    assert type(fault) is ConfigError
    assert str(fault) == "file == a, must be b"
    assert type(fault_told_in("schemas.errors.StoreError: gone")) is StoreError
    assert fault_told_in("schemas.errors.Nothing: x") is None
    assert fault_told_in("ValueError: x") is None
