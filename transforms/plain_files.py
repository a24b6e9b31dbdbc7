"""Files of lines written anew without some of them, also while others append to them (``serving.file_sink``).

The bulk is copied while writers go on. For the rest, and the change of files, they wait: they hold the file's lock, shared, while
they write, and open it again when it isn't the one that its name stands for.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from schemas.errors import ConfigError, StoreError

GZIP: Final = b"\x1f\x8b"
_BLOCK_BYTES: Final = 1 << 20

Change = Callable[[list[bytes]], list[bytes | None]]


class Rewritten(NamedTuple):
    """What a file came to: its lines, bytes, lines that went and lines that were changed."""

    lines: int = 0
    bytes: int = 0
    removed: int = 0
    changed: int = 0


def rewrite_lines(path: str, change: Change) -> Rewritten:
    """Put in each line's place what ``change`` makes of it, or nothing; a file with nothing to change is left alone.

    ``change`` takes some lines, without their line breaks, and gives as many, ``None`` for those that must go.

    Once it returns, the file is on disk. ``ConfigError`` when it can't be read, ``StoreError`` when it can't be written.
    """
    try:
        while True:
            with _pending(Path(path)) as pending, open(path, "rb") as file:
                done = _rewritten(Path(path), file, pending, change)
                if done is not None:
                    return done
    except FileNotFoundError as error:
        msg = f"file == {path}, must be there"
        raise ConfigError(msg) from error
    except (OSError, EOFError) as error:
        msg = f"file == {path}, must be readable, in a folder that can be written to: {error}"
        raise StoreError(msg) from error


def pending_path(path: str) -> Path:
    """Where a file's new version is written; a killed run may leave it behind."""
    return Path(path).with_name(f".{Path(path).name}.new")


def open_lines(path: str) -> Any:
    """A file of lines, ``.gz`` too, opened to read."""
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP
    return gzip.open(path, "rb") if packed else open(path, "rb")


def _rewritten(path: Path, file: Any, pending: Any, change: Change) -> Rewritten | None:
    """Write the new version and put it into the file's place; ``None`` when somebody else did meanwhile."""
    packed = file.read(2) == GZIP
    file.seek(0)
    out = gzip.open(pending, "wb") if packed else pending
    tally = [0, 0, 0]
    if packed:  # nobody appends to it
        _copy(gzip.open(file, "rb"), out, change, tally)
        out.close()
    else:
        _copy(file, out, change, tally, whole=True)
        fcntl.flock(file, fcntl.LOCK_EX)
        _copy(file, out, change, tally)
    if not _is_at(file, path):
        return None
    size = os.fstat(file.fileno()).st_size
    lines, removed, changed = tally
    if removed or changed:
        pending.flush()
        os.fchmod(pending.fileno(), os.fstat(file.fileno()).st_mode & 0o7777)
        os.fsync(pending.fileno())
        os.replace(pending_path(str(path)), path)
        _sync_folder(path.parent)
    return Rewritten(lines, size, removed, changed)


def _copy(file: Any, out: Any, change: Change, tally: list[int], *, whole: bool = False) -> None:
    """Copy lines to the end; ``whole``: from one without an end on they are left, for it may be being written.

    That one needn't be the last: what is written to it between two looks at the end of the file comes as a line of its own.
    """
    while lines := file.readlines(_BLOCK_BYTES):
        torn = next((place for place, line in enumerate(lines) if not line.endswith(b"\n")), None) if whole else None
        if torn is not None:
            file.seek(-sum(map(len, lines[torn:])), os.SEEK_CUR)
            del lines[torn:]
        texts = [line.rstrip(b"\n") for line in lines]
        for line, text, kept in zip(lines, texts, change(texts), strict=True):
            tally[0] += bool(text)
            if kept is None:
                tally[1] += 1
                continue
            tally[2] += kept != text
            out.write(kept + line[len(text) :])
        if not lines:
            return


@contextlib.contextmanager
def _pending(path: Path) -> Iterator[Any]:
    """The new version, empty and ours alone; it is gone afterwards, where it hasn't become the file itself."""
    place = pending_path(str(path))
    while True:
        with open(place, "a+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, place):
                continue  # another was faster, and it is the file now
            file.truncate(0)
            try:
                yield file
            finally:
                if _is_at(file, place):
                    place.unlink()
            return


def _is_at(file: Any, path: Path) -> bool:
    """Whether an open file is the one that a path stands for."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
