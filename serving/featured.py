"""The featured query: given filters, a user's segments and a policy, which listing is shown first. Pure, but for the inventory.

- A filter is part of every question to the inventory, so nothing overrides, widens or contradicts one.
- A wish that can't hold together with the filters is dropped and reported as a conflict.
- Each position goes down a ladder until a rung has a listing: combined → single_segment → sponsored → filters → default.
- The default is the answer without any personal data, a function of the filters, the session and k. It is always computed. It
  is served to users without wishes and after any fault; a fault is returned, not raised.
- All chance is drawn from the session, so the same question in the same session has the same answer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from schemas.errors import ConfigError
from schemas.filters import Filters
from schemas.rules import Condition
from serving.compatibility import Steps, clashing, clusters_of, fits_in
from serving.inventory import Found, Inventory, Listing, Shortlist
from serving.policies import Choice, Policy, policy_of
from serving.seeds import seed_of
from serving.wishes import MAX_WISHES, Wish, ordered

MAX_POSITIONS: Final = 10
MAX_CHOICE_WEIGHT: Final = 1e300  # so that a sum of them is finite
SPLITS_KEPT: Final = 8

Rung = Literal["combined", "single_segment", "sponsored", "filters", "default"]
RUNGS: Final[tuple[Rung, ...]] = ("combined", "single_segment", "sponsored", "filters", "default")
Reason = Literal["no_segments", "all_conflict", "no_match", "fault"]


class Conflict(NamedTuple):
    """A segment whose condition can't hold together with the filters, and the filter attributes that it clashes with."""

    segment: str
    attributes: tuple[str, ...]


class Ask(NamedTuple):
    """The question; ``seen`` are ids of listings that the user has just seen, ``k`` is how many positions to fill."""

    filters: Filters
    wishes: tuple[Wish, ...]
    seen: frozenset[str]
    session: str
    k: int = 1


class Position(NamedTuple):
    """What is shown at one position.

    ``segment`` is credited with it, ``matched`` are all wishes that the listing fulfils, ``probability`` is the policy's for its
    choice; all three only where a person was considered. Without ``listing`` nothing satisfies the filters, or no more.
    """

    listing: Listing | None
    rung: Rung
    segment: str | None = None
    matched: tuple[str, ...] = ()
    probability: float | None = None


class Featured(NamedTuple):
    """The answer: what to show, what would be shown without personal data, and why the two are the same if they must be.

    ``dropped`` are segments beyond the ``MAX_WISHES`` that are looked at. ``reason`` says why the first position is not personal.
    """

    positions: tuple[Position, ...]
    default: tuple[Position, ...]
    conflicts: tuple[Conflict, ...] = ()
    dropped: tuple[str, ...] = ()
    reason: Reason | None = None
    fault: Exception | None = None


class Split(NamedTuple):
    """The wishes that may hold together with the filters, highest first, and what becomes of the others."""

    wishes: tuple[Wish, ...]
    conflicts: tuple[Conflict, ...]
    dropped: tuple[str, ...]


def feature(ask: Ask, policy: str, inventory: Inventory) -> Featured:
    """The answer to the question under the policy of that name. Never raises: after a fault the default is served."""
    split, fault = Split((), (), ()), None
    try:
        chosen_by = policy_of(policy)
        split = split_of(ask)
    except Exception as error:  # whatever goes wrong in being personal, there is something to show
        fault = error
    k = min(max(ask.k, 1), MAX_POSITIONS)
    try:
        shortlist = inventory.shortlist(ask.filters.condition, [wish.when for wish in split.wishes], ask.seen)
        default = _default(shortlist, ask.session, k)
    except Exception as error:
        nothing = (Position(None, "default"),) * k
        return Featured(nothing, nothing, *split[1:], reason="fault", fault=fault or error)
    if fault is None:
        try:
            if k != ask.k:
                msg = f"k == {ask.k}, must be within 1 and {MAX_POSITIONS}"
                raise ConfigError(msg)  # noqa: TRY301
            if not split.wishes:
                return Featured(default, default, *split[1:], reason="all_conflict" if split.conflicts else "no_segments")
            positions = _positions(ask, split.wishes, chosen_by, shortlist)
        except Exception as error:
            fault = error
        else:
            personal = positions[0].rung in {"combined", "single_segment"}
            return Featured(positions, default, *split[1:], reason=None if personal else "no_match")
    return Featured(default, default, *split[1:], reason="fault", fault=fault)


def split_of(ask: Ask) -> Split:
    """The wishes of a question, and the segments that are not looked at."""
    return _split(ask.wishes, ask.filters.condition)


@functools.lru_cache(SPLITS_KEPT)
def _split(wishes: tuple[Wish, ...], filters: Condition | None) -> Split:
    """Kept for a moment: an answer asks for it again when it writes the query."""
    every = ordered(wishes)
    looked_at, dropped = every[:MAX_WISHES], tuple(wish.name for wish in every[MAX_WISHES:])
    if filters is None:
        return Split(looked_at, (), dropped)
    steps, clusters = Steps(), clusters_of(filters)
    fitting, conflicts = [], []
    for wish in looked_at:
        if fits_in(wish.when, clusters, steps):
            fitting.append(wish)
        else:
            conflicts.append(Conflict(wish.name, clashing(wish.when, filters, steps)))
    return Split(tuple(fitting), tuple(conflicts), dropped)


def _default(shortlist: Shortlist, session: str, k: int) -> tuple[Position, ...]:
    found = shortlist.default(k, seed_of(session, "default"))
    return tuple(Position(found[place] if place < len(found) else None, "default") for place in range(k))


def _positions(ask: Ask, wishes: Sequence[Wish], policy: Policy, shortlist: Shortlist) -> tuple[Position, ...]:
    positions: list[Position] = []
    taken: set[str] = set()
    for place in range(ask.k):
        position = _position(ask, wishes, policy, shortlist, place, taken)
        positions.append(position)
        if position.listing is not None:
            taken.add(position.listing["listing_id"])
    return tuple(positions)


def _position(ask: Ask, wishes: Sequence[Wish], policy: Policy, shortlist: Shortlist, place: int, taken: set[str]) -> Position:
    """One position, down the ladder."""
    seed = seed_of(ask.session, f"listing-{place}")
    viable = tuple(wish for wish, can in zip(wishes, shortlist.viable(taken), strict=True) if can)
    if viable:
        choice = _checked(policy(viable, ask.session, place), viable)
        found = shortlist.best([choice.weights.get(wish.name, 0.0) for wish in wishes], taken, seed)
        if found is not None:
            matched = _matched(found, wishes)
            wanted = [name for name in matched if name in choice.weights]
            return Position(
                found.listing, "combined" if len(wanted) > 1 else "single_segment", wanted[0], matched, choice.probability
            )
    if (found := shortlist.any(taken, seed, sponsored=True)) is not None:
        return Position(found.listing, "sponsored", matched=_matched(found, wishes))
    if (found := shortlist.any(taken, seed, sponsored=False)) is not None:
        return Position(found.listing, "filters", matched=_matched(found, wishes))
    left = shortlist.default(len(taken) + 1, seed_of(ask.session, "default"))
    unused = (listing for listing in left if listing["listing_id"] not in taken)
    return Position(next(unused, None), "default")


def _matched(found: Found, wishes: Sequence[Wish]) -> tuple[str, ...]:
    return tuple(wish.name for wish, does in zip(wishes, found.fulfils, strict=True) if does)


def _checked(choice: Choice, viable: Sequence[Wish]) -> Choice:
    """The choice, if it is one among the viable wishes, in plain floats: policies may come from elsewhere, and use numpy."""
    names = {wish.name for wish in viable}
    weights, probability = {name: float(weight) for name, weight in choice.weights.items()}, float(choice.probability)
    if not weights or not weights.keys() <= names or not all(0 < weight < MAX_CHOICE_WEIGHT for weight in weights.values()):
        msg = f"policy chose {weights}, must be weights above 0 for some of {', '.join(sorted(names))}"
        raise ConfigError(msg)
    if not 0 < probability <= 1:
        msg = f"policy's probability == {probability}, must be above 0 and at most 1"
        raise ConfigError(msg)
    return Choice(weights, probability)
