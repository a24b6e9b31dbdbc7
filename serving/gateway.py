"""The gateway: the HTTP of it, on Falcon. What a request comes to is decided in ``serving.service``.

Falcon on uvicorn was chosen by measurement (benchmarks/frameworks.py). Nothing here logs a path, a query, a header or a body:
they hold ids.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import falcon
import falcon.asgi
import msgspec

from schemas.decoding import Attributes
from schemas.errors import EventError
from schemas.filters import FilterError
from schemas.instants import clock_ms
from serving.access import Access, Refused, may
from serving.answers import anonymous_id_of, answer, body_of, checked_id, fault_of, id_in_path
from serving.chosen import Chosen
from serving.controls_routes import MAX_CONTROLS, Consent, Controls, Forget
from serving.ingest import NoRoomError, taken
from serving.messages import Fault, FaultAnswer, FeaturedRequest, Health, ShownRequest
from serving.metrics import CONTENT_TYPE
from serving.openapi import document
from serving.opensearch_responses import ResponseError
from serving.service import Parts, Service, segments_answer
from serving.store.protocol import Store
from serving.tickets import TicketError
from serving.why import why

_UNRESERVED: Final = re.compile("(?<!%)(?<!%[0-9A-F])%(?:2[DE]|3[0-9]|[46][1-9A-F]|[57][0-9A]|5F|7E)", re.IGNORECASE)
_FEATURED: Final = msgspec.json.Decoder(FeaturedRequest).decode
_SHOWN: Final = msgspec.json.Decoder(ShownRequest).decode
_NO_EVENTS: Final = "this gateway was started without --events: it has nowhere to send them"

_log = logging.getLogger(__name__)


class Door(NamedTuple):
    """Who is let in: with no ``access`` anybody is, which is for one machine alone."""

    access: Callable[[], Access | None]
    clock: Callable[[], int] = clock_ms


def build_app(parts: Parts, store: Store, door: Door, ready: Callable[[], str]) -> falcon.asgi.App:
    """The ASGI app. ``store`` takes what people ask of their profile; ``ready()`` says ``ready``, or what is still missing."""
    service = Service(parts)
    app = falcon.asgi.App(middleware=[_Guard(parts, door)])
    controls = Controls(parts, store, asyncio.Semaphore(MAX_CONTROLS))
    routes: dict[str, Any] = {
        "/v1/users/{user_id}/segments": _Segments(service, door.clock),
        "/v1/users/{user_id}/why": _Why(parts, service, door.clock),
        "/v1/users/{user_id}/opt-out": Consent(controls, door.clock, opted_out=True),
        "/v1/users/{user_id}/opt-in": Consent(controls, door.clock, opted_out=False),
        "/v1/users/{user_id}/forget": Forget(controls, door.clock),
        "/v1/featured": _Featured(service, door.clock),
        "/v1/featured/shown": _Shown(parts, service, door.clock),
        "/v1/events": _Events(parts, door.clock),
        "/healthz": _Health(lambda: "ready"),
        "/readyz": _Health(ready),
        "/metrics": _Metrics(parts),
        "/openapi.json": _OpenApi(parts, keys=door.access() is not None),
    }
    for path, resource in routes.items():
        app.add_route(path, resource)
        parts.metrics.requests.labels(path, "500")  # at nought, as in serving.metrics: the first one may be alerted on
    app.add_error_handler(falcon.HTTPError, _told)
    app.add_error_handler(Exception, _own_fault)
    return app


class _Guard:
    """Lets in by key, and counts every answer."""

    def __init__(self, parts: Parts, door: Door) -> None:
        self._metrics, self._door = parts.metrics, door

    async def process_request(self, req: falcon.asgi.Request, _: falcon.asgi.Response) -> None:
        # Ids are decoded once the path is split: they may have slashes. What needs no encoding is the same with it (RFC 3986, 2.3).
        path = req.scope["raw_path"].decode("latin-1")
        req.path = _UNRESERVED.sub(_decoded, path) if "%" in path else path

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
                raise fault_of(429, caller.reason, "too many requests with this key", {"Retry-After": str(caller.retry_after_s)})
            told = "Authorization, must be Bearer with a key of the access file"
            raise fault_of(401, caller.reason, told, {"WWW-Authenticate": "Bearer"})
        if not may(caller, resource.action):
            self._metrics.refused.labels("wrong_role").inc()
            raise fault_of(403, "wrong_role", f"role == {caller.role}, must be one that may ask for {resource.action}")

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
        read = await self._service.segments(id_in_path(user_id), anonymous_id_of(req), now)
        answer(resp, segments_answer(read, now))


class _Featured:
    action: Final = "featured"

    def __init__(self, service: Service, clock: Callable[[], int]) -> None:
        self._service, self._clock = service, clock

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        body = await body_of(req)
        try:
            request = _FEATURED(body)
            _check_ids(request)
            chosen = await self._service.featured(request, self._clock())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            raise fault_of(400, "bad_request", f"body, {_of_msgspec(fault)}") from fault
        except FilterError as fault:
            raise fault_of(422, "bad_filters", str(fault)) from fault
        _answer_and_expose(resp, self._service, chosen)


class _Shown:
    action: Final = "featured"

    def __init__(self, parts: Parts, service: Service, clock: Callable[[], int]) -> None:
        self._outbox, self._service, self._clock = parts.outbox, service, clock

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        body = await body_of(req)
        if self._outbox is None:
            raise fault_of(503, "no_events", _NO_EVENTS)
        try:
            chosen = self._service.shown(_SHOWN(body), self._clock())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            raise fault_of(400, "bad_request", f"body, {_of_msgspec(fault)}") from fault
        except TicketError as fault:
            raise fault_of(400, "bad_ticket", str(fault)) from fault
        except ResponseError as fault:
            raise fault_of(422, "bad_response", str(fault)) from fault
        _answer_and_expose(resp, self._service, chosen)


class _Events:
    action: Final = "events"

    def __init__(self, parts: Parts, clock: Callable[[], int]) -> None:
        self._outbox, self._clock = parts.outbox, clock
        self._attributes, self._pseudonyms = Attributes(parts.catalogue), parts.pseudonyms

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        body = await body_of(req)
        if self._outbox is None:
            raise fault_of(503, "no_events", _NO_EVENTS)
        try:
            done = taken(body, self._attributes, self._pseudonyms, self._outbox.put_all, self._clock())
        except EventError as fault:
            raise fault_of(400, fault.reason, str(fault)) from fault
        except NoRoomError as fault:
            raise fault_of(503, "no_room", str(fault), {"Retry-After": "5"}) from fault
        answer(resp, done, 422 if not done.accepted else 207 if done.refused else 202)


class _Why:
    action: Final = "why"

    def __init__(self, parts: Parts, service: Service, clock: Callable[[], int]) -> None:
        self._parts, self._service, self._clock = parts, service, clock

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, user_id: str) -> None:
        now = self._clock()
        found = await self._parts.reader.read_row(id_in_path(user_id), anonymous_id_of(req))
        read = self._parts.reader.answer(found, now)
        profile = None if found.row is None else found.row.profile
        rules = self._service.rules_of(read.rule_version)
        answer(resp, why("you", read, profile, rules, now, self._parts.catalogue, linked=found.linked))


class _Health:
    action: Final = None

    def __init__(self, status: Callable[[], str]) -> None:
        self._status = status

    async def on_get(self, _: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        status = self._status()
        answer(resp, Health(status), 200 if status == "ready" else 503)


class _Metrics:
    action: Final = "metrics"

    def __init__(self, parts: Parts) -> None:
        self._metrics = parts.metrics

    async def on_get(self, _: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data, resp.content_type = self._metrics.text(), CONTENT_TYPE


class _OpenApi:
    action: Final = None

    def __init__(self, parts: Parts, *, keys: bool) -> None:
        self._document = document(parts.catalogue, keys=keys)

    async def on_get(self, _: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        answer(resp, self._document)


def _decoded(escape: re.Match[str]) -> str:
    return chr(int(escape[0][1:], 16))


async def _told(_: Any, resp: falcon.asgi.Response, error: falcon.HTTPError, __: Any) -> None:
    """A fault as the asker sees it; Falcon's own (no such route, method not allowed) too."""
    code = error.title if error.description else str(error.title).lstrip("0123456789 ").lower().replace(" ", "_")
    answer(resp, FaultAnswer(Fault(str(code), error.description or f"{error.status}")), error.status_code)
    resp.set_headers(error.headers or {})


async def _own_fault(_: Any, resp: falcon.asgi.Response, error: Exception, __: Any) -> None:
    """A fault of ours. Its text may hold what was asked, so that only its type and place are logged."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    _log.error("request failed: %s at %s", type(error).__name__, place)
    answer(resp, FaultAnswer(Fault("internal", "the gateway failed; its log says where")), 500)


def _answer_and_expose(resp: falcon.asgi.Response, service: Service, chosen: Chosen) -> None:
    answer(resp, service.answer(chosen))

    async def expose() -> None:
        service.expose(chosen)

    resp.schedule(expose)  # once the answer is sent


def _check_ids(request: FeaturedRequest) -> None:
    checked_id(request.session_id, "session_id")
    for name, value in (("user_id", request.user_id), ("anonymous_id", request.anonymous_id)):
        if value is not None:
            checked_id(value, name)
    for place, value in enumerate(request.seen):
        checked_id(value, f"seen[{place}]")


def _of_msgspec(fault: Exception) -> str:
    text = str(fault) if isinstance(fault, msgspec.DecodeError) else "nested too deep, or no UTF-8"
    return f"must be JSON as /openapi.json says: {text[:300]}"
