"""How many sessions an experiment needs, which effect it can find, and how long it takes: normal theory, two-sided.

With ``n`` sessions in all, arms of the shares ``w_C`` and ``w_T``, the metric's standard deviation ``σ`` a session and the design
effect ``F`` (how many times the variance is that of independent sessions, see ``design_effect``),

    Var(D) = F σ² (1/w_C + 1/w_T) / n

and a true effect ``δ`` is found with the probability ``Φ(λ - z) + Φ(-λ - z)``, ``λ = δ / sd(D)``, ``z = Φ⁻¹(1 - α/2)``. With equal
arms, α 0.05 and power 0.8 this is the rule ``16 σ²/δ²`` an arm (Kohavi, Tang, Xu 2020, chapter 17: 15.7, rounded up).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from scipy import optimize, stats

from experiments.effect import ALPHA
from experiments.settings import MOST_PLANNED
from schemas.errors import ConfigError

POWER: Final = 0.8
EQUAL: Final = (50.0, 50.0)


class Baseline(NamedTuple):
    """A metric before the experiment: its mean, and the standard deviation ``sd`` of a session; ``F`` is ``design_effect``.

    Of a ratio ``Σx/Σd`` the mean is the ratio, and ``sd`` that of ``(x - mean · d)`` over the mean of ``d``.
    """

    mean: float
    sd: float
    design_effect: float = 1.0


class Design(NamedTuple):
    """How the experiment will be judged: ``weights`` of control and treatment, in any scale."""

    alpha: float = ALPHA
    power: float = POWER
    weights: tuple[float, float] = EQUAL

    @property
    def shares(self) -> tuple[float, float]:
        """The arms' shares of the sessions."""
        return (self.weights[0] / sum(self.weights), self.weights[1] / sum(self.weights))

    @property
    def spread(self) -> float:
        """By how much ``σ²/n`` is to be multiplied: 4 with equal arms."""
        return sum(1 / share for share in self.shares)


STANDARD: Final = Design()


class Size(NamedTuple):
    """Whole sessions: by arm, and in all; ``days`` is ``None`` where the traffic is unknown."""

    control: int
    treatment: int
    triggered: int
    sessions: int
    days: int | None


def sessions_for(baseline: Baseline, mde: float, design: Design = STANDARD) -> float:
    """How many triggered sessions, both arms together, find the relative effect ``mde``; not rounded.

    Revenue a user of $1.25, standard deviation $3, change of 5 % (Larsen and others, Statistical Challenges in Online Controlled
    Experiments, The American Statistician 78, 2024, section 2: by the rule of 16 ``16 · 3² / (1.25 · 0.05)²`` = 36,864 an arm):

    >>> round(sessions_for(Baseline(1.25, 3), 0.05) / 2), round(16 * 3**2 / (1.25 * 0.05)**2)
    (36168, 36864)
    """
    in_deviations = baseline.mean / baseline.sd * mde
    needed = noncentrality(design) / in_deviations if in_deviations > 0 else math.inf
    return baseline.design_effect * design.spread * needed * needed


def mde_of(baseline: Baseline, sessions: float, design: Design = STANDARD) -> float:
    """The smallest relative effect that so many triggered sessions, both arms together, find."""
    return noncentrality(design) * math.sqrt(baseline.design_effect * design.spread / sessions) * (baseline.sd / baseline.mean)


def size_of(triggered: float, design: Design, trigger_rate: float, sessions_per_day: float | None) -> Size:
    """Whole sessions, by arm and with those that are not triggered, and the days at ``sessions_per_day`` of them all.

    ``ConfigError`` where it would never end.
    """
    if not max(triggered, triggered / trigger_rate, triggered / trigger_rate / (sessions_per_day or 1)) <= MOST_PLANNED:
        msg = f"the sessions or days that are needed == more than {MOST_PLANNED:g}, must be fewer: plan for a larger effect"
        raise ConfigError(msg)
    control, treatment = (_ceil(share * triggered) for share in design.shares)
    both = control + treatment
    sessions = _ceil(both / trigger_rate)
    return Size(control, treatment, both, sessions, None if sessions_per_day is None else _ceil(sessions / sessions_per_day))


def noncentrality(design: Design) -> float:
    """By how many of its standard errors an effect must differ from 0 to be found with the power.

    >>> round(noncentrality(STANDARD), 4)  # 1.9600 + 0.8416, and the other tail
    2.8016
    """
    least = stats.norm.ppf(1 - design.alpha / 2) + stats.norm.ppf(design.power)
    return float(optimize.brentq(lambda shift: _power(shift, design.alpha) - design.power, 0, abs(least) + 10, xtol=1e-13))


def _power(shift: float, alpha: float) -> float:
    z = stats.norm.isf(alpha / 2)
    return float(stats.norm.cdf(shift - z) + stats.norm.cdf(-shift - z))


def _ceil(number: float) -> int:
    return math.ceil(number - 1e-9 * max(1.0, number))  # 100 / 0.1 is 1,000 sessions, not 1,001
