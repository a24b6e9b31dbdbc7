"""Both ends of the hop: nothing of the client's gets through, no request fails for it, what is refused is marked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, StoreUnavailableError
from serving.headers import NAMES, folded, sign, verify
from serving.headers_fields import META, SEGMENTS, ScoredSegment, UserSegments
from serving.headers_keys import parse_header_keys
from serving.headers_nonces import Claim, Nonces
from serving.middleware import SegmentHeaders, segments_by
from serving.middleware_strip import MAX_OTHERS_BYTES, lines_of, request_of, stripped
from serving.middleware_verify import TELL_EVERY_MS, VerifySegments
from serving.reader import SegmentsRead
from serving.segments import Segment
from serving.signatures import INPUT, SIGNATURE, Request
from tests.strategies import START

Lines = list[tuple[bytes, bytes]]

KEYS: Final = parse_header_keys("k1:" + "11" * 32, "keys")
READ: Final = SegmentsRead((Segment("electric", 0.83, 12, 10, START),), 7, START, 12_000, "store", None)
SAID: Final = UserSegments((ScoredSegment("electric", 0.83),), 7, 12, "store", None)
PLAIN: Final[Lines] = [(b"host", b"www.example.com"), (b"accept", b"*/*"), (b"accept", b"text/html"), (b"x-user", b"kept")]
SPOOFED: Final = (
    b"x-user-segments",
    b"X-User-Segments",
    b"X-USER-SEGMENTS",
    b"x_user_segments",
    b"X_User-Segments",
    b"X-User_Segments",
    b"x.user.segments",
    b"x user segments",
    b"x-user-segments ",
    b"x-user-segments-meta",
    b"X_USER_SEGMENTS_META",
    b"x-user-segments-anything",
    b"signature_input",
    b"Signature-input ",
)


class Seen:
    """An app that keeps the scopes that reach it."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send({"type": "done"})


async def receive() -> dict[str, Any]:
    return {}


def passed(middleware: Any, seen: Seen, scope: Mapping[str, Any]) -> Any:
    """The scope as it reaches the app."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(middleware(scope, receive, send))
    assert sent == [{"type": "done"}], "the request must go on"
    return seen.scopes.pop()


def scope_of(headers: Any = PLAIN, **values: Any) -> dict[str, Any]:
    usual = {"type": "http", "method": "GET", "path": "/search", "raw_path": b"/search", "query_string": b"q=1", "headers": headers}
    return usual | values


async def electric(_: Any) -> SegmentsRead | None:
    return READ


async def reads(_: str) -> SegmentsRead:
    return READ


def gateway(segments_of: Any = electric, **options: Any) -> tuple[SegmentHeaders, Seen]:
    seen = Seen()
    fixed: dict[str, Any] = {"now": lambda: START, "nonce": lambda: "n-1"}
    return SegmentHeaders(seen, segments_of, KEYS, **(fixed | options)), seen


def ours_in(headers: Lines) -> Lines:
    return [(name, value) for name, value in headers if folded(name.decode("latin-1")).startswith(("x-user-segments", "signature"))]


def signed_lines(nonce: str = "n-1", now: int = START, request: Request | None = None) -> Lines:
    signed = sign(READ, request or Request("GET", "/search", "q=1"), KEYS, now=now, nonce=nonce)
    return [(name.encode(), value.encode()) for name, value in signed]


# The gateway


def test_the_app_gets_the_users_headers_signed_for_this_request() -> None:
    headers = passed(*gateway(), scope_of())["headers"]
    assert headers == [*PLAIN, *signed_lines()]
    assert verify(lines_of(headers), Request("GET", "/search", "q=1"), KEYS, now=START, nonces=None) == SAID


@pytest.mark.parametrize("spelling", SPOOFED)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_what_a_client_sends_under_our_names_is_taken_off_in_any_spelling(spelling: bytes, kind: str) -> None:
    spoofed = [(spelling, b"premium;s=1.0"), *PLAIN, (spelling, b"premium;s=1.0")]
    headers = passed(*gateway(), scope_of(spoofed, type=kind))["headers"]
    assert headers == (PLAIN + signed_lines() if kind == "http" else PLAIN)


def test_a_client_cannot_replay_headers_it_has_got_hold_of() -> None:
    spoofed = signed_lines("stolen")
    assert passed(*gateway(), scope_of([*spoofed, *PLAIN]))["headers"] == [*PLAIN, *signed_lines()]
    nobody = segments_by(lambda scope: None, reads)
    assert passed(*gateway(nobody), scope_of([*spoofed, *PLAIN]))["headers"] == PLAIN
    assert passed(*gateway(), scope_of([*spoofed, *PLAIN], type="websocket"))["headers"] == PLAIN


names = st.lists(st.sampled_from([*"xXuUsSeErRgGmMnNtTaA", *"-_. "]), min_size=1, max_size=22).map("".join) | st.sampled_from(
    [*[spelling.decode() for spelling in SPOOFED], *NAMES, *[name.title() for name in NAMES], "accept", "x-user"]
)


@given(headers=st.lists(st.tuples(names.map(str.encode), st.binary(max_size=30)), max_size=6))
def test_nothing_under_our_names_is_the_clients(headers: Lines) -> None:
    kept = stripped(headers)
    assert not [name for name, _ in ours_in(kept) if name not in (INPUT.encode(), SIGNATURE.encode())]
    assert [line for line in kept if not ours_in([line])] == [line for line in headers if not ours_in([line])]
    signed = passed(*gateway(), scope_of(headers))["headers"]
    assert verify(lines_of(signed), Request("GET", "/search", "q=1"), KEYS, now=START, nonces=None) == SAID


def test_signatures_of_others_stay_and_ours_joins_them_in_one_line() -> None:
    theirs: Lines = [
        (b"Signature-Input", b'cdn=("@method");created=1;keyid="c", forecourt=("@path");created=1'),
        (b"signature-input", b'edge=("@path");created=2'),
        (b"Signature", b"cdn=:AAAA:, forecourt=:AAAA:"),
    ]
    headers = dict(passed(*gateway(), scope_of(theirs))["headers"])
    ours = dict(signed_lines())
    assert (
        headers[b"signature-input"] == b'cdn=("@method");created=1;keyid="c", edge=("@path");created=2, ' + ours[b"signature-input"]
    )
    assert headers[b"signature"] == b"cdn=:AAAA:, " + ours[b"signature"]
    assert len(headers) == 4
    left = dict(passed(*gateway(), scope_of(theirs, type="websocket"))["headers"])
    assert left == {
        b"signature-input": b'cdn=("@method");created=1;keyid="c", edge=("@path");created=2',
        b"signature": b"cdn=:AAAA:",
    }


@pytest.mark.parametrize(
    "value",
    [
        b"forecourt=:AAAA:",
        b"forecourt=:AAAA:, forecourt=:AAAB:",
        b"cdn=:AAAA:, cdn=:AAAB:",
        b'keyId="a",algorithm="hs2019",signature="AAAA"',
        b"cdn=:AAAA:, \xff",
        b"cdn=:" + b"A" * MAX_OTHERS_BYTES + b":",
        b"",
    ],
)
def test_signatures_that_cannot_be_told_from_ours_are_taken_off(value: bytes) -> None:
    assert stripped([(b"signature", value), *PLAIN]) == PLAIN


def test_others_signatures_leave_room_for_ours() -> None:
    others = b"a=:" + b"A" * (MAX_OTHERS_BYTES - 4) + b":"
    assert stripped([(b"signature", others)]) == [(b"signature", others)]
    many = SegmentsRead(tuple(Segment(f"s{n:062}", 0.123, 9, 5, START) for n in range(500)), 7, START, 0, "store", None)

    async def all_of_them(_: Any) -> SegmentsRead:
        return many

    headers = passed(*gateway(all_of_them), scope_of([(b"signature", others), (b"signature-input", others)]))["headers"]
    said = verify(lines_of(headers), Request("GET", "/search", "q=1"), KEYS, now=START, nonces=None)
    assert len(said.segments) + said.left_out == 500


def test_the_next_hop_is_not_told_to_take_our_headers_off() -> None:
    sent = [
        (b"Connection", b"close, X-User-Segments,x_user_segments_meta ,Signature, keep-alive"),
        (b"connection", b"x-user-segments"),
    ]
    assert stripped(sent) == [(b"Connection", b"close, keep-alive")]
    assert stripped([(b"connection", b"keep-alive, Upgrade")]) == [(b"connection", b"keep-alive, Upgrade")]


def test_the_servers_scope_is_not_changed_and_its_headers_may_be_read_only_once() -> None:
    scope = scope_of(iter([(b"x-user-segments", b"suv;s=1.0"), *PLAIN]))
    before = dict(scope)
    assert passed(*gateway(), scope)["headers"] == [*PLAIN, *signed_lines()]
    assert scope == before


def test_scopes_without_headers_pass_as_they_are() -> None:
    scope = {"type": "lifespan", "asgi": {}}
    assert passed(*gateway(), scope) is scope


def test_the_user_is_looked_for_in_the_stripped_request() -> None:
    looked: list[Lines] = []

    def user_of(scope: Any) -> str | None:
        looked.append(scope["headers"])
        return "u1"

    async def read(user: str) -> SegmentsRead:
        assert user == "u1"
        return READ

    passed(*gateway(segments_by(user_of, read)), scope_of([(b"x-user-segments", b"suv;s=1.0"), *PLAIN]))
    assert looked == [PLAIN]


async def fails(_: Any) -> SegmentsRead | None:
    message = "user u1 can't be read"
    raise ValueError(message)


async def store_fails(_: Any) -> SegmentsRead | None:
    message = "the store is away"
    raise StoreUnavailableError(message)


async def hangs(_: Any) -> SegmentsRead | None:
    await asyncio.sleep(30)
    return READ


async def times_out(_: Any) -> SegmentsRead | None:
    raise TimeoutError


async def unsignable(_: Any) -> SegmentsRead | None:
    return READ._replace(segments=(Segment("Not A Token", 0.5, 1, 1, START),))


async def not_a_number(_: Any) -> SegmentsRead | None:
    return READ._replace(segments=(Segment("suv", float("nan"), 1, 1, START),))


@pytest.mark.parametrize(
    ("segments_of", "kind", "error"),
    [
        (fails, "read", ValueError),
        (store_fails, "read", StoreUnavailableError),
        (hangs, "timeout", TimeoutError),
        (times_out, "timeout", TimeoutError),
        (unsignable, "sign", ValueError),
        (not_a_number, "sign", ValueError),
    ],
)
def test_on_any_fault_the_request_goes_on_stripped_and_it_is_counted(segments_of: Any, kind: str, error: type) -> None:
    counted: list[Any] = []
    options = {"on_fault": lambda kind, fault: counted.append((kind, type(fault))), "deadline_s": 0.01}
    spoofed = [*signed_lines(), *PLAIN]
    assert passed(*gateway(segments_of, **options), scope_of(spoofed))["headers"] == PLAIN
    assert counted == [(kind, error)]


def test_a_fault_is_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert passed(*gateway(fails), scope_of())["headers"] == PLAIN
    assert caplog.messages == ["a request goes on without segments: read (ValueError)"]


def test_not_even_a_counter_that_fails_holds_a_request_up(caplog: pytest.LogCaptureFixture) -> None:
    def broken(kind: str, fault: Exception) -> None:
        message = "u1"
        raise RuntimeError(message)

    assert passed(*gateway(fails, on_fault=broken), scope_of())["headers"] == PLAIN
    assert caplog.messages == ["a fault could not be counted: RuntimeError"]


def test_a_client_that_goes_away_ends_its_request() -> None:
    middleware, seen = gateway(hangs, deadline_s=30)

    async def gone() -> None:
        task = asyncio.create_task(middleware(scope_of(), receive, receive))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(gone())
    assert not seen.scopes


def test_faults_of_the_app_are_the_apps() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        asyncio.run(SegmentHeaders(app, electric, KEYS)(scope_of(), receive, receive))  # type: ignore[arg-type]


def test_where_the_gateway_sends_it_on_elsewhere_that_is_what_is_signed() -> None:
    upstream = Request("POST", "/v2/find", "x=1")
    headers = passed(*gateway(target_of=lambda scope: upstream), scope_of())["headers"]
    assert verify(lines_of(headers), upstream, KEYS, now=START, nonces=None) == SAID


def test_what_is_covered_is_checked_when_the_middleware_is_made() -> None:
    with pytest.raises(ConfigError, match="^covered == "):
        gateway(covered=("@method",))
    with pytest.raises(ConfigError, match="^covered == "):
        VerifySegments(Seen(), KEYS, covered=(SEGMENTS, META))


# What of a scope is signed


@pytest.mark.parametrize(
    ("values", "request_is"),
    [
        ({}, Request("GET", "/search", "q=1", "www.example.com")),
        ({"raw_path": b"/a%2Fb%20c;v=1", "path": "/a/b c;v=1"}, Request("GET", "/a%2Fb%20c;v=1", "q=1", "www.example.com")),
        ({"raw_path": None, "path": "/a b/ä"}, Request("GET", "/a%20b/%C3%A4", "q=1", "www.example.com")),
        (
            {"raw_path": "/ä".encode(), "query_string": "q=ä\n".encode()},
            Request("GET", "/%C3%A4", "q=%C3%A4%0A", "www.example.com"),
        ),
        ({"query_string": b""}, Request("GET", "/search", "", "www.example.com")),
        ({"headers": []}, Request("GET", "/search", "q=1", None)),
        ({"headers": [(b"host", b"a"), (b"host", b"b")]}, Request("GET", "/search", "q=1", None)),
        ({"headers": [(b"Host", b"A.Example:443")], "scheme": "https"}, Request("GET", "/search", "q=1", "a.example")),
        ({"headers": [(b"host", b"a:443")], "scheme": "http"}, Request("GET", "/search", "q=1", "a:443")),
        ({"headers": [(b"host", b"a:8080")], "scheme": "https"}, Request("GET", "/search", "q=1", "a:8080")),
    ],
)
def test_a_request_is_signed_as_it_was_on_the_wire(values: dict[str, Any], request_is: Request) -> None:
    assert request_of(scope_of(**values)) == request_is


# The search service


def search(**options: Any) -> tuple[VerifySegments, Seen, list[str]]:
    seen, refused = Seen(), list[str]()
    fixed: dict[str, Any] = {"now": lambda: START, "on_refused": refused.append}
    return VerifySegments(seen, KEYS, **(fixed | options)), seen, refused


def state_of(scope: Any) -> tuple[Any, Any]:
    return scope["state"]["user_segments"], scope["state"]["user_segments_refused"]


def test_the_search_service_finds_what_was_signed_in_the_scopes_state() -> None:
    middleware, seen, refused = search()
    headers = [*PLAIN, *signed_lines()]
    scope = scope_of(headers, state={"pool": 1})
    out = passed(middleware, seen, scope)
    assert out["state"] == {"pool": 1, "user_segments": SAID, "user_segments_refused": None}
    assert out["headers"] == headers
    assert scope == scope_of(headers, state={"pool": 1})
    assert refused == []


def test_through_both_ends_what_is_read_arrives_once() -> None:
    middleware, seen, refused = search()
    inner = SegmentHeaders(middleware, electric, KEYS, now=lambda: START, nonce=lambda: "n-9")
    assert state_of(passed(inner, seen, scope_of([(b"X_User_Segments", b"premium;s=1.0")]))) == (SAID, None)
    assert state_of(passed(inner, seen, scope_of())) == (None, "replayed")
    assert refused == ["replayed"]


def edited(edit: Any) -> Lines:
    return [(name, edit(name, value)) for name, value in signed_lines()]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "missing"),
        (signed_lines()[:3], "missing"),
        ([*signed_lines(), (b"X-User-Segments", b"premium;s=1.0")], "duplicate_header"),
        ([*signed_lines(), (b"x_user_segments", b"premium;s=1.0")], "duplicate_header"),
        ([*signed_lines(), signed_lines()[3]], "duplicate_header"),
        ([*signed_lines(), (b"x-user-segments-more", b"a" * 9000)], "oversized"),
        (edited(lambda name, value: b"((" if name == b"signature-input" else value), "malformed"),
        (edited(lambda name, value: value + b"\xff"), "malformed"),
        (edited(lambda name, value: value.replace(b"electric", b"premium")), "bad_signature"),
        (edited(lambda name, value: value.replace(b'"@path" ', b"")), "not_covered"),
        (edited(lambda name, value: value.replace(b'"k1"', b'"k9"')), "unknown_key"),
        (signed_lines(now=START - 60_000), "expired"),
        (signed_lines(now=START + 7_000), "from_the_future"),
        (signed_lines(request=Request("GET", "/search", "q=2")), "bad_signature"),
    ],
)
def test_what_is_refused_is_marked_counted_and_taken_off(headers: Lines, reason: str) -> None:
    middleware, seen, refused = search()
    out = passed(middleware, seen, scope_of([*headers, *PLAIN]))
    assert state_of(out) == (None, reason)
    assert out["headers"] == PLAIN
    assert refused == [reason]


def test_a_memory_of_nonces_that_fails_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def claim(self, *_: object) -> Claim:
            raise OSError("no such folder")

    clock = [START]
    middleware, seen, refused = search(nonces=Broken(), now=lambda: clock[0])
    for ms in (0, 1, TELL_EVERY_MS - 1, TELL_EVERY_MS, 0):
        clock[0] = START + ms
        assert state_of(passed(middleware, seen, scope_of([*PLAIN, *signed_lines()]))) == (None, "memory_fault")
    assert refused == ["memory_fault"] * 5
    told = "segments are refused: nonce: OSError of the memory of those that were used: no such folder"
    assert caplog.messages == [told] * 3  # the last time the clock was set back


def test_not_even_a_count_of_refusals_that_fails_holds_a_search_up(caplog: pytest.LogCaptureFixture) -> None:
    def broken(reason: str) -> None:
        raise RuntimeError(reason)

    middleware, seen, _ = search(on_refused=broken)
    assert state_of(passed(middleware, seen, scope_of())) == (None, "missing")
    assert caplog.messages == ["a refusal could not be counted: RuntimeError"]


def test_a_header_used_before_is_refused_and_taken_off() -> None:
    middleware, seen, refused = search()
    assert state_of(passed(middleware, seen, scope_of([*signed_lines(), *PLAIN]))) == (SAID, None)
    out = passed(middleware, seen, scope_of([*signed_lines(), *PLAIN]))
    assert (state_of(out), out["headers"]) == ((None, "replayed"), PLAIN)
    assert refused == ["replayed"]


def test_a_full_memory_marks_requests_refused() -> None:
    middleware, seen, _ = search(nonces=Nonces(1))
    answers = [state_of(passed(middleware, seen, scope_of(signed_lines(nonce)))) for nonce in "ab"]
    assert answers == [(SAID, None), (None, "memory_full")]


def test_no_more_than_http_requests_carry_segments() -> None:
    middleware, seen, refused = search()
    out = passed(middleware, seen, scope_of([*signed_lines(), *PLAIN], type="websocket"))
    assert (state_of(out), out["headers"], refused) == ((None, "missing"), PLAIN, [])
    lifespan = {"type": "lifespan"}
    assert passed(middleware, seen, lifespan) is lifespan


def test_a_state_that_a_client_made_up_does_not_survive() -> None:
    middleware, seen, _ = search()
    out = passed(middleware, seen, scope_of(state={"user_segments": SAID}))
    assert state_of(out) == (None, "missing")


def test_others_signatures_reach_the_search_service_where_ours_is_refused() -> None:
    middleware, seen, _ = search()
    spoofed: Lines = [(b"signature", b"cdn=:AAAA:, forecourt=:AAAA:"), (b"signature-input", b"cdn=();created=1, forecourt=()")]
    out = passed(middleware, seen, scope_of([*spoofed, *PLAIN]))
    assert out["headers"] == [*PLAIN, (b"signature", b"cdn=:AAAA:"), (b"signature-input", b"cdn=();created=1")]
