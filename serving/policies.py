"""Policies: of the wishes that some listing can fulfil, which ones the featured listing is chosen by. Pure, and a registry by name.

A policy is a function ``(viable, session, position) -> Choice``. It is given only wishes that can be fulfilled, so the probability
it states is that of the pick among these. To be expressed in one OpenSearch query as well, it must not change its mind about two
wishes when a third one goes away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from schemas.errors import ConfigError, shown
from serving.seeds import seed_of, uniform_of
from serving.wishes import Wish, ordered


class Choice(NamedTuple):
    """What the listing is chosen by: the one with the greatest sum of ``weights`` (by wish name, above 0) over what it fulfils.

    ``probability`` is that of this choice, over all sessions.
    """

    weights: Mapping[str, float]
    probability: float


Policy = Callable[[Sequence[Wish], str, int], Choice]

POLICIES: Final[dict[str, Policy]] = {}


def register(name: str) -> Callable[[Policy], Policy]:
    """Makes a policy known by a name."""

    def known(policy: Policy) -> Policy:
        if name in POLICIES:
            msg = f"policy == {name}, must be a new name"
            raise ConfigError(msg)
        POLICIES[name] = policy
        return policy

    return known


def policy_of(name: str) -> Policy:
    """The policy of a name; ``ConfigError`` names those there are."""
    if name not in POLICIES:
        msg = f"policy == {shown(name)}, must be one of {', '.join(sorted(POLICIES))}"
        raise ConfigError(msg)
    return POLICIES[name]


@register("highest_score")
def highest_score(viable: Sequence[Wish], session: str, position: int) -> Choice:
    """The one wish of the highest priority, of these the one with the greatest weight times score, then by name."""
    first = ordered(viable)[0]
    return Choice({first.name: first.worth}, 1.0)


@register("weighted_random")
def weighted_random(viable: Sequence[Wish], session: str, position: int) -> Choice:
    """One of the wishes of the highest priority, drawn by weight times score; the same one all session long.

    An exponential race (Efraimidis and Spirakis 2006): a wish arrives after an exponential time, the sooner the more it is
    worth, and the first one is taken. Who is first among some doesn't depend on the others, so of any set of viable wishes each
    is drawn with its share of their worth, and a wish that joins or leaves moves no other sessions' picks than its own.
    """
    highest = max(wish.priority for wish in viable)
    racing = [wish for wish in viable if wish.priority == highest]
    first = min(racing, key=lambda wish: (_log_arrival(wish, session, position), wish.name))
    return Choice({first.name: first.worth}, first.worth / math.fsum(wish.worth for wish in racing))


@register("combined")
def combined(viable: Sequence[Wish], session: str, position: int) -> Choice:
    """All wishes at once, by weight times score: the listing that fulfils the most. Priorities only tell who is credited."""
    return Choice({wish.name: wish.worth for wish in viable}, 1.0)


def _log_arrival(wish: Wish, session: str, position: int) -> float:
    """The logarithm of the arrival time: the time itself is out of range for the smallest weights."""
    drawn = uniform_of(seed_of(session, f"race-{position}-{wish.name}"))
    return math.log(-math.log(drawn)) - math.log(wish.worth)
