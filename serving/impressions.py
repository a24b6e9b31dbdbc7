"""The impressions of an answer: for each position what was offered and what was shown, alike in every arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.exposure import exposure_to, impression_event, in_conflict_sample
from schemas.exposure import Clash, Exposure
from schemas.pseudonym import Pseudonyms
from serving.chosen import Chosen
from serving.featured import Conflict, Position


def impression_of(chosen: Chosen, place: int, pseudonyms: Pseudonyms, conflict_sample: float) -> dict[str, Any]:
    """The ``featured_impression`` of the position at ``place``, from 0; ``conflict_sample`` of all hold their conflicts."""
    request, read, featured = chosen.request, chosen.read, chosen.featured
    given = {"user_id": request.user_id, "anonymous_id": request.anonymous_id}
    raw = {name: raw_id for name, raw_id in given.items() if raw_id is not None} or {"anonymous_id": request.session_id}
    user, anonymous = (pseudonyms(raw[name]) if name in raw else None for name in given)
    personal, shown, default = featured.positions[place], chosen.shown[place], featured.default[place]
    sampled = in_conflict_sample(chosen.impressions[place], conflict_sample)
    exposure: Exposure = exposure_to(
        chosen.assignment,
        [(wish.name, wish.score) for wish in chosen.ask.wishes],
        user=user or anonymous,
        session=request.session_id,
        impression_id=chosen.impressions[place],
        differs=_id_of(personal) != _id_of(default),
        position=place + 1,
        k=int(request.k),
        rung=personal.rung,
        segment=personal.segment,
        probability=personal.probability,
        sponsored=bool(personal.listing and personal.listing["sponsored"]),
        rule_version=read.rule_version,
        reader_source=read.source,
        reader_reason=read.reason,
        file_version=chosen.file_version,
        filters=chosen.ask.filters.attributes,
        conflicts=_exposed(featured.conflicts) if sampled else None,
        conflict_sample=conflict_sample,
        segments_unknown=chosen.unknown,
    )
    event = impression_event(exposure, user=user, anonymous=anonymous, listing=_id_of(shown), now=chosen.now)
    return event | {f"sealed_{name}": pseudonyms.seal(raw_id) for name, raw_id in raw.items()}


def _id_of(position: Position) -> str | None:
    return None if position.listing is None else str(position.listing["listing_id"])


def _exposed(conflicts: Sequence[Conflict]) -> tuple[Clash, ...]:
    return tuple(Clash(conflict.segment, conflict.attributes) for conflict in conflicts)
