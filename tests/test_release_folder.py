"""A release folder on disk and at a remote path: whole at any time, never changed once published, one writer at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.release import run, state_of
from schemas.errors import ConfigError, RulesError
from schemas.release import Backtest, Pointer, sha256_of, took_effect
from tests.memory_files import OBJECTS
from tests.strategies import CATALOGUE, ROOT
from transforms import whole_files
from transforms.release_folder import (
    changing,
    is_release_folder,
    read_backtests,
    read_history,
    read_pointer,
    read_texts,
    record_backtest,
    release_of,
    store_version,
    text_of,
)
from transforms.rules_file import load_release

pytestmark = pytest.mark.alone

KILLS = 4
WRITERS, CHANGES = ("ann", "bob"), 25
BACKTEST = Backtest(candidate_sha256="a" * 64, rules_sha256="b" * 64, dates=["2026-05-01"], at="2026-05-02T00:00:00.000Z")


def rules(version: int, enter: float = 0.5) -> str:
    return f"version: {version}\nsegments:\n  - {{name: electric, when: {{fuel_type: electric}}, enter: {enter}}}\n"


@pytest.fixture
def releases(tmp_path: Path) -> str:
    """A folder with versions 1, which is active, 2 and 3."""
    folder = str(tmp_path / "releases")
    for version in (1, 2, 3):
        (tmp_path / f"{version}.yaml").write_text(rules(version))
        assert run(["publish", str(tmp_path / f"{version}.yaml"), "--releases", folder, "--force", "a test"]) == 0
    return folder


def whole(folder: str) -> Pointer:
    """The pointer of a folder in which everything must be whole: the changes that took effect are a chain that ends at it."""
    pointer, history = state_of(folder)
    done = [change for change, effect in zip(history, took_effect(history, pointer), strict=True) if effect]
    assert [*(change.before for change in done), pointer] == [None, *(change.after for change in done)]
    assert load_release(folder, CATALOGUE).active.version == pointer.active
    return pointer


# --- killed --------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: no handler of ours catches it."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """From now on this process dies at the given write, sync or rename, counted from 0, a write when half is written."""
    taken = 0
    write, fsync, replace = os.write, os.fsync, Path.replace

    def step_of(act: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def stepped(*arguments: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == step + 1:
                if half is not None:
                    half(*arguments)
                raise Killed
            return act(*arguments)

        return stepped

    monkeypatch.setattr(os, "write", step_of(write, lambda file, data: write(file, data[: len(data) // 2])))
    monkeypatch.setattr(os, "fsync", step_of(fsync))
    monkeypatch.setattr(Path, "replace", step_of(replace))
    return lambda: taken


@pytest.mark.parametrize("command", ["canary 2 --percent 30", "promote", "rollback"])
def test_killed_at_any_step_it_is_done_or_not_done_and_the_next_command_works(
    command: str, releases: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["canary", "3", "--percent", "10", "--releases", releases])
    before = whole(releases)
    outcomes = []
    for step in range(100):
        with monkeypatch.context() as patch:
            taken = killed_at(step, patch)
            try:
                run([*command.split(), "--releases", releases])
            except Killed:
                pass
            else:
                assert taken() == step
                break
        outcomes.append(whole(releases) != before)
        if outcomes[-1]:
            run(["canary", "2" if whole(releases).active == 3 else "3", "--percent", "10", "--releases", releases])
            before = whole(releases)
    assert outcomes == sorted(outcomes), "not done, then from some step on done"
    assert {False, True} == set(outcomes)
    assert whole(releases) == read_history(releases)[-1].after


def test_killed_in_the_first_publication_it_can_be_published_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "1.yaml"
    file.write_text(rules(1))
    for step in range(100):
        folder = str(tmp_path / f"killed at {step}")
        with monkeypatch.context() as patch:
            killed_at(step, patch)
            try:
                run(["publish", str(file), "--releases", folder])
            except Killed:
                pass
            else:
                break
        assert run(["publish", str(file), "--releases", folder]) == 0
        assert whole(folder) == Pointer(1)
    assert step > 10, "there were not that many steps to be killed at"


WRITER = """
import sys
from pipelines.release import run
while True:
    for percent in range(1, 100):
        run(["canary", "2", "--percent", str(percent), "--releases", sys.argv[1], "--json"])
"""


def test_killed_at_random_it_leaves_a_whole_folder(releases: str) -> None:
    chance = random.Random(8)
    known = len(read_history(releases))
    for _ in range(KILLS):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, releases], cwd=ROOT, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        assert writer.stdout.readline(), "the writer has begun"
        time.sleep(0.3 * chance.random())
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert whole(releases).candidate == 2
    assert len(read_history(releases)) > known + KILLS
    assert run(["rollback", "--releases", releases]) == 0
    assert whole(releases) == Pointer(1)


def test_readers_see_a_whole_pointer_while_it_is_written(releases: str) -> None:
    ended = threading.Event()
    seen: list[Pointer] = []

    def look() -> None:
        while not ended.is_set():
            texts = read_texts(releases)
            assert texts.pointer is not None
            release_of(texts, releases, CATALOGUE)
            seen.append(texts.pointer)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            for number in range(60):
                run(["canary", str(2 + number % 2), "--percent", str(number), "--releases", releases, "--json"])
        finally:
            ended.set()
        looking.result()
    assert {pointer.candidate for pointer in seen} >= {2, 3}


# --- two at once ---------------------------------------------------------------------------------------------------------


def write(folder: str, who: str) -> None:
    """One process: its changes, from when the other is ready, and again from when the other has made one."""
    here = Path(folder).parent
    for number in range(CHANGES):
        if number < 2:
            (here / f"{who}{number}").touch()
            while not all((here / f"{name}{number}").exists() for name in WRITERS):
                time.sleep(0.001)
        run(["canary", "2", "--percent", str(number), "--by", who, "--releases", folder, "--json"])


def test_of_two_writers_neither_loses_a_change(releases: str) -> None:
    known = len(read_history(releases))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes:
        list(processes.map(write, [releases] * 2, WRITERS))
    history = read_history(releases)[known:]
    assert sorted((change.who, change.after.percent) for change in history) == [(w, p) for w in WRITERS for p in range(CHANGES)]
    assert all(took_effect(read_history(releases), read_pointer(releases)))
    assert [change.who for change in history] != sorted(change.who for change in history), "they did not meet"
    assert whole(releases) == history[-1].after
    assert len({change.after.salt for change in history}) == 1


def test_a_folder_that_stays_locked_is_told(releases: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, "LOCK_WAIT_S", 0.2)
    with changing(releases), pytest.raises(ConfigError, match=rf"lock == {releases}/lock, must be free: another process"):
        run(["canary", "2", "--percent", "1", "--releases", releases])
    assert run(["canary", "2", "--percent", "1", "--releases", releases]) == 0


# --- versions never change -----------------------------------------------------------------------------------------------


def test_a_version_with_other_content_is_refused_and_with_the_same_changes_nothing(
    releases: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    history = read_history(releases)
    (tmp_path / "2.yaml").write_text(rules(2, enter=0.6))
    with pytest.raises(ConfigError, match=rf"version == 2, must be a new one: {releases}/versions/2.yaml is there, with other"):
        run(["publish", str(tmp_path / "2.yaml"), "--releases", releases, "--force", "again"])
    assert text_of(releases, 2) == rules(2).encode()
    (tmp_path / "2.yaml").write_text(rules(2))
    capfd.readouterr()
    assert run(["publish", str(tmp_path / "2.yaml"), "--releases", releases, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"version": 2, "changed": False}
    assert read_history(releases) == history


def test_a_published_file_cannot_be_written_by_mistake(releases: str) -> None:
    assert (Path(releases) / "versions/2.yaml").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (rules(2, enter=0.6), ConfigError, "version == 2, must be as it was published: its file was changed"),
        (rules(3), RulesError, r"versions/2.yaml: version == 3, must be 2 as its name says"),
        (rules(2).replace("electric}", "steam}"), RulesError, r"versions/2.yaml:3:.*fuel_type == 'steam', must be one of"),
        (None, ConfigError, "version == 2, must be in .*: its file is gone"),
    ],
)
def test_a_version_that_was_tampered_with_is_not_put_into_use(
    text: str | None, error: type[Exception], message: str, releases: str
) -> None:
    path = Path(releases) / "versions/2.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=message):
        run(["canary", "2", "--percent", "1", "--releases", releases])
    assert whole(releases) == Pointer(1)


# --- backtests -----------------------------------------------------------------------------------------------------------


def test_a_backtest_comes_back_as_it_was_recorded_and_twice_the_same_is_one(releases: str) -> None:
    later = Backtest(candidate_sha256="a" * 64, rules_sha256="b" * 64, dates=[], at="2026-05-03T00:00:00.000Z", report={"suv": 1})
    paths = {record_backtest(releases, record) for record in (later, BACKTEST, later)}
    assert read_backtests(releases) == [BACKTEST, later]
    assert len(paths) == 2
    assert all(Path(path).parent == Path(releases) / "backtests" for path in paths)


def test_a_broken_backtest_is_named(releases: str) -> None:
    path = record_backtest(releases, BACKTEST)
    Path(path).write_text('{"candidate_sha256": "abc"}')
    with pytest.raises(ConfigError, match=rf"^{path}: must be the JSON of a backtest"):
        read_backtests(releases)


# --- remote --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(whole_files, "CLAIM_SETTLES_S", 0.1)
    folder = f"memory://bucket/{uuid.uuid4().hex}"
    for version in (1, 2):
        (tmp_path / f"{version}.yaml").write_text(rules(version))
        run(["publish", str(tmp_path / f"{version}.yaml"), "--releases", folder, "--force", "a test"])
    return folder


def test_a_remote_folder_works_as_a_local_one(remote: str) -> None:
    assert is_release_folder(remote)
    run(["canary", "2", "--percent", "30", "--releases", remote])
    release = load_release(remote, CATALOGUE)
    assert (release.active.version, release.candidate and release.candidate.version, release.percent) == (1, 2, 30.0)
    record_backtest(remote, BACKTEST)
    assert read_backtests(remote) == [BACKTEST]
    run(["promote", "--releases", remote])
    run(["rollback", "--releases", remote])
    assert whole(remote) == Pointer(1)
    names = {path.removeprefix(f"{remote}/").split("/")[0] for path in OBJECTS if path.startswith(remote)}
    assert names == {"pointer.json", "history.jsonl", "versions", "backtests"}, "no lock is left"


def test_of_two_remote_writers_neither_loses_a_change(remote: str) -> None:
    def change(who: str) -> None:
        for number in range(4):
            run(["canary", "2", "--percent", str(number), "--by", who, "--releases", remote, "--json"])

    with ThreadPoolExecutor(2) as writers:
        list(writers.map(change, ["ann", "bob"]))
    assert len(read_history(remote)) == 2 + 2 * 4
    whole(remote)


def test_a_claim_that_a_killed_remote_writer_left_runs_out(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    OBJECTS[f"{remote}/lock"] = b'{"token": "somebody", "at": %d}' % (time.time_ns() // 1_000_000 - 61_000)
    run(["canary", "2", "--percent", "1", "--releases", remote])
    monkeypatch.setattr(whole_files, "LOCK_WAIT_S", 0.3)
    OBJECTS[f"{remote}/lock"] = b'{"token": "somebody", "at": %d}' % (time.time_ns() // 1_000_000 - 1_000)
    with pytest.raises(ConfigError, match="must be free: another process"):
        run(["canary", "2", "--percent", "2", "--releases", remote])
    assert whole(remote).percent == 1


def test_of_two_remote_claims_at_once_the_one_written_last_holds(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # ours      written ── settles ── waits ─ waits ── written ── settles ── holds
    # other's        written ── settles ── holds ─── taken back
    lock, sleeps = f"{remote}/lock", 0

    def sleep(_: float) -> None:
        nonlocal sleeps
        sleeps += 1
        if sleeps == 1:
            OBJECTS[lock] = b'{"token": "somebody", "at": %d}' % (time.time_ns() // 1_000_000)
        if sleeps == 3:
            OBJECTS.pop(lock)

    monkeypatch.setattr("transforms.whole_files.time.sleep", sleep)
    with changing(remote):
        assert sleeps == 4
        assert b"somebody" not in OBJECTS[lock]
    assert lock not in OBJECTS


@pytest.mark.parametrize("folder", ["", "file:releases", "a*b", "nowhere://x"])
def test_what_can_be_no_release_folder_says_what_can(folder: str) -> None:
    with pytest.raises(ConfigError, match="must be (a local folder|local)"):
        run(["status", "--releases", folder])


def test_a_version_may_be_stored_again_only_as_it_is(releases: str) -> None:
    store_version(releases, 2, rules(2).encode())
    with pytest.raises(ConfigError, match="must be a new one"):
        store_version(releases, 2, rules(2, enter=0.9).encode())
    assert sha256_of(text_of(releases, 2) or b"") == sha256_of(rules(2).encode())
