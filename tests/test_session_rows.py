"""Sessions from events: what counts, from when on, for whom; the same whatever the order, the copies and the batches.

history │ the experiment
v  v    │  s ···· i ·· v ·· v ·· c ·· l        s: session_start, i: impression, v: view, c: click, l: lead
pre ────┘         └────────────────────► counts
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.exposure import Offer
from schemas.instants import DAY_MS, HOUR_MS, MINUTE_MS, parse_date
from schemas.sessions import COLUMNS, SCHEMA
from tests.session_logs import Logged, click, exposure, made, rows_by_hand, table_of_events, text_of
from transforms import sessions
from transforms.session_found import (
    EVENTS_A_SESSION,
    MOST_SESSIONS,
    SHARD_EVENTS,
    Found,
    Plan,
    Version,
    chosen_of,
    found_in,
    found_together,
    session_shards,
)
from transforms.session_rows import ASSIGNED, Chosen, Row, SessionEvent, rows_of, table_of, use_of
from transforms.session_slices import with_history, without_copies
from transforms.sessions import use_events

DAY, NEXT = "2026-05-02", "2026-05-03"
NOON = parse_date(DAY) + 12 * HOUR_MS
PLAN = Plan("first", None, None, DAY, DAY, "sessions.csv", 3, 0, None)


def event(number: int, kind: str, at: int = 0, **more: Any) -> SessionEvent:
    fields: dict[str, Any] = {"user": "ann", "listing": None, "experiment": None, "pre": None}
    return SessionEvent(event_id=f"e{number}", kind=kind, time=NOON + at, **(fields | more))


def shown(number: int, at: int = 0, arm: str = "control", user: str = "ann", pre: float | None = None, **more: Any) -> SessionEvent:
    text = text_of(exposure(f"e{number}", arm, **more))
    return event(number, "featured_impression", at, user=user, experiment=text, pre=pre)


def clicked(number: int, on: int, at: int = 0) -> SessionEvent:
    return event(number, "featured_click", at, experiment=text_of(click(f"e{on}")))


def viewed(number: int, listing: str | None, at: int = 0, user: str = "ann") -> SessionEvent:
    return event(number, "listing_view", at, listing=listing, user=user)


def the_row(*events: SessionEvent) -> Row:
    (row,) = rows_of("s1", events)
    return row


# One session


def test_a_row_has_the_columns_of_the_table() -> None:
    assert list(Row._fields) == [column.name for column in COLUMNS]
    assert table_of([]).schema == SCHEMA
    (row,) = table_of([the_row(shown(1))]).to_pylist()
    assert row["started_at"].timestamp() * 1000 == NOON
    assert (row["day"], row["arm"], row["user_id"]) == (DAY, "control", "ann")


def test_what_came_before_the_exposure_does_not_count() -> None:
    row = the_row(
        viewed(1, "a", -1),
        event(2, "lead", -1),
        shown(3),
        viewed(4, "b", 0),
        viewed(5, "b", 5),
        viewed(6, "c", 9),
        viewed(7, None, 9),
    )
    assert (row.vehicles_viewed, row.lead) == (2, 0)
    assert the_row(shown(1), event(2, "lead", 0)).lead == 1


def test_impressions_and_the_ones_clicked_are_counted_once() -> None:
    row = the_row(shown(1), shown(2, 5), clicked(3, on=2, at=6), clicked(4, on=2, at=7), clicked(5, on=99, at=8))
    assert (row.impressions, row.clicks) == (2, 1)


def test_a_session_in_two_arms_makes_a_row_for_each() -> None:
    rows = list(rows_of("s1", [shown(1), viewed(2, "a", 1), shown(3, 2, "treatment"), viewed(4, "b", 3), clicked(5, on=3, at=4)]))
    assert [(row.arm, row.started_at - NOON, row.vehicles_viewed, row.impressions, row.clicks) for row in rows] == [
        ("control", 0, 2, 1, 0),
        ("treatment", 2, 1, 1, 1),
    ]


def test_the_first_exposure_tells_of_the_row() -> None:
    first = shown(2, 0, segments=(Offer("suv", 0.9),), segments_dropped=3, policy="combined", pre=2.5)
    later = shown(1, 5, policy="another", segments=())
    row = the_row(later, first)
    assert (row.started_at, row.segment_count, row.policy, row.pre_vehicles) == (NOON, 4, "combined", 2.5)
    bandit = the_row(shown(1, arm_probability=0.25, holdout=True), shown(2, 1, arm_probability=0.5, holdout=False))
    assert (bandit.arm_probability, bandit.holdout) == (0.25, True)
    assert (row.arm_probability, row.holdout) == (None, None)


def test_where_arms_choose_by_themselves_a_row_goes_by_the_highest_segment() -> None:
    offers = (Offer("suv", 0.71), Offer("electric", 0.55))
    assert the_row(shown(1, segment="electric", segments=offers)).primary_segment == "electric"
    (row,) = rows_of("s1", [shown(1, segment="electric", segments=offers)], by_highest=True)
    assert row.primary_segment == "suv"


OFFERS = (Offer("b", 0.6), Offer("c", 0.7), Offer("a", 0.7))


@pytest.mark.parametrize(
    ("exposures", "segment"),
    [
        ([{"segment": "electric"}], "electric"),
        ([{"segment": None, "segments": OFFERS}], "a"),
        ([{"segment": None, "segments": ()}], None),
        ([{"segment": "second", "position": 2}, {"segment": "first", "position": 1}], "first"),
        ([{"segment": "second", "position": 2}], "second"),
        ([{"segment": "first"}, {"segment": "later"}], "first"),
        ([{"segment": None, "segments": OFFERS}, {"segment": "later"}], "a"),
    ],
)
def test_the_primary_segment_is_that_of_the_first_place_the_first_time(
    exposures: list[dict[str, Any]], segment: str | None
) -> None:
    assert the_row(*(shown(number, number, **each) for number, each in enumerate(exposures))).primary_segment == segment


def test_who_signs_in_goes_on_with_the_session_but_is_another_user() -> None:
    def log(kind: str) -> list[SessionEvent]:
        return [
            shown(1, user="anonymous", unit_kind=kind, pre=4.0),
            viewed(2, "a", 1, user="anonymous"),
            viewed(3, "b", 2, user="ann"),
            event(4, "lead", 3, user="ann"),
        ]

    by_session, by_user = the_row(*log("session")), the_row(*log("user"))
    assert (by_session.vehicles_viewed, by_session.lead, by_session.user_id, by_session.pre_vehicles) == (2, 1, "anonymous", 4.0)
    assert (by_user.vehicles_viewed, by_user.lead) == (1, 0)
    both = the_row(*log("user"), shown(5, 4, user="ann", unit_kind="user"))
    assert (both.vehicles_viewed, both.lead, both.impressions, both.user_id) == (2, 1, 2, "anonymous")


@pytest.mark.parametrize(
    ("more", "use"),
    [
        ({}, ASSIGNED),
        ({"experiment": None, "version": None, "reason": "no_experiment"}, "not_assigned"),
        ({"experiment": "second"}, "other_experiments"),
        ({"experiment": "second", "reason": "not_in_ramp"}, "other_experiments"),
        ({"version": 2, "reason": "not_in_ramp"}, "other_versions"),
        ({"arm": None, "reason": "segment_off"}, "not_assigned"),
        ({"session": None}, "without_session"),
        ({"at": -1}, "before_start"),
    ],
)
def test_an_exposure_has_one_use(more: dict[str, Any], use: str) -> None:
    session, at = more.pop("session", "s1"), more.pop("at", 0)
    assert use_of(exposure("i", **more), NOON + at, session, Chosen("first", 1, NOON)) == use


# Copies and history


def test_of_copies_the_earliest_counts_then_the_smallest_and_only_within_a_user() -> None:
    log = [
        Logged("e1", "listing_view", 5, "ann", "s1", "b"),
        Logged("e1", "listing_view", 5, "ann", "s1", "a"),
        Logged("e1", "listing_view", 6, "ann", "s1", "0"),
        Logged("e1", "listing_view", 4, "bob", "s2", "c"),
        Logged("e2", "lead", 7, "ann", "s1"),
    ]
    for order in (log, log[::-1]):
        kept = without_copies(table_of_events(order)).to_pylist()
        assert sorted((each["event_id"], each["user"], each["listing_id"]) for each in kept if each["listing_id"]) == [
            ("e1", "ann", "a"),
            ("e1", "bob", "c"),
        ]
        assert len(kept) == 3
    assert without_copies(table_of_events([])).num_rows == 0


def test_history_is_the_mean_of_distinct_listings_over_the_sessions_begun_before() -> None:
    def view(number: int, user: str, session: str | None, listing: str | None, at: int) -> Logged:
        return Logged(f"e{number}", "listing_view", NOON + at, user, session, listing)

    log = [
        view(1, "ann", "s1", "a", -9),
        view(2, "ann", "s1", "a", -8),
        view(3, "ann", "s1", "b", -7),
        Logged("e4", "session_start", NOON - 6, "ann", "s2"),
        view(5, "ann", "s2", "c", 0),  # from the start on: no history
        view(6, "ann", None, "d", -5),
        view(7, "ann", "s3", "e", 1),
        view(8, "bob", "s4", "a", 3),
        view(9, "eve", "s1", "z", -9),
        view(10, "eve", "s1", None, -9),
    ]
    table = with_history(table_of_events(log), NOON)
    means = {(row["user"], row["pre"]) for row in table.to_pylist()}
    assert means == {("ann", 1.0), ("bob", None), ("eve", 1.0)}
    assert with_history(table_of_events([]), NOON).num_rows == 0


def test_the_newest_version_is_taken_and_any_version_begins_the_experiment() -> None:
    def impression(number: int, at: int, **more: Any) -> Logged:
        return Logged(f"e{number}", "featured_impression", at, "ann", "s1", None, text_of(exposure(f"e{number}", **more)))

    log = [
        impression(1, NOON, version=1),
        impression(2, NOON + 5, version=2),
        impression(3, NOON - 5, version=3, arm=None, reason="not_in_ramp"),
        impression(4, NOON - 7, experiment="second"),
        impression(5, NOON + DAY_MS, version=9),
    ]
    found = found_together([found_in(table_of_events(part), PLAN) for part in (log[:2], log[2:], [])])
    assert {number: version.exposures for number, version in found.versions.items()} == {1: 1, 2: 1}
    assert found.others == {"second"}
    assert chosen_of(PLAN, found) == Chosen("first", 2, NOON)
    assert chosen_of(dataclasses.replace(PLAN, version=1, starts=7), found) == Chosen("first", 1, 7)
    assert chosen_of(dataclasses.replace(PLAN, version=3), found) is None
    assert chosen_of(PLAN, found_together([])) is None


# All of it, beside brute force


USERS, SESSIONS, LISTINGS = ("ann", "bob", "a:eve"), ("s1", "s2", "s3", None), ("l1", "l2", "l3", None)
TIMES = st.sampled_from([NOON - 20 * HOUR_MS, NOON, NOON + 1, NOON + MINUTE_MS, NOON + 11 * HOUR_MS, NOON + 13 * HOUR_MS])
OFFERED = st.lists(st.sampled_from([Offer("suv", 0.7), Offer("electric", 0.7), Offer("budget", 0.9)]), max_size=3).map(tuple)
_DRAWN: tuple[str, ...] = ("arm", "reason", "experiment", "version", "position", "segment", "segments", "segments_dropped")
_DRAWN += ("arm_probability", "holdout", "policy")
EXPOSURES = st.builds(
    lambda arm, reason, **more: exposure("?", arm if reason == "assigned" else None, reason=reason, **more),
    st.sampled_from(["control", "treatment"]),
    st.sampled_from(["assigned"] * 5 + ["not_in_ramp"]),
    experiment=st.sampled_from(["first"] * 6 + ["second"]),
    version=st.sampled_from([1] * 6 + [2]),
    unit_kind=st.just("session"),
    position=st.sampled_from([1, 1, 2]),
    segment=st.sampled_from([None, "suv", "electric"]),
    segments=OFFERED,
    segments_dropped=st.integers(0, 1),
    arm_probability=st.sampled_from([None, 0.25]),
    holdout=st.sampled_from([None, True]),
    policy=st.sampled_from(["combined"] * 5 + ["weighted_random"]),
)
KINDS = st.sampled_from(
    ["session_start", "listing_view", "listing_view", "lead", "featured_impression", "featured_click", "search"]
)


@st.composite
def logs(draw: st.DrawFn) -> list[Logged]:
    """Events of a few users in a few sessions; at least one exposure is assigned."""
    unit = draw(st.sampled_from(["session", "user"]))
    log = [Logged("e0", "featured_impression", NOON, "ann", "s1", None, text_of(exposure("e0", unit_kind=unit)))]
    for number in range(1, draw(st.integers(1, 14))):
        kind = draw(KINDS)
        body = None
        if kind == "featured_impression":
            found = draw(EXPOSURES)
            body = text_of(exposure(f"e{number}", **{name: getattr(found, name) for name in _DRAWN}, unit_kind=unit))
            body = draw(st.sampled_from([body] * 9 + ['{"arm": 1}', None]))
        elif kind == "featured_click":
            body = text_of(click(f"e{draw(st.integers(0, 14))}"))
        log.append(
            Logged(
                f"e{number}",
                kind,
                draw(TIMES),
                draw(st.sampled_from(USERS)),
                draw(st.sampled_from(SESSIONS)),
                draw(st.sampled_from(LISTINGS)),
                body,
            )
        )
    return log


def uses_of(counts: Counter[str]) -> dict[str, int]:
    names = ("in_table", "unreadable", "not_assigned", "other_experiments", "other_versions", "without_session", "before_start")
    return {name: counts[name] for name in (*names, "other_dates")}


@given(logs(), st.randoms(use_true_random=False), st.integers(1, 4), st.sampled_from([None, NOON + 1]), st.booleans())
def test_the_table_is_that_of_brute_force_whatever_the_order_the_copies_and_the_batches(
    log: list[Logged], random: Any, batches: int, starts: int | None, both_days: bool
) -> None:
    plan = dataclasses.replace(PLAN, version=1, starts=starts, last=NEXT if both_days else DAY, shards=batches)
    rows, uses = rows_by_hand(log, plan.first, plan.last, starts=starts)
    copies = [each for each in log if random.random() < 0.3]
    copies += [each._replace(event_time=each.event_time + 7, listing_id="other") for each in log[1:] if random.random() < 0.2]
    shuffled = [*log, *copies]
    random.shuffle(shuffled)
    found, counts = made(shuffled, plan, batches)
    assert found == rows
    assert uses_of(counts) == uses_of(uses)
    assert counts["exposures"] == sum(uses_of(counts).values()), "conservation"
    assert counts["rows"] == len(rows)
    assert counts["copies"] == len(copies)
    arms = Counter(row.arm for row in rows)
    assert {arm: counts[f"{sessions.ARM}{arm}"] for arm in arms} == arms


def test_a_session_over_midnight_belongs_to_the_day_of_its_exposure() -> None:
    late = parse_date(NEXT) - MINUTE_MS
    log = [
        Logged("i1", "featured_impression", late, "ann", "s1", None, text_of(exposure("i1"))),
        Logged("v1", "listing_view", late + 2 * MINUTE_MS, "ann", "s1", "a"),
        Logged("i2", "featured_impression", late + 3 * MINUTE_MS, "ann", "s1", None, text_of(exposure("i2"))),
        Logged("i3", "featured_impression", late + 4 * MINUTE_MS, "bob", "s2", None, text_of(exposure("i3"))),
    ]
    (row,), counts = made(log, PLAN)
    assert (row.session_id, row.day, row.vehicles_viewed, row.impressions) == ("s1", DAY, 1, 2)
    assert uses_of(counts) | {"in_table": 2, "other_dates": 1} == uses_of(counts)
    (row,), counts = made(log, dataclasses.replace(PLAN, first=NEXT, last=NEXT))
    assert (row.session_id, counts["other_dates"]) == ("s2", 2)


@pytest.mark.parametrize(
    ("text", "clicks", "elsewhere"),
    [
        ('{"impression_id": "i1"}', 1, 0),
        ('{"impression_id": "i1", "experiment": "first"}', 1, 0),
        ('{"impression_id": "i1", "version": 2}', 0, 0),
        ('{"impression_id": "i1", "arm": null}', 0, 0),
        ('{"impression_id": "i9"}', 0, 1),
    ],
)
def test_a_click_counts_that_only_says_which_impression_it_was_on(text: str, clicks: int, elsewhere: int) -> None:
    log = [
        Logged("i1", "featured_impression", NOON, "ann", "s1", None, text_of(exposure("i1"))),
        Logged("c1", "featured_click", NOON + 1, "ann", "s1", None, text),
    ]
    (row,), counts = made(log, PLAN)
    assert (row.clicks, counts["clicks_elsewhere"], counts["clicks_unreadable"]) == (clicks, elsewhere, 0)


def test_clicks_that_cannot_be_read_or_are_elsewhere_are_counted() -> None:
    def clicked_on(number: int, session: str | None, text: str, user: str = "ann") -> Logged:
        return Logged(f"c{number}", "featured_click", NOON + number, user, session, None, text)

    log = [
        Logged("i1", "featured_impression", NOON, "ann", "s1", None, text_of(exposure("i1"))),
        clicked_on(1, "s1", text_of(click("i1"))),
        clicked_on(2, "s2", text_of(click("i1"))),
        clicked_on(3, "s1", text_of(click("i9"))),
        clicked_on(4, "s1", '{"position": 1}'),
        clicked_on(5, "s1", text_of(click("i1", experiment="second"))),
        clicked_on(6, "s1", text_of(click("i8", arm=None))),  # on an impression that was in no arm
        clicked_on(7, None, text_of(click("i1"))),
        clicked_on(8, None, text_of(click("i1", experiment="second"))),
    ]
    (row,), counts = made(log, PLAN)
    assert row.clicks == 1
    assert (counts["clicks_unreadable"], counts["clicks_elsewhere"], counts["clicks_without_session"]) == (1, 2, 1)


# Which sessions are left, in how many shards


def test_only_sessions_that_the_experiment_was_in_are_left_with_all_their_users() -> None:
    """Who signs in on the way was never exposed, but it is the same session."""
    log = [
        Logged("i1", "featured_impression", NOON, "anonymous", "s1", None, text_of(exposure("i1"))),
        Logged("v1", "listing_view", NOON + 1, "ann", "s1", "a"),
        Logged("v2", "listing_view", NOON + 1, "ann", "s2", "b"),
        Logged("c2", "featured_click", NOON + 2, "ann", "s2", None, text_of(click("i1"))),
        Logged("i3", "featured_impression", NOON, "bob", "s3", None, text_of(exposure("i3", None, reason="not_in_ramp"))),
        Logged("v3", "listing_view", NOON + 1, "bob", "s3", "b"),
        Logged("i4", "featured_impression", NOON + 2, "eve", "s4", None, text_of(exposure("i4", experiment="second"))),
        Logged("i5", "featured_impression", NOON + 2, "eve", "s5", None, text_of(exposure("i5", version=2))),
    ]
    plan = dataclasses.replace(PLAN, version=1)
    found, chosen = found_in(table_of_events(log), plan), Chosen("first", 1, NOON)
    kept, counts = use_events(table_of_events(log), plan, chosen, found.sessions)
    assert sorted(kept["event_id"].to_pylist()) == ["i1", "v1"]
    assert counts["clicks_elsewhere"] == 1
    everything, _ = use_events(table_of_events(log), plan, chosen)
    assert sorted(everything["event_id"].to_pylist()) == ["c2", "i1", "v1", "v2", "v3"]
    (row,), _ = made(log, plan)
    assert (row.vehicles_viewed, row.user_id) == (1, "anonymous")


def test_sessions_that_are_too_many_to_name_are_all_left(monkeypatch: pytest.MonkeyPatch) -> None:
    log = [Logged(f"i{n}", "featured_impression", NOON, "ann", f"s{n}", None, text_of(exposure(f"i{n}"))) for n in range(4)]
    parts = [found_in(table_of_events(log[:2]), PLAN), found_in(table_of_events(log[1:]), PLAN)]
    known = found_together(parts).sessions
    assert known is not None
    assert len(known) == 4
    monkeypatch.setattr("transforms.session_found.MOST_SESSIONS", 3)
    assert found_together(parts).sessions is None
    assert found_together([found_together(parts), parts[0]]).sessions is None


DAY_NUMBER = NOON // DAY_MS


@pytest.mark.parametrize(
    ("exposed", "shards"),
    [
        (None, 263),  # all that there was since it began
        (MOST_SESSIONS, 210),
        (200_000, 10),
        (10, 4),  # as few as there may be
    ],
)
def test_shards_of_sessions_are_as_many_as_is_left_asks_for(exposed: int | None, shards: int) -> None:
    """4 GB of archive, 140 million events in 40 days, of which three quarters are of use in the last 30."""
    sessions = None if exposed is None else np.zeros(exposed, np.uint64)
    found = Found({}, frozenset(), {DAY_NUMBER + day: 3_500_000 for day in range(-10, 30)}, sessions)
    plan = dataclasses.replace(PLAN, shards=512, least=4)
    assert session_shards(plan, found, Chosen("first", 1, NOON)) == shards
    assert (SHARD_EVENTS, EVENTS_A_SESSION) == (400_000, 20)


@pytest.mark.parametrize(
    ("second", "by_highest"),
    [
        ({}, False),
        ({"arm": "treatment"}, False),
        ({"arm": "treatment", "policy": "weighted_random"}, True),
        ({"arm": "treatment", "policy": None}, True),
        ({"arm": "treatment", "arm_probability": 0.5}, True),
        ({"arm": "treatment", "policy": "weighted_random", "version": 2}, False),
        ({"arm": None, "policy": None, "reason": "not_in_ramp"}, False),
    ],
)
def test_rows_go_by_the_highest_segment_where_arms_choose_differently(second: dict[str, Any], by_highest: bool) -> None:
    log = [
        Logged("i1", "featured_impression", NOON, "ann", "s1", None, text_of(exposure("i1"))),
        Logged("i2", "featured_impression", NOON + 1, "bob", "s2", None, text_of(exposure("i2", **second))),
    ]
    plan = dataclasses.replace(PLAN, version=1)
    chosen = chosen_of(plan, found_together([found_in(table_of_events(part), plan) for part in (log[1:], log[:1])]))
    assert chosen == Chosen("first", 1, NOON, by_highest=by_highest)
    rows, _ = made(log, plan)
    assert rows[0].primary_segment == ("suv" if by_highest else "electric")


def test_versions_are_merged() -> None:
    one = Found({1: Version(2, 5, frozenset({"combined"}))}, frozenset(), {}, None)
    other = Found({1: Version(3, 4, frozenset({None}), bandit=True)}, frozenset(), {}, None)
    assert found_together([one, other]).versions == {1: Version(5, 4, frozenset({"combined", None}), bandit=True)}


def test_events_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    log = [
        Logged(f"i{n}", "featured_impression", NOON + n, "ann", f"s{n // 3}", None, text_of(exposure(f"i{n}"))) for n in range(9)
    ]
    log += [Logged(f"v{n}", "listing_view", NOON + n, "ann", f"s{n // 3}", f"l{n}") for n in range(9)]
    whole = made(log, PLAN)
    assert [(row.impressions, row.vehicles_viewed) for row in whole[0]] == [(3, 3)] * 3
    for most in (1, 2, 4):
        monkeypatch.setattr("transforms.session_slices._AT_A_TIME", most)
        assert made(log, PLAN) == whole


# All sessions


ALL = dataclasses.replace(PLAN, experiment=None)


def test_of_all_sessions_each_has_a_row_without_an_arm_whatever_it_was_in() -> None:
    noon = {"experiment": None, "version": None, "arm": None, "reason": "no_experiment", "unit": None}
    offers = (Offer("suv", 0.7), Offer("van", 0.9))
    log = [
        Logged("h1", "listing_view", NOON - DAY_MS, "ann", "s0", "a"),
        Logged("v0", "listing_view", NOON, "ann", "s1", "a"),  # before the impression
        Logged("i1", "featured_impression", NOON + 1, "ann", "s1", None, text_of(exposure("i1", **noon, segments=offers))),
        Logged("i2", "featured_impression", NOON + 2, "ann", "s1", None, text_of(exposure("i2", segments=()))),
        Logged("v1", "listing_view", NOON + 3, "ann", "s1", "b"),
        Logged("v2", "listing_view", NOON + 4, "bob", "s1", "c"),
        Logged("c1", "featured_click", NOON + 5, "ann", "s1", None, text_of(click("i1", experiment=None, version=None, arm=None))),
        Logged("l1", "lead", NOON + 6, "bob", "s1"),
        Logged("v3", "listing_view", NOON, "eve", "s2", "a"),
        Logged("v4", "listing_view", NOON + 1, "eve", "s2", "a"),
        Logged("l2", "lead", NOON, "eve", "s3"),  # neither seen nor shown anything
        Logged("i3", "featured_impression", NOON, "eve", None, None, text_of(exposure("i3"))),
        Logged("i4", "featured_impression", NOON, "eve", "s3", None, '{"arm": 7}'),
        Logged("i5", "featured_impression", NOON + DAY_MS, "eve", "s4", None, text_of(exposure("i5"))),
    ]
    for batches in (1, 3):
        rows, counts = made(log, ALL, batches)
        by_session = {row.session_id: row for row in rows}
        first = Row("s1", "ann", NOON + 1, DAY, None, 2, "van", 2, 2, 1, 1, 1.0, None, None, None)
        assert by_session == {"s1": first, "s2": Row("s2", "eve", NOON, DAY, None, 0, None, 1, 0, 0, 0, None, None, None, None)}
        assert (counts["exposures"], counts["in_table"], counts["without_session"], counts["unreadable"]) == (5, 2, 1, 1)
        assert (counts["other_dates"], counts["rows"], counts["clicks_elsewhere"]) == (1, 2, 0)
    _, counts = made(log, dataclasses.replace(ALL, first=NEXT, last=NEXT))
    assert (counts["other_dates"], counts["in_table"], counts["before_start"]) == (2, 1, 0)
    rows, counts = made(log, dataclasses.replace(ALL, starts=NOON + 2))
    assert [(row.session_id, row.pre_vehicles, row.segment_count) for row in rows] == [("s1", 1.0, 0)]
    assert counts["before_start"] == 1
