r"""``forecourt serve``: the gateway, an HTTP server for one process and core; start several behind a load balancer.

    forecourt serve --store bigtable://P/I/T --rules RELEASES --inventory listings.jsonl \
        --events pubsub://P/topics/T --experiments experiments.yaml --access access.yaml --host 0.0.0.0

It prints where it serves once it is ready, and runs until a signal ends it: then it takes no more requests, answers those under
way, and writes the events that wait.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import gc
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import falcon.asgi
import uvicorn

from pipelines.serve_protocol import bounded
from pipelines.sinks import check_sink_uri, open_sink
from rules import CATALOGUE_PATH, RULES_PATH, SETTINGS_PATH
from schemas.catalogue import Catalogue
from schemas.errors import EXIT_OK, ConfigError
from schemas.instants import clock_ms
from schemas.pseudonym import Pseudonyms
from schemas.safe_yaml import MAX_BYTES
from schemas.settings import Settings, parse_settings
from serving.access_file import AccessFile
from serving.answers import JSON, fault_bytes
from serving.experiments_file import ExperimentsFile
from serving.gateway import Door, build_app
from serving.inventory_file import InventoryFile
from serving.keys import load_ring
from serving.messages import FeaturedRequest
from serving.metrics import Measure, Metrics
from serving.outbox import Outbox
from serving.policies import POLICIES
from serving.reader import SegmentReader
from serving.row_loader import Limits
from serving.service import Parts, Service
from serving.store import check_uri, open_store
from serving.store.rows import open_rows
from serving.watched import Watched, keep_looking
from serving.withdrawn import withdrawn_in
from transforms.rules_file import RulesFile, load_catalogue
from transforms.whole_files import read_bytes

PORT: Final = 8080
FLUSH_S: Final = 5.0
KEEP_ALIVE_S: Final = 75  # longer than load balancers keep a connection, so that none sends into one that closes
_WARM_UPS: Final = 20
WARM_UP_AGAIN_S: Final = 2.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """Where everything is; ``ConfigError`` when it can't be used."""

    store: str
    rules: str = RULES_PATH
    catalogue: str = CATALOGUE_PATH
    settings: str = SETTINGS_PATH
    inventory: str | None = None
    experiments: str | None = None
    events: str | None = None
    access: str | None = None
    host: str = "127.0.0.1"
    port: int = PORT

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_uri(self.store)
        if self.events is not None:
            check_sink_uri(self.events, "events")
        if not 0 <= self.port <= 65_535:
            msg = f"--port == {self.port}, must be from 0 (any that is free) to 65535"
            raise ConfigError(msg)
        if self.access is None and not _is_loopback(self.host):
            msg = f"--host == {self.host} can be reached from elsewhere, must come with --access FILE (forecourt access mint)"
            raise ConfigError(msg)


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line."""
    parser = argparse.ArgumentParser(prog="forecourt serve", description="The gateway: segments and featured listings over HTTP.")
    add = parser.add_argument
    add("--store", required=True, metavar="URI", help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")
    add("--rules", default=RULES_PATH, metavar="FILE", help="segment rules (YAML) or a release folder; default: those shipped")
    add("--catalogue", default=CATALOGUE_PATH, metavar="FILE", help="attribute catalogue (YAML); default: the one shipped")
    add("--settings", default=SETTINGS_PATH, metavar="FILE", help="policy, deadline, cache (YAML); default: those shipped")
    add("--inventory", metavar="FILE", help="listings (JSONL, CSV, Parquet); without it only queries are answered")
    add("--experiments", metavar="FILE", help="experiments (YAML); without it everybody sees the personalised listing")
    add("--events", metavar="URI", help="where impressions, clicks and events go: file:PATH or pubsub://PROJECT/topics/TOPIC")
    add("--access", metavar="FILE", help="bearer keys by role (YAML); without it only this machine may ask")
    add("--host", default="127.0.0.1", help="the address to listen at; default: %(default)s")
    add("--port", type=int, default=PORT, help="default: %(default)s; 0: any that is free")
    return Config(**vars(parser.parse_args(argv)))


def run(argv: Sequence[str]) -> int:
    """Serve until a signal; the exit status."""
    config = parse_args(argv)
    catalogue = load_catalogue(config.catalogue)
    settings = parse_settings(read_bytes(config.settings, MAX_BYTES + 1), config.settings, POLICIES)
    bound = _bound(config.host, config.port)
    metrics = Metrics()
    lifespan = Lifespan(dataclasses.replace(config, port=bound.getsockname()[1]), catalogue, settings, metrics)
    server = uvicorn.Server(
        uvicorn.Config(
            lifespan,
            loop="uvloop",
            http=bounded(lambda status: metrics.requests.labels("none", status).inc()),  # type: ignore[arg-type]  # called as the class is
            ws="none",
            lifespan="on",
            log_config=None,  # its lines are like ours
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(FLUSH_S),
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn has handlers of its own, and raises the signal anew when it is done
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what it usually asks for is done without: changed files are read anew
    try:
        server.run([bound])
    except SystemExit as end:  # it could not begin
        raise lifespan.fault or end from None
    return EXIT_OK


class Lifespan:
    """The ASGI app with its beginning and end: what needs the running loop is made when that runs."""

    def __init__(self, config: Config, catalogue: Catalogue, settings: Settings, metrics: Metrics) -> None:
        self._config, self._catalogue, self._settings, self._metrics = config, catalogue, settings, metrics
        self._app: Any = None
        self._stack = contextlib.AsyncExitStack()
        self.fault: Exception | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or begin, or end."""
        if scope["type"] != "lifespan":
            try:
                await self._app(scope, receive, send)
            except asyncio.CancelledError:  # it took longer than those are waited for that are under way at the end
                with contextlib.suppress(RuntimeError):  # the answer was begun
                    await _send_ending(send)
            return
        await receive()
        try:
            self._app = await self._stack.enter_async_context(serving(self._config, self._catalogue, self._settings, self._metrics))
        except Exception as fault:  # whatever it is, nothing may be served without an app
            self.fault = fault
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stack.aclose()
        await send({"type": "lifespan.shutdown.complete"})


async def _send_ending(send: Any) -> None:
    body = fault_bytes("ending", "the gateway ends, try again")
    headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(config: Config, catalogue: Catalogue, settings: Settings, metrics: Metrics) -> AsyncIterator[falcon.asgi.App]:
    """The app, with everything that it needs at work, warmed up; ended in order afterwards."""
    store, pseudonyms = open_store(config.store), Pseudonyms(load_ring(config.store))
    store.check()

    def failed(what: str) -> Callable[[], None]:
        return metrics.faults.labels(what).inc

    access = None if config.access is None else AccessFile(config.access)
    rules = RulesFile(config.rules, config.catalogue, failed("rules"))
    release, withdrawn = Watched(rules.current), Watched(functools.partial(withdrawn_in, store))
    looks: list[Callable[[], object]] = [release.look, withdrawn.look]
    if access is not None:
        looks.append(access.look)
    experiments = None
    if config.experiments is not None:
        experiments = ExperimentsFile(config.experiments, policies=POLICIES, layer=settings.layer, refused=failed("experiments"))
        looks.append(experiments.look)
        if config.inventory is None and any(each.segments for each in experiments.current().experiments):
            msg = f"--experiments == {config.experiments} has flags of segments, must come with --inventory"
            raise ConfigError(msg)
    listings = None if config.inventory is None else InventoryFile(config.inventory, catalogue)
    if listings is not None:
        looks.append(listings.look)
    outbox = None if config.events is None else Outbox(open_sink(config.events))
    limits = Limits(settings.deadline_ms / 1000, max_reads=settings.max_reads, max_waiting=settings.max_waiting)
    reader = SegmentReader(
        open_rows(config.store),
        pseudonyms,
        withdrawn=lambda: withdrawn.value,
        limits=limits,
        ttl_s=settings.cache_ttl_ms / 1000,
        cache_rows=settings.cache_rows,
    )
    measures: dict[str, Measure] = {
        "cache_rows": ("Rows in the cache.", lambda: reader.cached_rows),
        "breaker_open": ("1 while the store is given up.", lambda: reader.breaker.state == "open"),
        "rules_version": ("Of the active rules.", lambda: release.value.active.version),
    }
    if listings is not None:
        measures["listings_reloads"] = ("Listing files taken since the start.", lambda: listings.reloads)
        measures["listings_refused"] = ("Listing files that were broken.", lambda: listings.refused)
    metrics.watch(measures, lambda: None if outbox is None else outbox.counts)
    parts = Parts(
        reader,
        pseudonyms,
        catalogue,
        settings,
        metrics,
        rules=lambda: release.value,
        experiments=lambda: None if experiments is None else experiments.current(),
        inventory=lambda: listings,
        outbox=outbox,
    )
    readiness = Readiness()
    app = build_app(parts, store, Door(lambda: None if access is None else access.current()), lambda: readiness.status)
    # Each look in a task of its own: one that takes long must not hold up the experiments' kill switch.
    tasks = [asyncio.create_task(keep_looking(look, failed("look"))) for look in looks]
    tasks.append(asyncio.create_task(warmed_up(parts, readiness, config)))
    async with contextlib.AsyncExitStack() as ending:  # each step of it whatever becomes of the others; the last one first
        ending.callback(store.close)
        if outbox is not None:
            ending.push_async_callback(asyncio.to_thread, outbox.close, FLUSH_S)
        ending.push_async_callback(reader.close)
        ending.push_async_callback(_ended, tasks)
        yield app


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclasses.dataclass
class Readiness:
    """What ``/readyz`` says: ``ready``, or what is still missing."""

    status: str = "warming up"


async def warmed_up(parts: Parts, readiness: Readiness, config: Config, pause_s: float = WARM_UP_AGAIN_S) -> None:
    """Do once what the first visitors would wait for; when that fails, say so and try again until it works."""
    while readiness.status != "ready":
        try:
            await _warm_up(parts)
        except Exception as fault:
            _log.exception("warming up failed, again in %g s", pause_s)
            readiness.status = f"warming up failed ({type(fault).__name__}), see the log"
            await asyncio.sleep(pause_s)
        else:
            readiness.status = "ready"
    print(f"serving at http://{config.host}:{config.port}", file=sys.stderr, flush=True)


async def _warm_up(parts: Parts) -> None:
    """Connect to the store, and ask for a featured listing."""
    service = Service(parts._replace(metrics=Metrics()))  # nobody asked this
    request = FeaturedRequest(session_id="warm-up", anonymous_id="warm-up")
    for _ in range(_WARM_UPS):
        service.answer(await service.featured(request, clock_ms()))
        parts.reader.forget("warm-up")
        await asyncio.sleep(0)
    gc.collect()
    gc.freeze()  # rules, listings and modules stay: looking through them again would stop requests for tens of milliseconds


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address, where nobody else is; it doesn't listen yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        msg = f"--host == {host}, --port == {port}, must be an address that can be listened at: {error.strerror}"
        raise ConfigError(msg) from error
    return bound


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
