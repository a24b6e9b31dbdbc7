"""Erasing people from the archive: the files that hold anything of them are written anew, each in one step, the others left alone.

Events of a forgotten id up to the instant it was forgotten at go. In an event of somebody else a forgotten anonymous id is removed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from schemas.errors import ConfigError, StoreError
from schemas.identity import MAX_LINKS, NEVER, digest_of
from schemas.pseudonym import PSEUDONYM
from transforms.archive_files import write_part
from transforms.ledger import FOLDER
from transforms.traces import Traces
from transforms.whole_files import alone

WORKERS: Final = 2
PATIENCE_S: Final = 600.0
_IDS: Final = ("user", "user_id", "anonymous_id")
_REPEATED: Final = (*_IDS, "event_type", "session_id", "listing_id", "sealed_user_id", "sealed_anonymous_id")

Pair = tuple[str, str]  # pseudonyms of a user and of an anonymous id
T = TypeVar("T")
K = TypeVar("K")


class PartGoneError(StoreError):
    """A file of the archive isn't there any more: its date was removed since it was listed."""


class Buried(Protocol):
    """Knows who was forgotten."""

    def until_of(self, ids: pa.Array) -> NDArray[np.int64]:
        """For each pseudonym when it was forgotten (ms UTC), ``NEVER`` if it wasn't."""


class Digests(NamedTuple):
    """Who was forgotten, by the digests in tombstones; instants are ms UTC."""

    times: Mapping[bytes, int]

    def until_of(self, ids: pa.Array) -> NDArray[np.int64]:
        """For each pseudonym when it was forgotten, ``NEVER`` if it wasn't."""
        return np.array([self.times.get(digest_of(each), NEVER) for each in ids.to_pylist()], np.int64)


class Implied(NamedTuple):
    """An anonymous id linked to a forgotten user: the time of its last link, until when the user is forgotten, its sealed id."""

    linked_at: int
    until: int
    sealed: bytes


class Cleansed(NamedTuple):
    """Rows without what must go, how many went and in how many an anonymous id was removed, and who follows from that."""

    table: pa.Table
    removed: int
    changed: int
    implied: dict[str, Implied]


class Erased(NamedTuple):
    """What became of some files: how many and how large they are, those written anew, events that went, events that changed."""

    files: int = 0
    bytes: int = 0
    rewritten: int = 0
    removed: int = 0
    changed: int = 0

    def __add__(self, other: tuple[int, ...]) -> Erased:  # type: ignore[override]
        """Return both together."""
        return Erased(*map(sum, zip(self, other, strict=True)))


def cleansed(table: pa.Table, buried: Buried) -> Cleansed:
    """Rows of the archive without what is of forgotten ids."""
    times = table["event_time"].cast(pa.int64()).to_numpy()
    of_users = np.maximum(_until(table["user"], buried), _until(table["user_id"], buried))
    of_anonymous = _until(table["anonymous_id"], buried)
    gone = times <= of_users
    nameless = (times <= of_anonymous) & ~gone
    implied = united({key: found} for (_, key), found in _pairs(table, times, of_users, gone).items())
    mentioned = _mentions(table, times, buried, nameless, ~gone)
    if nameless.any():
        for name in ("anonymous_id", "sealed_anonymous_id"):
            if name in table.column_names:
                table = _replaced(table, name, nameless, [None] * int(nameless.sum()))
    if mentioned:
        table = _replaced(table, "experiment", np.isin(np.arange(len(table)), list(mentioned)), list(mentioned.values()))
    nameless[list(mentioned)] = True
    removed, changed = int(gone.sum()), int(nameless.sum())
    return Cleansed(table.filter(pa.array(~gone)) if removed else table, removed, changed, implied)


def erase_part(path: str, buried: Buried, *, dry: bool = False) -> Erased:
    """Write one file anew without what is of forgotten ids, if it holds any of that; ``dry``: only count it."""
    with opened_part(path) as (file, size):
        if not _is_touched(file, buried):
            return Erased(1, size)
        done = cleansed(_plain(file.read(use_threads=False)), buried)
    if not done.removed and not done.changed:
        return Erased(1, size)  # all of it is newer
    if dry:
        return Erased(1, size, 1, done.removed, done.changed)
    *folders, date, name = path.replace(os.sep, "/").split("/")
    write_part("/".join(folders), date.removeprefix("date="), name.removeprefix("part-").removesuffix(".parquet"), done.table)
    return Erased(1, size, 1, done.removed, done.changed)


def links_in(path: str, buried: Buried) -> dict[Pair, Implied]:
    """The anonymous ids that a file's events link to forgotten users, by user and id."""
    with opened_part(path) as (file, _):
        held = set(file.schema_arrow.names)
        if not _holds(file, "user", buried):
            return {}
        columns = [name for name in (*_IDS, "event_time", "sealed_anonymous_id") if name in held]
        table = file.read(columns, use_threads=False)
    times = table["event_time"].cast(pa.int64()).to_numpy()
    of_users = _until(table["user"], buried)
    return _pairs(table, times, of_users, times <= of_users)


def in_parallel(work: Callable[[str], T], paths: Sequence[str], said: Callable[[int, int], None] = lambda *_: None) -> Iterator[T]:
    """What the work gives for each file that is still there. ``said(done, all)`` after each.

    Arrow's is done without Python's lock, so threads will do.
    """

    def done(path: str) -> tuple[T] | None:
        try:
            return (work(path),)
        except PartGoneError:
            return None

    with ThreadPoolExecutor(WORKERS) as pool:
        for number, found in enumerate(pool.map(done, paths), 1):
            said(number, len(paths))
            if found is not None:
                yield found[0]


def united(found: Iterable[Mapping[K, Implied]]) -> dict[K, Implied]:
    """Implied ids of several files as one."""
    all_found: dict[K, Implied] = {}
    for each in found:
        for key, implied in each.items():
            known = all_found.get(key, implied)
            sealed = known.sealed or implied.sealed
            all_found[key] = Implied(max(known.linked_at, implied.linked_at), max(known.until, implied.until), sealed)
    return all_found


def counted_ids(pairs: Mapping[Pair, Implied]) -> dict[str, Implied]:
    """The ids that go with users: of each user those that count, see ``schemas.identity.counted``; the others are by themselves."""
    of_users: dict[str, list[str]] = {}
    for user, key in pairs:
        of_users.setdefault(user, []).append(key)
    return united({key: pairs[user, key]} for user, keys in of_users.items() for key in sorted(keys)[:MAX_LINKS])


@contextlib.contextmanager
def rewriting(archive: str, patience_s: float = PATIENCE_S) -> Iterator[Callable[[], None]]:
    """Be the only one who writes the archive's files anew: of two at once, the slower would bring back what the other took out.

    What it gives is to be called before each file is put in its place, see ``alone``.
    """
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.ExitStack() as stack:
            try:
                still_ours = stack.enter_context(alone(f"{archive.rstrip('/')}/{FOLDER}/_rewriting"))
            except ConfigError:
                if time.monotonic() > deadline:
                    raise
                continue
            yield still_ours
            return


def data_of(column: pa.ChunkedArray) -> Iterator[Any]:
    """The bytes of a column's texts, of equal ones once where they are in a dictionary; nothing stands between them."""
    for chunk in column.chunks:
        texts = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        if (pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)) and len(texts) > texts.null_count:
            yield texts.buffers()[2]


def without(value: Any, gone: Container[str]) -> Any:
    """JSON data without these texts: ``None`` in the place of a value, nothing in the place of a key.

    >>> without({"unit": "1:00", "arms": ["1:00", "b"], "1:00": 1}, frozenset(["1:00"]))
    {'unit': None, 'arms': [None, 'b']}
    """
    if isinstance(value, list):
        return [without(item, gone) for item in value]
    if isinstance(value, dict):
        return {key: without(item, gone) for key, item in value.items() if key not in gone}
    return None if isinstance(value, str) and value in gone else value


def _plain(table: pa.Table) -> pa.Table:
    """The table as it was written, with texts in the place of dictionaries."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = field.with_type(field.type.value_type)
            table = table.set_column(place, plain, table.column(place).cast(plain.type))
    return table


def _until(column: pa.ChunkedArray, buried: Buried) -> NDArray[np.int64]:
    """For each row when the id in it was forgotten; asked once a distinct id."""
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    until = np.append(buried.until_of(coded.dictionary), NEVER)
    return np.asarray(until[coded.indices.fill_null(len(coded.dictionary)).to_numpy(zero_copy_only=False)])


def _pairs(table: pa.Table, times: NDArray[np.int64], until: NDArray[np.int64], gone: NDArray[np.bool_]) -> dict[Pair, Implied]:
    """Who is linked to whom in rows that go."""
    rows = np.flatnonzero(gone & table["anonymous_id"].is_valid().to_numpy() & table["user_id"].is_valid().to_numpy())
    if not len(rows):
        return {}
    wanted = [name for name in (*_IDS, "sealed_anonymous_id") if name in table.column_names]
    found = table.select(wanted).take(pa.array(rows)).to_pylist()
    return united(
        {
            (row["user_id"], row["anonymous_id"]): Implied(
                int(times[place]), int(until[place]), row.get("sealed_anonymous_id") or b""
            )
        }
        for place, row in zip(rows.tolist(), found, strict=True)
        if row["anonymous_id"] != row["user_id"]
    )


def _mentions(
    table: pa.Table, times: NDArray[np.int64], buried: Buried, nameless: NDArray[np.bool_], kept: NDArray[np.bool_]
) -> dict[int, str]:
    """The experiments of kept rows that name a forgotten id, by row, without it."""
    suspects = nameless | (buried.among(table["experiment"]) if isinstance(buried, Traces) else False)
    rows = np.flatnonzero(suspects & kept & table["experiment"].is_valid().to_numpy())
    found: dict[int, str] = {}
    for place, text in zip(rows.tolist(), table["experiment"].take(pa.array(rows)).to_pylist(), strict=True):
        named = sorted(set(PSEUDONYM.findall(text)))
        until = buried.until_of(pa.array(named, pa.string()))
        gone = frozenset(each for each, at in zip(named, until.tolist(), strict=True) if times[place] <= at)
        if gone:
            found[place] = _without_text(json.dumps(without(json.loads(text), gone), sort_keys=True), gone)
    return found


def _without_text(text: str, gone: frozenset[str]) -> str:
    for each in gone:
        text = text.replace(each, "")
    return text


def _replaced(table: pa.Table, name: str, rows: NDArray[np.bool_], values: Sequence[str | None]) -> pa.Table:
    """The table with these values in some rows of a column, in order."""
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    column = table[name].cast(pa.binary() if field.type == pa.binary() else pa.string()).combine_chunks()
    changed = pc.replace_with_mask(column, pa.array(rows), pa.array(values, column.type)).cast(field.type)
    return table.set_column(place, field, changed)


def _is_touched(file: pq.ParquetFile, buried: Buried) -> bool:
    if any(_holds(file, name, buried) for name in _IDS):
        return True
    if not isinstance(buried, Traces):
        return False  # who isn't in an event's ids isn't in its experiment
    return any(buried.may_be_in(data) for texts in _groups(file, "experiment") for data in data_of(texts))


def _holds(file: pq.ParquetFile, name: str, buried: Buried) -> bool:
    """Whether a column has a forgotten id: of dictionaries only the distinct values are looked at."""
    for ids in _groups(file, name):
        for chunk in ids.chunks:
            distinct = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk.unique().drop_null()
            if (buried.until_of(distinct.cast(pa.string())) != NEVER).any():
                return True
    return False


def _groups(file: pq.ParquetFile, name: str) -> Iterator[pa.ChunkedArray]:
    """A column, a row group at a time; not those that have nothing in it."""
    place = file.schema_arrow.names.index(name)
    leaf = next(i for i in range(file.metadata.num_columns) if file.metadata.schema.column(i).path == name) if place >= 0 else -1
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        found = group.column(leaf).statistics
        if found is None or not found.has_null_count or found.null_count < group.num_rows:
            yield file.read_row_group(number, columns=[name], use_threads=False)[name]


@contextlib.contextmanager
def opened_part(path: str) -> Iterator[tuple[pq.ParquetFile, int]]:
    """A file with its size, ids as dictionaries; ``StoreError`` names one that can't be read, ``PartGoneError`` one not there."""
    source: Any
    try:
        if os.path.exists(path):
            size, source = os.stat(path).st_size, path
        else:
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as remote:
                data = remote.read()
            size, source = len(data), io.BytesIO(data)
        held = pq.read_metadata(source)  # an archive of version 0.1.0 has no sealed ids
        coded = {held.schema.column(place).path for place in range(held.num_columns)} & set(_REPEATED)
        with pq.ParquetFile(source, metadata=held, read_dictionary=sorted(coded)) as file:
            yield file, size
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        if not FileSystems.exists(path):
            msg = f"archive file == {path}, must be there; was its date removed?"
            raise PartGoneError(msg) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        msg = f"archive file == {path}, must be readable Parquet that forecourt archive wrote: {reason}"
        raise StoreError(msg) from error
