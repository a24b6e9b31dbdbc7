"""What is asked of Bigtable: columns and the newest cells of them, never a family by a pattern, which is slow."""

from __future__ import annotations

import datetime as dt
from typing import Final

from google.cloud.bigtable.data.row_filters import (
    CellsColumnLimitFilter,
    CellsRowLimitFilter,
    ColumnRangeFilter,
    RowFilter,
    RowFilterChain,
    RowFilterUnion,
    StripValueTransformerFilter,
    TimestampRangeFilter,
)

from schemas.identity import MAX_LINKS
from schemas.instants import LAST_INSTANT_MS
from schemas.profile_row import (
    BASE,
    BASE_VIEWS,
    CANDIDATE,
    CONSENTS,
    CURRENT,
    IDENTITY,
    LINKED,
    LINKS,
    MAX_CLOCK_SKEW_MS,
    MEMBERSHIP,
    PROFILE,
    SEALED,
    SPEED,
    SUMMARY,
    UNLINKED,
)

CELLS_A_PAGE: Final = 1_000
LINKS_OF_READERS: Final = 20  # the first that isn't void says whose a row is; void ones are soon deleted


def newest_until(now: int) -> RowFilter:
    """What ``profile_row`` needs, the newest cell each, none from further ahead than clocks may differ."""
    end = dt.datetime.fromtimestamp((now + MAX_CLOCK_SKEW_MS) / 1000, dt.UTC)
    return RowFilterChain([_ROW, TimestampRangeFilter(end=end), CellsColumnLimitFilter(1)])


def window_of(limit: int, said: int) -> RowFilter:
    """A row's newest views, the archive's, and its identity: of each kind the first ``said`` cells."""
    views = RowFilterChain([ColumnRangeFilter(SPEED), CellsColumnLimitFilter(1), CellsRowLimitFilter(limit)])
    return RowFilterUnion([views, newest(BASE, BASE_VIEWS), _who(said)])


def views_until(until: int) -> RowFilter:
    """A page of the names of a row's views up to an instant (ms UTC)."""
    first = (LAST_INSTANT_MS - until).to_bytes(8, "big")
    names = StripValueTransformerFilter(flag=True)
    return RowFilterChain([ColumnRangeFilter(SPEED, first), CellsRowLimitFilter(CELLS_A_PAGE), names])


def newest(family: str, column: bytes) -> RowFilter:
    """The newest cell of a column."""
    return RowFilterChain([_column(family, column), CellsColumnLimitFilter(1)])


def newest_since(family: str, since: int) -> RowFilter:
    """The newest cell of each column of a family, of those with a timestamp from an instant (ms UTC) on."""
    start = dt.datetime.fromtimestamp(since / 1000, dt.UTC)
    return RowFilterChain([ColumnRangeFilter(family), TimestampRangeFilter(start=start), CellsColumnLimitFilter(1)])


def _column(family: str, first: bytes, last: bytes | None = None) -> RowFilter:
    """One column of a family, or all from the first to the last."""
    return ColumnRangeFilter(family, start_qualifier=first, end_qualifier=last or first)


def _columns_of(kind: bytes, limit: int) -> RowFilter:
    """The first identity columns of a kind."""
    after = bytes([kind[0] + 1])
    kinds = ColumnRangeFilter(IDENTITY, start_qualifier=kind, end_qualifier=after, inclusive_end=False)
    return RowFilterChain([kinds, CellsColumnLimitFilter(1), CellsRowLimitFilter(limit)])


def _who(said: int) -> RowFilter:
    """A row's identity, of each kind the first cells: behind a "user" may stand a million browsers."""
    kinds = [_columns_of(kind, said) for kind in (LINKS, LINKED, CONSENTS)]
    return RowFilterUnion([*kinds, RowFilterChain([_column(IDENTITY, SEALED, UNLINKED), CellsColumnLimitFilter(1)])])


_ROW: Final = RowFilterUnion(
    [
        _column(MEMBERSHIP, CANDIDATE, CURRENT),
        _column(PROFILE, SUMMARY),
        _columns_of(LINKS, LINKS_OF_READERS),
        _columns_of(CONSENTS, MAX_LINKS),
        _column(IDENTITY, UNLINKED),
    ]
)
ONLY_KEYS: Final = RowFilterChain([CellsRowLimitFilter(1), StripValueTransformerFilter(flag=True)])
ALL_THAT_COUNTS: Final = RowFilterChain(
    [RowFilterUnion([ColumnRangeFilter(family) for family in (SPEED, BASE, IDENTITY)]), CellsColumnLimitFilter(1)]
)
