"""Profile rows in one SQLite file: nothing to install, safe for several processes (WAL, immediate transactions)."""

from __future__ import annotations

import functools
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import StoreError, StoreUnavailableError
from schemas.profile_row import Consent, ProfileRow, ViewCell, decode_base, decode_row, encode_cell, united, view_cell
from serving.recent import Recent
from serving.store.protocol import Appended, Refusal, RowUpdate, WindowRead

BUSY_TIMEOUT_S: Final = 30.0
_SCAN_PAGE: Final = 500
_CELL: Final = functools.partial(tuple.__new__, ViewCell)  # ViewCell._make without its length check

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS views (
    row TEXT NOT NULL, qualifier BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (row, qualifier)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profiles (
    row TEXT NOT NULL PRIMARY KEY, time INTEGER NOT NULL, membership BLOB NOT NULL, profile BLOB NOT NULL, candidate BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bases (row TEXT NOT NULL PRIMARY KEY, until INTEGER NOT NULL, views BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS states (name TEXT NOT NULL PRIMARY KEY, until INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS consents (row TEXT NOT NULL PRIMARY KEY, time INTEGER NOT NULL, consent BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS appends (one INTEGER PRIMARY KEY CHECK (one = 1), done INTEGER NOT NULL);
INSERT OR IGNORE INTO appends VALUES (1, 0);
"""
_ROW: Final = """
SELECT membership, profile, candidate, consent FROM (SELECT ? AS row) LEFT JOIN profiles USING (row) LEFT JOIN consents USING (row)
"""
_PAGE: Final = """
SELECT row, membership, profile, candidate, consent FROM profiles LEFT JOIN consents USING (row) WHERE row > ? ORDER BY row LIMIT ?
"""


class SQLiteStore:
    """``serving.store.Store`` over one file. A connection a thread; the file need not exist before ``init``."""

    def __init__(self, uri: str, path: str) -> None:
        self.uri = uri
        self.path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._known = Recent()

    def init(self) -> list[str]:
        """Create the file and its tables where missing; safe to repeat and in several processes at once."""
        if not Path(self.path).parent.is_dir():
            msg = f"store == {self.uri}, must lie in a folder that exists: {Path(self.path).parent}"
            raise StoreError(msg)
        existed = Path(self.path).exists()
        with self._transaction() as connection:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            if not connection.execute("SELECT 1 FROM pragma_table_info('profiles') WHERE name = 'candidate'").fetchone():
                connection.execute("ALTER TABLE profiles ADD COLUMN candidate BLOB")  # a file of version 0.1.0
        return [] if existed else [self.path]

    def check(self) -> None:
        """Return when the file is there and has the tables."""
        if not Path(self.path).is_file():
            msg = f"store == {self.uri} does not exist, must be created first: forecourt store init --store {self.uri}"
            raise StoreError(msg)
        self.read_row("")

    def append(self, views: Sequence[tuple[str, ViewCell]]) -> Appended:
        """Write views; a copy is one that is in its row, or that this process remembers writing."""
        unknown: list[tuple[str, bytes, bytes]] = []
        known: list[tuple[str, bytes, bytes]] = []
        insert = "INSERT OR IGNORE INTO views VALUES (?, ?, ?)"
        with self._transaction() as connection:
            for key, cell in views:  # only now: what a locked store didn't take is still new the next time
                (unknown if self._known.is_new((key, cell.qualifier)) else known).append((key, *cell))
            new = connection.executemany(insert, unknown).rowcount if unknown else 0
            connection.executemany(insert, known)
            connection.execute("UPDATE appends SET done = done + 1")
        return Appended(new, [])

    def write_bases(self, bases: Sequence[tuple[str, bytes]], until: int) -> list[Refusal]:
        """Write the archive's views where none of a later time are."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO bases VALUES (?, ?, ?) ON CONFLICT (row) DO UPDATE SET"
                " until = excluded.until, views = excluded.views WHERE excluded.until >= until",
                [(key, until, views) for key, views in bases],
            )
            connection.execute("UPDATE appends SET done = done + 1")
        return []

    def read_windows(self, keys: Sequence[str], limit: int) -> WindowRead:
        """At most ``limit`` newest views of each row, as of one snapshot."""
        query = "SELECT qualifier, value FROM views WHERE row = ? ORDER BY qualifier LIMIT ?"
        base = "SELECT views FROM bases WHERE row = ?"
        with self._snapshot() as connection:
            (time,) = connection.execute("SELECT done FROM appends").fetchone()
            cells = {key: list(map(_CELL, connection.execute(query, (key, limit)))) for key in keys}
            bases = [(key, *found) for key in keys if (found := connection.execute(base, (key,)).fetchone()) is not None]
        return WindowRead(time, cells | {key: united(cells[key], decode_base(views), limit) for key, views in bases})

    def write_memberships(self, updates: Sequence[RowUpdate]) -> list[Refusal]:
        """Write membership and profile where no newer read has written, and collect views older than ``keep_from``."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT INTO profiles (row, time, membership, profile, candidate) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (row) DO UPDATE SET time = excluded.time, membership = excluded.membership,"
                " profile = excluded.profile, candidate = excluded.candidate WHERE excluded.time >= time",
                [(update.key, update.time, update.membership, update.profile, update.candidate) for update in updates],
            )
            connection.executemany(
                "DELETE FROM views WHERE row = ? AND qualifier >= ?",
                [(update.key, view_cell(update.keep_from, "", b"").qualifier[:8]) for update in updates],
            )
        return []

    def write_consent(self, key: str, consent: Consent) -> None:
        """Keep a consent where none of a later time is."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO consents VALUES (?, ?, ?) ON CONFLICT (row) DO UPDATE SET"
                " time = excluded.time, consent = excluded.consent WHERE excluded.time >= time",
                (key, consent.time, encode_cell(consent)),
            )

    def read_row(self, key: str) -> ProfileRow:
        """The membership, profile and consent of one row."""
        return self.read_rows([key])[key]

    def read_rows(self, keys: Sequence[str]) -> dict[str, ProfileRow]:
        """The rows of all keys, as of one snapshot."""
        with self._snapshot() as connection:
            found = {key: connection.execute(_ROW, (key,)).fetchone() for key in keys}
        return {key: decode_row(key, *cells) for key, cells in found.items()}

    def write_state(self, name: str, value: bytes, until: int) -> None:
        """Keep a value under a name where none of a later time is."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO states VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
                " until = excluded.until, value = excluded.value WHERE excluded.until >= until",
                (name, until, value),
            )

    def read_state(self, name: str) -> bytes | None:
        """The value under a name; a file of version 0.1.0 has none."""
        with self._snapshot() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'states'").fetchone():
                return None
            found = connection.execute("SELECT value FROM states WHERE name = ?", (name,)).fetchone()
        return None if found is None else bytes(found[0])

    def forget(self, key: str) -> None:
        """Delete the row with all it holds."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM bases WHERE row = ?", (key,))
            connection.execute("DELETE FROM views WHERE row = ?", (key,))
            connection.execute("DELETE FROM profiles WHERE row = ?", (key,))
            connection.execute("DELETE FROM consents WHERE row = ?", (key,))

    def scan(self) -> Iterator[ProfileRow]:
        """Every row that has a membership, in order of key; a page is one snapshot."""
        after = ""
        while True:
            with self._snapshot() as connection:
                page = connection.execute(_PAGE, (after, _SCAN_PAGE)).fetchall()
            if not page:
                return
            yield from (decode_row(*cells) for cells in page)
            after = page[-1][0]

    def close(self) -> None:
        """Close the connections of all threads."""
        while self._connections:
            self._connections.pop().close()
        self._local = threading.local()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._translated_faults():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        with self._translated_faults():
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    @contextmanager
    def _translated_faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                msg = f"store {self.uri} has been locked for {BUSY_TIMEOUT_S:.0f} s: {error}"
                raise StoreUnavailableError(msg) from error
            msg = f"store {self.uri}: {error}; was it created? forecourt store init --store {self.uri}"
            raise StoreError(msg) from error
        except sqlite3.DatabaseError as error:
            msg = f"store {self.uri}: {error}; must be a file that forecourt store init made"
            raise StoreError(msg) from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -65536")
            self._local.connection = connection
            self._connections.append(connection)
        return connection
