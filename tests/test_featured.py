"""The featured query, example by example: the ladder, conflicts, what was seen, several positions, faults.

Most examples ask of this inventory; (s) is sponsored, the rank is behind the name.

    ev_suv (s) 1    electric suv   50,000        diesel (s) 2    diesel sedan   20,000
    ev (s) 3        electric hatch 30,000        petrol    9     petrol suv     25,000
    suv (s) 4       petrol suv     40,000        bare      -     nothing known
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from schemas.errors import ConfigError
from schemas.filters import NO_FILTERS
from schemas.rules import Condition
from serving import policies
from serving.featured import MAX_POSITIONS, Ask, Conflict, Featured, Position, feature
from serving.inventory import Inventory, Shortlist
from serving.policies import Choice
from serving.wishes import MAX_WISHES, Wish
from tests.plain_inventory import PlainInventory, Row
from tests.test_filters import parse


def row(name: str, rank: float | None, *, sponsored: bool, **attributes: Any) -> Row:
    return {"listing_id": name, "sponsored": sponsored, "rank": rank, **attributes}


ROWS = [
    row("ev_suv", 1, sponsored=True, fuel_type="electric", body_type="suv", price=50_000),
    row("ev", 3, sponsored=True, fuel_type="electric", body_type="hatchback", price=30_000),
    row("suv", 4, sponsored=True, fuel_type="petrol", body_type="suv", price=40_000),
    row("diesel", 2, sponsored=True, fuel_type="diesel", body_type="sedan", price=20_000),
    row("petrol", 9, sponsored=False, fuel_type="petrol", body_type="suv", price=25_000),
    row("bare", None, sponsored=False),
]
SHOP = PlainInventory(ROWS)


def wish(name: str, when: dict[str, Any], score: float = 0.5, weight: float = 1.0, priority: int = 0) -> Wish:
    condition = parse(when).condition
    assert condition is not None
    return Wish(name, score, weight, priority, condition)


ELECTRIC = wish("electric", {"fuel_type": "electric"}, 0.9)
SUV = wish("suv", {"body_type": "suv"}, 0.6)
CHEAP = wish("cheap", {"price": {"lt": 25_000}}, 0.5)
DEAR = wish("dear", {"price": {"gte": 45_000}}, 0.5)
HYDROGEN = wish("hydrogen", {"fuel_type": "hydrogen"}, 0.99)


def ask(*wishes: Wish, seen: Collection[str] = (), session: str = "s1", k: int = 1, **filters: Any) -> Ask:
    return Ask(parse(filters), wishes, frozenset(seen), session, k)


def answer(question: Ask, policy: str = "highest_score", inventory: Inventory = SHOP) -> Featured:
    found = feature(question, policy, inventory)
    assert found.fault is None
    return found


def first(question: Ask, policy: str = "highest_score") -> tuple[str | None, str, str | None]:
    position = answer(question, policy).positions[0]
    return (None if position.listing is None else position.listing["listing_id"], position.rung, position.segment)


@pytest.mark.parametrize(
    ("question", "policy", "expected"),
    [
        (ask(ELECTRIC, SUV), "combined", ("ev_suv", "combined", "electric")),
        (ask(ELECTRIC, SUV, CHEAP), "combined", ("ev_suv", "combined", "electric")),  # 0.9 + 0.6 beat 0.5
        (ask(wish("electric", {"fuel_type": "electric"}, 0.1), wish("cheap", {"price": {"lt": 25_000}}, 0.5)), "combined",
         ("diesel", "single_segment", "cheap")),
        (ask(SUV, CHEAP._replace(weight=9.0), ELECTRIC), "combined", ("diesel", "single_segment", "cheap")),
        (ask(ELECTRIC, wish("suv", {"body_type": "suv"}, 0.1, priority=1)), "combined", ("ev_suv", "combined", "suv")),
        (ask(ELECTRIC, SUV, seen=["ev_suv"]), "combined", ("ev", "single_segment", "electric")),
        (ask(ELECTRIC, SUV, price={"lt": 45_000}), "combined", ("ev", "single_segment", "electric")),
        (ask(CHEAP, SUV, ELECTRIC, price={"lt": 25_000}), "highest_score", ("diesel", "single_segment", "cheap")),
        (ask(ELECTRIC, CHEAP, seen=["ev", "ev_suv"]), "highest_score", ("diesel", "single_segment", "cheap")),
        (ask(HYDROGEN, CHEAP), "highest_score", ("diesel", "single_segment", "cheap")),
        (ask(HYDROGEN, CHEAP), "weighted_random", ("diesel", "single_segment", "cheap")),
        (ask(HYDROGEN, body_type="sedan"), "combined", ("diesel", "sponsored", None)),
        (ask(HYDROGEN, body_type="sedan"), "weighted_random", ("diesel", "sponsored", None)),
        (ask(HYDROGEN, price=25_000), "combined", ("petrol", "filters", None)),
        (ask(CHEAP, price=25_000), "combined", ("petrol", "default", None)),  # they clash
        (ask(SUV, seen=["suv", "ev_suv", "ev", "diesel"], body_type="suv"), "highest_score", ("petrol", "filters", None)),
        (ask(SUV, seen=["suv", "petrol", "ev_suv"], body_type="suv"), "highest_score", ("suv", "default", None)),
        (ask(SUV, make="No Such"), "highest_score", (None, "default", None)),
        (ask(SUV, seen=["suv", "ev_suv", "ev", "diesel", "petrol"]), "combined", ("bare", "filters", None)),
    ],
)  # fmt: skip
def test_each_question_ends_on_its_rung(question: Ask, policy: str, expected: tuple[str | None, str, str | None]) -> None:
    assert first(question, policy) == expected


def test_the_listing_is_credited_to_one_segment_and_all_it_fulfils_are_told() -> None:
    (position,) = answer(ask(ELECTRIC, SUV, DEAR, wish("diesel", {"fuel_type": "diesel"}))).positions
    assert (position.segment, position.rung, position.probability) == ("electric", "single_segment", 1.0)
    assert position.matched in {("electric", "suv", "dear"), ("electric",)}
    (position,) = answer(ask(DEAR, SUV, ELECTRIC), "combined").positions
    assert (position.segment, position.matched) == ("electric", ("electric", "suv", "dear"))
    (position,) = answer(ask(SUV, HYDROGEN, seen=[each["listing_id"] for each in ROWS[:4]])).positions
    assert position.rung == "filters"
    assert (position.segment, position.probability) == (None, None)


def test_a_draw_states_its_probability_among_the_viable_wishes() -> None:
    found = [answer(ask(ELECTRIC, SUV, HYDROGEN, session=f"{i}"), "weighted_random").positions[0] for i in range(200)]
    assert {(each.segment, each.probability) for each in found} == {("electric", 0.9 / 1.5), ("suv", 0.6 / 1.5)}
    counts = [sum(each.segment == name for each in found) for name in ("electric", "suv")]
    assert 90 < counts[0] < 150


def test_the_listing_of_a_segment_differs_between_sessions_and_not_within_one() -> None:
    shown = {first(ask(SUV, session=f"{i}"))[0] for i in range(30)}
    assert shown == {"suv", "ev_suv"}
    assert len({first(ask(SUV, session="one"))[0] for _ in range(30)}) == 1


def test_a_segment_that_clashes_with_the_filters_is_dropped_and_told() -> None:
    found = answer(ask(ELECTRIC, SUV, CHEAP, fuel_type=["diesel", "petrol"], price={"gte": 30_000}))
    assert found.conflicts == (Conflict("electric", ("fuel_type",)), Conflict("cheap", ("price",)))
    assert found.positions[0].segment == "suv"
    assert found.reason is None
    found = answer(ask(ELECTRIC, fuel_type="diesel"))
    assert found.conflicts == (Conflict("electric", ("fuel_type",)),)
    assert (found.positions, found.reason) == (found.default, "all_conflict")


@pytest.mark.parametrize("policy", ["highest_score", "weighted_random", "combined"])
def test_without_wishes_the_default_is_served(policy: str) -> None:
    found = answer(ask(k=3, seen=["suv", "ev"]), policy)
    assert found.positions == found.default
    assert [each.listing and each.listing["listing_id"] for each in found.default] == ["suv", "ev", "diesel"]
    assert {each[1:] for each in found.default} == {("default", None, (), None)}
    assert (found.reason, found.conflicts) == ("no_segments", ())


def test_the_default_is_the_same_for_everybody_in_the_session() -> None:
    one = answer(ask(k=2, price={"lt": 45_000})).default
    for question in (ask(ELECTRIC, k=2, price={"lt": 45_000}), ask(SUV, CHEAP, k=2, seen=["suv", "ev"], price={"lt": 45_000})):
        for policy in ("combined", "weighted_random"):
            assert answer(question, policy).default == one


def test_positions_never_repeat_a_listing_and_go_down_the_ladder_one_after_another() -> None:
    found = answer(ask(ELECTRIC, k=8, seen=["petrol"], body_type=["suv", "hatchback", "sedan"]))
    names = [each.listing and each.listing["listing_id"] for each in found.positions]
    assert set(names[:2]) == {"ev", "ev_suv"}
    assert set(names[2:4]) == {"suv", "diesel"}
    assert names[4:] == ["petrol", None, None, None]  # seen, so only when nothing else is left
    rungs = ["single_segment"] * 2 + ["sponsored"] * 2 + ["default"] * 4
    assert [each.rung for each in found.positions] == rungs
    assert len(found.default) == 8


def test_fewer_positions_are_the_first_of_more() -> None:
    many = answer(ask(ELECTRIC, SUV, CHEAP, k=5), "weighted_random")
    for k in range(1, 5):
        few = answer(ask(ELECTRIC, SUV, CHEAP, k=k), "weighted_random")
        assert few.positions == many.positions[:k]
        assert few.default == many.default[:k]


def test_when_all_was_seen_the_last_rung_is_the_default_itself() -> None:
    rows = [row(f"l{place}", None, sponsored=False, fuel_type="electric") for place in range(12)]
    names = [each["listing_id"] for each in rows]
    for session in "abcdefgh":
        found = answer(ask(ELECTRIC, seen=names, session=session, k=4), inventory=PlainInventory(rows))
        assert found.positions == found.default
        assert found.reason == "no_match"
        found = answer(ask(ELECTRIC, seen=names[1:], session=session, k=10), inventory=PlainInventory(rows))
        shown = [each.listing and each.listing["listing_id"] for each in found.positions]
        usual = [each.listing and each.listing["listing_id"] for each in found.default]
        assert shown == ["l0", *[name for name in usual if name != "l0"][:9]]


def test_only_so_many_segments_are_looked_at_and_the_others_are_told() -> None:
    wishes = [wish(f"w{i:02}", {"fuel_type": "electric"}, score=1 - i / 100) for i in range(MAX_WISHES + 2)]
    found = answer(ask(*wishes[::-1]))
    assert found.dropped == (f"w{MAX_WISHES}", f"w{MAX_WISHES + 1}")
    assert len(found.positions[0].matched) == MAX_WISHES


# --- faults --------------------------------------------------------------------------------------------------------------


class Faulty(PlainInventory):
    """Raises when a method of its shortlist is called."""

    def __init__(self, method: str) -> None:
        super().__init__(ROWS)
        self.method = method

    def shortlist(self, filters: Condition | None, wishes: Sequence[Condition], seen: Collection[str]) -> Any:
        if self.method == "shortlist":
            raise RuntimeError
        found = super().shortlist(filters, wishes, seen)

        def broken(*_: Any, **__: Any) -> Shortlist:
            raise RuntimeError

        setattr(found, self.method, broken)
        return found


@pytest.mark.parametrize("method", ["shortlist", "default"])
def test_an_inventory_that_fails_gives_no_listing_and_the_fault(method: str) -> None:
    found = feature(ask(ELECTRIC, CHEAP, k=2, price={"gt": 30_000}), "combined", Faulty(method))
    assert found.positions == found.default == (Position(None, "default"),) * 2
    assert isinstance(found.fault, RuntimeError)
    assert (found.reason, found.conflicts) == ("fault", (Conflict("cheap", ("price",)),))


@pytest.mark.parametrize(("method", "seen"), [("viable", []), ("best", []), ("any", ["ev", "ev_suv"])])
def test_a_fault_in_being_personal_leaves_the_default(method: str, seen: list[str]) -> None:
    question = ask(ELECTRIC, seen=seen, k=2)
    found = feature(question, "highest_score", Faulty(method))
    assert isinstance(found.fault, RuntimeError)
    assert found.positions == found.default == answer(question).default
    assert found.reason == "fault"


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice({}, 1.0), "policy chose {}, must be weights above 0 for some of electric"),
        (Choice({"suv": 1.0}, 1.0), "must be weights above 0 for some of electric"),
        (Choice({"electric": 0.0}, 1.0), "must be weights above 0"),
        (Choice({"electric": float("nan")}, 1.0), "must be weights above 0"),
        (Choice({"electric": float("inf")}, 1.0), "must be weights above 0"),
        (Choice({"electric": 1.0}, 0.0), "policy's probability == 0.0, must be above 0 and at most 1"),
        (Choice({"electric": 1.0}, 1.5), "policy's probability == 1.5"),
        (ValueError("no"), "^no$"),
    ],
)
def test_a_policy_that_errs_leaves_the_default(choice: Choice | Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(viable: Sequence[Wish], session: str, position: int) -> Choice:
        if isinstance(choice, Exception):
            raise choice
        return choice

    monkeypatch.setitem(policies.POLICIES, "odd", odd)
    found = feature(ask(ELECTRIC), "odd", SHOP)
    assert found.positions == found.default == answer(ask()).default
    with pytest.raises((ConfigError, ValueError), match=message):
        raise found.fault or AssertionError


def test_a_registered_policy_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lowest(viable: Sequence[Wish], session: str, position: int) -> Choice:
        last = min(viable, key=lambda each: each.score)
        return Choice({last.name: 1.0}, 0.25)

    monkeypatch.setitem(policies.POLICIES, "lowest", lowest)
    (position,) = answer(ask(ELECTRIC, SUV, CHEAP), "lowest").positions
    assert (position.listing or {})["listing_id"] == "diesel"
    assert position[1:] == ("single_segment", "cheap", ("cheap",), 0.25)


def test_a_policy_may_count_in_numpy_and_the_answer_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(viable: Sequence[Wish], session: str, position: int) -> Choice:
        return Choice({viable[0].name: np.float32(0.5)}, np.float32(0.25))  # type: ignore[dict-item, arg-type]

    monkeypatch.setitem(policies.POLICIES, "counted", counted)
    (position,) = answer(ask(ELECTRIC), "counted").positions
    assert type(position.probability) is float
    assert b'"probability":0.25' in msgspec.json.encode(position._asdict())


def test_a_policy_cannot_slip_a_segment_of_its_own_among_the_viable_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    def slips(viable: Any, session: str, position: int) -> Choice:
        viable += [HYDROGEN] if isinstance(viable, list) else (HYDROGEN,)
        return Choice({HYDROGEN.name: 1.0}, 1.0)

    monkeypatch.setitem(policies.POLICIES, "slips", slips)
    found = feature(ask(ELECTRIC), "slips", SHOP)
    assert found.positions == found.default == answer(ask()).default
    assert "must be weights above 0 for some of electric" in str(found.fault)


def test_an_unknown_policy_and_an_impossible_k_are_faults_that_leave_the_default() -> None:
    found = feature(ask(ELECTRIC), "best", SHOP)
    assert found.positions == found.default == answer(ask()).default
    assert str(found.fault).startswith("policy == 'best', must be one of combined")
    for k, shown in ((0, 1), (-1, 1), (MAX_POSITIONS + 1, MAX_POSITIONS)):
        found = feature(ask(ELECTRIC, k=k), "combined", SHOP)
        assert found.positions == found.default == answer(ask(k=shown)).default
        assert str(found.fault) == f"k == {k}, must be within 1 and 10"


def test_of_two_faults_the_first_is_told() -> None:
    assert isinstance(feature(ask(ELECTRIC), "best", Faulty("default")).fault, ConfigError)


def test_filters_may_be_absent() -> None:
    assert answer(Ask(NO_FILTERS, (), frozenset(), "", 1)).default[0].listing is not None
