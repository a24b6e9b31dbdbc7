"""The embedded inventory: files as they are read or refused, and answers against looking at every listing one by one."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.listings import CATALOGUE as MARKET
from pipelines.listings import write_listings
from schemas.catalogue import Catalogue, parse_catalogue
from schemas.errors import ConfigError
from schemas.rules import Band, Condition, Equals, Not
from serving import listings_file
from serving.columns import column_of, mask_of
from serving.inventory import Inventory, load_inventory
from serving.inventory_file import InventoryFile
from serving.listings import Listings
from serving.seeds import number_of
from tests.plain_inventory import PlainInventory, Row, ticket
from tests.strategies import CATALOGUE, ROOT, conditions
from tests.test_filters import parse

ROWS: list[Row] = [
    {"listing_id": "a", "sponsored": True, "rank": 2, "title": "A, \"one\"", "make": "Kia", "fuel_type": "electric", "price": 10},
    {"listing_id": "b", "sponsored": False, "rank": 9.5, "url": "https://b.example", "fuel_type": "diesel", "price": 20.5},
    {"listing_id": "c é\U0001f697", "make": "Kia", "price": -1.0},
    {"listing_id": "d", "sponsored": True, "rank": 3.0, "body_type": "ute / tray", "year": 2020},
]  # fmt: skip


def as_jsonl(rows: Sequence[Row], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(rows: Sequence[Row], path: Path) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_parquet(rows: Sequence[Row], path: Path) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    numbers = {"rank", "price", "mileage", "year"}
    pq.write_table(
        pa.table({k: pa.array([float(x) if k in numbers and x is not None else x for x in v]) for k, v in columns.items()}), path
    )
    return path


def zipped(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


def load(path: Path) -> Listings:
    found = load_inventory(str(path), CATALOGUE)
    assert isinstance(found, Listings)
    return found


def order_of(inventory: Inventory, seed: int = 1) -> list[dict[str, Any]]:
    return list(inventory.shortlist(None, [], ()).default(1_000, seed))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: as_jsonl(ROWS, folder / "l.jsonl"),
        lambda folder: as_jsonl(ROWS, folder / "l.NDJSON"),
        lambda folder: as_csv(ROWS, folder / "l.csv"),
        lambda folder: as_parquet(ROWS, folder / "l.parquet"),
        lambda folder: zipped(as_jsonl(ROWS, folder / "l.jsonl")),
        lambda folder: zipped(as_csv(ROWS, folder / "l.csv")),
        lambda folder: as_csv([{"colour": "#1,\n2", **row} for row in ROWS], folder / "l's.csv"),
        lambda folder: as_jsonl([{"colour": [1], **row, "mileage": None} for row in ROWS], folder / "l.jsonl"),
    ],
)
def test_every_format_holds_the_same_listings(write: Callable[[Path], Path], tmp_path: Path) -> None:
    assert order_of(load(write(tmp_path))) == order_of(PlainInventory(ROWS))
    assert [listing["listing_id"] for listing in order_of(PlainInventory(ROWS))] == ["d", "a", "b", "c é\U0001f697"]


def test_a_csv_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = as_csv(ROWS, tmp_path / "l.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert order_of(load(path)) == order_of(PlainInventory(ROWS))


def test_the_numbers_of_parquet_may_have_any_type(tmp_path: Path) -> None:
    types = {"price": pa.int64(), "year": pa.int16(), "mileage": pa.decimal128(9, 2), "rank": pa.float32(), "make": pa.null()}
    rows = [{"listing_id": "a", "price": 5, "year": 2020, "mileage": 7, "rank": 0.5}]
    pq.write_table(
        pa.Table.from_pylist(rows, pa.schema({"listing_id": pa.dictionary(pa.int8(), pa.string()), **types})),
        tmp_path / "l.parquet",
    )
    assert order_of(load(tmp_path / "l.parquet"))[0]["attributes"] == {"price": 5.0, "year": 2020.0, "mileage": 7.0}


ID_TEXT = "must be text of at most 256 bytes, without control characters, and not empty"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"listing_id": None}, "l.jsonl: row 3: listing_id is missing, must be given"),
        ({}, "l.jsonl: row 3: listing_id is missing, must be given"),
        (
            {"listing_id": ""},
            "row 3: listing_id == '\"\"', must be text of at most 256 bytes, without control characters, and not empty",
        ),
        ({"listing_id": 7}, "row 3: listing_id == '7', must be text of at most 256 bytes"),
        (
            {"listing_id": "a\nb"},
            r"""row 3: listing_id == '"a\\nb"', must be text of at most 256 bytes, without control characters""",
        ),
        ({"listing_id": "a\x85b"}, "must be text of at most 256 bytes, without control characters"),
        ({"listing_id": "x" * 257}, "must be text of at most 256 bytes"),
        ({"listing_id": "é" * 129}, "must be text of at most 256 bytes"),
        ({"listing_id": "two"}, "l.jsonl: row 3: listing_id == 'two', must be unique, row 2 has it already"),
        ({"listing_id": "x", "price": "12"}, """l.jsonl: row 3: price == '"12"', must be a finite number"""),
        ({"listing_id": "x", "price": True}, "row 3: price == 'true', must be a finite number"),
        ({"listing_id": "x", "price": [1]}, "row 3: price == '[1]', must be a finite number"),
        ({"listing_id": "x", "rank": "high"}, """row 3: rank == '"high"', must be a finite number"""),
        ({"listing_id": "x", "make": 5}, "row 3: make == '5', must be text of at most 256 bytes"),
        ({"listing_id": "x", "make": "x" * 257}, "must be text of at most 256 bytes"),
        ({"listing_id": "x", "title": {"a": 1}}, """row 3: title == '{"a":"""),
        ({"listing_id": "x", "url": "x" * 2_049}, "must be text of at most 2048 bytes"),
        ({"listing_id": "x", "sponsored": "yes"}, """row 3: sponsored == '"yes"', must be true or false"""),
        ({"listing_id": "x", "sponsored": 1}, "row 3: sponsored == '1', must be true or false"),
    ],
)
def test_a_listing_that_cannot_be_right_refuses_the_file(row: Row, message: str, tmp_path: Path) -> None:
    again = [] if "unique" in message else [row]
    path = as_jsonl([{"listing_id": "one"}, {"listing_id": "two"}, row, *again], tmp_path / "l.jsonl")
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        load(path)
    assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.jsonl", b'{"listing_id": "a"}\n\n{"listing_id": \n', "row 2, must be a JSON object"),
        ("l.jsonl", b'{"listing_id": "a"}\n[1, 2]\n', "row 2 == b'[1, 2]', must be a JSON object"),
        ("l.jsonl", b'{"listing_id": "a", "price": 1e400}\n', "row 1: price == '1e400', must be a finite number"),
        ("l.jsonl", b'{"listing_id": "a", "price": NaN}\n', "row 1: price == 'NaN', must be a finite number"),
        ("l.jsonl", b'{"listing_id": "a\xff"}\n', "row 1, must be a JSON object"),
        ("l.jsonl", b'{"listing_id": "a", "listing_id": "b"}\n', "must be a json file of listings"),
        ("l.jsonl", b"", "listings that can be offered == 0 of 0, must be within 1 and 2000000"),
        ("l.jsonl.gz", gzip.compress(b'{"listing_id": "a"}\n' * 9, mtime=0)[:-9], "must be"),
        ("l.csv.gz", b"listing_id\na\n", "must be a csv file of listings: Not a gzipped file"),
        ("l.csv.gz", gzip.compress(b"listing_id\na\n", mtime=0)[:15], "must be a csv file of listings: Compressed file ended"),
        ("l.csv", b"listing_id,price\ra,1\r", "must be a csv file of listings: new-line character seen"),
        ("l.csv", b"listing_id," + b"x" * 200_000, "must be a csv file of listings: field larger than field limit"),
        ("l.csv", b"listing_id,Price,price\na,1,2\n", "header == 'listing_id,Price,price', must name each column once, whatever"),
        ("l.csv", b"", "columns == '', must have listing_id"),
        ("l.csv", b"price,make\n1,Kia\n", "columns == 'price, make', must have listing_id"),
        ("l.csv", b"listing_id,price,price\na,1,2\n", "header == 'listing_id,price,price', must name each column once"),
        ("l.csv", b"listing_id,price\na,1,2\n", "must be a csv file of listings"),
        ("l.csv", b"listing_id,price\na,1\nb\n", "must be a csv file of listings"),
        ("l.csv", b'listing_id,price\n"a,1\n', "must be a csv file of listings"),
        ("l.csv", b"listing_id,price\na,1\nb,nan\n", "row 2: price == 'nan', must be a finite number"),
        ("l.csv", b"listing_id,price\na,cheap\n", "row 1: price == 'cheap', must be a finite number"),
        ("l.csv", b"listing_id,sponsored\na,maybe\n", "row 1: sponsored == 'maybe', must be true or false"),
        ("l.csv", b"listing_id,price\n,1\n", "row 1: listing_id is missing, must be given"),
        ("l.csv", b"listing_id;price\na;1\n", "columns == 'listing_id;price', must have listing_id"),
        ("l.parquet", b"PAR1 not", "must be a parquet file of listings"),
        ("l.txt", b"", "must end with .jsonl, .ndjson, .csv, .parquet; .gz may follow the first three"),
        ("l.parquet.gz", b"", "must end with .jsonl"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_by_name(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("price", ["5"], "type of column price == VARCHAR, must be a number"),
        ("make", [5], "type of column make == BIGINT, must be text"),
        ("listing_id", [5], "type of column listing_id == BIGINT, must be text"),
        ("sponsored", [1], "type of column sponsored == BIGINT, must be boolean"),
        ("price", [float("nan")], "row 1: price == 'nan', must be a finite number"),
        ("price", [float("inf")], "row 1: price == 'inf', must be a finite number"),
    ],
)
def test_a_parquet_column_of_another_type_is_refused(column: str, values: list[Any], message: str, tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"listing_id": ["a"], column: values} if column != "listing_id" else {column: values}), tmp_path / "l.parquet"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(tmp_path / "l.parquet")


@pytest.mark.parametrize("names", [["PRICE", "price"], ["price", "PRICE"], ["price", "price"]])
def test_a_parquet_column_is_named_once_or_its_values_would_be_lost(names: list[str], tmp_path: Path) -> None:
    values = [pa.array(["a"]), pa.array([5]), pa.array([6])]
    pq.write_table(pa.Table.from_arrays(values, ["listing_id", *names]), tmp_path / "l.parquet")
    with pytest.raises(ConfigError, match=f"header == 'listing_id,{','.join(names)}', must name each column once"):
        load(tmp_path / "l.parquet")


def test_parquet_columns_that_nobody_looks_at_may_have_any_name(tmp_path: Path) -> None:
    names = ["listing_id", "note", "NOTE", "note", ""]
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 5, names), tmp_path / "l.parquet")
    assert [listing["listing_id"] for listing in order_of(load(tmp_path / "l.parquet"))] == ["a"]


def test_decimals_that_would_be_read_wrong_are_refused(tmp_path: Path) -> None:
    for digits, message in ((38, None), (39, r"column price == decimal256\(39, 2\), must have at most 38 digits")):
        pq.write_table(pa.table({"listing_id": ["a"], "price": pa.array([5], pa.decimal256(digits, 2))}), tmp_path / "l.parquet")
        with pytest.raises(ConfigError, match=message) if message else contextlib.nullcontext():
            assert order_of(load(tmp_path / "l.parquet"))[0]["attributes"] == {"price": 5.0}


def test_a_path_is_one_file_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a file that is there"):
        load(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match=r"must be a path without \* \? \["):
        load(as_jsonl(ROWS, tmp_path / "l[1].jsonl"))


def test_a_catalogue_may_not_name_an_attribute_like_a_column_of_every_listing(tmp_path: Path) -> None:
    catalogue = parse_catalogue("attributes: {rank: {kind: number}, title: {kind: category}}", "c.yaml")
    with pytest.raises(ConfigError, match="catalogue: attributes == rank, title, must have other names"):
        load_inventory(str(as_jsonl(ROWS, tmp_path / "l.jsonl")), catalogue)


def test_a_value_outside_a_closed_list_leaves_its_listing_out_and_counts_it(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        {"listing_id": "x", "fuel_type": "coal"},
        {"listing_id": "y", "body_type": "SUV"},
        {"listing_id": "z", "make": "??"},
    ]
    found = load(as_jsonl(rows, tmp_path / "l.jsonl"))
    assert (len(found), found.left_out) == (5, 2)
    with pytest.raises(ConfigError, match="listings that can be offered == 0 of 1, must be within 1"):
        load(as_jsonl(rows[4:5], tmp_path / "m.jsonl"))


def test_there_may_be_too_many_listings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(listings_file, "MAX_LISTINGS", 3)
    with pytest.raises(ConfigError, match="== 4 of 4, must be within 1 and 3"):
        load(as_jsonl(ROWS, tmp_path / "l.jsonl"))


def test_serving_loads_neither_duckdb_nor_arrow_before_a_file_is_read() -> None:
    code = "import serving.featured, serving.inventory_file, serving.opensearch, sys; print({'duckdb', 'pyarrow'} & {*sys.modules})"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "set()"


# --- answers -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> tuple[Listings, PlainInventory]:
    """300 listings, some lacking attributes, their ranks often equal."""
    path = tmp_path_factory.mktemp("market") / "l.jsonl"
    write_listings(path, 300, 0.3, seed=5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for place, row in enumerate(rows):
        row["rank"] = None if place % 7 == 0 else round(row["rank"], 1)
        row["price"] = [5.0, 10.0, 15.0, 20.0, 30.0, None][place % 6]
        if place % 5 == 0:
            del row["fuel_type"]
    as_jsonl(rows, path)
    return load(path), PlainInventory(rows)


def when(data: Any) -> Condition:
    condition = parse(data).condition
    assert condition is not None
    return condition


SEEN = st.frozensets(st.integers(0, 320).map("l-{}".format), max_size=200)
SEEDS = st.integers(0, 2**64 - 1)


@settings(max_examples=300)
@given(st.none() | conditions(), st.lists(conditions(), max_size=3), SEEN, SEEN, SEEDS, st.data())
def test_answers_are_those_of_looking_at_every_listing(
    market: tuple[Listings, PlainInventory],
    filters: Any,
    wishes: list[Any],
    seen: Collection[str],
    taken: Collection[str],
    seed: int,
    data: st.DataObject,
) -> None:
    ours, plain = (
        inventory.shortlist(None if filters is None else when(filters), [when(wish) for wish in wishes], seen)
        for inventory in market
    )
    assert list(ours.viable(taken)) == list(plain.viable(taken))
    weights = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 3.0]), min_size=len(wishes), max_size=len(wishes)))
    assert ours.best(weights, taken, seed) == plain.best(weights, taken, seed)
    for sponsored in (True, False):
        assert ours.any(taken, seed, sponsored=sponsored) == plain.any(taken, seed, sponsored=sponsored)
    k = data.draw(st.integers(1, 12))
    assert ours.default(k, seed) == plain.default(k, seed)


@pytest.mark.parametrize("size", [1, 254, 255, 256, 257, 65_535, 65_536])
def test_a_listing_that_lacks_an_attribute_is_told_from_all_values_however_many(size: int) -> None:
    column = column_of(np.arange(size, dtype=np.float64), np.array([-1, 0, size - 1]))
    assert [column.at(row) for row in range(3)] == [None, 0.0, size - 1]
    for value in (0.0, size - 1.0):
        found = mask_of(Equals("price", frozenset({value})), {"price": column}, slice(3))
        assert found.tolist() == [False, value == 0.0, value == size - 1]
    assert mask_of(Band("price", gte=-1.0), {"price": column}, slice(3)).tolist() == [False, True, True]


def test_sponsored_listings_come_first_among_those_without_a_rank(tmp_path: Path) -> None:
    rows = [{"listing_id": f"l{place}", "sponsored": place % 2 == 0} for place in range(20)]
    inventory = load(as_jsonl(rows, tmp_path / "l.jsonl"))
    for seed in range(5):
        assert order_of(inventory, seed) == order_of(PlainInventory(rows), seed)


ODD: list[Condition] = [
    Equals("make", frozenset({"No Such"})),
    Equals("make", frozenset({"Kia\0", "BMW"})),
    Equals("make", frozenset({"Kia"})),
    Equals("price", frozenset({5.0, 7.0, 30.0})),
    Equals("price", frozenset({-0.0})),
    Band("price", gte=5.0, lt=5.0),
    Band("price", gt=5.0, gte=10.0, lte=20.0, lt=20.0),
    Band("price", gt=30.0),
    Band("price", lt=1e308),
    Not(Band("price", lte=30.0)),
]


@pytest.mark.parametrize("condition", ODD)
def test_conditions_that_rules_rarely_have(condition: Condition, market: tuple[Listings, PlainInventory]) -> None:
    ours, plain = (inventory.shortlist(condition, [], ()).default(300, 7) for inventory in market)
    assert ours == plain


def test_listings_that_nobody_pays_for_are_not_looked_at_while_sponsored_ones_suffice(
    market: tuple[Listings, PlainInventory], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []
    fitting = Listings.fitting

    def counted(self: Listings, filters: Condition | None, *, sponsored: bool) -> Any:
        looked_at.append(sponsored)
        return fitting(self, filters, sponsored=sponsored)

    monkeypatch.setattr(Listings, "fitting", counted)
    found = market[0].shortlist(Band("price", lt=20.0), [Equals("fuel_type", frozenset({"petrol"}))], ())
    assert len(found.default(10, 1)) == 10
    assert found.viable(()) == [True]
    assert found.best([1.0], (), 1)
    assert found.any((), 1, sponsored=True)
    assert looked_at == [True]
    assert found.any((), 1, sponsored=False)
    assert len(found.default(100, 1)) == 100
    assert looked_at == [True, False]


def test_the_order_of_rows_in_the_file_does_not_matter(tmp_path: Path) -> None:
    write_listings(tmp_path / "l.jsonl", 50, 0.5, seed=1)
    lines = (tmp_path / "l.jsonl").read_text().splitlines()
    (tmp_path / "m.jsonl").write_text("\n".join(reversed(lines)))
    one, other = load(tmp_path / "l.jsonl"), load(tmp_path / "m.jsonl")
    assert order_of(one, seed=3) == order_of(other, seed=3)
    for seed in range(20):
        assert one.shortlist(None, [], ()).any((), seed, sponsored=False) == other.shortlist(None, [], ()).any(
            (), seed, sponsored=False
        )


def test_each_listing_is_drawn_as_often_as_any_other(tmp_path: Path) -> None:
    found = load(as_jsonl([{"listing_id": f"l{place}"} for place in range(20)], tmp_path / "l.jsonl")).shortlist(None, [], ())
    counts = dict.fromkeys([f"l{place}" for place in range(20)], 0)
    for draw in range(4_000):
        drawn = found.any((), ticket("seed", draw), sponsored=False)
        assert drawn is not None
        counts[drawn.listing["listing_id"]] += 1
    chi_square = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert chi_square < 43.8  # of 19 degrees of freedom: exceeded once in a thousand seeds


def test_two_listings_with_the_same_number_are_told_apart_by_their_ids(tmp_path: Path) -> None:
    inventory = load(as_jsonl([{"listing_id": "a"}, {"listing_id": "b"}, {"listing_id": "c"}], tmp_path / "l.jsonl"))
    number = number_of("b")
    same = Listings(inventory.offers._replace(numbers=np.full(3, number, np.uint64)))
    (row,) = same.rows_of(["b", "zz"])
    assert same.listing(row)["listing_id"] == "b"
    for seed in range(5):
        drawn = same.shortlist(None, [], {"b"}).any((), seed, sponsored=False)
        assert drawn is not None
        assert drawn.listing["listing_id"] != "b"


# --- the market's listings -----------------------------------------------------------------------------------------------


def test_the_market_offers_its_own_listings_first_and_the_same_file_for_the_same_seed(tmp_path: Path) -> None:
    for name, count, seed in (("one", 2_005, 1), ("two", 2_005, 1), ("other", 2_005, 2), ("few", 10, 1)):
        write_listings(tmp_path / name, count, 0.2, seed)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() != (tmp_path / "other").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "one").read_text().splitlines()]
    assert len({row["listing_id"] for row in rows}) == 2_005
    assert sum(row["sponsored"] for row in rows) == 401
    for row, listing in zip(rows, MARKET, strict=False):
        assert row["listing_id"] == listing.listing_id
        assert row.items() >= listing.attributes.items()
    assert len((tmp_path / "few").read_text().splitlines()) == 10
    (tmp_path / "one").rename(tmp_path / "one.jsonl")
    assert load(tmp_path / "one.jsonl").left_out == 0


@pytest.mark.parametrize(
    ("count", "share", "message"), [(0, 0.1, "count == 0"), (1_000_001, 0.1, "count"), (5, 1.1, "share == 1.1")]
)
def test_a_market_has_some_listings_and_a_share_of_them_pays(count: int, share: float, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{message}.*, must be within"):
        write_listings(tmp_path / "l.jsonl", count, share, 1)


# --- a file that changes -------------------------------------------------------------------------------------------------


def replace(path: Path, rows: Sequence[Row]) -> None:
    os.replace(as_jsonl(rows, path.with_suffix(".new")), path)


def test_a_changed_file_is_read_anew_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    path = as_jsonl(ROWS, tmp_path / "l.jsonl")
    read: list[str] = []

    def counted(path: str, catalogue: Catalogue) -> Inventory:
        read.append(path)
        return load_inventory(path, catalogue)

    inventory = InventoryFile(str(path), CATALOGUE, counted)
    before = inventory.shortlist(None, [], ())
    assert not inventory.look()
    replace(path, ROWS[1:2])
    assert inventory.look()
    assert not inventory.look()
    assert len(read) == 2
    assert [listing["listing_id"] for listing in order_of(inventory)] == ["b"]
    assert len(before.default(9, 1)) == 4  # an answer under way stays with the listings it began with
    assert (inventory.reloads, inventory.refused) == (1, 0)


@pytest.mark.parametrize("broken", ["", '{"listing_id": 7}\n', '{"listing_id": "a"', None])
def test_a_broken_or_lost_file_is_refused_loudly_and_the_last_good_one_stays(
    broken: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = as_jsonl(ROWS, tmp_path / "l.jsonl")
    inventory = InventoryFile(str(path), CATALOGUE)
    path.unlink() if broken is None else path.write_text(broken)
    with caplog.at_level(logging.ERROR):
        assert not inventory.look()
        assert not inventory.look()
    assert order_of(inventory) == order_of(PlainInventory(ROWS))
    assert (inventory.reloads, inventory.refused) == (0, 1)
    assert len([record for record in caplog.records if str(path) in record.getMessage()]) == 1
    replace(path, ROWS[:1])
    assert inventory.look()


def test_a_file_that_breaks_its_reader_is_refused_too(tmp_path: Path) -> None:
    path = as_jsonl(ROWS, tmp_path / "l.jsonl")

    def load_once(path: str, catalogue: Catalogue) -> Inventory:
        if inventories:
            raise MemoryError
        return load_inventory(path, catalogue)

    inventories: list[InventoryFile] = []
    inventories.append(InventoryFile(str(path), CATALOGUE, load_once))
    replace(path, ROWS[:1])
    assert not inventories[0].look()
    assert (inventories[0].refused, len(order_of(inventories[0]))) == (1, 4)


def test_the_first_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a file that is there"):
        InventoryFile(str(tmp_path / "l.jsonl"), CATALOGUE)


def test_answers_go_on_while_a_file_is_read_anew(tmp_path: Path) -> None:
    path = as_jsonl(ROWS, tmp_path / "l.jsonl")
    reading, go_on = threading.Event(), threading.Event()

    def slow(path: str, catalogue: Catalogue) -> Inventory:
        if started:
            reading.set()
            assert go_on.wait(10)
        return load_inventory(path, catalogue)

    started: list[bool] = []
    inventory = InventoryFile(str(path), CATALOGUE, slow)
    started.append(True)
    replace(path, ROWS[:1])
    looking = threading.Thread(target=inventory.look)
    looking.start()
    assert reading.wait(10)
    assert len(order_of(inventory)) == 4
    go_on.set()
    looking.join()
    assert len(order_of(inventory)) == 1
