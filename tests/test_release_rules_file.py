"""What a running stream takes for its rules: a file or a release folder, looked at every five seconds, never a broken one."""

from __future__ import annotations

import functools
import logging
import pickle
from pathlib import Path

import pytest

from pipelines.release import run
from rules import CATALOGUE_PATH
from schemas.errors import ConfigError, RulesError
from schemas.release import Release
from tests.strategies import CATALOGUE
from tests.test_release_folder import rules
from transforms.counters import RULES_REFUSED, count, counted_here
from transforms.rules_file import POLL_S, RulesFile, load_release


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched:
    """A ``RulesFile`` with its clock."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.file = RulesFile(str(path), CATALOGUE_PATH, functools.partial(count, RULES_REFUSED), self.clock)

    def later(self, seconds: float = POLL_S) -> Release:
        """What is in force so much later."""
        self.clock.now += seconds
        return self.file.current()

    def refused(self) -> bool:
        """Whether the next look refuses something, loudly, and keeps the same release in force."""
        before, counted = self.file.current(), counted_here().get(RULES_REFUSED, 0)
        return self.later() is before and counted_here().get(RULES_REFUSED, 0) == counted + 1


def command(folder: Path, line: str) -> None:
    assert run([*line.split(), "--releases", str(folder)]) == 0


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """A folder with versions 1, which is active, and 2."""
    folder = tmp_path / "releases"
    for version in (1, 2):
        (tmp_path / f"{version}.yaml").write_text(rules(version))
        command(folder, f"publish {tmp_path}/{version}.yaml --force test")
    return folder


def versions(release: Release) -> tuple[int, int | None, float]:
    return release.active.version, release.candidate and release.candidate.version, release.percent


# --- a file --------------------------------------------------------------------------------------------------------------


def test_a_file_has_no_candidate_and_is_looked_at_every_five_seconds(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rules(1))
    watched = Watched(path)
    first = watched.file.current()
    assert versions(first) == (1, None, 0.0)
    path.write_text(rules(2))
    assert watched.later(POLL_S - 0.1) is first
    assert versions(watched.later(0.2)) == (2, None, 0.0)


def test_a_broken_file_is_refused_once_and_a_missing_one_every_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rules(1))
    watched = Watched(path)
    watched.file.current()
    path.write_text("version: 2\nsegments: no\n")
    assert watched.refused()
    assert f"rules refused, version 1 stays in force: {path}:2:1: segments == 'no'" in caplog.text
    assert not watched.refused(), "it was told already"
    path.unlink()
    assert watched.refused()
    assert watched.refused()
    path.write_text(rules(3))
    assert versions(watched.later()) == (3, None, 0.0)


def test_the_same_version_with_other_content_is_taken_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(rules(1))
    watched = Watched(path)
    watched.file.current()
    path.write_text(rules(1, enter=0.7))
    with caplog.at_level(logging.WARNING):
        assert watched.later().active.rules[0].enter == 0.7
    assert "rules changed but version == 1 did not" in caplog.text
    assert "rules version 1 in force (was 1)" in caplog.text


def test_what_is_broken_at_the_start_is_an_error(tmp_path: Path, releases: Path) -> None:
    (tmp_path / "rules.yaml").write_text("version: 2\n")
    with pytest.raises(RulesError, match="segments is missing"):
        Watched(tmp_path / "rules.yaml").file.current()
    with pytest.raises(ConfigError, match="file == .*nowhere, must be readable"):
        Watched(tmp_path / "nowhere").file.current()
    (releases / "pointer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"pointer.json: must be the JSON of a pointer"):
        Watched(releases).file.current()


def test_a_folder_without_a_pointer_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^rules == {tmp_path}, must be a file, or a release folder .*: it has no pointer.json"):
        load_release(str(tmp_path), CATALOGUE)


# --- a release folder ----------------------------------------------------------------------------------------------------


def test_each_step_of_a_release_is_in_force_after_five_seconds(releases: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(releases)
    first = watched.file.current()
    assert versions(first) == (1, None, 0.0)
    with caplog.at_level(logging.WARNING):
        command(releases, "canary 2 --percent 0")
        assert watched.later(POLL_S - 0.1) is first
        assert versions(watched.later(0.2)) == (1, 2, 0.0)
        command(releases, "canary 2 --percent 30")
        canary = watched.later()
        assert versions(canary) == (1, 2, 30.0)
        assert watched.later() is canary, "nothing has changed"
        command(releases, "promote")
        assert versions(watched.later()) == (2, None, 0.0)
        command(releases, "rollback")
        assert versions(watched.later()) == (1, None, 0.0)
    assert caplog.messages == [
        "rules version 1 (candidate 2, 0 %) in force (was 1)",
        "rules version 1 (candidate 2, 30 %) in force (was 1 (candidate 2, 0 %))",
        "rules version 2 in force (was 1 (candidate 2, 30 %))",
        "rules version 1 in force (was 2)",
    ]


BREAKAGES = {
    "half a pointer": ("pointer.json", '{"active": 1, "candi', "must be the JSON of a pointer"),
    "a pointer to nothing": ("pointer.json", '{"active": 9}', "versions/9.yaml, must be readable"),
    "a pointer with a slip": ("pointer.json", '{"active": 2, "percnt": 3}', "unknown field `percnt`"),
    "no pointer": ("pointer.json", None, "pointer.json, must be readable"),
    "a version that is broken": ("versions/1.yaml", rules(1).replace("electric}", "steam}"), "fuel_type == 'steam'"),
    "a version that is gone": ("versions/1.yaml", None, "versions/1.yaml, must be readable"),
    "a version under another's name": ("versions/1.yaml", rules(2), "version == 2, must be 1 as its name says"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_breaks_while_it_runs_is_refused_and_the_last_good_release_stays(
    breakage: str, releases: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, text, message = BREAKAGES[breakage]
    path = releases / name
    command(releases, "canary 2 --percent 30")
    watched = Watched(releases)
    in_force = watched.file.current()
    good = path.read_text()
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert watched.refused()
    assert f"rules refused, version {in_force} stays in force: " in caplog.text
    assert message in caplog.text
    if path.exists():
        path.unlink()
    path.write_text(good)
    assert versions(watched.later()) == versions(in_force)
    command(releases, "promote")
    assert versions(watched.later()) == (2, None, 0.0), "it goes on as if nothing had been"


def test_a_version_that_cannot_be_read_for_a_while_is_taken_when_it_can(releases: Path) -> None:
    # pointer    1 ──────── 2 ─────────────────────
    # 2.yaml          gone ────────── there
    watched = Watched(releases)
    watched.file.current()
    (releases / "versions/2.yaml").rename(releases / "away")
    (releases / "pointer.json").write_text('{"active": 2}')
    assert watched.refused()
    (releases / "away").rename(releases / "versions/2.yaml")
    assert versions(watched.later()) == (2, None, 0.0)


def test_it_travels_to_workers_as_its_path(releases: Path) -> None:
    watched = Watched(releases)
    watched.file.current()
    assert b"electric" not in pickle.dumps(watched.file)
    assert versions(pickle.loads(pickle.dumps(watched.file)).current()) == (1, None, 0.0)
