"""Cells of Bigtable as what they stand for: a profile row, what it rests on, and who it is."""

from __future__ import annotations

from collections.abc import Iterable

from google.cloud.bigtable.data import Row

from schemas.identity import NOBODY, Identity
from schemas.profile_row import (
    BASE,
    CANDIDATE,
    CURRENT,
    IDENTITY,
    MEMBERSHIP,
    PROFILE,
    SPEED,
    SUMMARY,
    IdentityCell,
    ProfileRow,
    ViewCell,
    decode_base,
    decode_row,
    identity_of,
    united,
)
from serving.store.protocol import Dump
from serving.store.row_chunks import Cell


def profile_row(key: str, row: Row | Iterable[Cell] | None) -> ProfileRow:
    """The row; a shadow counts only when it was written together with the membership, else it is of rules no longer on trial."""
    found = list(row) if row else []
    cells = {(cell.family, cell.qualifier): cell for cell in found if cell.family != IDENTITY}
    current, candidate = cells.get((MEMBERSHIP, CURRENT)), cells.get((MEMBERSHIP, CANDIDATE))
    if current is None or (candidate is not None and candidate.timestamp_micros != current.timestamp_micros):
        candidate = None
    membership, profile, shadow = (
        None if cell is None else cell.value for cell in (current, cells.get((PROFILE, SUMMARY)), candidate)
    )
    return decode_row(key, membership, profile, shadow, _identity_cells(found))


def window(row: Row | Iterable[Cell], limit: int) -> tuple[list[ViewCell], Identity]:
    """The newest views of a row, at most so many, and whose it is."""
    views: list[ViewCell] = []
    of_archive: list[ViewCell] = []
    who: list[IdentityCell] = []
    for cell in row:
        if (family := cell.family) == SPEED:
            views.append(ViewCell(cell.qualifier, cell.value))
        elif family == IDENTITY:
            who.append(_identity_cell(cell))
        else:
            of_archive += decode_base(cell.value)
    return united(views, of_archive, limit), identity_of(who) if who else NOBODY


def dump_of(row: Row | Iterable[Cell]) -> Dump:
    """All that a row rests on."""
    cells = list(row)
    base = [(cell.timestamp_micros // 1000, cell.value) for cell in cells if cell.family == BASE]
    views = [ViewCell(cell.qualifier, cell.value) for cell in cells if cell.family == SPEED]
    return Dump(views, base[0] if base else None, _identity_cells(cells))


def _identity_cells(cells: Iterable[Cell]) -> list[IdentityCell]:
    return [_identity_cell(cell) for cell in cells if cell.family == IDENTITY]


def _identity_cell(cell: Cell) -> IdentityCell:
    return IdentityCell(cell.qualifier, cell.value, cell.timestamp_micros // 1000)
