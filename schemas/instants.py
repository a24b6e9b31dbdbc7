"""Instants and durations: integer milliseconds (UTC since 1970 for instants) inside, text outside."""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
LAST_INSTANT_MS: Final = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
_BEFORE: Final = dt.timedelta(days=-1)
_USUAL_LENGTHS: Final = (20, 24)  # whole seconds, whole milliseconds
_UNIT_MS: Final = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}


def parse_instant(text: str) -> int:
    """RFC 3339 date-time with an offset → ms UTC, anything finer cut off; ``ValueError`` when it is none.

    >>> parse_instant("2010-12-01T08:26:00Z"), parse_instant("1970-01-01T01:00:00.0019+01:00")
    (1291191960000, 1)
    """
    if len(text) in _USUAL_LENGTHS and text[4:17:3] == "--T::" and text[19] in ".Z" and text[-1] == "Z":
        try:
            since = dt.datetime.fromisoformat(text) - _EPOCH
        except ValueError:
            since = _BEFORE  # the slow way below says what is wrong
        if since.days >= 0:
            return since.days * DAY_MS + since.seconds * SECOND_MS + since.microseconds // 1000
    found = _RFC3339.fullmatch(text)
    if found is None:
        msg = "must be an RFC 3339 date-time with an offset, such as 2026-05-01T12:00:00.000Z"
        raise ValueError(msg)
    date, clock, fraction, offset = found.groups()
    seconds = dt.datetime.fromisoformat(f"{date}T{clock}{'+00:00' if offset in 'Zz' else offset}")
    instant = (seconds - _EPOCH) // _MILLISECOND + (int(fraction[1:4].ljust(3, "0")) if fraction else 0)
    if not 0 <= instant <= LAST_INSTANT_MS:
        msg = "must lie between 1970-01-01T00:00:00Z and 9999-12-31T23:59:59.999Z"
        raise ValueError(msg)
    return instant


def format_instant(instant: int) -> str:
    """Ms UTC → RFC 3339 with milliseconds and ``Z``.

    >>> format_instant(1291191960000)
    '2010-12-01T08:26:00.000Z'
    """
    return (_EPOCH + instant * _MILLISECOND).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def date_of(instant: int) -> str:
    """The UTC date of an instant, as ``YYYY-MM-DD``."""
    return format_instant(instant)[:10]


def parse_date(text: str) -> int:
    """``YYYY-MM-DD`` → its 00:00, ms UTC; ``ValueError`` when it is none.

    >>> date_of(parse_date("2026-05-01"))
    '2026-05-01'
    """
    if not _DATE.fullmatch(text):
        msg = "must be a date such as 2026-05-01"
        raise ValueError(msg)
    return parse_instant(f"{text}T00:00:00Z")


def parse_duration(text: str) -> int:
    """A duration such as ``90s 15m 36h 10d`` → ms; ``ValueError`` when it is none.

    >>> parse_duration("36h") == 36 * HOUR_MS
    True
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        msg = "must be a number with a unit, such as 90s, 15m, 36h or 10d"
        raise ValueError(msg)
    return int(float(found[1]) * _UNIT_MS[found[2]])


def format_duration(length: int) -> str:
    """Ms → the shortest text that ``parse_duration`` reads as the same.

    >>> format_duration(36 * HOUR_MS), format_duration(10 * DAY_MS), format_duration(1_500)
    ('36h', '10d', '1500ms')
    """
    unit = next(unit for unit in reversed(_UNIT_MS) if length % _UNIT_MS[unit] == 0)
    return f"{length // _UNIT_MS[unit]}{unit}"


def clock_ms() -> int:
    """The system clock, ms UTC: the default of every injected ``now``."""
    return time.time_ns() // 1_000_000
