"""``forecourt retention``: what is older than it may be, as a table; with ``--apply`` it goes.

forecourt retention --archive DIR --store sqlite:///profiles.db --dead-letters file:dead-letters.jsonl --metrics DIR
forecourt retention --archive gs://BUCKET/events --archive-days 35 --apply

Dates of the archive go, but what they say of who is whom and who opted out is kept in its ledger. Dead letters go; so does what
forgotten people have left in the archive, and what is too old in a store. Metrics stay: they name nobody, which is looked after.
Safe to repeat, and to kill. Exit status 1 when metrics name somebody, or a Bigtable table lost its age rules.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from pipelines.console import say as print_line
from pipelines.console import table_console
from pipelines.forget import dead_letters_path
from schemas.errors import EXIT_FAILED, EXIT_OK, ConfigError
from schemas.instants import DAY_MS, clock_ms, format_instant
from schemas.ledger import entry_of_tombstone
from serving.store import Store, check_uri, open_store
from serving.store.garbage import families_without_age
from transforms.ageing import old_dates, old_letters, old_rows, people_in_metrics, remove_date
from transforms.archive_files import check_archive_path, parts_of
from transforms.archive_graves import ArchiveGraves
from transforms.erasing import Digests, Erased, counted_ids, erase_part, in_parallel, links_in, rewriting, united
from transforms.ledger import change_ledger, with_entries
from transforms.metrics_files import check_metrics_path

ARCHIVE_DAYS: Final = 35
LEAST_ARCHIVE_DAYS: Final = 21  # a night reads twenty days back, to know windows as they were ten days ago
DEAD_LETTER_DAYS: Final = 7


@dataclasses.dataclass(frozen=True)
class Config:
    """What may be how old; ``ConfigError`` when that can't be."""

    archive: str
    archive_days: int = ARCHIVE_DAYS
    dead_letters: tuple[str, ...] = ()
    dead_letter_days: int = DEAD_LETTER_DAYS
    store: str | None = None
    metrics: str | None = None
    apply: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_archive_path(self.archive)
        for uri in self.dead_letters:
            dead_letters_path(uri)
        if self.store is not None:
            check_uri(self.store)
        if self.metrics is not None:
            check_metrics_path(self.metrics)
        for option, days, least in (
            ("--archive-days", self.archive_days, LEAST_ARCHIVE_DAYS),
            ("--dead-letter-days", self.dead_letter_days, 1),
        ):
            if days < least:
                msg = f"{option} == {days}, must be at least {least}"
                raise ConfigError(msg)


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line."""
    parser = argparse.ArgumentParser(prog="forecourt retention", description="What is older than it may be, told or deleted.")
    parser.add_argument("--archive", required=True, metavar="DIR", help="what forecourt archive has written")
    parser.add_argument("--archive-days", type=int, default=ARCHIVE_DAYS, help="whole days that stay; default: %(default)d")
    parser.add_argument("--dead-letters", action="append", default=[], metavar="file:PATH", help="may be repeated")
    parser.add_argument("--dead-letter-days", type=int, default=DEAD_LETTER_DAYS, help="default: %(default)d")
    parser.add_argument("--store", help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")
    parser.add_argument("--metrics", metavar="DIR", help="kept for ever; whether they name anybody is looked after")
    parser.add_argument("--apply", action="store_true", help="delete it; without, it is only told")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document on stdout and nothing else")
    options = vars(parser.parse_args(argv))
    options["dead_letters"] = tuple(options["dead_letters"])
    return Config(**options)


def run(argv: Sequence[str]) -> int:
    """Tell what is too old, and delete it if asked; the exit status."""
    config = parse_args(argv)
    document = retain(config, clock_ms())
    if config.as_json:
        print(json.dumps(document))
    else:
        _show(document)
    for fault in document["faults"]:
        print(f"forecourt: {fault}", file=sys.stderr)
    return EXIT_FAILED if document["faults"] else EXIT_OK


def retain(config: Config, now: int) -> dict[str, Any]:
    """Find, and with ``apply`` delete, what is too old at ``now`` (ms UTC); what ``--json`` prints."""
    store = None if config.store is None else open_store(config.store)
    if store is not None:
        store.check()
    dates = old_dates(config.archive, config.archive_days, now)
    if config.apply:
        for old in dates:
            remove_date(config.archive, old)
            print(f"{old.date}: {old.events:,} events deleted", file=sys.stderr)
    erased = _erase_forgotten(config, store)
    letters, before = [], now - config.dead_letter_days * DAY_MS
    for path in filter(os.path.exists, map(dead_letters_path, config.dead_letters)):
        done = old_letters(path, before, dry=not config.apply)
        letters.append({"file": path, "letters": done.lines, "old": done.removed})
    rows = None if store is None else old_rows(store, now, dry=not config.apply)
    if store is not None and config.apply:
        store.purge()
    return {
        "at": format_instant(now),
        "applied": config.apply,
        "dates": [{"date": old.date, "files": len(old.files), "events": old.events, "bytes": old.bytes} for old in dates],
        "forgotten": {"files": erased.rewritten, "events": erased.removed, "anonymous_ids": erased.changed},
        "dead_letters": letters,
        "store": None if rows is None else rows._asdict(),
        "faults": _faults(config, store),
    }


def _erase_forgotten(config: Config, store: Store | None) -> Erased:
    """Take out of the archive what is left of people who have a tombstone, and of those who were linked to them."""
    graves = ArchiveGraves(config.archive)
    graves.look()
    if store is not None and config.apply:
        entries = [entry_of_tombstone(tombstone) for tombstone in store.tombstones()]
        if any(graves.digests.get(bytes.fromhex(entry.key), -1) < entry.time for entry in entries):
            change_ledger(config.archive, lambda ledger: with_entries(ledger, entries))
            graves.look()
    if not graves.digests:
        return Erased()
    parts = parts_of(config.archive)
    if not config.apply:
        return sum(in_parallel(functools.partial(erase_part, buried=Digests(graves.digests), dry=True), parts), Erased())
    graves.bury(graves.follow(counted_ids(united(in_parallel(functools.partial(links_in, buried=graves), parts)))))
    with rewriting(config.archive):
        return sum(in_parallel(functools.partial(erase_part, buried=Digests(graves.digests)), parts_of(config.archive)), Erased())


def _faults(config: Config, store: Store | None) -> list[str]:
    faults = []
    if store is not None:
        faults += [
            f"store {config.store}: family {name} has no age rule, must have one: views stay for ever"
            for name in families_without_age(store)
        ]
    if config.metrics is not None and os.path.isdir(config.metrics):
        faults += [f"metrics file == {path}, must name nobody: it has people's ids" for path in people_in_metrics(config.metrics)]
    return faults


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    out = table_console()
    verb = "deleted" if document["applied"] else "would go"
    table = Table(title=f"what {verb} at {document['at']}", title_justify="left")
    for name in ("what", "files", "number", "bytes"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for date in document["dates"]:
        table.add_row(f"archive, {date['date']}", f"{date['files']:,}", f"{date['events']:,} events", f"{date['bytes']:,}")
    forgotten = document["forgotten"]
    if forgotten["files"]:
        table.add_row("archive, of forgotten ids", f"{forgotten['files']:,}", f"{forgotten['events']:,} events", "")
    for each in document["dead_letters"]:
        table.add_row(f"dead letters, {each['file']}", "1", f"{each['old']:,} of {each['letters']:,}", "")
    for name, number in (document["store"] or {}).items():
        table.add_row(f"store, {name}", "", f"{number:,}", "")
    out.print(table)
    if not document["applied"]:
        print_line(out, "nothing was deleted; --apply does")
