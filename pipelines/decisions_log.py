"""The controller's log: a JSON line a decision, with its numbers; and when each segment was last changed, read back from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.errors import ConfigError, shown
from schemas.instants import parse_instant


def last_steps(path: str, experiment: str, version: int) -> dict[str, int]:
    """When each segment of an experiment's version was last ramped up or rolled back, ms UTC; a log not yet there is empty."""
    steps: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                found = _step(path, number, line)
                if (found["experiment"], found["version"], found["applied"]) == (experiment, version, True):
                    steps[found["segment"]] = max(parse_instant(found["at"]), steps.get(found["segment"], 0))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _unusable(path, error) from error
    return steps


def check_log(path: str) -> None:
    """``ConfigError`` when nothing can be appended: said before anything is changed."""
    append(path, ())


def append(path: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Append entries, and see to it that they are on the disk."""
    text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unusable(path, error) from error


def _step(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
        parse_instant(found["at"])
        return {key: found[key] for key in ("at", "experiment", "version", "segment", "applied")}
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path}:{number}: line == {shown(line.strip())}, must be a decision as the controller writes it"
        raise ConfigError(msg) from error


def _unusable(path: str, error: OSError | UnicodeDecodeError) -> ConfigError:
    return ConfigError(f"--log == {path}, must be a file that can be read and appended to: {getattr(error, 'strerror', error)}")
