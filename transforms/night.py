"""A night over the archive: items → slices → shards → what the day was, in one value that the parts of the work add up to.

Who is whom comes first, from all dates; then events are people's. Everything is read in columns. Kernel, rules and rows are those
of the stream.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa

from schemas.archive_rows import conformed
from schemas.catalogue import Catalogue
from schemas.day_profile import DayProfile, RowsProfile, empty_profile, merged
from schemas.instants import DAY_MS, date_of, parse_date
from schemas.release import Release
from schemas.rules import MAX_WINDOW_MS, attributes_of
from schemas.tables import archive_schema
from transforms.archive_files import read_part
from transforms.archived_people import COUNTS as PEOPLE
from transforms.archived_people import PATH, KnowPeople, Register, known_at, of_people, said_at
from transforms.arrow_stream import stream_of, table_in
from transforms.canary import Prepared, prepared
from transforms.counters import READ, count
from transforms.event_columns import Wanted, between, read_events
from transforms.kernel import COUNTS, days_of
from transforms.known_people import KnownPeople
from transforms.membership import conditions_of
from transforms.profiling import profile_of_rows, profiles_of_events, sample_of
from transforms.publishing import merged_rows, review_rows, store_of
from transforms.shards import Shard, no_events, shard_of
from transforms.slices import WORK, Item, SliceFile, is_of, slice_at, slices_of
from transforms.stopping import go_on

PROFILED_DAYS: Final = 8  # the day and the week before it
WINDOW_DAYS: Final = MAX_WINDOW_MS // DAY_MS
PARTIAL: Final = "partial"
SLICES: Final = "slices"


class Night(NamedTuple):
    """What is known of a day, or of a part of it: counts by rule, profiles by date, a sample, the rows and how they compare.

    ``sample`` is an Arrow stream, empty where nothing was sampled; ``rows`` is ``None`` where none are to be published. ``people``
    are the counts of ``transforms.known_people.KnownPeople``.
    """

    counts: list[list[int]]
    days: dict[str, DayProfile]
    sample: bytes
    rows: RowsProfile | None
    parity: dict[str, int]
    people: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a night does: everything the workers must know, as values.

    ``spill`` is a folder on this machine for slices, ``None`` where the runner has a shuffle service: then what is known of people
    lies in ``staging``. With a ``store``, rows are staged there too, and compared with the store's. ``key_from`` and ``version``
    are those of a ``Register``.
    """

    date: str
    release: Release
    catalogue: Catalogue
    shards: int
    size: int
    spill: str | None
    store: str | None = None
    staging: str | None = None
    archive: str = ""
    key_from: str | None = None
    version: int | None = None

    @property
    def register(self) -> Register:
        """Whom to find first."""
        folder = self.spill or self.staging or ""
        shards = self.shards if self.store is not None else 0
        return Register(self.archive, self.end, folder, self.spill, shards, self.store, self.key_from, self.version)

    @property
    def start(self) -> int:
        """00:00 of the day, ms UTC."""
        return parse_date(self.date)

    @property
    def end(self) -> int:
        """24:00 of the day, ms UTC."""
        return self.start + DAY_MS

    @property
    def days_back(self) -> int:
        """How many days before the day are read: a row last written ten days ago rests on the ten days before that."""
        return 2 * WINDOW_DAYS - 1 if self.store is not None else WINDOW_DAYS

    @property
    def dates(self) -> list[str]:
        """The dates that are read, the day last."""
        return [date_of(self.start - back * DAY_MS) for back in range(self.days_back, -1, -1)]

    @property
    def profiled(self) -> list[str]:
        """The dates that are profiled, the day last."""
        return self.dates[-PROFILED_DAYS:]


def nothing(plan: Plan) -> Night:
    """The zero of ``added``."""
    return Night([[0] * COUNTS for _ in plan.release.active.rules], {}, b"", None, {}, {})


def added(nights: Iterable[Night]) -> Night:
    """The parts of a night as one; at least one part."""
    parts = list(nights)
    counts: list[list[int]] = np.array([part.counts for part in parts], np.int64).sum(axis=0).tolist()
    dates = sorted({date for part in parts for date in part.days})
    days = {date: merged(part.days[date] for part in parts if date in part.days) for date in dates}
    samples = [table_in(part.sample) for part in parts if part.sample]
    sample = stream_of(sample_of(pa.concat_tables(samples))) if samples else b""
    rows = [part.rows for part in parts if part.rows is not None]
    parity, people = (
        sum((Counter(each) for each in of), Counter()) for of in zip(*((p.parity, p.people) for p in parts), strict=True)
    )
    return Night(counts, days, sample, merged_rows(rows) if rows else None, dict(sorted(parity.items())), dict(people))


def cut(item: Item, plan: Plan, known: KnownPeople) -> tuple[Night, list[tuple[int, Any]]]:
    """An item's part of the profiles and the sample, and (shard, slice) of its events."""
    wanted = wanted_of(plan, item.date)
    events = read_events(item.paths, plan.catalogue, wanted)
    count(READ, len(events))
    events = of_people(events, known)
    night = nothing(plan)
    if item.date in plan.profiled:
        night.days[item.date] = profile_of_rows(item.date, parse_date(item.date), events, plan.catalogue)
    if item.date == plan.date:
        samples = [conformed(sample_of(read_part(path, coded=True)), plan.catalogue) for path in item.paths]
        night = night._replace(sample=stream_of(sample_of(pa.concat_tables(samples))))
    conditions = conditions_of(plan.release.active)
    events = between(events, parse_date(plan.dates[0]), plan.end)
    slices = SliceFile(plan.spill)
    cut_out = slices_of(events, conditions, plan.shards, packed=plan.store is not None)
    return night, [(shard, slices.add(table)) for shard, table in cut_out]


def wanted_of(plan: Plan, date: str) -> Wanted:
    """What of the events of a date is looked at: all attributes where they are profiled or published, else the rules'."""
    everything = plan.store is not None or date in plan.profiled
    used = frozenset().union(*(attributes_of(rule.when) for rule in plan.release.active.rules))
    names = sorted(plan.catalogue.attributes if everything else used)
    return Wanted(tuple(names), received=date in plan.profiled, sealed=plan.store is not None)


def evaluate_shard(shard: Shard, number: int, plan: Plan, rules: Prepared, people: str) -> Night:
    """A shard's part of the night; with a store its rows are staged and compared. ``people`` is where they were left."""
    users = np.repeat(np.arange(len(shard.users), dtype=np.int32), np.diff(shard.offsets))
    starts = {date: parse_date(date) for date in plan.profiled}
    seen = profiles_of_events(shard.times, users, shard.views, list(starts.values()))
    days = {}
    for date, start in starts.items():
        events, views, of_day = seen[start]
        days[date] = empty_profile(date, plan.catalogue)._replace(events=events, views=views, users=of_day)
    places = np.concatenate(([0], np.cumsum(shard.views)))[shard.offsets]
    counts, _ = days_of(shard.times[shard.views], shard.bits[shard.views], places, plan.start, 1, *rules.active.arrays)
    night = Night(counts[0].tolist(), days, b"", None, {}, {})
    if plan.store is None or plan.staging is None:
        return night
    opened = functools.partial(store_of, plan.store, plan.key_from)
    path = f"{plan.staging}/rows-{number:05}.arrow"
    rows, parity = review_rows(shard, places, plan.end, rules, said_at(people, number), opened, path)
    return night._replace(rows=rows, parity=parity)


def encode_night(night: Night) -> bytes:
    """The night as JSON."""
    return msgspec.json.encode(night)


def decode_night(text: bytes) -> Night:
    """The night in JSON that ``encode_night`` made."""
    return msgspec.json.decode(text, type=Night)


def sample_in(night: Night, catalogue: Catalogue) -> pa.Table:
    """The sample as a table; without rows when nothing was sampled."""
    return table_in(night.sample) if night.sample else archive_schema(catalogue).empty_table()


@dataclasses.dataclass(eq=False)
class EvaluateNight(beam.PTransform):  # type: ignore[misc]
    """Items of the archive, of all dates → one ``Night``: ``KnowPeople → CutSlices → ShardByUser → EvaluateShards → AddUp``."""

    plan: Plan

    def expand(self, items: beam.PCollection[Item]) -> beam.PCollection[Night]:
        """Apply to all items."""
        known = items | "KnowPeople" >> KnowPeople(self.plan.register)
        people = beam.pvalue.AsSingleton(known[PATH])
        cut_up = (
            items
            | "OfTheWindow" >> beam.Filter(is_of, frozenset(self.plan.dates))
            | "CutSlices"
            >> beam.ParDo(_CutSlices(self.plan), people)
            .with_output_types(tuple[int, Any], partial=Night)
            .with_outputs(PARTIAL, main=SLICES)
        )
        # Of people without events rows may say something too.
        every = known[PATH] | "EveryShard" >> beam.FlatMap(_no_slices, self.plan).with_output_types(tuple[int, Any])
        evaluated = (
            (cut_up[SLICES], every)
            | "Slices" >> beam.Flatten()
            | "ShardByUser" >> beam.GroupByKey()
            | "EvaluateShards" >> beam.ParDo(_EvaluateShard(self.plan), people).with_output_types(Night)
        )
        counted = known[PEOPLE] | "CountPeople" >> beam.Map(_counted, self.plan).with_output_types(Night)
        return (
            (cut_up[PARTIAL], evaluated, counted)
            | "Parts" >> beam.Flatten()
            | "AddUp" >> beam.CombineGlobally(functools.partial(_sum_of, self.plan)).without_defaults().with_output_types(Night)
        )


class _CutSlices(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def process(self, item: Item, people: str) -> Iterator[Any]:
        go_on()
        night, slices = cut(item, self._plan, known_at(people))
        count(WORK, item.size)
        yield from slices
        yield beam.pvalue.TaggedOutput(PARTIAL, night)


class _EvaluateShard(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        self._rules = prepared(self._plan.release)

    def process(self, slices: tuple[int, Iterable[Any]], people: str) -> Iterator[Night]:
        go_on()
        number, places = slices
        there = [place for place in places if place is not None]
        shard = shard_of(map(slice_at, there)) if there else no_events(len(self._plan.release.active.rules))
        yield evaluate_shard(shard, number, self._plan, self._rules, people)
        count(WORK, self._plan.size // self._plan.shards)


def _no_slices(_path: str, plan: Plan) -> Iterator[tuple[int, Any]]:
    return ((shard, None) for shard in range(plan.shards if plan.store is not None else 0))


def _counted(counts: dict[str, int], plan: Plan) -> Night:
    return nothing(plan)._replace(people=counts)


def _sum_of(plan: Plan, nights: Iterable[Night]) -> Night:
    return added([nothing(plan), *nights])
