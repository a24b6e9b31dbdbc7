"""How fast keys rotate: rows moved and events of the archive written anew, a second, on one process.

    python -m benchmarks.rotation [--users N] [--views N]

Rows lie in a SQLite file, and in the Bigtable emulator where it is installed; each user has a linked browser. Prints
a table, writes benchmarks/results/rotation.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.results import say, write_results
from pipelines.emulators import EmulatorsMissing, emulators
from rules import CATALOGUE_PATH, RULES_PATH
from schemas.errors import EXIT_OK
from schemas.event import Event
from schemas.instants import HOUR_MS, MINUTE_MS, clock_ms, date_of
from schemas.pseudonym import Pseudonyms, pseudonymise, ring_of
from schemas.view import pack_attributes
from serving.store import Store, open_store
from transforms.archive import Received, Waiting, write_archive
from transforms.canary import prepared
from transforms.changes import change_of
from transforms.moving import rotate_rows
from transforms.moving_archive import rotate_archive
from transforms.names import OneRowEach
from transforms.rules_file import load_catalogue, load_release
from transforms.windows import Maintainer

OLD: Final = "1:an old key of the benchmark"
BOTH: Final = f"2:a new key of the benchmark\n{OLD}"
EVENTS_A_FILE: Final = 10_000
CHANGES_AT_ONCE: Final = 2_000


def events_of(users: int, views: int, now: int) -> list[Event]:
    """Views of users and of their browsers, an ``identify`` for each pair, over the last eight days."""
    kinds = [
        pack_attributes({"fuel_type": fuel, "body_type": body}) for fuel in ("electric", "diesel") for body in ("suv", "sedan")
    ]
    found = []
    for user in range(users):
        for number in range(views):
            time_ms = now - (number * 193 + user) % (8 * 24 * 60) * MINUTE_MS
            user_id, browser = (None, f"browser-{user}") if number % 4 == 0 else (f"user-{user}", None)
            packed = kinds[(user + number) % 4]
            found.append(Event(f"v{user}-{number}", "listing_view", time_ms, user_id, browser, None, None, packed, None, False))
        link = Event(f"i{user}", "identify", now - HOUR_MS, f"user-{user}", f"browser-{user}", None, None, b"", None, False)
        found.append(link._replace(packed=kinds[0]))
    return found


def rows_rotated(store: Store, events: Sequence[Event]) -> dict[str, Any]:
    """Fill a store with the old key's rows, move them all."""
    rules = prepared(load_release(RULES_PATH, load_catalogue(CATALOGUE_PATH)))
    store.init()
    maintainer, pseudonyms = Maintainer(store), Pseudonyms(ring_of(OLD, "benchmark"))
    for start in range(0, len(events), CHANGES_AT_ONCE):
        page = [change_of(pseudonymise(event, pseudonyms)) for event in events[start : start + CHANGES_AT_ONCE]]
        maintainer.maintain(rules, [change for change in page if change is not None])
    began = time.perf_counter()
    done = rotate_rows(OneRowEach(store, Pseudonyms(ring_of(BOTH, "benchmark"))), rules)
    seconds = time.perf_counter() - began
    left = sum(key.startswith("1:") for key in store.keys())
    assert (done.unsealed, done.refused, left) == (0, 0, 0), "rows were left"
    return {"rows": done.moved, "views": done.views, "seconds": round(seconds, 2), "rows_per_second": round(done.moved / seconds)}


def archive_rotated(folder: str, events: Sequence[Event]) -> dict[str, Any]:
    """Fill an archive under the old key, write it anew; then look again, when there is nothing to do."""
    catalogue, pseudonyms = load_catalogue(CATALOGUE_PATH), Pseudonyms(ring_of(OLD, "benchmark"))
    days: dict[str, list[Received]] = {}
    for event in events:
        days.setdefault(date_of(event.event_time), []).append(Received(pseudonymise(event, pseudonyms), None))
    for date, received in days.items():
        for start in range(0, len(received), EVENTS_A_FILE):
            write_archive(folder, Waiting(date, received[start : start + EVENTS_A_FILE]), catalogue)
    both = Pseudonyms(ring_of(BOTH, "benchmark"))
    began = time.perf_counter()
    done = rotate_archive(folder, both)
    seconds, began = time.perf_counter() - began, time.perf_counter()
    again = rotate_archive(folder, both)
    look = time.perf_counter() - began
    assert (done.events, done.unsealed, again.rewritten) == (len(events), 0, 0), "events were left"
    return {
        "events": done.events,
        "files": done.files,
        "seconds": round(seconds, 2),
        "events_per_second": round(done.events / seconds),
        "seconds_to_see_that_nothing_is_left": round(look, 3),
    }


def main(argv: Sequence[str]) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="benchmarks.rotation", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--users", type=int, default=5_000, help="each has two rows; default: %(default)s")
    parser.add_argument("--views", type=int, default=50, help="of each; default: %(default)s")
    options = parser.parse_args(argv)
    events = events_of(options.users, options.views, clock_ms())
    results: dict[str, Any] = {"users": options.users, "views_each": options.views}
    with tempfile.TemporaryDirectory() as made:
        say("rows in SQLite")
        results["sqlite"] = rows_rotated(open_store(f"sqlite:///{made}/store.db"), events)
        try:
            with emulators() as endpoints:
                say("rows in the Bigtable emulator")
                os.environ.update(endpoints.environment())
                results["bigtable_emulator"] = rows_rotated(open_store(f"bigtable://demo/demo/r{uuid.uuid4().hex[:10]}"), events)
        except EmulatorsMissing as missing:
            say(str(missing))
        say("the archive")
        results["archive"] = archive_rotated(f"{made}/archive", events)
    table = Table(title="Rotation", title_justify="left")
    for column in ("what", "seconds", "a second"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, found in results.items():
        if isinstance(found, dict):
            rate = found.get("rows_per_second", found.get("events_per_second"))
            table.add_row(f"{name}: {found.get('rows', found.get('events')):,}", str(found["seconds"]), f"{rate:,}")
    Console().print(table)
    say(f"written: {write_results('rotation', results)}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
