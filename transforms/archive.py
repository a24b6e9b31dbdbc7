"""Archive: every valid event as a row of a Parquet file of its UTC date.

Events wait in memory, by date, until there are enough for a file or the bundle ends; messages are acknowledged after that. The
name of a file is a hash of its events, so a batch that is written again replaces itself; a batch that comes again in other
company leaves copies, which readers drop (``read_archive``).

Events of forgotten ids are left out. The tombstones are looked at before a file is written and again when it is there: of a writer
and a ``forecourt forget`` that race, one cleans up after both.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import msgspec
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows

from schemas.archive_rows import archive_table, deduplicated
from schemas.catalogue import Catalogue
from schemas.event import FORGET, Event
from schemas.instants import DAY_MS, clock_ms, date_of
from schemas.tables import ARCHIVE_ORDER
from serving.keys import load_ring
from transforms.archive_files import write_part
from transforms.archive_graves import ArchiveGraves
from transforms.batch import Batch
from transforms.counters import APPLIED, DUPLICATE, REFUSED, count
from transforms.patience import patiently
from transforms.rules_file import load_catalogue
from transforms.whole_files import exists

FLUSH_EVENTS: Final = 10_000
FLUSH_SECONDS: Final = 60.0
MAX_BUFFERED: Final = 200_000  # the whole process then took 370 MB, with ordinary events
FORGOTTEN: Final = "forgotten"
_NAME_DIGITS: Final = 32
_ENCODE: Final = msgspec.msgpack.Encoder(enc_hook=str, order="sorted").encode


class Received(NamedTuple):
    """An event and when it was received (ms UTC), ``None`` when it was replayed from a file."""

    event: Event
    at: int | None


class Waiting(NamedTuple):
    """Events of one UTC date, ready to be a file."""

    date: str
    events: list[Received]


class Written(NamedTuple):
    """A file, the events in it or heard, and how many copies, and events of forgotten ids, were left out of it.

    ``path`` is empty where nothing was left to write. A ``forget`` is heard, and not written.
    """

    path: str
    events: int
    copies: int
    forgotten: int = 0


class Buffer:
    """Events by date; hands them out when ``enough`` of a date have come, or the largest dates when ``most`` of all have."""

    def __init__(self, enough: int = FLUSH_EVENTS, most: int = MAX_BUFFERED) -> None:
        self._enough, self._most = enough, most
        self._days: dict[int, list[Received]] = {}
        self._size = 0

    def add(self, events: Iterable[Event], at: int | None) -> Iterator[Waiting]:
        """Take events in; what is ready by that."""
        for event in events:
            day = event.event_time // DAY_MS
            waiting = self._days.setdefault(day, [])
            waiting.append(Received(event, at))
            self._size += 1
            if len(waiting) >= self._enough:
                yield self._taken(day)
            elif self._size >= self._most:
                yield from self._relieved()

    def drain(self) -> Iterator[Waiting]:
        """All that is left, oldest date first."""
        for day in sorted(self._days):
            yield self._taken(day)

    def _relieved(self) -> Iterator[Waiting]:
        for day in sorted(self._days, key=lambda day: (-len(self._days[day]), day)):
            if self._size <= self._most // 2:
                return
            yield self._taken(day)

    def _taken(self, day: int) -> Waiting:
        events = self._days.pop(day)
        self._size -= len(events)
        return Waiting(date_of(day * DAY_MS), events)


def name_of(events: Iterable[Event]) -> str:
    """A name for a set of events: the same for any order of them and any number of copies."""
    digest = hashlib.sha256()
    for encoded in sorted({_encoded(event) for event in events}):
        digest.update(encoded)
    return digest.hexdigest()[:_NAME_DIGITS]


def write_archive(directory: str, waiting: Waiting, catalogue: Catalogue, graves: ArchiveGraves | None = None) -> Written:
    """Write events of one date as one file, each once, sorted by user and time; ``StoreError`` when that can't be done."""
    events = [received.event for received in waiting.events]
    graves = graves or ArchiveGraves(directory)
    graves.look()
    whole = deduplicated(archive_table(events, catalogue, [received.at for received in waiting.events]))
    is_forget = pc.equal(whole["event_type"], FORGET)
    forgets, table, path = whole.filter(is_forget), whole.filter(pc.invert(is_forget)), ""
    graves.hear(forgets)
    name = name_of(events)
    while True:
        done = graves.admitted(table)
        if len(done.table) or _is_there(directory, waiting.date, name):
            path = write_part(directory, waiting.date, name, done.table.sort_by(ARCHIVE_ORDER))
        if not graves.look():
            return Written(path, len(done.table) + len(forgets), len(events) - len(whole), done.removed)


def _is_there(directory: str, date: str, name: str) -> bool:
    """Whether a try before this one, which failed or was killed later, has written the file."""
    return exists(FileSystems.join(directory, f"date={date}", f"part-{name}.parquet"))


def keyed_by_date(events: Sequence[Event], *, live: bool) -> list[tuple[str, Received]]:
    """The events as received now, each under its UTC date."""
    at = clock_ms() if live else None
    return [(date_of(event.event_time), Received(event, at)) for event in events]


@dataclasses.dataclass(eq=False)
class WriteArchive(beam.PTransform):  # type: ignore[misc]
    """Batches of events with pseudonyms → files; gives a ``Written`` for each.

    ``live``: rows say when they were received. ``key_from``: whose keys tell under which names somebody was forgotten (see
    ``load_ring``), ``None``: under the one that an event has. ``regroup_s``: for runners whose bundles are short (Dataflow), group
    events by date for so many seconds, in the runner's own durable state, before they are written.
    """

    directory: str
    catalogue: str
    live: bool = True
    flush_events: int = FLUSH_EVENTS
    max_buffered: int = MAX_BUFFERED
    regroup_s: float | None = None
    key_from: str | None = None

    def expand(self, events: beam.PCollection[Batch]) -> beam.PCollection[Any]:
        """Write all events."""
        if self.regroup_s is None:
            bounds = (self.flush_events, self.max_buffered)
            work = _WriteBundle(self.directory, self.catalogue, self.key_from, self.live, bounds)
            return events | "Files" >> beam.ParDo(work).with_output_types(Any)
        return (
            events
            | "ByDate" >> beam.FlatMap(keyed_by_date, live=self.live).with_output_types(tuple[str, Any])
            | "Regroup" >> beam.GroupIntoBatches.WithShardedKey(self.flush_events, self.regroup_s)
            | "Files" >> beam.ParDo(_WriteGroup(self.directory, self.catalogue, self.key_from)).with_output_types(Any)
        )


class _Write(beam.DoFn):  # type: ignore[misc]
    def __init__(self, directory: str, catalogue: str, key_from: str | None) -> None:
        self._directory, self._catalogue_path, self._key_from = directory, catalogue, key_from

    def setup(self) -> None:
        self._catalogue = load_catalogue(self._catalogue_path)
        self._graves = ArchiveGraves(self._directory, None if self._key_from is None else load_ring(self._key_from))

    def write(self, waiting: Waiting) -> Written:
        written = patiently(lambda: write_archive(self._directory, waiting, self._catalogue, self._graves))
        count(APPLIED, written.events)
        count(DUPLICATE, written.copies)
        count(REFUSED + FORGOTTEN, written.forgotten)
        return written


class _WriteBundle(_Write):
    def __init__(self, directory: str, catalogue: str, key_from: str | None, live: bool, bounds: tuple[int, int]) -> None:
        super().__init__(directory, catalogue, key_from)
        self._live, self._bounds = live, bounds

    def start_bundle(self) -> None:
        self._buffer = Buffer(*self._bounds)

    def process(self, events: Sequence[Event]) -> Iterator[Written]:
        yield from map(self.write, self._buffer.add(events, clock_ms() if self._live else None))

    def finish_bundle(self) -> Iterator[Any]:
        for waiting in self._buffer.drain():
            yield GlobalWindows.windowed_value(self.write(waiting))


class _WriteGroup(_Write):
    def process(self, group: tuple[Any, Iterable[Received]]) -> Iterator[Written]:
        key, events = group
        yield self.write(Waiting(key.key, list(events)))


def _encoded(event: Event) -> bytes:
    try:
        return _ENCODE(event)
    except OverflowError:  # an integer of over 64 bits in the experiment
        return _ENCODE(event._replace(experiment={"": repr(event.experiment)}))
