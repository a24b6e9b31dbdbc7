"""Rows moved to another key's names: nothing lost or seen twice, whoever writes meanwhile, however often it is begun."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules import CATALOGUE_PATH
from schemas.errors import StoreUnavailableError
from schemas.event import Event
from schemas.identity import Said, tombstone_of
from schemas.instants import DAY_MS, HOUR_MS, clock_ms
from schemas.profile_row import consent_cell, encode_base, sealed_cell, view_cell
from schemas.pseudonym import Pseudonyms, pseudonym_of, pseudonymise, ring_of, seal, version_of
from schemas.release import Release
from schemas.rules import parse_rules
from schemas.view import pack_attributes
from serving.store import Store, WindowRead, open_store
from tests.traffic import RULES
from transforms.canary import Prepared, prepared
from transforms.changes import change_of
from transforms.forgetting import Graves
from transforms.moving import RowsMoved, move_rows, rotate_rows
from transforms.names import OneRowEach
from transforms.rows import refresh_rows
from transforms.rules_file import load_catalogue
from transforms.windows import Maintainer

OLD: Final = "1:the first key of the tests"
NEW: Final = "2:another key of the tests"
ONLY_OLD, OLD_FIRST, NEW_FIRST, ONLY_NEW = (
    Pseudonyms(ring_of(text, "tests")) for text in (OLD, f"{OLD}\n{NEW}", f"{NEW}\n{OLD}", NEW)
)
CATALOGUE: Final = load_catalogue(CATALOGUE_PATH)
PREPARED: Final[Prepared] = prepared(Release(parse_rules(RULES.encode(), CATALOGUE, "tests"), None))
NOW: Final = clock_ms() // HOUR_MS * HOUR_MS


def event_of(
    number: int, kind: str = "listing_view", user: str | None = "ann", browser: str | None = None, hours: int = 1
) -> Event:
    packed = pack_attributes({"fuel_type": "electric" if number % 3 else "diesel", "price": 1000.0 * number})
    return Event(f"e{number}", kind, NOW - hours * HOUR_MS + number, user, browser, None, None, packed, None, False)


def streamed(store: Store, pseudonyms: Pseudonyms, events: Sequence[Event]) -> None:
    maintainer = Maintainer(store, pseudonyms)
    maintainer.maintain(PREPARED, [change for event in events if (change := change_of(pseudonymise(event, pseudonyms)))])


def contents(store: Store) -> dict[str, Any]:
    """All that rows hold, by key, without what depends on when it was read."""
    keys = list(store.keys())
    rows = store.read_rows(keys)
    dumps = store.dumps(keys)
    return {
        key: (dumps[key].views, sorted(cell[:2] for cell in dumps[key].identity), rows[key].membership, rows[key].emptied)
        for key in keys
    }


def versions(store: Store) -> set[int]:
    """The key versions of all names in a store, those inside link cells too."""
    found = {version_of(key) for key in store.keys()}
    for dump in store.dumps(list(store.keys())).values():
        for cell in dump.identity:
            found |= {version for version in (1, 2) if f"{version}:".encode() in cell.qualifier}
    return found


# --- the law: whenever the keys change, the rows come out as if they never had ----------------------------------------------

EVENTS: Final = [
    *(event_of(number) for number in range(6)),
    *(event_of(number, user=None, browser="fox") for number in range(10, 14)),
    *(event_of(number, user=None, browser="owl") for number in range(20, 23)),
    event_of(30, "identify", "ann", "fox"),
    event_of(31, "identify", "bob", "fox"),  # a shared device: a conflict
    event_of(32, "lead", "bob", "owl"),
    *(event_of(number, user="bob") for number in range(40, 44)),
    event_of(50, "opt_out", "bob", hours=30),
    event_of(51, "opt_in", "bob", hours=20),
    event_of(52, "opt_out", None, "owl", hours=40),
]
RINGS: Final = (ONLY_OLD, OLD_FIRST, NEW_FIRST)


def fresh(path: Any) -> Store:
    store = open_store(f"sqlite:///{path}")
    store.init()
    return store


@pytest.fixture(scope="module")
def unrotated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What rows hold when the new key has always been the only one."""
    store = fresh(tmp_path_factory.mktemp("unrotated") / "store.db")
    streamed(store, ONLY_NEW, EVENTS)
    return contents(store)


@given(order=st.permutations(EVENTS), cuts=st.lists(st.integers(1, len(EVENTS) - 1), min_size=2, max_size=2).map(sorted))
@settings(max_examples=40)
def test_whatever_the_order_and_whenever_keys_change_rows_are_those_of_an_unrotated_run(
    unrotated: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, order: list[Event], cuts: list[int]
) -> None:
    # events   ├────────────┼───────────────┼──────────────┤ rotate
    # writes       1             1 (knows 2)      2 (knows 1)
    store = fresh(tmp_path_factory.mktemp("law") / "store.db")
    for ring, first, last in zip(RINGS, [0, *cuts], [*cuts, len(order)], strict=True):
        for event in order[first:last]:
            streamed(store, ring, [event])
    assert rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED).unsealed == 0
    assert versions(store) == {2}
    assert contents(store) == unrotated


@given(writers=st.lists(st.tuples(st.sampled_from(RINGS), st.sampled_from(EVENTS)), min_size=30, max_size=30))
@settings(max_examples=25)
def test_writers_of_all_rings_at_once_lose_nothing(
    unrotated: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, writers: list[tuple[Pseudonyms, Event]]
) -> None:
    store = fresh(tmp_path_factory.mktemp("mixed") / "store.db")
    made = {id(ring): Maintainer(store, ring) for ring in RINGS}
    for ring, event in [*writers, *((NEW_FIRST, event) for event in EVENTS)]:
        change = change_of(pseudonymise(event, ring))
        assert change is not None
        made[id(ring)].maintain(PREPARED, [change])
    rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED)
    assert contents(store) == unrotated


def test_rotation_makes_the_same_rows_in_every_store(store: Store, unrotated: dict[str, Any]) -> None:
    streamed(store, ONLY_OLD, EVENTS)
    heard: list[RowsMoved] = []
    done = rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED, heard.append)
    assert done == heard[-1]
    assert (done.moved, done.unsealed, done.refused) == (4, 0, 0)
    assert contents(store) == unrotated
    assert rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED) == RowsMoved()


# --- one step at a time --------------------------------------------------------------------------------------------------


def test_the_next_event_moves_a_person_with_all_their_rows(store: Store) -> None:
    streamed(store, ONLY_OLD, EVENTS[:10] + [EVENTS[13]])
    streamed(store, NEW_FIRST, [event_of(60)])
    assert versions(store) == {2}, "ann's row and her browser's"
    row = store.read_row(NEW_FIRST("ann"))
    assert row.profile is not None
    assert row.profile.views == 11


def test_a_moved_row_leaves_no_membership_behind(store: Store) -> None:
    streamed(store, ONLY_OLD, EVENTS[:6])
    streamed(store, NEW_FIRST, [event_of(60)])
    assert store.read_row(ONLY_OLD("ann")).membership is None
    assert list(store.keys()) == [NEW_FIRST("ann")]


def test_who_was_moved_stays_moved_when_a_writer_still_writes_with_the_old_key(store: Store) -> None:
    streamed(store, NEW_FIRST, EVENTS[:6])
    streamed(store, OLD_FIRST, [event_of(60)])  # knows the new key, and finds the row there
    assert list(store.keys()) == [NEW_FIRST("ann")]
    assert len(store.dump(NEW_FIRST("ann")).views) == 7


def test_of_two_writers_that_meet_the_old_row_keeps_no_membership(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # 1 (2)   append ─ read ──────────────────────── write membership ─ look again ─ move
    # 2 (1)                  append ─ read ─ move
    write, met = store.write_memberships, list[bool]()

    def late(updates: Any) -> Any:
        if not met:
            met.append(True)
            streamed(store, NEW_FIRST, [event_of(61)])
        return write(updates)

    monkeypatch.setattr(store, "write_memberships", late)
    streamed(store, OLD_FIRST, EVENTS[:6])
    assert list(store.keys()) == [NEW_FIRST("ann")]
    row = store.read_row(NEW_FIRST("ann"))
    assert row.profile is not None
    assert row.profile.views == 7


def test_nobody_is_moved_before_a_key_writes(store: Store) -> None:
    streamed(store, OLD_FIRST, EVENTS)
    assert versions(store) == {1}


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("step", ["append", "write_identity", "write_memberships", "take_out"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_anywhere_a_move_loses_nothing_and_ends_the_second_time(
    step: str, after: bool, unrotated: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fresh(tmp_path / "store.db")
    streamed(store, ONLY_OLD, EVENTS)
    whole = getattr(store, step)

    def killed(*arguments: Any) -> Any:
        if after:
            whole(*arguments)
        raise Interrupted

    monkeypatch.setattr(store, step, killed)
    with pytest.raises(Interrupted):
        rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED)
    monkeypatch.undo()
    for raw_id in ("ann", "bob", "fox", "owl"):
        rows = store.read_rows(NEW_FIRST.names(raw_id)).values()
        assert any(row.membership or row.emptied for row in rows), "somebody can't be read in between"
    rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED)
    assert contents(store) == unrotated


def test_what_a_writer_with_the_old_key_appends_meanwhile_is_not_taken_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # move     read ── copy ── evaluate ──────────────── take out
    # writer                              append (late)
    streamed(store, ONLY_OLD, EVENTS[:6])
    late = view_cell(NOW - 5 * DAY_MS, "late", pack_attributes({}))
    take_out = store.take_out

    def raced(*arguments: Any) -> None:
        store.append([(ONLY_OLD("ann"), late)])
        store.write_identity([(ONLY_OLD("ann"), consent_cell(Said(5, opted_out=False)))])
        take_out(*arguments)

    monkeypatch.setattr(store, "take_out", raced)
    moving = OneRowEach(store, NEW_FIRST)
    rotate_rows(moving, PREPARED)
    monkeypatch.undo()
    assert store.dump(ONLY_OLD("ann")).views == [late]
    streamed(store, ONLY_NEW, [])
    # Its sealed id went with the rest; the writer's next event, or the person's, brings it again.
    streamed(store, NEW_FIRST, [event_of(60)])
    assert late in store.dump(NEW_FIRST("ann")).views
    assert list(store.keys()) == [NEW_FIRST("ann")]


def test_views_of_the_archive_move_as_cells_of_their_own(store: Store) -> None:
    old, new = ONLY_OLD("ann"), NEW_FIRST("ann")
    streamed(store, ONLY_OLD, EVENTS[:1])
    base = [view_cell(NOW - 3 * HOUR_MS, "of the archive", pack_attributes({}))]
    store.write_bases([(old, encode_base(base))], NOW - 2 * HOUR_MS)
    store.write_bases([(new, encode_base([view_cell(NOW - HOUR_MS, "newer", pack_attributes({}))]))], NOW)
    rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED)
    assert {cell.event_id for cell in store.read_windows([new], 10).cells[new]} == {"e0", "of the archive", "newer"}
    assert list(store.keys()) == [new]


def test_rows_that_nobody_sealed_are_counted_and_stay(store: Store) -> None:
    store.append([(ONLY_OLD("ann"), view_cell(NOW, "e", pack_attributes({})))])
    assert rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED) == RowsMoved(unsealed=1)
    assert list(store.keys()) == [ONLY_OLD("ann")]
    streamed(store, NEW_FIRST, [event_of(1)])
    assert list(store.keys()) == [NEW_FIRST("ann")], "the raw id in the next event tells"


def test_a_sealed_id_that_is_another_is_not_believed(store: Store) -> None:
    streamed(store, ONLY_OLD, EVENTS[:6])
    event = pseudonymise(event_of(60, user="eve"), ONLY_OLD)._replace(sealed_user_id=ONLY_OLD.seal("ann"))
    streamed(store, NEW_FIRST, [event])
    assert ONLY_OLD("eve") in set(store.keys()), "it stays by itself"
    assert len(store.dump(ONLY_OLD("ann")).views) == 6


def test_forgotten_under_the_old_name_stays_forgotten_under_the_new_one(store: Store) -> None:
    streamed(store, ONLY_OLD, [*EVENTS[:6], event_of(9, "forget")])
    streamed(store, NEW_FIRST, EVENTS[:6])
    assert not store.dump(NEW_FIRST("ann")).views
    graves = Graves()
    graves.look(store)
    assert graves.exactly(NEW_FIRST("ann")) > 0, "also when the old key is gone"
    streamed(store, ONLY_NEW, EVENTS[:6])
    assert not store.dump(NEW_FIRST("ann")).views


def test_a_forget_in_the_middle_of_a_rotation_reaches_all_rows(store: Store) -> None:
    streamed(store, ONLY_OLD, [*EVENTS[:10], EVENTS[13]])
    streamed(store, NEW_FIRST, [event_of(9, "forget")._replace(event_time=NOW)])
    rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED)
    assert all(not dump.views for dump in store.dumps(list(store.keys())).values())


def test_a_pseudonymised_event_gets_the_current_name_where_its_id_is_sealed() -> None:
    event = event_of(1, user="ann", browser="fox")._replace(experiment={"unit": "ann"})
    again = pseudonymise(pseudonymise(event, ONLY_OLD), NEW_FIRST)
    assert again == pseudonymise(event, NEW_FIRST)
    unsealed = pseudonymise(event, ONLY_OLD)._replace(sealed_user_id=None, sealed_anonymous_id=None)
    assert pseudonymise(unsealed, NEW_FIRST) == unsealed
    assert seal(ONLY_OLD.ring.current, "ann") != again.sealed_user_id
    assert pseudonym_of(NEW_FIRST.ring.current, "ann") == again.user_id


def test_who_moves_nothing_remembers_no_more_rows_than_a_page_needs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.names.MAX_NAMES", 5)
    users = [f"user{number}" for number in range(20)]
    streamed(store, NEW_FIRST, [event_of(number, user=user) for number, user in enumerate(users)])
    everybody = OneRowEach(store, OLD_FIRST)
    for number, user in enumerate(users):
        sealed = [(OLD_FIRST(user), sealed_cell(OLD_FIRST.seal(user)))]
        everybody.learn(sealed)
        refresh_rows(everybody, PREPARED, [OLD_FIRST(user)])
        assert len(everybody._newest) <= 6, f"after {number}"
    assert everybody.older_rows() == {}
    assert store.read_row(NEW_FIRST("user7")).membership is not None


def test_a_move_that_is_killed_after_somebody_was_forgotten_is_done_anew_and_leaves_nothing(store: Store) -> None:
    # copied ─ forgotten by another, who has seen the copy's absence ─ (late) the copy ─ killed
    streamed(store, ONLY_OLD, [*EVENTS[:6], EVENTS[13]])
    everybody, killed = OneRowEach(store, NEW_FIRST), [False]

    def forget_and_die(keys: Sequence[str], limit: int, *said: int) -> WindowRead:
        if any(store.dump(NEW_FIRST(user)).views for user in ("ann", "bob")) and not killed[0]:
            killed[0] = True
            store.bury([tombstone_of(name("ann"), NOW) for name in (ONLY_OLD, NEW_FIRST)])
            raise StoreUnavailableError("killed")  # noqa: EM101
        return read(keys, limit, *said)

    read, store.read_windows = store.read_windows, forget_and_die  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreUnavailableError):
        rotate_rows(everybody, PREPARED)
    assert store.dump(ONLY_OLD("ann")).views, "the old row stays until all is done"
    rotate_rows(OneRowEach(store, NEW_FIRST), PREPARED)
    assert killed[0]
    assert not any(store.dump(name("ann")).views for name in (ONLY_OLD, NEW_FIRST))


@pytest.mark.parametrize("names", [("ann", "fox"), ("fox", "ann")])
def test_who_writes_with_the_older_key_moves_a_person_as_one(store: Store, names: tuple[str, str]) -> None:
    events = [event_of(number, user=None, browser="fox") for number in range(5)]
    streamed(store, ONLY_OLD, [*events, event_of(5, "identify", browser="fox"), event_of(6)])
    store.append([(NEW_FIRST(name), view_cell(NOW - HOUR_MS, f"new{name}", pack_attributes({}))) for name in ("ann", "fox")])
    sealed = [(NEW_FIRST(name), sealed_cell(NEW_FIRST.seal(name))) for name in ("ann", "fox")]
    store.write_identity(sealed)
    everybody = OneRowEach(store, OLD_FIRST)
    everybody.learn(sealed)
    move_rows(everybody, PREPARED, {ONLY_OLD(name): NEW_FIRST(name) for name in names}, Graves())
    row = store.read_row(NEW_FIRST("ann"))
    assert row.profile is not None
    assert row.profile.views == 8
