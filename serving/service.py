"""What the gateway does for a request, apart from HTTP: read, choose, assign, and tell. Whatever fails, there is an answer."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from experiments.assignment import Assignment, assign, with_segment
from experiments.exposure import encode_event
from schemas.catalogue import Catalogue
from schemas.experiments import Experiments
from schemas.filters import Filters, parse_filters
from schemas.instants import format_instant
from schemas.pseudonym import Pseudonyms
from schemas.release import Release
from schemas.rules import RuleSet
from schemas.settings import Settings
from serving.chosen import Chosen, Searches
from serving.featured import Ask, Featured, Position, feature
from serving.impressions import impression_of
from serving.inventory import Inventory
from serving.messages import Arm, Clash, FeaturedAnswer, FeaturedRequest, Placed, SegmentAnswer, SegmentsAnswer, ShownRequest
from serving.metrics import Metrics
from serving.opensearch import opensearch_body, opensearch_default_body
from serving.outbox import Outbox
from serving.reader import SegmentReader, SegmentsRead
from serving.segments import Segment
from serving.shown import chosen_of, feature_later, found, ticket_of, with_searches
from serving.tickets import TicketError, opened, sealed
from serving.wishes import unknown_segments, wishes_of

_NOBODY: Final = Assignment(None, None, None, None, True, None, "no_experiment")  # noqa: FBT003  (there is no file: all see it)

_log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a gateway is made of; what can change is asked for at each request. ``outbox`` takes exposures and events.

    Without an inventory it writes queries, and knows what is shown when it is told.
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

    def shown(self, request: ShownRequest, now: int) -> Chosen:
        """The choice of a ticket, with what was found for it; ``TicketError`` or ``ResponseError`` where that can't be known."""
        ticket = opened(request.ticket, self._parts.pseudonyms.ring, now)
        release = self._parts.rules()
        rules = next((each for each in (release.active, release.candidate) if each and each.version == ticket.rules), None)
        if rules is None:
            msg = f"ticket's rules == {ticket.rules}, must be in use still: search again, with a new ticket"
            raise TicketError(msg)
        before = chosen_of(ticket, rules)
        chosen = before._replace(featured=found(before, request.response, request.other_response, self._parts.catalogue))
        if before.reason is None and chosen.reason is not None:  # any other was counted with the choice
            self._parts.metrics.fallbacks.labels(chosen.reason).inc()
        for position in chosen.shown:
            self._parts.metrics.rungs.labels(position.rung).inc()
        return chosen

    def answer(self, chosen: Chosen) -> FeaturedAnswer:
        """What the asker is told."""
        read, featured, assignment = chosen.read, chosen.featured, chosen.assignment
        return FeaturedAnswer(
            at=format_instant(chosen.now),
            personalised=chosen.reason is None,
            reason=chosen.reason,
            positions=[_placed(each, place) for each, place in zip(chosen.impressions, chosen.shown, strict=chosen.known)],
            segments=_segment_answers(read.segments),
            rule_version=read.rule_version,
            source=read.source,
            policy=chosen.policy,
            assignment=Arm(
                experiment=assignment.experiment, version=assignment.version, arm=assignment.arm, reason=assignment.reason
            ),
            conflicts=[Clash(conflict.segment, list(conflict.attributes)) for conflict in featured.conflicts],
            query=chosen.searches and chosen.searches.query,
            other_query=chosen.searches and chosen.searches.other,
            ticket=None if chosen.known else self._ticket(chosen),
        )

    def expose(self, chosen: Chosen) -> None:
        """Put the impressions of an answer on their way, none before it is known what is shown. Never waits, never raises."""
        outbox, metrics, pseudonyms = self._parts.outbox, self._parts.metrics, self._parts.pseudonyms
        share = self._parts.settings.conflict_sample
        for place in range(len(chosen.shown)):
            if place and chosen.shown[place].listing is None and chosen.featured.positions[place].listing is None:
                continue  # nothing was there to be shown; the first position tells of the request even so
            try:
                taken = outbox is not None and outbox.put(encode_event(impression_of(chosen, place, pseudonyms, share)))
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
        inventory = self._parts.inventory()
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
            featured = _featured(ask, policy, inventory)
            if experiments is not None:
                assignment = _gated(assignment, featured, highest, experiments)
        except Exception as fault:
            self._fault("assignment", fault)
            assignment = _NOBODY._replace(shows=False, reason="fault")
            featured = (featured or _featured(ask, policy, inventory))._replace(reason="fault")
        impressions = tuple(uuid.uuid4().hex for _ in featured.positions or range(ask.k))
        chosen = Chosen(
            request, ask, read, rules.version, len(unknown), assignment, file_version, policy, featured, impressions, now
        )
        chosen = with_searches(chosen) if inventory is None else chosen._replace(searches=Searches(self._query(chosen)))
        if chosen.featured.fault is not None:
            self._fault("featured", chosen.featured.fault)
        return chosen

    def _ticket(self, chosen: Chosen) -> str | None:
        try:
            return sealed(ticket_of(chosen), self._parts.pseudonyms.ring)
        except Exception as fault:  # an answer is there: that nobody can tell what is shown must not undo it
            self._fault("exposure", fault)
            return None

    def _query(self, chosen: Chosen) -> dict[str, Any]:
        if chosen.assignment.shows:
            try:
                return opensearch_body(chosen.ask, chosen.policy)
            except Exception as fault:
                self._fault("query", fault)
        return opensearch_default_body(chosen.ask)

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
    for segment in dict.fromkeys(position.segment or highest for position in featured.positions) or (highest,):
        assignment = with_segment(assignment, segment, experiments)
    return assignment


def _featured(ask: Ask, policy: str, inventory: Inventory | None) -> Featured:
    return feature_later(ask, policy) if inventory is None else feature(ask, policy, inventory)


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
