"""``forecourt experiment power``: against statsmodels, published examples and brute force; the design effect too."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower, TTestIndPower

from experiments.design_effect import DesignEffect, baseline_of, design_effect, first_rows
from experiments.effect import effect_of, sums_of
from experiments.metrics import columns_of
from experiments.power import Baseline, Design, mde_of, noncentrality, sessions_for, size_of
from experiments.sessions import Floats, Ints, Sessions
from pipelines import power
from schemas.errors import ConfigError
from schemas.experiments import Unit
from tests.strategies import ROOT


def sessions_with(user: Ints, vehicles: Floats | Ints, **others: Any) -> Sessions:
    n = len(user)
    whole: dict[str, Any] = {
        "session": np.arange(n),
        "user": user,
        "users": int(user.max()) + 1,
        "arm": np.zeros(n, np.int8),
        "segment_count": np.ones(n, np.int64),
        "segment": np.zeros(n, np.int64),
        "segments": ("suv",),
        "day": np.zeros(n, np.int64),
        "days": ("2026-05-01",),
        "vehicles": vehicles.astype(np.float64),
    }
    return Sessions(**(whole | others))


def heavy_users(n: int, users: int, seed: int = 1) -> Sessions:
    """Sessions of users who differ in how often they come and in how much they look at."""
    rng = np.random.default_rng(seed)
    often = rng.lognormal(0, 1, users)
    user = rng.choice(users, n, p=often / often.sum())
    mean = rng.gamma(2, 2, users)
    return sessions_with(user, rng.poisson(mean[user]))


def factor(sessions: Sessions, unit: Unit, **others: Any) -> DesignEffect:
    found = design_effect(sessions, unit, **others)
    assert isinstance(found, DesignEffect)
    return found


# --- the formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(50.0, 50.0), (90.0, 10.0), (1.0, 3.0)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("wanted", [0.1, 0.8, 0.95])
def test_sizes_are_those_of_statsmodels(weights: tuple[float, float], alpha: float, wanted: float) -> None:
    design, metric, mde = Design(alpha, wanted, weights), Baseline(4.0, 6.0), 0.05
    oracle = NormalIndPower().solve_power(
        effect_size=4.0 * mde / 6.0, alpha=alpha, power=wanted, ratio=weights[1] / weights[0], alternative="two-sided"
    )
    assert sessions_for(metric, mde, design) * design.shares[0] == pytest.approx(oracle, rel=1e-6)
    effect = mde_of(metric, 3_000 / design.shares[0], design) * 4.0 / 6.0
    assert NormalIndPower().power(effect, 3_000, alpha, ratio=weights[1] / weights[0]) == pytest.approx(wanted, rel=1e-6)


def test_sizes_are_those_of_the_t_test_where_there_are_many_sessions() -> None:
    oracle = TTestIndPower().solve_power(effect_size=0.01, alpha=0.05, power=0.8, ratio=1.0)
    assert sessions_for(Baseline(1, 1), 0.01) / 2 == pytest.approx(oracle, rel=1e-4)  # t itself asks for one or two more


def test_the_rule_of_sixteen_is_the_formula_rounded_up() -> None:
    """Kohavi, Tang, Xu, Trustworthy Online Controlled Experiments, 2020, chapter 17: n = 16 σ²/δ² an arm."""
    assert 2 * noncentrality(Design()) ** 2 == pytest.approx(15.7, abs=0.01)
    assert sessions_for(Baseline(1, 1), 0.1) / 2 == pytest.approx(16 / 0.1**2, rel=0.02)


def test_published_examples_come_out() -> None:
    """The two of Kohavi and others, Controlled experiments on the web, Data Min Knowl Disc 18, 2009: 16 σ²/δ²."""
    revenue, purchases = Baseline(3.75, 30), Baseline(0.05, (0.05 * 0.95) ** 0.5)
    for metric, published in ((revenue, 409_600), (purchases, 121_600)):
        assert sessions_for(metric, 0.05) / 2 * 16 / (2 * noncentrality(Design()) ** 2) == pytest.approx(published)


def test_a_hand_computed_size() -> None:
    """(1.959964 + 0.841621)² · 2.5 · 36 / 0.2² = 17,660.0; the other tail is below 2e-6 of the power."""
    metric = Baseline(4.0, 6.0, 2.5)
    assert sessions_for(metric, 0.05) / 4 == pytest.approx((1.959964 + 0.841621) ** 2 * 2.5 * 36 / 0.2**2, rel=1e-5)


@given(
    st.floats(0.1, 100),
    st.floats(0.1, 100),
    st.floats(0.5, 20),
    st.floats(0.001, 0.5),
    st.floats(0.001, 0.2),
    st.floats(0.3, 0.99),
    st.floats(1, 99),
)
def test_size_and_effect_turn_into_each_other(
    mean: float, sd: float, wider: float, mde: float, alpha: float, wanted: float, weight: float
) -> None:
    metric, design = Baseline(mean, sd, wider), Design(alpha, wanted, (weight, 100 - weight))
    n = sessions_for(metric, mde, design)
    assert mde_of(metric, n, design) == pytest.approx(mde)
    assert n == pytest.approx(wider * sessions_for(metric._replace(design_effect=1), mde, design))
    assert n >= sessions_for(metric, mde, design._replace(weights=(50, 50))) * (1 - 1e-9)


def test_sizes_are_whole_and_days_follow_from_all_sessions() -> None:
    assert size_of(100, Design(), 0.1, 300) == (50, 50, 100, 1_000, 4)
    assert size_of(100.2, Design(weights=(90, 10)), 1.0, None) == (91, 11, 102, 102, None)


def test_a_simulated_effect_is_found_as_often_as_was_planned() -> None:
    """The power holds for the very analysis that will be made: clustered by user, users randomised."""
    rng = np.random.default_rng(7)
    users, per_user = 600, 4
    user = np.repeat(np.arange(users), per_user)
    n = len(user)
    metric = Baseline(6.0, (6.0 + 4.0) ** 0.5, 1 + (per_user - 1) * 4.0 / 10.0)  # a user's mean varies by 4, Poisson adds 6
    mde = mde_of(metric, n)
    found = []
    for _ in range(400):
        mean = rng.gamma(9.0, 6.0 / 9.0, users)
        arm = rng.random(users) < 0.5
        views = rng.poisson(mean[user] * (1 + mde * arm[user])).astype(float)
        found.append((effect_of(sums_of(views, None, arm[user], user, users)).p or 1) < 0.05)
    assert abs(np.mean(found) - 0.8) < 5 * (0.16 / 400) ** 0.5


# --- the design effect ---------------------------------------------------------------------------------------------------


def test_the_design_effect_of_equal_users_is_the_textbooks() -> None:
    """1 + (m - 1) ICC, m sessions a user (Kish 1965), where users are randomised; 1 where sessions are."""
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(4_000), 5)
    own = rng.normal(10, 2, 4_000)
    sessions = sessions_with(user, own[user] + rng.normal(0, 3, len(user)))
    assert factor(sessions, "user").factor == pytest.approx(1 + 4 * 4 / 13, rel=0.05)
    assert factor(sessions, "session").factor == pytest.approx(1, abs=0.02)


def test_users_with_one_session_have_no_design_effect() -> None:
    rng = np.random.default_rng(4)
    sessions = sessions_with(np.arange(5_000), rng.poisson(4, 5_000))
    assert factor(sessions, "user").factor == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("unit", ["session", "user"])
@pytest.mark.parametrize("metric", ["vehicles_viewed", "ctr", "lead"])
def test_the_clustered_variance_is_how_the_effect_varies(unit: Unit, metric: str) -> None:
    sessions = heavy_users(6_000, 2_000)
    rng = np.random.default_rng(5)
    impressions = rng.poisson(2, 6_000).astype(float)
    clicks = rng.binomial(impressions.astype(int), np.clip(sessions.vehicles / 20, 0, 1)).astype(float)
    lead = (rng.random(6_000) < sessions.vehicles / 20).astype(float)
    whole = sessions._replace(impressions=impressions, clicks=clicks, lead=lead)
    found = factor(whole, unit, metric=metric, weights=(70, 30))
    assert abs(found.empirical / found.clustered - 1) < 5 * (2 / found.replays) ** 0.5
    assert found.factor == found.clustered / found.naive
    if unit == "session":
        assert found.factor == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("unit", ["session", "user"])
def test_one_replay_is_what_the_effect_formula_and_welch_say(unit: Unit) -> None:
    """Two replays, each made again the long way."""
    sessions = heavy_users(500, 80)
    found = factor(sessions, unit, replays=2, seed=11)
    rng = np.random.default_rng(11)
    codes, user = np.unique(sessions.user, return_inverse=True)
    effects, clustered, naive = [], [], []
    for _ in range(2):
        chosen = rng.random(len(codes) if unit == "user" else 500) < 0.5
        arm = chosen[user] if unit == "user" else chosen
        effect = effect_of(sums_of(sessions.vehicles, None, arm, user, len(codes)))
        assert effect.effect is not None
        assert effect.se is not None
        effects.append(effect.effect)
        clustered.append(effect.se**2)
        naive.append(sum(sessions.vehicles[arm == each].var(ddof=1) / (arm == each).sum() for each in (True, False)))
    assert found.clustered == pytest.approx(np.mean(clustered))
    assert found.naive == pytest.approx(np.mean(naive))
    assert found.empirical == pytest.approx(np.var(effects, ddof=1))


def test_the_same_seed_gives_the_same_design_effect() -> None:
    sessions = heavy_users(500, 100)
    assert (
        design_effect(sessions, "user", 20, 1) == design_effect(sessions, "user", 20, 1) != design_effect(sessions, "user", 20, 2)
    )


def test_many_sessions_are_replayed_in_seconds() -> None:
    sessions = heavy_users(100_000, 20_000)
    start = time.perf_counter()
    for unit in ("session", "user"):
        assert factor(sessions, unit).replays == 200
    assert time.perf_counter() - start < 10  # half a second when nothing else runs


def test_of_very_many_sessions_a_part_of_the_users_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = heavy_users(20_000, 5_000)
    whole = factor(sessions, "user", replays=100)
    monkeypatch.setattr("experiments.design_effect.MOST_SESSIONS", 10_000)
    part = factor(sessions, "user", replays=100)
    assert part.sessions < 12_000 < whole.sessions == 20_000
    assert part.factor == pytest.approx(whole.factor, rel=0.4)


def test_what_has_no_design_effect_says_why() -> None:
    one = sessions_with(np.zeros(5, np.int64), np.arange(5.0))
    assert "1 user in 5 sessions" in str(design_effect(one, "user"))
    assert design_effect(one, "user", metric="lead") == "the table has no lead"
    assert design_effect(one, "user", metric="ctr") == "the table has no clicks"


def test_a_session_in_the_table_twice_counts_once() -> None:
    sessions = heavy_users(10, 4)
    twice: list[Any] = [np.concatenate([each, each]) if isinstance(each, np.ndarray) else each for each in sessions]
    copied = Sessions(*twice)
    assert first_rows(copied).vehicles.tolist() == sessions.vehicles.tolist()
    assert first_rows(sessions) is sessions


def test_mean_and_deviation_of_a_ratio_are_those_of_the_delta_method() -> None:
    clicks, impressions = np.array([1.0, 0, 2, 0]), np.array([2.0, 3, 5, 0])
    base = baseline_of(clicks, impressions)
    assert not isinstance(base, str)
    assert base.mean == 0.3
    assert base.sd == pytest.approx(np.std([0.4, -0.9, 0.5, 0], ddof=1) / 2.5)
    assert baseline_of(np.ones(3), np.zeros(3)) == "nothing to divide by: the denominators add up to 0"
    assert baseline_of(np.ones(1), None) == "1 session, at least 2 are needed"
    assert columns_of(sessions_with(np.arange(3), np.arange(3.0)), "vehicles_viewed")[1] is None


# --- the command ---------------------------------------------------------------------------------------------------------


def csv_of(sessions: Sessions, path: pathlib.Path, arm: str = "control") -> str:
    """Half of the sessions without segments, over four days."""
    lines = ["session_id,user_id,day,arm,segment_count,vehicles_viewed"]
    for number, (user, views) in enumerate(zip(sessions.user, sessions.vehicles, strict=True)):
        lines.append(f"s{number},u{user},2026-05-{1 + number % 4:02},{arm},{number % 2},{views:g}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def planned(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert power.run(["power", *argv, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_mean_and_deviation_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--mean", "4", "--sd", "6", "--unit", "session", "--sessions-per-day", "1000", "--trigger-rate", "0.5", "--mde", "0.03")
    document = planned(capsys, *argv, "--planned-sessions", "10000")
    assert [row["mde"] for row in document["rows"]] == [0.01, 0.02, 0.03, 0.05, 0.1, 0.2]
    (row,) = [row for row in document["rows"] if row["mde"] == 0.05]
    each = NormalIndPower().solve_power(effect_size=0.2 / 6, alpha=0.05, power=0.8)
    assert row["control"] == row["treatment"] == -(-each // 1)
    assert row["all_sessions"] == 2 * row["triggered_sessions"]
    assert row["days"] == -(-row["all_sessions"] // 1000)
    assert NormalIndPower().power(document["planned"]["mde"] * 4 / 6, 5_000, 0.05) == pytest.approx(0.8)
    assert document["sources"]["mean"] == "given"
    assert document["sources"]["design_effect"] == "assumed"
    assert document["warnings"] == []


def test_users_without_a_table_are_planned_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--mean", "4", "--sd", "6", "--unit", "user")
    assert "as if each user had one session" in planned(capsys, *argv)["warnings"][0]
    document = planned(capsys, *argv, "--design-effect", "3")
    assert (document["warnings"], document["design_effect"]) == ([], 3)


def test_what_a_table_tells_is_measured(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    sessions = heavy_users(4_000, 500)
    document = planned(capsys, "--sessions", csv_of(sessions, tmp_path / "s.csv"), "--unit", "user")
    seen = sessions.vehicles[1::2]
    assert document["mean"] == pytest.approx(seen.mean())
    assert document["sd"] == pytest.approx(seen.std(ddof=1))
    assert (document["trigger_rate"], document["sessions_per_day"], document["measured_days"]) == (0.5, 1_000, 4)
    assert set(document["sources"].values()) == {"measured"}
    by_unit = document["design_effects"]
    assert document["design_effect"] == by_unit["user"]["factor"] > 2 > 1.1 > by_unit["session"]["factor"] > 0.9
    assert any("design effect was measured over 4 days" in warning for warning in document["warnings"])


def test_what_is_given_goes_before_what_is_measured(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_of(heavy_users(400, 50), tmp_path / "s.csv")
    options = {"mean": 5.0, "sd": 2.0, "trigger_rate": 0.25, "sessions_per_day": 10.0, "design_effect": 1.5}
    argv = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    document = planned(capsys, "--sessions", path, "--unit", "user", *argv)
    assert {name: document[name] for name in options} == options
    assert set(document["sources"].values()) == {"given"}


@pytest.mark.parametrize("arm", ["control", "treatment", ""])
def test_a_table_of_no_experiment_will_do(arm: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_of(heavy_users(400, 50), tmp_path / "s.csv", arm)
    assert planned(capsys, "--sessions", path, "--unit", "session")["trigger_rate"] == 0.5


def test_without_days_and_traffic_there_are_sessions_but_no_days(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pathlib.Path(csv_of(heavy_users(400, 50), tmp_path / "s.csv"))
    path.write_text(re.sub(r"2026-05-\d\d|day", "", path.read_text(), count=0).replace(",,", ","))
    document = planned(capsys, "--sessions", str(path), "--unit", "user")
    assert (document["sessions_per_day"], document["measured_days"]) == (None, None)
    assert [row["days"] for row in document["rows"]] == [None] * 5
    assert all(row["all_sessions"] >= row["triggered_sessions"] > 0 for row in document["rows"])
    assert "sessions_per_day" not in document["sources"]
    assert power.run(["power", "--sessions", str(path), "--unit", "user"]) == 0
    assert "unknown" in capsys.readouterr().out


def test_a_table_for_people(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_of(heavy_users(400, 50), tmp_path / "s.csv")
    assert power.run(["power", "--sessions", path, "--unit", "user", "--planned-sessions", "1000"]) == 0
    out = capsys.readouterr().out
    for text in ("vehicles_viewed by user", "trigger rate", "50.0 %", "20 %", "design effect by unit", "1,000 triggered sessions"):
        assert text in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--unit user", "--sessions is missing, must be a sessions table, or else --mean and --sd must both be given"),
        ("--unit user --mean 4", "--sessions is missing"),
        ("--unit user --mean 0 --sd 1", "--mean == 0.0, must be above 0"),
        ("--unit user --mean nan --sd 1", "--mean == nan, must be above 0"),
        ("--unit user --mean 4 --sd 1 --alpha 1", "--alpha == 1.0, must be above 0 and below 1"),
        ("--unit user --mean 4 --sd 1 --power 0.04", r"--power == 0.04, must be above 0.05 and below 1"),
        ("--unit user --mean 4 --sd 1 --trigger-rate 0", "--trigger-rate == 0.0, must be above 0 and at most 1"),
        ("--unit user --mean 4 --sd 1 --planned-sessions 0", "--planned-sessions == 0, must be at least 1"),
        ("--unit user --mean 4 --sd 1 --mde 1e-300", "--mde == 1e-300, must be at least 1e-06"),
        ("--unit user --mean 4 --sd 1 --mde nan", "--mde == nan, must be at least 1e-06"),
        ("--unit user --mean 1e-300 --sd 1", r"more than 1e\+15, must be fewer: plan for a larger effect"),
        ("--unit user --mean 1e-200 --sd 1e200", r"more than 1e\+15, must be fewer"),
        ("--unit user --mean 4 --sd 1 --trigger-rate 1e-300", r"more than 1e\+15, must be fewer"),
        ("--unit user --mean 4 --sd 1 --sessions-per-day 1e-300", r"more than 1e\+15, must be fewer"),
        (f"--unit user --mean 4 --sd 1 --planned-sessions 1{'0' * 400}", r"--planned-sessions == 1.*, must be at most 1e\+15"),
        ("--unit user --mean 4 --sd 1 --weights 1e308,1e308", r"must be two numbers above 0 and at most 1e\+06"),
        ("--unit user --mean 4 --sd 1 --weights 50", r"--weights == \[50.0\], must be two numbers above 0"),
        ("--unit user --mean 4 --sd 1 --weights 50,inf", r"--weights == \[50.0, inf\], must be two numbers above 0"),
    ],
)
def test_what_cannot_be_planned_is_told(argv: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        power.run(["power", *argv.split()])


def test_what_cannot_be_measured_is_told(tmp_path: pathlib.Path) -> None:
    alike = csv_of(sessions_with(np.arange(20), np.full(20, 3.0)), tmp_path / "alike.csv")
    with pytest.raises(ConfigError, match=r"the standard deviation of vehicles_viewed in .*alike.csv == 0.0, must be above 0"):
        power.run(["power", "--sessions", alike, "--unit", "user"])
    with pytest.raises(ConfigError, match=r"--metric == lead, can't be measured in .*alike.csv: the table has no lead"):
        power.run(["power", "--sessions", alike, "--unit", "user", "--metric", "lead"])
    few = csv_of(sessions_with(np.arange(2), np.arange(2.0)), tmp_path / "few.csv")
    with pytest.raises(ConfigError, match="has 1 triggered session, must have at least 2"):
        power.run(["power", "--sessions", few, "--unit", "user"])
    lone = csv_of(sessions_with(np.zeros(9, np.int64), np.arange(9.0)), tmp_path / "lone.csv")
    with pytest.raises(ConfigError, match="--design-effect is missing, must be given: it can't be measured"):
        power.run(["power", "--sessions", lone, "--unit", "user"])


def test_planning_loads_no_beam() -> None:
    program = "import sys; from pipelines import power; sys.exit('apache_beam' in sys.modules or 'matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
