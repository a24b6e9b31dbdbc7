"""A remote file system for tests, at ``memory://``: objects appear when their writer closes them, there are no folders."""

from __future__ import annotations

import fnmatch
import io
import threading
from collections.abc import Iterator
from typing import Any, Final

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem

OBJECTS: Final[dict[str, bytes]] = {}
_LOCK: Final = threading.Lock()


class _Writer(io.BytesIO):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            with _LOCK:
                OBJECTS[self._path] = self.getvalue()
        super().close()


class MemoryFiles(FileSystem):
    """What Beam asks of a file system, as far as small files need it."""

    @classmethod
    def scheme(cls) -> str:
        return "memory"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        folder, _, name = path.rpartition("/")
        return folder, name

    def mkdirs(self, path: str) -> None:
        pass

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        with _LOCK:
            found = {path: len(data) for path, data in OBJECTS.items() if path.startswith(dir_or_prefix)}
        yield from (FileMetadata(path, size, 0) for path, size in found.items())

    def match(self, patterns: list[str], limits: Any = None) -> list[Any]:
        results = []
        for pattern in patterns:
            listed = [file for file in self._list("") if fnmatch.fnmatchcase(file.path, pattern)]
            results.append(type("Match", (), {"pattern": pattern, "metadata_list": listed})())
        return results

    def create(self, path: str, mime_type: str = "", compression_type: str = "") -> io.BytesIO:
        return _Writer(path)

    def open(self, path: str, mime_type: str = "", compression_type: str = "") -> io.BytesIO:
        with _LOCK:
            if path not in OBJECTS:
                raise BeamIOError(f"no object {path}")
            return io.BytesIO(OBJECTS[path])

    def exists(self, path: str) -> bool:
        with _LOCK:
            return path in OBJECTS

    def delete(self, paths: list[str]) -> None:
        with _LOCK:
            for path in paths:
                OBJECTS.pop(path, None)

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError

    def rename(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError

    def size(self, path: str) -> int:
        return len(OBJECTS[path])

    def last_updated(self, path: str) -> float:
        return 0.0

    def checksum(self, path: str) -> str:
        return str(len(OBJECTS[path]))

    def metadata(self, path: str) -> FileMetadata:
        return FileMetadata(path, len(OBJECTS[path]), 0)
