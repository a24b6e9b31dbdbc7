"""Where tables for people are printed."""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.console import Console
from rich.text import Text

WIDE_COLUMNS: Final = 110


def table_console() -> Console:
    """Stdout as a console: as wide as the terminal, or as ``COLUMNS`` says; else, into a file or a pipe, ``WIDE_COLUMNS``."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if told else WIDE_COLUMNS)


def say(out: Console, text: str) -> None:
    """Print a line as it is: not broken, however long, and with no markup in it."""
    out.print(Text(text), soft_wrap=True)
