"""Changes: what an event does to profile rows. A view goes into a row; links and consents are said in one; a forget ends them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from schemas.event import Event
from schemas.identity import Link, Linked, Said
from schemas.instants import DAY_MS
from schemas.profile_row import (
    LINKED,
    LINKS,
    SEALED,
    IdentityCell,
    ViewCell,
    consent_cell,
    link_cell,
    linked_cell,
    sealed_cell,
    view_cell,
)

VIEW: Final = "listing_view"
_CONSENTS: Final = {"opt_out": True, "opt_in": False}
REMEMBERED: Final = 300_000


class Change(NamedTuple):
    """What one event, at ``time`` (ms UTC), does to the row ``key`` of its profile, and to that of the ``other`` id it carries."""

    key: str
    time: int
    view: ViewCell | None = None
    other: str | None = None
    cells: tuple[tuple[str, IdentityCell], ...] = ()
    forget: bool = False

    @property
    def links(self) -> tuple[str, ...]:
        """The rows whose links it changes."""
        return () if self.other is None else (self.key, self.other)


def change_of(event: Event) -> Change | None:
    """What an event with pseudonyms changes; ``None`` for one that changes nothing."""
    key, other = event.profile_id, event.anonymous_id if event.user_id is not None else None
    if other == key:
        other = None
    cells: list[tuple[str, IdentityCell]] = []
    if other is not None:
        user, anonymous = event.sealed_user_id or b"", event.sealed_anonymous_id or b""
        cells.append((other, link_cell(Link(event.event_time, event.event_id, key, event.event_type, user))))
        cells.append((key, linked_cell(Linked(other, anonymous))))
    if event.event_type in _CONSENTS:
        cells.append((key, consent_cell(Said(event.event_time, _CONSENTS[event.event_type]))))
    view = view_cell(event.event_time, event.event_id, event.packed) if event.event_type == VIEW else None
    forget = event.event_type == "forget"
    if view is None and not cells and not forget:
        return None
    for row, sealed in (
        (key, event.sealed_user_id if event.user_id else event.sealed_anonymous_id),
        (other, event.sealed_anonymous_id),
    ):
        if row is not None and sealed is not None:
            cells.append((row, sealed_cell(sealed)))
    return Change(key, event.event_time, view, other, tuple(cells), forget)


class Known:
    """What this process has written of late, so that it isn't written with every event: links of pairs of ids, sealed ids.

    Also the pairs whose anonymous id is another user's.

    A link is known when an earlier one of that date was written. Forgetting what it knows costs a write.
    """

    def __init__(self) -> None:
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._full: dict[str, str] = {}
        self._conflicting: set[int] = set()

    def news(self, change: Change) -> Change:
        """The change without the cells that say nothing new."""
        cells = tuple(cell for cell in change.cells if not self._knows(*cell))
        if len(cells) == len(change.cells):
            return change
        return change._replace(cells=cells, other=change.other if any(map(_is_link, cells)) else None)

    def written(self, changes: Iterable[Change]) -> None:
        """Remember what these said: they are in the store now."""
        for change in changes:
            for row, cell in change.cells:
                mark = _mark_of(row, cell)
                if mark is not None:
                    self._young[mark] = min(cell.time, self._young.get(mark, cell.time))
        if len(self._young) >= REMEMBERED // 2:
            self._old, self._young = self._young, {}

    def full(self, users: Mapping[str, str]) -> None:
        """Remember users to whom as many ids are linked as count, and the last of those: a "user" may be a million browsers."""
        if len(self._full) > REMEMBERED:
            self._full.clear()
        self._full.update(users)

    def conflicts(self, changes: Iterable[Change], owners: Mapping[str, str | None]) -> int:
        """How many of these come from an anonymous id that is another user's; ``owners`` is what was read of that just now."""
        found = 0
        for change in changes:
            if change.other is not None:
                pair = hash((change.other, change.key))
                owner = owners.get(change.other)
                if owner is not None:
                    (self._conflicting.add if owner != change.key else self._conflicting.discard)(pair)
                found += pair in self._conflicting
        if len(self._conflicting) > REMEMBERED:
            self._conflicting.clear()
        return found

    def clear(self) -> None:
        """Know nothing any more: somebody was forgotten, or links were undone."""
        self._young, self._old, self._full = {}, {}, {}
        self._conflicting.clear()

    def _knows(self, row: str, cell: IdentityCell) -> bool:
        if cell.qualifier[:1] == LINKED and row in self._full and cell.qualifier[1:].decode() > self._full[row]:
            return True
        mark = _mark_of(row, cell)
        if mark is None:
            return False
        known = min((known for each in (self._young, self._old) if (known := each.get(mark)) is not None), default=None)
        return known is not None and (known < cell.time or cell.time == 0)


def _is_link(placed: tuple[str, IdentityCell]) -> bool:
    return placed[1].qualifier[:1] in (LINKS, LINKED)


def _mark_of(row: str, cell: IdentityCell) -> int | None:
    """What is equal for cells of which the first says all; ``None`` for those that are always written."""
    kind = cell.qualifier[:1]
    if kind in (SEALED, LINKED):
        return hash((row, cell))
    return hash((row, cell.qualifier.rpartition(b"\0")[2], cell.time // DAY_MS)) if kind == LINKS else None
