"""Forgetting in the store, case by case: what the random interleavings of ``tests/test_identity_laws.py`` seldom come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from schemas.identity import MAX_LINKS, digest_of, links_void_until, tombstone_of
from schemas.instants import DAY_MS, HOUR_MS, clock_ms
from schemas.profile_row import LINKED, LINKS, IdentityCell, unlinked_cell
from serving.store import Refusal, RowUpdate, Store, open_store
from tests.people import PSEUDONYMS, RULES, Killed, Stream, changes_of, faults_of, killed, marks_of
from tests.reference_people import Happening, left_of
from transforms.forgetting import Graves, forget_people
from transforms.rows import refresh_rows
from transforms.windows import Maintainer

pytestmark = pytest.mark.alone

START = clock_ms() // DAY_MS * DAY_MS - 5 * DAY_MS
ELECTRIC = {"fuel_type": "electric"}


def event(number: int, kind: str, hours: float, user: str | None = None, anonymous: str | None = None) -> Happening:
    return Happening(f"e{number:04}", kind, START + int(hours * HOUR_MS), user, anonymous, ELECTRIC)


ANN, WIM, VAL, PHONE, GUEST = "ann@home", "wim@home", "val@home", "phone@home", "guest@home"


def dumped(store: Store) -> str:
    """All that rows hold."""
    return "\n".join(f"{key} {store.dump(key)} {store.read_row(key)}" for key in store.keys())


def is_in(raw_id: str, store: Store) -> bool:
    text = dumped(store)
    return any(repr(mark)[2:-1] in text for mark in marks_of(raw_id))


SHARED_DEVICE = [
    event(1, "listing_view", 1, anonymous=PHONE),
    event(2, "identify", 2, WIM, PHONE),
    event(3, "identify", 3, ANN, PHONE),
    event(4, "listing_view", 3, WIM),
    event(5, "listing_view", 5, anonymous=PHONE),
    event(6, "listing_view", 30, anonymous=PHONE),
    event(7, "forget", 6, ANN),
]


def test_on_a_shared_device_the_anonymous_views_go_and_the_other_user_stays(store: Store) -> None:
    # phone ─ view ─ Wim ─ Ann ─── view ─ forget(Ann) ──────── view
    Stream(store).take(changes_of(SHARED_DEVICE))
    assert faults_of(store, left_of(SHARED_DEVICE)) == []
    row = store.read_row(PSEUDONYMS(WIM))
    assert row.profile is not None
    assert row.profile.views == 1, "the anonymous views no longer count for the one whose device it was"
    assert set(store.keys()) == {PSEUDONYMS(PHONE), PSEUDONYMS(WIM)}
    assert not is_in(ANN, store)


@pytest.mark.parametrize("when", ["before", "after", "half"])
def test_killed_at_any_call_and_done_again_it_comes_to_the_same(sqlite_store_uri: str, when: str) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    calls = 0
    for call in range(200):
        store.forget(list(store.keys()))
        stream = Stream(store)
        stream.take(changes_of(SHARED_DEVICE[:-1]))
        stream.store.at(call, when, killed)
        try:
            stream.take(changes_of(SHARED_DEVICE[-1:]))
        except Killed:
            calls += 1
            stream.restart()
            stream.take(changes_of(SHARED_DEVICE[-1:]))
        assert faults_of(store, left_of(SHARED_DEVICE)) == [], f"killed {when} call {call}"
        assert not is_in(ANN, store), f"killed {when} call {call}"
        if stream.store.quiet():
            break
    assert calls > 10
    store.close()


def test_a_user_of_more_browsers_than_count_is_forgotten_whole(store: Store) -> None:
    others = [f"b{number:03}" for number in range(3 * MAX_LINKS)]
    events = [event(number, "listing_view", 1, GUEST, other) for number, other in enumerate(others)]
    views = [event(1_000 + number, "listing_view", 0.5, None, other) for number, other in enumerate(others)]
    stream = Stream(store)
    for number in range(0, len(events), 50):
        stream.take(changes_of([*views[number : number + 50], *events[number : number + 50]]))
    for _ in range(3):  # what lies beyond what a store reads at once is cut off bit by bit
        refresh_rows(store, RULES, [PSEUDONYMS(GUEST)])
    rows = store.read_rows([PSEUDONYMS(other) for other in others])
    aliases = {key for key, row in rows.items() if row.emptied == "alias"}
    assert aliases == set(sorted(rows)[:MAX_LINKS]), "the first hundred by pseudonym, whatever the order of arrival"
    assert all(row.profile is not None and row.link is None for key, row in rows.items() if key not in aliases)
    row = store.read_row(PSEUDONYMS(GUEST))
    assert row.profile is not None
    assert row.profile.views == len(others) + MAX_LINKS
    stream.take(changes_of([event(9_000, "forget", 2, GUEST)]))
    assert not is_in(GUEST, store)
    assert len(list(store.keys())) == len(others) - MAX_LINKS


def test_even_when_nobody_has_cut_any_off_yet(store: Store) -> None:
    others = [f"b{number:03}" for number in range(3 * MAX_LINKS)]
    events = [event(number, "identify", 1, GUEST, other) for number, other in enumerate(others)]
    Stream(store).take(changes_of([*events, event(9_000, "forget", 2, GUEST)]))
    assert not is_in(GUEST, store)


@pytest.mark.parametrize("whom", ["the kiosk", "one of its first users", "one of too many"])
def test_of_a_kiosk_of_hundreds_of_users_nothing_is_left_of_who_is_forgotten(store: Store, whom: str) -> None:
    kiosk, users = "kiosk@hall", [f"user{number:03}@hall" for number in range(2 * MAX_LINKS + 30)]
    stream = Stream(store)
    stream.take(changes_of([event(number, "listing_view", 1 + number / 100, user, kiosk) for number, user in enumerate(users)]))
    stream.take(changes_of([event(999, "listing_view", 1, None, kiosk)]))
    forgotten = {"the kiosk": kiosk, "one of its first users": users[7], "one of too many": users[-1]}[whom]
    identity = None if forgotten == kiosk else forgotten
    stream.take(changes_of([event(1_000, "forget", 9, identity, None if identity else kiosk)]))
    assert not is_in(forgotten, store)
    assert is_in(kiosk, store) == (whom == "one of too many"), "it goes with those who count"
    rows = store.read_rows([PSEUDONYMS(user) for user in users if user != forgotten])
    assert all(row.profile is not None for row in rows.values()), "bystanders keep their own views"


def test_an_anonymous_id_whose_link_was_undone_stays_when_the_user_is_forgotten(store: Store) -> None:
    anonymous, user = PSEUDONYMS(PHONE), PSEUDONYMS(ANN)
    Stream(store).take(changes_of([event(1, "listing_view", 1, None, PHONE), event(2, "identify", 2, ANN, PHONE)]))
    store.write_identity([(anonymous, unlinked_cell(START + 3 * HOUR_MS))])
    store.bury([])
    refresh_rows(store, RULES, [anonymous], relinked=[anonymous])
    row = store.read_row(anonymous)
    assert (row.link, row.profile is not None, store.read_row(user).emptied) == (None, True, "no_views")
    assert anonymous not in str(store.dump(user)), "nothing says any more whom the user was taken for"
    assert forget_people(store, RULES, {user: START + 9 * HOUR_MS}) == {user: START + 9 * HOUR_MS}
    assert not is_in(ANN, store)
    assert store.read_row(anonymous) == row


def test_a_tombstone_tells_nothing_but_whether_it_is_of_an_id(store: Store) -> None:
    key = PSEUDONYMS(ANN)
    forget_people(store, RULES, {key: START})
    (tombstone,) = store.tombstones()
    assert (tombstone.digest, tombstone.version, tombstone.time) == (digest_of(key), 1, START)
    assert key.partition(":")[2][:8] not in str(tombstone)
    graves = Graves()
    assert (bool(graves), graves.look(store), graves.look(store), bool(graves)) == (False, True, False, True)
    assert (graves.time_of(key), graves.among([key, "1:other"])) == (START, {key: START})


class Meanwhile:
    """A store with whose tombstones something happens each time somebody looks for new ones."""

    def __init__(self, store: Store, happens: Callable[[int], None]) -> None:
        self._store, self._happens, self.looks = store, happens, 0
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def burials(self) -> int:
        self.looks += 1
        self._happens(self.looks)
        return self._store.burials()

    def write_identity(self, cells: Sequence[tuple[str, IdentityCell]]) -> list[Refusal]:
        self.written += [key for key, cell in cells if cell.qualifier[:1] in (LINKS, LINKED)]
        return self._store.write_identity(cells)


def test_while_others_are_forgotten_a_batch_is_made_once_and_what_is_known_stays_known(store: Store) -> None:
    def bury(number: int) -> None:
        store.bury([tombstone_of(f"1:{number:064}", START)])
        store.empty_row(f"1:{number:064}", START)

    busy = Meanwhile(store, bury)
    maintainer = Maintainer(busy)  # type: ignore[arg-type]
    for number, looks in ((1, 2), (2, 3)):
        done = maintainer.maintain(RULES, changes_of([event(number, "listing_view", number, ANN, PHONE)]))
        assert (done.new, busy.looks) == (1, looks), "one look a batch, after its writes"
    assert len(busy.written) == 2, "the second event says nothing new of who is whom"


def test_who_is_forgotten_while_written_about_is_gone_also_when_the_store_then_fails(sqlite_store_uri: str) -> None:
    # phone ─ link(Ann) ─ view: Ann's row is written though the batch is the phone's alone; then Ann is forgotten, and it fails
    store = open_store(sqlite_store_uri)
    store.init()
    Stream(store).take(changes_of([event(1, "identify", 1, ANN, PHONE), event(2, "listing_view", 2, ANN)]))
    phone, ann = PSEUDONYMS(PHONE), PSEUDONYMS(ANN)
    late: list[RowUpdate] = []

    def forget(number: int) -> None:
        if number == 2:
            forget_people(store, RULES, {ann: START + 9 * HOUR_MS})
            store.write_memberships(late)  # what was read before comes after all
            raise Killed

    busy = Meanwhile(store, forget)
    maintainer = Maintainer(busy)  # type: ignore[arg-type]
    batch = changes_of([event(3, "listing_view", 3, None, PHONE)])
    write = store.write_memberships

    def written(updates: Sequence[RowUpdate]) -> list[Refusal]:
        late.extend(updates)
        return write(updates)

    busy.write_memberships = written  # type: ignore[attr-defined]
    with pytest.raises(Killed):
        maintainer.maintain(RULES, batch)
    assert [update.key for update in late] == [ann]
    assert store.read_row(ann).profile is not None
    maintainer.maintain(RULES, batch)
    assert list(store.keys()) == []
    assert not any(is_in(raw_id, store) for raw_id in (ANN, PHONE))
    assert not any(
        phone.encode() in path.read_bytes() for path in Path(sqlite_store_uri.removeprefix("sqlite:///")).parent.iterdir()
    )
    store.close()


def test_an_unlinking_goes_with_the_id_that_is_forgotten_on_that_date(store: Store) -> None:
    now = START + 3 * HOUR_MS
    Stream(store).take(changes_of([event(1, "listing_view", 1, None, PHONE), event(2, "identify", 2, ANN, PHONE)]))
    store.write_identity([(PSEUDONYMS(PHONE), unlinked_cell(links_void_until(now)))])
    store.bury([])
    refresh_rows(store, RULES, [PSEUDONYMS(PHONE)], relinked=[PSEUDONYMS(PHONE)])
    forget_people(store, RULES, {PSEUDONYMS(PHONE): now})
    assert not is_in(PHONE, store)
    assert list(store.keys()) == [PSEUDONYMS(ANN)]


def test_what_was_written_before_a_link_was_undone_is_written_again(store: Store) -> None:
    stream, tomorrow = Stream(store), 30
    stream.take(changes_of([event(1, "identify", 1, ANN, PHONE), event(2, "listing_view", 1, None, PHONE)]))
    store.write_identity([(PSEUDONYMS(PHONE), unlinked_cell(links_void_until(START)))])
    store.bury([])
    refresh_rows(store, RULES, [PSEUDONYMS(PHONE)], relinked=[PSEUDONYMS(PHONE)])
    stream.take(changes_of([event(3, "identify", tomorrow, ANN, PHONE)]))
    row = store.read_row(PSEUDONYMS(ANN))
    assert row.profile is not None, "the browser is hers once more"


def test_a_late_copy_stays_out_and_what_is_newer_comes_in(store: Store) -> None:
    stream = Stream(store)
    stream.take(changes_of([event(9, "forget", 5, ANN)]))
    done = stream.maintainer.maintain(RULES, changes_of([event(1, "listing_view", 5, ANN), event(2, "listing_view", 6, ANN)]))
    assert (done.new, done.copies, done.unwanted["forgotten"]) == (1, 0, 1)
    row = store.read_row(PSEUDONYMS(ANN))
    assert row.profile is not None
    assert row.profile.views == 1


def test_a_forget_with_both_ids_is_of_the_browser_too(store: Store) -> None:
    stream = Stream(store)
    stream.take(changes_of([event(1, "listing_view", 1, None, PHONE), event(2, "forget", 2, ANN, PHONE)]))
    assert list(store.keys()) == []
    assert not is_in(PHONE, store)


def test_views_of_who_opted_out_are_counted_as_refused(store: Store) -> None:
    stream = Stream(store)
    events = [event(1, "listing_view", 1, ANN), event(2, "opt_out", 2, ANN), event(3, "listing_view", 3, ANN)]
    done = stream.maintainer.maintain(RULES, changes_of(events))
    assert (done.new, done.copies, done.unwanted) == (0, 0, {"forgotten": 0, "opted_out": 2})
    assert store.read_row(PSEUDONYMS(ANN)).emptied == "opted_out"
    done = stream.maintainer.maintain(RULES, changes_of([event(4, "opt_in", 2.5, ANN), events[2]]))
    assert (done.new, done.copies, done.unwanted) == (0, 1, {"forgotten": 0, "opted_out": 0})


def test_conflicts_are_counted_also_when_the_link_is_known(store: Store) -> None:
    stream = Stream(store)
    first, second, again = (event(n, "identify", hours, user, PHONE) for n, hours, user in ((1, 1, ANN), (2, 2, VAL), (3, 3, VAL)))
    counted = [stream.maintainer.maintain(RULES, changes_of([each])).conflicts for each in (first, second, again, first)]
    assert counted == [0, 1, 1, 0]
