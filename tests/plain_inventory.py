"""An inventory in plain Python: every listing is looked at, one by one. What the fast one must agree with."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any

from schemas.rules import Condition
from serving.inventory import Found, Listing
from tests.strategies import CATALOGUE
from transforms.conditions import predicate_of

Row = dict[str, Any]
WORD = (1 << 64) - 1


def ticket(listing_id: str, seed: int) -> int:
    """A listing's place in the draw with a seed: the smallest wins."""
    number = int(hashlib.sha256(listing_id.encode()).hexdigest()[:16], 16)
    mixed = (number ^ seed) * 0x9E3779B97F4A7C15 & WORD
    return (mixed ^ mixed >> 32) * 0xBF58476D1CE4E5B9 & WORD


def attributes_in(row: Row) -> dict[str, Any]:
    """The attributes of a file's row, numbers as floats."""
    named = {name: row[name] for name in CATALOGUE.attributes if row.get(name) is not None}
    return {name: value if isinstance(value, str) else float(value) for name, value in named.items()}


def listing_of(row: Row) -> Listing:
    """The listing of a file's row."""
    listing: Listing = {"listing_id": row["listing_id"], "sponsored": bool(row.get("sponsored"))}
    listing |= {name: row[name] for name in ("title", "url") if row.get(name) is not None}
    return {**listing, "attributes": attributes_in(row)}


class PlainInventory:
    """The listings of a file's rows."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def shortlist(self, filters: Condition | None, wishes: Sequence[Condition], seen: Collection[str]) -> PlainShortlist:
        fits = predicate_of(filters) if filters is not None else lambda _: True
        return PlainShortlist([row for row in self.rows if fits(attributes_in(row))], wishes, seen)


class PlainShortlist:
    """The rows that satisfy the filters."""

    def __init__(self, rows: Sequence[Row], wishes: Sequence[Condition], seen: Collection[str]) -> None:
        self.rows = rows
        self.wishes = [predicate_of(wish) for wish in wishes]
        self.seen = seen

    def left(self, taken: Collection[str], *, sponsored: bool) -> list[Row]:
        fresh = [row for row in self.rows if row["listing_id"] not in self.seen and row["listing_id"] not in taken]
        return [row for row in fresh if row.get("sponsored") or not sponsored]

    def viable(self, taken: Collection[str]) -> list[bool]:
        return [any(wish(attributes_in(row)) for row in self.left(taken, sponsored=True)) for wish in self.wishes]

    def best(self, weights: Sequence[float], taken: Collection[str], seed: int) -> Found | None:
        def worth(row: Row) -> float:
            return sum(weight for weight, wish in zip(weights, self.wishes, strict=True) if wish(attributes_in(row)))

        rows = [row for row in self.left(taken, sponsored=True) if worth(row) > 0]
        return self.found(min(rows, key=lambda row: (-worth(row), ticket(row["listing_id"], seed)))) if rows else None

    def any(self, taken: Collection[str], seed: int, *, sponsored: bool) -> Found | None:
        rows = self.left(taken, sponsored=sponsored)
        return self.found(min(rows, key=lambda row: ticket(row["listing_id"], seed))) if rows else None

    def default(self, k: int, seed: int) -> list[Listing]:
        def order(row: Row) -> tuple[bool, bool, float, int]:
            rank = row.get("rank")
            return (not row.get("sponsored"), rank is None, -(rank or 0.0), ticket(row["listing_id"], seed))

        return [listing_of(row) for row in sorted(self.rows, key=order)[:k]]

    def found(self, row: Row) -> Found:
        return Found(listing_of(row), tuple(wish(attributes_in(row)) for wish in self.wishes))
