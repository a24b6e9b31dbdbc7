"""Many writers at once, threads and processes: the rows end as one evaluation over all views would have them."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from schemas.instants import DAY_MS, clock_ms
from schemas.profile_row import view_cell
from schemas.view import pack_attributes
from serving.store import Store, open_store
from tests.maintained import maintain_windows
from tests.reference import SeenView, distinct
from tests.strategies import Spec, rules_of, views_of_seen
from transforms.canary import Prepared
from transforms.membership import Rules, evaluate
from transforms.windows import KeyedView

pytestmark = pytest.mark.alone

USERS = [f"1:{number}" for number in range(4)]
SPECS: list[Spec] = [
    {"when": {"fuel_type": "electric"}, "min_views": 1, "enter": 0.5, "exit": 0.3},
    {"when": {"not": {"fuel_type": "electric"}}, "min_views": 1, "half_life": "1h"},
]
PROCESSES, THREADS, BATCHES, BATCH = 2, 3, 8, 6


def traffic(base: int) -> list[tuple[str, SeenView]]:
    """Views of a few users, the same for the same base; some are copies, some of them with another time."""
    chance = random.Random(base)
    sent: list[tuple[str, SeenView]] = []
    for number in range(PROCESSES * THREADS * BATCHES * BATCH):
        if sent and chance.random() < 0.1:
            user, view = chance.choice(sent)
            sent.append((user, view._replace(time=view.time + chance.choice([0, 0, 5_000]))))
        else:
            fuel = {"fuel_type": chance.choice(["electric", "diesel"])}
            sent.append((chance.choice(USERS), SeenView(base + chance.randrange(DAY_MS // 2), f"e{number:05}", fuel)))
    return sent


def batches_of(base: int, process: int) -> list[list[KeyedView]]:
    views = [(user, view_cell(view.time, view.event_id, pack_attributes(view.attributes))) for user, view in traffic(base)]
    mine = views[process::PROCESSES]
    return [mine[start : start + BATCH] for start in range(0, len(mine), BATCH)]


def write(uri: str, emulator: str, base: int, process: int) -> None:
    """One process: its threads share a store, as the threads of a worker do."""
    os.environ["BIGTABLE_EMULATOR_HOST"] = emulator
    store, rules = open_store(uri), rules_of(*SPECS)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda batch: maintain_windows(store, Prepared(rules), batch), batches_of(base, process)))
    store.close()


def assert_as_one_evaluation(store: Store, rules: Rules, base: int) -> None:
    rows = store.read_rows(USERS)
    for user in USERS:
        seen = distinct(view for whose, view in traffic(base) if whose == user)
        assert rows[user].membership == evaluate(views_of_seen(seen), rules), user


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as processes:
        yield processes


def test_threads_and_processes_that_race_end_with_one_evaluation_of_all_views(
    processes: ProcessPoolExecutor, store_uri: str
) -> None:
    base = clock_ms() - DAY_MS
    store = open_store(store_uri)
    store.init()
    emulator = os.environ.get("BIGTABLE_EMULATOR_HOST", "")
    list(processes.map(write, *zip(*[(store_uri, emulator, base, number) for number in range(PROCESSES)], strict=True)))
    assert_as_one_evaluation(store, rules_of(*SPECS), base)


def test_an_update_that_overtakes_a_newer_one_does_not_stay(store_uri: str) -> None:
    # slow   append ── read ─────────────────────── write
    # fast             append ── read ── write
    base = clock_ms() - DAY_MS
    slow, fast = open_store(store_uri), open_store(store_uri)
    slow.init()
    rules = rules_of(*SPECS)
    views = [(USERS[0], view_cell(base + i, f"e{i}", pack_attributes({"fuel_type": "electric"}))) for i in range(2)]
    held = slow.write_memberships
    slow.write_memberships = lambda updates: (maintain_windows(fast, Prepared(rules), views[1:]), held(updates))[1]  # type: ignore[method-assign]
    maintain_windows(slow, Prepared(rules), views[:1])
    membership = fast.read_row(USERS[0]).membership
    assert membership is not None
    assert (membership.as_of, membership.segments[0].spans[0].views) == (base + 1, 2)
