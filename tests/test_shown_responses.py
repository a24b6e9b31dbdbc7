"""What a gateway without an inventory is brought: tickets of other processes, responses that aren't whole; and all over HTTP."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import pytest

from schemas.release import Release
from serving import service
from serving.gateway import Door, build_app
from serving.opensearch_responses import ResponseError
from serving.tickets import TicketError
from tests.desks import Desk, Stock, experiments, in_arm, over_http, release, searched, stocks_in
from tests.opensearch_dsl import search
from tests.test_service import NOW


@pytest.fixture(scope="module")
def stocks(tmp_path_factory: pytest.TempPathFactory) -> list[Stock]:
    return stocks_in(tmp_path_factory.mktemp("stocks"))


def test_the_same_ticket_twice_writes_the_same_impressions(stocks: list[Stock]) -> None:
    desk = Desk(None, ("electric", "suv"), experiments())
    told = searched(desk.featured(in_arm("treatment", k=3)), stocks[4].rows)
    assert desk.shown(told, NOW + 1) == desk.shown(told, NOW + 2)
    assert desk.box.events[:3] == desk.box.events[3:]


def test_any_process_takes_a_ticket_and_the_choice_in_it_counts_whatever_has_changed(stocks: list[Stock]) -> None:
    desk = Desk(None, ("electric",), experiments())
    told = searched(desk.featured(in_arm("treatment")), stocks[4].rows)
    right, changed = desk.shown(told), [release(2), release(1)]
    other = Desk(None, ("suv",), None, rules=lambda: Release(changed[0].active, changed[1].active, 0.5))
    assert other.shown(told) == right
    assert [event["experiment"]["arm"] for event in other.box.events] == ["treatment"]


def test_a_ticket_whose_rules_are_gone_is_refused_with_words(stocks: list[Stock]) -> None:
    told = searched(Desk(None, ("electric",), experiments()).featured(in_arm("treatment")), stocks[4].rows)
    with pytest.raises(TicketError, match="ticket's rules == 1, must be in use still: search again, with a new ticket"):
        Desk(None, ("electric",), experiments(), rules=lambda: release(2)).shown(told)
    fewer = release()._replace(active=release().active._replace(rules=release().active.rules[1:]))
    with pytest.raises(TicketError, match="ticket's rules == 1, must have the segments that version 1 has here"):
        Desk(None, ("electric",), experiments(), rules=lambda: fewer).shown(told)


def hit(**source: Any) -> dict[str, Any]:
    return {"_source": {"listing_id": "l", "sponsored": True, **source}}


def hits(*found: dict[str, Any]) -> dict[str, Any]:
    return {"hits": {"hits": [*found]}}


@pytest.mark.parametrize(
    ("name", "changed", "told"),
    [
        ("other_response", None, "other_response is missing, must be the response to other_query"),
        ("response", {"error": {"type": "search_phase_execution_exception"}, "status": 503}, "response.error is given, must be"),
        ("other_response", {"error": "none"}, "other_response.error is given"),
        ("response", {}, "response: Object missing required field `hits`"),
        ("response", {"hits": {}}, "response.hits: Object missing required field `hits`"),
        ("response", {"timed_out": True, "hits": {"hits": []}}, "response.timed_out == true, must be false"),
        ("other_response", {"_shards": {"failed": 1}, "hits": {"hits": []}}, r"other_response._shards.failed == 1, must be 0"),
        ("response", {"hits": {"hits": []}}, r"buckets.electric is missing, must be there: is this the query's response\?"),
        ("other_response", hits({"_id": "l"}), r"hits.hits\[0\]: Object missing required field `_source`"),
        ("other_response", hits({"_source": {"listing_id": "l"}}), r"\[0\]._source: .* field `sponsored`"),
        ("other_response", hits(hit(), hit()), "other_response.hits.hits: length == 2, must be at most 1"),
        (
            "other_response",
            hits(hit(sponsored="true")),
            "_source.sponsored: Expected",
        ),
        ("other_response", hits(hit(price="5")), "price == '5', must be a number"),
        (
            "other_response",
            hits(hit(make=["Kia"])),
            r"make == \['Kia'\], must be text",
        ),
        ("other_response", hits(hit(price=True)), "price == True, must be a number"),
        ("other_response", hits(hit(price=math.inf)), "price == inf, must be a number"),
        ("other_response", hits(hit(listing_id="")), "_source.listing_id: Expected"),
    ],
)
def test_a_response_that_is_not_whole_is_refused_with_its_place_and_nothing_is_written(
    stocks: list[Stock], name: str, changed: Any, told: str
) -> None:
    desk = Desk(None, ("electric",), experiments())
    sent = searched(desk.featured(in_arm("treatment")), stocks[4].rows) | {name: changed}
    with pytest.raises(ResponseError, match=told):
        desk.shown(sent)
    assert (desk.box.events, desk.counted("rungs")) == ([], {})


def test_the_responses_the_wrong_way_round_are_refused(stocks: list[Stock]) -> None:
    for arm in ("control", "treatment"):
        desk = Desk(None, ("electric",), experiments())
        sent = searched(desk.featured(in_arm(arm)), stocks[4].rows)
        with pytest.raises(ResponseError, match="is this the query's response"):
            desk.shown(sent | {"response": sent["other_response"], "other_response": sent["response"]})


def test_what_a_response_needs_is_its_hits_sources_matched_queries_and_counts(stocks: list[Stock]) -> None:
    desk = Desk(None, ("electric", "suv"), experiments())
    sent = searched(desk.featured(in_arm("treatment", k=5)), stocks[4].rows)
    right = desk.shown(sent)
    for name in ("response", "other_response"):
        whole = sent[name]["hits"]["hits"]
        found = [{key: each[key] for key in ("_source", "matched_queries") if key in each} for each in whole]
        counts = {key: sent[name][key] for key in ("aggregations",) if key in sent[name]}
        sent[name] = {**hits(*found), **counts}
    assert desk.shown(sent) == right


def test_over_http(stocks: list[Stock]) -> None:
    asked = in_arm("treatment", user_id="ann-with-secret-id")

    async def told(desk: Desk, *bodies: Any) -> list[tuple[int, Any]]:
        app: Any = build_app(desk.parts, None, Door(lambda: None, lambda: NOW), lambda: "ready")  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            answers = []
            for body in bodies:
                answer = await client.post("/v1/featured" if "session_id" in body else "/v1/featured/shown", json=body)
                answers.append((answer.status_code, answer.json()))
            return answers

    desk = Desk(None, ("electric",), experiments())
    ((status, choice),) = asyncio.run(told(desk, asked))
    assert (status, choice["personalised"], choice["positions"]) == (200, True, [])
    assert "secret" not in choice["ticket"]
    sent = {
        "ticket": choice["ticket"],
        "response": over_http(search(choice["query"], stocks[4].rows)),
        "other_response": over_http(search(choice["other_query"], stocks[4].rows)),
    }
    answers = asyncio.run(
        told(desk, sent, {**sent, "ticket": "x"}, {**sent, "other_response": None}, {**sent, "more": 1}, {"ticket": "x"})
    )
    assert [status for status, _ in answers] == [200, 400, 422, 400, 400]
    assert [answer["error"]["code"] for _, answer in answers[1:]] == ["bad_ticket", "bad_response", "bad_request", "bad_request"]
    found = answers[0][1]
    assert (found["query"], found["ticket"], found["positions"][0]["segment"]) == (None, None, "electric")
    assert [event["event_id"] for event in desk.box.events] == [found["positions"][0]["impression_id"]]
    ((status, answer),) = asyncio.run(told(Desk(None, (), experiments(), outbox=None), sent))
    assert (status, answer["error"]["code"]) == (503, "no_events")


def test_an_answer_does_not_fail_for_its_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> str:
        raise RuntimeError

    monkeypatch.setattr(service, "sealed", broken)
    desk = Desk(None, ("electric",), experiments())
    answer = desk.featured(in_arm("treatment"))
    assert (answer.personalised, answer.ticket) == (True, None)
    assert desk.counted("faults") == {("exposure",): 1}
