"""The profile of a day of the archive (``schemas.day_profile``), from columns of a part of it; and a uniform sample of its rows.

The sample is the rows whose ids have the smallest hashes: uniform over events, the same whatever the order or the parts, and
of two parts' samples the sample of both can be made.
"""

from __future__ import annotations

from collections import Counter
from typing import Final
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.catalogue import Attribute, Catalogue
from schemas.day_profile import LATE_AFTER_MS, AttributeProfile, DayProfile
from schemas.event import FUTURE_TOLERANCE_MS
from schemas.instants import DAY_MS
from transforms.conditions import Categories, Numbers
from transforms.event_columns import EventColumns, hashes_of

SAMPLE_ROWS: Final = 10_000
OPEN_BUCKETS: Final = 64


def profile_of_rows(date: str, day: int, events: EventColumns, catalogue: Catalogue) -> DayProfile:
    """What rows alone tell of a date (``day`` is its 00:00, ms UTC); who and how many events takes all of them together."""
    received = events.received
    assert received is not None
    known = received >= 0
    delay = np.where(known, received - events.times, 0)
    views = int(events.views.sum())
    return DayProfile(
        date,
        rows=len(events),
        events=0,
        views=0,
        users=0,
        view_rows=views,
        received=int(known.sum()),
        late=int((delay > LATE_AFTER_MS).sum()),
        future=int((delay < -FUTURE_TOLERANCE_MS).sum()),
        misfiled=int((events.times // DAY_MS != day // DAY_MS).sum()),
        attributes={
            name: _attribute_profile(attribute, events.attributes[name], events.views)
            for name, attribute in sorted(catalogue.attributes.items())
        },
    )


def profiles_of_events(
    times: NDArray[np.int64], users: NDArray[np.int32], views: NDArray[np.bool_], days: list[int]
) -> dict[int, tuple[int, int, int]]:
    """(events, views, users) of each of the days (their 00:00, ms UTC), from events without copies."""
    found = {}
    day_of = times // DAY_MS
    for day in days:
        of_day = day_of == day // DAY_MS
        found[day] = (int(of_day.sum()), int((of_day & views).sum()), len(np.unique(users[of_day])))
    return found


def sample_of(rows: pa.Table, size: int = SAMPLE_ROWS) -> pa.Table:
    """At most ``size`` of the rows, in order of their ids' hashes."""
    hashes = hashes_of(rows["event_id"].combine_chunks().cast(pa.string()))
    return rows.take(np.argsort(hashes, kind="stable")[:size])


def _attribute_profile(attribute: Attribute, column: Categories | Numbers, views: NDArray[np.bool_]) -> AttributeProfile:
    if isinstance(column, Categories):
        seen = np.bincount(column.codes[views] + 1, minlength=len(column.values) + 1).tolist()
        nulls, counts = seen[0], dict(zip(column.values, seen[1:], strict=True))
        unknown = sum(number for value, number in counts.items() if attribute.values and value not in attribute.values)
        mix: Counter[str] = Counter()
        for value, number in counts.items():
            if number:
                mix[value if value in attribute.values else f"#{crc32(value.encode()) % OPEN_BUCKETS}"] += number
        return AttributeProfile("category", nulls, unknown, dict(sorted(mix.items())))
    numbers = column[views]
    given = numbers[~np.isnan(numbers)]
    powers, seen_powers = np.unique(np.frexp(given[given > 0])[1], return_counts=True)
    mix = Counter({f"2^{int(power) - 1:+03}": int(number) for power, number in zip(powers, seen_powers, strict=True)})
    if rest := int((given <= 0).sum()):
        mix["<= 0"] = rest
    return AttributeProfile("number", len(numbers) - len(given), 0, dict(sorted(mix.items())))
