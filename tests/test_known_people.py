"""What batch knows of people is what the events say, in whatever order and files they lie: against a reference, one by one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.archive_rows import archive_table
from schemas.event import Event
from schemas.identity import FOR_EVER, MAX_LINKS, NEVER, Link, digest_of, evidence_of, owning_link
from schemas.instants import DAY_MS, format_instant
from schemas.ledger import Entry, ledger_of
from schemas.pseudonym import Pseudonyms, pseudonym_of, ring_of, seal
from schemas.view import pack_attributes
from serving.store import open_store
from tests.people import PSEUDONYMS, Stream, changes_of
from tests.reference_day import people_of_events, views_of_people
from tests.reference_people import Happening
from tests.strategies import CATALOGUE
from transforms import known_ids, known_people
from transforms.archived_people import names_of, of_people
from transforms.event_columns import Wanted, read_events
from transforms.evidence import Asked, read_evidence
from transforms.known_people import KnownPeople, gathered, people_of
from transforms.shards import Shard, no_events, shard_of
from transforms.slices import slices_of

IDS = [f"1:{letter * 64}" for letter in "abcd"]
END = 30 * DAY_MS
NOTHING = pack_attributes({})


def event(event_id: str, kind: str, time: int, user: str | None, anonymous: str | None) -> Event:
    return Event(event_id, kind, time, user, anonymous, None, None, NOTHING, None, True)


def files_of(events: Sequence[Event], folder: Path, parts: int = 1) -> list[str]:
    paths = []
    for number in range(parts):
        some = events[number::parts]
        paths.append(str(folder / f"part-{number}.parquet"))
        pq.write_table(archive_table(some, CATALOGUE, [None] * len(some)), paths[-1], row_group_size=5)
    return paths


def look_up(known: KnownPeople, ids: pa.Array) -> known_ids.Ids:
    return known_ids.look_up(known.whose, known.graves, ids)


def known_of(
    paths: Sequence[str], ledger: Sequence[Entry] = (), graves: dict[bytes, int] | None = None, **asked: Any
) -> KnownPeople:
    found = [read_evidence([path], Asked(END, **asked)).said for path in paths]
    graves = {} if graves is None else graves
    return people_of(gathered([ledger_of(ledger), *found], graves), graves, {})


instants = st.integers(0, 11).map(lambda third: third * DAY_MS // 3)
ids = st.sampled_from(IDS)
either = st.one_of(st.none(), ids)
kinds = st.sampled_from(["listing_view", "identify", "identify", "opt_in", "opt_out", "opt_out", "lead", "forget"])
drawn = st.lists(
    st.tuples(kinds, instants, either, either).filter(lambda each: each[2:] != (None, None)), min_size=1, max_size=24
).map(lambda each: [event(f"e{number % 7}-{number}", *one) for number, one in enumerate(each)])


@settings(max_examples=200)
@given(
    events=drawn,
    unlinked=st.dictionaries(ids, instants, max_size=2),
    forgotten=st.dictionaries(ids, instants, max_size=1),
    parts=st.integers(1, 4),
    order=st.randoms(),
)
def test_it_is_what_the_reference_says(
    events: list[Event],
    unlinked: dict[str, int],
    forgotten: dict[str, int],
    parts: int,
    order: random.Random,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    people, until = people_of_events(
        [{**each._asdict(), "time": each.event_time} for each in events if each.event_time < END], unlinked, forgotten
    )
    lying = [*events, *order.sample(events, len(events) // 3)]
    order.shuffle(lying)
    paths = files_of(lying, tmp_path_factory.mktemp("files"), parts)
    ledger = [Entry("unlink", key, time) for key, time in unlinked.items()]
    known = known_of(paths, ledger, {digest_of(key): time for key, time in forgotten.items()})
    found = look_up(known, pa.array(IDS))
    assert dict(zip(IDS, found.forgotten.tolist(), strict=True)) == {key: until.get(key, NEVER) for key in IDS}
    counting: dict[str, tuple[str, int | None]] = {}
    for key, person in people.items():
        counting.update({each: (key, person.start) for each in person.ids})
    mentioned = {key for each in events for key in (each.user_id, each.anonymous_id) if key is not None}
    for key, person, start in zip(IDS, found.persons.to_pylist(), found.starts.tolist(), strict=True):
        if key in mentioned and key not in counting:
            assert start == FOR_EVER, "nobody's"
        elif key in mentioned:
            whose, since = counting[key]
            assert (person, start) == (whose, FOR_EVER if since is None else since)
        else:
            assert (person, start) == (key, NEVER)
    assert known.counts["opted_out"] == sum(person.start is None for person in people.values())
    assert known.counts["links"] == sum(len(person.ids) - 1 for person in people.values())


# --- views ---------------------------------------------------------------------------------------------------------------


def shard_in(paths: Sequence[str], known: KnownPeople) -> Shard:
    wanted = Wanted(tuple(CATALOGUE.attributes), sealed=True)
    tables = [
        table
        for path in paths
        for _, table in slices_of(of_people(read_events([path], CATALOGUE, wanted), known), [], 1, packed=True)
    ]
    return shard_of(tables) if tables else no_events(0)


views_too = st.lists(
    st.tuples(st.sampled_from(["listing_view"] * 4 + ["identify", "opt_in", "opt_out", "forget"]), instants, either, either).filter(
        lambda each: each[2:] != (None, None)
    ),
    min_size=1,
    max_size=24,
).map(lambda each: [event(f"e{number}", *one) for number, one in enumerate(each)])


@settings(max_examples=150)
@given(events=views_too, parts=st.integers(1, 3), order=st.randoms())
def test_the_views_that_count_are_the_references(
    events: list[Event], parts: int, order: random.Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = [{**each._asdict(), "event_time": format_instant(each.event_time), "attributes": {}} for each in events]
    lying = [*events, *order.sample(events, len(events) // 3)]
    order.shuffle(lying)
    paths = files_of(lying, tmp_path_factory.mktemp("files"), parts)
    shard = shard_in(paths, known_of(paths))
    found: dict[str, list[tuple[int, str]]] = {}
    for person, (first, last) in zip(shard.users, itertools.pairwise(shard.offsets.tolist()), strict=True):
        seen = [place for place in range(first, last) if shard.views[place]]
        if seen:
            found[person] = [(int(shard.times[place]), shard.ids[place].as_py()) for place in seen]
    expected = {key: [(view.time, view.event_id) for view in seen] for key, seen in views_of_people(lines, END).items()}
    assert {key: sorted(seen) for key, seen in found.items()} == expected


def test_a_persons_views_lie_in_the_rows_of_their_events(tmp_path: Path) -> None:
    user, device = IDS[:2]
    paths = files_of([event("e1", "listing_view", 5, None, device), event("e2", "listing_view", 6, user, device)], tmp_path)
    shard = shard_in(paths, known_of(paths))
    assert shard.users == [user]
    assert shard.rows is not None
    assert [shard.rows.values[code] for code in shard.rows.codes] == [device, ""]


# --- one by one ----------------------------------------------------------------------------------------------------------


def test_an_opt_in_before_the_link_lifts_no_other_profiles_opt_out(tmp_path: Path) -> None:
    user, device = IDS[:2]
    said = [event("e1", "opt_out", 3, None, device), event("e2", "opt_in", 4, user, None), event("e3", "identify", 6, user, device)]
    assert look_up(known_of(files_of(said, tmp_path)), pa.array([user, device])).starts.tolist() == [FOR_EVER, FOR_EVER]
    later = [*said, event("e4", "opt_in", 6, user, None)]
    assert look_up(known_of(files_of(later, tmp_path)), pa.array([user, device])).starts.tolist() == [6, 6]


def test_of_links_at_one_instant_the_first_by_event_id_counts_wherever_it_lies(tmp_path: Path) -> None:
    first, second, device = IDS[:3]
    said = [event("b", "identify", 5, first, device), event("a", "identify", 5, second, device)]
    for order in (said, said[::-1]):
        assert look_up(known_of(files_of(order, tmp_path, 2)), pa.array([device])).persons.to_pylist() == [second]


def test_beyond_a_hundred_ids_an_id_is_by_itself_or_the_next_users(tmp_path: Path) -> None:
    user, other = "1:" + "f" * 64, "1:" + "e" * 64
    devices = [f"1:{number:064x}" for number in range(MAX_LINKS + 3)]
    said = [event(f"e{number}", "identify", 5, user, each) for number, each in enumerate(devices)]
    last = event("last", "identify", DAY_MS, other, devices[-1])
    known = known_of(files_of([*said, last, event("out", "opt_out", 6, user, None)], tmp_path), sealed=True)
    found = look_up(known, pa.array(devices))
    assert found.persons.to_pylist() == [user] * MAX_LINKS + [*devices[MAX_LINKS:-1], other]
    assert found.starts.tolist() == [FOR_EVER] * MAX_LINKS + [NEVER] * 3, "what the user says is nothing to those beyond"
    assert (known.counts["links"], known.counts["conflicts"]) == (MAX_LINKS + 1, 0)
    links = [(row["key"], row["other"]) for row in known.said.to_pylist() if row["kind"] == "link"]
    assert sorted(links) == sorted([*((each, user) for each in devices[:MAX_LINKS]), (devices[-1], other)]), "nor is it staged"


def test_a_user_of_too_many_ids_is_the_same_by_stream_and_by_night(tmp_path: Path, sqlite_store_uri: str) -> None:
    store = open_store(sqlite_store_uri)
    store.init()
    names = {PSEUDONYMS(raw): raw for raw in (f"browser-{number}" for number in range(MAX_LINKS + 5))}
    browsers = sorted(names)
    happened = [
        Happening(f"e{number}", "listing_view", DAY_MS + number, "robot", names[each], {}) for number, each in enumerate(browsers)
    ]
    happened += [Happening(f"v{each}", "listing_view", DAY_MS + 9, None, names[each], {}) for each in browsers[-5:]]
    happened += [Happening("next", "listing_view", 2 * DAY_MS, "ann", names[browsers[-1]], {})]
    random.Random(3).shuffle(happened)
    stream = Stream(store)
    for start in range(0, len(happened), 40):
        stream.take(changes_of(happened[start : start + 40]))
    events = [event(each.event_id, "lead", each.time, *(each[3:5])) for each in happened]
    people = [(None if each.user_id is None else PSEUDONYMS(each.user_id), PSEUDONYMS(str(each.anonymous_id))) for each in events]
    events = [each._replace(user_id=user, anonymous_id=device) for each, (user, device) in zip(events, people, strict=True)]
    found = look_up(known_of(files_of(events, tmp_path)), pa.array(browsers))
    rows = store.read_windows(browsers, 1).identities
    owners = [owning_link(rows[each].links) if each in rows else None for each in browsers]
    assert found.persons.to_pylist() == [
        each if owner is None else owner.other for each, owner in zip(browsers, owners, strict=True)
    ]
    assert found.starts.tolist() == [NEVER] * len(browsers)
    store.close()


def test_evidence_is_thinned_out_on_the_way_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        event(f"e{day}-{number}", "lead", day * DAY_MS + number, IDS[number % 2], IDS[2 + number // 2 % 2])
        for day in range(25)
        for number in range(8)
    ]
    paths = files_of(events, tmp_path, 5)
    whole = known_of(paths, sealed=True)
    monkeypatch.setattr(known_people, "GATHERED_ROWS", 1)
    thinned = known_of(paths, sealed=True)
    assert thinned.whose.equals(whole.whose)
    assert sorted(map(str, thinned.said.to_pylist())) == sorted(map(str, whole.said.to_pylist()))
    assert thinned.counts == whole.counts == {"links": 2, "conflicts": 2, "opted_out": 0}
    for device in IDS[2:]:
        links = [
            Link(each.event_time, each.event_id, str(each.user_id), "lead", b"") for each in events if each.anonymous_id == device
        ]
        said = [(each["time"], each["event_id"], each["other"]) for each in whole.said.to_pylist() if each["key"] == device]
        assert sorted(said) == [link[:3] for link in evidence_of(links)]


def test_of_a_kiosks_users_the_first_hundred_count_however_their_links_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kiosk = IDS[0]
    users = [f"1:{(7 * number) % 131:064x}" for number in range(MAX_LINKS + 31)]
    said = [
        event(f"e{number}-{day}", "lead", day * DAY_MS + number // 2, user, kiosk)
        for number, user in enumerate(users)
        for day in ((0, 1, 12) if number < MAX_LINKS else (0, 25))
    ]
    random.Random(5).shuffle(said)
    paths = files_of(said, tmp_path, 9)
    whole = known_of(paths, sealed=True)
    monkeypatch.setattr(known_people, "GATHERED_ROWS", 1)
    assert known_of(paths, sealed=True).said.to_pylist() == whole.said.to_pylist()
    links = [Link(each.event_time, each.event_id, str(each.user_id), "lead", b"") for each in said if each.anonymous_id == kiosk]
    found = sorted((row["time"], row["event_id"], row["other"]) for row in whole.said.to_pylist() if row["key"] == kiosk)
    assert found == [link[:3] for link in evidence_of(links)]
    assert {other for _, _, other in found} == set(users[:MAX_LINKS])


def test_what_was_said_after_the_end_is_not_known_but_what_was_undone_is(tmp_path: Path) -> None:
    user, device = IDS[:2]
    paths = files_of([event("e1", "identify", END, user, device), event("e2", "opt_out", END, user, None)], tmp_path)
    assert known_of(paths).whose.num_rows == 0
    paths = files_of([event("e1", "identify", END - DAY_MS, user, device), event("e2", "forget", END, user, None)], tmp_path)
    assert look_up(known_of(paths), pa.array([user, device])).forgotten.tolist() == [END, END]
    assert known_of(paths[:0], [Entry("link", device, 5, "e1", "identify", user), Entry("unlink", device, END)]).whose.num_rows == 0


def test_two_ids_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (known_ids, known_people):
        monkeypatch.setattr(module, "hashes_of", lambda ids: np.full(len(ids), 7, np.uint64))
    user, other, device, fourth = IDS
    paths = files_of([event("e1", "identify", 5, user, device), event("e2", "opt_out", 5, other, None)], tmp_path)
    found = look_up(known_of(paths), pa.array(IDS))
    assert found.persons.to_pylist() == [user, other, user, fourth]
    assert found.starts.tolist() == [NEVER, FOR_EVER, NEVER, NEVER]


# --- keys ----------------------------------------------------------------------------------------------------------------


def test_pseudonyms_of_another_key_are_taken_for_those_of_the_key_that_writes(tmp_path: Path) -> None:
    ring = ring_of("2:" + "n" * 32 + "\n1:" + "o" * 32, "tests")
    new, old = ring.keys
    names = Pseudonyms(ring)

    def under(key: Any, event_id: str, kind: str, time: int, user: str | None, device: str | None) -> Event:
        ids = [None if raw is None else pseudonym_of(key, raw) for raw in (user, device)]
        sealed = [None if raw is None else seal(key, raw) for raw in (user, device)]
        return event(event_id, kind, time, *ids)._replace(sealed_user_id=sealed[0], sealed_anonymous_id=sealed[1])

    said = [
        under(old, "e1", "identify", 5, "ann", "phone"),
        under(new, "e2", "identify", 6, "bob", "phone"),
        under(old, "e3", "opt_out", 7, "bob", None),
        under(new, "e4", "listing_view", 8, "ann", None),
    ]
    liar = under(old, "e5", "listing_view", 9, "eve", None)._replace(sealed_user_id=seal(old, "ann"))
    paths = files_of([*said, liar], tmp_path)
    parts = [read_evidence([path], Asked(END, True, 2)) for path in paths]
    renamed = names_of(pa.concat_tables([part.names for part in parts]), ring)
    assert renamed == {pseudonym_of(old, raw): names(raw) for raw in ("ann", "phone", "bob")}, "eve is no other for saying so"
    grave = {digest_of(pseudonym_of(old, "bob")): 3}
    known = people_of(gathered([part.said for part in parts], grave), grave, renamed)
    ids = pa.array([pseudonym_of(key, raw) for key in (old, new) for raw in ("ann", "phone", "bob")])
    found = look_up(known, ids)
    assert found.rows.to_pylist() == [names(raw) for raw in ("ann", "phone", "bob")] * 2
    assert found.persons.to_pylist() == [names(raw) for raw in ("ann", "ann", "bob")] * 2
    assert found.starts.tolist() == [NEVER, NEVER, FOR_EVER] * 2
    assert found.forgotten.tolist() == [NEVER, NEVER, 3] * 2
    assert known.counts == {"links": 1, "conflicts": 0, "opted_out": 1}, "bob's link was forgotten with that date"
