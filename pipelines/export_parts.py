"""What is held of a person, place by place, as JSON data: rows, archive, ledger, dead letters, tables of sessions."""

from __future__ import annotations

import csv
import io
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.identity_links import Known
from schemas.errors import ConfigError
from schemas.identity import NEVER, NOBODY, digest_of, owning_link
from schemas.instants import format_instant
from schemas.ledger import TOMBSTONE, entries_in
from schemas.profile_row import ProfileRow, ViewCell, decode_base, identity_of
from schemas.view import unpack_attributes
from serving.store import Dump
from transforms.erasing import opened_part
from transforms.forgetting import Graves
from transforms.ledger import read_ledger
from transforms.plain_files import open_lines

_PARQUET: Final = b"PAR1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Person(NamedTuple):
    """All names of each id of a person, the newest key's first: of the one asked for, of their user, of those linked to that."""

    asked: tuple[str, ...]
    user: tuple[str, ...]
    linked: tuple[tuple[str, ...], ...]

    @property
    def ids(self) -> list[tuple[str, ...]]:
        """The ids, each once."""
        return list(dict.fromkeys([self.asked, self.user, *self.linked]))

    @property
    def names(self) -> list[str]:
        """All pseudonyms."""
        return [name for names in self.ids for name in names]


def person_of(known: Known, raw_id: str) -> Person:
    """Who an id belongs to, and what else does."""
    key = known.key(raw_id)
    own = known.identities([key]).get(key, NOBODY)
    link = owning_link(own.links, own.unlinked)
    user = key if link is None else link.other
    linked = known.identities([user]).get(user, NOBODY).linked
    theirs = known.identities([each.other for each in linked])
    owners = {other: owning_link(identity.links, identity.unlinked) for other, identity in theirs.items()}
    mine = [other for other, owner in owners.items() if owner is not None and owner.other == user]
    names = known.store.names
    return Person(tuple(names(key)), tuple(names(user)), tuple(tuple(names(other)) for other in mine))


def ids_of(known: Known, person: Person) -> list[dict[str, Any]]:
    """The ids, what they are to the person, and up to when they were forgotten."""
    graves = Graves()
    graves.look(known.store)
    found = []
    for names in person.ids:
        role = "user" if names == person.user else "linked"
        forgotten = max(graves.exactly(name) for name in names)
        found.append(
            {"pseudonyms": list(names), "role": role, "asked_for": names == person.asked, "forgotten": _instant(forgotten)}
        )
    return found


def rows_of(known: Known, person: Person) -> list[dict[str, Any]]:
    """The rows that hold anything."""
    dumps, rows = known.store.dumps(person.names), known.store.beneath.read_rows(person.names)
    documents = (_row(name, dumps[name], rows[name]) for name in person.names)
    return [document for document in documents if len(document) > 1]


def events_of_archive(path: str, person: Person) -> Iterator[dict[str, Any]]:
    """The person's events in one file, with all columns; of row groups those alone are read that may have any."""
    names = pa.array(sorted(person.names))
    with opened_part(path) as (file, _):
        place = next(i for i in range(file.metadata.num_columns) if file.metadata.schema.column(i).path == "user")
        for number in range(file.num_row_groups):
            found = file.metadata.row_group(number).column(place).statistics
            if found is not None and found.has_min_max and not any(found.min <= name <= found.max for name in names.to_pylist()):
                continue
            users = file.read_row_group(number, ["user"], use_threads=False)["user"].cast(pa.string())
            mask = pc.is_in(users, value_set=names)
            if pc.any(mask).as_py():
                yield from map(_event, file.read_row_group(number, use_threads=False).filter(mask).to_pylist())


def ledger_entries(archive: str, person: Person) -> list[dict[str, Any]]:
    """The ledger's entries about the person's ids, and those that link others to them."""
    names = set(person.names)
    digests = {digest_of(name).hex() for name in names}
    return [
        {"kind": entry.kind, "time": format_instant(entry.time)}
        | {name: _plain(value) for name, value in entry._asdict().items() if value and name not in {"kind", "time"}}
        for entry in entries_in(read_ledger(archive))
        if (entry.key in digests if entry.kind == TOMBSTONE else names & {entry.key, entry.other})
    ]


def letters_in(path: str, person: Person) -> Iterator[dict[str, Any]]:
    """The dead letters of the person's events in a file."""
    names = set(person.names)
    codes = [name.encode() for name in names]
    with open_lines(path) as lines:
        for line in lines:
            if any(code in line for code in codes):
                letter = _json(line)
                event = letter.get("payload") if isinstance(letter, dict) else None
                if isinstance(event, dict) and (event.get("user_id") or event.get("anonymous_id")) in names:
                    yield {"file": path, **letter}


def sessions_in(path: str, person: Person) -> Iterator[dict[str, Any]]:
    """The person's rows in a table of sessions, CSV (``.gz`` too) or Parquet."""
    with open(path, "rb") as file:
        head = file.read(len(_PARQUET))
    try:
        rows = _parquet_rows(path, person) if head == _PARQUET else _csv_rows(path, person)
        yield from ({"file": path, **{name: _plain(value) for name, value in row.items()}} for row in rows)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        msg = f"table == {path}, must be readable CSV or Parquet: {error}"
        raise ConfigError(msg) from error


def _row(name: str, dump: Dump, row: ProfileRow) -> dict[str, Any]:
    identity = identity_of(dump.identity)
    held = {
        "views": [_view(cell) for cell in dump.views],
        "archived_views": [_view(cell) for cell in decode_base(dump.base[1])] if dump.base else [],
        "membership": msgspec.to_builtins(row.membership),
        "candidate": msgspec.to_builtins(row.candidate),
        "profile": msgspec.to_builtins(row.profile),
        "emptied": row.emptied,
        "links": [{**link._asdict(), "time": format_instant(link.time), "sealed": _plain(link.sealed)} for link in identity.links],
        "linked": [{**linked._asdict(), "sealed": _plain(linked.sealed)} for linked in identity.linked],
        "consents": [{"time": format_instant(said.time), "opted_out": said.opted_out} for said in identity.said],
        "unlinked": _instant(identity.unlinked),
        "sealed": _plain(identity.sealed),
    }
    return {"pseudonym": name} | {key: value for key, value in held.items() if value}


def _view(cell: ViewCell) -> dict[str, Any]:
    return {"time": format_instant(cell.time), "event_id": cell.event_id, "attributes": unpack_attributes(cell.value)}


def _event(row: Mapping[str, Any]) -> dict[str, Any]:
    event = {name: _plain(value) for name, value in row.items()}
    event["attributes"] = {name: value for name, value in row["attributes"].items() if value is not None}
    if event.get("experiment") is not None:
        event["experiment"] = json.loads(event["experiment"])
    return event


def _parquet_rows(path: str, person: Person) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        _check_columns(path, file.schema_arrow.names)
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, use_threads=False)
            yield from table.filter(pc.is_in(table["user_id"].cast(pa.string()), value_set=pa.array(person.names))).to_pylist()


def _csv_rows(path: str, person: Person) -> Iterator[dict[str, Any]]:
    names = set(person.names)
    with open_lines(path) as lines:
        table = csv.DictReader(io.TextIOWrapper(lines, "utf-8-sig", newline=""))
        _check_columns(path, table.fieldnames or [])
        yield from (row for row in table if row["user_id"] in names)


def _check_columns(path: str, names: Any) -> None:
    if "user_id" not in names:
        msg = f"table == {path}, must have a column user_id"
        raise ConfigError(msg)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat() if value.tzinfo is None else format_instant((value - _EPOCH) // timedelta(milliseconds=1))
    return value


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _instant(time: int) -> str | None:
    return None if time == NEVER else format_instant(time)
