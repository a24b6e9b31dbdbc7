"""The archive: what goes in comes out once, whatever the order, the copies, the kills; and nobody is named in it."""

from __future__ import annotations

import gzip
import io
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipelines import simulate
from pipelines.archive import Config, build, parse_args, run
from pipelines.emulators import EmulatorsMissing, emulators, pubsub_command, sdk_root
from rules import CATALOGUE_PATH
from schemas.archive_rows import archive_table, conformed, deduplicated, events_of
from schemas.catalogue import Catalogue, parse_catalogue
from schemas.decoding import Attributes, decode_event
from schemas.errors import ConfigError, ForecourtError, StoreError
from schemas.event import Event
from schemas.instants import DAY_MS, HOUR_MS, SECOND_MS, clock_ms, date_of, format_instant, parse_instant
from schemas.pseudonym import Pseudonyms, pseudonym_of, pseudonymise, ring_of
from schemas.tables import archive_schema
from schemas.view import pack_attributes
from serving.keys import KEY_VARIABLE, load_ring
from transforms.archive import Buffer, Waiting, Written, name_of, write_archive
from transforms.archive_files import LEFTOVER_AGE_MS, parts_of, prepare_archive, read_archive, write_part
from transforms.local_runner import local_runner
from transforms.rules_file import load_catalogue
from transforms.stopping import STOPPING

pytestmark = pytest.mark.alone

ROOT = pathlib.Path(__file__).parents[1]
KEY = "a key for tests, long enough"
CATALOGUE = load_catalogue(CATALOGUE_PATH)
DAY = parse_instant("2026-05-01T00:00:00Z")
FAST = ("--flush-seconds", "0.5")  # a lease of 10 s, Pub/Sub's least


@pytest.fixture(autouse=True)
def _as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    STOPPING.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def message(number: int, at: int = DAY, **more: Any) -> dict[str, Any]:
    body = {
        "event_id": f"e{number}",
        "event_type": "listing_view",
        "event_time": format_instant(at),
        "user_id": f"raw-user-{number % 7}",
        "session_id": f"s{number % 11}",
        "listing_id": f"l{number % 5}",
        "attributes": {"fuel_type": "electric", "price": 100.5 + number},
    }
    return body | more


def lines_of(messages: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in messages)


def expected(messages: Iterable[bytes], catalogue: Catalogue = CATALOGUE) -> dict[str, Event]:
    """What must be in the archive, by event id; of messages that decode and don't disagree."""
    attributes, pseudonyms = Attributes(catalogue), Pseudonyms(ring_of(KEY, "test"))
    events = [pseudonymise(decode_event(each, attributes, None).event, pseudonyms) for each in messages]
    return {event.event_id: event for event in events}


def found_in(archive: pathlib.Path | str, catalogue: Catalogue = CATALOGUE) -> dict[str, Event]:
    """What is in the archive, by event id; each is there once."""
    events = list(events_of(read_archive(str(archive), catalogue)))
    assert len({event.event_id for event in events}) == len(events)
    return {event.event_id: event for event in events}


def rows_written(archive: pathlib.Path | str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in parts_of(str(archive)))


def archived(tmp_path: pathlib.Path, data: bytes, *options: str, to: str = "archive") -> pathlib.Path:
    (tmp_path / "events.jsonl").write_bytes(data)
    assert run(["--source", f"file:{tmp_path / 'events.jsonl'}", "--archive", str(tmp_path / to), "--json", *options]) == 0
    return tmp_path / to


# The table


def test_the_schema() -> None:
    text, instant = pa.string(), pa.timestamp("ms", tz="UTC")
    catalogue = parse_catalogue("attributes: {price: {kind: number}, make: {kind: category}}", "c")
    fields = {field.name: (field.type, field.nullable) for field in archive_schema(catalogue)}
    assert fields == {
        "event_id": (text, False),
        "event_type": (text, False),
        "event_time": (instant, False),
        "user": (text, False),
        "user_id": (text, True),
        "anonymous_id": (text, True),
        "session_id": (text, True),
        "listing_id": (text, True),
        "attributes": (pa.struct([("make", text), ("price", pa.float64())]), False),
        "experiment": (text, True),
        "received_at": (instant, True),
        "sealed_user_id": (pa.binary(), True),
        "sealed_anonymous_id": (pa.binary(), True),
    }


finite = st.floats(allow_nan=False, allow_infinity=False)
attributes = st.fixed_dictionaries(
    {},
    optional={
        "make": st.text(st.characters(codec="utf-8"), max_size=5),
        "price": finite,
        "year": st.integers(1990, 2030).map(float),
    },
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
events = st.builds(
    Event,
    event_id=st.sampled_from("abcdef"),
    event_type=st.sampled_from(["listing_view", "search"]),
    event_time=st.integers(DAY, DAY + 3) | st.integers(0, parse_instant("9999-12-31T23:59:59.999Z")),
    user_id=st.sampled_from([None, "1:u", "1:v"]),
    anonymous_id=st.sampled_from(["1:a", "1:b"]),
    session_id=st.sampled_from([None, "s"]),
    listing_id=st.sampled_from([None, "l", "é"]),
    packed=st.builds(pack_attributes, attributes),
    experiment=st.none() | st.dictionaries(st.text(max_size=3), json_values, max_size=2),
    pseudonymised=st.just(True),
)


@given(st.lists(events, max_size=8))
def test_events_come_back_from_their_rows_as_they_were(some: list[Event]) -> None:
    assert list(events_of(archive_table(some, CATALOGUE, [None] * len(some)))) == some


few_events = st.builds(
    lambda number, at, user, price, experiment: Event(
        f"e{number}",
        "listing_view",
        at,
        user,
        None,
        None,
        None,
        pack_attributes({} if price is None else {"price": price}),
        experiment,
        True,
    ),
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from(["1:u", "1:v"]),
    st.sampled_from([None, 1.0, 2.0]),
    st.sampled_from([None, {"arm": "a"}]),
)
received_rows = st.lists(st.tuples(few_events, st.sampled_from([None, 5, 6])), max_size=14)


@given(received_rows, st.randoms())
def test_of_copies_that_disagree_the_same_one_counts_in_any_order(rows: list[tuple[Event, int | None]], rng: random.Random) -> None:
    def outcome(rows: list[tuple[Event, int | None]]) -> list[dict[str, Any]]:
        table = archive_table([event for event, _ in rows], CATALOGUE, [at for _, at in rows])
        return sorted(deduplicated(table).to_pylist(), key=lambda row: row["event_id"])

    kept = outcome(rows)
    best = {name: min((e.event_time, e.packed) for e, _ in rows if e.event_id == name) for name in {e.event_id for e, _ in rows}}
    assert {row["event_id"]: (row["event_time"].timestamp() * 1000, row["attributes"]["price"]) for row in kept} == {
        name: (at, Event("", "", 0, None, None, None, None, packed, None, True).attributes.get("price"))
        for name, (at, packed) in best.items()
    }
    copies = rows + [rng.choice(rows) for _ in rows]
    rng.shuffle(copies)
    assert outcome(copies) == kept
    half = len(rows) // 2
    parts = [archive_table([e for e, _ in part], CATALOGUE, [at for _, at in part]) for part in (rows[:half], rows[half:])]
    in_parts = deduplicated(pa.concat_tables(map(deduplicated, parts)))
    assert sorted(in_parts.to_pylist(), key=lambda row: row["event_id"]) == kept, (
        "what a file keeps once must not change the answer"
    )


def test_the_first_time_of_receipt_is_kept() -> None:
    event = next(iter(expected([json.dumps(message(1)).encode()]).values()))
    kept = deduplicated(archive_table([event] * 3, CATALOGUE, [None, 7, 6]))
    assert kept["received_at"].cast(pa.int64()).to_pylist() == [6]


def test_rows_of_another_catalogue_become_rows_of_this_one() -> None:
    old = parse_catalogue("attributes: {make: {kind: category}, doors: {kind: category}, price: {kind: number}}", "old")
    new = parse_catalogue("attributes: {colour: {kind: category}, doors: {kind: number}, make: {kind: category}}", "new")
    none = parse_catalogue("attributes: {seats: {kind: number}}", "none")
    packed = pack_attributes({"make": "Audi", "doors": "5", "price": 9.5})
    table = archive_table([Event("e", "search", 1, "1:u", None, None, None, packed, None, True)], old, [None])
    assert conformed(table, old).equals(table)
    assert conformed(table, new)["attributes"].to_pylist() == [{"colour": None, "doors": None, "make": "Audi"}]
    assert conformed(table, new).schema == archive_schema(new)
    assert conformed(table, none)["attributes"].to_pylist() == [{"seats": None}]


# The buffer
#          day 0   day 1   day 2          enough = 4, most = 6
#   abc    .       abc     .
#   d      d       abc     .
#   ef     d       abc     ef      6 in all: the largest go until 3 are left -> day 1
#   gh     d       .       efgh    4 of a date: day 2


def day_event(name: str, day: int) -> Event:
    return Event(name, "search", day * DAY_MS + 1, "1:u", None, None, None, pack_attributes({}), None, True)


def test_a_full_date_goes_out_and_too_many_in_all_make_the_largest_go() -> None:
    buffer = Buffer(enough=4, most=6)
    out = []
    for name, day in zip("abcdefgh", (1, 1, 1, 0, 2, 2, 2, 2), strict=True):
        ready = buffer.add([day_event(name, day)], None)
        out += [(waiting.date, "".join(each.event.event_id for each in waiting.events)) for waiting in ready]
    assert out == [("1970-01-02", "abc"), ("1970-01-03", "efgh")]
    assert [(waiting.date, len(waiting.events)) for waiting in buffer.drain()] == [("1970-01-01", 1)]
    assert list(buffer.drain()) == []


@given(st.lists(st.lists(st.integers(0, 9), max_size=9)), st.integers(1, 5), st.integers(1, 12))
def test_what_goes_into_the_buffer_comes_out_once_and_is_never_too_much(days: list[list[int]], enough: int, most: int) -> None:
    buffer = Buffer(enough, most)
    put: Counter[int] = Counter()
    got: Counter[int] = Counter()
    for batch in days:
        put.update(batch)
        for waiting in buffer.add([day_event("e", day) for day in batch], None):
            assert 0 < len(waiting.events) <= enough
            got[parse_instant(f"{waiting.date}T00:00:00Z") // DAY_MS] += len(waiting.events)
        assert put.total() - got.total() < most
    for waiting in buffer.drain():
        got[parse_instant(f"{waiting.date}T00:00:00Z") // DAY_MS] += len(waiting.events)
    assert got == put


@given(st.lists(events, min_size=1, max_size=6), st.randoms())
def test_a_name_is_of_the_events_and_of_nothing_else(some: list[Event], rng: random.Random) -> None:
    copies = some + [rng.choice(some) for _ in some]
    rng.shuffle(copies)
    assert name_of(copies) == name_of(some)
    other = some[0]._replace(packed=pack_attributes({"make": "another make"}))
    assert name_of([other, *some[1:]]) != name_of(some) or other in some


# Files


def one_table(*numbers: int) -> pa.Table:
    some = expected(json.dumps(message(number)).encode() for number in numbers).values()
    return archive_table(list(some), CATALOGUE, [None] * len(some))


def test_a_file_of_the_same_name_is_replaced_and_nothing_else_is_left(tmp_path: pathlib.Path) -> None:
    first = write_part(str(tmp_path), "2026-05-01", "n", one_table(1))
    assert write_part(str(tmp_path), "2026-05-01", "n", one_table(1, 2)) == first
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file()] == [first]
    assert set(found_in(tmp_path)) == {"e1", "e2"}


def test_unfinished_files_are_never_read_and_old_ones_go(tmp_path: pathlib.Path) -> None:
    write_part(str(tmp_path), "2026-05-01", "n", one_table(1))
    young, old = (tmp_path / "_temporary" / f"2026-05-01-{name}.parquet" for name in ("young", "old"))
    for path in (young, old, tmp_path / "date=2026-05-01" / ".part-1.parquet", tmp_path / "date=2026-05-01" / "_part-1.parquet"):
        path.write_bytes(b"half a file")
    now = clock_ms()
    seconds = (now - LEFTOVER_AGE_MS) / SECOND_MS
    os.utime(old, (seconds - 1, seconds - 1))
    os.utime(young, (seconds + 1, seconds + 1))
    assert set(found_in(tmp_path)) == {"e1"}
    assert pyarrow.dataset.dataset(tmp_path, format="parquet", partitioning="hive").count_rows() == 1, "other readers see it too"
    assert prepare_archive(str(tmp_path), now) == 1
    assert (young.exists(), old.exists()) == (True, False)
    assert prepare_archive(str(tmp_path), now + HOUR_MS) == 1
    assert set(found_in(tmp_path)) == {"e1"}


def test_a_file_that_can_not_be_written_is_one_clear_error_and_leaves_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "date=2026-05-01").write_text("a file where the folder must be")
    with pytest.raises(StoreError, match=r"archive == .*, must be writable: 2026-05-01: .*; nothing .* was acknowledged"):
        write_part(str(tmp_path), "2026-05-01", "n", one_table(1))
    assert list((tmp_path / "_temporary").iterdir()) == []


def test_a_write_that_breaks_off_leaves_no_file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="must be writable: 2026-05-01: No space left on device;"):
        write_part(str(tmp_path), "2026-05-01", "n", one_table(1))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.readlink(f"/proc/self/fd/{file}")))
    rename = os.rename

    def renamed_to(old: str, new: str) -> None:
        synced.append(f"rename {new}")
        rename(old, new)

    monkeypatch.setattr(os, "rename", renamed_to)
    path = write_part(str(tmp_path), "2026-05-01", "n", one_table(1))
    written, renamed, *folders = synced
    assert written.startswith(str(tmp_path / "_temporary"))
    assert renamed == f"rename {path}"
    assert set(folders) == {str(tmp_path), str(tmp_path / "date=2026-05-01")}


def test_a_file_that_can_not_be_read_is_named(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(write_part(str(tmp_path), "2026-05-01", "n", one_table(1)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match=rf"archive file == {path}, must be readable Parquet: "):
        read_archive(str(tmp_path), CATALOGUE)
    with pytest.raises(ConfigError, match=r"archive == .*nowhere, must be a folder that forecourt archive has written"):
        read_archive(str(tmp_path / "nowhere"), CATALOGUE)


class _MemoryFiles(FileSystem):
    """A remote file system: no folders, no descriptors, files appear when they are closed."""

    files: dict[str, bytes] = {}

    @classmethod
    def scheme(cls) -> str:
        return "forecourt-test".replace("-", "")

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def has_dirs(self) -> bool:
        return False

    def mkdirs(self, path: str) -> None:
        pass

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        for path, data in list(self.files.items()):
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data), 0.0)

    def create(self, path: str, *_: Any, **__: Any) -> io.BytesIO:
        files = self.files

        class _Upload(io.BytesIO):
            def close(self) -> None:
                files[path] = self.getvalue()
                super().close()

        return _Upload()

    def open(self, path: str, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(self.files[path])

    def rename(self, sources: list[str], destinations: list[str]) -> None:
        for source, destination in zip(sources, destinations, strict=True):
            self.files[destination] = self.files.pop(source)

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            if self.files.pop(path, None) is None:
                message = "Delete operation failed"
                raise BeamIOError(message, {path: OSError(2, "No such file")})

    def exists(self, path: str) -> bool:
        return path in self.files

    copy = size = last_updated = checksum = metadata = None


def test_an_archive_can_be_remote(tmp_path: pathlib.Path) -> None:
    where = "forecourttest://bucket/events"
    _MemoryFiles.files = {f"{where}/_temporary/old": b"left over in 1970"}
    data = lines_of(message(number, DAY + number * HOUR_MS) for number in range(30))
    (tmp_path / "events.jsonl").write_bytes(data)
    assert run(["--source", f"file:{tmp_path / 'events.jsonl'}", "--archive", where, "--json"]) == 0
    assert {path.rpartition("/")[0] for path in _MemoryFiles.files} == {f"{where}/date=2026-05-01", f"{where}/date=2026-05-02"}
    assert found_in(where) == expected(data.splitlines())


# Whole runs on files


def test_every_valid_event_is_in_the_archive_once_under_its_own_date(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    types = "listing_view search featured_impression featured_click session_start identify opt_in opt_out lead".split()
    good = [message(number, DAY + number * HOUR_MS, event_type=types[number % 9]) for number in range(200)]
    good.append(message(900, DAY - 20 * DAY_MS))  # late
    good.append(message(901, user_id=None, anonymous_id="raw-cookie-1"))
    good.append(message(902, anonymous_id="raw-cookie-1", event_type="identify"))
    good.append(message(903, experiment={"unit": "raw-user-0", "arm": "b", "nested": [{"who": "raw-user-0"}], "big": 2**70}))
    copies = [good[5], good[5], good[77]]
    bad = [message(950, event_type="party"), message(951, user_id=None), message(952, attributes={"price": "cheap"})]
    archive = archived(tmp_path, lines_of([*good, *copies, *bad]))
    document = json.loads(capsys.readouterr().out)
    assert document.pop("seconds") > 0
    assert document.pop("link_conflicts") == 0
    refused = {"bad_attribute": 1, "no_identity": 1, "unknown_event_type": 1}
    counts = {"read": 210, "applied": 204, "duplicate": 3, "refused": refused, "unknown_attributes": 0, "unknown_values": 0}
    assert document == {**counts, "holds": True}
    assert found_in(archive) == expected(lines_of(good).splitlines())
    assert rows_written(archive) == 204
    table = read_archive(str(archive), CATALOGUE)
    assert table.schema == archive_schema(CATALOGUE)
    assert table["received_at"].null_count == len(table), "a replay has no time of receipt"
    for path in parts_of(str(archive)):
        part = pq.ParquetFile(path).read()
        assert {date_of(int(at)) for at in part["event_time"].cast(pa.int64()).to_pylist()} == {path.split("date=")[1][:10]}
        rows = [(row["user"], row["event_time"], row["event_id"]) for row in part.to_pylist()]
        assert rows == sorted(rows)
    assert (archive / "date=2026-04-11").is_dir()
    assert list((archive / "_temporary").iterdir()) == []


def test_nobody_is_named_in_any_file(tmp_path: pathlib.Path) -> None:
    some = [
        message(number, anonymous_id=f"raw-cookie-{number}", experiment={"unit": f"raw-user-{number % 7}"}) for number in range(50)
    ]
    bad = [message(950, event_type="party"), {"user_id": "raw-user-0"}]
    archive = archived(tmp_path, lines_of([*some, *bad]), "--dead-letters", f"file:{tmp_path / 'archive'}-dead.jsonl")
    files = [path for path in archive.rglob("*") if path.is_file()]
    assert len(files) == 1
    # zstd hides text, so look at the cells too.
    texts = [json.dumps(pq.read_table(path).to_pylist(), default=str).encode() + path.read_bytes() for path in files]
    texts.append((tmp_path / "archive-dead.jsonl").read_bytes())
    assert not [text for text in texts if b"raw-" in text]
    assert texts[1].count(b"\n") == 2
    row = found_in(archive)["e1"]
    key = ring_of(KEY, "test").current
    assert (row.user_id, row.anonymous_id) == (pseudonym_of(key, "raw-user-1"), pseudonym_of(key, "raw-cookie-1"))
    assert row.experiment == {"unit": pseudonym_of(key, "raw-user-1")}
    assert read_archive(str(archive), CATALOGUE)["user"].to_pylist().count(pseudonym_of(key, "raw-user-1")) == 7


def tree(archive: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(archive)): path.read_bytes() for path in archive.rglob("*.parquet")}


def test_the_same_file_twice_replaces_itself(tmp_path: pathlib.Path) -> None:
    data = lines_of(message(number, DAY + number * HOUR_MS) for number in range(500))
    once = tree(archived(tmp_path, data, "--flush-events", "10"))
    assert tree(archived(tmp_path, data, "--flush-events", "10")) == once
    assert len(once) > 21, "more than a file a date"


def test_order_and_copies_and_the_size_of_files_change_nothing_that_readers_see(tmp_path: pathlib.Path) -> None:
    some = [message(number, DAY + number * HOUR_MS) for number in range(400)]
    disagree = [message(number, DAY + number * HOUR_MS - 90_000 * number, attributes={"price": 1}) for number in range(0, 400, 9)]
    tie = [message(number, DAY + number * HOUR_MS, attributes={"price": 1}) for number in range(1, 400, 9)]
    messages = [*some, *disagree, *tie]
    reference = read_archive(str(archived(tmp_path, lines_of(messages))), CATALOGUE)
    assert len(reference) == 400
    random.Random(1).shuffle(messages)
    shuffled = archived(tmp_path, lines_of([*messages, *messages[:100]]), "--flush-events", "7", to="shuffled")
    assert rows_written(shuffled) > 400
    assert read_archive(str(shuffled), CATALOGUE).equals(reference)
    archived(tmp_path, lines_of(reversed(messages)), "--flush-events", "50", to="shuffled")
    assert read_archive(str(shuffled), CATALOGUE).equals(reference), "a second run in another order adds copies only"


def test_files_are_of_a_sensible_size(tmp_path: pathlib.Path) -> None:
    data = lines_of(message(number, DAY + number % 2 * DAY_MS) for number in range(25_000))
    archive = archived(tmp_path, data)
    sizes: dict[str, list[int]] = {}
    for path in parts_of(str(archive)):
        metadata = pq.read_metadata(path)
        sizes.setdefault(path.split("date=")[1][:10], []).append(metadata.num_rows)
        assert metadata.num_row_groups == 1
        column = next(c for c in map(metadata.row_group(0).column, range(17)) if c.path_in_schema == "attributes.fuel_type")
        assert (column.compression, "RLE_DICTIONARY" in column.encodings) == ("ZSTD", True)
        assert os.path.getsize(path) < 30 * metadata.num_rows
    assert {date: sorted(each) for date, each in sizes.items()} == {"2026-05-01": [2500, 10_000], "2026-05-02": [2500, 10_000]}


def test_a_catalogue_with_a_new_attribute_later(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(pathlib.Path(CATALOGUE_PATH).read_text() + "  colour: {kind: category}\n")
    catalogue = load_catalogue(str(more))
    first = [message(number, attributes={"colour": "red", "price": 5}) for number in range(20)]
    second = [message(number, attributes={"colour": "red", "price": 5}) for number in range(20, 40)]
    archived(tmp_path, lines_of(first))
    assert json.loads(capsys.readouterr().out)["unknown_attributes"] == 20
    archive = archived(tmp_path, lines_of(second), "--catalogue", str(more))
    colours = {event.event_id: event.attributes.get("colour") for event in found_in(archive, catalogue).values()}
    assert colours == {f"e{number}": "red" if number >= 20 else None for number in range(40)}
    assert found_in(archive) == expected(lines_of([*first, *second]).splitlines()), "an older reader sees what it knows"


def test_some_dates_only_and_one_file_only(tmp_path: pathlib.Path) -> None:
    archive = archived(tmp_path, lines_of(message(number, DAY + number * DAY_MS) for number in range(5)))
    table = read_archive(str(archive), CATALOGUE, ["2026-05-02", "2026-05-04", "2026-06-01"])
    assert sorted(table["event_id"].to_pylist()) == ["e1", "e3"]
    (path,) = parts_of(str(archive), ["2026-05-03"])
    assert read_archive(path, CATALOGUE)["event_id"].to_pylist() == ["e2"]


def test_a_runner_with_short_bundles_regroups_before_it_writes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import archive as module

    data = lines_of(message(number, DAY + number % 2 * DAY_MS) for number in range(100))
    (tmp_path / "events.jsonl").write_bytes(data)
    config = Config(f"file:{tmp_path / 'events.jsonl'}", str(tmp_path / "archive"), flush_events=40)
    monkeypatch.setattr(module, "DATAFLOW", "DirectRunner")  # its graph, on the local runner
    with beam.Pipeline(runner=local_runner()) as pipeline:
        build(pipeline, config)
    assert found_in(tmp_path / "archive") == expected(data.splitlines())
    assert {pq.read_metadata(path).num_rows for path in parts_of(str(tmp_path / "archive"))} <= set(range(1, 41))


# What can be wrong


def test_the_graph_is_checked_offline_for_both_runners() -> None:
    argv = ["--source", "pubsub://project/subscriptions/events", "--archive", "gs://bucket/events", "--dry_run"]
    assert run(argv) == 0
    assert run([*argv, "--runner", "DataflowRunner", "--project", "project"]) == 0


def test_a_lease_outlasts_its_bundle() -> None:
    config, _ = parse_args(["--source", "pubsub://p/subscriptions/s", "--archive", "a"])
    assert (config.flush_seconds, config.flush_events, config.lease_s) == (60, 10_000, 180)
    config, _ = parse_args(["--source", "pubsub://p/subscriptions/s", "--archive", "a", "--flush-seconds", "180"])
    assert config.lease_s <= 600, "the longest that Pub/Sub gives"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--archive", ""], "archive == '', must be a local folder or"),
        (["--archive", "file:/tmp/x"], "archive == 'file:/tmp/x', must be a local folder or"),
        (["--archive", "nowhere://x/y"], "archive == 'nowhere://x/y', must be a local folder or"),
        (["--archive", "a*b"], r"archive == 'a\*b', must be .* without any of"),
        (
            ["--archive", "{tmp}/events.jsonl"],
            "must be a folder that can be written to: Not a directory",
        ),
        (["--source", "kafka://x"], "source == 'kafka://x', must be file:PATH or pubsub:"),
        (["--source", "file:{tmp}/nothing"], "must be a readable file: No such file"),
        (["--source", "file:{tmp}/empty"], "must hold at least one event: it is empty"),
        (["--source", "file:{tmp}/poison"], "must hold usable events: all 2 were refused"),
        (["--source", "file:{tmp}/truncated.gz"], "must be a whole readable file; it breaks off after"),
        (["--catalogue", "{tmp}/nothing"], "file == .*nothing, must be readable"),
        (["--dead-letters", "somewhere"], "dead letters == 'somewhere', must be file:PATH or pubsub:"),
        (["--key-of", "{tmp}/p.db"], "store == .*, must be bigtable:"),
        (["--flush-seconds", "0"], r"--flush-seconds == 0.0, must be above 0 and at most 180"),
        (["--flush-seconds", "nan"], r"--flush-seconds == nan, must be above 0"),
        (["--flush-events", "0"], r"--flush-events == 0, must be between 1 and 200000"),
        (["--runner", "Sprinter"], "--runner == 'Sprinter', must be DirectRunner or DataflowRunner"),
        (["--runner", "DataflowRunner"], r"--archive == .*, must be remote \(gs://…\) on Dataflow"),
        (["--store", "sqlite:///x"], "option == '--store', must be one that --help lists"),
    ],
)
def test_what_can_not_be_used_is_named_with_status_2(tmp_path: pathlib.Path, options: list[str], message: str) -> None:
    (tmp_path / "events.jsonl").write_bytes(lines_of([globals()["message"](1)]))
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "poison").write_bytes(b"no\nnever\n")
    (tmp_path / "truncated.gz").write_bytes(gzip.compress(lines_of([globals()["message"](1)] * 50))[:-9])
    defaults = ["--source", f"file:{tmp_path / 'events.jsonl'}", "--archive", str(tmp_path / "archive")]
    with pytest.raises(ForecourtError, match=message) as raised:
        run([*defaults, *(option.replace("{tmp}", str(tmp_path)) for option in options)])
    assert raised.value.exit_status == 2


def test_a_key_is_needed_and_can_be_a_store_s(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = lines_of(message(number) for number in range(3))
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE} is not set, .*--key-of shares the key file of a sqlite: store"):
        archived(tmp_path, data)
    with pytest.raises(ConfigError, match=rf"{KEY_VARIABLE} is not set, .*openssl rand -hex 32\)$"):
        archived(tmp_path, data, "--key-of", "bigtable://p/i/t")
    assert not (tmp_path / "archive").exists()
    store = f"sqlite:///{tmp_path / 'profiles.db'}"
    archive = archived(tmp_path, data, "--key-of", store)
    assert found_in(archive)["e1"].user_id == pseudonym_of(load_ring(store).current, "raw-user-1")


def forecourt(*arguments: str, limits: str = "") -> subprocess.Popen[str]:
    """A real process, in a shell's limits."""
    command = ["/bin/sh", "-c", f'{limits} exec "$@"', "sh", sys.executable, str(ROOT / "forecourt.py"), "archive", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_is_one_clear_line_and_status_1(tmp_path: pathlib.Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(lines_of(message(number) for number in range(5_000)))
    source = ("--source", f"file:{tmp_path / 'events.jsonl'}")
    process = forecourt(*source, "--archive", str(tmp_path / "archive"), "--json", limits="ulimit -f 16;")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("forecourt: archive == ")
    assert "must be writable: 2026-05-01: File too large; nothing of these events was acknowledged" in last
    assert [path for path in (tmp_path / "archive").rglob("*") if path.is_file()] == []


# Pub/Sub


@pytest.fixture(scope="module")
def pubsub() -> Iterator[None]:
    try:
        pubsub_command(sdk_root(), 0)
    except EmulatorsMissing as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))
    with emulators(["pubsub"]) as endpoints, pytest.MonkeyPatch.context() as patch:
        for name, address in endpoints.environment().items():
            patch.setenv(name, address)
        yield


def subscription(name: str) -> tuple[str, str]:
    """A topic and a subscription to it, as URIs."""
    from google.cloud.pubsub_v1 import PublisherClient, SubscriberClient

    topic, path = f"projects/demo/topics/{name}", f"projects/demo/subscriptions/{name}"
    PublisherClient().create_topic(name=topic, timeout=10)
    with SubscriberClient() as subscriber:
        subscriber.create_subscription(name=path, topic=topic, ack_deadline_seconds=10, timeout=10)
    return f"pubsub://demo/topics/{name}", f"pubsub://demo/subscriptions/{name}"


def publish(topic: str, messages: Iterable[bytes]) -> None:
    with simulate.sink_of(topic) as write:
        for each in messages:
            write(each)


def left_in(name: str) -> int:
    """How many messages of a subscription are waiting to be delivered now."""
    from google.api_core.exceptions import DeadlineExceeded
    from google.cloud.pubsub_v1 import SubscriberClient

    with SubscriberClient() as subscriber:
        path = f"projects/demo/subscriptions/{name}"
        try:
            return len(subscriber.pull(subscription=path, max_messages=1000, timeout=3, retry=None).received_messages)
        except DeadlineExceeded:
            return 0


def wait_for(holds: Callable[[], bool], seconds: float, process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended with status {process.returncode}: {process.communicate()[1]}")
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_killed_at_any_moment_it_loses_nothing(pubsub: None, tmp_path: pathlib.Path) -> None:
    topic, source = subscription("kills")
    archive, truth = tmp_path / "archive", tmp_path / "truth.jsonl"
    trouble = "--rate 1000 --users 40 --late 0.05 --duplicates 0.1 --out-of-order 0.1 --poison 0.05".split()
    sender = threading.Thread(target=simulate.run, args=(["--to", topic, "--events", "9000", "--truth", str(truth), *trouble],))
    sender.start()
    rng, kills = random.Random(4), 0
    while kills < 3:
        process = forecourt("--source", source, "--archive", str(archive), *FAST)
        parts = len(list(archive.rglob("part-*")))
        wait_for(lambda parts=parts: len(list(archive.rglob("part-*"))) > parts, 60, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.7))
        assert process.poll() is None
        process.kill()
        process.communicate()
        kills += 1
    sender.join()
    wanted = expected(truth.read_bytes().splitlines())
    assert len(wanted) == 9000
    process = forecourt("--source", source, "--archive", str(archive), *FAST, "--json")
    wait_for(lambda: wanted.keys() <= found_in(archive).keys(), 90, process)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["holds"]
    assert found_in(archive) == wanted
    received = read_archive(str(archive), CATALOGUE)["received_at"]
    assert received.null_count == 0


def test_a_stop_writes_and_acknowledges_what_has_come(pubsub: None, tmp_path: pathlib.Path) -> None:
    topic, source = subscription("stop")
    archive, before = tmp_path / "archive", clock_ms()
    messages = [json.dumps(message(number, before - number * HOUR_MS)).encode() for number in range(60)]
    publish(topic, [*messages, b"poison"])
    process = forecourt("--source", source, "--archive", str(archive), "--json")  # 60 s, 10,000 events
    wait_for((archive / "_temporary").exists, 60, process)
    time.sleep(12)  # longer than the subscription's own deadline: without a lease they would come again
    assert list(archive.rglob("part-*")) == [], "a file a minute"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert (document["read"], document["applied"], document["refused"]) == (61, 60, {"not_json": 1})
    assert found_in(archive) == expected(messages)
    received = read_archive(str(archive), CATALOGUE)["received_at"].cast(pa.int64()).to_pylist()
    assert all(before <= at <= clock_ms() for at in received)
    assert left_in("stop") == 0


def test_what_could_not_be_written_comes_again(pubsub: None, tmp_path: pathlib.Path) -> None:
    topic, source = subscription("full")
    archive, now = tmp_path / "archive", clock_ms()
    messages = [json.dumps(message(number, now)).encode() for number in range(40)]
    publish(topic, messages)
    archive.mkdir()
    blocked = archive / f"date={date_of(now)}"
    blocked.write_text("a file where the folder must be")
    process = forecourt("--source", source, "--archive", str(archive), *FAST)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "must be writable" in err
    assert "nothing of these events was acknowledged" in err
    blocked.unlink()
    process = forecourt("--source", source, "--archive", str(archive), *FAST)
    wait_for(lambda: len(found_in(archive)) == 40, 60, process)
    process.terminate()
    assert process.wait(timeout=30) == 0
    assert found_in(archive) == expected(messages)


def test_a_waiting_batch_is_one_file_of_its_date(tmp_path: pathlib.Path) -> None:
    event = next(iter(expected([json.dumps(message(1)).encode()]).values()))
    buffer = Buffer()
    assert list(buffer.add([event, event], 5)) == []
    (waiting,) = buffer.drain()
    assert isinstance(waiting, Waiting)
    written = write_archive(str(tmp_path), waiting, CATALOGUE)
    assert written == Written(f"{tmp_path}/date=2026-05-01/part-{name_of([event])}.parquet", 1, 1)
