"""The contract of every store of profile rows, over SQLite and the Bigtable emulator."""

from __future__ import annotations

import itertools
import pathlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError, StoreError, StoreUnavailableError
from schemas.identity import UNLINKING, Identity, Link, Linked, Said, Tombstone
from schemas.instants import DAY_MS, HOUR_MS, clock_ms
from schemas.profile_row import (
    FAMILIES,
    Emptied,
    Membership,
    Profile,
    ProfileRow,
    SegmentSpans,
    Span,
    ViewCell,
    consent_cell,
    encode_base,
    encode_cell,
    link_cell,
    linked_cell,
    sealed_cell,
    unlinked_cell,
    view_cell,
)
from schemas.view import pack_attributes
from serving.store import RowUpdate, Store, check_uri, open_store
from tests.maintained import maintain_windows
from tests.reference import SeenView, distinct
from tests.strategies import rules_of, views_of_seen
from transforms.canary import Prepared
from transforms.membership import evaluate
from transforms.rows import views_of

pytestmark = pytest.mark.alone

RECENT = clock_ms() - DAY_MS  # within what Bigtable's garbage collection keeps
KEY = "1:" + "ab" * 32
ELECTRIC, DIESEL = pack_attributes({"fuel_type": "electric"}), pack_attributes({"fuel_type": "diesel"})


def cells(count: int, start: int = RECENT) -> list[ViewCell]:
    """Views a second apart, oldest first."""
    return [view_cell(start + i * 1_000, f"e{i:04}", ELECTRIC) for i in range(count)]


def update(key: str, time: int, version: int) -> RowUpdate:
    membership = Membership(version, RECENT, [SegmentSpans("suv", [Span(RECENT, RECENT + 9, 0.5, 4, 2)])])
    return RowUpdate(key, time, encode_cell(membership), encode_cell(Profile(version, RECENT, {})), 0)


def version_in(row: ProfileRow) -> int | None:
    assert (row.membership is None) == (row.profile is None)
    return None if row.membership is None else row.membership.rule_version


# --- coming into being ---------------------------------------------------------------------------------------------------


def test_init_creates_what_is_missing_once(store_uri: str) -> None:
    store = open_store(store_uri)
    created, again = store.init(), store.init()
    table = store_uri.rpartition("/")[2]
    assert created == (
        [store_uri.removeprefix("sqlite:///")] if "sqlite" in store_uri else [f"table {table}", *(f"family {f}" for f in FAMILIES)]
    )
    assert again == []
    store.check()


def test_init_again_keeps_the_rows(store: Store) -> None:
    store.append([(KEY, cell) for cell in cells(3)])
    other = open_store(store.uri)
    other.init()
    assert len(other.read_windows([KEY], 9).cells[KEY]) == 3


def test_a_store_that_was_never_created_says_how_to(store_uri: str) -> None:
    store = open_store(store_uri)
    with pytest.raises(StoreError, match=f"forecourt store init --store {store_uri}$") as caught:
        store.check()
    assert not isinstance(caught.value, StoreUnavailableError), "waiting would not help"


def test_writing_to_a_store_that_was_never_created_says_how_to(store_uri: str) -> None:
    store = open_store(store_uri)
    for write in (lambda: store.append([(KEY, cells(1)[0])]), lambda: store.write_memberships([update(KEY, clock_ms(), 1)])):
        with pytest.raises(StoreError, match=f"forecourt store init --store {store_uri}") as caught:
            write()
        assert not isinstance(caught.value, StoreUnavailableError)


@pytest.mark.parametrize(
    "uri",
    ["", "store.db", "sqlite://store.db", "sqlite:///", "bigtable://p/i", "bigtable://p//t", "redis://x", "bigtable://p/i/t/x"],
)
def test_what_is_no_store_uri_says_what_one_is(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"store == .*, must be bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH"):
        check_uri(uri)


# --- views ---------------------------------------------------------------------------------------------------------------


def test_views_come_back_newest_first(store: Store) -> None:
    written = cells(5)
    store.append([(KEY, cell) for cell in written[::2] + written[1::2]])
    assert store.read_windows([KEY], 100).cells == {KEY: written[::-1]}


def test_only_as_many_as_asked_for_come_back_and_they_are_the_newest(store: Store) -> None:
    written = cells(1_200)
    store.append([(KEY, cell) for cell in written])
    assert store.read_windows([KEY], 1_100).cells[KEY] == written[:-1_101:-1]
    assert store.read_windows([KEY], 1).cells[KEY] == written[-1:]


def test_writing_a_view_again_changes_nothing_and_is_counted_as_a_copy(store: Store) -> None:
    views = [(KEY, cell) for cell in cells(4)]
    assert store.append(views[:3]) == (3, [])
    assert store.append(views) == (1, [])
    assert store.append(views * 2) == (0, [])
    assert len(store.read_windows([KEY], 100).cells[KEY]) == 4


def test_a_copy_within_one_write_is_counted_once(store: Store) -> None:
    (cell,) = cells(1)
    assert store.append([(KEY, cell), ("1:other", cell), (KEY, cell)]).new == 2


def test_a_late_copy_that_disagrees_is_kept_beside_the_first(store: Store) -> None:
    first, late = view_cell(RECENT, "e1", ELECTRIC), view_cell(RECENT + 5, "e1", ELECTRIC)
    other = view_cell(RECENT, "e1", DIESEL)
    store.append([(KEY, late)])
    store.append([(KEY, other), (KEY, first)])
    assert set(store.read_windows([KEY], 9).cells[KEY]) == {first, late, other}


def test_copies_that_disagree_give_one_answer_whatever_their_order(store: Store) -> None:
    copies = [(RECENT + 7, ELECTRIC), (RECENT + 3, DIESEL), (RECENT + 3, ELECTRIC), (RECENT + 9, DIESEL)]
    answers = []
    for number, order in enumerate(itertools.permutations(copies)):
        key = f"1:{number}"
        for time, value in order:
            store.append([(key, view_cell(time, "e1", value)), (key, view_cell(RECENT + 5, "e2", ELECTRIC))])
        views = views_of(store.read_windows([key], 100).cells[key])
        answers.append((views.times.tolist(), views.packed))
    assert answers == [([RECENT + 3, RECENT + 5], [min(ELECTRIC, DIESEL), ELECTRIC])] * 24


def test_rows_are_apart_and_one_without_views_is_empty(store: Store) -> None:
    one, two = cells(2)
    store.append([("1:a", one), ("1:ab", two)])
    assert store.read_windows(["1:ab", "1:a", "1:nobody", "1:"], 9).cells == {"1:ab": [two], "1:a": [one], "1:nobody": [], "1:": []}


def test_a_later_read_has_a_greater_time_when_something_was_written_between(store: Store) -> None:
    store.append([(KEY, cells(1)[0])])
    before = store.read_windows([KEY], 9).time
    store.append([(KEY, cells(2)[1])])
    assert store.read_windows([KEY], 9).time > before


def test_nothing_asked_is_nothing_done(store: Store) -> None:
    assert store.append([]) == (0, [])
    assert store.read_windows([], 9).cells == {}
    assert store.read_rows([]) == {}
    assert store.write_memberships([]) == []
    assert list(store.scan()) == []


def test_thousands_of_rows_are_written_and_read_at_once(store: Store) -> None:
    (cell,) = cells(1)
    keys = [f"1:{i:05}" for i in range(3_000)]
    assert store.append([(key, cell) for key in keys]) == (3_000, [])
    assert store.read_windows(keys, 9).cells == dict.fromkeys(keys, [cell])
    assert store.write_memberships([update(key, clock_ms(), 1) for key in keys]) == []
    assert {version_in(row) for row in store.read_rows(keys).values()} == {1}
    assert [row.key for row in store.scan()] == keys


IDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=64)


@settings(max_examples=15)
@given(views=st.lists(st.tuples(st.integers(0, 3), IDS), min_size=1, max_size=8, unique=True), key=IDS)
def test_any_text_is_an_event_id_and_a_key(store: Store, views: list[tuple[int, str]], key: str) -> None:
    written = [view_cell(RECENT + time, event_id, ELECTRIC) for time, event_id in views]
    store.append([(key, cell) for cell in written])
    assert store.read_windows([key], 100).cells[key] == sorted(written)
    store.forget([key])


# --- memberships ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_membership_of_the_newest_read_stays_whatever_comes_first(store: Store, order: tuple[int, int]) -> None:
    now = clock_ms()
    for version in order:
        assert store.write_memberships([update(KEY, now + version, version)]) == []
    assert version_in(store.read_row(KEY)) == 2


def test_writing_a_membership_twice_changes_nothing(store: Store) -> None:
    same = update(KEY, clock_ms(), 3)
    store.write_memberships([same, same])
    row = store.read_row(KEY)
    store.write_memberships([same])
    assert store.read_row(KEY) == row
    assert row.membership is not None
    assert (encode_cell(row.membership), row.profile) == (same.membership, Profile(3, RECENT, {}))


def test_a_row_with_views_alone_has_no_membership_yet(store: Store) -> None:
    store.append([(KEY, cells(1)[0])])
    assert store.read_row(KEY) == ProfileRow(KEY, None, None)
    assert store.read_rows([KEY, "1:nobody"]) == {key: ProfileRow(key, None, None) for key in (KEY, "1:nobody")}
    assert list(store.scan()) == []


def test_a_scan_gives_every_membership_in_order_of_key(store: Store) -> None:
    keys = ["1:b", "1:a", "1:aa", "0:z", "1:B", "1:é", "1:~"]
    store.write_memberships([update(key, clock_ms(), number + 1) for number, key in enumerate(keys)])
    assert [(row.key, version_in(row)) for row in store.scan()] == [(key, keys.index(key) + 1) for key in sorted(keys)]


def test_a_damaged_membership_names_its_row(store: Store) -> None:
    store.write_memberships([update(KEY, clock_ms(), 1)._replace(membership=b"{")])
    for read in (lambda: store.read_row(KEY), lambda: list(store.scan())):
        with pytest.raises(StoreError, match="row 1:abababab…: a cell can't be read, must be JSON of a membership"):
            read()


def test_forgetting_a_user_leaves_nothing_and_nobody_else_out(store: Store) -> None:
    for key in (KEY, "1:other"):
        store.append([(key, cell) for cell in cells(2)])
        store.write_memberships([update(key, clock_ms(), 1)])
    for _ in range(2):
        store.forget([KEY])
    assert store.read_windows([KEY], 9).cells == {KEY: []}
    assert version_in(store.read_row(KEY)) is None
    assert [row.key for row in store.scan()] == ["1:other"]
    assert len(store.read_windows(["1:other"], 9).cells["1:other"]) == 2


# --- windows -------------------------------------------------------------------------------------------------------------


def test_a_view_at_the_edge_of_the_window_counts_no_more_and_one_after_it_does(store: Store) -> None:
    # old ─ kept ───────── 10 d ───────── newest      a window is half-open: old is exactly ten days before the newest
    newest = clock_ms()
    old, kept = newest - 10 * DAY_MS, newest - 10 * DAY_MS + 60_000
    views = [(KEY, view_cell(time, str(time), ELECTRIC)) for time in (newest, old, kept)]
    maintain_windows(store, Prepared(rules_of({"when": {"fuel_type": "electric"}, "min_views": 1})), views)
    row = store.read_row(KEY)
    assert row.profile is not None
    assert row.membership is not None
    assert (row.profile.views, row.membership.segments[0].spans[0].views) == (2, 2)


def test_more_copies_than_a_read_brings_do_not_crowd_out_other_views(store: Store) -> None:
    # one event told 1,500 times with times of its own; below it, ten other views
    told = [view_cell(RECENT + 60_000 + i, "chatter", ELECTRIC) for i in range(1_500)]
    done = maintain_windows(
        store, Prepared(rules_of({"when": {"fuel_type": "electric"}})), [(KEY, cell) for cell in told + cells(10)]
    )
    assert done.keys == [KEY]
    row = store.read_row(KEY)
    assert row.profile is not None
    assert (row.profile.views, row.profile.last_seen) == (11, RECENT + 60_000)


def test_a_batch_ends_in_the_membership_of_its_views(store: Store) -> None:
    rules = rules_of({"when": {"fuel_type": "electric"}, "min_views": 2})
    seen = [SeenView(RECENT + i * 1_000, f"e{i}", {"fuel_type": "electric"}) for i in range(4)]
    views = [(KEY, view_cell(view.time, view.event_id, ELECTRIC)) for view in seen]
    done = maintain_windows(store, Prepared(rules), [*views[2:], *views[:3]])
    assert (done.new, done.copies, done.refused) == (4, 1, [])
    assert store.read_row(KEY).membership == evaluate(views_of_seen(distinct(seen)), rules)


# --- base views, shadows, states -----------------------------------------------------------------------------------------


def test_base_views_and_speed_views_are_one_set(store: Store) -> None:
    # speed   e0  e1  e2
    # base        e1  e2  e3  e4
    views = cells(5)
    store.append([(KEY, cell) for cell in views[:3]])
    assert store.write_bases([(KEY, encode_base(views[1:])), ("1:other", encode_base(views[:1]))], RECENT) == []
    read = store.read_windows([KEY, "1:other", "1:nobody"], 100).cells
    assert read == {KEY: views[::-1], "1:other": views[:1], "1:nobody": []}
    assert store.read_windows([KEY], 2).cells[KEY] == views[:-3:-1]


def test_base_views_of_a_later_day_stay_whatever_is_written_last(store: Store) -> None:
    earlier, later = cells(2)
    for until, cell in ((RECENT, earlier), (RECENT + 2, later), (RECENT + 1, earlier)):
        store.write_bases([(KEY, encode_base([cell]))], until)
    assert store.read_windows([KEY], 9).cells[KEY] == [later]
    store.write_bases([(KEY, encode_base([earlier]))], RECENT + 2)
    assert store.read_windows([KEY], 9).cells[KEY] == [earlier], "a day that is run again replaces itself"


def test_a_read_after_base_views_came_has_a_greater_time(store: Store) -> None:
    before = store.read_windows([KEY], 9).time
    store.write_bases([(KEY, encode_base(cells(1)))], RECENT)
    assert store.read_windows([KEY], 9).time > before


def test_a_shadow_is_read_with_its_membership_and_gone_with_the_next(store: Store) -> None:
    now = clock_ms()
    shadow = update(KEY, now, 8).membership
    store.write_memberships([update(KEY, now, 7)._replace(candidate=shadow)])
    row = store.read_row(KEY)
    assert row.candidate is not None
    assert (version_in(row), encode_cell(row.candidate)) == (7, shadow)
    assert [each.candidate for each in store.scan()] == [row.candidate]
    store.write_memberships([update(KEY, now + 1, 9)])
    row = store.read_row(KEY)
    assert (version_in(row), row.candidate) == (9, None)
    assert next(store.scan()).candidate is None


def test_a_state_is_kept_by_name_and_the_latest_stays(store: Store) -> None:
    assert store.read_state("withdrawn") is None
    for until, value in ((RECENT, b"a"), (RECENT + 2, b"c"), (RECENT + 1, b"b")):
        store.write_state("withdrawn", value, until)
    store.write_state("other", b"z", RECENT)
    assert (store.read_state("withdrawn"), store.read_state("other"), store.read_state("none")) == (b"c", b"z", None)
    assert list(store.scan()) == []


def test_forgetting_a_user_takes_the_base_views_too(store: Store) -> None:
    store.write_bases([(KEY, encode_base(cells(2)))], RECENT)
    store.forget([KEY])
    assert store.read_windows([KEY], 9).cells == {KEY: []}


def test_consents_say_the_same_whatever_comes_first_and_need_no_membership(store: Store) -> None:
    out, back = consent_cell(Said(2_000, opted_out=True)), consent_cell(Said(1_000, opted_out=False))
    for cell in (out, back, out):
        store.write_identity([("1:a", cell)])
    rows = store.read_rows(["1:a", "1:b"])
    assert (rows["1:a"].opted_out, rows["1:b"].opted_out) == (True, False)
    assert list(store.scan()) == []
    store.write_identity([("1:a", consent_cell(Said(3_000, opted_out=False)))])
    assert not store.read_row("1:a").opted_out
    store.forget(["1:a"])
    assert store.read_windows(["1:a"], 9).identities == {}


# --- identity, tombstones, emptying ----------------------------------------------------------------------------------------


def test_identity_cells_are_read_with_the_windows_and_the_latest_of_a_column_stays(store: Store) -> None:
    link = link_cell(Link(RECENT, "e", "1:u", "lead", b"sealed"))
    assert (
        store.write_identity([(KEY, sealed_cell(b"id")), (KEY, link), (KEY, link), ("1:u", linked_cell(Linked(KEY, b"id")))]) == []
    )
    for time in (RECENT + 2, RECENT + 9, RECENT + 3):
        store.write_identity([(KEY, unlinked_cell(time))])
    identities = store.read_windows([KEY, "1:u", "1:nobody"], 9).identities
    evidence = Link(RECENT, "e", "1:u", "lead", b"sealed")
    assert identities == {KEY: Identity((evidence,), (), (), RECENT + 9, b"id"), "1:u": Identity(linked=(Linked(KEY, b"id"),))}
    assert store.read_row("1:nobody").link is None
    store.delete_identity(
        [(KEY, unlinked_cell(0).qualifier), (KEY, b"not there"), ("1:u", linked_cell(Linked(KEY, b"")).qualifier)]
    )
    assert store.read_row(KEY).link == evidence
    assert store.read_windows([KEY, "1:u"], 9).identities == {KEY: Identity((evidence,), sealed=b"id")}


def test_a_read_after_identity_changed_has_a_greater_time(store: Store) -> None:
    times = [store.read_windows([KEY], 9).time]
    for change in (
        lambda: store.write_identity([(KEY, sealed_cell(b"id"))]),
        lambda: store.delete_identity([(KEY, b"s")]),
        lambda: store.empty_row(KEY, RECENT),
    ):
        change()
        times.append(store.read_windows([KEY], 9).time)
    assert times == sorted(set(times))


def test_emptying_takes_views_up_to_an_instant_from_both_layers(store: Store) -> None:
    # speed  e0 e1 e2 e3        base  e1 e2 e3 e4        until e2
    views = cells(5)
    store.append([(KEY, each) for each in views[:4]] + [("1:other", views[0])])
    store.write_bases([(KEY, encode_base(views[1:]))], RECENT)
    store.empty_row(KEY, views[2].time)
    for _ in range(2):
        assert store.read_windows([KEY, "1:other"], 9).cells == {KEY: [views[4], views[3]], "1:other": [views[0]]}
        store.write_bases([(KEY, encode_base(views[:1]))], RECENT - 1)  # an earlier day's doesn't come back
    store.empty_row(KEY, views[4].time)
    assert store.read_windows([KEY], 9).cells == {KEY: []}
    assert list(store.keys()) == ["1:other"]
    store.write_bases([(KEY, encode_base(views[:1]))], RECENT - 2)
    assert store.read_windows([KEY], 9).cells == {KEY: [views[0]]}, "nothing stands in the way of what is written later"


def test_more_views_than_a_page_are_emptied(store: Store) -> None:
    views = cells(2_300)
    store.append([(KEY, each) for each in views])
    store.empty_row(KEY, views[-2].time)
    assert store.read_windows([KEY], 9).cells == {KEY: [views[-1]]}


def test_a_membership_of_an_earlier_read_is_dropped_and_a_later_one_stays(store: Store) -> None:
    now = clock_ms()
    store.write_memberships([update(KEY, now, 1)])
    store.drop_membership(KEY, now - 1)
    assert version_in(store.read_row(KEY)) == 1
    store.drop_membership(KEY, now)
    assert store.read_row(KEY) == ProfileRow(KEY, None, None)
    store.write_memberships([update(KEY, now + 1, 2)])
    assert version_in(store.read_row(KEY)) == 2


def test_of_tombstones_with_one_digest_the_newest_stays_and_burials_grow(store: Store) -> None:
    one, other = Tombstone(b"d" * 16, 1, RECENT), Tombstone(b"\x00" * 15 + b"e", 12, RECENT)
    assert (store.tombstones(), store.burials()) == ([], 0)
    numbers = []
    for buried in ([one, other], [one._replace(time=RECENT + 5)], [one._replace(time=RECENT + 3)], []):
        store.bury(buried)
        numbers.append(store.burials())
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0
    assert set(store.tombstones()) == {one._replace(time=RECENT + 5), other}
    assert list(store.keys()) == [], "they are no rows"


def test_tombstones_are_as_many_as_there_are_and_those_buried_of_late_are_told_apart(store: Store) -> None:
    of_late = clock_ms() - HOUR_MS
    many = [Tombstone(number.to_bytes(2, "big") * 8, 1, RECENT + number) for number in range(0, 65_536, 4)]
    store.bury(many)
    assert set(store.tombstones()) == set(many)
    assert set(store.tombstones(of_late)) == set(many), "buried just now, whenever they were forgotten"
    store.bury([many[7]._replace(time=RECENT)])
    assert set(store.tombstones(of_late)) == set(many)


def test_links_that_were_undone_are_told_from_burials(store: Store) -> None:
    store.bury([Tombstone(b"d" * 16, 1, RECENT)])
    store.bury([])
    store.bury([Tombstone(b"e" * 16, 1, RECENT)])
    assert store.burials() == UNLINKING + 2


def test_keys_and_dumps_are_of_everything_a_row_may_hold(store: Store) -> None:
    views, link = cells(2), link_cell(Link(RECENT, "e", "1:u", "lead", b""))
    store.append([("1:a", views[0])])
    store.write_bases([("1:b", encode_base(views))], RECENT)
    store.write_identity([("1:c", link)])
    store.write_memberships([update("1:d", clock_ms(), 1)])
    store.write_state("withdrawn", b"x", RECENT)
    store.bury([Tombstone(b"d" * 16, 1, RECENT)])
    assert list(store.keys()) == ["1:a", "1:b", "1:c", "1:d"]
    assert store.dump("1:a") == ([views[0]], None, [])
    assert store.dump("1:b") == ([], (RECENT, encode_base(views)), [])
    assert store.dump("1:c") == ([], None, [link])
    assert store.dump("1:d") == store.dump("1:nobody") == ([], None, [])
    store.forget(["1:a", "1:b", "1:c", "1:d"])
    assert list(store.keys()) == []


def test_nothing_of_what_was_deleted_is_left_in_the_files(sqlite_store_uri: str, tmp_path: pathlib.Path) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    secret = "1:" + "5ec7e7" * 10
    store.append([(secret, view_cell(RECENT, "an event of theirs", b"and what they saw"))])
    store.write_identity([(secret, sealed_cell(b"who they are"))])
    store.write_memberships([update(secret, 1, 1)])

    def found() -> list[bytes]:
        data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        return [text for text in (secret.encode(), b"what they saw", b"who they are") if text in data]

    assert len(found()) == 3
    store.forget([secret])
    store.purge()
    assert found() == []
    store.close()


def test_a_row_says_whose_it_is_and_why_it_has_no_membership(store: Store) -> None:
    link = Link(RECENT, "e", "1:u", "lead", b"")
    store.write_identity([(KEY, link_cell(link)), (KEY, consent_cell(Said(RECENT, opted_out=True)))])
    store.write_memberships([update(KEY, 5, 1)])
    store.write_memberships([RowUpdate(KEY, 6, encode_cell(Emptied("alias")), b"", 0)])
    for row in (store.read_row(KEY), store.read_rows([KEY])[KEY]):
        assert row == ProfileRow(KEY, None, None, None, "alias", link, opted_out=True)
    assert list(store.scan()) == [], "it has no membership"
