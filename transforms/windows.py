"""Maintain windows: views into their users' rows, the rows read back, membership and profile evaluated and written.

The row is the window, so this holds no state: killed anywhere, run twice or by two processes, the rows come out the same.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np

from schemas.dead_letter import DeadLetter
from schemas.event import Event
from schemas.instants import LAST_INSTANT_MS, clock_ms, format_instant
from schemas.profile_row import RETENTION_MS, Profile, ViewCell, encode_cell, view_cell
from schemas.release import Release
from schemas.view import unpack_attributes
from serving.recent import Recent
from serving.store import RowUpdate, Store, WindowRead, open_store
from transforms.batch import Batch
from transforms.canary import Prepared, answers_of, prepared
from transforms.counters import APPLIED, DUPLICATE, REFUSED, RULES_REFUSED, count
from transforms.kernel import MAX_VIEWS
from transforms.membership import Views, warm_up
from transforms.patience import patiently
from transforms.rules_file import RulesFile

READ_LIMIT: Final = MAX_VIEWS + 100  # room for copies that disagree; read again with more when that wasn't enough
TOP_VALUES: Final = 5
_CACHED_PROFILES: Final = 1 << 16

KeyedView = tuple[str, ViewCell]
ROWS: Final = "rows"
DEAD: Final = "dead"

_log = logging.getLogger(__name__)


class Maintained(NamedTuple):
    """What one batch did: new views, copies, views that the store refused (with why), and the keys of rows written."""

    new: int
    copies: int
    refused: list[tuple[KeyedView, str]]
    keys: list[str]


def keyed_view(event: Event) -> KeyedView:
    """A ``listing_view`` with pseudonyms as a cell in its user's row."""
    return event.profile_id, view_cell(event.event_time, event.event_id, event.packed)


def views_of(cells: Sequence[ViewCell]) -> Views:
    """The distinct views in a row's cells (newest first), in order of (event time, event id)."""
    cells = distinct_cells(cells)
    prefixes = b"".join([cell.qualifier[:8] for cell in cells])
    times = LAST_INSTANT_MS - np.frombuffer(prefixes, ">i8").astype(np.int64)[::-1]
    return Views(times, [cell.value for cell in reversed(cells)])


def profile_of(views: Views) -> Profile:
    """The preference profile of a window: per category attribute the shares of its five most seen values."""
    seen = Counter(itertools.chain.from_iterable(map(_categories, views.packed)))
    shares: dict[str, dict[str, float]] = {}
    for (name, value), number in sorted(seen.items(), key=lambda item: (item[0][0], -item[1], item[0][1])):
        top = shares.setdefault(name, {})
        if len(top) < TOP_VALUES:
            top[value] = round(number / len(views.packed), 4)
    return Profile(len(views.packed), int(views.times[-1]), shares)


def distinct_cells(cells: Sequence[ViewCell]) -> list[ViewCell]:
    """A row's cells, newest first, with each event once: of its copies the earliest, then the one of the smallest value."""
    if len({cell.event for cell in cells}) == len(cells):
        return list(cells)
    first: dict[bytes, ViewCell] = {}
    for cell in cells:
        known = first.get(cell.event)
        if known is None or (cell.time, cell.value) < (known.time, known.value):
            first[cell.event] = cell
    return sorted(first.values())


def kept_views(views: Views) -> Views:
    """Those of a user's views that the row rests on: the newest 1,000 of the ten days up to the newest."""
    oldest = int(np.searchsorted(views.times, views.times[-1] - RETENTION_MS, "right"))
    kept = slice(max(oldest, len(views.times) - MAX_VIEWS), None)
    return Views(views.times[kept], views.packed[kept])


def update_of(key: str, cells: Sequence[ViewCell], read_time: int, rules: Prepared) -> RowUpdate:
    """What a row's membership and profile must be, from its cells as read at ``read_time``."""
    views = kept_views(views_of(cells))
    as_of = int(views.times[-1])
    current, shadow = answers_of(key, views, rules)
    candidate = None if shadow is None else encode_cell(shadow)
    return RowUpdate(key, read_time, encode_cell(current), encode_cell(profile_of(views)), as_of - RETENTION_MS, candidate)


def refresh_rows(store: Store, rules: Prepared, keys: Sequence[str]) -> dict[str, str]:
    """Read rows, evaluate, write their memberships; the keys that the store refused for good, and why."""
    read = read_whole_windows(store, keys)
    # A row can be empty here: its views are older than what the store keeps.
    updates = [update_of(key, cells, read.time, rules) for key, cells in read.cells.items() if cells]
    return {updates[refusal.position].key: refusal.message for refusal in store.write_memberships(updates)}


def maintain_windows(store: Store, rules: Prepared, views: Sequence[KeyedView]) -> Maintained:
    """Append the views, read their rows back, evaluate, write. Each row is touched once.

    Raises ``StoreUnavailableError`` when the store fails for now; doing it all again is then right.
    """
    appended = store.append(views)
    refused = {refusal.position: refusal.message for refusal in appended.refused}
    keys = list(dict.fromkeys(key for index, (key, _) in enumerate(views) if index not in refused))
    lost = refresh_rows(store, rules, keys)
    refused |= {index: lost[key] for index, (key, _) in enumerate(views) if key in lost and index not in refused}
    new = min(appended.new, len(views) - len(refused))
    copies = len(views) - len(refused) - new
    return Maintained(new, copies, [(views[index], why) for index, why in sorted(refused.items())], keys)


@dataclasses.dataclass(eq=False)
class KeyByUser(beam.PTransform):  # type: ignore[misc]
    """Batches of events → batches of (row key, view); events that aren't views change no row, they are only counted."""

    def expand(self, events: beam.PCollection[Batch]) -> beam.PCollection[Batch]:
        """Apply to each batch."""
        return events | "Views" >> beam.ParDo(_KeyByUser()).with_output_types(Batch)


@dataclasses.dataclass(eq=False)
class MaintainWindows(beam.PTransform):  # type: ignore[misc]
    """Batches of (row key, view) → ``rows``: batches of the keys written; ``dead``: batches of dead letters.

    While the store is unavailable it waits and tries again; only a fault that stays fails the bundle.
    """

    store: str
    rules: str
    catalogue: str

    def expand(self, views: beam.PCollection[Batch]) -> Any:
        """Apply to each batch."""
        work = _MaintainWindows(self.store, self.rules, self.catalogue)
        return views | "Rows" >> beam.ParDo(work).with_output_types(Batch, dead=Batch).with_outputs(DEAD, main=ROWS)


class _KeyByUser(beam.DoFn):  # type: ignore[misc]
    def setup(self) -> None:
        self._others = Recent()

    def process(self, events: list[Event]) -> Iterator[Batch]:
        views = Batch(keyed_view(event) for event in events if event.event_type == "listing_view")
        others = [event.event_id for event in events if event.event_type != "listing_view"]
        new = sum(map(self._others.is_new, others))
        count(APPLIED, new)
        count(DUPLICATE, len(others) - new)
        if views:
            yield views


class _MaintainWindows(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: str, rules: str, catalogue: str) -> None:
        self._store_uri = store
        self._rules_file = RulesFile(rules, catalogue, functools.partial(count, RULES_REFUSED))

    def setup(self) -> None:
        self._store = open_store(self._store_uri)
        self._prepared: tuple[Release, Prepared] | None = None
        warm_up()

    def teardown(self) -> None:
        self._store.close()

    def process(self, views: list[KeyedView]) -> Iterator[Any]:
        done = patiently(lambda: maintain_windows(self._store, self._rules(), views), patience_s=None)
        count(APPLIED, done.new)
        count(DUPLICATE, done.copies)
        count(REFUSED + "store_refused", len(done.refused))
        yield Batch(done.keys)
        if done.refused:
            yield beam.pvalue.TaggedOutput(DEAD, Batch(refused_view(view, why, clock_ms()) for view, why in done.refused))

    def _rules(self) -> Prepared:
        release = self._rules_file.current()
        if self._prepared is None or self._prepared[0] is not release:
            self._prepared = (release, prepared(release))
        return self._prepared[1]


def refused_view(view: KeyedView, why: str, now: int) -> DeadLetter:
    """The dead letter of a view that the store refused; its payload can be replayed."""
    key, cell = view
    payload = {
        "event_id": cell.event_id,
        "event_type": "listing_view",
        "event_time": format_instant(cell.time),
        "user_id": key,
        "attributes": unpack_attributes(cell.value),
        "pseudonymised": True,
    }
    return DeadLetter(
        reason="store_refused", field=None, message=why, refused_at=format_instant(now), size=len(cell.value), payload=payload
    )


def read_whole_windows(store: Store, keys: Sequence[str]) -> WindowRead:
    """Each row's newest cells, enough for 1,000 distinct views where the row has them."""
    read = store.read_windows(keys, READ_LIMIT)
    limit = READ_LIMIT
    while short := [
        key for key, cells in read.cells.items() if len(cells) >= limit and len({cell.event for cell in cells}) < MAX_VIEWS
    ]:
        limit *= 4
        read = WindowRead(read.time, read.cells | store.read_windows(short, limit).cells)
    return read


@functools.lru_cache(_CACHED_PROFILES)
def _categories(packed: bytes) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in unpack_attributes(packed).items() if isinstance(value, str))
