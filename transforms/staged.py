"""What a night is to write of people, staged between its steps: base views, and what rows must say of their ids."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import pyarrow as pa

from schemas.identity import NEVER, Identity, counted, evidence_of, links_void_until, telling
from schemas.profile_row import (
    LINKED,
    LINKS,
    UNLINKED,
    IdentityCell,
    cells_of,
    decode_base,
    encode_base,
    identity_of,
    link_cell,
    linked_cell,
    unlinked_cell,
)
from transforms.batch_rows import BatchRow
from transforms.forgetting import Graves

_STAGED: Final = pa.schema(
    [
        ("person", pa.string()),
        ("row", pa.string()),
        ("qualifier", pa.binary()),  # of an identity cell
        ("value", pa.large_binary()),  # that cell's, or base views
        ("time", pa.int64()),  # that cell's, or until when the row is to be emptied
    ]
)


class Staged(NamedTuple):
    """What is to be written of a person: base views by row, cells that rows must have, and rows to empty, until when (ms UTC)."""

    person: str
    bases: list[tuple[str, bytes]]
    cells: list[tuple[str, IdentityCell]]
    emptied: list[tuple[str, int]]

    @property
    def rows(self) -> list[str]:
        """All rows that it is about."""
        about = [*self.bases, *self.cells, *self.emptied]
        return list(dict.fromkeys([self.person, *(each[0] for each in about)]))


def staged_of(row: BatchRow, end: int) -> Staged:
    """What a batch row comes to: of who is opted out, views before ``end`` (ms UTC) are to go."""
    bases = [(key, encode_base(cells)) for key, cells in row.parts.items()]
    cells = [(key, cell) for key, identity in row.identities.items() for cell in cells_of(identity)]
    return Staged(row.key, bases, cells, [(key, end - 1) for key in sorted(row.ids)] if row.opted_out else [])


def table_of(staged: Iterable[Staged]) -> pa.Table:
    """What is to be written, as a table."""
    lines: list[tuple[str, str, bytes | None, bytes | None, int | None]] = []
    for each in staged:
        lines += [(each.person, key, None, views, None) for key, views in each.bases]
        lines += [(each.person, key, *cell) for key, cell in each.cells]
        lines += [(each.person, key, None, None, time) for key, time in each.emptied]
    columns = list(zip(*lines, strict=True)) or [()] * len(_STAGED)
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, _STAGED, strict=True)], schema=_STAGED)


def staged_in(table: pa.Table) -> Iterator[Staged]:
    """What ``table_of`` made a table of."""
    lines = zip(*(table[name].to_pylist() for name in _STAGED.names), strict=True)
    for person, group in itertools.groupby(lines, lambda line: line[0]):
        found = Staged(person, [], [], [])
        for _, key, qualifier, value, time in group:
            if qualifier is not None:
                found.cells.append((key, IdentityCell(qualifier, value, time)))
            elif value is not None:
                found.bases.append((key, value))
            else:
                found.emptied.append((key, time))
        yield found


def lacking_cells(stored: Identity, cells: Sequence[IdentityCell]) -> list[IdentityCell]:
    """Of the cells that a row must have those that it lacks, and that would say something beside what it has."""
    known, ours = {cell.qualifier for cell in cells_of(stored)}, identity_of(cells)
    evidence = evidence_of([*stored.links, *ours.links], max(stored.unlinked, ours.unlinked))
    places = {(link.time, link.event_id, link.other) for link in stored.links}
    lacking = [link_cell(link) for link in evidence if (link.time, link.event_id, link.other) not in places]
    linked = {each.other for each in stored.linked}
    both = counted([*stored.linked, *(each for each in ours.linked if each.other not in linked)])
    lacking += [linked_cell(each) for each in both if each.other not in linked]
    rest = cells_of(ours._replace(links=(), linked=(), unlinked=NEVER, said=tuple(telling([*stored.said, *ours.said]))))
    lacking += [cell for cell in rest if cell.qualifier not in known]
    return lacking + ([unlinked_cell(ours.unlinked)] if ours.unlinked > stored.unlinked else [])


def without_forgotten(staged: Staged, graves: Graves) -> Staged:
    """Without what is of ids that were forgotten by now."""
    times = graves.among(named_in(staged))
    if not times:
        return staged
    bases = []
    for key, views in staged.bases:
        if kept := [cell for cell in decode_base(views) if cell.time > times.get(key, NEVER)]:
            bases.append((key, encode_base(kept)))
    standing = [(key, cell) for key, cell in staged.cells if not _is_barred(key, cell, times)]
    pairs = {(_other(cell), key) for key, cell in standing if cell.qualifier[:1] == LINKS}
    cells = [(key, cell) for key, cell in standing if cell.qualifier[:1] != LINKED or (key, _other(cell)) in pairs]
    return staged._replace(bases=bases, cells=cells)


def named_in(staged: Staged) -> list[str]:
    """All ids that it is about, or names."""
    return [*staged.rows, *(_other(cell) for _, cell in staged.cells if cell.qualifier[:1] in (LINKS, LINKED))]


def _is_barred(key: str, cell: IdentityCell, times: Mapping[str, int]) -> bool:
    if cell.qualifier[:1] == LINKED:
        return False  # it goes with the link
    if cell.qualifier[:1] == LINKS:
        return cell.time <= links_void_until(max(times.get(key, NEVER), times.get(_other(cell), NEVER)))
    if cell.qualifier[:1] == UNLINKED:
        return cell.time <= links_void_until(times.get(key, NEVER))
    return cell.time <= times.get(key, NEVER)


def _other(cell: IdentityCell) -> str:
    """The id that a link's cell names."""
    return (cell.qualifier.rpartition(b"\0")[2] if cell.qualifier[:1] == LINKS else cell.qualifier[1:]).decode()
