"""A simulated marketplace: listings, users with tastes that drift, and the traffic they make. Pure: a seed in, emissions out.

A plan of arrays is drawn with numpy once (150 bytes an event, at its peak); events are built from it one by one. The order of
events is their event time; the order of emission differs for the late ones (minutes to days), the out-of-order ones (a few
places) and the duplicates (exact copies, any time later). Poison comes on top and is never part of the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.listings import CATALOGUE, LISTINGS, LISTINGS_PER_TASTE, TASTE_SIZES, listings_by_taste
from pipelines.poison import REASONS, TIMELESS_REASONS, Event, poison_of
from schemas.errors import ConfigError, shown
from schemas.instants import DAY_MS, LAST_INSTANT_MS, MINUTE_MS, format_instant

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

EVENT, DUPLICATE, POISON = "event", "duplicate", "poison"
SESSION_START, LISTING_VIEW, SEARCH, LEAD, IDENTIFY, IMPRESSION, CLICK = range(7)
EVENT_TYPES: Final = ("session_start", "listing_view", "search", "lead", "identify", "featured_impression", "featured_click")

MAX_EVENTS: Final = 50_000_000  # whose plan takes some 6 GB
MAX_USERS: Final = 1_000_000
EVENTS_PER_SESSION: Final = 8
SECONDS_BETWEEN_EVENTS: Final = 25
SEARCH_SHARE: Final = 0.12
LEAD_SHARE: Final = 0.015
IDENTIFY_SHARE: Final = 0.7  # of the users who start anonymous; the others never tell who they are
DRIFT_MS: Final = 5 * DAY_MS  # a user changes one preference in this time, gradually over its second half
OUT_OF_ORDER_PLACES: Final = 50
_CHUNK: Final = 8_192
_SHARES: Final = ("late", "duplicates", "out_of_order", "poison", "anonymous")


@dataclasses.dataclass(frozen=True)
class Market:
    """What to simulate: ``events`` clean events between ``start`` and ``end`` (ms UTC, end excluded).

    The shares are of ``events``; duplicates and poison come on top of them. ``anonymous`` is the share of users who start without
    a user id, ``lateness`` the longest that a late event is held back (ms), ``reasons`` the kinds of poison, in turn.
    """

    events: int
    users: int
    seed: int
    start: int
    end: int
    late: float = 0.0
    duplicates: float = 0.0
    out_of_order: float = 0.0
    poison: float = 0.0
    anonymous: float = 0.3
    lateness: int = 2 * DAY_MS
    reasons: tuple[str, ...] = TIMELESS_REASONS

    def __post_init__(self) -> None:
        bounds = {"events": (1, MAX_EVENTS), "users": (1, MAX_USERS), "seed": (0, 2**63 - 1), "start": (0, LAST_INSTANT_MS)}
        bounds |= {"end": (self.start + 1, LAST_INSTANT_MS), "lateness": (MINUTE_MS, 365 * DAY_MS)}
        for name, (least, most) in (bounds | dict.fromkeys(_SHARES, (0, 1))).items():
            if not least <= getattr(self, name) <= most:
                msg = f"{name} == {getattr(self, name)}, must be within [{least}, {most}]"
                raise ConfigError(msg)
        if not self.reasons or not set(self.reasons) <= set(REASONS):
            msg = f"reasons == {shown(self.reasons)}, must be some of {', '.join(REASONS)}"
            raise ConfigError(msg)


class Emission(NamedTuple):
    """One message, and what is known about it.

    ``event`` is what was meant, ``None`` for poison (not to be changed: copies share it); ``kind`` is ``event``, ``duplicate`` or
    ``poison``; ``late`` says that the event was held back by minutes to days.
    """

    data: bytes
    event: Event | None
    kind: str
    poison_reason: str = ""
    late: bool = False


class Visits(NamedTuple):
    """What happens, in the order of event time, one array element an event; ``numbers`` and ``added`` make the event ids.

    An event that isn't of the market itself has the number of the one that it goes back to, and counts from 1 in ``added``.
    """

    times: Ints
    users: Ints
    sessions: Ints
    types: Ints
    listings: Ints
    named: NDArray[np.int8]  # 0: anonymous id only, 1: both ids, 2: user id only
    numbers: Ints
    added: Ints


class Change(Protocol):
    """What else happens in a market: more or fewer visits, and impressions and clicks, which it completes."""

    def visits(self, visits: Visits) -> Visits:
        """The visits as they are then, in the order of event time."""
        ...

    def completed(self, event: Event, kind: int, session: int) -> Event:
        """An impression or a click of a session, from an event that has only ids and time."""
        ...


class Plan(NamedTuple):
    """The clean events in the order of event time, one array element each, and the order of emission.

    ``order`` holds ``i`` for event ``i``, then, from the number of events on, one for the copy of event ``copied[k]``, and greater
    numbers for poison.
    """

    visits: Visits
    lags: Ints  # ms by which an event is held back
    late: Flags
    copied: Ints
    order: Ints


def truth_of(emissions: Iterable[Emission]) -> list[Event]:
    """The clean distinct events, in the order of their first emission: what a perfect pipeline has in the end.

    >>> day = Market(events=3, users=1, seed=0, start=0, end=DAY_MS, duplicates=1.0, poison=1.0)
    >>> sorted(event["event_id"] for event in truth_of(events_of(day)))
    ['s0-000001', 's0-000002', 's0-000003']
    """
    return list({e.event["event_id"]: e.event for e in emissions if e.event is not None}.values())


def events_of(config: Market, clock: Callable[[], int] | None = None, change: Change | None = None) -> Iterator[Emission]:
    """The market's messages in the order of emission; the same ones for the same config and change.

    With a ``clock`` (ms UTC) the traffic is live: an event's time is the clock's when it is drawn, less its lag if it is late or
    out of order; nothing waits in the past to be emitted.
    """
    plan = plan_of(config, live=clock is not None, change=change)
    visits, events = plan.visits, len(plan.visits.times)
    copies_due = np.zeros(events, bool)
    copies_due[plan.copied] = True
    waiting: dict[int, Emission] = {}
    for first in range(0, len(plan.order), _CHUNK):
        order = plan.order[first : first + _CHUNK]
        refs = np.where(order < events, order, 0)
        of_visits = (visits.types, visits.users, visits.named, visits.sessions, visits.listings, visits.numbers, visits.added)
        columns = (*of_visits, plan.lags, plan.late, copies_due)
        rows = zip(order.tolist(), _instants(visits.times[refs]), *(c[refs].tolist() for c in columns), strict=True)
        for ref, time, kind, user, named, session, listing, number, added, lag, late, copy_due in rows:
            if ref < events:
                instant = time if clock is None else format_instant(clock() - lag)
                event_id = f"s{config.seed}-{number:06d}{f'-{added}' if added else ''}"
                event = _event(event_id, kind, instant, user, named, f"n{config.seed}-{session}", listing)
                if change is not None and kind in (IMPRESSION, CLICK):
                    event = change.completed(event, kind, session)
                emission = Emission(_encode(event), event, EVENT, late=late)
                if copy_due:
                    waiting[ref] = emission._replace(kind=DUPLICATE, late=False)
                yield emission
            elif ref < events + len(plan.copied):
                yield waiting.pop(int(plan.copied[ref - events]))
            else:
                yield _poison(config, ref - events - len(plan.copied), config.end - 1 if clock is None else clock())


_encode = msgspec.json.Encoder().encode


def _instants(times: Ints) -> list[str]:
    return [f"{text}Z" for text in np.datetime_as_string(times.view("datetime64[ms]"), unit="ms").tolist()]


def _event(event_id: str, kind: int, instant: str, user: int, named: int, session: str, listing: int) -> Event:
    """One event, its keys in the order of the published examples."""
    seen = CATALOGUE[listing]
    shows_listing = kind in (LISTING_VIEW, LEAD)
    return {
        "event_id": event_id,
        "event_type": EVENT_TYPES[kind],
        "event_time": instant,
        "user_id": f"u{user}" if named else None,
        "anonymous_id": f"a{user}" if named < 2 else None,
        "session_id": session,
        "listing_id": seen.listing_id if shows_listing else None,
        "attributes": seen.attributes if shows_listing else seen.query if kind == SEARCH else {},
    }


def _poison(config: Market, number: int, now: int) -> Emission:
    reason = config.reasons[number % len(config.reasons)]
    event_id, listing = f"s{config.seed}-x{number + 1:06d}", number % LISTINGS
    # Each its own session: some forms lose the event id, and every message is to be told from the others.
    event = _event(event_id, LISTING_VIEW, format_instant(now), number % config.users, 2, f"n{config.seed}-x{number + 1}", listing)
    return Emission(poison_of(reason, number // len(config.reasons), event), None, POISON, reason)


def plan_of(config: Market, live: bool = False, change: Change | None = None) -> Plan:
    """All that chance decides. ``live``: late and out-of-order events keep their place, as their times go back instead.

    The shares of trouble are of the events that there are after the change.
    """
    rng = np.random.default_rng(config.seed)
    times, users, sessions, types = _visits(config, rng)
    named = _identities(config, rng, users, types)
    listings = _listings(config, rng, times, users)
    numbers = np.arange(1, config.events + 1)
    visits = Visits(times, users, sessions, types, listings, named, numbers, np.zeros(config.events, np.int64))
    if change is not None:
        visits = change.visits(visits)
    times, n = visits.times, len(visits.times)
    late = _chosen(rng, n, round(config.late * n))
    shuffled = _chosen(rng, n, round(config.out_of_order * n)) & ~late
    places = np.arange(n, dtype=np.float64)
    by = rng.integers(1, OUT_OF_ORDER_PLACES + 1, n)
    held = np.exp(rng.uniform(np.log(MINUTE_MS), np.log(config.lateness), n)).astype(np.int64)
    lags = np.where(late, held, np.where(shuffled, by * max((config.end - config.start) // n, 1), 0))
    if not live:
        reached = np.searchsorted(times, times + held).astype(np.float64)
        # Held back beyond the end: anywhere in the rest of the stream, rather than all in one heap behind it.
        reached = np.where(reached < n, reached, rng.uniform(places, n))
        places = np.where(late, np.maximum(reached, places + 1) - 0.5, np.where(shuffled, places + by + 0.5, places))
    copied = np.flatnonzero(_chosen(rng, n, round(config.duplicates * n)))
    copy_places = places[copied] + np.exp(rng.uniform(0, np.log(max(n / 10, 10)), len(copied)))
    poison_places = rng.uniform(0, n, round(config.poison * n))
    order = np.argsort(np.concatenate([places, copy_places, poison_places]), kind="stable")
    return Plan(visits, lags, late, copied, order)


def _chosen(rng: np.random.Generator, n: int, count: int) -> Flags:
    """Flags of which exactly ``count`` are set."""
    flags = np.zeros(n, bool)
    flags[rng.permutation(n)[:count]] = True
    return flags


def _visits(config: Market, rng: np.random.Generator) -> tuple[Ints, Ints, Ints, Ints]:
    """(times, users, sessions, types) of the events, in time order.

    A session opens with ``session_start``, and few users make most of the sessions.
    """
    n, span = config.events, config.end - config.start
    lengths = rng.geometric(1 / (EVENTS_PER_SESSION - 1), n // 2 + 1) + 1
    sessions = np.repeat(np.arange(len(lengths)), lengths)[:n]
    count = int(sessions[-1]) + 1
    opens = np.concatenate([[0], np.cumsum(lengths)])[:count]
    clock = np.cumsum(rng.exponential(SECONDS_BETWEEN_EVENTS * 1_000, n))
    offsets = clock - clock[opens][sessions]
    closes = np.append(opens[1:], n) - 1
    lasted = offsets[closes]
    squeeze = np.minimum(1, span / 2 / np.maximum(lasted, 1))
    starts = rng.random(count) * (span - lasted * squeeze)
    times = config.start + np.minimum((starts[sessions] + offsets * squeeze[sessions]).astype(np.int64), span - 1)
    activity = rng.lognormal(0, 1, config.users)
    users = rng.choice(config.users, count, p=activity / activity.sum())
    drawn = rng.random(n)
    types = np.where(drawn < SEARCH_SHARE, SEARCH, np.where(drawn < SEARCH_SHARE + LEAD_SHARE, LEAD, LISTING_VIEW))
    types[opens] = SESSION_START
    numbers = np.empty(count, np.int64)
    numbers[np.argsort(starts, kind="stable")] = np.arange(1, count + 1)
    order = np.argsort(times, kind="stable")
    return times[order], users[sessions][order], numbers[sessions][order], types[order]


def _identities(config: Market, rng: np.random.Generator, users: Ints, types: Ints) -> NDArray[np.int8]:
    """Which ids each event carries. Turns, for most users who start anonymous, one of their events into the ``identify``."""
    anonymous = rng.random(config.users) < config.anonymous
    identifies = anonymous & (rng.random(config.users) < IDENTIFY_SHARE)
    candidates = np.flatnonzero(identifies[users] & (types != SESSION_START))
    by_user = candidates[np.argsort(users[candidates], kind="stable")]
    counts = np.bincount(users[candidates], minlength=config.users)
    picks = np.cumsum(counts) - counts + (rng.uniform(0.2, 0.8, config.users) * counts).astype(np.int64)
    chosen = by_user[picks[counts > 0]]
    types[chosen] = IDENTIFY
    identified_at = np.where(anonymous, len(users), -1)
    identified_at[users[chosen]] = chosen
    place, turn = np.arange(len(users)), identified_at[users]
    return np.where(place < turn, 0, np.where(place == turn, 1, 2)).astype(np.int8)


def _listings(config: Market, rng: np.random.Generator, times: Ints, users: Ints) -> Ints:
    """The listing of each event: mostly one close to what the user's taste is at the time, else any.

    A taste is one digit per preference, and it walks: one digit changes every ``DRIFT_MS``.
    """
    phases = (config.end - config.start) // DRIFT_MS + 3
    sizes = np.array(TASTE_SIZES)
    digits = rng.integers(0, sizes, (config.users, len(sizes)))
    tastes = np.empty((config.users, phases), np.int16)
    everyone = np.arange(config.users)
    for phase in range(phases):
        tastes[:, phase] = np.ravel_multi_index(tuple(digits.T), TASTE_SIZES)
        changed = rng.integers(0, len(sizes), config.users)
        digits[everyone, changed] = rng.integers(0, sizes[changed])
    moment = (times - config.start) / DRIFT_MS + rng.random(config.users)[users]
    phase_of = moment.astype(np.int64)
    phase_of += rng.random(len(times)) < 2 * (moment - phase_of) - 1
    close = listings_by_taste()[tastes[users, phase_of], rng.integers(0, LISTINGS_PER_TASTE, len(times))]
    loyal = rng.random(len(times)) < rng.beta(4, 2, config.users)[users]
    return np.where(loyal, close, rng.integers(0, LISTINGS, len(times)))
