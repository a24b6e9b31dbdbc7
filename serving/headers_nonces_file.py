"""Which signatures were used already, known to all processes on one machine: an SQLite file.

It is worth nothing once a minute old, so a folder in memory, such as ``/run``, is the place for it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import Final

from serving.headers_nonces import CLOCK_STEP_MS, Claim
from serving.store.sqlite_file import write_ahead

MAX_BYTES: Final = 32 << 20
BUSY_S: Final = 0.05
OPEN_S: Final = 2.0  # the processes of a service start at once, and one of them makes the file
FORGET_EVERY: Final = 16  # claims
FORGET_AT_ONCE: Final = 64  # some 0.5 ms: whoever claims waits for it
_PAGE_BYTES: Final = 4 << 10

_CONNECTION: Final = f"""
PRAGMA synchronous = NORMAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS nonces (nonce TEXT NOT NULL PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nonces_by_until ON nonces (until);
COMMIT;
PRAGMA busy_timeout = {int(BUSY_S * 1_000)};
"""
_FORGET: Final = "DELETE FROM nonces WHERE nonce IN (SELECT nonce FROM nonces WHERE until <= ? ORDER BY until LIMIT ?)"


class SharedNonces:
    """``serving.headers.NonceMemory`` for the processes, and threads, that open the same file.

    It takes in no more when the file has ``max_bytes``, which is some 400,000 nonces. ``sqlite3.Error`` where the file can't be
    used, also while another process holds it for over 50 ms: the verifier refuses then.
    """

    def __init__(self, path: str, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()
        self._process = 0
        self._connection: sqlite3.Connection | None = None
        self._claims = 0
        with self._lock:
            self._connected()

    def claim(self, nonce: str, until: int, now: int) -> Claim:
        """Take in a nonce of a signature that holds until then (ms UTC), and say whether it was new in any of the processes."""
        with self._lock:
            connection = self._connected()
            if self._claims % FORGET_EVERY == 0:  # little by little: a minute's worth at once would take a second
                connection.execute(_FORGET, (now, FORGET_AT_ONCE))
            self._claims += 1
            try:
                taken = connection.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?)", (nonce, until + CLOCK_STEP_MS))
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                    return "full"
                raise
            return "new" if taken.rowcount else "seen"

    def close(self) -> None:
        """Give back the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or self._process != os.getpid():
            self._inherited = self._connection  # across a fork a connection must not be used, nor closed
            self._connection = None  # should this one fail
            self._connection, self._process = _opened(self._path, self._max_bytes), os.getpid()
        return self._connection


def _opened(path: str, max_bytes: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=OPEN_S, isolation_level=None, check_same_thread=False)
    try:
        write_ahead(connection, OPEN_S)
        connection.executescript(_CONNECTION)
        connection.execute(f"PRAGMA max_page_count = {max_bytes // _PAGE_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection
