"""How much wider an experiment is than its number of sessions says, measured by replaying sessions as A/A tests.

Sessions of one user are alike. Where users are randomised all of a user's sessions fall into one arm, and the variance of the
effect is that of fewer, independent ones; where sessions are randomised it is not. Which holds for these very sessions is
measured: the units are randomised many times over, with nothing different between the arms.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from experiments.effect import Pulls, Sums, pulls_of
from experiments.metrics import columns_of
from experiments.power import EQUAL, Baseline
from experiments.sessions import CONTROL, TREATMENT, Flags, Floats, Ints, Sessions, where
from experiments.settings import PRIMARY
from experiments.wording import count_text
from schemas.experiments import Unit

REPLAYS: Final = 200
MOST_SESSIONS: Final = 500_000  # of more, a part of the users is replayed


class DesignEffect(NamedTuple):
    """The clustered variance of the effect over the naive one, which takes sessions as independent; each a mean over the replays.

    ``empirical`` is the variance of the effects themselves over the replays: near ``clustered`` where that is right. ``users`` and
    ``sessions`` were replayed.
    """

    factor: float
    clustered: float
    naive: float
    empirical: float
    replays: int
    users: int
    sessions: int


def first_rows(sessions: Sessions) -> Sessions:
    """Each session once, by its first row."""
    first = np.unique(sessions.session, return_index=True)[1]
    return sessions if len(first) == sessions.rows else where(sessions, _flags(np.sort(first), sessions.rows))


def baseline_of(x: Floats, d: Floats | None) -> Baseline | str:
    """Mean (or ratio) and standard deviation of a metric's columns, or why there are none."""
    if len(x) < 2:
        return f"{count_text(len(x), 'session')}, at least 2 are needed"
    over = np.ones(len(x)) if d is None else d
    if over.sum() <= 0:
        return "nothing to divide by: the denominators add up to 0"
    ratio = float(x.sum() / over.sum())
    return Baseline(ratio, float(np.std(x - ratio * over, ddof=1) / over.mean()))


def design_effect(
    sessions: Sessions,
    unit: Unit,
    replays: int = REPLAYS,
    seed: int = 0,
    *,
    metric: str = PRIMARY,
    weights: tuple[float, float] = EQUAL,
) -> DesignEffect | str:
    """The design effect of some (triggered) sessions for a unit of randomisation, or why there is none.

    What arm they are in is not looked at. ``seed`` and the rest decide the answer. A replay in which an arm has no variance is
    left out.
    """
    rng = np.random.default_rng(seed)
    chosen = _some_users(sessions, rng)
    columns = columns_of(chosen, metric)
    if isinstance(columns, str):
        return columns
    x, d = columns
    found, user = np.unique(chosen.user, return_inverse=True)
    replay = _Replay(x, np.ones(len(x)) if d is None else d, user.astype(np.int64), len(found), unit)
    share = weights[TREATMENT] / sum(weights)
    results = []
    for _ in range(replays):
        if (result := replay.result(rng.random(replay.units) < share)) is not None:
            results.append(result)
    if len(results) < 2:
        there = f"{count_text(len(found), 'user')} in {count_text(len(x), 'session')}"
        return f"{there}, too few or too alike to tell how the effect varies"
    effects, clustered, naive = np.array(results).T
    means = float(clustered.mean()), float(naive.mean())
    return DesignEffect(means[0] / means[1], *means, float(effects.var(ddof=1)), len(results), len(found), len(x))


class _Replay:
    """Sums of sessions that can be split between the arms again and again."""

    def __init__(self, x: Floats, d: Floats, user: Ints, users: int, unit: Unit) -> None:
        self.user, self.users, self.by_user = user, users, unit == "user"
        ones = np.ones(len(x))
        self.sums = np.stack([np.bincount(user, each, users) for each in (x, d, ones)])
        squares = np.stack([x * x, x * d, d * d])
        self.squares = np.stack([np.bincount(user, each, users) for each in squares]) if self.by_user else squares
        self.square_sums: Floats = self.squares.sum(axis=1)
        self.values = (x, None if (d == 1).all() else d)
        self.units = users if self.by_user else len(x)

    def result(self, treated: Flags) -> tuple[float, float, float] | None:
        """The effect, its clustered and its naive variance."""
        treatment = self.sums * treated if self.by_user else self._of_sessions(treated)
        both = np.stack([self.sums - treatment, treatment], axis=1)  # (x d sessions, arms, users)
        sums = Sums(*both)
        pulls = pulls_of(sums)
        if isinstance(pulls, str) or not (clustered := pulls.variance(-1, 1)) > 0:
            return None
        squares = np.asarray(self.squares @ treated, np.float64)
        rest = self.square_sums - squares
        naive = _naive(sums, CONTROL, pulls, rest) + _naive(sums, TREATMENT, pulls, squares)
        return (pulls.ratios[1] - pulls.ratios[0], clustered, naive) if naive > 0 else None

    def _of_sessions(self, treated: Flags) -> Floats:
        user, (x, d) = self.user[treated], self.values
        count = np.bincount(user, minlength=self.users).astype(np.float64)
        over = count if d is None else np.bincount(user, d[treated], self.users)
        return np.stack([np.bincount(user, x[treated], self.users), over, count])


def _naive(sums: Sums, arm: int, pulls: Pulls, squares: Floats) -> float:
    """An arm's part of the variance where sessions are independent: of a mean, Welch's ``s²/n``."""
    n, over, ratio = float(sums.sessions[arm].sum()), float(sums.d[arm].sum()), pulls.ratios[arm]
    xx, xd, dd = squares
    return float(n / (n - 1) * (xx - 2 * ratio * xd + ratio * ratio * dd) / over**2) if n > 1 else 0.0


def _some_users(sessions: Sessions, rng: np.random.Generator) -> Sessions:
    if sessions.rows <= MOST_SESSIONS:
        return sessions
    return where(sessions, (rng.random(sessions.users) < MOST_SESSIONS / sessions.rows)[sessions.user])


def _flags(chosen: Ints, count: int) -> Flags:
    flags = np.zeros(count, np.bool_)
    flags[chosen] = True
    return flags
