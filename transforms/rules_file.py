"""The rules as they are now: polled from their file or release folder, the last good ones kept when those break."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from schemas.catalogue import Catalogue, parse_catalogue
from schemas.errors import ConfigError, RulesError
from schemas.release import Release
from schemas.rules import RuleSet, parse_rules
from schemas.safe_yaml import MAX_BYTES
from transforms.release_folder import Texts, is_release_folder, read_texts, release_of
from transforms.whole_files import read_bytes

POLL_S: Final = 5.0

_log = logging.getLogger(__name__)


def load_catalogue(path: str) -> Catalogue:
    """The attribute catalogue in a file."""
    return parse_catalogue(read_bytes(path, MAX_BYTES + 1), path)


def load_rules(path: str, catalogue: Catalogue) -> RuleSet:
    """The rule set in a file."""
    return parse_rules(read_bytes(path, MAX_BYTES + 1), catalogue, path)


def load_release(path: str, catalogue: Catalogue) -> Release:
    """The release in a folder, or the rules in a file, with no candidate."""
    return release_of(texts_at(path, folder=is_release_folder(path)), path, catalogue)


def texts_at(path: str, *, folder: bool) -> Texts:
    """The texts of a release folder, or of the one rules file, as they are now."""
    if folder:
        return read_texts(path)
    if os.path.isdir(path):
        msg = f"rules == {path}, must be a file, or a release folder (forecourt rules publish): it has no pointer.json"
        raise ConfigError(msg)
    return Texts(None, read_bytes(path, MAX_BYTES + 1))


class _InForce(NamedTuple):
    release: Release
    texts: Texts


class RulesFile:
    """A rules file or release folder that is looked at again every five seconds of use.

    ``current()`` raises ``RulesError`` or ``ConfigError`` only the first time; later what is broken is refused loudly, and
    ``on_refused`` is called.
    """

    def __init__(
        self, path: str, catalogue_path: str, on_refused: Callable[[], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._catalogue_path = catalogue_path
        self._on_refused = on_refused
        self._monotonic = monotonic
        self._folder = False
        self._seen: Texts | None = None
        self._in_force: _InForce | None = None
        self._looked_s = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Travel to workers as the paths alone; each reads the files itself."""
        return {**self.__dict__, "_seen": None, "_in_force": None}

    def current(self) -> Release:
        """The rules in force; the same object until they change."""
        now = self._monotonic()
        if self._in_force is None:
            self._folder = is_release_folder(self._path)
            self._in_force = self._parsed(texts_at(self._path, folder=self._folder))
            self._seen = self._in_force.texts
        elif now - self._looked_s >= POLL_S:
            self._in_force = self._looked_at_again(self._in_force)
        else:
            return self._in_force.release
        self._looked_s = now
        return self._in_force.release

    def _looked_at_again(self, last_good: _InForce) -> _InForce:
        try:
            texts = texts_at(self._path, folder=self._folder)
            if texts == self._seen:
                return last_good
            self._seen = texts
            found = self._parsed(texts)
        except (RulesError, ConfigError) as fault:
            self._on_refused()
            _log.error("rules refused, version %s stays in force: %s", last_good.release, fault)  # noqa: TRY400
            return last_good
        before, after = (each.texts.by_version(each.release) for each in (last_good, found))
        for version in before.keys() & after.keys():
            if before[version] != after[version]:
                _log.warning("rules changed but version == %s did not: rows can't tell which of the two made them", version)
        _log.warning("rules version %s in force (was %s)", found.release, last_good.release)
        return found

    def _parsed(self, texts: Texts) -> _InForce:
        return _InForce(release_of(texts, self._path, load_catalogue(self._catalogue_path)), texts)
