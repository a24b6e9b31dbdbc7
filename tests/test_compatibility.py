"""Compatibility of a segment's condition with filters, against trying every listing there can be."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.filters import Filters, parse_filters
from schemas.rules import All, Any_, Band, Condition, Equals, Not, attributes_of
from serving import compatibility
from serving.compatibility import Steps, clashing, compatible, satisfied
from serving.featured import Ask, split_of
from serving.wishes import Wish
from tests.strategies import CATALOGUE
from transforms.conditions import predicate_of

POINTS = (1.0, 2.0, 3.0)
MAKES = ("a", "b", "c")
# Conditions below mention these alone, so these listings stand for all there can be.
WORLD = [
    {name: value for name, value in zip(("make", "price", "year"), values, strict=True) if value is not None}
    for values in itertools.product((None, *MAKES, "z"), *[(None, 0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)] * 2)
]

_bounds = st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), st.sampled_from(POINTS), min_size=1, max_size=2)
_numbers = st.sampled_from(["price", "year"])
LEAVES: st.SearchStrategy[Condition] = (
    st.builds(Equals, st.just("make"), st.frozensets(st.sampled_from(MAKES), min_size=1, max_size=2))
    | st.builds(Equals, _numbers, st.frozensets(st.sampled_from(POINTS), min_size=1, max_size=2))
    | st.builds(lambda name, bounds: Band(name, **bounds), _numbers, _bounds)
)
CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(Not, inner)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: All(tuple(parts)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: Any_(tuple(parts)))
    ),
    max_leaves=8,
)


def exists(*conditions: Condition) -> bool:
    """Whether some listing of the world satisfies all."""
    predicates = [predicate_of(condition) for condition in conditions]
    return any(all(predicate(listing) for predicate in predicates) for listing in WORLD)


def when(data: dict[str, Any]) -> Condition:
    condition = parse_filters(data, CATALOGUE).condition
    assert condition is not None
    return condition


@given(CONDITIONS, CONDITIONS)
def test_two_conditions_are_compatible_when_a_listing_satisfies_both(one: Condition, other: Condition) -> None:
    assert compatible(one, other) == exists(one, other) == compatible(other, one)


@given(CONDITIONS)
def test_without_filters_a_condition_is_compatible_unless_it_contradicts_itself(condition: Condition) -> None:
    assert compatible(condition, None) == exists(condition)


@given(CONDITIONS, st.lists(CONDITIONS, min_size=1, max_size=4))
def test_a_conflict_names_attributes_of_filters_that_alone_make_it(condition: Condition, parts: list[Condition]) -> None:
    filters = All(tuple(parts))
    assume(not exists(condition, filters))
    names = clashing(condition, filters)
    assert names
    assert names == tuple(sorted(set(names)))
    assert set(names) <= attributes_of(filters)
    assert not exists(condition, *[part for part in parts if attributes_of(part) & set(names)])


@pytest.mark.parametrize(
    ("condition", "filters", "clash"),
    [
        ({"fuel_type": "electric"}, {"fuel_type": "diesel"}, ("fuel_type",)),
        ({"fuel_type": "electric"}, {"fuel_type": ["diesel", "electric"]}, ()),
        ({"fuel_type": "electric"}, {"not": {"fuel_type": "electric"}}, ("fuel_type",)),
        ({"fuel_type": "electric"}, {"price": {"lt": 5}}, ()),
        ({"price": {"gte": 40_000}}, {"price": {"lt": 40_000}}, ("price",)),
        ({"price": {"gte": 40_000}}, {"price": {"lte": 40_000}}, ()),
        ({"price": {"gt": 40_000}}, {"price": {"lte": 40_000}}, ("price",)),
        ({"price": {"gt": 4, "lt": 5}}, {"price": {"gt": 4.5}}, ()),
        ({"price": 3}, {"price": [1, 2]}, ("price",)),
        (
            {"fuel_type": "electric", "price": {"lt": 9}},
            {"fuel_type": "lpg", "price": {"gt": 9}, "year": 1},
            ("fuel_type", "price"),
        ),
        ({"fuel_type": "electric", "price": {"lt": 9}}, {"fuel_type": "lpg", "price": 8, "year": 1}, ("fuel_type",)),
        ({"fuel_type": "electric"}, {"not": {"any": [{"fuel_type": "electric"}, {"price": 5}]}}, ("fuel_type",)),
        ({"not": {"make": "Kia"}}, {"make": "Kia"}, ("make",)),
        ({"not": {"make": "Kia"}}, {"not": {"make": "BMW"}}, ()),  # a Fiat
        ({"any": [{"make": "Kia"}, {"year": 2020}]}, {"not": {"make": "Kia"}, "year": {"lt": 2000}}, ("make", "year")),
        ({"make": "Kia"}, {"price": {"gt": 5, "lt": 3}}, ("price",)),  # nothing can satisfy these filters
        ({"price": {"gt": 1, "lt": 1.0000000000000002}}, {"price": {"lt": 50}}, ("price",)),  # no number lies in between
    ],
)
def test_conflicts_an_author_would_expect(condition: dict[str, Any], filters: dict[str, Any], clash: tuple[str, ...]) -> None:
    assert compatible(when(condition), when(filters)) == (clash == ())
    if clash:
        assert clashing(when(condition), when(filters)) == clash


def test_every_fuel_denied_leaves_listings_that_do_not_say() -> None:
    fuels = sorted(CATALOGUE.attributes["fuel_type"].values)
    assert compatible(when({"not": {"fuel_type": fuels}}), None)
    assert compatible(when({"not": {"fuel_type": fuels[1:]}}), when({"fuel_type": fuels[:1]}))


def maze(width: int) -> Condition:
    """Of each three neighbouring makes, models, … one must be right: hard to satisfy, for a condition."""
    names = [f"a{i}" for i in range(width)]
    clauses: list[Condition] = []
    for i, name in enumerate(names):
        clauses.append(Any_(tuple(Equals(each, frozenset({value})) for each in (name, names[i - 1]) for value in ("x", "y"))))
        clauses.append(Not(All((Equals(name, frozenset({"x", "y"})), Equals(names[i - 1], frozenset({"x", "y"}))))))
    return All(tuple(clauses))


def test_beyond_its_budget_the_answer_is_compatible_and_comes_soon() -> None:
    hard = maze(19)  # an odd ring can't alternate
    assert not compatible(maze(3), None)
    started = time.process_time()
    assert compatible(hard, None)
    assert time.process_time() - started < 0.5
    assert compatible(hard, None, Steps(0))


def test_one_budget_serves_all_segments_of_an_answer() -> None:
    steps = Steps()
    assert compatible(maze(19), None, steps)
    assert steps.left <= 0
    long = maze(7)
    assert compatible(long, None, steps), "there is nothing left to find out that it is not"
    assert not compatible(long, None)


def test_what_is_decided_soon_is_remembered_and_takes_as_many_steps_all_the_same() -> None:
    a, b = Equals("make", frozenset({"a"})), Equals("make", frozenset({"b"}))
    assert compatible(a, b, Steps(0))
    compatibility._soon.cache_clear()
    left = set()
    for _ in range(3):
        steps = Steps(100)
        assert not compatible(a, b, steps)
        left.add(steps.left)
    assert len(left) == 1
    assert left < {*range(100)}
    assert compatibility._soon.cache_info().misses == 1
    for price in range(3):
        assert compatible(a, All((Band("price", gt=float(price)), Equals("year", frozenset({1.0})))))
    assert compatibility._soon.cache_info().misses == 1 + 5  # the make and the year once, each price


def test_what_one_attribute_alone_rules_out_needs_no_search() -> None:
    dear, old = {"price": [5, 30, 10]}, {"year": {"gte": 2020}}
    either = {
        "any": [{"make": ["BMW", "Kia"], "body_type": "wagon", **old}, dear, {"all": [{"make": "Fiat"}, {"any": [dear, old]}]}]
    }
    filters = when(either | {"price": {"lt": 20, "gt": 15}, "mileage": {"lt": 9}})
    odd = {"not": {"all": [{"body_type": ["wagon", "suv"], **old, **dear}, {"fuel_type": "diesel"}, {"not": {"fuel_type": "lpg"}}]}}
    for condition, clash in (({**odd, "mileage": {"gt": 9}}, ("mileage",)), ({**odd, "price": {"gte": 20}}, ("price",))):
        steps = Steps(1_000)
        assert not compatible(when(condition), filters, steps)
        assert clashing(when(condition), filters, steps) == clash
        assert steps.left > 0


BANDS: Condition = All(tuple(Band("price", gte=float(i)) for i in range(250)))
NOTS: Condition = All(tuple(Not(Band("price", gte=float(i), lt=i + 1.0)) for i in range(120)))
EITHER: Condition = All(tuple(Any_((Band("price", gte=float(i)), Band("year", gte=float(i)))) for i in range(80)))


@pytest.mark.parametrize(("filters", "below"), [(BANDS, 0.0), (NOTS, 119.0), (EITHER, 0.0)], ids=["bands", "nots", "either"])
def test_filters_made_for_it_cannot_take_more_than_the_budget(
    filters: Condition, below: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All segments of an answer together: each look at a condition is counted here apart from the budget."""
    looks = 0
    satisfies = compatibility.satisfies

    def counted(leaf: Equals | Band, value: Any) -> bool:
        nonlocal looks
        looks += 1
        return satisfies(leaf, value)

    monkeypatch.setattr(compatibility, "satisfies", counted)
    wishes = tuple(
        Wish(f"w{i}", 0.5, 1.0, 0, All((Band("price", gte=0.0, lt=below), Band("mileage", gte=float(i))))) for i in range(64)
    )
    assert len(split_of(Ask(Filters(filters, ()), wishes, frozenset(), "s")).wishes) > 60, (
        "it is harmless that they aren't conflicts"
    )
    assert looks <= compatibility.MAX_STEPS + compatibility.SOON_STEPS


@given(CONDITIONS, st.dictionaries(st.sampled_from(["make", "price", "year"]), st.none()))
def test_a_condition_holds_of_a_listing_as_it_does_of_a_view(condition: Condition, lacking: dict[str, None]) -> None:
    for listing in WORLD[::7]:
        kept = {name: value for name, value in listing.items() if name not in lacking}
        assert satisfied(condition, kept) == predicate_of(condition)(kept)


@given(CONDITIONS, st.lists(CONDITIONS, min_size=1, max_size=3))
def test_remembered_or_not_the_answer_is_the_same(condition: Condition, parts: list[Condition]) -> None:
    first = compatible(condition, All(tuple(parts)))
    assert compatible(condition, All(tuple(parts))) == first == exists(condition, *parts)


def test_filters_of_hundreds_of_values_are_not_remembered() -> None:
    # Each may have 60 KB: a client with a new one each time would fill the memory.
    before = compatibility._soon.cache_info().currsize
    for number in range(20):
        values = frozenset(f"{number}-{place}-{'x' * 200}" for place in range(240))
        assert compatible(Equals("model", values), Equals("model", frozenset({f"{number}-1-{'x' * 200}"})))
    assert compatibility._soon.cache_info().currsize == before
