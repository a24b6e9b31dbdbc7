"""The reference of a day: drawn by hand, against the acceptance's own, against published intervals, and its laws."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import pathlib
import random
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from tests.reference import DAY_MS, SeenView
from tests.reference_day import DayCounts, Mark, day_of, member_after, rates_of, views_of_events, wilson
from tests.strategies import START, Spec, rule_specs, seen_views

ROOT = pathlib.Path(__file__).parents[1]
ACCEPTANCE = pathlib.Path(os.environ.get("FORECOURT_ACCEPTANCE", ROOT.parent / "shared" / "acceptance"))
HOUR_MS = 3_600_000
TODAY = START + 20 * DAY_MS
# One view in is enough, and out means that most of the window doesn't match.
QUICK: dict[str, Any] = {"when": {"fuel_type": "electric"}, "min_views": 1, "enter": 0.5, "exit": 0.5}


def drawn(picture: str, first: int, step: int = HOUR_MS) -> list[SeenView]:
    """One character each ``step`` ms from ``first`` on: ``E`` an electric view, ``o`` another one, ``.`` none."""
    places = enumerate(picture.replace(" ", ""))
    kinds = {"E": "electric", "o": "diesel"}
    return [SeenView(first + k * step, f"e{first + k * step}", {"fuel_type": kinds[mark]}) for k, mark in places if mark != "."]


def day(*pictures: str, first: int = TODAY, **spec: Any) -> DayCounts:
    """The day of users with these views."""
    return day_of({f"u{n}": drawn(picture, first) for n, picture in enumerate(pictures)}, QUICK | spec, TODAY)


# --- drawn ---------------------------------------------------------------------------------------------------------------


def test_a_view_is_judged_by_the_membership_just_before_it() -> None:
    # views    E  o  o  E  E  o      shares 1, 1/2, 1/3, 2/4, 3/5, 3/6
    # before   -  M  M  -  M  M      so fn, fp, fp, fn, tp, fp; in, out, in: three flips, and inside at 24:00
    assert day("E o o E E o") == DayCounts(tp=1, fp=3, fn=2, tn=0, members=1, entered=1, left=0, flips=3, inside=1)


def test_users_are_summed_and_each_is_counted_once() -> None:
    # E E   fn tp, stays;   E o o   fn fp fp, in and out again;   o o   tn tn, never
    assert day("E E", "E o o", "o o") == DayCounts(tp=1, fp=2, fn=2, tn=2, members=1, entered=1, left=0, flips=3, inside=2)


def test_a_member_of_yesterday_leaves_by_expiry_without_a_view() -> None:
    # a window of a day:   yesterday 06:00 E | today 06:00 it expires
    yesterday = TODAY - DAY_MS + 6 * HOUR_MS
    expected = DayCounts(tp=0, fp=0, fn=0, tn=0, members=0, entered=0, left=1, flips=1, inside=1)
    assert day("E", first=yesterday, window="1d") == expected


def test_a_user_comes_back_as_views_expire() -> None:
    # a window of a day:   yesterday 06:00 E o o o E E 11:00 | today 06:00 2/5, 07:00 2/4, … 11:00 nothing is left
    # inside at 00:00 by 3/6; out, in, out at 06:00, 07:00, 11:00
    yesterday = TODAY - DAY_MS + 6 * HOUR_MS
    expected = DayCounts(tp=0, fp=0, fn=0, tn=0, members=0, entered=0, left=1, flips=3, inside=1)
    assert day("E o o o E E", first=yesterday, window="1d") == expected


def test_both_midnights_are_seen_from_the_left() -> None:
    # a view at W before 00:00 still counts just before 00:00, and expires at 00:00: inside then, a flip of this day
    expected = DayCounts(tp=0, fp=0, fn=0, tn=0, members=0, entered=0, left=1, flips=1, inside=1)
    assert day("E", first=TODAY - DAY_MS, window="1d") == expected
    # a ms older it is gone before this day begins
    assert day("E", first=TODAY - DAY_MS - 1, window="1d") == DayCounts(*[0] * 9)
    # a view that expires at 24:00 still counts at 24:00; one that comes at 24:00 is of the next day
    assert day("E", window="1d") == DayCounts(tp=0, fp=0, fn=1, tn=0, members=1, entered=1, left=0, flips=1, inside=1)
    assert day("E", first=TODAY + DAY_MS) == DayCounts(*[0] * 9)


def test_a_view_that_is_a_window_old_counts_just_before_and_not_at_the_next_one() -> None:
    # a window of an hour:   E at 0, o at 1: just before it a member, at it the window is o alone
    assert day("E o", window="1h") == DayCounts(tp=0, fp=1, fn=1, tn=0, members=0, entered=0, left=0, flips=2, inside=1)


def test_views_of_one_instant_are_judged_by_the_same_membership() -> None:
    # E, then [o E o] at once: all three by a member; then 2/4 stays
    together = [SeenView(TODAY, "a", {"fuel_type": "electric"})]
    together += [
        SeenView(TODAY + HOUR_MS, name, {"fuel_type": kind}) for name, kind in zip("bcd", ("lpg", "electric", "lpg"), strict=True)
    ]
    counted = day_of({"u": together[::-1]}, QUICK, TODAY)
    assert counted == DayCounts(tp=1, fp=2, fn=1, tn=0, members=1, entered=1, left=0, flips=1, inside=1)


def test_a_copy_counts_once_and_a_view_without_the_attribute_does_not_match() -> None:
    views = [
        SeenView(TODAY, "a", {"fuel_type": "electric"}),
        SeenView(TODAY, "a", {"fuel_type": "electric"}),
        SeenView(TODAY + 1, "b", {}),
    ]
    assert day_of({"u": views}, QUICK, TODAY)[:4] == (0, 1, 1, 0)


def test_only_the_newest_thousand_views_count() -> None:
    # o, 500 E, 500 o, then at noon an E: of all of them 500/1,001 match, of the newest 1,000 just before noon 500
    E, o = {"fuel_type": "electric"}, {"fuel_type": "lpg"}
    views = [SeenView(TODAY - 2_000 + k, f"{k:04}", o if k == 0 or k > 500 else E) for k in range(1_001)]
    noon = SeenView(TODAY + 12 * HOUR_MS, "noon", E)
    counted = day_of({"u": [*views, noon]}, QUICK, TODAY)
    assert counted == DayCounts(tp=1, fp=0, fn=0, tn=0, members=1, entered=0, left=0, flips=0, inside=1)


def test_what_has_no_denominator_is_none() -> None:
    assert set(rates_of(DayCounts(*[0] * 9))) == {None}
    no_match = rates_of(DayCounts(tp=0, fp=0, fn=0, tn=7, members=0, entered=0, left=0, flips=0, inside=0))
    assert (no_match.precision, no_match.recall, no_match.base_rate, no_match.lift) == (None, None, 0.0, None)
    assert rates_of(DayCounts(0, 3, 0, 4, 1, 1, 0, 1, 1)).lift is None, "a precision of 0 over a base rate of 0"


def test_the_rates_of_counts() -> None:
    rates = rates_of(DayCounts(tp=15, fp=133, fn=5, tn=47, members=8, entered=2, left=1, flips=6, inside=9))
    assert (rates.precision, rates.recall, rates.base_rate) == (15 / 148, 0.75, 0.1)
    assert rates.flips_per_member == 6 / 9
    assert rates.lift == pytest.approx(150 / 148)
    assert (rates.precision_low, rates.precision_high) == wilson(15, 148)
    assert (rates.recall_low, rates.recall_high) == wilson(15, 20)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_published_one(hits: int, trials: int, low: float, high: float) -> None:
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, score method without continuity correction
    assert wilson(hits, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(trials - hits, trials) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_views_of_events() -> None:
    def event(event_id: str, time: str, **more: Any) -> dict[str, Any]:
        return {"event_id": event_id, "event_type": "listing_view", "event_time": time, "user_id": "u", **more}

    lines = [
        event("b", "1970-01-01T00:00:00.0029Z", attributes={"price": 1}),
        event("a", "1970-01-01T00:00:00.002Z", attributes=None),
        event("b", "1970-01-01T01:00:00.001+01:00"),  # the same event, earlier
        event("s", "1970-01-01T00:00:00Z", event_type="search"),
        event("b", "1970-01-01T00:00:00Z", user_id=None, anonymous_id="n"),
    ]
    assert views_of_events(lines) == {"u": [SeenView(1, "b", {}), SeenView(2, "a", {})], "n": [SeenView(0, "b", {})]}


# --- laws ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(seen_views(), rule_specs())
def test_sums_carried_on_answer_as_sums_made_anew(seen: list[SeenView], spec: Spec) -> None:
    ordered = reference.distinct(seen)
    marks = [Mark(view.time, reference.matches(spec["when"], view.attributes)) for view in ordered]
    for size in range(len(marks) + 1):
        assert member_after(marks[:size], spec) == reference.replay(ordered[:size], spec).member


@settings(max_examples=60)
@given(st.lists(seen_views(), min_size=1, max_size=3), rule_specs())
def test_the_days_of_a_life_add_up(seen: list[list[SeenView]], spec: Spec) -> None:
    users = {f"u{n}": views for n, views in enumerate(seen)}
    days = [day_of(users, spec, START + k * DAY_MS) for k in range(-1, 24)]
    assert sum(sum(each[:4]) for each in days) == sum(len(views) for views in seen), "each view is judged once"
    members = 0
    for each in days:
        members += each.entered - each.left
        assert each.members == members
        assert each.members <= each.inside
        assert each.flips >= each.entered + each.left
        assert (each.flips - each.entered - each.left) % 2 == 0, "who flips an even number of times is where he was"
    assert members == 0, "nobody is kept past the window"


# --- against the acceptance's own reference ------------------------------------------------------------------------------


def acceptance() -> ModuleType:
    path = ACCEPTANCE / "oracle.py"
    if not path.is_file():
        pytest.skip("the acceptance's reference isn't here (FORECOURT_ACCEPTANCE names its folder)")
    spec = importlib.util.spec_from_file_location("acceptance_oracle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_as_the_acceptance_says(events: list[dict[str, Any]], date: str) -> None:
    oracle, document = acceptance(), yaml.safe_load((ACCEPTANCE / "rules.yaml").read_text())
    day_start = oracle.micros(f"{date}T00:00:00Z")
    known = [
        {**event, "t": oracle.micros(event["event_time"]), "user": event["user_id"] or event["anonymous_id"]} for event in events
    ]
    want = oracle.evaluate_day(oracle.by_user(known), oracle.load_rules(document), day_start)
    views = views_of_events(events)
    for segment in document["segments"]:
        counted = day_of(views, document["defaults"] | segment, day_start // 1_000)
        expected = want[segment["name"]]
        assert [counted.tp, counted.fp, counted.fn, counted.tn] == [expected[name] for name in ("tp", "fp", "fn", "tn")], segment
        assert rates_of(counted)[:2] == (expected["precision"], expected["recall"])


@pytest.mark.parametrize("seed", range(3))
def test_the_acceptance_agrees_on_drawn_events(seed: int) -> None:
    rng = random.Random(seed)
    step_s = rng.choice([60, 3_600, 21_600])  # few distinct instants: many views share one, many expire as others come
    events = []
    for n in range(900):
        seconds = 12 * 86_400 - 1 - step_s * rng.randrange(12 * 86_400 // step_s)
        days, rest = divmod(seconds, 86_400)
        time = f"2026-03-{1 + days:02}T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"
        user = rng.randrange(8)
        taste = rng.random() < 0.5
        attributes = {
            "fuel_type": "electric" if taste else rng.choice(["petrol", "hybrid", "diesel"]),
            "body_type": "suv" if rng.random() < 0.5 else "hatchback",
            "price": rng.choice([8_000, 20_000, 40_000, 60_000]),
            "mileage": rng.choice([10_000.0, 30_000.0, 90_000.0]),
        }
        kept = {name: value for name, value in attributes.items() if rng.random() < 0.95}
        ids = {"user_id": f"u{user}", "anonymous_id": None} if user else {"user_id": None, "anonymous_id": "n"}
        kind = "listing_view" if rng.random() < 0.95 else "search"
        events.append({"event_id": f"e{n}", "event_type": kind, "event_time": time, **ids, "attributes": kept})
    events += rng.sample(events, 30)
    assert_as_the_acceptance_says(events, "2026-03-11")
    assert_as_the_acceptance_says(events, "2026-03-12")


def test_the_acceptance_agrees_on_a_day_of_a_real_shop() -> None:
    path = ACCEPTANCE.parent / "data" / "retail_views.jsonl.gz"
    if not path.is_file():
        pytest.skip("the shop's events aren't here (data/ beside the folder that FORECOURT_ACCEPTANCE names)")
    with gzip.open(path, "rt") as file:
        events = [json.loads(line) for line in file]
    assert_as_the_acceptance_says([event for event in events if "2011-01-28" <= event["event_time"] < "2011-02-09"], "2011-02-08")
