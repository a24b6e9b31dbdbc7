"""The archive → the sessions table of an experiment. Memory is bounded by what a shard holds, not by the archive.

Who is whom comes first: users are people then, and who signs in is no other. They are cut into shards, where copies are left out
and each one's history is known. What is left, sessions that the experiment was in since it began, is cut anew, by session: several
may use one. Rows are written a day at a time.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import apache_beam as beam
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET

from schemas.exposure import Click, click_in, exposure_in
from schemas.instants import DAY_MS
from transforms.archived_people import PATH, KnowPeople, known_at
from transforms.counters import READ, count
from transforms.session_files import ORDER, write_sessions
from transforms.session_found import USED, Found, Hashes, Plan, chosen_of, found_in, found_together, session_shards, were_in
from transforms.session_rows import (
    ASSIGNED,
    BEFORE_START,
    CLICK,
    IMPRESSION,
    VIEW,
    Chosen,
    Row,
    SessionEvent,
    clicked_in,
    row_of,
    rows_of,
    table_of,
    use_of,
)
from transforms.session_slices import cut_by, of_people, read_session_events, sessions_in, texts_of, with_history, without_copies
from transforms.slices import WORK, Item, SliceFile, slice_at
from transforms.stopping import go_on

SHARD_BYTES: Final = 8 << 20  # of Parquet: some 280,000 events, whose texts are long
EXPOSURES: Final = "exposures"
COPIES: Final = "copies"
IN_TABLE: Final = "in_table"
OTHER_DATES: Final = "other_dates"
CLICKS_UNREADABLE: Final = "clicks_unreadable"
CLICKS_ELSEWHERE: Final = "clicks_elsewhere"
CLICKS_WITHOUT_SESSION: Final = "clicks_without_session"
ROWS: Final = "rows"
ARM: Final = "arm:"  # and its name: rows of it
_FOUND, _CUT, _COUNTS = "found", "cut", "counts"

Counts = Mapping[str, int]


class Summary(msgspec.Struct, frozen=True):
    """What came of a run."""

    version: int | None
    start: int | None
    versions: dict[str, int]
    others: list[str]
    counts: dict[str, int]


def use_events(events: pa.Table, plan: Plan, chosen: Chosen, sessions: Hashes | None = None) -> tuple[pa.Table, Counts]:
    """What sessions are made of, with each user's history; and what became of the exposures and clicks that aren't used.

    ``events`` are all of some users, ``sessions`` those that the experiment was in, as ``Found`` has them.
    """
    counts: Counter[str] = Counter()
    kept = without_copies(events)
    counts[COPIES] = len(events) - len(kept)
    kept = with_history(kept, chosen.start)
    times = kept["event_time"].to_numpy()
    # A session may go on after midnight.
    used = (times >= chosen.start) & (times < plan.end + DAY_MS) & kept["session_id"].is_valid().to_numpy()
    used &= pc.is_in(kept["event_type"], USED).to_numpy()
    for place, time, session, text in texts_of(kept, IMPRESSION):
        use = use_of(exposure_in(text), time, session, chosen)
        if (use == ASSIGNED and time >= plan.end + DAY_MS) or (use == BEFORE_START and plan.starts is None):
            use = OTHER_DATES
        counts[EXPOSURES] += 1
        counts[use] += use != ASSIGNED
        used[place] &= use == ASSIGNED
    for place, _, session, text in texts_of(kept, CLICK):
        click = click_in(text)
        ours = click is not None and _is_ours(click, chosen)
        counts[CLICKS_UNREADABLE] += click is None
        counts[CLICKS_WITHOUT_SESSION] += ours and session is None
        used[place] = ours and session is not None  # whenever: clocks differ, and a click says what it is on
    kept = kept.filter(pa.array(used))
    there = were_in(sessions, kept["session_id"])  # of other users too: who signs in goes on with the session
    counts[CLICKS_ELSEWHERE] = int((pc.equal(kept["event_type"], CLICK).to_numpy() & ~there).sum())
    return kept.filter(pa.array(there)), counts


def make_rows(events: pa.Table, plan: Plan, chosen: Chosen) -> tuple[pa.Table, Counts]:
    """The rows of some sessions, of which all events are there, in no order; and how many exposures they are of."""
    counts: Counter[str] = Counter()
    rows: list[Row] = []
    clicks = sum(1 for _ in texts_of(events, CLICK))
    for session, of_session in sessions_in(events, (IMPRESSION, VIEW) if chosen.experiment is None else (IMPRESSION,)):
        made = _rows_of(session, of_session, chosen)
        rows += [row for row in made if plan.first <= row.day <= plan.last]
        counts[OTHER_DATES] += sum(int(row.impressions) for row in made if not plan.first <= row.day <= plan.last)
        clicks -= _matched(of_session)
    counts[CLICKS_ELSEWHERE] = clicks
    counts[IN_TABLE] = sum(int(row.impressions) for row in rows)
    counts[ROWS] = len(rows)
    counts.update(f"{ARM}{row.arm}" for row in rows if row.arm is not None)
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

    ``KnowPeople → CutByUser → UsersTogether → CutBySession → SessionsTogether → MakeRows → WriteTable``, and what is found.
    """

    plan: Plan

    def expand(self, items: beam.PCollection[Item]) -> beam.PCollection[Summary]:
        """Apply to all items."""
        pair = tuple[int, Any]
        known = items | "KnowPeople" >> KnowPeople(self.plan.register)
        people = beam.pvalue.AsSingleton(known[PATH])
        cut = items | "CutByUser" >> beam.ParDo(_CutByUser(self.plan), people).with_output_types(pair, found=Any).with_outputs(
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
            >> beam.ParDo(_MakeRows(self.plan), found)
            .with_output_types(tuple[int, Any], counts=Any)
            .with_outputs(_COUNTS, main=_CUT)
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

    def process(self, item: Item, people: str) -> Iterator[Any]:
        go_on()
        events = read_session_events(item.paths)
        count(READ, len(events))
        events = of_people(events, known_at(people))
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
            events, counts = use_events(pa.concat_tables(map(slice_at, shard[1])), self._plan, chosen, found.sessions)
            slices = SliceFile(self._plan.spill)
            for number, part in cut_by(events, "session_id", session_shards(self._plan, found, chosen)):
                yield number, slices.add(part)
            yield beam.pvalue.TaggedOutput(_COUNTS, counts)
        count(WORK, self._plan.size // self._plan.shards // 2)


class _MakeRows(beam.DoFn):  # type: ignore[misc]
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def process(self, shard: tuple[int, Iterable[Any]], found: Found) -> Iterator[Any]:
        go_on()
        chosen = chosen_of(self._plan, found)
        assert chosen is not None  # else there are no slices
        rows, counts = make_rows(pa.concat_tables(map(slice_at, shard[1])), self._plan, chosen)
        slices = SliceFile(self._plan.spill)
        for day, part in by_day(rows):
            yield 0, (day, slices.add(part))
        yield beam.pvalue.TaggedOutput(_COUNTS, counts)
        count(WORK, self._plan.size // session_shards(self._plan, found, chosen) // 2)


def _write(pieces: tuple[int, Iterable[tuple[str, Any]]], plan: Plan) -> Counts:
    return {"written": write_table(pieces[1], plan.to)}


def _added(counts: Iterable[Counts]) -> Counts:
    return dict(sum(map(Counter, counts), Counter()))


def _summary_of(counts: Counts, found: Found, plan: Plan) -> Summary:
    chosen = chosen_of(plan, found)
    versions = {str(number): version.exposures for number, version in sorted(found.versions.items())}
    start = None if chosen is None else chosen.start
    return Summary(None if chosen is None else chosen.version, start, versions, sorted(found.others), dict(counts))


def _is_ours(click: Click, chosen: Chosen) -> bool:
    """Whether a click may be on an exposure of the experiment, in one of its arms; where there is none, any will do.

    One that only names its impression may be: it counts if that is the session's.
    """
    if chosen.experiment is None:
        return True
    ours = click.experiment in {UNSET, chosen.experiment} and click.version in {UNSET, chosen.version}
    return ours and click.arm is not None


def _rows_of(session: str, events: list[SessionEvent], chosen: Chosen) -> list[Row]:
    if chosen.experiment is not None:
        return list(rows_of(session, events, by_highest=chosen.by_highest))
    row = row_of(session, events)
    return [] if row is None else [row]


def _matched(events: Iterable[SessionEvent]) -> int:
    """How many click events of a session are on its impressions; a second click on one is counted too."""
    several = list(events)
    impressions = {event.event_id for event in several if event.kind == IMPRESSION} & clicked_in(several)
    clicks = (click_in(event.experiment) for event in several if event.kind == CLICK)
    return sum(click is not None and click.impression_id in impressions for click in clicks)
