"""``forecourt identity``: whose an id is and which ids are linked to it, with the evidence; and a wrong link undone.

forecourt identity USER --store URI [--json]
forecourt identity unlink USER LINK --store URI [--archive DIR] [--rules F] [--json]

LINK is the anonymous id: raw, its pseudonym, or as many of the pseudonym's first digits as tell it from the others. Its links up to
the end of the day are void then; what was looked at under it is its own again. With --archive the nights know it too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table

from pipelines.console import say, table_console
from pipelines.identity_links import LINKS_VOID, Known, find, identity_document, unlink
from rules import CATALOGUE_PATH, RULES_PATH
from schemas.errors import EXIT_OK, ConfigError
from schemas.event import MAX_ID_BYTES
from schemas.instants import clock_ms
from schemas.pseudonym import Pseudonyms
from serving.keys import load_ring
from serving.store import check_uri, open_store
from transforms.archive_files import check_archive_path, parts_of
from transforms.canary import prepared
from transforms.names import OneRowEach
from transforms.rules_file import load_catalogue, load_release

UNLINK: Final = "unlink"


@dataclasses.dataclass(frozen=True)
class Config:
    """Whose links to show, or which to undo; ``ConfigError`` when that can't be done."""

    words: tuple[str, ...]
    store: str
    archive: str | None = None
    rules: str = RULES_PATH
    catalogue: str = CATALOGUE_PATH
    as_json: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without touching anything outside."""
        check_uri(self.store)
        if self.archive is not None:
            check_archive_path(self.archive)
        if len(self.words) != (3 if self.unlinks else 1):
            msg = f"number of arguments == {len(self.words)}, must be USER, or {UNLINK} USER LINK"
            raise ConfigError(msg)
        if any(not 0 < len(word.encode()) <= MAX_ID_BYTES for word in self.words):
            msg = f"an id is empty or too long, must be 1 to {MAX_ID_BYTES} bytes"  # and isn't shown
            raise ConfigError(msg)

    @property
    def unlinks(self) -> bool:
        """Whether a link is to be undone."""
        return len(self.words) > 1 and self.words[0] == UNLINK

    @property
    def user(self) -> str:
        """The raw id that it is about."""
        return self.words[1] if self.unlinks else self.words[0]


def parse_args(argv: Sequence[str]) -> Config:
    """The config in a command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="forecourt identity", description=__doc__, formatter_class=raw)
    parser.add_argument("words", nargs="+", metavar="USER | unlink USER LINK", help="raw ids; of LINK the pseudonym will do")
    parser.add_argument("--store", required=True, metavar="URI", help="bigtable://PROJECT/INSTANCE/TABLE or sqlite:///PATH")
    parser.add_argument("--archive", metavar="DIR", help="unlink: the archive whose nights are to know it, or gs://BUCKET/FOLDER")
    parser.add_argument("--rules", default=RULES_PATH, metavar="FILE", help="unlink: the stream's rules; default: those shipped")
    parser.add_argument("--catalogue", default=CATALOGUE_PATH, metavar="FILE", help="unlink: default: the one shipped")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON document on stdout and nothing else")
    options = vars(parser.parse_args(argv))
    return Config(tuple(options.pop("words")), **options)


def run(argv: Sequence[str]) -> int:
    """Show or undo links; the exit status."""
    config = parse_args(argv)
    store, pseudonyms = open_store(config.store), Pseudonyms(load_ring(config.store))
    store.check()
    known = Known(OneRowEach(store, pseudonyms), pseudonyms)
    if config.unlinks:
        _unlink(config, known)
        return EXIT_OK
    document = identity_document(known, config.user)
    if config.as_json:
        print(json.dumps(document))
    else:
        show(document)
    return EXIT_OK


def show(document: dict[str, Any]) -> None:
    """Print who is linked to whom, ids as the first digits of their pseudonyms."""
    out = table_console()
    say(out, f"{document['user']} is {short(document['pseudonym'])}: {_state(document)}")
    if document["links"] or document["unlinked"]:
        say(out, f"links of {short(document['pseudonym'])} to users{_void(document)}")
        out.print(_table(document["links"]))
    for linked in document["linked"]:
        whose = "belongs to it" if linked["belongs"] else "is another's" if linked["belongs_to"] else "is nobody's"
        beyond = "" if linked["counts"] or not linked["belongs"] else ", beyond the hundred that count"
        say(out, f"{short(linked['anonymous'])} {whose}{beyond}{_void(linked)}; {_state(linked)}")
        out.print(_table(linked["links"]))


def short(pseudonym: str) -> str:
    """An id as people are shown it: the first twelve digits of its pseudonym.

    >>> short("1:0123456789abcdef")
    '0123456789ab'
    """
    return pseudonym.partition(":")[2][:12]


def _unlink(config: Config, known: Known) -> None:
    rules = prepared(load_release(config.rules, load_catalogue(config.catalogue)))
    if config.archive is not None:
        parts_of(config.archive)  # a mistyped folder would become an archive that no night reads
    link = find(known, config.user, config.words[2], config.archive)
    document = unlink(known, rules, link, config.archive, clock_ms())
    if config.as_json:
        print(json.dumps(document))
        return
    out = table_console()
    say(out, f"{short(link.anonymous)} is linked to nobody any more; refreshed: {', '.join(map(short, document['refreshed']))}")
    say(out, LINKS_VOID.format(document["void_until"]))
    if config.archive is None:
        say(out, "the nights don't know of it: again with --archive DIR, where there is an archive")


def _state(document: dict[str, Any]) -> str:
    said = [f"{'opted out' if each['opted_out'] else 'opted in'} {each['time']}" for each in document["consents"]]
    parts = [*said, *([f"forgotten up to {document['forgotten']}"] if document["forgotten"] else [])]
    if document.get("person_opted_out"):
        parts.append("as a person opted out")
    return ", ".join(parts) or "never opted out"


def _void(document: dict[str, Any]) -> str:
    return f", void up to {document['unlinked']}" if document["unlinked"] else ""


def _table(links: Sequence[dict[str, Any]]) -> Table:
    table = Table()
    for column in ("user", "time", "event", "type", "verdict"):
        table.add_column(column)
    for link in links:
        table.add_row(short(link["user"]), link["time"], link["event_id"], link["event_type"], link["verdict"])
    return table
