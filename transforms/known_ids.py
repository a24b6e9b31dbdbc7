"""Of whom ids are: those that aren't plain in a table in order of hash, and any ids looked up in it. In columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.identity import NEVER, digest_of
from transforms.event_columns import hashes_of

Ints = NDArray[np.int64]

WHOSE: Final = pa.schema(
    [
        ("hash", pa.uint64()),
        ("id", pa.string()),
        ("row", pa.string()),  # the same id by the key that writes
        ("person", pa.string()),
        ("start", pa.int64()),
        ("forgotten", pa.int64()),
    ]
)


class Ids(NamedTuple):
    """Of ids, all by place: the row, the person, from when on views count and until when all is forgotten (ms UTC)."""

    rows: pa.Array
    persons: pa.Array
    starts: Ints
    forgotten: Ints


def look_up(whose: pa.Table, graves: Mapping[bytes, int], ids: pa.Array) -> Ids:
    """Of whom some ids are (texts without nulls), by what isn't plain (``WHOSE``) and the instants of tombstones by digest."""
    found, there = _places(whose, ids)
    starts, forgotten = np.full(len(ids), NEVER, np.int64), np.full(len(ids), NEVER, np.int64)
    rows = persons = ids
    if len(found):
        theirs, mask = whose.take(pa.array(there)).combine_chunks(), np.zeros(len(ids), np.bool_)
        mask[found] = True
        rows, persons = (pc.replace_with_mask(ids, pa.array(mask), theirs[name].chunk(0)) for name in ("row", "person"))
        starts[found], forgotten[found] = theirs["start"].to_numpy(), theirs["forgotten"].to_numpy()
    if graves:
        buried = [graves.get(digest_of(text), NEVER) for text in ids.to_pylist()]
        forgotten = np.maximum(forgotten, np.array(buried, np.int64))
    return Ids(rows, persons, starts, forgotten)


def _places(whose: pa.Table, ids: pa.Array) -> tuple[Ints, Ints]:
    """The places of the ids that stand in ``whose``, and where they stand."""
    nowhere = np.zeros(0, np.int64)
    if not len(ids) or not len(whose):
        return nowhere, nowhere
    hashes, wanted = whose["hash"].to_numpy(), hashes_of(ids)
    there = np.searchsorted(hashes, wanted)
    found = np.flatnonzero(hashes[np.minimum(there, len(hashes) - 1)] == wanted)
    there = there[found]
    texts = ids.take(pa.array(found))
    while len(differ := np.flatnonzero(~pc.equal(whose["id"].take(pa.array(there)).combine_chunks(), texts).to_numpy(False))):
        there[differ] += 1  # another id of that hash
        ended = there[differ] == len(hashes)
        gone = differ[ended | (hashes[there[differ] - ended] != hashes_of(texts.take(pa.array(differ))))]
        kept = np.setdiff1d(np.arange(len(found)), gone)
        found, there, texts = found[kept], there[kept], texts.take(pa.array(kept))
    return found, there
