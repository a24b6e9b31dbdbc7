"""The experiments file: what its author writes, what it becomes, what its author is told, and how changes come into force."""

from __future__ import annotations

import itertools
import logging
import pathlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, RulesError
from schemas.experiment import METRICS, MODES, Bandit, Controller
from schemas.experiments import (
    MAX_WEIGHT,
    UNITS,
    Arm,
    Experiment,
    Experiments,
    Flag,
    Layer,
    experiments_text,
    parse_experiments,
)
from schemas.instants import LAST_INSTANT_MS, parse_instant
from serving.experiments_file import POLL_S, ExperimentsFile, load_experiments, redrawn
from tests.strategies import ROOT

TEXT = """\
version: 7
layers:
  - {name: featured, salt: "2026"}
  - {name: ranking}
experiments:
  - name: first
    version: 3
    layer: featured
    slice: [0, 0.5]
    unit: session
    ramp: 0.25
    starts: 2026-05-01T00:00:00Z
    ends: 2026-05-15T00:00:00+02:00
    arms:
      - {name: control, weight: 1, shows: false, policy: combined}
      - {name: treatment, weight: 3.5, shows: true, policy: combined}
    segments: {suv: {ramp: 0.05}, electric: {running: false}}
  - name: second
    version: 1
    layer: featured
    slice: [0.5, 1]
    unit: session
    salt: again
    ramp: 0
    running: false
    arms: [{name: control, weight: 1, shows: false}, {name: other, weight: 1, shows: false}]
"""


def parse(text: str) -> Experiments:
    return parse_experiments(text, "e.yaml")


def test_a_file_is_read_with_its_defaults() -> None:
    found = parse(TEXT)
    assert (found.version, found.kill) == (7, False)
    assert found.layers == (Layer("featured", "2026"), Layer("ranking", "ranking"))
    arms = (Arm("control", 1.0, False, "combined"), Arm("treatment", 3.5, True, "combined"))
    first, second = found.experiments
    assert first == Experiment(
        "first",
        3,
        "featured",
        (0.0, 0.5),
        "session",
        "first",
        0.25,
        arms,
        {"suv": Flag(True, 0.05), "electric": Flag(False, 1.0)},
        True,
        parse_instant("2026-05-01T00:00:00Z"),
        parse_instant("2026-05-14T22:00:00Z"),
    )
    assert second[5:] == (
        "again",
        0.0,
        (Arm("control", 1.0, False, None), Arm("other", 1.0, False, None)),
        {},
        False,
        None,
        None,
        None,
        None,
        {},
    )


def test_a_controller_a_bandit_and_its_allocation_are_read_with_their_defaults() -> None:
    def read(extra: str) -> tuple[Any, ...]:
        return parse(one(extra)).experiments[0][-3:]

    assert read(", controller: {}") == (Controller("ask", 1_000, None, 0.05), None, {})
    assert read(", bandit: {}") == (None, Bandit("clicks", 0.05, 0.1), {})
    settled = ", controller: {mode: act, min_sessions: 7, planned_sessions: 900, alpha: 0.1}"
    assert read(settled) == (Controller("act", 7, 900, 0.1), None, {})
    settled = ", bandit: {metric: lead, floor: 0, holdout: 0.25}, allocation: {suv: {treatment: 1, control: 0}}"
    assert read(settled) == (None, Bandit("lead", 0.0, 0.25), {"suv": {"treatment": 1.0, "control": 0.0}})
    nothing = ", controller: null, bandit: null, allocation: {}"
    assert parse(one(nothing)) == parse(one())


def test_a_file_without_controllers_and_bandits_is_written_without_their_keys() -> None:
    text = experiments_text(parse(one()))
    assert not re.search("controller|bandit|allocation", text)


def test_a_file_without_experiments_is_one() -> None:
    assert parse("{version: 1, kill: true, layers: [], experiments: []}") == Experiments(1, (), (), True)


def test_the_whole_layer_is_an_experiments_unless_it_says_less() -> None:
    assert parse(one()).experiments[0].slice == (0.0, 1.0)


def test_the_shipped_example_can_be_used() -> None:
    assert parse((ROOT / "rules/experiments.yaml").read_text()).experiments


# --- what an author is told ----------------------------------------------------------------------------------------------

ARMS = "[{name: control, weight: 1, shows: false}, {name: treatment, weight: 1, shows: true}]"


def one(extra: str = "", *, arms: str = ARMS, name: str = "one", unit: str = "session", ramp: str = "1", more: str = "") -> str:
    """A file with an experiment at line 4, column 3, and ``more`` below it."""
    body = f"name: {name}, version: 1, layer: l, unit: {unit}, ramp: {ramp}, arms: {arms}"
    return f"version: 1\nlayers: [{{name: l}}]\nexperiments: [\n  {{{body}{extra}}}{more}]\n"


def beside(extra: str) -> str:
    """An experiment ``two`` at line 5, column 2."""
    return f",\n {{name: two, version: 1, ramp: 1, arms: {ARMS}, {extra}}}"


REFUSED = [
    ("[]", "e.yaml:1:1: experiments == [], must be a mapping with the keys version, kill, layers, experiments"),
    ("{version: 1, layers: []}", "e.yaml:1:1: experiments.experiments is missing, must be given"),
    ("{version: 0, layers: [], experiments: []}", "e.yaml:1:2: experiments.version == 0, must be a whole number, at least 1"),
    ("{version: true, layers: [], experiments: []}", "e.yaml:1:2: experiments.version == True, must be a whole number"),
    ("{version: 1, layers: [], experiments: [], kil: 1}", "e.yaml:1:43: experiments.kil == 1, must be absent: the keys are"),
    ("{version: 1, layers: [], experiments: [], kill: 1}", "e.yaml:1:43: experiments.kill == 1, must be true or false"),
    ("{version: 1, layers: {}, experiments: []}", "e.yaml:1:14: experiments.layers == {}, must be a list of 0 to 200 layers"),
    ("{version: 1, layers: [], experiments: {}}", "e.yaml:1:26: experiments.experiments == {}, must be a list of 0 to 200"),
    ("{version: 1, layers: [{}], experiments: []}", "e.yaml:1:23: experiments.layers[0].name is missing, must be given"),
    ("{version: 1, layers: [{name: A}], experiments: []}", "e.yaml:1:24: experiments.layers[0].name == 'A', must be lower_snake"),
    ("{version: 1, layers: [{name: a, salt: 1}], experiments: []}", "layers[0].salt == 1, must be text of 1 to 64"),
    ("{version: 1, layers: [{name: a, salt: 'a:b'}], experiments: []}", "layers[0].salt == 'a:b', must be text of 1 to 64"),
    (
        "{version: 1, layers: [{name: a}, {name: a, salt: b}], experiments: []}",
        "e.yaml:1:35: layers[1].name == 'a', must be unique",
    ),
    (
        "{version: 1, layers: [{name: a}, {name: b, salt: a}], experiments: []}",
        "e.yaml:1:44: layers[1].salt == 'a', must be unique",
    ),
    (one(", colour: red"), "e.yaml:4:154: experiments[0].colour == 'red', must be absent: the keys are name, version, layer"),
    (one(name="One"), "e.yaml:4:4: experiments[0].name == 'One', must be lower_snake_case, at most 63 characters"),
    (one(name="o" * 64), "must be lower_snake_case, at most 63 characters"),
    (one(unit="device"), "experiments[0].unit == 'device', must be session or user"),
    (one(ramp="1.1"), "experiments[0].ramp == 1.1, must be a number from 0 to 1"),
    (one(ramp="-0.1"), "experiments[0].ramp == -0.1, must be a number from 0 to 1"),
    (one(ramp="true"), "experiments[0].ramp == True, must be a number from 0 to 1"),
    (one(ramp="25%"), "experiments[0].ramp == '25%', must be a number from 0 to 1"),
    (one(", running: 1"), "experiments[0].running == 1, must be true or false"),
    (one(", salt: ''"), "experiments[0].salt == '', must be text of 1 to 64"),
    (one(", slice: [0]"), "experiments[0].slice == [0], must be [from, to], each from 0 to 1"),
    (one(", slice: [0, 2]"), "experiments[0].slice[1] == 2, must be a number from 0 to 1"),
    (one(", slice: [0.5, 0.5]"), "experiments[0].slice == [0.5, 0.5], must be [from, to] with from below to"),
    (one(", starts: 2026-05-01"), "experiments[0].starts == '2026-05-01', must be an RFC 3339 date-time with an offset"),
    (one(", ends: 5"), "experiments[0].ends == 5, must be an RFC 3339 date-time"),
    (
        one(", starts: 2026-05-01T00:00:00Z, ends: 2026-05-01T00:00:00Z"),
        "experiments[0].ends == '2026-05-01T00:00:00Z', must be after starts == 2026-05-01T00:00:00.000Z",
    ),
    (one(arms="[]"), "experiments[0].arms == [], must be a list of 2 to 20 arms"),
    (one(arms="[{name: control, weight: 1, shows: false}]"), "must be a list of 2 to 20 arms"),
    (one(arms=ARMS.replace("control", "off")), "must have one arm named control, whose shows is false"),
    (one(arms=ARMS.replace("shows: false", "shows: true")), "must have one arm named control, whose shows is false"),
    (one(arms=ARMS.replace("treatment", "control")), "experiments[0].arms[1].name == 'control', must be unique"),
    (one(arms=ARMS.replace("shows: true", "shows: 1")), "experiments[0].arms[1].shows == 1, must be true or false"),
    (one(arms=ARMS.replace(", shows: true", "")), "experiments[0].arms[1].shows is missing, must be given"),
    (one(arms=ARMS.replace("weight: 1, shows: true", "weight: 0, shows: true")), "arms[1].weight == 0, must be a number above 0"),
    (one(arms=ARMS.replace("weight: 1, shows: true", "weight: 1e7, shows: true")), "must be a number above 0 and at most 1e+06"),
    (one(arms=ARMS.replace("shows: true", "shows: true, policy: Best")), "arms[1].policy == 'Best', must be lower_snake_case"),
    (one(arms=ARMS.replace("shows: true", "shows: true, policy: best")), "must give control the policy of another arm"),
    (
        one(
            ", segments: {suv: {}}",
            arms="[{name: control, weight: 1, shows: false, policy: a}, {name: b, weight: 1, shows: true, policy: a},"
            "{name: c, weight: 1, shows: true, policy: c}]",
        ),
        "must be absent where arms differ in policy",
    ),
    (one(", segments: [suv]"), "experiments[0].segments == ['suv'], must be a mapping of at most 500 segments"),
    (one(", segments: {Suv: {}}"), "experiments[0].segments.Suv == {}, must stand under a segment's name"),
    (one(", segments: {suv: 0.5}"), "experiments[0].segments.suv == 0.5, must be a mapping with the keys running, ramp"),
    (one(", segments: {suv: {ramp: 2}}"), "experiments[0].segments.suv.ramp == 2, must be a number from 0 to 1"),
    (one(", controller: 1"), "experiments[0].controller == 1, must be a mapping with the keys mode, min_sessions, planned_sess"),
    (one(", controller: {mode: do}"), "experiments[0].controller.mode == 'do', must be ask or act"),
    (one(", controller: {min_sessions: 0}"), "controller.min_sessions == 0, must be a whole number, at least 1"),
    (one(", controller: {planned_sessions: 1.5}"), "controller.planned_sessions == 1.5, must be a whole number, at least 1"),
    (one(", controller: {alpha: 0}"), "controller.alpha == 0, must be a number above 0 and below 1"),
    (one(", controller: {alpha: 1}"), "controller.alpha == 1, must be a number above 0 and below 1"),
    (one(", controller: {alpha: true}"), "controller.alpha == True, must be a number above 0 and below 1"),
    (one(", bandit: {metric: views}"), "bandit.metric == 'views', must be clicks or vehicles_viewed or lead"),
    (one(", bandit: {holdout: 1}"), "bandit.holdout == 1, must be a number from 0, below 1"),
    (one(", bandit: {floor: -0.1}"), "bandit.floor == -0.1, must be a number from 0 to 1"),
    (one(", bandit: {floor: 0.5}"), "experiments[0].bandit.floor == 0.5, must be below 1/2: each of the 2 arms gets it"),
    (one(", allocation: {suv: {control: 0.5, treatment: 0.5}}"), "experiments[0].allocation == "),
    (one(", allocation: {suv: {control: 0.5, treatment: 0.5}}"), "must be absent without bandit"),
    (one(", controller: {}, bandit: {}"), "experiments[0].bandit == {}, must be absent where there is a controller"),
    (one(", bandit: {}, allocation: [suv]"), "experiments[0].allocation == ['suv'], must be a mapping of at most 500 segments"),
    (one(", bandit: {}, allocation: {Suv: {}}"), "allocation.Suv == {}, must stand under a segment's name"),
    (one(", bandit: {}, allocation: {suv: 1}"), "allocation.suv == 1, must be a mapping of arms to probabilities"),
    (one(", bandit: {}, allocation: {suv: {control: 1}}"), "must have a probability for each of the arms: control, treatment"),
    (one(", bandit: {}, allocation: {suv: {control: 0.5, treatment: 0.4, x: 0.1}}"), "for each of the arms: control, treatment"),
    (one(", bandit: {}, allocation: {suv: {control: 0.5, treatment: 0.6}}"), "must add up to 1, not 1.1"),
    (one(", bandit: {}, allocation: {suv: {control: 1.1, treatment: -0.1}}"), "suv.control == 1.1, must be a number from 0 to 1"),
    (
        one(", bandit: {}, allocation: {suv: {control: 0.98, treatment: 0.02}}"),
        "suv.treatment == 0.02, must be at least floor == 0.05",
    ),
    (one(more=beside("layer: k, unit: session")), "experiments[1].layer == 'k', must be one of the layers: l"),
    (
        one(more=beside("layer: l, unit: session")),
        "e.yaml:5:2: experiments[1].slice == [0.0, 1.0], must not overlap with [0.0, 1.0], which one has of this layer",
    ),
    (
        one(", slice: [0, 0.5]", more=beside("layer: l, unit: session, slice: [0.4, 0.6]")),
        "experiments[1].slice == [0.4, 0.6], must not overlap with [0.0, 0.5], which one has of this layer",
    ),
    (
        one(", slice: [0, 0.5]", more=beside("layer: l, unit: user, slice: [0.5, 1]")),
        "experiments[1].unit == 'user', must be session, as one has it in this layer: else a request could be in two experiments",
    ),
    (
        one(", slice: [0, 0.5], salt: two", more=beside("layer: l, unit: session, slice: [0.5, 1]")),
        "must be another than that of one (two): both would draw the same units",
    ),
    (one(", slice: [0, 0.5]", more=beside("layer: l, unit: session, slice: [0.5, 1]").replace("two", "one")), "must be unique"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[message[-60:] for _, message in REFUSED])
def test_a_file_that_cannot_be_used_says_where_and_why(text: str, message: str) -> None:
    with pytest.raises(RulesError, match=re.escape(message)):
        parse(text)


def test_what_the_refused_files_are_made_of_can_be_used() -> None:
    two = parse(one(", slice: [0, 0.5]", more=beside("layer: l, unit: session, slice: [0.5, 1]")))
    assert [each.name for each in two.experiments] == ["one", "two"]


def test_a_policy_is_looked_up_where_the_names_are_known() -> None:
    text = one(arms=ARMS.replace("}", ", policy: best}"))
    assert parse_experiments(text, "e.yaml", {"best"}) == parse(text)
    with pytest.raises(RulesError, match=r"arms\[0\].policy == 'best', must be one of combined, highest_score"):
        parse_experiments(text, "e.yaml", {"highest_score", "combined"})


# --- the writer ----------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
SALTS = st.from_regex(r"[A-Za-z0-9_.-]{1,9}", fullmatch=True)
SHARES = st.floats(0, 1)
WEIGHTS = st.floats(0, MAX_WEIGHT, exclude_min=True)
INSTANTS = st.integers(0, LAST_INSTANT_MS)


PARTS = st.floats(0, 1, exclude_max=True)
CONTROLLERS = st.builds(
    Controller,
    st.sampled_from(MODES),
    st.integers(1, 10**15),
    st.none() | st.integers(1, 10**15),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
)


def allocations(arms: list[str], floor: float) -> st.SearchStrategy[dict[str, float]]:
    """Probabilities of the arms, each at least the floor, that add up to 1."""
    raw = st.lists(st.floats(0.001, 1), min_size=len(arms), max_size=len(arms))
    return raw.map(lambda w: dict(zip(arms, (floor + (1 - len(arms) * floor) * each / sum(w) for each in w), strict=True)))


@st.composite
def files(draw: st.DrawFn) -> Experiments:
    """Any experiments that a file can hold."""
    layers = draw(st.lists(st.builds(Layer, NAMES, SALTS), max_size=3, unique_by=(lambda each: each.name, lambda each: each.salt)))
    found: list[Experiment] = []
    names = iter(draw(st.lists(NAMES, min_size=9, max_size=9, unique=True)))
    salts = iter(draw(st.lists(SALTS, min_size=9, max_size=9, unique=True)))
    for layer in layers:
        unit = draw(st.sampled_from(UNITS))
        bounds = sorted(draw(st.lists(SHARES, min_size=2, max_size=4, unique=True)))
        for start, end in zip(bounds, bounds[1:], strict=False):
            policies = draw(st.lists(st.none() | NAMES, min_size=1, max_size=3))
            named = draw(st.lists(NAMES.filter(lambda name: name != "control"), min_size=3, max_size=3, unique=True))
            arms = [Arm(name, draw(WEIGHTS), draw(st.booleans()), policy) for name, policy in zip(named, policies, strict=False)]
            arms.insert(draw(st.integers(0, len(arms))), Arm("control", draw(WEIGHTS), False, draw(st.sampled_from(policies))))
            flags = (
                draw(st.dictionaries(NAMES, st.builds(Flag, st.booleans(), SHARES), max_size=3)) if len(set(policies)) < 2 else {}
            )
            dates = draw(st.tuples(st.none() | INSTANTS, st.none() | INSTANTS))
            starts, ends = (None, dates[1]) if None not in dates and dates[0] >= dates[1] else dates  # type: ignore[operator]
            bandit = draw(st.none() | st.builds(Bandit, st.sampled_from(METRICS), SHARES.map(lambda part: part * 0.2), PARTS))
            allocation = (
                draw(st.dictionaries(NAMES, allocations([arm.name for arm in arms], bandit.floor), max_size=3)) if bandit else {}
            )
            version, ramp, running = draw(st.integers(1, 10**15)), draw(SHARES), draw(st.booleans())
            found.append(
                Experiment(
                    next(names),
                    version,
                    layer.name,
                    (start, end),
                    unit,
                    next(salts),
                    ramp,
                    tuple(arms),
                    flags,
                    running,
                    starts,
                    ends,
                    None if bandit else draw(st.none() | CONTROLLERS),
                    bandit,
                    allocation,
                )
            )
    return Experiments(draw(st.integers(1, 10**15)), tuple(layers), tuple(found), draw(st.booleans()))


@given(files())
def test_what_is_written_parses_to_the_same(experiments: Experiments) -> None:
    assert parse(experiments_text(experiments)) == experiments


def test_a_written_file_has_a_line_for_each_experiment() -> None:
    text = experiments_text(parse(TEXT))
    assert parse(text) == parse(TEXT)
    assert [line[:24] for line in text.splitlines()] == [
        "version: 7",
        "kill: false",
        "layers:",
        '  - {"name": "featured",',
        '  - {"name": "ranking", ',
        "experiments:",
        '  - {"name": "first", "v',
        '  - {"name": "second", "',
    ]


# --- polled --------------------------------------------------------------------------------------------------------------


class Polled:
    """A file that is looked at, with a clock that is moved by hand."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.now_s = path, 100.0
        self.refused = 0
        self.changes: list[tuple[int, int]] = []
        path.write_text(TEXT)
        self.file = ExperimentsFile(
            str(path),
            lambda: self.now_s,
            refused=self.count,
            changed=lambda before, after: self.changes.append((before.version, after.version)),
        )

    def count(self) -> None:
        self.refused += 1

    def looked(self, text: str | None = None, after_s: float = POLL_S) -> bool:
        """Whether there is a change once the file holds the text and the time has passed."""
        if text is not None:
            self.path.write_text(text)
        self.now_s += after_s
        return self.file.look()


@pytest.fixture
def polled(tmp_path: pathlib.Path) -> Polled:
    return Polled(tmp_path / "e.yaml")


def test_a_change_is_in_force_at_the_next_look(polled: Polled, caplog: pytest.LogCaptureFixture) -> None:
    before = polled.file.current()
    assert before == parse(TEXT)
    assert not polled.looked(TEXT.replace("version: 7", "version: 8"), after_s=POLL_S - 0.1)
    assert polled.file.current() is before
    with caplog.at_level(logging.WARNING):
        assert polled.looked(after_s=0.2)
    assert polled.file.current().version == 8
    assert polled.changes == [(7, 8)]
    assert [record.getMessage() for record in caplog.records] == ["experiments version 8 in force (was 7)"]


def test_the_poll_is_short_enough_for_a_change_to_be_in_force_within_five_seconds() -> None:
    assert POLL_S + 1.0 <= 5.0  # the task looks once a second


def test_a_file_that_stays_as_it_is_stays_the_same_object(polled: Polled) -> None:
    before = polled.file.current()
    assert not polled.looked()
    assert not polled.looked(TEXT + "# a comment\n")
    assert polled.file.current() is before
    assert polled.changes == []


@pytest.mark.parametrize("broken", ["version: 8", "{", "", TEXT.replace("[0, 0.5]", "[0, 0.6]")])
def test_a_broken_file_is_refused_loudly_and_the_last_good_one_stays(
    polled: Polled, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    before = polled.file.current()
    with caplog.at_level(logging.ERROR):
        assert not polled.looked(broken)
    assert polled.file.current() is before
    assert polled.refused == 1
    assert len(caplog.records) == 1
    assert "experiments refused, version 7 stays in force: " in caplog.text
    assert str(polled.path) in caplog.text
    assert not polled.looked()  # the same text again is no news
    assert polled.refused == 1
    assert polled.looked(TEXT.replace("version: 7", "version: 9"))
    assert polled.file.current().version == 9


def test_an_experiment_in_a_new_layer_is_a_change_like_any_other(polled: Polled, caplog: pytest.LogCaptureFixture) -> None:
    third = "  - {name: third, version: 1, layer: top, unit: user, ramp: 1, arms: [{name: control, weight: 1, shows: false}, "
    third += "{name: other, weight: 1, shows: true}]}\n"
    text = TEXT.replace("version: 7", "version: 8").replace("  - {name: ranking}\n", "  - {name: ranking}\n  - {name: top}\n")
    with caplog.at_level(logging.WARNING):
        assert polled.looked(text + third)
    assert polled.changes == [(7, 8)]
    assert caplog.messages == ["experiments version 8 in force (was 7)"]


def test_a_file_with_experiments_has_the_layer_that_the_server_asks_for(polled: Polled, caplog: pytest.LogCaptureFixture) -> None:
    told = f"{polled.path}: layers == featured, ranking, must have top, the layer in the server's settings"
    with pytest.raises(RulesError, match=re.escape(told)):
        ExperimentsFile(str(polled.path), layer="top")
    polled.path.write_text("version: 1\nlayers: []\nexperiments: []\n")
    now = itertools.count(0.0, POLL_S)
    file = ExperimentsFile(str(polled.path), now.__next__, layer="featured")  # nobody is in an experiment, and that is meant
    polled.path.write_text(TEXT)
    assert file.look()
    polled.path.write_text(TEXT.replace("featured", "features").replace("version: 7", "version: 8"))
    assert not file.look()
    assert (file.current().version, "layers == features, ranking, must have featured" in caplog.text) == (7, True)


def test_a_file_that_goes_and_comes_back_is_bridged(polled: Polled, caplog: pytest.LogCaptureFixture) -> None:
    polled.path.unlink()
    with caplog.at_level(logging.ERROR):
        assert not polled.looked()
    assert "must be a local file that can be read: No such file" in caplog.text
    assert (polled.refused, polled.file.current().version) == (1, 7)
    assert not polled.looked(TEXT)
    assert polled.looked(TEXT.replace("version: 7", "version: 8"))


def test_the_kill_switch_is_told(polled: Polled, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert polled.looked(TEXT.replace("version: 7", "version: 8\nkill: true"))
    assert polled.file.current().kill
    assert "experiments version 8 in force (was 7), all killed" in caplog.text


def test_a_change_under_the_same_version_is_told(polled: Polled, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert polled.looked(TEXT.replace("ramp: 0.25", "ramp: 0.5"))
    assert polled.file.current().experiments[0].ramp == 0.5
    assert "experiments changed but version == 7 did not" in caplog.text
    assert "draws its units anew" not in caplog.text


def test_another_drawing_under_the_same_version_is_told(polled: Polled, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert polled.looked(TEXT.replace("version: 7", "version: 8").replace("weight: 3.5", "weight: 1"))
    assert "experiment first draws its units anew and its version is the same" in caplog.text


def test_a_new_allocation_is_no_new_drawing_and_another_holdout_is() -> None:
    bandit = TEXT.replace("ramp: 0.25", "ramp: 0.25\n    bandit: {}")
    moved = bandit.replace("bandit: {}", "bandit: {}\n    allocation: {suv: {control: 0.2, treatment: 0.8}}")
    assert list(redrawn(parse(bandit), parse(moved))) == []
    assert list(redrawn(parse(bandit), parse(bandit.replace("bandit: {}", "bandit: {holdout: 0.2}")))) == ["first"]


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("slice: [0, 0.5]", "slice: [0, 0.4]", ["first"]),
        ("salt: again", "salt: once_more", ["second"]),
        ('salt: "2026"', "salt: other", ["first", "second"]),
        ("shows: true", "shows: false", ["first"]),
        ("policy: combined", "policy: other", ["first"]),
        ("ramp: 0.25", "ramp: 0.3", []),
        ("ramp: 0\n", "ramp: 1\n", []),
        ("running: false\n", "running: true\n", []),
        ("suv: {ramp: 0.05}", "suv: {ramp: 0.5}", []),
        ("version: 3", "version: 4", []),
        ("version: 3\n    layer: featured\n    slice: [0, 0.5]", "version: 4\n    layer: featured\n    slice: [0, 0.4]", []),
        ("name: second", "name: third", []),
        ("ramp: 0.25", "ramp: 0.25\n    bandit: {}", ["first"]),
        ("ramp: 0.25", "ramp: 0.25\n    controller: {}", []),
    ],
)
def test_what_draws_units_anew_is_known(old: str, new: str, names: list[str]) -> None:
    assert old in TEXT
    assert list(redrawn(parse(TEXT), parse(TEXT.replace(old, new)))) == names


def test_a_server_does_not_start_without_experiments_it_can_use(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "e.yaml"
    with pytest.raises(ConfigError, match="experiments == .*e.yaml, must be a local file that can be read: No such file"):
        ExperimentsFile(str(path))
    path.write_text("version: 1")
    with pytest.raises(RulesError, match="experiments.layers is missing"):
        ExperimentsFile(str(path))
    path.write_text(TEXT)
    with pytest.raises(RulesError, match="must be one of highest_score"):
        ExperimentsFile(str(path), policies={"highest_score"})
    assert load_experiments(str(path)) == parse(TEXT)
