"""``forecourt conflicts`` and ``forecourt experiment assign``: counts against brute force, sampling without bias, what is told."""

from __future__ import annotations

import io
import json
import pathlib
import random
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments.assignment import Assignment, arm_of, assign
from experiments.conflicts import tally_of
from experiments.exposure import MAX_CONFLICTS, bounded, click_event, exposure_to, impression_event, in_conflict_sample
from pipelines import assign as assigning
from pipelines import conflicts
from pipelines.conflicts import Counted, document_of, show
from schemas.archive_rows import archive_table
from schemas.decoding import Attributes, decode_event
from schemas.errors import ConfigError, RulesError
from schemas.experiments import parse_experiments
from schemas.exposure import Clash, Click, Exposure
from schemas.instants import DAY_MS, date_of, parse_instant
from tests.strategies import CATALOGUE, ROOT
from transforms.archive_files import write_part

NOW = parse_instant("2026-05-01T12:00:00Z")
USER = f"1:{'a' * 64}"
NOWHERE = Assignment(None, None, None, None, False, None, "no_experiment")
SEGMENTS = ("suv", "electric", "premium")
ATTRIBUTES = ("body_type", "fuel_type", "price")


def exposure(
    number: int = 0,
    offered: Iterable[str] = ("suv",),
    clashes: dict[str, tuple[str, ...]] | None = None,
    filters: tuple[str, ...] = ("price",),
    rung: str = "single_segment",
    position: int = 1,
    sample: float = 1.0,
) -> Exposure:
    """``clashes`` of ``None``: the impression wasn't drawn."""
    return exposure_to(
        NOWHERE,
        [(name, 0.5) for name in offered],
        user=USER,
        session="s1",
        impression_id=f"i{number}",
        differs=False,
        position=position,
        k=2,
        rung=rung,
        segment=None,
        probability=None,
        sponsored=False,
        filters=filters,
        conflicts=None if clashes is None else tuple(Clash(*each) for each in clashes.items()),
        conflict_sample=sample,
    )


def document(exposures: Iterable[Exposure]) -> dict[str, Any]:
    return document_of(Counted(["2026-05-01"], tally_of(exposures)))


def row(of: dict[str, Any], segment: str, attribute: str | None) -> dict[str, Any]:
    (found,) = [each for each in of["conflicts"] if (each["segment"], each["attribute"]) == (segment, attribute)]
    return dict(found)


# --- the counts ----------------------------------------------------------------------------------------------------------


def test_a_segments_conflicts_are_counted_by_filter_and_in_all() -> None:
    found = document(
        [
            exposure(1, clashes={"suv": ("price", "body_type")}),
            exposure(2, clashes={"suv": ("price",)}),
            exposure(3, clashes={}),
            exposure(4, ("suv", "electric"), clashes={"electric": ("price",)}),
        ]
    )
    counts = {
        (each["segment"], each["attribute"]): (each["impressions"], each["conflicts"], each["share"]) for each in found["conflicts"]
    }
    assert counts == {
        ("suv", None): (4, 2, 0.5),
        ("suv", "price"): (4, 2, 0.5),
        ("suv", "body_type"): (4, 1, 0.25),
        ("electric", None): (1, 1, 1.0),
        ("electric", "price"): (1, 1, 1.0),
    }


def test_a_request_with_several_positions_counts_once() -> None:
    one = exposure(1, clashes={"suv": ("price",)})
    assert document([one, exposure(2, clashes={"suv": ("price",)}, position=2)]) == document([one])


def test_each_conflict_that_was_drawn_stands_for_as_many_as_the_sample_says() -> None:
    exposures = [exposure(number, clashes={"suv": ("price",)}, sample=0.1) for number in range(3)]
    exposures += [exposure(number, clashes=None, sample=0.1) for number in range(27)]
    exposures += [exposure(number, clashes={}, sample=0.5) for number in range(10)]  # the share was changed meanwhile
    found = row(document(exposures), "suv", "price")
    assert (found["impressions"], found["drawn"], found["conflicts"]) == (40, 3, 30.0)
    assert found["share"] == 0.6  # 30 of 30 + 20


def test_the_least_share_is_of_the_share_whatever_was_drawn_when() -> None:
    """A tenth was drawn of 1,000 that never clash, then half of 200 that always do: of the drawn a half clash, of all a sixth."""
    exposures = [exposure(number, clashes={}, sample=0.1) for number in range(100)]
    exposures += [exposure(number, clashes={"suv": ("price",)}, sample=0.5) for number in range(100, 200)]
    found = row(document(exposures), "suv", "price")
    size = (1_000 + 200) ** 2 / (100 * 10**2 + 100 * 2**2)  # 138 offers of one kind
    assert found["share"] == round(1 / 6, 4)
    assert found["share_low"] == pytest.approx(stats.binomtest(23, round(size)).proportion_ci(method="wilson").low, abs=2e-4)


def test_conflicts_that_had_no_room_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    many: dict[str, tuple[str, ...]] = {f"s{number:02}": ("price",) for number in range(MAX_CONFLICTS + 3)}
    found = document([bounded(exposure(1, clashes=many)), bounded(exposure(2, clashes=many, position=2))])
    assert (found["dropped"], len({each["segment"] for each in found["conflicts"]})) == (3, MAX_CONFLICTS)
    show(found, 1)
    assert "3 conflicts had no room in their impressions, and are in no count" in capsys.readouterr().out


def test_sampling_leaves_shares_as_they_are_on_average() -> None:
    rng = random.Random(5)
    whole: list[dict[str, tuple[str, ...]]] = [({"suv": ("price",)} if rng.random() < 0.3 else {}) for _ in range(20_000)]
    truth = sum(map(bool, whole))
    sampled = [
        exposure(number, clashes=clashes if in_conflict_sample(f"i{number}", 0.1) else None, sample=0.1)
        for number, clashes in enumerate(whole)
    ]
    found = row(document(sampled), "suv", "price")
    assert abs(found["share"] - truth / 20_000) < 5 * (0.3 * 0.7 / 2_000) ** 0.5
    assert abs(found["conflicts"] / truth - 1) < 0.2
    assert found["share_low"] < found["share"]


CLASHES = st.dictionaries(st.sampled_from(SEGMENTS), st.sets(st.sampled_from(ATTRIBUTES), min_size=1).map(tuple))
EXPOSURES = st.lists(
    st.builds(
        exposure,
        offered=st.sets(st.sampled_from(SEGMENTS)).map(sorted),
        clashes=CLASHES,
        filters=st.sampled_from([(), ("price",)]),
        rung=st.sampled_from(["combined", "single_segment", "sponsored", "filters", "default"]),
        position=st.integers(1, 2),
    ),
    max_size=12,
)


@given(EXPOSURES)
def test_the_counts_are_those_of_brute_force(exposures: list[Exposure]) -> None:
    first = [each for each in exposures if each.position == 1]
    found = document(exposures)
    assert found["impressions"] == found["drawn"] == len(first)
    for segment in SEGMENTS:
        offers = [each for each in first if segment in {s.name for s in each.segments} | {c.segment for c in each.conflicts or ()}]
        for attribute in (None, *ATTRIBUTES):
            clashing = [
                each
                for each in offers
                if any(c.segment == segment and (attribute is None or attribute in c.attributes) for c in each.conflicts or ())
            ]
            if clashing:
                got = row(found, segment, attribute)
                assert (got["impressions"], got["conflicts"]) == (len(offers), len(clashing))
                assert got["share"] == pytest.approx(len(clashing) / len(offers), abs=1e-4)
            else:
                assert (segment, attribute) not in {(each["segment"], each["attribute"]) for each in found["conflicts"]}
    filtered = [each for each in first if each.segments and each.filters]
    for each in found["rungs"]:
        here = [one for one in first if one.rung == each["rung"]]
        assert each["impressions"] == len(here)
        assert each["with_filters"] == sum(bool(one.segments and one.filters) for one in here)
        assert each["with_conflicts"] == sum(bool(one.conflicts) for one in here)
    overridden = [each for each in first if each.conflicts and each.rung in {"sponsored", "filters", "default"}]
    assert (found["filtered"], found["overridden"]) == (len(filtered), len(overridden))


def test_the_surest_worst_come_first() -> None:
    many = [exposure(number, ("suv",), clashes={"suv": ("price",)} if number % 10 < 6 else {}) for number in range(1_000)]
    one = exposure(5_000, ("electric",), clashes={"electric": ("price",)})
    rarely = [exposure(number, ("premium",), clashes={"premium": ("price",)} if number == 0 else {}) for number in range(100)]
    names = [each["segment"] for each in document([one, *rarely, *many])["conflicts"] if each["attribute"]]
    assert names == ["suv", "electric", "premium"]  # 600 of 1,000 say more than 1 of 1


def test_what_can_not_be_computed_is_no_number() -> None:
    assert document([exposure(1, clashes={}, filters=())])["overridden_share"] is None


# --- the command ---------------------------------------------------------------------------------------------------------


def written(archive: pathlib.Path, exposures: Iterable[Exposure], at: int = NOW, name: str = "a", *more: dict[str, Any]) -> None:
    """Write a file of an archive with the impressions, a view and a click, and what else is given."""
    bodies: list[dict[str, Any]] = [impression_event(each, user=USER, listing="l1", now=at) for each in exposures]
    bodies.append({**bodies[0], "event_id": f"v{name}", "event_type": "listing_view", "experiment": None})
    click = Click(impression_id="i0", experiment=None, version=None, arm=None, position=1)
    bodies.append(click_event(click, user=USER, session="s1", listing="l1", now=at))
    attributes = Attributes(CATALOGUE)
    events = [decode_event(json.dumps(each).encode(), attributes, None).event for each in [*bodies, *more]]
    write_part(str(archive), date_of(at), name, archive_table(events, CATALOGUE, [None] * len(events)))


@pytest.fixture
def archive(tmp_path: pathlib.Path) -> pathlib.Path:
    """Three days: 2 requests, 3 requests (2 of the files' impressions are copies), 1 request."""
    path = tmp_path / "archive"
    written(path, [exposure(1, clashes={"suv": ("price",)}, rung="filters"), exposure(2, clashes={})], NOW - DAY_MS)
    written(path, [exposure(3, clashes={"suv": ("price", "body_type")}), exposure(4, clashes={})])
    written(
        path, [exposure(3, clashes={"suv": ("price", "body_type")}), exposure(4, clashes={}), exposure(5, clashes={})], name="b"
    )
    foreign = {
        "event_id": "f",
        "event_type": "featured_impression",
        "event_time": "2026-05-02T12:00:00Z",
        "user_id": "u",
        "experiment": {"arm": "b"},
    }
    written(path, [exposure(6, clashes={})], NOW + DAY_MS, "c", foreign)
    return path


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert conflicts.run([*argv, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return dict(json.loads(out))


def test_an_archives_impressions_are_counted_once(archive: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "--archive", str(archive))
    assert found["dates"] == ["2026-04-30", "2026-05-02"]
    assert (found["impressions"], found["drawn"], found["unreadable"]) == (6, 6, 1)
    assert row(found, "suv", "price")["conflicts"] == 2
    assert row(found, "suv", None)["share"] == 0.3333
    assert found["rungs"] == [
        {"rung": "single_segment", "impressions": 5, "with_filters": 5, "with_conflicts": 1.0},
        {"rung": "filters", "impressions": 1, "with_filters": 1, "with_conflicts": 1.0},
    ]
    assert (found["filtered"], found["overridden"], found["overridden_share"]) == (6, 1.0, 0.1667)


@pytest.mark.parametrize(
    ("options", "dates", "impressions"),
    [
        (("--from", "2026-05-01"), ["2026-05-01", "2026-05-02"], 4),
        (("--to", "2026-05-01"), ["2026-04-30", "2026-05-01"], 5),
        (("--from", "2026-05-01", "--to", "2026-05-01"), ["2026-05-01", "2026-05-01"], 3),
        (("--from", "2026-06-01"), [], 0),
    ],
)
def test_dates_can_be_chosen_both_ends_included(
    archive: pathlib.Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], dates: list[str], impressions: int
) -> None:
    found = printed(capsys, "--archive", str(archive), *options)
    assert (found["dates"], found["impressions"]) == (dates, impressions)


def test_a_person_reads_a_table(archive: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert conflicts.run(["--archive", str(archive), "--top", "1"]) == 0
    text = capsys.readouterr().out
    assert "2026-04-30 to 2026-05-02: 6 requests, conflicts of 6" in text
    assert "suv" in text
    assert "and 2 more: --top, --json" in text
    assert "filters overrode the personalised answer in 16.7% of the 6 requests that had segments and filters" in text
    assert "1 impressions could not be read" in text
    assert conflicts.run(["--archive", str(archive), "--from", "2026-06-01"]) == 0
    assert "no impressions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "May"), "--from == 'May', must be a date such as 2026-05-01"),
        (("--to", "2026-13-01"), "--to == '2026-13-01', "),
        (("--from", "2026-05-02", "--to", "2026-05-01"), "--from == 2026-05-02, must be at most --to == 2026-05-01"),
        (("--top", "0"), "--top == 0, must be at least 1"),
    ],
)
def test_options_that_cannot_be_used_are_told(archive: pathlib.Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        conflicts.run(["--archive", str(archive), *options])
    assert refused.value.exit_status == 2


def test_an_archive_that_is_none_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="must be a folder that forecourt archive has written"):
        conflicts.run(["--archive", str(tmp_path / "nothing")])


@pytest.mark.parametrize("content", [b"", b"PAR1 and more", None])
def test_a_file_that_is_none_of_the_archives_is_told(archive: pathlib.Path, content: bytes | None) -> None:
    path = archive / "date=2026-05-01" / "part-z.parquet"
    path.write_bytes(content) if content is not None else pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(
        ConfigError, match="archive file == .*part-z.parquet, must be readable Parquet that forecourt archive wrote"
    ):
        conflicts.run(["--archive", str(archive)])


# --- forecourt experiment assign -----------------------------------------------------------------------------------------

EXAMPLE = str(ROOT / "rules/experiments.yaml")
FILE = parse_experiments((ROOT / "rules/experiments.yaml").read_bytes(), EXAMPLE)
ASSIGN = ("assign", "--experiments", EXAMPLE, "--layer", "featured")


def first_session(reason: str, arm: str | None = None) -> str:
    for number in range(10_000):
        found = assign(FILE, "featured", session=f"s{number}", user=None, now=0)
        if (found.reason, found.arm) == (reason, arm):
            return f"s{number}"
    raise AssertionError(reason)


@pytest.mark.parametrize("arm", ["control", "treatment"])
def test_an_assignment_is_one_document(capsys: pytest.CaptureFixture[str], arm: str) -> None:
    session = first_session("assigned", arm)
    assert assigning.run([*ASSIGN, "--session", session, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "session": session,
        "layer": "featured",
        "experiment": "featured_first",
        "version": 1,
        "arm": arm,
        "shows": arm == "treatment",
        "policy": "combined",
        "reason": "assigned",
    }


def test_a_person_reads_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for session, line in (
        (first_session("assigned", "treatment"), "featured_first version 1, arm treatment, shown"),
        (first_session("assigned", "control"), "featured_first version 1, arm control, not shown"),
        (
            first_session("not_in_ramp"),
            "featured_first version 1 (not_in_ramp: the unit is not in the experiment at its present ramp)",
        ),
        (
            first_session("not_in_layer"),
            "in no experiment (not_in_layer: the unit's place in the layer is in no experiment's slice)",
        ),
    ):
        assert assigning.run([*ASSIGN, "--session", session]) == 0
        assert capsys.readouterr().out.strip() == line


def test_a_chosen_segments_flag_counts(capsys: pytest.CaptureFixture[str]) -> None:
    session = first_session("assigned", "treatment")
    assert assigning.run([*ASSIGN, "--session", session, "--segment", "family", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "segment_off"


def test_units_are_read_from_stdin_one_document_each(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("s1\n\ns2\r\n s3"))
    assert assigning.run([*ASSIGN, "--session", "-"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["session"] for each in found] == ["s1", "s2", " s3"]
    for each in found:
        assert each["reason"] == assign(FILE, "featured", session=each["session"], user=None, now=0).reason


def test_a_user_is_assigned_where_the_layer_goes_by_users(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(pathlib.Path(EXAMPLE).read_text().replace("unit: session", "unit: user").replace("ramp: 0.05", "ramp: 1"))
    argv = ["assign", "--experiments", str(path), "--layer", "featured", "--json"]
    found = {}
    for number in range(20):
        assert assigning.run([*argv, "--user", f"u{number}"]) == 0
        document = json.loads(capsys.readouterr().out)
        found[document["arm"]] = document
        assert document["arm"] in {None, arm_of(FILE.experiments[0], f"u{number}").name}
    assert set(found) == {None, "control", "treatment"}
    assert assigning.run([*argv, "--session", "s1"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "no_unit"


def test_the_instant_can_be_chosen(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "e.yaml"
    text = pathlib.Path(EXAMPLE).read_text().replace("slice: [0, 0.8]", "slice: [0, 1]")
    path.write_text(text.replace("ramp: 0.05", "ramp: 1\n    starts: 2030-01-01T00:00:00Z"))
    for at, reason in (("2029-12-31T23:59:59Z", "not_running"), ("2030-01-01T00:00:00Z", "assigned")):
        argv = ["assign", "--experiments", str(path), "--layer", "featured", "--session", "s1", "--at", at, "--json"]
        assert assigning.run(argv) == 0
        assert json.loads(capsys.readouterr().out)["reason"] == reason


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--layer", "top", "--session", "s1"), "--layer == 'top', must be one of .*experiments.yaml's: featured"),
        (("--layer", "featured", "--session", ""), "--session == '', must be an id, or - for ids from stdin"),
        (("--layer", "featured", "--user", ""), "--user == '', must be an id, or - for ids from stdin"),
        (("--layer", "featured", "--user", "u", "--at", "today"), "--at == 'today', must be an RFC 3339 date-time"),
    ],
)
def test_what_cannot_be_assigned_by_is_told(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assigning.run(["assign", "--experiments", EXAMPLE, *argv])


def test_a_broken_file_and_a_missing_one_are_told(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "e.yaml"
    with pytest.raises(ConfigError, match="must be a local file that can be read"):
        assigning.run(["assign", "--experiments", str(path), "--layer", "l", "--session", "s"])
    path.write_text("version: 0")
    with pytest.raises(RulesError, match=r"e.yaml:1:1: experiments.layers is missing"):
        assigning.run(["assign", "--experiments", str(path), "--layer", "l", "--session", "s"])


def test_a_policy_that_the_server_would_refuse_is_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(pathlib.Path(EXAMPLE).read_text().replace("policy: combined", "policy: combinde"))
    with pytest.raises(RulesError, match=r"policy == 'combinde', must be one of combined, highest_score, weighted_random"):
        assigning.run(["assign", "--experiments", str(path), "--layer", "featured", "--session", "s"])


@pytest.mark.parametrize("argv", [("--session", "s", "--user", "u"), ()])
def test_one_kind_of_unit_is_given(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        assigning.run([*ASSIGN, *argv])
    assert refused.value.code == 2
    assert "--session" in capsys.readouterr().err


def test_looking_an_assignment_up_loads_no_beam() -> None:
    program = "import sys; from pipelines import assign; sys.exit('apache_beam' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
