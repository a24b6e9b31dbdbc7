"""Rows from the archive: staged with their base views, compared with what the speed layer wrote, published.

Publishing is an update like the stream's: base views into the row, the row read back, evaluated, written. So a row that has views
which the archive lacks keeps them, and nothing newer is overwritten.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from schemas.day_profile import RowsProfile
from schemas.profile_row import RETENTION_MS, Membership, ProfileRow, ViewCell, encode_base, encode_cell, view_cell
from schemas.release import Release
from serving.store import Store, open_store
from transforms.arrow_stream import stream_of, table_in
from transforms.canary import Prepared, answers_of, prepared
from transforms.counters import APPLIED, count
from transforms.kernel import MAX_VIEWS
from transforms.membership import Views
from transforms.patience import patiently
from transforms.people import read_whole_windows
from transforms.rows import distinct_cells, kept_views, refresh_rows
from transforms.shards import Shard
from transforms.stopping import go_on

ROWS_AT_ONCE: Final = 250
AGREE: Final = "agree"
OUTCOMES: Final = {
    AGREE: "the row is the batch answer",
    "missing_row": "the store has no row of the user",
    "rule_version": "the row was made by other rules",
    "late_event": "the archive has views that the row lacks",
    "identity": "views moved between linked ids",
    "unexplained": "anything else",
}
REFUSED_ROWS: Final = "refused_rows"
_PLAIN: Final = CompressionTypes.UNCOMPRESSED


class BatchRow(NamedTuple):
    """One user's row by the archive: the cells it rests on, newest first, and its membership; ``linked``: by more than one id."""

    key: str
    cells: list[ViewCell]
    membership: Membership
    linked: bool


def batch_rows(shard: Shard, offsets: Any, end: int, rules: Prepared) -> Iterator[BatchRow]:
    """The rows of a shard's users with a view in the window at ``end`` (ms UTC); ``offsets`` as the shard's, among views alone."""
    assert shard.packed is not None
    assert shard.linked is not None
    linked = np.add.reduceat(np.append(shard.linked, False), shard.offsets[:-1]) > 0
    times, codes = shard.times[shard.views], shard.packed.codes[shard.views]
    ids = shard.ids.filter(pa.array(shard.views))
    values = [value.encode("latin-1") for value in shard.packed.values]
    for user, (first, last) in enumerate(itertools.pairwise(offsets.tolist())):
        if first == last or times[last - 1] <= end - RETENTION_MS:
            continue
        first = max(first, last - MAX_VIEWS)
        views = kept_views(Views(times[first:last], [values[code] for code in codes[first:last]]))
        kept = ids.slice(last - len(views.times), len(views.times)).to_pylist()
        cells = [view_cell(*cell) for cell in zip(views.times.tolist(), kept, views.packed, strict=True)]
        yield BatchRow(shard.users[user], cells[::-1], answers_of(shard.users[user], views, rules).current, bool(linked[user]))


def outcome_of(row: BatchRow, stored: ProfileRow, cells: Sequence[ViewCell]) -> str:
    """How a stored row compares with the batch answer, one of ``OUTCOMES``; ``cells`` are the views in the stored row."""
    if stored.membership is None:
        return "missing_row"
    if encode_cell(stored.membership) == encode_cell(row.membership):
        return AGREE
    if stored.membership.rule_version != row.membership.rule_version:
        return "rule_version"
    oldest = row.cells[0].time - RETENTION_MS
    held, known = {cell for cell in distinct_cells(cells) if cell.time > oldest}, set(row.cells)
    if row.linked and held != known:
        return "identity"
    return "late_event" if known - held else "unexplained"


def compare_rows(store: Store, rows: Sequence[BatchRow], end: int) -> Counter[str]:
    """How many stored rows compare how; users with an event since ``end`` (ms UTC) are left out, their rows say more."""
    stored = store.read_rows([row.key for row in rows])
    differing = [row for row in rows if _differs(row, stored[row.key])]
    cells = read_whole_windows(store, [row.key for row in differing]).cells if differing else {}
    outcomes: Counter[str] = Counter()
    for row in rows:
        membership, views = stored[row.key].membership, cells.get(row.key, [])
        if (membership is None or membership.as_of < end) and not (views and views[0].time >= end):
            outcomes[outcome_of(row, stored[row.key], views)] += 1
    return outcomes


def review_rows(
    shard: Shard, offsets: Any, end: int, rules: Prepared, store_uri: str, path: str
) -> tuple[RowsProfile, dict[str, int]]:
    """Stage a shard's rows in a file and compare them with the store's: what they are as a whole, and how many compare how."""
    store = open_store(store_uri)
    profiles, outcomes = [merged_rows([])], Counter[str]()
    keys: list[str] = []
    bases: list[bytes] = []
    try:
        for page in _pages(batch_rows(shard, offsets, end, rules)):
            outcomes += patiently(lambda page=page: compare_rows(store, page, end))  # type: ignore[misc]
            packed = [encode_base(row.cells) for row in page]
            profiles.append(_profile_of(page, packed))
            keys += [row.key for row in page]
            bases += packed
    finally:
        store.close()
    table = pa.table({"key": pa.array(keys, pa.string()), "base": pa.array(bases, pa.large_binary())})
    with FileSystems.create(path, compression_type=_PLAIN) as file:
        file.write(stream_of(table))
    return merged_rows(profiles), dict(outcomes)


def merged_rows(profiles: Iterable[RowsProfile]) -> RowsProfile:
    """The profile of several sets of rows, none in two; of none, the empty one."""
    parts = list(profiles)
    return RowsProfile(
        rows=sum(part.rows for part in parts),
        views=sum(part.views for part in parts),
        empty=sum(part.empty for part in parts),
        spans=sum(part.spans for part in parts),
        lowest_score=min((part.lowest_score for part in parts if part.lowest_score is not None), default=None),
        highest_score=max((part.highest_score for part in parts if part.highest_score is not None), default=None),
        largest=max((part.largest for part in parts), default=0),
        newest=max((part.newest for part in parts if part.newest is not None), default=None),
    )


def publish_rows(store: Store, rules: Prepared, bases: Sequence[tuple[str, bytes]], end: int) -> dict[str, str]:
    """Publish rows: keys that the store refused for good, and why. ``end`` (ms UTC) is how far the base views reach."""
    lost = {bases[refusal.position][0]: refusal.message for refusal in store.write_bases(bases, end)}
    return lost | refresh_rows(store, rules, [key for key, _ in bases if key not in lost]).refused


@dataclasses.dataclass(eq=False)
class PublishRows(beam.PTransform):  # type: ignore[misc]
    """Paths of staged rows → how many of each were published; rows that the store refuses for good are counted."""

    store: str
    release: Release
    end: int

    def expand(self, paths: beam.PCollection[str]) -> beam.PCollection[int]:
        """Apply to each file."""
        return paths | "Publish" >> beam.ParDo(_Publish(self.store, self.release, self.end)).with_output_types(int)


class _Publish(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: str, release: Release, end: int) -> None:
        self._uri, self._release, self._end = store, release, end

    def setup(self) -> None:
        self._store, self._rules = open_store(self._uri), prepared(self._release)

    def teardown(self) -> None:
        self._store.close()

    def process(self, path: str) -> Iterator[int]:
        with FileSystems.open(path, compression_type=_PLAIN) as file:
            table = table_in(file.read())
        for page in _pages(zip(table["key"].to_pylist(), table["base"].to_pylist(), strict=True)):
            go_on()
            lost = patiently(lambda page=page: publish_rows(self._store, self._rules, page, self._end))  # type: ignore[misc]
            count(REFUSED_ROWS, len(lost))
            count(APPLIED, len(page) - len(lost))
            yield len(page) - len(lost)


def _differs(row: BatchRow, stored: ProfileRow) -> bool:
    return stored.membership is not None and encode_cell(stored.membership) != encode_cell(row.membership)


def _profile_of(rows: Sequence[BatchRow], packed: Sequence[bytes]) -> RowsProfile:
    scores = [span.score for row in rows for segment in row.membership.segments for span in segment.spans]
    return RowsProfile(
        rows=len(rows),
        views=sum(len(row.cells) for row in rows),
        empty=sum(not row.membership.segments for row in rows),
        spans=len(scores),
        lowest_score=min(scores, default=None),
        highest_score=max(scores, default=None),
        largest=max(map(len, packed), default=0),
        newest=max((row.membership.as_of for row in rows), default=None),
    )


def _pages(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while page := list(itertools.islice(iterator, ROWS_AT_ONCE)):
        yield page
