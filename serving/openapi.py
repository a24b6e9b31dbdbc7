"""The OpenAPI 3.1 document of the gateway, made from the structs that it reads and writes."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas.catalogue import MAX_CATEGORY_BYTES, Catalogue
from schemas.event import MAX_ID_BYTES, json_schema
from serving.ingest import CONSENT_TYPES
from serving.messages import (
    MAX_EVENTS,
    ConsentAnswer,
    EventsAnswer,
    FaultAnswer,
    FeaturedAnswer,
    FeaturedRequest,
    ForgetAnswer,
    Health,
    SegmentsAnswer,
    ShownRequest,
)

_STRUCTS: Final = (
    SegmentsAnswer,
    FeaturedRequest,
    FeaturedAnswer,
    ShownRequest,
    EventsAnswer,
    ConsentAnswer,
    ForgetAnswer,
    Health,
    FaultAnswer,
)
_REFERENCE: Final = "#/components/schemas/{name}"
_NO_CONTROL: Final = r"^[^\x00-\x1f\x7f-\x9f]+$"
# 256 bytes is what an id may have, which JSON Schema can't count; what is over that in spite of it is answered by a 422.
_ID: Final = {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES, "pattern": _NO_CONTROL}
_USER: Final = {
    "name": "user_id",
    "in": "path",
    "required": True,
    "description": "A raw id, percent-encoded: a slash in it is %2F.",
    "schema": _ID,
}
_ANONYMOUS: Final = {"name": "anonymous_id", "in": "query", "description": "The browser or device.", "schema": _ID}
_TEXT: Final = {"type": "string", "maxLength": MAX_CATEGORY_BYTES}
_FAULTS: Final = {
    "400": "The request can't be used; the message names what, and what would be right.",
    "401": "No key, or one that the access file doesn't have.",
    "403": "The key's role may not ask this.",
    "404": "There is no such path.",
    "408": "The request wasn't whole within ten seconds.",
    "413": "The body is over 64 KiB.",
    "422": "It is JSON as it should be, but says what can't be: an id of over 256 bytes, filters that the catalogue doesn't know.",
    "429": "Too many requests with this key; Retry-After says when there is room again.",
    "431": "Path and headers are over 32 KiB.",
    "500": "The gateway failed.",
    "503": "It can't be taken now; Retry-After, where there is one, says when to try again.",
}
_OF_ALL: Final = ("400", "401", "403", "404", "408", "422", "429", "431", "500", "503")


def document(catalogue: Catalogue, *, keys: bool = True) -> dict[str, Any]:
    """The document; what filters and events may hold of a listing is the catalogue's. ``keys``: nobody is let in without one."""
    _, components = msgspec.json.schema_components(_STRUCTS, ref_template=_REFERENCE)
    components = _with_ids(components | {"Event": _event()})
    components["Event"]["properties"]["attributes"]["properties"] = _attributes(catalogue)
    components["Condition"] = condition = _condition(catalogue)
    filters = components["FeaturedRequest"]["properties"]["filters"]
    filters |= {key: condition[key] for key in ("properties", "additionalProperties")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Forecourt gateway", "version": "1", "description": "The featured listing of each visitor."},
        "security": [{"key": []}] if keys else [],
        "paths": {
            "/v1/users/{user_id}/segments": {
                "get": _operation("segments", "A user's segments.", SegmentsAnswer, [_USER, _ANONYMOUS]),
            },
            "/v1/users/{user_id}/why": {"get": _operation("why", "Why, in plain words for the user.", None, [_USER, _ANONYMOUS])},
            "/v1/users/{user_id}/opt-out": {
                "post": _operation("optOut", "Profile this user no more.", ConsentAnswer, [_USER], ["503"]),
            },
            "/v1/users/{user_id}/opt-in": {
                "post": _operation("optIn", "Profile this user again.", ConsentAnswer, [_USER], ["503"]),
            },
            "/v1/users/{user_id}/forget": {"post": _forget()},
            "/v1/featured": {
                "post": {
                    **_operation("featured", "The first result of a search.", FeaturedAnswer, [], ["413"]),
                    "requestBody": _body({"$ref": _REFERENCE.format(name="FeaturedRequest")}),
                }
            },
            "/v1/featured/shown": {
                "post": {
                    **_operation("shown", "What a search found for a ticket.", FeaturedAnswer, [], ["413", "503"]),
                    "requestBody": _body({"$ref": _REFERENCE.format(name="ShownRequest")}),
                }
            },
            "/v1/events": {"post": _events()},
            "/healthz": {"get": _open("healthz", "Whether the process answers.", Health)},
            "/readyz": {"get": _open("readyz", "Whether it is warmed up.", Health, ["503"])},
            "/metrics": {"get": _metrics()},
        },
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _event() -> dict[str, Any]:
    event = json_schema()
    event.pop("$schema")
    stamped = {"event_id", "event_time"}
    event["required"] = [name for name in event["required"] if name not in stamped]  # the gateway sets those
    for name in ("pseudonymised", "sealed_user_id", "sealed_anonymous_id"):  # ids are raw here
        event["properties"].pop(name)
    kinds = event["properties"]["event_type"]
    kinds["enum"] = [kind for kind in kinds["enum"] if kind not in CONSENT_TYPES]
    return event


def _attributes(catalogue: Catalogue) -> dict[str, Any]:
    kinds = {"number": {"type": ["number", "null"]}, "category": {"anyOf": [_TEXT, {"type": "null"}]}}
    return {name: kinds[attribute.kind] for name, attribute in catalogue.attributes.items()}


def _condition(catalogue: Catalogue) -> dict[str, Any]:
    """The language of the rules' ``when`` as a schema."""
    one = {"$ref": _REFERENCE.format(name="Condition")}
    several = {"type": "array", "items": one, "minItems": 1}
    properties: dict[str, Any] = {"all": several, "any": several, "not": one}
    bound = {"type": "number"}
    for name, attribute in catalogue.attributes.items():
        value = bound if attribute.kind == "number" else {"enum": sorted(attribute.values)} if attribute.values else _TEXT
        forms = [value, {"type": "array", "items": value, "minItems": 1}]
        if attribute.kind == "number":
            bounds = {key: bound for key in ("gte", "gt", "lte", "lt")}
            forms.append({"type": "object", "properties": bounds, "additionalProperties": False, "minProperties": 1})
        properties[name] = {"anyOf": forms}
    return {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}


def _with_ids(schema: Any) -> Any:
    """The schema with what an id is in each place of one."""
    if isinstance(schema, list):
        return [_with_ids(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "string" and schema.get("maxLength") == MAX_ID_BYTES:
        return {key: value for key, value in schema.items() if key == "description"} | _ID
    return {key: _with_ids(value) for key, value in schema.items()}


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
    taken, _ = operation["responses"].pop("200"), operation["responses"].pop("422")
    operation["responses"] = {
        "202": taken | {"description": "All were taken."},
        "207": taken | {"description": "Some were taken."},
        "422": taken | {"description": "None of the events was taken."},
    } | operation["responses"]
    several = {"type": "array", "items": event, "minItems": 1, "maxItems": MAX_EVENTS}
    return {**operation, "requestBody": _body({"anyOf": [event, several]})}


def _forget() -> dict[str, Any]:
    operation = _operation("forget", "Forget this user, and all that was held of them.", ForgetAnswer, [_USER], ["503"])
    answer = operation["responses"].pop("200") | {"description": "It is begun."}
    operation["responses"] = {"202": answer} | operation["responses"]
    return operation


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
