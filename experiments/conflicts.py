"""Which segments clash with visitors' own filters, counted over impressions: counts that add up, exact where nothing is sampled.

A request counts once, by its first position. Conflicts are written for a sample of the impressions; each that was drawn stands
for ``1 / conflict_sample`` of them, and a share is of the offers among those drawn.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

from schemas.exposure import Exposure

FIRST_POSITION: Final = 1
PERSONALISED: Final = ("combined", "single_segment")
ANY: Final = None  # in place of an attribute: whichever

Pair = tuple[str, str | None]  # segment, attribute


@dataclasses.dataclass
class Tally:
    """What impressions add up to. ``…_drawn`` count those whose conflicts were written, ``…_scaled`` what these stand for.

    ``dropped`` are conflicts, of those drawn, for which their impression had no room.
    """

    impressions: int = 0
    drawn: int = 0
    dropped: int = 0
    offers: Counter[str] = dataclasses.field(default_factory=Counter)
    offers_scaled: defaultdict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    offers_squares: defaultdict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    conflicts_drawn: Counter[Pair] = dataclasses.field(default_factory=Counter)
    conflicts_scaled: defaultdict[Pair, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    rungs: Counter[str] = dataclasses.field(default_factory=Counter)
    rungs_filtered: Counter[str] = dataclasses.field(default_factory=Counter)
    rungs_scaled: defaultdict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    filtered: int = 0
    filtered_scaled: float = 0.0
    overridden_scaled: float = 0.0

    def add(self, exposure: Exposure) -> None:
        """Count an impression; positions below the first are the same request."""
        if exposure.position != FIRST_POSITION:
            return
        clashes = exposure.conflicts or ()
        offered = {offer.name for offer in exposure.segments} | {clash.segment for clash in clashes}
        self.impressions += 1
        self.offers.update(offered)
        self.rungs[exposure.rung] += 1
        filtered = bool(exposure.triggered and exposure.filters)
        if filtered:
            self.filtered += 1
            self.rungs_filtered[exposure.rung] += 1
        if exposure.conflicts is None or exposure.conflict_sample <= 0:
            return
        stands_for = 1 / exposure.conflict_sample
        self.drawn += 1
        self.dropped += exposure.conflicts_dropped
        for segment in offered:
            self.offers_scaled[segment] += stands_for
            self.offers_squares[segment] += stands_for**2
        for pair in {(clash.segment, attribute) for clash in clashes for attribute in (ANY, *clash.attributes)}:
            self.conflicts_drawn[pair] += 1
            self.conflicts_scaled[pair] += stands_for
        if filtered:
            self.filtered_scaled += stands_for
        if clashes:
            self.rungs_scaled[exposure.rung] += stands_for
            self.overridden_scaled += stands_for * (exposure.rung not in PERSONALISED)

    def share_of(self, pair: Pair) -> float:
        """The share of the segment's offers in which it conflicted."""
        return self.conflicts_scaled[pair] / self.offers_scaled[pair[0]]

    def size_of(self, segment: str) -> float:
        """How many offers, all drawn with one share, would tell as much as those that were (Kish 1965, Survey Sampling)."""
        return self.offers_scaled[segment] ** 2 / self.offers_squares[segment]


def tally_of(exposures: Iterable[Exposure]) -> Tally:
    """The tally of some impressions."""
    tally = Tally()
    for exposure in exposures:
        tally.add(exposure)
    return tally
