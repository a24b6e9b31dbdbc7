"""What another way of drawing arms would have brought, from sessions whose arms were drawn with known probabilities.

The self-normalised estimator of Swaminathan and Joachims (2015): with ``w_s = target(arm_s) / logged(arm_s)``, the value is
``Σ w x / Σ w d``. That is a ratio of sums, so its standard error is that of any ratio here, clustered by user. Its bias is of order
``1/n``; it needs the logged probability of every session, above 0 for each arm that the target draws.

A few sessions with great weights may carry it all: the effective sample size ``(Σw)² / Σw²`` and the greatest weight say so. The
mean weight is 1 on average; far from it, the target is about sessions that aren't there, or the logged probabilities are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from scipy import stats

from experiments.effect import ALPHA
from experiments.ratio import ratio_of
from experiments.rewards import Rewards
from experiments.sessions import Floats
from schemas.errors import ConfigError

LEAST_PROBABILITY: Final = 1e-6
"""Nothing is drawn so seldom on purpose, and a single session would carry everything."""


class Value(NamedTuple):
    """What a target policy would bring, with an interval of level ``1 - alpha``; ``sessions`` are those it could have drawn.

    What can't be computed is ``None``, and ``reason`` says why.
    """

    value: float | None
    se: float | None
    ci: tuple[float, float] | None
    sessions: int
    effective: float | None
    max_weight: float | None
    mean_weight: float | None
    reason: str | None = None


def value_of(rewards: Rewards, target: Floats, alpha: float = ALPHA) -> Value:
    """The value of a target, its probability of each session's own arm, shape (n,). ``ConfigError`` names a bad probability."""
    check_probabilities(rewards.probability)
    weights: Floats = np.asarray(target / rewards.probability, np.float64)
    sessions, total = int((weights > 0).sum()), float(weights.sum())
    if total <= 0:
        return Value(None, None, None, 0, None, None, None, "no support: no session is in an arm that the target would draw")
    of_weights = (total**2 / float(weights @ weights), float(weights.max()), total / len(weights))
    there = weights > 0
    w, user = weights[there], rewards.user[there]
    found = ratio_of(w * rewards.x[there], w * rewards.d[there], user)
    if found.value is None or found.se is None:
        return Value(found.value, None, None, sessions, *of_weights, found.reason)
    wide = float(stats.t.ppf(1 - alpha / 2, found.users - 1)) * found.se
    return Value(found.value, found.se, (found.value - wide, found.value + wide), sessions, *of_weights)


def always(rewards: Rewards, arm: str) -> Floats:
    """The target that draws one arm for everybody."""
    return np.asarray(rewards.arm == rewards.arms.index(arm), np.float64)


def allocated(rewards: Rewards, allocation: Mapping[str, Mapping[str, float]], else_by: Mapping[str, float]) -> Floats:
    """The target that draws by each segment's probabilities of arms; by ``else_by`` where a segment has none, or there is none."""
    rows = [allocation.get(name, else_by) for name in (*rewards.segments, "")]  # "": the code -1 of no segment
    table = np.array([[row[arm] for arm in rewards.arms] for row in rows])
    return np.asarray(table[rewards.segment, rewards.arm], np.float64)


def check_probabilities(probability: Floats) -> None:
    """``ConfigError`` names the first (counted from 1) that is none."""
    bad = np.flatnonzero(~((probability >= LEAST_PROBABILITY) & (probability <= 1)))
    if len(bad):
        msg = f"row {bad[0] + 1}: arm_probability == {probability[bad[0]]:g}, must be from {LEAST_PROBABILITY:g} to 1"
        raise ConfigError(msg)
