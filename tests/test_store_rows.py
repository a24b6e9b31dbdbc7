"""Rows read from an event loop: the same as the store's own, over SQLite and Bigtable, and the chunks they come in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from google.cloud.bigtable_v2.types import bigtable as messages
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import StoreError, StoreTimeoutError, StoreUnavailableError
from schemas.identity import Said
from schemas.instants import clock_ms
from schemas.profile_row import consent_cell
from serving.store import RowUpdate, Store, open_store
from serving.store.row_chunks import Cell, RowMerger
from serving.store.rows import RowReader, Rows, open_rows
from tests.gateways import members

pytestmark = pytest.mark.alone

Chunk = messages.ReadRowsResponse.CellChunk.pb()


def reading(uri: str, read: Callable[[RowReader], Awaitable[Rows]]) -> Rows:
    async def run() -> Rows:
        rows = open_rows(uri)
        try:
            return await read(rows)
        finally:
            await rows.close()

    return asyncio.run(run())


def test_rows_are_those_of_the_store_itself(store: Store) -> None:
    users = [f"u{number}" for number in range(40)]
    members(store, users[:20], clock_ms())
    keys = [row.key for row in store.scan()] + ["1:" + "0" * 64]
    store.write_identity([(key, consent_cell(Said(1_000, opted_out=True))) for key in (keys[0], keys[-1])])
    found = reading(store.uri, lambda rows: rows.read(keys, 5.0))
    assert found == store.read_rows(keys)
    assert sum(row.membership is not None for row in store.read_rows(keys).values()) == 20


def test_a_damaged_row_is_a_fault_in_its_place_alone(store: Store) -> None:
    members(store, ["ann"], clock_ms())
    (sound,) = [row.key for row in store.scan()]
    damaged = "1:" + "ab" * 32
    store.write_memberships([RowUpdate(damaged, clock_ms(), b"{", b"{}", 0)])
    found = reading(store.uri, lambda rows: rows.read([damaged, sound], 5.0))
    assert isinstance(found[damaged], StoreError)
    assert found[sound] == store.read_row(sound)


def test_a_reader_connected_anew_reads_on(store: Store) -> None:
    members(store, ["ann"], clock_ms())
    (key,) = [row.key for row in store.scan()]

    async def read(rows: RowReader) -> Rows:
        await rows.reconnect()
        return await rows.read([key], 5.0)

    assert reading(store.uri, read)[key] == store.read_row(key)


def test_a_table_that_is_missing_is_no_passing_fault(store_uri: str) -> None:
    with pytest.raises(StoreError, match="forecourt store init") as fault:
        reading(store_uri, lambda rows: rows.read(["1:a"], 5.0))
    assert not isinstance(fault.value, StoreUnavailableError)


def test_a_deadline_too_short_is_told_as_such(bigtable_store_uri: str) -> None:
    open_store(bigtable_store_uri).init()
    with pytest.raises(StoreTimeoutError, match="does not answer within -1 s"):
        reading(bigtable_store_uri, lambda rows: rows.read(["1:a"], -1.0))  # a microsecond can be enough


def test_a_store_that_nobody_runs_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", "127.0.0.1:1")
    with pytest.raises(StoreUnavailableError, match="is the emulator at"):
        reading("bigtable://demo/demo/t", lambda rows: rows.read(["1:a"], 2.0))


# --- chunks --------------------------------------------------------------------------------------------------------------


def chunks_of(
    rows: dict[bytes, list[Cell]], cuts: Sequence[int], resets: Sequence[bool]
) -> Iterator[messages.ReadRowsResponse.CellChunk]:
    """Rows as Bigtable may send them: names left out where they repeat, values cut, and rows begun in vain."""
    cut, reset = iter(cuts), iter(resets)
    for key, cells in rows.items():
        if next(reset, False):
            yield Chunk(row_key=key, family_name={"value": "gone"}, qualifier={"value": b"gone"}, value=b"gone")
            yield Chunk(reset_row=True)
        before: Cell | None = None
        for place, cell in enumerate(cells):
            names: dict[str, Any] = {"row_key": key} if before is None else {}
            if before is None or before.family != cell.family:
                names["family_name"] = {"value": cell.family}
            if before is None or before[:2] != cell[:2]:
                names["qualifier"] = {"value": cell.qualifier}
            last = place == len(cells) - 1
            at = min(next(cut, 0), len(cell.value))
            if at:
                yield Chunk(**names, timestamp_micros=cell.timestamp_micros, value=cell.value[:at], value_size=len(cell.value))
                yield Chunk(value=cell.value[at:], commit_row=last)
            else:
                yield Chunk(**names, timestamp_micros=cell.timestamp_micros, value=cell.value, commit_row=last)
            before = cell


FAMILIES, QUALIFIERS = st.sampled_from(["membership", "profile"]), st.sampled_from([b"a", b"b", b""])
CELLS = st.lists(
    st.builds(
        Cell,
        st.sampled_from(["membership", "profile"]),
        st.sampled_from([b"a", b"b", b""]),
        st.integers(0, 9),
        st.binary(max_size=6),
    ),
    min_size=1,
    max_size=4,
)


@given(
    st.dictionaries(st.binary(min_size=1, max_size=3), CELLS, max_size=4),
    st.lists(st.integers(0, 6)),
    st.lists(st.booleans()),
    st.integers(1, 5),
)
def test_rows_come_out_however_they_are_cut(rows: dict[bytes, list[Cell]], cuts: list[int], resets: list[bool], size: int) -> None:
    merger = RowMerger()
    chunks = list(chunks_of(rows, cuts, resets))
    for start in range(0, len(chunks), size):
        merger.add(chunks[start : start + size])
    merger.end()
    assert merger.rows == rows


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([Chunk(row_key=b"a", value=b"x", commit_row=True)], "without a row key or a family"),
        ([Chunk(family_name={"value": "f"}, qualifier={"value": b"q"}, commit_row=True)], "without a row key or a family"),
        ([Chunk(row_key=b"a", family_name={"value": "f"}, qualifier={"value": b"q"})], "the answer ended within it"),
        (
            [Chunk(row_key=b"a", family_name={"value": "f"}), Chunk(row_key=b"b", family_name={"value": "f"})],
            "another began within it",
        ),
    ],
)
def test_chunks_in_an_order_that_none_may_have_are_a_fault(chunks: list[Any], told: str) -> None:
    def merge() -> None:
        merger = RowMerger()
        merger.add(chunks)
        merger.end()

    with pytest.raises(StoreError, match=told):
        merge()
