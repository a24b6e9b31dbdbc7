"""People put together from rows: whose views, which count, and rows read no oftener than it takes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from schemas.identity import FOR_EVER, MAX_LINKS, NEVER, Link, Linked, Said
from schemas.instants import DAY_MS, clock_ms
from schemas.profile_row import IdentityCell, ViewCell, consent_cell, link_cell, linked_cell, unlinked_cell, view_cell
from schemas.view import pack_attributes
from serving.store import SAID_AT_ONCE, Store, WindowRead
from tests.people import RULES
from transforms.people import read_people
from transforms.rows import refresh_rows

pytestmark = pytest.mark.alone

RECENT = clock_ms() - 2 * DAY_MS


def view(number: int) -> ViewCell:
    return view_cell(RECENT + number * 1_000, f"e{number}", pack_attributes({}))


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


def test_of_the_users_of_a_kiosk_the_first_hundred_count_whatever_the_order(store: Store) -> None:
    # 1:k ─ u000 ─ u001 ─ … ─ u229, said in any order, by several writers, one of whom tidies before the other has said it all
    users = [f"1:u{number:03}" for number in range(2 * MAX_LINKS + 30)]
    said = [link(user, "1:k", number) for number, user in enumerate(users)]
    random.Random(5).shuffle(said)
    late = said.pop()[::-1]
    store.append([("1:k", view(0))])
    for start in range(0, len(said), 60):
        part = said[start : start + 60]
        store.write_identity([cell for cells in part for cell in cells])
        rows = ["1:k", *(cells[1][0] for cells in part)]
        refresh_rows(store, RULES, rows, relinked=rows)
    store.write_identity(late[1:])
    refresh_rows(store, RULES, ["1:k"], relinked=["1:k"])
    store.write_identity(late[:1])
    refresh_rows(store, RULES, ["1:k", late[0][0]], relinked=["1:k", late[0][0]])
    identities = store.read_windows(["1:k", *users], 1).identities
    assert {each.other for each in identities["1:k"].links} == set(users[:MAX_LINKS])
    assert [user for user in users if user in identities and identities[user].linked] == users[:MAX_LINKS]
    found = store.read_rows(users)
    assert [key for key, row in found.items() if row.membership is not None] == users[:1]


def test_one_more_user_of_a_kiosk_is_no_news_of_the_others_but_one_who_is_first_is(store: Store) -> None:
    store.write_identity([cell for number in (1, 2, 3) for cell in link(f"1:u{number}", "1:k", number)])
    assert set(read_people(store, ["1:k", "1:u3"], relinked=["1:k", "1:u3"]).keys) == {"1:u1", "1:u3", "1:k"}
    store.write_identity(link("1:u0", "1:k", 0))
    assert set(read_people(store, ["1:k"], relinked=["1:k", "1:u0"]).keys) == {"1:k", *(f"1:u{number}" for number in range(4))}
    store.write_identity([("1:k", unlinked_cell(RECENT + 1_000))])
    assert set(read_people(store, ["1:k"], relinked=["1:k", "1:u3"]).keys) == {"1:k", *(f"1:u{number}" for number in range(4))}


def test_all_that_a_row_says_is_read_however_much_that_is(store: Store) -> None:
    links = [cell for number in range(SAID_AT_ONCE + 9) for cell in link(f"1:u{number}", "1:k", number)]
    store.write_identity(links)
    assert len(read_people(store, ["1:k"]).identity("1:k").links) == SAID_AT_ONCE + 9


def test_of_consents_those_that_say_something_are_kept(store: Store) -> None:
    store.append([("1:u", view(50)), ("1:u", view(999))])
    store.write_identity([("1:u", said(number, opted_out=number % 2 == 0)) for number in range(401)])
    store.write_identity([("1:u", said(number, opted_out=False)) for number in (500, 600)])
    assert refresh_rows(store, RULES, ["1:u"]).counting_from == {"1:u": RECENT + 500_000}
    assert [each.time - RECENT for each in store.read_windows(["1:u"], 1).identities["1:u"].said] == [400_000, 500_000, 600_000]
