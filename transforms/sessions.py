"""The archive → the sessions table of an experiment. Memory is bounded by what a shard holds, not by the archive.

Users are cut into shards first: there copies are left out and each user's history is known. What counts is then cut anew, by
session, for a visitor who signs in is another user in the same session. Rows are written a day at a time.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.instants import DAY_MS, parse_date
from transforms.counters import READ, count
from transforms.session_files import ORDER, write_sessions
from transforms.session_rows import (
    ASSIGNED,
    CLICK,
    IMPRESSION,
    LEAD,
    VIEW,
    Chosen,
    Row,
    SessionEvent,
    click_in,
    clicked_in,
    exposure_in,
    rows_of,
    table_of,
    use_of,
)
from transforms.session_slices import cut_by, read_session_events, sessions_in, texts_of, with_history, without_copies
from transforms.slices import WORK, Item, SliceFile, slice_at
from transforms.stopping import go_on

SHARD_BYTES: Final = 2 << 20  # of Parquet: some 70,000 events, whose texts are long
EXPOSURES: Final = "exposures"
COPIES: Final = "copies"
IN_TABLE: Final = "in_table"
OTHER_DATES: Final = "other_dates"
CLICKS_UNREADABLE: Final = "clicks_unreadable"
CLICKS_ELSEWHERE: Final = "clicks_elsewhere"
ROWS: Final = "rows"
ARM: Final = "arm:"  # and its name: rows of it
_FOUND, _CUT, _COUNTS = "found", "cut", "counts"
_USED: Final = pa.array([VIEW, IMPRESSION, CLICK, LEAD])

Counts = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is made of which experiment: all that the workers must know.

    ``version`` and ``starts`` (ms UTC) are ``None`` where the archive is to tell. ``first`` and ``last`` are the dates of rows.
    ``to`` is the file of the table; ``spill`` a folder on this machine for slices, ``None`` where the runner has a shuffle service.
    """

    experiment: str
    version: int | None
    starts: int | None
    first: str
    last: str
    to: str
    shards: int
    size: int
    spill: str | None

    @property
    def end(self) -> int:
        """24:00 of the last date, ms UTC."""
        return parse_date(self.last) + DAY_MS


class Version(NamedTuple):
    """A version of the experiment: exposures assigned in it, copies too, and the first of them (ms UTC)."""

    exposures: int
    first: int


class Found(NamedTuple):
    """What experiments there are in the archive, or in a part of it: the versions of the one asked for, the names of the others."""

    versions: dict[int, Version]
    others: frozenset[str]


class Summary(msgspec.Struct, frozen=True):
    """What came of a run."""

    version: int | None
    start: int | None
    versions: dict[str, int]
    others: list[str]
    counts: dict[str, int]


def found_in(events: pa.Table, plan: Plan) -> Found:
    """The experiments in some events, up to the end of the last date."""
    versions: dict[int, Version] = {}
    others: set[str] = set()
    for _, time, _, text in texts_of(events, IMPRESSION):
        exposure = exposure_in(text)
        if exposure is None or exposure.experiment is None or time >= plan.end:
            continue
        if exposure.experiment != plan.experiment:
            others.add(exposure.experiment)
        elif exposure.reason == ASSIGNED and exposure.version is not None:
            known = versions.get(exposure.version, Version(0, time))
            versions[exposure.version] = Version(known.exposures + 1, min(known.first, time))
    return Found(versions, frozenset(others))


def found_together(parts: Iterable[Found]) -> Found:
    """What was found in several parts."""
    versions: dict[int, Version] = {}
    others: frozenset[str] = frozenset()
    for part in parts:
        others |= part.others
        for number, version in part.versions.items():
            known = versions.get(number, Version(0, version.first))
            versions[number] = Version(known.exposures + version.exposures, min(known.first, version.first))
    return Found(versions, others)


def chosen_of(plan: Plan, found: Found) -> Chosen | None:
    """The experiment of the table: the newest version where none is asked for; ``None`` where there is none.

    It began with the first exposure of any version: what an earlier one did to a user is no history from before.
    """
    version = plan.version if plan.version is not None else max(found.versions, default=None)
    if version not in found.versions or version is None:
        return None
    start = min(each.first for each in found.versions.values()) if plan.starts is None else plan.starts
    return Chosen(plan.experiment, version, start)


def use_events(events: pa.Table, plan: Plan, chosen: Chosen) -> tuple[pa.Table, Counts]:
    """What sessions are made of, with each user's history; and what became of the exposures that aren't used.

    ``events`` are all of some users.
    """
    counts: Counter[str] = Counter()
    kept = without_copies(events)
    counts[COPIES] = len(events) - len(kept)
    kept = with_history(kept, chosen.start)
    times = kept["event_time"].to_numpy()
    # A session may go on after midnight.
    used = (times >= chosen.start) & (times < plan.end + DAY_MS) & kept["session_id"].is_valid().to_numpy()
    used &= pc.is_in(kept["event_type"], _USED).to_numpy()
    for place, time, session, text in texts_of(kept, IMPRESSION):
        use = use_of(exposure_in(text), time, session, chosen)
        if use == ASSIGNED and time >= plan.end + DAY_MS:
            use = OTHER_DATES
        counts[EXPOSURES] += 1
        counts[use] += use != ASSIGNED
        used[place] &= use == ASSIGNED
    for place, _, session, text in texts_of(kept, CLICK):
        click = click_in(text)
        counts[CLICKS_UNREADABLE] += click is None
        ours = click is not None and (click.experiment, click.version) == (chosen.experiment, chosen.version)
        used[place] = ours and session is not None  # whenever: clocks differ, and a click says what it is on
    return kept.filter(pa.array(used)), counts


def make_rows(events: pa.Table, plan: Plan) -> tuple[pa.Table, Counts]:
    """The rows of some sessions, of which all events are there, in no order; and how many exposures they are of."""
    counts: Counter[str] = Counter()
    rows: list[Row] = []
    clicks = sum(1 for _ in texts_of(events, CLICK))
    for session, of_session in sessions_in(events):
        made = list(rows_of(session, of_session))
        rows += [row for row in made if plan.first <= row.day <= plan.last]
        counts[OTHER_DATES] += sum(int(row.impressions) for row in made if not plan.first <= row.day <= plan.last)
        clicks -= _matched(of_session)
    counts[CLICKS_ELSEWHERE] = clicks
    counts[IN_TABLE] = sum(int(row.impressions) for row in rows)
    for row in rows:
        counts[ROWS] += 1
        counts[f"{ARM}{row.arm}"] += 1
    return table_of(rows), counts


def by_day(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """(day, its rows)."""
    days = np.array(rows["day"].to_pylist())
    for day in sorted(set(days.tolist())):
        yield day, rows.filter(pa.array(days == day))


def write_table(pieces: Iterable[tuple[str, Any]], to: str) -> int:
    """Write the table from pieces of its days, in order of time; how many rows."""
    ordered = itertools.groupby(sorted(pieces, key=lambda piece: piece[0]), lambda piece: piece[0])
    return write_sessions(to, (pa.concat_tables([slice_at(place) for _, place in day]).sort_by(ORDER) for _, day in ordered))


def encode_summary(summary: Summary) -> bytes:
    """The summary as JSON."""
    return msgspec.json.encode(summary)


def decode_summary(text: bytes) -> Summary:
    """The summary in JSON that ``encode_summary`` made."""
    return msgspec.json.decode(text, type=Summary)


@dataclasses.dataclass(eq=False)
class MakeSessions(beam.PTransform):  # type: ignore[misc]
    """Items of the archive → the table's file, and a ``Summary``.

    ``CutByUser → UsersTogether → CutBySession → SessionsTogether → MakeRows → WriteTable``, and what is found on the way.
    """

    plan: Plan

    def expand(self, items: beam.PCollection[Item]) -> beam.PCollection[Summary]:
        """Apply to all items."""
        pair = tuple[int, Any]
        cut = items | "CutByUser" >> beam.ParDo(_CutByUser(self.plan)).with_output_types(pair, found=Any).with_outputs(
            _FOUND, main=_CUT
        )
        together = cut[_FOUND] | "Find" >> beam.CombineGlobally(found_together).with_output_types(Any)
        found = beam.pvalue.AsSingleton(together)
        again = (
            cut[_CUT]
            | "UsersTogether" >> beam.GroupByKey()
            | "CutBySession"
            >> beam.ParDo(_CutBySession(self.plan), found).with_output_types(pair, counts=Any).with_outputs(_COUNTS, main=_CUT)
        )
        made = (
            again[_CUT]
            | "SessionsTogether" >> beam.GroupByKey()
            | "MakeRows"
            >> beam.ParDo(_MakeRows(self.plan)).with_output_types(tuple[int, Any], counts=Any).with_outputs(_COUNTS, main=_CUT)
        )
        written = (
            made[_CUT] | "DaysTogether" >> beam.GroupByKey() | "WriteTable" >> beam.Map(_write, self.plan).with_output_types(Any)
        )
        return (
            (again[_COUNTS], made[_COUNTS], written)
            | "Parts" >> beam.Flatten()
            | "AddUp" >> beam.CombineGlobally(_added).with_output_types(Any)
            | "Summarise" >> beam.Map(_summary_of, found, self.plan).with_output_types(Summary)
        )


class _CutByUser(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def process(self, item: Item) -> Iterator[Any]:
        go_on()
        events = read_session_events(item.paths)
        count(READ, len(events))
        slices = SliceFile(self._plan.spill)
        for shard, part in cut_by(events, "user", self._plan.shards):
            yield shard, slices.add(part)
        yield beam.pvalue.TaggedOutput(_FOUND, found_in(events, self._plan))
        count(WORK, item.size)


class _CutBySession(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def process(self, shard: tuple[int, Iterable[Any]], found: Found) -> Iterator[Any]:
        go_on()
        chosen = chosen_of(self._plan, found)
        if chosen is not None:
            events, counts = use_events(pa.concat_tables(map(slice_at, shard[1])), self._plan, chosen)
            slices = SliceFile(self._plan.spill)
            for number, part in cut_by(events, "session_id", self._plan.shards):
                yield number, slices.add(part)
            yield beam.pvalue.TaggedOutput(_COUNTS, counts)
        count(WORK, self._plan.size // self._plan.shards // 2)


class _MakeRows(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def process(self, shard: tuple[int, Iterable[Any]]) -> Iterator[Any]:
        go_on()
        rows, counts = make_rows(pa.concat_tables(map(slice_at, shard[1])), self._plan)
        slices = SliceFile(self._plan.spill)
        for day, part in by_day(rows):
            yield 0, (day, slices.add(part))
        yield beam.pvalue.TaggedOutput(_COUNTS, counts)
        count(WORK, self._plan.size // self._plan.shards // 2)


def _write(pieces: tuple[int, Iterable[tuple[str, Any]]], plan: Plan) -> Counts:
    return {"written": write_table(pieces[1], plan.to)}


def _added(counts: Iterable[Counts]) -> Counts:
    return dict(sum(map(Counter, counts), Counter()))


def _summary_of(counts: Counts, found: Found, plan: Plan) -> Summary:
    chosen = chosen_of(plan, found)
    versions = {str(number): version.exposures for number, version in sorted(found.versions.items())}
    start = None if chosen is None else chosen.start
    return Summary(None if chosen is None else chosen.version, start, versions, sorted(found.others), dict(counts))


def _matched(events: Iterable[SessionEvent]) -> int:
    """How many click events of a session are on its impressions; a second click on one is counted too."""
    several = list(events)
    impressions = {event.event_id for event in several if event.kind == IMPRESSION} & clicked_in(several)
    clicks = (click_in(event.experiment) for event in several if event.kind == CLICK)
    return sum(click is not None and click.impression_id in impressions for click in clicks)
