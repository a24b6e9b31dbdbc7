"""Assignment: who is in which experiment and arm, by hash alone; against hashlib by hand, exact bounds and a brute force."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.assignment import REASONS, Assignment, arm_of, assign, with_segment
from schemas.experiment import Bandit
from schemas.experiments import Arm, Experiment, Experiments, Flag, Layer, Unit
from schemas.hashing import POSITIONS, position_of, within
from tests.strategies import ROOT

SESSIONS = [f"s{number}" for number in range(100_000)]
FEW = SESSIONS[:2_000]
HALVES = (Arm("control", 1.0, False, "combined"), Arm("treatment", 1.0, True, "combined"))
THIRDS = (Arm("control", 2.0, False), Arm("blue", 1.0, True), Arm("green", 3.0, True, "weighted_random"))
UNLIKELY = 1e-6  # of a false alarm, were the salts not fixed
SHARES = st.floats(0, 1)
SALTS = st.text("abcdefghij-._0123456789", min_size=1, max_size=12)


def experiment(name: str = "first", **more: object) -> Experiment:
    whole = Experiment(name, 3, "featured", (0.0, 1.0), "session", name, 1.0, HALVES, {})
    return whole._replace(**more)  # type: ignore[arg-type]


def file_of(*experiments: Experiment, kill: bool = False) -> Experiments:
    layers = sorted({each.layer for each in experiments} | {"featured"})
    return Experiments(7, tuple(Layer(name, f"salt-of-{name}") for name in layers), experiments, kill)


def assigned(experiments: Experiments, session: str | None, layer: str = "featured", now: int = 0) -> Assignment:
    return assign(experiments, layer, session=session, user=None, now=now)


def everybody(experiments: Experiments, sessions: list[str] = FEW) -> dict[str, Assignment]:
    return {session: assigned(experiments, session) for session in sessions}


def by_hand(salt: str, unit: str) -> Fraction:
    """The position in [0, 1), as another implementation would compute it."""
    return Fraction(int(hashlib.sha256(f"{salt}:{unit}".encode()).hexdigest()[:16], 16), 2**64)


# --- the hash ------------------------------------------------------------------------------------------------------------

GOLDEN = [  # printf '%s' SALT:UNIT | sha256sum | cut -c -16
    ("featured:layer", "s1", "18d3dfda38f4511c"),
    ("first:ramp", "s1", "8baa6f96027eb8a4"),
    ("first:arm", "s1", "fc60aef3f3ecdf26"),
    ("first:segment:suv", "s1", "a32072809c9768c1"),
    ("first:arm", "Zoë", "5594544cfc8c555e"),
]


@pytest.mark.parametrize(("salt", "unit", "digits"), GOLDEN)
def test_positions_can_be_reproduced_with_sha256sum(salt: str, unit: str, digits: str) -> None:
    assert f"{position_of(salt, unit):016x}" == digits


def test_an_assignment_can_be_reproduced_by_hand() -> None:
    file = file_of(experiment(slice=(0.2, 0.9), ramp=0.5, arms=THIRDS, segments={"suv": Flag(ramp=0.4)}))
    for session in FEW:
        found, place = assigned(file, session), by_hand("salt-of-featured:layer", session)
        arm, reason = None, "assigned"
        if not Fraction(0.2) <= place < Fraction(0.9):
            reason = "not_in_layer"
        elif by_hand("first:ramp", session) >= Fraction(0.5):
            reason = "not_in_ramp"
        else:
            at = 6 * by_hand("first:arm", session)
            arm = "control" if at < 2 else "blue" if at < 3 else "green"
        assert (found.arm, found.reason) == (arm, reason)
        outside = by_hand("first:segment:suv", session) >= Fraction(0.4)
        assert with_segment(found, "suv", file).reason == ("segment_not_in_ramp" if arm and outside else reason)


def test_bounds_are_exact_to_the_last_position() -> None:
    assert within(POSITIONS // 2 - 1, 0.5)
    assert not within(POSITIONS // 2, 0.5)
    assert not within(0, 0.0)
    assert within(POSITIONS - 1, 1.0)


@given(SALTS, st.text(min_size=1), SHARES)
def test_within_is_what_fractions_say(salt: str, unit: str, share: float) -> None:
    position = position_of(salt, unit)
    assert within(position, share) == (Fraction(position, POSITIONS) < Fraction(share))


@given(st.lists(st.floats(0, 1e6, exclude_min=True), min_size=2, max_size=6), st.text(max_size=5))
def test_arms_lie_side_by_side_by_exact_weights(weights: list[float], unit: str) -> None:
    arms = tuple(Arm(f"a{index}", weight, False) for index, weight in enumerate(weights))
    exact = [Fraction(weight) for weight in weights]
    place = by_hand("first:arm", unit) * sum(exact)
    expected = next(index for index, upto in enumerate(itertools.accumulate(exact)) if place < upto)
    assert arm_of(experiment(arms=arms), unit).name == f"a{expected}"


@pytest.mark.parametrize(
    ("position", "arm"),
    [
        (0, "a0"),
        (POSITIONS // 3, "a0"),  # a third of a power of two is no whole number: this is the last position below it
        (POSITIONS // 3 + 1, "a1"),
        (2 * POSITIONS // 3, "a1"),
        (2 * POSITIONS // 3 + 1, "a2"),
        (POSITIONS - 1, "a2"),
    ],
)
def test_the_last_position_of_an_arm_is_its_own(position: int, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.assignment.position_of", lambda salt, unit: position)
    assert arm_of(experiment(arms=tuple(Arm(f"a{index}", 1.0, False) for index in range(3))), "s1").name == arm


def test_half_of_the_positions_are_the_first_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    for position, arm in ((POSITIONS // 2 - 1, "control"), (POSITIONS // 2, "treatment")):
        monkeypatch.setattr("experiments.assignment.position_of", lambda salt, unit, position=position: position)
        assert arm_of(experiment(), "s1").name == arm


# --- shares --------------------------------------------------------------------------------------------------------------


def test_arms_have_the_shares_that_their_weights_say() -> None:
    counts = Counter(assigned(file_of(experiment(arms=THIRDS)), session).arm for session in SESSIONS)
    for arm in THIRDS:
        assert stats.binomtest(counts[arm.name], len(SESSIONS), arm.weight / 6).pvalue > UNLIKELY
    assert sum(counts.values()) == len(SESSIONS)


@pytest.mark.parametrize("ramp", [0.001, 0.05, 0.5, 0.99])
def test_a_ramp_has_its_share_of_the_units(ramp: float) -> None:
    some = SESSIONS[:30_000]
    inside = sum(assigned(file_of(experiment(ramp=ramp)), session).arm is not None for session in some)
    assert stats.binomtest(inside, len(some), ramp).pvalue > UNLIKELY


def test_layers_are_independent() -> None:
    file = file_of(experiment("first", arms=THIRDS), experiment("second", layer="ranking", arms=THIRDS))
    table = Counter((assigned(file, session).arm, assigned(file, session, "ranking").arm) for session in SESSIONS)
    names = [arm.name for arm in THIRDS]
    assert stats.chi2_contingency([[table[one, other] for other in names] for one in names]).pvalue > UNLIKELY


@pytest.mark.parametrize("salts", itertools.combinations(["f:layer", "f:ramp", "f:arm", "f:segment:suv", "f:segment:van"], 2))
def test_the_draws_of_one_experiment_are_independent(salts: tuple[str, str]) -> None:
    places = Counter(tuple(4 * position_of(salt, session) // POSITIONS for salt in salts) for session in SESSIONS[:20_000])
    assert stats.chi2_contingency([[places[one, other] for other in range(4)] for one in range(4)]).pvalue > UNLIKELY


def test_where_a_unit_is_in_the_ramp_says_nothing_about_its_arm_or_its_layer() -> None:
    file = file_of(experiment(slice=(0.0, 0.3), ramp=0.1))
    counts = Counter(assigned(file, session).arm for session in SESSIONS)
    assert stats.binomtest(counts["control"] + counts["treatment"], len(SESSIONS), 0.03).pvalue > UNLIKELY
    assert stats.binomtest(counts["control"], counts["control"] + counts["treatment"], 0.5).pvalue > UNLIKELY


# --- nobody moves --------------------------------------------------------------------------------------------------------


@given(SALTS, SHARES, SHARES, SHARES, SHARES)
def test_widening_moves_nobody(salt: str, one: float, other: float, low: float, high: float) -> None:
    less, more = sorted([one, other])
    narrow, wide = sorted([low, high])
    before = file_of(experiment(salt=salt, ramp=less, segments={"suv": Flag(ramp=narrow)}))
    after = file_of(experiment(salt=salt, ramp=more, segments={"suv": Flag(ramp=wide)}))
    for session in FEW[:100]:
        first = with_segment(assigned(before, session), "suv", before)
        if first.arm is not None:
            assert with_segment(assigned(after, session), "suv", after) == first


@given(st.lists(st.integers(0, 20), min_size=4, max_size=4, unique=True))
def test_another_experiment_in_a_free_slice_moves_nobody(bounds: list[int]) -> None:
    a, b, c, d = (bound / 20 for bound in sorted(bounds))
    first, second = experiment(slice=(a, b)), experiment("second", slice=(c, d), arms=THIRDS)
    before, after = file_of(first), file_of(second, first)
    for session in FEW[:200]:
        if assigned(before, session).experiment is not None:
            assert assigned(after, session) == assigned(before, session)


def test_no_unit_is_in_two_experiments_of_a_layer_and_a_full_layer_leaves_nobody_out() -> None:
    bounds = [0.0, 0.1, 0.3, 1 / 3, 1.0]
    parts = [experiment(f"e{index}", slice=part) for index, part in enumerate(itertools.pairwise(bounds))]
    alone = [everybody(file_of(part)) for part in parts]
    together = everybody(file_of(*reversed(parts)))
    for session in FEW:
        homes = [each[session].experiment for each in alone if each[session].experiment is not None]
        assert homes == [together[session].experiment]


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_weights_that_change_move_only_who_must(one: float, other: float) -> None:
    """Two arms: whoever moves goes to the arm that has grown, and as many as it has grown by."""
    before, after = ((Arm("control", 1.0, False), Arm("treatment", weight, True)) for weight in (one, other))
    grown = "treatment" if other > one else "control"
    old, new = Fraction(1) / (1 + Fraction(one)), Fraction(1) / (1 + Fraction(other))
    for session in FEW[:200]:
        was, now = arm_of(experiment(arms=before), session).name, arm_of(experiment(arms=after), session).name
        must = min(old, new) <= by_hand("first:arm", session) < max(old, new)
        assert (was != now) == must
        assert was == now or now == grown


def test_a_new_version_moves_nobody_and_a_new_salt_draws_anew() -> None:
    first, second = everybody(file_of(experiment())), everybody(file_of(experiment(version=4)))
    third = everybody(file_of(experiment(salt="again")))
    assert [each.arm for each in first.values()] == [each.arm for each in second.values()]
    same = sum(first[session].arm == third[session].arm for session in FEW)
    assert stats.binomtest(same, len(FEW), 0.5).pvalue > UNLIKELY


# --- reasons -------------------------------------------------------------------------------------------------------------


def test_a_unit_of_a_running_experiment_is_in_one_of_its_arms() -> None:
    found = everybody(file_of(experiment(arms=THIRDS)))
    arms = {arm.name: arm for arm in THIRDS}
    for session, each in found.items():
        arm = arms[each.arm or ""]
        assert each == Assignment("first", 3, arm.name, session, arm.shows, arm.policy, "assigned", "session")
    assert {each.arm for each in found.values()} == set(arms)


NOWHERE = Assignment(None, None, None, None, False, None, "killed")
OUT = Assignment("first", 3, None, "s1", False, None, "not_running", "session")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (file_of(experiment(), kill=True), NOWHERE),
        (file_of(), NOWHERE._replace(reason="no_experiment")),
        (file_of(experiment(layer="ranking")), NOWHERE._replace(reason="no_experiment")),
        (file_of(experiment(slice=(0.0, 1e-9))), NOWHERE._replace(reason="not_in_layer", unit="s1", kind="session")),
        (file_of(experiment(unit="user")), NOWHERE._replace(reason="no_unit", kind="user")),
        (file_of(experiment(running=False)), OUT),
        (file_of(experiment(starts=1_000)), OUT),
        (file_of(experiment(ends=999)), OUT),
        (file_of(experiment(ends=0)), OUT),
        (file_of(experiment(ramp=0.0)), OUT._replace(reason="not_in_ramp")),
    ],
)
def test_a_unit_outside_is_shown_nothing_and_told_why(file: Experiments, expected: Assignment) -> None:
    assert assigned(file, "s1", now=999) == expected


def test_an_experiment_runs_from_its_start_until_just_before_its_end() -> None:
    file = file_of(experiment(starts=1_000, ends=2_000))
    reasons = [assigned(file, "s1", now=now).reason for now in (999, 1_000, 1_999, 2_000)]
    assert reasons == ["not_running", "assigned", "assigned", "not_running"]


def test_without_an_instant_the_clock_counts() -> None:
    now = time.time_ns() // 1_000_000
    for starts, reason in ((now - 60_000, "assigned"), (now + 60_000, "not_running")):
        assert assign(file_of(experiment(starts=starts)), "featured", session="s1", user=None).reason == reason


@pytest.mark.parametrize(("unit", "session", "user"), [("session", "x", "y"), ("user", "y", "x")])
def test_a_unit_is_the_session_or_the_user(unit: Unit, session: str, user: str) -> None:
    found = assign(file_of(experiment(unit=unit)), "featured", session=session, user=user, now=0)
    assert (found.unit, found.kind) == ("x", unit)
    assert found.arm == arm_of(experiment(), "x").name


@pytest.mark.parametrize("unit", [None, ""])
def test_an_id_that_is_missing_is_no_unit(unit: str | None) -> None:
    assert assigned(file_of(experiment()), unit).reason == "no_unit"


@given(st.text(st.characters(), min_size=1))
def test_any_text_is_a_unit(unit: str) -> None:
    assert assigned(file_of(experiment()), unit).reason == "assigned"
    assert assigned(file_of(experiment()), unit + "\ud800").reason == "assigned"


def test_every_reason_is_told() -> None:
    assert set(REASONS) == {
        *("assigned", "killed", "not_running", "not_in_layer", "not_in_ramp", "no_unit", "no_experiment"),
        "fault",  # the gateway's
        *("segment_off", "segment_not_in_ramp"),
    }
    text = (ROOT / "docs/experiments.md").read_text()
    assert "".join(f"| `{reason}` | {meaning} |\n" for reason, meaning in REASONS.items()) in text


# --- segments ------------------------------------------------------------------------------------------------------------

FLAGS = {"suv": Flag(ramp=0.3), "van": Flag(running=False), "electric": Flag()}


def test_a_segments_flag_and_ramp_cut_every_arm_alike() -> None:
    file = file_of(experiment(arms=THIRDS, segments=FLAGS))
    inside = {session for session in FEW if by_hand("first:segment:suv", session) < Fraction(0.3)}
    for session, found in everybody(file).items():
        off = found._replace(arm=None, shows=False, reason="segment_off")
        out = found._replace(arm=None, shows=False, reason="segment_not_in_ramp")
        assert with_segment(found, "van", file) == off
        assert with_segment(found, "suv", file) == (found if session in inside else out)
        for segment in ("electric", "unnamed", None):
            assert with_segment(found, segment, file) == found
    assert stats.binomtest(len(inside), len(FEW), 0.3).pvalue > UNLIKELY


def test_who_is_outside_stays_outside_for_its_own_reason() -> None:
    file = file_of(experiment(ramp=0.0, segments=FLAGS))
    found = assigned(file, "s1")
    assert with_segment(found, "van", file) == found


def test_a_file_that_no_longer_has_the_experiment_shows_nothing() -> None:
    found = assigned(file_of(experiment()), "s1")
    assert with_segment(found, "suv", file_of()) == found._replace(arm=None, shows=False, reason="no_experiment")


@given(SHARES, st.booleans(), SHARES, st.sampled_from(["suv", "van", "other", None]), st.booleans(), st.sampled_from(FEW))
def test_only_who_is_assigned_to_a_showing_arm_is_shown(
    ramp: float, running: bool, segment_ramp: float, segment: str | None, kill: bool, session: str
) -> None:
    flags = {"suv": Flag(ramp=segment_ramp), "van": Flag(running=False)}
    file = file_of(experiment(ramp=ramp, running=running, segments=flags, slice=(0.0, 0.8)), kill=kill)
    found = with_segment(assigned(file, session), segment, file)
    assert (found.arm is not None) == (found.reason == "assigned")
    assert found.shows == (found.arm == "treatment")


# --- with a bandit -------------------------------------------------------------------------------------------------------

POLICIES = (
    Arm("control", 1.0, False, "highest_score"),
    Arm("highest", 2.0, True, "highest_score"),
    Arm("drawn", 1.0, True, "weighted_random"),
)
LOPSIDED = {"suv": {"control": 0.05, "highest": 0.9, "drawn": 0.05}, "van": {"control": 0.3, "highest": 0.3, "drawn": 0.4}}


def with_bandit(allocation: Mapping[str, Mapping[str, float]] = LOPSIDED, holdout: float = 0.1, ramp: float = 1.0) -> Experiments:
    return file_of(experiment(arms=POLICIES, bandit=Bandit(holdout=holdout), allocation=allocation, ramp=ramp))


def drawn(file: Experiments, segment: str | None, sessions: list[str] = FEW) -> list[Assignment]:
    return [assign(file, "featured", session=session, user=None, now=0, segment=segment) for session in sessions]


def test_a_bandits_draw_can_be_reproduced_by_hand() -> None:
    for session, found in zip(FEW, drawn(with_bandit(), "suv"), strict=True):
        holdout = by_hand("first:holdout", session) < Fraction(0.1)
        chances = [Fraction(1, 3)] * 3 if holdout else [Fraction(0.05), Fraction(0.9), Fraction(0.05)]
        place = by_hand("first:arm", session) * sum(chances)
        index = next(index for index, upto in enumerate(itertools.accumulate(chances)) if place < upto)
        assert (found.arm, found.holdout) == (POLICIES[index].name, holdout)
        assert found.probability == pytest.approx(float(chances[index]))
        assert found.policy == POLICIES[index].policy


@pytest.mark.parametrize("segment", ["suv", "van", "other", None])
def test_each_arm_has_the_share_that_is_told_and_the_holdout_is_even(segment: str | None) -> None:
    found = drawn(with_bandit(), segment, SESSIONS[:20_000])
    kept, free = ([each for each in found if each.holdout is holdout] for holdout in (True, False))
    assert stats.binomtest(len(kept), 20_000, 0.1).pvalue > UNLIKELY
    weights = {"control": 0.25, "highest": 0.5, "drawn": 0.25}
    for part, chances in ((kept, dict.fromkeys(weights, 1 / 3)), (free, LOPSIDED.get(segment or "", weights))):
        counts = Counter(each.arm for each in part)
        for name, chance in chances.items():
            assert stats.binomtest(counts[name], len(part), chance).pvalue > UNLIKELY
            assert all(each.probability == pytest.approx(chance) for each in part if each.arm == name)


def even_odds(shares: tuple[float, float, float]) -> dict[str, dict[str, float]]:
    return {"suv": {arm.name: share / sum(shares) for arm, share in zip(POLICIES, shares, strict=True)}}


@given(*[st.tuples(*[st.floats(0.01, 1)] * 3)] * 2, st.floats(0, 0.9))
def test_the_holdout_stays_as_it_is_under_any_allocation(
    before: tuple[float, float, float], after: tuple[float, float, float], holdout: float
) -> None:
    was, now = (drawn(with_bandit(even_odds(shares), holdout), "suv", FEW[:200]) for shares in (before, after))
    assert [each.holdout for each in was] == [each.holdout for each in now]
    assert [each for each in was if each.holdout] == [each for each in now if each.holdout]
    assert [each for each in now if each.holdout] == [
        each for each in drawn(with_bandit({}, holdout), None, FEW[:200]) if each.holdout
    ]


@given(*[st.floats(0.01, 0.99)] * 2)
def test_a_new_allocation_moves_no_more_units_than_it_must(one: float, other: float) -> None:
    arms = HALVES

    def file(share: float) -> Experiments:
        return file_of(experiment(arms=arms, bandit=Bandit(), allocation={"suv": {"control": share, "treatment": 1 - share}}))

    low, high = sorted((one, other))
    for was, now, session in zip(drawn(file(low), "suv", FEW[:300]), drawn(file(high), "suv", FEW[:300]), FEW, strict=False):
        between = low <= float(by_hand("first:arm", session)) < high
        assert (was.arm != now.arm) == (between and not was.holdout)


def test_an_arm_without_a_share_gets_nobody() -> None:
    found = drawn(with_bandit({"suv": {"control": 0.0, "highest": 1.0, "drawn": 0.0}}), "suv")
    assert {each.arm for each in found if not each.holdout} == {"highest"}


def test_without_a_bandit_a_segment_moves_nobody_and_nothing_is_told_of_shares() -> None:
    file = file_of(experiment(arms=THIRDS))
    assert drawn(file, "suv") == drawn(file, None)
    assert {(each.probability, each.holdout) for each in drawn(file, "suv")} == {(None, None)}


def test_who_is_outside_has_no_share() -> None:
    file = file_of(experiment(bandit=Bandit(), segments={"suv": Flag(running=False)}))
    found = drawn(file, "suv", FEW[:1])[0]
    assert found.probability == 0.5
    out = with_segment(found, "suv", file)
    assert (out.reason, out.probability, out.holdout) == ("segment_off", None, None)
    assert {each.probability for each in drawn(with_bandit(ramp=0.0), "suv")} == {None}
