"""What the load generator says of a server is what the server did: answers, statuses, times, order, lost connections."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.http_load import HOST, Framing, LoadError, LoadResult, get, load, post, write_requests

pytestmark = pytest.mark.alone

SECONDS = 0.4


class Answer(NamedTuple):
    """What the server does with a request: after a while a status and a body of known length, or it hangs up."""

    status: int = 200
    body: bytes | None = b"{}"
    after_s: float = 0.0
    hangs_up: bool = False


class Server(NamedTuple):
    """A server that a test sees through: what each connection asked, and whether one ever asked before it was answered."""

    port: int
    asked: list[list[bytes]]
    impatient: list[bytes]

    @property
    def seen(self) -> list[bytes]:
        return [request for connection in self.asked for request in connection]


def bytes_of(answer: Answer) -> bytes:
    if answer.body is None:
        return b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % answer.status
    return b"HTTP/1.1 %d X\r\nContent-Type: a/b\r\nContent-Length: %d\r\n\r\n%s" % (answer.status, len(answer.body), answer.body)


@contextlib.contextmanager
def serving(answer_of: Callable[[bytes], Answer]) -> Iterator[Server]:
    """A server in a thread of its own, that answers by the request's first line."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    server = Server(0, [], [])
    port = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked: list[bytes] = []
        server.asked.append(asked)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next((int(line[15:]) for line in head.splitlines() if line.startswith(b"Content-Length:")), 0)
                body = await reader.readexactly(size)
                asked.append(head + body)
                told = answer_of(head.splitlines()[0])
                await asyncio.sleep(told.after_s)
                if reader._buffer:  # type: ignore[attr-defined]
                    server.impatient.append(head)
                if told.hangs_up:
                    break
                writer.write(bytes_of(told))
        writer.close()

    async def listen() -> None:
        nonlocal port
        async with await asyncio.start_server(answer, HOST, 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            ready.set()
            await listening.serve_forever()

    async def hang_up() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    listening = loop.create_task(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield server._replace(port=port)
    finally:
        asyncio.run_coroutine_threadsafe(hang_up(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        assert listening.done()


def loaded(tmp_path: Path, server: Server, requests: list[bytes], connections: int = 2, **options: Any) -> LoadResult:
    return load(server.port, write_requests(tmp_path / "requests", requests), connections, SECONDS, **options)


def of_number(line: bytes) -> int:
    return int(line.split()[1].lstrip(b"/"))


NUMBERED = [get(f"/{number}") for number in range(300_000)]  # more than can be asked within a test


def test_a_request_is_what_http_wants() -> None:
    assert get("/a", ["X: 1"]) == b"GET /a HTTP/1.1\r\nHost: 127.0.0.1\r\nX: 1\r\n\r\n"
    head, _, body = post("/b", {"user": "ü"}, ["X: 1"]).partition(b"\r\n\r\n")
    assert msgspec.json.decode(body) == {"user": "ü"}
    assert head.splitlines()[0] == b"POST /b HTTP/1.1"
    assert {b"Content-Type: application/json", b"Content-Length: %d" % len(body), b"X: 1"} <= set(head.splitlines())


def test_all_answers_are_counted_and_every_request_reaches_the_server_whole(tmp_path: Path) -> None:
    with serving(lambda line: Answer()) as server:
        requests = [post("/x", {"number": number}) for number in range(50_000)]
        result = loaded(tmp_path, server, requests).required()
    assert set(server.seen) <= set(requests)
    # Those of the warm-up were sent too, but their answers count for nothing.
    assert 0 < result.requests < result.sent == len(server.seen)
    assert result.requests_per_s == pytest.approx(result.requests / SECONDS, abs=0.1)
    assert result.lost == 0
    # Answers count when they came within the seconds, times and statuses when their request was sent in them.
    assert abs(result.statuses["200"] - result.requests) <= 2


def test_requests_go_out_in_order_from_the_start_on_and_round_and_round(tmp_path: Path) -> None:
    with serving(lambda line: Answer()) as server:
        loaded(tmp_path, server, NUMBERED[:7], connections=1, start=12)
    (asked,) = server.asked
    assert asked[:16] == [NUMBERED[number % 7] for number in range(12, 28)]


def test_connections_share_the_requests_and_no_request_goes_out_twice(tmp_path: Path) -> None:
    with serving(lambda line: Answer()) as server:
        loaded(tmp_path, server, NUMBERED, connections=3)
    assert [len(asked) > 1 for asked in server.asked] == [True] * 3
    assert sorted(map(of_number, server.seen)) == list(range(len(server.seen)))


def test_no_connection_asks_before_it_is_answered(tmp_path: Path) -> None:
    with serving(lambda line: Answer(after_s=0.005)) as server:
        loaded(tmp_path, server, NUMBERED, connections=4)
    assert len(server.asked) == 4
    assert server.impatient == []


def test_times_are_those_of_the_answers(tmp_path: Path) -> None:
    # One in four takes 300 ms, the others 20: of two one is done in 20, of a hundred one isn't before 300.
    with serving(lambda line: Answer(after_s=0.3 if of_number(line) % 4 == 0 else 0.02)) as server:
        result = loaded(tmp_path, server, NUMBERED, connections=4)
    assert 20 <= result.p50_ms < 300 <= result.p99_ms <= result.worst_ms
    assert result.requests <= 4 * SECONDS / 0.02


def test_the_rare_slow_answer_is_the_worst_not_the_p99(tmp_path: Path) -> None:
    slow = iter([True])
    with serving(lambda line: Answer(after_s=0.3 if of_number(line) > 100 and next(slow, False) else 0.0)) as server:
        result = loaded(tmp_path, server, NUMBERED, connections=1, warm_up_s=0.0)
    assert result.p99_ms < 300 <= result.worst_ms


def test_an_answer_that_is_slower_than_the_run_counts_with_its_time(tmp_path: Path) -> None:
    with serving(lambda line: Answer(after_s=2 * SECONDS if of_number(line) == 9 else 0.02)) as server:
        result = loaded(tmp_path, server, NUMBERED, connections=4, warm_up_s=0.0)
    assert result.worst_ms >= 2_000 * SECONDS
    # It isn't one of the answers of these seconds, nor are those on their way at their end.
    assert result.requests < result.statuses["200"] + 4 == len(server.seen)


def test_what_was_sent_while_warming_up_has_no_time(tmp_path: Path) -> None:
    with serving(lambda line: Answer(after_s=2.0 if of_number(line) == 0 else 0.0)) as server:
        result = loaded(tmp_path, server, NUMBERED, connections=2)
    assert result.worst_ms < 2_000


def test_statuses_are_counted_each_and_a_wrong_one_is_no_measurement(tmp_path: Path) -> None:
    with serving(lambda line: Answer(503 if of_number(line) % 3 == 0 else 200)) as server:
        result = loaded(tmp_path, server, NUMBERED)
    assert set(result.statuses) == {"200", "503"}
    assert result.statuses["503"] / result.statuses["200"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(LoadError, match=r"statuses == \{'200': \d+, '503': \d+\}, lost == 0, must be 200 alone and 0"):
        result.required()
    with pytest.raises(LoadError, match="must be 503 alone"):
        result.required(503)


def test_a_connection_that_the_server_ends_is_lost_and_no_measurement(tmp_path: Path) -> None:
    with serving(lambda line: Answer(hangs_up=of_number(line) == 30)) as server:
        result = loaded(tmp_path, server, NUMBERED, connections=3)
    assert result.lost == 1
    assert result.requests > 0
    with pytest.raises(LoadError, match="lost == 1"):
        result.required()


def test_an_answer_that_never_comes_is_lost(tmp_path: Path) -> None:
    with serving(lambda line: Answer(after_s=60.0 if of_number(line) == 9 else 0.0)) as server:
        result = loaded(tmp_path, server, NUMBERED, connections=3, give_up_s=0.2)
    assert result.lost == 1


def test_an_answer_that_can_not_be_read_is_no_measurement(tmp_path: Path) -> None:
    with serving(lambda line: Answer(body=None if of_number(line) == 30 else b"")) as server:
        with pytest.raises(LoadError, match="must have a Content-Length"):
            loaded(tmp_path, server, NUMBERED)


def test_what_can_not_be_measured_is_said_in_one_line(tmp_path: Path) -> None:
    with serving(lambda line: Answer(hangs_up=True)) as server:
        with pytest.raises(LoadError, match="no answer in 0.4 s, 2 connections lost"):
            loaded(tmp_path, server, NUMBERED)
    with pytest.raises(LoadError, match="the load failed: ConnectionRefusedError"):
        loaded(tmp_path, server, NUMBERED)


@given(
    answers=st.lists(st.builds(Answer, st.sampled_from([200, 404, 503]), st.binary(max_size=40)), max_size=6),
    cuts=st.lists(st.integers(0, 600), max_size=12),
)
def test_statuses_are_the_same_however_the_bytes_are_cut(answers: list[Answer], cuts: list[int]) -> None:
    stream = b"".join(map(bytes_of, answers))
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    framing = Framing()
    pieces = [stream[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    assert [status for piece in pieces for status in framing.statuses(piece)] == [answer.status for answer in answers]


def test_a_body_is_no_head_and_an_answer_without_length_is_refused() -> None:
    inner = bytes_of(Answer(500))
    assert list(Framing().statuses(bytes_of(Answer(body=inner)))) == [200]
    with pytest.raises(LoadError, match="must have a Content-Length"):
        list(Framing().statuses(bytes_of(Answer(body=None))))
