"""Tables of sessions for the tests of the statistics: written out, drawn at random, and drawn by hypothesis down to nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from experiments.sessions import CONTROL, NO_SEGMENT, TREATMENT, Sessions


def table(
    arm: Sequence[int],
    user: Sequence[int],
    vehicles: Sequence[float],
    *,
    session: Sequence[int] | None = None,
    segment: Sequence[int] | None = None,
    day: Sequence[int] | None = None,
    impressions: Sequence[float] | None = None,
    clicks: Sequence[float] | None = None,
    pre: Sequence[float] | None = None,
) -> Sessions:
    """Sessions of a day and a segment, where nothing else is given."""
    count = len(arm)
    segments, days = np.array(segment or [0] * count, np.int64), np.array(day or [0] * count, np.int64)
    return Sessions(
        session=np.array(range(count) if session is None else session, np.int64),
        user=np.array(user, np.int64),
        users=max(user, default=-1) + 1,
        arm=np.array(arm, np.int8),
        segment_count=(segments != NO_SEGMENT).astype(np.int64),
        segment=segments,
        segments=tuple("abcdefgh"[: int(max(segments, default=0)) + 1]),
        day=days,
        days=tuple(f"2026-05-{1 + each:02}" for each in range(int(max(days, default=0)) + 1)),
        vehicles=np.array(vehicles, np.float64),
        impressions=None if impressions is None else np.array(impressions, np.float64),
        clicks=None if clicks is None else np.array(clicks, np.float64),
        pre=None if pre is None else np.array(pre, np.float64),
    )


def drawn(seed: int, n: int = 400, users: int = 60, *, by_user: bool = False, segments: int = 3, days: int = 5) -> Sessions:
    """Sessions of users who differ, many in both arms unless ``by_user``; some have no impressions, some no ``pre``."""
    rng = np.random.default_rng(seed)
    user = (users * rng.random(n) ** 2).astype(int)  # the first come most often
    arm = user % 2 if by_user else rng.integers(0, 2, n)
    liking = rng.gamma(2, 2, users)
    impressions = rng.poisson(3, n) * rng.integers(0, 2, n)
    return table(
        arm.tolist(),
        user.tolist(),
        rng.poisson(liking[user] * (1 + 0.2 * arm)).tolist(),
        segment=rng.integers(0, segments, n).tolist(),
        day=np.sort(rng.integers(0, days, n)).tolist(),
        impressions=impressions.tolist(),
        clicks=rng.binomial(impressions, 0.1 + 0.05 * (user % 5)).tolist(),
        pre=np.where(user % 4 > 0, liking[user] + rng.normal(0, 1, users)[user], np.nan).tolist(),
    )


@st.composite
def tables(draw: st.DrawFn, least: int = 0, most: int = 16, largest: float = 1e6) -> Sessions:
    """Small tables of any kind: empty, of one arm, of one user, all alike, nothing to divide by, without any ``pre``."""
    count = draw(st.integers(least, most))

    def column(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.lists(values, min_size=count, max_size=count))

    amounts = draw(st.sampled_from([st.integers(0, 5), st.just(2), st.just(0.1), st.floats(0, largest)]))
    return table(
        column(draw(st.sampled_from([st.integers(0, 1), st.just(CONTROL), st.just(TREATMENT)]))),
        column(st.integers(0, draw(st.integers(0, 12)))),
        column(amounts),
        session=column(st.integers(0, 20)),
        segment=column(st.integers(NO_SEGMENT, 3)),
        day=sorted(column(st.integers(0, 4))),
        impressions=column(draw(st.sampled_from([st.integers(0, 4), st.just(0), st.floats(0, largest)]))),
        clicks=column(draw(st.sampled_from([st.integers(0, 4), st.just(0)]))),
        pre=column(
            draw(st.sampled_from([st.just(math.nan), st.just(0.1), st.integers(0, 5), st.floats(0, largest) | st.just(math.nan)]))
        ),
    )


def assert_plain(found: Any) -> None:
    """Nothing in a result is NaN or infinite; and where a p-value is missing, a reason is given."""
    if isinstance(found, float):
        assert math.isfinite(found)
    elif isinstance(found, tuple | list):
        for each in found:
            assert_plain(each)
        if hasattr(found, "p") and hasattr(found, "reason"):
            assert (found.p is None) == bool(found.reason)
            assert found.p is None or 0 <= found.p <= 1
