"""Lines of interactions as numbers: ids, ratings and times of every type and form, and what becomes of those that are none."""

import datetime
import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from fedps.data.prepare.forms import Mistakes, Source
from fedps.data.prepare.interactions import Condition, alike, core_of, latest_of_each, numbers, read_log, texts
from fedps.data.prepare.table import Ask, prepare_table
from fedps.errors import DataError

COLUMNS = {"user": "user", "item": "item", "time": "time", "rating": "rating"}


def at(row: int) -> str:
    return f"row {row}"


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1.0, None, float("nan"), 3.0]), ["1", None, None, "3"]),
        (pa.array([1.5, 2.0]), ["1.5", "2"]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([b"x", b"\xc3\xa9"]), ["x", "é"]),
        (pa.array([1, 2], pa.int8()), ["1", "2"]),
        (pa.array([None, None]), [None, None]),
    ],
)
def test_ids_of_any_type_are_texts(column: pa.Array, expected: list[str | None]) -> None:
    assert texts(column).to_pylist() == expected


@pytest.mark.parametrize(
    "column", [pa.array([[1]]), pa.array([b"\xff"]), pa.array([1.0, 1e30]), pa.array([float("inf")])]
)
def test_what_is_no_id_is_refused(column: pa.Array) -> None:
    with pytest.raises(DataError, match=r"f.parquet: .* is none of ids"):
        texts(column, "f.parquet")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None]), [1, None]),
        (pa.array([decimal.Decimal("1.50"), None]), [1.5, None]),
        (pa.array(["1", "+2", " 3 ", "NA", None, ".5", "1e2"], pa.large_string()), [1, 2, 3, None, None, 0.5, 100]),
        (pa.array(["1", "2"]).dictionary_encode(), [1, 2]),
        (pa.array([True, False, None]), [1, 0, None]),
        (pa.array(["True", "false"]), [1, 0]),
        (pa.array([float("inf"), 2.0]), [None, 2]),
    ],
)
def test_ratings_of_any_type_are_numbers(column: pa.Array, expected: list[float | None]) -> None:
    mistakes = Mistakes()
    values, there = numbers(column, at, "rating", mistakes)
    assert not mistakes.count
    assert [value if known else None for value, known in zip(values.tolist(), there.tolist(), strict=True)] == expected


def test_a_rating_that_is_none_is_named() -> None:
    mistakes = Mistakes()
    numbers(pa.array(["1", "4,5", "x"]), at, "rating", mistakes)
    assert mistakes.first[0].startswith("row 1: rating: '4,5' is no number; correct it")
    assert mistakes.first[1] == "row 2: rating: 'x' is no number", "the remedy is said once"


@pytest.mark.parametrize(
    "times",
    [
        pa.array(["2003-04-22 15:24", "2003-04-23 15:24"]),
        pa.array(["2003-04-22T15:24:01.123+02:00", "2003-04-22T15:24:01.124+02:00"]),
        pa.array(["2018-07-23", "2018-07-24"]),
        pa.array(["1.5", "2"]),
        pa.array([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]),
        pa.array([datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 2)]),
        pa.array([1.5, 2.5]),
        pa.array([1, 2], pa.uint64()),
    ],
)
def test_times_of_any_kind_are_in_order(times: pa.Array, tmp_path: Path) -> None:
    table = pa.table({"user": ["a", "a"], "item": ["x", "y"], "time": times, "rating": [1, 1]})
    parquet.write_table(table, tmp_path / "a.parquet")
    log, counted = read_log([(Source(tmp_path / "a.parquet"), COLUMNS)], None)
    assert log.time[0] < log.time[1]
    assert tuple(counted) == (2, 0, 0, 0)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["01/02/2003"], r"line 2: time '01/02/2003' is no date \(2026"),
        (["2003-04-22", "5"], "line 3: time '5' is no date"),
        (["5", "2003-04-22"], "line 3: time '2003-04-22' is no number, as the times above are"),
    ],
)
def test_a_time_of_another_kind_is_named(times: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,rating,time\n" + "".join(f"u,i{t},1,{t}\n" for t in times))
    with pytest.raises(DataError, match=f"a.csv, {said}"):
        read_log([(Source(tmp_path / "a.csv"), COLUMNS)], None)


@pytest.mark.parametrize(
    ("first", "said"), [("dates", "numbers here, and dates"), ("numbers", "dates here, and numbers")]
)
def test_dates_and_numbers_of_two_files_are_not_put_in_one_order(first: str, said: str, tmp_path: Path) -> None:
    times = {"dates": pa.array([10**15], pa.timestamp("us")), "numbers": pa.array([1_600_000_000])}
    for kind, time in times.items():
        parquet.write_table(pa.table({"user": ["a"], "item": ["x"], "time": time}), tmp_path / f"{kind}.parquet")
    columns = {name: name for name in ("user", "item", "time")}
    sources = [(Source(tmp_path / f"{kind}.parquet"), columns) for kind in sorted(times, key=first.__ne__)]
    with pytest.raises(DataError, match=f"parquet, row 1: times are {said} above; .*--time none"):
        read_log(sources, None)


def test_dates_with_and_without_a_zone_are_in_one_order(tmp_path: Path) -> None:
    times = [
        "2020-01-01T02:00:00+02:00",
        "2020-01-01T01:00:00",
        "2020-01-01 02:00:00Z",
        "2020-01-02",
        "",
        "2020-01-02T05:00:00.5-0100",
    ]
    (tmp_path / "a.csv").write_text("user,item,time\n" + "".join(f"u,i,{time}\n" for time in times))
    columns = {name: name for name in ("user", "item", "time")}
    log, counted = read_log([(Source(tmp_path / "a.csv", known=["user"]), columns)], None)
    assert ((log.time - log.time[0]) / 3.6e9).round(2).tolist() == [0, 1, 2, 24, 30]
    assert counted.no_time == 1


def test_a_list_is_neither_a_rating_nor_a_time(tmp_path: Path) -> None:
    parquet.write_table(
        pa.table({"user": ["a"], "item": ["x"], "time": [[1]], "rating": [[1]]}), tmp_path / "a.parquet"
    )
    for role in ("time", "rating"):
        columns = {name: name for name in ("user", "item", role)}
        with pytest.raises(DataError, match=rf"a.parquet: column '{role}' is of list<.*; of a {role} write one a line"):
            read_log([(Source(tmp_path / "a.parquet"), columns)], Condition.read(">= 1"))


@pytest.mark.parametrize(
    ("text", "taken"), [(">= 4", [4, 5]), (">3", [4, 5]), ("<2", [1]), ("=3", [3]), ("3", [3]), ("!= 1", [2, 3, 4, 5]), ("<=1.5", [1])]
)  # fmt: skip
def test_a_condition_says_which_ratings_are_positive(text: str, taken: list[int]) -> None:
    stars = np.arange(1.0, 6.0)
    assert stars[Condition.read(text)(stars)].tolist() == taken


def test_core_and_latest(tmp_path: Path) -> None:
    rows = ["a,x,1", "a,y,2", "b,x,3", "b,y,4", "c,y,5", "a,x,9", "a,z,0", "a,x,9"]
    (tmp_path / "a.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    log, _ = read_log([(Source(tmp_path / "a.csv"), {k: k for k in ("user", "item", "time")})], None)
    latest = latest_of_each(log)
    assert latest.time.tolist() == [2, 3, 4, 5, 0, 9], "lines stay in order, and the last of equal times counts"
    core = core_of(latest, 2).compact()
    assert {(core.keys["user"][u], core.keys["item"][i]) for u, i in zip(core.user, core.item, strict=True)} == {
        ("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"),
    }  # fmt: skip
    assert alike(["Ann", "ann", " ann ", "bob"]) == [["Ann", "ann", " ann "]]


CELLS = st.one_of(
    st.sampled_from(
        ["u1", "007", "", " x", "NA", "5", "1e5", "-1", "2020-01-01", '"q"', '"a\nb"', '"', "é", "\x00", "i|j"]
    ),
    st.text(max_size=6),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=4), max_size=12),
    sign=st.sampled_from([",", ";", "\t", "|", "::"]), header=st.booleans(), encoding=st.sampled_from(["utf-8", "utf-16", "latin-1"]),
    torn=st.binary(max_size=3), task=st.sampled_from(["pairs", "sequences"]),
)  # fmt: skip
def test_whatever_a_file_holds_it_is_prepared_or_refused_by_name(
    rows: list[list[str]],
    sign: str,
    header: bool,
    encoding: str,
    torn: bytes,
    task: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    lines = [["user", "item", "rating", "time"]] * header + rows
    text = "\n".join(sign.join(row) for row in lines)
    (folder / "any.csv").write_bytes(text.encode(encoding, "replace") + torn)
    try:
        manifest = prepare_table(folder / "out", Ask([folder / "any.csv"], task=task), lambda _: None)
    except DataError as error:
        assert str(error).strip()
        assert not (folder / "out").exists()
    else:
        assert sum(client["samples"] for client in manifest["clients"].values())
