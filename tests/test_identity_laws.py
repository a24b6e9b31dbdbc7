"""The laws of SEMANTICS §6-7 over random interleavings, through the real stream code, on both stores.

Events of several ids, some of them copies, arrive in any order, in batches, at one of two processes; these restart, are killed
at any call of the store and get their batch again, and work in between each other's calls. Whatever the order, the rows are those
of ``tests/reference_people.py``, and of who is forgotten no byte is left.
"""

from __future__ import annotations

import functools
import itertools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.store import Store, open_store
from tests.people import Killed, Stream, changes_of, faults_of, found_in, happenings, killed
from tests.reference_people import Happening, left_of
from transforms.changes import Change

pytestmark = pytest.mark.alone

EXAMPLES = int(os.environ.get("FORECOURT_LAW_EXAMPLES", "0"))
_numbers = itertools.count()


class World:
    """A store with nothing in it, and how to look at every byte of it."""

    def __init__(self, store: Store, content: Callable[[], bytes], prefix: str = "id-") -> None:
        self.store, self.content, self.prefix = store, content, prefix


@pytest.fixture
def sqlite_worlds(tmp_path: pathlib.Path) -> Iterator[Callable[[], World]]:
    """A new file each, copied from an empty one."""
    empty = open_store(f"sqlite:///{tmp_path}/empty.db")
    empty.init()
    empty.purge()
    empty.close()
    template, path = (tmp_path / "empty.db").read_bytes(), tmp_path / "store.db"
    opened: list[Store] = []

    def close() -> None:
        while opened:
            opened.pop().close()
        for leftover in tmp_path.glob("store.db*"):
            leftover.unlink()

    def world() -> World:
        close()
        path.write_bytes(template)
        store = open_store(f"sqlite:///{path}")
        opened.append(store)

        def content() -> bytes:
            store.purge()
            return b"".join(each.read_bytes() for each in sorted(tmp_path.glob("store.db*")))

        return World(store, content)

    yield world
    close()


@pytest.fixture
def bigtable_worlds(bigtable_store_uri: str) -> Iterator[Callable[[], World]]:
    """One table, emptied each time, but for tombstones; read past our own code."""
    from google.cloud.bigtable.data import BigtableDataClient, ReadRowsQuery

    store = open_store(bigtable_store_uri)
    store.init()
    project, instance, table = bigtable_store_uri.removeprefix("bigtable://").split("/")
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # "connecting to the emulator"
        client = BigtableDataClient(project=project)

    def content() -> bytes:
        rows = client.get_table(instance, table).read_rows(ReadRowsQuery())
        return b"\n".join(b"\n".join([row.row_key, *(cell.qualifier + b"\n" + cell.value for cell in row)]) for row in rows)

    def world() -> World:
        store.forget(list(store.keys()))
        return World(store, content, f"id{next(_numbers)}-")

    with client:
        yield world
    store.close()


def deal(data: st.DataObject, world: World, events: list[Happening], *, trouble: bool) -> None:
    """Let the events arrive, in some order, some twice; what a process fails at comes again, to it or to another."""
    again = data.draw(st.lists(st.sampled_from(events), max_size=4), "copies") if events else []
    arriving = data.draw(st.permutations([*events, *again]), "order of arrival")
    streams = [Stream(world.store), Stream(world.store)]
    waiting: list[list[Change]] = []
    while arriving:
        size = data.draw(st.integers(1, 4), "batch")
        waiting.append(changes_of(arriving[:size]))
        arriving = arriving[size:]
    while waiting:
        batch, stream = waiting.pop(0), data.draw(st.sampled_from(streams), "process")
        other = streams[stream is streams[0]]
        happens = data.draw(st.sampled_from(["", "", "restart", "kill", "meet"]), "what happens") if trouble else ""
        call, when = (
            (data.draw(st.integers(0, 16)), data.draw(st.sampled_from(["before", "after", "half"]))) if happens else (0, "")
        )
        if happens == "restart":
            stream.restart()
        elif happens == "kill":
            stream.store.at(call, when, killed)
        elif happens == "meet" and waiting:
            meeting = waiting.pop(0)
            stream.store.at(call, when, functools.partial(other.take, meeting))
            stream.take(batch)
            if stream.store.quiet():  # it was over before that call
                waiting.insert(0, meeting)
            continue
        try:
            stream.take(batch)
        except Killed:
            if data.draw(st.booleans(), "killed, not only held up"):
                stream.restart()
            waiting.insert(data.draw(st.integers(0, len(waiting)), "comes again"), batch)
        stream.store.quiet()


def check(world: World, events: list[Happening]) -> None:
    left = left_of(events)
    assert faults_of(world.store, left) == []
    assert found_in(world.content(), left) == []


def law(worlds: Callable[[], World], data: st.DataObject, **options: Any) -> None:
    world = worlds()
    events = data.draw(happenings(world.prefix), "events")
    deal(data, world, events, **options)
    check(world, events)
    late = [each for each in events if each.event_type != "forget"]
    if late:  # copies of everything once more: what is forgotten stays out
        Stream(world.store).take(changes_of(late))
        check(world, events)


@settings(max_examples=EXAMPLES or 250)
@given(data=st.data())
def test_whatever_the_order_the_rows_are_the_references_in_a_file(sqlite_worlds: Callable[[], World], data: st.DataObject) -> None:
    law(sqlite_worlds, data, trouble=False)


@settings(max_examples=EXAMPLES or 400)
@given(data=st.data())
def test_killed_restarted_and_two_at_once_they_are_too_in_a_file(sqlite_worlds: Callable[[], World], data: st.DataObject) -> None:
    law(sqlite_worlds, data, trouble=True)


@settings(max_examples=EXAMPLES or 60)
@given(data=st.data())
def test_whatever_the_order_and_the_trouble_the_rows_are_the_references_in_bigtable(
    bigtable_worlds: Callable[[], World], data: st.DataObject
) -> None:
    law(bigtable_worlds, data, trouble=True)
