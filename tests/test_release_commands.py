"""``forecourt rules …`` as an operator meets it: what goes through, what is refused with which words, what is printed."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import forecourt
from schemas.profile_row import Membership, ProfileRow, SegmentSpans, Span
from schemas.release import Backtest, sha256_of
from tests.test_release_folder import rules
from transforms.release_folder import record_backtest

DATES = [f"2026-05-{day:02}" for day in range(1, 10)]


class Outcome(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


class Shell:
    """``forecourt`` in this process, in a folder with rule files ``1.yaml``, ``2.yaml``, ``3.yaml`` and an archive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, line: str, *more: str) -> Outcome:
        self._monkeypatch.setattr("sys.argv", ["forecourt", "rules", *line.split(), *more])
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            forecourt.main()
        return Outcome(int(stop.value.code or 0), *self._capfd.readouterr())

    def refuses(self, line: str, *more: str) -> str:
        """The one line on stderr with which it refuses, exit status 2."""
        outcome = self(line, *more)
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome
        return outcome.err.removeprefix("forecourt: ").rstrip("\n")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for version in (1, 2, 3):
        Path(f"{version}.yaml").write_text(rules(version))
    for date in DATES:
        Path(f"archive/date={date}").mkdir(parents=True)
        Path(f"archive/date={date}/part-x.parquet").touch()
    return Shell(monkeypatch, capfd)


@pytest.fixture
def two(shell: Shell) -> Shell:
    """The same with versions 1, which is active, and 2 published."""
    assert shell("publish 1.yaml --releases r").status == 0
    assert shell("publish 2.yaml --releases r --force tests").status == 0
    return shell


def tried(version: int, dates: list[str]) -> None:
    """Record a backtest of a version's file."""
    sha256 = sha256_of(Path(f"{version}.yaml").read_bytes())
    record_backtest("r", Backtest(candidate_sha256=sha256, rules_sha256="0" * 64, dates=dates, at="2026-05-10T00:00:00.000Z"))


# --- publish -------------------------------------------------------------------------------------------------------------


def test_the_first_version_needs_no_backtest_and_is_active_at_once(shell: Shell) -> None:
    first = shell("publish 1.yaml --releases r --json", "--why", "the beginning", "--by", "ann")
    assert first.status == 0
    document = first.document
    assert document.pop("at").endswith("Z")
    assert document == {
        "who": "ann", "action": "publish", "version": 1, "percent": 0.0, "why": "the beginning", "force": None,
        "active_before": None, "active_after": 1, "candidate": None, "salt": "", "in_effect": True, "changed": True,
    }  # fmt: skip
    assert Path("r/versions/1.yaml").read_bytes() == Path("1.yaml").read_bytes()


def test_a_version_without_a_backtest_of_the_last_seven_dates_is_refused(two: Shell) -> None:
    need = "must have a backtest of the last 7 archived dates; missing: "
    assert two.refuses("publish 3.yaml --releases r --archive archive").startswith(f"3.yaml: {need}{', '.join(DATES[2:])}.")
    tried(2, DATES)
    assert f"missing: {', '.join(DATES[2:])}." in two.refuses("publish 3.yaml --releases r --archive archive"), "of another file"
    tried(3, DATES[:8])
    assert two.refuses("publish 3.yaml --releases r --archive archive").startswith(f"3.yaml: {need}2026-05-09. ")
    assert not Path("r/versions/3.yaml").exists()
    tried(3, DATES[2:])
    published = two("publish 3.yaml --releases r --archive archive --json")
    assert (published.status, published.document["version"], published.document["active_after"]) == (0, 3, 1)
    assert two("status --releases r --json").document["published"] == [1, 2, 3]


def test_a_backtest_holds_for_the_very_bytes(two: Shell) -> None:
    tried(3, DATES)
    Path("3.yaml").write_text(rules(3) + "# a comment\n")
    assert "missing: " in two.refuses("publish 3.yaml --releases r --archive archive")


def test_force_needs_a_reason_and_the_history_keeps_it(two: Shell) -> None:
    assert two.refuses("publish 3.yaml --releases r") == (
        "--archive must be given, to look for a backtest of the last 7 archived dates; --force REASON publishes without"
    )
    assert two.refuses("publish 3.yaml --releases r --force", " ") == "--force == ' ', must say why"
    assert two("publish 3.yaml --releases r --json --force", "incident [12]").document["force"] == "incident [12]"
    assert [each["force"] for each in two("history --releases r --json").document["changes"]] == [None, "tests", "incident [12]"]
    assert "forced: incident [12]" in two("history --releases r").out


def test_an_archive_that_holds_nothing_shows_nothing(two: Shell) -> None:
    Path("empty").mkdir()
    assert two.refuses("publish 3.yaml --releases r --archive empty").startswith("--archive == empty, must hold at least one date")
    assert two.refuses("publish 3.yaml --releases r --archive nowhere").startswith("archive == nowhere, must be a folder that")


def test_a_broken_file_is_refused_and_makes_no_folder(shell: Shell) -> None:
    Path("1.yaml").write_text(rules(1).replace("electric}", "steam}"))
    assert shell.refuses("publish 1.yaml --releases r").startswith("1.yaml:3:29: segments[0].when.fuel_type == 'steam', must be")
    assert shell.refuses("publish nowhere.yaml --releases r").startswith("file == nowhere.yaml, must be readable")
    assert not Path("r").exists()


# --- canary, promote, rollback -------------------------------------------------------------------------------------------


def test_from_canary_to_promotion_and_back(two: Shell) -> None:
    first = two("canary 2 --percent 0 --releases r --json").document
    assert (first["candidate"], first["percent"], first["active_after"]) == (2, 0.0, 1)
    grown = two("canary 2 --percent 12.5 --releases r --json").document
    assert (grown["percent"], grown["salt"]) == (12.5, first["salt"])
    assert len(grown["salt"]) == 16
    assert two("canary 2 --percent 100 --releases r").status == 0
    promoted = two("promote --releases r --json", "--why", "all well").document
    assert (promoted["version"], promoted["active_before"], promoted["active_after"], promoted["candidate"]) == (2, 1, 2, None)
    back = two("rollback --releases r --json").document
    assert (back["version"], back["active_before"], back["active_after"]) == (2, 2, 1)
    again = two("canary 2 --percent 5 --releases r --json").document
    assert again["salt"] != first["salt"], "another trial, other users"
    dropped = two("rollback --releases r --json").document
    assert (dropped["version"], dropped["active_before"], dropped["active_after"], dropped["candidate"]) == (2, 1, 1, None)
    actions = [(each["action"], each["who"]) for each in two("history --releases r --json").document["changes"]]
    steps = ["publish"] * 2 + ["canary"] * 3 + ["promote", "rollback", "canary", "rollback"]
    assert actions == [(step, getpass.getuser()) for step in steps]


UNUSABLE = {
    "canary 3 --percent 1": "version == 3, must be published: 1, 2 are",
    "canary 1 --percent 1": "version == 1, must be another than the active one",
    "canary 2 --percent 100.5": "--percent == 100.5, must be between 0 and 100",
    "canary 2 --percent -1": "--percent == -1, must be between 0 and 100",
    "canary 2 --percent nan": "--percent == nan, must be between 0 and 100",
    "promote": "candidate == none, must be one to promote: only version 1, the active one, is in use",
    "rollback": "version == 1, must have one before it to roll back to: the history has none",
    "compare --store sqlite:///x.db": "candidate == none, must be one to compare: forecourt rules canary VERSION --percent 0",
    "compare --store redis://x": "store == 'redis://x', must be bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH",
    "compare --store sqlite:///x.db --at noon": "--at == 'noon', must be an RFC 3339 date-time with an offset",
    "rollback --by=": "--by == '', must be a name",
}


@pytest.mark.parametrize("line", UNUSABLE)
def test_what_cannot_be_done_is_told_in_one_line_and_changes_nothing(line: str, two: Shell) -> None:
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    assert two.refuses(f"{line} --releases r").startswith(UNUSABLE[line])
    assert {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("line", ["canary 2 --percent 1", "promote", "rollback", "history", "status"])
def test_a_folder_where_nothing_was_published_is_told_and_not_made(line: str, shell: Shell) -> None:
    assert (
        shell.refuses(f"{line} --releases r") == "--releases == r, must hold a version: forecourt rules publish FILE --releases r"
    )
    assert not Path("r").exists()


@pytest.mark.parametrize(
    "line", ["canary 2 --releases r", "canary two --percent 1 --releases r", "promote", "publish --releases r"]
)
def test_arguments_that_are_missing_or_no_numbers_are_exit_status_2(line: str, shell: Shell) -> None:
    outcome = shell(line)
    assert (outcome.status, outcome.out) == (2, "")
    assert f"forecourt rules {line.split()[0]}: error: " in outcome.err


# --- what is told --------------------------------------------------------------------------------------------------------


def test_the_status_tells_what_is_in_use_and_what_a_rollback_goes_to(two: Shell) -> None:
    two("canary 2 --percent 10 --releases r")
    two("promote --releases r")
    two("publish 3.yaml --releases r --force tests")
    two("canary 3 --percent 10 --releases r")
    document = two("status --releases r --json").document
    last, salt = document.pop("last"), document.pop("salt")
    assert document == {"active": 2, "candidate": 3, "percent": 10.0, "before": 1, "published": [1, 2, 3]}
    assert (last["action"], last["version"], last["salt"]) == ("canary", 3, salt)
    lines = two("status --releases r").out.splitlines()
    assert lines[:3] == ["active     version 2, before it 1", "candidate  version 3 for 10 % of users", "published  1, 2, 3"]
    assert lines[3].startswith("last       canary of version 3 at 10 % by ")


def test_a_change_that_a_kill_kept_from_taking_effect_is_marked(two: Shell) -> None:
    pointer = Path("r/pointer.json").read_bytes()
    two("canary 2 --percent 10 --releases r")
    Path("r/pointer.json").write_bytes(pointer)  # as if killed just before it was replaced
    assert [each["in_effect"] for each in two("history --releases r --json").document["changes"]] == [True, True, False]
    assert "(without effect: killed before it was done)" in two("status --releases r").out
    two("canary 2 --percent 10 --releases r")
    assert [each["in_effect"] for each in two("history --releases r --json").document["changes"]] == [True, True, False, True]


def test_the_help_lists_every_command_and_checking_works_as_before(shell: Shell) -> None:
    listed = CliRunner().invoke(forecourt.app, ["rules", "--help"]).stdout
    for name in ("check", "publish", "canary", "promote", "rollback", "history", "status", "compare"):
        assert f"│ {name} " in listed
        assert f"usage: forecourt rules {name} " in shell(f"{name} --help").out or name == "check"
    assert shell("check 1.yaml").out == "1.yaml: version 1, 1 segments, all good\n"
    assert shell("check 1.yaml --json").document == {"version": 1, "segments": ["electric"]}


# --- compare -------------------------------------------------------------------------------------------------------------


def membership(version: int, *names: str, as_of: int = 0) -> Membership:
    return Membership(version, as_of, [SegmentSpans(name, [Span(as_of, as_of + 100, 0.5, 4, 2)]) for name in names])


def test_comparison_counts_who_would_enter_and_leave_each_segment() -> None:
    from pipelines.release_report import compared_of

    rows = [
        ProfileRow("1:a", membership(1, "suv"), None, membership(2, "suv", "van")),
        ProfileRow("1:b", membership(1, "suv"), None, membership(2)),
        ProfileRow("1:c", membership(1, "suv"), None, membership(2, "suv")),
        ProfileRow("1:canary", membership(2, "van"), None),
        ProfileRow("1:old shadow", membership(1, "suv"), None, membership(9, "van")),
        ProfileRow("1:later", membership(1, "suv", as_of=9_000_000), None, membership(2, "van", as_of=9_000_000)),
    ]
    assert compared_of(rows, 2, at=50) == {
        "rows": 6,
        "compared": 3,
        "changed": 2,
        "segments": [
            {"segment": "suv", "served": 3, "candidate": 2, "enter": 0, "leave": 1},
            {"segment": "van", "served": 0, "candidate": 1, "enter": 1, "leave": 0},
        ],
    }
    assert compared_of(rows, 2, at=100)["segments"] == [], "all spans are over"
