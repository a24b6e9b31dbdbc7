"""The archive's files: ``DIR/date=YYYY-MM-DD/part-NAME.parquet``, in a local folder or at any path Beam knows (``gs://``).

A file comes into being whole: written and synced under ``DIR/_temporary/``, which readers skip as they do any name with an
underscore in front, then renamed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import secrets
from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from schemas.archive_rows import conformed, deduplicated
from schemas.catalogue import Catalogue
from schemas.errors import ConfigError, StoreError, shown
from schemas.instants import HOUR_MS, SECOND_MS
from schemas.tables import ARCHIVE_ORDER, archive_schema

TEMPORARY: Final = "_temporary"
LEFTOVER_AGE_MS: Final = HOUR_MS
ROW_GROUP_ROWS: Final = 50_000
_IDS: Final = ("user", "user_id", "anonymous_id", "session_id", "listing_id", "sealed_user_id", "sealed_anonymous_id")
_REPEATED: Final = ("event_type", *_IDS)
_PART: Final = re.compile(r"date=\d{4}-\d\d-\d\d/part-\w+\.parquet", re.ASCII)
_PLAIN: Final = CompressionTypes.UNCOMPRESSED

_log = logging.getLogger(__name__)


def check_archive_path(directory: str) -> str:
    """The path itself; ``ConfigError`` when it can't be an archive's."""
    must = "must be a local folder or a path Beam can write to, such as gs://BUCKET/FOLDER"
    try:
        known = FileSystems.get_filesystem(directory) is not None
    except ValueError:
        known = False
    if not directory or not known or directory.startswith("file:") or set(directory) & set("*?["):
        msg = f"archive == {shown(directory)}, {must}, without any of * ? ["
        raise ConfigError(msg)
    return directory


def prepare_archive(directory: str, now: int) -> int:
    """Make the folder where there is none and remove what killed runs left over an hour before ``now``; how many files."""
    try:
        _make_folder(FileSystems.join(directory, TEMPORARY))
        found = FileSystems.match([FileSystems.join(directory, TEMPORARY, "*")])[0].metadata_list
        old = [file.path for file in found if file.last_updated_in_seconds * SECOND_MS < now - LEFTOVER_AGE_MS]
        if old:
            FileSystems.delete(old)
            _log.warning("%d unfinished files of killed runs removed from %s", len(old), directory)
    except Exception as error:  # FileSystems raises whatever its file system does
        msg = f"archive == {directory}, must be a folder that can be written to: {_reason_of(error)}"
        raise ConfigError(msg) from error
    return len(old)


def write_part(directory: str, date: str, name: str, table: pa.Table) -> str:
    """Write rows of one date as a file, which replaces one of the same name; its path. Once it returns, the file is on disk.

    Raises ``StoreError``, and leaves nothing behind, when that can't be done.
    """
    folder = FileSystems.join(directory, f"date={date}")
    path: str = FileSystems.join(folder, f"part-{name}.parquet")
    pending = FileSystems.join(directory, TEMPORARY, f"{date}-{name}-{secrets.token_hex(4)}.parquet")
    data = parquet_of(table)
    try:
        with FileSystems.create(pending, compression_type=_PLAIN) as file:
            file.write(data)
            file.flush()
            with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # not a local file
                os.fsync(file.fileno())
        _make_folder(folder)
        FileSystems.rename([pending], [path])
        _sync_folders(folder, directory)
    except Exception as error:  # FileSystems raises whatever its file system does
        with contextlib.suppress(Exception):
            FileSystems.delete([pending])
        msg = f"archive == {directory}, must be writable: {date}: {_reason_of(error)}; nothing of these events was acknowledged"
        raise StoreError(msg) from error
    return path


def parquet_of(table: pa.Table) -> bytes:
    """The table as a Parquet file, zstd; text that repeats is dictionary-encoded; equal tables are equal bytes."""
    attributes = table.schema.field("attributes").type
    repeated = [*_REPEATED, *(f"attributes.{field.name}" for field in attributes if field.type == pa.string())]
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", use_dictionary=repeated, row_group_size=ROW_GROUP_ROWS)
    return file.getvalue()


def parts_of(directory: str, dates: Iterable[str] | None = None) -> list[str]:
    """The archive's files, of some dates or all, sorted; ``ConfigError`` when there is no archive."""
    patterns = [FileSystems.join(directory, f"date={date}", "part-*.parquet") for date in (["*"] if dates is None else dates)]
    found = [file.path for match in FileSystems.match(patterns) for file in match.metadata_list]
    if not found and not FileSystems.exists(directory):
        msg = f"archive == {directory}, must be a folder that forecourt archive has written"
        raise ConfigError(msg)
    return sorted(path for path in found if _PART.fullmatch("/".join(path.replace(os.sep, "/").split("/")[-2:])))


def dates_of(directory: str) -> list[str]:
    """The dates that an archive has files of, oldest first; ``ConfigError`` when there is no archive."""
    return sorted({path.replace(os.sep, "/").split("/")[-2].removeprefix("date=") for path in parts_of(directory)})


def read_part(path: str, *, coded: bool = False) -> pa.Table:
    """The rows of one file, ``coded`` with texts that repeat as dictionaries; ``StoreError`` names a file that can't be read."""
    try:
        with FileSystems.open(path, compression_type=_PLAIN) as file:
            data = io.BytesIO(file.read())
        return pq.read_table(data, partitioning=None, read_dictionary=list(_REPEATED) if coded else None)
    except Exception as error:  # FileSystems raises whatever its file system does
        msg = f"archive file == {path}, must be readable Parquet: {_reason_of(error)}"
        raise StoreError(msg) from error


def read_archive(path: str, catalogue: Catalogue, dates: Iterable[str] | None = None) -> pa.Table:
    """An archive's rows, or one file's, deduplicated, as rows of this catalogue, in order of user, event time, event id.

    Copies of an event that disagree about its date are seen as copies only where all their ``dates`` are read.
    """
    parts = [path] if path.endswith(".parquet") else parts_of(path, dates)
    tables = [conformed(read_part(part), catalogue) for part in parts]
    table = pa.concat_tables([archive_schema(catalogue).empty_table(), *tables])
    return deduplicated(table).sort_by(ARCHIVE_ORDER)


def _make_folder(path: str) -> None:
    if FileSystems.exists(path):
        return
    try:
        FileSystems.mkdirs(path)
    except OSError:
        if not FileSystems.exists(path):  # else another process was faster
            raise


def _sync_folders(*folders: str) -> None:
    """Make new names in local folders last."""
    for folder in folders:
        if os.path.isdir(folder):
            file = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)


def _reason_of(error: BaseException) -> str:
    """What went wrong, without the list of all paths that ``BeamIOError`` gives."""
    for inner in (getattr(error, "exception_details", None) or {}).values():
        if isinstance(inner, BaseException):
            return _reason_of(inner)
    while isinstance(error, OSError) and error.args and isinstance(error.args[0], OSError):
        error = error.args[0]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
