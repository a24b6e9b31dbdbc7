"""The suite ``metrics``: that the day's table of segments agrees with itself and with the day."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from expectations.checks import Check, Suite, brief
from expectations.evidence import ROUNDING, Evidence
from schemas.quality import Thresholds
from schemas.tables import SEGMENTS

_JUDGED: Final = ("tp", "fp", "fn", "tn")
_COUNTS: Final = (*_JUDGED, "members", "entered", "left", "flips", "inside")
_RATES: Final = {"precision": ("tp", "fp"), "recall": ("tp", "fn")}
_SHARES: Final = ("precision", "precision_low", "precision_high", "recall", "recall_low", "recall_high", "base_rate")
_RATIOS: Final = ("lift", "flips_per_member")
_CHANGES: Final = "entered + left"
_ORDER: Final = (("members", "entered"), ("inside", "members"), ("flips", _CHANGES))
_GIVEN: Final = ("date", "rule_version", "segment", *_COUNTS, "withdrawn")
_DENOMINATORS: Final = {  # what must not sum to 0 for a column to have a value
    **{f"precision{end}": (_RATES["precision"],) for end in ("", "_low", "_high")},
    **{f"recall{end}": (_RATES["recall"],) for end in ("", "_low", "_high")},
    "base_rate": (_JUDGED,),
    "lift": (_RATES["precision"], _RATES["recall"]),
    "flips_per_member": (("inside",),),
}


def metrics_suite(evidence: Evidence, _thresholds: Thresholds) -> Suite:
    """What is expected of the segments of the day, a row a rule."""
    columns = {"column_set": SEGMENTS.names, "exact_match": False}
    checks = [
        Check("expect_table_row_count_to_be_between", "segments", "at least 1", {"min_value": 1, "max_value": None}),
        Check("expect_table_columns_to_match_set", "columns", "all columns of the table", columns),
        Check("expect_column_values_to_be_in_set", "date", evidence.date, {"column": "date", "value_set": [evidence.date]}),
        *(Check("expect_column_values_to_not_be_null", name, "given", {"column": name}) for name in _GIVEN),
        Check("expect_column_values_to_be_unique", "segment", "unique", {"column": "segment"}),
        _one("rule_version"),
        *_counts(evidence.day.views),
        *_shares(),
    ]
    return Suite("metrics", _with_derived(evidence.segments), tuple(checks), named_by="segment")


def _one(name: str) -> Check:
    limits = {"column": name, "min_value": 1, "max_value": 1}
    return Check("expect_column_unique_value_count_to_be_between", name, "the same in all rows", limits)


def _counts(views: int) -> Iterator[Check]:
    for name in _COUNTS:
        yield _between(name, 0, None, "at least 0")
    total = {"column_list": list(_JUDGED), "sum_total": views, "ignore_row_if": "never"}
    yield Check("expect_multicolumn_sum_to_equal", " + ".join(_JUDGED), f"{brief(views)}, the views of the day", total)
    for larger, smaller in _ORDER:
        pair = {"column_A": larger, "column_B": smaller, "or_equal": True, "ignore_row_if": "neither"}
        yield Check("expect_column_pair_values_a_to_be_greater_than_b", larger, f"at least {smaller}", pair)


def _shares() -> Iterator[Check]:
    for name in _SHARES:
        yield _between(name, -ROUNDING, 1 + ROUNDING, "between 0 and 1")
    for name in _RATIOS:
        yield _between(name, 0, None, "at least 0")
    for name, sums in _DENOMINATORS.items():
        zero = " or ".join(" + ".join(parts) for parts in sums)
        right = {"column": _nullity(name), "value_set": [True]}
        yield Check("expect_column_values_to_be_in_set", _nullity(name), f"null just where {zero} is 0", right)
    for name, parts in _RATES.items():
        yield _between(f"{name} - {_quotient(*parts)}", -ROUNDING, ROUNDING, "0")
        yield _between(f"{name} - {name}_low", -ROUNDING, None, "at least 0")
        yield _between(f"{name}_high - {name}", -ROUNDING, None, "at least 0")


def _between(column: str, low: float, high: float | None, bound: str) -> Check:
    limits = {"column": column, "min_value": low, "max_value": high}
    return Check("expect_column_values_to_be_between", column, bound, limits)


def _with_derived(segments: pa.Table) -> pa.Table:
    """The table and the sums, quotients and differences of its columns; one lacks when a column of it does."""
    columns = {name: segments[name] for name in segments.column_names}
    if {"entered", "left"} <= columns.keys():
        columns[_CHANGES] = pc.add(columns["entered"], columns["left"])
    for part, other in _RATES.values():
        if {part, other} <= columns.keys():
            right, wrong = columns[part].cast(pa.float64()), columns[other].cast(pa.float64())
            columns[_quotient(part, other)] = pc.divide(right, pc.add(right, wrong))
    for name, sums in _DENOMINATORS.items():
        if {name, *itertools.chain(*sums)} <= columns.keys():
            zeros = [pc.equal(functools.reduce(pc.add, [columns[part] for part in parts]), 0) for parts in sums]
            columns[_nullity(name)] = pc.equal(pc.is_null(columns[name], nan_is_null=True), functools.reduce(pc.or_, zeros))
    for larger, smaller in _differences():
        if {larger, smaller} <= columns.keys():
            columns[f"{larger} - {smaller}"] = pc.subtract(columns[larger], columns[smaller])
    return pa.table(columns)


def _differences() -> Iterator[tuple[str, str]]:
    for name, parts in _RATES.items():
        yield name, _quotient(*parts)
        yield name, f"{name}_low"
        yield f"{name}_high", name


def _nullity(name: str) -> str:
    return f"{name}: null or not"


def _quotient(part: str, other: str) -> str:
    return f"{part} / ({part} + {other})"
