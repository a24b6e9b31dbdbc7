"""What the featured query asks an inventory of listings, whatever answers it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

from schemas.catalogue import Catalogue
from schemas.rules import Condition

Listing = dict[str, Any]  # listing_id, sponsored, attributes, and title and url where there are


class Found(NamedTuple):
    """A listing, and which of the wishes it fulfils, in their order."""

    listing: Listing
    fulfils: tuple[bool, ...]


class Shortlist(Protocol):
    """The listings that satisfy a user's filters, at one instant. ``taken`` are ids given away already; seeds have 64 bits."""

    def viable(self, taken: Collection[str]) -> Sequence[bool]:
        """Which of the wishes a sponsored listing fulfils that is neither seen nor taken."""
        ...

    def best(self, weights: Sequence[float], taken: Collection[str], seed: int) -> Found | None:
        """The sponsored listing, neither seen nor taken, with the greatest sum of weights over the wishes it fulfils.

        ``None`` when no sum is above 0. Ties are broken by the seed.
        """
        ...

    def any(self, taken: Collection[str], seed: int, *, sponsored: bool) -> Found | None:
        """Any listing that is neither seen nor taken, drawn by the seed; only of the ``sponsored`` ones if so asked."""
        ...

    def default(self, k: int, seed: int) -> Sequence[Listing]:
        """The first k of all: sponsored ones first, then by rank, ties broken by the seed. Neither wishes nor seen matter."""
        ...


class Inventory(Protocol):
    """Listings that can be asked."""

    def shortlist(self, filters: Condition | None, wishes: Sequence[Condition], seen: Collection[str]) -> Shortlist:
        """The listings that satisfy the filters; ``seen`` are ids that the user has just seen."""
        ...


def load_inventory(path: str, catalogue: Catalogue) -> Inventory:
    """The listings of a JSONL, CSV or Parquet file, in memory; ``ConfigError`` says what is wrong with it."""
    from serving.listings_file import read_listings

    return read_listings(path, catalogue)
