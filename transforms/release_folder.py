"""A release folder: the rules' versions, the pointer to those in use, the history of changes, backtests.

    DIR/pointer.json        which version is active, which one on trial; replaced in one step
    DIR/versions/N.yaml     the rule sets, each under its own version, never changed
    DIR/history.jsonl       who changed what, when and why; only ever added to
    DIR/backtests/*.json    which candidates were tried on which archived dates

A change is written into the history first, then into the pointer: of a writer killed between the two a line is left that says
it had no effect (``took_effect``). Readers need no lock: versions don't change, and the pointer is whole at any time.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterator
from typing import Final, NamedTuple

from schemas.catalogue import Catalogue
from schemas.errors import ConfigError, RulesError, shown
from schemas.release import (
    Backtest,
    Change,
    Pointer,
    Release,
    decode_backtest,
    decode_history,
    decode_pointer,
    encode_line,
    sha256_of,
)
from schemas.rules import RuleSet, parse_rules
from schemas.safe_yaml import MAX_BYTES
from transforms.whole_files import READ_ONLY, alone, exists, is_local, matching, read_bytes, replace_bytes

POINTER: Final = "pointer.json"
HISTORY: Final = "history.jsonl"
VERSIONS: Final = "versions"
BACKTESTS: Final = "backtests"
LOCK: Final = "lock"
_NAME_DIGITS: Final = 24


class Texts(NamedTuple):
    """What a release is made of, as it was read; without a pointer it is the one rules file."""

    pointer: Pointer | None
    active: bytes
    candidate: bytes | None = None

    def by_version(self, release: Release) -> dict[int, bytes]:
        """The text of each version; ``release`` is the one that these texts make."""
        found = {release.active.version: self.active}
        return (
            found if self.candidate is None or release.candidate is None else {**found, release.candidate.version: self.candidate}
        )


def check_folder(folder: str) -> str:
    """The path itself; ``ConfigError`` when it can't be a release folder's."""
    if not folder or folder.startswith("file:") or set(folder) & set("*?["):
        msg = f"--releases == {shown(folder)}, must be a local folder or a path Beam knows, such as gs://BUCKET/FOLDER"
        raise ConfigError(msg)
    is_local(folder)
    return folder


def is_release_folder(path: str) -> bool:
    """Whether a path is a release folder, not a rules file: whether it has a pointer."""
    return exists(posixpath.join(path, POINTER))


def read_pointer(folder: str) -> Pointer:
    """The pointer; ``ConfigError`` when there is none that can be used."""
    path = posixpath.join(folder, POINTER)
    return decode_pointer(read_bytes(path, MAX_BYTES), path)


def pointer_in(folder: str) -> Pointer | None:
    """The pointer, ``None`` where nothing was published yet."""
    return read_pointer(folder) if is_release_folder(folder) else None


def version_path(folder: str, version: int) -> str:
    """Where a version's rule set is."""
    path = posixpath.join(folder, VERSIONS, f"{version}.yaml")
    return path


def text_of(folder: str, version: int) -> bytes | None:
    """A version's text, ``None`` where there is no such version."""
    path = version_path(folder, version)
    return read_bytes(path, MAX_BYTES + 1) if exists(path) else None


def read_history(folder: str) -> list[Change]:
    """The changes, oldest first."""
    path = posixpath.join(folder, HISTORY)
    return decode_history(read_bytes(path), path) if exists(path) else []


def read_texts(folder: str) -> Texts:
    """The pointer and the texts of its versions, as they are now."""
    pointer = read_pointer(folder)
    return Texts(pointer, *[read_bytes(version_path(folder, version), MAX_BYTES + 1) for version in pointer.versions])


def release_of(texts: Texts, path: str, catalogue: Catalogue) -> Release:
    """The release in texts read at ``path``; ``RulesError`` when it can't be used."""
    pointer = texts.pointer
    if pointer is None:
        return Release(parse_rules(texts.active, catalogue, path))
    active = parse_version(texts.active, pointer.active, path, catalogue)
    if pointer.candidate is None or texts.candidate is None:
        return Release(active)
    return Release(active, parse_version(texts.candidate, pointer.candidate, path, catalogue), pointer.percent, pointer.salt)


def parse_version(text: bytes, version: int, folder: str, catalogue: Catalogue) -> RuleSet:
    """The rule set that is a version of the folder; ``RulesError`` when it can't be used or calls itself otherwise."""
    path = version_path(folder, version)
    rule_set = parse_rules(text, catalogue, path)
    if rule_set.version != version:
        msg = f"{path}: version == {rule_set.version}, must be {version} as its name says"
        raise RulesError(msg)
    return rule_set


@contextlib.contextmanager
def changing(folder: str) -> Iterator[None]:
    """Be the only one who changes the folder; ``ConfigError`` when somebody else goes on doing so."""
    with alone(posixpath.join(folder, LOCK)):
        yield


def store_version(folder: str, version: int, text: bytes) -> None:
    """Keep a version for good, inside ``changing``; ``ConfigError`` when it is there with other bytes."""
    known = text_of(folder, version)
    if known is not None and known != text:
        msg = f"version == {version}, must be a new one: {version_path(folder, version)} is there, with other content"
        raise ConfigError(msg)
    if known is None:
        replace_bytes(version_path(folder, version), text, READ_ONLY)


def record_change(folder: str, change: Change) -> None:
    """Add a change to the history, then put it into effect; inside ``changing``."""
    path = posixpath.join(folder, HISTORY)
    replace_bytes(path, (read_bytes(path) if exists(path) else b"") + encode_line(change))
    if change.after != change.before:
        replace_bytes(posixpath.join(folder, POINTER), encode_line(change.after))


def record_backtest(folder: str, record: Backtest) -> str:
    """Keep the record of a backtest; its path. The same one twice is kept once."""
    data = encode_line(record)
    path = posixpath.join(folder, BACKTESTS, f"{sha256_of(data)[:_NAME_DIGITS]}.json")
    with changing(folder):
        replace_bytes(path, data)
    return path


def read_backtests(folder: str) -> list[Backtest]:
    """All records of backtests, oldest first."""
    paths = matching(posixpath.join(folder, BACKTESTS, "*.json"))
    return sorted((decode_backtest(read_bytes(path), path) for path in paths), key=lambda record: record.at)
