"""A release while the stream runs and events flow, against both emulators: canary, promotion, rollback; nothing may be lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import release
from pipelines.emulators import Endpoints
from pipelines.simulate import sink_of
from schemas.instants import clock_ms, format_instant
from schemas.release import Pointer
from serving.store import Store, open_store
from tests.live import Bench, Stream, bench_in, wait_until
from tests.reference import SeenView, distinct
from tests.release_rows import CANDIDATE_RULES, PSEUDONYMS, Rows, answers, drawn, expected_of, versions_expected, versions_of, wrong
from tests.traffic import RAW_ID, RULES, Traffic, expected_spans
from transforms.release_folder import read_pointer

pytestmark = pytest.mark.alone

USERS = [f"u{number}{RAW_ID.decode()}" for number in range(60)]
EVENTS_PER_S = 40.0
TAKES_EFFECT_S = 15.0


class Flow:
    """Events going out, each user's in turn, at the time that is in them; it can be held up."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.views: dict[str, list[SeenView]] = {raw_id: [] for raw_id in USERS}
        self.sent: list[bytes] = []
        self.ended, self._flows = threading.Event(), threading.Lock()

    def publish(self, topic: str) -> None:
        """Send until ``ended``."""
        with sink_of(topic) as write:
            for raw_id in itertools.cycle(USERS):
                if self.ended.wait(1 / EVENTS_PER_S):
                    return
                with self._flows:
                    self.sent.append(self._event(raw_id))
                    write(self.sent[-1])

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """No new events."""
        with self._flows:
            yield

    def copies(self, topic: str) -> None:
        """Send each user's newest event once more: rows are evaluated again and hold the same views."""
        newest = {json.loads(message)["user_id"]: message for message in self.sent}
        with sink_of(topic) as write:
            for message in newest.values():
                self.sent.append(message)
                write(message)

    @property
    def newest(self) -> dict[str, int]:
        """By raw id the time of the newest view, ms UTC."""
        return {raw_id: seen[-1].time for raw_id, seen in self.views.items()}

    def _event(self, raw_id: str) -> bytes:
        chance = self._rng
        attributes = {
            "fuel_type": chance.choice(["electric", "hybrid", "diesel"]),
            "body_type": chance.choice(["suv", "sedan"]),
            "price": float(chance.choice([15_000, 30_000, 50_000])),
        }
        seen = SeenView(clock_ms(), f"e{len(self.sent):06}", attributes)
        self.views[raw_id].append(seen)
        event = {"event_id": seen.event_id, "event_type": "listing_view", "event_time": format_instant(seen.time)}
        return json.dumps(event | {"user_id": raw_id, "attributes": attributes}).encode()


class Train:
    """A bench whose stream follows a release folder."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.folder = bench, bench.folder / "releases"
        self._store: Store = open_store(bench.store_uri)
        self._keys = {raw_id: PSEUDONYMS(raw_id) for raw_id in USERS}

    def rules(self, line: str) -> Pointer:
        """Run ``forecourt rules``; the pointer then."""
        assert release.run([*line.split(), "--releases", str(self.folder)]) == 0
        return read_pointer(str(self.folder))

    def stream(self) -> Stream:
        options = [str(self.folder) if each == str(self.bench.rules) else each for each in self.bench.options]
        self.bench.streams.append(Stream(self.bench.folder, *options))
        return self.bench.streams[-1]

    def rows(self) -> Rows:
        found = self._store.read_rows(list(self._keys.values()))
        return {raw_id: found[key] for raw_id, key in self._keys.items()}

    def follows(self, pointer: Pointer) -> bool:
        """Whether all rows are by the versions that a pointer says."""
        return all(versions_of(row) == versions_expected(raw_id, pointer) for raw_id, row in self.rows().items())

    def is_up_to_date(self, flow: Flow) -> bool:
        """Whether each row has its user's newest event."""
        newest = flow.newest
        return all(row.membership and row.membership.as_of == newest[raw_id] for raw_id, row in self.rows().items())


@pytest.fixture
def train(tmp_path: Path, emulators_endpoints: Endpoints) -> Iterator[Train]:
    with bench_in(tmp_path, emulators_endpoints) as bench:
        train = Train(bench)
        for version, text in ((41, RULES), (42, CANDIDATE_RULES)):
            (tmp_path / f"{version}.yaml").write_text(text)
            train.rules(f"publish {tmp_path}/{version}.yaml --force tests")
        yield train


@pytest.fixture
def flow(train: Train) -> Iterator[Flow]:
    flow = Flow(seed=3)
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(flow.publish, train.bench.topic)
        try:
            yield flow
        finally:
            flow.ended.set()
    publishing.result()


def test_a_release_from_canary_to_rollback_while_events_flow(train: Train, flow: Flow) -> None:
    # events    ▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸  held up, copies      ▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸▸
    # pointer   41 ───── canary 0 ──── canary 30 ──────────────── promote ───── rollback ──────────
    # rows      41       41 (42)       42 │ 41 (42)               42            41
    stream = train.stream()
    wait_until(lambda: train.follows(Pointer(41)), 60, "not every user has a row of version 41")

    shadowing = train.rules("canary 42 --percent 0")
    wait_until(lambda: train.follows(shadowing), TAKES_EFFECT_S, "not every row has a shadow")

    canary = train.rules("canary 42 --percent 30")
    inside = [raw_id for raw_id in USERS if drawn(raw_id, canary)]
    assert 0 < len(inside) < len(USERS)
    wait_until(lambda: train.follows(canary), TAKES_EFFECT_S, "not every row is as the canary says")

    with flow.held_up():
        wait_until(lambda: train.is_up_to_date(flow), TAKES_EFFECT_S, "not every event is in its row")
        rows, expected = train.rows(), expected_of(flow.views)
        assert wrong(rows, expected, canary) == []
        assert expected.by_version[41] != expected.by_version[42]
        shadows, served = answers(rows, shadow=True), answers(rows, shadow=False)
        assert set(shadows) == set(USERS) - set(inside)
        promoted = train.rules("promote")

        def follows_at_the_next_event() -> bool:
            flow.copies(train.bench.topic)
            time.sleep(0.5)
            return train.follows(promoted)

        wait_until(follows_at_the_next_event, TAKES_EFFECT_S, "not every row is promoted")
        assert answers(train.rows(), shadow=False) == {raw_id: shadows.get(raw_id, served[raw_id]) for raw_id in USERS}

    rolled_back_at = clock_ms()
    back = train.rules("rollback")
    assert back == Pointer(41)
    took_s = wait_until(lambda: train.follows(back), TAKES_EFFECT_S, "rows are not of version 41 again")
    print(f"rolled back after {took_s:.1f} s")
    while clock_ms() < rolled_back_at + 1_000 * TAKES_EFFECT_S + 2_000:
        late = [row for row in train.rows().values() if row.membership and row.membership.as_of > rolled_back_at + 1_000 * took_s]
        assert {versions_of(row) for row in late} <= {(41, None)}
        time.sleep(0.2)
    flow.ended.set()
    time.sleep(0.2)
    assert min(flow.newest.values()) > rolled_back_at + 1_000 * TAKES_EFFECT_S, "users without an event in time show nothing"

    views = {raw_id: distinct(seen) for raw_id, seen in flow.views.items()}
    balance = train.bench.settled(Traffic(flow.sent, views, frozenset()), expected_spans(views, RULES))
    assert balance.faults == {}
    assert balance.views == sum(map(len, views.values())) > 500
    assert "rules version 41 in force (was 42)" in stream.said
    status, document = stream.stopped()
    assert (status, document["holds"]) == (0, True), stream.said
    assert document["read"] >= len(flow.sent)
