"""Files of any columns are read by name; a cell that is not as it should be is told with file, line, column and remedy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from fedps.config import Allow, Job, load_job
from fedps.data.read.by_job import Reading, read_by_job
from fedps.data.read.cells import stable_hash
from fedps.errors import DataError
from fedps.types import Bags

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
    ann = int(stable_hash(pa.array(["ann"]), seed)[0])
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
    monkeypatch.setattr("fedps.data.read.tabular.BLOCK", 40)
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


def test_a_missing_column_is_told_with_those_there_are(reads: Reads) -> None:
    with pytest.raises(DataError) as error:
        reads(HEADER.replace("age", "Age").replace("taste", "item") + LINES)
    assert "line 1: has no column 'age', of features.age; the header has clicked, Age, user," in str(error.value)
    assert "has no column 'taste'" in str(error.value)
    assert "has two columns 'item'" in str(error.value)


def test_classic_lines_need_no_header_and_files_without_samples_are_told(reads: Reads) -> None:
    features = {"user": {"kind": "id", "rows": "open"}, "item": {"kind": "id", "rows": 9}, "label": {"kind": "label"}}
    samples = reads("5,1,1\n6,2,0\n", features=features).samples
    assert (samples.user.tolist(), samples.item.tolist(), samples.label.tolist()) == ([5, 6], [1, 2], [1, 0])
    for text in ("", HEADER):
        with pytest.raises(DataError, match=r"a\.csv: holds no sample"):
            reads(text)
    with pytest.raises(DataError, match=r"holds no sample.* all rows were skipped, the first: .*line 2"):
        reads(HEADER + "2,0.5,ann,x,3,1|2,1|2|3|4,1;2\n", bad_lines="skip")


def test_hashes_are_the_same_everywhere(reads: Reads) -> None:
    texts = pa.array(["", "ann", "ann ", "ä" * 40, "7"])
    first = stable_hash(texts, 0)
    assert first.tolist() == stable_hash(pa.concat_arrays([pa.array(["x"]), texts])[1:], 0).tolist()
    assert len({*first.tolist(), *stable_hash(texts, 1).tolist()}) == 10
    assert (first >= 0).all()
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
