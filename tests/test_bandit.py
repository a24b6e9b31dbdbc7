"""The bandit: beliefs and shares against closed forms, floors, what it gains, and the command with its change of the file."""

from __future__ import annotations

import csv
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from experiments.bandit import (
    DRAWS,
    Posterior,
    allocation_of,
    beta_of,
    cross_fitted,
    floored,
    p_best,
    posteriors_of,
    seed_of,
    shares_of,
)
from experiments.off_policy import allocated, value_of
from experiments.ratio import ratio_of
from experiments.rewards import OVERALL, Rewards
from pipelines.arms_file import read_arms
from pipelines.bandit import Config, parse_args, run
from schemas.errors import ConfigError
from schemas.experiment import Metric
from schemas.experiments import parse_experiments

# --- the probability of being the best -----------------------------------------------------------------------------------


def beats(a: tuple[int, int], b: tuple[int, int]) -> float:
    """P(B > A) for betas with whole parameters, in closed form (Cook 2005; Miller, "Formulas for Bayesian A/B testing", 2014)."""
    (alpha_a, beta_a), (alpha_b, beta_b) = a, b
    return float(
        sum(
            math.exp(
                special.betaln(alpha_a + i, beta_a + beta_b)
                - math.log(beta_b + i)
                - special.betaln(1 + i, beta_b)
                - special.betaln(alpha_a, beta_a)
            )
            for i in range(alpha_b)
        )
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [((0, 0), (0, 0)), ((3, 10), (5, 10)), ((40, 1_000), (55, 1_000)), ((0, 20), (4, 50)), ((120, 300), (118, 310))],
)
def test_the_better_of_two_is_as_likely_as_the_closed_form_says(a: tuple[int, int], b: tuple[int, int]) -> None:
    parameters = [(1 + clicks, 1 + impressions - clicks) for clicks, impressions in (a, b)]
    exact = beats(*parameters)
    density = stats.beta(*parameters[1])
    assert exact == pytest.approx(
        integrate.quad(lambda x: density.pdf(x) * stats.beta.cdf(x, *parameters[0]), 0, 1, limit=500)[0], abs=1e-6
    )
    found = p_best([beta_of(*a), beta_of(*b)], seed=1)
    assert found[1] == pytest.approx(exact, abs=5 * math.sqrt(0.25 / DRAWS))
    assert sum(found) == pytest.approx(1)


def test_of_normals_the_better_is_as_likely_as_the_closed_form_says() -> None:
    found = p_best([Posterior("normal", 1.0, 0.3), Posterior("normal", 1.2, 0.4)], seed=1)
    assert found[1] == pytest.approx(stats.norm.cdf(0.2 / 0.5), abs=5 * math.sqrt(0.25 / DRAWS))


def test_a_posterior_tells_its_mean_and_spread() -> None:
    found, oracle = beta_of(3, 10), stats.beta(4, 8)
    assert (found.mean, found.sd) == pytest.approx((oracle.mean(), oracle.std()))
    assert (Posterior("normal", 2.0, 0.5).mean, Posterior("normal", 2.0, 0.5).sd) == (2.0, 0.5)


def test_more_clicks_than_impressions_are_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("suv, a: clicks == 3, must be at most the impressions, 2")):
        beta_of(3, 2, "suv, a")


# --- shares --------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=20), st.floats(0, 1, exclude_max=True))
def test_floors_hold_and_shares_add_up_to_one(raw: list[float], part: float) -> None:
    w = [each / sum(raw) for each in raw]
    floor = part / len(w) * 0.999
    p = floored(w, floor)
    assert sum(p) == pytest.approx(1)
    assert min(p) >= floor


@pytest.mark.parametrize("floor", [-0.01, 1 / 3, 0.5, float("nan")])
def test_a_floor_that_leaves_nothing_to_share_out_is_refused(floor: float) -> None:
    with pytest.raises(ConfigError, match=r"floor == .*, must be from 0, below 1/3"):
        floored((0.2, 0.3, 0.5), floor)


ARMS = ("a", "b", "c")


def drawn(rates: Sequence[float], n: int = 3_000, seed: int = 1, metric: Metric = "clicks", users: int = 500) -> Rewards:
    """Sessions of two segments, in the second of which the arms' rates are the other way round."""
    random = np.random.default_rng(seed)
    arm, segment = random.integers(0, len(rates), n), random.integers(0, 2, n)
    table = np.array([rates, rates[::-1]])
    d = random.poisson(3, n).astype(float) if metric == "clicks" else np.ones(n)
    x = random.binomial(d.astype(int), table[segment, arm]).astype(float)
    names = ARMS[: len(rates)]
    return Rewards(x, d, random.integers(0, users, n), arm, names, segment, ("suv", "van"), np.full(n, 1 / len(rates)), metric)


@pytest.mark.parametrize("metric", ["clicks", "lead"])
def test_each_segments_best_arm_gets_the_most(metric: Metric) -> None:
    found = shares_of(drawn((0.1, 0.2, 0.3), metric=metric), 0.05)
    assert set(found) == {"suv", "van", OVERALL}
    assert max(found["suv"], key=lambda share: share.p).arm == "c"
    assert max(found["van"], key=lambda share: share.p).arm == "a"
    for shares in found.values():
        assert sum(share.p for share in shares) == pytest.approx(1)
        assert all(share.p == pytest.approx(0.05 + 0.85 * share.w) for share in shares)


def test_the_same_seed_gives_the_same_shares_and_another_segment_changes_nothing() -> None:
    rewards = drawn((0.1, 0.12, 0.11))
    found = shares_of(rewards, 0.05, seed=3)
    assert found == shares_of(rewards, 0.05, seed=3)
    assert found["suv"] != shares_of(rewards, 0.05, seed=4)["suv"]
    assert shares_of(rewards.of_segment("suv"), 0.05, seed=3)["suv"] == found["suv"]
    assert seed_of(3, "suv") != seed_of(3, "van")


def test_with_many_sessions_a_mean_is_believed_as_it_was_seen() -> None:
    rewards = drawn((0.2, 0.3), metric="lead", users=200)
    for code, belief in enumerate(posteriors_of(rewards)):
        chosen = rewards.arm == code
        seen = ratio_of(rewards.x[chosen], rewards.d[chosen], rewards.user[chosen])
        floor = math.sqrt(rewards.x.var() / chosen.sum())
        assert belief.mean == pytest.approx(seen.value, rel=2e-3)
        assert belief.sd == pytest.approx(max(seen.se or 0.0, floor), rel=2e-3)


def test_a_mean_is_the_less_sure_the_more_its_sessions_are_of_the_same_users() -> None:
    random = np.random.default_rng(1)
    user = np.arange(400) % 20
    liking = random.normal(5, 2, 20)
    x, half = liking[user] + random.normal(0, 0.1, 400), np.arange(400) % 40 < 20
    alike = Rewards(
        x, np.ones(400), user, half.astype(int), ("a", "b"), np.zeros(400, int), ("suv",), np.full(400, 0.5), "vehicles_viewed"
    )
    alone = alike._replace(user=np.arange(400))
    assert posteriors_of(alike)[0].sd > 2 * posteriors_of(alone)[0].sd


def test_the_prior_is_one_session_of_the_mean_and_spread_of_all() -> None:
    x = np.array([1.0, 3.0, 2.0, 6.0])
    rewards = Rewards(
        x, np.ones(4), np.arange(4), np.zeros(4, int), ("a", "b"), np.zeros(4, int), ("suv",), np.ones(4), "vehicles_viewed"
    )
    seen, unseen = posteriors_of(rewards)
    assert (unseen.kind, unseen.mean) == ("normal", 3.0)
    assert unseen.sd == pytest.approx(x.std())
    known = max(x.var(ddof=1), x.var()) / 4
    precision = 1 / x.var() + 1 / known
    assert (seen.mean, seen.sd) == pytest.approx((3.0, math.sqrt(1 / precision)))


def test_a_few_sessions_that_are_all_alike_are_not_believed_for_sure() -> None:
    lead = np.array([0.0] * 10 + [1.0] * 20 + [0.0] * 180)
    arm = np.array([0] * 10 + [1] * 200)
    rewards = Rewards(lead, np.ones(210), np.arange(210), arm, ("a", "b"), np.zeros(210, int), ("suv",), np.full(210, 0.5), "lead")
    assert posteriors_of(rewards)[0].sd > 0.05
    assert shares_of(rewards, 0.0)["suv"][0].w > 0.05


def test_arms_that_nothing_is_known_of_share_evenly() -> None:
    nothing = drawn((0.1, 0.2, 0.3)).where(np.zeros(3_000, bool))
    for metric in ("clicks", "lead", "vehicles_viewed"):
        found = shares_of(nothing._replace(metric=metric), 0.05)
        assert list(found) == [OVERALL]
        assert [share.w for share in found[OVERALL]] == [pytest.approx(1 / 3, abs=0.03)] * 3
        assert [share.mean for share in found[OVERALL]] == [None] * 3
    flat = drawn((0.1, 0.2, 0.3), metric="lead")
    same = shares_of(flat._replace(x=np.ones(3_000)), 0.05)["suv"]
    assert [share.w for share in same] == [pytest.approx(1 / 3)] * 3


def regret_of(rates: Sequence[float], seed: int, *, adaptive: bool, batches: int = 8, size: int = 400) -> float:
    """The clicks lost against showing the best arm to everybody; shares are made anew after each batch."""
    random = np.random.default_rng(seed)
    shares = [1 / len(rates)] * len(rates)
    seen, clicked, lost = np.zeros(len(rates)), np.zeros(len(rates)), 0.0
    for _ in range(batches):
        counts = random.multinomial(size, shares)
        seen, clicked = seen + counts, clicked + random.binomial(counts, rates)
        lost += float(counts @ (max(rates) - np.asarray(rates)))
        if adaptive:
            beliefs = [beta_of(float(c), float(s)) for c, s in zip(clicked, seen, strict=True)]
            shares = list(floored(p_best(beliefs, seed, draws=1_000), 0.05))
    return lost


def test_a_bandit_loses_less_than_an_even_split() -> None:
    rates = (0.05, 0.10, 0.06, 0.15)
    lost = [regret_of(rates, seed, adaptive=True) for seed in range(40)]
    even = regret_of(rates, 0, adaptive=False)
    even_expected = 8 * 400 * (max(rates) - np.mean(rates))
    assert even == pytest.approx(even_expected, rel=0.1)
    assert np.mean(lost) < 0.55 * even_expected
    assert max(lost) < even_expected


# --- what shares would bring ---------------------------------------------------------------------------------------------

EVEN = {"a": 0.5, "b": 0.5}


def alike(seed: int, n: int = 1_200, segments: int = 20) -> Rewards:
    """Sessions of two arms that bring the same in every segment: what is learnt from them is chance."""
    random = np.random.default_rng(seed)
    names, x = tuple(f"s{code}" for code in range(segments)), (random.random(n) < 0.1).astype(float)
    segment, arm, user = random.integers(0, segments, n), random.integers(0, 2, n), random.integers(0, n, n)
    return Rewards(x, np.ones(n), user, arm, ("a", "b"), segment, names, np.full(n, 0.5))


def test_the_value_of_what_chance_taught_is_not_above_what_all_arms_bring() -> None:
    found, within = [], []
    inside = 0
    for seed in range(20):
        rewards = alike(seed)
        value = value_of(rewards, cross_fitted(rewards, 0.05, EVEN))
        low, high = value.ci or (0.0, 0.0)
        found.append(value.value or 0.0)
        inside += low <= 0.1 <= high
        if seed < 6:
            within.append(value_of(rewards, allocated(rewards, allocation_of(shares_of(rewards, 0.05)), EVEN)).value or 0.0)
    assert abs(np.mean(found) - 0.1) < 4 * np.std(found) / math.sqrt(20)  # four standard errors of the simulation
    assert inside >= 15
    assert np.mean(within) > 0.11, "tried on those that it was learnt from, it looks better than any arm is"


def test_each_half_of_the_users_goes_by_what_the_other_half_taught() -> None:
    rewards = drawn((0.2, 0.21, 0.22), users=60)
    target = cross_fitted(rewards, 0.05, dict.fromkeys(ARMS, 1 / 3))
    assert len(
        {(user, arm, segment) for user, arm, segment in zip(rewards.user, rewards.arm, rewards.segment, strict=True)}
    ) == len(set(zip(rewards.user, rewards.arm, rewards.segment, target, strict=True))), "a user is in one half"
    of = {value for value, arm, segment in zip(target, rewards.arm, rewards.segment, strict=True) if (arm, segment) == (2, 0)}
    assert len(of) == 2
    whole = [share.p for share in shares_of(rewards, 0.05)["suv"]][2]
    assert whole not in of
    one = of.pop()
    learnt = rewards.where(np.isin(rewards.user, rewards.user[(target != one) & (rewards.arm == 2) & (rewards.segment == 0)]))
    assert shares_of(learnt, 0.05)["suv"][2].p == pytest.approx(one)
    alone = rewards.where(rewards.user == rewards.user[0])
    assert set(cross_fitted(alone, 0.05, dict(zip(ARMS, (0.2, 0.3, 0.5), strict=True)))) <= {0.2, 0.3, 0.5}


# --- the table -----------------------------------------------------------------------------------------------------------

ROW = {
    "session_id": "s1",
    "user_id": "u1",
    "started_at": "2026-05-01T09:00:00Z",
    "arm": "highest_score",
    "segment_count": 1,
    "primary_segment": "suv",
    "vehicles_viewed": 3,
    "impressions": 4,
    "clicks": 1,
    "lead": 0,
    "arm_probability": 0.5,
}


def table(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> str:
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def rows_of(n: int = 600, seed: int = 1) -> list[dict[str, Any]]:
    """Sessions under two policies, with probabilities; the second is the better, but for vans."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        segment, second = random.choice(["suv", "van"]), random.random() < 0.25
        rate = 0.4 if second == (segment == "suv") else 0.1
        made = {
            "session_id": f"s{number}",
            "user_id": f"u{random.integers(0, n)}",
            "arm": "weighted_random" if second else "highest_score",
            "primary_segment": segment,
            "clicks": random.binomial(4, rate),
            "arm_probability": 0.25 if second else 0.75,
        }
        rows.append(ROW | made)
    return rows


def test_only_the_first_row_of_a_triggered_session_counts(tmp_path: pathlib.Path) -> None:
    rows = [
        ROW | {"clicks": 2, "started_at": "2026-05-01T09:00:05Z"},  # a copy, a little later
        ROW,
        ROW | {"session_id": "s2", "arm": "weighted_random"},
        ROW | {"session_id": "s2", "started_at": "2026-05-01T10:00:00Z"},  # its segments changed, and with them the arm
        ROW | {"session_id": "s3", "segment_count": 0},
        ROW | {"session_id": "s3", "arm": "weighted_random", "started_at": "2026-05-01T10:00:00Z"},  # first seen without segments
        ROW | {"session_id": "s4", "arm": "other"},
        ROW | {"session_id": "s5", "arm_probability": "", "primary_segment": "", "user_id": ""},
    ]
    path = table(tmp_path / "s.csv", rows)
    found = read_arms(path, "clicks", ("highest_score", "weighted_random"), (3, 1))
    assert (found.copies, found.mixed, found.other_arms, found.logged) == (1, 2, {"other": 1}, 2)
    rewards = found.rewards
    assert [rewards.arms[code] for code in rewards.arm] == ["highest_score", "weighted_random", "highest_score"]
    assert rewards.x.tolist() == [1, 1, 1]
    assert rewards.probability.tolist() == [0.5, 0.5, 0.75]
    assert [rewards.segments[code] if code >= 0 else None for code in rewards.segment] == ["suv", "suv", None]
    assert len(set(rewards.user)) == 2
    assert read_arms(path, "clicks", None, None).rewards.arms == ("highest_score", "other", "weighted_random")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm_probability": 0}, "s.csv, row 2: arm_probability == 0.0, must be from 1e-06 to 1"),
        ({"arm_probability": 1e-300}, "s.csv, row 2: arm_probability == 1e-300, must be from 1e-06 to 1"),
        ({"arm_probability": 1.5}, "s.csv, row 2: arm_probability == 1.5, must be from 1e-06 to 1"),
        ({"clicks": 5}, "s.csv, row 2: clicks == 5.0, must be at most the row's impressions, 4"),
        ({"clicks": -1}, "s.csv, row 2: clicks == -1.0, must be a number from 0"),
        ({"arm": ""}, "s.csv, row 2: arm == '', must be"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(changes: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    path = table(tmp_path / "s.csv", [ROW | {"session_id": "s0", "arm": "weighted_random"}, ROW | changes])
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_arms(path, "clicks", None, None)


def test_a_table_that_cannot_be_used_says_why(tmp_path: pathlib.Path) -> None:
    rows = [{key: value for key, value in ROW.items() if key not in {"clicks", "lead"}}]
    path = table(tmp_path / "s.csv", rows)
    for metric, needed in (("clicks", "impressions and clicks"), ("lead", "lead")):
        with pytest.raises(ConfigError, match=f"must have {needed} for --metric {metric}"):
            read_arms(path, metric, None, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="its arms are highest_score, must be at least 2"):
        read_arms(path, "vehicles_viewed", None, None)
    with pytest.raises(ConfigError, match="--arms == a,b, must be some of those in .*: highest_score"):
        read_arms(path, "vehicles_viewed", ("a", "b"), None)
    with pytest.raises(ConfigError, match="--weights has 3, must be one for each of the 2 arms"):
        read_arms(path, "vehicles_viewed", ("highest_score", "b"), (1, 1, 1))
    assert read_arms(path, "vehicles_viewed", ("highest_score", "b"), None).rewards.arms == ("highest_score", "b")


# --- the command ---------------------------------------------------------------------------------------------------------

FILE = """\
version: 4
layers: [{name: featured}]
experiments:
  - name: policies
    version: 1
    layer: featured
    unit: session
    ramp: 1
    bandit: {metric: clicks, floor: 0.1}
    arms:
      - {name: control, weight: 1, shows: false, policy: highest_score}
      - {name: highest_score, weight: 1, shows: true, policy: highest_score}
      - {name: weighted_random, weight: 1, shows: true, policy: weighted_random}
    allocation: {coupe: {control: 0.1, highest_score: 0.1, weighted_random: 0.8}}
"""


def asked(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert run(["bandit", *options, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_the_document_tells_arms_shares_and_values(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "s.csv", rows_of())
    found = asked(capsys, "--sessions", path)
    assert (found["metric"], found["floor"], found["arms"], found["sessions"]) == (
        "clicks",
        0.05,
        ["highest_score", "weighted_random"],
        600,
    )
    assert found["allocation"]["suv"]["weighted_random"] > 0.9
    assert found["allocation"]["van"]["highest_score"] > 0.9
    suv = found["segments"]["suv"]["arms"]
    assert suv["weighted_random"]["mean"] == pytest.approx(0.4, abs=0.06)
    assert suv["weighted_random"]["posterior"]["kind"] == "beta"
    assert sum(arm["sessions"] for arm in found["overall"]["arms"].values()) == 600
    values = found["values"]
    assert values["always highest_score"]["value"] == pytest.approx(0.25, abs=0.06)
    assert values["allocation"]["value"] == pytest.approx(0.9 * 0.4 + 0.1 * 0.25, abs=0.05)
    assert values["always weighted_random"]["max_weight"] == 4
    assert run(["bandit", "--sessions", path]) == 0
    printed = capsys.readouterr().out
    assert "always highest_score" in printed
    assert "by logged probabilities of 600 sessions drawing" in " ".join(printed.split())


def test_an_arm_without_sessions_is_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "s.csv", rows_of())
    assert run(["bandit", "--sessions", path, "--arms", "highest_score,nosuch", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == f"{path}: has no sessions of arm 'nosuch': a new arm, or a name that is wrong\n"
    assert json.loads(said.out)["overall"]["arms"]["nosuch"]["sessions"] == 0


def test_where_some_sessions_go_by_the_weights_both_numbers_are_told(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "arm_probability": row["arm_probability"] if place < 3 else ""} for place, row in enumerate(rows_of(50))]
    assert run(["bandit", "--sessions", table(tmp_path / "s.csv", rows)]) == 0
    assert "by logged probabilities of 3 sessions, the weights of 47 drawing" in " ".join(capsys.readouterr().out.split())


def test_other_metrics_and_weights_are_asked_for(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "s.csv", [{**row, "arm_probability": ""} for row in rows_of(200)])
    found = asked(capsys, "--sessions", path, "--metric", "vehicles_viewed", "--weights", "3,1", "--floor", "0.2", "--seed", "7")
    assert (found["metric"], found["floor"], found["seed"], found["sessions_with_probability"]) == ("vehicles_viewed", 0.2, 7, 0)
    assert found["values"]["always weighted_random"]["max_weight"] == 4
    assert found["segments"]["suv"]["arms"]["highest_score"]["posterior"] == {"kind": "normal", "mean": 3.0, "sd": 0.0}


def test_what_is_applied_stands_in_the_file_and_again_changes_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, file = table(tmp_path / "s.csv", rows_of()), tmp_path / "e.yaml"
    file.write_text(FILE)
    options = ("--sessions", path, "--experiments", str(file), "--experiment", "policies")
    found = asked(capsys, *options)
    assert (found["applied"], file.read_text()) == (False, FILE)
    found = asked(capsys, *options, "--apply")
    assert (found["applied"], found["version_before"], found["version_after"]) == (True, 4, 5)
    after = parse_experiments(file.read_bytes(), "e.yaml")
    before = parse_experiments(FILE, "e.yaml").experiments[0]
    assert after.version == 5
    assert after.experiments[0] == before._replace(allocation={**before.allocation, **found["allocation"]})
    assert min(share for shares in found["allocation"].values() for share in shares.values()) >= 0.1
    found = asked(capsys, *options, "--apply")
    assert (found["applied"], found["version_after"]) == (False, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--apply"], "--apply, must be given with --experiments and --experiment"),
        (["--experiment", "policies"], "--experiments and --experiment, must be given both or neither"),
        (["--arms", "a"], "--arms == a, must be two or more different names"),
        (["--arms", "a,a"], "--arms == a,a, must be two or more different names"),
        (["--seed", "-1"], "--seed == -1, must be at least 0"),
        (["--floor", "1"], "--floor == 1.0, must be a number from 0"),
        (["--floor", "0.5"], "floor == 0.5, must be from 0, below 1/2"),
        (["--experiments", "FILE", "--experiment", "other"], "--experiment == other, must be one of .*: policies"),
        (["--experiments", "FILE", "--experiment", "policies", "--apply", "--floor", "0.05"], "must be at least that of the exp"),
        (
            ["--experiments", "FILE", "--experiment", "policies", "--apply", "--arms", "control,highest_score"],
            "must be the experim",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(options: list[str], message: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(FILE)
    path = table(tmp_path / "s.csv", rows_of(40))
    with pytest.raises(ConfigError, match=message):
        run(["bandit", "--sessions", path, *(str(file) if option == "FILE" else option for option in options)])


def test_an_experiment_without_a_bandit_and_a_segment_that_is_no_name_are_not_written(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "e.yaml"
    options = ["--experiments", str(file), "--experiment", "policies", "--apply"]
    file.write_text(re.sub("    (bandit|allocation):.*\n", "", FILE))
    path = table(tmp_path / "s.csv", [{**row, "primary_segment": "Big cars"} for row in rows_of(40)])
    with pytest.raises(ConfigError, match="experiment == policies, must have a bandit"):
        run(["bandit", "--sessions", path, *options])
    file.write_text(FILE)
    with pytest.raises(ConfigError, match="primary_segment == 'Big cars', must be a segment's name"):
        run(["bandit", "--sessions", path, *options])
    assert file.read_text() == FILE


def test_bad_weights_are_told_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse_args(["bandit", "--sessions", "s.csv", "--weights", "1,0"])
    assert "--weights" in capsys.readouterr().err
    assert parse_args(["bandit", "--sessions", "s.csv", "--weights", "1,2"]) == Config("s.csv", weights=(1.0, 2.0))


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_shares_are_a_distribution_over_the_floor_whatever_the_beliefs(seed: int, arms: int) -> None:
    random = np.random.default_rng(seed)
    beliefs = [beta_of(float(clicks), 50.0) for clicks in random.integers(0, 51, arms)]
    p = floored(p_best(beliefs, seed, draws=200), 0.05)
    assert sum(p) == pytest.approx(1)
    assert min(p) >= 0.05
