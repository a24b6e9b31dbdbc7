"""How numbers are told to people, the same in tables, sentences and pages: p-values, intervals, shares, levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

NONE: Final = "–"
MINUS: Final = "\N{MINUS SIGN}"
_MOST_DECIMALS: Final = 8


def number_text(value: float | None, se: float | None = None, *, share: bool = False, sign: bool = False) -> str:
    """A mean, a share (in per cent) or a difference of them (``sign``; of shares, in percentage points), in as many digits as
    its standard error makes sense of; without one, two decimals, or two digits of what is small.

    >>> number_text(5.12345, 0.0312), number_text(-0.00123, 0.0005, share=True, sign=True), number_text(None)
    ('5.123', '−0.123 pp', '–')
    >>> number_text(5.12345), number_text(0.00123)
    ('5.12', '0.0012')
    """  # noqa: D205
    if value is None:
        return NONE
    return _decimal(value, se, share=share, sign=sign) + (" pp" if sign else " %") * share


def interval_text(interval: Sequence[float] | None, se: float | None = None, *, share: bool = False) -> str:
    """An interval of differences.

    >>> interval_text([-0.012, 0.34], 0.09), interval_text([-0.012, 0.034], 0.01, share=True)
    ('−0.012 to +0.340', '−1.2 to +3.4 pp')
    """
    if interval is None:
        return NONE
    return " to ".join(_decimal(end, se, share=share, sign=True) for end in interval) + " pp" * share


def change_text(change: float | None) -> str:
    """A relative difference.

    >>> change_text(-0.0456)
    '−4.6 %'
    """
    return NONE if change is None else f"{100 * change:+,.1f} %".replace("-", MINUS)


def share_text(share: float | None, decimals: int = 1) -> str:
    """A share that was measured.

    >>> share_text(0.4567), share_text(0.4567, 0)
    ('45.7 %', '46 %')
    """
    return NONE if share is None else f"{100 * share:.{decimals}f} %"


def percent_text(share: float) -> str:
    """A share that was settled, such as a margin: as it was given.

    >>> percent_text(0.1), percent_text(0.035)
    ('10 %', '3.5 %')
    """
    return f"{100 * share:.10g} %"


def level_text(alpha: float) -> str:
    """The level of intervals.

    >>> level_text(0.05), level_text(0.001)
    ('95 %', '99.9 %')
    """
    return percent_text(1 - alpha)


def p_text(p: float | None) -> str:
    """A p-value.

    >>> p_text(0.04321), p_text(1e-9), p_text(0.5)
    ('0.043', '< 0.0001', '0.50')
    """
    return NONE if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.0995 else f"{p:.2f}"


def count_text(count: int, what: str) -> str:
    """So many of something.

    >>> count_text(1, "session"), count_text(1200, "user")
    ('1 session', '1,200 users')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _decimal(value: float, se: float | None, *, share: bool, sign: bool) -> str:
    scaled, error = (100 * value, 100 * (se or 0)) if share else (value, se or 0)
    told, least = (error, 0) if error else (scaled, 2)
    decimals = least if told == 0 else min(max(1 - math.floor(math.log10(abs(told))), least), _MOST_DECIMALS)
    return f"{scaled:{'+' if sign else ''},.{decimals}f}".replace("-", MINUS)
