"""Which share of a segment's visitors each arm should get next: Thompson sampling in batches, over a floor.

Each arm has a posterior of what it brings. ``w_i``, the probability that arm ``i`` is the best, is how often it has the highest of
draws from all of them (Thompson 1933; in a batch, an arm gets that share of the visitors at once: Scott 2010). No arm falls below
the floor ``f``, so that every arm stays measurable and weights by ``1/p`` stay bounded: ``p_i = f + (1 - k f) w_i`` for ``k`` arms.

Clicks on impressions: Beta(1 + clicks, 1 + impressions - clicks). Means of sessions: normal, with a prior that is worth one session
around the mean of all arms (the unit information prior of Kass and Wasserman 1995). The variance of an arm's mean is clustered by
user, and not below that of as many independent sessions with the spread of all arms: a few sessions that happen to be alike, such
as ten without a lead, say nothing for sure.

All batches are pooled. Where an arm's share has changed along with what all arms bring (weekends, say), that is blamed on the arm;
the holdout, whose arms always have even shares, and the values in ``experiments.off_policy`` are free of it.

What shares would bring is not to be asked of the sessions that they were learnt from, which have chance itself among what they
know. ``cross_fitted`` learns from one half of the users for the other: the value is that of learning so, from half the sessions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from experiments.off_policy import allocated
from experiments.ratio import ratio_of
from experiments.rewards import OVERALL, Rewards
from experiments.sessions import Floats
from schemas.errors import ConfigError
from schemas.hashing import position_of

DRAWS: Final = 10_000
SEED: Final = 0


class Posterior(NamedTuple):
    """What is believed of an arm: ``beta`` with its two parameters, or ``normal`` with mean and standard deviation."""

    kind: Literal["beta", "normal"]
    first: float
    second: float

    @property
    def mean(self) -> float:
        """Its mean."""
        return self.first / (self.first + self.second) if self.kind == "beta" else self.first

    @property
    def sd(self) -> float:
        """Its standard deviation."""
        total = self.first + self.second
        return math.sqrt(self.first * self.second / (total + 1)) / total if self.kind == "beta" else self.second

    def draw(self, random: np.random.Generator, size: int) -> Floats:
        """Draws, shape (size,)."""
        return random.beta(self.first, self.second, size) if self.kind == "beta" else random.normal(self.first, self.second, size)


class Share(NamedTuple):
    """An arm in a segment: its sessions, what they brought on average, what is believed, and the share that it should get."""

    arm: str
    sessions: int
    mean: float | None
    posterior: Posterior
    w: float
    p: float


def shares_of(rewards: Rewards, floor: float, seed: int = SEED) -> dict[str, tuple[Share, ...]]:
    """The shares of all arms by segment, those without sessions left out, and under ``OVERALL`` by all sessions.

    ``ConfigError`` for a floor that leaves nothing to share out, and for more clicks than impressions.
    """
    check_floor(floor, len(rewards.arms))
    there = [name for code, name in enumerate(rewards.segments) if (rewards.segment == code).any()]
    found = {}
    for name in (*there, OVERALL):
        part = rewards.of_segment(name)
        posteriors = posteriors_of(part, name)
        w = p_best(posteriors, seed_of(seed, name))
        found[name] = tuple(
            Share(arm, int((part.arm == code).sum()), _mean(part, code), posteriors[code], w[code], p)
            for code, (arm, p) in enumerate(zip(part.arms, floored(w, floor), strict=True))
        )
    return found


def allocation_of(shares: Mapping[str, Sequence[Share]]) -> dict[str, dict[str, float]]:
    """By segment the share of each arm, out of what ``shares_of`` found."""
    return {name: {share.arm: share.p for share in found} for name, found in shares.items() if name != OVERALL}


def cross_fitted(rewards: Rewards, floor: float, else_by: Mapping[str, float], seed: int = SEED) -> Floats:
    """The probability that ``shares_of`` the other half's users gives each session's own arm, shape (n,).

    Users are halved by the seed; ``else_by`` draws where the other half has no session of a segment. (Cross-fitting as in
    Chernozhukov et al. 2018, with two folds.)
    """
    users, codes = np.unique(rewards.user, return_inverse=True)
    half = np.random.default_rng(seed_of(seed, "halves")).permutation(len(users))[codes] % 2 == 0
    target = np.empty(len(rewards.x))
    for learning in (half, ~half):
        shares = shares_of(rewards.where(learning), floor, seed)
        target[~learning] = allocated(rewards.where(~learning), allocation_of(shares), else_by)
    return target


def posteriors_of(rewards: Rewards, segment: str = OVERALL) -> list[Posterior]:
    """What is believed of each arm after these sessions."""
    rows = [rewards.arm == code for code in range(len(rewards.arms))]
    if rewards.metric == "clicks":
        return [
            beta_of(float(rewards.x[chosen].sum()), float(rewards.d[chosen].sum()), f"{segment}, {arm}")
            for arm, chosen in zip(rewards.arms, rows, strict=True)
        ]
    if not len(rewards.x):
        return [Posterior("normal", 0.0, 1.0)] * len(rows)
    mean, variance = float(rewards.x.mean()), float(rewards.x.var())
    return [_normal(rewards.where(chosen), mean, variance) for chosen in rows]


def beta_of(clicks: float, impressions: float, where: str = "bandit") -> Posterior:
    """The belief after clicks on impressions, each of which was clicked or not.

    >>> beta_of(3, 10)
    Posterior(kind='beta', first=4, second=8)
    """
    if not 0 <= clicks <= impressions:
        msg = f"{where}: clicks == {clicks:g}, must be at most the impressions, {impressions:g}"
        raise ConfigError(msg)
    return Posterior("beta", 1 + clicks, 1 + impressions - clicks)


def p_best(posteriors: Sequence[Posterior], seed: int, draws: int = DRAWS) -> tuple[float, ...]:
    """The probability of each to be the highest, from ``draws`` draws of each; those alike share a draw's win.

    >>> p_best([Posterior("normal", 1.0, 0.0), Posterior("normal", 2.0, 0.0), Posterior("normal", 2.0, 0.0)], seed=0)
    (0.0, 0.5, 0.5)
    """
    random = np.random.default_rng(seed)
    drawn = np.stack([posterior.draw(random, draws) for posterior in posteriors])
    best = drawn == drawn.max(axis=0)
    return tuple(float(w) for w in (best / best.sum(axis=0)).mean(axis=1))


def floored(w: Sequence[float], floor: float) -> tuple[float, ...]:
    """``floor + (1 - k floor) w`` for the ``k`` arms: adds up to 1 as ``w`` does.

    >>> floored((1.0, 0.0), 0.25)
    (0.75, 0.25)
    """
    check_floor(floor, len(w))
    return tuple(floor + (1 - len(w) * floor) * each for each in w)


def check_floor(floor: float, arms: int) -> None:
    """``ConfigError`` where ``arms`` times the floor leave nothing to share out."""
    if not 0 <= floor * arms < 1:
        msg = f"floor == {floor:g}, must be from 0, below 1/{arms}: each of the {arms} arms gets it"
        raise ConfigError(msg)


def seed_of(seed: int, segment: str) -> int:
    """A seed for the draws of a segment, so that a further segment changes nothing for the others."""
    return position_of(f"bandit:{seed}", segment)


def _normal(rewards: Rewards, mean: float, variance: float) -> Posterior:
    """Of an arm's mean; the prior is one session of ``mean`` and ``variance``, those of all arms together."""
    sessions = len(rewards.x)
    if variance <= 0 or not sessions:
        return Posterior("normal", mean, math.sqrt(max(variance, 0.0)))
    found = ratio_of(rewards.x, rewards.d, rewards.user)
    known = max((found.se or 0.0) ** 2, variance / sessions)
    own = float(rewards.x.mean())
    precision = 1 / variance + 1 / known
    return Posterior("normal", (mean / variance + own / known) / precision, math.sqrt(1 / precision))


def _mean(rewards: Rewards, arm: int) -> float | None:
    chosen = rewards.arm == arm
    total = float(rewards.d[chosen].sum())
    return float(rewards.x[chosen].sum()) / total if total > 0 else None
