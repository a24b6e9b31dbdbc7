"""Instants and durations: whole milliseconds inside, RFC 3339 and ``90s 15m 36h 10d`` outside."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.instants import DAY_MS, HOUR_MS, LAST_INSTANT_MS, clock_ms, date_of, format_instant, parse_duration, parse_instant


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2010-12-01T08:26:00Z", 1_291_191_960_000),
        ("2010-12-01t08:26:00z", 1_291_191_960_000),
        ("2010-12-01 08:26:00Z", 1_291_191_960_000),
        ("2010-12-01T10:26:00+02:00", 1_291_191_960_000),
        ("2010-12-01T02:56:00-05:30", 1_291_191_960_000),
        ("2010-12-01T08:26:00-00:00", 1_291_191_960_000),
        ("2010-12-01T08:26:00.5Z", 1_291_191_960_500),
        ("2010-12-01T08:26:00.0019Z", 1_291_191_960_001),  # cut off, not rounded
        ("2010-12-01T08:26:00.999999999Z", 1_291_191_960_999),
        ("1970-01-01T01:00:00.0019+01:00", 1),
        ("2024-02-29T12:00:00Z", 1_709_208_000_000),  # leap years
        ("2000-02-29T00:00:00Z", 951_782_400_000),
        ("9999-12-31T23:59:59.999Z", LAST_INSTANT_MS),
    ],
)
def test_an_instant_is_read_to_the_millisecond(text: str, instant: int) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-05-01",
        "2026-05-01T12:00:00",  # no offset
        "2026-05-01T12:00Z",
        "2026-05-01T12:00:00+0200",
        "2026-05-01T12:00:00,5Z",
        "2026-05-01T12:00:00.Z",
        "26-05-01T12:00:00Z",
        "+2026-05-01T12:00:00Z",
        " 2026-05-01T12:00:00Z",
        "2026-05-01T12:00:00Z\n",
        "２０２６-05-01T12:00:00Z",  # digits, but not ASCII
        "1777636800000",
    ],
)
def test_what_is_no_rfc3339_date_time_says_what_one_is(text: str) -> None:
    with pytest.raises(ValueError, match="must be an RFC 3339 date-time with an offset, such as 2026-05-01T12:00:00.000Z"):
        parse_instant(text)


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29T12:00:00Z",
        "1900-02-29T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-04-31T12:00:00Z",
        "2026-05-01T24:00:00Z",
        "2026-05-01T12:60:00Z",
        "2026-05-01T12:00:61Z",
        "2026-05-01T12:00:00+24:00",
        "0000-01-01T00:00:00Z",
    ],
)
def test_a_date_time_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|out of range|strictly between"):
        parse_instant(text)


@pytest.mark.parametrize("text", ["1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"])
def test_an_instant_outside_of_what_rows_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must lie between 1970-01-01T00:00:00Z and 9999-12-31T23:59:59.999Z"):
        parse_instant(text)


@given(st.integers(0, LAST_INSTANT_MS))
def test_an_instant_survives_its_text(instant: int) -> None:
    assert parse_instant(format_instant(instant)) == instant
    assert date_of(instant) == format_instant(instant)[:10]


@given(
    st.datetimes(dt.datetime(1970, 1, 3), dt.datetime(9999, 12, 29)),  # noqa: DTZ001
    st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))),
)
def test_an_instant_is_what_the_standard_library_says(moment: dt.datetime, offset: dt.timezone) -> None:
    aware = moment.replace(tzinfo=offset)
    microseconds = (aware - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)
    assert parse_instant(aware.isoformat()) == microseconds // 1000


@pytest.mark.parametrize(
    ("text", "length"),
    [("90s", 90_000), ("15m", 900_000), ("36h", 36 * HOUR_MS), ("10d", 10 * DAY_MS), ("1.5h", 5_400_000), ("7ms", 7)],
)
def test_a_duration_is_a_number_with_a_unit(text: str, length: int) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize("text", ["", "10", "d", "-1d", "1 d", "1w", "1e3s", "1.s", "1d\n", "1d2h", "９d", "1234567890s"])
def test_what_is_no_duration_says_what_one_is(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("must be a number with a unit, such as 90s, 15m, 36h or 10d")):
        parse_duration(text)


def test_the_clock_is_in_milliseconds() -> None:
    assert parse_instant("2026-01-01T00:00:00Z") < clock_ms() < LAST_INSTANT_MS
