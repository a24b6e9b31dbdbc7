"""A gateway whose listings are in a search service: what it comes to know there is what one with an inventory knows.

The search service is the interpreter of OpenSearch's language over the listings that the other gateway has embedded.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest

from schemas.experiments import Flag
from schemas.release import Release
from schemas.rules import parse_rules
from schemas.settings import Settings
from serving.messages import FeaturedAnswer
from serving.policies import POLICIES, Choice
from serving.reader import SegmentReader
from serving.wishes import Wish
from tests.desks import Desk, Stock, experiments, in_arm, release, searched, stocks_in
from tests.gateways import PSEUDONYMS
from tests.plain_inventory import attributes_in
from tests.strategies import CATALOGUE
from tests.test_filters import parse
from tests.test_service import Members
from transforms.conditions import predicate_of

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


@pytest.fixture(scope="module")
def stocks(tmp_path_factory: pytest.TempPathFactory) -> list[Stock]:
    return stocks_in(tmp_path_factory.mktemp("stocks"))


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
