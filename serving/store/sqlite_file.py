"""One SQLite file: its tables, a connection a thread, and what SQLite raises as the store's own faults."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import StoreError, StoreUnavailableError

BUSY_TIMEOUT_S: Final = 30.0
_AGAIN_S: Final = 0.05

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS views (
    row TEXT NOT NULL, qualifier BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (row, qualifier)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS profiles (
    row TEXT NOT NULL PRIMARY KEY, time INTEGER NOT NULL, membership BLOB NOT NULL, profile BLOB NOT NULL, candidate BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bases (row TEXT NOT NULL PRIMARY KEY, until INTEGER NOT NULL, views BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS states (name TEXT NOT NULL PRIMARY KEY, until INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identities (
    row TEXT NOT NULL, qualifier BLOB NOT NULL, value BLOB NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (row, qualifier)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tombstones (
    digest BLOB NOT NULL PRIMARY KEY, version INTEGER NOT NULL, time INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS burials (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL);
INSERT OR IGNORE INTO burials VALUES (1, 0);
CREATE TABLE IF NOT EXISTS appends (one INTEGER PRIMARY KEY CHECK (one = 1), done INTEGER NOT NULL);
INSERT OR IGNORE INTO appends VALUES (1, 0);
"""


class SQLiteFile:
    """A file that need not exist before ``create``.

    Every call raises ``StoreUnavailableError`` for what may pass and ``StoreError`` for what stays.
    """

    def __init__(self, uri: str, path: str) -> None:
        self._uri = uri
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def create(self) -> list[str]:
        """Create the file and its tables where missing, and say which; safe to repeat and in several processes at once."""
        if not Path(self._path).parent.is_dir():
            msg = f"store == {self._uri}, must lie in a folder that exists: {Path(self._path).parent}"
            raise StoreError(msg)
        existed = Path(self._path).exists()
        with self.transaction() as connection:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            if not connection.execute("SELECT 1 FROM pragma_table_info('profiles') WHERE name = 'candidate'").fetchone():
                connection.execute("ALTER TABLE profiles ADD COLUMN candidate BLOB")  # a file of version 0.1.0
        return [] if existed else [self._path]

    def check(self) -> None:
        """Return when the file is there."""
        if not Path(self._path).is_file():
            msg = f"store == {self._uri} does not exist, must be created first: forecourt store init --store {self._uri}"
            raise StoreError(msg)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write in one transaction, which no other process's meets."""
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
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Read as of one instant."""
        with self._translated_faults():
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    def cut_off_log(self) -> None:
        """Write the log back into the file and cut it off: deleted cells are overwritten there (``secure_delete``)."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            with self._translated_faults():
                busy, *_ = self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                return
            if time.monotonic() > deadline:
                msg = f"store {self._uri} has been read without a pause for {BUSY_TIMEOUT_S:.0f} s: its log can't be cut off"
                raise StoreUnavailableError(msg)
            time.sleep(_AGAIN_S)

    def close(self) -> None:
        """Close the connections of all threads."""
        while self._connections:
            self._connections.pop().close()
        self._local = threading.local()

    @contextmanager
    def _translated_faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                msg = f"store {self._uri} has been locked for {BUSY_TIMEOUT_S:.0f} s: {error}"
                raise StoreUnavailableError(msg) from error
            msg = f"store {self._uri}: {error}; was it created? forecourt store init --store {self._uri}"
            raise StoreError(msg) from error
        except sqlite3.DatabaseError as error:
            msg = f"store {self._uri}: {error}; must be a file that forecourt store init made"
            raise StoreError(msg) from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            write_ahead(connection, BUSY_TIMEOUT_S)
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -65536")
            connection.execute("PRAGMA secure_delete = ON")
            self._local.connection = connection
            self._connections.append(connection)
        return connection


def write_ahead(connection: sqlite3.Connection, within_s: float) -> None:
    """Let readers go on while somebody writes. Others may do the same at once, for which SQLite waits at no timeout of its own."""
    until_s = time.monotonic() + within_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until_s:
                raise
            time.sleep(_AGAIN_S)
