"""What the commands that read a sessions table have in common: the options that name it, and what is told while it is read."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Final

from pipelines.sessions_file import ARMS
from schemas.errors import ConfigError, shown
from schemas.experiments import UNITS

QUIET_S: Final = 2.0


class Progress:
    """Tells on stderr what is done, once it has taken more than two seconds."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        """Tell it, with the seconds since the start."""
        if (seconds := time.monotonic() - self._began) > QUIET_S:
            print(f"{what}, {seconds:.1f} s", file=sys.stderr)


def add_table_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that say which table, and what was randomised in which proportion."""
    parser.add_argument("--sessions", required=required, metavar="FILE", help="the sessions table: CSV (.gz too) or Parquet")
    parser.add_argument("--unit", required=required, choices=UNITS, help="what was randomised")
    parser.add_argument("--weights", default="50,50", metavar="A,B", help="of control and treatment; default: %(default)s")
    parser.add_argument(
        "--arms", default=",".join(ARMS), metavar="A,B", help="the names of control and treatment; default: %(default)s"
    )


def numbers_in(option: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        msg = f"{option} == {shown(text)}, must be numbers with commas between them, such as 50,50"
        raise ConfigError(msg) from None


def arms_in(text: str) -> tuple[str, ...]:
    """The names of two arms."""
    arms = tuple(each.strip() for each in text.split(","))
    if len(arms) != 2 or not all(arms) or arms[0] == arms[1]:
        msg = f"--arms == {shown(text)}, must be two names with a comma between them, such as control,treatment"
        raise ConfigError(msg)
    return arms


def tell_unknown(columns: Sequence[str], path: str) -> None:
    """Tell on stderr which columns are left alone."""
    if columns:
        print(f"{path}: left alone, for they are unknown: {', '.join(map(repr, columns))}", file=sys.stderr)
