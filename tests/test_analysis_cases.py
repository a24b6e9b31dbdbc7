"""Experiments whose answer is known: each made by a few lines with a seed, read from a file, and what is told of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from rich.console import Console

from pipelines.analyse import VARYING, analysed, parse_args
from pipelines.analysis_report import show
from schemas.errors import ConfigError

PEEKED = 12  # a seed whose p-value is below 0.05 on some days, not at the end
EFFECTS = ("metrics", "guardrails", "cuped", "sequential", "segments", "interaction")


def made(
    seed: int = 1,
    n: int = 4_000,
    *,
    users: int = 2_000,
    by_user: bool = False,
    uplift: dict[str, float] | float = 0.0,
    treated: float = 0.5,
    heavy: bool = False,
    days: int = 14,
) -> pd.DataFrame:
    """Sessions in time, two of three triggered, in three segments; the treatment multiplies what is viewed by ``1 + uplift``."""
    rng = np.random.default_rng(seed)
    user = (users * rng.random(n) ** (6 if heavy else 1)).astype(int)
    treatment = rng.random(users)[user] < treated if by_user else rng.random(n) < treated
    count = rng.integers(0, 3, n)
    segment = np.array(["electric", "suv", "van"])[rng.integers(0, 3, n)]
    by_segment = np.array([uplift.get(name, 0.0) if isinstance(uplift, dict) else uplift for name in segment])
    liking = rng.gamma(4, 1, users)
    impressions = rng.poisson(2, n)
    started = np.datetime64("2026-05-01T00:00:00", "ms") + np.sort(rng.integers(0, days * 86_400_000, n)).astype("timedelta64[ms]")
    return pd.DataFrame(
        {
            "session_id": [f"s{number}" for number in range(n)],
            "user_id": [f"u{number}" for number in user],
            "started_at": pd.Series(started).dt.tz_localize("UTC"),
            "arm": np.where(treatment, "treatment", "control"),
            "segment_count": count,
            "primary_segment": pd.Series(segment).where(count > 0),
            "vehicles_viewed": rng.poisson(liking[user] * (1 + by_segment * (treatment & (count > 0)))).astype(float),
            "impressions": impressions.astype(float),
            "clicks": rng.binomial(impressions, 0.2).astype(float),
            "lead": rng.random(n) < 0.2,
            "pre_vehicles": np.where(user % 3 > 0, liking[user] + rng.normal(0, 0.3, users)[user].clip(-1, 1), np.nan).clip(0),
        }
    )


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """The document of a frame, with options."""

    def document(frame: pd.DataFrame, *options: str, unit: str = "session") -> dict[str, Any]:
        frame.to_parquet(tmp_path / "sessions.parquet")
        argv = ["analyse", "--sessions", str(tmp_path / "sessions.parquet"), "--unit", unit, *options]
        found = analysed(parse_args(argv)).document
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        return found

    return document


def triggered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["segment_count"] > 0]


def clustered(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Effect on vehicles viewed, standard error and p by statsmodels."""
    arm = sm.add_constant((frame["arm"] == "treatment").astype(float))
    groups = frame["user_id"].factorize()[0]
    fit = sm.OLS(frame["vehicles_viewed"], arm).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    return float(fit.params.iloc[1]), float(fit.bse.iloc[1]), float(fit.pvalues.iloc[1])


def numbers_in(part: Any) -> list[float]:
    if isinstance(part, dict):
        return [number for each in part.values() for number in numbers_in(each)]
    if isinstance(part, list):
        return [number for each in part for number in numbers_in(each)]
    return [part] if isinstance(part, int | float) else []


def shape_of(part: Any) -> Any:
    """The keys, without what stands at the ends."""
    if isinstance(part, dict):
        return {key: shape_of(each) for key, each in part.items()}
    return [shape_of(each) for each in part] if isinstance(part, list) and part and isinstance(part[0], dict) else None


def printed(document: dict[str, Any], width: int = 100) -> str:
    out = Console(width=width, record=True, file=open("/dev/null", "w"))
    show(document, out)
    return out.export_text()


def assert_withheld(document: dict[str, Any], reason: str) -> None:
    """No effect is told, in no form; the numbers stand under ``withheld``."""
    assert document["readable"] is False
    assert any(reason in each for each in document["reasons"]), document["reasons"]
    assert document["withheld"] is not None
    assert tuple(document["withheld"]) == EFFECTS
    for part in EFFECTS:
        assert numbers_in(document[part]) == [], part
        assert shape_of(document[part]) == shape_of(document["withheld"][part]), part
    assert all(each["action"] == "keep_testing" for each in document["segments"].values())
    assert document["metrics"]["vehicles_viewed"]["reason"].startswith("withheld: ")
    text = printed(document)
    assert reason in text
    assert "sample ratio" in text
    assert not any(word in text for word in ("effect on", "vehicles_viewed", "CUPED", "guardrail:", "always valid ("))


# --- effects ---------------------------------------------------------------------------------------------------------------


def test_a_clear_uplift_is_found(read: Any) -> None:
    frame = made(uplift=0.2)
    document = read(frame)
    found = document["metrics"]["vehicles_viewed"]
    assert document["readable"]
    assert (document["reasons"], document["withheld"]) == ([], None)
    effect, se, p = clustered(triggered(frame))
    assert (found["effect"], found["se"]) == pytest.approx((effect, se), rel=1e-9)
    assert found["p"] == pytest.approx(p, rel=1e-6)
    assert p < 1e-10
    assert found["rel_ci"][0] < 0.2 < found["rel_ci"][1]
    assert 0 < found["diluted"]["effect"] < found["effect"]
    assert document["sequential"]["p"] < 1e-6
    assert 0 < document["sequential"]["ci"][0] < found["ci"][0]
    assert document["cuped"]["se"] < found["se"]
    assert document["cuped"]["variance_ratio"] < 1
    assert {each["action"] for each in document["segments"].values()} == {"ramp_up"}
    assert document["population"]["triggered"]["control"] == len(triggered(frame).query("arm == 'control'"))
    assert "ramp_up" in printed(document)


def test_of_nothing_nothing_is_found(read: Any) -> None:
    document = read(made(seed=2))
    found = document["metrics"]["vehicles_viewed"]
    assert found["p"] > 0.05
    assert found["ci"][0] < 0 < found["ci"][1]
    assert document["sequential"]["p"] > 0.05
    assert document["interaction"]["p"] > 0.05
    assert {each["action"] for each in document["segments"].values()} == {"keep_testing"}
    assert all(document["metrics"][name]["p_bh"] >= document["metrics"][name]["p"] for name in ("ctr", "lead"))


def test_one_segment_gains_what_another_loses(read: Any) -> None:
    document = read(made(n=9_000, uplift={"electric": 0.3, "suv": -0.3}), "--bandit", "van")
    assert {name: each["action"] for name, each in document["segments"].items()} == {
        "electric": "ramp_up",
        "suv": "roll_back",
        "van": "bandit",
    }
    assert document["segments"]["electric"]["rel"] == pytest.approx(0.3, abs=0.1)
    assert document["segments"]["suv"]["rel"] == pytest.approx(-0.3, abs=0.1)
    assert document["interaction"]["df"] == 2
    assert document["interaction"]["p"] < 1e-20
    assert abs(document["metrics"]["vehicles_viewed"]["rel"]) < 0.05


def test_a_bandit_keeps_what_gains_but_not_what_harms(read: Any) -> None:
    document = read(
        made(n=9_000, uplift={"electric": 0.3, "suv": -0.3}), "--bandit", "electric", "--bandit", "suv", "--bandit", "bus"
    )
    assert [document["segments"][name]["action"] for name in ("electric", "suv")] == ["bandit", "roll_back"]
    assert "--bandit bus: no triggered session has this segment" in document["warnings"]


def test_heavy_users_are_no_thousand_witnesses_where_users_were_assigned(read: Any) -> None:
    frame = made(n=8_000, users=400, by_user=True, heavy=True)
    document = read(frame, "--winsorise", "1", unit="user")
    found = document["metrics"]["vehicles_viewed"]
    assert found["se"] == pytest.approx(clustered(triggered(frame))[1], rel=1e-9)
    assert found["se"] > 2 * found["naive"]["se"]
    assert document["srm"]["all"]["control"] + document["srm"]["all"]["treatment"] == frame["user_id"].nunique()
    assert document["srm"]["triggered"]["control"] == triggered(frame).query("arm == 'control'")["user_id"].nunique()
    assert document["population"]["users_in_both_arms"] == 0


def test_heavy_users_in_both_arms_are_compared_with_themselves(read: Any) -> None:
    frame = made(n=8_000, users=400, heavy=True)
    document = read(frame)
    found = document["metrics"]["vehicles_viewed"]
    assert found["se"] == pytest.approx(clustered(triggered(frame))[1], rel=1e-9)
    assert found["se"] < 0.95 * found["naive"]["se"]
    both = frame.groupby("user_id")["arm"].nunique() == 2
    assert document["population"]["users_in_both_arms"] == both.sum() > 100
    assert document["readable"]


def test_where_users_were_assigned_users_in_both_arms_stop_the_reading(read: Any) -> None:
    frame = made()
    document = read(frame, unit="user")
    both = (frame.groupby("user_id")["arm"].nunique() == 2).sum()
    assert_withheld(document, f"{both} of {frame['user_id'].nunique():,} users were in both arms")
    assert document["population"]["users_in_both_arms"] == document["population"]["units_in_both_arms"] == both


# --- sample ratio ------------------------------------------------------------------------------------------------------------


def test_a_sample_ratio_mismatch_withholds_every_effect(read: Any) -> None:
    document = read(made(treated=0.45, uplift=0.2))
    assert_withheld(document, "sample-ratio mismatch on all sessions")
    assert document["srm"]["alert"]
    assert document["withheld"]["metrics"]["vehicles_viewed"]["p"] < 1e-6
    assert {each["action"] for each in document["withheld"]["segments"].values()} == {"ramp_up"}


def test_a_mismatch_of_the_triggered_alone_is_seen(read: Any) -> None:
    frame = made(seed=2)
    lost = (frame["arm"] == "treatment") & (frame["segment_count"] > 0) & (np.arange(len(frame)) % 5 == 0)
    frame["segment_count"] = frame["segment_count"].where(~lost, 0)
    document = read(frame)
    assert document["srm"]["all"]["p"] > 0.1
    assert document["srm"]["triggered"]["p"] < 1e-4
    assert_withheld(document, "sample-ratio mismatch on triggered sessions")


def test_a_mismatch_that_has_passed_is_still_told_by_the_sequential_test(read: Any) -> None:
    frame = made(n=6_000, days=4)
    half = len(frame) // 2
    frame["arm"] = np.where(np.arange(len(frame)) % 10 < np.where(np.arange(len(frame)) < half, 4, 6), "control", "treatment")
    document = read(frame)
    assert document["srm"]["all"]["p"] > 0.1
    assert document["srm"]["all"]["sequential_p"] < 0.001
    assert document["srm"]["alert"]
    assert_withheld(document, "always-valid p")


def test_ninety_to_ten_is_as_meant_when_it_was_meant(read: Any) -> None:
    frame = made(treated=0.1, uplift=0.3)
    document = read(frame, "--weights", "90,10")
    assert document["readable"]
    assert document["srm"]["weights"] == [90, 10]
    assert document["metrics"]["vehicles_viewed"]["p"] < 1e-3
    assert_withheld(read(frame), "with weights 50 to 50")


# --- little or nothing -------------------------------------------------------------------------------------------------------


def test_where_all_are_alike_there_is_no_p_value(read: Any) -> None:
    document = read(made(n=400).assign(vehicles_viewed=2.0, lead=0, pre_vehicles=1.0))
    found = document["metrics"]["vehicles_viewed"]
    assert (found["control"], found["treatment"], found["effect"], found["p"], found["ci"]) == (2.0, 2.0, 0.0, None, None)
    assert "variance is 0" in found["reason"]
    assert document["cuped"]["reason"]
    assert document["sequential"]["ci"] is None
    assert document["sequential"]["reason"]
    assert document["interaction"]["reason"]
    assert document["metrics"]["lead"]["rel"] is None
    assert {each["action"] for each in document["segments"].values()} == {"keep_testing"}
    assert "variance is 0" in printed(document)


def test_one_session_is_no_experiment(read: Any) -> None:
    frame = triggered(made(n=20))
    document = read(frame[frame["arm"] == "control"].head(1))
    assert_withheld(document, "no triggered sessions in treatment")
    assert document["population"]["all"] == {"control": 1, "treatment": 0}
    two = read(pd.concat([frame[frame["arm"] == arm].head(1) for arm in ("control", "treatment")]))
    assert two["readable"]
    assert two["metrics"]["vehicles_viewed"]["p"] is None
    assert two["metrics"]["vehicles_viewed"]["reason"] == "1 user in control, at least 2 are needed"


@pytest.mark.parametrize("arm", ["control", "treatment"])
def test_an_empty_arm_stops_the_reading(arm: str, read: Any) -> None:
    frame = made(n=8)
    assert_withheld(read(frame[frame["arm"] != arm]), f"no triggered sessions in {arm}")


def test_a_table_without_rows_can_be_told_of(read: Any) -> None:
    document = read(made(n=10).head(0))
    assert_withheld(document, "no triggered sessions in control")
    assert (document["srm"]["all"]["p"], document["population"]["trigger_rate"]) == (None, None)


def test_without_impressions_there_is_no_click_rate(read: Any) -> None:
    document = read(made(n=400).assign(impressions=0.0, clicks=0.0))
    assert document["metrics"]["ctr"]["p"] is None
    assert "nothing to divide by in control" in document["metrics"]["ctr"]["reason"]
    assert document["metrics"]["vehicles_viewed"]["p"] is not None
    assert document["metrics"]["lead"]["p_bh"] == document["metrics"]["lead"]["p"]


def test_what_the_table_does_not_have_is_not_known(read: Any) -> None:
    document = read(made(n=400).drop(columns=["clicks", "lead", "pre_vehicles", "primary_segment", "started_at"]))
    assert document["metrics"]["ctr"]["reason"] == "not known: the table has no clicks"
    assert document["metrics"]["lead"]["reason"] == document["guardrails"][0]["reason"] == "not known: the table has no lead"
    assert (document["cuped"]["p"], document["segments"], document["sequential"]["looks"]) == (None, {}, 1)
    assert document["metrics"]["vehicles_viewed"]["p"] is not None
    assert numbers_in(document["metrics"]["lead"]) == []


# --- what crawlers, copies and conflicts do ----------------------------------------------------------------------------------


def test_a_crawler_is_told_of_and_bounded(read: Any) -> None:
    frame = made(uplift=0.2)
    frame.loc[triggered(frame).query("arm == 'control'").index[5], "vehicles_viewed"] = 20_000.0
    document = read(frame)
    (warning,) = [each for each in document["warnings"] if "one user carries" in each]
    assert "--winsorise" in warning
    assert not any(user in warning for user in frame["user_id"])
    assert document["metrics"]["vehicles_viewed"]["effect"] < 0
    bounded = read(frame, "--winsorise", "0.999")
    assert bounded["metrics"]["vehicles_viewed"]["rel"] == pytest.approx(0.2, abs=0.08)
    assert bounded["metrics"]["vehicles_viewed"]["p"] < 1e-6
    assert not [each for each in bounded["warnings"] if "one user carries" in each]


def test_copies_count_once_and_few_conflicts_are_dropped(read: Any) -> None:
    frame = made()
    clean = read(frame.drop(index=range(10)))
    conflicts = frame.head(10).assign(arm=np.where(frame.head(10)["arm"] == "control", "treatment", "control"))
    copies = frame.iloc[100:300].assign(vehicles_viewed=99.0)
    document = read(pd.concat([frame, conflicts, copies]))
    counts = {"copies": 200, "units": 4_000, "units_in_both_arms": 10, "dropped_sessions": 10}
    assert document["population"] | counts | {"users_in_both_arms": 0} == document["population"] | {"users_in_both_arms": 0}
    assert document["readable"]
    for part in ("metrics", "segments", "sequential", "cuped"):
        assert numbers_in(document[part]) == pytest.approx(numbers_in(clean[part])), part
    many = frame.head(50).assign(arm=np.where(frame.head(50)["arm"] == "control", "treatment", "control"))
    assert_withheld(read(pd.concat([frame, many])), "50 of 4,000 sessions were in both arms (1.2 %), must be at most 1 %")


# --- when to read ------------------------------------------------------------------------------------------------------------


def test_before_the_planned_end_only_what_is_always_valid_is_told(read: Any) -> None:
    frame = made(uplift=0.3)
    sessions = len(triggered(frame))
    early = read(frame, "--planned-sessions", str(sessions + 1))
    reason = f"before the planned end: {sessions} of {sessions + 1} triggered sessions"
    parts = [*early["metrics"].values(), *early["segments"].values(), *early["guardrails"], early["cuped"], early["interaction"]]
    assert [part["p"] for part in parts] == [None] * len(parts)
    assert {part["reason"] for part in parts} == {reason}
    assert [part["naive"]["p"] for part in early["metrics"].values()] == [None] * 3
    assert [part["diluted"]["p"] for part in early["metrics"].values()] == [None] * 3
    assert (early["guardrails"][0]["passed"], early["metrics"]["ctr"]["p_bh"]) == (None, None)
    assert early["sequential"]["p"] < 0.001
    assert early["sequential"]["planned_sessions"] == early["planned_sessions"] == sessions + 1
    assert [each["action"] for each in early["segments"].values()] == ["ramp_up"] * 3  # by the always-valid p-values
    assert f"note: {reason}" in printed(early, 200)
    ended = read(frame, "--planned-sessions", str(sessions))
    assert ended["metrics"]["vehicles_viewed"]["p"] is not None
    assert (ended["planned_sessions"], ended["planned_sessions_given"]) == (sessions, True)
    open_end = read(frame)
    assert (open_end["planned_sessions"], open_end["planned_sessions_given"]) == (10_000, False)


def test_what_looks_wrong_in_a_table_is_told(read: Any) -> None:
    frame = made(n=400)
    there = frame.index[frame["segment_count"] > 0]
    frame.loc[there[:3], "clicks"] = frame.loc[there[:3], "impressions"] + 1
    frame.loc[there[:5], "primary_segment"] = None
    warnings = read(frame)["warnings"]
    assert "3 triggered sessions have more clicks than impressions: is each impression written down?" in warnings
    assert "5 triggered sessions have no primary_segment, and are in no segment's effect" in warnings
    assert not [each for each in read(made(n=400))["warnings"] if "triggered sessions have" in each]


def test_before_the_planned_end_a_segment_is_judged_by_what_is_always_valid(read: Any) -> None:
    frame = made(uplift=0.046)
    sessions = len(triggered(frame))
    early, ended = (read(frame, "--planned-sessions", str(sessions + more)) for more in (2 * sessions, 0))
    assert {each["action"] for each in early["segments"].values()} == {"keep_testing"}
    assert 0.05 / 3 < min(each["p_sequential"] for each in early["segments"].values()) < 0.05  # of three segments
    assert "ramp_up" in {each["action"] for each in ended["segments"].values()}
    assert [each["p_holm"] for each in early["segments"].values()] == [None] * 3


def test_an_effect_that_has_gone_is_no_ground_to_act_though_it_was_seen(read: Any) -> None:
    frame = made(uplift=0.5)
    late = (frame["started_at"].dt.day > 7) & (frame["arm"] == "treatment") & (frame["segment_count"] > 0)
    frame.loc[late, "vehicles_viewed"] = (frame.loc[late, "vehicles_viewed"] / 3).round()
    segments = read(frame, "--planned-sessions", "10000")["segments"].values()
    assert all(each["p_sequential"] < 0.001 for each in segments)
    assert all(each["ci_sequential"][0] < 0 < each["ci_sequential"][1] for each in segments)
    assert {each["action"] for each in segments} == {"keep_testing"}


def test_with_few_users_nothing_is_always_valid_and_it_is_told_why(read: Any) -> None:
    frame = made(n=1_500, users=70, by_user=True, uplift=0.5)
    document = read(frame, "--planned-sessions", "10000")
    arms = triggered(frame).groupby("arm")["user_id"].nunique()
    few = "control" if arms["control"] < 50 else "treatment"
    reason = f"{arms[few]} users in {few}, always-valid intervals need 50"
    assert document["sequential"] == {"p": None, "ci": None, "planned_sessions": 10_000, "looks": 14, "reason": reason}
    for each in document["segments"].values():
        assert (each["p_sequential"], each["ci_sequential"], each["action"]) == (None, None, "keep_testing")
        assert each["effect"] is not None
        assert each["reason"].endswith(", always-valid intervals need 50")
    assert read(frame)["metrics"]["vehicles_viewed"]["p"] < 0.05  # at one look, so few tell enough


def test_a_stream_that_is_peeked_at_deceives_the_p_value_but_not_the_always_valid_one(read: Any) -> None:
    frame = made(seed=PEEKED, n=3_000)
    day = frame["started_at"].dt.day
    looks = [read(frame[day <= last]) for last in range(1, 15)]
    assert min(look["metrics"]["vehicles_viewed"]["p"] for look in looks) < 0.05
    assert looks[-1]["metrics"]["vehicles_viewed"]["p"] > 0.05
    running = [look["sequential"]["p"] for look in looks]
    assert all(p > 0.05 for p in running)
    assert running == sorted(running, reverse=True)
    assert [look["sequential"]["looks"] for look in looks] == list(range(1, 15))
    assert all(look["sequential"]["ci"][0] < 0 < look["sequential"]["ci"][1] for look in looks)


def test_of_a_bandits_table_only_the_holdout_is_even(read: Any) -> None:
    rng = np.random.default_rng(5)
    frame = made(n=8_000, days=10)
    holdout = rng.random(len(frame)) < 0.3
    probability = np.where(holdout, 0.5, np.where(frame["started_at"].dt.day < 6, 0.5, 0.85))
    late = frame["started_at"].dt.day >= 6
    treatment = rng.random(len(frame)) < probability
    frame = frame.assign(
        arm=np.where(treatment, "treatment", "control"),
        holdout=holdout,
        arm_probability=np.where(treatment, probability, 1 - probability),
        vehicles_viewed=frame["vehicles_viewed"] + 2.0 * late,  # later visitors view more, whatever they are shown
    )
    everything = read(frame, "--weights", "1,2")
    numbers = everything["withheld"] or everything
    assert numbers["metrics"]["vehicles_viewed"]["p"] < 1e-6  # nothing but the time of the sessions
    assert VARYING in everything["warnings"]
    even = read(frame, "--holdout")
    assert even["readable"]
    assert even["metrics"]["vehicles_viewed"]["p"] > 0.05
    assert VARYING not in even["warnings"]
    assert sum(even["population"]["all"].values()) == holdout.sum()


def test_other_arms_are_told_of(read: Any) -> None:
    frame = made(n=600)
    frame.loc[::3, "arm"] = "third"
    document = read(frame)
    assert document["population"]["other_arms"] == {"third": 200}
    assert any("third (200)" in each for each in document["warnings"])


def test_guardrails_are_those_that_were_named(read: Any) -> None:
    frame = made(uplift=0.2)
    (lead,) = read(frame)["guardrails"]
    assert (lead["metric"], lead["margin"]) == ("lead", 0.1)
    found = read(frame, "--guardrail", "vehicles_viewed=0.05", "--guardrail", "ctr=0")["guardrails"]
    assert [(each["metric"], each["margin"]) for each in found] == [("vehicles_viewed", 0.05), ("ctr", 0.0)]
    assert found[0]["passed"]
    assert found[0]["low"] > 0
    assert not found[1]["passed"]


# --- the command line --------------------------------------------------------------------------------------------------------


def forecourt(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "forecourt", "experiment", *argv], capture_output=True, text=True, check=False)


def test_the_command_prints_one_document_or_tables(tmp_path: Path) -> None:
    frame = made(n=600).assign(colour="red", started_at=lambda each: each["started_at"].map(lambda at: at.isoformat()))
    frame.to_csv(tmp_path / "sessions.csv.gz", index=False)
    options = ["analyse", "--sessions", str(tmp_path / "sessions.csv.gz"), "--unit", "session"]
    found = forecourt(*options, "--json", "--experiment", "featured_first")
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)
    assert document["experiment"] == "featured_first"
    assert document["metrics"]["vehicles_viewed"]["effect"] == pytest.approx(clustered(triggered(frame))[0])
    assert "left alone, for they are unknown: 'colour'" in found.stderr
    told = forecourt(*options)
    assert told.returncode == 0
    assert "vehicles_viewed" in told.stdout


def test_the_command_ends_with_2_where_the_table_can_not_be_used(tmp_path: Path) -> None:
    made(n=20).assign(lead=2).to_csv(tmp_path / "bad.csv", index=False)
    found = forecourt("analyse", "--sessions", str(tmp_path / "bad.csv"), "--unit", "session", "--json")
    assert (found.returncode, found.stdout) == (2, "")
    assert "bad.csv, row 1: lead == 2.0, must be 1 or 0" in found.stderr or "lead == '2'" in found.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weights", "50"), r"--weights == \[50.0\], must be two numbers above 0"),
        (("--weights", "50,x"), "--weights == '50,x', must be numbers"),
        (("--weights", "0,1"), "must be two numbers above 0"),
        (("--weights", "nan,1"), "must be two numbers above 0"),
        (("--alpha", "1"), "--alpha == 1.0, must be above 0 and below 1"),
        (("--planned-sessions", "0"), "--planned-sessions == 0, must be at least 1"),
        (("--winsorise", "1.5"), "--winsorise == 1.5, must be above 0 and at most 1"),
        (("--guardrail", "lead"), "--guardrail == 'lead', must be METRIC=MARGIN"),
        (("--guardrail", "leads=0.1"), "--guardrail == 'leads=0.1', must be one of vehicles_viewed, ctr, lead"),
        (("--guardrail", "lead=0.1", "--guardrail", "lead=0.2"), "--guardrail == lead=0.2, must be given once for lead"),
        (("--weights", "1e308,1e308"), r"must be two numbers above 0 and at most 1e\+06"),
        (("--planned-sessions", f"1{'0' * 400}"), r"must be at least 1 and at most 1e\+15"),
        (("--guardrail", "lead=1"), "with a margin from 0 to below 1"),
        (("--arms", "a"), "--arms == 'a', must be two names"),
        (("--arms", "a,a"), "--arms == 'a,a', must be two names"),
    ],
)
def test_options_that_can_not_be_are_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_args(["analyse", "--sessions", "s.csv", "--unit", "session", *options])


@pytest.mark.parametrize("options", [("--unit", "visit"), ()])
def test_the_unit_must_be_told(options: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_args(["analyse", "--sessions", "s.csv", *options])
    assert ended.value.code == 2
