"""Listings from a JSONL, CSV or Parquet file: read by DuckDB, refused with row, column and value when they can't be used.

What DuckDB does it does without holding up the threads that answer, so a file can be read while another one is served.
"""

from __future__ import annotations

import csv
import gzip
import os
from typing import IO, TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from schemas.catalogue import MAX_CATEGORY_BYTES, Attribute, Catalogue
from schemas.errors import ConfigError, shown
from schemas.event import MAX_ID_BYTES
from serving.columns import Column, column_of
from serving.listings import Listings, Offers

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_LISTINGS: Final = 2_000_000
MAX_TEXT_BYTES: Final = 2_048  # of a title or url
MAX_LISTING_BYTES: Final = 1 << 20
MAX_DIGITS: Final = 38  # of a decimal in Parquet
CONTROL: Final = r"[\x00-\x1f\x7f-\x{9f}]"  # the ids of events and requests have none of these either
OWN_COLUMNS: Final = ("listing_id", "sponsored", "rank", "title", "url")
SUFFIXES: Final = {".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}

_NUMBER_TYPES: Final = "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT FLOAT DOUBLE DECIMAL".split()
_TEXT: Final = {
    "json": "CASE WHEN json_type({0}) = 'VARCHAR' THEN {0}->>'$' END",
    "csv": "{0}",
    "parquet": "CAST({0} AS VARCHAR)",
}
_NUMBER: Final = {
    "json": "CASE WHEN json_type({0}) NOT IN ('VARCHAR', 'BOOLEAN', 'ARRAY', 'OBJECT') THEN TRY_CAST({0} AS DOUBLE) END",
    "csv": "TRY_CAST({0} AS DOUBLE)",
    "parquet": "CAST({0} AS DOUBLE)",
}
_FLAG: Final = {
    "json": "CASE WHEN json_type({0}) = 'BOOLEAN' THEN CAST({0} AS BOOLEAN) END",
    "csv": "CASE lower({0}) WHEN 'true' THEN true WHEN '1' THEN true WHEN 'false' THEN false WHEN '0' THEN false END",
    "parquet": "{0}",
}
_TYPED: Final = {"text": _TEXT, "number": _NUMBER, "flag": _FLAG}


def read_listings(path: str, catalogue: Catalogue) -> Listings:
    """The listings in a file; ``ConfigError`` names file, row (counted from 1, blank lines not), column and value.

    The columns are ``listing_id``, and optionally ``sponsored``, ``rank``, ``title``, ``url`` and the catalogue's attributes;
    others are not looked at. A listing with a value outside a closed list is left out: no filter could tell what it is.
    """
    import duckdb

    kind = _kind_of(path)
    if taken := sorted(set(OWN_COLUMNS) & catalogue.attributes.keys()):
        msg = f"catalogue: attributes == {', '.join(taken)}, must have other names: these are columns of every listing"
        raise ConfigError(msg)
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        connection.execute("SET enable_progress_bar = false")
        columns = {"listing_id": "text", "sponsored": "flag", "rank": "number", "title": "text", "url": "text"}
        columns |= {name: "number" if each.kind == "number" else "text" for name, each in catalogue.attributes.items()}
        typed = {name: _TYPED[of][kind].format(f'"{name}"') for name, of in columns.items()}
        try:
            _load(connection, path, kind, columns)
            _check(connection, path, columns, typed)
            return _listings(connection, path, catalogue, typed)
        except duckdb.Error as error:
            raise ConfigError(_reason(path, kind, error)) from error


def _kind_of(path: str) -> str:
    kind = SUFFIXES.get(os.path.splitext(path.removesuffix(".gz"))[1].lower())
    if kind is None or (kind == "parquet" and path.endswith(".gz")):
        msg = f"listings == {path}, must end with {', '.join(SUFFIXES)}; .gz may follow the first three"
        raise ConfigError(msg)
    if not os.path.isfile(path):
        msg = f"listings == {path}, must be a file that is there"
        raise ConfigError(msg)
    if set(path) & set("*?["):
        msg = f"listings == {path}, must be a path without * ? ["
        raise ConfigError(msg)
    return kind


def _load(connection: DuckDBPyConnection, path: str, kind: str, columns: dict[str, str]) -> None:
    """The table ``raw``: the columns as they are in the file, absent ones empty, and each row's number."""
    if kind == "json":
        types = ", ".join(f"'{name}': 'JSON'" for name in columns)
        source = f"read_json(?, format = 'newline_delimited', columns = {{{types}}}, maximum_object_size = {MAX_LISTING_BYTES})"
        have = dict.fromkeys(columns, "JSON")
    elif kind == "csv":
        header = _header(path)
        types = ", ".join(f"'{name}': 'VARCHAR'" for name in (each.replace("'", "''") for each in header))
        source = (
            f"read_csv(?, auto_detect = false, header = true, columns = {{{types}}}, delim = ',', quote = '\"', escape = '\"',"
            f" nullstr = '', max_line_size = {MAX_LISTING_BYTES})"
        )
        have = dict.fromkeys(header, "VARCHAR")
    else:
        source = "read_parquet(?)"
        have = {name: of for name, of, *_ in connection.execute(f"DESCRIBE SELECT * FROM {source}", [path]).fetchall()}
        _check_names(path, columns)
        _check_types(connection, path, columns, have)
    if "listing_id" not in have:
        msg = f"{path}: columns == {shown(', '.join(have))}, must have listing_id"
        raise ConfigError(msg)
    none = {"text": "VARCHAR", "flag": "BOOLEAN", "number": "DOUBLE"} if kind == "parquet" else dict.fromkeys(_TYPED, "VARCHAR")
    selected = ", ".join(f'"{name}"' if name in have else f'CAST(NULL AS {none[of]}) AS "{name}"' for name, of in columns.items())
    connection.execute(f"CREATE TABLE raw AS SELECT row_number() OVER () AS row, {selected} FROM {source}", [path])


def _header(path: str) -> list[str]:
    try:
        with _opened(path) as file:
            lines = (line.decode("utf-8", "replace") for line in file)
            names = next(csv.reader(lines), [])
    except (csv.Error, OSError, EOFError) as fault:  # of gzip
        msg = f"{path}: must be a csv file of listings: {fault}"
        raise ConfigError(msg) from fault
    return _once_each(path, [names[0].removeprefix("\ufeff"), *names[1:]] if names else names)


def _once_each(path: str, names: list[str]) -> list[str]:
    """The names of columns, if DuckDB can tell them apart: to it capitals are no difference."""
    if not all(names) or len({name.lower() for name in names}) < len(names):
        msg = f"{path}: header == {shown(','.join(names))}, must name each column once, whatever its capitals"
        raise ConfigError(msg)
    return names


def _opened(path: str) -> IO[bytes]:
    return gzip.open(path) if path.endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def _check_names(path: str, columns: dict[str, str]) -> None:
    """Of a Parquet file DuckDB renames the second of two columns, and gets decimals of more than 38 digits wrong."""
    import pyarrow.parquet
    from pyarrow import types

    schema = pyarrow.parquet.read_schema(path)
    looked_at = {name.lower() for name in columns}
    _once_each(path, [name for name in schema.names if name.lower() in looked_at])
    for field in schema:
        if field.name in columns and types.is_decimal(field.type) and field.type.precision > MAX_DIGITS:
            msg = f"{path}: type of column {field.name} == {field.type}, must have at most {MAX_DIGITS} digits"
            raise ConfigError(msg)


def _check_types(connection: DuckDBPyConnection, path: str, columns: dict[str, str], have: dict[str, str]) -> None:
    """A Parquet file says the types itself; that of a column without values doesn't matter."""
    right = {"text": ("VARCHAR", "ENUM"), "flag": ("BOOLEAN",), "number": _NUMBER_TYPES}
    for name, of in columns.items():
        if name in have and have[name].split("(")[0] not in right[of]:
            if connection.execute(f'SELECT 1 FROM read_parquet(?) WHERE "{name}" IS NOT NULL LIMIT 1', [path]).fetchone():
                must = {"text": "text", "flag": "boolean", "number": "a number"}[of]
                msg = f"{path}: type of column {name} == {have[name]}, must be {must}"
                raise ConfigError(msg)
            del have[name]


def _reason(path: str, kind: str, error: Exception) -> str:
    """What DuckDB could not read; in JSON lines the first one that is none, which DuckDB doesn't name reliably."""
    if kind == "json":
        decode, row = msgspec.json.Decoder().decode, 0
        with _opened(path) as file:
            try:
                for line in file:
                    row += bool(line.strip())
                    if line.strip() and not isinstance(decode(line), dict):
                        return f"{path}: row {row} == {shown(line.strip())}, must be a JSON object"
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
                return f"{path}: row {row}, must be a JSON object: {fault}"
            except (OSError, EOFError) as fault:
                return f"{path}: {fault}, must be a whole file"
    return f"{path}: must be a {kind} file of listings: {' '.join(str(error).split())[:300]}"


def _check(connection: DuckDBPyConnection, path: str, columns: dict[str, str], typed: dict[str, str]) -> None:
    """Refuses the first value that can't be right, in the order of the columns."""
    must = {"text": "must be text of at most {} bytes", "flag": "must be true or false", "number": "must be a finite number"}
    for name, of in columns.items():
        limit = {"listing_id": MAX_ID_BYTES, "title": MAX_TEXT_BYTES, "url": MAX_TEXT_BYTES}.get(name, MAX_CATEGORY_BYTES)
        wrong = f"{typed[name]} IS NULL"
        if of == "text":
            wrong += f" OR strlen({typed[name]}) > {limit}"
        elif of == "number":
            wrong += f" OR NOT isfinite({typed[name]})"
        where = f'"{name}" IS NOT NULL AND ({wrong})'
        if name == "listing_id":
            where = f"\"{name}\" IS NULL OR {wrong} OR strlen({typed[name]}) = 0 OR regexp_matches({typed[name]}, '{CONTROL}')"
        query = f'SELECT row, CAST("{name}" AS VARCHAR) FROM raw WHERE {where} ORDER BY row LIMIT 1'
        if fault := connection.execute(query).fetchone():
            row, value = fault
            if value is None:
                msg = f"{path}: row {row}: {name} is missing, must be given"
            else:
                extra = ", without control characters, and not empty" if name == "listing_id" else ""
                msg = f"{path}: row {row}: {name} == {shown(value)}, {must[of].format(limit)}{extra}"
            raise ConfigError(msg)
    doubled = f"SELECT list(row ORDER BY row), {typed['listing_id']} AS id FROM raw GROUP BY id HAVING count(*) > 1"
    query = f"{doubled} ORDER BY min(row) LIMIT 1"
    if fault := connection.execute(query).fetchone():
        (first, second, *_), listing_id = fault
        msg = f"{path}: row {second}: listing_id == {shown(listing_id)}, must be unique, row {first} has it already"
        raise ConfigError(msg)


def _listings(connection: DuckDBPyConnection, path: str, catalogue: Catalogue, typed: dict[str, str]) -> Listings:
    closed = {name: sorted(each.values) for name, each in catalogue.attributes.items() if each.values}
    known = [f"coalesce(list_contains(?, {typed[name]}), true)" for name in closed] or ["true"]
    selected = ", ".join(f'{expression} AS "{name}"' for name, expression in typed.items() if name not in {"sponsored"})
    table = connection.execute(
        f"SELECT {selected}, coalesce({typed['sponsored']}, false) AS sponsored,"
        f" CAST('0x' || sha256({typed['listing_id']})[1:16] AS UBIGINT) AS number"
        f" FROM raw WHERE {' AND '.join(known)} ORDER BY sponsored DESC, rank DESC NULLS LAST, number, listing_id",
        list(closed.values()),
    ).to_arrow_table()
    (total,) = connection.execute("SELECT count(*) FROM raw").fetchone() or (0,)
    if not 0 < table.num_rows <= MAX_LISTINGS:
        msg = f"{path}: listings that can be offered == {table.num_rows} of {total}, must be within 1 and {MAX_LISTINGS}"
        raise ConfigError(msg)
    return Listings(_offers(table, catalogue), left_out=total - table.num_rows)


def _offers(table: Any, catalogue: Catalogue) -> Offers:
    sponsored = table["sponsored"].to_numpy()
    ranks = table["rank"].to_numpy()  # NaN where missing
    new = np.ones(len(ranks), np.bool_)
    same = (ranks[1:] == ranks[:-1]) | (np.isnan(ranks[1:]) & np.isnan(ranks[:-1]))
    new[1:] = ~same | (sponsored[1:] != sponsored[:-1])
    return Offers(
        ids=table["listing_id"].combine_chunks(),
        numbers=table["number"].to_numpy(),
        sponsored=int(sponsored.sum()),
        ties=np.cumsum(new),
        columns={name: _column(table[name], attribute) for name, attribute in catalogue.attributes.items()},
        titles=table["title"].combine_chunks(),
        urls=table["url"].combine_chunks(),
    )


def _column(values: Any, attribute: Attribute) -> Column:
    coded = values.combine_chunks().dictionary_encode()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    of = np.float64 if attribute.kind == "number" else object
    found = np.array(coded.dictionary.to_pylist(), of)
    distinct, places = np.unique(found, return_inverse=True)
    return column_of(distinct, np.append(places, -1)[codes])
