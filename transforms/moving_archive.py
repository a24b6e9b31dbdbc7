"""The archive's files and ledger under a newer pseudonym key: those with older names are written anew, each in one step.

An event whose ids nobody sealed keeps its names, unless another event tells whose they are. Nothing of a forgotten id gets past
this: a tombstone is of a name, so what it bars goes before the name does.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.identity import NEVER
from schemas.ledger import TOMBSTONE, Entry, entries_in, ledger_of
from schemas.pseudonym import PSEUDONYM, Pseudonyms, replaced, version_of
from schemas.tables import ARCHIVE_ORDER
from transforms.archive_files import parts_of, read_part, write_part
from transforms.archive_graves import SEALED_OF, ArchiveGraves
from transforms.erasing import opened_part, rewriting
from transforms.ledger import change_ledger, read_ledger
from transforms.names import Names
from transforms.whole_files import exists

_IDS: Final = ("user", *SEALED_OF)
_LONGEST_VERSION: Final = 7  # digits and the colon
_VERSION_BYTES: Final = 3


class ArchiveMoved(NamedTuple):
    """What became of files: looked at, written anew, with how many events.

    Of those ``unsealed`` keep an older name; ``forgotten`` were left out, a tombstone bars them. ``entries`` of the ledger were
    renamed, ``entries_left`` keep an older name.
    """

    files: int = 0
    rewritten: int = 0
    events: int = 0
    unsealed: int = 0
    forgotten: int = 0
    entries: int = 0
    entries_left: int = 0

    def __add__(self, other: tuple[int, ...]) -> ArchiveMoved:  # type: ignore[override]
        """Return both together."""
        return ArchiveMoved(*map(sum, zip(self, other, strict=True)))


def rotate_archive(
    archive: str, pseudonyms: Pseudonyms, told: Callable[[int, int, ArchiveMoved], None] = lambda *_: None
) -> ArchiveMoved:
    """Give all events and the ledger the names of the key that writes; ``told(done, files, so far)`` after each file.

    The newest files come first: they tell whose ids those are that older versions of this program didn't seal.
    """
    known, graves = Names(pseudonyms), ArchiveGraves(archive)
    paths, current = parts_of(archive)[::-1], pseudonyms.ring.current.version
    done = ArchiveMoved()
    for number, path in enumerate(paths, 1):
        known.bound()
        if any(version < current for version in versions_in(path)):
            with rewriting(archive) as still_ours:
                done += _rewritten(archive, path, known, current, graves, still_ours)
        done += ArchiveMoved(files=1)
        told(number, len(paths), done)
    return done + rotate_ledger(archive, known, current)


def rotate_ledger(archive: str, known: Names, current: int) -> ArchiveMoved:
    """Give the ledger's entries the names of the key that writes."""
    before, changed = entries_in(read_ledger(archive)), Counter[bool]()
    if not any(_is_older(entry, current) for entry in before):
        return ArchiveMoved()

    def change(ledger: pa.Table) -> pa.Table:
        entries = entries_in(ledger)
        for entry in entries:
            known.learn(entry.key, entry.sealed)
            known.learn(entry.other, entry.sealed_other)
        again = [entry if entry.kind == TOMBSTONE else _renamed(entry, known, current) for entry in entries]
        changed.clear()
        changed.update(_is_older(new, current) for old, new in zip(entries, again, strict=True) if _is_older(old, current))
        return ledger_of(again)

    change_ledger(archive, change)
    return ArchiveMoved(entries=changed[False], entries_left=changed[True])


def renamed_events(table: pa.Table, known: Names, current: int) -> pa.Table:
    """Rows of the archive with the names, and the sealed ids, of one key, as far as it is known whose they are."""
    for name, sealed in SEALED_OF.items():
        if sealed in table.column_names:
            for pair in table.select([name, sealed]).group_by([name, sealed], use_threads=False).aggregate([]).to_pylist():
                if pair[name] is not None and pair[sealed] is not None:
                    known.learn(pair[name], pair[sealed])
    for name in _IDS:
        table = _mapped(table, name, lambda old: known.under(old, current))
    for name, sealed in SEALED_OF.items():
        if sealed in table.column_names:
            table = _sealed_anew(table, name, sealed, known, current)
    return _mapped(table, "experiment", lambda text: _renamed_text(text, known, current)).sort_by(ARCHIVE_ORDER)


def versions_in(path: str) -> set[int]:
    """The key versions of the names, and of the sealed ids, in a file; read from its statistics where they tell."""
    with opened_part(path) as (file, _):
        names = [name for name in (*_IDS, *SEALED_OF.values()) if name in file.schema_arrow.names]
        return {version for name in names for version in _versions_in(file, name)}


def ledger_versions(archive: str) -> tuple[Counter[int], dict[int, list[int]]]:
    """How many entries of the ledger have a name of each key version, and when ids were forgotten (ms UTC) under each."""
    names, graves = Counter[int](), dict[int, list[int]]()
    for entry in entries_in(read_ledger(archive)):
        if entry.kind == TOMBSTONE:
            graves.setdefault(entry.version, []).append(entry.time)
        else:
            names.update({version_of(name) for name in (entry.key, entry.other) if name})
    return names, graves


def _rewritten(
    archive: str, path: str, known: Names, current: int, graves: ArchiveGraves, still_ours: Callable[[], None]
) -> ArchiveMoved:
    """Write one file anew; nobody else writes one anew meanwhile."""
    if not exists(path):  # retention took it
        return ArchiveMoved()
    graves.look()
    admitted = graves.admitted(read_part(path))
    table = renamed_events(admitted.table, known, current)
    graves.bury(_also_buried(admitted.table, known, current, graves))
    still_ours()
    *_, date, name = path.replace(os.sep, "/").split("/")
    write_part(archive, date.removeprefix("date="), name.removeprefix("part-").removesuffix(".parquet"), table)
    left = np.zeros(len(table), np.bool_)
    for column in _IDS:
        left |= _older(table[column], current)
    return ArchiveMoved(rewritten=1, events=len(table), unsealed=int(left.sum()), forgotten=admitted.removed)


def _also_buried(table: pa.Table, known: Names, current: int, graves: ArchiveGraves) -> dict[str, int]:
    """New names of ids that were forgotten under an old one, and when: late copies come under either."""
    if not graves.digests:
        return {}
    names = pa.concat_arrays([table[name].cast(pa.string()).combine_chunks() for name in SEALED_OF]).unique().drop_null()
    until = zip(names.to_pylist(), graves.until_of(names).tolist(), strict=True)
    return {known.under(name, current): time for name, time in until if time != NEVER}


def _mapped(table: pa.Table, name: str, change: Callable[[str], str]) -> pa.Table:
    """The table with another text for each distinct one in a column."""
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    coded = table[name].cast(pa.string()).combine_chunks().dictionary_encode()
    before = coded.dictionary.to_pylist()
    after = [change(text) for text in before]
    if after == before:
        return table
    return table.set_column(place, field, pa.array(after, pa.string()).take(coded.indices).cast(field.type))


def _sealed_anew(table: pa.Table, name: str, sealed: str, known: Names, current: int) -> pa.Table:
    """The table with the ids of a column sealed with the key of their names, where that is known."""
    names = table[name].cast(pa.string()).combine_chunks().dictionary_encode()
    anew = pa.array([known.sealed(each, current) or None for each in names.dictionary.to_pylist()], pa.binary())
    place = table.schema.get_field_index(sealed)
    field = table.schema.field(place)
    column = pc.coalesce(anew.take(names.indices), table[sealed].cast(pa.binary()).combine_chunks())
    return table.set_column(place, field, column.cast(field.type))


def _renamed_text(text: str, known: Names, current: int) -> str:
    """The JSON of an experiment with the names of one key."""
    named = {name: new for name in PSEUDONYM.findall(text) if (new := known.under(name, current)) != name}
    return json.dumps(replaced(json.loads(text), named), sort_keys=True) if named else text


def _renamed(entry: Entry, known: Names, current: int) -> Entry:
    return entry._replace(
        key=known.under(entry.key, current),
        other=known.under(entry.other, current),
        sealed=known.sealed(entry.key, current, entry.sealed),
        sealed_other=known.sealed(entry.other, current, entry.sealed_other),
    )


def _is_older(entry: Entry, current: int) -> bool:
    return entry.kind != TOMBSTONE and any(version_of(name) < current for name in (entry.key, entry.other) if name)


def _older(names: pa.ChunkedArray, current: int) -> NDArray[np.bool_]:
    """For each name whether it is one of an older key."""
    coded = names.cast(pa.string()).combine_chunks().dictionary_encode()
    older = np.array([*(version_of(name) < current for name in coded.dictionary.to_pylist()), False])
    return np.asarray(older[coded.indices.fill_null(len(older) - 1).to_numpy(zero_copy_only=False)])


def _versions_in(file: pq.ParquetFile, name: str) -> set[int]:
    """The key versions in a column, a row group at a time; names of one version lie side by side, in order."""
    places = {file.metadata.schema.column(i).path: i for i in range(file.metadata.num_columns)}
    found: set[int] = set()
    for number in range(file.num_row_groups):
        statistics = file.metadata.row_group(number).column(places[name]).statistics
        if (
            statistics is not None
            and statistics.has_null_count
            and statistics.null_count == file.metadata.row_group(number).num_rows
        ):
            continue
        ends = {_version(statistics.min), _version(statistics.max)} if statistics is not None and statistics.has_min_max else set()
        if len(ends) == 1:
            found |= ends
            continue
        for chunk in file.read_row_group(number, columns=[name], use_threads=False)[name].chunks:
            distinct = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk.unique().drop_null()
            found |= set(map(_version, _heads(distinct).to_pylist()))
    return found


def _heads(values: pa.Array) -> pa.Array:
    """The beginnings of names or sealed ids, which say the version; each once."""
    if pa.types.is_binary(values.type):
        return pc.binary_slice(values, 0, _VERSION_BYTES).unique()
    return pc.utf8_slice_codeunits(values, 0, _LONGEST_VERSION).unique()


def _version(value: Any) -> int:
    return int.from_bytes(value[:_VERSION_BYTES], "big") if isinstance(value, bytes) else version_of(value)
