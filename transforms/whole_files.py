"""Small files read and replaced as a whole, in a local folder or at any path Beam knows (``gs://``); one writer at a time.

A local file is replaced by writing another beside it and renaming that, so a reader sees the old or the new one, whenever
the writer is killed. A remote object appears when it is complete, by itself. Beam is imported for remote paths only: the gateway
reads rules too, and has no other use for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas.errors import ConfigError, StoreError, StoreUnavailableError
from schemas.instants import SECOND_MS, clock_ms

LOCK_WAIT_S: Final = 10.0
CLAIM_SETTLES_S: Final = 1.0
CLAIM_LASTS_MS: Final = 60 * SECOND_MS
CLAIM_RENEWED_S: Final = 10.0
READ_ONLY: Final = 0o444
_LOOK_S: Final = 0.01
_SCHEME: Final = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")


def read_bytes(path: str, at_most: int = -1) -> bytes:
    """A file's bytes, the first ``at_most`` of them; ``ConfigError`` when it can't be read."""
    try:
        with open(path, "rb") if is_local(path) else _remote().open(path, mime_type="application/octet-stream") as file:
            return bytes(file.read(at_most))
    except Exception as error:  # FileSystems raises whatever its file system does
        msg = f"file == {path}, must be readable: {error}"
        raise ConfigError(msg) from error


def replace_bytes(path: str, data: bytes, mode: int = 0o644) -> None:
    """Put a file in the place of another, or of none; ``mode`` is for local ones. Once it returns, the file is on disk."""
    try:
        if is_local(path):
            _replace_local(Path(path), data, mode)
        else:
            from apache_beam.io.filesystem import CompressionTypes

            with _remote().create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
                file.write(data)
    except Exception as error:  # FileSystems raises whatever its file system does
        msg = f"file == {path}, must be writable: {error}"
        raise StoreError(msg) from error


def is_local(path: str) -> bool:
    """Whether a path is this machine's; ``ConfigError`` for one that Beam doesn't know."""
    if not _SCHEME.match(path):
        return True
    try:
        _remote().get_filesystem(path)
    except ValueError as error:
        msg = f"path == {path}, must be local or one that Beam knows, such as gs://BUCKET/FOLDER: {error}"
        raise ConfigError(msg) from error
    return False


def exists(path: str) -> bool:
    """Whether a file is there; ``ConfigError`` when that can't be told."""
    try:
        return os.path.exists(path) if is_local(path) else bool(_remote().exists(path))
    except Exception as error:  # FileSystems raises whatever its file system does
        msg = f"file == {path}, must be in a place that can be read: {error}"
        raise ConfigError(msg) from error


def matching(pattern: str) -> list[str]:
    """The paths of the files that match a pattern, sorted; ``ConfigError`` when that can't be told."""
    try:
        if is_local(pattern):
            return sorted(glob.glob(pattern))
        return sorted(file.path for file in _remote().match([pattern])[0].metadata_list)
    except Exception as error:  # FileSystems raises whatever its file system does
        msg = f"files == {pattern}, must be in a place that can be read: {error}"
        raise ConfigError(msg) from error


class LockedError(ConfigError):
    """Another process has been changing the same for longer than we waited."""


@contextlib.contextmanager
def alone(lock: str) -> Iterator[Callable[[], None]]:
    """Be the only one who changes what a lock file stands for; ``LockedError`` when another does, for ten seconds.

    Local: the kernel's lock, which goes with its process. Remote: a claim, written and found unchanged a second later, and
    renewed while it is held; it runs out a minute after its process was killed. Two writers can both get one when writing it
    takes either of them longer than that second, or it can't be renewed for a minute. Hence what this gives: to be called just
    before what is changed is put in its place, ``StoreUnavailableError`` when the claim is no longer ours.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    with _locked(Path(lock), deadline) if is_local(lock) else _claimed(lock, deadline) as still_ours:
        yield still_ours


def _remote() -> Any:
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


class _Claim(msgspec.Struct):
    token: str
    at: int


@contextlib.contextmanager
def _locked(path: Path, deadline: float) -> Iterator[Callable[[], None]]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    except OSError as error:
        msg = f"folder == {path.parent}, must be one that can be written to: {error.strerror}"
        raise ConfigError(msg) from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _wait(str(path), deadline, _LOOK_S)
        yield lambda: None


@contextlib.contextmanager
def _claimed(path: str, deadline: float) -> Iterator[Callable[[], None]]:
    mine = secrets.token_hex(8)
    while True:
        claim = _claim_in(path)
        if claim is None or clock_ms() - claim.at > CLAIM_LASTS_MS:
            replace_bytes(path, msgspec.json.encode(_Claim(mine, clock_ms())))
            time.sleep(CLAIM_SETTLES_S)
            claim = _claim_in(path)
            if claim is not None and claim.token == mine:
                break
        _wait(path, deadline, CLAIM_SETTLES_S)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, mine, done), daemon=True)
    renewing.start()
    try:
        yield lambda: _check_claim(path, mine)
    finally:
        done.set()
        renewing.join()
        if _is_ours(path, mine):
            _remote().delete([path])


def _renew(path: str, mine: str, done: threading.Event) -> None:
    """Write the claim again and again while it is ours; one that can't be renewed for a minute may be taken by another."""
    renewed = clock_ms()
    while not done.wait(CLAIM_RENEWED_S):
        with contextlib.suppress(ConfigError, StoreError):
            now = clock_ms()
            if now - renewed > CLAIM_LASTS_MS or not _is_ours(path, mine):
                return
            replace_bytes(path, msgspec.json.encode(_Claim(mine, now)))
            renewed = now


def _check_claim(path: str, mine: str) -> None:
    if not _is_ours(path, mine):
        msg = f"lock == {path}, must be ours until the change is made: another process has taken it over"
        raise StoreUnavailableError(msg)


def _is_ours(path: str, mine: str) -> bool:
    claim = _claim_in(path)
    return claim is not None and claim.token == mine


def _claim_in(path: str) -> _Claim | None:
    if not exists(path):
        return None
    with contextlib.suppress(msgspec.DecodeError, ConfigError):  # taken back just now
        return msgspec.json.decode(read_bytes(path), type=_Claim)
    return None


def _wait(lock: str, deadline: float, seconds: float) -> None:
    if time.monotonic() > deadline:
        msg = f"lock == {lock}, must be free: another process has been making changes for {LOCK_WAIT_S:.0f} s"
        raise LockedError(msg)
    time.sleep(seconds)


def _replace_local(path: Path, data: bytes, mode: int) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        _sync_folder(path.parent.parent)
    pending = path.with_name(f".{path.name}.new")  # one writer at a time: what a killed one left is written over
    pending.unlink(missing_ok=True)
    file = os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    finally:
        os.close(file)
    pending.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Make new names in a folder last."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
