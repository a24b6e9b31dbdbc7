"""A store that is down, frozen, locked, damaged or not writable: the right words, the right class, and back again."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.api_core.exceptions import AlreadyExists
from google.cloud import bigtable_admin_v2

from pipelines.emulators import Endpoints, emulators
from schemas.errors import StoreError, StoreUnavailableError
from schemas.instants import clock_ms
from serving.store import Store, bigtable, bigtable_admin, bigtable_table, open_store, sqlite_file
from tests.test_store import KEY, cells, update

pytestmark = pytest.mark.alone

CALLS: dict[str, Callable[[Store], Any]] = {
    "init": lambda store: store.init(),
    "check": lambda store: store.check(),
    "append": lambda store: store.append([(KEY, cells(1)[0])]),
    "read_windows": lambda store: store.read_windows([KEY], 9),
    "read_windows of many rows": lambda store: store.read_windows([str(i) for i in range(600)], 9),
    "write_memberships": lambda store: store.write_memberships([update(KEY, clock_ms(), 1)]),
    "read_row": lambda store: store.read_row(KEY),
    "read_rows": lambda store: store.read_rows([KEY]),
    "forget": lambda store: store.forget([KEY]),
    "scan": lambda store: list(store.scan()),
}
WRITES = ("init", "append", "write_memberships", "forget")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bigtable, bigtable_admin, bigtable_table):
        for name in [name for name in vars(module) if name.endswith("_DEADLINE_S")]:
            monkeypatch.setattr(module, name, 0.2)
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.1)


# --- Bigtable ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
def test_a_bigtable_that_is_not_there_may_come_back(call: str, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTABLE_EMULATOR_HOST", "127.0.0.1:1")
    store = open_store("bigtable://nowhere/demo/profiles")
    with pytest.raises(
        StoreUnavailableError, match=r"store bigtable://nowhere/demo/profiles d(oes|id) not .* 0(\.2)? s: "
    ) as caught:
        CALLS[call](store)
    if call in ("init", "check", "read_row"):
        assert "is the emulator at BIGTABLE_EMULATOR_HOST=127.0.0.1:1 running (forecourt emulators)?" in str(caught.value)


@pytest.fixture(scope="module")
def frozen(emulators_endpoints: Endpoints) -> Iterator[tuple[Store, int]]:
    """A store in an emulator of its own, which is stopped, not ended; and the process to wake up."""
    with emulators(["bigtable"]) as other, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGTABLE_EMULATOR_HOST", other.bigtable)
        store = open_store("bigtable://frozen/demo/profiles")
        store.init()
        CALLS["append"](store)
        os.kill(other.bigtable_pid, signal.SIGSTOP)
        yield store, other.bigtable_pid


@pytest.mark.parametrize("call", CALLS)
def test_a_bigtable_that_freezes_is_given_up_at_the_deadline(call: str, frozen: tuple[Store, int], impatient: None) -> None:
    with pytest.raises(StoreUnavailableError, match=r"store bigtable://frozen/demo/profiles d(oes|id) not .* 0(\.2)? s: "):
        CALLS[call](frozen[0])


def test_an_init_that_freezes_halfway_is_not_tried_on_and_on(
    frozen: tuple[Store, int], impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exists(*arguments: Any, **options: Any) -> None:
        raise AlreadyExists("the table")

    monkeypatch.setattr(bigtable_admin_v2.BaseBigtableTableAdminClient, "create_table", exists)
    with pytest.raises(StoreUnavailableError, match=r"does not answer within 0\.2 s: (?!Timeout of 60)"):
        frozen[0].init()


def test_a_bigtable_that_wakes_up_works_on(frozen: tuple[Store, int]) -> None:
    store, process = frozen
    os.kill(process, signal.SIGCONT)
    for call in CALLS.values():
        call(store)
    assert store.append([(KEY, cell) for cell in cells(2)]).refused == []


# --- SQLite --------------------------------------------------------------------------------------------------------------

HOLD = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE'); print(flush=True); sys.stdin.read()"


@pytest.fixture
def locked(sqlite_store_uri: str) -> Iterator[tuple[Store, subprocess.Popen[str]]]:
    """A store whose file another process has locked for writing until its input ends."""
    store = open_store(sqlite_store_uri)
    store.init()
    command = [sys.executable, "-c", HOLD, sqlite_store_uri.removeprefix("sqlite:///")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield store, holder


def test_a_locked_sqlite_takes_no_writes_for_now_and_can_be_read(
    locked: tuple[Store, subprocess.Popen[str]], sqlite_store_uri: str, impatient: None
) -> None:
    store = open_store(sqlite_store_uri)  # with the impatient connection
    for name, call in CALLS.items():
        if name in WRITES:
            with pytest.raises(
                StoreUnavailableError, match=f"store {sqlite_store_uri} has been locked for 0 s: database is locked"
            ):
                call(store)
        else:
            call(store)


def test_what_a_locked_sqlite_did_not_take_is_new_the_next_time(
    locked: tuple[Store, subprocess.Popen[str]], sqlite_store_uri: str, impatient: None
) -> None:
    store = open_store(sqlite_store_uri)
    with pytest.raises(StoreUnavailableError, match="locked"):
        CALLS["append"](store)
    locked[1].communicate("")
    assert CALLS["append"](store) == (1, [])


def test_a_sqlite_that_another_process_is_making_is_waited_for(sqlite_store_uri: str) -> None:
    maker = sqlite3.connect(sqlite_store_uri.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    maker.execute("BEGIN IMMEDIATE")  # before the file is in WAL mode
    made = threading.Timer(0.2, maker.execute, ["COMMIT"])
    made.start()
    store = open_store(sqlite_store_uri)
    store.init()
    made.join()
    maker.close()
    assert CALLS["append"](store) == (1, [])


def bad_file(path: pathlib.Path) -> None:
    path.write_bytes(b"this is no database, whatever its name says" * 99)


def other_database(path: pathlib.Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cars (price REAL)")


def folder(path: pathlib.Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (bad_file, "file is not a database; must be a file that forecourt store init made"),
        (other_database, "no such table: .*; was it created? forecourt store init --store sqlite:///"),
        (folder, "unable to open database file; was it created? forecourt store init --store sqlite:///"),
    ],
)
@pytest.mark.parametrize("call", ["append", "read_windows", "read_row", "scan", "forget"])
def test_a_file_that_is_no_store_is_a_fault_that_stays(
    call: str, make: Callable[[pathlib.Path], None], message: str, sqlite_store_uri: str
) -> None:
    make(pathlib.Path(sqlite_store_uri.removeprefix("sqlite:///")))
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(StoreError, match=f"^store {re.escape(sqlite_store_uri)}: {pattern}") as caught:
        CALLS[call](open_store(sqlite_store_uri))
    assert not isinstance(caught.value, StoreUnavailableError)


def test_a_store_in_a_missing_folder_names_the_folder(tmp_path: pathlib.Path) -> None:
    uri = f"sqlite:///{tmp_path}/missing/store.db"
    with pytest.raises(StoreError, match=re.escape(f"store == {uri}, must lie in a folder that exists: {tmp_path}/missing")):
        open_store(uri).init()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_fault_that_stays(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match="unable to open database file") as caught:
        open_store(f"sqlite:///{tmp_path}/store.db").init()
    assert not isinstance(caught.value, StoreUnavailableError)
