"""The gateway while its store freezes, dies, crawls and holds nonsense: how long visitors wait, what they get, when it is over.

    python -m benchmarks.outages [--seconds N] [--rate N]

Real parts: a ``forecourt serve``, the Bigtable emulator (stopped by SIGSTOP, killed by SIGKILL and started anew, empty, then filled
again), a TCP proxy for what can't be done to a process. Visitors come at a steady rate, whether or not those before were answered,
and a time is from when a visit was due. Prints a table, writes benchmarks/results/outages.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.results import machine, percentile, write_results
from pipelines.emulators import emulators
from schemas.instants import clock_ms
from schemas.settings import Settings
from serving.store import RowUpdate, Store, open_store
from tests.gateways import PSEUDONYMS, Gateway, Proxy, Visit, gateway_in, listings, members, visits_during

USERS: Final = 60_000
ALLOWED_MS: Final = Settings().deadline_ms + 10


class Scene:
    """The gateway behind a proxy, the store under its own hand, and users who have not been there yet."""

    def __init__(self, gateway: Gateway, proxy: Proxy, uri: str, stack: contextlib.ExitStack, pid: int) -> None:
        self.gateway, self.proxy, self.uri, self.stack, self.pid = gateway, proxy, uri, stack, pid
        self._next = 0

    def users(self, count: int) -> list[str]:
        """Users nobody has asked for."""
        self._next += count
        return [f"u{number}" for number in range(self._next - count, self._next)]

    def freeze(self) -> Callable[[], None]:
        """Stop the store's process; what lets it go on."""
        os.killpg(self.pid, signal.SIGSTOP)
        return lambda: os.killpg(self.pid, signal.SIGCONT)

    def kill(self) -> Callable[[], None]:
        """Kill the store's process; what starts another and fills it."""
        os.killpg(self.pid, signal.SIGKILL)
        self.proxy.target = None
        self.proxy.cut()
        # Started now, so that what is timed is the gateway's way back and not the emulator's.
        endpoints = self.stack.enter_context(emulators(("bigtable",)))
        os.environ.update(endpoints.environment())
        store = open_store(self.uri)
        store.init()
        fill(store)
        self.pid = endpoints.bigtable_pid

        def back() -> None:
            self.proxy.target = endpoints.bigtable

        return back

    def slow_down(self) -> Callable[[], None]:
        """Every answer of the store 200 ms later; what ends that."""
        self.proxy.delay_s = 0.2

        def back() -> None:
            self.proxy.delay_s = 0.0

        return back

    def spoil(self) -> Callable[[], None]:
        """Rows that are no JSON, for the users who come next; nothing ends that, for those after them are sound."""
        store = open_store(self.uri)
        coming = [f"u{number}" for number in range(self._next, self._next + self.spoiled)]
        store.write_memberships([RowUpdate(PSEUDONYMS(user), clock_ms() + 1, b"{", b"{}", 0) for user in coming])
        return lambda: None

    spoiled = 0


def fill(store: Store) -> None:
    """A row for every user."""
    now = clock_ms()
    for start in range(0, USERS, 5_000):
        members(store, [f"u{number}" for number in range(start, start + 5_000)], now)


def outage(scene: Scene, begin: Callable[[], Callable[[], None]], seconds: float, rate: float) -> dict[str, Any]:
    """Visitors through an outage: quiet before, the outage, and the way back."""
    count = int(seconds * rate)
    before = visits_during(scene.gateway.port, scene.users(count // 2), rate)
    scene.spoiled = count
    end = begin()
    during = visits_during(scene.gateway.port, scene.users(count), rate)
    ended = threading.Event()
    ended_s = 0.0

    def finish() -> None:
        time.sleep(1.0)
        end()
        nonlocal ended_s
        ended_s = time.monotonic()
        ended.set()

    threading.Thread(target=finish).start()
    after = visits_during(scene.gateway.port, scene.users(count), rate)
    ended.wait()
    again = next((visit.at_s for visit in after if visit.at_s > ended_s and visit.reason is None), None)
    return {
        "before": summary(before),
        "during": summary(during),
        "after": summary(after),
        "back_after_s": None if again is None else again - ended_s,
    }


def summary(visits: list[Visit]) -> dict[str, Any]:
    """Times in ms and what was served."""
    took = [1_000 * visit.took_s for visit in visits]
    return {
        "visits": len(visits),
        "p50_ms": percentile(took, 0.5),
        "p99_ms": percentile(took, 0.99),
        "worst_ms": max(took),
        "statuses": dict(Counter(str(visit.status) for visit in visits)),
        "reasons": dict(Counter(visit.reason or "personalised" for visit in visits)),
        "default_listing": sum(visit.listing == "l-2" for visit in visits),
    }


@contextlib.contextmanager
def scenery() -> Iterator[Scene]:
    """Everything started and filled."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoints = stack.enter_context(emulators(("bigtable",)))
        os.environ.update(endpoints.environment())
        uri = f"bigtable://demo/demo/o{uuid.uuid4().hex[:8]}"
        store = open_store(uri)
        store.init()
        fill(store)
        proxy = Proxy(endpoints.bigtable)
        stack.callback(proxy.close)
        options = ("--store", uri, "--inventory", str(listings(folder / "listings.jsonl")))
        gateway = stack.enter_context(gateway_in(folder, *options, environment={"BIGTABLE_EMULATOR_HOST": proxy.address}))
        yield Scene(gateway, proxy, uri, stack, endpoints.bigtable_pid)


def main() -> None:
    """Run the outages one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each outage; default: %(default)g")
    parser.add_argument("--rate", type=float, default=200.0, help="visits a second; default: %(default)g")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with scenery() as scene:
        outages = {"frozen": scene.freeze, "killed": scene.kill, "slow": scene.slow_down, "wrong data": scene.spoil}
        for name, begin in outages.items():
            print(f"{name} …", file=sys.stderr, flush=True)
            results[name] = outage(scene, begin, options.seconds, options.rate)
    table = Table(
        title=f"{options.rate:g} visits a second; during an outage p99 must be at most {ALLOWED_MS} ms", title_justify="left"
    )
    for column in ("store", "p99 before", "p50", "p99", "worst", "default served", "reasons", "back after s"):
        table.add_column(column, justify="left" if column in {"store", "reasons"} else "right")
    for name, each in results.items():
        during, back = each["during"], each["back_after_s"]
        table.add_row(
            name,
            f"{each['before']['p99_ms']:.1f}",
            *(f"{during[key]:.1f}" for key in ("p50_ms", "p99_ms", "worst_ms")),
            f"{during['default_listing']}/{during['visits']}",
            ", ".join(f"{reason} {number}" for reason, number in during["reasons"].items()),
            "never" if back is None else f"{back:.2f}",
        )
    Console().print(table)
    path = write_results("outages", {"machine": machine(), "rate": options.rate, "seconds": options.seconds, "outages": results})
    print(f"written: {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
