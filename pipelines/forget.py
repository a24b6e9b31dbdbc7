"""``forecourt forget``: people forgotten everywhere, and a search that shows it, with a signed receipt that names nobody.

forecourt forget USER --store sqlite:///profiles.db --archive DIR --dead-letters file:dead-letters.jsonl --receipt receipt.json
forecourt forget - --store bigtable://P/I/T --archive gs://BUCKET/events --sessions sessions.parquet --files reports < ids.txt
forecourt forget --check receipt.json --public-key HEX

Exit status: 1 when the search at the end finds anything of a forgotten id, or a receipt isn't what was signed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pipelines.console import say as print_line
from pipelines.console import table_console
from pipelines.forgetting import (
    Done,
    Person,
    Places,
    Say,
    bury,
    clear_naming,
    compact,
    count_rows,
    erase_archive,
    erase_files,
    erase_ledger,
    erase_rows,
    follow_links,
    ledger_size,
    settle,
    wait,
)
from pipelines.matching_keys import check_keys
from pipelines.receipts import check_receipt, code_version, load_signing_key, write_receipt
from pipelines.verification import STORE_FILES, Found, found_in, in_sqlite_files
from rules import CATALOGUE_PATH, RULES_PATH
from schemas.errors import EXIT_FAILED, EXIT_OK, ConfigError, shown
from schemas.event import MAX_ID_BYTES
from schemas.instants import clock_ms, format_instant
from schemas.pseudonym import Pseudonyms
from serving.keys import load_ring
from serving.store import Store, check_uri, open_store
from transforms.archive_files import check_archive_path, parts_of
from transforms.canary import Prepared, prepared
from transforms.names import OneRowEach
from transforms.rules_file import load_catalogue, load_release

WAIT_S: Final = 3.0  # gateways keep rows for two seconds; writers look for tombstones after each batch
ROUNDS: Final = 4


@dataclasses.dataclass(frozen=True)
class Config:
    """Who is forgotten where; ``ConfigError`` when that can't be done."""

    users: tuple[str, ...]
    store: str
    archive: str | None = None
    dead_letters: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    receipt: str | None = None
    rules: str = RULES_PATH
    catalogue: str = CATALOGUE_PATH
    wait_seconds: float = WAIT_S
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_uri(self.store)
        if self.archive is not None:
            check_archive_path(self.archive)
        if not self.users:
            msg = "USER: no id was given, must be one, or - and ids on stdin, one a line"
            raise ConfigError(msg)
        if any(not 0 < len(user.encode()) <= MAX_ID_BYTES for user in self.users):
            msg = f"USER: an id is empty or too long, must be 1 to {MAX_ID_BYTES} bytes"  # and isn't shown
            raise ConfigError(msg)
        for uri in self.dead_letters:
            dead_letters_path(uri)
        for path in (*self.sessions, *self.files):
            if not Path(path).exists():
                msg = f"file == {path}, must be there"
                raise ConfigError(msg)
        if self.wait_seconds < 0:
            msg = f"--wait-seconds == {self.wait_seconds}, must be 0 or more"
            raise ConfigError(msg)


def dead_letters_path(uri: str) -> str:
    """The path of dead letters in a file; ``ConfigError`` for any other: of a topic's, time takes what is left."""
    if uri.startswith("file:") and len(uri) > len("file:"):
        return uri.removeprefix("file:")
    msg = f"--dead-letters == {shown(uri)}, must be file:PATH (a topic keeps messages at most 31 days; replays leave these out)"
    raise ConfigError(msg)


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """The options in a command line."""
    parser = argparse.ArgumentParser(prog="forecourt forget", description="Forget people everywhere, and search for what is left.")
    parser.add_argument("user", nargs="?", metavar="USER", help="a raw id; - reads ids from stdin, one a line")
    parser.add_argument("--store", help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")
    parser.add_argument("--archive", metavar="DIR", help="what forecourt archive has written")
    parser.add_argument("--dead-letters", action="append", default=[], metavar="file:PATH", help="may be repeated")
    parser.add_argument("--sessions", action="append", default=[], metavar="FILE", help="a sessions table; may be repeated")
    parser.add_argument(
        "--files", action="append", default=[], metavar="PATH", help="JSON lines, tables, or what is only searched; folders too"
    )
    parser.add_argument("--receipt", metavar="FILE", help="write a signed receipt there")
    parser.add_argument("--rules", default=RULES_PATH, help="segment rules (YAML) or a release folder; default: those shipped")
    parser.add_argument("--catalogue", default=CATALOGUE_PATH, help="attribute catalogue (YAML); default: the one shipped")
    parser.add_argument("--wait-seconds", type=float, default=WAIT_S, help="for writers and gateways to know; default: %(default)g")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document on stdout and nothing else")
    parser.add_argument("--check", metavar="RECEIPT", help="forget nobody: whether a receipt is as it was signed")
    parser.add_argument("--public-key", metavar="HEX", help="with --check: by this key")
    known = parser.parse_args(argv)
    if known.check is None and (known.user is None or known.store is None):
        parser.error("USER and --store are required, or --check RECEIPT")
    return known


def run(argv: Sequence[str]) -> int:
    """Forget people, or check a receipt; the exit status."""
    options = vars(parse_args(argv))
    check, public_key, user = options.pop("check"), options.pop("public_key"), options.pop("user")
    if check is not None:
        return _checked(check, public_key, as_json=options["as_json"])
    for name in ("dead_letters", "sessions", "files"):
        options[name] = tuple(options[name])
    ids = (line.rstrip("\r\n") for line in sys.stdin if line.strip()) if user == "-" else [user]
    config = Config(tuple(dict.fromkeys(ids)), **options)
    key = load_signing_key(config.store) if config.receipt is not None else None
    document = forget(config, lambda text: print(text, file=sys.stderr))
    if config.receipt is not None and key is not None:
        write_receipt(config.receipt, document, key)
    if config.as_json:
        print(json.dumps(document))
    else:
        _show(document)
    return EXIT_OK if document["clean"] else EXIT_FAILED


def forget(config: Config, say: Say) -> dict[str, Any]:
    """Forget the people everywhere; what the receipt says of it."""
    began, at = time.monotonic(), clock_ms()
    rules = prepared(load_release(config.rules, load_catalogue(config.catalogue)))
    pseudonyms = Pseudonyms(load_ring(config.store))
    if config.archive is not None:
        parts_of(config.archive)  # a mistyped folder would be searched, and found to be clean
    with contextlib.closing(open_store(config.store)) as store:
        store.check()
        check_keys(store, pseudonyms.ring)
        return _forgotten(config, _places(config, store, pseudonyms), Person(pseudonyms, at), rules, began, say)


def _forgotten(config: Config, places: Places, person: Person, rules: Prepared, began: float, say: Say) -> dict[str, Any]:
    store, at, done = places.store, person.at, Done()
    for user in config.users:
        person.add(user)
    asked = len(person.until)
    count_rows(places, person, done)
    before = 0 if config.archive is None else ledger_size(config.archive)
    with done.phase("tombstones"):
        bury(places, person)
        say(f"{len(config.users):,} ids have tombstones")
        buried = time.monotonic()
    for number in range(ROUNDS):
        with done.phase("links"):
            follow_links(places, person, say)
            bury(places, person)
        with done.phase("wait"):
            wait(config.wait_seconds, buried) if number == 0 else settle()
        with done.phase("rows"):
            erase_rows(places, rules, person)
            bury(places, person)
            cleared = time.monotonic()
        if config.archive is not None:
            with done.phase("archive"):
                erase_archive(places, person, done, say)
                erase_ledger(places, before, done)
        with done.phase("files"):
            erase_files(places, person, done)
        with done.phase("purge"):
            store.purge()
        with done.phase("search"):
            found = found_in(places, person.traces, at, say)
        if set(found.traces) == {STORE_FILES}:
            say("the store's file is written anew: bytes of cells that are gone are left between others")
            with done.phase("purge"):
                compact(store)
            with done.phase("search"):
                found = found._replace(traces=in_sqlite_files(store.uri, person.traces).traces)
        if not found.traces:
            break
        with done.phase("rows"):
            clear_naming(places, rules, person, found.rows)
            cleared = time.monotonic()
    with done.phase("wait"):
        wait(config.wait_seconds, cleared)  # what gateways still remember is gone by then
    return _document(config, person, done, found, (at, asked, time.monotonic() - began))


def _document(config: Config, person: Person, done: Done, found: Found, facts: tuple[int, int, float]) -> dict[str, Any]:
    at, asked, seconds = facts
    return {
        "at": format_instant(at),
        "finished": format_instant(clock_ms()),
        "seconds": round(seconds, 3),
        "code": code_version(),
        "people": len(config.users),
        "linked_ids": max(0, len(person.until) - asked) // max(1, asked // len(config.users)),
        "deleted": {name: number for name, number in sorted(done.deleted.items()) if number},
        "archive": {"files": done.archive.files, "rewritten": done.archive.rewritten, "bytes": done.archive.bytes},
        "scanned": dict(sorted(found.scanned.items())),
        "newer": dict(sorted(found.newer.items())),
        "found": dict(sorted(found.traces.items())),
        "clean": not found.traces,
        "phases": {name: round(took, 3) for name, took in done.seconds.items()},
    }


def _places(config: Config, store: Store, pseudonyms: Pseudonyms) -> Places:
    files: list[str] = []
    for path in config.files:
        inside = sorted(str(each) for each in Path(path).rglob("*") if each.is_file()) if Path(path).is_dir() else [path]
        files += inside
    letters = tuple(dead_letters_path(uri) for uri in config.dead_letters)
    rows = store if len(pseudonyms.ring.keys) == 1 else OneRowEach(store, pseudonyms)
    return Places(store, rows, config.archive, letters, config.sessions, tuple(dict.fromkeys(files)))


def _checked(path: str, public_key: str | None, *, as_json: bool) -> int:
    fault = check_receipt(path, public_key)
    if as_json:
        print(json.dumps({"receipt": path, "good": fault is None, "fault": fault}))
    else:
        by = "with the key in it; --public-key says whose" if public_key is None else "with this key"
        print(f"{path}: " + (f"signed as it is, {by}" if fault is None else fault), file=sys.stderr)
    return EXIT_OK if fault is None else EXIT_FAILED


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    out = table_console()
    table = Table(title=f"forgotten at {document['at']}: {document['people']:,} ids", title_justify="left")
    for name in ("what", "deleted", "searched", "newer, kept", "found"):
        table.add_column(name, justify="left" if name == "what" else "right")
    columns = [Counter(document[name]) for name in ("deleted", "scanned", "newer", "found")]
    for name in sorted(set().union(*columns)):
        table.add_row(name.replace("_", " "), *(f"{column[name]:,}" if name in column else "" for column in columns))
    out.print(table)
    left = "nothing of them is left" if document["clean"] else "SOMETHING IS LEFT"
    held = "" if document["deleted"] else "nothing was held of them: are the ids right? "
    print_line(out, f"{document['seconds']:.1f} s; {held}{left}")
