"""Shards: every event in exactly one, each once, in order; profiles, samples and hashes of columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.archive_rows import archive_table
from schemas.catalogue import parse_catalogue
from schemas.errors import ConfigError
from schemas.event import Event
from schemas.instants import DAY_MS, date_of
from schemas.rules import Equals
from schemas.view import pack_attributes
from tests.strategies import CATALOGUE, START
from transforms.event_columns import EventColumns, Wanted, hashes_of, read_events
from transforms.kernel import MAX_VIEWS
from transforms.profiling import profile_of_rows, sample_of
from transforms.shards import Shard, shard_of
from transforms.slices import SliceFile, items_of, packed_of, slice_at, slices_of

ELECTRIC = Equals("fuel_type", frozenset({"electric"}))
EVERYTHING = Wanted(tuple(sorted(CATALOGUE.attributes)), received=True, sealed=True)


def event(user: str, event_id: str, time: int, fuel: str | None = None, kind: str = "listing_view", **more: Any) -> Event:
    attributes = {} if fuel is None else {"fuel_type": fuel}
    packed = pack_attributes({**attributes, **more})
    return Event(event_id, kind, time, user, None, None, None, packed, None, True)


def columns_of(events: list[Event], folder: Path, received: list[int | None] | None = None) -> EventColumns:
    path = folder / "part-0.parquet"
    pq.write_table(archive_table(events, CATALOGUE, received or [None] * len(events)), path)
    return read_events([str(path)], CATALOGUE, EVERYTHING)


def rows_of(shard: Shard) -> list[tuple[str, str, int, bool, bool]]:
    """(user, id, time, is a view, is electric) in the shard's order."""
    users = np.repeat(np.array(shard.users, object), np.diff(shard.offsets))
    return list(
        zip(
            users.tolist(),
            shard.ids.to_pylist(),
            shard.times.tolist(),
            shard.views.tolist(),
            (shard.bits[:, 0] == 1).tolist(),
            strict=True,
        )
    )


EVENTS = st.lists(
    st.builds(
        event,
        user=st.sampled_from(["1:aa", "1:ab", "1:b", "2:aa"]),
        event_id=st.sampled_from([f"e{number}" for number in range(9)]),
        time=st.integers(START, START + 5),
        fuel=st.sampled_from([None, "electric", "diesel"]),
        kind=st.sampled_from(["listing_view", "listing_view", "search"]),
        price=st.sampled_from([1.0, 2.0]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, shards=st.integers(1, 5), cuts=st.integers(1, 4), packed=st.booleans(), order=st.randoms())
def test_each_event_is_once_in_the_shard_of_its_user(
    events: list[Event], shards: int, cuts: int, packed: bool, order: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    slices: dict[int, list[pa.Table]] = {}
    for cut in range(cuts):
        if part := events[cut::cuts]:
            for number, table in slices_of(columns_of(part, folder), [ELECTRIC], shards, packed=packed):
                slices.setdefault(number, []).append(table)
    for tables in slices.values():
        order.shuffle(tables)
    found = [rows_of(shard_of(tables)) for tables in slices.values()]
    best: dict[tuple[str, str], Event] = {}
    for each in events:
        key = each.user_id or "", each.event_id
        rank = (each.event_time, each.event_type != "listing_view", each.packed if packed else b"")
        if key not in best:
            best[key] = each
        else:
            known = best[key]
            if rank < (known.event_time, known.event_type != "listing_view", known.packed if packed else b""):
                best[key] = each
    expected = sorted((user, each.event_time, each.event_id, each.event_type == "listing_view") for (user, _), each in best.items())
    assert sorted((user, time, event_id, view) for part in found for user, event_id, time, view, _ in part) == expected
    for rows in found:
        assert [(row[0], row[2]) for row in rows] == sorted((row[0], row[2]) for row in rows) or len({row[0] for row in rows}) > 1
    if packed:
        electric = {key: b"electric" in each.packed for key, each in best.items() if each.event_type == "listing_view"}
        assert {(row[0], row[1]): row[4] for rows in found for row in rows if row[3]} == electric
    of_user: dict[str, set[int]] = {}
    for number, rows in enumerate(found):
        for row in rows:
            of_user.setdefault(row[0], set()).add(number)
    assert all(len(numbers) == 1 for numbers in of_user.values())


def test_the_event_id_orders_views_of_one_instant_where_only_the_newest_count(tmp_path: Path) -> None:
    ids = [f"e{number:05}" for number in np.random.default_rng(4).permutation(MAX_VIEWS + 50)]
    columns = columns_of([event("1:aa", each, START) for each in ids], tmp_path)
    shard = shard_of([table for _, table in slices_of(columns, [ELECTRIC], 1, packed=False)])
    assert shard.ids.to_pylist() == sorted(ids)


def test_a_user_whose_events_come_in_no_order_is_sorted_all_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    times = [START + int(each) for each in rng.integers(0, 10**6, 5_000)]
    columns = columns_of([event("1:aa", f"e{number}", time) for number, time in enumerate(times)], tmp_path)
    shard = shard_of([table for _, table in slices_of(columns, [ELECTRIC], 1, packed=False)])
    assert shard.times.tolist() == sorted(times)


def test_slices_come_back_as_they_were_put(tmp_path: Path) -> None:
    columns = columns_of([event(f"1:{number:02}", f"e{number}", START, "electric") for number in range(20)], tmp_path)
    for folder in (None, str(tmp_path)):
        file = SliceFile(folder)
        places = {number: file.add(table) for number, table in slices_of(columns, [ELECTRIC], 3, packed=True)}
        back = shard_of(map(slice_at, places.values()))
        assert sorted(back.users) == [f"1:{number:02}" for number in range(20)]


def test_packed_attributes_are_those_of_the_rows(tmp_path: Path) -> None:
    events = [
        event("1:aa", f"e{i}", START, fuel, price=price)
        for i, (fuel, price) in enumerate([("lpg", 1.0), (None, 2.5), ("lpg", 1.0)])
    ]
    packed = packed_of(columns_of(events, tmp_path))
    assert [packed.values[code].encode("latin-1") for code in packed.codes] == [each.packed for each in events]
    assert len(packed.values) == 2


def test_a_file_of_another_catalogue_lacks_what_it_does_not_have(tmp_path: Path) -> None:
    other = parse_catalogue("attributes: {price: {kind: category}, seats: {kind: number}}", "other.yaml")
    table = archive_table([event("1:aa", "e1", START, price="12", seats=5.0)], other, [None])
    pq.write_table(table, tmp_path / "part-1.parquet")
    columns = read_events([str(tmp_path / "part-1.parquet")], CATALOGUE, EVERYTHING)
    price, fuel = columns.attributes["price"], columns.attributes["fuel_type"]
    assert isinstance(price, np.ndarray)
    assert np.isnan(price).all(), "a text is no number"
    assert not isinstance(fuel, np.ndarray)
    assert fuel.codes.tolist() == [-1]


def test_a_file_of_many_row_groups_and_one_whose_texts_overflow_their_dictionary_are_read(tmp_path: Path) -> None:
    events = [event("1:aa", f"e{number}", START, "lpg", model=f"model {number:09} {'x' * 200}") for number in range(12_000)]
    table = archive_table(events, CATALOGUE, [None] * len(events))
    for name, sizes in (("many", {"row_group_size": 1_000}), ("overflow", {"dictionary_pagesize_limit": 10_000})):
        path = tmp_path / f"part-{name}.parquet"
        pq.write_table(table, path, **sizes)
        columns = read_events([str(path)], CATALOGUE, EVERYTHING)
        model = columns.attributes["model"]
        assert not isinstance(model, np.ndarray)
        assert [model.values[code] for code in model.codes] == [each.attributes["model"] for each in events]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("user"), "user"),
        (
            lambda table: table.set_column(2, "event_time", pa.array(["soon"])),
            "must be readable Parquet that forecourt archive wrote",
        ),
        (lambda table: table.set_column(3, "user", pa.nulls(1, pa.string())), "user is null in 1 rows, must be given"),
    ],
)
def test_a_file_that_is_no_archives_is_named(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "part-1.parquet"
    pq.write_table(change(archive_table([event("1:aa", "e1", START)], CATALOGUE, [None])), path)
    with pytest.raises(ConfigError, match=str(path)) as caught:
        read_events([str(path)], CATALOGUE, EVERYTHING)
    assert message in str(caught.value)


def test_items_are_the_files_of_a_date_in_bearable_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transforms import slices

    for date in ("2026-01-01", "2026-01-02"):
        (tmp_path / f"date={date}").mkdir()
        for number in range(5):
            (tmp_path / f"date={date}" / f"part-{number}.parquet").write_bytes(b"x" * 100)
    monkeypatch.setattr(slices, "ITEM_BYTES", 250)
    items = items_of(str(tmp_path), ["2026-01-01", "2026-01-02", "2026-01-03"])
    assert [(item.date, len(item.paths), item.size) for item in items] == [
        (date, files, 100 * files) for date in ("2026-01-01", "2026-01-02") for files in (3, 2)
    ]


# --- profiles ------------------------------------------------------------------------------------------------------------


def test_a_profile_counts_what_rows_tell(tmp_path: Path) -> None:
    # listing: electric 30k, odd fuel, none; received on time, late, from the future, unknown; one row of another day
    late, ahead = START + 2 * 3_600_000, START - 10 * 60_000
    events = [
        event("1:aa", "e1", START, "electric", price=30_000.0),
        event("1:aa", "e2", START, "steam", price=-1.0),
        event("1:b", "e3", START, None, make="Ford"),
        event("1:b", "e4", START + DAY_MS, "electric"),
        event("1:b", "e5", START, "electric", kind="search"),
    ]
    columns = columns_of(events, tmp_path, [START, late, ahead, None, START])
    profile = profile_of_rows(date_of(START), START, columns, CATALOGUE)
    assert (profile.rows, profile.view_rows, profile.misfiled) == (5, 4, 1)
    assert (profile.received, profile.late, profile.future) == (4, 1, 1)
    fuel, price, make = (profile.attributes[name] for name in ("fuel_type", "price", "make"))
    assert (fuel.nulls, fuel.unknown, fuel.mix["electric"], sum(fuel.mix.values())) == (1, 1, 2, 3)
    assert (price.nulls, price.mix) == (2, {"2^+14": 1, "<= 0": 1})
    assert (make.nulls, make.unknown, sum(make.mix.values())) == (3, 0, 1)


def test_a_sample_is_the_same_whatever_the_order_and_the_parts() -> None:
    rows = pa.table({"event_id": [f"e{number}" for number in range(1_000)]})
    whole = sample_of(rows, 50)
    shuffled = rows.take(np.random.default_rng(1).permutation(1_000))
    parts = pa.concat_tables([sample_of(shuffled.slice(start, 100), 50) for start in range(0, 1_000, 100)])
    assert sample_of(parts, 50).equals(whole)
    assert len(whole) == 50


def test_a_sample_is_uniform() -> None:
    drawn = np.zeros(20)
    for seed in range(200):
        rows = pa.table({"event_id": [f"{seed}-{number}" for number in range(1_000)], "place": np.arange(1_000)})
        drawn += np.bincount(sample_of(rows, 100)["place"].to_numpy() // 50, minlength=20)
    expected = 200 * 100 / 20
    assert ((drawn - expected) ** 2 / expected).sum() < 43.8, "chi square of 19 degrees of freedom, p = 0.001"


def test_hashes_spread_over_all_bits() -> None:
    hashes = hashes_of(pa.array([f"event-{number}" for number in range(20_000)]))
    assert len(set(hashes.tolist())) == 20_000
    ones = [(hashes >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(64)]
    assert 0.48 < min(ones) < max(ones) < 0.52
    assert hashes_of(pa.array([""])).tolist() == hashes_of(pa.array(["x", ""]).slice(1)).tolist()
