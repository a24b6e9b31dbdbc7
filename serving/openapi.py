"""The OpenAPI 3.1 document of the gateway, made from the structs that it reads and writes."""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec

from schemas.event import MAX_ID_BYTES, json_schema
from serving.messages import (
    MAX_EVENTS,
    ConsentAnswer,
    EventsAnswer,
    FaultAnswer,
    FeaturedAnswer,
    FeaturedRequest,
    Health,
    SegmentsAnswer,
)

_STRUCTS: Final = (SegmentsAnswer, FeaturedRequest, FeaturedAnswer, EventsAnswer, ConsentAnswer, Health, FaultAnswer)
_REFERENCE: Final = "#/components/schemas/{name}"
_USER: Final = {
    "name": "user_id",
    "in": "path",
    "required": True,
    "description": "A raw id; a slash in it can't be looked up here.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES // 4, "pattern": r"^[^/\x00-\x1f\x7f-\x9f]+$"},
}
_ANONYMOUS: Final = {
    "name": "anonymous_id",
    "in": "query",
    "description": "The browser or device.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES // 4, "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$"},
}
_FAULTS: Final = {
    "400": "The request can't be used; the message names what, and what would be right.",
    "401": "No key, or one that the access file doesn't have.",
    "403": "The key's role may not ask this.",
    "404": "There is no such path.",
    "413": "The body is over 64 KiB.",
    "422": "None of the events was taken.",
    "429": "Too many requests with this key; Retry-After says when there is room again.",
    "500": "The gateway failed.",
    "503": "It can't be taken now; Retry-After says when to try again.",
}
_OF_ALL: Final = ("400", "401", "403", "404", "429", "500")


@functools.cache
def document() -> dict[str, Any]:
    """The document."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_REFERENCE)
    event = json_schema()
    components |= event.pop("$defs", {})
    event.pop("$schema")
    stamped = {"event_id", "event_time"}
    event["required"] = [name for name in event["required"] if name not in stamped]  # the gateway sets those
    event["properties"].pop("pseudonymised")
    components["Event"] = event
    return {
        "openapi": "3.1.0",
        "info": {"title": "Forecourt gateway", "version": "1", "description": "The featured listing of each visitor."},
        "security": [{"key": []}],
        "paths": {
            "/v1/users/{user_id}/segments": {
                "get": _operation("segments", "A user's segments.", SegmentsAnswer, [_USER, _ANONYMOUS]),
            },
            "/v1/users/{user_id}/why": {"get": _operation("why", "Why, in plain words for the user.", None, [_USER])},
            "/v1/users/{user_id}/opt-out": {
                "post": _operation("optOut", "Profile this user no more.", ConsentAnswer, [_USER], ["503"]),
            },
            "/v1/users/{user_id}/opt-in": {
                "post": _operation("optIn", "Profile this user again.", ConsentAnswer, [_USER], ["503"]),
            },
            "/v1/featured": {
                "post": {
                    **_operation("featured", "The first result of a search.", FeaturedAnswer, [], ["413"]),
                    "requestBody": _body({"$ref": _REFERENCE.format(name="FeaturedRequest")}),
                }
            },
            "/v1/events": {"post": _events()},
            "/healthz": {"get": _open("healthz", "Whether the process answers.", Health)},
            "/readyz": {"get": _open("readyz", "Whether it is warmed up.", Health, ["503"])},
            "/metrics": {"get": _metrics()},
        },
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(
    name: str, summary: str, answer: type | None, parameters: list[Any], faults: list[str] | None = None
) -> dict[str, Any]:
    schema = {"type": "object"} if answer is None else {"$ref": _REFERENCE.format(name=answer.__name__)}
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        "responses": {"200": _response("The answer.", schema)} | _refusals([*_OF_ALL, *(faults or [])]),
    }


def _open(name: str, summary: str, answer: type, faults: list[str] | None = None) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(name=answer.__name__)}
    also = {status: _response("Not yet.", schema) for status in faults or []}
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {"200": _response("The answer.", schema)} | also | _refusals(["500"]),
    }


def _events() -> dict[str, Any]:
    event = {"$ref": _REFERENCE.format(name="Event")}
    operation = _operation("events", "Take events of user behaviour, one or several.", EventsAnswer, [], ["413", "503"])
    taken = operation["responses"].pop("200")
    operation["responses"] = {
        "202": taken | {"description": "Some or all were taken."},
        "422": taken | {"description": _FAULTS["422"]},
    } | operation["responses"]
    several = {"type": "array", "items": event, "minItems": 1, "maxItems": MAX_EVENTS}
    return {**operation, "requestBody": _body({"anyOf": [event, several]})}


def _metrics() -> dict[str, Any]:
    text = {"description": "Prometheus text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {
        "operationId": "metrics",
        "summary": "What is measured.",
        "responses": {"200": text} | _refusals(["401", "403", "429", "500"]),
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _refusals(statuses: list[str]) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(name="FaultAnswer")}
    return {status: _response(_FAULTS[status], schema) for status in statuses}
