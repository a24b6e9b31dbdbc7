"""Whom a canary is for, how the pointer moves, what a history says: pure functions against brute force."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from schemas.release import (
    Action,
    Backtest,
    Change,
    Pointer,
    Release,
    decode_history,
    decode_pointer,
    encode_line,
    in_canary,
    took_effect,
)
from schemas.rules import RuleSet
from transforms.release_train import canaried, effective, promoted, published_in, rolled_back, untried, version_before

USERS = [f"1:{hashlib.sha256(str(number).encode()).hexdigest()}" for number in range(4_000)]
PERCENTS = st.floats(0, 100)
SALTS = st.text("0123456789abcdef", min_size=1, max_size=16)


def canary(percent: float, salt: str) -> set[str]:
    release = Release(RuleSet(7, ()), RuleSet(8, ()), percent, salt)
    return {user for user in USERS if in_canary(release, user)}


# --- who is in a canary --------------------------------------------------------------------------------------------------


@given(SALTS, PERCENTS, PERCENTS)
def test_a_canary_that_grows_keeps_all_its_users(salt: str, one: float, other: float) -> None:
    less, more = sorted([one, other])
    assert canary(less, salt) <= canary(more, salt)


@given(SALTS, PERCENTS)
def test_a_canary_has_its_share_of_the_users(salt: str, percent: float) -> None:
    share, p = len(canary(percent, salt)) / len(USERS), percent / 100
    assert abs(share - p) <= 5 * math.sqrt(p * (1 - p) / len(USERS)) + 1 / len(USERS)


@given(SALTS)
def test_nobody_is_in_at_0_and_everybody_at_100(salt: str) -> None:
    assert (canary(0.0, salt), canary(100.0, salt)) == (set(), set(USERS))


def test_a_canary_is_drawn_by_the_hash_of_salt_and_pseudonym() -> None:
    drawn = {user for user in USERS if int(hashlib.sha256(f"s:{user}".encode()).hexdigest()[:16], 16) / 2**64 < 0.3}
    assert canary(30.0, "s") == drawn


def test_each_salt_draws_users_of_its_own() -> None:
    # of 30 % twice, drawn independently, 9 % are in both
    assert 0.07 < len(canary(30.0, "a") & canary(30.0, "b")) / len(USERS) < 0.11


def test_without_a_candidate_nobody_is_in() -> None:
    assert not in_canary(Release(RuleSet(7, ()), None, 100.0, "s"), USERS[0])


# --- the pointer ---------------------------------------------------------------------------------------------------------


def test_a_candidate_keeps_its_salt_while_its_percentage_changes_and_another_has_its_own() -> None:
    first = canaried(Pointer(7), 8, 0.0, "a")
    assert first == Pointer(7, 8, 0.0, "a")
    assert canaried(first, 8, 50.0, "b") == Pointer(7, 8, 50.0, "a")
    assert canaried(first, 9, 50.0, "b") == Pointer(7, 9, 50.0, "b")


@pytest.mark.parametrize("percent", [-0.1, 100.1, math.inf, math.nan])
def test_a_percentage_out_of_range_says_the_range(percent: float) -> None:
    with pytest.raises(ConfigError, match=rf"--percent == {percent:g}, must be between 0 and 100"):
        canaried(Pointer(7), 8, percent, "a")


def test_the_active_version_is_no_candidate() -> None:
    with pytest.raises(ConfigError, match="version == 7, must be another than the active one"):
        canaried(Pointer(7), 7, 10.0, "a")


def test_promotion_takes_the_candidate_and_needs_one() -> None:
    assert promoted(Pointer(7, 8, 30.0, "a")) == Pointer(8)
    with pytest.raises(ConfigError, match="candidate == none, must be one to promote"):
        promoted(Pointer(8))


BROKEN_POINTERS = {
    b"": "Input data was truncated",
    b"{": "Input data was truncated",
    b'{"active": 7, "candidate": 8, "percent": 10.0, "salt": ""}': "salt == '', must be given with a candidate",
    b'{"active": 7, "candidate": 7, "salt": "a"}': "candidate == 7, must be another version than the active one",
    b'{"active": "7"}': r"Expected `int`, got `str` - at `\$.active`",
    b'{"active": 0}': r"Expected `int` >= 1 - at `\$.active`",
    b'{"active": 7, "percent": 101}': r"Expected `float` <= 100.0 - at `\$.percent`",
    b'{"active": 7, "percnt": 10}': "Object contains unknown field `percnt`",
    b"{}": "missing required field `active`",
}


@pytest.mark.parametrize("text", BROKEN_POINTERS)
def test_a_broken_pointer_says_what_is_wrong_and_where(text: bytes) -> None:
    with pytest.raises(ConfigError, match=rf"^dir/pointer.json: must be the JSON of a pointer: .*{BROKEN_POINTERS[text]}"):
        decode_pointer(text, "dir/pointer.json")


@given(st.builds(Pointer, st.just(1), st.none() | st.integers(2, 9), PERCENTS, SALTS))
def test_a_pointer_comes_back_as_it_was_written(pointer: Pointer) -> None:
    assert decode_pointer(encode_line(pointer), "pointer.json") == pointer


# --- the history ---------------------------------------------------------------------------------------------------------


class Past(NamedTuple):
    """A pointer with the history that led to it, and by plain bookkeeping the versions that were active and not undone."""

    pointer: Pointer | None
    history: list[Change]
    line: list[int]


def change(action: Action, version: int, before: Pointer | None, after: Pointer) -> Change:
    return Change(at="2026-05-01T12:00:00.000Z", who="ann", action=action, version=version, before=before, after=after)


@st.composite
def pasts(draw: st.DrawFn) -> Past:
    """A folder's life: commands at random, some of them killed between the history and the pointer."""
    pointer: Pointer | None = None
    history: list[Change] = []
    line: list[int] = []
    for number, command in enumerate(draw(st.lists(st.sampled_from(["publish", "canary", "promote", "rollback"]), max_size=25))):
        version = draw(st.integers(1, 4))
        next_line = list(line)
        if command == "publish":
            made = change("publish", version, pointer, pointer or Pointer(version))
            next_line = line or [version]
        elif pointer is None:
            continue
        elif command == "canary" and version != pointer.active:
            made = change("canary", version, pointer, canaried(pointer, version, draw(PERCENTS), f"salt {number}"))
        elif command == "promote" and pointer.candidate is not None:
            made = change("promote", pointer.candidate, pointer, Pointer(pointer.candidate))
            next_line.append(pointer.candidate)
        elif command == "rollback" and pointer.candidate is not None:
            made = change("rollback", pointer.candidate, pointer, Pointer(pointer.active))
        elif command == "rollback" and len(line) > 1:
            made = change("rollback", pointer.active, pointer, Pointer(line[-2]))
            next_line.pop()
        else:
            continue
        history.append(made)
        if made.after == made.before or not draw(st.sampled_from([True, False, False, False])):  # else killed
            pointer, line = made.after, next_line
    return Past(pointer, history, line)


@given(pasts())
def test_the_version_before_is_the_last_that_was_active_and_not_rolled_back(past: Past) -> None:
    if past.pointer is not None:
        assert past.pointer.active == past.line[-1]
        assert version_before(past.pointer, past.history) == (past.line[-2] if len(past.line) > 1 else None)


@given(pasts())
def test_rolling_back_and_back_again_ends_at_the_first_version_of_all(past: Past) -> None:
    pointer, history = past.pointer, list(past.history)
    if pointer is None:
        return
    found = []
    while pointer.candidate is not None or version_before(pointer, history) is not None:
        after = rolled_back(pointer, history)
        if pointer.candidate is None:
            found.append(after.active)
        history.append(change("rollback", pointer.candidate or pointer.active, pointer, after))
        pointer = after
    assert found == past.line[-2::-1]
    with pytest.raises(ConfigError, match=rf"version == {pointer.active}, must have one before it to roll back to"):
        rolled_back(pointer, history)


@given(pasts())
def test_the_changes_that_took_effect_are_a_chain_that_ends_at_the_pointer(past: Past) -> None:
    done = list(effective(past.pointer, past.history))
    befores, afters = [each.before for each in done], [each.after for each in done]
    assert [*befores, past.pointer] == [None, *afters]


@given(pasts())
def test_a_history_comes_back_as_it_was_written(past: Past) -> None:
    assert decode_history(b"".join(map(encode_line, past.history)), "history.jsonl") == past.history


def test_what_was_killed_in_its_first_publication_is_not_published() -> None:
    killed = change("publish", 7, None, Pointer(7))
    assert took_effect([killed], None) == [False]
    assert published_in(None, [killed]) == []
    assert published_in(Pointer(7), [killed, killed]) == [7]


def test_after_a_pointer_written_by_hand_the_last_version_known_is_the_one_before() -> None:
    promoted_once = [change("publish", 7, None, Pointer(7)), change("promote", 8, Pointer(7), Pointer(8))]
    assert version_before(Pointer(9), promoted_once) == 7, "8 took no effect that anybody saw"
    assert version_before(Pointer(9), []) is None


def test_a_damaged_line_of_the_history_is_named() -> None:
    good = encode_line(change("publish", 7, None, Pointer(7)))
    with pytest.raises(ConfigError, match=r"^history.jsonl:2: must be the JSON of a change"):
        decode_history(good + b'{"at": 1}\n' + good, "history.jsonl")


# --- the gate ------------------------------------------------------------------------------------------------------------

OURS, OTHER = "a" * 64, "b" * 64
DATES = [f"2026-05-{day:02}" for day in range(1, 11)]


def backtest(*dates: str, candidate: str = OURS) -> Backtest:
    return Backtest(candidate_sha256=candidate, rules_sha256=OTHER, dates=list(dates), at="2026-05-11T00:00:00.000Z")


def test_the_last_seven_dates_of_the_archive_must_have_been_tried() -> None:
    assert untried([], OURS, DATES) == DATES[3:]
    assert untried([backtest(*DATES[3:])], OURS, DATES) == []
    assert untried([backtest(*DATES[:9])], OURS, reversed(DATES)) == DATES[9:]
    assert untried([backtest(*DATES[3:], candidate=OTHER)], OURS, DATES) == DATES[3:], "another file's backtest shows nothing"


def test_of_a_young_archive_all_dates_must_have_been_tried() -> None:
    assert untried([backtest(DATES[0])], OURS, DATES[:2]) == DATES[1:2]


def test_several_backtests_of_one_file_count_together() -> None:
    assert untried([backtest(*DATES[3:6]), backtest(*DATES[6:])], OURS, DATES) == []
