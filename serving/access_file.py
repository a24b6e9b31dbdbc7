"""The bearer keys as they are now: read anew when their file changes, the last good ones kept when it breaks."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import ConfigError
from serving.access import Access, parse_access


class AccessFile:
    """An access file; making one raises ``ConfigError`` when it can't be used, and so does each look while it is broken."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen = self._read()
        self._current = Access(parse_access(self._seen, path))

    def current(self) -> Access:
        """The access in force. Reads no file."""
        return self._current

    def look(self) -> bool:
        """Read the file again; whether it has changed. A key that stays keeps what it has asked of its rate."""
        text = self._read()
        if text == self._seen:
            return False
        self._current = self._current.renewed(parse_access(text, self._path))
        self._seen = text
        return True

    def _read(self) -> bytes:
        try:
            return Path(self._path).read_bytes()
        except OSError as error:
            msg = f"access file {self._path}: {error.strerror}, must be a YAML file of keys"
            raise ConfigError(msg) from error
