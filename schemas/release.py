"""Releases of the rules: the pointer that names them, whom a canary is for, what is kept of each change and each backtest.

A release folder holds immutable rule sets, and a pointer to the active one and to at most one candidate. The candidate answers
for a percentage of the users, drawn by hash; everybody else's row gets its answer beside the active one's, as a shadow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from schemas.errors import ConfigError
from schemas.hashing import POSITIONS, position_of
from schemas.rules import RuleSet

Action = Literal["publish", "canary", "promote", "rollback"]
Version = Annotated[int, msgspec.Meta(ge=1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Date = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d$")]


class Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version in force, and the one on trial for ``percent`` of the users, whom ``salt`` draws."""

    active: Version
    candidate: Version | None = None
    percent: Percent = 0.0
    salt: str = ""

    def __post_init__(self) -> None:
        """Check what the types can't."""
        if self.candidate == self.active:
            msg = f"candidate == {self.candidate}, must be another version than the active one"
            raise ValueError(msg)
        if self.candidate is not None and not self.salt:
            msg = "salt == '', must be given with a candidate"
            raise ValueError(msg)

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions in use."""
        return (self.active,) if self.candidate is None else (self.active, self.candidate)


class Release(NamedTuple):
    """The rules as a pointer has them; without a candidate there is nothing on trial."""

    active: RuleSet
    candidate: RuleSet | None = None
    percent: float = 0.0
    salt: str = ""

    def __str__(self) -> str:
        """Return its versions, as logs show them."""
        if self.candidate is None:
            return str(self.active.version)
        return f"{self.active.version} (candidate {self.candidate.version}, {self.percent:g} %)"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the history: who did what, when and why, and the pointer before and after.

    ``force``: why it was published without a backtest; ``sha256``: of the file that was published.
    """

    at: str
    who: str
    action: Action
    version: Version
    why: str | None = None
    force: str | None = None
    sha256: Sha256 | None = None
    before: Pointer | None
    after: Pointer


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate tried on archived dates; the hashes are those of the rule files' bytes."""

    candidate_sha256: Sha256
    rules_sha256: Sha256
    dates: list[Date]
    at: str
    report: Any = None


def in_canary(release: Release, pseudonym: str) -> bool:
    """Whether the candidate answers for this user. With a greater percentage it does for the same users and more.

    >>> some = Release(RuleSet(1, ()), RuleSet(2, ()), 30.0, "salt")
    >>> sum(in_canary(some, f"1:{number:064x}") for number in range(1_000))
    282
    """
    if release.candidate is None:
        return False
    return 100 * position_of(release.salt, pseudonym) < release.percent * POSITIONS  # an int with a float: compared exactly


def sha256_of(text: bytes) -> str:
    """What tells a rule file from every other: the SHA-256 of its bytes, in hex."""
    return hashlib.sha256(text).hexdigest()


def took_effect(history: Sequence[Change], pointer: Pointer | None) -> list[bool]:
    """For each change whether it came about: a writer killed between the history and the pointer leaves one that didn't.

    >>> one, two = Pointer(1), Pointer(2)
    >>> killed = Change(at="", who="ann", action="promote", version=2, before=one, after=two)
    >>> took_effect([killed, killed], two)
    [False, True]
    """
    followers = [*(change.before for change in history[1:]), pointer]
    return [change.after == follower for change, follower in zip(history, followers, strict=False)]


def encode_line(record: Pointer | Change | Backtest) -> bytes:
    """The record as one line of JSON; equal records give equal bytes."""
    return _ENCODE(record) + b"\n"


def decode_pointer(text: bytes, name: str) -> Pointer:
    """The pointer in a file; ``ConfigError`` names the file and what is wrong."""
    pointer: Pointer = _decoded(_POINTER, text, name, "a pointer")
    return pointer


def decode_history(text: bytes, name: str) -> list[Change]:
    """The changes in a file, oldest first; ``ConfigError`` names the line."""
    return [_decoded(_CHANGE, line, f"{name}:{number}", "a change") for number, line in enumerate(text.splitlines(), 1)]


def decode_backtest(text: bytes, name: str) -> Backtest:
    """The backtest in a file; ``ConfigError`` names the file and what is wrong."""
    backtest: Backtest = _decoded(_BACKTEST, text, name, "a backtest")
    return backtest


_ENCODE: Final = msgspec.json.Encoder().encode
_POINTER: Final = msgspec.json.Decoder(Pointer)
_CHANGE: Final = msgspec.json.Decoder(Change)
_BACKTEST: Final = msgspec.json.Decoder(Backtest)


def _decoded(decoder: Any, text: bytes, name: str, what: str) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        msg = f"{name}: must be the JSON of {what}: {error}"
        raise ConfigError(msg) from error
