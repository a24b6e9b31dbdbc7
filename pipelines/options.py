"""Values of options that several commands have; what can't be used is a ``ConfigError`` that says what would be right."""

from __future__ import annotations

from typing import TypeVar

from schemas.errors import ConfigError, shown
from schemas.instants import parse_date, parse_instant

T = TypeVar("T")


def instant_in(option: str, text: str | None, otherwise: T) -> int | T:
    """The instant (ms UTC) that an option gives, ``otherwise`` where it isn't given.

    >>> instant_in("--at", "1970-01-01T00:00:01Z", None), instant_in("--at", None, 5)
    (1000, 5)
    """
    try:
        return otherwise if text is None else parse_instant(text)
    except ValueError as error:
        msg = f"{option} == {shown(text)}, {error}"
        raise ConfigError(msg) from error


def check_dates(first: str | None, last: str | None) -> None:
    """Check ``--from`` and ``--to``, dates of which either may be left out."""
    for option, date in (("--from", first), ("--to", last)):
        try:
            _ = date is None or parse_date(date)
        except ValueError as error:
            msg = f"{option} == {shown(date)}, {error}"
            raise ConfigError(msg) from error
    if first is not None and last is not None and first > last:
        msg = f"--from == {first}, must be at most --to == {last}"
        raise ConfigError(msg)
