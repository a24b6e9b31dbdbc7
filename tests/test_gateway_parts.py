"""What a gateway does when its store keeps consents waiting, and when warming it up fails; without a network."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from pipelines.serve import Config, Lifespan, Readiness, warmed_up
from schemas.settings import Settings
from serving import gateway
from serving.access import Access
from serving.gateway import Door, build_app
from serving.metrics import Metrics
from serving.reader import SegmentReader
from serving.service import Parts, Service
from serving.store import WindowRead
from tests.gateways import PSEUDONYMS
from tests.strategies import CATALOGUE
from tests.test_service import RELEASE, Members


class Stuck:
    """A store whose writes wait until they are let go."""

    def __init__(self) -> None:
        self.go, self.written = threading.Event(), 0

    def write_identity(self, cells: Any) -> list[Any]:
        assert self.go.wait(20)
        self.written += 1
        return []

    def read_windows(self, keys: Any, limit: int) -> WindowRead:
        return WindowRead(1, {key: [] for key in keys}, {})

    def write_memberships(self, updates: Any) -> list[Any]:
        return []


def parts() -> Parts:
    def nothing() -> None:
        return None

    reader = SegmentReader(Members(), PSEUDONYMS)
    return Parts(
        reader,
        PSEUDONYMS,
        CATALOGUE,
        Settings(),
        Metrics(),
        rules=lambda: RELEASE,
        experiments=nothing,
        inventory=nothing,
        outbox=None,
    )


def test_consents_that_wait_for_a_store_are_bounded_and_the_others_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "MAX_CONTROLS", 5)
    store = Stuck()

    async def run() -> list[tuple[int, str | None]]:
        app: Any = build_app(parts(), store, Door(lambda: None), lambda: "ready")  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            asked = [asyncio.create_task(client.post(f"/v1/users/u{number}/opt-out")) for number in range(8)]
            while sum(task.done() for task in asked) < 3:
                await asyncio.sleep(0.01)
            store.go.set()
            answers = await asyncio.gather(*asked)
            again = await client.post("/v1/users/u9/opt-in")
            return [(each.status_code, each.json().get("error", {}).get("code")) for each in (*answers, again)]

    answers = asyncio.run(run())
    assert sorted(answers[:-1]) == [(200, None)] * 5 + [(503, "overloaded")] * 3
    assert answers[-1] == (200, None), "there is room again"
    assert store.written == 6


def test_a_consent_that_waits_for_a_store_does_not_keep_the_process_from_ending() -> None:
    store = Stuck()

    async def run() -> list[str]:
        app: Any = build_app(parts(), store, Door(lambda: None), lambda: "ready")  # type: ignore[arg-type]
        before = set(threading.enumerate())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            asked = asyncio.create_task(client.post("/v1/users/ann/opt-out"))
            while not (waiting := set(threading.enumerate()) - before):
                await asyncio.sleep(0.01)
            store.go.set()
            assert (await asked).status_code == 200
        return [thread.name for thread in waiting if not thread.daemon]

    assert asyncio.run(run()) == []


def test_who_is_still_waiting_when_the_gateway_ends_is_told_in_its_own_form() -> None:
    async def run(begin: bool) -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            if sent and message["type"] == "http.response.start":
                raise RuntimeError
            sent.append(message)

        async def waits(scope: Any, receive: Any, send: Any) -> None:
            if begin:
                await send({"type": "http.response.start", "status": 200})
            await asyncio.Event().wait()

        lifespan = Lifespan(Config(store="sqlite:///x.db"), CATALOGUE, Settings(), Metrics())
        lifespan._app = waits
        task = asyncio.create_task(lifespan({"type": "http"}, None, send))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await task
        return sent

    head, body = asyncio.run(run(begin=False))
    assert head["status"] == 503
    assert b'"code":"ending"' in body["body"]
    assert len(asyncio.run(run(begin=True))) == 1


class Full:
    """An outbox without room."""

    def put(self, message: bytes) -> bool:
        return False


def test_a_consent_that_is_not_published_is_in_force_and_told() -> None:
    async def asked(outbox: Any) -> tuple[int, str | None, int, float]:
        given, store = parts()._replace(outbox=outbox), Stuck()
        store.go.set()
        app: Any = build_app(given, store, Door(lambda: None), lambda: "ready")  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            answer = await client.post("/v1/users/ann/opt-out")
        counted = given.metrics.registry.get_sample_value("forecourt_faults_total", {"where": "consent"}) or 0
        return answer.status_code, answer.json().get("error", {}).get("code"), store.written, counted

    assert asyncio.run(asked(Full())) == (503, "no_room", 1, 1)
    assert asyncio.run(asked(None)) == (200, None, 1, 1), "this gateway has nobody to tell: it is counted"


def test_warming_up_that_fails_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    readiness, answer, seen = Readiness(), Service.answer, []

    def broken_once(service: Service, chosen: Any) -> Any:
        seen.append(readiness.status)
        if len(seen) == 1:
            msg = "not yet"
            raise RuntimeError(msg)
        return answer(service, chosen)

    monkeypatch.setattr(Service, "answer", broken_once)
    asyncio.run(warmed_up(parts(), readiness, Config(store="sqlite:///x.db"), pause_s=0))
    assert seen[:2] == ["warming up", "warming up failed (RuntimeError), see the log"]
    assert readiness.status == "ready"
    assert capsys.readouterr().err.count("serving at") == 1


def test_the_document_asks_for_a_key_where_the_gateway_does() -> None:
    async def security(access: Access | None) -> Any:
        app: Any = build_app(parts(), Stuck(), Door(lambda: access), lambda: "ready")  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            return (await client.get("/openapi.json")).json()["security"]

    assert asyncio.run(security(Access([]))) == [{"key": []}]
    assert asyncio.run(security(None)) == []


def test_what_may_be_alerted_on_is_counted_from_nought() -> None:
    given = parts()
    build_app(given, Stuck(), Door(lambda: None), lambda: "ready")  # type: ignore[arg-type]
    value = given.metrics.registry.get_sample_value
    for where in ("assignment", "featured", "query", "exposure", "consent", "rules", "experiments", "look"):
        assert value("forecourt_faults_total", {"where": where}) == 0
    for reason in ("timeout", "store_down", "overloaded", "bad_row", "clock_behind", "fault", "unknown_user"):
        assert value("forecourt_fallbacks_total", {"reason": reason}) == 0
    assert value("forecourt_requests_total", {"route": "/v1/featured", "status": "500"}) == 0
    assert value("forecourt_exposures_total", {"taken": "no"}) == 0


def test_nobody_in_between_keeps_an_answer() -> None:
    async def run() -> set[str | None]:
        app: Any = build_app(parts(), Stuck(), Door(lambda: None), lambda: "ready")  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            answers = [await client.get(path) for path in ("/v1/users/ann/segments", "/v1/users/ann/why", "/readyz", "/nowhere")]
            answers.append(await client.post("/v1/featured", json={"session_id": "s"}))
            return {answer.headers.get("cache-control") for answer in answers}

    assert asyncio.run(run()) == {"no-store"}
