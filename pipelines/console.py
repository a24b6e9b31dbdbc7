"""Where tables for people are printed."""

from __future__ import annotations

import os
import sys
from typing import Final

from rich.console import Console

WIDE_COLUMNS: Final = 110


def table_console() -> Console:
    """Stdout as a console: as wide as the terminal, or as ``COLUMNS`` says; else, into a file or a pipe, ``WIDE_COLUMNS``."""
    told = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if told else WIDE_COLUMNS)
