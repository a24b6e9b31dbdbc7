"""What would betray forgotten people: ids, their pseudonyms under every key, sealed ids; looked for in tables and plain bytes.

A pseudonym or a sealed id is found anywhere. A raw id is found as a whole word, for ``user-3`` must not be found in ``user-31``;
one of less than eight bytes only as the value of a field of JSON that holds people's ids.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.identity import NEVER
from transforms.needles import Needles

MIN_WORD_BYTES: Final = 8
_FIELDS: Final = "(?:user_id|anonymous_id|user|unit)"
_WITHIN: Final = "[-0-9A-Za-z._@+]"
_PATTERNS_AT_ONCE: Final = 64  # RE2 becomes slow with more; of so many it is faster than what finds any number


class Traces:
    """Ids that were forgotten, each up to an instant (ms UTC), and all that they may be written as.

    ``until`` has the pseudonyms. ``raw`` are ids as senders wrote them, ``sealed`` the encrypted ones.
    """

    def __init__(self, until: Mapping[str, int], raw: Mapping[str, int] | None = None, sealed: Iterable[bytes] = ()) -> None:
        self.until, self.raw, self.sealed = dict(until), dict(raw or {}), frozenset(sealed)
        self.newest = max([*self.until.values(), *self.raw.values()], default=NEVER)
        self._ids = pa.array(sorted(self.until), pa.string())
        self._times = np.array([self.until[key] for key in sorted(self.until)] + [NEVER], np.int64)
        all_codes = set(self._codes())
        all_words = {word for raw in self.raw for word in _spellings(raw) if len(word) >= MIN_WORD_BYTES}
        many = len(all_codes) + len(all_words) > _PATTERNS_AT_ONCE
        self._needles = Needles(all_codes, all_words) if many else None
        codes, words = ([] if many else sorted(map(_escaped, each)) for each in (all_codes, all_words))
        values = sorted(f'{_FIELDS}"\\s*:\\s*{_escaped(text)}' for raw in self.raw for text in _values(raw))
        ends = [f"(?:^|[^{_WITHIN[1:]}){word}(?:[^{_WITHIN[1:]}|$)" for word in words]
        self._exact, self._loose = _expressions(codes + ends + values), _expressions(codes + words + values)

    def until_of(self, ids: pa.Array) -> NDArray[np.int64]:
        """For each pseudonym when it was forgotten, ``NEVER`` if it wasn't."""
        places = pc.index_in(ids, value_set=self._ids).fill_null(len(self._ids))
        return np.asarray(self._times[places.to_numpy(zero_copy_only=False)])

    def time_of(self, some_id: Any) -> int:
        """When an id, as a pseudonym or raw, was forgotten (ms UTC); ``NEVER`` if it wasn't."""
        if not isinstance(some_id, str | int | float) or isinstance(some_id, bool):
            return NEVER
        return self.until.get(str(some_id), self.raw.get(str(some_id), NEVER))

    def among(self, texts: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Which texts, or bytes, hold a trace."""
        return self._matched(texts, self._exact, whole=True)

    def found_in(self, data: Any) -> bool:
        """Whether a text, or the bytes of a file, hold a trace."""
        return bool(self._matched(_one(data), self._exact, whole=True)[0])

    def may_be_in(self, data: Any) -> bool:
        """Whether texts that lie in memory one behind the other, with nothing between them, can hold a trace."""
        return bool(self._matched(_one(data), self._loose, whole=False)[0])

    def _matched(self, texts: pa.Array | pa.ChunkedArray, expressions: list[str], *, whole: bool) -> NDArray[np.bool_]:
        texts = texts.cast(pa.large_binary())
        found = np.zeros(len(texts), np.bool_)
        for expression in expressions:
            hits = pc.match_substring_regex(texts, pattern=expression)
            found |= hits.fill_null(False).to_numpy(zero_copy_only=False)
        if self._needles is not None:
            chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
            found |= np.concatenate([found[:0], *(self._needles.among(chunk, whole=whole) for chunk in chunks)])
        return found

    def _codes(self) -> Iterable[bytes]:
        for key in self.until:
            yield key.partition(":")[2].encode()
        for sealed in self.sealed:
            yield sealed
            yield b64encode(sealed).rstrip(b"=")


def _spellings(raw: str) -> set[bytes]:
    """A raw id as plain text, and as JSON spells it."""
    return {raw.encode(), json.dumps(raw)[1:-1].encode()}


def _values(raw: str) -> set[bytes]:
    """A short raw id as a value in JSON."""
    quoted = {b'"' + spelling + b'"' for spelling in _spellings(raw) if len(spelling) < MIN_WORD_BYTES}
    return quoted | ({raw.encode() + end for end in (b",", b"}", b" ")} if quoted and raw.isdigit() else set())


def _expressions(patterns: list[str]) -> list[str]:
    return ["|".join(patterns[start : start + _PATTERNS_AT_ONCE]) for start in range(0, len(patterns), _PATTERNS_AT_ONCE)]


def _one(data: Any) -> pa.Array:
    """Bytes as an array of one, not copied."""
    ends = np.array([0, memoryview(data).nbytes], np.int64)
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(data)])


def _escaped(pattern: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in pattern)
