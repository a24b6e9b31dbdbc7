"""How a pointer may move, and what a version must have shown before it is published. Pure: pointers, histories and dates in.

publish ──► canary 0 % ──► canary 10 % ──► … ──► promote
                 │              │                   │
                 └── rollback ──┴─► no candidate    └── rollback ──► the version active before
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from schemas.errors import ConfigError
from schemas.release import Backtest, Change, Pointer, took_effect

BACKTEST_DATES: Final = 7


def canaried(pointer: Pointer, version: int, percent: float, salt: str) -> Pointer:
    """The pointer with ``version`` on trial for ``percent`` of users; a new candidate's are drawn by ``salt``.

    >>> first = canaried(Pointer(7), 8, 10.0, "a")
    >>> canaried(first, 8, 20.0, "b")
    Pointer(active=7, candidate=8, percent=20.0, salt='a')
    """
    if not 0 <= percent <= 100 or math.isnan(percent):
        msg = f"--percent == {percent:g}, must be between 0 and 100"
        raise ConfigError(msg)
    if version == pointer.active:
        msg = f"version == {version}, must be another than the active one"
        raise ConfigError(msg)
    return Pointer(pointer.active, version, percent, pointer.salt if version == pointer.candidate else salt)


def promoted(pointer: Pointer) -> Pointer:
    """The pointer with the candidate active."""
    if pointer.candidate is None:
        msg = f"candidate == none, must be one to promote: only version {pointer.active}, the active one, is in use"
        raise ConfigError(msg)
    return Pointer(pointer.candidate)


def rolled_back(pointer: Pointer, history: Sequence[Change]) -> Pointer:
    """The pointer without its candidate, or with the version active before when there is no candidate."""
    if pointer.candidate is not None:
        return Pointer(pointer.active)
    before = version_before(pointer, history)
    if before is None:
        msg = f"version == {pointer.active}, must have one before it to roll back to: the history has none"
        raise ConfigError(msg)
    return Pointer(before)


def version_before(pointer: Pointer, history: Sequence[Change]) -> int | None:
    """The version active before the pointer's, ``None`` when it is the first. What was rolled back doesn't come again."""
    line: list[int] = []
    for change in effective(pointer, history):
        if change.before is None or change.before.active == change.after.active:
            line = line or [change.after.active]
        elif change.action == "rollback":
            line = line[:-1] or [change.after.active]
        else:
            line = [*(line or [change.before.active]), change.after.active]
    if line and line[-1] != pointer.active:  # somebody wrote the pointer by hand
        return line[-1]
    return line[-2] if len(line) > 1 else None


def effective(pointer: Pointer | None, history: Sequence[Change]) -> Iterator[Change]:
    """The changes that came about."""
    return (change for change, effect in zip(history, took_effect(history, pointer), strict=True) if effect)


def published_in(pointer: Pointer | None, history: Sequence[Change]) -> list[int]:
    """The versions that were published, in order."""
    return sorted({change.version for change in effective(pointer, history) if change.action == "publish"})


def untried(backtests: Iterable[Backtest], sha256: str, archived: Iterable[str]) -> list[str]:
    """Those of the last seven archived dates on which no backtest tried the file with this hash.

    >>> untried([Backtest(candidate_sha256="a", rules_sha256="b", dates=["2026-05-02"], at="")], "a", ["2026-05-02", "2026-05-01"])
    ['2026-05-01']
    """
    tried = {date for record in backtests if record.candidate_sha256 == sha256 for date in record.dates}
    return [date for date in sorted(set(archived))[-BACKTEST_DATES:] if date not in tried]
