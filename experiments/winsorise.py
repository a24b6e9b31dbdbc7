"""Winsorising: values above a quantile become that quantile, so that a few extreme sessions don't drown an effect."""

from __future__ import annotations

import numpy as np

from experiments.sessions import Floats
from schemas.errors import ConfigError


def winsorised(x: Floats, quantile: float | None) -> Floats:
    """The values, none above the quantile of both arms together, which is one of them; ``None``: as they are. Shape (n,).

    One bound for both arms: with one for each, the treatment would move its own.

    >>> winsorised(np.array([1.0, 2.0, 3.0, 100.0]), 0.75)
    array([1., 2., 3., 3.])
    """
    if quantile is None:
        return x
    if not 0 < quantile <= 1:
        msg = f"quantile == {quantile}, must be above 0 and at most 1"
        raise ConfigError(msg)
    return np.minimum(x, np.quantile(x, quantile, method="inverted_cdf")) if len(x) else x
