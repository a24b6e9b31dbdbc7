"""Whether an experiment may be read at all, what to keep in mind when it is, and the document without its numbers when not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from experiments.effect import Sums, pulls_of
from experiments.sessions import CONTROL, TREATMENT
from experiments.srm import ALERT
from experiments.units import MOST_IN_BOTH_ARMS, Screened
from experiments.wording import p_text, percent_text, share_text

ONE_USER: Final = 0.3
"""The share of the effect's variance, carried by one user, above which that is told."""
FEW_USERS: Final = 10
KEEP_TESTING: Final = "keep_testing"
_NAMES: Final = frozenset({"metric", "action"})


def reasons_of(srm: Mapping[str, Any], units: Screened, triggered: Mapping[str, int]) -> list[str]:
    """Why the experiment must not be read; none when it may. ``srm`` as in the document, ``triggered`` sessions by arm."""
    reasons = []
    unit = srm["unit"]
    for which in ("all", "triggered"):
        counts, ps = srm[which], [("p", "p"), ("sequential_p", "always-valid p")]
        low = [f"{name} {p_text(counts[p])}" for p, name in ps if counts[p] is not None and counts[p] < ALERT]
        if low:
            got = f"{counts['control']:,} {unit}s in control and {counts['treatment']:,} in treatment"
            weights = " to ".join(f"{weight:g}" for weight in srm["weights"])
            reasons.append(f"sample-ratio mismatch on {which} {unit}s: {got}, with weights {weights} ({', '.join(low)})")
    if units.mixed:
        share = f"{units.units_in_both_arms:,} of {units.units:,} {unit}s were in both arms ({share_text(units.share)})"
        reasons.append(f"{share}, must be at most {percent_text(MOST_IN_BOTH_ARMS)}")
    reasons += [f"no triggered sessions in {arm}" for arm in ("control", "treatment") if not triggered[arm]]
    return reasons


def share_of_one_user(sums: Sums) -> float | None:
    """The largest share of the effect's variance that is one user's; ``None`` where there are too few users to tell."""
    pulls = pulls_of(sums)
    if isinstance(pulls, str) or pulls.df + 1 < FEW_USERS:
        return None
    squares = (pulls.pulls[TREATMENT] - pulls.pulls[CONTROL]) ** 2
    total = float(squares.sum())
    return float(squares.max()) / total if total > 0 else None


def without_numbers(part: Any, reason: str) -> Any:
    """A part of the document in its shape, each number ``None``, each reason ``reason``; no action is advised."""
    if isinstance(part, list) and all(isinstance(each, Mapping) for each in part):
        return [without_numbers(each, reason) for each in part]
    if not isinstance(part, Mapping):
        return None
    emptied = {name: value if name in _NAMES else without_numbers(value, reason) for name, value in part.items()}
    if "reason" in part:
        emptied["reason"] = reason
    if "action" in part:
        emptied["action"] = KEEP_TESTING
    return emptied
