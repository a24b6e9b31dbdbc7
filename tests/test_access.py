"""API keys: whose a token is, what a role may do, how often; and that no token shows in any text."""

from __future__ import annotations

import hashlib
import itertools
import re
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from serving.access import (
    DEFAULT_LIMIT,
    MAX_HEADER_CHARS,
    ROLES,
    Access,
    AccessKey,
    Caller,
    Refused,
    digest_of,
    may,
    mint,
    parse_access,
)
from serving.access_bucket import Bucket, Limit, full, take
from serving.access_file import AccessFile
from tests.strategies import START

TOKEN: Final = "fc_" + "Tok3n-" * 7
DIGEST: Final = hashlib.sha256(TOKEN.encode()).hexdigest()
WEB: Final = Caller("web", "gateway")


def access_of(**fields: Any) -> Access:
    extra = "".join(f", {key}: {value}" for key, value in fields.items())
    return Access(parse_access(f'keys: [{{name: web, role: gateway, sha256: "{DIGEST}"{extra}}}]', "access.yaml"))


# Whose a token is


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}"])
def test_a_token_in_the_file_is_its_callers(header: str) -> None:
    assert access_of().authenticate(header, START) == WEB


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "missing"),
        ("", "missing"),
        (TOKEN, "malformed"),
        ("Bearer", "malformed"),
        ("Bearer ", "malformed"),
        (f"Basic {TOKEN}", "malformed"),
        (f"Bearer{TOKEN}", "malformed"),
        (f"Bearer {TOKEN} ", "malformed"),
        (f"Bearer {TOKEN}\n", "malformed"),
        (f" Bearer {TOKEN}", "malformed"),
        (f"Bearer {TOKEN}, Bearer {TOKEN}", "malformed"),
        (f"Bearer\t{TOKEN}", "malformed"),
        (f"Bearer {TOKEN}é", "malformed"),
        (f"Bearer {TOKEN[:-1]}", "unknown_key"),
        (f"Bearer {TOKEN}x", "unknown_key"),
        (f"Bearer {TOKEN.lower()}", "unknown_key"),
        (f"Bearer {DIGEST}", "unknown_key"),
        ("Bearer " + "x" * (MAX_HEADER_CHARS - 7), "unknown_key"),
        ("Bearer " + "x" * (MAX_HEADER_CHARS - 6), "oversized"),
        ("Bearer " + "x" * 10**6, "oversized"),
    ],
)
def test_anything_else_is_refused(header: str | None, reason: str) -> None:
    assert access_of().authenticate(header, START) == Refused(reason)


@given(header=st.text(max_size=60) | st.text("Bearer fc_Tok3n-=", max_size=60).map("Bearer ".__add__))
def test_no_made_up_header_is_let_in(header: str) -> None:
    answer = access_of().authenticate(header, START)
    assert isinstance(answer, Refused) != (re.fullmatch(f"(?i:bearer) +{TOKEN}", header) is not None)


def test_each_role_may_do_its_own() -> None:
    actions = frozenset[str]().union(*ROLES.values())
    allowed = {role: {action for action in actions if may(Caller("x", role), action)} for role in ROLES}
    assert allowed == {
        "gateway": {"segments", "featured", "events"},
        "user_control": {"why", "opt_out", "forget"},
        "metrics": {"metrics"},
    }
    assert not may(WEB, "anything")


# How often


def test_over_the_rate_a_caller_is_told_how_long_to_wait() -> None:
    access = access_of(rate_per_s=0.5, burst=2)
    answers = [access.authenticate(f"Bearer {TOKEN}", START + after) for after in (0, 0, 0, 1_000, 1_999, 2_000, 2_001, 1_000_000)]
    assert answers == [WEB, WEB, Refused("rate_limited", 2), Refused("rate_limited", 1), Refused("rate_limited", 1)] + [
        WEB,
        Refused("rate_limited", 2),
        WEB,
    ]


def test_each_key_has_a_bucket_of_its_own_and_bad_tokens_take_from_none() -> None:
    other = TOKEN + "2"
    limit = Limit(1, 1)
    keys = (AccessKey(WEB, digest_of(TOKEN), limit), AccessKey(Caller("ops", "metrics"), digest_of(other), limit))
    access = Access(keys)
    for _ in range(5):
        assert access.authenticate(f"Bearer {TOKEN}3", START) == Refused("unknown_key")
    assert access.authenticate(f"Bearer {TOKEN}", START) == WEB
    assert access.authenticate(f"Bearer {other}", START) == Caller("ops", "metrics")
    assert access.authenticate(f"Bearer {TOKEN}", START) == Refused("rate_limited", 1)


def test_a_new_file_does_not_fill_buckets_up() -> None:
    access = access_of(rate_per_s=1, burst=1)
    keys = parse_access(f'keys: [{{name: web, role: metrics, sha256: "{DIGEST}", rate_per_s: 1, burst: 1}}]', "access.yaml")
    assert access.authenticate(f"Bearer {TOKEN}", START) == WEB
    renewed = access.renewed(keys)
    assert renewed.authenticate(f"Bearer {TOKEN}", START) == Refused("rate_limited", 1)
    assert renewed.authenticate(f"Bearer {TOKEN}", START + 1_000) == Caller("web", "metrics")
    gone = mint("next", "gateway")
    assert access.renewed(parse_access(f"keys:\n{gone.line}", "a")).authenticate(f"Bearer {TOKEN}", START) == Refused("unknown_key")


#          2 tokens, 1 a second
# 0 s      | x x .   2 let in, the third waits 1 s
# 0.5 s    | .       half a token
# 1 s      | x .     one has come
# 9 s      | x x .   no more than 2 gather
def test_a_bucket_fills_to_its_burst_and_no_further() -> None:
    limit = Limit(1, 2)
    bucket, allowed = full(limit, START), []
    for after in (0, 0, 0, 500, 1_000, 1_000, 9_000, 9_000, 9_000):
        taken = take(bucket, limit, START + after)
        bucket = taken.bucket
        allowed.append(taken.allowed)
    assert allowed == [True, True, False, False, True, False, True, True, False]


def test_a_clock_that_is_set_back_neither_gives_nor_locks_out() -> None:
    limit = Limit(1, 1)
    empty = take(full(limit, START), limit, START).bucket
    back = take(empty, limit, START - 3_600_000)
    assert not back.allowed
    assert back.retry_after_s == 1
    assert take(back.bucket, limit, START - 3_599_000).allowed


def test_waits_in_small_steps_add_up_to_a_whole_token() -> None:
    limit = Limit(0.1, 1)  # ten times a tenth is less than one, to a computer
    bucket, allowed = take(full(limit, START), limit, START).bucket, []
    for second in range(1, 11):
        taken = take(bucket, limit, START + second * 1000)
        bucket = taken.bucket
        allowed.append(taken.allowed)
    assert allowed == [False] * 9 + [True]


limits = st.builds(Limit, st.floats(0.01, 1000), st.integers(1, 50))


@given(limit=limits, steps=st.lists(st.integers(0, 5_000), min_size=1, max_size=80))
def test_no_stretch_of_time_lets_more_through_than_burst_and_rate(limit: Limit, steps: list[int]) -> None:
    bucket, times = full(limit, START), []
    for now in itertools.accumulate(steps, initial=START):
        taken = take(bucket, limit, now)
        bucket = taken.bucket
        assert 0 <= bucket.tokens <= limit.burst
        if taken.allowed:
            assert taken.retry_after_s == 0
            times.append(now)
        else:
            assert take(bucket, limit, now + taken.retry_after_s * 1000).allowed, "the wait that was told must do"
            if taken.retry_after_s > 1:
                assert not take(bucket, limit, now + (taken.retry_after_s - 1) * 1000 - 1).allowed, "and must not be too long"
    for first, last in itertools.combinations_with_replacement(range(len(times)), 2):
        assert last - first + 1 <= limit.burst + (times[last] - times[first]) * limit.rate_per_s / 1000 + 1e-6


def test_a_full_bucket_is_not_touched_by_time() -> None:
    assert take(full(Limit(1, 3), START), Limit(1, 3), START + 10**9).bucket == Bucket(2.0, START + 10**9)


# The file


def test_a_file_gives_each_key_its_role_and_its_limit() -> None:
    text = f"""
keys:
  - {{name: web, role: gateway, sha256: "{"01" * 32}"}}
  - {{name: account-pages, role: user_control, sha256: "{"02" * 32}", rate_per_s: 5}}
  - {{name: prometheus, role: metrics, sha256: "{"03" * 32}", rate_per_s: 0.2, burst: 3}}
  - {{name: slow, role: metrics, sha256: "{"04" * 32}", rate_per_s: 0.2}}
  - {{name: spiky, role: metrics, sha256: "{"05" * 32}", burst: 1000}}
"""
    keys = parse_access(text, "access.yaml")
    assert [key.caller for key in keys[:3]] == [
        Caller("web", "gateway"),
        Caller("account-pages", "user_control"),
        Caller("prometheus", "metrics"),
    ]
    assert [key.limit for key in keys] == [DEFAULT_LIMIT, Limit(5, 10), Limit(0.2, 3), Limit(0.2, 1), Limit(100, 1000)]
    assert keys[1].digest == b"\x02" * 32


SHA: Final = f'sha256: "{DIGEST}"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.yaml: empty"),
        ("[]", "a.yaml:1:1: access must be a mapping with the keys keys"),
        ("other: []", "a.yaml:1:1: access must have no keys but keys"),
        ("{}", "a.yaml:1:1: keys must be a list of 1 to 1000 keys"),
        ("keys: []", "a.yaml:1:1: keys must be a list of 1 to 1000 keys"),
        ("keys: {}", "a.yaml:1:1: keys must be a list of 1 to 1000 keys"),
        ("keys: [web]", "a.yaml:1:8: keys[0] must be a mapping with the keys name, role, sha256, rate_per_s, burst"),
        ("keys: [{name: web}]", "a.yaml:1:8: keys[0].role is missing, must be given"),
        ("keys: [{name: web, role: gateway}]", "a.yaml:1:8: keys[0].sha256 is missing, must be given"),
        (f"keys: [{{role: gateway, {SHA}}}]", "a.yaml:1:8: keys[0].name is missing, must be given"),
        (
            f"keys:\n - {{name: web, role: gateway, {SHA}, token: {TOKEN}}}",
            "a.yaml:2:107: keys[0] must have no keys but name, role",
        ),
        (f"keys: [{{name: web, role: admin, {SHA}}}]", "a.yaml:1:20: keys[0].role must be one of gateway, user_control, metrics"),
        (f"keys: [{{name: web, role: [], {SHA}}}]", "a.yaml:1:20: keys[0].role must be one of gateway, user_control, metrics"),
        (f"keys: [{{name: Web, role: gateway, {SHA}}}]", "a.yaml:1:9: keys[0].name must be of lower-case letters"),
        (f"keys: [{{name: {TOKEN}, role: gateway, {SHA}}}]", "a.yaml:1:9: keys[0].name must be of lower-case letters"),
        (f"keys: [{{name: 1, role: gateway, {SHA}}}]", "a.yaml:1:9: keys[0].name must be of lower-case letters"),
        (f"keys: [{{name: web, role: gateway, sha256: {TOKEN}}}]", "a.yaml:1:35: keys[0].sha256 must be 64 lower-case hex digits"),
        (f'keys: [{{name: web, role: gateway, sha256: "{DIGEST.upper()}"}}]', "keys[0].sha256 must be 64 lower-case hex digits"),
        (f"keys: [{{name: web, role: gateway, sha256: {'1' * 64}}}]", "keys[0].sha256 must be 64 lower-case hex digits in quotes"),
        (f"keys: [{{name: a, role: metrics, {SHA}, rate_per_s: 0}}]", "keys[0].rate_per_s must be a number above 0"),
        (f"keys: [{{name: a, role: metrics, {SHA}, rate_per_s: true}}]", "keys[0].rate_per_s must be a number above 0"),
        (
            f"keys: [{{name: a, role: metrics, {SHA}, rate_per_s: 1e7}}]",
            "keys[0].rate_per_s must be a number above 0, at most 1000000",
        ),
        (f"keys: [{{name: a, role: metrics, {SHA}, burst: 0.5}}]", "keys[0].burst == 0.5, must be a whole number, at least 1"),
        (f"keys: [{{name: a, role: metrics, {SHA}, burst: 1.5}}]", "keys[0].burst == 1.5, must be a whole number, at least 1"),
        (f"keys: [{{name: a, role: metrics, {SHA}, burst: many}}]", "keys[0].burst must be a number above 0"),
        (
            f"keys:\n- {{name: a, role: metrics, {SHA}}}\n- {{name: b, role: gateway, {SHA}}}",
            "a.yaml:3:3: keys[1].sha256 stands there",
        ),
        (
            f'keys:\n- {{name: a, role: metrics, {SHA}}}\n- {{name: a, role: gateway, sha256: "{"0" * 64}"}}',
            "a.yaml:3:3: keys[1].name",
        ),
        ("keys: [{name: web, name: web}]", "must be unique"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place_and_no_token(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_access(text, "a.yaml")
    assert message in str(refused.value)
    assert "Tok3n" not in str(refused.value)


def test_the_file_is_read_from_its_path(tmp_path: Any) -> None:
    path = tmp_path / "access.yaml"
    path.write_text(f"keys:\n{mint('web', 'gateway', TOKEN).line}\n")
    assert AccessFile(str(path)).current().authenticate(f"Bearer {TOKEN}", START) == WEB
    with pytest.raises(ConfigError, match=re.escape(f"access file {tmp_path}/none: No such file")):
        AccessFile(f"{tmp_path}/none")


# New keys


@pytest.mark.parametrize("role", ROLES)
def test_a_minted_key_lets_its_caller_in(role: str) -> None:
    minted = mint("web", role)
    access = Access(parse_access(f"keys:\n{minted.line}\n", "access.yaml"))
    assert access.authenticate(f"Bearer {minted.token}", START) == Caller("web", role)


def test_minted_tokens_are_long_and_differ() -> None:
    tokens = {mint("web", "gateway").token for _ in range(50)}
    assert len(tokens) == 50
    assert all(re.fullmatch(r"fc_[A-Za-z0-9_-]{43}", token) for token in tokens)


def test_a_token_is_in_no_text_but_its_own() -> None:
    minted = mint("web", "gateway", TOKEN)
    assert minted.token == TOKEN
    access = access_of()
    texts = [repr(minted), str(minted), minted.line, repr(access), repr(access.authenticate(f"Bearer {TOKEN}", START))]
    texts += [repr(access.authenticate(f"Bearer {TOKEN}x", START)), repr(parse_access(f"keys:\n{minted.line}", "a"))]
    assert not [text for text in texts if "Tok3n" in text]
    assert f'sha256: "{DIGEST}"' in minted.line


def test_only_keys_that_the_file_would_take_are_minted() -> None:
    with pytest.raises(ConfigError, match="^role == 'admin', must be one of gateway, user_control, metrics"):
        mint("web", "admin")
    for name in ("Web", "", "web,", "a" * 64, "1"):
        with pytest.raises(ConfigError, match="^name must be of lower-case letters"):
            mint(name, "gateway")


def test_a_changed_file_is_followed_and_a_broken_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "access.yaml"
    path.write_text(text := "keys:\n" + mint("web", "gateway", TOKEN).line.replace("}", ", rate_per_s: 1, burst: 2}") + "\n")
    file = AccessFile(str(path))
    header = f"Bearer {TOKEN}"
    assert file.look() is False
    assert file.current().authenticate(header, START) == WEB
    path.write_text(text + mint("other", "metrics").line + "\n")
    assert file.look() is True
    assert file.current().authenticate(header, START) == WEB
    assert file.current().authenticate(header, START) == Refused("rate_limited", 1)  # what was asked before still counts
    for broken in ("keys: [", "keys: []"):
        path.write_text(broken)
        with pytest.raises(ConfigError, match="access.yaml"):
            file.look()
        assert file.current().authenticate(header, START + 1_000) in (WEB, Refused("rate_limited", 1))
    path.write_text("keys:\n" + mint("other", "metrics").line + "\n")
    file.look()
    assert file.current().authenticate(header, START + 9_000) == Refused("unknown_key")
