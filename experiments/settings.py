"""How an experiment is to be read: what was randomised, and the levels, margins and names that the reading goes by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

from experiments.effect import ALPHA
from experiments.sequential import PLANNED_SESSIONS
from schemas.errors import ConfigError, shown
from schemas.experiments import MAX_WEIGHT, UNITS, Unit

PRIMARY: Final = "vehicles_viewed"
METRICS: Final = (PRIMARY, "ctr", "lead")
MOST_PLANNED: Final = 10**15
GUARDRAILS: Final[Mapping[str, float]] = {"lead": 0.10}


@dataclasses.dataclass(frozen=True)
class AnalysisSettings:
    """What was randomised, and how to read it. ``weights`` are of control and treatment; ``planned`` sessions are triggered ones.

    ``winsorise`` is a quantile of the primary metric; ``guardrails`` are margins by metric; ``bandit`` names the segments that a
    bandit has. ``ConfigError`` when it can't be read so.
    """

    unit: Unit
    weights: tuple[float, ...] = (50, 50)
    alpha: float = ALPHA
    planned: int | None = None
    winsorise: float | None = None
    guardrails: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(GUARDRAILS))
    bandit: tuple[str, ...] = ()
    experiment: str | None = None

    def __post_init__(self) -> None:
        """Check each."""
        _check("unit", self.unit in UNITS, self.unit, " or ".join(UNITS))
        check_weights(self.weights)
        _check("alpha", 0 < self.alpha < 1, self.alpha, "above 0 and below 1")
        must = f"at least 1 and at most {MOST_PLANNED:g}"
        _check("planned-sessions", self.planned is None or 1 <= self.planned <= MOST_PLANNED, self.planned, must)
        _check("winsorise", self.winsorise is None or 0 < self.winsorise <= 1, self.winsorise, "above 0 and at most 1")
        for metric, margin in self.guardrails.items():
            must = f"one of {', '.join(METRICS)} with a margin from 0 to below 1"
            _check("guardrail", metric in METRICS and 0 <= margin < 1, f"{metric}={margin:g}", must)

    @property
    def horizon(self) -> int:
        """At how many sessions the always-valid intervals are narrowest."""
        return PLANNED_SESSIONS if self.planned is None else self.planned

    def early(self, sessions: int) -> str | None:
        """Why there are no fixed-horizon p-values yet, of so many triggered sessions; ``None`` at the planned end."""
        if self.planned is None or sessions >= self.planned:
            return None
        return f"before the planned end: {sessions} of {self.planned} triggered sessions"


def check_weights(weights: Sequence[float]) -> None:
    """``ConfigError`` unless these are the weights of two arms."""
    good = len(weights) == 2 and all(0 < weight <= MAX_WEIGHT for weight in weights)
    _check("weights", good, list(weights), f"two numbers above 0 and at most {MAX_WEIGHT:g}, of control and treatment")


def _check(option: str, good: bool, value: object, must: str) -> None:
    if not good:
        msg = f"--{option} == {shown(value)}, must be {must}"
        raise ConfigError(msg)
