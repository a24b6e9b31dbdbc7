"""What one connection may cost the gateway: heads, slow senders, upgrades; over real sockets, with an app that says what it got."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from pipelines import serve_protocol
from pipelines.serve_protocol import MAX_HEAD_BYTES, BoundedProtocol

pytestmark = pytest.mark.alone

BODY = b"what was asked"
H2C = b"Connection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"  # Java's HttpClient


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers with the path and the body, those under /slow after half a second."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    answer = scope["path"].encode() + b" " + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


def post(path: bytes = b"/", body: bytes = BODY, headers: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, headers, len(body), body)


def chunked(headers: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\n%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (headers, len(BODY), BODY)


def told(*parts: bytes, request_s: float = 20.0, keep_s: float = 0.3, pause_s: float = 0.0) -> tuple[bytes, list[int]]:
    """All that comes back on a connection until it is closed, and what was counted."""

    async def run() -> tuple[bytes, list[int]]:
        refused: list[int] = []
        config = uvicorn.Config(echo, log_config=None, ws="none", lifespan="off", timeout_keep_alive=keep_s)  # type: ignore[arg-type]
        made = lambda: BoundedProtocol(config, ServerState(), {}, refused=refused.append, request_s=request_s)  # noqa: E731
        async with await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause_s)
            back = b""
            while True:
                try:
                    data = await asyncio.wait_for(reader.read(1 << 16), 20)
                except (TimeoutError, ConnectionError):
                    break
                if not data:
                    back += b"<closed>"
                    break
                back += data
            writer.transport.abort()
            return back, refused

    return asyncio.run(run())


def statuses(back: bytes) -> list[int]:
    return [int(part[:3]) for part in back.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("request_", [post(headers=H2C), chunked(H2C)], ids=["length", "chunked"])
@pytest.mark.parametrize("cut", [60, 10_000])
def test_a_body_behind_an_upgrade_that_is_not_made_is_read(request_: bytes, cut: int) -> None:
    back, refused = told(request_[:cut], request_[cut:], post(b"/next"), pause_s=0.02)
    assert b"/ " + BODY in back
    assert b"/next " + BODY in back
    assert (statuses(back), refused) == ([200, 200], [])


def test_requests_with_upgrades_in_one_piece_are_all_answered() -> None:
    back, refused = told(post(headers=H2C) * 300)
    assert (back.count(b"/ " + BODY), refused) == (300, [])


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([post(headers=b"X: %b\r\n" % (b"a" * MAX_HEAD_BYTES))], 431),
        ([post(b"/" + b"a" * MAX_HEAD_BYTES)], 431),
        ([post(headers=b"X: a\r\n" * (MAX_HEAD_BYTES // 6))], 431),
        ([b"GET / HTTP/1.1\r\nX: ", *[b"a" * 65_536] * 40], 431),  # no end is in sight
        ([b"GET / HTTP/1.1\r\n", *[b"X: a\r\n" * 10_000] * 40], 431),
        ([chunked(b"")[:-2], *[b"T: a\r\n" * 10_000] * 40], 431),  # trailers
        ([chunked(b"")[:-2] + b"T: ", *[b"a" * 65_536] * 40], 431),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400),
        ([b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"], 400),
        ([b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"], 400),
    ],
    ids=["header", "path", "many", "endless", "endlessly-many", "trailers", "trailer", "tls", "connect", "length"],
)
def test_a_head_without_bounds_or_sense_is_refused_and_counted(parts: Sequence[bytes], status: int) -> None:
    back, refused = told(*parts, pause_s=0.001)
    assert refused == [status]
    if len(parts) == 1:  # else it is closed on who goes on writing, and that may be all they see
        assert statuses(back) == [status]
        assert b'{"error":{"code":"' in back
        assert back.endswith(b"<closed>")


@pytest.mark.parametrize(
    ("part", "status"), [(b"GET / HTTP/1.1\r\nX: %b" % (b"a" * 40_000), 431), (b"\x00\r\n", 400), (b"G", 408)], ids=range(3)
)
def test_what_is_refused_is_told_on_a_connection_that_was_answered_on_before(part: bytes, status: int) -> None:
    back, refused = told(post(), part, request_s=0.1, pause_s=0.05)
    assert (statuses(back), refused) == ([200, status], [status])
    assert back.endswith(b"<closed>")


def test_a_body_that_comes_in_many_pieces_is_within_bounds() -> None:
    request = post(body=b"b" * 100_000)
    back, refused = told(*[request[at : at + 10_000] for at in range(0, len(request), 10_000)], pause_s=0.001)
    assert (statuses(back), refused) == ([200], [])


def test_a_head_within_bounds_and_a_body_beyond_them_are_handed_on() -> None:
    back, refused = told(post(headers=b"X: %b\r\n" % (b"a" * 30_000), body=b"b" * 100_000) * 3)
    assert (statuses(back), refused) == ([200, 200, 200], [])


@pytest.mark.parametrize("part", [b"G", b"\r\n", post()[:20], post()[:-1], chunked(b"")[:-3], post(headers=H2C)[:-1]], ids=range(6))
def test_who_sends_no_whole_request_is_told_so_and_shut_out(part: bytes) -> None:
    back, refused = told(part, request_s=0.1)
    assert (statuses(back), refused) == ([408], [408])
    assert back.endswith(b"<closed>")


def test_a_byte_now_and_then_buys_no_time() -> None:
    request = post()
    _, refused = told(*[request[at : at + 1] for at in range(60)], request_s=0.1, pause_s=0.01)
    assert refused == [408]  # and who goes on sending sees the connection reset


def test_a_connection_that_says_nothing_is_closed() -> None:
    assert told(keep_s=0.1) == (b"<closed>", [])


def test_what_comes_together_with_a_request_has_its_own_time() -> None:
    back, refused = told(post() + post()[:20], request_s=0.1, keep_s=20.0)
    assert (statuses(back), refused) == ([200, 408], [408])


def test_an_answer_that_takes_long_is_not_the_senders_fault() -> None:
    back, refused = told(post(b"/slow"), post(b"/slow")[:-1], post(b"/slow")[-1:], request_s=0.2, pause_s=0.05)
    assert (back.count(b"/slow " + BODY), refused) == (2, [])


def test_what_makes_no_sense_behind_a_request_does_not_take_its_answer() -> None:
    back, _ = told(post(b"/slow") + b"\x00\x01\r\n\r\n", request_s=60.0, keep_s=60.0)
    assert b"/slow " + BODY in back
    assert statuses(back) == [200]
    assert back.endswith(b"<closed>")


def test_what_was_sent_before_the_end_is_answered_and_the_connection_closed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_protocol, "LAST_REQUEST_S", 0.2)

    async def run() -> bytes:
        made: list[BoundedProtocol] = []

        def protocol() -> BoundedProtocol:
            made.append(BoundedProtocol(config, ServerState(), {}, refused=lambda _: None))
            return made[-1]

        config = uvicorn.Config(echo, log_config=None, ws="none", lifespan="off")
        async with await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0) as server:
            back = b""
            idle_reader, _ = await asyncio.open_connection(*server.sockets[0].getsockname())
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(post(b"/first"))
            back += await reader.readuntil(BODY)
            slow_reader, slow_writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            slow_writer.write(post(b"/slow"))
            await asyncio.sleep(0.05)
            writer.write(post(b"/last"))  # the server's end hasn't read it yet
            for each in made:
                each.shutdown()
            assert await idle_reader.read() == b""
            assert (await slow_reader.read()).endswith(b"/slow " + BODY)
            return back + await reader.read()

    back = asyncio.run(run())
    first, _, last = back.partition(b"/first " + BODY)
    assert b"connection: close" not in first
    assert b"connection: close" in last
    assert last.endswith(b"/last " + BODY)
