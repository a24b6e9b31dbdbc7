"""The document of an analysis: its shape whatever the sessions, laws, actions, and what is printed; the sample-ratio command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from experiments.analysis import analyse
from experiments.effect import sums_of
from experiments.effects import action_of
from experiments.readability import share_of_one_user, without_numbers
from experiments.sessions import Sessions
from experiments.settings import METRICS, AnalysisSettings
from experiments.wording import change_text, interval_text, number_text
from pipelines import srm
from pipelines.analysis_report import show
from pipelines.table_options import Progress
from schemas.errors import ConfigError
from tests.made_sessions import drawn, table, tables

WITHHELD = ("metrics", "guardrails", "cuped", "sequential", "segments", "interaction")
TOP = ["experiment", "unit", "alpha", "planned_sessions", "planned_sessions_given", "population", "srm", *WITHHELD]
TOP += ["warnings", "readable", "reasons", "withheld"]
METRIC = {"control", "treatment", "effect", "se", "ci", "rel", "rel_ci", "p", "df", "reason", "naive", "diluted"}
SEGMENT = {"sessions", "control", "treatment", "effect", "se", "ci", "rel", "rel_ci", "p", "p_holm", "p_sequential"}
SEGMENT |= {"ci_sequential", "p_action", "action", "reason"}


def assert_shape(found: dict[str, Any], sessions: Sessions) -> None:
    """The keys of the contract, and a reason for each p-value that is missing."""
    assert set(found) >= set(WITHHELD)
    assert list(found["metrics"]) == list(METRICS)
    for name, each in found["metrics"].items():
        assert set(each) == METRIC | ({"p_bh"} if name != "vehicles_viewed" else set())
        assert set(each["naive"]) == {"se", "p"}
        assert set(each["diluted"]) == {"control", "treatment", "effect", "se", "ci", "p"}
    for each in found["guardrails"]:
        assert set(each) == {"metric", "margin", "low", "p", "passed", "reason"}
    assert set(found["cuped"]) == {"theta", "effect", "se", "ci", "p", "covered", "variance_ratio", "reason"}
    assert set(found["sequential"]) == {"p", "ci", "planned_sessions", "looks", "reason"}
    assert set(found["interaction"]) == {"chi2", "df", "p", "reason"}
    assert set(found["segments"]) <= set(sessions.segments)
    for each in found["segments"].values():
        assert set(each) == SEGMENT
        assert each["action"] in {"ramp_up", "roll_back", "keep_testing", "bandit"}
    parts = [*found["metrics"].values(), *found["guardrails"], *found["segments"].values()]
    for part in [*parts, found["cuped"], found["interaction"]]:
        assert (part["p"] is None) == bool(part["reason"]), part


@settings(max_examples=60, deadline=None)
@given(
    tables(),
    st.sampled_from(["session", "user"]),
    st.none() | st.integers(1, 40),
    st.none() | st.sampled_from([0.5, 0.99, 1.0]),
    st.sampled_from([(50.0, 50.0), (90.0, 10.0)]),
)
def test_the_document_has_its_shape_whatever_the_sessions(
    sessions: Sessions, unit: Any, planned: int | None, quantile: float | None, weights: tuple[float, ...]
) -> None:
    document = analyse(sessions, AnalysisSettings(unit, weights, planned=planned, winsorise=quantile, bandit=("a",)))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document) == TOP
    assert_shape(document, sessions)
    assert document["readable"] == (not document["reasons"]) == (document["withheld"] is None)
    if document["withheld"] is not None:
        assert_shape(document["withheld"], sessions)
        assert {name: document[name] for name in WITHHELD} == without_numbers(
            document["withheld"], f"withheld: {'; '.join(document['reasons'])}"
        )
    population = document["population"]
    assert sum(population["all"].values()) >= sum(population["triggered"].values())
    if unit == "user":
        assert population["users_in_both_arms"] == population["units_in_both_arms"]
    show(document, Console(width=80, quiet=True))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_with_the_arms_changed_round_effects_change_their_sign(seed: int) -> None:
    sessions = drawn(seed)
    one = analyse(sessions, AnalysisSettings("session"))
    other = analyse(sessions._replace(arm=1 - sessions.arm), AnalysisSettings("session"))
    each, opposite = one["withheld"] or one, other["withheld"] or other
    for name in ("vehicles_viewed", "ctr"):
        assert each["metrics"][name]["effect"] == pytest.approx(-opposite["metrics"][name]["effect"])
        assert each["metrics"][name]["p"] == pytest.approx(opposite["metrics"][name]["p"])
    assert each["sequential"]["p"] == pytest.approx(opposite["sequential"]["p"])
    assert each["interaction"]["chi2"] == pytest.approx(opposite["interaction"]["chi2"])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_what_is_not_triggered_moves_only_what_is_diluted(seed: int) -> None:
    sessions = drawn(seed)
    sessions = sessions._replace(segment_count=(np.arange(sessions.rows) % 3 > 0).astype(np.int64))
    louder = sessions._replace(vehicles=np.where(sessions.segment_count > 0, sessions.vehicles, sessions.vehicles + 7.0))
    one, other = (analyse(each, AnalysisSettings("session")) for each in (sessions, louder))
    for part in ("segments", "sequential", "cuped", "interaction", "srm", "population"):
        assert one[part] == other[part]
    first, second = (each["withheld"] or each for each in (one, other))
    assert first["metrics"]["vehicles_viewed"]["effect"] == second["metrics"]["vehicles_viewed"]["effect"]
    diluted = [each["metrics"]["vehicles_viewed"]["diluted"]["control"] for each in (first, second)]
    assert diluted[1] > diluted[0] + 1


def test_metrics_are_sums_over_sums() -> None:
    sessions = drawn(2, n=2_000, users=2_000)
    assert sessions.clicks is not None
    assert sessions.impressions is not None
    metrics = analyse(sessions, AnalysisSettings("session"))["metrics"]
    for code, arm in enumerate(("control", "treatment")):
        rows = sessions.arm == code
        assert metrics["ctr"][arm] == pytest.approx(sessions.clicks[rows].sum() / sessions.impressions[rows].sum())
        assert metrics["vehicles_viewed"][arm] == pytest.approx(sessions.vehicles[rows].mean())


def test_what_is_diluted_is_bounded_as_triggered_sessions_are() -> None:
    sessions = drawn(2)
    triggered_one = np.arange(sessions.rows) % 2
    sessions = sessions._replace(segment_count=triggered_one.astype(np.int64))
    sessions.vehicles[0] = 1e6  # not triggered
    found = analyse(sessions, AnalysisSettings("session", winsorise=0.9))
    bound = np.quantile(sessions.vehicles[triggered_one > 0], 0.9, method="inverted_cdf")
    means = [np.minimum(sessions.vehicles, bound)[sessions.arm == arm].mean() for arm in (0, 1)]
    diluted = (found["withheld"] or found)["metrics"]["vehicles_viewed"]["diluted"]
    assert [diluted["control"], diluted["treatment"]] == pytest.approx(means)


def test_each_p_of_the_four_can_raise_the_alert() -> None:
    even, uneven = [0, 1] * 200, [0] * 260 + [1] * 140
    rows = [(arm, 1) for arm in even] + [(arm, 0) for arm in [0, 1] * 50]
    found = analyse(_triggered(rows), AnalysisSettings("session"))["srm"]
    assert (found["alert"], found["all"]["p"]) == (False, 1.0)
    found = analyse(_triggered([(arm, 1) for arm in uneven] + [(1, 0)] * 120), AnalysisSettings("session"))["srm"]
    assert (found["alert"], found["all"]["p"]) == (True, 1.0)
    assert found["triggered"]["p"] < 0.001


def _triggered(rows: list[tuple[int, int]]) -> Sessions:
    sessions = table([arm for arm, _ in rows], list(range(len(rows))), [1.0] * len(rows))
    return sessions._replace(segment_count=np.array([count for _, count in rows], np.int64))


@pytest.mark.parametrize(
    ("effect", "p", "bandit", "action"),
    [
        (0.1, 0.049, False, "ramp_up"),
        (0.1, 0.05, False, "keep_testing"),
        (-0.1, 0.049, False, "roll_back"),
        (-0.1, 0.05, False, "keep_testing"),
        (0.0, 0.01, False, "keep_testing"),
        (None, None, False, "keep_testing"),
        (0.1, None, False, "keep_testing"),
        (0.1, 0.01, True, "bandit"),
        (None, None, True, "bandit"),
        (-0.1, 0.2, True, "bandit"),
        (-0.1, 0.01, True, "roll_back"),
    ],
)
def test_the_action_follows_from_sign_and_p_value(effect: float | None, p: float | None, bandit: bool, action: str) -> None:
    assert action_of(effect, p, 0.05, bandit=bandit) == action


def test_segments_are_judged_together() -> None:
    sessions = drawn(4, n=2_000, users=500, segments=3)
    document = analyse(sessions, AnalysisSettings("session"))
    found = list((document["withheld"] or document)["segments"].values())
    ordered = sorted(found, key=lambda each: each["p"])
    holm, least = [], 0.0
    for rank, each in enumerate(ordered):
        least = max(least, min(1.0, (len(ordered) - rank) * each["p"]))
        holm.append(least)
    assert [each["p_holm"] for each in ordered] == pytest.approx(holm)


def test_the_share_of_one_user_is_of_the_variance() -> None:
    x = np.array([1.0, 2.0] * 10 + [100.0, 1.0])
    arm, user = np.array([0, 0, 1, 1] * 5 + [0, 1]), np.arange(22)
    found = share_of_one_user(sums_of(x, None, arm, user, 22))
    pulls = np.concatenate([(x[arm == each] - x[arm == each].mean()) / (arm == each).sum() for each in (0, 1)])
    assert found == pytest.approx((pulls**2).max() / (pulls**2).sum())
    assert found is not None
    assert found > 0.8
    assert share_of_one_user(sums_of(x[-8:], None, arm[-8:], np.arange(8), 8)) is None  # of so few, one always carries much


def test_a_progress_is_told_only_when_it_takes_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 11.9, 12.5])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    progress = Progress()
    progress.say("read")
    progress.say("analysed")
    assert capsys.readouterr() == ("", "analysed, 2.5 s\n")


def test_names_are_printed_as_they_are() -> None:
    sessions = drawn(1)._replace(segments=("van[red]", "[/]", "c"))
    document = analyse(sessions, AnalysisSettings("session"))
    out = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))
    show({**document, **(document["withheld"] or {}), "readable": True}, out)
    text = out.export_text()
    assert "van[red]" in text
    assert "[/]" in text


def printed(document: dict[str, Any], width: int = 110) -> str:
    out = Console(width=width, record=True, file=open("/dev/null", "w"))
    show(document, out)
    return out.export_text()


def test_levels_are_told_in_full() -> None:
    text = printed(analyse(drawn(1, n=2_000, users=2_000), AnalysisSettings("session", alpha=0.001)))
    assert "99.9 %" in text
    assert "100" not in text.partition("triggered sessions, errors")[2].partition("\n vehicles")[0]


def test_numbers_have_the_digits_that_their_errors_allow() -> None:
    document = analyse(drawn(1, n=2_000, users=2_000), AnalysisSettings("session"))
    assert document["readable"]
    text = printed(document, 140)
    for name, each in document["metrics"].items():
        if each["effect"] is not None:
            assert number_text(each["effect"], each["se"], share=name != "vehicles_viewed", sign=True) in text
            assert interval_text(each["ci"], each["se"], share=name != "vehicles_viewed") in text
    for each in document["segments"].values():
        assert interval_text(each["ci"], each["se"]) in text
        assert change_text(each["rel"]) in text


@pytest.mark.parametrize("planned", [None, 100_000])
def test_on_a_narrow_screen_nothing_is_cut(planned: int | None) -> None:
    sessions = drawn(1, n=2_000, users=2_000)._replace(segments=("a_segment_with_a_long_name", "suv", "family"))
    sessions = sessions._replace(vehicles=sessions.vehicles + 12.0 * sessions.arm * (sessions.segment == 0))
    document = analyse(sessions, AnalysisSettings("session", planned=planned))
    lines = printed(document, 80).partition("segments: ")[2].splitlines()
    assert lines[2].split() == ["segment", "sessions", "control", "treatment", "effect", "95", "%", "p,", "Holm", "action"]
    ends = [
        number_text(end, each["se"], sign=True)
        for each in document["segments"].values()
        for end in each["ci_sequential" if planned else "ci"]
    ]
    assert all(end in "\n".join(lines) for end in ends)
    assert all(f"{low} to" in "\n".join(lines) for low in ends[::2])
    assert all(each["action"] in "\n".join(lines) for each in document["segments"].values())


# --- the sample-ratio command ------------------------------------------------------------------------------------------------


def srm_of(*argv: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert srm.run(["srm", *argv, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_counts_are_judged_by_their_weights(capsys: pytest.CaptureFixture[str]) -> None:
    found = srm_of("--counts", "821588,815482", capsys=capsys)  # Kohavi, Tang and Xu 2020, chapter 3: p = 1.8E-6
    assert found["p"] == pytest.approx(1.8e-6, rel=0.02)
    assert found["alert"]
    assert not srm_of("--counts", "5021,4893", capsys=capsys)["alert"]
    assert srm_of("--counts", "900,100", "--weights", "90,10", capsys=capsys)["p"] == 1.0
    assert srm_of("--counts", "10,20,30", "--weights", "1,2,3", capsys=capsys)["p"] == 1.0
    assert srm_of("--counts", "0,0", capsys=capsys) == {
        "counts": [0, 0],
        "weights": [50, 50],
        "p": None,
        "sequential_p": None,
        "alert": False,
        "reason": "no units",
    }


def test_a_table_is_judged_as_in_the_analysis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"s{n},u{n % 90},{'control' if n % 90 < 60 else 'treatment'},{n % 2},1" for n in range(360)]
    (tmp_path / "s.csv").write_text("\n".join(["session_id,user_id,arm,segment_count,vehicles_viewed", *lines]))
    found = srm_of("--sessions", str(tmp_path / "s.csv"), "--unit", "user", capsys=capsys)
    assert (found["all"]["control"], found["all"]["treatment"], found["triggered"]["control"]) == (60, 30, 30)
    assert (found["units"], found["units_in_both_arms"], found["copies"]) == (90, 0, 0)
    assert found["all"]["p"] == pytest.approx(0.00157, rel=0.01)  # chi2 = 10 with one degree of freedom
    found = srm_of("--sessions", str(tmp_path / "s.csv"), "--unit", "session", capsys=capsys)
    assert found["alert"]
    assert srm.run(["srm", "--sessions", str(tmp_path / "s.csv"), "--unit", "session"]) == 0
    assert "mismatch: a p-value is below 0.001" in capsys.readouterr().out
    assert srm.run(["srm", "--counts", "50,50"]) == 0
    assert "no mismatch" in capsys.readouterr().out


def test_the_verdict_on_a_sample_never_contradicts_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = "session_id,user_id,arm,segment_count,vehicles_viewed"
    path = tmp_path / "s.csv"

    def told(*lines: str) -> str:
        path.write_text("\n".join([head, *lines, ""]))
        assert srm.run(["srm", "--sessions", str(path), "--unit", "user"]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    even = [f"s{n},u{n},{'control' if n % 2 else 'treatment'},1,1" for n in range(100)]
    assert told(*even) == "no mismatch"
    mixed = [f"t{n},u{n},{'treatment' if n % 2 else 'control'},1,1" for n in range(2)]
    assert told(*even, *mixed) == "more than 1 % of the users were in both arms: no effect can be believed"
    uneven = [f"r{n},v{n},control,1,1" for n in range(100)]
    both = "mismatch: a p-value is below 0.001; more than 1 % of the users were in both arms: no effect can be believed"
    assert told(*even, *uneven, *mixed, "t2,u2,control,1,1", "t3,u4,control,1,1") == both
    assert told() == "no units: nothing can be told"
    assert srm_of("--sessions", str(path), "--unit", "user", capsys=capsys)["reason"] == "no units"
    assert srm.run(["srm", "--counts", "0,0"]) == 0
    assert "no mismatch" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "must have either --sessions or --counts"),
        (("--counts", "1,2", "--sessions", "s.csv"), "must have either --sessions or --counts"),
        (("--sessions", "s.csv"), "--unit must be given with --sessions"),
        (("--counts", "1,x"), "--counts == '1,x', must be numbers"),
        (("--counts", "1,-2"), "must be whole numbers, at least 0"),
        (("--counts", "1,2.5"), "must be whole numbers, at least 0"),
        (("--counts", "1,nan"), "must be whole numbers, at least 0"),
        (("--counts", "1,2,3"), "--weights == .*, must be 3, one for each of --counts"),
        (("--counts", "1,2", "--weights", "0,1"), "must be a number above 0 and at most .* for each arm"),
        (("--counts", "1", "--weights", "1"), "at least 2"),
    ],
)
def test_what_can_not_be_judged_is_refused(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        srm.run(["srm", *argv])
