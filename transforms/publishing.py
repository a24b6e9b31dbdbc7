"""Rows from the archive: staged, compared with what the speed layer wrote, published.

Publishing is an update like the stream's: base views into their rows, links and consents that the store has lost, the rows read
back, evaluated, written. So a row that has views which the archive lacks keeps them, and nothing newer is overwritten.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from schemas.day_profile import RowsProfile
from schemas.identity import NOBODY
from schemas.profile_row import (
    LINKED,
    LINKS,
    UNLINKED,
    IdentityCell,
)
from schemas.pseudonym import Pseudonyms
from schemas.release import Release
from serving.keys import load_ring
from serving.store import Store, open_store
from transforms.arrow_stream import stream_of, table_in
from transforms.batch_rows import BatchRow, batch_rows
from transforms.canary import Prepared, prepared
from transforms.counters import APPLIED, count
from transforms.forgetting import Graves, clear_rows
from transforms.names import OneRowEach
from transforms.pages import pages_of
from transforms.parity import compare_rows
from transforms.patience import patiently
from transforms.rows import refresh_rows
from transforms.shards import Shard
from transforms.staged import Staged, lacking_cells, named_in, staged_in, staged_of, table_of, without_forgotten
from transforms.stopping import go_on

ROWS_AT_ONCE: Final = 250
REFUSED_ROWS: Final = "refused_rows"
_PLAIN: Final = CompressionTypes.UNCOMPRESSED


def store_of(uri: str, key_from: str | None) -> Store:
    """The store; with ``key_from`` (see ``load_ring``) one in which the rows of an id under several keys are one."""
    store = open_store(uri)
    return store if key_from is None else OneRowEach(store, Pseudonyms(load_ring(key_from)))


def review_rows(
    shard: Shard, offsets: Any, end: int, rules: Prepared, said: pa.Table, opened: Callable[[], Store], path: str
) -> tuple[RowsProfile, dict[str, int]]:
    """Stage a shard's rows in a file and compare them with the store's: what they are as a whole, and how many compare how."""
    store = opened()
    profiles, outcomes = [merged_rows([])], Counter[str]()
    staged: list[Staged] = []
    try:
        for page in pages_of(batch_rows(shard, offsets, end, rules, said), ROWS_AT_ONCE):
            to_write = [staged_of(row, end) for row in page]
            _learn(store, to_write)
            outcomes += patiently(lambda page=page: compare_rows(store, page, end))  # type: ignore[misc]
            profiles.append(_profile_of(page, to_write))
            staged += to_write
    finally:
        store.close()
    with FileSystems.create(path, compression_type=_PLAIN) as file:
        file.write(stream_of(table_of(staged)))
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


def publish_rows(store: Store, rules: Prepared, page: Sequence[Staged], end: int, graves: Graves) -> dict[str, str]:
    """Publish rows: keys that the store refused for good, and why. ``end`` (ms UTC) is how far the base views reach.

    Who was forgotten since they were staged doesn't come back: looked for before the write, and after it, as by every writer.
    """
    graves.look(store)
    staged, page = page, [without_forgotten(each, graves) for each in page]
    # A try before this one, which failed, or was killed, after the write may have left what is barred now.
    barred = [key for before, after in zip(staged, page, strict=True) if after != before for key in named_in(before)]
    _learn(store, page)
    rows = list(dict.fromkeys(key for each in page for key in each.rows))
    read = store.read_windows(rows, 1)
    wanted = [cell for each in page for cell in each.cells]
    lacking = [(key, cell) for key, cells in _by_row(wanted) for cell in lacking_cells(read.identities.get(key, NOBODY), cells)]
    links = [cell for cell in lacking if cell[1].qualifier[:1] == LINKS]
    others = [cell for cell in lacking if cell[1].qualifier[:1] != LINKS]
    bases = [base for each in page for base in each.bases]
    lost = {bases[refusal.position][0]: refusal.message for refusal in store.write_bases(bases, end)} if bases else {}
    for cells in (links, others):  # the anonymous id's side first, as the stream writes them
        lost |= {cells[refusal.position][0]: refusal.message for refusal in store.write_identity(cells)} if cells else {}
    for key, until in [each for staged in page for each in staged.emptied if read.cells.get(each[0])]:
        store.empty_row(key, until)
    relinked = {key for key, cell in lacking if cell.qualifier[:1] in (LINKS, LINKED, UNLINKED)}
    keys = dict.fromkeys([*(each.person for each in page if each.bases or each.emptied), *(key for key, _ in lacking)])
    lost |= refresh_rows(store, rules, [key for key in keys if key not in lost], relinked - lost.keys()).refused
    while graves.look(store) or barred:
        clear_rows(store, rules, list(graves.among(dict.fromkeys([*rows, *barred]))), graves=graves)
        barred = []
    return lost


def _by_row(cells: Sequence[tuple[str, IdentityCell]]) -> Iterable[tuple[str, list[IdentityCell]]]:
    rows: dict[str, list[IdentityCell]] = {}
    for key, cell in cells:
        rows.setdefault(key, []).append(cell)
    return rows.items()


def _learn(store: Store, page: Iterable[Staged]) -> None:
    """Tell a store of several keys which names are one id's."""
    if isinstance(store, OneRowEach):
        store.learn(cell for each in page for cell in each.cells)


@dataclasses.dataclass(eq=False)
class PublishRows(beam.PTransform):  # type: ignore[misc]
    """Paths of staged rows → how many of each were published; rows that the store refuses for good are counted."""

    store: str
    release: Release
    end: int
    key_from: str | None = None

    def expand(self, paths: beam.PCollection[str]) -> beam.PCollection[int]:
        """Apply to each file."""
        return paths | "Publish" >> beam.ParDo(_Publish(self.store, self.release, self.end, self.key_from)).with_output_types(int)


class _Publish(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: str, release: Release, end: int, key_from: str | None) -> None:
        self._uri, self._release, self._end, self._key_from = store, release, end, key_from

    def setup(self) -> None:
        self._store, self._rules, self._graves = store_of(self._uri, self._key_from), prepared(self._release), Graves()

    def teardown(self) -> None:
        self._store.close()

    def process(self, path: str) -> Iterator[int]:
        with FileSystems.open(path, compression_type=_PLAIN) as file:
            table = table_in(file.read())
        for page in pages_of(staged_in(table), ROWS_AT_ONCE):
            go_on()
            lost = patiently(lambda page=page: self._published(page))  # type: ignore[misc]
            written = sum(bool(each.bases) and lost.keys().isdisjoint(each.rows) for each in page)
            count(REFUSED_ROWS, len(lost))
            count(APPLIED, written)
            yield written

    def _published(self, page: Sequence[Staged]) -> dict[str, str]:
        return publish_rows(self._store, self._rules, page, self._end, self._graves)


def _profile_of(page: Sequence[BatchRow], staged: Sequence[Staged]) -> RowsProfile:
    held = [row.membership for row in page if row.membership is not None]
    scores = [span.score for membership in held for segment in membership.segments for span in segment.spans]
    return RowsProfile(
        rows=len(held),
        views=sum(len(row.cells) for row in page),
        empty=sum(not membership.segments for membership in held),
        spans=len(scores),
        lowest_score=min(scores, default=None),
        highest_score=max(scores, default=None),
        largest=max((len(views) for each in staged for _, views in each.bases), default=0),
        newest=max((membership.as_of for membership in held), default=None),
    )
