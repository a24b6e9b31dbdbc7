"""OpenSearch's answer to a search body over a file's rows, for as much of its language as the featured query speaks.

Scores are rounded to 32-bit floats where Lucene does. What isn't known here is an error, so that nothing in a body goes unheeded.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

Row = Mapping[str, Any]
Body = Mapping[str, Any]
_COMPARISONS: Final = {"gte": operator.ge, "gt": operator.gt, "lte": operator.le, "lt": operator.lt}


def search(body: Body, rows: Sequence[Row]) -> dict[str, Any]:
    """The response to a search."""
    known(body, {"size", "track_total_hits", "query", "sort", "aggs"})
    found = [(row, score) for row in rows if (score := score_of(body["query"], row)) is not None]
    for order in reversed(body["sort"]):
        ((field, how),) = order.items()
        found.sort(key=lambda hit: sort_key(field, how, *hit))  # noqa: B023
    hits = []
    for row, score in found[: body["size"]]:
        names = sorted(names_of(body["query"], row))
        hits.append({"_source": dict(row), "_score": score} | ({"matched_queries": names} if names else {}))
    response: dict[str, Any] = {"hits": {"hits": hits}}
    if "aggs" in body:
        response["aggregations"] = {name: aggregated(agg, [row for row, _ in found]) for name, agg in body["aggs"].items()}
    return response


def known(mapping: Mapping[str, Any], keys: set[str]) -> None:
    assert set(mapping) <= keys, f"{sorted(set(mapping) - keys)} is not heeded"


def matches(query: Body, row: Row) -> bool:
    return score_of(query, row) is not None


def score_of(query: Body, row: Row) -> float | None:
    """The score of a row; ``None`` when the query doesn't match."""
    ((kind, of),) = query.items()
    if kind == "match_all":
        assert of == {}
        return 1.0
    if kind == "function_score":
        return function_score(of, row)
    if kind == "bool":
        return bool_score(of, row)
    ((field, value),) = of.items()
    have = row.get(field)
    if kind == "term":
        return 1.0 if have is not None and ordered(have) == ordered(value) else None
    if kind == "terms":
        assert isinstance(value, list)
        return 1.0 if have is not None and ordered(have) in map(ordered, value) else None
    assert kind == "range", kind
    known(value, set(_COMPARISONS))
    assert not {"gte", "gt"} <= set(value), "only the last one is heeded"
    assert not {"lte", "lt"} <= set(value), "only the last one is heeded"
    if have is None:
        return None
    return 1.0 if all(_COMPARISONS[key](ordered(have), ordered(bound)) for key, bound in value.items()) else None


def ordered(value: Any) -> Any:
    """The value in Lucene's order, where -0.0 is less than 0.0 and no bound of a range is rounded."""
    return value if isinstance(value, str) else (value, math.copysign(1.0, value))


def bool_score(of: Body, row: Row) -> float | None:
    known(of, {"filter", "must_not", "should", "minimum_should_match", "_name"})
    should = [score for part in of.get("should", ()) if (score := score_of(part, row)) is not None]
    least = of.get("minimum_should_match", 0 if "filter" in of else 1 if "should" in of else 0)
    if len(should) < least or not all(matches(part, row) for part in of.get("filter", ())):
        return None
    if any(matches(part, row) for part in of.get("must_not", ())):
        return None
    return sum(should)


def function_score(of: Body, row: Row) -> float | None:
    known(of, {"query", "functions", "score_mode", "boost_mode"})
    inner = score_of(of["query"], row)
    if inner is None:
        return None
    values = []
    for function in of["functions"]:
        known(function, {"filter", "weight", "random_score"})
        if "filter" not in function or matches(function["filter"], row):
            values.append(
                function.get("weight", 1.0) * (drawn(function["random_score"], row) if "random_score" in function else 1.0)
            )
    mode = of.get("score_mode", "multiply")
    assert mode in {"sum", "max"} or len(values) <= 1
    factor = (sum(values) if mode == "sum" else max(values)) if values else 1.0
    assert of["boost_mode"] in {"sum", "replace"}
    return float(np.float32(inner + factor if of["boost_mode"] == "sum" else factor))


def drawn(of: Body, row: Row) -> float:
    """Uniform, as ``random_score`` is: 24 bits of another hash than OpenSearch's."""
    known(of, {"seed", "field"})
    assert 0 <= of["seed"] < 2**31
    text = f"{of['seed']} {row[of['field']]}"
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & 0xFFFFFF) / (1 << 24)


def sort_key(field: str, how: Any, row: Row, score: float) -> Any:
    known(how, {"order", "missing"})
    order, missing = how["order"], how.get("missing")
    value = score if field == "_score" else row.get(field)
    if order == "asc":
        assert value is not None
        return value
    assert order == "desc"
    assert value is not None or missing == "_last"
    return (value is None, 0.0 if value is None else -value)


def names_of(query: Any, row: Row) -> set[str]:
    """The named queries, anywhere in a query, that a row matches."""
    if isinstance(query, list):
        return set().union(*(names_of(part, row) for part in query))
    if not isinstance(query, Mapping):
        return set()
    own = {query["bool"]["_name"]} if "_name" in query.get("bool", {}) and matches(query, row) else set()
    return own.union(*(names_of(part, row) for part in query.values()))


def aggregated(agg: Body, rows: Sequence[Row]) -> dict[str, Any]:
    known(agg, {"filter", "filters", "aggs"})
    if "filters" in agg:
        counts = {name: sum(matches(query, row) for row in rows) for name, query in agg["filters"]["filters"].items()}
        return {"buckets": {name: {"doc_count": count} for name, count in counts.items()}}
    inside = [row for row in rows if matches(agg["filter"], row)]
    return {"doc_count": len(inside)} | {name: aggregated(below, inside) for name, below in agg.get("aggs", {}).items()}
