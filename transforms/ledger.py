"""The identity ledger's file: ``ARCHIVE/_identity/ledger.parquet``, local or at any path Beam knows, read and changed as a whole.

Nothing of a forgotten id gets in, or back: whoever makes a change, entries that a tombstone bars are left out of what is written.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from numpy.typing import NDArray

from schemas.errors import ConfigError, StoreError, StoreUnavailableError
from schemas.identity import NEVER, digest_of
from schemas.instants import DAY_MS
from schemas.ledger import LINK, SCHEMA, TOMBSTONE, UNLINK, Entry, ledger_of
from schemas.pseudonym import version_of
from transforms.whole_files import LockedError, alone, exists, is_local, read_bytes, replace_bytes

FOLDER: Final = "_identity"
_ORDER: Final = [(name, "ascending") for name in SCHEMA.names]


def ledger_path(archive: str) -> str:
    """Where an archive's ledger lies."""
    return f"{archive.rstrip('/')}/{FOLDER}/ledger.parquet"


def read_ledger(archive: str) -> pa.Table:
    """The ledger of an archive, by ``schemas.ledger.SCHEMA``; empty where there is none. ``ConfigError`` for a broken file."""
    path = ledger_path(archive)
    if not exists(path):
        return SCHEMA.empty_table()
    try:
        return pq.read_table(io.BytesIO(read_bytes(path)), partitioning=None).select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, KeyError, ValueError) as error:
        msg = f"identity ledger == {path}, must be readable Parquet: {error}"
        raise ConfigError(msg) from error


def change_ledger(archive: str, change: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Put what ``change`` makes of the ledger, settled, in its place; what it is now. One at a time: others wait.

    ``StoreUnavailableError`` when another has been changing it for ten seconds, or has taken the lock over meanwhile: try again.
    ``StoreError`` when it can't be written.
    """
    path = ledger_path(archive)
    try:
        with alone(f"{archive.rstrip('/')}/{FOLDER}/_lock") as still_ours:
            before = read_ledger(archive)
            after = settled(change(before))
            if not after.equals(before) or not exists(path):
                data = _parquet_of(after)
                still_ours()
                replace_bytes(path, data)
    except LockedError as error:
        raise StoreUnavailableError(str(error)) from error
    return after


def with_entries(ledger: pa.Table, entries: list[Entry]) -> pa.Table:
    """The ledger and these."""
    return pa.concat_tables([ledger.cast(SCHEMA), ledger_of(entries)])


def ledger_mark(archive: str) -> str:
    """What changes when the file does, cheap to ask for; empty where there is none."""
    path = ledger_path(archive)
    try:
        if is_local(path):
            found = os.stat(path)
            return f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}"
        for file in FileSystems.match([path])[0].metadata_list:
            return f"{file.last_updated_in_seconds}-{file.size_in_bytes}-{FileSystems.checksum(path)}"
    except FileNotFoundError:
        pass
    except Exception as error:  # FileSystems raises whatever its file system does
        msg = f"identity ledger == {path}, must be in a place that can be read: {error}"
        raise StoreError(msg) from error
    return ""


def settled(ledger: pa.Table) -> pa.Table:
    """Entries that count, each once, in order: none that a tombstone bars, and of several tombstones of an id the newest.

    An anonymous id that was linked to a forgotten user by then, and not unlinked since, is forgotten too: it gets a tombstone.
    Links and unlinkings of forgotten ids are barred to the end of that date (``links_void_until``).
    """
    ledger = ledger.cast(SCHEMA).combine_chunks()
    is_grave = pc.equal(ledger["kind"], TOMBSTONE)
    graves, rest = ledger.filter(is_grave), ledger.filter(pc.invert(is_grave))
    if len(graves):
        graves, rest = _barred(graves, rest)
    return _distinct(pa.concat_tables([rest, graves]))


def _barred(graves: pa.Table, rest: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Tombstones, with those that follow from links, and the entries that none of them bars."""
    newest = graves.group_by(["key", "version"], use_threads=False).aggregate([("time", "max")])
    until = dict(zip(newest["key"].to_pylist(), newest["time_max"].to_pylist(), strict=True))
    versions = dict(zip(newest["key"].to_pylist(), newest["version"].to_pylist(), strict=True))
    keys, others = rest["key"].combine_chunks().dictionary_encode(), rest["other"].combine_chunks().dictionary_encode()
    digests, of_others = ([digest_of(text).hex() for text in side.dictionary.to_pylist()] for side in (keys, others))
    times, key_codes, other_codes = rest["time"].to_numpy(), keys.indices.to_numpy(), others.indices.to_numpy()
    void = np.full(len(digests), NEVER, np.int64)
    undone = pc.equal(rest["kind"], UNLINK).to_numpy()
    np.maximum.at(void, key_codes[undone], void_until(times[undone]))
    links = pc.equal(rest["kind"], LINK).to_numpy() & (times > void[key_codes])
    while True:
        buried = _until(until, of_others)[other_codes]
        implied = links & (times <= buried) & (_until(until, digests)[key_codes] < buried)
        if not implied.any():
            break
        for code, time in zip(key_codes[implied].tolist(), buried[implied].tolist(), strict=True):
            until[digests[code]] = max(time, until.get(digests[code], NEVER))
            versions[digests[code]] = version_of(keys.dictionary[code].as_py())
    until_key, until_other = _until(until, digests)[key_codes], _until(until, of_others)[other_codes]
    # An unlinking's instant is the end of its date, so it goes with whoever was forgotten on that date.
    kept = times > np.where(links | undone, void_until(np.maximum(until_key, until_other)), until_key)
    entries = [Entry(TOMBSTONE, key, time, version=versions[key]) for key, time in until.items()]
    return ledger_of(entries), rest.filter(pa.array(kept))


def void_until(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """``links_void_until`` of several instants."""
    return times // DAY_MS * DAY_MS + (DAY_MS - 1)


def _until(until: dict[str, int], digests: list[str]) -> NDArray[np.int64]:
    return np.array([until.get(digest, NEVER) for digest in digests], np.int64)


def _distinct(ledger: pa.Table) -> pa.Table:
    ordered = ledger.sort_by(_ORDER).combine_chunks()
    if len(ordered) < 2:
        return ordered
    same = np.ones(len(ordered) - 1, np.bool_)
    for name in SCHEMA.names:
        column = ordered[name].chunk(0)
        same &= pc.equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return ordered.filter(pa.array(np.append(True, ~same)))


def _parquet_of(ledger: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(ledger, sink, compression="zstd", use_dictionary=["kind", "event_type", "key", "other"])
    return sink.getvalue()
