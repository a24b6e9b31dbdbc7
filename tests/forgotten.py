"""People to be forgotten, for the tests: where they leave traces, and a search of its own for what is left, byte by byte."""

from __future__ import annotations

import gzip
import json
import sqlite3
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from schemas.instants import format_instant
from schemas.pseudonym import KeyRing, pseudonym_of, ring_of, seal
from serving.store import open_store
from serving.store.cells import OTHERS

KEY: Final = "a key for tests, long enough"
RING: Final = ring_of(KEY, "tests")


def event(number: int | str, time: int, user: str | None, anonymous: str | None = None, **more: Any) -> dict[str, Any]:
    """An event on the wire."""
    name = f"e{number}" if isinstance(number, int) else number
    body: dict[str, Any] = {"event_id": name, "event_type": "listing_view", "event_time": format_instant(time)}
    body |= {"user_id": user, "anonymous_id": anonymous, "attributes": {"fuel_type": "electric"}}
    return {name: value for name, value in (body | more).items() if value is not None}


def lines_of(events: Iterable[dict[str, Any]]) -> bytes:
    """Events as JSON lines."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in events)


def forms_of(ids: Iterable[str], ring: KeyRing = RING) -> list[bytes]:
    """All that ids may be written as."""
    found = []
    for raw_id in ids:
        found.append(raw_id.encode())
        for key in ring.keys:
            sealed = seal(key, raw_id)
            found += [pseudonym_of(key, raw_id).encode()[2:], sealed, b64encode(sealed).rstrip(b"=")]
    return found


def traces_in(places: Iterable[Path | str], ids: Iterable[str], ring: KeyRing = RING) -> list[str]:
    """Where anything of these ids stands: files and folders, unpacked, and stores by URI, cell by cell."""
    forms = forms_of(ids, ring)
    return sorted({where for where, data in _all_bytes(places) for form in forms if form in data})


def _all_bytes(places: Iterable[Path | str]) -> Iterator[tuple[str, bytes]]:
    for place in places:
        if isinstance(place, str):
            yield from _store_bytes(place)
            continue
        for path in [place] if place.is_file() else sorted(each for each in place.rglob("*") if each.is_file()):
            data = path.read_bytes()
            yield str(path), data
            if data.startswith(b"\x1f\x8b"):
                yield str(path), gzip.decompress(data)
            if data.startswith(b"PAR1") and data.endswith(b"PAR1"):
                for row in pq.ParquetFile(path).read().to_pylist():
                    yield str(path), repr(row).encode()
                    yield str(path), b"\n".join(value for value in row.values() if isinstance(value, bytes))


def _store_bytes(uri: str) -> Iterator[tuple[str, bytes]]:
    if uri.startswith("sqlite:"):
        base = uri.removeprefix("sqlite:///")
        for end in ("", "-wal", "-shm"):
            if Path(base + end).exists():
                yield uri + end, Path(base + end).read_bytes()
        with closing(sqlite3.connect(base)) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
                for row in connection.execute(f"SELECT * FROM {table}"):
                    yield f"{uri} {table}", b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in row)
        return
    store: Any = open_store(uri)
    for row in _bigtable_rows(store):
        yield uri, row


def _bigtable_rows(store: Any) -> Iterator[bytes]:
    for row in store.table.scan(None, OTHERS):
        yield b"\n".join([row.row_key, *(part for cell in row for part in (cell.qualifier, cell.value))])
