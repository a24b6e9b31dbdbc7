"""The sessions table, which experiments are read from: one row a session, as CSV or Parquet.

A session that was exposed in two arms has a row for each, so that whoever reads the table can drop it and count it.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pyarrow as pa


class Column(NamedTuple):
    """A column; ``required``: without it nothing can be analysed. What an optional one would be needed for is told as unknown."""

    name: str
    type: Any
    required: bool
    text: str


COLUMNS: Final[tuple[Column, ...]] = (
    Column("session_id", pa.string(), True, "the session; rows with the same id and arm are copies, and the first counts"),
    Column("user_id", pa.string(), True, "the user's pseudonym; empty where nobody is known: then the session stands alone"),
    Column("started_at", pa.timestamp("ms", "UTC"), False, "when the unit was first exposed in it; RFC 3339 in CSV"),
    Column("day", pa.string(), False, "the date (UTC) of started_at, or a whole number; each day is a look at the experiment"),
    Column("arm", pa.string(), True, "control or treatment; other names, see --arms"),
    Column("segment_count", pa.int32(), True, "how many segments the visitor had; 0: no arm could show anything else"),
    Column("primary_segment", pa.string(), False, "the segment shown, or that control would have shown; empty: none"),
    Column("vehicles_viewed", pa.float64(), True, "distinct listings viewed from the exposure on"),
    Column("impressions", pa.float64(), False, "featured listings shown"),
    Column("clicks", pa.float64(), False, "clicks on them"),
    Column("lead", pa.float64(), False, "1 when a lead came from the session, else 0; true and false will do"),
    Column("pre_vehicles", pa.float64(), False, "the user's mean before the experiment; empty: was not there before"),
    Column("policy", pa.string(), False, "the policy by which the arm chose"),
    Column("arm_probability", pa.float64(), False, "with which probability the unit got its arm, where that is not the weights"),
    Column("holdout", pa.bool_(), False, "whether the unit is in the part that a bandit leaves alone"),
)
SCHEMA: Final = pa.schema([(column.name, column.type) for column in COLUMNS])
