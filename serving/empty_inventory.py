"""An inventory without listings: for a gateway that only writes queries, and whose search service has the listings."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from schemas.rules import Condition
from serving.inventory import Found, Listing


class EmptyInventory:
    """``serving.inventory.Inventory`` and its own shortlist: nothing is ever found."""

    def __init__(self, wishes: int = 0) -> None:
        self._wishes = wishes

    def shortlist(self, filters: Condition | None, wishes: Sequence[Condition], seen: Collection[str]) -> EmptyInventory:
        """No listings."""
        return EmptyInventory(len(wishes))

    def viable(self, taken: Collection[str]) -> list[bool]:
        """No wish can be fulfilled."""
        return [False] * self._wishes

    def best(self, weights: Sequence[float], taken: Collection[str], seed: int) -> Found | None:
        """None."""
        return None

    def any(self, taken: Collection[str], seed: int, *, sponsored: bool) -> Found | None:
        """None."""
        return None

    def default(self, k: int, seed: int) -> list[Listing]:
        """None."""
        return []
