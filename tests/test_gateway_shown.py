"""A real ``forecourt serve`` without an inventory: the searcher brings back what it found, to another process than it asked."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from schemas.instants import clock_ms
from serving.store import open_store
from tests.exposures import exposure_of
from tests.gateways import HOST, PSEUDONYMS, Gateway, gateway_in, listings, members
from tests.live import wait_until
from tests.opensearch_dsl import search
from tests.test_gateway import EXPERIMENTS

pytestmark = pytest.mark.alone


class Place(NamedTuple):
    """Two processes of one service, and the listings, which are elsewhere."""

    asked: Gateway
    told: Gateway
    folder: Path
    rows: list[dict[str, Any]]

    @property
    def impressions(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "events.jsonl"
        return {event["event_id"]: event for event in map(json.loads, path.read_text().splitlines())} if path.exists() else {}


def post(gateway: Gateway, path: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"http://{HOST}:{gateway.port}{path}", data, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("shown")
    uri = f"sqlite:///{folder}/store.db"
    store = open_store(uri)
    store.init()
    members(store, ["ann-with-secret-id"], clock_ms())
    rows = [json.loads(line) for line in listings(folder / "listings.jsonl").read_text().splitlines()]
    (folder / "experiments.yaml").write_text(EXPERIMENTS)
    options = ["--store", uri, "--experiments", str(folder / "experiments.yaml"), "--events", f"file:{folder}/events.jsonl"]
    with gateway_in(folder, *options) as asked, gateway_in(folder, *options) as told:
        yield Place(asked, told, folder, rows)


def test_an_experiment_is_run_where_the_listings_are_in_a_search_service(place: Place) -> None:
    arms = set()
    for number in range(8):
        status, choice = post(place.asked, "/v1/featured", {"session_id": f"x{number}", "user_id": "ann-with-secret-id", "k": 2})
        assert (status, choice["positions"], "secret" in json.dumps(choice)) == (200, [], False)
        arm = choice["assignment"]["arm"]
        assert (choice["personalised"], choice["reason"]) == ((True, None) if arm == "treatment" else (False, "control"))
        response, other = (search(choice[name], place.rows) for name in ("query", "other_query"))
        sent = {"ticket": choice["ticket"], "response": response, "other_response": other}
        status, found = post(place.told, "/v1/featured/shown", sent)
        assert status == 200, found
        shown = [each["_source"]["listing_id"] for each in response["hits"]["hits"]]
        assert [each["listing"]["listing_id"] for each in found["positions"]] == shown
        ids = [each["impression_id"] for each in found["positions"]]
        wait_until(lambda: set(ids) <= set(place.impressions), 10, "no exposures")  # noqa: B023
        for at, each in enumerate(ids):
            event = place.impressions[each]
            exposure = exposure_of(event["experiment"])
            assert (event["listing_id"], event["user_id"]) == (shown[at], PSEUDONYMS("ann-with-secret-id"))
            assert (exposure.arm, exposure.shown, exposure.triggered) == (arm, arm == "treatment", True)
            assert (exposure.segment, exposure.rung, exposure.position, exposure.k) == ("electric", "single_segment", at + 1, 2)
        assert exposure_of(place.impressions[ids[0]]["experiment"]).differs
        arms.add(arm)
    assert arms == {"control", "treatment"}
    assert b"secret" not in (place.folder / "events.jsonl").read_bytes()
    assert "secret" not in place.asked.said + place.told.said


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"x" * (64 * 1024 + 1), 413, "too_large"),
        (b"[" * 5_000, 400, "bad_request"),
        (b'{"ticket": "AQ", "response": []}', 400, "bad_request"),
        (b'{"ticket": "AQ", "response": {}}', 400, "bad_ticket"),
        (b'{"ticket": "\\ud800", "response": {}}', 400, "bad_request"),
        ('{"ticket": "ü", "response": {}}'.encode(), 400, "bad_ticket"),
    ],
)
def test_what_cannot_be_used_is_refused(place: Place, body: bytes, status: int, code: str) -> None:
    answer = post(place.told, "/v1/featured/shown", body)
    assert (answer[0], answer[1]["code"]) == (status, code)


def test_the_document_has_the_route(place: Place) -> None:
    document = place.told.get("/openapi.json")
    assert set(document["paths"]["/v1/featured/shown"]["post"]["responses"]) >= {"200", "400", "413", "422", "503"}
    properties = document["components"]["schemas"]["ShownRequest"]["properties"]
    assert set(properties) == {"ticket", "response", "other_response"}
