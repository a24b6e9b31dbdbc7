"""Parity: how the rows that the speed layer wrote compare with the batch answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from schemas.identity import NOBODY
from schemas.profile_row import RETENTION_MS, ProfileRow, cells_of, encode_cell
from serving.store import Store
from transforms.batch_rows import BatchRow
from transforms.people import People, read_people
from transforms.rows import distinct_cells

AGREE: Final = "agree"
OUTCOMES: Final = {
    AGREE: "the row is the batch answer",
    "missing_row": "the store has no row of the person",
    "rule_version": "the row was made by other rules",
    "late_event": "the archive has views that the row lacks",
    "identity": "store and archive know of different links, or opt-outs",
    "unexplained": "anything else",
}


def compare_rows(store: Store, rows: Sequence[BatchRow], end: int) -> Counter[str]:
    """How many stored rows compare how; people of whom something has come since ``end`` (ms UTC) are left out."""
    rows = [row for row in rows if row.membership is not None or row.opted_out]
    stored = store.read_rows([row.key for row in rows])
    differing = [row for row in rows if not agrees(row, stored[row.key])]
    people = read_people(store, list(dict.fromkeys(key for row in differing for key in sorted(row.ids)))) if differing else None
    outcomes = Counter({AGREE: len(rows) - len(differing)})
    for row in differing:
        if people is not None and not is_newer(row, stored[row.key], people, end):
            outcomes[outcome_of(row, stored[row.key], people)] += 1
    return +outcomes


def agrees(row: BatchRow, stored: ProfileRow) -> bool:
    """Whether a stored row is the batch answer."""
    if row.membership is None:
        return stored.emptied == "opted_out"
    return stored.membership is not None and encode_cell(stored.membership) == encode_cell(row.membership)


def is_newer(row: BatchRow, stored: ProfileRow, people: People, end: int) -> bool:
    """Whether the store knows of something since ``end`` (ms UTC) that may make the difference."""
    if stored.membership is not None and stored.membership.as_of >= end:
        return True
    rows = {*row.ids, *people.person(row.key).rows}
    cells = [people.read.cells.get(key, []) for key in rows]
    if any(views and views[0].time >= end for views in cells):
        return True
    return any(cell.time >= end for key in rows for cell in cells_of(people.identity(key)))


def outcome_of(row: BatchRow, stored: ProfileRow, people: People) -> str:
    """How a stored row that isn't the batch answer compares with it, one of ``OUTCOMES``."""
    person = people.person(row.key)
    unlike = people.owner(row.key) is not None or set(person.rows) != row.ids or person.start != row.start
    if stored.membership is None and stored.emptied is None:
        traces = any(people.read.cells.get(key) or people.identity(key) != NOBODY for key in row.ids)
        return "identity" if unlike and traces else "missing_row"
    if row.membership is not None and stored.membership is not None:
        if stored.membership.rule_version != row.membership.rule_version:
            return "rule_version"
    if unlike:
        return "identity"
    oldest = row.cells[0].time - RETENTION_MS if row.cells else 0
    held = {cell for cell in distinct_cells(person.counting) if cell.time > oldest}
    return "late_event" if set(row.cells) - held else "unexplained"
