"""What to do with each segment of an experiment: show it to more visitors, take it back, or wait. The state is the file's flags.

A segment climbs ``STAGES``, a step at a time: its ramp is the share of units for whom it takes part, in both arms. It is taken back
as soon as its always-valid interval lies below 0, so that one may look every hour: the probability that any segment is taken back
without harm is at most ``alpha``. Nothing is decided on data that can't be read, nothing climbs on data that are missing or old,
and what is switched off stays off until a person switches it on.

All stages' sessions are pooled. That is right here: the place in the ramp says nothing of the place in the arm, so at every stage
the arms have the same shares of the units, and both have the same mixture of stages, days and visitors; units that were in keep
their arm when more come. It would be wrong if the split between the arms differed from stage to stage. That the ramp follows the
results does no harm to an interval that holds at every look at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from experiments.sequential import PLANNED_SESSIONS, half_width, p_value
from experiments.sessions import Sessions, where
from experiments.srm import ALERT, counts_by_look, srm_of
from experiments.wording import p_text
from schemas.experiment import Controller, Experiments, Flag, Unit

STAGES: Final = (0.01, 0.05, 0.25, 0.5, 1.0)
SURE_FROM: Final = 0.5
"""Beyond this stage a segment climbs only when the interval lies above 0."""

Action = Literal["ramp_up", "roll_back", "hold", "keep_testing", "done"]


class Evidence(NamedTuple):
    """What is known of a segment. ``sessions`` are those behind ``effect``, ``fresh`` those of them since its last step.

    ``srm_p`` is the p-value that its units fell on the arms by the weights. Unless they are ``None``, ``unusable`` says why nothing
    may be decided, ``stale`` why nothing may climb, and ``missing`` why there is no interval.
    """

    segment: str
    sessions: int = 0
    fresh: int = 0
    effect: float | None = None
    se: float | None = None
    unusable: str | None = None
    stale: str | None = None
    missing: str | None = None
    srm_p: float | None = None


class Settings(NamedTuple):
    """What must have been seen before a step; ``alpha`` is that of one segment."""

    min_sessions: int = 1_000
    planned: float = PLANNED_SESSIONS
    alpha: float = 0.05


class Decision(NamedTuple):
    """What to do with a segment, why, and with which numbers; ``stage_…`` are ramps, ``running`` is what comes of it."""

    segment: str
    action: Action
    stage_from: float
    stage_to: float
    running: bool
    reason: str
    numbers: Mapping[str, Any]

    @property
    def changes(self) -> bool:
        """Whether the file is another afterwards."""
        return self.action in {"ramp_up", "roll_back"}


def settings_of(controller: Controller, segments: int) -> Settings:
    """The settings for each of some segments, which share ``alpha`` (Bonferroni) and the planned sessions evenly."""
    shares = max(segments, 1)
    planned = (controller.planned_sessions or PLANNED_SESSIONS) / shares
    return Settings(controller.min_sessions, planned, controller.alpha / shares)


def srm_by_segment(core: Sessions, unit: Unit, weights: Sequence[float]) -> dict[str, float | None]:
    """By segment the p-value that its units fell on the arms by the weights; ``core`` are triggered sessions, screened."""
    found = {}
    for code, name in enumerate(core.segments):
        looks = counts_by_look(where(core, core.segment == code), unit)
        found[name] = srm_of(looks[-1], weights) if len(looks) else None
    return found


def evidence_of(
    segment: str,
    document: Mapping[str, Any],
    *,
    fresh: int,
    unusable: str | None,
    stale: str | None,
    srm_p: float | None = None,
) -> Evidence:
    """The evidence about a segment in the document of an analysis; ``unusable`` and ``stale`` are reasons from elsewhere."""
    if not document["readable"]:
        unusable = unusable or "; ".join(document["reasons"])
    if srm_p is not None and srm_p < ALERT:
        unusable = unusable or f"sample-ratio mismatch in this segment (p {p_text(srm_p)})"
    found = document["segments"].get(segment)
    if unusable or found is None or not found["sessions"]:
        return Evidence(segment, unusable=unusable, stale=stale, missing="no sessions of this segment", srm_p=srm_p)
    arms = [arm for arm in ("control", "treatment") if found[arm] is None]
    missing = f"no sessions of this segment in {' and '.join(arms)}" if arms else None
    if not found["se"]:
        missing = missing or found["reason"] or "the standard error is 0"
    elif found["ci_sequential"] is None:
        missing = missing or found["reason"]
    return Evidence(segment, found["sessions"], fresh, found["effect"], found["se"], None, stale, missing, srm_p)


def decide(flag: Flag, evidence: Evidence, settings: Settings) -> Decision:
    """What to do with a segment; never more than one step, and never on."""
    low, high, p = _interval(evidence, settings)
    numbers = {
        "sessions": evidence.sessions,
        "sessions_since_step": evidence.fresh,
        "effect": evidence.effect,
        "se": evidence.se,
        "ci": None if low is None else [low, high],
        "p": p,
        "srm_p": evidence.srm_p,
        "alpha": settings.alpha,
        "planned_sessions": settings.planned,
    }

    def decided(action: Action, reason: str, ramp: float = flag.ramp, *, running: bool = flag.running) -> Decision:
        return Decision(evidence.segment, action, flag.ramp, ramp, running, reason, numbers)

    if not flag.running:
        return decided("hold", "switched off: only a person switches it on")
    if evidence.unusable:
        return decided("hold", evidence.unusable)
    if evidence.missing or low is None or high is None:
        return decided("hold", evidence.missing or "no interval")
    if high < 0:
        return decided("roll_back", f"harm: the interval lies below 0, up to {high:.4g}", STAGES[0], running=False)
    if evidence.stale:
        return decided("hold", evidence.stale)
    if flag.ramp >= STAGES[-1]:
        return decided("done", "at the last stage")
    if evidence.fresh < settings.min_sessions:
        return decided("keep_testing", f"{evidence.fresh:,} sessions at this stage, {settings.min_sessions:,} are needed")
    after = next(stage for stage in STAGES if stage > flag.ramp)
    if after > SURE_FROM and low <= 0:
        return decided("keep_testing", f"not yet sure of a benefit: the interval from {low:.4g} to {high:.4g} must lie above 0")
    sure = "the interval lies above 0" if low > 0 else "no harm is seen"
    return decided("ramp_up", f"{evidence.fresh:,} sessions at this stage, and {sure}", after)


def applied(experiments: Experiments, name: str, decisions: Iterable[Decision]) -> Experiments:
    """The experiments after the decisions about one of them: the same object when nothing changes, else of the next version."""
    changes = {each.segment: Flag(each.running, each.stage_to) for each in decisions if each.changes}
    if not changes:
        return experiments
    after = tuple(
        each._replace(segments={**each.segments, **changes}) if each.name == name else each for each in experiments.experiments
    )
    return experiments._replace(version=experiments.version + 1, experiments=after)


def _interval(evidence: Evidence, settings: Settings) -> tuple[float | None, float | None, float | None]:
    """The always-valid interval and p-value; all ``None`` where there is none."""
    if evidence.missing or evidence.effect is None or not evidence.se:
        return None, None, None
    variance, n = evidence.se**2, evidence.sessions
    wide = half_width(variance, n, settings.planned, settings.alpha)
    p = p_value(evidence.effect, variance, n, settings.planned, settings.alpha)
    return evidence.effect - wide, evidence.effect + wide, p
