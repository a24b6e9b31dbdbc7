"""The controller: what it decides, the laws of its stages, and the command with its file and its log.

off <- roll back -- 1 % -> 5 % -> 25 % -> 50 % --(sure of a benefit)-> 100 %
"""

from __future__ import annotations

import csv
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.controller import (
    STAGES,
    Decision,
    Evidence,
    Settings,
    applied,
    decide,
    evidence_of,
    settings_of,
    srm_by_segment,
)
from pipelines.controller import run
from pipelines.decisions_log import append, stages_of
from pipelines.experiments_writer import Held, hold, write
from schemas.errors import ConfigError, RulesError
from schemas.experiment import Controller, Experiments, Flag
from schemas.experiments import experiments_text, parse_experiments
from schemas.instants import HOUR_MS, format_instant, parse_instant
from serving.experiments_file import POLL_S, ExperimentsFile
from tests.made_sessions import table as made_table

SETTINGS = Settings(1_000, 10_000, 0.01)
NO_HARM, BENEFIT, HARM = 0.0, 1.0, -1.0


def seen(effect: float | None = NO_HARM, sessions: int = 2_000, **more: Any) -> Evidence:
    """Evidence whose interval reaches about 0.3 to each side of the effect."""
    return Evidence("suv", sessions, more.pop("fresh", sessions), effect, None if effect is None else 0.06, **more)


# --- decisions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "evidence", "action", "ramp", "reason"),
    [
        (Flag(ramp=0.01), seen(), "ramp_up", 0.05, "2,000 sessions at this stage, and no harm is seen"),
        (Flag(ramp=0.05), seen(), "ramp_up", 0.25, "no harm"),
        (Flag(ramp=0.25), seen(BENEFIT), "ramp_up", 0.5, "the interval lies above 0"),
        (Flag(ramp=0.25), seen(-0.1), "ramp_up", 0.5, "no harm is seen"),
        (Flag(ramp=0.5), seen(), "keep_testing", 0.5, "not yet sure of a benefit"),
        (Flag(ramp=0.5), seen(BENEFIT), "ramp_up", 1.0, "the interval lies above 0"),
        (Flag(ramp=1.0), seen(), "done", 1.0, "at the last stage"),
        (Flag(ramp=1.0), seen(HARM), "roll_back", 0.01, "harm: the interval lies below 0"),
        (Flag(ramp=0.05), seen(HARM, 300), "roll_back", 0.01, "harm"),  # no waiting for more
        (Flag(ramp=0.05), seen(fresh=999), "keep_testing", 0.05, "999 sessions at this stage, 1,000 are needed"),
        (Flag(ramp=0.0), seen(), "ramp_up", 0.01, "no harm"),
        (Flag(ramp=0.1), seen(), "ramp_up", 0.25, "no harm"),
        (Flag(ramp=0.3), seen(), "ramp_up", 0.5, "no harm"),
        (Flag(ramp=0.7), seen(), "keep_testing", 0.7, "not yet sure"),
        (Flag(ramp=0.7), seen(BENEFIT), "ramp_up", 1.0, "above 0"),
        (Flag(False, 0.25), seen(BENEFIT), "hold", 0.25, "switched off: only a person switches it on"),
        (Flag(ramp=0.25), seen(HARM, unusable="a mess"), "hold", 0.25, "a mess"),
        (Flag(ramp=0.25), seen(BENEFIT, stale="old"), "hold", 0.25, "old"),
        (Flag(ramp=0.25), seen(HARM, stale="old"), "roll_back", 0.01, "harm"),
        (Flag(ramp=0.25), seen(HARM, missing="no control"), "hold", 0.25, "no control"),
        (Flag(ramp=0.25), seen(None), "hold", 0.25, "no interval"),
    ],
)
def test_a_segment_gets_one_step_or_none(flag: Flag, evidence: Evidence, action: str, ramp: float, reason: str) -> None:
    found = decide(flag, evidence, SETTINGS)
    assert (found.action, found.stage_from, found.stage_to) == (action, flag.ramp, ramp)
    assert found.running == (flag.running and action != "roll_back")
    assert reason in found.reason


def test_the_interval_is_the_always_valid_one_at_the_segments_share_of_alpha() -> None:
    settings = settings_of(Controller(planned_sessions=5_000, alpha=0.05), segments=4)
    assert settings == Settings(1_000, 1_250, 0.0125)
    found = decide(Flag(ramp=0.5), seen(0.2), settings)
    rho2 = (-2 * math.log(0.0125) + math.log(1 - 2 * math.log(0.0125))) / 1_250
    r = 2_000 * rho2
    wide = math.sqrt(0.06**2 * (1 + 1 / r) * math.log((1 + r) / 0.0125**2))
    assert found.numbers["ci"] == pytest.approx([0.2 - wide, 0.2 + wide])
    assert found.numbers["p"] == pytest.approx(min(1, math.sqrt(1 + r) * math.exp(-((0.2 / 0.06) ** 2) * r / (2 * (1 + r)))))


FLAGS = st.builds(Flag, st.booleans(), st.one_of(st.sampled_from(STAGES), st.floats(0, 1)))
REASONS = st.none() | st.just("because")
NUMBERS = st.none() | st.floats(-1e6, 1e6)
EVIDENCE = st.builds(
    Evidence,
    st.just("suv"),
    st.integers(1, 10**8),
    st.integers(0, 10**8),
    NUMBERS,
    st.none() | st.floats(0, 1e6),
    REASONS,
    REASONS,
    REASONS,
    st.none() | st.floats(0, 1),
)
ALL_SETTINGS = st.builds(Settings, st.integers(1, 10**6), st.integers(1, 10**8).map(float), st.floats(1e-6, 0.5))


@given(FLAGS, EVIDENCE, ALL_SETTINGS)
def test_whatever_the_evidence_the_laws_hold(flag: Flag, evidence: Evidence, settings: Settings) -> None:
    found = decide(flag, evidence, settings)
    above = [stage for stage in STAGES if stage > flag.ramp]
    assert found.running <= flag.running  # never switches on
    if found.stage_to > flag.ramp and found.action == "ramp_up":
        assert found.stage_to == above[0]  # never skips a stage
        assert (evidence.unusable, evidence.stale, evidence.missing) == (None, None, None)
        assert evidence.fresh >= settings.min_sessions
        assert found.numbers["ci"][1] >= 0
        assert found.stage_to <= 0.5 or found.numbers["ci"][0] > 0
    elif found.action == "roll_back":
        assert (found.stage_to, found.running, flag.running, evidence.unusable) == (STAGES[0], False, True, None)
        assert found.numbers["ci"][1] < 0
    else:
        assert (found.stage_to, found.running) == flag[::-1]  # nothing else changes anything
        assert not found.changes
    if flag.running and not (evidence.unusable or evidence.missing) and found.numbers["ci"] and found.numbers["ci"][1] < 0:
        assert found.action == "roll_back"  # harm is never overlooked
    json.dumps(found.numbers, allow_nan=False)


@given(st.lists(EVIDENCE, max_size=12), ALL_SETTINGS)
def test_a_run_of_decisions_never_comes_back_from_off(evidence: list[Evidence], settings: Settings) -> None:
    flag, off = Flag(ramp=STAGES[0]), False
    for each in evidence:
        found = decide(flag, each, settings)
        flag = Flag(found.running, found.stage_to)
        assert not (off and flag.running)
        off = off or not flag.running
        assert flag.ramp in STAGES


def document(segments: Mapping[str, Any], *, readable: bool = True, reasons: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"readable": readable, "reasons": list(reasons), "segments": segments}


GOOD = {"sessions": 5, "control": 1.0, "treatment": 2.0, "effect": 1.0, "se": 0.5, "ci_sequential": [0.1, 2.0], "reason": None}
FEW = "9 users in control, always-valid intervals need 50"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (document({"suv": GOOD}), Evidence("suv", 5, 3, 1.0, 0.5)),
        (document({}), Evidence("suv", missing="no sessions of this segment")),
        (document({"suv": GOOD | {"sessions": 0}}), Evidence("suv", missing="no sessions of this segment")),
        (
            document({"suv": GOOD | {"control": None, "effect": None, "se": None, "reason": "no sessions in control"}}),
            Evidence("suv", 5, 3, None, None, missing="no sessions of this segment in control"),
        ),
        (
            document({"suv": GOOD | {"se": None, "reason": "1 user in control"}}),
            Evidence("suv", 5, 3, 1.0, None, missing="1 user in control"),
        ),
        (document({"suv": GOOD | {"ci_sequential": None, "reason": FEW}}), Evidence("suv", 5, 3, 1.0, 0.5, missing=FEW)),
        (document({"suv": GOOD | {"se": 0.0}}), Evidence("suv", 5, 3, 1.0, 0.0, missing="the standard error is 0")),
        (
            document({"suv": GOOD}, readable=False, reasons=("SRM", "mixed")),
            Evidence("suv", unusable="SRM; mixed", missing="no sessions of this segment"),
        ),
    ],
)
def test_the_evidence_is_what_the_document_says(found: Mapping[str, Any], expected: Evidence) -> None:
    assert evidence_of("suv", found, fresh=3, unusable=None, stale=None) == expected


# --- the file ------------------------------------------------------------------------------------------------------------

FILE = """\
# two experiments
version: 8
layers: [{name: featured}]
experiments:
  - name: first
    version: 3
    layer: featured
    slice: [0, 0.5]
    unit: session
    ramp: 1
    controller: {min_sessions: 300, planned_sessions: 4000}
    arms: [{name: control, weight: 1, shows: false}, {name: treatment, weight: 1, shows: true}]
    segments: {suv: {ramp: 0.05}, van: {ramp: 0.25}, premium: {ramp: 0.5}, family: {running: false}, coupe: {ramp: 0.01}}
  - name: second
    version: 1
    layer: featured
    slice: [0.5, 1]
    unit: session
    ramp: 1
    arms: [{name: control, weight: 1, shows: false}, {name: treatment, weight: 1, shows: true}]
"""


def flags(path: pathlib.Path) -> dict[str, tuple[bool, float]]:
    return {name: (flag.running, flag.ramp) for name, flag in hold(str(path)).experiment("first").segments.items()}


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "e.yaml"
    path.write_text(FILE)
    return path


def test_only_what_is_decided_changes_and_the_version_goes_up_by_one() -> None:
    before = parse_experiments(FILE, "e.yaml")
    up = Decision("suv", "ramp_up", 0.05, 0.25, True, "", {})
    back = Decision("electric", "roll_back", 1.0, 0.01, False, "", {})
    wait = Decision("van", "keep_testing", 0.25, 0.25, True, "", {})
    after = applied(before, "first", [up, back, wait])
    first, second = after.experiments
    assert after.version == 9
    assert first == before.experiments[0]._replace(
        segments={**before.experiments[0].segments, "suv": Flag(True, 0.25), "electric": Flag(False, 0.01)}
    )
    assert second == before.experiments[1]
    assert applied(before, "first", [wait]) is before
    assert parse_experiments(experiments_text(after), "e.yaml") == after


def test_a_file_that_somebody_changed_meanwhile_is_refused_and_left_alone(file: pathlib.Path) -> None:
    held = hold(str(file))
    file.write_text(FILE + "# a person was here\n")
    with pytest.raises(ConfigError, match="must be as it was read: somebody has changed it since"):
        write(held, held.experiments._replace(version=9))
    assert file.read_text() == FILE + "# a person was here\n"
    assert [each.name for each in file.parent.iterdir()] == ["e.yaml"]


def test_a_written_file_keeps_its_mode_and_loses_its_comments_with_a_word_about_it(
    file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.chmod(0o640)
    link = file.parent / "link.yaml"
    link.symlink_to(file)
    for version, told in ((9, 1), (10, 0)):
        held = hold(str(link))
        write(held, held.experiments._replace(version=version))
        assert capsys.readouterr().err.count("comments are not kept") == told
    assert hold(str(file)).experiments == parse_experiments(FILE, "e.yaml")._replace(version=10)
    assert file.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(each.name for each in file.parent.iterdir()) == ["e.yaml", "link.yaml"]


def test_what_cannot_be_written_leaves_the_file_as_it_was(file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    held = hold(str(file))
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigError, match="must be in a folder that can be written: No space left on device"):
        write(held, held.experiments._replace(version=9))
    assert file.read_text() == FILE
    assert [each.name for each in file.parent.iterdir()] == ["e.yaml"]


def test_experiments_that_no_file_can_hold_are_not_written(file: pathlib.Path) -> None:
    held = hold(str(file))
    with pytest.raises(RulesError, match=r"layers\[0\].salt == '', must be text"):
        write(held, held.experiments._replace(layers=(held.experiments.layers[0]._replace(salt=""),)))
    assert file.read_text() == FILE


# --- the command ---------------------------------------------------------------------------------------------------------

START = parse_instant("2026-05-01T00:00:00Z")
NOW = START + 24 * HOUR_MS
LIFTS = {"suv": 0.0, "van": -1.0, "premium": 1.0, "family": 1.0, "electric": -1.0, "hatchback": 0.0}


def rows_of(number: int, start: int = START, seed: int = 1, arms: tuple[float, float] = (0.5, 0.5)) -> list[dict[str, Any]]:
    """Sessions of a day, in each of the segments ``number`` of them."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for segment, lift in LIFTS.items():
        for _ in range(number):
            arm = random.choice(["control", "treatment"], p=arms)
            rows.append(
                {
                    "session_id": f"{seed}-{len(rows)}",
                    "user_id": f"u{random.integers(0, 5_000)}",
                    "started_at": format_instant(start + len(rows) * 23 * HOUR_MS // (number * len(LIFTS))),
                    "arm": arm,
                    "segment_count": 1,
                    "primary_segment": segment,
                    "vehicles_viewed": random.poisson(3 + (lift if arm == "treatment" else 0)),
                }
            )
    return rows


def table(path: pathlib.Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> str:
    return table(tmp_path_factory.mktemp("sessions") / "s.csv", rows_of(600))


def asked(capsys: pytest.CaptureFixture[str], file: pathlib.Path, sessions: str, *options: str, now: int = NOW) -> dict[str, Any]:
    argv = ["--experiments", str(file), "--experiment", "first", "--sessions", sessions, "--at", format_instant(now)]
    assert run(["controller", *argv, *options, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def acting(file: pathlib.Path) -> tuple[str, ...]:
    return "--mode", "act", "--log", str(file.parent / "log.jsonl")


def actions(found: Mapping[str, Any]) -> dict[str, str]:
    return {each["segment"]: each["action"] for each in found["decisions"]}


DECIDED = {
    "suv": "ramp_up",
    "van": "roll_back",
    "premium": "ramp_up",
    "family": "hold",
    "coupe": "hold",
    "electric": "roll_back",
    "hatchback": "done",
}


def test_asking_prints_and_changes_nothing(
    file: pathlib.Path, sessions: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = asked(capsys, file, sessions)
    assert (found["mode"], found["applied"], found["version_before"], found["version_after"]) == ("ask", False, 8, 8)
    assert actions(found) == DECIDED
    assert file.read_text() == FILE
    monkeypatch.setenv("COLUMNS", "200")
    run(["controller", "--experiments", str(file), "--experiment", "first", "--sessions", sessions, "--at", format_instant(NOW)])
    out = capsys.readouterr().out
    assert "0.05 → 0.25" in out
    assert "4 to change: --mode act writes the experiments file" in out


def test_acting_writes_the_file_and_logs_each_decision_with_its_numbers(
    file: pathlib.Path, sessions: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    found = asked(capsys, file, sessions, "--mode", "act", "--log", str(log))
    assert (found["applied"], found["version_before"], found["version_after"]) == (True, 8, 9)
    assert flags(file) == {
        "suv": (True, 0.25),
        "van": (False, 0.01),
        "premium": (True, 1.0),
        "family": (False, 1.0),
        "coupe": (True, 0.01),
        "electric": (False, 0.01),  # it wasn't in the file
    }
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["segment"]: line["action"] for line in lines} == DECIDED
    before, van = (line for line in lines if line["segment"] == "van")
    assert before == van | {"applied": "pending"}
    assert 0.001 < van["srm_p"] < 1
    assert (van["at"], van["applied"], van["version_before"], van["version_after"]) == (format_instant(NOW), True, 8, 9)
    assert (van["sessions"], van["alpha"], van["planned_sessions"]) == (600, 0.05 / 7, 4_000 / 7)
    assert van["ci"][0] < van["effect"] < van["ci"][1] < 0
    assert van["p"] < 0.01
    assert van["srm"]["alert"] is False
    assert [line["applied"] for line in lines if line["segment"] == "hatchback"] == [False]


def test_acting_again_on_the_same_sessions_changes_nothing(
    file: pathlib.Path, sessions: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--mode", "act", "--log", str(tmp_path / "log.jsonl"))
    asked(capsys, file, sessions, *options)
    text = file.read_bytes()
    found = asked(capsys, file, sessions, *options, now=NOW + HOUR_MS)
    assert actions(found) == DECIDED | {"suv": "keep_testing", "van": "hold", "premium": "done", "electric": "hold"}
    assert (found["applied"], file.read_bytes()) == (False, text)


def test_a_server_follows_within_its_next_look(file: pathlib.Path, sessions: str, capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    polled = ExperimentsFile(str(file), lambda: now_s)
    asked(capsys, file, sessions, *acting(file))
    now_s = POLL_S
    assert polled.look()
    assert polled.current() == hold(str(file)).experiments
    assert polled.current().experiments[0].segments["van"] == Flag(False, 0.01)


def test_a_segment_climbs_with_new_sessions_only(
    file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = []
    ramps = []
    for day in range(5):
        rows += rows_of(310, START + day * 24 * HOUR_MS, seed=day)
        path = table(tmp_path / "s.csv", rows)
        asked(capsys, file, path, "--mode", "act", "--log", str(tmp_path / "log.jsonl"), now=START + (day + 1) * 24 * HOUR_MS)
        ramps.append(flags(file)["suv"])
    assert ramps == [(True, 0.25), (True, 0.5), (True, 0.5), (True, 0.5), (True, 0.5)]  # nothing is gained: never all visitors


def test_the_file_says_whether_to_act(file: pathlib.Path, sessions: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(FILE.replace("controller: {", "controller: {mode: act, "))
    assert asked(capsys, file, sessions, "--mode", "ask")["applied"] is False
    assert asked(capsys, file, sessions, *acting(file)[2:])["applied"] is True


def test_a_wrong_split_of_the_arms_holds_everything(
    file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "s.csv", rows_of(600, arms=(0.42, 0.58)))
    found = asked(capsys, file, path, *acting(file))
    assert (found["readable"], found["applied"], found["srm"]["alert"]) == (False, False, True)
    assert set(actions(found).values()) == {"hold"}
    assert file.read_text() == FILE


@pytest.mark.parametrize("column", ["started_at", "day"])
def test_on_old_sessions_harm_is_still_taken_back_and_nothing_climbs(
    column: str, file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(400)
    if column == "day":
        rows = [{**{key: value for key, value in row.items() if key != "started_at"}, "day": "2026-05-01"} for row in rows]
    path = table(tmp_path / "s.csv", rows)
    fresh = asked(capsys, file, path, now=NOW + 34 * HOUR_MS)
    old = asked(capsys, file, path, now=NOW + 37 * HOUR_MS)
    assert actions(fresh)["suv"] == "ramp_up"
    assert actions(old) == {name: "roll_back" if action == "roll_back" else "hold" for name, action in DECIDED.items()}
    assert "at most 36 are allowed" in next(each["reason"] for each in old["decisions"] if each["segment"] == "suv")
    assert actions(asked(capsys, file, path, "--max-age", "100", now=NOW + 37 * HOUR_MS))["suv"] == "ramp_up"


@pytest.mark.parametrize(("column", "hours"), [("started_at", 20), ("day", 0)])
def test_on_a_table_from_the_future_nothing_climbs(
    column: str, hours: int, file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(400)
    if column == "day":
        rows = [{**{key: value for key, value in row.items() if key != "started_at"}, "day": "2026-05-01"} for row in rows]
    path = table(tmp_path / "s.csv", rows)
    found = asked(capsys, file, path, now=START + hours * HOUR_MS - 6 * 60_000)
    assert actions(found) == {name: "roll_back" if action == "roll_back" else "hold" for name, action in DECIDED.items()}
    assert "which is yet to come" in next(each["reason"] for each in found["decisions"] if each["segment"] == "suv")
    on_the_day = asked(capsys, file, path, now=START + 23 * HOUR_MS)
    assert actions(on_the_day)["suv"] == "ramp_up"


def test_a_wrong_split_in_one_segment_holds_that_one(
    file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(4)
    rows = [row for row in rows_of(600) if (row["primary_segment"], row["arm"]) != ("van", "control") or random.random() < 0.7]
    found = asked(capsys, file, table(tmp_path / "s.csv", rows))
    assert found["readable"]
    assert actions(found) == DECIDED | {"van": "hold"}
    van = next(each for each in found["decisions"] if each["segment"] == "van")
    assert "sample-ratio mismatch in this segment (p " in van["reason"]
    assert van["srm_p"] < 0.001


def test_the_split_in_a_segment_is_of_the_units_by_the_weights() -> None:
    core = made_table([0, 0, 1, 1, 1, 1] * 20, [*range(3), 3, 3, 3] * 20, [1] * 120, segment=[0, 0, 0, 0, 0, 1] * 20)
    of_sessions = srm_by_segment(core, "session", (1, 3))
    assert of_sessions == {
        "a": pytest.approx(stats.chisquare([40, 60], [25, 75]).pvalue),
        "b": pytest.approx(stats.chisquare([0, 20], [5, 15]).pvalue),
    }
    of_users = srm_by_segment(core, "user", (1, 1))
    assert of_users == {"a": pytest.approx(stats.chisquare([2, 2]).pvalue), "b": pytest.approx(stats.chisquare([0, 1]).pvalue)}


def test_copies_and_units_in_both_arms_are_not_fresh(
    file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(400)
    copies = [row for row in rows if row["primary_segment"] == "suv"][:60]
    both = [row | {"arm": "control" if row["arm"] == "treatment" else "treatment"} for row in copies[:7]]
    found = asked(capsys, file, table(tmp_path / "s.csv", rows + copies + both))
    suv = next(each for each in found["decisions"] if each["segment"] == "suv")
    assert (suv["sessions"], suv["sessions_since_step"]) == (393, 393)


def test_too_few_users_are_no_evidence(file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row | {"user_id": f"u{index % 48}"} for index, row in enumerate(rows_of(400))]
    found = asked(capsys, file, table(tmp_path / "s.csv", rows))
    assert set(actions(found).values()) == {"hold"}
    reasons = [each["reason"] for each in found["decisions"] if each["segment"] in {"suv", "van", "electric"}]
    assert all(re.fullmatch(r"4\d users in control, always-valid intervals need 50", reason) for reason in reasons), reasons
    assert [each["ci"] for each in found["decisions"]] == [None] * 7


def test_days_that_are_no_dates_can_not_be_climbed_on(
    file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**{key: value for key, value in row.items() if key != "started_at"}, "day": "1"} for row in rows_of(400)]
    found = asked(capsys, file, table(tmp_path / "s.csv", rows))
    assert actions(found)["suv"] == "hold"
    assert "how old it is can't be told" in next(each["reason"] for each in found["decisions"] if each["segment"] == "suv")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("version: 8", "version: 8\nkill: true", "kill switch"),
        ("version: 3", "version: 3\n    running: false", "switched off"),
        ("version: 3", "version: 3\n    ends: 2026-05-01T12:00:00Z", "over since"),
        ("version: 3", "version: 3\n    starts: 2026-06-01T12:00:00Z", "starts at"),
    ],
)
def test_an_experiment_that_is_not_running_is_left_alone(
    old: str, new: str, reason: str, file: pathlib.Path, sessions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(FILE.replace(old, new, 1))
    found = asked(capsys, file, sessions, *acting(file))
    assert set(actions(found).values()) == {"hold"}
    assert reason in found["decisions"][0]["reason"]
    assert found["applied"] is False


def test_arms_whose_shares_were_not_the_same_throughout_are_not_pooled(
    file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "arm_probability": 0.5 if index % 2 else 0.6} for index, row in enumerate(rows_of(400))]
    found = asked(capsys, file, table(tmp_path / "s.csv", rows))
    assert set(actions(found).values()) == {"hold"}
    assert "arm_probability differs within an arm" in found["decisions"][0]["reason"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: first", "name: other", "--experiment == first, must be one of .*: other, second"),
        ("shows: true}]", "shows: true}, {name: blue, weight: 1, shows: true}]", "must be control and one other"),
        ("controller: {min_sessions: 300, planned_sessions: 4000}", "bandit: {}", "either a controller or a bandit"),
    ],
)
def test_an_experiment_that_no_controller_can_have_is_refused(
    old: str, new: str, message: str, file: pathlib.Path, sessions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        asked(capsys, file, sessions)


@pytest.mark.parametrize("options", [("--max-age", "0"), ("--max-age", "nan"), ("--at", "yesterday")])
def test_options_that_make_no_sense_are_refused(options: tuple[str, str], file: pathlib.Path, sessions: str) -> None:
    argv = ["--experiments", str(file), "--experiment", "first", "--sessions", sessions]
    with pytest.raises(ConfigError, match=f"{options[0]} == .*{options[1]}"):
        run(["controller", *argv, *options])


# --- the log -------------------------------------------------------------------------------------------------------------


ENTRY = {"at": format_instant(5), "experiment": "first", "version": 3, "segment": "suv", "applied": False}


def stays(at: int, ramp: float, to: float | None = None, *, applied: Any = False, **more: Any) -> dict[str, Any]:
    return ENTRY | {"at": format_instant(at), "stage_from": ramp, "stage_to": ramp if to is None else to, "applied": applied} | more


UP = stays(5, 0.05, 0.25, applied="pending")


@pytest.mark.parametrize(
    ("lines", "ramp", "since"),
    [
        ([stays(5, 0.05), stays(7, 0.05)], 0.05, 0),  # since ever
        ([stays(5, 0.05), stays(7, 0.25), stays(9, 0.25)], 0.25, 7),  # a person has put it there
        ([stays(5, 0.05, 0.25)], 0.25, 99),  # a person, after the last line
        ([stays(5, 0.05, 0.25)], 0.05, 0),
        ([UP, UP | {"applied": True}], 0.25, 5),
        ([UP], 0.25, 5),  # broken off after the file was written
        ([UP], 0.05, 0),  # before
        ([stays(3, 0.05), UP, UP | {"applied": False, "error": "…"}], 0.05, 0),
        ([UP, UP | {"applied": False, "error": "…"}], 0.25, 99),
        ([UP, UP | {"applied": True}, stays(8, 0.25), stays(9, 0.25)], 0.25, 5),
        ([stays(3, 0.05), stays(5, 0.25), stays(7, 0.05)], 0.05, 7),  # back again: counted anew
        ([stays(5, 0.05), stays(7, 0.25, version=2), stays(7, 0.25, experiment="b"), stays(7, 0.25, segment="van")], 0.05, 0),
    ],
)
def test_since_when_a_segment_is_at_its_stage_is_read_back(
    lines: list[dict[str, Any]], ramp: float, since: int, tmp_path: pathlib.Path
) -> None:
    path = str(tmp_path / "log.jsonl")
    assert stages_of(path, "first", 3) == {}
    append(path, lines)
    assert stages_of(path, "first", 3)["suv"].since_when(ramp, otherwise=99) == since


def test_half_a_last_line_is_cut_off_and_a_whole_one_is_ended(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    whole, other = json.dumps(stays(5, 0.05)), json.dumps(stays(7, 0.25))
    for end in (1, 5, 30, len(other) - 1):
        path.write_text(f"{whole}\n{other[:end]}")
        assert stages_of(str(path), "first", 3)["suv"][:2] == (0.05, 0)
        append(str(path), [stays(9, 0.25)])
        assert [json.loads(line)["stage_from"] for line in path.read_text().splitlines()] == [0.05, 0.25]
        assert "only half written and is cut off" in capsys.readouterr().err
    path.write_text(f"{whole}\n{other}")
    assert stages_of(str(path), "first", 3)["suv"][:2] == (0.25, 7)
    append(str(path), [stays(9, 0.25)])
    assert len(path.read_text().splitlines()) == 3
    assert not capsys.readouterr().err
    path.write_text("a file of somebody's")
    with pytest.raises(ConfigError, match="must be a decision as the controller writes it"):
        stages_of(str(path), "first", 3)


def test_to_act_takes_a_log(file: pathlib.Path, sessions: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--log == None, must be a file where the mode is act"):
        asked(capsys, file, sessions, "--mode", "act")
    file.write_text(FILE.replace("controller: {", "controller: {mode: act, "))
    with pytest.raises(ConfigError, match="--log == None"):
        asked(capsys, file, sessions)
    assert asked(capsys, file, sessions, "--mode", "ask")["applied"] is False


def test_a_segment_that_a_person_put_a_stage_up_starts_to_count_there(
    file: pathlib.Path, sessions: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ("--log", str(tmp_path / "log.jsonl"))
    assert actions(asked(capsys, file, sessions, *log))["suv"] == "ramp_up"
    file.write_text(FILE.replace("suv: {ramp: 0.05}", "suv: {ramp: 0.25}"))
    for hours in (1, 2):
        found = asked(capsys, file, sessions, *log, now=NOW + hours * HOUR_MS)
        suv = next(each for each in found["decisions"] if each["segment"] == "suv")
        assert (suv["action"], suv["sessions_since_step"]) == ("keep_testing", 0)


def test_what_breaks_off_changes_nothing_unlogged(
    file: pathlib.Path, sessions: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.jsonl"
    options = ("--mode", "act", "--log", str(log))

    def logged() -> list[Any]:
        return [line["applied"] for line in map(json.loads, log.read_text().splitlines()) if line["segment"] == "suv"]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(ConfigError, match="No space left"):
            asked(capsys, file, sessions, *options)
    assert logged() == ["pending", False]
    assert (json.loads(log.read_text().splitlines()[-1])["version_after"], file.read_text()) == (8, FILE)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.controller.write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asked(capsys, file, sessions, *options)
    assert logged() == ["pending", False, "pending"]
    assert actions(asked(capsys, file, sessions, *options)) == DECIDED
    assert logged() == ["pending", False, "pending", "pending", True]
    assert flags(file)["suv"] == (True, 0.25)


def test_a_log_that_cannot_be_used_stops_everything_before_the_file_is_touched(
    file: pathlib.Path, sessions: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="--log == .*: Is a directory"):
        asked(capsys, file, sessions, "--mode", "act", "--log", str(tmp_path))
    broken = tmp_path / "log.jsonl"
    broken.write_text('{"at": "2026-05-01T00:00:00Z"}\n')
    with pytest.raises(ConfigError, match=re.escape(f"{broken}:1: line == ")):
        asked(capsys, file, sessions, "--mode", "act", "--log", str(broken))
    assert file.read_text() == FILE


def test_what_is_held_finds_its_experiments() -> None:
    with pytest.raises(ConfigError, match="must be one of e.yaml's: it has none"):
        Held("e.yaml", b"", Experiments(1, (), ())).experiment("first")
