"""What has become too old, and how it goes: dates of an archive, dead letters, views and rows of a store."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from schemas.dead_letter import DeadLetter
from schemas.identity import FOR_EVER, NEVER, NOBODY, Link, evidence_of
from schemas.instants import DAY_MS, date_of, parse_instant
from schemas.ledger import LINK, SCHEMA, TOMBSTONE, UNLINK, Entry, entries_in, ledger_of
from schemas.profile_row import GARBAGE_AGE_MS, RETENTION_MS, SEALED, SPEED, IdentityCell, Membership
from serving.store import Dump, Store
from serving.store.cells import all_cells
from serving.store.garbage import collects_by_age
from transforms.archive_files import dates_of, parts_of
from transforms.erasing import in_parallel, opened_part, rewriting
from transforms.erasing_files import texts_in
from transforms.evidence import Asked, read_evidence
from transforms.ledger import change_ledger
from transforms.pages import pages_of
from transforms.plain_files import Change, Rewritten, rewrite_lines

_PEOPLE: Final = frozenset({"user", "user_id", "anonymous_id", "session_id", "unit"})
_PSEUDONYM: Final = re.compile(rb"[1-9]\d{0,5}:[0-9a-f]{64}")
_LETTER: Final = msgspec.json.Decoder(DeadLetter).decode
_ROWS_AT_ONCE: Final = 500
_FILES_AT_ONCE: Final = 50


class OldDate(NamedTuple):
    """A date of the archive that goes, with its files."""

    date: str
    files: tuple[str, ...]
    events: int
    bytes: int


class OldRows(NamedTuple):
    """What of a store is too old: views, rows of which nothing else is left, and memberships that have ended in rows that stay."""

    views: int = 0
    rows: int = 0
    memberships: int = 0


def old_dates(archive: str, days: int, now: int) -> list[OldDate]:
    """The dates that ended over ``days`` days before ``now`` (ms UTC), oldest first."""
    first_kept = date_of(now - days * DAY_MS)
    return [_old_date(archive, date) for date in dates_of(archive) if date < first_kept]


def remove_date(archive: str, old: OldDate) -> None:
    """Delete the files of a date; what they say of people is in the ledger before that.

    Killed in between, the rest goes the next time. A file that came meanwhile stays until then. Who writes files of the archive
    anew is waited for: they would bring one back.
    """
    with rewriting(archive):
        files = [path for path in old.files if FileSystems.exists(path)]
        for start in range(0, len(files), _FILES_AT_ONCE):
            said = read_evidence(files[start : start + _FILES_AT_ONCE], Asked(FOR_EVER, sealed=True)).said
            entries = _entries_of(said)
            change_ledger(archive, lambda ledger, entries=entries: told(pa.concat_tables([ledger, entries])))  # type: ignore[misc]
        if files:
            FileSystems.delete(files)
    folder = os.path.dirname(old.files[0])
    if os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)


def told(ledger: pa.Table) -> pa.Table:
    """A ledger with those of its links that are evidence, see ``schemas.identity.evidence_of``; ids of one link aren't read."""
    ledger = ledger.cast(SCHEMA)
    is_link = pc.equal(ledger["kind"], LINK)
    counts = ledger.filter(is_link)["key"].value_counts()
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    undone = ledger.filter(pc.equal(ledger["kind"], UNLINK))
    unsettled = pa.concat_arrays([several.cast(pa.string()), *undone["key"].chunks])
    to_see = pc.and_(is_link, pc.is_in(ledger["key"], unsettled))
    unlinked: dict[str, int] = {}
    for key, time in zip(undone["key"].to_pylist(), undone["time"].to_pylist(), strict=True):
        unlinked[key] = max(time, unlinked.get(key, NEVER))
    links, kept = sorted(entries_in(ledger.filter(to_see)), key=lambda entry: entry.key), list[Entry]()
    for key, group in itertools.groupby(links, key=lambda entry: entry.key):
        by_link = {Link(each.time, each.event_id, each.other, each.event_type, each.sealed_other): each for each in group}
        kept += (by_link[link] for link in evidence_of(by_link, unlinked.get(key, NEVER)))
    both = pa.concat_tables([ledger.filter(pc.invert(to_see)), ledger_of(kept)])
    return both.sort_by([(name, "ascending") for name in SCHEMA.names])


def old_letters(path: str, before: int, *, dry: bool) -> Rewritten:
    """Take the dead letters that were refused before an instant (ms UTC) out of a file; ``dry``: only count them."""
    if dry:
        with open(path, "rb") as file:
            lines = [line.rstrip(b"\n") for line in file if line.strip()]
        return Rewritten(len(lines), os.stat(path).st_size, sum(_is_older(line, before) for line in lines), 0)
    return rewrite_lines(path, _younger(before))


def old_rows(store: Store, now: int, *, dry: bool) -> OldRows:
    """Delete what is too old in a store; ``dry``: only count it. Bigtable deletes views by itself; rows, neither store does.

    A row goes when it has no view left and says nothing of its id; where it does, a membership that has ended goes.
    """
    views = 0 if collects_by_age(store) else _old_views(store, now - GARBAGE_AGE_MS, dry=dry)
    rows = memberships = 0
    for keys in pages_of(store.keys(), _ROWS_AT_ONCE):
        time = store.read_windows(keys, 1).time
        dumps, found = store.dumps(keys), store.read_rows(keys)
        old = now - GARBAGE_AGE_MS if dry and not collects_by_age(store) else NEVER
        over = [key for key in keys if _is_over(dumps[key], old, now) and _has_ended(found[key].membership, now)]
        idle = [key for key in over if all(cell.qualifier == SEALED for cell in dumps[key].identity)]
        ended = [key for key in over if key not in set(idle) and found[key].membership is not None]
        rows, memberships = rows + len(idle), memberships + len(ended)
        if not dry:
            store.take_out({key: dumps[key] for key in idle}, time)
            _seal_again(store, {key: cell for key in idle for cell in dumps[key].identity})
            for key in ended:
                store.drop_membership(key, time)
    return OldRows(views, rows, memberships)


def people_in_metrics(folder: str) -> list[str]:
    """The files under a metrics folder that hold a column of people's ids, or a pseudonym; they are kept for ever."""
    found = []
    for path in sorted(each for each in Path(folder).rglob("*") if each.is_file()):
        named = path.suffix == ".parquet" and _PEOPLE & set(pq.read_schema(path).names)
        if named or any(map(_holds_pseudonym, texts_in(str(path)))):
            found.append(str(path))
    return found


def _holds_pseudonym(part: pa.Array | bytes) -> bool:
    if isinstance(part, bytes):
        return _PSEUDONYM.search(part) is not None
    return any(_PSEUDONYM.search(text if isinstance(text, bytes) else text.encode()) for text in part.drop_null().to_pylist())


def _old_date(archive: str, date: str) -> OldDate:
    files = tuple(parts_of(archive, [date]))
    found = list(in_parallel(_size_of, files))
    return OldDate(date, files, sum(events for events, _ in found), sum(size for _, size in found))


def _size_of(path: str) -> tuple[int, int]:
    """Events and bytes of a file."""
    with opened_part(path) as (file, size):
        return file.metadata.num_rows, size


def _entries_of(said: pa.Table) -> pa.Table:
    """Evidence as entries of a ledger. Only archives of version 0.1.0 hold forgettings, and there was one key version then."""
    if "version" not in said.column_names:
        versions = pc.if_else(pc.equal(said["kind"].cast(pa.string()), TOMBSTONE), 1, 0)
        said = said.append_column("version", versions)
    return said.cast(SCHEMA)


def _younger(before: int) -> Change:
    def change(lines: list[bytes]) -> list[bytes | None]:
        return [None if line.strip() and _is_older(line, before) else line for line in lines]

    return change


def _is_older(line: bytes, before: int) -> bool:
    """Whether a line is a dead letter that was refused before an instant; what isn't one is left to people."""
    try:
        return parse_instant(_LETTER(line).refused_at) < before
    except (msgspec.DecodeError, ValueError):
        return False


def _old_views(store: Store, before: int, *, dry: bool) -> int:
    old: dict[str, int] = {}
    for cell in all_cells(store):
        if cell.family == SPEED and cell.time <= before:
            old[cell.row] = old.get(cell.row, 0) + 1
    if not dry:
        for key in old:
            store.empty_row(key, before)
    return sum(old.values())


def _seal_again(store: Store, sealed: Mapping[str, IdentityCell]) -> None:
    """Write back the sealed ids of rows that something came into meanwhile: whoever wrote it may have seen them still there."""
    read = store.read_windows(list(sealed), 1)
    bare = [key for key in sealed if not read.identities.get(key, NOBODY).sealed and (read.cells[key] or key in read.identities)]
    if bare:
        store.write_identity([(key, sealed[key]) for key in bare])


def _is_over(dump: Dump, before: int, now: int) -> bool:
    """Whether a row has no view left, or none younger than an instant, and no base that the next night could still need."""
    base_until = NEVER if dump.base is None else dump.base[0]
    return all(cell.time <= before for cell in dump.views) and base_until <= now - GARBAGE_AGE_MS


def _has_ended(membership: Membership | None, now: int) -> bool:
    return membership is None or membership.as_of + RETENTION_MS <= now
