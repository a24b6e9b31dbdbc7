"""People put together from rows: whose views, which count, and rows read no oftener than it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from schemas.identity import FOR_EVER, NEVER, Link, Linked, Said
from schemas.instants import DAY_MS, clock_ms
from schemas.profile_row import IdentityCell, ViewCell, consent_cell, link_cell, linked_cell, view_cell
from serving.store import Store, WindowRead, open_store
from transforms.people import read_people

pytestmark = pytest.mark.alone

RECENT = clock_ms() - 2 * DAY_MS


@pytest.fixture
def store(store_uri: str) -> Iterator[Store]:
    store = open_store(store_uri)
    store.init()
    yield store
    store.close()


def view(number: int) -> ViewCell:
    return view_cell(RECENT + number * 1_000, f"e{number}", b"")


def link(user: str, anonymous: str, number: int) -> list[tuple[str, IdentityCell]]:
    evidence = Link(RECENT + number * 1_000, f"l{number}", user, "identify", b"")
    return [(anonymous, link_cell(evidence)), (user, linked_cell(Linked(anonymous, b"")))]


def said(number: int, opted_out: bool) -> IdentityCell:
    return consent_cell(Said(RECENT + number * 1_000, opted_out))


def test_a_person_is_the_users_row_and_those_of_ids_that_are_theirs(store: Store) -> None:
    # 1:a ── 1:u (first)     1:b ── 1:v (first), 1:u       1:c ── 1:u
    store.append([("1:u", view(1)), ("1:a", view(2)), ("1:b", view(3)), ("1:c", view(4)), ("1:c", view(1))])
    store.write_identity([*link("1:u", "1:a", 1), *link("1:v", "1:b", 1), *link("1:u", "1:b", 2), *link("1:u", "1:c", 9)])
    for asked in ("1:u", "1:a", "1:c"):
        people = read_people(store, [asked])
        person = people.person("1:u")
        assert (people.keys, person.rows) == (["1:u"], ("1:u", "1:a", "1:c"))
        assert person.cells == [view(4), view(2), view(1)], "each once, newest first, and no other user's"
        assert (person.start, person.opted_out) == (NEVER, False)
    assert [people.owner(key) for key in ("1:u", "1:a", "1:b", "1:c")] == [None, "1:u", "1:v", "1:u"]


def test_where_links_came_everybody_who_is_named_may_have_changed(store: Store) -> None:
    store.write_identity([*link("1:v", "1:b", 1), *link("1:u", "1:b", 2)])
    assert set(read_people(store, ["1:b"]).keys) == {"1:v"}
    assert set(read_people(store, ["1:b"], relinked=["1:b"]).keys) == {"1:v", "1:u", "1:b"}


def test_consents_of_a_linked_id_hold_for_the_whole_person_from_the_link_on(store: Store) -> None:
    store.append([("1:u", view(3)), ("1:u", view(7)), ("1:a", view(4))])
    store.write_identity([*link("1:u", "1:a", 5), ("1:a", said(2, True))])
    person = read_people(store, ["1:u"]).person("1:u")
    assert (person.start, person.opted_out, person.counting) == (FOR_EVER, True, [])
    store.write_identity([("1:u", said(6, False))])
    person = read_people(store, ["1:u"]).person("1:u")
    assert (person.start, person.counting) == (RECENT + 6_000, [view(7)])


class Counted:
    """A store that says which rows were read."""

    def __init__(self, store: Store) -> None:
        self._store, self.read = store, [set[str]()]

    def read_windows(self, keys: Sequence[str], limit: int) -> WindowRead:
        self.read.append(set(keys))
        return self._store.read_windows(keys, limit)


def test_rows_without_links_are_read_once_and_the_rows_of_people_in_three_reads(store: Store) -> None:
    store.append([("1:x", view(1)), ("1:y", view(1))])
    plain = Counted(store)
    read_people(plain, ["1:x", "1:y"])  # type: ignore[arg-type]
    assert plain.read[1:] == [{"1:x", "1:y"}]
    store.write_identity([*link("1:u", "1:a", 1), *link("1:u", "1:c", 1)])
    linked = Counted(store)
    read_people(linked, ["1:a", "1:x"])  # type: ignore[arg-type]
    assert linked.read[1:] == [{"1:a", "1:x"}, {"1:u"}, {"1:c"}]
