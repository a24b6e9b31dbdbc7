"""The controller's log: a JSON line a decision, with its numbers; and since when each segment is at its stage, read back from it.

What changes the experiments file is logged before, with ``"applied": "pending"``, and again after, with ``true``; or with ``false``
and why it couldn't be written. Whatever else is decided is logged once, with ``false``.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

from schemas.errors import ConfigError, shown
from schemas.instants import parse_instant

PENDING: Final = "pending"
_BEGINS: Final = b'{"at": "'
_KEYS: Final = ("at", "experiment", "version", "segment", "stage_from", "stage_to", "applied")


class Stage(NamedTuple):
    """A segment's ramp by the lines so far, since when (ms UTC), and the ramp that the last line may have made of it, and when.

    It has the first ramp since ever: the log doesn't know of any before.
    """

    ramp: float
    since: int
    then: float
    at: int

    def since_when(self, ramp: float, otherwise: int) -> int:
        """Since when the segment has a ramp; ``otherwise`` when it isn't one that the log knows of: then a person has chosen it."""
        return self.since if ramp == self.ramp else self.at if ramp == self.then else otherwise

    def after(self, line: Mapping[str, Any]) -> Stage:
        """After one more line."""
        at, ramp = parse_instant(line["at"]), line["stage_from"]
        return Stage(ramp, self.since_when(ramp, at), line["stage_to"] if line["applied"] else ramp, at)


def stages_of(path: str, experiment: str, version: int) -> dict[str, Stage]:
    """The stage of each segment of an experiment's version that the log names; a log not yet there is empty.

    A last line that was only half written is left alone.
    """
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unusable(path, error) from error
    whole = lines[:-1] if _is_torn(lines[-1]) else lines
    stages: dict[str, Stage] = {}
    for number, text in enumerate(whole, 1):
        if text or number < len(lines):
            line = _line(path, number, text)
            if (line["experiment"], line["version"]) == (experiment, version):
                before = stages.get(line["segment"])
                at, ramp = parse_instant(line["at"]), line["stage_from"]
                stages[line["segment"]] = (before or Stage(ramp, 0, ramp, at)).after(line)
    return stages


def check_log(path: str) -> None:
    """``ConfigError`` when nothing can be appended: said before anything is changed."""
    append(path, ())


def append(path: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Append entries, and see to it that they are on the disk. A last line that was only half written is cut off, which is told."""
    text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
    try:
        with open(path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _mended(file):
                print(f"{path}: the last line was only half written and is cut off", file=sys.stderr)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unusable(path, error) from error


def _mended(file: BinaryIO) -> bool:
    """See to it that a file ends with a whole line; whether half a line had to go."""
    file.seek(0)
    text = file.read()
    last = text[text.rfind(b"\n") + 1 :]
    if torn := _is_torn(last):
        file.truncate(len(text) - len(last))
    elif last:
        file.write(b"\n")
    return torn


def _is_torn(last: bytes) -> bool:
    """Whether the text after the last line's end is the beginning of a line of ours; anything else isn't ours to cut off."""
    if not last or last[: len(_BEGINS)] != _BEGINS[: len(last)]:
        return False
    try:
        json.loads(last)
    except ValueError:
        return True
    return False


def _line(path: str, number: int, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
        parse_instant(found["at"])
        return {key: found[key] for key in _KEYS}
    except (ValueError, KeyError, TypeError) as error:
        line = text.decode(errors="replace").strip()
        msg = f"{path}:{number}: line == {shown(line)}, must be a decision as the controller writes it"
        raise ConfigError(msg) from error


def _unusable(path: str, error: OSError) -> ConfigError:
    return ConfigError(f"--log == {path}, must be a file that can be read and appended to: {error.strerror or error}")
