"""HTTP/1.1 as the gateway takes it: uvicorn's protocol, with bounds on what a request may cost before anybody looks at it.

- A head has at most 32 KiB, and so have trailers. The parser would keep any length of them in memory.
- A request is whole within ten seconds of its first byte, and a connection that says nothing is closed: else a thousand of them
  that send a byte now and then, or nothing, have all the files that a process may open, and nobody else gets in.
- An upgrade is not made, and the request answered as it is (RFC 9110, 7.8). The parser takes it for granted and drops the body:
  Java's HttpClient asks for h2c in the first request of each connection.
- When the gateway ends, a connection is closed with its next answer, or half a second later. Closed at once, whatever was sent on
  it and not read yet would be lost: with busy connections, a request on nearly each of them.

What is refused is told in the gateway's own form, and counted by ``refused``.
"""

from __future__ import annotations

import asyncio
import functools
import http
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.answers import fault_bytes

MAX_HEAD_BYTES: Final = 32 * 1024
REQUEST_S: Final = 10.0
LAST_REQUEST_S: Final = 0.5


class Refusal(NamedTuple):
    """Why a request is not even looked at."""

    status: int
    code: str
    message: str


NOT_HTTP: Final = Refusal(400, "not_http", "request, must be HTTP 1.1 as RFC 9112 says")
HEAD_TOO_LARGE: Final = Refusal(431, "head_too_large", f"path and headers, must be at most {MAX_HEAD_BYTES} bytes")
TOO_SLOW: Final = Refusal(408, "too_slow", "request, must be whole within {:g} s")


class BoundedProtocol(HttpToolsProtocol):
    """One connection. ``refused`` is told the status of each request that is refused here."""

    def __init__(self, *args: Any, refused: Callable[[int], None], request_s: float = REQUEST_S, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refused, self._request_s = refused, request_s
        self._why = NOT_HTTP  # of what the parser stops at
        self._late: asyncio.TimerHandle | None = None  # runs while a request isn't whole
        self._ending = False
        self._upgrading = False
        self._moved = False  # whether a part of a request has become whole
        self._kept_bytes = 0  # since then

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request as long as for the next one on a connection that is kept."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._whole()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, if it is within bounds."""
        self._unset_keepalive_if_required()
        self._begun()
        self._moved = False
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(self._why)
            return
        self._kept_bytes = 0 if self._moved else self._kept_bytes + len(data)
        if self._kept_bytes > MAX_HEAD_BYTES:
            self._refuse(HEAD_TOO_LARGE)

    def shutdown(self) -> None:
        """Answer what was sent already, and close."""
        self._ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(LAST_REQUEST_S, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        """Begin a request: by now the clock runs."""
        super().on_message_begin()
        self._begun()

    def on_headers_complete(self) -> None:
        """Hand on the request once its head is known, unless it comes again without its upgrade."""
        self._moved = True
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
            self._why = HEAD_TOO_LARGE
            raise ValueError(self._why.message)  # the parser stops
        self._upgrading = self.parser.should_upgrade()
        if not self._upgrading:
            super().on_headers_complete()
            self.cycle.keep_alive = self.cycle.keep_alive and not self._ending
        elif self.parser.get_method() == b"CONNECT":
            raise ValueError(self._why.message)

    def on_body(self, body: bytes) -> None:
        """Hand on what there is of a body."""
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request: it is whole."""
        self._moved = True
        if not self._upgrading:
            super().on_message_complete()
            self._whole()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                head, data = self._without_upgrade(), data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
                self.parser.feed_data(head)

    def _without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(token for token in value.split(b",") if token.strip().lower() != b"upgrade")  # noqa: PLW2901
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _begun(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self._request_s, self._is_late)

    def _whole(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _is_late(self) -> None:
        self._late = None
        if self.pipeline or self._owes_an_answer():
            self._begun()  # it is we who are slow: the next request is not read before the answer to this one
        else:
            self._refuse(TOO_SLOW._replace(message=TOO_SLOW.message.format(self._request_s)))

    def _owes_an_answer(self) -> bool:
        """Whether a request that is whole waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body

    def _answers_halfway(self) -> bool:
        """Whether an answer has begun, and it or its request goes on: what else were written would be taken for a part of it."""
        started = self.cycle is not None and self.cycle.response_started
        return started and (self.cycle.more_body or not self.cycle.response_complete)

    def _refuse(self, why: Refusal) -> None:
        if self.transport.is_closing():
            return
        if self._owes_an_answer():  # those before it are answered first, or the client would take this for their answer
            self.cycle.keep_alive = False
            return
        self._refused(why.status)
        if self.pipeline or self._answers_halfway():
            self.transport.close()
            return
        body = fault_bytes(why.code, why.message)
        head = f"HTTP/1.1 {why.status} {http.HTTPStatus(why.status).phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def bounded(refused: Callable[[int], None]) -> functools.partial[BoundedProtocol]:
    """What uvicorn makes a connection's protocol with."""
    return functools.partial(BoundedProtocol, refused=refused)
