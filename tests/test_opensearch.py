"""The body for OpenSearch: what it says, and that its hits are what the embedded inventory would serve.

``tests/opensearch_dsl.py`` answers for OpenSearch here; ``tests/test_opensearch_types.py`` asks its clients' types.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.filters import MAX_FILTER_DEPTH, FilterError
from schemas.rules import All, Band, Condition, Equals, Not
from serving import policies
from serving.featured import Ask, Position, Rung, feature, split_of
from serving.opensearch import (
    PERSONAL,
    SPONSORED,
    STEPS,
    opensearch_body,
    opensearch_default_body,
    opensearch_default_positions,
    opensearch_mapping,
    opensearch_positions,
    query_of,
)
from serving.policies import Choice
from serving.wishes import Wish
from tests.opensearch_dsl import matches, search
from tests.plain_inventory import PlainInventory, Row, attributes_in
from tests.strategies import CATALOGUE, conditions
from tests.test_featured import CHEAP, ELECTRIC, HYDROGEN, ROWS, SUV, ask
from tests.test_featured_laws import ASKS, POLICY, SHARES, SIZES, fits, rows_of
from tests.test_filters import parse
from transforms.conditions import predicate_of

SHOPS = [rows_of(size, share) for size in SIZES[:-1] for share in SHARES]


def ids(response: dict[str, Any]) -> list[str]:
    return [hit["_source"]["listing_id"] for hit in response["hits"]["hits"]]


def test_the_body_has_filters_as_filters_and_preferences_as_scores() -> None:
    body = opensearch_body(ask(ELECTRIC, SUV, seen=["b", "a"], k=2, price={"lt": 60_000}), "highest_score")
    electric, suv = {"terms": {"fuel_type": ["electric"]}}, {"terms": {"body_type": ["suv"]}}
    inner = body["query"]["function_score"]["query"]["function_score"]
    assert inner["query"] == {
        "bool": {
            "filter": [{"range": {"price": {"lt": 60_000.0}}}],
            "must_not": [{"terms": {"listing_id": ["a", "b"]}}],
            "should": [{"bool": {"filter": [electric], "_name": "electric"}}, {"bool": {"filter": [suv], "_name": "suv"}}],
            "minimum_should_match": 0,
        }
    }
    assert [function["weight"] for function in inner["functions"]] == [1, SPONSORED, PERSONAL + 1, PERSONAL]
    assert inner["functions"][2]["filter"] == {"bool": {"filter": [{"term": {"sponsored": True}}, electric]}}
    assert (body["size"], inner["score_mode"], inner["boost_mode"]) == (2, "max", "replace")
    (draw,) = body["query"]["function_score"]["functions"]
    assert 0 <= draw["random_score"]["seed"] < 2**31
    json.dumps(body)


@given(conditions(), st.data())
def test_a_query_matches_what_the_condition_holds_for(data: Any, more: st.DataObject) -> None:
    condition = parse(data).condition
    assert condition is not None
    known: Row = more.draw(st.sampled_from([{}, {"price": 10.0}, {"price": 20.0}, {"fuel_type": "diesel"}]))
    row = more.draw(st.sampled_from(SHOPS[-1])) | known
    assert matches(query_of(condition), row) == predicate_of(condition)(attributes_in(row))


@pytest.mark.parametrize(
    ("condition", "query"),
    [
        (Band("price", gte=1, gt=1), {"range": {"price": {"gt": 1}}}),
        (Band("price", gte=2, gt=1), {"range": {"price": {"gte": 2}}}),
        (Band("price", lte=1, lt=2, gt=0), {"range": {"price": {"gt": 0, "lte": 1}}}),
        (Band("price", lte=2, lt=2), {"range": {"price": {"lt": 2}}}),
        (Equals("price", frozenset({2.0, 1.0})), {"terms": {"price": [1.0, 2.0]}}),
        (Equals("make", frozenset({"b", "a"})), {"terms": {"make": ["a", "b"]}}),
        (All((Not(CHEAP.when), SUV.when)), {"bool": {"filter": [query_of(SUV.when)], "must_not": [query_of(CHEAP.when)]}}),
    ],
)
def test_what_a_condition_is_as_a_query(condition: Condition, query: dict[str, Any]) -> None:
    assert query_of(condition) == query


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ASKS, st.sampled_from(SHOPS))
def test_the_first_hit_of_each_place_has_the_rung_segment_and_probability_of_the_embedded_answer(
    asked: Ask, rows: list[Row]
) -> None:
    asked = asked._replace(k=min(asked.k, 3))
    wishes = split_of(asked).wishes
    assume(bool(wishes))
    for policy in policies.POLICIES:
        shown = frozenset[str]()
        for place, right in enumerate(feature(asked, policy, PlainInventory(rows)).positions):
            one = asked._replace(k=1, seen=asked.seen | shown)
            found = opensearch_positions(search(opensearch_body(one, policy, place), rows), one, policy, CATALOGUE, place)
            if right.rung == "default":
                assert found == ()  # nothing is left that was not seen: the default search has the answer
                break
            assert right.listing is not None
            shown |= {right.listing["listing_id"]}
            (position,) = found
            alike(position, right, wishes, rows, policy)


def alike(position: Position, right: Position, wishes: Sequence[Wish], rows: Sequence[Row], policy: str) -> None:
    """Whether a position is as good as the right one, and told as that would be: which of the equals it has may differ."""
    assert position.listing is not None
    row = {row["listing_id"]: row for row in rows}[position.listing["listing_id"]]
    assert position.listing["attributes"] == attributes_in(row)
    assert position.matched == tuple(wish.name for wish in wishes if predicate_of(wish.when)(attributes_in(row)))
    if policy == "combined" and right.rung in {"combined", "single_segment"}:
        worth = {wish.name: wish.worth for wish in wishes}
        least = sum(worth[name] for name in right.matched) - (len(wishes) + 1) / STEPS * sum(worth.values())
        assert sum(worth[name] for name in position.matched) >= least  # rounded, each of the wishes
        rung: Rung = "combined" if len(position.matched) > 1 else "single_segment"
        assert position == Position(position.listing, rung, position.matched[0], position.matched, 1.0)
    else:
        assert (position.rung, position.segment, position.probability) == (right.rung, right.segment, right.probability)


@pytest.mark.parametrize("key", ["gte", "gt", "lte", "lt", "is"])
def test_a_zero_with_a_sign_is_zero(key: str) -> None:
    """-0.0 is JSON, and to Lucene less than 0.0."""
    condition = parse({"price": -0.0 if key == "is" else {key: -0.0}}).condition
    assert condition is not None
    for price in (-1.0, 0.0, 1.0):
        assert matches(query_of(condition), {"price": price}) == predicate_of(condition)({"price": price}), price


def depth_of(query: Any) -> int:
    """How many queries lie within each other, as Elasticsearch counts them."""
    if isinstance(query, list):
        return max(map(depth_of, query), default=0)
    if not isinstance(query, dict):
        return 0
    deepest = max(map(depth_of, query.values()), default=0)
    return deepest + bool({"bool", "function_score", "terms", "term", "range", "match_all"} & set(query))


def deepest(kind: str) -> dict[str, Any]:
    """A filter as deep as may be."""
    inner: dict[str, Any] = {"price": 1.0}
    levels = MAX_FILTER_DEPTH - 2
    while levels >= (step := 1 if kind == "not" else 2):
        inner = {"price": 1.0, kind: inner if kind == "not" else [inner, {"price": 2.0}]}
        levels -= step
    return inner


@pytest.mark.parametrize("kind", ["not", "all", "any"])
def test_the_deepest_filters_are_within_the_depth_that_elasticsearch_takes(kind: str) -> None:
    filters = deepest(kind)
    with pytest.raises(FilterError, match="nesting"):
        parse({"not": {"not": filters}})
    least_allowed = 20  # indices.query.bool.max_nested_depth, 30 since 8.6
    for body in (opensearch_body(ask(ELECTRIC, **filters), "combined"), opensearch_default_body(ask(**filters))):
        assert depth_of(body["query"]) <= least_allowed


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ASKS, POLICY, st.sampled_from(SHOPS))
def test_the_hits_are_what_fits_and_was_not_seen_in_the_order_of_the_ladder(asked: Ask, policy: str, rows: list[Row]) -> None:
    body = opensearch_body(asked, policy) | {"size": 1_000}
    wishes = split_of(asked).wishes
    response = search(body, rows)
    fitting = {row["listing_id"] for row in rows if fits(asked.filters, row)}
    assert set(ids(response)) == (fitting - asked.seen if wishes else fitting)
    if not wishes:
        return
    found = opensearch_positions(response, asked, policy, CATALOGUE)
    levels = [{"combined": 0, "single_segment": 0, "sponsored": 1, "filters": 2}[position.rung] for position in found]
    assert levels == sorted(levels)
    assert all(position.probability is None for position in found[1:])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ASKS, st.sampled_from(SHOPS))
def test_the_default_search_has_the_listings_of_the_default_up_to_ties(asked: Ask, rows: list[Row]) -> None:
    body = opensearch_default_body(asked)
    assert body == opensearch_default_body(asked._replace(wishes=(), seen=frozenset()))
    assert opensearch_body(asked._replace(wishes=()), "combined") == body
    by_id = {row["listing_id"]: row for row in rows}
    right = feature(asked, "combined", PlainInventory(rows)).default
    names = [position.listing["listing_id"] for position in right if position.listing is not None]
    standing = [[(by_id[name]["sponsored"], by_id[name]["rank"]) for name in each] for each in (ids(search(body, rows)), names)]
    assert standing[0] == standing[1]
    found = opensearch_positions(search(body, rows), asked._replace(wishes=()), "combined", CATALOGUE)
    assert all(position[1:] == Position(None, "default")[1:] for position in found)


def test_the_draw_differs_between_sessions_and_not_within_one() -> None:
    rows = [{"listing_id": f"l{place}", "sponsored": True, "fuel_type": "electric"} for place in range(40)]
    first = {
        session: ids(search(opensearch_body(ask(ELECTRIC, session=f"{session}"), "combined"), rows))[0] for session in range(40)
    }
    assert len(set(first.values())) > 15
    assert ids(search(opensearch_body(ask(ELECTRIC, session="7"), "combined"), rows)) == [first[7]]


@pytest.mark.parametrize("policy", sorted(policies.POLICIES))
def test_equals_hardly_ever_share_a_number_in_the_draw(policy: str) -> None:
    """Of those that do the smallest id is shown, so a sponsor would get more than their share, or less."""
    rows = [
        {"listing_id": f"l{place:04}", "sponsored": True, "fuel_type": "electric", "body_type": "suv"} for place in range(2_000)
    ]
    body = opensearch_body(ask(ELECTRIC, SUV, CHEAP, k=2_000), policy)
    scores = [hit["_score"] for hit in search(body, rows)["hits"]["hits"]]
    assert max(scores) - min(scores) < 1
    assert len(set(scores)) > 1_700


def test_where_a_shard_failed_the_hits_that_came_are_told_for_what_they_are() -> None:
    question = ask(ELECTRIC, SUV, k=5)
    response = search(opensearch_body(question, "highest_score"), ROWS)
    whole = opensearch_positions(response, question, "highest_score", CATALOGUE)
    assert (whole[0].segment, whole[0].probability) == ("electric", 1.0)
    hits = [hit for hit in response["hits"]["hits"] if "electric" not in hit.get("matched_queries", ())]
    (first, *_) = opensearch_positions(response | {"hits": {"hits": hits}}, question, "highest_score", CATALOGUE)
    assert (first.rung, first.segment, first.probability) == ("single_segment", "suv", None)


def test_the_default_search_of_someone_with_wishes_is_read_by_its_own() -> None:
    question = ask(ELECTRIC, k=2)
    found = opensearch_default_positions(search(opensearch_default_body(question), ROWS), CATALOGUE)
    assert found == opensearch_positions(search(opensearch_default_body(question), ROWS), ask(k=2), "combined", CATALOGUE)
    assert [position.rung for position in found] == ["default", "default"]


def test_no_draw_lifts_a_listing_to_the_next_level() -> None:
    wishes = [Wish(f"w{place}", 1.0, 1.0, 0, Equals("make", frozenset({f"m{place}"}))) for place in range(64)]
    for policy in ("highest_score", "combined"):
        functions = opensearch_body(Ask(parse({}), tuple(wishes), frozenset(), "s"), policy)["query"]["function_score"]
        weights = [function["weight"] for function in functions["query"]["function_score"]["functions"]]
        most = (sum if policy == "combined" else max)(weights)
        assert most < 2**11  # where a 32-bit float tells 8,000 parts of 1 apart
        assert all(weight >= 1 for weight in weights)
        (draw,) = [function["weight"] for function in functions["functions"]]
        greatest = np.float32(draw) * (2**24 - 1) / 2**24
        assert all(level <= np.float32(level + greatest) < level + 1 for level in range(int(most) + 1))


def test_a_policy_that_takes_some_wishes_at_once_is_not_one_query(monkeypatch: pytest.MonkeyPatch) -> None:
    def pairs(viable: Sequence[Wish], session: str, position: int) -> Choice:
        return Choice({wish.name: 1.0 for wish in viable[:2]}, 1.0)

    monkeypatch.setitem(policies.POLICIES, "pairs", pairs)
    with pytest.raises(ConfigError, match="policy == pairs, must choose one wish or all of them to be one OpenSearch query"):
        opensearch_body(ask(ELECTRIC, SUV, CHEAP), "pairs")


def test_conflicting_wishes_are_not_in_the_body() -> None:
    body = opensearch_body(ask(ELECTRIC, HYDROGEN, fuel_type="electric"), "combined")
    assert "hydrogen" not in json.dumps(body)
    assert opensearch_body(ask(HYDROGEN, fuel_type="electric"), "combined") == opensearch_default_body(ask(fuel_type="electric"))


def test_the_mapping_keeps_numbers_as_doubles_and_categories_whole() -> None:
    mapping = opensearch_mapping(CATALOGUE)
    types = {name: field["type"] for name, field in mapping["properties"].items()}
    assert {types[name] for name in ("price", "mileage", "year", "rank")} == {"double"}
    assert {types[name] for name in ("make", "model", "fuel_type", "body_type", "listing_id")} == {"keyword"}
    assert (types["sponsored"], mapping["dynamic"]) == ("boolean", False)
    assert {name for row in ROWS for name in row} <= set(types)
