"""The local runner: what it keeps doesn't grow with the bundles it has run, and its counters are exact."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker

from transforms.counters import READ, conservation_of, count, counted_by, counted_here
from transforms.local_runner import local_runner


class OneABundle(beam.DoFn, beam.RestrictionProvider):  # type: ignore[misc]
    """Gives back the rest after each number, so that each is a bundle of its own."""

    def initial_restriction(self, element: int) -> OffsetRange:
        return OffsetRange(0, element)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: int, restriction: OffsetRange) -> int:
        return int(restriction.size())

    def process(self, element: int, tracker: Any = beam.DoFn.RestrictionParam()) -> Iterator[int]:  # noqa: B008
        position = tracker.current_restriction().start
        if tracker.try_claim(position):
            count(READ)
            count("refused:even" if position % 2 == 0 else "applied", 2 if position == 0 else 1)
            yield position
            tracker.defer_remainder()


def run_of(bundles: int) -> Any:
    pipeline = beam.Pipeline(runner=local_runner())
    _ = pipeline | "Numbers" >> beam.Create([bundles]) | "Bundles" >> beam.ParDo(OneABundle())
    result = pipeline.run()
    result.wait_until_finish()
    return result


def infos_by_stage(result: Any) -> dict[str, Any]:
    kept: dict[str, Any] = result._monitoring_infos_by_stage
    return kept


@pytest.fixture(scope="module")
def long_run() -> Any:
    return run_of(300)


def test_metrics_of_many_bundles_are_lists_no_longer_than_those_of_a_few(long_run: Any) -> None:
    few, many = infos_by_stage(run_of(5)), infos_by_stage(long_run)
    assert all(isinstance(infos, Sized) for infos in many.values()), "a chain of generators keeps each bundle's metrics"
    assert sorted(map(len, many.values())) == sorted(map(len, few.values()))


def test_counters_over_many_bundles_are_exact(long_run: Any) -> None:
    assert counted_by(long_run) == {"read": 300, "applied": 150, "refused:even": 151}


def test_what_this_process_counts_is_what_the_pipeline_counts() -> None:
    before = counted_here()
    result = run_of(7)
    here = {name: number - before.get(name, 0) for name, number in counted_here().items()}
    assert {name: number for name, number in here.items() if number} == counted_by(result)


def test_an_event_that_is_not_accounted_for_is_noticed() -> None:
    assert conservation_of({"read": 3, "applied": 1, "duplicate": 1, "refused:a": 1, "refused:b": 0}).holds
    unbalanced = conservation_of({"read": 3, "applied": 1, "refused:b": 1, "refused:a": 2})
    assert not unbalanced.holds
    assert list(unbalanced.refused) == ["a", "b"]
