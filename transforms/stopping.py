"""Stopping in good order: SIGTERM and SIGINT set a flag that sources look at; what was begun is finished."""

from __future__ import annotations

import signal
import threading
from typing import Any, Final

from schemas.errors import StoppedError

STOPPING: Final = threading.Event()


def stop_on_signals() -> None:
    """From now on the first SIGTERM or SIGINT asks sources to stop, the second ends the process at once."""
    STOPPING.clear()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ask)


def go_on() -> None:
    """Return while nobody has asked a batch job to stop; ``StoppedError`` afterwards. Running it again starts anew."""
    if STOPPING.is_set():
        msg = "stopped by a signal before the end; running it again starts anew"
        raise StoppedError(msg)


def _ask(number: int, _: Any) -> None:
    if STOPPING.is_set():
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    STOPPING.set()
