"""The suite ``sample``: that single rows are what the archive says they are; what only a look at rows can tell.

The frame holds no ids, only what they look like: the Data Docs show values that fail, and an id that isn't a pseudonym is just
what must not be shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, get_args

import pyarrow as pa
import pyarrow.compute as pc

from expectations.checks import Check, Suite, brief
from expectations.evidence import MAX_SAMPLE_ROWS, Evidence
from schemas.catalogue import MAX_CATEGORY_BYTES, Attribute
from schemas.event import MAX_ID_BYTES, EventType
from schemas.instants import DAY_MS, HOUR_MS, LAST_INSTANT_MS
from schemas.pseudonym import is_pseudonym
from schemas.quality import Thresholds

_DAY_HOURS: Final = DAY_MS / HOUR_MS


class _Look(NamedTuple):
    """A column of the archive as the frame shows it, and what is expected of that."""

    source: str  # "attributes.x" is a field of the struct
    subject: str
    of: Callable[[pa.Array], pa.Array]
    expectation: str
    bound: str
    arguments: dict[str, Any]
    required: bool = False


def sample_suite(evidence: Evidence, thresholds: Thresholds) -> Suite:
    """What is expected of a sample of the day's rows; a column that is missing fails what is expected of it."""
    looks = list(_looks(evidence, thresholds))
    sample = evidence.sample.slice(0, MAX_SAMPLE_ROWS + 1)
    columns = {look.subject: look.of(column) for look in looks if (column := _column(sample, look.source)) is not None}
    rows = pa.array(range(len(sample)), pa.int32())  # a frame without any other column has rows all the same
    size = {"min_value": 1, "max_value": MAX_SAMPLE_ROWS}
    names = {"column_set": [look.subject for look in looks], "exact_match": False}
    checks = [
        Check("expect_table_row_count_to_be_between", "rows", f"between 1 and {MAX_SAMPLE_ROWS:,}", size),
        Check("expect_table_columns_to_match_set", "columns", "all columns of the archive", names),
    ]
    for look in looks:
        if look.required:
            checks.append(Check("expect_column_values_to_not_be_null", look.subject, "given", {"column": look.subject}))
        checks.append(Check(look.expectation, look.subject, look.bound, {"column": look.subject, **look.arguments}))
    return Suite("sample", pa.table({"row": rows, **columns}), tuple(checks))


def _looks(evidence: Evidence, thresholds: Thresholds) -> Iterator[_Look]:
    yield _size("event_id", MAX_ID_BYTES, required=True)
    types = sorted(get_args(EventType))
    yield _among("event_type", "event_type", _as_it_is, types, f"one of {', '.join(types)}", required=True)
    yield _hours(evidence, thresholds)
    for name in ("user", "user_id", "anonymous_id"):
        pseudonym = _each(is_pseudonym)
        yield _among(name, f"{name}: a pseudonym", pseudonym, [True], "true of all", required=name == "user")
    bound, limits = "an instant since 1970", {"min_value": 0, "max_value": LAST_INSTANT_MS}
    yield _Look("received_at", "received_at: ms", _ms, "expect_column_values_to_be_between", bound, limits)
    yield _size("session_id", MAX_ID_BYTES)
    yield _size("listing_id", MAX_ID_BYTES)
    for name in sorted(evidence.catalogue.attributes):
        yield _attribute(evidence.catalogue.attributes[name], len(evidence.sample), thresholds)
    yield _among("experiment", "experiment: JSON", _each(_is_json), [True], "true of all")


def _attribute(attribute: Attribute, rows: int, thresholds: Thresholds) -> _Look:
    source = f"attributes.{attribute.name}"
    if attribute.kind == "number":
        return _among(source, f"{attribute.name}: finite", pc.is_finite, [True], "true of all")
    if not attribute.values:
        return _size(source, MAX_CATEGORY_BYTES, subject=f"{attribute.name}: bytes", least=0)
    mostly = _mostly(thresholds.unknown_share, rows, thresholds)
    bound = f"in the catalogue{_part(mostly)}"
    return _among(source, attribute.name, _as_it_is, sorted(attribute.values), bound, mostly=mostly)


def _hours(evidence: Evidence, thresholds: Thresholds) -> _Look:
    def hours(column: pa.Array) -> pa.Array:
        return pc.divide(pc.subtract(_ms(column), evidence.start).cast(pa.float64()), float(HOUR_MS))

    mostly = _mostly(thresholds.misfiled_share, len(evidence.sample), thresholds)
    limits = {"min_value": 0, "max_value": _DAY_HOURS, "strict_max": True, "mostly": mostly}
    bound = f"from 0 to below {_DAY_HOURS:g}{_part(mostly)}"
    subject = "event_time: hours into the day"
    return _Look("event_time", subject, hours, "expect_column_values_to_be_between", bound, limits, required=True)


def _mostly(unlike: float, rows: int, thresholds: Thresholds) -> float:
    """The share of a sample that must be right when ``unlike`` of all rows needn't be."""
    chance = thresholds.noise_sigmas * math.sqrt(unlike * (1 - unlike) / rows) if rows else 0.0
    return max(1 - unlike - chance, 0.0)


def _part(mostly: float) -> str:
    return "" if mostly == 1 else f" ({brief(100 * mostly)} % of them)"


def _size(source: str, most: int, *, subject: str | None = None, least: int = 1, required: bool = False) -> _Look:
    limits, bound = {"min_value": least, "max_value": most}, f"between {least} and {most}"
    name, expectation = subject or f"{source}: bytes", "expect_column_values_to_be_between"
    return _Look(source, name, pc.binary_length, expectation, bound, limits, required)


def _among(
    source: str,
    subject: str,
    of: Callable[[pa.Array], pa.Array],
    values: list[Any],
    bound: str,
    *,
    mostly: float = 1.0,
    required: bool = False,
) -> _Look:
    arguments = {"value_set": values, "mostly": mostly}
    return _Look(source, subject, of, "expect_column_values_to_be_in_set", bound, arguments, required)


def _each(test: Callable[[str], bool]) -> Callable[[pa.Array], pa.Array]:
    def of(column: pa.Array) -> pa.Array:
        return pa.array([None if value is None else test(value) for value in column.to_pylist()], pa.bool_())

    return of


def _as_it_is(column: pa.Array) -> pa.Array:
    return column


def _ms(column: pa.Array) -> pa.Array:
    return column.cast(pa.int64())


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _column(sample: pa.Table, source: str) -> pa.Array | None:
    name, _, field = source.partition(".")
    if name not in sample.column_names:
        return None
    column = sample[name].combine_chunks()
    if not field:
        return column
    return pc.struct_field(column, field) if column.type.get_field_index(field) >= 0 else None
