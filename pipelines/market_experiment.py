"""An experiment in the simulated marketplace, with effects that are known because they were planted. Pure: the seed decides.

Every session gets an impression shortly after it begins, by the assignment and in the form of the gateway. In sessions that were
shown the personalised answer, listings viewed from then on, the chance of a click and that of a lead are multiplied by 1 + the
effect of the segment that chose it: the visitor's first one, or what the arm's policy draws. A user's segments are what they look
at most, whatever the experiment does; some have none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from experiments.assignment import Assignment, assign, with_segment
from experiments.exposure import bounded, exposure_to
from pipelines.listings import BODY_TYPES, CATALOGUE, FUEL_TYPES, LISTINGS
from pipelines.market import CLICK, IMPRESSION, LISTING_VIEW, SESSION_START, Floats, Ints, Market, Visits
from pipelines.market_effects import rows, together, with_leads, with_views
from pipelines.poison import Event
from schemas.errors import ConfigError, shown
from schemas.experiments import Experiments
from schemas.exposure import Click
from schemas.instants import SECOND_MS
from schemas.rules import All
from schemas.settings import Settings
from serving.policies import policy_of
from serving.wishes import Wish, ordered

SHARE_WITHOUT_SEGMENTS: Final = 0.3
SHARE_WITH_TWO: Final = 0.5  # of the users who have any
CLICK_SHARE: Final = 0.12
IMPRESSION_AFTER_MS: Final = 500
LARGEST_EFFECT: Final = 5.0
NO_SEGMENT: Final = -1
FUELS: Final = FUEL_TYPES
BODIES: Final = tuple(name.replace(" / ", "_") for name in BODY_TYPES)
SEGMENTS: Final = (*FUELS, *BODIES)
DEFAULT_POLICY: Final = Settings().policy  # of arms that have none
_ANYTHING: Final = All(())
_DRAWS: Final = 5  # beside the market's own, so that the market stays what it is


class Tastes(NamedTuple):
    """By user, the first segment and the second: indices of ``SEGMENTS`` or ``NO_SEGMENT``, and their scores; shape (users, 2)."""

    segments: Ints
    scores: Floats


@dataclasses.dataclass(frozen=True)
class Planted:
    """Which experiment has which effects, by segment: 0.3 is 30 % more of everything, -1 nothing at all."""

    experiments: Experiments
    experiment: str
    effects: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [each.name for each in self.experiments.experiments]
        if self.experiment not in names:
            msg = f"experiment == {shown(self.experiment)}, must be one of the file's: {', '.join(names) or 'it has none'}"
            raise ConfigError(msg)
        for policy in {arm.policy for each in self.experiments.experiments for arm in each.arms} - {None}:
            try:
                policy_of(policy or "")
            except ConfigError as error:
                msg = f"experiments == {', '.join(names)}, must have policies that are known: {error}"
                raise ConfigError(msg) from error
        for segment, effect in self.effects.items():
            if segment not in SEGMENTS:
                msg = f"effect == {shown(f'{segment}={effect:g}')}, must be of one of the segments {', '.join(SEGMENTS)}"
                raise ConfigError(msg)
            if not -1 <= effect <= LARGEST_EFFECT:
                msg = f"effect == {shown(f'{segment}={effect:g}')}, must be within [-1, {LARGEST_EFFECT:g}]"
                raise ConfigError(msg)

    @property
    def layer(self) -> str:
        """The experiment's layer, in which all sessions are assigned."""
        return next(each.layer for each in self.experiments.experiments if each.name == self.experiment)


class Told(NamedTuple):
    """What a session is told: where it is assigned, and the segment that its answer was chosen by, with what probability."""

    assignment: Assignment
    segment: str | None
    probability: float


class Trial:
    """A market's ``Change``: the experiment that takes place in it. ``visits`` comes before ``completed``."""

    def __init__(self, config: Market, planted: Planted) -> None:
        self._config, self._planted = config, planted

    def visits(self, visits: Visits) -> Visits:
        """The visits with impressions, clicks and what the effects add or take."""
        rng, end = np.random.default_rng([self._config.seed, _DRAWS]), self._config.end
        self._tastes = tastes_of(visits, self._config.users, rng)
        self._exposed = impressions_of(visits, end)
        factors = np.array([self._factor(session) for session in range(1, len(self._exposed.times) + 1)])
        clicks = rng.random(len(factors)) < CLICK_SHARE * factors
        waits = rng.integers(SECOND_MS, 20 * SECOND_MS, len(factors))
        clicked = rows(self._exposed._replace(times=np.minimum(self._exposed.times + waits, end - 1)), clicks)
        clicked = clicked._replace(types=np.full(len(clicked.times), CLICK))
        changed = with_views(visits, factors, rng, end)
        changed = with_leads(changed, self._exposed, factors, rng, end)
        return together(changed, self._exposed, clicked)

    def completed(self, event: Event, kind: int, session: int) -> Event:
        """The impression or the click of a session, as the gateway has it, but with raw ids."""
        segments, impression = self.segments(session), f"{event['session_id']}-i"
        assignment, segment, probability = self._told(session)
        body: Any
        if kind == CLICK:
            of: dict[str, Any] = {"experiment": assignment.experiment, "version": assignment.version, "arm": assignment.arm}
            body, event_id = Click(impression_id=impression, position=1, **of), f"{impression}:click"
        else:
            seen: dict[str, Any] = {"differs": bool(segments), "position": 1, "k": 1, "sponsored": False}
            seen |= {"rung": "single_segment" if segments else "default", "segment": segment, "probability": probability}
            seen |= {"impression_id": impression, "file_version": self._planted.experiments.version}
            body = bounded(exposure_to(assignment, segments, user=assignment.unit, session=event["session_id"], **seen))
            event_id = impression
        listing = CATALOGUE[(2 * session + assignment.shows) % LISTINGS].listing_id  # another one than the default
        return {**event, "event_id": event_id, "listing_id": listing, "experiment": msgspec.to_builtins(body)}

    def segments(self, session: int) -> list[tuple[str, float]]:
        """The segments of a session's visitor, the highest score first."""
        user = self._exposed.users[session - 1]
        pairs = zip(self._tastes.segments[user].tolist(), self._tastes.scores[user].tolist(), strict=True)
        return [(SEGMENTS[code], score) for code, score in pairs if code != NO_SEGMENT]

    def _told(self, session: int) -> Told:
        """By the ids of the impression, raw ones, as the gateway goes by them."""
        exposed, place, segments = self._exposed, session - 1, self.segments(session)
        user = f"{'u' if exposed.named[place] else 'a'}{exposed.users[place]}"
        experiments, now, name = self._planted.experiments, int(exposed.times[place]), f"n{self._config.seed}-{session}"
        first = segments[0][0] if segments else None
        assigned = assign(experiments, self._planted.layer, session=name, user=user, now=now, segment=first)
        segment, probability = chosen_by(assigned.policy or DEFAULT_POLICY, segments, name) if segments else (None, 1.0)
        return Told(with_segment(assigned, segment, experiments), segment, probability)

    def _factor(self, session: int) -> float:
        """By how much things are multiplied in a session."""
        if not any(self._planted.effects.get(name) for name, _ in self.segments(session)):
            return 1.0
        assignment, segment, _ = self._told(session)
        shown = assignment.shows and assignment.experiment == self._planted.experiment
        return 1.0 + self._planted.effects.get(segment or "", 0.0) if shown else 1.0


def chosen_by(policy: str, segments: Sequence[tuple[str, float]], session: str) -> tuple[str, float]:
    """The segment that a policy credits with the first place, with what probability; every listing is there for every segment.

    >>> chosen_by("highest_score", [("suv", 0.9), ("electric", 0.6)], "s1")
    ('suv', 1.0)
    """
    wishes = ordered(Wish(name, score, 1.0, 0, _ANYTHING) for name, score in segments)
    choice = policy_of(policy)(wishes, session, 0)
    return next(wish.name for wish in wishes if wish.name in choice.weights), choice.probability


def tastes_of(visits: Visits, users: int, rng: np.random.Generator) -> Tastes:
    """What each user views most: a fuel type and a body type, in either order; some have one of them, some none."""
    views = visits.types == LISTING_VIEW
    fuels = _most_viewed(visits, views, _codes("fuel_type", FUEL_TYPES), users)
    bodies = _most_viewed(visits, views, _codes("body_type", BODY_TYPES), users) + len(FUELS)
    both = np.stack([fuels, bodies], axis=1)
    swapped = rng.random(users) < 0.5
    segments = np.where(swapped[:, None], both[:, ::-1], both)
    segments[rng.random(users) >= SHARE_WITH_TWO, 1] = NO_SEGMENT
    segments[(rng.random(users) < SHARE_WITHOUT_SEGMENTS) | (fuels < 0)] = NO_SEGMENT
    scores = rng.uniform((0.75, 0.5), (1.0, 0.75), (users, 2)).round(4) + (0.001, 0)  # never the same
    return Tastes(segments, scores)


def impressions_of(visits: Visits, end: int) -> Visits:
    """The impression of each session, in the order of their numbers: soon after it begins, before whatever comes next in it."""
    order = np.lexsort((visits.times, visits.sessions))
    begins = np.flatnonzero(visits.types[order] == SESSION_START)
    times = visits.times[order]
    following = np.append(times[1:], end)
    following[np.append(np.diff(visits.sessions[order]) != 0, True)] = end
    waits = np.minimum(IMPRESSION_AFTER_MS, (following[begins] - times[begins]) // 2)
    exposed = rows(visits, order[begins])
    return exposed._replace(times=exposed.times + waits, types=np.full(len(begins), IMPRESSION))


def _most_viewed(visits: Visits, views: Any, codes: Ints, users: int) -> Ints:
    """By user the code of most of the views; -1 without any."""
    width = int(codes.max()) + 1
    counts = np.bincount(visits.users[views] * width + codes[visits.listings[views]], minlength=users * width)
    counts = counts.reshape(users, width)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


def _codes(attribute: str, values: tuple[str, ...]) -> Ints:
    """By listing, the place of its value."""
    return np.array([values.index(listing.attributes[attribute]) for listing in CATALOGUE])
