"""The columns of a sessions table as checked arrays; a bad value is refused with file, row, column and value.

Columns are Arrow's, of whatever type the file has: numbers may be text, text may be a dictionary, instants may have any unit. Ids
become codes within Arrow, so that no id is ever a Python object. Rows count from 1, the header of a CSV file is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from experiments.sessions import Floats, Ints
from schemas.errors import ConfigError, shown
from schemas.instants import DAY_MS, LAST_INSTANT_MS, date_of, parse_date, parse_instant

MOST: Final = 1e9
MOST_DAYS: Final = 3_660
MOST_SEGMENTS: Final = 1_000
_WHOLE: Final = re.compile(r"-?\d{1,9}", re.ASCII)
_FLAGS: Final = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}


class Place(NamedTuple):
    """Where a column stands."""

    path: str
    column: str

    def fault(self, row: int, value: object, must: str) -> ConfigError:
        """The error about the value in a row, the first of which is 0."""
        return ConfigError(f"{self.path}, row {row + 1}: {self.column} == {_told(value)}, must be {must}")


class Codes(NamedTuple):
    """A column of names: codes of shape (n,), -1 where the cell is empty, and the names, an Arrow array."""

    codes: NDArray[np.int32]
    names: Any


def ids_of(column: Any, place: Place, *, optional: bool = False) -> Codes:
    """Codes of ids, text or whole numbers, in order of appearance."""
    found = _encoded(column, place)
    if not optional:
        _check(found.codes >= 0, place, lambda _: "", "an id")
    return found


def names_of(column: Any, place: Place, *, optional: bool = False) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Codes of few names, which are in order."""
    found = ids_of(column, place, optional=optional)
    if len(found.names) > MOST_SEGMENTS:
        msg = f"{place.path}: {place.column} has {len(found.names):,} different values, must have at most {MOST_SEGMENTS:,}"
        raise ConfigError(msg)
    return _in_order(found.codes, [str(name) for name in found.names.to_pylist()], str)


def days_of(column: Any, place: Place) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Codes of days, which are in order: dates, or whole numbers."""
    if pa.types.is_timestamp(_plain(column.type)):
        column = pc.cast(pc.cast(_decoded(column, place), pa.date32(), safe=False), pa.string())
    elif pa.types.is_date(_plain(column.type)):
        column = pc.cast(pc.cast(_decoded(column, place), pa.date32()), pa.string())
    elif pa.types.is_floating(_plain(column.type)):
        column = _text_of_whole(_decoded(column, place), place)
    found = _encoded(column, place)
    must = "a date such as 2026-05-01, or a whole number"
    _check(found.codes >= 0, place, lambda _: "", must)
    names = [str(name) for name in found.names.to_pylist()]
    numbers = bool(names) and _WHOLE.fullmatch(names[0]) is not None
    for code, name in enumerate(names):
        if not (_WHOLE.fullmatch(name) if numbers else _is_date(name)):
            if code:
                must = f"{'a whole number' if numbers else 'a date'}, as {names[0]} in the rows before"
            raise place.fault(int(np.argmax(found.codes == code)), name, must)
    if len(names) > MOST_DAYS:
        msg = f"{place.path}: {place.column} has {len(names):,} different values, must have at most {MOST_DAYS:,}"
        raise ConfigError(msg)
    return _in_order(found.codes, names, int if numbers else str)


def dates_of(started: Ints) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Codes of the dates (UTC) of instants, and the dates in order."""
    numbers, codes = np.unique((started // DAY_MS).astype(np.int32), return_inverse=True)
    return codes.astype(np.int32), tuple(date_of(int(number) * DAY_MS) for number in numbers)


def numbers_of(column: Any, place: Place, *, unknown: bool = False, whole: bool = False, least: float = 0) -> Floats:
    """Finite numbers from ``least`` to 1e9; with ``unknown``, empty cells are NaN, else refused."""
    column = _decoded(column, place)
    if _is_text(column.type):
        column = _parsed(column, pa.float64(), lambda text: pa.scalar(text).cast(pa.float64()), place, "a number")
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        if not (pa.types.is_decimal(column.type) or pa.types.is_null(column.type)):
            raise _type_fault(place, column.type, "numbers")
    values: Floats = np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), np.float64)
    good = (values >= least) & (values <= MOST)
    if whole:
        good &= values == np.floor(values)
    if unknown:
        good |= np.isnan(values)
    _check(good, place, lambda row: column[row].as_py(), f"a {'whole ' if whole else ''}number from {least:g} to {MOST:.0e}")
    return values


def flags_of(column: Any, place: Place, *, unknown: bool = False) -> Floats:
    """1 or 0; with ``unknown``, empty cells are NaN, else refused."""
    must = "1 or 0, true or false"
    if not _is_text(_plain(column.type)):
        values = numbers_of(column, place, unknown=True)
        good = (values == 0) | (values == 1) | (np.isnan(values) & unknown)
        _check(good, place, lambda row: "" if math.isnan(values[row]) else float(values[row]), must)
        return values
    found = _encoded(column, place)
    of_names = np.array([*(_FLAGS.get(str(name).lower(), -1.0) for name in found.names.to_pylist()), math.nan])
    values = of_names[found.codes]
    good = (values >= 0) | (np.isnan(values) & unknown)
    _check(good, place, lambda row: found.names[int(found.codes[row])].as_py() if found.codes[row] >= 0 else "", must)
    return values


def instants_of(column: Any, place: Place) -> Ints:
    """Instants in ms UTC; an instant without a zone is taken as UTC."""
    column = _decoded(column, place)
    must = "an instant with an offset, such as 2026-05-01T12:00:00.000Z"
    if _is_text(column.type):
        column = _parsed(column, pa.timestamp("ns", "UTC"), parse_instant, place, must)
    elif not pa.types.is_timestamp(column.type):
        raise _type_fault(place, column.type, "timestamps")
    if column.null_count:
        _check(~np.asarray(pc.is_null(column).to_numpy()), place, lambda _: "", must)
    instants: Ints = np.asarray(
        pc.cast(column, pa.timestamp("ms", column.type.tz), safe=False).cast(pa.int64()).to_numpy(), np.int64
    )
    _check((instants >= 0) & (instants <= LAST_INSTANT_MS), place, lambda row: column[row].as_py().isoformat(), "from 1970 to 9999")
    return instants


def _check(good: NDArray[np.bool_], place: Place, value: Callable[[int], object], must: str) -> None:
    """Refuse the first row that isn't good."""
    if not good.all():
        row = int(np.argmin(good))
        raise place.fault(row, value(row), must)


def _encoded(column: Any, place: Place) -> Codes:
    column = _decoded(column, place)
    if not pa.types.is_integer(column.type):
        if not (_is_text(column.type) or pa.types.is_boolean(column.type) or pa.types.is_null(column.type)):
            raise _type_fault(place, column.type, "text or whole numbers")
        column = pc.cast(column, pa.large_string())  # the texts of all rows together may be more than 2 GiB
    encoded = column.dictionary_encode()  # the chunks share one dictionary, of which the last has all
    names = encoded.chunk(encoded.num_chunks - 1).dictionary if encoded.num_chunks else pa.array([], column.type)
    codes = np.empty(len(encoded), np.int32)
    at = 0
    for chunk in encoded.chunks:
        codes[at : at + len(chunk)] = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        at += len(chunk)
    if pa.types.is_large_string(column.type) and (empty := pc.index(names, pa.scalar("", pa.large_string())).as_py()) >= 0:
        codes = np.where(codes == empty, -1, codes - (codes > empty)).astype(np.int32)
        names = pa.concat_arrays([names.slice(0, empty), names.slice(empty + 1)])
    return Codes(codes, names)


def _in_order(codes: NDArray[np.int32], names: list[str], key: Callable[[str], Any]) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    order = sorted(range(len(names)), key=lambda code: key(names[code]))
    places = np.empty(len(names) + 1, np.int32)
    places[order] = np.arange(len(names))
    places[-1] = -1
    return places[codes], tuple(names[code] for code in order)


def _parsed(column: Any, to: Any, parse: Callable[[Any], Any], place: Place, must: str) -> Any:
    """Text as something else, all at once; where Arrow can't, the first value that ``parse`` can't either is refused."""
    if _is_text(column.type):
        column = pc.cast(column, pa.large_string())
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.large_string()), column)
    try:
        return pc.cast(column, to)
    except pa.ArrowInvalid as error:
        row = 0
        for chunk in column.chunks:
            for value in chunk.to_pylist():
                try:
                    _ = value is None or parse(value)
                except ValueError:
                    raise place.fault(row, value, must) from None
                row += 1
        msg = f"{place.path}: {place.column} can't be read: {str(error).splitlines()[0][:200]}"
        raise ConfigError(msg) from error


def _text_of_whole(column: Any, place: Place) -> Any:
    """Whole numbers that came as floats, as text."""
    values = np.asarray(column.to_numpy(), np.float64)
    _check(
        (values == np.floor(values)) & (np.abs(values) < MOST), place, lambda row: float(values[row]), "a whole number or a date"
    )
    return pa.chunked_array([pa.array(values.astype(np.int64))])


def _is_date(text: str) -> bool:
    try:
        parse_date(text)
    except ValueError:
        return False
    return True


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _decoded(column: Any, place: Place) -> Any:
    """The column without a dictionary; bytes as text."""
    column = pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return column
    try:
        return pc.cast(column, pa.large_string())
    except pa.ArrowInvalid:
        return _parsed(column, pa.large_string(), lambda value: value.decode(), place, "UTF-8")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _type_fault(place: Place, kind: Any, must: str) -> ConfigError:
    return ConfigError(f"{place.path}: column {place.column} is of type {kind}, must be {must}")


def _told(value: object) -> str:
    return "''" if value is None else shown(value)
