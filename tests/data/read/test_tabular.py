"""Files of any columns are read by name; a cell that is not as it should be is told with file, line, column and remedy."""

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fedps.config import Allow, Job, load_job
from fedps.data.hashing import stable_hash
from fedps.data.read.by_job import Reading, read_by_job
from fedps.data.read.client import check_files, read_client
from fedps.data.read.tabular import read_table
from fedps.errors import DataError, MalformedError
from fedps.types import Bags, ClientId

FEATURES: dict[str, dict[str, object]] = {
    "user": {"kind": "id", "rows": "open", "side": "user"},
    "item": {"kind": "id", "rows": 9},
    "genres": {"kind": "ids", "rows": 5, "pooling": "sum"},
    "history": {"kind": "ids", "table": "item", "max": 3},
    "age": {"kind": "number"},
    "taste": {"kind": "number", "dim": 2, "separator": ";"},
    "label": {"kind": "label", "column": "clicked"},
}
HEADER = "clicked,age,user,more,item,genres,history,taste\n"
LINES = '1,0.5,ann,x,3,1|2,1|2|3|4,1;2\n0,-1e3,7,"a,b",0,,,0.25;-3\n'
Reads = Callable[..., Reading]


@pytest.fixture
def reads(tmp_path: Path) -> Reads:
    """Return a function that reads a text as a client's file."""

    def read(text: str | bytes, name: str = "a.csv", features: object = None, **runner: object) -> Reading:
        folder = tmp_path / "train"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
        job = job_of(tmp_path, features or FEATURES, **runner)
        return read_by_job(job, "train", [folder / name], Allow())

    return read


def job_of(folder: Path, features: object, **runner: object) -> Job:
    tree = {"runner": {"train_data_dir": "train", "model": "net.Net", **runner}, "features": features}
    (folder / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_job(folder / "job.yaml")


def listed(column: Any) -> list[Any]:
    if isinstance(column, Bags):
        return [column.ids[a:b].tolist() for a, b in zip(column.starts[:-1], column.starts[1:], strict=True)]
    return list(column.tolist())


def assert_read(reading: Reading, seed: int = 0) -> None:
    samples = reading.samples
    ann = int(stable_hash(["ann"], seed)[0]) % 2**63
    assert {name: listed(column) for name, column in samples.columns.items()} == {
        "user": [ann, 7], "item": [3, 0], "genres": [[1, 2], []], "history": [[2, 3, 4], []], "age": [0.5, -1000.0],
        "taste": [[1, 2], [0.25, -3]],
    }  # fmt: skip
    assert samples.label.tolist() == [1, 0]
    assert "features.history.max: 3: of 1 samples" in reading.note


@pytest.mark.parametrize("sign", [",", "\t", ";", "|", " "])
def test_columns_are_found_by_name_whatever_separates_them(sign: str, reads: Reads) -> None:
    text = (
        HEADER.replace(",", sign)
        + "\n"
        + LINES.replace('"a,b"', "y").replace(";", "~").replace("|", "/").replace(",", sign)
    )
    features = {
        n: f | ({"separator": "~" if n == "taste" else "/"} if n in ("taste", "genres", "history") else {})
        for n, f in FEATURES.items()
    }
    assert_read(reads(text.replace("\n", "\r\n"), features=features))


def test_quotes_byte_order_marks_blanks_and_gzip(reads: Reads) -> None:
    assert_read(reads("\ufeff" + HEADER + LINES))
    assert_read(reads(HEADER + LINES.replace("a,b", 'a""\nb')))
    assert_read(reads((HEADER + LINES).replace(",3,", ", 3 ,").replace("ann", " ann ")))


def test_blocks_of_a_large_file_are_joined(reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.data.read.lines.BLOCK", 40)
    lines = "".join(f'{k % 2},{k},u{k},"a\nb",{k % 9},{k % 5},,1;{k}\n' for k in range(200))
    samples = reads(HEADER + lines).samples
    assert listed(samples.columns["age"]) == list(range(200))
    with pytest.raises(DataError, match=r"line 404, column 'item': '9' is not in \[0, 9\)"):
        reads(HEADER + lines + '0,1,u,"a\nb",8,0,,1;1\n0,1,u,,9,0,,1;1\n')


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"item": "x7"}, "column 'item': 'x7' is no whole number; set features.item.rows: open, where any text is an id"),
        ({"item": "9"}, r"column 'item': '9' is not in \[0, 9\); correct it, or raise features.item.rows"),
        ({"item": "-1"}, r"column 'item': '-1' is not in \[0, 9\)"),
        ({"item": ""}, "column 'item': '' is empty; correct it"),
        ({"item": "0x1"}, "column 'item': '0x1' is no whole number"),
        ({"item": "1.0"}, "column 'item': '1.0' is no whole number"),
        ({"genres": "1|x"}, "column 'genres': '1|x' is no whole number; set features.genres.rows: open"),
        ({"genres": "1;2"}, "column 'genres': '1;2' is no whole number; say by features.genres.separator what stands"),
        ({"genres": "1|7"}, r"column 'genres': '1\|7' is not in \[0, 5\)"),
        ({"history": "1|9"}, r"column 'history': '1\|9' is not in \[0, 9\); correct it, or raise features.item.rows"),
        ({"age": "old"}, "column 'age': 'old' is no number; correct it, or set features.age.kind: id if it names"),
        ({"age": ""}, "column 'age': '' is empty; fill it in"),
        ({"age": "nan"}, "column 'age': 'nan' is no finite number"),
        ({"age": "-inf"}, "column 'age': '-inf' is no finite number"),
        ({"age": "1e39"}, "column 'age': '1e39' is no finite number of 32 bits"),
        ({"age": "0x10"}, "column 'age': '0x10' is no number"),
        ({"taste": "1;2;3"}, "column 'taste': '1;2;3' holds 3 numbers, and features.taste.dim is 2"),
        ({"taste": "1;a"}, "column 'taste': '1;a' is no number"),
        ({"clicked": "2"}, "column 'clicked': '2' is neither 0 nor 1; correct it, or set features.label.of: real"),
        ({"clicked": "True"}, "column 'clicked': 'True' is no number; write 0 or 1"),
        ({"clicked": "nan"}, "column 'clicked': 'nan' is no finite number"),
        ({"more": "a,b"}, "has 9 fields, and the header 8; correct it, or put what holds ',' between quotes"),
        ({"user": "\udcff"}, "column 'user': .* is no UTF-8"),
    ],
)  # fmt: skip
def test_a_cell_that_is_not_as_it_should_be(cell: dict[str, str], said: str, reads: Reads) -> None:
    good = {
        "clicked": "1",
        "age": "3",
        "user": "u",
        "more": "",
        "item": "1",
        "genres": "1",
        "history": "2",
        "taste": "1;2",
    }
    text = HEADER + LINES + "\n" + ",".join((good | cell).values()) + "\n" + LINES
    data = text.encode("utf-8", "surrogateescape")
    with pytest.raises(DataError, match=f"a.csv, line 5(, |: ){said}"):
        reads(data)
    reading = reads(data, bad_lines="skip")
    assert len(reading.samples.label) == 4
    assert reading.skipped.lines == 1
    assert "line 5" in reading.skipped.first


def test_of_large_files_the_beginning_is_looked_at(
    reads: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedps.data.read.lines.BLOCK", len(LINES) + 3)
    reads(HEADER + LINES)
    job, file = job_of(tmp_path, FEATURES), tmp_path / "train" / "a.csv"
    file.write_text(HEADER + LINES + "2,,,,,,,\n" * 100)
    assert len(read_table(file, job, first=True).samples.label) == 2
    with pytest.raises(DataError, match="line 4"):
        read_table(file, job)


def test_all_bad_cells_of_all_files_are_told_together(tmp_path: Path) -> None:
    """Cells of one line, lines of one file, files of one client; and a file that lacks a column altogether."""
    folder, texts = tmp_path / "train", LINES.splitlines(keepends=True)
    folder.mkdir()
    (folder / "a.csv").write_text(HEADER + LINES + "2,old,ann,x,3,1|7,1,1;2\n" + LINES + "1,0.5,ann,x\n" + LINES)
    (folder / "b.csv").write_text(HEADER + texts[0])
    (folder / "c.csv").write_text("clicked,age,user,item,genres,taste\n")
    (folder / "d.csv").write_text(HEADER + "x,1,u,m,1,1,1,1;2\n" * 40)
    job = job_of(tmp_path, FEATURES, split_file_list=True, worker_num=1)
    with pytest.raises(MalformedError) as error:
        read_client(job, ClientId("0"))
    fields, first, column, *others = told = str(error.value).splitlines()
    assert first.startswith(f"{folder / 'a.csv'}, line 4, column 'genres': '1|7' is not in [0, 5); ")
    assert (
        "; and column 'age': 'old' is no number; " in first
        and "; and column 'clicked': '2' is neither 0 nor 1" in first
    )
    assert fields.startswith(f"{folder / 'a.csv'}, line 7: has 4 fields, and the header 8; ")
    assert column.startswith(f"{folder / 'c.csv'}, line 1: has no column 'history', of features.history; ")
    assert others[0].startswith(f"{folder / 'd.csv'}, line 2, column 'clicked': 'x' is no number")
    assert (len(told), told[-1]) == (21, "and 23 more malformed lines")
    with pytest.raises(MalformedError) as checked:
        check_files(job, Allow())
    assert str(checked.value) == str(error.value)


def test_files_of_all_clients_are_looked_at(tmp_path: Path) -> None:
    for side in ("train", "test"):
        (tmp_path / side).mkdir()
        for client in "01":
            (tmp_path / side / f"{client}.csv").write_text(HEADER + f"1,{client}{side},u,m,1,1,1,1;2\n")
    with pytest.raises(MalformedError) as error:
        check_files(job_of(tmp_path, FEATURES, test_data_dir="test"), Allow())
    places = [f"{tmp_path / side / client}.csv, line 2, column 'age'" for side in ("train", "test") for client in "01"]
    for told, place in zip(str(error.value).splitlines(), places, strict=True):
        assert told.startswith(place)


def test_a_missing_column_is_told_with_those_there_are(reads: Reads) -> None:
    with pytest.raises(DataError) as error:
        reads(HEADER.replace("age", "Age").replace("taste", "item") + LINES)
    assert "line 1: has no column 'age', of features.age; there are clicked, Age, user," in str(error.value)
    assert "has no column 'taste'" in str(error.value)
    assert "has two columns 'item'" in str(error.value)


def test_classic_lines_need_no_header_and_files_without_samples_are_told(reads: Reads) -> None:
    features = {"user": {"kind": "id", "rows": "open"}, "item": {"kind": "id", "rows": 9}, "label": {"kind": "label"}}
    samples = reads("5,1,1\n6,2,0\n", features=features).samples
    assert (samples.user.tolist(), samples.item.tolist(), samples.label.tolist()) == ([5, 6], [1, 2], [1, 0])
    for text in ("", HEADER):
        with pytest.raises(DataError, match=r"a\.csv: holds no sample"):
            reads(text)
    for torn, said in (
        ((HEADER + LINES).replace("\n", "\r").encode(), "line 1: lines end by CR alone"),
        ((HEADER + LINES).encode("utf-16-le"), "holds zero bytes, as text in UTF-16 does"),
    ):
        with pytest.raises(DataError, match=said):
            reads(torn)
    with pytest.raises(DataError, match=r"holds no sample.* all rows were skipped, the first: .*line 2"):
        reads(HEADER + "2,0.5,ann,x,3,1|2,1|2|3|4,1;2\n", bad_lines="skip")


def test_texts_and_numbers_of_an_open_space_are_known_alike_at_once_and_one_by_one(reads: Reads) -> None:
    features = {"user": {"kind": "id", "rows": "open"}, "label": {"kind": "label"}}
    column = ["007", "7", "-7", "9223372036854775807", "9223372036854775808", "", "x"]
    both = [
        reads(
            "user,label\n" + "".join(f"{c},0\n" for c in column) + more, features=features, bad_lines="skip"
        ).samples.user
        for more in ("", "7,2\n")
    ]
    assert both[0].tolist() == both[1].tolist()  # at once, and one by one
    assert both[0][1] == 7
    assert both[0][3] == np.iinfo(np.int64).max
    assert len(set(both[0].tolist())) == len(column)
    assert min(both[0].tolist()) >= 0, "ids below 0 stand for padding"


def test_what_an_empty_number_counts_as_may_be_said(reads: Reads) -> None:
    features = {"age": {"kind": "number", "missing": -1}, "label": {"kind": "label"}}
    for more in ("", "x,1\n"):
        samples = reads("age,label\n3,0\n,1\n" + more, features=features, bad_lines="skip").samples
        assert listed(samples.columns["age"]) == [3, -1]


def test_packed_files_and_parquet_hold_the_same(reads: Reads, tmp_path: Path) -> None:
    text = (HEADER + LINES).encode()
    assert_read(reads(gzip.compress(text), "a.csv.gz"))
    assert_read(reads(gzip.compress(text.replace(b",", b"\t").replace(b"a\tb", b"a")), "a.tsv.gz"))
    with pytest.raises(DataError, match="is cut off, damaged, or not packed"):
        reads(gzip.compress(text)[:-20], "a.csv.gz")
    with pytest.raises(DataError, match=r"is packed by gzip: let its name end in \.gz"):
        reads(gzip.compress(text), "a.csv")
    for strings in (pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.large_string()):
        parquet(tmp_path / "a.parquet", user=pa.array(["ann", "7"]).cast(strings))
        assert_read(reads((tmp_path / "a.parquet").read_bytes(), "a.parquet"))
    with pytest.raises(DataError, match="is no Parquet file, or damaged"):
        reads((tmp_path / "a.parquet").read_bytes()[:-30], "a.parquet")


def parquet(path: Path, **columns: Any) -> None:
    table = {
        "clicked": pa.array([True, False]), "age": pa.array([0.5, -1000], pa.float64()), "user": pa.array(["ann", "7"]),
        "item": pa.array([3, 0], pa.uint8()), "genres": pa.array([[1, 2], []], pa.list_(pa.int16())),
        "history": pa.array([[1, 2, 3, 4], None], pa.large_list(pa.int64())),
        "taste": pa.array([[1, 2], [0.25, -3]], pa.list_(pa.float32(), 2)),
    }  # fmt: skip
    pq.write_table(pa.table(table | columns), path)


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        ("item", [3, 9], r"row 2, column 'item': 9 is not in \[0, 9\)"),
        ("item", [None, 3], "row 1, column 'item': None is no whole number"),
        ("item", [3.0, 2.5], "row 2, column 'item': 2.5 is no whole number"),
        ("item", [[3], [2, 1]], r"row 2, column 'item': \[2, 1\] is no id; it holds several"),
        ("user", [b"a", b"b"], "row 1, column 'user': b'a' is neither a whole number nor a text"),
        ("genres", [b"1|2", b"3"], r"row 1, column 'genres': b'1\|2' is no whole number"),
        ("genres", [{"a": 1}, {"a": 2}], r"row 1, column 'genres': \{'a': 1\} is no id"),
        ("genres", [[1, None], []], r"row 1, column 'genres': \[1, None\] is no whole number"),
        ("age", [1.0, float("nan")], "row 2, column 'age': nan is no finite number"),
        ("age", [None, 1.0], "row 1, column 'age': None is empty"),
        ("taste", [[1.0], [1.0, 2.0]], r"row 1, column 'taste': \[1.0\] holds 1 numbers"),
        ("clicked", [1, 2], "row 2, column 'clicked': 2 is neither 0 nor 1"),
    ],
)
def test_a_row_of_parquet_that_is_not_as_it_should_be(
    column: str, cells: list[object], said: str, reads: Reads, tmp_path: Path
) -> None:
    parquet(tmp_path / "a.parquet", **{column: pa.array(cells)})
    with pytest.raises(DataError, match=f"a.parquet, {said}"):
        reads((tmp_path / "a.parquet").read_bytes(), "a.parquet")


CLICK = {"kind": "label"}
BY_POSITION = {"click": CLICK, "a": {"kind": "id", "rows": 9}, "b": {"kind": "id", "rows": "open"}}
BAG = {"x": {"kind": "number", "column": "7"}, "ids": {"kind": "ids", "rows": 9, "pooling": "sum"}, "click": CLICK}


def test_lines_of_index_and_value(reads: Reads) -> None:
    samples = reads("-1 3:1 44:1\n\n+1 2:1.0  5:1 # why\n", "a.libfm", BY_POSITION).samples
    assert [listed(c) for c in (*samples.columns.values(), samples.label)] == [[3, 2], [44, 5], [0, 1]]
    samples = reads(gzip.compress(b"1 7:0.5 2:1\n0\n1 4:1 3:1 7:-2e1"), "a.svm.gz", BAG).samples
    assert [listed(c) for c in (*samples.columns.values(), samples.label)] == [
        [0.5, 0, -20],
        [[2], [], [4, 3]],
        [1, 0, 1],
    ]
    several = {"p": CLICK, "q": {"kind": "label", "of": "real"}, "a": {"kind": "id", "rows": 9}}
    assert reads("1,-1 3:1\n", "a.libsvm", several).samples.label.tolist() == [[1, -1]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 7:1 1:1", "line 2, column 'click': '2' is neither 0 nor 1"),
        ("1 9:1", r"line 2, column 'ids': \[9\] is not in \[0, 9\)"),
        ("1 3:2", "line 2: '1 3:2': holds something else than index:value, or an index that is an id with another"),
        ("1 3", "line 2: '1 3': holds something else"),
        ("1 qid:1", "line 2: '1 qid:1': holds something else"),
        ("1 7:x", "line 2, column '7': 'x' is no number"),
    ],
)
def test_a_line_of_index_and_value_that_is_not_as_it_should_be(line: str, said: str, reads: Reads) -> None:
    text = f"1 1:1\n{line}\n0 7:2\n"
    with pytest.raises(DataError, match=f"a.svm, {said}"):
        reads(text, "a.svm", BAG)
    reading = reads(text, "a.svm", BAG, bad_lines="skip")
    assert (len(reading.samples.label), reading.skipped.lines) == (2, 1)


def test_indices_by_position_are_as_many_as_features(reads: Reads) -> None:
    with pytest.raises(DataError, match=r"line 1: '1 3:1': has 1 indices for the 2 features of kind id"):
        reads("1 3:1\n", "a.libfm", BY_POSITION)
    with pytest.raises(DataError, match="hold values by index"):
        reads("1 3:1\n", "a.libfm", BY_POSITION | {"x": {"kind": "number"}})


def test_the_published_files_are_read(reads: Reads) -> None:
    folder = Path(os.environ.get("FEDPS_DATA", "/nowhere")) / "ctr"
    if not folder.is_dir():
        pytest.skip("FEDPS_DATA names no folder with ctr/")
    fields = {f"f{k}": {"kind": "id", "rows": 5382} for k in range(10)}
    samples = reads((folder / "frappe.test.libfm.gz").read_bytes(), "f.libfm.gz", {"label": CLICK} | fields).samples
    assert (int(samples.label.sum()), samples.ids("f9").min(), samples.ids("f9").max()) == (9536, 5149, 5377)
    criteo = {f"I{k}": {"kind": "number", "missing": 0} for k in range(1, 14)}
    criteo |= {f"C{k}": {"kind": "id", "rows": "open"} for k in range(1, 27)}
    features = criteo | {"label": CLICK | {"column": "Label"}}
    samples = reads((folder / "criteo.train.tiny.csv.gz").read_bytes(), "c.csv.gz", features).samples
    assert (len(samples.label), len(set(samples.ids("C3").tolist()))) == (1999, 1293)


def test_one_label_of_several_may_be_unknown(reads: Reads) -> None:
    several = {"x": {"kind": "number"}, "p": {"kind": "label"}, "q": {"kind": "label", "of": "real"}}
    for more in ("", "1,2,0\n", "1,inf,0\n"):
        label = reads("x,p,q\n1,1,\n2,nan,-3.5\n" + more, features=several, bad_lines="skip").samples.label
        np.testing.assert_array_equal(label, np.array([[1, np.nan], [np.nan, -3.5]], np.float32))
    with pytest.raises(DataError, match="column 'p': '' is empty"):
        reads("x,p\n1,1\n2,\n", features={n: several[n] for n in "xp"})


@pytest.mark.parametrize(
    ("name", "said"), [("0.csv.gz", "has 4 words\nTotal words: 4"), ("0.parquet", "Total example: 2")]
)
def test_words_are_counted_of_what_a_packed_file_holds(name: str, said: str, tmp_path: Path) -> None:
    features = {"x": {"kind": "number"}, "y": CLICK}
    (tmp_path / "train").mkdir()
    if name.endswith(".gz"):
        (tmp_path / "train" / name).write_bytes(gzip.compress(b"x y\n1 0\n"))
    else:
        pq.write_table(pa.table({"x": [1.0, 2.0], "y": [0, 1]}), tmp_path / "train" / name)
    log = io.StringIO()
    read_client(job_of(tmp_path, features, example_count_method="word"), ClientId("0"), log=log)
    assert said in log.getvalue()
