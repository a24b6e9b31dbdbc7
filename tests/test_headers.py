"""Segment headers as the search service takes them: just what was signed, for one request, once; anything else is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import http_sf
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.errors import ConfigError
from serving.headers import (
    DEFAULT_COVERED,
    LABEL,
    MAX_BYTES,
    REASONS,
    TAG,
    VALIDITY_S,
    checked_covered,
    new_nonce,
    sign,
    verify,
)
from serving.headers_fields import MAX_LIST_BYTES, META, SEGMENTS, ScoredSegment, UserSegments, fields_of
from serving.headers_keys import HeaderKeys, parse_header_keys
from serving.headers_nonces import CLOCK_STEP_MS, Claim, Nonces
from serving.reader import SegmentsRead
from serving.segments import Segment
from serving.signatures import INPUT, SIGNATURE, HeaderRefusedError, Parameters, Request, input_member, mac_of, signature_base
from tests.strategies import ROOT, START

Headers = list[tuple[str, str]]

OLD: Final = "k1:" + "11" * 32
NEW: Final = "k2:" + "22" * 32
KEYS: Final = parse_header_keys(f"{NEW},{OLD}", "keys")
REQUEST: Final = Request("GET", "/search", "q=suv&page=2", "search.internal")
READ: Final = SegmentsRead(
    (Segment("electric", 0.83, 12, 10, START), Segment("suv", 0.61, 13, 8, START)), 7, START - 12_345, 12_345, "store", None
)
SAID: Final = UserSegments((ScoredSegment("electric", 0.83), ScoredSegment("suv", 0.61)), 7, 12, "store", None)
NOBODY: Final = SegmentsRead((), None, None, None, "none", "unknown_user")


def _usual(options: dict[str, Any], **usual: Any) -> dict[str, Any]:
    return usual | options


def signed(read: SegmentsRead = READ, request: Request = REQUEST, keys: HeaderKeys = KEYS, **options: Any) -> Headers:
    return sign(read, request, keys, **_usual(options, now=START, nonce="n-1"))


def verified(
    headers: Iterable[tuple[str, str]], request: Request = REQUEST, keys: HeaderKeys = KEYS, **options: Any
) -> UserSegments:
    return verify(headers, request, keys, **_usual(options, now=START, nonces=None))


def reason_of(headers: Iterable[tuple[str, str]], request: Request = REQUEST, keys: HeaderKeys = KEYS, **options: Any) -> str:
    with pytest.raises(HeaderRefusedError) as refused:
        verified(headers, request, keys, **options)
    assert refused.value.reason in REASONS
    assert not re.search("1111|2222", str(refused.value))  # no secret
    return refused.value.reason


def with_value(headers: Headers, name: str, value: str) -> Headers:
    return [(each, value if each == name else had) for each, had in headers]


def forged(read: SegmentsRead = READ, components: tuple[str, ...] = DEFAULT_COVERED, **values: Any) -> Headers:
    """Headers signed with our key, but with other parameters; ``None`` leaves one out."""
    created = START // 1000
    usual = {"created": created, "expires": created + 60, "keyid": "k2", "nonce": "n-1", "alg": "hmac-sha256", "tag": TAG}
    parameters = Parameters(components, {key: value for key, value in (usual | values).items() if value is not None})
    fields = fields_of(read)
    mac = mac_of(signature_base(parameters, REQUEST, fields), KEYS.active.secret)
    return [*fields.items(), (INPUT, f"{LABEL}={input_member(parameters)}"), (SIGNATURE, http_sf.ser({LABEL: mac}))]


# What travels


def test_headers_read_as_the_page_shows_them() -> None:
    segments, meta, parameters, signature = signed()
    assert segments == ("x-user-segments", "electric;s=0.83, suv;s=0.61")
    assert meta == ("x-user-segments-meta", "v=7, age=12, source=store")
    at = START // 1000
    assert parameters == (
        "signature-input",
        'forecourt=("@method" "@path" "@query" "x-user-segments" "x-user-segments-meta")'
        f';created={at};expires={at + 60};keyid="k2";nonce="n-1";alg="hmac-sha256";tag="forecourt-segments"',
    )
    assert re.fullmatch(r"forecourt=:[A-Za-z0-9+/]{43}=:", signature[1])


def test_what_was_signed_is_what_is_read() -> None:
    assert verified(signed()) == SAID


def test_a_user_in_no_segment_is_said_so_with_the_reason() -> None:
    assert fields_of(NOBODY) == {SEGMENTS: "?0", META: "source=none, reason=unknown_user"}
    assert verified(signed(NOBODY)) == UserSegments((), None, None, "none", "unknown_user")
    nothing_holds = NOBODY._replace(rule_version=7, age_ms=0, source="cache", reason=None)
    assert verified(signed(nothing_holds)) == UserSegments((), 7, 0, "cache", "no_segments")


@pytest.mark.parametrize("length", [5, 63])
def test_segments_for_which_there_is_no_room_are_counted(length: int) -> None:
    many = tuple(Segment(f"s{n:0{length - 1}}", 1 - n / 1000, 1, 1, 0) for n in range(600))
    headers = signed(READ._replace(segments=many))
    said = verified(headers)
    assert said.left_out > 0
    assert len(said.segments) + said.left_out == 600
    assert [each.name for each in said.segments] == [each.name for each in many[: len(said.segments)]]
    assert MAX_LIST_BYTES - length - 12 < len(dict(headers)[SEGMENTS]) <= MAX_LIST_BYTES
    assert sum(len(name) + len(value) for name, value in headers) < MAX_BYTES


names = st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)
reads = st.builds(
    lambda scores, version, age, source, reason: SegmentsRead(
        tuple(Segment(name, score, 9, 5, START) for name, score in scores.items()), version, START, age, source, reason
    ),
    st.dictionaries(names, st.floats(0, 1), max_size=8),
    st.none() | st.integers(1, 10**9),
    st.none() | st.integers(0, 10**12),
    st.sampled_from(["store", "cache", "none"]),
    st.sampled_from(["unknown_user", "opted_out", "timeout", "no_segments"]),
)
visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)
requests = st.builds(Request, st.sampled_from(["GET", "POST", "PURGE"]), visible.map("/".__add__), visible)


@given(read=reads, request=requests, nonce=st.text("abcXYZ019-_", min_size=1, max_size=64))
def test_whatever_is_signed_is_read_again(read: SegmentsRead, request: Request, nonce: str) -> None:
    said = verified(signed(read, request, nonce=nonce), request)
    assert [each.name for each in said.segments] == [each.name for each in read.segments]
    for got, was in zip(said.segments, read.segments, strict=True):
        assert abs(got.score - was.score) <= 0.0005 + 1e-12
    assert (said.rule_version, said.source) == (read.rule_version, read.source)
    assert said.age_s == (None if read.age_ms is None else read.age_ms // 1000)
    assert said.reason == (None if read.segments else read.reason)


# Moved, changed, made up


@pytest.mark.parametrize(
    "other",
    [
        REQUEST._replace(method="POST"),
        REQUEST._replace(method="get"),
        REQUEST._replace(path="/search/"),
        REQUEST._replace(path="/Search"),
        REQUEST._replace(path="/searc%68"),
        REQUEST._replace(query="q=suv&page=3"),
        REQUEST._replace(query="page=2&q=suv"),
        REQUEST._replace(query=""),
    ],
)
def test_headers_hold_for_no_other_request(other: Request) -> None:
    assert reason_of(signed(), other) == "bad_signature"


def test_a_hop_inside_may_name_another_host_unless_that_is_covered() -> None:
    elsewhere = REQUEST._replace(authority="10.0.0.7:8080")
    assert verified(signed(), elsewhere) == SAID
    covered = (*DEFAULT_COVERED, "@authority")
    assert reason_of(signed(covered=covered), elsewhere) == "bad_signature"  # what is covered beyond need holds as well
    assert reason_of(signed(), covered=covered) == "not_covered"
    assert verified(signed(covered=covered), REQUEST._replace(authority="SEARCH.internal"), covered=covered) == SAID


def test_fields_of_another_answer_do_not_fit() -> None:
    mine, other = signed(), signed(NOBODY, nonce="n-2")
    assert verified(other).segments == ()
    for name in (SEGMENTS, META, INPUT, SIGNATURE):
        assert reason_of(with_value(mine, name, dict(other)[name])) == "bad_signature"


@pytest.mark.parametrize("name", [SEGMENTS, META, INPUT, SIGNATURE])
def test_no_character_of_a_header_can_be_changed(name: str) -> None:
    headers = signed()
    value = dict(headers)[name]
    for index in range(len(value)):
        for other in {chr(ord(value[index]) ^ 1), "x", "0", " ", ";", '"', "ÿ", "\n"} - {value[index]}:
            assert reason_of(with_value(headers, name, value[:index] + other + value[index + 1 :]))


@given(data=st.data())
def test_headers_that_are_tampered_with_are_refused_or_say_the_same(data: st.DataObject) -> None:
    headers = signed()
    name, value = data.draw(st.sampled_from(headers))
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, min(len(value), start + 4)))
    piece = data.draw(st.text(st.characters(max_codepoint=0xFF), max_size=6) | st.text(' ,;="():?01ak', max_size=6))
    changed = value[:start] + piece + value[end:]
    assume(changed.strip(" \t") != value)
    try:
        said = verified(with_value(headers, name, changed))
    except HeaderRefusedError:
        return
    assert name in (INPUT, SIGNATURE), "a covered field must be refused whatever is changed"
    assert said == SAID


sf_text = st.text('abz-_*.01;="?:()@%, \t\\/é', max_size=60) | st.text(max_size=40)


@given(values=st.lists(sf_text, min_size=4, max_size=4), label=st.booleans())
def test_made_up_headers_are_refused_and_nothing_else_is_raised(values: list[str], label: bool) -> None:
    before = f"{LABEL}=" if label else ""
    shapes = [values[0], values[1], before + values[2], before + values[3]]
    assert reason_of(zip([SEGMENTS, META, INPUT, SIGNATURE], shapes, strict=True))


@given(values=st.fixed_dictionaries({}, optional={name: sf_text for name in (SEGMENTS, META, INPUT, SIGNATURE)}))
def test_headers_partly_made_up_are_refused(values: dict[str, str]) -> None:
    assume(values)
    headers = [(name, values.get(name, value)) for name, value in signed()]
    assume([value.strip(" \t") for _, value in headers] != [value for _, value in signed()])
    assert reason_of(headers)


# Missing, doubled, too large


@pytest.mark.parametrize("name", [SEGMENTS, META, INPUT, SIGNATURE])
def test_each_header_is_needed(name: str) -> None:
    assert reason_of([each for each in signed() if each[0] != name]) == "missing"


def test_a_request_without_any_is_missing_them() -> None:
    assert reason_of([("accept", "*/*")]) == "missing"


@pytest.mark.parametrize(
    "extra",
    [
        *[(name, value) for name, value in signed()],
        *[(name.upper(), value) for name, value in signed()],
        *[(name.replace("-", "_"), value) for name, value in signed()],
        ("X_User-Segments", "electric;s=1.0"),
        ("x.user.segments", "electric;s=1.0"),
        ("X-User-Segments-Extra", "1"),
        ("x-user-segments ", "electric;s=1.0"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_second_one_in_any_spelling_is_refused(extra: tuple[str, str], first: bool) -> None:
    assert reason_of([extra, *signed()] if first else [*signed(), extra]) == "duplicate_header"


def test_names_are_read_in_any_case_but_in_one_spelling() -> None:
    assert verified([(name.title(), value) for name, value in signed()]) == SAID
    folded = [(name.replace("x-user", "x_user"), value) for name, value in signed()]
    assert reason_of(folded) == "duplicate_header"


def test_the_size_is_bounded_before_anything_is_read() -> None:
    headers = signed()
    room = MAX_BYTES - sum(len(name) + len(value) for name, value in headers)
    fits = with_value(headers, SIGNATURE, dict(headers)[SIGNATURE] + " " * room)
    assert verified(fits) == SAID
    assert reason_of(with_value(headers, SIGNATURE, dict(headers)[SIGNATURE] + " " * (room + 1))) == "oversized"
    assert reason_of([(SEGMENTS, "(" * 10**6)]) == "oversized"
    assert reason_of([("x-user-segments-" + "a" * MAX_BYTES, "")]) == "oversized"


# Signed wrongly


def test_another_secret_under_the_same_id_is_refused() -> None:
    assert reason_of(signed(keys=parse_header_keys("k2:" + "33" * 32, "keys"))) == "bad_signature"


def test_an_unknown_key_is_refused() -> None:
    assert reason_of(signed(keys=parse_header_keys("k3:" + "22" * 32, "keys"))) == "unknown_key"


def test_the_id_of_another_of_our_keys_does_not_help() -> None:
    headers = signed()
    renamed = dict(headers)[INPUT].replace('keyid="k2"', 'keyid="k1"')
    assert reason_of(with_value(headers, INPUT, renamed)) == "bad_signature"


def test_keys_change_without_a_gap() -> None:
    old, both, new = (parse_header_keys(text, "keys") for text in (OLD, f"{NEW},{OLD}", NEW))
    later = parse_header_keys(f"{OLD},{NEW}", "keys")  # 1. verify the new one, still sign with the old
    assert verified(signed(keys=old), keys=later) == SAID
    assert verified(signed(keys=later), keys=old) == SAID
    assert verified(signed(keys=both), keys=later) == SAID  # 2. sign with the new one
    assert verified(signed(keys=both), keys=new) == SAID  # 3. drop the old one
    assert reason_of(signed(keys=old), keys=new) == "unknown_key"


def test_made_by_hand_as_we_make_them_headers_hold() -> None:
    assert forged() == signed()
    assert verified(forged(created=START // 1000 - 30, expires=START // 1000 + 1)) == SAID


@pytest.mark.parametrize(
    "values",
    [
        {"alg": "hmac-sha512"},
        {"alg": "ed25519"},
        {"alg": "none"},
        {"alg": ""},
        {"alg": None},
        {"alg": http_sf.Token("hmac-sha256")},
        {"tag": "else"},
        {"tag": None},
        {"nonce": ""},
        {"nonce": "n" * 65},
        {"nonce": None},
        {"nonce": 1},
        {"keyid": None},
        {"keyid": b"k2"},
        {"created": None},
        {"created": float(START // 1000)},
        {"created": True},
        {"expires": None},
        {"expires": START // 1000 + 61},
        {"expires": START // 1000},
        {"else": 1},
    ],
)
def test_a_signature_with_our_key_that_is_not_of_our_form_is_refused(values: dict[str, Any]) -> None:
    assert reason_of(forged(**values)) == "malformed"


@pytest.mark.parametrize("left_out", DEFAULT_COVERED)
def test_a_signature_that_covers_less_is_refused(left_out: str) -> None:
    components = tuple(name for name in DEFAULT_COVERED if name != left_out)
    assert reason_of(forged(components=components)) == "not_covered"
    headers = signed()
    assert reason_of(with_value(headers, INPUT, dict(headers)[INPUT].replace(f'"{left_out}"', ""))) == "not_covered"


def test_components_in_another_order_are_another_signature() -> None:
    headers = signed()
    swapped = dict(headers)[INPUT].replace('"@method" "@path"', '"@path" "@method"')
    assert reason_of(with_value(headers, INPUT, swapped)) == "bad_signature"
    assert verified(forged(components=DEFAULT_COVERED[::-1])) == SAID


@pytest.mark.parametrize("name", ["@target-uri", "@status", "x-absent", "signature-params"])
def test_a_component_that_is_not_in_the_request_is_refused(name: str) -> None:
    headers = signed()
    more = dict(headers)[INPUT].replace('("@method"', f'("{name}" "@method"')
    assert reason_of(with_value(headers, INPUT, more)) == "malformed"


def test_a_field_of_the_request_can_be_covered_too() -> None:
    covered = (*DEFAULT_COVERED, "content-digest")
    headers = signed(covered=covered, fields={"content-digest": "sha-256=:AA==:"})
    assert verified([("Content-Digest", "sha-256=:AA==:"), *headers], covered=covered) == SAID
    assert reason_of([("content-digest", "sha-256=:AB==:"), *headers], covered=covered) == "bad_signature"
    assert reason_of(headers, covered=covered) == "malformed"
    assert reason_of([("content-digest", "sha-256=:AA==:")] * 2 + headers, covered=covered) == "malformed"


@pytest.mark.parametrize(
    "covered",
    [
        (),
        DEFAULT_COVERED[:-1],
        (SEGMENTS, META),
        ("@method", META),
        (*DEFAULT_COVERED, "@method"),
        (*DEFAULT_COVERED, "@status"),
        (*DEFAULT_COVERED, "Accept"),
        (*DEFAULT_COVERED, SIGNATURE),
    ],
)
def test_what_is_covered_must_bind_both_fields_to_a_request(covered: tuple[str, ...]) -> None:
    with pytest.raises(
        ConfigError, match="^covered == .*must be x-user-segments, x-user-segments-meta, at least one of @authority"
    ):
        checked_covered(covered)
    with pytest.raises(ConfigError):
        signed(covered=covered)
    with pytest.raises(ConfigError):
        verified(signed(), covered=covered)


def test_signatures_of_others_beside_ours_do_not_matter() -> None:
    headers = signed()
    others = {INPUT: 'cdn=("@method");created=1;keyid="k2"', SIGNATURE: "cdn=:AAAA:"}
    for template in ("{other}, {ours}", "{ours},{other}"):
        beside = [(n, template.format(ours=v, other=others[n]) if n in others else v) for n, v in headers]
        assert verified(beside) == SAID


def test_our_label_twice_or_under_another_name_is_refused() -> None:
    headers = signed()
    for name in (INPUT, SIGNATURE):
        value = dict(headers)[name]
        assert reason_of(with_value(headers, name, f"{value}, {value}")) == "malformed"
        assert reason_of(with_value(headers, name, value.replace("forecourt=", "other="))) == "missing"
        assert reason_of(with_value(headers, name, "forecourt")) == "malformed"


def test_another_spelling_of_the_same_bytes_is_refused() -> None:
    headers = signed()
    value = dict(headers)[SIGNATURE]
    for other in (value.replace("=:", ":", 2).replace("forecourt:", "forecourt=:"), value + ";a"):
        assert other != value
        assert reason_of(with_value(headers, SIGNATURE, other)) == "malformed"
    # 43 characters hold 258 bits, so the last has three siblings that decode to the same 256
    last = value[-3]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    sibling = alphabet[alphabet.index(last) ^ 1]
    assert reason_of(with_value(headers, SIGNATURE, f"{value[:-3]}{sibling}=:")) == "malformed"


# Time and use


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (-5_001, "from_the_future"),
        (-5_000, None),
        (0, None),
        (VALIDITY_S * 1000 - 1, None),
        (VALIDITY_S * 1000, "expired"),
        (10**9, "expired"),
    ],
)
def test_headers_hold_for_a_minute_and_clocks_may_differ_by_five_seconds(after: int, reason: str | None) -> None:
    if reason is None:
        assert verified(signed(), now=START + after) == SAID
    else:
        assert reason_of(signed(), now=START + after) == reason


def test_headers_are_used_once() -> None:
    nonces = Nonces()
    assert verified(signed(), nonces=nonces) == SAID
    assert reason_of(signed(), nonces=nonces) == "replayed"
    assert reason_of(signed(), nonces=nonces, now=START + 59_999) == "replayed"
    assert reason_of(signed(), nonces=nonces, now=START + 60_000) == "expired"
    assert reason_of(signed(request=REQUEST._replace(path="/other")), REQUEST._replace(path="/other"), nonces=nonces) == "replayed"
    assert verified(signed(nonce="n-2"), nonces=nonces) == SAID


def test_only_what_we_signed_takes_room_in_the_memory() -> None:
    nonces = Nonces()
    assert reason_of(signed(), REQUEST._replace(path="/other"), nonces=nonces) == "bad_signature"
    assert reason_of(signed(), nonces=nonces, now=START + 60_000) == "expired"
    other: dict[str, Any] = {"else": 1}
    assert reason_of(forged(**other), nonces=nonces) == "malformed"
    assert len(nonces) == 0
    assert verified(signed(), nonces=nonces) == SAID


def test_a_full_memory_refuses_until_signatures_run_out() -> None:
    nonces = Nonces(2)
    for nonce in "ab":
        assert verified(signed(nonce=nonce), nonces=nonces) == SAID
    assert reason_of(signed(nonce="c"), nonces=nonces) == "memory_full"
    assert reason_of(signed(nonce="a"), nonces=nonces) == "replayed"
    assert len(nonces) == 2
    later = START + VALIDITY_S * 1000 + CLOCK_STEP_MS
    assert reason_of(signed(nonce="c", now=later - 1), nonces=nonces, now=later - 1) == "memory_full"
    assert verified(signed(nonce="c", now=later), nonces=nonces, now=later) == SAID
    assert len(nonces) == 1


def test_a_memory_that_fails_refuses_rather_than_lets_through() -> None:
    class Broken:
        def claim(self, nonce: str, until: int, now: int) -> Claim:
            raise OSError("the memory is away")

    assert reason_of(signed(), nonces=Broken()) == "memory_fault"


def test_nonces_are_random_and_fit() -> None:
    some = {new_nonce() for _ in range(100)}
    assert len(some) == 100
    assert verified(signed(nonce=some.pop())) == SAID


def test_the_page_lists_every_reason() -> None:
    page = (ROOT / "docs/headers.md").read_text()
    table = page.partition("| reason | when |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [f"| `{reason}` | {when} |" for reason, when in REASONS.items()]
