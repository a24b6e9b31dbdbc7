"""The hop over real servers: what the gateway signs, the search service verifies, as the bytes went over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import uvicorn

from serving.headers import new_nonce
from serving.headers_keys import parse_header_keys
from serving.middleware import SegmentHeaders
from serving.middleware_verify import VerifySegments
from serving.reader import SegmentsRead
from serving.segments import Segment

KEYS = parse_header_keys("k1:" + "11" * 32, "keys")
READ = SegmentsRead((Segment("electric", 0.83, 12, 10, 0),), 7, 0, 12_000, "store", None)
PATHS = ("/search", "/search?q=suv&page=2", "/a%2Fb%20c/%C3%A4?q=%20+%c3%a4", "/search?", "/search?q=a?b=c&&", "//a/../b;v=1?x")


async def answer(send: Any, body: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def search(scope: Any, receive: Any, send: Any) -> None:
    said = scope["state"]["user_segments"]
    names = said and [segment.name for segment in said.segments]
    await answer(send, {"segments": names, "refused": scope["state"]["user_segments_refused"]})


def forwarder(client: httpx.AsyncClient) -> Any:
    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"host", b"connection")]
        url = client.base_url.copy_with(raw_path=target)
        await answer(send, (await client.request(scope["method"], url, headers=headers)).json())

    return gateway


async def electric(_: Any) -> SegmentsRead:
    return READ


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        task = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def test_segments_arrive_whatever_the_path_and_spoofed_ones_never() -> None:
    spoofed = [("X-User-Segments", "premium;s=1.0"), ("x_user_segments", "premium;s=1.0"), ("Connection", "x-user-segments")]
    used: list[str] = []

    def nonce() -> str:
        used.append(new_nonce())
        return used[-1]

    async def hop() -> list[Any]:
        async with (
            served(VerifySegments(search, KEYS)) as inside,
            httpx.AsyncClient(base_url=inside) as inner,
            served(SegmentHeaders(forwarder(inner), electric, KEYS, nonce=nonce)) as outside,
            httpx.AsyncClient() as client,
        ):
            answers = []
            for path in PATHS:
                url = httpx.URL(outside).copy_with(raw_path=path.encode())
                answers += [(await client.request(method, url, headers=spoofed)).json() for method in ("GET", "POST")]
            answers.append((await client.get(f"{inside}/search", headers=spoofed)).json())
            return answers

    *through, past = asyncio.run(hop())
    assert through == [{"segments": ["electric"], "refused": None}] * len(PATHS) * 2
    assert past == {"segments": None, "refused": "duplicate_header"}
    assert len(used) == len(PATHS) * 2
