"""Every cell of a store, whatever it is for: what a search for traces of people goes through."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from schemas.errors import StoreError
from schemas.profile_row import BASE, CANDIDATE, CURRENT, IDENTITY, MEMBERSHIP, PROFILE, SPEED, SUMMARY, ViewCell
from serving.store.protocol import Store

if TYPE_CHECKING:
    from serving.store.bigtable import BigtableStore

OTHERS: Final = "!"  # rows that are no user's begin with it


class AnyCell(NamedTuple):
    """A cell with the row it is in. ``time`` is ms UTC; of memberships and profiles it means nothing."""

    row: str
    family: str
    qualifier: bytes
    value: bytes
    time: int


def all_cells(store: Store) -> Iterator[AnyCell]:
    """The cells of all rows, those that are no user's too, and versions that are only waiting to be collected; in any order."""
    if store.uri.startswith("sqlite:"):
        return _in_sqlite(store.uri, store.uri.removeprefix("sqlite:///"))
    from serving.store.bigtable import BigtableStore

    assert isinstance(store, BigtableStore)
    return _in_bigtable(store)


def _in_sqlite(uri: str, path: str) -> Iterator[AnyCell]:
    """The rows of all tables, read through a connection of its own, so that the store can be used meanwhile."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            for row, qualifier, value in connection.execute("SELECT row, qualifier, value FROM views"):
                yield AnyCell(row, SPEED, qualifier, value, ViewCell(qualifier, value).time)
            for row, until, views in connection.execute("SELECT row, until, views FROM bases"):
                yield AnyCell(row, BASE, b"views", views, until)
            for row, *values in connection.execute("SELECT row, membership, candidate, profile FROM profiles"):
                places = ((MEMBERSHIP, CURRENT), (MEMBERSHIP, CANDIDATE), (PROFILE, SUMMARY))
                yield from (AnyCell(row, *place, value, 0) for place, value in zip(places, values, strict=True) if value)
            for row, qualifier, value, time in connection.execute("SELECT row, qualifier, value, time FROM identities"):
                yield AnyCell(row, IDENTITY, qualifier, value, time)
            for name, until, value in connection.execute("SELECT name, until, value FROM states"):
                yield AnyCell(f"{OTHERS}state", PROFILE, name.encode(), value, until)
            for digest, time in connection.execute("SELECT digest, time FROM tombstones"):
                yield AnyCell(f"{OTHERS}tombstones", IDENTITY, digest, b"", time)
    except sqlite3.DatabaseError as error:
        msg = f"store {uri}: {error}; must be a file that forecourt store init made"
        raise StoreError(msg) from error


def _in_bigtable(store: BigtableStore) -> Iterator[AnyCell]:
    for row in store.table.scan(None, OTHERS):
        key = row.row_key.decode()
        yield from (AnyCell(key, cell.family, cell.qualifier, cell.value, cell.timestamp_micros // 1000) for cell in row)
