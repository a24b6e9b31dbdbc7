"""The simulated marketplace: the same for the same seed, with the asked shares of trouble, and a truth that holds."""

from __future__ import annotations

import json
import pathlib
import re
from collections import Counter, defaultdict
from typing import Any

import pytest

from pipelines.market import DUPLICATE, EVENT, OUT_OF_ORDER_PLACES, POISON, Emission, Market, events_of, truth_of
from pipelines.poison import REASONS, VARIANTS
from schemas.catalogue import parse_catalogue
from schemas.decoding import Attributes, decode_event
from schemas.errors import ConfigError, EventError
from schemas.instants import DAY_MS, MINUTE_MS, parse_instant

START, END = 1_767_225_600_000, 1_767_225_600_000 + 30 * DAY_MS
ROOT = pathlib.Path(__file__).parents[1]
ATTRIBUTES = Attributes(parse_catalogue((ROOT / "rules/attributes.yaml").read_bytes(), "attributes.yaml"))


def market(**changes: Any) -> Market:
    return Market(**{"events": 20_000, "users": 200, "seed": 7, "start": START, "end": END, **changes})


def clean(emissions: list[Emission]) -> list[dict[str, Any]]:
    return [emission.event for emission in emissions if emission.event is not None and emission.kind == EVENT]


TROUBLED = market(late=0.05, duplicates=0.04, out_of_order=0.1, poison=0.02, reasons=REASONS)


@pytest.fixture(scope="module")
def quiet() -> list[Emission]:
    return list(events_of(market()))


@pytest.fixture(scope="module")
def troubled() -> list[Emission]:
    return list(events_of(TROUBLED))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(troubled: list[Emission]) -> None:
    assert [e.data for e in events_of(TROUBLED)] == [e.data for e in troubled]
    assert [e.data for e in events_of(market(seed=8))][0] != troubled[0].data


def test_an_event_is_its_bytes_in_the_published_order_of_keys(troubled: list[Emission]) -> None:
    for emission in troubled:
        if emission.event is not None:
            assert json.dumps(emission.event, separators=(",", ":")).encode() == emission.data
    keys = ["event_id", "event_type", "event_time", "user_id", "anonymous_id", "session_id", "listing_id", "attributes"]
    view = next(event for event in clean(troubled) if event["event_type"] == "listing_view")
    assert list(view) == keys
    assert list(view["attributes"]) == ["make", "model", "fuel_type", "body_type", "price", "mileage", "year"]
    assert re.fullmatch(r"s7-\d{6}", view["event_id"])


def test_every_clean_event_decodes_with_nothing_dropped(troubled: list[Emission]) -> None:
    for event in clean(troubled):
        decoded = decode_event(json.dumps(event).encode(), ATTRIBUTES, now=None)
        assert (decoded.unknown_attributes, decoded.unknown_values) == (0, 0)
        assert START <= decoded.event.event_time < END


def test_without_trouble_events_come_in_the_order_of_time_and_sessions_are_opened_first(quiet: list[Emission]) -> None:
    assert len(quiet) == 20_000
    assert all(emission.kind == EVENT and not emission.late for emission in quiet)
    times = [event["event_time"] for event in clean(quiet)]
    assert times == sorted(times)
    types = defaultdict(list)
    for event in clean(quiet):
        types[event["session_id"]].append(event["event_type"])
    assert all(kinds[0] == "session_start" and "session_start" not in kinds[1:] for kinds in types.values())
    kinds = Counter(event["event_type"] for event in clean(quiet))
    assert kinds["listing_view"] > 0.7 * 20_000
    assert min(kinds["search"], kinds["lead"], kinds["identify"]) > 0


def test_the_shares_are_as_asked(troubled: list[Emission]) -> None:
    kinds = Counter(emission.kind for emission in troubled)
    assert kinds == {EVENT: 20_000, DUPLICATE: 800, POISON: 400}
    assert sum(emission.late for emission in troubled) == 1_000
    assert len({emission.data for emission in troubled if emission.kind == POISON}) == 400
    reasons = Counter(emission.poison_reason for emission in troubled if emission.kind == POISON)
    assert set(reasons) == set(REASONS)
    assert max(reasons.values()) - min(reasons.values()) <= 1


def test_the_truth_is_the_distinct_clean_events(troubled: list[Emission]) -> None:
    truth = truth_of(troubled)
    assert len(truth) == len({event["event_id"] for event in truth}) == 20_000
    assert truth == clean(troubled)
    assert {e.data for e in troubled if e.kind != POISON} == {json.dumps(event, separators=(",", ":")).encode() for event in truth}


def test_a_duplicate_is_an_exact_copy_of_something_sent_before(troubled: list[Emission]) -> None:
    sent: dict[bytes, int] = {}
    distances = []
    for place, emission in enumerate(troubled):
        if emission.kind == DUPLICATE:
            distances.append(place - sent[emission.data])
        else:
            assert emission.data not in sent
        sent[emission.data] = place
    assert min(distances) < 10
    assert max(distances) > 1_000


# time ──────────►  1   2   3   4   5   6   7        late: 2 is held back by minutes to days, then sent
# emitted:          1   3   4   2   6   5   7        out of order: 5 is held back by a few places
def test_only_late_and_out_of_order_events_leave_the_order_of_time() -> None:
    late = list(events_of(market(late=0.05)))
    assert sum(emission.late for emission in late) == 1_000
    prompt = [event["event_time"] for event in clean([e for e in late if not e.late])]
    assert prompt == sorted(prompt)
    newest, delays = 0, []
    for emission in late:
        assert emission.event is not None
        time = parse_instant(emission.event["event_time"])
        if emission.late:
            delays.append(newest - time)
        newest = max(newest, time)
    assert sum(delay >= MINUTE_MS // 2 for delay in delays) > 900
    assert DAY_MS < max(delays) <= 2 * DAY_MS

    shuffled = [event["event_time"] for event in clean(list(events_of(market(out_of_order=0.1))))]
    places = {time: place for place, time in enumerate(sorted(shuffled))}
    moves = [place - places[time] for place, time in enumerate(shuffled)]
    assert 1_500 < sum(move > 0 for move in moves) <= 2_100
    assert max(abs(move) for move in moves) <= OUT_OF_ORDER_PLACES


def test_an_anonymous_start_is_identified_once_and_named_from_then_on(quiet: list[Emission]) -> None:
    ids = defaultdict(list)
    for event in clean(quiet):
        user = (event["user_id"] or event["anonymous_id"])[1:]
        ids[user].append((event["event_type"] == "identify", event["anonymous_id"], event["user_id"]))
    starts = {user: marks for user, marks in ids.items() if marks[0][2] is None}
    assert 0.2 < len(starts) / len(ids) < 0.4
    identified = 0
    for user, marks in ids.items():
        link = (True, f"a{user}", f"u{user}")
        before = marks.index(link) if link in marks else len(marks) if user in starts else 0
        assert marks[:before] == [(False, f"a{user}", None)] * before
        assert marks[before : before + 1] in ([link], [], [(False, None, f"u{user}")])
        assert marks[before + 1 :] == [(False, None, f"u{user}")] * len(marks[before + 1 :])
        identified += link in marks
    assert 0.5 < identified / len(starts) < 0.9
    assert not [e for e in clean(list(events_of(market(anonymous=0.0)))) if e["anonymous_id"]]


def test_users_have_tastes_and_these_drift() -> None:
    """A user's favourite fuel type is seen far more often than it is by everybody, and for many it isn't the same in the end."""
    views = [e for e in clean(list(events_of(market(anonymous=0.0)))) if e["event_type"] == "listing_view"]
    everybody = Counter(event["attributes"]["fuel_type"] for event in views)
    by_user: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    for event in views:
        if (day := (parse_instant(event["event_time"]) - START) // DAY_MS) < 5 or day >= 25:
            by_user[event["user_id"], day >= 25][event["attributes"]["fuel_type"]] += 1
    favourites = {key: fuels.most_common(1)[0] for key, fuels in by_user.items() if fuels.total() >= 10}
    lifts = [(n / by_user[key].total()) / (everybody[fuel] / len(views)) for key, (fuel, n) in favourites.items()]
    assert sum(lifts) / len(lifts) > 1.5
    both = [user for user, ends in favourites if ends and (user, False) in favourites]
    moved = sum(favourites[user, False][0] != favourites[user, True][0] for user in both)
    assert 0.2 < moved / len(both) < 0.9


@pytest.mark.parametrize(("reason", "variant"), [(reason, i) for reason, forms in VARIANTS.items() for i in range(len(forms))])
def test_poison_is_refused_for_its_reason(reason: str, variant: int) -> None:
    event = next(e for e in clean(list(events_of(market(events=50)))) if e["event_type"] == "listing_view")
    decode_event(json.dumps(event).encode(), ATTRIBUTES, now=END)
    poison = VARIANTS[reason][variant](event)
    assert b"\n" not in poison
    with pytest.raises(EventError) as refused:
        decode_event(poison, ATTRIBUTES, now=END)
    assert refused.value.reason == reason


def test_poison_is_wrong_in_the_way_it_says(troubled: list[Emission]) -> None:
    """By the standard library alone, so that it doesn't depend on our decoder."""
    by_reason = defaultdict(list)
    for emission in troubled:
        by_reason[emission.poison_reason].append(emission.data)
    for data in by_reason["not_utf8"]:
        with pytest.raises(UnicodeDecodeError):
            data.decode()
    for data in by_reason["not_json"]:
        with pytest.raises(json.JSONDecodeError):
            json.loads(data.decode())
    assert all(len(data) > 65_536 for data in by_reason["too_large"])
    assert all(len(data) < 65_536 for reason, messages in by_reason.items() if reason != "too_large" for data in messages)
    assert all(re.search(rb'(\[|\{"a":){33}', data) for data in by_reason["too_deep"])
    parsed = {reason: list(map(json.loads, by_reason[reason])) for reason in ("missing", "no_identity", "future", "bad_time")}
    assert all({"event_id", "event_type", "event_time"} - event.keys() for event in parsed["missing"])
    assert all(event["user_id"] is event["anonymous_id"] is None for event in parsed["no_identity"])
    assert all(parse_instant(event["event_time"]) > END + DAY_MS for event in parsed["future"])
    for event in parsed["bad_time"]:
        with pytest.raises(ValueError, match="must be"):
            parse_instant(event["event_time"])
    assert all(re.search(rb'"price":(NaN|-Infinity|1e999)[,}]', data) for data in by_reason["not_finite"])


def test_live_traffic_takes_its_times_from_the_clock() -> None:
    now = [END]

    def clock() -> int:
        now[0] += 10
        return now[0]

    lags = []
    first: dict[bytes, str] = {}
    for emission in events_of(market(events=2_000, start=END - 20_000, end=END, late=0.1, duplicates=0.1), clock):
        assert emission.event is not None
        if emission.kind == DUPLICATE:
            assert emission.data in first
        else:
            first[emission.data] = emission.event["event_id"]
            lag = now[0] - parse_instant(emission.event["event_time"])
            assert lag >= MINUTE_MS if emission.late else lag == 0
            lags.append(lag)
    assert DAY_MS < max(lags) <= 2 * DAY_MS
    assert len(first) == 2_000


@pytest.mark.parametrize("events", [1, 2, 3])
def test_the_smallest_markets_work(events: int) -> None:
    tiny = market(events=events, users=1, start=0, end=1, late=1.0, duplicates=1.0, out_of_order=1.0, poison=1.0, anonymous=1.0)
    assert len(truth_of(events_of(tiny))) == events


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"poison": 1.5}, "poison == 1.5, must be within [0, 1]"),
        ({"late": float("nan")}, "late == nan, must be within [0, 1]"),
        ({"users": 0}, "users == 0, must be within [1, 1000000]"),
        ({"end": START}, f"end == {START}, must be within [{START + 1}, "),
        ({"reasons": ("sour",)}, "reasons == ('sour',), must be some of not_utf8, "),
    ],
)
def test_a_market_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        market(**changes)
