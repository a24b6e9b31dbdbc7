"""What an archive tells of an experiment before its sessions are made: its versions, which sessions it was in, how much is left."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.exposure import exposure_in
from schemas.instants import DAY_MS, parse_date
from transforms.archived_people import Register
from transforms.event_columns import hashes_of
from transforms.session_rows import ASSIGNED, CLICK, IMPRESSION, LEAD, VIEW, Chosen
from transforms.session_slices import texts_of

SHARD_EVENTS: Final = 400_000  # of sessions: some 150 MB in memory
EVENTS_A_SESSION: Final = 20  # more than most have: the shards are sized by it, where sessions are known
MOST_SESSIONS: Final = 1 << 22  # whose hashes take 32 MB; where more were exposed, few are left to leave out
USED: Final = pa.array([VIEW, IMPRESSION, CLICK, LEAD])

Hashes = NDArray[np.uint64]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is made of which experiment (``None``: of all sessions, whatever they were in): all that the workers must know.

    ``version`` and ``starts`` (ms UTC) are ``None`` where the archive is to tell. ``first`` and ``last`` are the dates of rows.
    ``to`` is the file of the table; ``shards`` those of users, ``least`` how few there may be of sessions; ``spill`` a folder on
    this machine for slices, ``None`` where the runner has a shuffle service: then what is known of people lies in ``folder``. Keys
    are those of a ``Register``.
    """

    experiment: str | None
    version: int | None
    starts: int | None
    first: str
    last: str
    to: str
    shards: int
    size: int
    spill: str | None
    least: int = 1
    archive: str = ""
    folder: str = ""
    key_from: str | None = None
    version_of_key: int | None = None

    @property
    def register(self) -> Register:
        """Whom to find first: who is whom up to the day after the last, on which sessions may go on."""
        folder = self.spill or self.folder
        return Register(self.archive, self.end + DAY_MS, folder, self.spill, key_from=self.key_from, version=self.version_of_key)

    @property
    def end(self) -> int:
        """24:00 of the last date, ms UTC."""
        return parse_date(self.last) + DAY_MS


class Version(NamedTuple):
    """A version of the experiment: exposures assigned in it, copies too, and the first of them (ms UTC).

    ``policies`` are those of its arms; ``bandit``: arms have probabilities of their own.
    """

    exposures: int
    first: int
    policies: frozenset[str | None] = frozenset()
    bandit: bool = False


class Found(NamedTuple):
    """What is in the archive, or in a part of it.

    The ``versions`` of the experiment asked for and the names of the ``others``; ``events`` that sessions can be made of, by day
    (whole days since 1970); and the hashes of the ``sessions`` that the experiment was in, ``None`` where they don't matter or are
    too many.
    """

    versions: dict[int, Version]
    others: frozenset[str]
    events: Mapping[int, int]
    sessions: Hashes | None


def found_in(events: pa.Table, plan: Plan) -> Found:
    """What is in some events: experiments up to the end of the last date."""
    versions: dict[int, Version] = {}
    others: set[str] = set()
    exposed: list[int] = []
    for place, time, session, text in texts_of(events, IMPRESSION) if plan.experiment is not None else ():
        exposure = exposure_in(text)
        if exposure is None or exposure.experiment is None or time >= plan.end + DAY_MS:
            continue
        ours = exposure.experiment == plan.experiment and exposure.reason == ASSIGNED
        if ours and session is not None and plan.version in (None, exposure.version):
            exposed.append(place)
        if time >= plan.end:
            continue
        if exposure.experiment != plan.experiment:
            others.add(exposure.experiment)
        elif ours and exposure.version is not None:
            one = Version(1, time, frozenset({exposure.policy}), exposure.arm_probability is not None)
            versions[exposure.version] = _both(versions.get(exposure.version), one)
    times = events["event_time"].to_numpy()
    counted = (times < plan.end + DAY_MS) & events["session_id"].is_valid().to_numpy()
    counted &= pc.is_in(events["event_type"], USED).to_numpy()
    days, counts = np.unique(times[counted] // DAY_MS, return_counts=True)
    hashes = None if plan.experiment is None else _hashes(events["session_id"].take(pa.array(exposed, pa.int64())))
    return Found(versions, frozenset(others), dict(zip(days.tolist(), counts.tolist(), strict=True)), hashes)


def found_together(parts: Iterable[Found]) -> Found:
    """What was found in several parts."""
    versions: dict[int, Version] = {}
    others: frozenset[str] = frozenset()
    events: Counter[int] = Counter()
    sessions: list[Hashes | None] = [np.zeros(0, np.uint64)]
    for part in parts:
        others |= part.others
        events.update(part.events)
        sessions.append(part.sessions)
        for number, version in part.versions.items():
            versions[number] = _both(versions.get(number), version)
    return Found(versions, others, dict(events), _together(sessions))


def chosen_of(plan: Plan, found: Found) -> Chosen | None:
    """The experiment of the table: the newest version where none is asked for; ``None`` where there is none.

    It began with the first exposure of any version: what an earlier one did to a user is no history from before. A table of all
    sessions begins with its first date.
    """
    if plan.experiment is None:
        return Chosen(None, None, parse_date(plan.first) if plan.starts is None else plan.starts, by_highest=True)
    version = plan.version if plan.version is not None else max(found.versions, default=None)
    if version not in found.versions or version is None:
        return None
    start = min(each.first for each in found.versions.values()) if plan.starts is None else plan.starts
    of = found.versions[version]
    return Chosen(plan.experiment, version, start, by_highest=of.bandit or len(of.policies) > 1)


def session_shards(plan: Plan, found: Found, chosen: Chosen) -> int:
    """How many shards to cut sessions into: by what is left of the archive since the experiment began, in its sessions."""
    left = sum(events for day, events in found.events.items() if day >= chosen.start // DAY_MS)
    if found.sessions is not None:
        left = min(left, len(found.sessions) * EVENTS_A_SESSION)
    return max(plan.least, -(-left // SHARD_EVENTS))


def were_in(sessions: Hashes | None, ids: Any) -> NDArray[np.bool_]:
    """By session id, no nulls, whether it may be one of those; all may where these are unknown."""
    if sessions is None:
        return np.ones(len(ids), np.bool_)
    return np.isin(_hashes(ids), sessions)


def _both(one: Version | None, other: Version) -> Version:
    if one is None:
        return other
    bandit = one.bandit or other.bandit
    return Version(one.exposures + other.exposures, min(one.first, other.first), one.policies | other.policies, bandit)


def _together(sessions: list[Hashes | None]) -> Hashes | None:
    known = [each for each in sessions if each is not None]
    if len(known) < len(sessions):
        return None
    merged: Hashes = np.unique(np.concatenate(known))
    return merged if len(merged) <= MOST_SESSIONS else None


def _hashes(ids: Any) -> Hashes:
    return hashes_of(ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids)
