"""A gateway whose listings are in a search service: what it comes to know there is what one with an inventory knows.

The search service is the interpreter of OpenSearch's language over the listings that the other gateway has embedded.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

from schemas.errors import ForecourtError
from schemas.experiments import Experiments, Flag, parse_experiments
from schemas.release import Release
from schemas.rules import parse_rules
from schemas.settings import Settings
from serving.gateway import Door, build_app
from serving.inventory import Inventory, load_inventory
from serving.messages import FeaturedAnswer, FeaturedRequest, ShownRequest
from serving.metrics import Metrics
from serving.opensearch_responses import ResponseError
from serving.policies import POLICIES, Choice
from serving.reader import SegmentReader
from serving.service import Parts, Service
from serving.tickets import TicketError
from serving.wishes import Wish
from tests.gateways import PSEUDONYMS
from tests.opensearch_dsl import search
from tests.plain_inventory import Row, attributes_in
from tests.strategies import CATALOGUE
from tests.test_featured_laws import rows_of
from tests.test_filters import parse
from tests.test_service import NOW, Box, Members
from transforms.conditions import predicate_of

RULES: Final = """
version: {version}
segments:
  - {{name: electric, when: {{fuel_type: electric}}}}
  - {{name: suv, when: {{body_type: suv}}, weight: 2}}
  - {{name: kia, when: {{make: Kia}}, priority: 1}}
  - {{name: cheap, when: {{price: {{lt: 15}}}}}}
  - {{name: hydrogen, when: {{fuel_type: hydrogen}}}}
"""
NAMES: Final = ("electric", "suv", "kia", "cheap", "hydrogen", "of_older_rules")
FILTERS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {"fuel_type": ["diesel", "petrol"]},
    {"body_type": "suv"},
    {"price": {"gte": 10}, "make": ["Kia", "BMW"]},
    {"not": {"fuel_type": "electric"}, "price": {"lt": 25}},
    {"make": "Saab"},
)
PERSONAL: Final = {"combined", "single_segment"}


@functools.cache
def release(version: int = 1) -> Release:
    return Release(parse_rules(RULES.format(version=version), CATALOGUE, "rules.yaml"), None, 0.0)


def experiments(policy: str = "highest_score", arms: tuple[str, str] = ("control", "treatment")) -> Experiments:
    """One experiment; with the arms the other way round every session is in the other."""
    told = ", ".join(f"{{name: {arm}, weight: 1, shows: {str(arm == 'treatment').lower()}, policy: {policy}}}" for arm in arms)
    text = f"""
version: 3
layers: [{{name: featured}}]
experiments:
  - {{name: first, version: 1, layer: featured, unit: session, ramp: 1, arms: [{told}]}}
"""
    return parse_experiments(text, "experiments.yaml")


class Stock(NamedTuple):
    rows: list[Row]
    inventory: Inventory


@pytest.fixture(scope="module")
def stocks(tmp_path_factory: pytest.TempPathFactory) -> list[Stock]:
    """Listings, no two of a rank, so that there is one default."""
    found = []
    for size, share in ((1, 1.0), (5, 0.3), (12, 0.7), (30, 0.05), (80, 0.3)):
        rows = [{**row, "rank": number * 7 % size} for number, row in enumerate(rows_of(size, share))]
        path: Path = tmp_path_factory.mktemp("stock") / "listings.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found.append(Stock(rows, load_inventory(str(path), CATALOGUE)))
    return found


class Desk:
    """The service of a gateway, with or without an inventory, and what it wrote down."""

    def __init__(self, inventory: Inventory | None, segments: tuple[str, ...], running: Experiments | None, **parts: Any) -> None:
        self.metrics, self.box = Metrics(), Box()
        self.parts = Parts(
            SegmentReader(Members(*segments), PSEUDONYMS),
            PSEUDONYMS,
            CATALOGUE,
            Settings(conflict_sample=1.0),
            self.metrics,
            rules=lambda: release(),
            experiments=lambda: running,
            inventory=lambda: inventory,
            outbox=self.box,  # type: ignore[arg-type]
        )._replace(**parts)
        self.service = Service(self.parts)

    def featured(self, asked: dict[str, Any]) -> FeaturedAnswer:
        async def run() -> FeaturedAnswer:
            chosen = await self.service.featured(FeaturedRequest(**asked), NOW)
            answer = self.service.answer(chosen)
            self.service.expose(chosen)
            await self.parts.reader.close()
            return answer

        return asyncio.run(run())

    def shown(self, told: dict[str, Any], now: int = NOW + 200) -> FeaturedAnswer:
        chosen = self.service.shown(ShownRequest(**told), now)
        answer = self.service.answer(chosen)
        self.service.expose(chosen)
        return answer

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        samples = (sample for metric in self.metrics.registry.collect() for sample in metric.samples)
        return {
            tuple(each.labels.values()): each.value for each in samples if each.name == f"forecourt_{name}_total" and each.value
        }


def searched(answer: FeaturedAnswer, rows: list[Row]) -> dict[str, Any]:
    """What a search service sends for an answer."""
    assert answer.query is not None
    other = None if answer.other_query is None else over_http(search(answer.other_query, rows))
    return {"ticket": answer.ticket, "response": over_http(search(answer.query, rows)), "other_response": other}


def over_http(response: dict[str, Any]) -> dict[str, Any]:
    whole = {"took": 3, "timed_out": False, "_shards": {"total": 2, "successful": 2, "skipped": 0, "failed": 0}, **response}
    decoded: dict[str, Any] = json.loads(json.dumps(whole))
    return decoded


def question(chance: random.Random, stock: Stock, k: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A request, and the segments of who makes it."""
    seen = chance.choice([[], [], [row["listing_id"] for row in stock.rows if chance.random() < 0.5]])
    asked = {"session_id": f"s{chance.randrange(10**6)}", "filters": chance.choice(FILTERS), "seen": seen, "k": k}
    segments = tuple(chance.sample(NAMES, chance.choice([0, 1, 2, 3, 4])))
    return asked | chance.choice([{"user_id": "ann"}, {"anonymous_id": "b1"}]), segments


def one_of_one(asked: dict[str, Any], stock: Stock, exposure: dict[str, Any]) -> bool:
    """Whether no draw decides the first position: one listing alone is as good as it."""
    if exposure["rung"] == "default":
        return True  # no two of a rank
    fits = predicate_of(condition) if (condition := parse(asked["filters"]).condition) is not None else lambda _: True
    rules = {rule.name: predicate_of(rule.when) for rule in release().active.rules}
    wish = rules[exposure["segment"]] if exposure["segment"] else lambda _: True
    pays = {"filters": False}.get(exposure["rung"], True)
    rows = [row for row in stock.rows if fits(attributes_in(row)) and wish(attributes_in(row)) and row["sponsored"] == pays]
    return len([row for row in rows if row["listing_id"] not in asked["seen"]]) == 1


DRAWN: Final = {"impression_id", "differs", "rung", "segment", "probability", "sponsored"}  # looked at one by one


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("policy", ["highest_score", "weighted_random", "combined"])
def test_the_exposures_are_those_of_the_embedded_inventory_in_either_arm(stocks: list[Stock], policy: str, k: int) -> None:
    chance, met = random.Random(f"{policy} {k}"), Counter[Any]()
    for _ in range(150):
        stock = chance.choice(stocks)
        asked, segments = question(chance, stock, k)
        running = experiments(policy)
        embedded, searching = Desk(stock.inventory, segments, running), Desk(None, segments, running)
        right, choice = embedded.featured(asked), searching.featured(asked)
        assert searching.box.events == []
        answer = searching.shown(searched(choice, stock.rows))
        assert choice.personalised == (choice.reason is None) == (choice.query != opensearch_default(choice))
        for name in ("at", "personalised", "reason", "segments", "rule_version", "source", "policy", "assignment", "conflicts"):
            assert getattr(answer, name) == getattr(right, name), name
        assert (answer.query, answer.other_query, answer.ticket, right.other_query, right.ticket) == (None,) * 5
        assert len(answer.positions) == k
        assert len(searching.box.events) == len(embedded.box.events)
        assert [each["event_id"] for each in searching.box.events] == [
            place.impression_id for place in answer.positions[: len(searching.box.events)]
        ]
        for place, (event, its) in enumerate(zip(searching.box.events, embedded.box.events, strict=True)):
            exposure, its_exposure = event.pop("experiment"), its.pop("experiment")
            event.pop("event_id"), its.pop("event_id")
            listing, its_listing = event.pop("listing_id", None), its.pop("listing_id", None)
            assert event == its
            assert {**exposure, **dict.fromkeys(DRAWN)} == {**its_exposure, **dict.fromkeys(DRAWN)}
            told = [[one[name] for name in ("rung", "segment", "sponsored")] for one in (exposure, its_exposure)]
            if policy == "highest_score" or (policy == "weighted_random" and place == 0):
                assert told[0] == told[1]
            else:
                assert (told[0][0] in PERSONAL, told[0][2]) == (told[1][0] in PERSONAL, told[1][2]) or place
            if place == 0:
                assert exposure["probability"] == its_exposure["probability"] or policy == "combined"
            if not exposure["shown"]:
                assert listing == its_listing  # the default, of which there is one
            if place == 0 and policy != "combined" and one_of_one(asked, stock, its_exposure):
                assert (exposure["differs"], listing) == (its_exposure["differs"], its_listing)
                met["differs", exposure["differs"], exposure["arm"]] += 1
            met[exposure["arm"], exposure["triggered"]] += 1
            met[exposure["rung"]] += 1
            met["conflict"] += bool(exposure["conflicts"])
        assert searching.counted("fallbacks") == embedded.counted("fallbacks") or answer.reason == "no_match"
        assert sum(searching.counted("fallbacks").values()) == sum(embedded.counted("fallbacks").values())
        assert searching.counted("exposures") == embedded.counted("exposures")
        assert sum(searching.counted("rungs").values()) == k
        assert searching.counted("rungs") == embedded.counted("rungs") or policy != "highest_score"
    wanted = [(arm, triggered) for arm in ("control", "treatment") for triggered in (True, False)]
    wanted += ["single_segment", "sponsored", "filters", "default", "conflict"]  # type: ignore[list-item]
    if policy != "combined":
        wanted += [("differs", differs, arm) for differs in (True, False) for arm in ("control", "treatment")]  # type: ignore[misc]
    assert not [each for each in wanted if not met[each]]


def opensearch_default(choice: FeaturedAnswer) -> dict[str, Any] | None:
    """The default's of the two queries: it sorts by rank."""
    return next(each for each in (choice.query, choice.other_query) if each is not None and "rank" in json.dumps(each["sort"]))


@pytest.mark.parametrize("policy", ["highest_score", "weighted_random", "combined"])
def test_both_arms_write_the_same_but_for_what_is_shown_and_differs_is_whether_that_is_another(
    stocks: list[Stock], policy: str
) -> None:
    chance, met = random.Random(policy), Counter[bool]()
    for _ in range(100):
        stock = chance.choice(stocks)
        asked, segments = question(chance, stock, chance.choice([1, 5]))
        by_arm: dict[str, list[dict[str, Any]]] = {}
        for arms in (("control", "treatment"), ("treatment", "control")):
            desk = Desk(None, segments, experiments(policy, arms))
            answer = desk.featured(asked)
            desk.shown(searched(answer, stock.rows))
            by_arm[str(answer.assignment.arm)] = desk.box.events
        for control, treated in zip(by_arm["control"], by_arm["treatment"], strict=True):
            differs = control.get("listing_id") != treated.get("listing_id")
            assert (control["experiment"]["differs"], treated["experiment"]["differs"]) == (differs, differs)
            names = {"arm", "shown", "impression_id"}
            assert [(control["experiment"][name], treated["experiment"][name]) for name in ("arm", "shown")] == [
                ("control", "treatment"),
                (False, True),
            ]
            same = [{**each["experiment"], **dict.fromkeys(names)} for each in (control, treated)]
            assert same[0] == same[1]
            met[differs] += 1
    assert min(met[True], met[False]) > 20


def in_arm(arm: str, **asked: Any) -> dict[str, Any]:
    """A request of a session in that arm."""
    for number in range(100):
        request = {"session_id": f"s{number}", "user_id": "ann", **asked}
        if Desk(None, (), experiments()).featured(request).assignment.arm == arm:
            return request
    raise AssertionError(arm)


def test_what_the_choice_says_before_anything_is_found(stocks: list[Stock]) -> None:
    """``query`` is what the visitor sees; the other is asked where it is another question."""

    def said(arm: str, *segments: str, **asked: Any) -> tuple[bool, str | None, bool, bool | None]:
        desk = Desk(None, segments, experiments())
        answer = desk.featured(in_arm(arm, **asked))
        assert answer.query is not None
        assert (answer.positions, desk.counted("rungs"), desk.counted("exposures")) == ([], {}, {})
        assert desk.counted("fallbacks") == ({} if answer.reason is None else {(answer.reason,): 1})
        other = None if answer.other_query is None else "aggs" in answer.other_query
        return answer.personalised, answer.reason, "aggs" in answer.query, other

    assert said("treatment", "electric") == (True, None, True, False)
    assert said("control", "electric") == (False, "control", False, True)
    assert said("treatment", "electric", filters={"fuel_type": "diesel"}) == (False, "all_conflict", False, None)
    assert said("treatment") == (False, "no_segments", False, None)
    assert said("control", "of_older_rules") == (False, "no_segments", False, None)
    gone = Desk(None, (), None, reader=SegmentReader(Members(gone=True), PSEUDONYMS)).featured(in_arm("control"))
    assert (gone.reason, gone.other_query, gone.positions) == ("store_down", None, [])


def test_a_fault_in_choosing_asks_for_the_default_and_what_is_found_is_told_as_that(stocks: list[Stock]) -> None:
    broken = experiments()._replace(layers=())  # its salt can't be found
    for desk, where in (
        (Desk(None, ("electric",), broken), "assignment"),
        (Desk(None, ("electric",), None, settings=Settings(policy="no such")), "featured"),
    ):
        answer = desk.featured(in_arm("treatment"))
        assert (answer.personalised, answer.reason, answer.other_query) == (False, "fault", None)
        found = desk.shown(searched(answer, stocks[2].rows))
        assert (found.reason, found.positions[0].rung) == ("fault", "default")
        assert (desk.counted("faults"), desk.counted("fallbacks")) == ({(where,): 1}, {("fault",): 1})
        assert [event["experiment"]["arm"] for event in desk.box.events] == [None]


@pytest.mark.parametrize("arms", [("control", "treatment"), ("treatment", "control")])
def test_where_no_segment_is_chosen_yet_flags_go_by_the_visitors_highest(arms: tuple[str, str]) -> None:
    """A gateway without an inventory doesn't start with flags; they may come into its file later."""
    running = experiments(arms=arms)
    (experiment,) = running.experiments
    flagged = running._replace(experiments=(experiment._replace(segments={"suv": Flag(running=False)}),))
    for segments, reason in ((("suv", "electric"), "segment_off"), (("electric", "suv"), "assigned")):
        assert Desk(None, segments, flagged).featured({"session_id": "s1", "user_id": "ann"}).assignment.reason == reason


def test_a_policy_that_is_not_one_query_asks_for_the_default_alone(stocks: list[Stock], monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs(viable: Sequence[Wish], session: str, position: int) -> Choice:
        return Choice({wish.name: 1.0 for wish in viable[:2]}, 1.0)

    monkeypatch.setitem(POLICIES, "pairs", pairs)
    desk = Desk(None, ("electric", "suv", "kia"), None, settings=Settings(policy="pairs"))
    answer = desk.featured(in_arm("treatment"))
    assert (answer.personalised, answer.reason, answer.other_query) == (False, "fault", None)
    assert answer.query == opensearch_default(answer)
    assert desk.counted("faults") == {("featured",): 1}


def test_of_more_segments_than_are_looked_at_the_others_stay_out(stocks: list[Stock]) -> None:
    names = [f"under_{number}" for number in range(70)]
    told = "".join(f"  - {{name: {name}, when: {{price: {{lt: {number}}}}}}}\n" for number, name in enumerate(names))
    many = Release(parse_rules(f"version: 1\nsegments:\n{told}", CATALOGUE, "rules.yaml"), None, 0.0)
    desk = Desk(None, tuple(names), experiments(), rules=lambda: many)
    stock, asked = stocks[4], in_arm("treatment")
    desk.shown(searched(desk.featured(asked), stock.rows))
    embedded = Desk(stock.inventory, tuple(names), experiments(), rules=lambda: many)
    embedded.featured(asked)
    ((one,), (other,)) = (each.box.events for each in (desk, embedded))
    for name in ("rung", "segment", "segments", "segments_dropped"):
        assert one["experiment"][name] == other["experiment"][name]


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


def test_faults_of_the_asker_are_told_in_the_projects_way() -> None:
    assert issubclass(TicketError, ForecourtError)
    assert issubclass(ResponseError, ForecourtError)
