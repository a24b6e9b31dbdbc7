"""A behaviour event: its JSON on the wire, its checked form inside, and the published JSON Schema."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from schemas.catalogue import AttributeValue
from schemas.view import unpack_attributes

EventType = Literal[
    "listing_view",
    "search",
    "featured_impression",
    "featured_click",
    "session_start",
    "identify",
    "opt_in",
    "opt_out",
    "forget",
    "lead",
]

FORGET: Final = "forget"

MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_DEPTH: Final = 32
MAX_ID_BYTES: Final = 256
MAX_EXPERIMENT_BYTES: Final = 8 * 1024
FUTURE_TOLERANCE_MS: Final = 5 * 60_000

_ID_TEXT: Final = "1 to 256 bytes of UTF-8 without control characters"
NO_ATTRIBUTES: Final = msgspec.Raw(b"null")

Sealed = Annotated[bytes, msgspec.Meta(max_length=512, description="The id, encrypted; only where pseudonymised is true.")]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES, description=_ID_TEXT)]


class WireEvent(msgspec.Struct, frozen=True):
    """One behaviour event of a vehicle marketplace. At least one of user_id and anonymous_id is given."""

    event_id: Annotated[Id, msgspec.Meta(description="Identifies the event: copies of one id are one event.")]
    event_type: EventType
    event_time: Annotated[
        str,
        msgspec.Meta(
            description="When it happened: RFC 3339 with an offset; kept to whole milliseconds.",
            extra_json_schema={"format": "date-time"},
        ),
    ]
    user_id: Annotated[Id, msgspec.Meta(description="The user, when known.")] | None = None
    anonymous_id: Annotated[Id, msgspec.Meta(description="The browser or device.")] | None = None
    session_id: Id | None = None
    listing_id: Id | None = None
    attributes: msgspec.Raw = msgspec.field(default_factory=lambda: NO_ATTRIBUTES)  # parsed with the catalogue at hand
    experiment: (
        Annotated[dict[str, Any], msgspec.Meta(description="Exposure data of featured_impression and featured_click.")] | None
    ) = None
    pseudonymised: Annotated[
        bool, msgspec.Meta(description="True only where the ids are pseudonyms already: from the gateway, or replayed.")
    ] = False
    sealed_user_id: Sealed | None = None
    sealed_anonymous_id: Sealed | None = None


class Event(NamedTuple):
    """A checked event. ``event_time`` is ms UTC; ``packed`` are the attributes that the catalogue keeps, as rows keep them."""

    event_id: str
    event_type: str
    event_time: int
    user_id: str | None
    anonymous_id: str | None
    session_id: str | None
    listing_id: str | None
    packed: bytes
    experiment: dict[str, Any] | None
    pseudonymised: bool
    sealed_user_id: bytes | None = None
    sealed_anonymous_id: bytes | None = None

    @property
    def attributes(self) -> dict[str, AttributeValue]:
        """The kept attributes by name."""
        return unpack_attributes(self.packed)

    @property
    def profile_id(self) -> str:
        """The id whose profile the event belongs to: the user's when known, else the anonymous one."""
        return self.user_id or self.anonymous_id or ""


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of an event on the wire; ``docs/event.schema.json`` is its published copy."""
    (schema,), components = msgspec.json.schema_components([WireEvent], ref_template="#/$defs/{name}")
    body = components[schema["$ref"].rsplit("/", 1)[1]]
    text = "What is known of the listing; see the attribute catalogue."
    body["properties"]["attributes"] = {"type": ["object", "null"], "description": text, "default": None}
    given = [{"required": [name], "properties": {name: {"type": "string"}}} for name in ("user_id", "anonymous_id")]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "title": "Forecourt event", "anyOf": given}
