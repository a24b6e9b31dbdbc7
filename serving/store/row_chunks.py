"""The rows in the responses of Bigtable's ReadRows: cells come in chunks that leave out what they have in common with the last.

The rules are those of the message's own documentation (google/bigtable/v2/bigtable.proto, ``ReadRowsResponse.CellChunk``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from schemas.errors import StoreError


class Cell(NamedTuple):
    """One cell of a row."""

    family: str
    qualifier: bytes
    timestamp_micros: int
    value: bytes


class RowMerger:
    """Takes chunks in the order they come in; ``rows`` has the rows that are complete."""

    _key: bytes
    _family: str
    _qualifier: bytes
    _timestamp: int
    _cells: list[Cell]  # of the row so far
    _parts: list[bytes]  # of the cell so far

    def __init__(self) -> None:
        self.rows: dict[bytes, list[Cell]] = {}
        self._clear()

    def add(self, chunks: Iterable[Any]) -> None:
        """Take the chunks of a response; ``StoreError`` for an order that none may have."""
        for chunk in chunks:
            if chunk.reset_row:
                self._clear()
                continue
            self._name(chunk)
            self._parts.append(chunk.value)
            if chunk.value_size:  # the cell goes on in the next chunk
                continue
            self._cells.append(Cell(self._family, self._qualifier, self._timestamp, b"".join(self._parts)))
            self._parts = []
            if chunk.commit_row:
                self.rows[self._key] = self._cells
                self._clear()

    def end(self) -> None:
        """Check that nothing is left open; ``StoreError`` when a row is."""
        if self._key:
            msg = f"row {self._key[:10].decode(errors='replace')}…: the answer ended within it, must be whole"
            raise StoreError(msg)

    def _name(self, chunk: Any) -> None:
        """Where the chunk's cell belongs: what it doesn't say is as in the one before."""
        if not self._parts:
            self._timestamp = chunk.timestamp_micros
        if chunk.row_key:
            if self._key and chunk.row_key != self._key:
                msg = f"row {self._key[:10].decode(errors='replace')}…: another began within it, must be committed first"
                raise StoreError(msg)
            self._key = chunk.row_key
        if chunk.HasField("family_name"):
            self._family = chunk.family_name.value
        if chunk.HasField("qualifier"):
            self._qualifier = chunk.qualifier.value
        if not self._key or not self._family:
            msg = "a cell came without a row key or a family, must have both"
            raise StoreError(msg)

    def _clear(self) -> None:
        self._key = b""
        self._family, self._qualifier, self._timestamp = "", b"", 0
        self._cells, self._parts = [], []
