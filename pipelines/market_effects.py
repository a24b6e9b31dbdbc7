"""Effects on a simulated market's visits: what some sessions view and send is multiplied by a factor, in expectation. Pure.

Events that stay keep their ids. What a chance is drawn for doesn't depend on the factors, so markets with different effects can be
laid side by side.
"""

from __future__ import annotations

import functools
import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.listings import CATALOGUE, LISTINGS
from pipelines.market import LEAD, LISTING_VIEW, Flags, Floats, Ints, Visits
from schemas.instants import SECOND_MS

ADDED_AFTER_MS: Final = 5 * SECOND_MS
LEAD_AFTER_MS: Final = (20 * SECOND_MS, 60 * SECOND_MS)


def rows(visits: Visits, places: NDArray[np.integer] | Flags) -> Visits:
    """Some of the visits, in the order given."""
    return Visits._make(column[places] for column in visits)


def together(*parts: Visits) -> Visits:
    """Several visits as one, in the order of time."""
    columns = Visits._make(np.concatenate(column) for column in zip(*parts, strict=True))
    return rows(columns, np.argsort(columns.times, kind="stable"))


def with_views(visits: Visits, factors: Floats, rng: np.random.Generator, end: int) -> Visits:
    """Visits in which listings viewed, and views, are multiplied; ``factors[s - 1]`` is that of session ``s``, ``end`` excluded.

    A listing goes from a session with all its views, or another one that the session didn't have is viewed as often, soon after it.
    """
    views = np.flatnonzero(visits.types == LISTING_VIEW)
    pairs, of_view = np.unique(visits.sessions[views] * LISTINGS + visits.listings[views], return_inverse=True)
    times_each = repeats(factors[pairs // LISTINGS - 1], rng.random(len(pairs)))
    extra = np.maximum(times_each - 1, 0)
    sources = np.repeat(np.arange(len(pairs)), extra)
    first = np.cumsum(extra) - extra
    turns = np.arange(len(sources)) - first[sources] + 1
    others = others_of(pairs, sources, rng.integers(0, LISTINGS, len(pairs)))
    # Each source with all of its views.
    order = views[np.argsort(of_view, kind="stable")]
    counts = np.bincount(of_view, minlength=len(pairs))
    entries = np.repeat(np.arange(len(sources)), counts[sources])
    within = np.arange(len(entries)) - np.repeat(np.cumsum(counts[sources]) - counts[sources], counts[sources])
    added = rows(visits, order[(np.cumsum(counts) - counts)[sources][entries] + within])
    waits = rng.integers(1, ADDED_AFTER_MS, len(added.times))
    added = added._replace(times=np.minimum(added.times + waits, end - 1), listings=others[entries], added=turns[entries])
    gone = np.zeros(len(visits.times), np.bool_)
    gone[views[times_each[of_view] == 0]] = True
    return together(rows(visits, ~gone), added)


def with_leads(visits: Visits, exposed: Visits, factors: Floats, rng: np.random.Generator, end: int) -> Visits:
    """Visits in which the chance that a session sends a lead is multiplied; ``exposed`` has one event of each session, in order.

    Where it falls, a session loses all its leads; where it grows, sessions without one get one.
    """
    leads = np.flatnonzero(visits.types == LEAD)
    has = np.zeros(len(factors), np.bool_)
    has[visits.sessions[leads] - 1] = True
    drawn, share = rng.random(len(factors)), float(has.mean()) if len(has) else 0.0
    waits = rng.integers(*LEAD_AFTER_MS, len(factors))
    gone = np.zeros(len(visits.times), np.bool_)
    gone[leads[(drawn >= factors)[visits.sessions[leads] - 1]]] = True
    wanted = np.zeros(len(factors)) if share == 1 else share * (factors - 1) / (1 - share)
    new = ~has & (drawn < wanted)
    added = rows(exposed, new)
    count = len(added.times)
    times = np.minimum(added.times + waits[new], end - 1)
    added = added._replace(times=times, types=np.full(count, LEAD), added=np.ones(count, np.int64))
    return together(rows(visits, ~gone), added)


def repeats(factors: Floats, drawn: Floats) -> Ints:
    """How often each stands there then: whole numbers, ``factors`` in expectation; ``drawn`` are uniform in [0, 1).

    >>> repeats(np.array([0.7, 0.7, 1.3, 1.3, 2.0]), np.array([0.6, 0.8, 0.2, 0.4, 0.5])).tolist()
    [1, 0, 2, 1, 2]
    """
    whole = np.floor(factors)
    return (whole + (drawn < factors - whole)).astype(np.int64)


def others_of(pairs: Ints, sources: Ints, drawn: Ints) -> Ints:
    """For each source another listing, which its session doesn't have: one alike if there is any.

    ``pairs`` are ``session * LISTINGS + listing``, sorted and distinct, with a number ``drawn`` each; ``sources`` lie in them.
    """
    found = np.empty(len(sources), np.int64)
    seen: set[int] = set()
    session = -1
    sessions = pairs // LISTINGS
    for entry, source in enumerate(sources.tolist()):
        if sessions[source] != session:
            session = int(sessions[source])
            first, last = np.searchsorted(sessions, (session, session + 1))
            seen = set((pairs[first:last] % LISTINGS).tolist())
        alike, start = _by_kind()[_kind_of(int(pairs[source] % LISTINGS))], int(drawn[source])
        near = (alike[(start + step) % len(alike)] for step in range(len(alike)))
        anywhere = ((start + step) % LISTINGS for step in range(LISTINGS))
        found[entry] = next(listing for listing in itertools.chain(near, anywhere) if listing not in seen)
        seen.add(int(found[entry]))
    return found


@functools.cache
def _by_kind() -> dict[tuple[str, str], list[int]]:
    """The listings of each fuel and body type."""
    found: dict[tuple[str, str], list[int]] = {}
    for listing in range(LISTINGS):
        found.setdefault(_kind_of(listing), []).append(listing)
    return found


def _kind_of(listing: int) -> tuple[str, str]:
    attributes = CATALOGUE[listing].attributes
    return attributes["fuel_type"], attributes["body_type"]
