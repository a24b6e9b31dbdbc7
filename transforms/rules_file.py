"""The rules as they are now: polled from their file, the last good ones kept when the file breaks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from apache_beam.io.filesystems import FileSystems

from schemas.catalogue import Catalogue, parse_catalogue
from schemas.errors import ConfigError, RulesError
from schemas.rules import RuleSet, parse_rules
from schemas.safe_yaml import MAX_BYTES
from transforms.counters import RULES_REFUSED, count

POLL_S: Final = 5.0

_log = logging.getLogger(__name__)


def read_bytes(path: str) -> bytes:
    """A file's bytes, local or remote (``gs://``), at most one past the YAML limit; ``ConfigError`` when it can't be read."""
    try:
        with FileSystems.open(path, mime_type="application/octet-stream") as file:
            return bytes(file.read(MAX_BYTES + 1))
    except Exception as error:  # FileSystems raises whatever its file system does
        msg = f"file == {path}, must be readable: {error}"
        raise ConfigError(msg) from error


def load_catalogue(path: str) -> Catalogue:
    """The attribute catalogue in a file."""
    return parse_catalogue(read_bytes(path), path)


def load_rules(path: str, catalogue: Catalogue) -> RuleSet:
    """The rule set in a file."""
    return parse_rules(read_bytes(path), catalogue, path)


class RulesFile:
    """A rules file that is looked at again every five seconds of use.

    ``current()`` raises ``RulesError`` or ``ConfigError`` only the first time; later a broken file is refused loudly.
    """

    def __init__(self, path: str, catalogue_path: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._catalogue_path = catalogue_path
        self._monotonic = monotonic
        self._text = b""
        self._rules: RuleSet | None = None
        self._looked_s = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Travel to workers as the paths alone; each reads the file itself."""
        return {**self.__dict__, "_text": b"", "_rules": None}

    def current(self) -> RuleSet:
        """The rules in force; the same object until they change."""
        now = self._monotonic()
        if self._rules is None:
            self._text = read_bytes(self._path)
            self._rules = parse_rules(self._text, load_catalogue(self._catalogue_path), self._path)
        elif now - self._looked_s >= POLL_S:
            self._look_again(self._rules)
        else:
            return self._rules
        self._looked_s = now
        return self._rules

    def _look_again(self, last_good: RuleSet) -> None:
        try:
            text = read_bytes(self._path)
            if text == self._text:
                return
            self._text = text
            self._rules = parse_rules(text, load_catalogue(self._catalogue_path), self._path)
        except (RulesError, ConfigError) as fault:
            count(RULES_REFUSED)
            _log.error("rules refused, version %s stays in force: %s", last_good.version, fault)  # noqa: TRY400
            return
        if self._rules.version == last_good.version:
            _log.warning("rules changed but version == %s did not: rows can't tell which of the two made them", last_good.version)
        _log.warning("rules version %s in force (was %s)", self._rules.version, last_good.version)
