"""Events to and from the rows of the archive, one row an event, and copies among the rows.

A file holds the attributes of the catalogue it was written with. Files of other catalogues read together with it: what a
catalogue lacks is null, and so is an attribute that has changed its kind.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.catalogue import Catalogue
from schemas.event import Event
from schemas.tables import archive_schema
from schemas.view import pack_attributes, unpack_attributes

_ROWS_AT_ONCE: Final = 10_000
_SEALED: Final = ("sealed_user_id", "sealed_anonymous_id")
_PLAIN: Final = ("event_id", "event_type", "event_time", "user_id", "anonymous_id", "session_id", "listing_id", *_SEALED)
_NEVER: Final = np.iinfo(np.int64).max

Row = Mapping[str, Any]


def archive_table(events: Sequence[Event], catalogue: Catalogue, received_at: Sequence[int | None]) -> pa.Table:
    """Pseudonymised events as rows, in the order given; ``received_at`` has an instant (ms UTC) or ``None`` for each."""
    schema = archive_schema(catalogue)
    unpacked = {packed: unpack_attributes(packed) for packed in {event.packed for event in events}}
    attributes = [unpacked[event.packed] for event in events]
    struct = schema.field("attributes").type
    columns = {
        "user": [event.profile_id for event in events],
        "experiment": [None if event.experiment is None else json.dumps(event.experiment, sort_keys=True) for event in events],
        "received_at": received_at,
    }
    for name in _PLAIN:
        columns[name] = [getattr(event, name) for event in events]
    arrays = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    fields = [pa.array([each.get(field.name) for each in attributes], field.type) for field in struct]
    arrays["attributes"] = pa.StructArray.from_arrays(fields, fields=list(struct))
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def events_of(table: pa.Table) -> Iterator[Event]:
    """The events in rows of the archive, in their order; an attribute that is null is absent."""
    times = table["event_time"].cast(pa.int64())
    table = table.set_column(table.schema.get_field_index("event_time"), "event_time", times).drop_columns("received_at")
    for row in itertools.chain.from_iterable(batch.to_pylist() for batch in table.to_batches(_ROWS_AT_ONCE)):
        yield Event(
            row["event_id"],
            row["event_type"],
            row["event_time"],
            row["user_id"],
            row["anonymous_id"],
            row["session_id"],
            row["listing_id"],
            _packed(row),
            None if row["experiment"] is None else json.loads(row["experiment"]),
            pseudonymised=True,
            sealed_user_id=row.get("sealed_user_id"),
            sealed_anonymous_id=row.get("sealed_anonymous_id"),
        )


def conformed(table: pa.Table, catalogue: Catalogue) -> pa.Table:
    """Rows written with any catalogue as rows of this one."""
    schema, place = archive_schema(catalogue), table.schema.get_field_index("attributes")
    held, wanted = set(table.schema.field("attributes").type), list(schema.field("attributes").type)
    attributes = table["attributes"].combine_chunks()
    # Not a cast alone: it would read the text "12" as a number.
    arrays = [pc.struct_field(attributes, field.name) if field in held else pa.nulls(len(table), field.type) for field in wanted]
    table = table.set_column(place, "attributes", pa.StructArray.from_arrays(arrays, fields=wanted))
    for name in _SEALED:  # an archive of version 0.1.0 has none
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.binary()))
    return table.select(schema.names).cast(schema)


def deduplicated(table: pa.Table) -> pa.Table:
    """The rows with each ``event_id`` once: of its copies the one with the smallest ``event_time``.

    Of those the smallest packed attributes count, as in the profile rows; then the smallest of the rest; so it is the same
    row whatever the order. No order is promised.
    """
    codes = table["event_id"].cast(pa.large_string()).combine_chunks().dictionary_encode()
    if len(codes.dictionary) == len(table):
        return table
    ids, times = codes.indices.to_numpy(), table["event_time"].cast(pa.int64()).to_numpy()
    received = pc.fill_null(table["received_at"].cast(pa.int64()), _NEVER).to_numpy()
    order = np.lexsort((received, times, ids))
    table, ids, times = table.take(order), ids[order], times[order]
    first = np.flatnonzero(np.diff(ids, prepend=-1))
    tied = (np.diff(ids) == 0) & (np.diff(times) == 0)
    disagree = tied & ~_equal_to_previous(table)
    runs = np.cumsum(np.concatenate(([True], ~tied)))  # copies with the same event_time
    chosen = first.copy()
    for run in np.intersect1d(runs[1:][disagree], runs[first]):
        start, stop = np.searchsorted(runs, (run, run + 1))
        rows = table.slice(start, stop - start).to_pylist()
        chosen[np.searchsorted(first, start)] = start + min(range(len(rows)), key=lambda index: _preference(rows[index]))  # noqa: B023
    return table.take(chosen)


def _equal_to_previous(table: pa.Table) -> Any:
    """For each row but the first: whether it equals the one before it in all but ``received_at``."""
    equal = np.ones(max(len(table) - 1, 0), dtype=bool)
    for column in table.drop_columns("received_at").flatten().columns:
        column = column.combine_chunks()
        here, before = column.slice(1), column.slice(0, len(equal))
        both_null = pc.and_(here.is_null(), before.is_null())
        equal &= pc.or_(pc.fill_null(pc.equal(here, before), False), both_null).to_numpy(zero_copy_only=False)
    return equal


def _preference(row: Row) -> tuple[bytes, str]:
    return _packed(row), json.dumps(row, sort_keys=True, default=str)


def _packed(row: Row) -> bytes:
    return pack_attributes({name: value for name, value in row["attributes"].items() if value is not None})
