"""Several p-values read at once: Holm where any false alarm is one too many, Benjamini-Hochberg where a share of them will do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.sessions import Floats


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p-values as Holm (1979) adjusts them for all that there are; ``None`` stays ``None`` and doesn't count.

    >>> holm([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    return _adjusted(ps, _holm)


def benjamini_hochberg(ps: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted so that the share of false ones among those below a level is at most the level (1995).

    >>> benjamini_hochberg([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    return _adjusted(ps, _benjamini_hochberg)


def _adjusted(ps: Sequence[float | None], of_sorted: Callable[[Floats], Floats]) -> list[float | None]:
    known = np.array([p for p in ps if p is not None], np.float64)
    order = np.argsort(known, kind="stable")
    adjusted = np.empty_like(known)
    adjusted[order] = np.minimum(of_sorted(known[order]), 1.0)
    values = iter(adjusted.tolist())
    return [None if p is None else next(values) for p in ps]


def _holm(ps: Floats) -> Floats:
    return np.asarray(np.maximum.accumulate(ps * np.arange(len(ps), 0, -1)))


def _benjamini_hochberg(ps: Floats) -> Floats:
    shares = ps * len(ps) / np.arange(1, len(ps) + 1)
    return np.asarray(np.minimum.accumulate(shares[::-1])[::-1])
