"""The store's outages as visitors of a real gateway see them: the default listing with the right reason, and back again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.emulators import Endpoints
from schemas.instants import clock_ms
from schemas.profile_row import Membership, SegmentSpans, Span, encode_cell
from serving.store import RowUpdate, open_store
from tests.gateways import PSEUDONYMS, Gateway, Proxy, gateway_in, listings, members, reasons, visits_during
from tests.live import wait_until

pytestmark = pytest.mark.alone

RATE = 200.0
ELECTRIC = {f"l-{number}" for number in range(0, 40, 4)}
DEFAULT = "l-2"


class Scene:
    """A gateway whose store is behind a proxy, and users nobody has asked for yet."""

    def __init__(self, gateway: Gateway, proxy: Proxy, uri: str) -> None:
        self.gateway, self.proxy, self.uri = gateway, proxy, uri
        self._next = 0

    def users(self, count: int) -> list[str]:
        self._next += count
        return [f"u{number}" for number in range(self._next - count, self._next)]

    def check_personal(self) -> None:
        """Wait until a visitor who is a member gets the personal listing."""
        wait_until(lambda: visits_during(self.gateway.port, self.users(1), RATE)[0].reason is None, 20, "never personal again")
        found = visits_during(self.gateway.port, self.users(40), RATE)
        assert {visit.listing for visit in found} <= ELECTRIC

    def check_default(self, count: int, allowed: set[str]) -> None:
        found = visits_during(self.gateway.port, self.users(count), RATE)
        assert {visit.status for visit in found} == {200}
        assert set(reasons(found)) <= allowed
        assert {visit.listing for visit in found} == {DEFAULT}


@pytest.fixture
def scene(bigtable_store_uri: str, emulators_endpoints: Endpoints, tmp_path: Path) -> Iterator[Scene]:
    store = open_store(bigtable_store_uri)
    store.init()
    members(store, [f"u{number}" for number in range(5_000)], clock_ms())
    proxy = Proxy(emulators_endpoints.bigtable)
    settings = tmp_path / "serving.yaml"
    settings.write_text("deadline_ms: 400\n")  # a busy machine is no outage: how fast it is, benchmarks/outages.py says
    options = ("--store", bigtable_store_uri, "--settings", str(settings), "--inventory", str(listings(tmp_path / "l.jsonl")))
    with gateway_in(tmp_path, *options, environment={"BIGTABLE_EMULATOR_HOST": proxy.address}) as gateway:
        yield Scene(gateway, proxy, bigtable_store_uri)
    proxy.close()


def test_a_frozen_store_costs_the_personal_listing_and_nothing_else(scene: Scene, emulators_endpoints: Endpoints) -> None:
    scene.check_personal()
    os.killpg(emulators_endpoints.bigtable_pid, signal.SIGSTOP)
    try:
        scene.check_default(300, {"timeout", "store_down"})
        assert "forecourt_breaker_open 1.0" in scene.gateway.get("/metrics")
        scene.check_default(20, {"store_down"})
    finally:
        os.killpg(emulators_endpoints.bigtable_pid, signal.SIGCONT)
    scene.check_personal()
    assert "forecourt_breaker_open 0.0" in scene.gateway.get("/metrics")


def test_a_store_that_is_gone_is_found_again(scene: Scene) -> None:
    scene.check_personal()
    target, scene.proxy.target = scene.proxy.target, None
    scene.proxy.cut()
    scene.check_default(300, {"timeout", "store_down"})
    scene.proxy.target = target
    scene.check_personal()


def test_a_store_slower_than_the_deadline_is_given_up(scene: Scene) -> None:
    scene.check_personal()
    scene.proxy.delay_s = 1.0
    scene.check_default(300, {"timeout", "store_down"})
    scene.proxy.delay_s = 0.0
    scene.check_personal()


def test_rows_that_make_no_sense_cost_their_users_alone(scene: Scene) -> None:
    damaged, sound = scene.users(20), scene.users(20)
    store = open_store(scene.uri)
    endless = encode_cell(Membership(1, clock_ms(), [SegmentSpans("electric", [Span(0, 10**17, 0.8, 20, 16)])]))
    cells = [b"{", endless] * 10
    store.write_memberships(
        [RowUpdate(PSEUDONYMS(user), clock_ms() + 1, cell, b"", 0) for user, cell in zip(damaged, cells, strict=True)]
    )
    mixed = [user for pair in zip(damaged, sound, strict=True) for user in pair]
    found = visits_during(scene.gateway.port, mixed, RATE)
    assert [visit.reason for visit in found] == ["bad_row", None] * 20
    assert {visit.listing for visit in found[::2]} == {DEFAULT}
    assert not any(user in scene.gateway.said for user in damaged)


def test_what_was_put_on_its_way_is_written_when_the_gateway_is_told_to_end(
    bigtable_store_uri: str, emulators_endpoints: Endpoints, tmp_path: Path
) -> None:
    open_store(bigtable_store_uri).init()
    out = tmp_path / "events.jsonl"
    options = ("--store", bigtable_store_uri, "--inventory", str(listings(tmp_path / "listings.jsonl")), "--events", f"file:{out}")
    with gateway_in(tmp_path, *options) as gateway:
        asking = threading.Thread(target=visits_during, args=(gateway.port, [f"u{number}" for number in range(200)], 2_000))
        asking.start()
        asking.join()
        assert gateway.stop() == 0
    assert len(out.read_text().splitlines()) == 200
