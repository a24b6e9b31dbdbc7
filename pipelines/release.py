"""The rule release train: versions published, tried on a part of the users, promoted, rolled back.

forecourt rules publish segments.yaml --releases DIR --archive ARCHIVE --why "suv needs more views"
forecourt rules canary 8 --releases DIR --percent 10
forecourt rules promote --releases DIR
forecourt rules rollback --releases DIR
forecourt rules history --releases DIR
forecourt rules status --releases DIR
forecourt rules compare --releases DIR --store URI
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from pipelines.options import instant_in
from pipelines.release_report import Answer, State, compare, document_of, history, status, told
from rules import CATALOGUE_PATH
from schemas.errors import EXIT_OK, ConfigError, shown
from schemas.instants import clock_ms, format_instant
from schemas.release import Action, Change, Pointer, sha256_of
from schemas.rules import parse_rules
from schemas.safe_yaml import MAX_BYTES
from serving.store import check_uri
from transforms.archive_files import check_archive_path, parts_of
from transforms.release_folder import (
    changing,
    check_folder,
    parse_version,
    pointer_in,
    read_backtests,
    read_history,
    record_change,
    store_version,
    text_of,
)
from transforms.release_train import BACKTEST_DATES, canaried, promoted, published_in, rolled_back, untried
from transforms.rules_file import load_catalogue
from transforms.whole_files import read_bytes

COMMANDS: Final = {
    "publish": "Keep a rule set as an immutable version; the folder's first becomes active, others wait.",
    "canary": "Put a version on trial for a percentage of the users; everybody else's row gets its answer as a shadow.",
    "promote": "Make the candidate the active version.",
    "rollback": "Drop the candidate; without one, go back to the version active before.",
    "history": "Who changed what, when and why.",
    "status": "The active version, the candidate and its percentage, what is published.",
    "compare": "How many users the candidate would put into or out of each segment, by the shadows in a store.",
}
_SALT_BYTES: Final = 8
_DATE: Final = slice(len("date="), None)


@dataclasses.dataclass(frozen=True)
class Config:
    """What one command does; ``ConfigError`` when it can't be done. Fields that a command has no use for keep their defaults."""

    command: str
    releases: str
    catalogue: str = CATALOGUE_PATH
    file: str = ""
    version: int = 0
    percent: float = 0.0
    archive: str | None = None
    force: str | None = None
    why: str | None = None
    by: str | None = None
    store: str = ""
    at: str | None = None
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_folder(self.releases)
        if self.archive is not None:
            check_archive_path(self.archive)
        if self.force is not None and not self.force.strip():
            msg = f"--force == {shown(self.force)}, must say why"
            raise ConfigError(msg)
        if self.by is not None and not self.by.strip():
            msg = f"--by == {shown(self.by)}, must be a name"
            raise ConfigError(msg)
        if self.command == "compare":
            check_uri(self.store)
            self.instant(0)

    def instant(self, now: int) -> int:
        """The instant asked for, ``now`` when none was; ms UTC."""
        return instant_in("--at", self.at, now)

    @property
    def who(self) -> str:
        """Who makes the change."""
        try:
            return self.by or getpass.getuser()
        except (KeyError, OSError) as error:
            msg = "--by must be given: this system has no name for the user"
            raise ConfigError(msg) from error


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line, whose first word is the command."""
    parser = argparse.ArgumentParser(prog="forecourt rules")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, description=text)
        if name == "publish":
            command.add_argument("file", metavar="FILE", help="segment rules (YAML)")
            command.add_argument("--archive", metavar="DIR", help="the archive of events whose last dates a backtest must cover")
            command.add_argument("--force", metavar="REASON", help="publish without a backtest; the history keeps the reason")
        if name == "canary":
            command.add_argument("version", metavar="VERSION", type=int, help="a published version, not the active one")
            command.add_argument("--percent", required=True, type=float, help="of the users; 0: only the shadow in everybody's row")
        if name == "compare":
            command.add_argument(
                "--store", required=True, metavar="URI", help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH"
            )
            command.add_argument("--at", metavar="TIME", help="the instant, RFC 3339; default: now")
        if name in CHANGES:
            command.add_argument("--why", metavar="TEXT", help="a word for the history")
            command.add_argument("--by", metavar="NAME", help="who makes the change; default: the user logged in")
            command.add_argument("--catalogue", default=CATALOGUE_PATH, help="attribute catalogue (YAML); default: the one shipped")
        command.add_argument("--releases", required=True, metavar="DIR", help="the release folder, or gs://BUCKET/FOLDER")
        command.add_argument("--json", action="store_true", dest="as_json", help="print JSON on stdout and nothing else")
    return Config(**vars(parser.parse_args(argv)))


def run(argv: Sequence[str]) -> int:
    """Run ``forecourt rules COMMAND …``; the exit status."""
    config = parse_args(argv)
    answer = _changed(config, clock_ms()) if config.command in CHANGES else _told_of(config, clock_ms())
    if config.as_json:
        print(json.dumps(answer.document))
    elif isinstance(answer.text, Table):
        Console().print(answer.text)
    else:
        print(answer.text)
    return EXIT_OK


def state_of(folder: str) -> State:
    """What is in a release folder now; ``ConfigError`` when nothing was published yet."""
    pointer = pointer_in(folder)
    if pointer is None:
        msg = f"--releases == {folder}, must hold a version: forecourt rules publish FILE --releases {folder}"
        raise ConfigError(msg)
    return State(pointer, read_history(folder))


def publication(config: Config, now: int) -> Change | None:
    """The change that publishes a file, which is stored; ``None`` when it is published already."""
    text, version = _to_publish(config)
    pointer, past = pointer_in(config.releases), read_history(config.releases)
    published = version in published_in(pointer, past)
    if not published and pointer is not None and config.force is None:
        _check_backtested(config, sha256_of(text))
    change = _change(config, now, "publish", version, pointer, pointer or Pointer(version), config.force, sha256_of(text))
    store_version(config.releases, version, text)
    return None if published else change


def trial(config: Config, now: int) -> Change:
    """The change that puts a version on trial, or changes its percentage."""
    pointer, past = state_of(config.releases)
    after = canaried(pointer, config.version, config.percent, secrets.token_hex(_SALT_BYTES))
    if config.version not in (published := published_in(pointer, past)):
        msg = f"version == {config.version}, must be published: {', '.join(map(str, published))} are"
        raise ConfigError(msg)
    return _change(config, now, "canary", config.version, pointer, after)


def promotion(config: Config, now: int) -> Change:
    """The change that makes the candidate the active version."""
    pointer, _ = state_of(config.releases)
    after = promoted(pointer)
    return _change(config, now, "promote", after.active, pointer, after)


def withdrawal(config: Config, now: int) -> Change:
    """The change that drops the candidate, or goes back to the version active before."""
    pointer, past = state_of(config.releases)
    return _change(config, now, "rollback", pointer.candidate or pointer.active, pointer, rolled_back(pointer, past))


CHANGES: Final[dict[str, Callable[[Config, int], Change | None]]] = {
    "publish": publication,
    "canary": trial,
    "promote": promotion,
    "rollback": withdrawal,
}


def _changed(config: Config, now: int) -> Answer:
    _ = _to_publish(config) if config.command == "publish" else state_of(config.releases)  # before a lock makes the folder
    with changing(config.releases):
        change = CHANGES[config.command](config, now)
        if change is None:
            _, version = _to_publish(config)
            return Answer(
                {"version": version, "changed": False}, f"{config.releases}: version {version} is published, nothing changed"
            )
        if change.after != change.before:
            _check_usable(config, change.after)
        record_change(config.releases, change)
    document = document_of(change)
    return Answer({**document, "changed": True}, f"{config.releases}: {told(document)}")


def _to_publish(config: Config) -> tuple[bytes, int]:
    text = read_bytes(config.file, MAX_BYTES + 1)
    return text, parse_rules(text, load_catalogue(config.catalogue), config.file).version


def _told_of(config: Config, now: int) -> Answer:
    state = state_of(config.releases)
    if config.command == "compare":
        return compare(state.pointer, config.store, config.instant(now))
    return history(state) if config.command == "history" else status(state)


def _change(
    config: Config,
    now: int,
    action: Action,
    version: int,
    before: Pointer | None,
    after: Pointer,
    force: str | None = None,
    sha256: str | None = None,
) -> Change:
    return Change(
        at=format_instant(now),
        who=config.who,
        action=action,
        version=version,
        why=config.why,
        force=force,
        sha256=sha256,
        before=before,
        after=after,
    )


def _check_usable(config: Config, pointer: Pointer) -> None:
    """Let no pointer name a version that a stream would refuse, or that isn't as it was published."""
    catalogue, published = (
        load_catalogue(config.catalogue),
        {each.version: each for each in read_history(config.releases) if each.sha256},
    )
    for version in pointer.versions:
        text = text_of(config.releases, version)
        if text is None:
            msg = f"version == {version}, must be in {config.releases}/versions: its file is gone"
            raise ConfigError(msg)
        parse_version(text, version, config.releases, catalogue)
        if version in published and published[version].sha256 != sha256_of(text):
            msg = f"version == {version}, must be as it was published: its file was changed"
            raise ConfigError(msg)


def _check_backtested(config: Config, sha256: str) -> None:
    need = f"a backtest of the last {BACKTEST_DATES} archived dates"
    if config.archive is None:
        msg = f"--archive must be given, to look for {need}; --force REASON publishes without"
        raise ConfigError(msg)
    archived = {path.replace("\\", "/").split("/")[-2][_DATE] for path in parts_of(config.archive)}
    if not archived:
        msg = f"--archive == {config.archive}, must hold at least one date; --force REASON publishes without a backtest"
        raise ConfigError(msg)
    if missing := untried(read_backtests(config.releases), sha256, archived):
        msg = (
            f"{config.file}: must have {need}; missing: {', '.join(missing)}. "
            "forecourt backtest makes one, --force REASON publishes without"
        )
        raise ConfigError(msg)
