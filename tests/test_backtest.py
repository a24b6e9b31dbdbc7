"""Backtests: every number is the brute-force reference's; what is recorded, suggested, refused; and a page that stands alone.

             |<------- ten days before ------->|<- from ... to ->|
events    ...v..vv....v.....v.....v...vv...v...v..v....v....v..v.
start: 00:00 of --from, by the views before it ^                 ^ end: 24:00 of --to, by the views before it
"""

from __future__ import annotations

import contextlib
import html.parser
import io
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import forecourt
from pipelines import archive, backtest, release, simulate
from pipelines.backtest_page import page_of
from pipelines.backtest_report import print_report
from schemas.backtest import COURSES, BacktestReport, Goal, Measured, Mover
from schemas.errors import ForecourtError
from schemas.instants import DAY_MS, date_of, parse_date
from schemas.pseudonym import Pseudonyms, ring_of
from schemas.rules import RuleSet, parse_rules
from serving.keys import KEY_VARIABLE
from tests.reference import _DEFAULTS, MAX_VIEWS, SeenView, duration, matches
from tests.reference_day import DayCounts, Mark, day_of, member_after, views_of_people, whose_ids, wilson
from tests.strategies import CATALOGUE, ROOT
from transforms import backtest as module
from transforms.archive_files import dates_of
from transforms.archived_people import Register, leave
from transforms.backtest import MAX_MOVERS, Plan, Tally, added, cut, decode_tally, encode_tally, first_movers, nothing, tally_of
from transforms.evidence import Asked, read_evidence
from transforms.known_people import gathered, people_of
from transforms.membership import Rules
from transforms.shards import shard_of
from transforms.slices import items_of, slice_at
from transforms.sweep import THRESHOLDS, f_beta, suggested, swept

KEY = "backtest-tests-" + "k" * 32
UNTIL = "2026-05-20"
FIRST, LAST = "2026-05-16", "2026-05-19"
START, END = parse_date(FIRST), parse_date(UNTIL)
DEFAULTS = {"min_views": 4}
INNER = [{"fuel_type": "electric"}, {"body_type": ["suv", "crossover"]}]
OLD: dict[str, Any] = {
    "version": 3,
    "defaults": DEFAULTS,
    "segments": [
        {"name": "electric", "when": {"fuel_type": "electric"}, "enter": 0.5, "exit": 0.4},
        {"name": "budget", "when": {"price": {"lt": 12000}}, "window": "36h"},
        {"name": "suv", "when": {"body_type": ["suv", "crossover"]}, "half_life": "2d"},
        {"name": "either", "when": {"all": INNER}, "enter": 0.25, "exit": 0.2},
    ],
}
NEW: dict[str, Any] = {
    "version": 4,
    "defaults": DEFAULTS,
    "segments": [
        {"name": "suv", "when": {"body_type": ["suv", "crossover"]}, "half_life": "2d"},
        {"name": "electric", "when": {"fuel_type": "electric"}, "enter": 0.35, "exit": 0.21, "min_days": 2},
        {"name": "premium", "when": {"price": {"gte": 40000}}, "prior_views": 4, "prior_share": 0.1},
        {"name": "either", "when": {"any": INNER}, "enter": 0.7, "exit": 0.7},
    ],
}
RUN = ("--from", FIRST, "--to", LAST, "--workers", "2")

Spec = Mapping[str, Any]
Views = dict[str, list[SeenView]]


class Told(NamedTuple):
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        assert self.status == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


class Place(NamedTuple):
    """A folder with an archive, the events in it, and both rule files."""

    folder: Path
    events: list[dict[str, Any]]

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def files(self) -> list[str]:
        """The options that name the archive and the rule files."""
        return ["--archive", f"{self.archive}", "--rules", f"{self.folder}/old.yaml", "--candidate", f"{self.folder}/new.yaml"]

    @property
    def views(self) -> Views:
        """Each person's views of the dates that are read."""
        people = views_of_people(self.events, END)
        return {user: [view for view in seen if view.time >= START - 10 * DAY_MS] for user, seen in people.items()}


Run = Callable[..., Told]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Seventeen days of a simulated marketplace with copies and late events."""
    folder = tmp_path_factory.mktemp("simulated")
    sizes = ["--events", "7000", "--users", "70", "--days", "17", "--seed", "11", "--duplicates", "0.03", "--late", "0.05"]
    assert simulate.run([*sizes, "--until", f"{UNTIL}T00:00:00Z", "--to", f"file:{folder}/events.jsonl", "--json"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        assert archive.run(["--source", f"file:{folder}/events.jsonl", "--archive", f"{folder}/archive", "--json"]) == 0
    (folder / "old.yaml").write_text(yaml.safe_dump(OLD))
    (folder / "new.yaml").write_text(yaml.safe_dump(NEW))
    return Place(folder, [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()])


@pytest.fixture
def place(simulated: Place, tmp_path: Path) -> Place:
    """A copy that a test may spoil."""
    for name in ("old.yaml", "new.yaml"):
        shutil.copy(simulated.folder / name, tmp_path)
    shutil.copytree(simulated.archive, tmp_path / "archive")
    return Place(tmp_path, simulated.events)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """``forecourt backtest`` in this process."""

    def told(*options: str) -> Told:
        capfd.readouterr()
        try:
            status = backtest.run(list(options))
        except ForecourtError as fault:
            return Told(fault.exit_status, "", str(fault))
        except SystemExit as stop:
            return Told(int(stop.code or 0), *capfd.readouterr())
        return Told(status, *capfd.readouterr())

    return told


@pytest.fixture(scope="module")
def told(simulated: Place) -> dict[str, Any]:
    """The JSON document of one backtest, which many tests look at."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert backtest.run([*simulated.files, *RUN, "--json"]) == 0
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def report_of(document: dict[str, Any]) -> BacktestReport:
    return msgspec.convert(document, BacktestReport)


def specs_of(rules: dict[str, Any]) -> dict[str, Spec]:
    return {segment["name"]: {**rules["defaults"], **segment} for segment in rules["segments"]}


def inside(views: list[SeenView], spec: Spec, at: int) -> bool:
    """Whether a user is a member just before an instant."""
    rule = _DEFAULTS | dict(spec)
    seen = [view for view in views if at - duration(rule["window"]) <= view.time < at][-MAX_VIEWS:]
    return member_after([Mark(view.time, matches(rule["when"], view.attributes)) for view in seen], rule)


def days_counted(views: Views, spec: Spec) -> list[DayCounts]:
    return [day_of(views, spec, day) for day in range(START, END, DAY_MS)]


def assert_as_counted(have: dict[str, Any], days: list[DayCounts]) -> None:
    """A measured rule's numbers are those of the reference, summed over the days."""
    tp, fp, fn, tn, _, _, _, flips, member_days = (sum(column) for column in zip(*days, strict=True))
    numbers = (tp, fp, fn, tn, days[-1].members, flips, member_days)
    assert tuple(have[name] for name in ("tp", "fp", "fn", "tn", "members", "flips", "member_days")) == numbers
    for name, hits, misses in (("precision", tp, fp), ("recall", tp, fn)):
        assert have[name] == (pytest.approx(hits / (hits + misses)) if hits + misses else None)
        low, high = wilson(hits, hits + misses)
        assert (have[f"{name}_low"], have[f"{name}_high"]) == (
            low if low is None else pytest.approx(low),
            high and pytest.approx(high),
        )
    assert have["flips_per_member_day"] == (pytest.approx(flips / member_days) if member_days else None)
    assert have["f_beta"] == (pytest.approx(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else None)


# --- numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "rules"), [("old", OLD), ("new", NEW)])
def test_every_number_of_both_rule_sets_is_the_references(
    simulated: Place, told: dict[str, Any], side: str, rules: dict[str, Any]
) -> None:
    specs, views = specs_of(rules), simulated.views
    for segment in told["segments"]:
        if segment["segment"] not in specs:
            assert segment[side] is None
            continue
        days = days_counted(views, specs[segment["segment"]])
        assert_as_counted(segment[side], days)
        assert segment[side]["members_by_day"] == [day.members for day in days]
    assert sum(segment[side]["flips"] for segment in told["segments"] if segment[side]) > 0


@pytest.mark.parametrize("name", specs_of(NEW))
def test_every_number_of_the_sweep_is_the_references(simulated: Place, told: dict[str, Any], name: str) -> None:
    rule = _DEFAULTS | dict(specs_of(NEW)[name])
    (segment,) = [each for each in told["segments"] if each["segment"] == name]
    views = simulated.views
    assert [point["enter"] for point in segment["sweep"]] == [round(0.2 + 0.05 * step, 2) for step in range(15)]
    for point in segment["sweep"]:
        leave = point["enter"] * rule["exit"] / rule["enter"]
        assert point["exit"] == pytest.approx(leave)
        assert_as_counted(point, days_counted(views, rule | {"enter": point["enter"], "exit": leave}))


def test_the_users_are_counted_by_what_they_do_under_both_rules(simulated: Place, told: dict[str, Any]) -> None:
    views, old, new = simulated.views, specs_of(OLD), specs_of(NEW)

    def course(user: str, spec: Spec | None) -> str:
        was, is_ = (spec is not None and inside(views[user], spec, at) for at in (START, END))
        return COURSES[2 * was + is_]

    differ: dict[str, Mover] = {}
    pseudonyms = Pseudonyms(ring_of(KEY, "tests"))
    whose = whose_ids(simulated.events, END)
    seen = {
        whose[each.get("user_id") or each["anonymous_id"]]
        for each in simulated.events
        if each["event_time"] >= date_of(START - 10 * DAY_MS)
    }
    for segment in told["segments"]:
        name = segment["segment"]
        pairs = {user: (course(user, old.get(name)), course(user, new.get(name))) for user in views}
        counted = Counter(pairs.values())
        counted["stayed_out", "stayed_out"] += len(seen) - len(views)
        assert segment["matrix"] == {row: {column: counted[row, column] for column in COURSES} for row in COURSES}
        ends = Counter((row in {"entered", "stayed_in"}, column in {"entered", "stayed_in"}) for row, column in counted.elements())
        overlap = {
            "both": ends[True, True],
            "only_old": ends[True, False],
            "only_new": ends[False, True],
            "neither": ends[False, False],
        }
        assert segment["overlap"] == overlap
        for user in views:
            was, is_ = (spec is not None and inside(views[user], spec, END) for spec in (old.get(name), new.get(name)))
            if was != is_:
                mover = differ.setdefault(user, Mover(user=pseudonyms(user), gained=[], lost=[]))
                (mover.gained if is_ else mover.lost).append(name)
    assert told["users"] == len(seen)
    assert told["users_changed"] == len(differ) > MAX_MOVERS
    most = sorted(differ.values(), key=lambda mover: (-len(mover.gained) - len(mover.lost), mover.user))[:MAX_MOVERS]
    assert told["changed_most"] == msgspec.to_builtins(most)


def test_the_test_has_users_in_most_cells(told: dict[str, Any]) -> None:
    cells = Counter[tuple[str, str]]()
    for segment in told["segments"]:
        cells.update({(row, column): number for row, of_row in segment["matrix"].items() for column, number in of_row.items()})
    assert len(+cells) >= 10, cells
    assert any(number != cells[column, row] for (row, column), number in cells.items()), "old and new could be taken for each other"


def test_segments_are_told_by_name_with_what_differs(told: dict[str, Any]) -> None:
    assert {each["segment"]: (each["difference"], each["changes"]) for each in told["segments"]} == {
        "suv": ("unchanged", {}),
        "electric": ("changed", {"enter": [0.5, 0.35], "exit": [0.4, 0.21], "min_days": [1, 2]}),
        "premium": ("new", {}),
        "either": ("changed", {"when": [{"all": INNER_SORTED}, {"any": INNER_SORTED}], "enter": [0.25, 0.7], "exit": [0.2, 0.7]}),
        "budget": ("removed", {}),
    }
    assert [each["segment"] for each in told["segments"]] == ["suv", "electric", "premium", "either", "budget"]
    (removed,) = [each for each in told["segments"] if each["segment"] == "budget"]
    assert (removed["new"], removed["sweep"], removed["suggested"]) == (None, [], None)


INNER_SORTED = [{"fuel_type": "electric"}, {"body_type": ["crossover", "suv"]}]


def test_a_day_that_the_archive_lacks_has_no_views_and_is_told(place: Place, run: Run) -> None:
    gone = "2026-05-17", "2026-05-09"
    for date in gone:
        shutil.rmtree(place.archive / f"date={date}")
    told = run(*place.files, *RUN, "--json")
    views = {user: [view for view in seen if date_of(view.time) not in gone] for user, seen in place.views.items()}
    assert told.document["dates"] == ["2026-05-16", "2026-05-18", "2026-05-19"]
    assert told.document["missing"] == ["2026-05-09", "2026-05-17"]
    assert "not in the archive: 2026-05-09, 2026-05-17" in told.err
    (electric,) = [each for each in told.document["segments"] if each["segment"] == "electric"]
    assert_as_counted(electric["new"], days_counted(views, specs_of(NEW)["electric"]))


# --- shards --------------------------------------------------------------------------------------------------------------


def plan_of(shards: int, spill: Path | None = None) -> Plan:
    old, new = (parse_rules(json.dumps(rules), CATALOGUE, "rules") for rules in (OLD, NEW))
    return Plan(FIRST, LAST, old, new, CATALOGUE, shards, 0, None if spill is None else f"{spill}")


def left_of(archive: str, register: Register) -> str:
    """Where the people of an archive are left, as ``KnowPeople`` does it."""
    items = items_of(archive, dates_of(archive))
    evidence = [read_evidence(item.paths, Asked(register.end)).said for item in items if parse_date(item.date) < register.end]
    graves: dict[bytes, int] = {}
    return leave(people_of(gathered(evidence, graves), graves, {}), register)


def tallies_of(place: Place, plan: Plan) -> list[Tally]:
    arrays = Rules(RuleSet(1, plan.trials.rules)).arrays
    slices: dict[int, list[Any]] = {}
    people = left_of(f"{place.archive}", plan.register)
    for item in items_of(f"{place.archive}", plan.dates):
        for number, where in cut(item, plan, people):
            slices.setdefault(number, []).append(where)
    return [tally_of(shard_of(map(slice_at, places)), plan, arrays) for places in slices.values()]


@pytest.mark.parametrize("shards", [1, 5])
def test_shards_add_up_to_the_same(
    simulated: Place, told: dict[str, Any], shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RULES_AT_ONCE", 7)
    plan = plan_of(shards, tmp_path)
    tally = added([nothing(plan), *tallies_of(simulated, plan)])
    assert msgspec.to_builtins(tally.movers) == told["changed_most"]
    assert (tally.events, tally.users, tally.changed) == (told["events"], told["users"], told["users_changed"])
    for number, name in enumerate(plan.trials.names):
        (segment,) = [each for each in told["segments"] if each["segment"] == name]
        assert tally.courses[number] == [segment["matrix"][row][column] for row in COURSES for column in COURSES]
        for side, places in (("old", plan.trials.old), ("new", plan.trials.new)):
            if segment[side]:
                assert [day[places[number]] for day in tally.members] == segment[side]["members_by_day"]
                assert tally.counts[places[number]][:4] == [segment[side][count] for count in ("tp", "fp", "fn", "tn")]
        assert [tally.counts[place][0] for place in plan.trials.sweeps[number]] == [point["tp"] for point in segment["sweep"]]


def test_rules_that_are_alike_are_walked_once() -> None:
    trials = plan_of(1).trials
    suv, electric = trials.names.index("suv"), trials.names.index("electric")
    assert trials.old[suv] == trials.new[suv]
    assert trials.sweeps[suv][THRESHOLDS.index(0.5)] == trials.new[suv]
    assert trials.old[electric] != trials.new[electric] == trials.sweeps[electric][THRESHOLDS.index(0.35)]
    assert max(trials.old + trials.new) < trials.compared <= len(trials.rules) == len(set(trials.rules))


tallies = st.builds(
    Tally,
    *[st.integers(0, 99)] * 3,
    *[st.lists(st.lists(st.integers(0, 2**40), min_size=2, max_size=2), min_size=2, max_size=2)] * 3,
    st.lists(st.builds(Mover, user=st.text("ab", max_size=4), gained=st.lists(st.just("x"), max_size=3), lost=st.just([]))),
)


@given(st.lists(tallies, min_size=1, max_size=5), st.integers(0, 5))
def test_tallies_add_up_in_any_groups_and_travel_as_json(parts: list[Tally], place: int) -> None:
    parts = [part._replace(movers=first_movers(part.movers)) for part in parts]
    whole = added(parts)
    grouped = [added(group) for group in (parts[:place], parts[place:]) if group]
    assert added(grouped) == whole
    assert decode_tally(encode_tally(whole)) == whole
    assert len(whole.movers) <= MAX_MOVERS
    assert np.array_equal(np.sum([part.counts for part in parts], axis=0), whole.counts)


# --- thresholds ----------------------------------------------------------------------------------------------------------


def point_at(enter: float, tp: int, fp: int, fn: int, beta: float = 1.0) -> Measured:
    rates = dict.fromkeys(("precision_low", "precision_high", "recall_low", "recall_high", "flips_per_member_day"), None)
    precision, recall = (tp / whole if (whole := tp + other) else None for other in (fp, fn))
    counts = {"tp": tp, "fp": fp, "fn": fn, "tn": 0, "members": 0, "flips": 0, "member_days": 0}
    return Measured(enter=enter, exit=enter, precision=precision, recall=recall, f_beta=f_beta(tp, fp, fn, beta), **counts, **rates)  # type: ignore[arg-type]


counts = st.integers(0, 6)
sweeps = st.lists(st.tuples(counts, counts, counts), max_size=15).map(
    lambda rows: [point_at(0.2 + 0.05 * place, *row) for place, row in enumerate(rows)]
)


@given(sweeps, st.randoms(), st.sampled_from([0.1, 0.5, 2 / 3, 0.75, 1.0]))
def test_suggested_is_the_smallest_threshold_with_the_wanted_precision(sweep: list[Measured], rng: Any, wanted: float) -> None:
    shuffled = rng.sample(sweep, len(sweep))
    found = suggested(shuffled, Goal(wanted_precision=wanted))
    reached = [point.enter for point in sweep if point.tp + point.fp and point.tp >= wanted * (point.tp + point.fp)]
    assert (None if found is None else found.enter) == min(reached, default=None)
    more = suggested(sweep, Goal(wanted_precision=min(1.0, wanted + 0.2)))
    assert more is None or (found is not None and more.enter >= found.enter)


@given(sweeps, st.randoms())
def test_suggested_is_else_the_best_f_beta_of_equals_the_smallest(sweep: list[Measured], rng: Any) -> None:
    found = suggested(rng.sample(sweep, len(sweep)), Goal())
    scores = [point.f_beta or 0.0 for point in sweep]
    if not any(scores):
        assert found is None
    else:
        assert found == sweep[scores.index(max(scores))]


@given(counts, counts, counts, st.sampled_from([0.5, 1.0, 2.0]))
def test_f_beta_is_the_weighted_harmonic_mean(tp: int, fp: int, fn: int, beta: float) -> None:
    score = f_beta(tp, fp, fn, beta)
    if tp:
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        assert score == pytest.approx((1 + beta**2) * precision * recall / (beta**2 * precision + recall))
    else:
        assert score == (0.0 if fp + fn else None)


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_swept_rule_differs_in_its_thresholds_alone(one: float, other: float) -> None:
    rule = plan_of(1).new.rules[0]._replace(enter=max(one, other), exit=min(one, other))
    for threshold, each in zip(THRESHOLDS, swept(rule), strict=True):
        assert each._replace(enter=rule.enter, exit=rule.exit) == rule
        assert each.enter == threshold
        assert 0 < each.exit <= each.enter
        assert each.exit / each.enter == pytest.approx(rule.exit / rule.enter)


@pytest.mark.parametrize(
    ("options", "goal"), [(["--wanted-precision", "0.55"], Goal(wanted_precision=0.55)), (["--beta", "2"], Goal(beta=2.0))]
)
def test_the_goal_asked_for_is_the_one_suggested_for(
    simulated: Place, run: Run, told: dict[str, Any], options: list[str], goal: Goal
) -> None:
    document = run(*simulated.files, *RUN, *options, "--json").document
    assert msgspec.convert(document["goal"], Goal) == goal
    for segment, before in zip(report_of(document).segments, report_of(told).segments, strict=True):
        assert segment.suggested == suggested(segment.sweep, goal)
        for point, was in zip(segment.sweep, before.sweep, strict=True):
            assert point.f_beta == f_beta(was.tp, was.fp, was.fn, goal.beta)


# --- what is printed -----------------------------------------------------------------------------------------------------


def test_json_is_one_document_of_the_schema_and_nothing_else(simulated: Place, run: Run) -> None:
    told = run(*simulated.files, *RUN, "--json")
    assert told.out.count("\n") == 1
    jsonschema.validate(told.document, msgspec.json.schema(BacktestReport))
    assert list(told.document) == [
        *("from", "to", "dates", "missing", "old", "new", "goal", "events", "users", "users_changed", "segments", "changed_most"),
        *("record", "seconds"),
    ]
    assert told.document["dates"] == ["2026-05-16", "2026-05-17", "2026-05-18", "2026-05-19"]
    assert (told.document["old"]["version"], told.document["new"]["version"], told.document["record"]) == (3, 4, None)


def test_tables_fit_a_hundred_columns(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    report = report_of(told)
    longest = msgspec.structs.replace(report.segments[1], segment="n" + "a" * 62)
    print_report(msgspec.structs.replace(report, segments=[longest, *report.segments]), None)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "…" not in re.sub(r"1:[0-9a-f]{12}…", "", printed), "something was cut short"
    electric = report.segments[1]
    assert electric.old is not None
    assert electric.new is not None
    for text in (
        f"{electric.old.precision:.3f} → {electric.new.precision:.3f}",
        f"+{electric.overlap.only_new} -{electric.overlap.only_old}",
    ):
        assert text in printed
    assert "electric: enter 0.5 → 0.35; exit 0.4 → 0.21; min_days 1 → 2; the new rule with other thresholds" in printed


def test_no_raw_id_is_printed(simulated: Place, run: Run, tmp_path: Path) -> None:
    told = run(*simulated.files, *RUN, "--json", "--report", f"{tmp_path}/page.html")
    text = told.out + told.err + (tmp_path / "page.html").read_text()
    ids = {each[key] for each in simulated.events for key in ("user_id", "anonymous_id") if each.get(key)}
    assert not [each for each in ids if re.search(rf"\b{re.escape(each)}\b", text)]


class Page(html.parser.HTMLParser):
    """What a page has: its tags are closed, and all that could load something is collected."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in {"script", "link", "img", "iframe", "object", "embed", "base", "image"} or given.keys() & {
            "src",
            "srcset",
            "data",
        }:
            self.loads.append((tag, str(given)))
        self.ids += [str(given["id"])] if "id" in given else []
        self.links += [str(given[key]) for key in ("href", "xlink:href") if key in given]
        self.open += [] if tag in {"meta", "br"} else [tag]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(simulated: Place, run: Run, told: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    assert run(*simulated.files, *RUN, "--report", f"{path}").status == 0
    text = path.read_text()
    page = Page(text)
    assert (page.loads, page.open) == ([], [])
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not re.findall(r"https?:|//\w|@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert {found[1:] for found in re.findall(r"url\((#\w+)\)", text)} <= set(page.ids)
    assert set(re.findall(r"var\(--([a-z]+)\)", text)) <= set(re.findall(r"--([a-z]+): ", text))
    assert not re.findall(r"#0\d0f0\d", text), "a colour of the plots was not made a variable"
    assert text.count("<svg") == 2 * 4 + 1, "a removed segment has no curve"
    assert "prefers-color-scheme: dark" in text
    for segment in told["segments"]:
        assert f'id="{segment["segment"]}"' in text
    assert len(text) < 1 << 20


def test_the_page_is_the_same_for_the_same_report(told: dict[str, Any]) -> None:
    assert page_of(report_of(told)) == page_of(report_of(told))


def test_a_page_of_segments_without_views_says_so() -> None:
    nobody = point_at(0.2, 0, 0, 0)
    side = {**msgspec.structs.asdict(nobody), "members_by_day": [0]}
    zero = {row: dict.fromkeys(COURSES, 0) for row in COURSES}
    segment = {
        **{"segment": "none", "difference": "new", "changes": {}, "old": None, "new": side, "matrix": zero, "sweep": [nobody]},
        **{"overlap": dict.fromkeys(("both", "only_old", "only_new", "neither"), 0), "suggested": None},
    }
    version = {"version": 1, "sha256": "0" * 64}
    report = {
        **{"from": FIRST, "to": FIRST, "dates": [FIRST], "missing": ["<b>"], "old": version, "new": version, "goal": Goal()},
        **{"events": 0, "users": 0, "users_changed": 0, "segments": [segment], "changed_most": [], "record": None, "seconds": 0.0},
    }
    text = page_of(report_of(msgspec.to_builtins(report)))
    assert "Suggested: none." in text
    assert "&lt;b&gt;" in text
    assert Page(text).open == []


def test_plots_are_only_imported_for_a_page() -> None:
    code = "import sys, pipelines.backtest; sys.exit(any(name in sys.modules for name in ('matplotlib', 'jinja2')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- a release folder ----------------------------------------------------------------------------------------------------


def published(place: Place, file: str, capfd: pytest.CaptureFixture[str]) -> Told:
    where = ["--releases", f"{place.folder}/releases", "--archive", f"{place.archive}", "--by", "ann"]
    capfd.readouterr()
    try:
        status = release.run(["publish", f"{place.folder}/{file}", *where])
    except ForecourtError as fault:
        return Told(fault.exit_status, "", str(fault))
    return Told(status, *capfd.readouterr())


def test_a_backtest_against_a_release_folder_lets_the_candidate_be_published(
    place: Place, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert published(place, "old.yaml", capfd).status == 0
    assert "must have a backtest" in published(place, "new.yaml", capfd).err
    files = ["--archive", f"{place.archive}", "--rules", f"{place.folder}/releases", "--candidate", f"{place.folder}/new.yaml"]
    assert run(*files, "--from", "2026-05-14", "--to", LAST, "--json").document["record"].endswith(".json")
    assert "missing: 2026-05-13" in published(place, "new.yaml", capfd).err
    document = run(*files, "--from", "2026-05-13", "--to", LAST, "--json").document
    assert document["old"]["version"] == 3
    record = json.loads(Path(document["record"]).read_text())
    assert record["candidate_sha256"] == document["new"]["sha256"]
    assert record["rules_sha256"] == document["old"]["sha256"]
    assert record["dates"] == document["dates"] == [f"2026-05-{day}" for day in range(13, 20)]
    assert record["report"]["segments"]["electric"]["new"]["members"] == document["segments"][1]["new"]["members"]
    assert record["report"]["segments"]["budget"]["new"] is None
    with (place.folder / "new.yaml").open("a") as file:
        file.write("# another file\n")
    assert "must have a backtest" in published(place, "new.yaml", capfd).err
    (place.folder / "new.yaml").write_text(yaml.safe_dump(NEW))
    assert published(place, "new.yaml", capfd).status == 0


def test_with_a_rules_file_nothing_is_recorded(place: Place, run: Run) -> None:
    before = sorted(place.folder.rglob("*"))
    assert "recorded" not in run(*place.files, *RUN).out
    assert sorted(place.folder.rglob("*")) == before


# --- what can't be used --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", LAST, "--to", FIRST], f"--from == {LAST}, must be at most --to == {FIRST}"),
        (["--from", "2026-5-1", "--to", LAST], "--from == '2026-5-1', must be a date such as 2026-05-01"),
        (["--from", FIRST, "--to", "tomorrow"], "--to == 'tomorrow', must be a date"),
        (["--from", "2026-01-01", "--to", LAST], "days from --from to --to == 139, must be at most 100"),
        (
            ["--from", "2026-06-01", "--to", "2026-06-02"],
            "must have dates of the archive .*archive: it has 2026-05-03 to 2026-05-19",
        ),
        (["--from", "2026-05-21", "--to", "2026-05-22"], "--from 2026-05-21 --to 2026-05-22, must have dates of the archive"),
        ([*RUN, "--candidate", "{folder}/old.yaml"], "old.yaml, must differ from --rules == .*old.yaml: both are version 3, alike"),
        ([*RUN, "--candidate", "{folder}/none.yaml"], "file == .*none.yaml, must be readable"),
        ([*RUN, "--candidate", "{folder}/broken.yaml"], r"broken.yaml:1:2: segments == 3, must be a list"),
        ([*RUN, "--rules", "{folder}/archive"], "must be a file, or a release folder"),
        ([*RUN, "--archive", "{folder}/nowhere"], "archive == .*nowhere, must be a folder that forecourt archive has written"),
        ([*RUN, "--wanted-precision", "1.2"], "--wanted-precision == 1.2, must be above 0 and at most 1"),
        ([*RUN, "--wanted-precision", "nan"], "--wanted-precision == nan, must be above 0"),
        ([*RUN, "--beta", "0"], "--beta == 0, must be above 0"),
        ([*RUN, "--beta", "inf"], "--beta == inf, must be above 0"),
        ([*RUN, "--report", "{folder}"], "--report == .*, must be a file, such as backtest.html"),
        ([*RUN, "--workers", "0"], "--workers == 0, must be between 1 and 64"),
        ([*RUN, "--no-such-option"], "option == '--no-such-option', must be one that --help lists"),
        ([*RUN, "--runner", "SparkRunner"], "--runner == 'SparkRunner', must be DirectRunner or DataflowRunner"),
        ([*RUN, "--runner", "DataflowRunner"], "must be remote .* on Dataflow"),
        ([*RUN, "--beta", "1", "--wanted-precision", "0.5"], "not allowed with argument"),
        (["--from", FIRST], "the following arguments are required: --to"),
    ],
)
def test_what_cannot_be_used_says_what_can(place: Place, run: Run, options: list[str], message: str) -> None:
    (place.folder / "broken.yaml").write_text("{segments: 3, version: 1}")
    told = run(*place.files, *(option.format(folder=place.folder) for option in options))
    assert (told.status, told.out) == (2, "")
    assert re.search(message, told.err), told.err


def test_a_corrupt_file_is_named(place: Place, run: Run) -> None:
    (path,) = (place.archive / f"date={FIRST}").glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    told = run(*place.files, *RUN)
    assert told.status == 2
    assert f"archive file == {path}, must be readable Parquet" in told.err


def test_a_page_that_cannot_be_written_fails_the_job(place: Place, run: Run) -> None:
    (place.folder / "file").touch()
    told = run(*place.files, *RUN, "--report", f"{place.folder}/file/page.html")
    assert (told.status, "must be writable" in told.err) == (1, True)


def test_a_dry_run_runs_nothing(place: Place, run: Run) -> None:
    shutil.rmtree(place.archive)
    assert run(*place.files, *RUN, "--dry_run").status == 0


def test_it_is_a_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["forecourt", "backtest", "--help"])
    with pytest.raises(SystemExit) as stop:
        forecourt.main()
    assert stop.value.code == 0
    assert "--wanted-precision" in capfd.readouterr().out
