"""The experiments as OpenFeature flags: one flag an experiment, under its name.

As a boolean it says whether the personalised answer is shown, as text it names the arm, as an object it says all there is. The unit
is the ``session`` or ``user`` of the evaluation context, else its targeting key; with a ``segment`` in it, that segment's flag,
ramp and allocation count too. A unit that is not in the experiment gets false, whatever the caller's default: that is for errors.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import FlagNotFoundError, InvalidContextError, TargetingKeyMissingError, TypeMismatchError
from openfeature.flag_evaluation import FlagMetadata, FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

from experiments import assignment as assigning
from experiments.assignment import Assignment, assign, with_segment
from schemas.experiments import Experiments
from schemas.instants import clock_ms
from serving.watched import LOOK_S

NAME: Final = "forecourt"
REASONS: Final[dict[assigning.Reason, Reason]] = {
    "assigned": Reason.SPLIT,
    "not_in_layer": Reason.SPLIT,
    "not_in_ramp": Reason.SPLIT,
    "segment_not_in_ramp": Reason.SPLIT,
    "segment_off": Reason.TARGETING_MATCH,  # the rule about this segment decided
    "killed": Reason.DISABLED,
    "not_running": Reason.DISABLED,
}

_log = logging.getLogger(__name__)


class ExperimentsProvider(AbstractProvider):
    """Resolves flags from the experiments in force, such as ``ExperimentsFile.current``; ``now`` is the clock (ms UTC).

    ``look``, such as ``ExperimentsFile.look``, is called in a thread every ``look_s`` seconds while the provider is in use,
    and clients are told what has changed. Without it both are left to others.
    """

    def __init__(
        self,
        current: Callable[[], Experiments],
        now: Callable[[], int] = clock_ms,
        *,
        look: Callable[[], object] | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        super().__init__()
        self._current, self._now, self._look, self._look_s = current, now, look, look_s
        self._ended = threading.Event()

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Begin to look for changes."""
        self._ended.set()  # whoever looked for an earlier use of it
        self._ended = threading.Event()
        if self._look is not None:
            threading.Thread(target=self._keep_looking, args=(self._look, self._ended), name="experiments", daemon=True).start()

    def shutdown(self) -> None:
        """Look no more."""
        self._ended.set()

    def get_metadata(self) -> Metadata:
        """Its name."""
        return Metadata(NAME)

    def changed(self, before: Experiments, after: Experiments) -> None:
        """Tell clients which flags have changed; where nothing is looked at here, meant as ``ExperimentsFile(changed=…)``."""
        old, new = ({each.name: each for each in file.experiments} for file in (before, after))
        all_of_them = before.kill != after.kill or before.layers != after.layers
        flags = sorted(name for name in old.keys() | new.keys() if all_of_them or old.get(name) != new.get(name))
        self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=flags))

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """Whether the unit is shown the personalised answer."""
        found, metadata = self._found(flag_key, evaluation_context)
        return FlagResolutionDetails(found.shows, reason=REASONS[found.reason], variant=found.arm, flag_metadata=metadata)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """The unit's arm; the default when it has none."""
        found, metadata = self._found(flag_key, evaluation_context)
        value = default_value if found.arm is None else found.arm
        return FlagResolutionDetails(value, reason=REASONS[found.reason], variant=found.arm, flag_metadata=metadata)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """The unit's assignment; what doesn't apply is left out."""
        found, metadata = self._found(flag_key, evaluation_context)
        given = {name: value for name, value in found._asdict().items() if value is not None and name not in {"unit", "kind"}}
        return FlagResolutionDetails(given, reason=REASONS[found.reason], variant=found.arm, flag_metadata=metadata)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """No flag is a number."""
        self._mismatch(flag_key, "a whole number")

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """No flag is a number."""
        self._mismatch(flag_key, "a number")

    def _keep_looking(self, look: Callable[[], object], ended: threading.Event) -> None:
        while not ended.wait(self._look_s):
            before = self._current()
            try:
                look()
            except Exception as fault:  # the next look may go well; until then the last good ones stay in force
                _log.error("experiments could not be looked at: %s: %s", type(fault).__name__, fault)  # noqa: TRY400
            if (after := self._current()) is not before:
                self.changed(before, after)

    def _found(self, flag_key: str, context: EvaluationContext | None) -> tuple[Assignment, FlagMetadata]:
        experiments = self._current()
        experiment = next((each for each in experiments.experiments if each.name == flag_key), None)
        if experiment is None:
            msg = f"flag == {flag_key!r}, must be an experiment of file version {experiments.version}"
            raise FlagNotFoundError(msg)
        unit = _text(context, experiment.unit) or (context.targeting_key if context else None)
        if not unit:
            msg = f"flag {flag_key}: {experiment.unit} is missing, must be in the context, or be its targeting key"
            raise TargetingKeyMissingError(msg)
        segment = _text(context, "segment")
        found = assign(experiments, experiment.layer, session=unit, user=unit, now=self._now(), segment=segment)
        if found.experiment not in {None, experiment.name}:
            found = Assignment(None, None, None, unit, False, None, "not_in_layer", experiment.unit)
        found = with_segment(found, segment, experiments)
        return found, {
            "layer": experiment.layer,
            "version": experiment.version,
            "file_version": experiments.version,
            "reason": found.reason,
        }

    def _mismatch(self, flag_key: str, kind: str) -> NoReturn:
        if all(each.name != flag_key for each in self._current().experiments):
            msg = f"flag == {flag_key!r}, must be an experiment"
            raise FlagNotFoundError(msg)
        msg = f"flag {flag_key}, must be read as a boolean, text or an object: it is not {kind}"
        raise TypeMismatchError(msg)


def _text(context: EvaluationContext | None, name: str) -> str | None:
    value: Any = context.attributes.get(name) if context else None
    if value is not None and not isinstance(value, str):
        msg = f"context.{name} is {type(value).__name__}, must be text"
        raise InvalidContextError(msg)
    return value
