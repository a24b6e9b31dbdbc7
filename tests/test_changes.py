"""What an event does to rows, and what a process needn't write again."""

from __future__ import annotations

import pytest

from schemas.event import Event
from schemas.identity import Link, Linked, Said
from schemas.instants import DAY_MS
from schemas.profile_row import IdentityCell, consent_cell, link_cell, linked_cell, sealed_cell, view_cell
from transforms.changes import Change, Known, change_of

T = 100 * DAY_MS


def event(kind: str, user: str | None, anonymous: str | None, *, time: int = T, event_id: str = "e", sealed: bool = True) -> Event:
    sealed_user = b"sealed " + user.encode() if user and sealed else None
    sealed_anonymous = b"sealed " + anonymous.encode() if anonymous and sealed else None
    return Event(event_id, kind, time, user, anonymous, None, None, b"x", None, True, sealed_user, sealed_anonymous)


def changed(one: Event) -> Change:
    change = change_of(one)
    assert change is not None
    return change


def links(kind: str, time: int = T) -> list[tuple[str, IdentityCell]]:
    return [("a", link_cell(Link(time, "e", "u", kind, b"sealed u"))), ("u", linked_cell(Linked("a", b"sealed a")))]


SEALED = [("u", sealed_cell(b"sealed u")), ("a", sealed_cell(b"sealed a"))]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (event("search", "u", None), None),
        (event("session_start", None, "a"), None),
        (event("lead", "u", "u"), None),
        (event("identify", "u", None), None),
        (event("listing_view", "u", None), Change("u", T, view_cell(T, "e", b"x"), None, (SEALED[0],))),
        (event("listing_view", None, "a"), Change("a", T, view_cell(T, "e", b"x"), None, (SEALED[1],))),
        (event("listing_view", "u", "a"), Change("u", T, view_cell(T, "e", b"x"), "a", (*links("listing_view"), *SEALED))),
        (event("search", "u", "a"), Change("u", T, None, "a", (*links("search"), *SEALED))),
        (event("listing_view", "u", None, sealed=False), Change("u", T, view_cell(T, "e", b"x"))),
        (event("opt_out", None, "a"), Change("a", T, None, None, (("a", consent_cell(Said(T, True))), SEALED[1]))),
        (event("opt_in", "u", "a"), Change("u", T, None, "a", (*links("opt_in"), ("u", consent_cell(Said(T, False))), *SEALED))),
        (event("forget", "u", None), Change("u", T, None, None, (SEALED[0],), True)),
    ],
)
def test_what_events_change(one: Event, expected: Change | None) -> None:
    assert change_of(one) == expected


def test_a_link_is_news_once_a_day_and_when_an_earlier_one_comes() -> None:
    known = Known()

    def news(time: int, event_id: str = "e") -> list[bytes]:
        found = known.news([changed(event("lead", "u", "a", time=time, event_id=event_id))])
        known.written(found.cells)
        assert found.relinked == ({"u", "a"} if found.cells else set())
        assert set(found.sealed) == {"u", "a"}, "whether they are news shows when the row is read"
        return sorted(cell.qualifier[:1] for _, cell in found.cells)

    assert news(T + 5) == [b"a", b"l"]
    assert news(T + 6) == []
    assert news(T + 4) == [b"a", b"l"], "the user's side may have been tidied up"
    assert news(T + 4, "d") == [b"a", b"l"], "of two at one instant the event id decides"
    assert news(T + DAY_MS) == [b"a", b"l"]
    assert news(T + DAY_MS + 1) == []
    known.clear()
    assert news(T + 6) == [b"a", b"l"]


def test_links_beyond_those_that_count_are_no_news() -> None:
    known = Known()
    known.full({"u": "b"})
    beyond = known.news([changed(event("lead", "u", "c"))])
    assert (list(beyond.cells), beyond.relinked) == ([], set())
    assert len(known.news([changed(event("lead", "u", "a"))]).cells) == 2
    assert len(known.news([changed(event("lead", "v", "c"))]).cells) == 2


def test_consents_are_always_news() -> None:
    known, one = Known(), changed(event("opt_out", "u", None))
    for _ in range(2):
        found = known.news([one])
        assert [cell for _, cell in found.cells] == [consent_cell(Said(T, True))]
        known.written(found.cells)
