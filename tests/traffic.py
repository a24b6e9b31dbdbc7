"""Simulated traffic with what it should come to, and how rows and dead letters compare with that.

What is right comes from the simulator, which knows what it sent, and from ``tests/reference.py``; nothing is taken from the stream
under test but its rows and its dead letters.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from pipelines.dead_letters import decode_dead_letter
from pipelines.market import POISON, Market, events_of, truth_of
from pipelines.poison import REASONS
from schemas.dead_letter import DeadLetter
from schemas.instants import DAY_MS, clock_ms, parse_instant
from schemas.profile_row import SPEED, ProfileRow, ViewCell
from schemas.pseudonym import Pseudonyms, ring_of
from serving.store import open_store
from tests import reference
from tests.reference import SeenView

KEY: Final = "a key for tests, not a secret"
RAW_ID: Final = b"@example.org"  # in every raw id of the traffic and in nothing else
RULES: Final = """\
version: 41
defaults: {min_views: 3}
segments:
  - {name: electric, when: {fuel_type: electric}}
  - {name: suv, when: {body_type: [suv, crossover]}, enter: 0.6, exit: 0.5}
  - {name: premium, when: {price: {gte: 40000}}, prior_views: 4, prior_share: 0.1}
  - {name: budget, when: {price: {lt: 20000}}, window: 3d}
  - {name: low_mileage, when: {mileage: {lte: 60000}}, half_life: 2d, min_days: 2}
  - {name: not_diesel, when: {not: {fuel_type: diesel}}}
"""
_SCORE: Final = 1e-6
_IDS: Final = re.compile(rb'"(user_id|anonymous_id)":"([ua]\d+)"')

Spans = dict[str, list[tuple[int, int, float, int, int]]]  # per segment (from, until, score, views, matching)


class Traffic(NamedTuple):
    """What is sent, in order, and what it should come to. Each poison message is told by its reason and its size."""

    messages: list[bytes]
    views: dict[str, list[SeenView]]  # distinct, in order of time, by raw profile id
    poison: frozenset[tuple[str, int]]
    owners: Mapping[str, str] = {}  # anonymous id → the user whom it was first seen with

    @property
    def people(self) -> dict[str, list[SeenView]]:
        """The views of each person, whichever of their ids they came under, by the id of their row."""
        people: dict[str, list[SeenView]] = {}
        for raw_id, seen in self.views.items():
            people.setdefault(self.owners.get(raw_id, raw_id), []).extend(seen)
        return {raw_id: reference.distinct(seen) for raw_id, seen in people.items()}

    def person(self, raw_id: str) -> str:
        """The id of the person's row."""
        return self.owners.get(raw_id, raw_id)

    @property
    def ids(self) -> list[str]:
        """The raw ids of all profiles."""
        return list(self.views)


def traffic_of(market: Market) -> Traffic:
    """The market's traffic, under ids that are easy to find where they shouldn't be."""
    messages: list[bytes] = []
    poison: set[tuple[str, int]] = set()
    emissions = list(events_of(market))
    for emission in emissions:
        data = _IDS.sub(rb'"\1":"\2' + RAW_ID + b'"', emission.data)
        if emission.kind == POISON:
            while (emission.poison_reason, len(data)) in poison:
                data += b" "  # wrong as before, and of a size of its own
            poison.add((emission.poison_reason, len(data)))
        messages.append(data)
    views: dict[str, list[SeenView]] = {}
    owners: dict[str, tuple[str, str, str]] = {}
    for event in truth_of(emissions):
        if event["user_id"] and event["anonymous_id"]:
            anonymous = event["anonymous_id"] + RAW_ID.decode()
            link = event["event_time"], event["event_id"], event["user_id"] + RAW_ID.decode()
            owners[anonymous] = min(link, owners.get(anonymous, link))
        if event["event_type"] == "listing_view":
            seen = SeenView(parse_instant(event["event_time"]), event["event_id"], event["attributes"])
            views.setdefault((event["user_id"] or event["anonymous_id"]) + RAW_ID.decode(), []).append(seen)
    distinct = {raw_id: reference.distinct(seen) for raw_id, seen in views.items()}
    return Traffic(messages, distinct, frozenset(poison), {anonymous: link[2] for anonymous, link in owners.items()})


def market_of(events: int, users: int, seed: int, days: int = 9, reasons: tuple[str, ...] = REASONS) -> Market:
    """A market with all troubles, whose events end now. What is older than ten days, a store may collect."""
    now = clock_ms()
    start, troubles = now - days * DAY_MS, (0.02, 0.05, 0.1, 0.04)  # late, duplicates, out of order, poison
    return Market(events, users, seed, start, now, *troubles, reasons=reasons)


def expected_spans(views: dict[str, list[SeenView]], rules: str = RULES) -> dict[str, Spans]:
    """The spans of every profile by brute force; a segment without any is left out."""
    document = yaml.safe_load(rules)
    specs = [{**document.get("defaults", {}), **segment} for segment in document["segments"]]
    found = {raw_id: {spec["name"]: reference.spans(seen, spec) for spec in specs} for raw_id, seen in views.items()}
    return {raw_id: {name: spans for name, spans in by_name.items() if spans} for raw_id, by_name in found.items()}


class Balance(NamedTuple):
    """What there is against what there should be. All but ``views``, ``poison``, ``again`` and ``memberships`` must be 0."""

    views: int
    lost: int  # views that are not in their rows
    repeated: int  # cells beyond one for a view
    strange: int  # cells that nobody sent, or under another time than the event's
    poison: int
    poison_missing: int
    again: int  # dead letters written more than once: their messages were delivered again
    memberships: int
    memberships_wrong: int
    versions_wrong: int

    @property
    def faults(self) -> dict[str, int]:
        """What is wrong, and how often."""
        right = {"views", "poison", "again", "memberships"}
        return {name: number for name, number in self._asdict().items() if number and name not in right}


def balance_of(
    store_uri: str, dead_letters: Path, traffic: Traffic, expected: dict[str, Spans], version: int | None = 41
) -> Balance:
    """Compare all rows and dead letters with what was sent; ``version`` ``None``: rows of any rule version are right."""
    pseudonyms = Pseudonyms(ring_of(KEY, "tests"))
    sent = {(pseudonyms(raw_id), v.time, v.event_id) for raw_id, seen in traffic.views.items() for v in seen}
    kept = Counter(cells_of(store_uri, [pseudonyms(raw_id) for raw_id in traffic.views]))
    letters = Counter((letter.reason, letter.size) for letter in letters_in(dead_letters))
    store = open_store(store_uri)
    try:
        rows = store.read_rows([pseudonyms(raw_id) for raw_id in {*traffic.views, *traffic.owners, *traffic.owners.values()}])
    finally:
        store.close()
    people = traffic.people
    found = {raw_id: rows[pseudonyms(raw_id)] for raw_id in people}
    aliases = {pseudonyms(raw_id): pseudonyms(owner) for raw_id, owner in traffic.owners.items()}
    versions = {row.membership.rule_version if row.membership else None for row in found.values()}
    return Balance(
        views=len(sent),
        lost=len(sent - kept.keys()),
        repeated=kept.total() - len(kept),
        strange=len(kept.keys() - sent),
        poison=len(traffic.poison),
        poison_missing=len(traffic.poison - letters.keys()) + len(letters.keys() - traffic.poison),
        again=letters.total() - len(letters),
        memberships=sum(len(spans) for spans in expected.values()),
        memberships_wrong=sum(not is_right(found[raw_id], people[raw_id], expected[raw_id]) for raw_id in found)
        + sum(not is_alias(rows[key], owner) for key, owner in aliases.items()),
        versions_wrong=len(versions - {version}) if version is not None else 0,
    )


def is_right(row: ProfileRow, views: list[SeenView], expected: Spans) -> bool:
    """Whether a row's membership has exactly the expected spans as of the newest view, and its profile counts the views."""
    if row.membership is None or row.profile is None or row.membership.as_of != views[-1].time:
        return False
    seen = len(reference.window(views, 10 * DAY_MS, views[-1].time))
    have = {segment.name: segment.spans for segment in row.membership.segments}
    return (row.profile.views, row.profile.last_seen, set(have)) == (seen, views[-1].time, set(expected)) and all(
        len(have[name]) == len(spans)
        and all(
            (span.start, span.until, span.views, span.matching) == (start, until, count, matching)
            and abs(span.score - score) < _SCORE
            for span, (start, until, score, count, matching) in zip(have[name], spans, strict=True)
        )
        for name, spans in expected.items()
    )


def is_alias(row: ProfileRow, owner: str) -> bool:
    """Whether a row says that it is another's."""
    return row.emptied == "alias" and row.membership is None and row.link is not None and row.link.other == owner


def cells_of(store_uri: str, keys: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """(row, time, event id) of every cell of every view, each version of it: a store of Bigtable's is read past our own code."""
    if store_uri.startswith("sqlite:"):
        store = open_store(store_uri)
        for key, cells in store.read_windows(keys, 1_000_000).cells.items():
            yield from ((key, cell.time, cell.event_id) for cell in cells)
        store.close()
        return
    from google.cloud.bigtable.data import BigtableDataClient, ReadRowsQuery
    from google.cloud.bigtable.data.row_filters import FamilyNameRegexFilter

    project, instance, table = store_uri.removeprefix("bigtable://").split("/")
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # "connecting to the emulator"
        client = BigtableDataClient(project=project)
    with client:
        for row in client.get_table(instance, table).read_rows(ReadRowsQuery(row_filter=FamilyNameRegexFilter(SPEED))):
            for cell in row:
                yield row.row_key.decode(), cell.timestamp_micros // 1000, ViewCell(cell.qualifier, cell.value).event_id


def letters_in(path: Path) -> list[DeadLetter]:
    """The dead letters in a file, of which a kill may have cut a line short; the last line may still be being written."""
    letters = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        with contextlib.suppress(ValueError):  # msgspec's errors are
            letters.append(decode_dead_letter(line))
    return letters
