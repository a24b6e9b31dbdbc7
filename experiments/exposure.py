"""Exposures made, bounded and put into events: what a visitor was offered and what was shown, alike in every arm."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from experiments.assignment import Assignment
from schemas.errors import ConfigError
from schemas.event import MAX_EXPERIMENT_BYTES
from schemas.exposure import Click, Exposure, Offer
from schemas.hashing import position_of, within
from schemas.instants import format_instant
from schemas.pseudonym import is_pseudonym

MAX_OFFERS: Final = 20
MAX_CONFLICTS: Final = 20
MAX_FILTERS: Final = 20


def exposure_to(
    assignment: Assignment, segments: Iterable[tuple[str, float]], *, user: str | None, session: str | None, **seen: Any
) -> Exposure:
    """The exposure of a request; ``seen`` are the fields that follow neither from the assignment nor from the segments.

    ``user`` is the pseudonym of the id that was assigned by; ``segments`` are those that an arm could act on. A visitor without any
    is untriggered, whatever the arm.
    """
    offers = tuple(Offer(name, score) for name, score in segments)
    unit = {"session": session, "user": user}[assignment.kind] if assignment.unit and assignment.kind else None
    return Exposure(
        experiment=assignment.experiment,
        version=assignment.version,
        arm=assignment.arm,
        reason=assignment.reason,
        unit=unit,
        unit_kind=assignment.kind,
        session=session,
        policy=assignment.policy,
        shown=assignment.shows,
        triggered=bool(offers),
        arm_probability=assignment.probability,
        holdout=assignment.holdout,
        segments=offers,
        **seen,
    )


def bounded(exposure: Exposure) -> Exposure:
    """The exposure within the 8 KiB that an event may hold: what is left out is counted in ``…_dropped``.

    At most 20 segments (those with the highest scores), 20 filters and 20 conflicts; then conflicts, segments and filters go, the
    last first, until it fits.
    """
    offers = sorted(exposure.segments, key=lambda offer: (-offer.score, offer.name))
    kept: list[list[Any]] = [list(exposure.conflicts or ()), offers, list(exposure.filters)]
    whole = [len(each) + dropped for each, dropped in zip(kept, _dropped(exposure), strict=True)]
    for each, most in zip(kept, (MAX_CONFLICTS, MAX_OFFERS, MAX_FILTERS), strict=True):
        del each[most:]
    while len(json.dumps(msgspec.to_builtins(fitted := _with(exposure, kept, whole)))) > MAX_EXPERIMENT_BYTES:
        longest = next((each for each in kept if each), None)
        if longest is None:
            msg = f"exposure of {exposure.experiment}, must have ids of at most 256 bytes: it is over {MAX_EXPERIMENT_BYTES} bytes"
            raise ConfigError(msg)
        longest.pop()
    return fitted


def impression_event(
    exposure: Exposure, *, user: str | None, listing: str | None, now: int, anonymous: str | None = None
) -> dict[str, Any]:
    """The ``featured_impression`` on the wire, bounded, its ``event_id`` that of the impression; ids of people are pseudonyms.

    Where neither id is known, the pseudonym of the session will do for ``anonymous``. ``ConfigError`` for a raw id.
    """
    people = {user, anonymous} - {None}
    if exposure.unit_kind == "user" and (exposure.unit or exposure.arm) and exposure.unit not in people:
        msg = "unit of an exposure, must be the pseudonym of the event's user: a raw id is never written"
        raise ConfigError(msg)
    ids = _ids(user, anonymous, exposure.session, listing)
    return _event("featured_impression", exposure.impression_id, now, ids, bounded(exposure))


def click_event(
    click: Click, *, user: str | None, session: str | None, listing: str | None, now: int, anonymous: str | None = None
) -> dict[str, Any]:
    """The ``featured_click`` on the wire. A second click on the same impression is a copy, and counts once."""
    return _event("featured_click", f"{click.impression_id}:click", now, _ids(user, anonymous, session, listing), click)


def encode_event(event: dict[str, Any]) -> bytes:
    """The event as the message that is sent."""
    return _ENCODE(event)


def in_conflict_sample(impression_id: str, share: float) -> bool:
    """Whether an impression's conflicts are written, so that about ``share`` of all are.

    >>> sum(in_conflict_sample(f"i{number}", 0.1) for number in range(1_000))
    95
    """
    return within(position_of("conflicts", impression_id), share)


_ENCODE: Final = msgspec.json.Encoder().encode


def _dropped(exposure: Exposure) -> tuple[int, int, int]:
    return exposure.conflicts_dropped, exposure.segments_dropped, exposure.filters_dropped


def _with(exposure: Exposure, kept: list[list[Any]], whole: list[int]) -> Exposure:
    conflicts, offers, filters = map(tuple, kept)
    dropped = [before - len(after) for before, after in zip(whole, kept, strict=True)]
    fitted: Exposure = msgspec.structs.replace(
        exposure,
        conflicts=None if exposure.conflicts is None else conflicts,
        segments=offers,
        filters=filters,
        conflicts_dropped=dropped[0],
        segments_dropped=dropped[1],
        filters_dropped=dropped[2],
    )
    return fitted


def _ids(user: str | None, anonymous: str | None, session: str | None, listing: str | None) -> dict[str, str]:
    for name, value in (("user", user), ("anonymous", anonymous)):
        if value is not None and not is_pseudonym(value):
            msg = f"{name} of an exposure, must be a pseudonym: a raw id is never written"  # and not shown
            raise ConfigError(msg)
    if user is None and anonymous is None:
        msg = "user and anonymous of an exposure are both absent, must give at least one"
        raise ConfigError(msg)
    ids = {"user_id": user, "anonymous_id": anonymous, "session_id": session, "listing_id": listing}
    return {name: value for name, value in ids.items() if value is not None}


def _event(kind: str, event_id: str, now: int, ids: dict[str, str], body: Exposure | Click) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "event_type": kind,
        "event_time": format_instant(now),
        **ids,
        "experiment": msgspec.to_builtins(body),
        "pseudonymised": True,
    }
