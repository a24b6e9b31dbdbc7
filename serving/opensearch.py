"""The featured query for OpenSearch or Elasticsearch: the JSON body of one search, and the positions in its response.

Pure; there is no client here. The documents have the fields of the listings file (docs/featured.md), mapped by
``opensearch_mapping``. The hits come in the order of the ladder: what fulfils the policy's first wish, the second, … (or most of
all wishes together), any sponsored listing, any that fits. Scores are 32-bit floats, so levels are whole numbers, and the seeded
draw among equals is the fraction.

Unlike the embedded inventory one search draws once: the k hits are the first k of one order, not k draws. For k draws search once
a position, with the listings shown so far among the ``seen``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from schemas.catalogue import Catalogue
from schemas.errors import ConfigError
from schemas.rules import All, Any_, Band, Condition, Equals, Not
from serving.featured import Ask, Position, split_of
from serving.inventory import Listing
from serving.policies import policy_of
from serving.seeds import seed_of
from serving.wishes import Wish

OTHER, SPONSORED, PERSONAL = 1, 2, 3  # the scores of the levels, PERSONAL the least of its own
STEPS: Final = 1 << 12  # sums of worth are told apart to 1/4096 of the whole; the draw has the 10 bits that are left

Body = dict[str, Any]
_PAYS: Final[Body] = {"term": {"sponsored": True}}


def opensearch_mapping(catalogue: Catalogue) -> Body:
    """The mapping of the index: numbers are doubles, as here; categories are compared whole."""
    types = {name: "double" if attribute.kind == "number" else "keyword" for name, attribute in catalogue.attributes.items()}
    own = {"listing_id": "keyword", "sponsored": "boolean", "rank": "double"}
    shown = {name: {"type": "keyword", "index": False, "doc_values": False} for name in ("title", "url")}
    return {"dynamic": False, "properties": {name: {"type": of} for name, of in (own | types).items()} | shown}


def opensearch_body(ask: Ask, policy: str) -> Body:
    """The search for the first ``ask.k`` listings under a policy; the default's when there are no wishes, or all conflict."""
    wishes = split_of(ask).wishes
    if not wishes:
        return opensearch_default_body(ask)
    levels, sums = _levels(wishes, policy, ask.session)
    personal = [{"filter": _all_of([_PAYS, query_of(wish.when)]), "weight": levels[wish.name]} for wish in wishes]
    fitting = _fitting(ask, seen=True)
    # Named, so that each hit says which wishes it fulfils; they neither filter nor score.
    fitting["bool"]["should"] = [{"bool": {"filter": [query_of(wish.when)], "_name": wish.name}} for wish in wishes]
    fitting["bool"]["minimum_should_match"] = 0
    ranked = {
        "function_score": {
            "query": fitting,
            "functions": [{"filter": {"match_all": {}}, "weight": OTHER}, {"filter": _PAYS, "weight": SPONSORED}, *personal],
            "score_mode": "sum" if sums else "max",
            "boost_mode": "replace",
        }
    }
    viable = {"filters": {"filters": {wish.name: query_of(wish.when) for wish in wishes}}}
    return {
        "size": ask.k,
        "track_total_hits": False,
        "query": _with_draw(ranked, seed_of(ask.session, "listing-0"), "sum"),
        "sort": [{"_score": "desc"}, {"listing_id": "asc"}],
        "aggs": {"sponsored": {"filter": _PAYS, "aggs": {"viable": viable}}},
    }


def opensearch_default_body(ask: Ask) -> Body:
    """The search for the answer without personal data: sponsored first, then by rank, ties drawn by the session."""
    return {
        "size": ask.k,
        "track_total_hits": False,
        "query": _with_draw(_fitting(ask, seen=False), seed_of(ask.session, "default"), "replace"),
        "sort": [{"sponsored": "desc"}, {"rank": {"order": "desc", "missing": "_last"}}, {"_score": "desc"}, {"listing_id": "asc"}],
    }


def opensearch_positions(response: Mapping[str, Any], ask: Ask, policy: str, catalogue: Catalogue) -> tuple[Position, ...]:
    """The positions in the response to ``opensearch_body``, fewer than k where hits are fewer: the default search has the rest.

    The probability is stated for the first position: the others are none of the policy's draws.
    """
    wishes = split_of(ask).wishes
    hits = response["hits"]["hits"]
    if not wishes:
        return tuple(Position(_listing(hit["_source"], catalogue), "default") for hit in hits)
    counts = response["aggregations"]["sponsored"]["viable"]["buckets"]
    viable = [wish for wish in wishes if counts[wish.name]["doc_count"]]
    found = []
    for place, hit in enumerate(hits):
        matched = tuple(wish.name for wish in wishes if wish.name in hit.get("matched_queries", ()))
        found.append(_position(_listing(hit["_source"], catalogue), matched, viable, ask, policy, first=place == 0))
    return tuple(found)


def query_of(condition: Condition) -> Body:
    """A condition as a query without a score; what a listing lacks satisfies none, as everywhere.

    >>> query_of(Not(Band("price", gte=10.0, gt=10.0)))
    {'bool': {'must_not': [{'range': {'price': {'gt': 10.0}}}]}}
    """
    if isinstance(condition, Equals):
        return {"terms": {condition.attribute: sorted(condition.values)}}  # type: ignore[type-var]
    if isinstance(condition, Band):
        return {"range": {condition.attribute: _bounds(condition)}}
    if isinstance(condition, Not):
        return {"bool": {"must_not": [query_of(condition.condition)]}}
    parts = [query_of(part) for part in condition.conditions]
    if isinstance(condition, All):
        return _all_of(parts)
    assert isinstance(condition, Any_)
    return {"bool": {"should": parts, "minimum_should_match": 1}}


def _bounds(band: Band) -> dict[str, float]:
    """The bounds of a band, one a side: of ``gt`` and ``gte`` in one range query only the last is heeded."""
    low = {"gt": band.gt} if band.gt >= band.gte else {"gte": band.gte}
    high = {"lt": band.lt} if band.lt <= band.lte else {"lte": band.lte}
    return {key: bound for key, bound in (low | high).items() if math.isfinite(bound)}


def _all_of(parts: Iterable[Body]) -> Body:
    return {"bool": {"filter": list(parts)}}


def _fitting(ask: Ask, *, seen: bool) -> Body:
    """The listings that satisfy the filters, without those the user has just seen if so asked."""
    query: Body = {"bool": {"filter": [{"match_all": {}} if ask.filters.condition is None else query_of(ask.filters.condition)]}}
    if seen and ask.seen:
        query["bool"]["must_not"] = [{"terms": {"listing_id": sorted(ask.seen)}}]
    return query


def _with_draw(query: Body, seed: int, mode: str) -> Body:
    """The query with a draw by the seed, at least 0 and below 0.5, added to its score or in its place."""
    # The seed is a Java int, not negative. Below 0.5, or the float nearest to a sum could be the next level.
    draw = {"random_score": {"seed": seed >> 33, "field": "listing_id"}, "weight": 0.5}
    return {"function_score": {"query": query, "functions": [draw], "boost_mode": mode}}


def _levels(wishes: Sequence[Wish], policy: str, session: str) -> tuple[dict[str, int], bool]:
    """The score of each wish, whole numbers, and whether those of a listing are summed up, or else the greatest counts.

    The policy's order of preference, or shares of ``STEPS`` when it takes all wishes at once.
    """
    chosen_by = policy_of(policy)
    left, order = list(wishes), list[str]()
    while left:
        weights = chosen_by(left, session, 0).weights
        if len(weights) == len(left) == len(wishes) and len(weights) > 1:
            total = math.fsum(weights.values())
            return {name: max(1, round(weight / total * STEPS)) for name, weight in weights.items()}, True
        if len(weights) != 1:
            msg = f"policy == {policy}, must choose one wish or all of them to be one OpenSearch query"
            raise ConfigError(msg)
        order += weights
        left = [wish for wish in left if wish.name not in weights]
    return {name: PERSONAL + len(order) - 1 - place for place, name in enumerate(order)}, False


def _position(
    listing: Listing, matched: tuple[str, ...], viable: Sequence[Wish], ask: Ask, policy: str, *, first: bool
) -> Position:
    if not listing["sponsored"]:
        return Position(listing, "filters", matched=matched)
    mine = [wish for wish in viable if wish.name in matched]
    if not mine:
        return Position(listing, "sponsored", matched=matched)
    weights, probability = policy_of(policy)(viable if first else mine, ask.session, 0)
    wanted = [name for name in matched if name in weights]
    return Position(
        listing, "combined" if len(wanted) > 1 else "single_segment", wanted[0], matched, probability if first else None
    )


def _listing(source: Mapping[str, Any], catalogue: Catalogue) -> Listing:
    listing: Listing = {"listing_id": source["listing_id"], "sponsored": bool(source["sponsored"])}
    listing |= {name: source[name] for name in ("title", "url") if source.get(name) is not None}
    named = {name: source[name] for name in catalogue.attributes if source.get(name) is not None}
    return {**listing, "attributes": {name: value if isinstance(value, str) else float(value) for name, value in named.items()}}
