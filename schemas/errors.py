"""The errors of the project, one class per party at fault; each message reads ``name == value, must be …``."""

from __future__ import annotations

from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_UNUSABLE_INPUT: Final = 2
EXIT_GATE_CLOSED: Final = 3


class ForecourtError(Exception):
    """A fault that is told to a person in one line; ``exit_status`` is the command's."""

    exit_status: int = EXIT_FAILED


class EventError(ForecourtError):
    """The sender's fault: an event that can't be used. ``reason`` is one of ``schemas.dead_letter.REASONS``."""

    def __init__(self, reason: str, field: str | None, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


class RulesError(ForecourtError):
    """The rule author's fault: a rule set or an attribute catalogue that can't be used."""

    exit_status = EXIT_UNUSABLE_INPUT


class ConfigError(ForecourtError):
    """The operator's fault: an option, an environment variable or a source that can't be used."""

    exit_status = EXIT_UNUSABLE_INPUT


class StoppedError(ForecourtError):
    """Nobody's fault: a signal asked a job to stop before it had come to its end."""


class StoreError(ForecourtError):
    """The store's fault, and for good: retrying the same call doesn't help."""


class RowError(StoreError):
    """One row's fault: it holds what can't be understood; the others may be sound."""


class StoreUnavailableError(StoreError):
    """The store's fault for now: the same call may go through later."""


class StoreTimeoutError(StoreUnavailableError):
    """The store has not answered within the deadline."""


def shown(value: object, limit: int = 60) -> str:
    """The value as an error message shows it: its ``repr``, cut to ``limit`` characters.

    >>> shown("x" * 100, limit=12)
    "'xxxxxxxx..."
    """
    text = repr(value[: limit + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
