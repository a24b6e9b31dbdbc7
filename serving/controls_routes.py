"""The routes by which people decide on their own profile: opt out, opt in, be forgotten. Published first, then done."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import falcon.asgi

from schemas.errors import StoreError
from schemas.event import EventType
from schemas.identity import Said
from schemas.instants import format_instant
from serving.answers import answer, fault_of, id_in_path
from serving.controls import bury_id, keep_consent
from serving.ingest import NoRoomError, control_event, forget_event
from serving.messages import ConsentAnswer, ForgetAnswer
from serving.service import Parts
from serving.store.protocol import Store

MAX_CONTROLS: Final = 200  # under way and waiting, at once
MAX_WRITES: Final = 2  # under way

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Controls:
    """Publishes what people ask, and changes the store."""

    def __init__(self, parts: Parts, store: Store, room: asyncio.Semaphore) -> None:
        self.parts, self.store, self._room, self._writes = parts, store, room, asyncio.Semaphore(MAX_WRITES)

    def tell(self, kind: EventType, user: str, now: int) -> bool:
        """Put the event on its way to stream and archive, if it can be. First: who gets no answer here may still be heard there."""
        outbox = self.parts.outbox
        return outbox is not None and outbox.put(control_event(kind, user, now, self.parts.pseudonyms))

    def unheard(self) -> None:
        """Of a consent that is in force here, but isn't on its way to stream and archive: ask for it again, if that can help."""
        self.parts.metrics.faults.labels("consent").inc()
        if self.parts.outbox is not None:
            raise fault_of(503, "no_room", "it is in force here; too many events wait to be published", {"Retry-After": "5"})

    async def do(self, user: str, change: Callable[[], Iterable[str]]) -> None:
        """Change the store; what it says of the user, and of the keys that come back, is read anew from then on."""
        changed: Iterable[str] = ()
        try:
            changed = await self._done(change)
        except StoreError as fault:
            _log.error("%s", fault)
            raise fault_of(503, "store_down", "the store did not take it, try again", {"Retry-After": "2"}) from fault
        except NoRoomError as fault:
            raise fault_of(503, "no_room", str(fault), {"Retry-After": "5"}) from fault
        finally:
            self.parts.reader.forget(user, changed)

    async def _done(self, change: Callable[[], Iterable[str]]) -> Iterable[str]:
        if self._room.locked():  # a store that is gone must not gather callers without end
            raise fault_of(503, "overloaded", "too many are waiting for the store, try again", {"Retry-After": "2"})
        async with self._room, self._writes:
            return await _in_thread(change)


async def _in_thread(change: Callable[[], T]) -> T:
    """What a function comes to in a thread of its own, so that a write which waits for a store that is gone keeps nothing waiting.

    Not even the end of the process, which waits for the threads of an executor.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not done.done():
            outcome()

    def run() -> None:
        try:
            outcome = functools.partial(done.set_result, change())
        except Exception as fault:
            outcome = functools.partial(done.set_exception, fault)
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name="control", daemon=True).start()
    return await done


class Consent:
    """Opting out, and in again."""

    action: Final = "opt_out"

    def __init__(self, controls: Controls, clock: Callable[[], int], *, opted_out: bool) -> None:
        self._controls, self._clock, self._opted_out = controls, clock, opted_out

    async def on_post(self, _: falcon.asgi.Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """Do it at once; 503 where it could be done, but not published."""
        user, now = id_in_path(user_id), self._clock()
        told = self._controls.tell("opt_out" if self._opted_out else "opt_in", user, now)
        key, said = self._controls.parts.pseudonyms(user), Said(now, self._opted_out)
        await self._controls.do(user, functools.partial(keep_consent, self._controls.store, key, said))
        if not told:
            self._controls.unheard()
        answer(resp, ConsentAnswer(self._opted_out))


class Forget:
    """Being forgotten."""

    action: Final = "forget"

    def __init__(self, controls: Controls, clock: Callable[[], int]) -> None:
        self._controls, self._clock = controls, clock

    async def on_post(self, _: falcon.asgi.Request, resp: falcon.asgi.Response, user_id: str) -> None:
        """Do it at once."""
        user, now = id_in_path(user_id), self._clock()
        if self._controls.parts.outbox is None:  # nobody would hear of it who can clear the rest
            raise fault_of(503, "no_events", "this gateway was started without --events: it has nowhere to send them")
        if not self._controls.tell("forget", user, now):
            raise fault_of(503, "no_room", "too many events wait to be published", {"Retry-After": "5"})
        await self._controls.do(user, functools.partial(self._bury, user, now))
        answer(resp, ForgetAnswer(format_instant(now)), 202)

    def _bury(self, user: str, now: int) -> Iterable[str]:
        parts = self._controls.parts
        buried = bury_id(self._controls.store, parts.pseudonyms, user, now)
        if parts.outbox is not None and not parts.outbox.put_all([forget_event(*other, now) for other in buried.others.items()]):
            msg = "too many events wait to be published"
            raise NoRoomError(msg)
        return buried.keys
