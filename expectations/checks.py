"""A suite before Great Expectations runs it: a small frame, and what is expected of it, in names and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa


class Check(NamedTuple):
    """One expectation: its name and arguments in Great Expectations, what it looks at, and what that must be, in words.

    ``observed``, when given, is shown in place of what Great Expectations saw in the frame.
    """

    expectation: str
    subject: str
    bound: str
    arguments: Mapping[str, Any]
    observed: Any = None


class Suite(NamedTuple):
    """A frame and its checks; the column ``named_by`` says which row it is that fails one."""

    name: str
    frame: pa.Table
    checks: tuple[Check, ...]
    named_by: str | None = None


class Measure(NamedTuple):
    """One number and the bounds it must lie within, both inclusive; with neither there is nothing to compare it to."""

    subject: str
    value: float | None
    bound: str
    low: float | None = None
    high: float | None = None
    observed: Any = None


def suite_of(name: str, measures: Iterable[Measure]) -> Suite:
    """The measures as a frame of one row, a column each. A value that is ``None`` or NaN fails its bounds."""
    columns, checks = {}, []
    for subject, value, bound, low, high, observed in measures:
        columns[subject] = pa.array([value])
        if low is None and high is None:
            checks.append(Check("expect_column_to_exist", subject, bound, {"column": subject}, observed))
        else:  # the largest of one value: unlike the expectations of values it doesn't pass when there is none
            limits = {"column": subject, "min_value": low, "max_value": high}
            checks.append(Check("expect_column_max_to_be_between", subject, bound, limits, observed))
    return Suite(name, pa.table(columns), tuple(checks))


def share(part: int, whole: int) -> float | None:
    """``part / whole``; ``None`` when that can't be computed."""
    return part / whole if whole else None


def brief(number: float) -> str:
    """A number as people read it.

    >>> brief(1234567), brief(0.0123456), brief(2.0)
    ('1,234,567', '0.01235', '2')
    """
    return f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
