"""``forecourt keys``: the pseudonym keys, and the rotation from one to the next while everything runs. See docs/keys.md.

forecourt keys status --store sqlite:///profiles.db --archive DIR
forecourt keys add --store sqlite:///profiles.db
forecourt keys promote 2 --store sqlite:///profiles.db
forecourt keys rotate --store sqlite:///profiles.db --archive DIR --rules rules.yaml
forecourt keys destroy 1 --store sqlite:///profiles.db --archive DIR

Exit status: ``status`` 1 while a key older than the one that writes is still needed; ``rotate`` 1 when something under an older key
couldn't be moved; ``destroy`` 1 when the key is still needed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from pipelines.console import table_console
from rules import CATALOGUE_PATH, RULES_PATH
from schemas.errors import EXIT_FAILED, EXIT_OK, ConfigError
from schemas.instants import clock_ms, format_instant
from schemas.pseudonym import KeyRing, Pseudonyms
from serving.keys import FILE_VARIABLE, KEY_VARIABLE, SECRET_MANAGER, key_file_of, load_ring, ring_in_file
from serving.keys_file import SECRET_BYTES, promoted, replace_file, with_new_key, without_key
from serving.store import Store, check_uri, open_store
from transforms.archive_files import check_archive_path
from transforms.canary import prepared
from transforms.key_use import KeyUse, all_older_unused, key_uses
from transforms.moving import RowsMoved, rotate_rows
from transforms.moving_archive import ArchiveMoved, rotate_archive
from transforms.names import OneRowEach
from transforms.patience import patiently
from transforms.rules_file import load_catalogue, load_release

TELL_EVERY_S: Final = 2.0
MAX_ROUNDS: Final = 3

_log = logging.getLogger(__name__)


def run(argv: Sequence[str]) -> int:
    """Run one of the commands; the exit status."""
    options = _parser().parse_args(argv)
    if options.command in ("add", "promote"):
        return int(options.run(options))
    check_uri(options.store)
    for archive in options.archive:
        check_archive_path(archive)
    return int(options.run(options))


def add(options: argparse.Namespace) -> int:
    """A new key that is known and doesn't write yet; where keys aren't in a file, how it is added."""
    path = _key_file(options)
    if path is not None:
        ring = with_new_key(ring_in_file(path))
        replace_file(path, ring)
        print(f"{path}: version {ring.keys[0].version} added, version {ring.current.version} writes", file=sys.stderr)
        return EXIT_OK
    value = os.environ.get(KEY_VARIABLE, "")
    if value.startswith(SECRET_MANAGER):
        _, project, _, secret = value.removeprefix(SECRET_MANAGER).split("/")
        current = load_ring("").current.version
        print(f"gcloud secrets update {secret} --project={project} --update-version-aliases=current={current}")
        print(f"openssl rand -hex 32 | gcloud secrets versions add {secret} --project={project} --data-file=-")
        return EXIT_OK
    version = load_ring("").keys[0].version + 1
    print(f"a line to add to {KEY_VARIABLE}, below the others, shown only now:", file=sys.stderr)
    print(f"{version}:{secrets.token_hex(SECRET_BYTES)}")
    return EXIT_OK


def promote(options: argparse.Namespace) -> int:
    """A key of the file made the one that writes."""
    path = _key_file(options)
    if path is None:
        msg = (
            f"keys that don't come from a file are promoted where they are: the first line of {KEY_VARIABLE}, or the alias current"
        )
        raise ConfigError(msg)
    ring = promoted(ring_in_file(path), options.version)
    replace_file(path, ring)
    print(f"{path}: version {ring.current.version} writes, for processes that are started from now on", file=sys.stderr)
    return EXIT_OK


def status(options: argparse.Namespace) -> int:
    """What is left under each key."""
    ring, store = load_ring(options.store), _opened(options.store)
    uses, now = key_uses(ring, store, options.archive), clock_ms()
    _show(uses, ring, now, options)
    return EXIT_OK if all_older_unused(uses, ring.current.version, now) else EXIT_FAILED


def rotate(options: argparse.Namespace) -> int:
    """Rows, archives and ledgers moved to the key that writes; again until nothing more comes."""
    ring, store = load_ring(options.store), _opened(options.store)
    if ring.current != ring.keys[0]:
        msg = f"version {ring.current.version} writes, must be the newest key of the ring, {ring.keys[0].version}: promote it first"
        raise ConfigError(msg)
    pseudonyms = Pseudonyms(ring)
    rules = prepared(load_release(options.rules, load_catalogue(options.catalogue)))
    rows, files, everybody = RowsMoved(), ArchiveMoved(), OneRowEach(store, pseudonyms)
    for _ in range(MAX_ROUNDS):  # a nightly run may have begun rows anew from files that came after them
        found = patiently(lambda: rotate_rows(everybody, rules, _told_rows(time.monotonic)))
        moved = ArchiveMoved()
        for archive in options.archive:
            moved += rotate_archive(archive, pseudonyms, _told_files(archive, time.monotonic))
        rows = found._replace(moved=rows.moved + found.moved, views=rows.views + found.views, dropped=rows.dropped + found.dropped)
        files = _both(files, moved)
        if not found.moved and not moved.rewritten and not moved.entries:
            break
    uses, now = key_uses(ring, store, options.archive), clock_ms()
    _show(uses, ring, now, options, rows=rows._asdict(), archive=files._asdict() if options.archive else None)
    left = any(use.rows or use.files or use.entries for use in uses if use.version < ring.current.version)
    return EXIT_FAILED if left or rows.refused else EXIT_OK


def destroy(options: argparse.Namespace) -> int:
    """A key taken out of its file, when nothing needs it any more."""
    if not options.archive and not options.no_archive and options.force is None:
        msg = "--archive must be given, for each archive that has the store's events; --no-archive where there is none"
        raise ConfigError(msg)
    ring, path = load_ring(options.store), _key_file(options)
    without_key(ring, options.version)  # says what is wrong before the long look
    if options.force is None:
        (use,) = (each for each in key_uses(ring, _opened(options.store), options.archive) if each.version == options.version)
        if why := use.kept_by(clock_ms()):
            print(f"forecourt: version {options.version} is still needed: {'; '.join(why)}", file=sys.stderr)
            return EXIT_FAILED
    elif not options.force.strip():
        msg = "--force must say why"
        raise ConfigError(msg)
    else:
        _log.warning("version %d destroyed by force: %s", options.version, options.force)
    if path is None:
        print(
            f"version {options.version} may be destroyed where it is kept: take its line out of {KEY_VARIABLE}, or", file=sys.stderr
        )
        print(f"gcloud secrets versions destroy {options.version} --secret=SECRET", file=sys.stderr)
        return EXIT_OK
    replace_file(path, without_key(ring_in_file(path), options.version))
    print(f"{path}: version {options.version} destroyed", file=sys.stderr)
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="forecourt keys", description="The pseudonym keys, and the rotation from one to the next."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    described: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
        "status": (status, "What is left under each key, and which may be destroyed."),
        "add": (add, "A new key that is known and doesn't write yet."),
        "promote": (promote, "Make a key of the file the one that writes."),
        "rotate": (rotate, "Move all rows, and an archive's events, to the key that writes."),
        "destroy": (destroy, "Take a key out of the file, when nothing needs it any more."),
    }
    for name, (work, text) in described.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=work)
        if name in ("promote", "destroy"):
            command.add_argument("version", type=int, help="the key's version")
        if name in ("add", "promote"):
            command.add_argument("--store", default="", help="a sqlite: store, whose key file lies beside it")
            continue
        command.add_argument("--store", required=True, help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")
        command.add_argument("--archive", action="append", default=[], metavar="DIR", help="an archive; may be given several times")
        if name == "rotate":
            command.add_argument("--rules", default=RULES_PATH, help="the rules that the stream has; default: those shipped")
            command.add_argument("--catalogue", default=CATALOGUE_PATH, help="attribute catalogue (YAML); default: the one shipped")
        if name == "destroy":
            command.add_argument("--no-archive", action="store_true", help="there is no archive")
            command.add_argument("--force", metavar="REASON", help="destroy it though it may be needed: what is left can't be read")
        else:
            command.add_argument("--json", action="store_true", help="print one JSON document on stdout and nothing else")
    return parser


def _key_file(options: argparse.Namespace) -> Path | None:
    """The file that holds the keys; ``None`` where they are in the environment or Secret Manager."""
    if path := os.environ.get(FILE_VARIABLE):
        return Path(path)
    if os.environ.get(KEY_VARIABLE):
        return None
    if options.store.startswith("sqlite:///"):
        return key_file_of(options.store)
    msg = f"{KEY_VARIABLE}, {FILE_VARIABLE} or --store sqlite:///PATH must say where the keys are"
    raise ConfigError(msg)


def _opened(uri: str) -> Store:
    store = open_store(uri)
    store.check()
    return store


def _both(before: ArchiveMoved, after: ArchiveMoved) -> ArchiveMoved:
    """Two rounds over the same files: what was done adds up, what is left is as of the last."""
    return ArchiveMoved(
        after.files,
        before.rewritten + after.rewritten,
        before.events + after.events,
        after.unsealed,
        before.forgotten + after.forgotten,
        before.entries + after.entries,
        after.entries_left,
    )


def _told_rows(clock: Callable[[], float]) -> Callable[[RowsMoved], None]:
    due = clock() + TELL_EVERY_S

    def tell(done: RowsMoved) -> None:
        nonlocal due
        if clock() >= due:
            due = clock() + TELL_EVERY_S
            print(f"rows: {done.moved} moved, {done.unsealed} without sealed ids left", file=sys.stderr)

    return tell


def _told_files(archive: str, clock: Callable[[], float]) -> Callable[[int, int, ArchiveMoved], None]:
    due = clock() + TELL_EVERY_S

    def tell(number: int, files: int, done: ArchiveMoved) -> None:
        nonlocal due
        if clock() >= due:
            due = clock() + TELL_EVERY_S
            print(f"{archive}: {number} of {files} files, {done.rewritten} written anew", file=sys.stderr)

    return tell


def _show(uses: Sequence[KeyUse], ring: KeyRing, now: int, options: argparse.Namespace, **moved: Any) -> None:
    if options.json:
        versions = [_document(use, now) for use in uses]
        print(json.dumps({"current": ring.current.version, **moved, "versions": versions}))
        return
    for name, counts in moved.items():
        if counts is not None:
            print(f"{name}: " + ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in counts.items()))
    table = Table(title="Pseudonym keys", title_justify="left")
    for column in ("version", "rows", "archive files", "ledger entries", "tombstones"):
        table.add_column(column, justify="right")
    table.add_column("may be destroyed")
    for use in uses:
        counts = ("-" if number is None else str(number) for number in (use.files, use.entries))
        name = f"{use.version}{' writes' if use.writes else '' if use.known else ' no key'}"
        table.add_row(name, str(use.rows), *counts, str(use.tombstones), "; ".join(use.kept_by(now)) or "yes")
    table_console().print(table)
    if not options.archive:
        print("no archive was looked at: --archive DIR")


def _document(use: KeyUse, now: int) -> dict[str, Any]:
    newest = None if use.newest_tombstone is None else format_instant(use.newest_tombstone)
    why = use.kept_by(now)
    return {**use._asdict(), "newest_tombstone": newest, "may_be_destroyed": not why, "why_not": why}
