"""Responses of a search service, looked through before positions are read from them: whole, of a search that succeeded, typed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from schemas.catalogue import Catalogue
from schemas.errors import ForecourtError, shown
from schemas.event import Id

T = TypeVar("T")


class ResponseError(ForecourtError):
    """The asker's fault: a response that positions can't be read from."""


class _Hit(msgspec.Struct, rename={"source": "_source"}):
    source: dict[str, Any]
    matched_queries: list[str] = []


class _Hits(msgspec.Struct):
    hits: list[_Hit]


class _Count(msgspec.Struct):
    doc_count: int


class _Buckets(msgspec.Struct):
    buckets: dict[str, _Count]


class _Viable(msgspec.Struct):
    viable: _Buckets


class _Aggregations(msgspec.Struct):
    sponsored: _Viable


class _Shards(msgspec.Struct, frozen=True):
    failed: int = 0


class _Response(msgspec.Struct, rename={"shards": "_shards"}):
    hits: _Hits
    timed_out: bool = False
    aggregations: _Aggregations | None = None
    shards: _Shards = _Shards()


class _Source(msgspec.Struct):
    listing_id: Id
    sponsored: bool
    title: str | None = None
    url: str | None = None


def check_response(response: Mapping[str, Any], name: str, k: int, wishes: Collection[str], catalogue: Catalogue) -> None:
    """``ResponseError``, with the place under ``name``, unless it is a whole response of at most ``k`` hits.

    ``wishes`` are those that the aggregation must have counted; the default's search has none.
    """
    if response.get("error") is not None:
        msg = f"{name}.error is given, must be the response of a search that succeeded"
        raise ResponseError(msg)
    whole = _converted(response, _Response, name)
    if whole.timed_out:
        msg = f"{name}.timed_out == true, must be false: it isn't what the whole index has"
        raise ResponseError(msg)
    if whole.shards.failed:
        msg = f"{name}._shards.failed == {whole.shards.failed}, must be 0: it isn't what the whole index has"
        raise ResponseError(msg)
    hits = f"{name}.hits.hits"
    if len(whole.hits.hits) > k:
        msg = f"{hits}: length == {len(whole.hits.hits)}, must be at most {k}, the size of the query"
        raise ResponseError(msg)
    for place, hit in enumerate(whole.hits.hits):
        _check_source(hit.source, f"{hits}[{place}]._source", catalogue)
    counted = None if whole.aggregations is None else whole.aggregations.sponsored.viable.buckets
    if missing := sorted(set(wishes) - set(counted or ())):
        msg = f"{name}.aggregations.sponsored.viable.buckets.{missing[0]} is missing, must be there: is this the query's response?"
        raise ResponseError(msg)


def _check_source(source: Mapping[str, Any], place: str, catalogue: Catalogue) -> None:
    _converted(source, _Source, place)
    for name, attribute in catalogue.attributes.items():
        value = source.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not (number if attribute.kind == "number" else isinstance(value, str)):
            msg = f"{place}.{name} == {shown(value)}, must be {'a number' if attribute.kind == 'number' else 'text'}"
            raise ResponseError(msg)


def _converted(data: Mapping[str, Any], kind: type[T], place: str) -> T:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        msg = f"{place}{where.removesuffix('`')}: {what}, must be as the search answered"
        raise ResponseError(msg) from error
