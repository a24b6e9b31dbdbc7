"""Large simulated archives: what `forecourt archive` leaves behind of a busy stream, drawn with numpy, a date at a time.

    python -m benchmarks.archives DIR --events N --users N --days D [--seed S]

As in ``pipelines/market.py`` few users make most sessions, and what a user views is mostly close to a taste, which changes every
five days. Files hold what was received one after the other, so events that came late, and copies, lie in later files.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.listings import CATALOGUE as PROTOTYPES
from pipelines.listings import LISTINGS_PER_TASTE, TASTE_SIZES, listings_by_taste
from pipelines.market import EVENTS_PER_SESSION, SEARCH_SHARE, SECONDS_BETWEEN_EVENTS
from rules import CATALOGUE_PATH
from schemas.catalogue import Catalogue
from schemas.errors import EXIT_OK, ConfigError, ForecourtError
from schemas.instants import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, clock_ms, date_of, parse_instant
from schemas.tables import archive_schema
from transforms.archive_files import prepare_archive, write_part
from transforms.rules_file import load_catalogue

Ints = NDArray[np.int64]

FIRST_DATE: Final = "2026-03-01"
SEED: Final = 1
LISTINGS: Final = 100_000
ROWS_PER_FILE: Final = 50_000
COPIES: Final = 0.01
LATE: Final = 0.02
ANONYMOUS: Final = 0.3
MISSING: Final = 0.02  # of each attribute of the listings
DRIFT_DAYS: Final = 5
WRITERS: Final = 2
_FIRST_DAY_MS: Final = parse_instant(f"{FIRST_DATE}T00:00:00Z")
_HEX: Final = np.frombuffer(bytes(range(256)).hex().encode(), np.uint16)
_PSEUDONYM: Final = np.frombuffer(b"1:", np.uint8)


class Facts(NamedTuple):
    """What an archive holds.

    ``rows`` are ``events`` and their ``copies``; ``users`` have an event; ``late`` rows came over an hour after they happened.
    """

    first_date: str
    last_date: str
    rows: int
    events: int
    copies: int
    views: int
    users: int
    late: int
    files: int
    megabytes: float


class Users(NamedTuple):
    """One element a user, in the order of their pseudonyms."""

    ids: pa.StringArray
    sealed: pa.BinaryArray  # as long as sealed ids are, and as random
    anonymous: NDArray[np.bool_]
    sessions_up_to: NDArray[np.float64]  # of all sessions, the share made by this user and those before
    loyalty: NDArray[np.float32]  # how often a view is close to the taste
    tastes: NDArray[np.int16]  # shape (users, phases)
    changed: Ints  # the day on which the first phase began, 0 or before


class Market(NamedTuple):
    """What all days share. ``shown`` has a row for all that an event may show, the listings first."""

    users: Users
    listings: int
    shown: pa.Table
    schema: pa.Schema


class Written(NamedTuple):
    """What one day came to; ``active`` are the users with an event."""

    active: Ints
    rows: int
    views: int
    late: int
    files: int
    bytes: int


class Day(NamedTuple):
    """One element an event, in the order they were received."""

    times: Ints
    users: Ints
    ids: NDArray[np.uint64]  # shape (events, 2)
    sessions: Ints
    session_ids: NDArray[np.uint64]  # shape (sessions, 2)
    seen: Ints  # the row of ``Market.shown``
    received: Ints


def make_archive(
    directory: str, events: int, users: int, days: int = 20, *, seed: int = SEED, listings: int = LISTINGS, catalogue: Catalogue
) -> Facts:
    """Write ``events`` distinct events and 1 % copies of ``days`` dates from ``FIRST_DATE`` on; the same for the same arguments.

    ``ConfigError`` when the folder isn't empty or a number makes no sense.
    """
    bounds = {"events": (events, 2 * days), "users": (users, 1), "days": (days, 1), "listings": (listings, len(PROTOTYPES))}
    for name, (value, least) in bounds.items():
        if value < least:
            msg = f"{name} == {value}, must be at least {least}"
            raise ConfigError(msg)
    if Path(directory).exists() and any(Path(directory).iterdir()):
        msg = f"archive == {directory}, must be a folder that is empty or not there yet"
        raise ConfigError(msg)
    prepare_archive(directory, clock_ms())
    market = _market(np.random.default_rng(seed), users, days, listings, catalogue)
    edges = [number * events // days for number in range(days + 1)]
    sizes = [after - before for before, after in itertools.pairwise(edges)]
    with ThreadPoolExecutor(WRITERS) as writers:
        written = list(writers.map(functools.partial(_write_day, directory, market, seed), range(days), sizes))
    active = np.zeros(users, bool)
    for day in written:
        active[day.active] = True
    rows, views, late, files, size = (sum(column) for column in zip(*(day[1:] for day in written), strict=True))
    last_date = date_of(_FIRST_DAY_MS + (days - 1) * DAY_MS)
    return Facts(FIRST_DATE, last_date, rows, events, rows - events, views, int(active.sum()), late, files, round(size / 2**20, 1))


def _write_day(directory: str, market: Market, seed: int, number: int, events: int) -> Written:
    date = date_of(_FIRST_DAY_MS + number * DAY_MS)
    rng = np.random.default_rng([seed, number])
    day = _day(rng, events, number, market)
    rows = late = files = size = 0
    for chosen, received in _parts(rng, day):
        name = hashlib.sha256(f"{seed} {date} {files}".encode()).hexdigest()[:32]
        path = write_part(directory, date, name, _table(day, chosen, received, market))
        rows, files, size = rows + len(chosen), files + 1, size + Path(path).stat().st_size
        late += int((received - day.times[chosen] > HOUR_MS).sum())
    return Written(np.unique(day.users), rows, int((day.seen < market.listings).sum()), late, files, size)


def _market(rng: np.random.Generator, users: int, days: int, listings: int, catalogue: Catalogue) -> Market:
    return Market(_users(rng, users, days), listings, _shown(rng, listings, catalogue), archive_schema(catalogue))


def _users(rng: np.random.Generator, users: int, days: int) -> Users:
    ids = rng.integers(0, 2**64, (users, 4), np.uint64)
    ids = ids[np.argsort(ids[:, 0])]
    activity = np.cumsum(rng.lognormal(0, 1, users))
    phases = days // DRIFT_DAYS + 2
    digits = rng.integers(0, TASTE_SIZES, (users, len(TASTE_SIZES)))
    tastes = np.empty((users, phases), np.int16)
    for phase in range(phases):
        tastes[:, phase] = np.ravel_multi_index(tuple(digits.T), TASTE_SIZES)
        which = rng.integers(0, len(TASTE_SIZES), users)
        digits[np.arange(users), which] = rng.integers(0, np.array(TASTE_SIZES)[which])
    return Users(
        _texts(ids, _PSEUDONYM),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), users, [None, pa.py_buffer(ids.tobytes())]).cast(pa.binary()),
        rng.random(users) < ANONYMOUS,
        activity / activity[-1],
        rng.beta(4, 2, users).astype(np.float32),
        tastes,
        -rng.integers(0, DRIFT_DAYS, users),
    )


def _shown(rng: np.random.Generator, listings: int, catalogue: Catalogue) -> pa.Table:
    """What an event may show: the listings, then a search like each prototype, then nothing.

    Listing ``n`` is a vehicle like prototype ``n % len(PROTOTYPES)``, so it suits the same tastes.
    """
    schema = archive_schema(catalogue)
    like = np.arange(listings) % len(PROTOTYPES)
    spread = {"price": 0.03, "mileage": 0.1}
    columns = []
    for field in schema.field("attributes").type:
        known = pa.array([each.attributes.get(field.name) for each in PROTOTYPES])
        column = known.take(pa.array(like, mask=rng.random(listings) < MISSING))
        if field.name in spread:
            factors = rng.lognormal(0, spread[field.name], listings)
            column = pa.array(np.round(column.to_numpy(zero_copy_only=False) * factors, -1), from_pandas=True)
        asked = pa.array([each.query.get(field.name) for each in PROTOTYPES] + [None], field.type)
        columns.append(pa.concat_arrays([column.cast(field.type), asked]))
    searches = len(PROTOTYPES)
    types = ["listing_view"] * listings + ["search"] * searches + ["session_start"]
    ids = [f"l-{number}" for number in range(listings)] + [None] * (searches + 1)
    attributes = pa.StructArray.from_arrays(columns, fields=list(schema.field("attributes").type))
    return pa.table({"event_type": types, "listing_id": ids, "attributes": attributes})


def _day(rng: np.random.Generator, n: int, number: int, market: Market) -> Day:
    """The events of one date; a session begins and ends on it."""
    people, listings = market.users, market.listings
    lengths = rng.geometric(1 / (EVENTS_PER_SESSION - 1), n // 2 + 1) + 1
    sessions = np.repeat(np.arange(len(lengths)), lengths)[:n]
    count = int(sessions[-1]) + 1
    opens = np.concatenate([[0], np.cumsum(lengths)])[:count]
    clock = np.cumsum(rng.exponential(SECONDS_BETWEEN_EVENTS * SECOND_MS, n))
    offsets = clock - clock[opens][sessions]
    lasted = offsets[np.append(opens[1:], n) - 1]
    squeeze = np.minimum(1, DAY_MS / 2 / np.maximum(lasted, 1))
    starts = rng.beta(3, 2, count) * (DAY_MS - lasted * squeeze)  # more in the evening
    within = np.minimum((starts[sessions] + offsets * squeeze[sessions]).astype(np.int64), DAY_MS - 1)
    times = _FIRST_DAY_MS + number * DAY_MS + within
    users = np.searchsorted(people.sessions_up_to, rng.random(count), side="right").clip(0, len(people.ids) - 1)[sessions]
    tastes = people.tastes[users, (number - people.changed[users]) // DRIFT_DAYS]
    likes = listings_by_taste()[tastes, rng.integers(0, LISTINGS_PER_TASTE, n)]
    likes = np.where(rng.random(n, np.float32) < people.loyalty[users], likes, rng.integers(0, len(PROTOTYPES), n))
    alike = (listings - 1 - likes) // len(PROTOTYPES) + 1
    seen = likes + len(PROTOTYPES) * rng.integers(0, alike)
    seen = np.where(rng.random(n) < SEARCH_SHARE, listings + likes, seen)
    seen[opens] = listings + len(PROTOTYPES)
    received = times + rng.exponential(SECOND_MS, n).astype(np.int64)
    late = np.flatnonzero(rng.random(n) < LATE)
    received[late] += np.exp(rng.uniform(np.log(MINUTE_MS), np.log(2 * DAY_MS), len(late))).astype(np.int64)
    order = np.argsort(received, kind="stable")
    ids, session_ids = (rng.integers(0, 2**64, (many, 2), np.uint64) for many in (n, count))
    return Day(times[order], users[order], ids, sessions[order], session_ids, seen[order], received[order])


def _parts(rng: np.random.Generator, day: Day) -> Iterator[tuple[Ints, Ints]]:
    """For each file its events and when they were received; copies lie in a later file, so there are two at least."""
    n = len(day.times)
    files = max(2, round(n / ROWS_PER_FILE))
    edges = np.arange(files + 1) * n // files
    copied = rng.choice(edges[-2], min(round(COPIES * n), edges[-2]), replace=False)
    later = edges[np.searchsorted(edges, copied, side="right")]  # the first event of the next file
    beside = rng.integers(later, n)  # the copy came with this one
    home = np.searchsorted(edges, beside, side="right") - 1
    for index in range(files):
        own, guests = np.arange(edges[index], edges[index + 1]), home == index
        chosen = np.concatenate([own, copied[guests]])
        received = day.received[np.concatenate([own, beside[guests]])]
        order = np.lexsort((day.ids[chosen, 0], day.times[chosen], day.users[chosen]))
        yield chosen[order], received[order]


def _table(day: Day, chosen: Ints, received: Ints, market: Market) -> pa.Table:
    people, schema = market.users, market.schema
    users = day.users[chosen]
    anonymous = people.anonymous[users]
    columns = {
        "event_id": _texts(day.ids[chosen]),
        "event_time": pa.array(day.times[chosen], schema.field("event_time").type),
        "user": people.ids.take(pa.array(users)),
        "user_id": people.ids.take(pa.array(users, mask=anonymous)),
        "anonymous_id": people.ids.take(pa.array(users, mask=~anonymous)),
        "sealed_user_id": people.sealed.take(pa.array(users, mask=anonymous)),
        "sealed_anonymous_id": people.sealed.take(pa.array(users, mask=~anonymous)),
        "session_id": _texts(day.session_ids[day.sessions[chosen]]),
        "experiment": pa.nulls(len(chosen), pa.string()),
        "received_at": pa.array(received, schema.field("received_at").type),
    }
    seen = market.shown.take(pa.array(day.seen[chosen]))
    return pa.table([columns[name] if name in columns else seen[name] for name in schema.names], schema=schema)


def _texts(numbers: NDArray[np.uint64], prefix: NDArray[np.uint8] | None = None) -> pa.StringArray:
    """A row of 64-bit numbers → their hex digits, behind a prefix; in the order of the numbers."""
    digits = _HEX[numbers.astype(">u8").view(np.uint8)].view(np.uint8)
    if prefix is not None:
        digits = np.concatenate([np.broadcast_to(prefix, (len(digits), len(prefix))), digits], axis=1)
    offsets = np.arange(len(digits) + 1, dtype=np.int32) * digits.shape[1]
    return pa.StringArray.from_buffers(len(digits), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits)))


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The archive that a command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.archives", description="A large simulated archive.")
    parser.add_argument("directory", metavar="DIR", help="a folder that is empty or not there yet")
    parser.add_argument("--events", type=int, default=1_000_000, help="distinct ones (default: %(default)s)")
    parser.add_argument("--users", type=int, default=50_000, help="(default: %(default)s)")
    parser.add_argument("--days", type=int, default=20, help=f"from {FIRST_DATE} on (default: %(default)s)")
    parser.add_argument("--listings", type=int, default=LISTINGS, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Make it and say what it holds; the exit status."""
    arguments = vars(parse_args(argv))
    try:
        facts = make_archive(**arguments, catalogue=load_catalogue(CATALOGUE_PATH))
    except ForecourtError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    for name, value in facts._asdict().items():
        print(f"{name:12} {value:,}" if isinstance(value, int) else f"{name:12} {value}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
