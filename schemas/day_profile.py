"""What one day of the archive looks like as a whole: counts that add up over parts of it, bounded whatever the day's size.

The quality gate judges these, never the events themselves. A mix has at most ``MAX_BUCKETS`` buckets: the values of a closed
category, hashed values of an open one, powers of two of a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from schemas.catalogue import Catalogue, Kind

MAX_BUCKETS: Final = 512
LATE_AFTER_MS: Final = 3_600_000


class AttributeProfile(NamedTuple):
    """One attribute over the views of a day: how many lack it, how many have a value outside the catalogue, and its mix."""

    kind: Kind
    nulls: int
    unknown: int
    mix: Mapping[str, int]


class DayProfile(NamedTuple):
    """One UTC date of the archive. ``rows`` counts copies too, ``events`` and ``views`` don't; ``users`` have one.

    Of the ``received`` rows, which say when they were received, ``late`` came over an hour after they happened and ``future``
    over five minutes before. ``misfiled`` rows lie under another date than that of their event time. The attributes are
    profiled over the rows of views, ``view_rows``.
    """

    date: str
    rows: int
    events: int
    views: int
    users: int
    view_rows: int
    received: int
    late: int
    future: int
    misfiled: int
    attributes: Mapping[str, AttributeProfile]

    @property
    def duplicates(self) -> int:
        """Rows that are copies of another."""
        return self.rows - self.events


class RowsProfile(NamedTuple):
    """The rows that a night would publish, as a whole: all counts, over all of them; times in ms UTC.

    ``rows`` are profiles with views, ``views`` the views in them, ``empty`` those in no segment, ``largest`` the bytes of the
    largest cell, ``newest`` the newest view of all.
    """

    rows: int
    views: int
    empty: int
    spans: int
    lowest_score: float | None
    highest_score: float | None
    largest: int
    newest: int | None


def empty_profile(date: str, catalogue: Catalogue) -> DayProfile:
    """A day without events: the zero of ``merged``."""
    nothing = {name: AttributeProfile(attribute.kind, 0, 0, {}) for name, attribute in sorted(catalogue.attributes.items())}
    return DayProfile(date, 0, 0, 0, 0, 0, 0, 0, 0, 0, nothing)


def merged(profiles: Iterable[DayProfile]) -> DayProfile:
    """The profile of several disjoint parts of one day, none of whose users or events is in two parts; at least one part."""
    first, *others = profiles
    for other in others:
        if other.date != first.date:
            msg = f"date == {other.date}, must be {first.date}: profiles of one day"
            raise ValueError(msg)
        counts = [mine + theirs for mine, theirs in zip(first[1:-1], other[1:-1], strict=True)]
        attributes = {name: _merged_attributes(first.attributes[name], other.attributes[name]) for name in first.attributes}
        first = DayProfile._make((first.date, *counts, attributes))
    return first


def total_variation(one: Mapping[str, int], other: Mapping[str, int]) -> float | None:
    """Half the summed differences of two mixes' shares, 0 for equal mixes to 1 for disjoint ones; ``None`` if one is empty.

    >>> total_variation({"a": 1, "b": 1}, {"a": 3, "b": 1})
    0.25
    """
    ones, others = sum(one.values()), sum(other.values())
    if not ones or not others:
        return None
    return sum(abs(one.get(value, 0) / ones - other.get(value, 0) / others) for value in {*one, *other}) / 2


def _merged_attributes(mine: AttributeProfile, theirs: AttributeProfile) -> AttributeProfile:
    mix = dict(sorted((Counter(mine.mix) + Counter(theirs.mix)).items()))
    return AttributeProfile(mine.kind, mine.nulls + theirs.nulls, mine.unknown + theirs.unknown, mix)
