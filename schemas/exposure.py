"""The ``experiment`` object of ``featured_impression`` and ``featured_click``: what a visitor was offered, shown, and clicked on.

Both arms have the same record. ``rung``, ``segment``, ``probability`` and ``sponsored`` tell of the personalised answer, which the
control arm computes too and doesn't show; the event's ``listing_id`` is what was shown. Ids of people are pseudonyms.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from schemas.errors import EventError
from schemas.experiments import Unit


class Offer(msgspec.Struct, frozen=True):
    """A segment that the visitor was in, and its score."""

    name: str
    score: float


class Clash(msgspec.Struct, frozen=True):
    """A segment that the visitor's own filters rule out, and by which attributes."""

    segment: str
    attributes: tuple[str, ...]


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """The ``experiment`` object of an impression. docs/experiments.md tells of each field.

    There is an ``arm`` when ``reason`` is assigned, and only these exposures belong to an experiment. ``conflicts`` is ``None``
    where the impression wasn't drawn; ``conflict_sample`` is the share of impressions that are. ``arm_probability`` and
    ``holdout`` are ``None`` but where a bandit gives the arms their shares. ``segments`` are those that the rules know, which an
    arm could act on; ``segments_unknown`` counts the others.
    """

    impression_id: str
    experiment: str | None
    version: int | None
    arm: str | None
    reason: str
    unit: str | None
    unit_kind: Unit | None
    session: str | None
    policy: str | None
    shown: bool
    triggered: bool
    differs: bool
    position: int
    k: int
    rung: str
    segment: str | None
    probability: float | None
    sponsored: bool
    segments: tuple[Offer, ...]
    segments_dropped: int = 0
    rule_version: int | None = None
    reader_source: str | None = None
    reader_reason: str | None = None
    file_version: int | None = None
    filters: tuple[str, ...] = ()
    filters_dropped: int = 0
    conflicts: tuple[Clash, ...] | None = None
    conflicts_dropped: int = 0
    conflict_sample: float = 0.0
    arm_probability: float | None = None
    holdout: bool | None = None
    segments_unknown: int = 0


class Click(msgspec.Struct, frozen=True, kw_only=True):
    """The ``experiment`` object of a click: the impression it was on, and where that was.

    The impression's id is enough. The rest only tells at once whose clicks these are; ``UNSET`` where the sender didn't say, which
    is not the ``None`` of an impression that was in no experiment.
    """

    impression_id: str
    experiment: str | None | UnsetType = UNSET
    version: int | None | UnsetType = UNSET
    arm: str | None | UnsetType = UNSET
    position: int | UnsetType = UNSET


_EXPOSURE: Final = msgspec.json.Decoder(Exposure).decode
_CLICK: Final = msgspec.json.Decoder(Click).decode


def exposure_in(text: str | None) -> Exposure | None:
    """The exposure in an impression's JSON, ``None`` where there is none that can be read. Unknown fields are ignored."""
    try:
        return _EXPOSURE(text or "null")
    except msgspec.DecodeError:
        return None


def check_click(experiment: object, session: str | None) -> None:
    """``EventError`` for a click that no analysis could count: on no impression, or in no session."""
    if session is None:
        message = "session_id is missing, must be the session of the impression: a click counts in it"
        raise EventError(reason="missing", field="session_id", message=message)
    try:
        msgspec.convert(experiment, Click)
    except msgspec.ValidationError as error:
        reason = "missing" if experiment is None else "wrong_type"
        message = f"experiment: {error}, must be an object with the impression_id that came with the listing"
        raise EventError(reason, "experiment", message) from error


def click_in(text: str | None) -> Click | None:
    """The click in a click's JSON, ``None`` where there is none that can be read."""
    try:
        return _CLICK(text or "null")
    except msgspec.DecodeError:
        return None
