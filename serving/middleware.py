"""For any ASGI gateway: whatever the client sent as segments is taken off, and the user's own are put on, signed.

A request never fails for it. When the user can't be told or read, it goes on without segments, and that is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

from schemas.instants import clock_ms
from serving.headers import DEFAULT_COVERED, checked_covered, new_nonce, sign
from serving.headers_keys import HeaderKeys
from serving.middleware_strip import HeaderLines, lines_of, request_of, stripped, with_signed
from serving.reader import SegmentsRead
from serving.signatures import Request

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
SegmentsOf = Callable[[Scope], Awaitable[SegmentsRead | None]]
Fault = Callable[[str, Exception], None]

DEADLINE_S: Final = 0.25
FAULTS: Final = ("timeout", "read", "sign")
_LOG: Final = logging.getLogger(__name__)


def log_fault(kind: str, fault: Exception) -> None:
    """Say that a request went on without segments; not the fault's text, which may hold an id."""
    _LOG.warning("a request goes on without segments: %s (%s)", kind, type(fault).__name__)


def segments_by(user_of: Callable[[Scope], str | None], read: Callable[[str], Awaitable[SegmentsRead]]) -> SegmentsOf:
    """How a request's segments are found: who the user is, then what is read of them; ``None`` for a request of nobody."""

    async def segments_of(scope: Scope) -> SegmentsRead | None:
        user = user_of(scope)
        return None if user is None else await read(user)

    return segments_of


class SegmentHeaders:
    """Wraps ``app`` so that ``http`` requests reach it with the segment headers of their user, and of nobody else.

    ``segments_of(scope)`` reads the user's segments; ``None`` puts no headers on. ``target_of(scope)`` is the request that is
    signed: give another where the gateway sends it on under another path. ``on_fault(kind, fault)`` counts, by ``FAULTS``.
    Scopes of other types are passed on stripped, and never signed.
    """

    def __init__(
        self,
        app: App,
        segments_of: SegmentsOf,
        keys: HeaderKeys,
        *,
        covered: Sequence[str] = DEFAULT_COVERED,
        target_of: Callable[[Mapping[str, Any]], Request] = request_of,
        on_fault: Fault = log_fault,
        now: Callable[[], int] = clock_ms,
        nonce: Callable[[], str] = new_nonce,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._app, self._segments_of, self._keys = app, segments_of, keys
        self._covered = checked_covered(covered)
        self._target_of, self._on_fault = target_of, on_fault
        self._now, self._nonce, self._deadline_s = now, nonce, deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if "headers" in scope:
            # Taken once: a server may hand over headers that can be read only once. The scope itself belongs to the server.
            scope = {**scope, "headers": stripped(scope["headers"])}
            if scope["type"] == "http":
                scope["headers"] = with_signed(scope["headers"], await self._signed(scope))
        await self._app(scope, receive, send)

    async def _signed(self, scope: Scope) -> list[tuple[str, str]]:
        try:
            async with asyncio.timeout(self._deadline_s):
                read = await self._segments_of(scope)
        except TimeoutError as fault:
            return self._without("timeout", fault)
        except Exception as fault:  # noqa: BLE001  (whatever it is, the search goes on)
            return self._without("read", fault)
        if read is None:
            return []
        try:
            fields = _fields_of(scope["headers"])
            return sign(
                read, self._target_of(scope), self._keys, now=self._now(), nonce=self._nonce(), covered=self._covered, fields=fields
            )
        except Exception as fault:  # noqa: BLE001
            return self._without("sign", fault)

    def _without(self, kind: str, fault: Exception) -> list[tuple[str, str]]:
        try:
            self._on_fault(kind, fault)
        except Exception as second:  # noqa: BLE001
            _LOG.error("a fault could not be counted: %s", type(second).__name__)  # noqa: TRY400  (its text may hold an id)
        return []


def _fields_of(headers: HeaderLines) -> dict[str, str]:
    """The headers that stand there once: only such can be signed."""
    found: dict[str, list[str]] = {}
    for name, value in lines_of(headers):
        found.setdefault(name.lower(), []).append(value)
    return {name: values[0] for name, values in found.items() if len(values) == 1}
