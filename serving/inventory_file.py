"""An inventory that follows its file: read anew when it changes, while the last good one answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence

from schemas.catalogue import Catalogue
from schemas.errors import ConfigError
from schemas.rules import Condition
from serving.inventory import Inventory, Shortlist, load_inventory

_log = logging.getLogger(__name__)


class InventoryFile:
    """The listings of a file as it is now. The first reading raises ``ConfigError``; later a broken file is refused loudly.

    ``reloads`` and ``refused`` count the files taken and not taken since the first. Write a new file and rename it over the old
    one: one that is read while it is being written is refused, or misses listings until the next look.
    """

    def __init__(self, path: str, catalogue: Catalogue, load: Callable[[str, Catalogue], Inventory] = load_inventory) -> None:
        self._path = path
        self._catalogue = catalogue
        self._load = load
        self.reloads = 0
        self.refused = 0
        self._seen = _state_of(path)
        self._current = load(path, catalogue)

    def shortlist(self, filters: Condition | None, wishes: Sequence[Condition], seen: Collection[str]) -> Shortlist:
        """The listings that satisfy the filters; the shortlist stays with the file that was current when it was asked for."""
        return self._current.shortlist(filters, wishes, seen)

    @property
    def current(self) -> Inventory:
        """The inventory of the last good file."""
        return self._current

    def look(self) -> bool:
        """Looks at the file, and reads it if it has changed since the last look; whether a new inventory is in force."""
        state = _state_of(self._path)
        if state == self._seen:
            return False
        self._seen = state
        try:
            found = self._load(self._path, self._catalogue)
        except ConfigError as fault:
            return self._refuse(str(fault))
        except Exception as fault:
            return self._refuse(f"{self._path}: {type(fault).__name__}: {fault}")
        self._current = found
        self.reloads += 1
        _log.warning("listings of %s read anew", self._path)
        return True

    def _refuse(self, why: str) -> bool:
        self.refused += 1
        _log.error("listings refused, the last good ones stay in force: %s", why)
        return False


def _state_of(path: str) -> tuple[int, int, int] | None:
    """What changes when the file does; ``None`` while it isn't there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
