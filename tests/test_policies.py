"""Policies: what each chooses among viable wishes, and that draws are drawn as they say."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.rules import Equals, parse_rules
from serving import policies
from serving.policies import Choice, combined, highest_score, policy_of, register, weighted_random
from serving.seeds import seed_of, uniform_of
from serving.segments import Segment
from serving.wishes import Wish, ordered, unknown_segments, wishes_of
from tests.strategies import CATALOGUE


def wish(name: str, score: float = 0.5, weight: float = 1.0, priority: int = 0) -> Wish:
    return Wish(name, score, weight, priority, Equals("make", frozenset({name})))


WISHES = st.lists(
    st.builds(
        wish,
        st.sampled_from("abcdefgh"),
        st.floats(1e-6, 1),
        st.floats(1e-300, 1e6, exclude_min=False),
        st.sampled_from([-2, 0, 0, 0, 5]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.name,
)
SESSIONS = st.text(max_size=8)


def test_segments_become_wishes_with_the_weight_and_priority_of_their_rules() -> None:
    rules = parse_rules(
        "version: 1\nsegments: [{name: a, when: {make: x}, weight: 3}, {name: b, when: {make: y}, priority: 2}]",
        CATALOGUE,
        "r.yaml",
    )
    segments = [Segment("a", 0.9, 10, 9, 0), Segment("gone", 0.8, 10, 8, 0), Segment("b", 0.6, 10, 6, 0)]
    assert wishes_of(segments, rules) == (
        Wish("b", 0.6, 1.0, 2, Equals("make", frozenset({"y"}))),
        Wish("a", 0.9, 3.0, 0, Equals("make", frozenset({"x"}))),
    )
    assert unknown_segments(segments, rules) == ("gone",)


@pytest.mark.parametrize(
    ("wishes", "first"),
    [
        ([wish("a", 0.5), wish("b", 0.9)], "b"),
        ([wish("a", 0.5, weight=2), wish("b", 0.9)], "a"),  # 1.0 against 0.9
        ([wish("a", 0.1, priority=1), wish("b", 0.9, weight=1e6)], "a"),
        ([wish("a", 0.9, priority=-1), wish("b", 0.1)], "b"),
        ([wish("b", 0.5), wish("a", 0.5)], "a"),
    ],
)
def test_the_highest_score_goes_by_priority_then_worth_then_name(wishes: list[Wish], first: str) -> None:
    for each in (wishes, wishes[::-1]):
        choice = highest_score(each, "session", 0)
        assert (list(choice.weights), choice.probability) == ([first], 1.0)


@given(WISHES, SESSIONS)
def test_combined_chooses_by_all_wishes_at_their_worth(wishes: list[Wish], session: str) -> None:
    assert combined(wishes, session, 0) == Choice({each.name: each.worth for each in wishes}, 1.0)


@given(WISHES, SESSIONS, st.integers(0, 9), st.randoms())
def test_a_draw_is_one_of_the_highest_priority_with_its_share_and_the_same_in_any_order(
    wishes: list[Wish], session: str, position: int, chance: random.Random
) -> None:
    choice = weighted_random(wishes, session, position)
    (name,) = choice.weights
    racing = {each.name: each for each in wishes if each.priority == max(other.priority for other in wishes)}
    assert name in racing
    assert choice.probability == pytest.approx(racing[name].worth / math.fsum(each.worth for each in racing.values()))
    assert 0 < choice.probability <= 1
    shuffled = list(wishes)
    chance.shuffle(shuffled)
    assert weighted_random(shuffled, session, position) == choice


@given(WISHES, SESSIONS, st.integers(0, 9), st.sampled_from(["highest_score", "weighted_random"]), st.data())
def test_who_is_first_among_some_does_not_depend_on_the_others(
    wishes: list[Wish], session: str, position: int, policy: str, data: st.DataObject
) -> None:
    (first,) = policy_of(policy)(wishes, session, position).weights
    some = [each for each in wishes if each.name == first or data.draw(st.booleans())]
    assert list(policy_of(policy)(some, session, position).weights) == [first]


def chi_square(counts: Counter[str], shares: dict[str, float]) -> float:
    total = counts.total()
    return sum((counts[name] - share * total) ** 2 / (share * total) for name, share in shares.items())


MANY = 20_000


def draws(wishes: Sequence[Wish], position: int = 0) -> Counter[str]:
    return Counter(name for session in range(MANY) for name in weighted_random(wishes, f"session-{session}", position).weights)


@pytest.mark.parametrize(
    ("wishes", "shares"),
    [
        ([wish("a", 0.5), wish("b", 0.3), wish("c", 0.2)], {"a": 0.5, "b": 0.3, "c": 0.2}),
        ([wish("a", 0.5, weight=1), wish("b", 0.25, weight=6)], {"a": 0.25, "b": 0.75}),
        ([wish("a", 0.9, weight=1e-9), wish("b", 0.9, weight=1e-9)], {"a": 0.5, "b": 0.5}),
        ([wish("a", 0.9, priority=1), wish("b", 0.1, priority=1), wish("c", 0.5, weight=1e6)], {"a": 0.9, "b": 0.1}),
        ([wish("a", 0.99), wish("b", 0.01)], {"a": 0.99, "b": 0.01}),
    ],
)
def test_over_sessions_each_wish_is_drawn_with_the_probability_stated(wishes: list[Wish], shares: dict[str, float]) -> None:
    counts = draws(wishes)
    assert set(counts) == set(shares)
    assert chi_square(counts, shares) < 10.83  # chance is fixed; for one or two degrees of freedom 1 of 1,000 or 225 is above
    stated = {next(iter(c.weights)): c.probability for c in (weighted_random(wishes, f"{i}", 0) for i in range(3_000))}
    assert stated == pytest.approx(shares)


def test_positions_are_drawn_apart() -> None:
    wishes = [wish("a", 0.5), wish("b", 0.5)]
    pairs = Counter(
        next(iter(weighted_random(wishes, f"{i}", 0).weights)) + next(iter(weighted_random(wishes, f"{i}", 1).weights))
        for i in range(MANY)
    )
    assert chi_square(pairs, dict.fromkeys(["aa", "ab", "ba", "bb"], 0.25)) < 16.3


def test_a_wish_that_joins_takes_sessions_for_itself_and_moves_no_other() -> None:
    few, more = [wish("a", 0.5), wish("b", 0.3)], [wish("a", 0.5), wish("b", 0.3), wish("c", 0.2)]
    for session in range(500):
        (before,), (after,) = weighted_random(few, f"{session}", 0).weights, weighted_random(more, f"{session}", 0).weights
        assert after in {before, "c"}


def test_the_smallest_weights_are_drawn_too() -> None:
    wishes = [wish("a", 1e-3, weight=5e-324), wish("b", 1.0, weight=5e-324)]
    assert set(draws(wishes)) == {"a", "b"}
    assert weighted_random([wish("a", 1.0, 1e6), wishes[0]], "s", 0).probability == 1.0


def test_chance_is_that_of_sha_256_and_of_the_session_alone() -> None:
    assert seed_of("session", "race-0-suv") == 0x17A56D942FD1A6A4  # another number here moves all sessions that are under way
    assert seed_of("a", "b") == seed_of("a", "b") != seed_of("b", "b") != seed_of("b", "a")
    assert 0 < uniform_of(0) < uniform_of(2**64 - 1) < 1
    assert seed_of("\ud800", "b") >= 0


def test_a_policy_is_known_by_its_name_and_new_ones_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "POLICIES", dict(policies.POLICIES))

    @register("last_name")
    def last_name(viable: Sequence[Wish], session: str, position: int) -> Choice:
        last = max(viable, key=lambda each: each.name)
        return Choice({last.name: 1.0}, 1.0)

    assert policy_of("last_name") is last_name
    with pytest.raises(ConfigError, match="policy == highest_score, must be a new name"):
        register("highest_score")(last_name)
    with pytest.raises(ConfigError, match="^policy == 'best', must be one of combined, highest_score, last_name, weighted_random$"):
        policy_of("best")


@given(WISHES)
def test_wishes_have_one_order_whatever_order_they_come_in(wishes: list[Wish]) -> None:
    assert ordered(wishes) == ordered(wishes[::-1]) == ordered(ordered(wishes))
