"""The tables that Forecourt writes, as Arrow schemas: the archive, and what a night leaves under ``metrics/date=D/``.

A column's meaning stands in its metadata (``meaning_of``); docs/metrics.md shows them.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from schemas.catalogue import Catalogue

ARCHIVE_ORDER: Final = [("user", "ascending"), ("event_time", "ascending"), ("event_id", "ascending")]
_INSTANT: Final = pa.timestamp("ms", tz="UTC")
_TYPES: Final = {"category": pa.string(), "number": pa.float64()}
_MEANING: Final = b"meaning"


def archive_schema(catalogue: Catalogue) -> pa.Schema:
    """The columns of the archive; ids of people are pseudonyms, ``user`` is the id whose profile the event belongs to."""
    attributes = [pa.field(name, _TYPES[attribute.kind]) for name, attribute in sorted(catalogue.attributes.items())]
    return pa.schema(
        [
            pa.field("event_id", pa.string(), nullable=False),
            pa.field("event_type", pa.string(), nullable=False),
            pa.field("event_time", _INSTANT, nullable=False),
            pa.field("user", pa.string(), nullable=False),
            pa.field("user_id", pa.string()),
            pa.field("anonymous_id", pa.string()),
            pa.field("session_id", pa.string()),
            pa.field("listing_id", pa.string()),
            pa.field("attributes", pa.struct(attributes), nullable=False),
            pa.field("experiment", pa.string()),  # JSON
            pa.field("received_at", _INSTANT),  # null when replayed from a file
            pa.field("sealed_user_id", pa.binary()),
            pa.field("sealed_anonymous_id", pa.binary()),
        ]
    )


def meaning_of(field: pa.Field) -> str:
    """What a column of a metrics table means."""
    return str(field.metadata[_MEANING].decode())


def _column(name: str, kind: pa.DataType, meaning: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={_MEANING: meaning.encode()})


_DATE: Final = _column("date", pa.string(), "the UTC date, `YYYY-MM-DD`")

SEGMENTS: Final = pa.schema(
    [
        _DATE,
        _column("rule_version", pa.int64(), "the version of the rules"),
        _column("segment", pa.string(), "its name in the rules"),
        _column("tp", pa.int64(), "views that match, by users who were members just before"),
        _column("fp", pa.int64(), "views that don't match, by members"),
        _column("fn", pa.int64(), "views that match, by users who weren't members"),
        _column("tn", pa.int64(), "the other views"),
        _column("precision", pa.float64(), "tp / (tp + fp)", nullable=True),
        _column("recall", pa.float64(), "tp / (tp + fn)", nullable=True),
        _column("precision_low", pa.float64(), "lower end of its 95 % Wilson interval", nullable=True),
        _column("precision_high", pa.float64(), "upper end", nullable=True),
        _column("recall_low", pa.float64(), "lower end of its 95 % Wilson interval", nullable=True),
        _column("recall_high", pa.float64(), "upper end", nullable=True),
        _column("base_rate", pa.float64(), "(tp + fn) / all views", nullable=True),
        _column("lift", pa.float64(), "precision / base_rate", nullable=True),
        _column("members", pa.int64(), "users inside at 24:00, by the views before it"),
        _column("entered", pa.int64(), "users outside at 00:00 and inside at 24:00"),
        _column("left", pa.int64(), "users inside at 00:00 and outside at 24:00"),
        _column("flips", pa.int64(), "changes of membership within the day, by views or by expiry"),
        _column("inside", pa.int64(), "users inside at any time of the day"),
        _column("flips_per_member", pa.float64(), "flips / inside", nullable=True),
        _column("withdrawn", pa.bool_(), "whether serving stops offering it"),
        _column("withdrawn_why", pa.string(), "value and floor, or since when it has to be good", nullable=True),
    ]
)

PARITY: Final = pa.schema(
    [
        _DATE,
        _column("outcome", pa.string(), "agree, or why the row differs from the batch answer"),
        _column("users", pa.int64(), "how many, of those without an event since the end of the day"),
        _column("share", pa.float64(), "of all that were compared", nullable=True),
    ]
)

QUALITY: Final = pa.schema(
    [
        _DATE,
        _column("suite", pa.string(), "day, sample, metrics or rows"),
        _column("expectation", pa.string(), "Great Expectations' name of it"),
        _column("subject", pa.string(), "what was looked at"),
        _column("observed", pa.string(), "what was found, as JSON", nullable=True),
        _column("bound", pa.string(), "what it must be"),
        _column("success", pa.bool_(), "whether it is"),
        _column("override", pa.string(), "the reason given for publishing all the same", nullable=True),
    ]
)

VOLUME: Final = pa.schema(
    [
        _DATE,
        _column("rows", pa.int64(), "rows in the archive's files of the date"),
        _column("events", pa.int64(), "events, copies counted once"),
        _column("duplicates", pa.int64(), "rows that are copies of another"),
        _column("views", pa.int64(), "events of type `listing_view`"),
        _column("users", pa.int64(), "people with an event"),
        _column("received", pa.int64(), "rows that say when they were received"),
        _column("late", pa.int64(), "of those, received over an hour after they happened"),
        _column("future", pa.int64(), "of those, over five minutes ahead of the clock"),
        _column("misfiled", pa.int64(), "rows whose event time is of another date"),
    ]
)

PEOPLE: Final = pa.schema(
    [
        _DATE,
        _column("links", pa.int64(), "anonymous ids that are a user's, by all that is known at the end of the day"),
        _column("conflicts", pa.int64(), "ids that were seen with another user after their first"),
        _column("opted_out", pa.int64(), "people who have opted out"),
    ]
)

TABLES: Final = {"segments": SEGMENTS, "parity": PARITY, "quality": QUALITY, "volume": VOLUME, "people": PEOPLE}
