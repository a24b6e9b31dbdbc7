"""What holds of every featured listing, whatever the filters, segments, inventory, policy, share of sponsored listings and session.

The inventories are files read by the embedded inventory, 40 of them; all the rest is drawn. An answer is held against the
definition in words, and against the same question to an inventory that looks at every listing one by one.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.filters import NO_FILTERS, Filters, parse_filters
from serving.compatibility import compatible
from serving.featured import RUNGS, Ask, feature
from serving.inventory import Inventory, load_inventory
from serving.policies import POLICIES
from serving.wishes import Wish, ordered
from tests.plain_inventory import PlainInventory, Row, attributes_in
from tests.strategies import CATALOGUE
from transforms.conditions import predicate_of

CASES: Final = 2_500
SHARES: Final = (0.0, 0.05, 0.3, 0.7, 1.0)
SIZES: Final = (1, 2, 5, 12, 30, 80, 200, 400)
PERSONAL: Final = {"combined", "single_segment"}


class Stock(NamedTuple):
    inventory: Inventory
    plain: PlainInventory
    rows: dict[str, Row]


def rows_of(size: int, share: float) -> list[Row]:
    """Listings of few distinct values, so that filters and wishes meet, and every attribute lacking now and then."""
    chance = random.Random(f"{size} {share}")
    values: dict[str, list[Any]] = {
        "make": ["Kia", "BMW", "Fiat"],
        "fuel_type": ["electric", "diesel", "petrol"],
        "body_type": ["suv", "sedan"],
        "price": [5, 10, 20, 30.5],
        "year": [2010, 2020],
    }
    rows: list[Row] = []
    for number in range(size):
        rank = chance.choice([None, 1, 1, 2.5, -3])
        row = {"listing_id": f"l{number}", "sponsored": chance.random() < share, "rank": rank}
        rows.append({**row, **{name: chance.choice(some) for name, some in values.items() if chance.random() < 0.85}})
    return rows


@pytest.fixture(scope="module")
def stocks(tmp_path_factory: pytest.TempPathFactory) -> list[Stock]:
    folder: Path = tmp_path_factory.mktemp("stocks")
    found = []
    for size in SIZES:
        for share in SHARES:
            rows = rows_of(size, share)
            path = folder / f"{size}-{share}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            found.append(
                Stock(load_inventory(str(path), CATALOGUE), PlainInventory(rows), {row["listing_id"]: row for row in rows})
            )
    return found


_leaf = (
    st.fixed_dictionaries({"make": st.sampled_from(["Kia", "BMW", "Fiat", "Saab"])})
    | st.fixed_dictionaries({"fuel_type": st.sampled_from(["electric", "diesel", ["diesel", "petrol"], "lpg"])})
    | st.fixed_dictionaries({"body_type": st.sampled_from(["suv", "sedan", ["suv", "sedan"]])})
    | st.fixed_dictionaries(
        {
            "price": st.dictionaries(
                st.sampled_from(["gte", "gt", "lte", "lt"]), st.sampled_from([5, 10, 15, 20, 30.5]), min_size=1, max_size=2
            )
        }
    )
    | st.fixed_dictionaries({"year": st.sampled_from([2010, 2020, [2010, 2020]])})
)
CONDITIONS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    _leaf | st.tuples(_leaf, _leaf).map(lambda two: two[0] | two[1]),
    lambda inner: (
        st.fixed_dictionaries({"not": inner})
        | st.fixed_dictionaries({"any": st.lists(inner, min_size=1, max_size=3)})
        | st.fixed_dictionaries({"all": st.lists(inner, min_size=1, max_size=3)})
    ),
    max_leaves=3,
)
FILTERS: st.SearchStrategy[Filters] = st.just(NO_FILTERS) | CONDITIONS.map(lambda data: parse_filters(data, CATALOGUE))


@st.composite
def wishes(draw: st.DrawFn) -> tuple[Wish, ...]:
    found = []
    for place, data in enumerate(draw(st.lists(CONDITIONS, max_size=5))):
        condition = parse_filters(data, CATALOGUE).condition
        assert condition is not None
        score, weight = draw(st.sampled_from([0.25, 0.5, 0.75, 1.0])), draw(st.sampled_from([0.5, 1.0, 1.0, 2.0, 64.0]))
        found.append(Wish(f"w{place}", score, weight, draw(st.sampled_from([0, 0, 0, 1, -1])), condition))
    return tuple(found)


SEEN = st.frozensets(st.integers(0, 30).map("l{}".format), max_size=12)
SESSIONS = st.text(max_size=6)
ASKS = st.builds(Ask, FILTERS, wishes(), SEEN, SESSIONS, st.sampled_from([1, 1, 1, 2, 3, 10]))
STOCKS = st.integers(0, len(SIZES) * len(SHARES) - 1)
POLICY = st.sampled_from(sorted(POLICIES))

many = settings(max_examples=CASES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
some_more = settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
fewer = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TALLY: Counter[str] = Counter()


def fits(filters: Filters, row: Row) -> bool:
    return filters.condition is None or predicate_of(filters.condition)(attributes_in(row))


@many
@given(ASKS, POLICY, STOCKS)
def test_what_is_served_satisfies_every_filter(stocks: list[Stock], ask: Ask, policy: str, number: int) -> None:
    stock = stocks[number]
    found = feature(ask, policy, stock.inventory)
    assert found.fault is None
    assert len(found.positions) == len(found.default) == ask.k
    for position in (*found.positions, *found.default):
        if position.listing is not None:
            row = stock.rows[position.listing["listing_id"]]
            assert fits(ask.filters, row)
            assert position.listing["attributes"] == attributes_in(row)
    fitting = sum(fits(ask.filters, row) for row in stock.rows.values())
    for positions in (found.positions, found.default):
        names = [each.listing["listing_id"] for each in positions if each.listing is not None]
        assert len(set(names)) == len(names) == min(ask.k, fitting), "each once, and none left over while there is one that fits"
    TALLY["cases"] += 1
    TALLY[found.positions[0].rung] += 1
    TALLY["conflicts"] += bool(found.conflicts)


def test_the_cases_reached_every_rung() -> None:
    if not TALLY["cases"]:
        pytest.skip("the test before this one has not been run")
    assert TALLY["cases"] >= 2_000
    for rung in (*RUNGS, "conflicts"):
        assert TALLY[rung] > 20, TALLY


@some_more
@given(ASKS, POLICY, STOCKS)
def test_the_answer_is_that_of_looking_at_every_listing(stocks: list[Stock], ask: Ask, policy: str, number: int) -> None:
    stock = stocks[number]
    assert feature(ask, policy, stock.inventory) == feature(ask, policy, stock.plain)


@fewer
@given(ASKS, POLICY, STOCKS)
def test_a_rung_says_what_it_means_and_no_higher_one_had_a_listing(stocks: list[Stock], ask: Ask, policy: str, number: int) -> None:
    stock = stocks[number]
    found = feature(ask, policy, stock.inventory)
    live = [wish for wish in ordered(ask.wishes) if ask.filters.condition is None or compatible(wish.when, ask.filters.condition)]
    assert [conflict.segment for conflict in found.conflicts] == [wish.name for wish in ordered(ask.wishes) if wish not in live]
    if not live:
        assert found.positions == found.default
        return
    taken: set[str] = set()
    for position in found.positions:
        unseen = [row for name, row in stock.rows.items() if fits(ask.filters, row) and name not in ask.seen | taken]
        paying = [row for row in unseen if row["sponsored"]]
        met = {row["listing_id"]: [wish for wish in live if predicate_of(wish.when)(attributes_in(row))] for row in unseen}
        if any(met[row["listing_id"]] for row in paying):
            assert position.rung in PERSONAL
            assert position.listing is not None
            mine = met[position.listing["listing_id"]]
            assert position.listing["sponsored"]
            assert position.matched == tuple(wish.name for wish in mine)
            assert position.segment in position.matched
            if policy == "combined":
                most = max(sum(wish.worth for wish in met[row["listing_id"]]) for row in paying)
                assert sum(wish.worth for wish in mine) == most
                assert position.rung == ("combined" if len(mine) > 1 else "single_segment")
                assert position.segment == position.matched[0]
            else:
                assert position.rung == "single_segment"
                viable = [wish for wish in live if any(wish in met[row["listing_id"]] for row in paying)]
                highest = [wish for wish in viable if wish.priority == max(other.priority for other in viable)]
                picked = next(wish for wish in highest if wish.name == position.segment)
                total = sum(wish.worth for wish in highest)
                assert position.probability == (1.0 if policy == "highest_score" else pytest.approx(picked.worth / total))
                assert policy != "highest_score" or picked == ordered(viable)[0]
        elif unseen:
            assert position.rung == ("sponsored" if paying else "filters")
            assert position.listing is not None
            assert position.listing["listing_id"] in met
            assert bool(position.listing["sponsored"]) == bool(paying)
            assert (position.segment, position.probability) == (None, None)
        else:
            assert position.rung == "default"
        taken |= {position.listing["listing_id"]} if position.listing is not None else set()


@fewer
@given(ASKS, POLICY, STOCKS, st.randoms(use_true_random=False))
def test_the_answer_is_a_function_of_session_and_inputs(
    stocks: list[Stock], ask: Ask, policy: str, number: int, chance: random.Random
) -> None:
    stock = stocks[number]
    found = feature(ask, policy, stock.inventory)
    shuffled = list(ask.wishes)
    chance.shuffle(shuffled)
    rows = list(stock.plain.rows)
    chance.shuffle(rows)
    assert feature(ask, policy, stock.inventory) == found
    assert feature(ask._replace(wishes=tuple(shuffled)), policy, PlainInventory(rows)) == found


@fewer
@given(ASKS, POLICY, POLICY, wishes(), SEEN, STOCKS)
def test_the_default_is_a_function_of_filters_session_and_k(
    stocks: list[Stock], ask: Ask, policy: str, other: str, others: tuple[Wish, ...], seen: frozenset[str], number: int
) -> None:
    stock = stocks[number]
    found = feature(ask, policy, stock.inventory)
    assert feature(ask._replace(wishes=others, seen=seen), other, stock.inventory).default == found.default
    nobody = feature(ask._replace(wishes=()), policy, stock.inventory)
    assert nobody.positions == nobody.default == found.default
    assert nobody.reason == "no_segments"


class Breaking:
    """An inventory whose n-th call fails."""

    def __init__(self, stock: Stock, calls: int) -> None:
        self._stock = stock
        self._calls = calls

    def shortlist(self, *arguments: Any) -> Any:
        self._count()
        found, outer = self._stock.inventory.shortlist(*arguments), self

        class Shortlist:
            def __getattr__(self, name: str) -> Any:
                outer._count()
                return getattr(found, name)

        return Shortlist()

    def _count(self) -> None:
        self._calls -= 1
        if self._calls < 0:
            msg = "gone"
            raise OSError(msg)


@fewer
@given(ASKS, POLICY, STOCKS, st.integers(0, 12))
def test_after_any_fault_the_default_is_served_or_nothing(
    stocks: list[Stock], ask: Ask, policy: str, number: int, calls: int
) -> None:
    right = feature(ask, policy, stocks[number].inventory)
    found = feature(ask, policy, Breaking(stocks[number], calls))
    if found.fault is None:
        assert found == right
        return
    assert isinstance(found.fault, OSError)
    assert found.reason == "fault"
    assert found.positions == found.default
    if calls >= 2:  # the shortlist and its default went through
        assert found.default == right.default
    else:
        assert {each.listing for each in found.default} == {None}


SESSION_COUNT: Final = 3_000


def chi_square(counts: Sequence[float], expected: Sequence[float]) -> float:
    return sum((count - right) ** 2 / right for count, right in zip(counts, expected, strict=True))


@pytest.mark.parametrize("number", [27, 28, 38])  # 80 and 400 listings, of which 30 % and 70 % are sponsored
def test_picks_come_as_often_as_their_stated_probabilities(stocks: list[Stock], number: int) -> None:
    """Sessions are numbered, so chance is the same in every run."""
    chance = random.Random(number)
    named = [("make", "Kia"), ("make", "BMW"), ("fuel_type", "lpg"), ("body_type", "suv"), ("price", {"lt": 10}), ("year", 2010)]
    some = []
    for place, (name, value) in enumerate(named):
        condition = parse_filters({name: value}, CATALOGUE).condition
        assert condition is not None
        some.append(Wish(f"w{place}", chance.choice([0.4, 0.6, 0.9]), chance.choice([1.0, 1.0, 2.0, 3.0]), 0, condition))
    counts: Counter[str] = Counter()
    stated: dict[str, float] = {}
    for session in range(SESSION_COUNT):
        ask = Ask(
            parse_filters({"not": {"fuel_type": "diesel"}}, CATALOGUE), tuple(some), frozenset({"l1", "l2"}), f"session {session}"
        )
        (position,) = feature(ask, "weighted_random", stocks[number].inventory).positions
        assert position.segment is not None
        assert position.probability is not None
        counts[position.segment] += 1
        assert stated.setdefault(position.segment, position.probability) == position.probability
    assert set(stated) == {"w0", "w1", "w3", "w4", "w5"}  # no listing runs on lpg
    assert sum(stated.values()) == pytest.approx(1.0)
    assert (
        chi_square([counts[name] for name in stated], [SESSION_COUNT * p for p in stated.values()]) < 18.5
    )  # 4 degrees: 1 in 1,000
