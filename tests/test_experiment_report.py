"""``forecourt experiment report``: the page says what the document says, loads nothing, and keeps what must not be read."""

from __future__ import annotations

import functools
import html.parser
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.aa_experiments import Setting, aa_experiment
from experiments.analysis import analyse
from experiments.sequential import looks_of
from experiments.sessions import TREATMENT, Sessions, triggered, where
from experiments.settings import AnalysisSettings
from experiments.units import screened
from experiments.verdict import verdict_of
from experiments.wording import interval_text, number_text
from pipelines import experiment_report
from pipelines.experiment_page import OVERALL, Course, page_of, rows_of
from pipelines.experiment_report import page_path, ratio_ps, write_page
from schemas.errors import ConfigError
from schemas.experiments import Unit
from tests.strategies import ROOT

NAME = 'New <b>listing</b> & "more"'
VOID = {"meta", "rect", "line", "circle", "path", "use", "br"}


@functools.cache
def sessions(unit: Unit = "session", users: int = 1_500) -> Sessions:
    """Half of the sessions triggered; treatment does good in the first segment and harm in the second, which has a nasty name."""
    rng = np.random.default_rng(8)
    made = aa_experiment(rng, Setting(users=users), unit)
    treated = made.arm == TREATMENT
    vehicles = made.vehicles + 2.5 * (treated & (made.segment == 0)) + 5.0 * (~treated & (made.segment == 1))
    pre = np.where(rng.random(made.rows) < 0.7, made.vehicles + rng.normal(0, 2, made.rows), np.nan)
    return made._replace(
        vehicles=vehicles,
        pre=pre,
        segment_count=(rng.random(made.rows) < 0.5).astype(np.int64),
        segments=("suv", "<i>luxury</i> & co", "family", "compact", "electric"),
        days=tuple(f"2026-05-{day:02}" for day in range(1, 15)),
    )


def mismatched() -> Sessions:
    made = sessions()
    return where(made, (made.arm != TREATMENT) | (np.arange(made.rows) % 4 > 0))


def page(tmp_path: pathlib.Path, made: Sessions, settings: AnalysisSettings) -> tuple[dict[str, Any], str]:
    document = analyse(made, settings)
    path = write_page(document, screened(made, settings.unit).sessions, settings, str(tmp_path / "page.html"))
    return document, pathlib.Path(path).read_text()


def words(text: str) -> str:
    """What a reader sees: no style, no tags, entities resolved."""
    bare = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", bare)))


def numbers_in(part: Any) -> Iterator[float]:
    if isinstance(part, dict):
        for value in part.values():
            yield from numbers_in(value)
    elif isinstance(part, list):
        for value in part:
            yield from numbers_in(value)
    elif isinstance(part, float):
        yield part


class Nesting(html.parser.HTMLParser):
    """Each element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


# --- the page ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planned", [None, 1_000, 100_000])
def test_the_page_says_what_the_document_says(planned: int | None, tmp_path: pathlib.Path) -> None:
    document, text = page(tmp_path, sessions(), AnalysisSettings("session", planned=planned, experiment=NAME))
    seen = words(text)
    assert document["readable"]
    for name, each in document["segments"].items():
        assert name in seen
        assert number_text(each["effect"], each["se"], sign=True) in seen
        assert interval_text(each["ci_sequential" if planned == 100_000 else "ci"], each["se"]) in seen
    for part in (
        "Effect over time",
        "Guardrails",
        "click-through rate",
        "lead rate",
        "CUPED",
        "naive reading",
        "What the words mean",
    ):
        assert part in seen
    for name in ("ctr", "lead"):
        metric = document["metrics"][name]
        assert number_text(metric["effect"], metric["se"], share=True, sign=True) in seen
    assert f"{sum(document['population']['triggered'].values()):,}" in seen
    assert ("ramp up" in seen) == (document["segments"]["suv"]["action"] == "ramp_up")
    assert NAME in seen


def test_before_the_planned_end_only_what_is_always_valid_is_shown(tmp_path: pathlib.Path) -> None:
    document, text = page(tmp_path, sessions(), AnalysisSettings("session", planned=100_000))
    fixed = document["metrics"]["vehicles_viewed"]
    assert fixed["ci"] is not None
    assert interval_text(fixed["ci"], fixed["se"]) not in words(text)
    assert interval_text(document["sequential"]["ci"], fixed["se"]) in words(text)
    assert "planned end</text>" not in text


@pytest.mark.parametrize(("planned", "drawn"), [(None, False), (1_000, True), (100_000, False)])
def test_the_interval_for_one_look_is_drawn_at_the_planned_end_only(
    planned: int | None, drawn: bool, tmp_path: pathlib.Path
) -> None:
    _, text = page(tmp_path, sessions(), AnalysisSettings("session", planned=planned))
    assert ("95 %, planned end" in text) == drawn
    assert "95 %, always valid" in text


def test_a_page_loads_nothing_and_is_well_formed(tmp_path: pathlib.Path) -> None:
    _, text = page(tmp_path, sessions(), AnalysisSettings("session", experiment=NAME, planned=1_000))
    assert not re.findall(r"https?:|//\w|@import|url\((?!#)|<script|<link|<img", text)
    assert "<b>listing" not in text
    assert "<i>luxury" not in text
    assert "nan" not in words(text).lower().split()
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)
    nesting = Nesting()
    nesting.feed(text)
    assert nesting.open == []


def test_the_same_table_gives_the_same_page(tmp_path: pathlib.Path) -> None:
    first, second = (page(tmp_path, sessions(), AnalysisSettings("session"))[1] for _ in range(2))
    assert first == second


# --- what must not be read -----------------------------------------------------------------------------------------------


def test_a_page_that_must_not_be_read_has_no_effect_on_it(tmp_path: pathlib.Path) -> None:
    document, text = page(tmp_path, mismatched(), AnalysisSettings("session", experiment=NAME))
    assert not document["readable"]
    seen = words(text)
    assert "Do not read this experiment." in seen
    for reason in document["reasons"]:
        assert reason[1:] in seen
    assert f"{document['srm']['all']['treatment']:,}" in seen
    for part in ("Effect over time", "Segments", "Metrics", "Guardrails", "CUPED", "suv", "luxury"):
        assert part not in text
    bare = re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL)
    texts = {
        shown
        for number in map(abs, numbers_in(document["withheld"]))
        for shown in (f"{number:.3f}", f"{number:.4f}", f"{100 * number:.2f}", f"{100 * number:.3f}", repr(number))
        if len(shown.strip("0.")) >= 3  # 0.05 is the level, 0.001 that of an alert
    }
    assert len(texts) > 200
    assert [shown for shown in texts if shown in bare] == []


def test_a_page_does_not_depend_on_what_is_withheld() -> None:
    made, settings = mismatched(), AnalysisSettings("session")
    document, course = analyse(made, settings), Course(made.days, (), ratio_ps(made, settings), ratio_ps(triggered(made), settings))
    assert document["withheld"]
    assert page_of(document, course) == page_of({**document, "withheld": None}, course)


def test_what_must_not_be_read_is_not_looked_at_either(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment_report, "looks_of", None)
    assert "Do not read" in page(tmp_path, mismatched(), AnalysisSettings("session"))[1]


# --- by day --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["session", "user"])
def test_the_last_day_is_what_the_document_has(unit: Unit) -> None:
    made, settings = sessions(unit), AnalysisSettings(unit)
    document = analyse(made, settings)
    assert ratio_ps(made, settings)[-1] == pytest.approx(document["srm"]["all"]["sequential_p"])
    assert ratio_ps(triggered(made), settings)[-1] == pytest.approx(document["srm"]["triggered"]["sequential_p"])
    assert len(ratio_ps(made, settings)) == 14
    p_by_day = ratio_ps(mismatched(), settings)
    assert all(later <= before for before, later in zip(p_by_day, p_by_day[1:], strict=False))


def test_the_looks_are_those_of_the_document(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def kept(*args: Any) -> Any:
        seen.extend(looks_of(*args))
        return seen

    monkeypatch.setattr(experiment_report, "looks_of", kept)
    document, _ = page(tmp_path, sessions(), AnalysisSettings("session", planned=3_000, winsorise=0.99))
    assert seen[-1].p_running == document["sequential"]["p"]
    assert list(seen[-1].ci or ()) == document["sequential"]["ci"]


@pytest.mark.parametrize("days", [("all",), ("7",)])
def test_one_look_has_no_plot_over_time(days: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    made = sessions()
    _, text = page(tmp_path, made._replace(day=np.zeros(made.rows, np.int64), days=days), AnalysisSettings("session"))
    assert "<figure" not in text
    assert "Segments" in words(text)


def test_days_may_be_numbers(tmp_path: pathlib.Path) -> None:
    _, text = page(tmp_path, sessions()._replace(days=tuple(str(day) for day in range(14))), AnalysisSettings("session"))
    assert "14 days, 0 to 13" in words(text)


# --- tables with little in them ------------------------------------------------------------------------------------------


def test_a_table_with_little_in_it_still_has_a_page(tmp_path: pathlib.Path) -> None:
    made = sessions()
    bare = made._replace(impressions=None, clicks=None, lead=None, pre=None, segment=np.full(made.rows, -1), segments=())
    _, text = page(tmp_path, bare, AnalysisSettings("session"))
    assert "not known: the table has no lead" in words(text)
    alike = made._replace(vehicles=np.ones(made.rows))
    assert "Nothing can be told yet." in page(tmp_path, alike, AnalysisSettings("session"))[1]
    for few in (0, 1, 2, 3):
        assert "<h1>" in page(tmp_path, where(made, np.arange(made.rows) < few), AnalysisSettings("session"))[1]


@pytest.mark.parametrize("kept", ["none triggered", "triggered in one arm"])
def test_a_table_of_several_days_without_triggered_sessions_has_a_page(kept: str, tmp_path: pathlib.Path) -> None:
    made = sessions()
    count = made.segment_count * (0 if kept == "none triggered" else made.arm == TREATMENT)
    _, text = page(tmp_path, made._replace(segment_count=count), AnalysisSettings("session"))
    assert f"No triggered sessions in control{'.' if kept != 'none triggered' else ''}" in words(text)
    assert "<figure" in text


# --- what it comes to ----------------------------------------------------------------------------------------------------


def told(effect: float = 0.5, p: float | None = None, **others: Any) -> dict[str, Any]:
    """A document of 1,000 triggered sessions, by default without a plan; ``p`` is always valid and at the planned end."""
    wide = 0.3 if p is not None and p < 0.05 else 1.0
    metric = {
        "effect": effect,
        "se": 0.1,
        "ci": [0.3, 0.7],
        "rel": 0.1,
        "control": 5.0,
        "treatment": 5 + effect,
        "p": p,
        "reason": None,
    }
    return {
        "readable": True,
        "alpha": 0.05,
        "planned_sessions": 10_000,
        "planned_sessions_given": False,
        "population": {"triggered": {"control": 500, "treatment": 500}},
        "metrics": {"vehicles_viewed": metric},
        "sequential": {"p": p, "ci": [effect - wide, effect + wide]},
        "guardrails": [],
        "interaction": {"p": None},
        "segments": {},
    } | others


def acting(**actions: str) -> dict[str, Any]:
    return {name: {"action": action} for name, action in actions.items()}


NOT_PASSED = [{"metric": "lead", "margin": 0.1, "passed": False}]


@pytest.mark.parametrize(
    ("document", "tone", "headline"),
    [
        (told(segments=acting(a="ramp_up", b="keep_testing", c="ramp_up")), "good", "Ramp up a and c."),
        (told(segments=acting(a="roll_back")), "bad", "Roll back a."),
        (told(segments=acting(a="ramp_up", b="roll_back", c="bandit")), "mixed", "Ramp up a; roll back b; leave to its bandit c."),
        (told(segments=acting(a="ramp_up"), guardrails=NOT_PASSED), "mixed", "Ramp up a, but look at the guardrails first."),
        (told(p=0.01), "good", "Better overall."),
        (told(p=0.01, segments=acting(a="keep_testing")), "good", "Better overall, though no single segment is certain."),
        (told(p=0.01, guardrails=NOT_PASSED), "mixed", "Better overall, and a guardrail is not passed."),
        (told(-0.5, 0.01), "bad", "Worse overall."),
        (told(p=0.2), "open", "Keep testing: no difference is certain yet."),
        (told(p=None), "open", "Keep testing: no difference is certain yet."),
        (told(p=0.2, planned_sessions_given=True), "open", "Keep testing: 1,000 of 10,000 planned sessions."),
        (told(p=0.2, planned_sessions_given=True, planned_sessions=1_000), "open", "No difference was found."),
        ({"readable": False, "reasons": ["too few"]}, "stop", "Do not read this experiment."),
    ],
)
def test_the_headline_says_what_to_do(document: dict[str, Any], tone: str, headline: str) -> None:
    verdict = verdict_of(document)
    assert (verdict.tone, verdict.headline) == (tone, headline)


def test_the_planned_end_is_read_by_its_one_look_and_all_else_by_the_always_valid() -> None:
    document = told(p=0.2)
    document["metrics"]["vehicles_viewed"]["p"] = 0.01
    assert verdict_of(document).headline.startswith("Keep testing")
    assert "95 % interval −0.50 to +1.50, valid however often one looks." in verdict_of(document).sentences[0]
    document |= {"planned_sessions_given": True, "planned_sessions": 1_000}
    assert verdict_of(document).headline == "Better overall."
    assert "95 % interval +0.30 to +0.70, at the planned end." in verdict_of(document).sentences[0]


@given(
    st.lists(
        st.tuples(st.floats(-1e3, 1e3), st.floats(1e-6, 1e3)).map(
            lambda pair: {"effect": pair[0], "ci": [pair[0] - pair[1], pair[0] + pair[1]], "sessions": 5, "p_action": 0.5}
        ),
        max_size=8,
    )
)
def test_the_forest_plot_keeps_to_its_width_and_its_order(segments: list[dict[str, Any]]) -> None:
    rows = rows_of(told(segments={str(number): each for number, each in enumerate(segments)}))
    assert rows[0].name == OVERALL
    for row in rows:
        assert row.at is not None
        assert 0 <= row.low <= row.at <= row.high <= 100
    by_effect = sorted(rows, key=lambda row: row.each["effect"])
    assert [row.at for row in by_effect] == sorted(row.at for row in rows if row.at is not None)


# --- the command ---------------------------------------------------------------------------------------------------------


def csv_of(path: pathlib.Path) -> str:
    made = sessions(users=200)
    lines = ["session_id,user_id,day,arm,segment_count,primary_segment,vehicles_viewed"]
    for row in range(made.rows):
        arm, segment = ("control", "treatment")[made.arm[row]], made.segments[made.segment[row]]
        day = made.days[made.day[row]]
        lines.append(f"s{row},u{made.user[row]},{day},{arm},{made.segment_count[row]},{segment},{made.vehicles[row]:g}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_the_command_writes_a_page_and_says_where(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["report", "--sessions", csv_of(tmp_path / "s.csv"), "--unit", "session", "--experiment", "a/b"]
    assert experiment_report.run([*argv, "--to", str(tmp_path / "pages")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/pages/a_b.html\n"
    assert experiment_report.run([*argv, "--to", str(tmp_path / "one.html"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["page"] == f"{tmp_path}/one.html"
    assert document["metrics"]["vehicles_viewed"]["effect"] is not None
    assert (tmp_path / "one.html").read_text() == (tmp_path / "pages" / "a_b.html").read_text()


def test_the_page_lies_within_the_folder() -> None:
    assert page_path("pages", "../x") == "pages/.._x.html"
    assert page_path("pages", None) == "pages/experiment.html"


def test_where_to_must_be_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="--to == '', must be a folder, or a file that ends in .html"):
        experiment_report.run(["report", "--sessions", "s", "--unit", "user", "--to", ""])


def test_beam_is_never_loaded_and_plots_only_for_a_page() -> None:
    program = (
        "import sys; from pipelines import experiment_report; import experiments.verdict; "
        "sys.exit('apache_beam' in sys.modules or 'matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
