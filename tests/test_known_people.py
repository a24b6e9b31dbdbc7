"""What batch knows of people is what the events say, in whatever order and files they lie: against a reference, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.archive_rows import archive_table
from schemas.event import Event
from schemas.identity import FOR_EVER, MAX_LINKS, NEVER, digest_of
from schemas.instants import DAY_MS
from schemas.ledger import Entry, ledger_of
from schemas.pseudonym import Pseudonyms, pseudonym_of, ring_of, seal
from schemas.view import pack_attributes
from tests.reference_day import people_of_events
from tests.strategies import CATALOGUE
from transforms import known_people
from transforms.evidence import Asked, read_evidence
from transforms.known_people import KnownPeople, gathered, look_up, people_of

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


def known_of(paths: Sequence[str], ledger: Sequence[Entry] = (), graves: dict[bytes, int] | None = None, **asked: Any) -> KnownPeople:
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


@settings(max_examples=300)
@given(
    events=drawn,
    unlinked=st.dictionaries(ids, instants, max_size=2),
    forgotten=st.dictionaries(ids, instants, max_size=1),
    parts=st.integers(1, 4),
    order=st.randoms(),
)
def test_it_is_what_the_reference_says(events, unlinked, forgotten, parts, order, tmp_path_factory):
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
