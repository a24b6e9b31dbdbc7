"""What the gate judges a day by: profiles over all rows, a bounded sample, the metrics, and what would be published."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from schemas.catalogue import Catalogue
from schemas.day_profile import DayProfile, RowsProfile

MAX_SAMPLE_ROWS: Final = 10_000
ROUNDING: Final = 1e-9  # differences below it are none (docs/rules.md)


class Evidence(NamedTuple):
    """A day before its rows are published.

    ``week`` are the profiles of the seven dates before ``date`` that have a partition. ``missing_dates`` are those of the window
    before it that have none although the same weekday a week earlier has one. ``sample`` has at most ``MAX_SAMPLE_ROWS`` of the
    day's rows, as in the archive; ``segments`` a row a rule; ``rows`` is ``None`` when nothing is to be published.
    """

    date: str
    day: DayProfile
    week: Sequence[DayProfile]
    missing_dates: Sequence[str]
    sample: pa.Table
    catalogue: Catalogue
    segments: pa.Table
    rows: RowsProfile | None

    @property
    def start(self) -> int:
        """The first instant of the date, ms UTC."""
        return int(dt.datetime.fromisoformat(f"{self.date}T00:00:00Z").timestamp()) * 1_000
