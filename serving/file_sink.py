"""Sinks: where messages are kept for good. One of them is a file, a message a line."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from typing import Protocol


class Sink(Protocol):
    """Takes messages for good: when ``write`` returns, they are kept."""

    def write(self, messages: Sequence[bytes]) -> None:
        """Keep the messages."""


class FileSink:
    """Appends each batch to a file, all of it or nothing. Several processes can share the file.

    Whoever writes it holds its lock meanwhile, as who writes the file anew does, to take somebody out of it.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def write(self, messages: Sequence[bytes]) -> None:
        """Append the messages, one a line; the file comes into being with the first."""
        data = b"".join(message + b"\n" for message in messages)
        file = self._opened()
        try:
            size = os.fstat(file).st_size
            if data and size and os.pread(file, 1, size - 1) != b"\n":
                data = b"\n" + data  # a writer was killed within a line: ours must not end up on the same
            try:
                while data:
                    data = data[os.write(file, data) :]
            except OSError:  # a full disk: the part that fitted would stay, once for each time that the batch is tried
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)

    def _opened(self) -> int:
        """The file that the path stands for, and not one that was replaced while we waited for it."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    return file
            except FileNotFoundError:
                pass  # removed just now: the next one is made anew
            except OSError:
                os.close(file)
                raise
            os.close(file)
