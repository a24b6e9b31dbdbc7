"""``forecourt export``: all that is held of a person, and of every id linked to them, as one JSON document.

forecourt export USER --store URI [--archive DIR] [--dead-letters file:PATH] [--sessions FILE ...] > person.json

The raw id that was given is echoed; all others are pseudonyms. Nothing is changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from pipelines.export_parts import Person, events_of_archive, ids_of, ledger_entries, letters_in, person_of, rows_of, sessions_in
from pipelines.forget import dead_letters_path
from pipelines.identity_links import Known
from schemas.errors import EXIT_OK, ConfigError
from schemas.event import MAX_ID_BYTES
from schemas.instants import clock_ms, format_instant
from schemas.pseudonym import Pseudonyms
from serving.keys import load_ring
from serving.store import check_uri, open_store
from transforms.archive_files import check_archive_path, parts_of
from transforms.names import OneRowEach

SCHEMA_VERSION: Final = 1
TELL_EVERY_S: Final = 2.0


@dataclasses.dataclass(frozen=True)
class Config:
    """Whose data, and where it may lie; ``ConfigError`` when that can't be looked through."""

    user: str
    store: str
    archive: str | None = None
    dead_letters: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_uri(self.store)
        if not 0 < len(self.user.encode()) <= MAX_ID_BYTES:
            msg = f"USER is empty or too long, must be 1 to {MAX_ID_BYTES} bytes"  # and isn't shown
            raise ConfigError(msg)
        if self.archive is not None:
            check_archive_path(self.archive)
        for path in (*map(dead_letters_path, self.dead_letters), *self.sessions):
            if not Path(path).is_file():
                msg = f"file == {path}, must be there"
                raise ConfigError(msg)


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line."""
    parser = argparse.ArgumentParser(prog="forecourt export", description="All that is held of a person, as JSON.")
    add = parser.add_argument
    add("user", metavar="USER", help="a raw id, of a user or a browser")
    add("--store", required=True, metavar="URI", help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")
    add("--archive", metavar="DIR", help="what forecourt archive has written, or gs://BUCKET/FOLDER")
    add("--dead-letters", action="append", default=[], metavar="file:PATH", help="may be repeated")
    add("--sessions", action="extend", nargs="+", default=[], metavar="FILE", help="tables of sessions, CSV or Parquet")
    add("--json", action="store_true", help="nothing else is ever printed: for those who are used to it")
    options = vars(parser.parse_args(argv))
    del options["json"]
    dead_letters, sessions = tuple(options.pop("dead_letters")), tuple(options.pop("sessions"))
    return Config(**options, dead_letters=dead_letters, sessions=sessions)


def run(argv: Sequence[str]) -> int:
    """Print all that is held of a person; the exit status."""
    print(json.dumps(export(parse_args(argv), lambda text: print(text, file=sys.stderr, flush=True)), default=str))
    return EXIT_OK


def export(config: Config, say: Callable[[str], None], clock: Callable[[], int] = clock_ms) -> dict[str, Any]:
    """The document; ``say`` hears how far it is when it takes long."""
    store, pseudonyms = open_store(config.store), Pseudonyms(load_ring(config.store))
    store.check()
    known = Known(OneRowEach(store, pseudonyms), pseudonyms)
    person = person_of(known, config.user)
    told = _Told(say)
    document = {
        "schema_version": SCHEMA_VERSION,
        "at": format_instant(clock()),
        "user": config.user,
        "ids": ids_of(known, person),
        "rows": rows_of(known, person),
        "archive": None if config.archive is None else _archive(config.archive, person, told),
        "ledger": None if config.archive is None else ledger_entries(config.archive, person),
        "dead_letters": [letter for uri in config.dead_letters for letter in letters_in(dead_letters_path(uri), person)],
        "sessions": [row for path in config.sessions for row in sessions_in(path, person)],
    }
    store.close()
    return document


class _Told:
    """Says how far the archive is, when it takes longer than two seconds, and then every two."""

    def __init__(self, say: Callable[[str], None], timer: Callable[[], float] = time.monotonic) -> None:
        self._say, self._timer, self._next_s = say, timer, timer() + TELL_EVERY_S

    def __call__(self, done: int, of: int) -> None:
        if self._timer() >= self._next_s:
            self._next_s = self._timer() + TELL_EVERY_S
            self._say(f"went through {done:,} of {of:,} files of the archive")


def _archive(directory: str, person: Person, told: _Told) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    paths = parts_of(directory)
    for number, path in enumerate(paths):
        events += events_of_archive(path, person)
        told(number + 1, len(paths))
    return sorted(events, key=lambda event: (event["event_time"], event["event_id"]))
