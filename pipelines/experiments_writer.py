"""An experiments file changed by a program: all or nothing, and only if nobody else has changed it since it was read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sys
from collections.abc import Iterator
from typing import NamedTuple

from schemas.errors import ConfigError
from schemas.experiments import Experiment, Experiments, experiments_text, parse_experiments
from serving.experiments_file import read_text


class Held(NamedTuple):
    """A file as it was read: its text, and the experiments in it."""

    path: str
    text: bytes
    experiments: Experiments

    def experiment(self, name: str) -> Experiment:
        """The experiment of a name; ``ConfigError`` names those there are."""
        for each in self.experiments.experiments:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.experiments.experiments)
        msg = f"--experiment == {name}, must be one of {self.path}'s: {known or 'it has none'}"
        raise ConfigError(msg)


def hold(path: str) -> Held:
    """The file as it is; ``RulesError`` or ``ConfigError`` says what is wrong with it."""
    text = read_text(path)
    return Held(path, text, parse_experiments(text, path))


def write(held: Held, after: Experiments) -> None:
    """Put other experiments in the place of those held: ``ConfigError`` when the file is no longer what was read.

    Whoever reads meanwhile sees the old file or the new one. Comments aren't kept, which is said on stderr where there were any.
    """
    path, text = os.path.realpath(held.path), experiments_text(after).encode()
    parse_experiments(text, held.path)  # what can't be read again is never written
    with _locked(os.path.dirname(path)) as folder:
        if read_text(path) != held.text:
            msg = (
                f"experiments == {held.path}, must be as it was read: somebody has changed it since. Nothing was written, run again"
            )
            raise ConfigError(msg)
        fresh = f"{path}.{secrets.token_hex(4)}.new"
        try:
            with open(fresh, "xb") as file:
                os.fchmod(file.fileno(), os.stat(path).st_mode & 0o777)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, path)
        except OSError as error:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
            msg = f"experiments == {held.path}, must be in a folder that can be written: {error.strerror}"
            raise ConfigError(msg) from error
        os.fsync(folder)
    if b"#" in held.text:
        print(f"{held.path}: comments are not kept when a program writes the file", file=sys.stderr)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[int]:
    """The folder, in which no other program of ours writes meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
