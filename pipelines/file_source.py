"""Messages from a file: one JSON event a line, ``.gz`` too. Lines are bounded, blank ones skipped."""

from __future__ import annotations

import dataclasses
import gzip
import os
import threading
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import apache_beam as beam

from schemas.catalogue import Catalogue
from schemas.decoding import Attributes, decode_event
from schemas.errors import ConfigError, EventError
from schemas.event import MAX_MESSAGE_BYTES
from transforms.batch import Batch
from transforms.stopping import STOPPING

BATCH: Final = 25_000  # a user's events of a batch cost one evaluation; nobody waits for the first of a file
_BLOCK: Final = 1 << 20


class FileProgress(NamedTuple):
    """How far reading has come, in bytes of the file."""

    done: int
    size: int


_progress = FileProgress(0, 0)
_progress_lock: Final = threading.Lock()


def file_progress() -> FileProgress:
    """How far this process has read its file source."""
    return _progress


def lines_of(path: str) -> Iterator[list[bytes]]:
    """Lists of at most 25,000 lines; a line over 64 KiB comes cut to one byte more than that, which is refused later.

    Raises ``ConfigError`` when the file can't be opened or, after the lines before it, when it breaks off.
    """
    pending: list[bytes] = []
    rest = b""
    found = 0
    try:
        for block in _blocks(path):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()[: MAX_MESSAGE_BYTES + 1]
            pending += [line[: MAX_MESSAGE_BYTES + 1] for line in lines if line and not line.isspace()]
            while len(pending) >= BATCH:
                found += BATCH
                yield pending[:BATCH]
                pending = pending[BATCH:]
    except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        found += len(pending)
        if pending:
            yield pending
        msg = f"source == file:{path}, must be a whole readable file; it breaks off after {found} lines, which were used: {error}"
        raise ConfigError(msg) from error
    if rest and not rest.isspace():
        pending.append(rest)
    if pending:
        yield pending
    elif not found:
        msg = f"source == file:{path}, must hold at least one event: it is empty"
        raise ConfigError(msg)


def check_file(path: str) -> None:
    """Return when the file can be opened; ``ConfigError`` otherwise."""
    with _opened(path):
        pass


def newest_event_time(path: str, catalogue: Catalogue) -> int:
    """The newest event time (ms UTC) of the file's usable events; ``ConfigError`` when it has none."""
    newest, attributes = -1, Attributes(catalogue)
    for lines in lines_of(path):
        for line in lines:
            try:
                newest = max(newest, decode_event(line, attributes, None).event.event_time)
            except EventError:
                continue  # refused, with its reason, when the file is replayed
    if newest < 0:
        msg = f"source == file:{path}, must hold at least one usable event"
        raise ConfigError(msg)
    return newest


@dataclasses.dataclass(eq=False)
class ReadFile(beam.PTransform):  # type: ignore[misc]
    """The lines of one file as batches of messages."""

    path: str

    def expand(self, begin: Any) -> beam.PCollection[Batch]:
        """Read from the pipeline's start."""
        return (
            begin
            | "Path" >> beam.Create([self.path], reshuffle=False)
            | "Lines" >> beam.ParDo(_ReadFile()).with_output_types(Batch)
        )


class _ReadFile(beam.DoFn):  # type: ignore[misc]
    def process(self, path: str) -> Iterator[Batch]:
        for lines in lines_of(path):
            if STOPPING.is_set():
                msg = f"stopped by a signal before the end of {path}; running it again from the start changes nothing that is done"
                raise RuntimeError(msg)
            yield Batch(lines)


def _opened(path: str) -> BufferedReader:
    if Path(path).is_dir():
        msg = f"source == file:{path}, must be a file, is a directory"
        raise ConfigError(msg)
    try:
        return open(path, "rb")  # noqa: SIM115
    except OSError as error:
        msg = f"source == file:{path}, must be a readable file: {error.strerror}"
        raise ConfigError(msg) from error


def _blocks(path: str) -> Iterator[bytes]:
    global _progress  # noqa: PLW0603
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
        source = cast("BufferedReader", gzip.GzipFile(fileobj=file)) if is_gzip else file
        while block := source.read1(_BLOCK):  # read() would keep back what comes before a break
            with _progress_lock:
                _progress = FileProgress(file.tell(), size)
            yield block
