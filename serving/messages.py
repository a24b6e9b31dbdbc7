"""What the gateway is asked and answers, as JSON: the one owner of these formats, and the source of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from schemas.event import Id

MAX_SEEN: Final = 500
MAX_K: Final = 10
MAX_EVENTS: Final = 500

Instant = Annotated[str, msgspec.Meta(description="RFC 3339, UTC", extra_json_schema={"format": "date-time"})]


class FeaturedRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A search whose first result is wanted."""

    session_id: Annotated[Id, msgspec.Meta(description="All chance is drawn from it: within a session answers are stable.")]
    user_id: Id | None = None
    anonymous_id: Annotated[Id, msgspec.Meta(description="Looked up where there is no user_id.")] | None = None
    filters: Annotated[
        dict[str, Any], msgspec.Meta(description="What the user set, in the language of the rules' when. Never overridden.")
    ] = {}
    seen: Annotated[list[Id], msgspec.Meta(max_length=MAX_SEEN, description="Listings that the user has just seen.")] = []
    # JSON knows no integers: 3.0 is 3.
    k: Annotated[float, msgspec.Meta(ge=1, le=MAX_K, multiple_of=1, description="How many positions to fill.")] = 1


class ShownRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a search service has found for a ticket, as OpenSearch answers; of a response only what positions are read from."""

    ticket: str
    response: Annotated[dict[str, Any], msgspec.Meta(description="The response to query.")]
    other_response: Annotated[
        dict[str, Any] | None, msgspec.Meta(description="The response to other_query, where there is one.")
    ] = None


class SegmentAnswer(msgspec.Struct, frozen=True):
    """A segment that the user is in; ``until`` is when that ends if no further view comes."""

    name: str
    score: float
    views: int
    matching: int
    until: Instant


class SegmentsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A user's segments, highest score first; ``reason`` says why there are none."""

    at: Instant
    as_of: Instant | None
    age_ms: int | None
    rule_version: int | None
    source: str
    reason: str | None
    segments: list[SegmentAnswer]


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """One position: the listing, how it was found, and the id to send with a click on it."""

    impression_id: str
    listing: dict[str, Any] | None
    rung: str
    segment: str | None
    matched: list[str]
    probability: float | None


class Clash(msgspec.Struct, frozen=True):
    """A segment that the filters rule out, and by which attributes."""

    segment: str
    attributes: list[str]


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """Where the session is in the experiments."""

    experiment: str | None
    version: int | None
    arm: str | None
    reason: str


class FeaturedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What to show. ``personalised`` is false when no segment chose the first listing, and ``reason`` says why.

    A gateway without an inventory has no ``positions`` until it is brought the responses, with the ``ticket``.
    """

    at: Instant
    personalised: bool
    reason: str | None
    positions: list[Placed]
    segments: list[SegmentAnswer]
    rule_version: int | None
    source: str
    policy: str
    assignment: Arm
    conflicts: list[Clash]
    query: Annotated[
        dict[str, Any] | None,
        msgspec.Meta(description="The same question as an OpenSearch request body; null where its response was brought."),
    ]
    other_query: Annotated[
        dict[str, Any] | None, msgspec.Meta(description="The question of the other answer, without an inventory.")
    ] = None
    ticket: Annotated[str | None, msgspec.Meta(description="Stands for this choice at /v1/featured/shown.")] = None


class RefusedEvent(msgspec.Struct, frozen=True):
    """An event that was not taken: its place in the request, and why."""

    position: int
    reason: str
    field: str | None
    message: str


class EventsAnswer(msgspec.Struct, frozen=True):
    """How many events were taken; they are on their way, not yet published."""

    accepted: int
    refused: list[RefusedEvent]


class ConsentAnswer(msgspec.Struct, frozen=True):
    """Whether the user is opted out now."""

    opted_out: bool


class ForgetAnswer(msgspec.Struct, frozen=True):
    """What was asked for is begun: all that is of the user up to this instant goes, and stays away."""

    until: Instant


class Health(msgspec.Struct, frozen=True):
    """``ready`` or what is still missing."""

    status: str


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a request."""

    code: str
    message: str


class FaultAnswer(msgspec.Struct, frozen=True):
    """Why there is no answer."""

    error: Fault
