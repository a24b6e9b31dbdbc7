"""The suite ``rows``: that what would be published is worth it, over all the rows."""

from __future__ import annotations

from collections.abc import Iterator

from expectations.checks import Measure, Suite, brief, share, suite_of
from expectations.evidence import ROUNDING, Evidence
from schemas.day_profile import RowsProfile
from schemas.instants import DAY_MS, format_instant
from schemas.quality import Thresholds


def rows_suite(evidence: Evidence, thresholds: Thresholds) -> Suite:
    """What is expected of the profile of the rows; there must be one."""
    if evidence.rows is None:
        msg = "rows == None, must be the profile of the rows to be published"
        raise ValueError(msg)
    return suite_of("rows", _measures(evidence.rows, evidence, thresholds))


def _measures(rows: RowsProfile, evidence: Evidence, thresholds: Thresholds) -> Iterator[Measure]:
    least = min(evidence.day.views, 1)
    yield Measure("rows", rows.rows, f"at least {least}: the day has {brief(evidence.day.views)} views", low=least)
    yield Measure("views", rows.views, "at least one a row", low=rows.rows)
    for subject, score in (("lowest score", rows.lowest_score), ("highest score", rows.highest_score)):
        if rows.rows == rows.empty:
            yield Measure(subject, score, "nothing to judge: no row is in a segment")
        else:
            yield Measure(subject, score, "between 0 and 1", -ROUNDING, 1 + ROUNDING)
    yield Measure("largest cell: bytes", rows.largest, f"at most {brief(thresholds.cell_bytes)}", 0, thresholds.cell_bytes)
    end = evidence.start + DAY_MS
    if not rows.rows and not evidence.day.views:
        yield Measure("in no segment: share of rows", None, "nothing to judge: no rows")
        yield Measure("newest view", None, "nothing to judge: no rows")
        return
    empty = share(rows.empty, rows.rows)
    yield Measure("in no segment: share of rows", empty, f"at most {brief(thresholds.empty_share)}", 0, thresholds.empty_share)
    newest = None if rows.newest is None else format_instant(rows.newest)
    yield Measure("newest view", rows.newest, f"before {format_instant(end)}", high=end - 1, observed=newest)
