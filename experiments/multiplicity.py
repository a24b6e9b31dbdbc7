"""Several p-values read at once: Holm where any false alarm is one too many, Benjamini-Hochberg where a share of them will do."""

from __future__ import annotations

from collections.abc import Sequence

from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p-values as Holm (1979) adjusts them for all that there are; ``None`` stays ``None`` and doesn't count.

    >>> holm([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    return _adjusted(ps, "holm")


def benjamini_hochberg(ps: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted so that the share of false ones among those below a level is at most the level (1995).

    >>> benjamini_hochberg([0.01, None, 0.04])
    [0.02, None, 0.04]
    """
    return _adjusted(ps, "fdr_bh")


def _adjusted(ps: Sequence[float | None], method: str) -> list[float | None]:
    known = [p for p in ps if p is not None]
    if not known:
        return list(ps)
    adjusted = iter(multipletests(known, method=method)[1].tolist())
    return [None if p is None else next(adjusted) for p in ps]
