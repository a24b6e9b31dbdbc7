"""The rule set: what its author writes, what it becomes, and what its author is told when it can't be used."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RulesError
from schemas.instants import DAY_MS, HOUR_MS
from schemas.rules import (
    MAX_CONDITIONS,
    MAX_SEGMENTS,
    MAX_WINDOW_MS,
    All,
    Any_,
    Band,
    Condition,
    Equals,
    Not,
    Rule,
    RuleSet,
    parse_rules,
)
from tests.strategies import CATALOGUE, ROOT

TEXT = """\
version: 7
defaults: {enter: 0.6, window: 36h}
segments:
  - {name: electric, when: {fuel_type: electric}}
  - name: suv
    when: {body_type: [suv, crossover], price: {gte: 40000, lt: 9e4}}
    exit: 0.3
    min_views: 8
    min_days: 2
    half_life: 2d
    prior_views: 4
    prior_share: 0.1
    window: 10d
    weight: 2.5
    priority: -3
  - {name: neither, when: {not: {any: [{year: 2020}, {all: [{make: "no"}]}]}}, half_life: null}
"""


def parse(text: str) -> RuleSet:
    return parse_rules(text, CATALOGUE, "r.yaml")


def one(segment: str, defaults: str = "{}") -> str:
    """A rule set with one segment, its text at line 3, column 5."""
    return f"version: 1\ndefaults: {defaults}\nsegments: [\n{segment}]\n"


def test_a_rule_set_is_read_with_its_defaults() -> None:
    electric, suv, neither = parse(TEXT).rules
    assert parse(TEXT).version == 7
    assert electric == Rule("electric", Equals("fuel_type", frozenset({"electric"})), 36 * HOUR_MS, 0.6, 0.4, 5, 1, None, 0.0, 0.0)
    body, price = Equals("body_type", frozenset({"suv", "crossover"})), Band("price", gte=40_000.0, lt=90_000.0)
    assert suv == Rule("suv", All((body, price)), MAX_WINDOW_MS, 0.6, 0.3, 8, 2, 2 * DAY_MS, 4.0, 0.1, weight=2.5, priority=-3)
    year, make = Equals("year", frozenset({2020.0})), Equals("make", frozenset({"no"}))
    assert neither.when == Not(Any_((year, All((make,)))))


def test_without_defaults_the_documented_ones_hold() -> None:
    (rule,) = parse("{version: 1, segments: [{name: a, when: {make: x}}]}").rules
    assert rule[2:] == (10 * DAY_MS, 0.5, 0.4, 5, 1, None, 0.0, 0.0, None, None, 1.0, 0)


def test_the_shipped_rules_are_a_rule_set() -> None:
    assert parse((ROOT / "rules/segments.yaml").read_text()).rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "r.yaml:1:1: rules == [], must be a mapping with the keys defaults, segments, version"),
        ("segments: []", "r.yaml:1:1: version is missing, must be given"),
        ("version: 1", "r.yaml:1:1: segments is missing, must be given"),
        (
            "version: 1\nsegments: []\nextra: 2",
            "r.yaml:3:1: rules.extra == 2, must be absent: the keys are defaults, segments, version",
        ),
        ("version: 0\nsegments: []", "r.yaml:1:1: version == 0, must be a whole number, at least 1"),
        ("version: true\nsegments: []", "version == True, must be a whole number"),
        ("version: 1.0\nsegments: []", "version == 1.0, must be a whole number"),
        ("version: 1\nsegments: []", f"r.yaml:2:1: segments == [], must be a list of 1 to {MAX_SEGMENTS} segments"),
        ("version: 1\nsegments: {a: 1}", "segments == {'a': 1}, must be a list of 1 to 500 segments"),
        (
            "version: 1\ndefaults: 5\nsegments: []",
            "r.yaml:2:1: defaults == 5, must be a mapping with the keys enter, exit, half_life",
        ),
        ("version: 1\ndefaults: {enter: 2}\nsegments: []", "r.yaml:2:12: defaults.enter == 2, must be above 0 and at most 1"),
        ("version: 1\ndefaults: {name: a}\nsegments: []", "r.yaml:2:12: defaults.name == 'a', must be absent: the keys are enter"),
    ],
)
def test_each_error_of_a_rule_set_has_place_value_and_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(RulesError, match=re.escape(message)):
        parse(text)


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ("x", "r.yaml:4:1: segments[0] == 'x', must be a mapping with the keys enter, exit"),
        ("{when: {make: x}}", "r.yaml:4:1: segments[0].name is missing, must be given"),
        ("{name: a}", "r.yaml:4:1: segments[0].when is missing, must be given"),
        ("{name: A, when: {make: x}}", "r.yaml:4:2: segments[0].name == 'A', must be lower_snake_case, at most 63 characters"),
        (f"{{name: {'a' * 64}, when: {{make: x}}}}", "must be lower_snake_case, at most 63 characters"),
        ("{name: 7, when: {make: x}}", "segments[0].name == 7, must be lower_snake_case"),
        ("{name: a, when: {make: x}}, {name: a, when: {make: y}}", "r.yaml:4:29: segments[1].name == 'a', must be unique"),
        ("{name: a, wehn: {make: x}}", "r.yaml:4:11: segments[0].wehn == {'make': 'x'}, must be absent: the keys are enter, exit"),
        ("{name: a, when: suv}", "r.yaml:4:11: segments[0].when == 'suv', must be a mapping of attributes, all, any or not"),
        ("{name: a, when: {}}", "segments[0].when == {}, must be a mapping of attributes, all, any or not, and not empty"),
        (
            "{name: a, when: {fuel: x}}",
            "r.yaml:4:18: segments[0].when: attribute == 'fuel', must be one of body_type, fuel_type, make",
        ),
        (
            "{name: a, when: {fuel_type: coal}}",
            "r.yaml:4:18: segments[0].when.fuel_type == 'coal', must be one of cng, diesel, electric",
        ),
        ("{name: a, when: {fuel_type: [lpg, coal]}}", "r.yaml:4:35: segments[0].when.fuel_type == 'coal', must be one of cng"),
        ("{name: a, when: {make: 3}}", "segments[0].when.make == 3, must be text (put it in quotes)"),
        ("{name: a, when: {make: [x, true]}}", "segments[0].when.make == True, must be text (put it in quotes)"),
        ("{name: a, when: {make: []}}", "segments[0].when.make == [], must not be an empty list"),
        ("{name: a, when: {make: {gte: 3}}}", "must be a value or a list: make is a category, bands are for numbers"),
        ("{name: a, when: {price: cheap}}", "segments[0].when.price == 'cheap', must be a number"),
        ("{name: a, when: {price: null}}", "segments[0].when.price == None, must be a number"),
        ("{name: a, when: {price: {gte: true}}}", "r.yaml:4:26: segments[0].when.price.gte == True, must be a number"),
        ("{name: a, when: {price: {gte: .inf}}}", "segments[0].when.price.gte == '.inf', must be a number"),
        ("{name: a, when: {price: {gte: .nan}}}", "segments[0].when.price.gte == '.nan', must be a number"),
        ("{name: a, when: {price: {}}}", "segments[0].when.price == {}, must have at least one of gte, gt, lte, lt"),
        ("{name: a, when: {price: {min: 3}}}", "segments[0].when.price.min == 3, must be absent: the keys are gt, gte, lt, lte"),
        ("{name: a, when: {any: {make: x}}}", "segments[0].when.any == {'make': 'x'}, must be a list of conditions, and not empty"),
        ("{name: a, when: {all: []}}", "segments[0].when.all == [], must be a list of conditions, and not empty"),
        ("{name: a, when: {not: [{make: x}]}}", "segments[0].when.not == [{'make': 'x'}], must be a mapping of attributes"),
        ("{name: a, when: {any: [{make: x}, {}]}}", "r.yaml:4:35: segments[0].when.any[1] == {}, must be a mapping of attributes"),
    ],
)
def test_each_error_of_a_segment_has_place_value_and_what_would_be_right(segment: str, message: str) -> None:
    with pytest.raises(RulesError, match=re.escape(message)):
        parse(one(segment))


DURATION = "must be a number with a unit, such as 90s, 15m, 36h or 10d"


@pytest.mark.parametrize(
    ("setting", "value", "must"),
    [
        *(("enter", value, "must be above 0 and at most 1") for value in ("0", "-0.1", "1.01", "1e-400")),
        *(("exit", value, "must be above 0 and at most 1") for value in ("0", "2")),
        *(("enter", value, "must be a number") for value in ("half", "true", "[0.5]", "null", ".nan")),
        *(
            (name, value, "must be a whole number, at least 1")
            for name in ("min_views", "min_days")
            for value in ("0", "2.5", "-1", "x")
        ),
        *(("window", value, DURATION) for value in ("10", "1w", "d", "-1d", "1 d", "1e3s", "null")),
        *(("window", value, "must be above 0 and at most 10d") for value in ("0s", "0.1ms", "11d", "240.0001h")),
        *(("half_life", value, DURATION) for value in ("2", "soon", "true")),
        *(("half_life", value, "must be null or at least 1s") for value in ("0s", "999ms")),
        *(("prior_views", value, "must be within 0 and 1000000") for value in ("-1", "1000001")),
        *(("prior_share", value, "must be within 0 and 1") for value in ("-0.01", "1.01")),
        *(("weight", value, "must be above 0 and at most 1000000") for value in ("0", "-1", "1000000.1", "1e-400")),
        *(("weight", value, "must be a number") for value in ("heavy", "true", ".inf")),
        *(
            ("priority", value, "must be a whole number within -1000 and 1000")
            for value in ("1001", "-1001", "1.0", "true", "first", "null")
        ),
    ],
)
def test_each_setting_has_its_bounds_in_a_segment_and_in_the_defaults(setting: str, value: str, must: str) -> None:
    for text, path in (
        (one(f"{{name: a, when: {{make: x}}, {setting}: {value}}}"), f"r.yaml:4:28: segments[0].{setting}"),
        (one("{name: a, when: {make: x}}", f"{{{setting}: {value}}}"), f"r.yaml:2:12: defaults.{setting}"),
    ):
        with pytest.raises(RulesError, match=f"^{re.escape(path)} == .*, {re.escape(must)}$"):
            parse(text)


@pytest.mark.parametrize(("weight", "priority"), [("1e-9", "-1000"), ("1000000", "1000"), ("3", "0")])
def test_weight_and_priority_reach_their_bounds_in_a_segment_and_in_the_defaults(weight: str, priority: str) -> None:
    settings = f"weight: {weight}, priority: {priority}"
    for text in (one(f"{{name: a, when: {{make: x}}, {settings}}}"), one("{name: a, when: {make: x}}", f"{{{settings}}}")):
        (rule,) = parse(text).rules
        assert (rule.weight, rule.priority) == (float(weight), int(priority))
        assert isinstance(rule.weight, float)


def test_a_segment_overrides_the_weight_and_priority_of_the_defaults() -> None:
    ours, theirs = parse(one("{name: a, when: {make: x}, weight: 3, priority: 1}, {name: b, when: {make: x}}", "{weight: 2}")).rules
    assert [(rule.weight, rule.priority) for rule in (ours, theirs)] == [(3.0, 1), (2.0, 0)]


@pytest.mark.parametrize(
    ("segment", "defaults", "message"),
    [
        ("enter: 0.5, exit: 0.6", "{}", "r.yaml:4:40: segments[0].exit == 0.6, must be at most enter == 0.5"),
        ("enter: 0.3", "{}", "r.yaml:4:28: segments[0].exit == 0.4, must be at most enter == 0.3"),
        ("exit: 0.6", "{}", "r.yaml:4:28: segments[0].exit == 0.6, must be at most enter == 0.5"),
        ("min_views: 3", "{exit: 0.9}", "r.yaml:4:1: segments[0].exit == 0.9, must be at most enter == 0.5"),
    ],
)
def test_exit_above_enter_is_refused_wherever_the_two_come_from(segment: str, defaults: str, message: str) -> None:
    with pytest.raises(RulesError, match=re.escape(message)):
        parse(one(f"{{name: a, when: {{make: x}}, {segment}}}", defaults))


def test_a_segment_may_mend_what_the_defaults_break() -> None:
    (rule,) = parse(one("{name: a, when: {make: x}, enter: 0.9}", "{exit: 0.9}")).rules
    assert (rule.enter, rule.exit) == (0.9, 0.9)


def test_the_number_of_segments_is_bounded() -> None:
    segments = [f"{{name: s{i}, when: {{make: x}}}}" for i in range(MAX_SEGMENTS + 1)]
    assert len(parse(one(",".join(segments[1:]))).rules) == MAX_SEGMENTS
    with pytest.raises(RulesError, match="must be a list of 1 to 500 segments"):
        parse(one(",".join(segments)))


def test_the_number_of_conditions_in_a_segment_is_bounded() -> None:
    def segment(inner: int) -> str:
        return one(f"{{name: a, when: {{any: [{','.join(['{make: x}'] * inner)}]}}}}")

    parse(segment(MAX_CONDITIONS - 1))  # the any itself is one
    with pytest.raises(
        RulesError, match=r"r\.yaml:4:\d+: segments\[0\]\.when\.any\[255\]: more than 256 conditions, must be at most 256"
    ):
        parse(segment(MAX_CONDITIONS))


# --- laws ----------------------------------------------------------------------------------------------------------------

CLOSED = st.sampled_from(sorted(CATALOGUE.attributes["fuel_type"].values))
OPEN = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=8)
NUMBER = st.integers(-(10**6), 10**6).map(float) | st.floats(allow_nan=False, allow_infinity=False)
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    st.builds(Equals, st.just("fuel_type"), st.frozensets(CLOSED, min_size=1))
    | st.builds(Equals, st.just("make"), st.frozensets(OPEN, min_size=1, max_size=3))
    | st.builds(Equals, st.just("price"), st.frozensets(NUMBER, min_size=1, max_size=3))
    | st.builds(lambda gte, lt: Band("year", gte=gte, lt=lt), NUMBER, NUMBER)
    | st.builds(lambda gt, lte: Band("mileage", gt=gt, lte=lte), NUMBER, NUMBER),
    lambda inner: (
        st.builds(Not, inner)
        | st.lists(inner, min_size=1, max_size=3).flatmap(lambda c: st.sampled_from([All(tuple(c)), Any_(tuple(c))]))
    ),
    max_leaves=6,
)
SHARES = st.tuples(st.floats(0, 1, exclude_min=True), st.floats(0, 1, exclude_min=True)).map(sorted)


@st.composite
def rule_sets(draw: st.DrawFn) -> RuleSet:
    names = draw(st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True), min_size=1, max_size=4, unique=True))
    rules = []
    for name in names:
        leave, enter = draw(SHARES)
        window = draw(st.integers(1, MAX_WINDOW_MS))
        half_life = draw(st.none() | st.integers(1_000, 999_999_999))
        counts = draw(st.tuples(st.integers(1, 10**6), st.integers(1, 400)))
        prior = draw(st.tuples(st.floats(0, 1e6), st.floats(0, 1)))
        floors = draw(st.tuples(st.none() | st.floats(0, 1), st.none() | st.floats(0, 1)))
        order = draw(st.tuples(st.floats(0, 1e6, exclude_min=True), st.integers(-1_000, 1_000)))
        rules.append(Rule(name, draw(CONDITIONS), window, enter, leave, *counts, half_life, *prior, *floors, *order))
    return RuleSet(draw(st.integers(1, 10**9)), tuple(rules))


def dumped_condition(condition: Condition) -> dict[str, Any]:
    if isinstance(condition, Equals):
        values = sorted(condition.values)  # type: ignore[type-var]
        return {condition.attribute: values[0] if len(values) == 1 else values}
    if isinstance(condition, Band):
        finite = {
            key: bound for key, bound in dataclasses.asdict(condition).items() if key != "attribute" and abs(bound) != float("inf")
        }
        return {condition.attribute: finite}
    if isinstance(condition, Not):
        return {"not": dumped_condition(condition.condition)}
    return {"all" if isinstance(condition, All) else "any": [dumped_condition(inner) for inner in condition.conditions]}


def dumped(rules: RuleSet) -> str:
    """The rule set as JSON, which is YAML too."""
    segments = []
    for rule in rules.rules:
        durations = {"window": f"{rule.window}ms", "half_life": None if rule.half_life is None else f"{rule.half_life}ms"}
        segments.append({**rule._asdict(), "when": dumped_condition(rule.when), **durations})
    return json.dumps({"version": rules.version, "segments": segments}, ensure_ascii=False)


@given(rule_sets())
def test_a_dumped_rule_set_is_read_as_it_was(rules: RuleSet) -> None:
    assert parse(dumped(rules)) == rules


@given(rule_sets(), st.data())
def test_a_damaged_rule_set_is_one_or_a_rules_error(rules: RuleSet, data: st.DataObject) -> None:
    text = dumped(rules).encode()
    at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 9))
    try:
        parse_rules(text[:at] + data.draw(st.binary(max_size=4)) + text[at + length :], CATALOGUE, "r.yaml")
    except RulesError as error:
        assert str(error).startswith("r.yaml")  # noqa: PT017


@given(st.binary(max_size=300))
def test_any_bytes_are_a_rule_set_or_a_rules_error(data: bytes) -> None:
    with pytest.raises(RulesError, match=r"^r\.yaml"):
        parse_rules(data, CATALOGUE, "r.yaml")
