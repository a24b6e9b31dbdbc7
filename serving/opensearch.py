"""The featured query for OpenSearch or Elasticsearch: the JSON body of one search, and the positions in its response.

Pure; there is no client here. The documents have the fields of the listings file (docs/featured.md), mapped by
``opensearch_mapping``. The hits come in the order of the ladder: what fulfils the policy's first wish, the second, … (or most of
all wishes together), any sponsored listing, any that fits. Scores are 32-bit floats, so levels are whole numbers, and the seeded
draw among equals is the fraction.

Unlike the embedded inventory one search draws once: the k hits are the first k of one order, not k draws. For k draws search once
a position, ``place`` 0, 1, …, with the listings shown so far among the ``seen``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from schemas.catalogue import Catalogue
from schemas.errors import ConfigError
from schemas.rules import All, Any_, Band, Condition, Equals, Not
from serving.featured import Ask, Position, split_of
from serving.inventory import Listing
from serving.policies import Choice, policy_of
from serving.seeds import seed_of
from serving.wishes import Wish

OTHER, SPONSORED, PERSONAL = 1, 2, 3  # the scores of the levels, PERSONAL the least of its own
# A 32-bit float has 24 bits. Sums of worth are told apart to 1/1024 of the whole, far finer than scores are known; the 13 bits that
# are left are the draw's. With fewer, equals share a number, and the listing with the smallest id is shown more often than its due.
STEPS: Final = 1 << 10
DRAW: Final = 0.999  # of a level: not all, or the float nearest to a sum could be the next level

Body = dict[str, Any]
_PAYS: Final[Body] = {"term": {"sponsored": True}}
_NO_SIGN: Final = 0.0  # added to -0.0 it is 0.0, which to Lucene is greater
_BY_SCORE: Final[Body] = {"_score": {"order": "desc"}}
_BY_ID: Final[Body] = {"listing_id": {"order": "asc"}}


def opensearch_mapping(catalogue: Catalogue) -> Body:
    """The mapping of the index: numbers are doubles, as here; categories are compared whole."""
    types = {name: "double" if attribute.kind == "number" else "keyword" for name, attribute in catalogue.attributes.items()}
    own = {"listing_id": "keyword", "sponsored": "boolean", "rank": "double"}
    shown = {name: {"type": "keyword", "index": False, "doc_values": False} for name in ("title", "url")}
    return {"dynamic": False, "properties": {name: {"type": of} for name, of in (own | types).items()} | shown}


def opensearch_body(ask: Ask, policy: str, place: int = 0) -> Body:
    """The search for the first ``ask.k`` listings under a policy; the default's when there are no wishes, or all conflict.

    ``place`` is the position that the policy draws for, the first one is 0.
    """
    wishes = split_of(ask).wishes
    if not wishes:
        return opensearch_default_body(ask)
    levels, sums = _levels(wishes, policy, ask.session, place)
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
        "query": _with_draw(ranked, seed_of(ask.session, f"listing-{place}"), "sum"),
        "sort": [_BY_SCORE, _BY_ID],
        "aggs": {"sponsored": {"filter": _PAYS, "aggs": {"viable": viable}}},
    }


def opensearch_default_body(ask: Ask) -> Body:
    """The search for the answer without personal data: sponsored first, then by rank, ties drawn by the session."""
    return {
        "size": ask.k,
        "track_total_hits": False,
        "query": _with_draw(_fitting(ask, seen=False), seed_of(ask.session, "default"), "replace"),
        "sort": [{"sponsored": {"order": "desc"}}, {"rank": {"order": "desc", "missing": "_last"}}, _BY_SCORE, _BY_ID],
    }


def opensearch_positions(
    response: Mapping[str, Any], ask: Ask, policy: str, catalogue: Catalogue, place: int = 0
) -> tuple[Position, ...]:
    """The positions in the response to ``opensearch_body``, fewer than k where hits are fewer: the default search has the rest.

    The probability is stated for the first position: the others are none of the policy's draws.
    """
    wishes = split_of(ask).wishes
    hits = response["hits"]["hits"]
    if not wishes:
        return opensearch_default_positions(response, catalogue)
    counts = response["aggregations"]["sponsored"]["viable"]["buckets"]
    viable = [wish for wish in wishes if counts[wish.name]["doc_count"]]
    chosen_by = policy_of(policy)

    def choose(viable: Sequence[Wish]) -> Choice:
        return chosen_by(viable, ask.session, place)

    found: list[Position] = []
    for hit in hits:
        matched = tuple(wish.name for wish in wishes if wish.name in hit.get("matched_queries", ()))
        found.append(_position(_listing(hit["_source"], catalogue), matched, viable, choose, first=not found))
    return tuple(found)


def opensearch_default_positions(response: Mapping[str, Any], catalogue: Catalogue) -> tuple[Position, ...]:
    """The positions in the response to ``opensearch_default_body``."""
    return tuple(Position(_listing(hit["_source"], catalogue), "default") for hit in response["hits"]["hits"])


def query_of(condition: Condition) -> Body:
    """A condition as a query without a score; what a listing lacks satisfies none, as everywhere.

    One ``bool`` for each level of the filters or rules, or the deepest filters would be refused: Elasticsearch takes 20 to 30.

    >>> query_of(Not(Band("price", gte=10.0, gt=10.0)))
    {'bool': {'must_not': [{'range': {'price': {'gt': 10.0}}}]}}
    """
    if isinstance(condition, Equals):
        values = (value if isinstance(value, str) else value + _NO_SIGN for value in condition.values)
        return {"terms": {condition.attribute: sorted(values)}}  # type: ignore[type-var]
    if isinstance(condition, Band):
        return {"range": {condition.attribute: _bounds(condition)}}
    if isinstance(condition, Any_):
        return {"bool": {"should": [query_of(part) for part in condition.conditions], "minimum_should_match": 1}}
    parts = condition.conditions if isinstance(condition, All) else (condition,)
    wanted = [query_of(part) for part in parts if not isinstance(part, Not)]
    unwanted = [query_of(part.condition) for part in parts if isinstance(part, Not)]
    return {"bool": {name: queries for name, queries in (("filter", wanted), ("must_not", unwanted)) if queries}}


def _bounds(band: Band) -> dict[str, float]:
    """The bounds of a band, one a side: of ``gt`` and ``gte`` in one range query only the last is heeded."""
    low = {"gt": band.gt} if band.gt >= band.gte else {"gte": band.gte}
    high = {"lt": band.lt} if band.lt <= band.lte else {"lte": band.lte}
    return {key: bound + _NO_SIGN for key, bound in (low | high).items() if math.isfinite(bound)}


def _all_of(parts: Iterable[Body]) -> Body:
    return {"bool": {"filter": list(parts)}}


def _fitting(ask: Ask, *, seen: bool) -> Body:
    """The listings that satisfy the filters, without those the user has just seen if so asked."""
    query: Body = {"bool": {"filter": [{"match_all": {}} if ask.filters.condition is None else query_of(ask.filters.condition)]}}
    if seen and ask.seen:
        query["bool"]["must_not"] = [{"terms": {"listing_id": sorted(ask.seen)}}]
    return query


def _with_draw(query: Body, seed: int, mode: str) -> Body:
    """The query with a draw by the seed, at least 0 and below ``DRAW``, added to its score or in its place."""
    draw = {"random_score": {"seed": seed >> 33, "field": "listing_id"}, "weight": DRAW}  # the seed: a Java int, not negative
    return {"function_score": {"query": query, "functions": [draw], "boost_mode": mode}}


def _levels(wishes: Sequence[Wish], policy: str, session: str, place: int) -> tuple[dict[str, int], bool]:
    """The score of each wish, whole numbers, and whether those of a listing are summed up, or else the greatest counts.

    The policy's order of preference, or shares of ``STEPS`` when it takes all wishes at once.
    """
    chosen_by = policy_of(policy)
    left, order = list(wishes), list[str]()
    while left:
        weights = chosen_by(left, session, place).weights
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
    listing: Listing, matched: tuple[str, ...], viable: Sequence[Wish], choose: Callable[[Sequence[Wish]], Choice], *, first: bool
) -> Position:
    if not listing["sponsored"]:
        return Position(listing, "filters", matched=matched)
    mine = [wish for wish in viable if wish.name in matched]
    if not mine:
        return Position(listing, "sponsored", matched=matched)
    weights, probability = choose(viable if first else mine)
    wanted = [name for name in matched if name in weights]
    if not wanted:  # the hits of a shard that failed are missing: what comes first now is not what was chosen among all
        return _position(listing, matched, viable, choose, first=False)
    return Position(
        listing, "combined" if len(wanted) > 1 else "single_segment", wanted[0], matched, probability if first else None
    )


def _listing(source: Mapping[str, Any], catalogue: Catalogue) -> Listing:
    listing: Listing = {"listing_id": source["listing_id"], "sponsored": bool(source["sponsored"])}
    listing |= {name: source[name] for name in ("title", "url") if source.get(name) is not None}
    named = {name: source[name] for name in catalogue.attributes if source.get(name) is not None}
    return {**listing, "attributes": {name: value if isinstance(value, str) else float(value) for name, value in named.items()}}
