"""What the gateway does for a request, apart from HTTP: read, choose, assign, and tell. Whatever fails, there is an answer."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from experiments.assignment import Assignment, assign, with_segment
from experiments.exposure import encode_event, exposure_to, impression_event, in_conflict_sample
from schemas.catalogue import Catalogue
from schemas.experiments import Experiments
from schemas.exposure import Clash as ExposedClash
from schemas.exposure import Exposure
from schemas.filters import Filters, parse_filters
from schemas.instants import format_instant
from schemas.pseudonym import Pseudonyms
from schemas.release import Release
from schemas.rules import RuleSet
from schemas.settings import Settings
from serving.empty_inventory import EmptyInventory
from serving.featured import Ask, Conflict, Featured, Position, feature
from serving.inventory import Inventory
from serving.messages import Arm, Clash, FeaturedAnswer, FeaturedRequest, Placed, SegmentAnswer, SegmentsAnswer
from serving.metrics import Metrics
from serving.opensearch import opensearch_body, opensearch_default_body
from serving.outbox import Outbox
from serving.reader import SegmentReader, SegmentsRead
from serving.segments import Segment
from serving.wishes import unknown_segments, wishes_of

_NOBODY: Final = Assignment(None, None, None, None, True, None, "no_experiment")  # noqa: FBT003  (there is no file: all see it)

_log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a gateway is made of; what can change is asked for at each request. ``outbox`` takes exposures and events.

    Without an inventory the gateway can't tell what is shown: it only writes queries, and no impressions.
    """

    reader: SegmentReader
    pseudonyms: Pseudonyms
    catalogue: Catalogue
    settings: Settings
    metrics: Metrics
    rules: Callable[[], Release]
    experiments: Callable[[], Experiments | None]
    inventory: Callable[[], Inventory | None]
    outbox: Outbox | None


class Chosen(NamedTuple):
    """What a request came to, before it is told."""

    request: FeaturedRequest
    ask: Ask
    read: SegmentsRead
    unknown: int  # segments that no rule has: nothing can be chosen by them
    assignment: Assignment
    file_version: int | None  # of the experiments that assigned
    policy: str
    featured: Featured
    impressions: tuple[str, ...]  # an id for each position
    now: int

    @property
    def shown(self) -> tuple[Position, ...]:
        """The positions that the visitor sees."""
        return self.featured.positions if self.assignment.shows else self.featured.default

    @property
    def reason(self) -> str | None:
        """Why no segment chose what the visitor sees first."""
        if not self.read.segments:
            return self.read.reason
        if self.featured.reason is not None:
            return self.featured.reason
        return None if self.assignment.shows else self.assignment.arm or self.assignment.reason


class Service:
    """Answers requests out of its parts. Used in one event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def segments(self, user_id: str | None, anonymous_id: str | None, now: int) -> SegmentsRead:
        """The segments of a user at ``now`` (ms UTC)."""
        began = time.perf_counter()
        read = await self._parts.reader.read(user_id, anonymous_id, now=now)
        self._parts.metrics.stages.labels("read", read.source).observe(time.perf_counter() - began)
        return read

    async def featured(self, request: FeaturedRequest, now: int) -> Chosen:
        """The featured listing of a search; ``FilterError`` for filters that can't be used, and nothing else."""
        filters = parse_filters(request.filters, self._parts.catalogue)
        read = await self.segments(request.user_id, request.anonymous_id, now)
        began = time.perf_counter()
        chosen = self._chosen(request, filters, read, now)
        self._parts.metrics.stages.labels("choose", "inventory").observe(time.perf_counter() - began)
        self._count(chosen)
        return chosen

    def answer(self, chosen: Chosen) -> FeaturedAnswer:
        """What the asker is told."""
        read, featured, assignment = chosen.read, chosen.featured, chosen.assignment
        return FeaturedAnswer(
            at=format_instant(chosen.now),
            personalised=chosen.reason is None,
            reason=chosen.reason,
            positions=[_placed(each, place) for each, place in zip(chosen.impressions, chosen.shown, strict=True)],
            segments=_segment_answers(read.segments),
            rule_version=read.rule_version,
            source=read.source,
            policy=chosen.policy,
            assignment=Arm(
                experiment=assignment.experiment, version=assignment.version, arm=assignment.arm, reason=assignment.reason
            ),
            conflicts=[Clash(conflict.segment, list(conflict.attributes)) for conflict in featured.conflicts],
            query=self._query(chosen),
        )

    def expose(self, chosen: Chosen) -> None:
        """Put the impressions of an answer on their way. Never waits, never raises."""
        outbox, metrics = self._parts.outbox, self._parts.metrics
        if self._parts.inventory() is None:
            return
        for place in range(len(chosen.shown)):
            if place and chosen.shown[place].listing is None and chosen.featured.positions[place].listing is None:
                continue  # nothing was there to be shown; the first position tells of the request even so
            try:
                taken = outbox is not None and outbox.put(encode_event(self._impression(chosen, place)))
            except Exception as fault:  # an answer was given: that it isn't counted must not undo it
                self._fault("exposure", fault)
                taken = False
            metrics.exposures.labels("yes" if taken else "no").inc()

    def rules_of(self, version: int | None) -> RuleSet:
        """The rules of a version, when they are in use; else the active ones."""
        release = self._parts.rules()
        return release.candidate if release.candidate is not None and release.candidate.version == version else release.active

    def _chosen(self, request: FeaturedRequest, filters: Filters, read: SegmentsRead, now: int) -> Chosen:
        settings, assignment, policy = self._parts.settings, _NOBODY, self._parts.settings.policy
        rules = self.rules_of(read.rule_version)
        wishes, unknown = wishes_of(read.segments, rules), frozenset(unknown_segments(read.segments, rules))
        ask = Ask(filters, wishes, frozenset(request.seen), request.session_id, int(request.k))
        inventory = self._parts.inventory() or EmptyInventory()
        featured: Featured | None = None
        file_version: int | None = None
        try:
            experiments = self._parts.experiments()
            if experiments is not None:
                user = request.user_id or request.anonymous_id
                highest = next((segment.name for segment in read.segments if segment.name not in unknown), None)
                assignment = assign(experiments, settings.layer, session=request.session_id, user=user, now=now, segment=highest)
                policy = assignment.policy or policy
                file_version = experiments.version
            featured = feature(ask, policy, inventory)
            if experiments is not None:
                assignment = _gated(assignment, featured, highest, experiments)
        except Exception as fault:
            self._fault("assignment", fault)
            assignment = _NOBODY._replace(shows=False, reason="fault")
            featured = (featured or feature(ask, policy, inventory))._replace(reason="fault")
        if featured.fault is not None:
            self._fault("featured", featured.fault)
        impressions = tuple(uuid.uuid4().hex for _ in featured.positions)
        return Chosen(request, ask, read, len(unknown), assignment, file_version, policy, featured, impressions, now)

    def _query(self, chosen: Chosen) -> dict[str, Any]:
        if chosen.assignment.shows:
            try:
                return opensearch_body(chosen.ask, chosen.policy)
            except Exception as fault:
                self._fault("query", fault)
        return opensearch_default_body(chosen.ask)

    def _impression(self, chosen: Chosen, place: int) -> dict[str, Any]:
        request, read, featured = chosen.request, chosen.read, chosen.featured
        given = {"user_id": request.user_id, "anonymous_id": request.anonymous_id}
        raw = {name: raw_id for name, raw_id in given.items() if raw_id is not None} or {"anonymous_id": request.session_id}
        user, anonymous = (self._parts.pseudonyms(raw[name]) if name in raw else None for name in given)
        personal, shown, default = featured.positions[place], chosen.shown[place], featured.default[place]
        share = self._parts.settings.conflict_sample
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
            conflicts=_exposed(featured.conflicts) if in_conflict_sample(chosen.impressions[place], share) else None,
            conflict_sample=share,
            segments_unknown=chosen.unknown,
        )
        event = impression_event(exposure, user=user, anonymous=anonymous, listing=_id_of(shown), now=chosen.now)
        return event | {f"sealed_{name}": self._parts.pseudonyms.seal(raw_id) for name, raw_id in raw.items()}

    def _count(self, chosen: Chosen) -> None:
        metrics = self._parts.metrics
        if chosen.reason is not None:
            metrics.fallbacks.labels(chosen.reason).inc()
        for position in chosen.shown:
            metrics.rungs.labels(position.rung).inc()
        metrics.unknown_segments.inc(chosen.unknown)
        for conflict in chosen.featured.conflicts:
            for attribute in conflict.attributes:
                metrics.conflicts.labels(conflict.segment, attribute).inc()

    def _fault(self, where: str, fault: Exception) -> None:
        self._parts.metrics.faults.labels(where).inc()
        _log.error("%s: %s, the default is served", where, type(fault).__name__)  # its text may hold what was asked


def _gated(assignment: Assignment, featured: Featured, highest: str | None, experiments: Experiments) -> Assignment:
    """The assignment by the flags of the segments chosen: a request is out of the experiment when one of its places is.

    Where no segment could be fulfilled it goes by the visitor's highest, in every arm, as the sessions table does.
    """
    for segment in dict.fromkeys(position.segment or highest for position in featured.positions):
        assignment = with_segment(assignment, segment, experiments)
    return assignment


def segments_answer(read: SegmentsRead, now: int) -> SegmentsAnswer:
    """What the asker is told of a user's segments."""
    return SegmentsAnswer(
        at=format_instant(now),
        as_of=None if read.as_of is None else format_instant(read.as_of),
        age_ms=read.age_ms,
        rule_version=read.rule_version,
        source=read.source,
        reason=read.reason,
        segments=_segment_answers(read.segments),
    )


def _segment_answers(segments: Sequence[Segment]) -> list[SegmentAnswer]:
    return [SegmentAnswer(*each[:4], format_instant(each.until)) for each in segments]


def _placed(impression: str, position: Position) -> Placed:
    return Placed(
        impression_id=impression,
        listing=position.listing,
        rung=position.rung,
        segment=position.segment,
        matched=list(position.matched),
        probability=position.probability,
    )


def _id_of(position: Position) -> str | None:
    return None if position.listing is None else str(position.listing["listing_id"])


def _exposed(conflicts: Sequence[Conflict]) -> tuple[ExposedClash, ...]:
    return tuple(ExposedClash(conflict.segment, conflict.attributes) for conflict in conflicts)
