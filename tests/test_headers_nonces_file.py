"""The memory of nonces that processes share: what one has taken in, no other does."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.headers_nonces import CLOCK_STEP_MS
from serving.headers_nonces_file import BUSY_S, FORGET_EVERY, SharedNonces
from tests.strategies import ROOT

pytestmark = pytest.mark.alone

CLAIMS = """
import sys
from serving.headers_nonces_file import SharedNonces
nonces = SharedNonces(sys.argv[1])
print(*[number for number in range(400) if nonces.claim(f"n{number}", 60_000, 0) == "new"])
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "nonces.db")


@pytest.fixture
def nonces(path: str) -> Iterator[SharedNonces]:
    shared = SharedNonces(path)
    yield shared
    shared.close()


def test_of_all_processes_one_takes_a_nonce_in(path: str) -> None:
    command = [sys.executable, "-c", CLAIMS, path]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) for _ in range(3)]
    taken = [number for process in processes for number in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(taken, key=int) == [str(number) for number in range(400)]


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_file_that_another_process_is_making_is_waited_for(path: str, lock: str) -> None:
    maker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    maker.execute(f"BEGIN {lock}")
    made = threading.Timer(4 * BUSY_S, maker.execute, ["COMMIT"])
    made.start()
    shared = SharedNonces(path)
    made.join()
    assert shared.claim("a", 60_000, 0) == "new"
    shared.close()
    maker.close()


def test_a_file_that_could_not_be_opened_is_opened_the_next_time(path: str, nonces: SharedNonces) -> None:
    nonces.close()
    Path(path).write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        nonces.claim("a", 60_000, 0)
    Path(path).unlink()
    assert nonces.claim("a", 60_000, 0) == "new"


def test_a_process_that_forks_and_its_child_know_of_each_other(nonces: SharedNonces) -> None:
    assert nonces.claim("a", 60_000, 0) == "new"
    child = os.fork()
    if not child:
        os._exit([nonces.claim("a", 60_000, 0), nonces.claim("b", 60_000, 0)] != ["seen", "new"])
    assert os.waitpid(child, 0)[1] == 0
    assert [nonces.claim(nonce, 60_000, 0) for nonce in "abc"] == ["seen", "seen", "new"]


def test_it_outlives_the_process_and_forgets_what_has_run_out(path: str, nonces: SharedNonces) -> None:
    for number in range(200):
        assert nonces.claim(f"n{number}", 60_000, 0) == "new"
    nonces.close()
    again = SharedNonces(path)
    assert again.claim("n7", 60_000, 60_000 + CLOCK_STEP_MS - 1) == "seen"
    for number in range(4 * FORGET_EVERY):
        again.claim(f"later{number}", 10**6, 60_000 + CLOCK_STEP_MS)
    assert again.claim("n7", 10**6, 60_000 + CLOCK_STEP_MS) == "new"
    again.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM nonces WHERE until < 1000000").fetchone() == (0,)
    connection.close()


def test_a_full_file_takes_no_more_in_until_some_have_run_out(path: str) -> None:
    small = SharedNonces(path, max_bytes=64 << 10)
    claims = [small.claim(f"n{number}", 60_000, 0) for number in range(2_000)]
    assert {"new", "full"} == {*claims}
    assert small.claim("n0", 60_000, 0) == "seen"
    later = [small.claim(f"later{number}", 10**6, 60_000 + CLOCK_STEP_MS) for number in range(200)]
    assert later[-100:] == ["new"] * 100
    small.close()


def test_a_file_that_cannot_be_used_is_said_so(tmp_path: Path, path: str, nonces: SharedNonces) -> None:
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        SharedNonces(str(tmp_path / "nowhere" / "nonces.db"))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        nonces.claim("a", 60_000, 0)
    holder.execute("ROLLBACK")
    holder.close()
    assert nonces.claim("a", 60_000, 0) == "new"
