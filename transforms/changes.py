"""Changes: what an event does to profile rows. A view goes into a row; links and consents are said in one; a forget ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from schemas.event import FORGET, Event
from schemas.identity import NEVER, Link, Linked, Said
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
_AFTER_ALL: Final = "\U0010ffff"
_OF_LINKS: Final = (LINKS, LINKED)


class Change(NamedTuple):
    """What one event, at ``time`` (ms UTC), does to the row ``key`` of its profile, and to that of the ``other`` id it carries."""

    key: str
    time: int
    view: ViewCell | None = None
    other: str | None = None
    cells: tuple[tuple[str, IdentityCell], ...] = ()
    forget: bool = False


def change_of(event: Event) -> Change | None:
    """What an event with pseudonyms changes; ``None`` for one that changes nothing."""
    event_id, kind, time, user, anonymous, _, _, packed, _, _, sealed_user, sealed_anonymous = event
    key, other, sealed = (user, anonymous, sealed_user) if user else (anonymous or "", None, sealed_anonymous)
    cells: list[tuple[str, IdentityCell]] = []
    if other is not None and other != key:
        cells.append((other, link_cell(Link(time, event_id, key, kind, sealed_user or b""))))
        cells.append((key, linked_cell(Linked(other, sealed_anonymous or b""))))
    else:
        other = None
    if kind in _CONSENTS:
        cells.append((key, consent_cell(Said(time, _CONSENTS[kind]))))
    view = view_cell(time, event_id, packed) if kind == VIEW else None
    if view is None and not cells and kind != FORGET:
        return None
    if sealed is not None:
        cells.append((key, sealed_cell(sealed)))
    if other is not None and sealed_anonymous is not None:
        cells.append((other, sealed_cell(sealed_anonymous)))
    return Change(key, time, view, other, tuple(cells), kind == FORGET)


class News(NamedTuple):
    """Identity cells to write, each once, with their rows; the rows whose links they change; and sealed ids, by row.

    A sealed id is written once it shows that its row hasn't got it.
    """

    cells: dict[tuple[str, IdentityCell], None]
    relinked: set[str]
    sealed: dict[str, IdentityCell]


class Known:
    """What this process has written of late, so that it isn't written with every event: links of pairs of ids.

    Also the pairs whose anonymous id is another user's.

    A link is known when an earlier one of that date was written. Forgetting what it knows costs a write. ``buried`` tells until
    when an id was forgotten: what was known of it before isn't any more.
    """

    def __init__(self, buried: Callable[[str], int] = lambda _: NEVER) -> None:
        self._buried = buried
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._full: dict[str, str] = {}
        self._conflicting: set[int] = set()

    def news(self, changes: Iterable[Change]) -> News:
        """What changes say that isn't known."""
        news = News({}, set(), {})
        for change in changes:
            # The user's side of a link goes with the other: it may have been tidied up since it was last written.
            known = any(placed[1].qualifier[:1] == LINKS and self._knows(*placed) for placed in change.cells)
            for placed in change.cells:
                if placed[1].qualifier == SEALED:
                    news.sealed[placed[0]] = placed[1]
                elif not (known and placed[1].qualifier[:1] in _OF_LINKS) and not self._is_beyond(*placed):
                    news.cells[placed] = None
                    if change.other is not None and placed[1].qualifier[:1] in _OF_LINKS:
                        news.relinked.update((change.key, change.other))
        return news

    def written(self, cells: Iterable[tuple[str, IdentityCell]]) -> None:
        """Remember what these said: they are in the store now."""
        for row, cell in cells:
            if cell.qualifier[:1] == LINKS:
                mark = self._mark(row, cell)
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
                pair = hash((change.other, change.key, self._buried(change.other), self._buried(change.key)))
                owner = owners.get(change.other)
                if owner is not None:
                    (self._conflicting.add if owner != change.key else self._conflicting.discard)(pair)
                found += pair in self._conflicting
        if len(self._conflicting) > REMEMBERED:
            self._conflicting.clear()
        return found

    def clear(self) -> None:
        """Know nothing any more: links were undone."""
        self._young, self._old, self._full = {}, {}, {}
        self._conflicting.clear()

    def _knows(self, row: str, cell: IdentityCell) -> bool:
        mark = self._mark(row, cell)
        known = min((known for each in (self._young, self._old) if (known := each.get(mark)) is not None), default=None)
        return known is not None and known < cell.time

    def thinned(self) -> None:
        """Know of no user any more that they have as many links as count: somebody was forgotten."""
        self._full = {}

    def _mark(self, row: str, cell: IdentityCell) -> int:
        """What is equal for links of which the first says all."""
        other = cell.qualifier.rpartition(b"\0")[2].decode()
        return hash((row, other, cell.time // DAY_MS, self._buried(row), self._buried(other)))

    def _is_beyond(self, row: str, cell: IdentityCell) -> bool:
        """Whether it is of a link to a user who has enough."""
        if not self._full:
            return False
        kind = cell.qualifier[:1]
        if kind == LINKED:
            return cell.qualifier[1:].decode() > self._full.get(row, _AFTER_ALL)
        return kind == LINKS and row > self._full.get(cell.qualifier.rpartition(b"\0")[2].decode(), _AFTER_ALL)
