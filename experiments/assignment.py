"""Which experiment a unit is in, and in which of its arms: by hash alone, so nothing is stored and every process agrees.

A unit (a session or a user, by its raw id, so that a new pseudonym key moves nobody) has a position in [0, 1) for each salt:

    SALT_OF_LAYER:layer          its place in the layer, which lies in the slice of at most one experiment
    SALT_OF_EXPERIMENT:ramp      below the ramp: in the experiment
    SALT_OF_EXPERIMENT:arm       its place in the arms' weights, laid side by side in the file's order
    SALT_OF_EXPERIMENT:segment:S below the ramp of segment S: in the experiment where S is the segment chosen
    SALT_OF_EXPERIMENT:holdout   with a bandit, below its holdout: all arms alike for this unit, whatever the bandit finds

All are independent. A wider ramp, or another experiment in a free slice, moves nobody who was in; changed weights move only the
units between the old and the new bounds of an arm. Where a bandit has given the arms of a segment shares of their own, these stand
in place of the weights, and the place in the arm stays the same, so that a new allocation too moves only those between the bounds.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from itertools import accumulate
from typing import Final, Literal, NamedTuple

from schemas.experiments import Arm, Experiment, Experiments, Unit
from schemas.hashing import POSITIONS, position_of, within
from schemas.instants import clock_ms

Reason = Literal[
    "assigned",
    "killed",
    "not_running",
    "not_in_layer",
    "not_in_ramp",
    "no_unit",
    "no_experiment",
    "fault",
    "segment_off",
    "segment_not_in_ramp",
]

REASONS: Final[dict[Reason, str]] = {
    "assigned": "the unit is in the experiment, in the arm",
    "killed": "the file's kill switch is on",
    "no_experiment": "the layer has no experiment",
    "no_unit": "the request has no id of the kind that the layer's experiments go by",
    "not_in_layer": "the unit's place in the layer is in no experiment's slice",
    "not_running": "the experiment is switched off, not yet started, or over",
    "not_in_ramp": "the unit is not in the experiment at its present ramp",
    "fault": "assigning failed, the log of the gateway says how",
    "segment_off": "the segment that was chosen is switched off in the experiment",
    "segment_not_in_ramp": "the unit is not in the experiment for the segment that was chosen",
}


class Assignment(NamedTuple):
    """Where a unit is. There is an ``arm`` when ``reason`` is assigned, and only then can ``shows`` be true.

    ``unit`` is the raw id, never to be written anywhere; ``kind`` says what it is the id of. With a bandit, ``holdout`` says
    whether the unit is left alone by it, and ``probability`` is that of the arm among all units of the segment alike in this.
    """

    experiment: str | None
    version: int | None
    arm: str | None
    unit: str | None
    shows: bool
    policy: str | None
    reason: Reason
    kind: Unit | None = None
    probability: float | None = None
    holdout: bool | None = None


def assign(
    experiments: Experiments,
    layer: str,
    *,
    session: str | None,
    user: str | None,
    now: int | None = None,
    segment: str | None = None,
) -> Assignment:
    """Where a request is in a layer, by the raw id of its session or user; ``now`` (ms UTC, default: the clock) by the dates.

    ``segment``: the visitor's first one, known before any arm is, whose allocation counts where there is a bandit. Never fails:
    whatever the ids are, there is an assignment, and its reason.
    """
    if experiments.kill:
        return _nowhere("killed")
    there = [experiment for experiment in experiments.experiments if experiment.layer == layer]
    if not there:
        return _nowhere("no_experiment")
    kind = there[0].unit  # one kind a layer
    unit = session if kind == "session" else user
    if not unit:
        return _nowhere("no_unit", kind=kind)
    place = position_of(f"{_salt_of(experiments, layer)}:layer", unit)
    for experiment in there:
        start, end = experiment.slice
        if within(place, end) and not within(place, start):
            return _placed(experiment, unit, now, segment)
    return _nowhere("not_in_layer", unit, kind)


def with_segment(assignment: Assignment, segment: str | None, experiments: Experiments) -> Assignment:
    """The assignment once the segment is chosen, the same way in every arm; ``experiments`` are those that assigned."""
    if assignment.arm is None or assignment.unit is None or segment is None:
        return assignment
    experiment = next((each for each in experiments.experiments if each.name == assignment.experiment), None)
    if experiment is None:  # of another file than assigned
        return _outside(assignment, "no_experiment")
    flag = experiment.segments.get(segment)
    if flag is None:
        return assignment
    if not flag.running:
        return _outside(assignment, "segment_off")
    if not within(position_of(f"{experiment.salt}:segment:{segment}", assignment.unit), flag.ramp):
        return _outside(assignment, "segment_not_in_ramp")
    return assignment


class Draw(NamedTuple):
    """The arm that was drawn; ``probability`` and ``holdout`` as an ``Assignment`` has them."""

    arm: Arm
    probability: float | None = None
    holdout: bool | None = None


def arm_of(experiment: Experiment, unit: str, segment: str | None = None) -> Arm:
    """The arm that a unit has in an experiment, whether or not it is in the ramp."""
    return draw_of(experiment, unit, segment).arm


def draw_of(experiment: Experiment, unit: str, segment: str | None = None) -> Draw:
    """A unit's draw: by weights; with a bandit evenly in the holdout, else by the segment's allocation if there is one."""
    weights = tuple(arm.weight for arm in experiment.arms)
    place = position_of(f"{experiment.salt}:arm", unit)
    if experiment.bandit is None:
        return Draw(experiment.arms[_index_of(place, weights)])
    holdout = within(position_of(f"{experiment.salt}:holdout", unit), experiment.bandit.holdout)
    if holdout:
        weights = (1.0,) * len(weights)
    elif segment is not None and (shares := experiment.allocation.get(segment)) is not None:
        weights = tuple(shares[arm.name] for arm in experiment.arms)
    index = _index_of(place, weights)
    return Draw(experiment.arms[index], weights[index] / math.fsum(weights), holdout)


def _placed(experiment: Experiment, unit: str, now: int | None, segment: str | None) -> Assignment:
    here = Assignment(experiment.name, experiment.version, None, unit, False, None, "not_running", experiment.unit)
    if not experiment.running:
        return here
    if experiment.starts is not None or experiment.ends is not None:
        instant = clock_ms() if now is None else now
        if instant < (experiment.starts or 0) or (experiment.ends is not None and instant >= experiment.ends):
            return here
    if not within(position_of(f"{experiment.salt}:ramp", unit), experiment.ramp):
        return here._replace(reason="not_in_ramp")
    arm, probability, holdout = draw_of(experiment, unit, segment)
    return here._replace(
        arm=arm.name, shows=arm.shows, policy=arm.policy, reason="assigned", probability=probability, holdout=holdout
    )


def _outside(assignment: Assignment, reason: Reason) -> Assignment:
    return assignment._replace(arm=None, shows=False, reason=reason, probability=None, holdout=None)


def _nowhere(reason: Reason, unit: str | None = None, kind: Unit | None = None) -> Assignment:
    return Assignment(None, None, None, unit, False, None, reason, kind)


def _salt_of(experiments: Experiments, layer: str) -> str:
    return next(each.salt for each in experiments.layers if each.name == layer)


def _index_of(place: int, weights: tuple[float, ...]) -> int:
    return next(index for index, bound in enumerate(_bounds(weights)) if place < bound)


@functools.lru_cache(maxsize=1024)
def _bounds(weights: tuple[float, ...]) -> tuple[int, ...]:
    """For each arm the first position beyond it: the weights summed up exactly, as shares of all positions."""
    sums = list(accumulate(Fraction(weight) for weight in weights))
    return tuple(math.ceil(POSITIONS * upto / sums[-1]) for upto in sums)
