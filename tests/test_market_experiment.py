"""An experiment in the simulated marketplace: the market stays what it is, and what was planted is found by counting."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.assignment import assign, with_segment
from pipelines.listings import LISTINGS
from pipelines.market import LISTING_VIEW, Market, events_of, plan_of, truth_of
from pipelines.market_effects import others_of, repeats, with_views
from pipelines.market_experiment import SEGMENTS, SHARE_WITHOUT_SEGMENTS, Planted, Trial
from pipelines.poison import Event
from pipelines.simulate import run
from schemas.decoding import Attributes, decode_event
from schemas.errors import ConfigError
from schemas.experiments import parse_experiments
from schemas.exposure import Exposure
from schemas.instants import DAY_MS, date_of, parse_instant
from tests.exposures import click_of, exposure_of
from tests.session_logs import Logged, made
from tests.strategies import CATALOGUE
from transforms.session_found import Plan

END = parse_instant("2026-05-21T00:00:00Z")
STARTS = parse_instant("2026-05-11T00:00:00Z")
YAML = """
version: 4
layers: [{name: featured}]
experiments:
  - name: first
    version: 2
    layer: featured
    slice: [0, 0.8]
    unit: session
    ramp: 0.9
    starts: 2026-05-11T00:00:00Z
    arms:
      - {name: control, weight: 1, shows: false, policy: combined}
      - {name: treatment, weight: 1, shows: true, policy: combined}
    segments: {sedan: {running: false}, suv: {ramp: 0.9}}
  - {name: second, version: 1, layer: featured, slice: [0.8, 1], unit: session, ramp: 1,
     arms: [{name: control, weight: 1, shows: false}, {name: treatment, weight: 1, shows: true}]}
"""
EXPERIMENTS = parse_experiments(YAML, "experiments.yaml")
EFFECTS = {"electric": 1.5, "suv": -0.6}
KEYS = ["event_id", "event_type", "event_time", "user_id", "anonymous_id", "session_id", "listing_id", "attributes", "experiment"]


def market(**changes: Any) -> Market:
    return Market(**{"events": 60_000, "users": 2_000, "seed": 5, "start": END - 20 * DAY_MS, "end": END, **changes})


def truth(config: Market, effects: dict[str, float] | None) -> list[Event]:
    change = None if effects is None else Trial(config, Planted(EXPERIMENTS, "first", effects))
    return truth_of(events_of(config, change=change))


@pytest.fixture(scope="module")
def planted() -> list[Event]:
    return truth(market(), EFFECTS)


@pytest.fixture(scope="module")
def plain() -> list[Event]:
    return truth(market(), {})


def of(kind: str, events: list[Event]) -> list[Event]:
    return [event for event in events if event["event_type"] == kind]


def test_without_an_experiment_the_bytes_are_what_they_always_were(tmp_path: Path) -> None:
    trouble = "--late 0.05 --duplicates 0.1 --out-of-order 0.1 --poison 0.02 --users 50 --seed 9".split()
    to = ["--to", f"file:{tmp_path / 'e.jsonl'}", "--truth", str(tmp_path / "t.jsonl")]
    assert run(["--events", "5000", "--until", "2026-05-21T00:00:00Z", *trouble, *to]) == 0
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:16] for name in ("e.jsonl", "t.jsonl")]
    assert digests == ["4d76d04f91f86034", "0a216a3fcf58f24f"]


def test_the_same_seed_gives_the_same_bytes_whatever_the_trouble_about_them() -> None:
    config = market(events=15_000, late=0.05, duplicates=0.05, out_of_order=0.1, poison=0.02)
    planted = truth(market(events=15_000), EFFECTS)
    trial = [list(events_of(config, change=Trial(config, Planted(EXPERIMENTS, "first", EFFECTS)))) for _ in range(2)]
    assert [each.data for each in trial[0]] == [each.data for each in trial[1]]
    by_id = {event["event_id"]: event for event in truth_of(trial[0])}
    assert by_id == {event["event_id"]: event for event in planted}
    assert sum(each.kind == "duplicate" for each in trial[0]) == round(0.05 * len(planted))


def test_an_experiment_without_effects_only_adds_its_own_events(plain: list[Event]) -> None:
    bare = truth(market(), None)
    ours = ("featured_impression", "featured_click")
    assert [event for event in plain if event["event_type"] not in ours] == bare
    sessions = {event["session_id"] for event in bare}
    assert Counter(event["session_id"] for event in of(ours[0], plain)) == Counter(sessions)


def test_events_that_stay_keep_their_ids_and_new_ones_have_new_ids(planted: list[Event], plain: list[Event]) -> None:
    before, after = ({event["event_id"]: event for event in events} for events in (plain, planted))
    assert len(after) == len(planted)
    kept = [event_id for event_id in before if event_id in after]
    assert all(before[event_id] == after[event_id] for event_id in kept)
    for event_id in before.keys() - after.keys():
        assert before[event_id]["event_type"] in {"listing_view", "lead", "featured_click"}
    for event_id in after.keys() - before.keys():
        event = after[event_id]
        assert event["event_type"] == "featured_click" or re.fullmatch(r"s5-\d{6}-\d+", event_id)
    times = [event["event_time"] for event in planted]
    assert times == sorted(times)
    assert all(END - 20 * DAY_MS <= parse_instant(time) < END for time in (times[0], times[-1]))


def test_every_session_is_exposed_as_it_is_assigned_soon_after_it_begins(planted: list[Event]) -> None:
    starts = {event["session_id"]: event for event in of("session_start", planted)}
    attributes = Attributes(CATALOGUE)
    reasons: Counter[str] = Counter()
    segments: dict[str, set[Any]] = defaultdict(set)
    for event in of("featured_impression", planted):
        assert list(event) == KEYS
        exposure, start = exposure_of(event["experiment"]), starts[event["session_id"]]
        at = parse_instant(event["event_time"])
        assert 0 <= at - parse_instant(start["event_time"]) <= 500
        decoded = decode_event(json.dumps(event).encode(), attributes, None).event
        assert exposure_of(decoded.experiment) == exposure
        user = event["user_id"] or event["anonymous_id"]
        assigned = assign(EXPERIMENTS, "featured", session=event["session_id"], user=user, now=at)
        assigned = with_segment(assigned, exposure.segment, EXPERIMENTS)
        found = (exposure.experiment, exposure.version, exposure.arm, exposure.shown, exposure.reason, exposure.unit)
        assert found == (assigned.experiment, assigned.version, assigned.arm, assigned.shows, assigned.reason, event["session_id"])
        assert exposure.impression_id == event["event_id"]
        assert exposure.triggered == bool(exposure.segments) == (exposure.segment is not None)
        assert [offer.name for offer in exposure.segments[:1]] == ([exposure.segment] if exposure.segment else [])
        assert [offer.score for offer in exposure.segments] == sorted((offer.score for offer in exposure.segments), reverse=True)
        reasons[exposure.reason] += 1
        segments[user[1:]].add(exposure.segments)
    assert all(len(each) == 1 for each in segments.values()), "a user's segments stay"
    without = sum(each == {()} for each in segments.values()) / len(segments)
    assert SHARE_WITHOUT_SEGMENTS - 0.05 < without < SHARE_WITHOUT_SEGMENTS + 0.1
    assert min(reasons[reason] for reason in ("assigned", "not_running", "not_in_ramp", "segment_off", "segment_not_in_ramp")) > 5


def test_a_click_is_on_the_impression_of_its_session_and_comes_after_it(planted: list[Event]) -> None:
    impressions = {event["event_id"]: event for event in of("featured_impression", planted)}
    clicks = of("featured_click", planted)
    assert 0.05 < len(clicks) / len(impressions) < 0.25
    for event in clicks:
        click = click_of(event["experiment"])
        shown = impressions[click.impression_id]
        assert event["event_id"] == f"{click.impression_id}:click"
        assert (event["session_id"], event["listing_id"]) == (shown["session_id"], shown["listing_id"])
        assert (click.experiment, click.arm) == (shown["experiment"]["experiment"], shown["experiment"]["arm"])
        assert parse_instant(event["event_time"]) > parse_instant(shown["event_time"])


def counted(events: list[Event]) -> dict[tuple[str | None, str | None], dict[str, float]]:
    """By segment and arm of ``first``: means a session of views, distinct listings, clicks and leads."""
    groups: dict[str, tuple[str | None, str | None]] = {}
    for event in of("featured_impression", events):
        body = event["experiment"]
        groups[event["session_id"]] = (body["segment"], body["arm"] if body["experiment"] == "first" else None)
    sums: dict[Any, Counter[str]] = defaultdict(Counter)
    seen: set[tuple[str, str]] = set()
    leads: set[str] = set()
    for event in events:
        group, kind = sums[groups[event["session_id"]]], event["event_type"]
        group["sessions"] += kind == "featured_impression"
        group["clicks"] += kind == "featured_click"
        group["views"] += kind == "listing_view"
        if kind == "listing_view" and (event["session_id"], event["listing_id"]) not in seen:
            seen.add((event["session_id"], event["listing_id"]))
            group["listings"] += 1
        if kind == "lead" and event["session_id"] not in leads:
            leads.add(event["session_id"])
            group["leads"] += 1
    return {key: {name: each[name] / each["sessions"] for name in (*each, "clicks", "leads")} for key, each in sums.items()}


def test_planted_effects_are_found_by_counting_and_nothing_else_changes(planted: list[Event], plain: list[Event]) -> None:
    before, after = counted(plain), counted(planted)
    for (segment, arm), means in after.items():
        was = before[segment, arm]
        effect = EFFECTS.get(segment or "", 0.0) if arm == "treatment" else 0.0
        if not effect:
            assert means == was, (segment, arm)
            continue
        for name, near in (("views", 0.12), ("listings", 0.12), ("clicks", 0.5), ("leads", 0.5)):
            assert abs(means[name] / was[name] / (1 + effect) - 1) < near, (segment, name)
    assert {segment for segment, arm in after if arm == "treatment"} >= set(EFFECTS)


def test_an_effect_of_minus_one_leaves_nothing_to_view() -> None:
    after = counted(truth(market(events=20_000), {"suv": -1.0}))
    assert {name: after["suv", "treatment"][name] for name in ("views", "clicks", "leads")} == {"views": 0, "clicks": 0, "leads": 0}
    assert after["suv", "control"]["views"] > 4


def test_views_are_multiplied_exactly_in_expectation_distinct_listings_too() -> None:
    config = market(events=30_000)
    visits = plan_of(config).visits
    sessions = int(visits.sessions.max())
    for factor in (0.7, 1.3, 2.5):
        changed = with_views(visits, np.full(sessions, factor), np.random.default_rng(0), config.end)
        for each in (_views, _distinct):
            assert each(changed) / each(visits) == pytest.approx(factor, rel=0.02)
        assert np.all(np.diff(changed.times) >= 0)
        assert len(np.unique(changed.numbers * 100 + changed.added)) == len(changed.times)
    same = with_views(visits, np.ones(sessions), np.random.default_rng(0), config.end)
    assert all(np.array_equal(getattr(visits, name), getattr(same, name)) for name in visits._fields)


def _views(visits: Any) -> int:
    return int((visits.types == LISTING_VIEW).sum())


def _distinct(visits: Any) -> int:
    views = visits.types == LISTING_VIEW
    return len(np.unique(visits.sessions[views] * LISTINGS + visits.listings[views]))


def test_repeats_are_the_factor_in_expectation() -> None:
    drawn = (np.arange(1_000) + 0.5) / 1_000
    for factor in (0.0, 0.25, 1.0, 1.3, 3.75):
        assert repeats(np.full(1_000, factor), drawn).mean() == pytest.approx(factor, abs=0.001)


def test_another_listing_is_one_that_the_session_does_not_have() -> None:
    pairs = np.array([3 * LISTINGS + listing for listing in range(LISTINGS - 2)] + [4 * LISTINGS + 1])
    found = others_of(pairs, np.array([0, 5, LISTINGS - 2, LISTINGS - 2]), np.arange(len(pairs)))
    assert sorted(found[:2].tolist()) == [LISTINGS - 2, LISTINGS - 1]
    assert len({1, *found[2:].tolist()}) == 3


@pytest.mark.parametrize("events", [1, 2, 3])
def test_the_smallest_markets_work(events: int) -> None:
    tiny = market(events=events, users=1, start=0, end=1, late=1.0, duplicates=1.0, anonymous=1.0)
    found = truth(tiny, {segment: 5.0 for segment in SEGMENTS})
    assert len(of("featured_impression", found)) == len(of("session_start", found)) > 0


def test_where_users_are_the_unit_it_is_the_id_that_the_gateway_goes_by() -> None:
    by_user = parse_experiments(YAML.replace("unit: session", "unit: user"), "e.yaml")
    config = market(events=3_000, users=50, anonymous=0.5)
    events = truth_of(events_of(config, change=Trial(config, Planted(by_user, "first"))))
    units = {event["experiment"]["unit"] for event in of("featured_impression", events)}
    assert units == {event["user_id"] or event["anonymous_id"] for event in of("featured_impression", events)}
    assert {unit[0] for unit in units} == {"a", "u"}


BANDIT = """
version: 7
layers: [{name: featured}]
experiments:
  - name: policies
    version: 3
    layer: featured
    unit: session
    ramp: 1
    bandit: {floor: 0.05, holdout: 0.3}
    arms:
      - {name: control, weight: 1, shows: false, policy: highest_score}
      - {name: highest_score, weight: 1, shows: true, policy: highest_score}
      - {name: weighted_random, weight: 2, shows: true, policy: weighted_random}
    allocation:
      electric: {control: 0.1, highest_score: 0.2, weighted_random: 0.7}
      suv: {control: 0.6, highest_score: 0.3, weighted_random: 0.1}
"""
ARMS = ("control", "highest_score", "weighted_random")
SHARES = {"electric": (0.1, 0.2, 0.7), "suv": (0.6, 0.3, 0.1)}


def as_archived(event: Event) -> Logged:
    user = event["user_id"] or event["anonymous_id"]
    body = event.get("experiment")
    text = None if body is None else json.dumps(body)
    at = parse_instant(event["event_time"])
    return Logged(event["event_id"], event["event_type"], at, user, event["session_id"], event["listing_id"], text)


def test_arms_follow_the_bandits_allocation_in_the_sessions_table_and_the_holdout_is_even() -> None:
    config = market(events=30_000)
    effects = {"electric": 0.5}
    events = truth_of(events_of(config, change=Trial(config, Planted(parse_experiments(BANDIT, "b.yaml"), "policies", effects))))
    first, last = (date_of(parse_instant(events[place]["event_time"])) for place in (0, -1))
    rows, _ = made([as_archived(event) for event in events], Plan("policies", None, None, first, last, "s.csv", 2, 0, None))
    for segment in (*SHARES, "sedan", None):
        # Without an allocation, and for who has no segments, it goes by the weights.
        for holdout, shares in ((False, SHARES.get(segment or "", (0.25, 0.25, 0.5))), (True, (1 / 3,) * 3)):
            chosen = [row for row in rows if (row.primary_segment, row.holdout) == (segment, holdout)]
            counts = Counter(row.arm for row in chosen)
            assert len(chosen) > 25, (segment, holdout)
            expected = [share * len(chosen) for share in shares]
            assert stats.chisquare([counts[arm] for arm in ARMS], expected).pvalue > 1e-3, (segment, holdout, counts)
            probability = dict(zip(ARMS, shares, strict=True))
            assert all(row.arm_probability == pytest.approx(probability[row.arm or ""]) for row in chosen)
    assert 0.25 < sum(bool(row.holdout) for row in rows) / len(rows) < 0.35

    for event in of("featured_impression", events):
        exposure = exposure_of(event["experiment"])
        worth = {offer.name: offer.score for offer in exposure.segments}
        assert (exposure.segment is None) == (not worth)
        if exposure.policy == "weighted_random" and exposure.segment is not None:
            assert exposure.probability == pytest.approx(worth[exposure.segment] / sum(worth.values()))
        else:
            assert (exposure.segment, exposure.probability) == (max(worth, key=lambda name: worth[name], default=None), 1.0)
    drawn = [(each, each.segments[0]) for each in map(_exposure_of, of("featured_impression", events)) if len(each.segments) == 2]
    others = [each.segment != first.name for each, first in drawn if each.policy == "weighted_random"]
    expected_share = np.mean([each.segments[1].score / (first.score + each.segments[1].score) for each, first in drawn])
    assert np.mean(others) == pytest.approx(expected_share, abs=4 * 0.5 / len(others) ** 0.5)  # four standard errors


def _exposure_of(event: Event) -> Exposure:
    return exposure_of(event["experiment"])


def test_the_effect_is_that_of_the_segment_that_was_shown() -> None:
    config = market(events=12_000)
    experiments = parse_experiments(BANDIT, "b.yaml")
    trials = [Trial(config, Planted(experiments, "policies", effects)) for effects in ({}, {"suv": -1.0})]
    plain, changed = (truth_of(events_of(config, change=trial)) for trial in trials)
    shown = {event["session_id"]: _exposure_of(event) for event in of("featured_impression", changed)}
    viewed = Counter(event["session_id"] for event in of("listing_view", changed))
    before = Counter(event["session_id"] for event in of("listing_view", plain))
    gone = [session for session, exposure in shown.items() if exposure.shown and exposure.segment == "suv"]
    assert any(shown[session].segments[0].name != "suv" for session in gone)
    assert not any(viewed[session] for session in gone)
    assert all(viewed[session] == before[session] for session in shown.keys() - gone)


def test_a_policy_that_nobody_knows_is_refused() -> None:
    unknown = parse_experiments(BANDIT.replace("policy: weighted_random", "policy: by_mood"), "b.yaml")
    with pytest.raises(ConfigError, match="experiments == policies, must have policies that are known: policy == 'by_mood', must"):
        Planted(unknown, "policies")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--effect electric=0.3", "--effect == 'electric=0.3', must come with --experiments and --experiment"),
        ("--experiment first", "--experiment == 'first', must come with --experiments"),
        ("--experiments {file}", ", must come with --experiment"),
        ("--experiments nowhere.yaml --experiment first", "--experiments == 'nowhere.yaml', must be an experiments file"),
        ("--experiments {file} --experiment third", "--experiment == 'third', must be one of the file's: first, second"),
        ("--experiments {file} --experiment first --effect electric", "must be SEGMENT=RELATIVE, such as electric=0.3"),
        ("--experiments {file} --experiment first --effect suv=1 --effect suv=2", "'suv=2', must be SEGMENT=RELATIVE"),
        ("--experiments {file} --experiment first --effect tank=1", "'tank=1', must be of one of the segments petrol, "),
        ("--experiments {file} --experiment first --effect suv=-1.5", "'suv=-1.5', must be within [-1, 5]"),
    ],
)
def test_bad_options_are_named(options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.yaml").write_text(YAML)
    given = options.format(file=tmp_path / "e.yaml").split()
    assert run(["--events", "10", "--to", f"file:{tmp_path / 'events.jsonl'}", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "events.jsonl").exists()


def test_an_experiment_must_be_one_of_the_file() -> None:
    with pytest.raises(ConfigError, match="must be one of the file's: it has none"):
        Planted(EXPERIMENTS._replace(experiments=()), "first")
