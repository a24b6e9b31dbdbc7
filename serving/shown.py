"""Where a search service has the listings: what it is to be asked, the choice as a ticket, and what its responses come to.

The service asks twice in an experiment, for what is shown and for the other arm's answer. What is then known is as much as the
embedded inventory knows at once: positions, the default's, and so whether they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.catalogue import Catalogue
from schemas.filters import Filters
from schemas.rules import RuleSet
from serving.chosen import Chosen, Searches
from serving.featured import Ask, Featured, Position, split_of
from serving.messages import FeaturedRequest
from serving.opensearch import opensearch_body, opensearch_default_body, opensearch_default_positions, opensearch_positions
from serving.opensearch_responses import ResponseError, check_response
from serving.policies import policy_of
from serving.reader import SegmentsRead
from serving.tickets import Ticket, TicketError
from serving.wishes import unknown_segments, wishes_of


def feature_later(ask: Ask, policy: str) -> Featured:
    """What is known of the answer before any search; ``reason`` where the personal question is the default's. Never raises."""
    try:
        policy_of(policy)
        split = split_of(ask)
    except Exception as fault:  # noqa: BLE001  (whatever it is, the default can be searched for)
        return Featured((), (), reason="fault", fault=fault)
    reason = None if split.wishes else "all_conflict" if split.conflicts else "no_segments"
    return Featured((), (), *split[1:], reason=reason)  # type: ignore[arg-type]  # mypy: str, as it joins the three


def with_searches(chosen: Chosen) -> Chosen:
    """The choice with what is to be searched for: the default alone, with the reason ``fault``, where the other can't be said."""
    default = opensearch_default_body(chosen.ask)
    if chosen.featured.reason is not None:
        return chosen._replace(searches=Searches(default))
    try:
        personal = opensearch_body(chosen.ask, chosen.policy)
    except Exception as fault:  # noqa: BLE001
        return chosen._replace(searches=Searches(default), featured=chosen.featured._replace(reason="fault", fault=fault))
    return chosen._replace(searches=Searches(personal, default) if chosen.assignment.shows else Searches(default, personal))


def ticket_of(chosen: Chosen) -> Ticket:
    """The choice as a ticket."""
    request, read, featured = chosen.request, chosen.read, chosen.featured
    return Ticket(
        at=chosen.now,
        session=request.session_id,
        user=request.user_id,
        anonymous=request.anonymous_id,
        k=chosen.ask.k,
        segments=read.segments,
        rule_version=read.rule_version,
        source=read.source,
        reason=read.reason,
        rules=chosen.rules,
        unknown=chosen.unknown,
        assignment=chosen.assignment,
        file_version=chosen.file_version,
        policy=chosen.policy,
        filters=chosen.ask.filters.attributes,
        conflicts=featured.conflicts,
        dropped=featured.dropped,
        choice=featured.reason,
        impressions=tuple(map(bytes.fromhex, chosen.impressions)),
    )


def chosen_of(ticket: Ticket, rules: RuleSet) -> Chosen:
    """The choice that a ticket is of; the filters are gone, but for their attributes. ``TicketError`` where it can't be known.

    ``rules`` are those of the ticket's version; the same version with other segments is another one.
    """
    wishes = wishes_of(ticket.segments, rules)
    if ticket.unknown != len(unknown_segments(ticket.segments, rules)):
        msg = f"ticket's rules == {ticket.rules}, must have the segments that version {rules.version} has here"
        raise TicketError(msg)
    request = FeaturedRequest(session_id=ticket.session, user_id=ticket.user, anonymous_id=ticket.anonymous, k=ticket.k)
    return Chosen(
        request,
        Ask(Filters(None, ticket.filters), wishes, frozenset(), ticket.session, ticket.k),
        SegmentsRead(ticket.segments, ticket.rule_version, None, None, ticket.source, ticket.reason),
        ticket.rules,
        ticket.unknown,
        ticket.assignment,
        ticket.file_version,
        ticket.policy,
        Featured((), (), ticket.conflicts, ticket.dropped, ticket.choice),
        tuple(each.hex() for each in ticket.impressions),
        ticket.at,
    )


def found(chosen: Chosen, response: Mapping[str, Any], other_response: Mapping[str, Any] | None, catalogue: Catalogue) -> Featured:
    """The answer in the responses to ``query`` and ``other_query``; ``ResponseError`` says what is wrong with which.

    Where the personal search has fewer than k hits the default's that it lacks follow, as on the last rung of the ladder.
    """
    featured, ask = chosen.featured, chosen.ask
    if featured.reason is not None:
        check_response(response, "response", ask.k, (), catalogue)
        default = _filled(opensearch_default_positions(response, catalogue), ask.k)
        return featured._replace(positions=default, default=default)
    if other_response is None:
        msg = "other_response is missing, must be the response to other_query"
        raise ResponseError(msg)
    gone = {*(conflict.segment for conflict in featured.conflicts), *featured.dropped}
    fitting = ask._replace(wishes=tuple(wish for wish in ask.wishes if wish.name not in gone))
    names = ("response", "other_response") if chosen.assignment.shows else ("other_response", "response")
    by_name = {"response": response, "other_response": other_response}
    for name, wishes in zip(names, ([wish.name for wish in fitting.wishes], ()), strict=True):
        check_response(by_name[name], name, ask.k, wishes, catalogue)
    personal = opensearch_positions(by_name[names[0]], fitting, chosen.policy, catalogue)
    default = opensearch_default_positions(by_name[names[1]], catalogue)
    ids = {position.listing["listing_id"] for position in personal if position.listing is not None}
    left = (position for position in default if position.listing is not None and position.listing["listing_id"] not in ids)
    positions = _filled((*personal, *left), ask.k)
    fulfilled = positions[0].rung in {"combined", "single_segment"}
    return featured._replace(positions=positions, default=_filled(default, ask.k), reason=None if fulfilled else "no_match")


def _filled(positions: tuple[Position, ...], k: int) -> tuple[Position, ...]:
    """The first k; where there are fewer nothing is shown."""
    return (*positions, *(Position(None, "default"),) * k)[:k]
