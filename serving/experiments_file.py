"""The experiments as they are now: polled from their file, the last good ones kept when it breaks.

A server reads the file in a task of its own, ``await asyncio.to_thread(file.look)`` once a second or so; ``current()`` is a plain
read of an attribute, for every request. A change is in force within ``POLL_S`` and the task's own period.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final

from schemas.errors import ConfigError, RulesError
from schemas.experiments import Experiment, Experiments, parse_experiments
from schemas.safe_yaml import MAX_BYTES

POLL_S: Final = 4.0  # with a task that looks once a second: 5

_log = logging.getLogger(__name__)


def load_experiments(path: str, policies: Collection[str] | None = None) -> Experiments:
    """The experiments in a local file; ``RulesError`` or ``ConfigError`` says what is wrong with it."""
    return parse_experiments(read_text(path), path, policies)


class ExperimentsFile:
    """A local experiments file; making one raises ``RulesError`` or ``ConfigError`` when it can't be used.

    ``policies``: the names that arms may have as policy; ``layer``: one that a file with experiments must have, as the server asks
    for it. ``refused`` is called for each broken file found, ``changed`` with the experiments before and after a change; both in
    the thread that looks.
    """

    def __init__(
        self,
        path: str,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        policies: Collection[str] | None = None,
        layer: str | None = None,
        refused: Callable[[], None] = lambda: None,
        changed: Callable[[Experiments, Experiments], None] = lambda before, after: None,
    ) -> None:
        self._path, self._policies, self._layer = path, policies, layer
        self._monotonic = monotonic
        self._refused, self._changed = refused, changed
        self._seen = read_text(path)
        self._current = self._parsed(self._seen)
        self._looked_s = monotonic()

    def current(self) -> Experiments:
        """The experiments in force; the same object until they change. Reads no file."""
        return self._current

    def look(self) -> bool:
        """Read the file again when that is due; whether there is a change. Blocks for as long as the file system does."""
        now = self._monotonic()
        if now - self._looked_s < POLL_S:
            return False
        self._looked_s = now
        before = self._current
        try:
            text = read_text(self._path)
            if text == self._seen:
                return False
            self._seen = text
            found = self._parsed(text)
        except (RulesError, ConfigError) as fault:
            _log.error("experiments refused, version %d stays in force: %s", before.version, fault)  # noqa: TRY400
            self._refused()
            return False
        if found == before:
            return False
        self._current = found
        _log.warning("experiments version %d in force (was %d)%s", found.version, before.version, ", all killed" * found.kill)
        if found.version == before.version:
            _log.warning(
                "experiments changed but version == %d did not: exposures can't tell which they were made with", found.version
            )
        for name in redrawn(before, found):
            _log.error("experiment %s draws its units anew and its version is the same: the analysis would mix the two", name)
        self._changed(before, found)
        return True

    def _parsed(self, text: bytes) -> Experiments:
        found = parse_experiments(text, self._path, self._policies)
        names = [layer.name for layer in found.layers]
        if self._layer is not None and found.experiments and self._layer not in names:
            must = f"must have {self._layer}, the layer in the server's settings: else nobody would be in an experiment"
            msg = f"{self._path}: layers == {', '.join(names)}, {must}"
            raise RulesError(msg)
        return found


def redrawn(before: Experiments, after: Experiments) -> Iterator[str]:
    """The experiments that move units from arm to arm, or mean another thing by an arm, under the same version."""
    known = {experiment.name: experiment for experiment in before.experiments}
    for experiment in after.experiments:
        was = known.get(experiment.name)
        if was is not None and was.version == experiment.version and _drawing(was, before) != _drawing(experiment, after):
            yield experiment.name


def _drawing(experiment: Experiment, experiments: Experiments) -> tuple[object, ...]:
    layer = next(layer for layer in experiments.layers if layer.name == experiment.layer)
    holdout = experiment.bandit and experiment.bandit.holdout
    return (*layer, experiment.slice, experiment.unit, experiment.salt, experiment.arms, holdout)


def read_text(path: str) -> bytes:
    """The file's text, no more of it than is needed to see that it is too long; ``ConfigError`` when it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        msg = f"experiments == {path}, must be a local file that can be read: {error.strerror}"
        raise ConfigError(msg) from error
