"""Which row answers for a visitor: of an id's rows under several keys, and of a user's and their browser's. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from schemas.profile_row import ProfileRow


def opted_out(row: ProfileRow) -> bool:
    """Whether the row says so itself, or whoever evaluated it found that its person is."""
    return row.opted_out or row.emptied == "opted_out"


def says_nothing(row: ProfileRow) -> bool:
    """Whether nobody has evaluated the row: it isn't there, or has something to say of its id alone."""
    return row.membership is None and row.emptied is None


def row_of_names(rows: Sequence[ProfileRow]) -> ProfileRow:
    """Of an id's rows under several keys, the newest first, the one that counts; an opt-out holds under whichever key."""
    return rows[0] if len(rows) == 1 else min(rows, key=_rank)


def is_anothers(row: ProfileRow, names: Collection[str]) -> bool:
    """Whether the row belongs to somebody who has none of these names."""
    return row.link is not None and row.link.other not in names


def _rank(row: ProfileRow) -> int:
    if opted_out(row):
        return 0
    if row.membership is not None or row.link is not None:
        return 1
    return 2 if row.emptied is not None else 3
