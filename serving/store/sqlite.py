"""Profile rows in one SQLite file: nothing to install, safe for several processes (WAL, immediate transactions)."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from schemas.identity import NEVER, UNLINKING, Tombstone
from schemas.profile_row import (
    IdentityCell,
    ProfileRow,
    ViewCell,
    decode_base,
    decode_row,
    encode_base,
    identity_of,
    united,
    view_cell,
)
from serving.recent import Recent
from serving.store.protocol import SAID_AT_ONCE, Appended, Dump, Refusal, RowUpdate, WindowRead
from serving.store.sqlite_file import SQLiteFile

_SCAN_PAGE: Final = 500
_ROWS_A_QUERY: Final = 500
_CELL: Final = functools.partial(tuple.__new__, ViewCell)  # ViewCell._make without its length check

_PAGE: Final = "SELECT row, membership, profile, candidate FROM profiles WHERE row > ? ORDER BY row LIMIT ?"
_KEYS: Final = """
SELECT row FROM views WHERE row > :after UNION SELECT row FROM bases WHERE row > :after
UNION SELECT row FROM profiles WHERE row > :after UNION SELECT row FROM identities WHERE row > :after ORDER BY row LIMIT :page
"""
_TABLES_OF_ROWS: Final = ("views", "bases", "profiles", "identities")


class SQLiteStore:
    """``serving.store.Store`` over one file. A connection a thread; the file need not exist before ``init``."""

    def __init__(self, uri: str, path: str) -> None:
        self.uri = uri
        self._file = SQLiteFile(uri, path)
        self._known = Recent()

    def init(self) -> list[str]:
        """Create the file and its tables where missing; safe to repeat and in several processes at once."""
        return self._file.create()

    def check(self) -> None:
        """Return when the file is there and has the tables."""
        self._file.check()
        self.read_row("")

    def append(self, views: Sequence[tuple[str, ViewCell]]) -> Appended:
        """Write views; a copy is one that is in its row, or that this process remembers writing."""
        unknown: list[tuple[str, bytes, bytes]] = []
        known: list[tuple[str, bytes, bytes]] = []
        insert = "INSERT OR IGNORE INTO views VALUES (?, ?, ?)"
        with self._file.transaction() as connection:
            for key, cell in views:  # only now: what a locked store didn't take is still new the next time
                (unknown if self._known.is_new((key, cell.qualifier)) else known).append((key, *cell))
            new = connection.executemany(insert, unknown).rowcount if unknown else 0
            connection.executemany(insert, known)
            _saw_change(connection)
        return Appended(new, [])

    def write_bases(self, bases: Sequence[tuple[str, bytes]], until: int) -> list[Refusal]:
        """Write the archive's views where none of a later time are."""
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT INTO bases VALUES (?, ?, ?) ON CONFLICT (row) DO UPDATE SET"
                " until = excluded.until, views = excluded.views WHERE excluded.until >= until",
                [(key, until, views) for key, views in bases],
            )
            _saw_change(connection)
        return []

    def write_identity(self, cells: Sequence[tuple[str, IdentityCell]]) -> list[Refusal]:
        """Write identity cells where none of a later time are."""
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT INTO identities VALUES (?, ?, ?, ?) ON CONFLICT (row, qualifier) DO UPDATE SET"
                " value = excluded.value, time = excluded.time WHERE excluded.time >= time",
                [(key, *cell) for key, cell in cells],
            )
            _saw_change(connection)
        return []

    def delete_identity(self, columns: Sequence[tuple[str, bytes]]) -> None:
        """Delete identity cells."""
        with self._file.transaction() as connection:
            connection.executemany("DELETE FROM identities WHERE row = ? AND qualifier = ?", columns)
            _saw_change(connection)

    def empty_row(self, key: str, until: int) -> None:
        """Delete the row's views up to an instant, those of the archive too."""
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM views WHERE row = ? AND qualifier >= ?", (key, _first_at(until)))
            for (views,) in connection.execute("SELECT views FROM bases WHERE row = ?", (key,)).fetchall():
                if kept := [cell for cell in decode_base(views) if cell.time > until]:
                    connection.execute("UPDATE bases SET views = ? WHERE row = ?", (encode_base(kept), key))
                else:
                    connection.execute("DELETE FROM bases WHERE row = ?", (key,))
            _saw_change(connection)

    def drop_membership(self, key: str, time: int) -> None:
        """Delete membership and profile where they are of no newer read."""
        with self._file.transaction() as connection:
            connection.execute("DELETE FROM profiles WHERE row = ? AND time <= ?", (key, time))

    def read_windows(self, keys: Sequence[str], limit: int, said: int = SAID_AT_ONCE) -> WindowRead:
        """At most ``limit`` newest views of each row, and all it says, as of one snapshot."""
        query = "SELECT qualifier, value FROM views WHERE row = ? ORDER BY qualifier LIMIT ?"
        with self._file.snapshot() as connection:
            (done,) = connection.execute("SELECT done FROM appends").fetchone()
            cells = {key: list(map(_CELL, connection.execute(query, (key, limit)))) for key in keys}
            bases = list(_of_rows(connection, "row, views FROM bases", keys))
            found = list(_of_rows(connection, "row, qualifier, value, time FROM identities", keys))
        cells |= {key: united(cells[key], decode_base(views), limit) for key, views in bases}
        identities: dict[str, list[IdentityCell]] = {}
        for key, *cell in found:
            identities.setdefault(key, []).append(IdentityCell(*cell))
        return WindowRead(done, cells, {key: identity_of(theirs) for key, theirs in identities.items()})

    def write_memberships(self, updates: Sequence[RowUpdate]) -> list[Refusal]:
        """Write membership and profile where no newer read has written, and collect views older than ``keep_from``."""
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT INTO profiles (row, time, membership, profile, candidate) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (row) DO UPDATE SET time = excluded.time, membership = excluded.membership,"
                " profile = excluded.profile, candidate = excluded.candidate WHERE excluded.time >= time",
                [(update.key, update.time, update.membership, update.profile, update.candidate) for update in updates],
            )
            connection.executemany(
                "DELETE FROM views WHERE row = ? AND qualifier >= ?",
                [(update.key, _first_at(update.keep_from)) for update in updates],
            )
        return []

    def read_row(self, key: str) -> ProfileRow:
        """The membership, profile and identity of one row."""
        return self.read_rows([key])[key]

    def read_rows(self, keys: Sequence[str]) -> dict[str, ProfileRow]:
        """The rows of all keys, as of one snapshot."""
        query = "SELECT membership, profile, candidate FROM profiles WHERE row = ?"
        with self._file.snapshot() as connection:
            cells = {key: connection.execute(query, (key,)).fetchone() or (None, None, None) for key in keys}
            identities = {key: _identity_cells(connection, key) for key in keys}
        return {
            key: decode_row(key, membership, profile, candidate, identities[key])
            for key, (membership, profile, candidate) in cells.items()
        }

    def write_state(self, name: str, value: bytes, until: int) -> None:
        """Keep a value under a name where none of a later time is."""
        with self._file.transaction() as connection:
            connection.execute(
                "INSERT INTO states VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
                " until = excluded.until, value = excluded.value WHERE excluded.until >= until",
                (name, until, value),
            )

    def read_state(self, name: str) -> bytes | None:
        """The value under a name; a file of version 0.1.0 has none."""
        with self._file.snapshot() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'states'").fetchone():
                return None
            found = connection.execute("SELECT value FROM states WHERE name = ?", (name,)).fetchone()
        return None if found is None else bytes(found[0])

    def bury(self, tombstones: Sequence[Tombstone]) -> None:
        """Keep tombstones, the newest of each digest."""
        with self._file.transaction() as connection:
            connection.executemany(
                "INSERT INTO tombstones VALUES (?, ?, ?)"
                " ON CONFLICT (digest) DO UPDATE SET time = excluded.time WHERE excluded.time > time",
                tombstones,
            )
            connection.execute("UPDATE burials SET number = number + ?", (1 if tombstones else UNLINKING,))

    def burials(self) -> int:
        """How often ``bury`` was called; for nobody counts as ``UNLINKING``."""
        with self._file.snapshot() as connection:
            return int(connection.execute("SELECT number FROM burials").fetchone()[0])

    def tombstones(self, since: int = NEVER) -> list[Tombstone]:
        """All tombstones: here they are quickly read."""
        with self._file.snapshot() as connection:
            return [Tombstone(*found) for found in connection.execute("SELECT digest, version, time FROM tombstones")]

    def forget(self, keys: Sequence[str]) -> None:
        """Delete rows with all they hold."""
        with self._file.transaction() as connection:
            for table in _TABLES_OF_ROWS:
                connection.executemany(f"DELETE FROM {table} WHERE row = ?", [(key,) for key in keys])
            _saw_change(connection)

    def purge(self) -> None:
        """Write the log back into the file and cut it off: deleted cells are overwritten there (``secure_delete``)."""
        self._file.cut_off_log()

    def dump(self, key: str) -> Dump:
        """All that a row rests on, as of one snapshot."""
        return self.dumps([key])[key]

    def dumps(self, keys: Sequence[str]) -> dict[str, Dump]:
        """All that rows rest on, as of one snapshot."""
        views = "SELECT qualifier, value FROM views WHERE row = ? ORDER BY qualifier"
        base = "SELECT until, views FROM bases WHERE row = ?"
        with self._file.snapshot() as connection:
            return {
                key: Dump(
                    list(map(_CELL, connection.execute(views, (key,)))),
                    connection.execute(base, (key,)).fetchone(),
                    _identity_cells(connection, key),
                )
                for key in keys
            }

    def take_out(self, dumps: Mapping[str, Dump], time: int) -> None:
        """Delete what dumps hold, in one transaction."""
        views = [(key, cell.qualifier) for key, dump in dumps.items() for cell in dump.views]
        bases = [(key, *dump.base) for key, dump in dumps.items() if dump.base is not None]
        cells = [(key, cell.qualifier, cell.time) for key, dump in dumps.items() for cell in dump.identity]
        with self._file.transaction() as connection:
            connection.executemany("DELETE FROM views WHERE row = ? AND qualifier = ?", views)
            connection.executemany("DELETE FROM bases WHERE row = ? AND until = ? AND views = ?", bases)
            connection.executemany("DELETE FROM identities WHERE row = ? AND qualifier = ? AND time <= ?", cells)
            connection.executemany("DELETE FROM profiles WHERE row = ? AND time <= ?", [(key, time) for key in dumps])
            _saw_change(connection)

    def names(self, key: str) -> Sequence[str]:
        """The key alone."""
        return (key,)

    def keys(self) -> Iterator[str]:
        """The keys of all rows, in order; a page is one snapshot."""
        after = ""
        while True:
            with self._file.snapshot() as connection:
                page = [key for (key,) in connection.execute(_KEYS, {"after": after, "page": _SCAN_PAGE})]
            if not page:
                return
            yield from page
            after = page[-1]

    def scan(self) -> Iterator[ProfileRow]:
        """Every row that has a membership, in order of key; a page is one snapshot."""
        after = ""
        while True:
            with self._file.snapshot() as connection:
                page = connection.execute(_PAGE, (after, _SCAN_PAGE)).fetchall()
            if not page:
                return
            yield from (row for cells in page if (row := decode_row(*cells)).membership is not None)
            after = page[-1][0]

    def close(self) -> None:
        """Close the connections of all threads."""
        self._file.close()


def _identity_cells(connection: sqlite3.Connection, key: str) -> list[IdentityCell]:
    query = "SELECT qualifier, value, time FROM identities WHERE row = ?"
    return [IdentityCell(*found) for found in connection.execute(query, (key,))]


def _of_rows(connection: sqlite3.Connection, columns: str, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """What a table has of some rows, in a few queries."""
    for start in range(0, len(keys), _ROWS_A_QUERY):
        page = keys[start : start + _ROWS_A_QUERY]
        yield from connection.execute(f"SELECT {columns} WHERE row IN ({','.join('?' * len(page))})", page)


def _saw_change(connection: sqlite3.Connection) -> None:
    """Of two reads the one after a change is the newer one."""
    connection.execute("UPDATE appends SET done = done + 1")


def _first_at(until: int) -> bytes:
    """Where the columns of views at or before an instant begin."""
    return view_cell(until, "", b"").qualifier[:8]
