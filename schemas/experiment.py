"""What an experiment is: its arms, its segments' flags, and what may change them by itself, a controller or a bandit.

Every experiment has one arm named ``control``, which doesn't show the personalised answer. It makes the same choice as the others
(its policy is that of one of them), so that both sides know for whom an answer would have differed. Any other arm may show or not:
two that don't are a test of the machinery itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Unit = Literal["session", "user"]
Mode = Literal["ask", "act"]
Metric = Literal["clicks", "vehicles_viewed", "lead"]

CONTROL: Final = "control"
UNITS: Final[tuple[Unit, ...]] = ("session", "user")
MODES: Final[tuple[Mode, ...]] = ("ask", "act")
METRICS: Final[tuple[Metric, ...]] = ("clicks", "vehicles_viewed", "lead")


class Arm(NamedTuple):
    """One arm: its share of the weights, whether it shows the personalised answer, and by which policy that is chosen."""

    name: str
    weight: float
    shows: bool
    policy: str | None = None


class Flag(NamedTuple):
    """A segment within an experiment: whether it takes part, and for which share of the units."""

    running: bool = True
    ramp: float = 1.0


class Controller(NamedTuple):
    """How segments are ramped up or rolled back: asking a person or acting, and what must have been seen before a step.

    ``planned_sessions`` is where the always-valid interval is tightest (``None``: the analysis's default), ``alpha`` the level for
    all segments together.
    """

    mode: Mode = "ask"
    min_sessions: int = 1_000
    planned_sessions: int | None = None
    alpha: float = 0.05


class Bandit(NamedTuple):
    """How arms are given shares by what they bring: the metric, the least share of an arm, and the share of units left alone."""

    metric: Metric = "clicks"
    floor: float = 0.05
    holdout: float = 0.1


class Layer(NamedTuple):
    """A layer: its experiments have slices of it that don't overlap, so that no unit is in two."""

    name: str
    salt: str


class Experiment(NamedTuple):
    """One experiment; ``slice`` is ``[from, to)`` of its layer, ``starts`` and ``ends`` are ms UTC.

    A segment that ``segments`` doesn't name takes part, for all units. ``allocation``: by segment the probability of each arm, only
    with a ``bandit``; a segment that it doesn't name goes by the arms' weights.
    """

    name: str
    version: int
    layer: str
    slice: tuple[float, float]
    unit: Unit
    salt: str
    ramp: float
    arms: tuple[Arm, ...]
    segments: Mapping[str, Flag]
    running: bool = True
    starts: int | None = None
    ends: int | None = None
    controller: Controller | None = None
    bandit: Bandit | None = None
    allocation: Mapping[str, Mapping[str, float]] = {}


class Experiments(NamedTuple):
    """The experiments of one version of the file; ``kill`` stops all of them."""

    version: int
    layers: tuple[Layer, ...]
    experiments: tuple[Experiment, ...]
    kill: bool = False
