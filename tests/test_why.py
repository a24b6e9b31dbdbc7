"""What a user is told: conditions, counts and dates as a person would say them, true to the rules that made the segments."""

from __future__ import annotations

import itertools
import json
from typing import Any, Final, get_args

import pytest
from hypothesis import given

from rules import RULES_PATH
from schemas.catalogue import Attribute, Catalogue, parse_catalogue
from schemas.instants import DAY_MS, HOUR_MS, MINUTE_MS, parse_date
from schemas.profile_row import Profile
from schemas.rules import Band, Condition, Equals, Not, Rule, parse_rules
from serving.reader import Reason, SegmentsRead
from serving.segments import Segment
from serving.why import counted, date_words, percent, profile_words, rule_words, sentences_of, span_words, summary_of, why
from serving.why_words import clause_of, words_of
from tests.strategies import CATALOGUE, START, Spec, conditions
from transforms.conditions import predicate_of

SHIPPED: Final = parse_rules(open(RULES_PATH, "rb").read(), CATALOGUE, "segments.yaml")
AT: Final = START + 120 * DAY_MS + 12 * HOUR_MS  # 2026-05-01T12:00:00Z


def condition_of(when: Spec) -> Condition:
    return rule_of(when).when


def rule_of(when: Spec | None = None, **fields: Any) -> Rule:
    body = {"name": "r", "when": when or {"fuel_type": "electric"}, **fields}
    return parse_rules(json.dumps({"version": 1, "segments": [body]}), CATALOGUE, "rules.yaml").rules[0]


def fuel(*values: str) -> Equals:
    return Equals("fuel_type", frozenset(values))


# Conditions


@pytest.mark.parametrize(
    ("when", "words", "clause"),
    [
        ({"fuel_type": "electric"}, "electric", "were electric"),
        ({"fuel_type": ["hybrid", "plug_in_hybrid"]}, "hybrid or plug in hybrid", "were hybrid or plug in hybrid"),
        ({"fuel_type": ["petrol", "lpg", "cng"]}, "CNG, LPG or petrol", "were CNG, LPG or petrol"),
        ({"body_type": ["suv", "mpv"]}, "of the body type MPV or SUV", "were of the body type MPV or SUV"),
        ({"make": "Land Rover"}, "made by Land Rover", "were made by Land Rover"),
        ({"model": "Mustang Mach-E"}, "of the model Mustang Mach-E", "were of the model Mustang Mach-E"),
        ({"price": 9999.5}, "with a price of 9,999.5", "had a price of 9,999.5"),
        ({"price": [20000, 10000]}, "with a price of 10,000 or 20,000", "had a price of 10,000 or 20,000"),
        ({"price": {"gte": 40000}}, "with a price of at least 40,000", "had a price of at least 40,000"),
        ({"price": {"lt": 12000}}, "with a price below 12,000", "had a price below 12,000"),
        (
            {"price": {"gt": 0, "lte": 5e6}},
            "with a price above 0 and of at most 5,000,000",
            "had a price above 0 and of at most 5,000,000",
        ),
        ({"mileage": {"lte": 30000}}, "with a mileage of at most 30,000 km", "had a mileage of at most 30,000 km"),
        (
            {"mileage": {"gte": 1, "lt": 1000}},
            "with a mileage of at least 1 km and below 1,000 km",
            "had a mileage of at least 1 km and below 1,000 km",
        ),
        ({"year": {"gte": 2020}}, "with a year of manufacture of at least 2020", "had a year of manufacture of at least 2020"),
        ({"year": 2020}, "with a year of manufacture of 2020", "had a year of manufacture of 2020"),
        ({"not": {"fuel_type": "diesel"}}, "not diesel", "were not diesel"),
        ({"not": {"fuel_type": ["diesel", "petrol"]}}, "not diesel or petrol", "were not diesel or petrol"),
        ({"not": {"price": {"lt": 5000}}}, "not with a price below 5,000", "did not have a price below 5,000"),
        ({"not": {"not": {"fuel_type": "diesel"}}}, "diesel", "were diesel"),
        (
            {"fuel_type": "electric", "price": {"lt": 30000}},
            "electric and with a price below 30,000",
            "were electric and had a price below 30,000",
        ),
        (
            {"any": [{"fuel_type": "electric"}, {"price": {"lt": 9000}}, {"make": "Kia"}]},
            "electric, with a price below 9,000 or made by Kia",
            "were electric, had a price below 9,000 or were made by Kia",
        ),
        (
            {"fuel_type": "electric", "any": [{"body_type": "suv"}, {"price": {"lt": 9000}}]},
            "electric and (of the body type SUV or with a price below 9,000)",
            "were electric and (were of the body type SUV or had a price below 9,000)",
        ),
        (
            {"any": [{"fuel_type": "electric", "body_type": "suv"}, {"make": "Kia"}]},
            "(electric and of the body type SUV) or made by Kia",
            "(were electric and were of the body type SUV) or were made by Kia",
        ),
        (
            {"not": {"fuel_type": "electric", "body_type": "suv"}},
            "not electric or not of the body type SUV",
            "were not electric or were not of the body type SUV",
        ),
        (
            {"not": {"any": [{"fuel_type": "electric"}, {"price": {"gte": 9000}}]}},
            "not electric and not with a price of at least 9,000",
            "were not electric and did not have a price of at least 9,000",
        ),
        (
            {"all": [{"make": "Kia"}, {"all": [{"model": "EV6"}, {"fuel_type": "electric"}]}]},
            "made by Kia, of the model EV6 and electric",
            "were made by Kia, were of the model EV6 and were electric",
        ),
        ({"all": [{"any": [{"all": [{"fuel_type": "electric"}]}]}]}, "electric", "were electric"),
        ({"all": [{"fuel_type": "electric"}, {"not": {"not": {"fuel_type": "electric"}}}]}, "electric", "were electric"),
    ],
)
def test_conditions_are_told_in_english(when: Spec, words: str, clause: str) -> None:
    condition = condition_of(when)
    assert words_of(condition, CATALOGUE) == words
    assert clause_of(condition, CATALOGUE) == clause


@pytest.mark.parametrize(
    ("when", "one"),
    [
        ({"fuel_type": "electric"}, "was electric"),
        ({"not": {"fuel_type": "electric"}}, "was not electric"),
        ({"price": {"lt": 5000}}, "had a price below 5,000"),
        ({"not": {"price": {"lt": 5000}}}, "did not have a price below 5,000"),
        ({"fuel_type": "electric", "body_type": "suv"}, "was electric and was of the body type SUV"),
    ],
)
def test_of_one_vehicle_it_is_told_in_the_singular(when: Spec, one: str) -> None:
    assert clause_of(condition_of(when), CATALOGUE, many=False) == one


def test_an_attribute_of_ones_own_is_told_by_its_name_and_unit() -> None:
    text = "attributes: {paint_colour: {kind: category}, engine_months: {kind: number, unit: months}, seats: {kind: number}}"
    catalogue = parse_catalogue(text, "attributes.yaml")
    assert words_of(Equals("paint_colour", frozenset({"dark_red", "blue"})), catalogue) == "with the paint colour blue or dark red"
    assert words_of(Band("engine_months", lt=1200.0), catalogue) == "with an engine months below 1,200 months"
    assert words_of(Equals("seats", frozenset({7.0})), catalogue) == "with a seats of 7"
    assert words_of(Band("mileage", lt=10.0)) == "with a mileage below 10"  # without a catalogue, without a unit


def test_numbers_are_written_as_people_write_them() -> None:
    catalogue = Catalogue(
        {"x": Attribute("x", "number", None, frozenset()), "build_year": Attribute("build_year", "number", "AD", frozenset())}
    )
    written = {number: words_of(Band("x", gte=number), catalogue).split()[-1] for number in (0.5, 0.0, -1500.0, 1234567.0, 3e11)}
    assert written == {0.5: "0.5", 0.0: "0", -1500.0: "-1,500", 1234567.0: "1,234,567", 3e11: "300,000,000,000"}
    assert words_of(Band("build_year", gte=1999.0), catalogue) == "with a build year of at least 1999"


GRID: Final = [
    {key: value for key, value in (("fuel_type", fuel), ("price", price)) if value is not None}
    for fuel, price in itertools.product(
        (None, "electric", "diesel", "petrol"), (None, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 25.0, 30.0, 31.0)
    )
]


@given(one=conditions(), other=conditions())
def test_conditions_that_differ_are_told_differently(one: Spec, other: Spec) -> None:
    mine, theirs = condition_of(one), condition_of(other)
    if words_of(mine) == words_of(theirs):
        assert clause_of(mine) == clause_of(theirs)
        for view in GRID:
            assert predicate_of(mine)(view) == predicate_of(theirs)(view), words_of(mine)


@given(when=conditions())
def test_not_is_told_of_single_attributes_and_twice_not_is_nothing(when: Spec) -> None:
    condition = condition_of(when)
    assert "not (" not in words_of(Not(condition))
    assert words_of(Not(Not(condition))) == words_of(condition) != words_of(Not(condition))
    assert "_" not in words_of(condition)


# Counts


def told(views: int, matching: int, when: Spec | None = None, **fields: Any) -> str:
    segment = Segment("r", 0.8, views, matching, AT + 5 * DAY_MS)
    return sentences_of(segment, rule_of(when, **fields), AT, AT, CATALOGUE)[0]


@pytest.mark.parametrize(
    ("views", "matching", "sentence"),
    [
        (15, 12, "12 of the 15 vehicles you looked at in the last 10 days were electric."),
        (1500, 1200, "1,200 of the 1,500 vehicles you looked at in the last 10 days were electric."),
        (15, 1, "1 of the 15 vehicles you looked at in the last 10 days was electric."),
        (15, 15, "All 15 vehicles you looked at in the last 10 days were electric."),
        (2, 2, "Both vehicles you looked at in the last 10 days were electric."),
        (2, 1, "1 of the 2 vehicles you looked at in the last 10 days was electric."),
        (1, 1, "The one vehicle you looked at in the last 10 days was electric."),
        (1, 0, "The one vehicle you looked at in the last 10 days was not electric."),
        (5, 0, "None of the 5 vehicles you looked at in the last 10 days was electric."),
    ],
)
def test_one_and_many_are_told_apart(views: int, matching: int, sentence: str) -> None:
    assert told(views, matching) == sentence


@pytest.mark.parametrize(
    ("window", "words"),
    [("10d", "10 days"), ("3d", "3 days"), ("1d", "24 hours"), ("36h", "36 hours"), ("1h", "1 hour"), ("90s", "90 seconds")],
)
def test_the_window_is_told_in_its_unit(window: str, words: str) -> None:
    assert told(5, 4, window=window) == f"4 of the 5 vehicles you looked at in the last {words} were electric."


# counts are of as_of  |--------- 10 d ---------|      at
#                                                ^as_of ^ a day later: "the last 10 days" would hold other views
@pytest.mark.parametrize(
    ("window", "ago", "fresh"),
    [("10d", DAY_MS, True), ("10d", DAY_MS + 1, False), ("10h", HOUR_MS, True), ("10h", HOUR_MS + 1, False), ("10d", -1, True)],
)
def test_counts_that_are_some_time_old_are_told_as_such(window: str, ago: int, fresh: bool) -> None:
    segment = Segment("r", 0.8, 15, 12, AT + 5 * DAY_MS)
    sentence = sentences_of(segment, rule_of(window=window), AT - ago, AT, CATALOGUE)[0]
    length = {"10d": "10 days", "10h": "10 hours"}[window]
    if fresh:
        assert sentence == f"12 of the 15 vehicles you looked at in the last {length} were electric."
    else:
        assert sentence == f"When last counted, 12 of the 15 vehicles you had looked at within {length} were electric."


def test_old_counts_begin_in_small_letters() -> None:
    segment = Segment("r", 1.0, 15, 15, AT + DAY_MS)
    sentence = sentences_of(segment, rule_of(), AT - 2 * DAY_MS, AT)[0]
    assert sentence == "When last counted, all 15 vehicles you had looked at within 10 days were electric."


# Dates


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (10 * DAY_MS, "11 May"),
        (2 * DAY_MS, "3 May at 12:00 UTC"),
        (2 * DAY_MS + 1, "3 May"),
        (3 * MINUTE_MS, "1 May at 12:03 UTC"),
        (-MINUTE_MS, "1 May at 11:59 UTC"),
        (-3 * DAY_MS, "28 April"),
        (260 * DAY_MS, "16 January 2027"),
    ],
)
def test_dates_are_told_with_the_year_if_it_is_another_and_the_time_if_it_is_near(after: int, words: str) -> None:
    assert date_words(AT + after, AT) == words
    assert (
        sentences_of(Segment("r", 0.8, 9, 8, AT + after), rule_of(), AT, AT)[1] == f"This ends on {words} unless you look at more."
    )


def test_every_month_has_its_name() -> None:
    firsts = [f"2026-{month:02}-01" for month in range(1, 13)]
    assert [date_words(parse_date(first), AT).split()[1] for first in firsts] == [
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ]


# Rules


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {},
            "You come into this group once you have looked at 5 vehicles or more in 10 days and 50 % or more of them fit. "
            "You leave it when fewer than 40 % of them fit.",
        ),
        (
            {"min_views": 1, "enter": 1, "exit": 0.125, "window": "36h", "min_days": 2},
            "You come into this group once you have looked at 1 vehicle or more in 36 hours and all of them fit, "
            "on 2 different days or more. You leave it when fewer than 12.5 % of them fit.",
        ),
        (
            {"half_life": "1d", "prior_views": 4, "prior_share": 0.1},
            "You come into this group once you have looked at 5 vehicles or more in 10 days and 50 % or more of them fit. "
            "You leave it when fewer than 40 % of them fit. What you looked at 24 hours earlier counts half as much. "
            "We add 4 to what you looked at, of which 10 % fit.",
        ),
    ],
)
def test_the_rule_is_told(fields: dict[str, Any], words: str) -> None:
    assert rule_words(rule_of(**fields)) == words


@pytest.mark.parametrize("rule", SHIPPED.rules, ids=lambda rule: rule.name)
def test_every_shipped_segment_has_its_sentences(rule: Rule) -> None:
    read = SegmentsRead((Segment(rule.name, 0.8, 15, 12, AT + 10 * DAY_MS),), SHIPPED.version, AT, 0, "store", None)
    (segment,) = why("you", read, None, SHIPPED, AT, CATALOGUE)["segments"]
    first, second = segment["sentences"]
    length = "3 days" if rule.name == "budget" else "10 days"
    assert first.startswith(f"12 of the 15 vehicles you looked at in the last {length} ")
    assert first.endswith(f" {clause_of(rule.when, CATALOGUE)}.")
    assert second == "This ends on 11 May unless you look at more."
    assert segment["rule"].startswith("You come into this group once")
    assert "_" not in "".join([segment["title"], first, segment["rule"]])


# The whole


READ: Final = SegmentsRead(
    (Segment("electric", 0.83, 15, 12, AT + 10 * DAY_MS), Segment("suv", 0.61, 15, 9, AT + DAY_MS)),
    1,
    AT - HOUR_MS,
    HOUR_MS,
    "store",
    None,
)
PROFILE: Final = Profile(
    15, AT - HOUR_MS, {"fuel_type": {"electric": 0.8, "diesel": 0.1333, "petrol": 0.06, "lpg": 0.0067}, "make": {"Kia": 1.0}}
)


def test_a_user_is_told_their_segments_their_profile_and_what_they_can_do() -> None:
    answer = why("you", READ, PROFILE, SHIPPED, AT, CATALOGUE)
    assert json.loads(json.dumps(answer)) == answer
    assert {key: answer[key] for key in ("user", "at", "as_of", "rule_version", "summary")} == {
        "user": "you",
        "at": "2026-05-01T12:00:00.000Z",
        "as_of": "2026-05-01T11:00:00.000Z",
        "rule_version": 1,
        "summary": "You are in 2 groups: “electric” and “SUV”.",
    }
    assert [segment["name"] for segment in answer["segments"]] == ["electric", "suv"]
    assert answer["segments"][1] | {"rule": None} == {
        "name": "suv",
        "title": "SUV",
        "score": 0.61,
        "views": 15,
        "matching": 9,
        "until": "2026-05-02T12:00:00.000Z",
        "sentences": [
            "9 of the 15 vehicles you looked at in the last 10 days were of the body type SUV or crossover.",
            "This ends on 2 May at 12:00 UTC unless you look at more.",
        ],
        "rule": None,
    }
    assert answer["profile"]["sentences"] == [
        "Your profile is made of 15 looks at a vehicle, the newest on 1 May at 11:00 UTC.",
        "By fuel type: electric 80 %, diesel 13 %, petrol 6 %.",
        "By make: Kia 100 %.",
    ]
    assert answer["profile"]["shares"]["make"] == [{"value": "Kia", "share": 1.0}]
    assert len(answer["profile"]["shares"]["fuel_type"]) == 3
    assert [choice["action"] for choice in answer["choices"]] == ["opt_out", "forget"]


def test_one_group_and_one_look_are_told_in_the_singular() -> None:
    assert summary_of(READ._replace(segments=READ.segments[:1])) == "You are in 1 group: “electric”."
    assert profile_words(Profile(1, AT, {"make": {}}), AT)["sentences"] == [
        "Your profile is made of 1 look at a vehicle, on 1 May at 12:00 UTC."
    ]


@pytest.mark.parametrize("reason", get_args(Reason))
def test_without_a_segment_the_reason_is_told(reason: Reason) -> None:
    read = SegmentsRead((), None, None, None, "none", reason)
    answer = why("you", read, None, SHIPPED, AT)
    assert (answer["segments"], answer["profile"]) == ([], None)
    assert answer["summary"].endswith(".")
    assert (answer["as_of"], answer["rule_version"]) == (None, None)
    assert "_" not in answer["summary"]


def test_reasons_that_a_user_can_act_on_are_told_apart() -> None:
    summaries = {reason: summary_of(SegmentsRead((), None, None, None, "none", reason)) for reason in get_args(Reason)}
    assert summaries["unknown_user"] == "There is no profile of you."
    assert len({summaries[reason] for reason in ("unknown_user", "no_segments", "opted_out", "withdrawn", "timeout")}) == 5


def test_who_has_opted_out_is_offered_to_opt_in_and_shown_no_profile() -> None:
    answer = why("you", SegmentsRead((), None, None, None, "store", "opted_out"), PROFILE, SHIPPED, AT)
    assert answer["profile"] is None
    assert [choice["action"] for choice in answer["choices"]] == ["opt_in", "forget"]


def test_who_asks_from_a_browser_that_is_theirs_is_told_that_what_they_did_in_it_signed_out_counts() -> None:
    told = [why("you", READ, PROFILE, SHIPPED, AT, CATALOGUE, linked=linked)["identity"] for linked in (False, True)]
    assert told == [None, "You have signed in with this browser: what you looked at in it before you signed in counts too."]
    out = SegmentsRead((), None, None, None, "store", "opted_out")
    assert why("you", out, None, SHIPPED, AT, linked=True)["identity"] is None


@pytest.mark.parametrize("read", [READ._replace(rule_version=2), READ._replace(segments=(READ.segments[0]._replace(name="gone"),))])
def test_no_reason_is_made_up_where_the_rules_are_others(read: SegmentsRead) -> None:
    segment = why("you", read, None, SHIPPED, AT)["segments"][0]
    assert segment["sentences"] == [
        f"It follows from version {read.rule_version} of the rules, which isn't at hand.",
        "This ends on 11 May unless you look at more.",
    ]
    assert segment["rule"] is None


def test_small_words_for_numbers() -> None:
    assert [percent(share) for share in (0.0, 0.0099, 0.01, 0.126, 0.99, 0.9901, 1.0)] == [
        *("0 %", "under 1 %", "1 %", "13 %", "99 %", "over 99 %", "100 %")
    ]
    assert (counted(0, "look"), counted(1, "look"), counted(2, "look")) == ("0 looks", "1 look", "2 looks")
    assert (span_words(500), span_words(1_500), span_words(60_000)) == ("0.5 seconds", "1.5 seconds", "1 minute")
