"""Sessions files: whatever they are written like they read the same, and what can't be used is refused with its place."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.sessions import CONTROL, TREATMENT, Sessions
from pipelines import session_table
from pipelines.sessions_file import ARMS, read_sessions_file
from schemas.errors import ConfigError
from schemas.sessions import COLUMNS, SCHEMA
from transforms.session_files import write_sessions

ROW: dict[str, Any] = {
    "session_id": "s1",
    "user_id": "u1",
    "started_at": "2026-05-01T09:00:00.000Z",
    "day": "2026-05-01",
    "arm": "control",
    "segment_count": "1",
    "primary_segment": "suv",
    "vehicles_viewed": "3",
    "impressions": "2",
    "clicks": "1",
    "lead": "0",
    "pre_vehicles": "2.5",
    "policy": "combined",
    "arm_probability": "0.5",
    "holdout": "false",
}
OTHER = ROW | {
    "session_id": "s2",
    "user_id": "u2",
    "started_at": "2026-05-02T09:00:00.000Z",
    "day": "2026-05-02",
    "arm": "treatment",
    "segment_count": "0",
    "primary_segment": "",
    "vehicles_viewed": "5",
    "lead": "1",
    "pre_vehicles": "",
}


def read_sessions(path: str, arms: Sequence[str] = ARMS) -> Sessions:
    return read_sessions_file(path, arms).sessions


def text_of(*rows: dict[str, Any], **how: Any) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), **how)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def saved(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text(text_of(*rows))
    return str(path)


def typed() -> Any:
    """The two rows as the schema has them."""
    return pacsv.read_csv(
        io.BytesIO(text_of(ROW, OTHER).encode()),
        convert_options=pacsv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=True, null_values=[""]),
    ).cast(SCHEMA)


def written(folder: Path, rows: list[dict[str, Any]]) -> list[str]:
    """The rows as the archive's table is written, as CSV, CSV packed, and Parquet."""
    paths = [str(folder / name) for name in ("s.csv", "s.csv.gz", "s.parquet")]
    for path in (paths[0], paths[2]):
        write_sessions(path, [pa.Table.from_pylist(rows, schema=SCHEMA)])
    Path(paths[1]).write_bytes(gzip.compress(Path(paths[0]).read_bytes()))
    return paths


def same(one: Sessions, other: Sessions) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def plain(tmp_path: Path) -> Sessions:
    return read_sessions(saved(tmp_path / "plain.csv", ROW, OTHER))


# --- what is read --------------------------------------------------------------------------------------------------------


def test_rows_become_arrays(plain: Sessions) -> None:
    assert plain.rows == 2
    assert (plain.arm.tolist(), plain.users) == ([CONTROL, TREATMENT], 2)
    assert (plain.segment.tolist(), plain.segments, plain.segment_count.tolist()) == ([0, -1], ("suv",), [1, 0])
    assert (plain.day.tolist(), plain.days) == ([0, 1], ("2026-05-01", "2026-05-02"))
    assert plain.impressions is not None and plain.clicks is not None and plain.lead is not None and plain.pre is not None  # noqa: PT018
    assert (plain.vehicles.tolist(), plain.impressions.tolist(), plain.clicks.tolist()) == ([3, 5], [2, 2], [1, 1])
    assert plain.lead.tolist() == [0, 1]
    assert plain.pre[0] == 2.5
    assert math.isnan(plain.pre[1])
    assert plain.started is not None
    assert plain.started.tolist() == [1777626000000, 1777712400000]
    assert [each.dtype for each in plain if isinstance(each, np.ndarray)] == [
        np.dtype(kind) for kind in ("i8", "i8", "i1", "i8", "i8", "i8", "f8", "f8", "f8", "f8", "f8", "i8")
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + text_of(ROW, OTHER), id="a byte order mark"),
        pytest.param(text_of(ROW, OTHER, quoting=csv.QUOTE_ALL), id="quotes everywhere"),
        pytest.param(text_of(ROW, OTHER, lineterminator="\n"), id="line feeds alone"),
        pytest.param(text_of(ROW, OTHER) + "\r\n\r\n", id="blank lines at the end"),
        pytest.param(text_of(*(dict(sorted(row.items())) for row in (ROW, OTHER))), id="columns in another order"),
        pytest.param(text_of(OTHER, ROW), id="rows in another order"),
        pytest.param(text_of(ROW | {"x": 'a,"b"\nc'}, OTHER | {"x": ""}), id="an unknown column"),
        pytest.param(text_of(ROW | {"vehicles_viewed": "3.0", "segment_count": "1.0", "lead": "0.0"}, OTHER), id="decimals"),
        pytest.param(text_of(ROW | {"lead": "False"}, OTHER | {"lead": "TRUE"}), id="flags as words"),
        pytest.param(text_of(ROW | {"started_at": "2026-05-01T11:00:00+02:00"}, OTHER), id="another offset"),
        pytest.param(text_of(ROW | {"started_at": "2026-05-01T09:00:00.0001234Z"}, OTHER), id="finer than a millisecond"),
        pytest.param(text_of(ROW | {"pre_vehicles": "2.50"}, OTHER | {"pre_vehicles": "NaN"}), id="not a number, where unknown"),
    ],
)
def test_a_csv_file_reads_the_same_however_it_is_written(text: str, plain: Sessions, tmp_path: Path) -> None:
    for name, data in (("other.csv", text.encode()), ("other.csv.gz", gzip.compress(text.encode())), ("odd", text.encode())):
        (tmp_path / name).write_bytes(data)
        found = read_sessions(str(tmp_path / name))
        if text.startswith(text_of(OTHER, ROW)):
            found = found._replace(session=1 - found.session, user=1 - found.user)  # codes go by appearance
        assert same(found, plain)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("session_id", pa.large_string()),
        ("session_id", pa.binary()),
        ("user_id", pa.dictionary(pa.int32(), pa.string())),
        ("user_id", pa.string_view()),
        ("arm", pa.dictionary(pa.int8(), pa.large_string())),
        ("primary_segment", pa.dictionary(pa.int16(), pa.string())),
        ("day", pa.date32()),
        ("day", pa.date64()),
        ("day", pa.timestamp("ns")),
        ("started_at", pa.timestamp("ns", "Europe/Berlin")),
        ("started_at", pa.timestamp("us")),
        ("started_at", pa.string()),
        ("segment_count", pa.int8()),
        ("segment_count", pa.float32()),
        ("segment_count", pa.string()),
        ("vehicles_viewed", pa.uint64()),
        ("vehicles_viewed", pa.float16()),
        ("vehicles_viewed", pa.decimal128(9, 2)),
        ("vehicles_viewed", pa.dictionary(pa.int32(), pa.float64())),
        ("vehicles_viewed", pa.string()),
        ("impressions", pa.int64()),
        ("lead", pa.bool_()),
        ("lead", pa.uint8()),
        ("lead", pa.string()),
        ("pre_vehicles", pa.float32()),
        ("holdout", pa.int64()),
    ],
)
def test_a_parquet_column_reads_the_same_whatever_its_type(column: str, kind: Any, plain: Sessions, tmp_path: Path) -> None:
    table = typed()
    values = table[column]
    if column == "started_at" and pa.types.is_string(kind):
        values = pa.chunked_array([pa.array([ROW[column], OTHER[column]])])
    elif column == "day" and not pa.types.is_string(kind):
        values = values.cast(pa.date32()).cast(kind)
    elif pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type).dictionary_encode().cast(kind)
    elif column == "started_at" and kind.tz is None:
        values = values.cast(pa.timestamp("us", "UTC")).cast(kind)
    else:
        values = values.cast(kind)
    table = table.set_column(table.column_names.index(column), column, values)
    pq.write_table(table, tmp_path / "s.parquet", row_group_size=1)
    assert same(read_sessions(str(tmp_path / "s.parquet")), plain)


def test_what_pandas_writes_is_read(plain: Sessions, tmp_path: Path) -> None:
    frame = typed().to_pandas()
    frame.to_parquet(tmp_path / "s.parquet")
    frame["started_at"] = frame["started_at"].map(lambda at: at.isoformat())
    frame.to_csv(tmp_path / "s.csv", index=False)
    frame.to_csv(tmp_path / "index.csv")  # whose first column has no name
    for name in ("s.parquet", "s.csv", "index.csv"):
        assert same(read_sessions(str(tmp_path / name)), plain), name


def test_ids_that_are_numbers_stay_apart(tmp_path: Path) -> None:
    frame = pd.DataFrame([ROW, OTHER, ROW]).assign(session_id=[2**62, 2**62 + 1, 2**62 + 2], user_id=[7, 8, 7])
    frame[["segment_count", "vehicles_viewed"]] = frame[["segment_count", "vehicles_viewed"]].astype(int)
    needed = frame[[column.name for column in COLUMNS if column.required]]
    needed.to_parquet(tmp_path / "s.parquet")
    found = read_sessions(str(tmp_path / "s.parquet"))
    assert (found.session.tolist(), found.user.tolist(), found.users) == ([0, 1, 2], [0, 1, 0], 2)


def test_a_session_of_nobody_known_is_a_user_of_its_own(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"session_id": "s2", "user_id": ""}, ROW | {"session_id": "s3", "user_id": ""}]
    rows.append(rows[1] | {"arm": "treatment"})
    found = read_sessions(saved(tmp_path / "s.csv", *rows))
    assert (found.user.tolist(), found.users) == ([0, 1, 2, 1], 3)


def test_a_line_end_within_quotes_is_no_end_of_a_row_wherever_a_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ROW | {"session_id": f"s\n{n}", "user_id": "u\n" * (n % 9 + 1), "vehicles_viewed": str(n)} for n in range(60)]
    for size in range(300, 420, 7):
        monkeypatch.setattr(session_table, "_BLOCK_BYTES", size)
        found = read_sessions(saved(tmp_path / "s.csv", *rows))
        assert (found.rows, found.users, found.vehicles.tolist()) == (60, 9, list(range(60)))


def test_empty_text_in_parquet_is_as_empty_as_in_csv(tmp_path: Path) -> None:
    named = [("a", "suv"), ("", ""), ("b", "van"), ("", ""), ("c", "")]
    rows = [ROW | {"session_id": f"s{n}", "user_id": user, "primary_segment": name} for n, (user, name) in enumerate(named)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "s.parquet")
    found = read_sessions(str(tmp_path / "s.parquet"))
    assert same(found, read_sessions(saved(tmp_path / "s.csv", *rows)))
    assert (found.user.tolist(), found.users) == ([0, 3, 1, 4, 2], 5)
    assert (found.segment.tolist(), found.segments) == ([0, -1, 1, -1, -1], ("suv", "van"))


def test_without_optional_columns_what_they_tell_is_unknown(tmp_path: Path) -> None:
    needed = {column.name for column in COLUMNS if column.required}
    found = read_sessions(saved(tmp_path / "s.csv", *({name: row[name] for name in needed} for row in (ROW, OTHER))))
    assert (found.impressions, found.clicks, found.lead, found.pre, found.started) == (None,) * 5
    assert (found.day.tolist(), found.days, found.segment.tolist(), found.segments) == ([0, 0], ("all",), [-1, -1], ())
    emptied = {name: "" for name in ROW if name not in needed}
    assert same(read_sessions(saved(tmp_path / "s.csv", ROW | emptied, OTHER | emptied)), found)


def test_without_days_they_are_those_of_the_instants(tmp_path: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "day"} for row in (OTHER, ROW)]
    found = read_sessions(saved(tmp_path / "s.csv", *rows))
    assert (found.day.tolist(), found.days) == ([0, 1], ("2026-05-01", "2026-05-02"))


def test_days_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    rows = [{name: value for name, value in ROW.items() if name != "started_at"} | {"day": day} for day in ("10", "9", "-1", "9")]
    found = read_sessions(saved(tmp_path / "s.csv", *rows))
    assert (found.days, found.day.tolist()) == (("-1", "9", "10"), [0, 1, 1, 2])
    pq.write_table(pa.Table.from_pylist([row | {"day": float(row["day"])} for row in rows]), tmp_path / "s.parquet")
    assert read_sessions(str(tmp_path / "s.parquet")).days == ("-1", "9", "10")


def test_rows_are_in_order_of_time_and_within_an_instant_as_in_the_file(tmp_path: Path) -> None:
    times = ["2026-05-01T09:00:02Z", "2026-05-01T09:00:01Z", "2026-05-01T09:00:02Z", "2026-05-01T09:00:01Z"]
    rows = [ROW | {"started_at": at, "vehicles_viewed": number} for number, at in enumerate(times)]
    assert read_sessions(saved(tmp_path / "s.csv", *rows)).vehicles.tolist() == [1, 3, 0, 2]


def test_other_arms_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"arm": "third", "primary_segment": "van", "day": "2026-05-03"}, OTHER, ROW | {"arm": "third"}]
    path = saved(tmp_path / "s.csv", *rows)
    found = read_sessions_file(path)
    assert found.other_arms == {"third": 2}
    assert (found.sessions.arm.tolist(), found.sessions.segments, found.sessions.days) == (
        [0, 1],
        ("suv",),
        ("2026-05-01", "2026-05-02"),
    )
    found = read_sessions_file(path, ["third", "treatment"])
    assert (found.other_arms, found.sessions.arm.tolist()) == ({"control": 1}, [0, 0, 1])
    with pytest.raises(ConfigError, match=r"--arms == a,b, must be two of those in .*: control, third, treatment"):
        read_sessions(path, ["a", "b"])


def test_of_a_holdout_only_its_rows_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "s.csv", ROW | {"holdout": "true"}, OTHER, OTHER | {"holdout": ""}, OTHER | {"holdout": "1"})
    assert read_sessions_file(path).sessions.rows == 4
    assert read_sessions_file(path, holdout=True).sessions.arm.tolist() == [0, 1]
    with pytest.raises(ConfigError, match="has no column holdout, must have one for --holdout"):
        read_sessions_file(saved(tmp_path / "s.csv", {k: v for k, v in ROW.items() if k != "holdout"}), holdout=True)


@pytest.mark.parametrize(
    ("probabilities", "vary"),
    [(("0.1", "0.9", "0.1", "0.9"), False), (("0.1", "0.9", "0.2", "0.9"), True), (("0.1", "0.9", "", "0.9"), False)],
)
def test_probabilities_vary_when_they_differ_within_an_arm(probabilities: tuple[str, ...], vary: bool, tmp_path: Path) -> None:
    rows = [row | {"arm_probability": each} for row, each in zip((ROW, OTHER, ROW, OTHER), probabilities, strict=True)]
    assert read_sessions_file(saved(tmp_path / "s.csv", *rows)).probabilities_vary is vary


def test_unknown_columns_are_told(tmp_path: Path) -> None:
    assert read_sessions_file(saved(tmp_path / "s.csv", ROW | {"colour": "red"})).unknown == ("colour",)


def test_a_table_without_rows_has_no_sessions(tmp_path: Path) -> None:
    assert [read_sessions(path).rows for path in written(tmp_path, [])] == [0, 0, 0]
    (tmp_path / "header.csv").write_text(text_of(ROW).splitlines()[0])
    assert read_sessions(str(tmp_path / "header.csv")).rows == 0


# --- what is refused -----------------------------------------------------------------------------------------------------

_NUMBER = "must be a number from 0 to 1e[+]09"
_WHOLE = "must be a whole number from 0 to 1e[+]09"
_FLAG = "must be 1 or 0, true or false"
_DAY = "must be a date"
_AT = "must be an instant with an offset, such as 2026-05-01T12:00:00.000Z"
BAD = [
    ("session_id", "", "must be an id"),
    ("arm", "", "must be an id"),
    *(("segment_count", value, must) for value, must in (("", _WHOLE), ("-1", _WHOLE), ("0.5", _WHOLE), ("x", "must be a number"))),
    *(("vehicles_viewed", value, _NUMBER) for value in ("", "-1", "NaN", "inf", "1e10")),
    *(("vehicles_viewed", value, "must be a number") for value in ("many", "1_000")),
    ("impressions", "-0.5", _NUMBER),
    ("impressions", "", _NUMBER),
    ("clicks", "1;2", "must be a number"),
    *(("lead", value, _FLAG) for value in ("2", "yes", "", "0.5")),
    ("pre_vehicles", "-3", _NUMBER),
    ("pre_vehicles", "-", "must be a number"),
    *(("day", value, _DAY) for value in ("2026-02-30", "5", "", "May", "2026-05-01T09:00:00Z")),
    *(("started_at", value, _AT) for value in ("2026-05-01T09:00:00", "2026-05-01", "", "9 o'clock", "2026-02-30T09:00:00Z")),
    ("started_at", "1969-12-31T23:59:59Z", "must"),
    *(("arm_probability", value, "must be above 0 and at most 1") for value in ("0", "1.5")),
    ("arm_probability", "p", "must be a number"),
    ("holdout", "perhaps", _FLAG),
]


def test_a_flag_that_is_missing_in_parquet_is_said_to_be_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({**typed().to_pydict(), "lead": [1.0, None]}), tmp_path / "s.parquet")
    with pytest.raises(ConfigError, match="row 2: lead == '', must be 1 or 0, true or false"):
        read_sessions(str(tmp_path / "s.parquet"))


@pytest.mark.parametrize(("column", "value", "must"), BAD)
def test_a_bad_value_is_refused_with_file_row_column_and_value(column: str, value: str, must: str, tmp_path: Path) -> None:
    rows = [ROW, OTHER, ROW | {column: value}, OTHER | {column: value}]
    path = saved(tmp_path / "bad.csv", *rows)
    with pytest.raises(ConfigError, match=rf"bad\.csv, row 3: {column} == .*, {must}") as refused:
        read_sessions_file(path, holdout=column == "holdout")
    shown_there = str(refused.value).split(" == ")[1].rsplit(", must")[0]
    assert value.rstrip("Z").lower() in shown_there.lower() or float(value) == float(shown_there.strip("'"))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "bad.parquet")
    with pytest.raises(ConfigError, match=rf"bad\.parquet, row 3: {column} == .*, {must}"):
        read_sessions_file(str(tmp_path / "bad.parquet"), holdout=column == "holdout")


def test_a_bad_value_far_down_is_found(tmp_path: Path) -> None:
    rows = [*([ROW] * 60_000), ROW | {"vehicles_viewed": "x"}]
    with pytest.raises(ConfigError, match=r"row 60001: vehicles_viewed == 'x'"):
        read_sessions(saved(tmp_path / "s.csv", *rows))


@pytest.mark.parametrize("column", [column.name for column in COLUMNS if column.required])
def test_a_required_column_must_be_there_once(column: str, tmp_path: Path) -> None:
    row = {name: value for name, value in ROW.items() if name != column}
    with pytest.raises(ConfigError, match=f"has no column {column}, must have session_id, user_id, arm"):
        read_sessions(saved(tmp_path / "s.csv", row))
    (tmp_path / "s.csv").write_text(f"{','.join([*ROW, column])}\n{','.join([*ROW.values(), 'x'])}\n")
    with pytest.raises(ConfigError, match=f"has 2 columns {column}, must have one"):
        read_sessions(str(tmp_path / "s.csv"))


@pytest.mark.parametrize(
    ("column", "kind", "must"),
    [
        ("vehicles_viewed", pa.list_(pa.float64()), "numbers"),
        ("session_id", pa.float64(), "text or whole numbers"),
        ("started_at", pa.int64(), "timestamps"),
        ("arm", pa.list_(pa.string()), "text or whole numbers"),
    ],
)
def test_a_column_of_another_type_is_refused(column: str, kind: Any, must: str, tmp_path: Path) -> None:
    table = typed()
    values = pa.array(
        [[1], [2]]
        if pa.types.is_list(kind) and kind.value_type == pa.float64()
        else [["a"]] * 2
        if pa.types.is_list(kind)
        else [1, 2],
        kind,
    )
    pq.write_table(table.set_column(table.column_names.index(column), column, values), tmp_path / "s.parquet")
    with pytest.raises(ConfigError, match=rf"s\.parquet: column {column} is of type .*, must be {must}"):
        read_sessions(str(tmp_path / "s.parquet"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty, must have a header with session_id"),
        (b"\n", "has no column session_id"),
        (b"PAR1", "must be a readable CSV or Parquet file"),
        (b"\x1f\x8bxx", "must be a readable CSV or Parquet file"),
        (gzip.compress(text_of(ROW, OTHER).encode() * 100, mtime=0)[:-200], "must be a readable CSV or Parquet file"),
        (b"\xff\xfe" + text_of(ROW).encode("utf-16-le"), "has no column session_id"),
        (text_of(ROW).encode() + b"a,b\n", "row 2: has 2 cells, must have 15 as the header"),
        (text_of(ROW, ROW | {"user_id": "\xe9"}).encode("latin-1"), "row 2: user_id == b'.xe9', must be UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(data)
    with pytest.raises(ConfigError, match=said):
        read_sessions(str(tmp_path / "s.csv"))
    with pytest.raises(ConfigError, match="nowhere.csv, must be a readable CSV or Parquet file"):
        read_sessions(str(tmp_path / "nowhere.csv"))
    with pytest.raises(ConfigError, match="must be a readable CSV or Parquet file"):
        read_sessions(str(tmp_path))


def test_days_are_all_dates_or_all_numbers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row 2: day == '3', must be a date, as 2026-05-01 in the rows before"):
        read_sessions(saved(tmp_path / "s.csv", ROW, ROW | {"day": "3"}))


# --- round trips ---------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=6) | st.sampled_from(
    ['a"b', "a,b", "a\nb", "null"]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "session_id": NAMES,
            "user_id": NAMES | st.none(),
            "started_at": st.integers(0, 4_000_000_000_000),
            "arm": st.sampled_from(["control", "treatment"]),
            "segment_count": st.integers(0, 3),
            "primary_segment": NAMES | st.none(),
            "vehicles_viewed": st.integers(0, 99).map(float),
            "lead": st.sampled_from([0.0, 1.0]),
            "pre_vehicles": st.none() | st.floats(0, 100),
            "holdout": st.booleans(),
        }
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ROWS)
def test_what_is_written_is_read_alike_from_each_kind_of_file(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    found = [read_sessions(path) for path in written(tmp_path, rows)]
    assert same(found[0], found[2])
    assert same(found[1], found[2])
    order = sorted(range(len(rows)), key=lambda row: rows[row]["started_at"])
    assert found[0].started is not None
    assert found[0].started.tolist() == [rows[row]["started_at"] for row in order]
    ids = [rows[row]["session_id"] for row in order]
    assert [a == b for a in ids for b in ids] == [a == b for a in found[0].session for b in found[0].session]
    assert [found[0].segments[code] if code >= 0 else None for code in found[0].segment] == [
        rows[row]["primary_segment"] for row in order
    ]
