"""Made-up experiments in which nothing differs between the arms: sessions of a marketplace whose users come again and again."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from experiments.sessions import CONTROL, TREATMENT, Sessions
from schemas.experiments import Unit

SEGMENT_SHARES: Final = (0.4, 0.25, 0.15, 0.12, 0.08)
OWN_SEGMENT: Final = 0.7


class Setting(NamedTuple):
    """``users`` who come ``sessions_a_user`` times on average; ``spread`` is the standard deviation of the log of how often.

    ``segment_shares`` are the segments' shares of the sessions, and add up to 1.
    """

    users: int = 4_000
    days: int = 14
    sessions_a_user: float = 3.0
    spread: float = 1.2
    segment_shares: tuple[float, ...] = SEGMENT_SHARES

    @property
    def expected_sessions(self) -> int:
        """How many sessions are planned."""
        return round(self.users * self.sessions_a_user)


def falling_shares(segments: int) -> tuple[float, ...]:
    """Shares of many segments, most of them small: the k-th has one as 1/k."""
    parts = 1 / np.arange(1, segments + 1)
    return tuple((parts / parts.sum()).tolist())


def aa_experiment(rng: np.random.Generator, setting: Setting, unit: Unit) -> Sessions:
    """One experiment. A user has a rate of coming, a mean of looking (the higher the oftener they come) and a segment that
    they are mostly in; a session's views are a Poisson variable whose mean varies from session to session."""  # noqa: D205, D209
    users, days = setting.users, setting.days
    rate = setting.sessions_a_user * rng.lognormal(-(setting.spread**2) / 2, setting.spread, users)
    user = np.repeat(np.arange(users), rng.poisson(rate))
    n = len(user)
    day = rng.integers(0, days, n)
    order = np.argsort(day, kind="stable")
    user, day = user[order], day[order]
    mean = rng.gamma(1.5, 4 / 1.5, users) * (rate / setting.sessions_a_user) ** 0.2
    views = rng.poisson(mean[user] * rng.gamma(2.0, 0.5, n)).astype(np.float64)
    impressions = rng.poisson(2.0, n)
    clicks = rng.binomial(impressions, rng.beta(1.0, 19.0, users)[user])
    lead = rng.random(n) < rng.beta(0.5, 12.0, users)[user]
    drawn = rng.choice(len(setting.segment_shares), n + users, p=setting.segment_shares)
    segment = np.where(rng.random(n) < OWN_SEGMENT, drawn[n:][user], drawn[:n])
    treated = rng.random(users)[user] < 0.5 if unit == "user" else rng.random(n) < 0.5
    return Sessions(
        session=np.arange(n),
        user=user,
        users=users,
        arm=np.where(treated, TREATMENT, CONTROL).astype(np.int8),
        segment_count=np.ones(n, np.int64),
        segment=segment.astype(np.int64),
        segments=tuple(f"segment {number}" for number in range(1, len(setting.segment_shares) + 1)),
        day=day,
        days=tuple(str(number) for number in range(1, days + 1)),
        vehicles=views,
        impressions=impressions.astype(np.float64),
        clicks=clicks.astype(np.float64),
        lead=lead.astype(np.float64),
    )
