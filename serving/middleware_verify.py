"""For a search service on ASGI: what the gateway has signed of the user, in the scope's state, or why it is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from schemas.instants import clock_ms
from serving.headers import DEFAULT_COVERED, NonceMemory, checked_covered, verify
from serving.headers_fields import UserSegments
from serving.headers_keys import HeaderKeys
from serving.headers_nonces import Nonces
from serving.middleware import App, Receive, Scope, Send
from serving.middleware_strip import lines_of, request_of, stripped
from serving.signatures import HeaderRefusedError, Request

STATE: Final = "user_segments"
STATE_REFUSED: Final = "user_segments_refused"
TELL_EVERY_MS: Final = 10_000
_LOG: Final = logging.getLogger(__name__)


class VerifySegments:
    """Wraps ``app``: ``scope["state"]["user_segments"]`` is what was verified, or ``None``.

    Then ``scope["state"]["user_segments_refused"]`` is the reason, one of ``serving.headers.REASONS``, and the headers are taken
    off. The request goes on either way. ``on_refused(reason)`` counts; a memory of nonces that fails is logged too.
    """

    def __init__(
        self,
        app: App,
        keys: HeaderKeys,
        *,
        nonces: NonceMemory | None = None,
        covered: Sequence[str] = DEFAULT_COVERED,
        target_of: Callable[[Mapping[str, Any]], Request] = request_of,
        on_refused: Callable[[str], None] = lambda reason: None,
        now: Callable[[], int] = clock_ms,
    ) -> None:
        self._app, self._keys, self._now = app, keys, now
        self._nonces = Nonces() if nonces is None else nonces
        self._covered = checked_covered(covered)
        self._target_of, self._on_refused = target_of, on_refused
        self._told = -TELL_EVERY_MS  # when we last did (ms UTC)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if "headers" in scope:
            scope = {**scope, "headers": list(scope["headers"])}
            said, refused = self._verified(scope)
            if refused is not None:
                scope["headers"] = stripped(scope["headers"])
            scope["state"] = {**(scope.get("state") or {}), STATE: said, STATE_REFUSED: refused}
        await self._app(scope, receive, send)

    def _verified(self, scope: Scope) -> tuple[UserSegments | None, str | None]:
        if scope["type"] != "http":
            return None, "missing"  # nothing else is signed
        try:
            request, lines = self._target_of(scope), lines_of(scope["headers"])
            said = verify(lines, request, self._keys, now=self._now(), nonces=self._nonces, covered=self._covered)
        except HeaderRefusedError as refused:
            self._count(refused.reason)
            if refused.reason == "memory_fault":
                self._tell(refused)
            return None, refused.reason
        return said, None

    def _tell(self, refused: HeaderRefusedError) -> None:
        """Log what is our own fault; not for each of thousands of requests."""
        now = self._now()
        if not 0 <= now - self._told < TELL_EVERY_MS:  # a clock that is set back tells again
            _LOG.error("segments are refused: %s", refused)
            self._told = now

    def _count(self, reason: str) -> None:
        try:
            self._on_refused(reason)
        except Exception as fault:  # noqa: BLE001  (whatever it is, the search goes on)
            _LOG.error("a refusal could not be counted: %s", type(fault).__name__)  # noqa: TRY400
