"""The gateway: the HTTP of it, on Falcon. What a request comes to is decided in ``serving.service``.

Falcon on uvicorn was chosen by measurement (benchmarks/frameworks.py). Nothing here logs a path, a query, a header or a body:
they hold ids.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import falcon
import falcon.asgi
import msgspec

from schemas.decoding import Attributes
from schemas.errors import EventError, StoreError
from schemas.event import MAX_ID_BYTES, MAX_MESSAGE_BYTES, EventType
from schemas.filters import FilterError
from schemas.identity import Said
from schemas.instants import clock_ms, format_instant
from serving.access import Access, Refused, may
from serving.controls import bury_id, keep_consent
from serving.ingest import NoRoomError, control_event, forget_event, taken
from serving.messages import ConsentAnswer, Fault, FaultAnswer, FeaturedRequest, ForgetAnswer, Health
from serving.metrics import CONTENT_TYPE
from serving.openapi import document
from serving.service import Parts, Service, segments_answer
from serving.store.protocol import Store
from serving.why import why

JSON: Final = "application/json"
_ENCODE: Final = msgspec.json.Encoder().encode
_FEATURED: Final = msgspec.json.Decoder(FeaturedRequest).decode

# Of their own, so that writes which wait for a store that is gone keep nothing else waiting.
_CONTROLS: Final = ThreadPoolExecutor(2, thread_name_prefix="control")
MAX_CONTROLS: Final = 200  # under way and waiting, at once

_log = logging.getLogger(__name__)


class Door(NamedTuple):
    """Who is let in: with no ``access`` anybody is, which is for one machine alone."""

    access: Callable[[], Access | None]
    clock: Callable[[], int] = clock_ms


def build_app(parts: Parts, store: Store, door: Door, ready: Callable[[], str]) -> falcon.asgi.App:
    """The ASGI app. ``store`` takes what people ask of their profile; ``ready()`` says ``ready``, or what is still missing."""
    service = Service(parts)
    app = falcon.asgi.App(middleware=[_Guard(parts, door)])
    app.add_route("/v1/users/{user_id}/segments", _Segments(service, door.clock))
    app.add_route("/v1/users/{user_id}/why", _Why(parts, service, door.clock))
    controls = _Controls(parts, store, asyncio.Semaphore(MAX_CONTROLS))
    app.add_route("/v1/users/{user_id}/opt-out", _Consent(controls, door.clock, opted_out=True))
    app.add_route("/v1/users/{user_id}/opt-in", _Consent(controls, door.clock, opted_out=False))
    app.add_route("/v1/users/{user_id}/forget", _Forget(controls, door.clock))
    app.add_route("/v1/featured", _Featured(service, door.clock))
    app.add_route("/v1/events", _Events(parts, door.clock))
    app.add_route("/healthz", _Health(lambda: "ready"))
    app.add_route("/readyz", _Health(ready))
    app.add_route("/metrics", _Metrics(parts))
    app.add_route("/openapi.json", _OpenApi(parts))
    app.add_error_handler(falcon.HTTPError, _told)
    app.add_error_handler(Exception, _own_fault)
    return app


class _Guard:
    """Lets in by key, and counts every answer."""

    def __init__(self, parts: Parts, door: Door) -> None:
        self._metrics, self._door = parts.metrics, door

    async def process_resource(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: Any, _: Any) -> None:
        req.context.began = time.perf_counter()
        req.context.route = req.uri_template
        access = self._door.access()
        if access is None or resource.action is None:
            return
        caller = access.authenticate(req.get_header("Authorization"), self._door.clock())
        if isinstance(caller, Refused):
            self._metrics.refused.labels(caller.reason).inc()
            if caller.reason == "rate_limited":
                raise _fault(429, caller.reason, "too many requests with this key", {"Retry-After": str(caller.retry_after_s)})
            told = "Authorization, must be Bearer with a key of the access file"
            raise _fault(401, caller.reason, told, {"WWW-Authenticate": "Bearer"})
        if not may(caller, resource.action):
            self._metrics.refused.labels("wrong_role").inc()
            raise _fault(403, "wrong_role", f"role == {caller.role}, must be one that may ask for {resource.action}")

    async def process_response(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, _: Any, __: Any) -> None:
        route = getattr(req.context, "route", None) or "none"
        self._metrics.requests.labels(route, resp.status[:3] if isinstance(resp.status, str) else resp.status).inc()
        if route != "none":
            self._metrics.seconds.labels(route).observe(time.perf_counter() - req.context.began)


class _Segments:
    action: Final = "segments"

    def __init__(self, service: Service, clock: Callable[[], int]) -> None:
        self._service, self._clock = service, clock

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, user_id: str) -> None:
        now = self._clock()
        read = await self._service.segments(_id(user_id, "id"), _anonymous_id(req), now)
        _answer(resp, segments_answer(read, now))


class _Featured:
    action: Final = "featured"

    def __init__(self, service: Service, clock: Callable[[], int]) -> None:
        self._service, self._clock = service, clock

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        body = await _body(req)
        try:
            request = _FEATURED(body)
            _check_ids(request)
            chosen = await self._service.featured(request, self._clock())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            raise _fault(400, "bad_request", f"body, {_of_msgspec(fault)}") from fault
        except FilterError as fault:
            raise _fault(422, "bad_filters", str(fault)) from fault
        _answer(resp, self._service.answer(chosen))

        async def expose() -> None:
            self._service.expose(chosen)

        resp.schedule(expose)  # once the answer is sent


class _Events:
    action: Final = "events"

    def __init__(self, parts: Parts, clock: Callable[[], int]) -> None:
        self._outbox, self._clock = parts.outbox, clock
        self._attributes, self._pseudonyms = Attributes(parts.catalogue), parts.pseudonyms

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        body = await _body(req)
        if self._outbox is None:
            raise _fault(503, "no_events", "this gateway was started without --events: it has nowhere to send them")
        try:
            answer = taken(body, self._attributes, self._pseudonyms, self._outbox.put_all, self._clock())
        except EventError as fault:
            raise _fault(400, fault.reason, str(fault)) from fault
        except NoRoomError as fault:
            raise _fault(503, "no_room", str(fault), {"Retry-After": "5"}) from fault
        _answer(resp, answer, 422 if not answer.accepted else 207 if answer.refused else 202)


class _Why:
    action: Final = "why"

    def __init__(self, parts: Parts, service: Service, clock: Callable[[], int]) -> None:
        self._parts, self._service, self._clock = parts, service, clock

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, user_id: str) -> None:
        now = self._clock()
        found = await self._parts.reader.read_row(_id(user_id, "id"), _anonymous_id(req))
        read = self._parts.reader.answer(found, now)
        profile = None if found.row is None else found.row.profile
        rules = self._service.rules_of(read.rule_version)
        _answer(resp, why("you", read, profile, rules, now, self._parts.catalogue, linked=found.linked))


class _Controls:
    """What people ask of their own profile: published, and done in the store."""

    def __init__(self, parts: Parts, store: Store, room: asyncio.Semaphore) -> None:
        self.parts, self.store, self._room = parts, store, room

    def tell(self, kind: EventType, user: str, now: int) -> bool:
        """Put the event on its way to stream and archive, if it can be. First: who gets no answer here may still be heard there."""
        outbox = self.parts.outbox
        return outbox is not None and outbox.put(control_event(kind, user, now, self.parts.pseudonyms))

    async def do(self, user: str, change: Callable[[], Iterable[str]]) -> None:
        """Change the store; what it says of the user, and of the keys that come back, is read anew from then on."""
        changed: Iterable[str] = ()
        try:
            changed = await self._done(change)
        except StoreError as fault:
            _log.error("%s", fault)
            raise _fault(503, "store_down", "the store did not take it, try again", {"Retry-After": "2"}) from fault
        except NoRoomError as fault:
            raise _fault(503, "no_room", str(fault), {"Retry-After": "5"}) from fault
        finally:
            self.parts.reader.forget(user, changed)

    async def _done(self, change: Callable[[], Iterable[str]]) -> Iterable[str]:
        if self._room.locked():  # a store that is gone must not gather callers without end
            raise _fault(503, "overloaded", "too many are waiting for the store, try again", {"Retry-After": "2"})
        async with self._room:
            return await asyncio.get_running_loop().run_in_executor(_CONTROLS, change)


class _Consent:
    action: Final = "opt_out"

    def __init__(self, controls: _Controls, clock: Callable[[], int], *, opted_out: bool) -> None:
        self._controls, self._clock, self._opted_out = controls, clock, opted_out

    async def on_post(self, _: falcon.asgi.Request, resp: falcon.asgi.Response, user_id: str) -> None:
        user, now = _id(user_id, "id"), self._clock()
        self._controls.tell("opt_out" if self._opted_out else "opt_in", user, now)
        key, said = self._controls.parts.pseudonyms(user), Said(now, self._opted_out)
        await self._controls.do(user, functools.partial(keep_consent, self._controls.store, key, said))
        _answer(resp, ConsentAnswer(self._opted_out))


class _Forget:
    action: Final = "forget"

    def __init__(self, controls: _Controls, clock: Callable[[], int]) -> None:
        self._controls, self._clock = controls, clock

    async def on_post(self, _: falcon.asgi.Request, resp: falcon.asgi.Response, user_id: str) -> None:
        user, now = _id(user_id, "id"), self._clock()
        if self._controls.parts.outbox is None:  # nobody would hear of it who can clear the rest
            raise _fault(503, "no_events", "this gateway was started without --events: it has nowhere to send them")
        if not self._controls.tell("forget", user, now):
            raise _fault(503, "no_room", "too many events wait to be published", {"Retry-After": "5"})
        await self._controls.do(user, functools.partial(self._bury, user, now))
        _answer(resp, ForgetAnswer(format_instant(now)), 202)

    def _bury(self, user: str, now: int) -> Iterable[str]:
        parts = self._controls.parts
        buried = bury_id(self._controls.store, parts.pseudonyms, user, now)
        if parts.outbox is not None and not parts.outbox.put_all([forget_event(*other, now) for other in buried.others.items()]):
            msg = "too many events wait to be published"
            raise NoRoomError(msg)
        return buried.keys


class _Health:
    action: Final = None

    def __init__(self, status: Callable[[], str]) -> None:
        self._status = status

    async def on_get(self, _: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        status = self._status()
        _answer(resp, Health(status), 200 if status == "ready" else 503)


class _Metrics:
    action: Final = "metrics"

    def __init__(self, parts: Parts) -> None:
        self._metrics = parts.metrics

    async def on_get(self, _: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data, resp.content_type = self._metrics.text(), CONTENT_TYPE


class _OpenApi:
    action: Final = None

    def __init__(self, parts: Parts) -> None:
        self._document = document(parts.catalogue)

    async def on_get(self, _: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        _answer(resp, self._document)


def _answer(resp: falcon.asgi.Response, answer: Any, status: int = 200) -> None:
    resp.status, resp.content_type, resp.data = status, JSON, _ENCODE(answer)


def _fault(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> falcon.HTTPError:
    return falcon.HTTPError(status, title=code, description=message, headers=headers)


async def _told(_: Any, resp: falcon.asgi.Response, error: falcon.HTTPError, __: Any) -> None:
    """A fault as the asker sees it; Falcon's own (no such route, method not allowed) too."""
    code = error.title if error.description else str(error.title).lstrip("0123456789 ").lower().replace(" ", "_")
    _answer(resp, FaultAnswer(Fault(str(code), error.description or f"{error.status}")), error.status_code)
    resp.set_headers(error.headers or {})


async def _own_fault(_: Any, resp: falcon.asgi.Response, error: Exception, __: Any) -> None:
    """A fault of ours. Its text may hold what was asked, so that only its type and place are logged."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    _log.error("request failed: %s at %s", type(error).__name__, place)
    _answer(resp, FaultAnswer(Fault("internal", "the gateway failed; its log says where")), 500)


async def _body(req: falcon.asgi.Request) -> bytes:
    """The body, of at most 64 KiB."""
    length = req.content_length or 0
    body = b"" if length > MAX_MESSAGE_BYTES else await req.stream.read(MAX_MESSAGE_BYTES + 1)
    if length > MAX_MESSAGE_BYTES or len(body) > MAX_MESSAGE_BYTES:
        raise _fault(413, "too_large", f"body, must be at most {MAX_MESSAGE_BYTES} bytes")
    return bytes(body)


def _id(value: str, name: str) -> str:
    """The id, if it can be one; the fault doesn't show it."""
    if not 0 < len(value) <= MAX_ID_BYTES or any(character < " " or "\x7f" <= character <= "\x9f" for character in value):
        raise _fault(400, "bad_id", f"{name}, must be 1 to {MAX_ID_BYTES} bytes of UTF-8 without control characters")
    if len(value.encode(errors="surrogatepass")) > MAX_ID_BYTES:
        raise _fault(422, "bad_id", f"{name}, must be at most {MAX_ID_BYTES} bytes of UTF-8")
    return value


def _anonymous_id(req: falcon.asgi.Request) -> str | None:
    found = req.get_param("anonymous_id")
    return None if found is None else _id(found, "anonymous_id")


def _check_ids(request: FeaturedRequest) -> None:
    _id(request.session_id, "session_id")
    for name, value in (("user_id", request.user_id), ("anonymous_id", request.anonymous_id)):
        if value is not None:
            _id(value, name)
    for place, value in enumerate(request.seen):
        _id(value, f"seen[{place}]")


def _of_msgspec(fault: Exception) -> str:
    text = str(fault) if isinstance(fault, msgspec.DecodeError) else "nested too deep, or no UTF-8"
    return f"must be JSON as /openapi.json says: {text[:300]}"
