"""How many a day may have, from what the trailing week had.

The band reaches from below the week's smallest day to above its largest. It adapts in three ways. Of five days and more the one
smallest and the one largest don't count, so that one bad day doesn't blind the gate for a week; the same weekday a week before
always counts, so that quiet Sundays pass. A week whose days spread widens the band. And it is never narrower than chance: a
count of n varies by its square root.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Final, NamedTuple

from expectations.checks import brief
from schemas.quality import Thresholds

_TRIMMED_FROM_DAYS: Final = 5
_SAME_WEEKDAY: Final = 7
_SIGMAS_OF_MAD: Final = 1.4826  # a normal distribution's standard deviation in median absolute deviations


class Band(NamedTuple):
    """The smallest and the largest count that pass, and how they came about."""

    low: int
    high: int
    why: str


def band_of(counts: Mapping[int, int], drop: float, rise: float, thresholds: Thresholds) -> Band | None:
    """The band around the counts of a week, by how many days ago; ``None`` when no day of it has any.

    >>> band_of({1: 1000, 2: 1010, 3: 990, 4: 1000, 5: 400, 6: 1020, 7: 1000}, 0.15, 0.5, Thresholds())
    Band(low=842, high=1515, why='0.85 × 990 and 1.5 × 1,010 of the week')
    """
    present = sorted(count for count in counts.values() if count > 0)
    if not present:
        return None
    middle = statistics.median(present)
    spread = _SIGMAS_OF_MAD * statistics.median(abs(math.log(count / middle)) for count in present)
    excess = thresholds.spread_factor * max(spread - thresholds.spread_free, 0.0)
    chance = thresholds.noise_sigmas / math.sqrt(middle)
    down = math.exp(-max(excess - math.log1p(-drop), chance))
    up = math.exp(max(excess + math.log1p(rise), chance))
    trim = int(len(present) >= _TRIMMED_FROM_DAYS)
    weekday = [counts[_SAME_WEEKDAY]] if counts.get(_SAME_WEEKDAY) else []
    smallest, largest = min([present[trim], *weekday]), max([present[-1 - trim], *weekday])
    why = f"{brief(down)} × {brief(smallest)} and {brief(up)} × {brief(largest)} of the week"
    return Band(math.ceil(down * smallest), math.floor(up * largest), why)
