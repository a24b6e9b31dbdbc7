"""A simulated marketplace through the stream: its users' segments as a table, and what some of them would be shown.

forecourt demo                 # through a file into SQLite; nothing to install
forecourt demo --live          # through Google's Pub/Sub and Bigtable emulators, as it happens
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipelines.emulators import EmulatorsMissing, emulators
from pipelines.listings import write_listings
from rules import CATALOGUE_PATH, RULES_PATH
from schemas.errors import ConfigError, ForecourtError
from schemas.filters import NO_FILTERS
from schemas.instants import clock_ms, format_instant
from schemas.profile_row import ProfileRow
from schemas.pseudonym import Pseudonyms
from schemas.rules import RuleSet
from schemas.settings import Settings
from serving.featured import Ask, Position, feature
from serving.inventory import Inventory, load_inventory
from serving.keys import KEY_VARIABLE, load_ring
from serving.segments import Segment, segments_at
from serving.store import Store, open_store
from serving.wishes import wishes_of

SHOWN_USERS: Final = 15
FEATURED_USERS: Final = 5
LISTINGS: Final = 300
SPONSORED_SHARE: Final = 0.2
_PROJECT: Final = "demo"
_TABLE: Final = f"bigtable://{_PROJECT}/{_PROJECT}/profiles"
_TOPIC: Final = f"pubsub://{_PROJECT}/topics/events"
_SUBSCRIPTION: Final = f"pubsub://{_PROJECT}/subscriptions/speed-layer"
_TROUBLE: Final = ("--late", "0.02", "--duplicates", "0.03", "--out-of-order", "0.1", "--poison", "0.01")
_STOP_S: Final = 60.0


@dataclasses.dataclass(frozen=True)
class Config:
    """How large a demo, and where its files go."""

    live: bool
    events: int
    users: int
    rate: float
    seed: int
    folder: Path

    def __post_init__(self) -> None:
        """Refuse sizes that make no demo."""
        for name in ("events", "users"):
            if getattr(self, name) < 1:
                msg = f"--{name} == {getattr(self, name)}, must be at least 1"
                raise ConfigError(msg)


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line."""
    parser = argparse.ArgumentParser(
        prog="forecourt demo", description="A simulated marketplace through the stream into segment rows."
    )
    parser.add_argument("--live", action="store_true", help="through Google's emulators, with events as they happen")
    parser.add_argument("--events", type=int, help="default: 60000, live 15000")
    parser.add_argument("--users", type=int, default=400, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=1000.0, help="messages a second when live; default: %(default)s")
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the files go; default: %(default)s")
    known = parser.parse_args(argv)
    known.events = known.events if known.events is not None else 15_000 if known.live else 60_000
    return Config(**vars(known))


def segment_table(rows: Sequence[tuple[str, ProfileRow]], at: int, title: str) -> Table:
    """Users with their segments at an instant, those with most segments first; their ids are the simulation's, so may be shown."""
    table = Table(title=title, title_justify="left")
    for column in ("user", "views", "segments, with score", "until"):
        table.add_column(column, justify="right" if column == "views" else "left")
    for user, row, segments in _most_segments_first(rows, at)[:SHOWN_USERS]:
        profile = row.profile
        names = ", ".join(f"{segment.name} {segment.score:.2f}" for segment in segments)
        until = min((segment.until for segment in segments), default=None)
        table.add_row(user, str(profile.views if profile else 0), names or "-", "" if until is None else format_instant(until)[:16])
    return table


def featured_table(rows: Sequence[tuple[str, ProfileRow]], at: int, rules: RuleSet, inventory: Inventory, title: str) -> Table:
    """What some users would be shown first at an instant: the first of ``segment_table`` by highest segment, and one with none."""
    table = Table(title=title, title_justify="left")
    for column in ("user", "is shown", "rung", "segment", "the default"):
        table.add_column(column)
    by_segment: dict[str | None, tuple[str, list[Segment]]] = {}
    for user, _, segments in _most_segments_first(rows, at):
        by_segment.setdefault(segments[0].name if segments else None, (user, segments))
    nobody = by_segment.pop(None, None)
    for user, segments in [*itertools.islice(by_segment.values(), FEATURED_USERS - 1), *([nobody] if nobody else [])]:
        ask = Ask(NO_FILTERS, wishes_of(segments, rules), frozenset(), session=user)
        featured = feature(ask, Settings().policy, inventory)
        shown, default = featured.positions[0], featured.default[0]
        table.add_row(user, _vehicle(shown), shown.rung, shown.segment or "-", _vehicle(default))
    return table


def _most_segments_first(rows: Sequence[tuple[str, ProfileRow]], at: int) -> list[tuple[str, ProfileRow, list[Segment]]]:
    found = [(user, row, segments_at(row.membership, at)) for user, row in rows if row.membership is not None]
    return sorted(found, key=lambda each: (-len(each[2]), each[0]))


def _vehicle(position: Position) -> str:
    if position.listing is None:
        return "-"
    attributes = position.listing["attributes"]
    return f"{position.listing['title']}, {attributes['fuel_type']}, {attributes['price']:,.0f}"


def run(argv: Sequence[str]) -> int:
    """Run the demo; the exit status."""
    config = parse_args(argv)
    config.folder.mkdir(parents=True, exist_ok=True)
    for name in ("events.jsonl.gz", "truth.jsonl.gz", "dead-letters.jsonl", "profiles.db", "profiles.db-wal", "profiles.db-shm"):
        (config.folder / name).unlink(missing_ok=True)
    if not config.live:
        return _from_file(config)
    try:
        return _live(config)
    except EmulatorsMissing as missing:
        if os.environ.get("CI"):
            raise
        print(f"skipped: {missing}", file=sys.stderr)
        return 0


def _from_file(config: Config) -> int:
    from pipelines import simulate, stream

    console = Console()
    folder, store = config.folder, f"sqlite:///{config.folder}/profiles.db"
    console.print(f"[bold]1. {config.events:,} events of {config.users} users, with late, double, unordered and broken ones[/]")
    market = ["--events", str(config.events), "--users", str(config.users), "--seed", str(config.seed), *_TROUBLE]
    status = simulate.run([*market, "--to", f"file:{folder}/events.jsonl.gz", "--truth", f"{folder}/truth.jsonl.gz"])
    if status:
        return status
    console.print("[bold]2. forecourt stream: file → SQLite[/]")
    open_store(store).init()
    dead_letters = f"file:{folder}/dead-letters.jsonl"
    status = stream.run(["--source", f"file:{folder}/events.jsonl.gz", "--store", store, "--dead-letters", dead_letters])
    if status:
        return status
    _show_result(config, open_store(store), store, console)
    return 0


def _live(config: Config) -> int:
    from pipelines.pubsub import create_subscription

    console = Console()
    os.environ.setdefault(KEY_VARIABLE, "demo-" + "0" * 32)
    with emulators() as endpoints:
        os.environ.update(endpoints.environment())
        console.print(f"[bold]1. emulators: Pub/Sub at {endpoints.pubsub}, Bigtable at {endpoints.bigtable}[/]")
        create_subscription(_TOPIC, _SUBSCRIPTION)
        store = open_store(_TABLE)
        store.init()
        console.print(f"[bold]2. forecourt stream, with {config.rate:,.0f} messages a second coming in[/]")
        with _streaming(config):
            _watch(config, store, console)
        _show_result(config, store, _TABLE, console)
    return 0


@contextlib.contextmanager
def _streaming(config: Config) -> Iterator[None]:
    """A real ``forecourt stream`` process; ended by SIGTERM, as an operator would."""
    arguments = ["--source", _SUBSCRIPTION, "--store", _TABLE, "--dead-letters", f"file:{config.folder}/dead-letters.jsonl"]
    process = subprocess.Popen([sys.executable, "-m", "forecourt", "stream", *arguments])
    try:
        yield
        process.send_signal(signal.SIGTERM)
        status = process.wait(_STOP_S)
    finally:
        process.kill()
    if status:
        msg = f"forecourt stream ended with status {status}, must be 0"
        raise ForecourtError(msg)


def _watch(config: Config, store: Store, console: Console) -> None:
    """Publish at the asked rate, with the table growing on the screen, until the last view is readable."""
    from pipelines import simulate

    market = ["--events", str(config.events), "--users", str(config.users), "--seed", str(config.seed), *_TROUBLE]
    publish = [*market, "--rate", str(config.rate), "--to", _TOPIC, "--truth", f"{config.folder}/truth.jsonl.gz", "--json"]
    status: list[int] = []
    with contextlib.redirect_stdout(sys.stderr):
        publisher = threading.Thread(target=lambda: status.append(simulate.run(publish)))
        publisher.start()
    users = [f"{kind}{number}" for number in range(config.users) for kind in "ua"]  # as the simulation names them
    pseudonyms = Pseudonyms(load_ring(_TABLE))
    last, seen = -1, 0
    quiet_since = time.monotonic()
    with Live(console=console, refresh_per_second=2, transient=True) as live:
        while publisher.is_alive() or time.monotonic() - quiet_since < 3:
            rows = store.read_rows([pseudonyms(user) for user in users])
            seen = sum(row.profile.views for row in rows.values() if row.profile)
            if seen != last:
                last, quiet_since = seen, time.monotonic()
            live.update(
                segment_table([(user, rows[pseudonyms(user)]) for user in users], clock_ms(), f"{seen:,} views in the rows")
            )
            time.sleep(0.5)
    publisher.join()
    if status != [0]:
        msg = "publishing the simulated events failed, must go through"
        raise ForecourtError(msg)


def _show_result(config: Config, store: Store, uri: str, console: Console) -> None:
    users = _users_in(config.folder / "truth.jsonl.gz")
    pseudonyms = Pseudonyms(load_ring(uri))
    found = store.read_rows([pseudonyms(user) for user in users])
    rows = [(user, found[pseudonyms(user)]) for user in users]
    now = clock_ms()
    console.print(
        segment_table(rows, now, f"3. segments now, {SHOWN_USERS} of {sum(1 for _, row in rows if row.membership):,} profiles")
    )
    members = Counter(segment.name for _, row in rows for segment in segments_at(row.membership, now))
    console.print("members: " + ", ".join(f"{name} {number}" for name, number in members.most_common()))
    _show_featured(config, rows, now, console)
    if not config.live:
        user = next((user for user, row in rows if segments_at(row.membership, now)), users[0])
        console.print(f"one user:    forecourt segments {user} --store {uri}")
        console.print(f"the gateway: forecourt serve --store {uri} --inventory {config.folder}/listings.jsonl", soft_wrap=True)
    console.print(f"the rules:   {RULES_PATH}", soft_wrap=True)


def _show_featured(config: Config, rows: Sequence[tuple[str, ProfileRow]], now: int, console: Console) -> None:
    from transforms.rules_file import load_catalogue, load_rules

    path = config.folder / "listings.jsonl"
    write_listings(path, LISTINGS, SPONSORED_SHARE, config.seed)
    catalogue = load_catalogue(CATALOGUE_PATH)
    inventory = load_inventory(str(path), catalogue)
    title = f"4. what each of them would be shown, of {LISTINGS} listings"
    console.print(featured_table(rows, now, load_rules(RULES_PATH, catalogue), inventory, title))


def _users_in(truth: Path) -> list[str]:
    """The profile ids in the simulation's truth, in order of first view."""
    users: dict[str, Any] = {}
    with gzip.open(truth, "rt") as lines:
        for line in lines:
            event = json.loads(line)
            if event["event_type"] == "listing_view":
                users.setdefault(event["user_id"] or event["anonymous_id"])
    return list(users)
