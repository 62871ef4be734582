"""Ids of rows: what is one id and what is two, in whatever files they stand."""

import gzip
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fedps.config.sections.vertical import Ids
from fedps.errors import DataError
from fedps.vertical.ids import form_of, identity, read_ids

PLAIN = Ids()


def each(*texts: str) -> list[bytes]:
    return [identity([text]) for text in texts]


def csv(folder: Path, text: str, name: str = "a.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def table(folder: Path, name: str = "a.parquet", **columns: pa.Array | Sequence[Any]) -> Path:
    parquet.write_table(pa.table(columns), folder / name)
    return folder / name


def refused(files: Sequence[Path], columns: Sequence[str] = ("id",), ids: Ids = PLAIN) -> str:
    with pytest.raises(DataError) as error:
        read_ids(files, columns, ids, "bank")
    return str(error.value)


def test_numbers_are_their_digits_in_whatever_file(tmp_path: Path) -> None:
    text = read_ids([csv(tmp_path, "id,x\n1,5\n 2 ,5\n-3,5\n")], ["id"], PLAIN)
    for kind in (pa.int64(), pa.int32(), pa.float64(), pa.string(), pa.large_string()):
        cells = pa.array([1, 2, -3]).cast(kind if not pa.types.is_string(kind) else pa.string())
        assert read_ids([table(tmp_path, id=cells)], ["id"], PLAIN) == text
    coded = pa.array(["1", "2", "-3"]).dictionary_encode()
    assert read_ids([table(tmp_path, id=coded)], ["id"], PLAIN) == text
    largest = 2**64 - 1
    assert read_ids([table(tmp_path, id=pa.array([largest], pa.uint64()))], ["id"], PLAIN) == [
        identity([str(largest)])
    ]  # fmt: skip


def test_texts_are_themselves(tmp_path: Path) -> None:
    texts = ["1", "01", "1.0", "+1", "1e0", "a", "A", "a b", "0x1"]
    assert len(set(read_ids([csv(tmp_path, "\n".join(["id,x", *(f"{t},0" for t in texts)]))], ["id"], PLAIN))) == 9
    assert read_ids([table(tmp_path, id=texts)], ["id"], PLAIN) == each(*texts)


def test_blanks_and_case_are_as_the_job_says(tmp_path: Path) -> None:
    file = csv(tmp_path, "id\tx\n ab\t0\nCD \t0\nStraße\t0\n", "a.tsv")
    assert read_ids([file], ["id"], PLAIN) == each("ab", "CD", "Straße")
    assert read_ids([file], ["id"], Ids(blanks="keep")) == each(" ab", "CD ", "Straße")
    assert read_ids([file], ["id"], Ids(case="fold")) == each("ab", "cd", "strasse")
    assert "is empty" in refused([csv(tmp_path, "id,x\n  ,1\n")])
    assert read_ids([csv(tmp_path, "id,x\n  ,1\n")], ["id"], Ids(blanks="keep")) == [identity(["  "])]


def test_letters_are_compared_as_they_are_read_not_as_they_are_stored(tmp_path: Path) -> None:
    whole, parts = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
    assert whole != parts
    assert read_ids([csv(tmp_path, f"id,x\n{whole},1\n")], ["id"], PLAIN) == read_ids(
        [csv(tmp_path, f"id,x\n{parts},1\n")], ["id"], PLAIN
    )


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=2, max_size=2, unique=True))
def test_rows_that_differ_in_a_column_differ_in_their_ids(rows: list[tuple[str, str]]) -> None:
    one, other = map(identity, rows)
    assert one != other


def test_ids_of_several_columns_and_files(tmp_path: Path) -> None:
    one = csv(tmp_path, "day,user,x\nmon,1,0\nmon,11,0\n1,mon1,0\n")
    other = table(tmp_path, user=[1, 2], day=["tue", "tue"], x=[0.5, 0.5])
    ids = read_ids([one, other], ["user", "day"], PLAIN)
    assert ids == [b"1:13:mon", b"2:113:mon", b"4:mon11:1", b"1:13:tue", b"1:23:tue"]
    assert len(set(ids)) == 5


def test_other_forms_of_text(tmp_path: Path) -> None:
    quoted = csv(tmp_path, 'x;id\n1;"a;b"\n2;"c\nd"\n\n3;e\n')
    assert read_ids([quoted], ["id"], PLAIN) == each("a;b", "c\nd", "e")
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(b"id,x\n7,1\n"))
    assert read_ids([packed], ["id"], PLAIN) == [b"1:7"]
    assert read_ids([csv(tmp_path, "5,6,1\n5,7,0\n")], ["user", "item"], PLAIN) == [b"1:51:6", b"1:51:7"]  # no header
    assert read_ids([csv(tmp_path, "id,x\n")], ["id"], PLAIN) == read_ids([csv(tmp_path, "")], ["id"], PLAIN) == []


def test_an_id_that_is_there_twice_is_named_with_both_its_places(tmp_path: Path) -> None:
    one = csv(tmp_path, 'id,x\n7,"1\n2"\n8,1\n 7 ,1\n')
    said = refused([one])
    assert said == (
        f"{one}, line 5, column 'id': 7 is the id in {one}, line 2, too; leave one out, or let parties.bank.id name columns that"
        " tell them apart"
    )
    other = table(tmp_path, id=[9, 8, 10], day=[1, 2, 3])
    assert f"{other}, row 2, column 'id': 8 is the id in {one}, line 4, too" in refused(
        [csv(tmp_path, 'id,x\n7,"1\n2"\n8,1\n'), other]
    )
    pair = refused([csv(tmp_path, "user,day\nAda,1\nada,1\n")], ["user", "day"], Ids(case="fold"))
    assert "line 3, columns 'user', 'day': (ada, 1) is the id in" in pair
    many = refused([csv(tmp_path, "id,x\n" + "5,1\n" * 100)])
    assert "and 79 more malformed lines" in many
    assert len(many.splitlines()) == 21


def test_what_is_no_id_is_named_with_file_row_and_column(tmp_path: Path) -> None:
    file = csv(tmp_path, "id,day\n1,x\n ,x\n2,\n")
    assert refused([file], ["id", "day"]).splitlines() == [
        f"{file}, line 3, column 'id': is empty; give each sample an id, or leave it out",
        f"{file}, line 4, column 'day': is empty; give each sample an id, or leave it out",
    ]
    assert "a.parquet, row 2, column 'id': is empty" in refused([table(tmp_path, id=[1, None])])
    assert "row 1, column 'id': is empty" in refused([table(tmp_path, id=pa.nulls(3))])
    for cells, said in (
        ([1.0, 2.5], "row 2, column 'id': 2.5 is no whole number; write ids as texts"),
        ([1.0, float("nan")], "row 2, column 'id': nan is no whole number"),
        ([1e300], "column 'id': 1e+300 is no whole number"),
        ([True], "row 1, column 'id': is of type bool, and ids are whole numbers or texts; write texts"),
        ([b"\xff"], "is of type binary"),
        ([[1]], "is of type list"),
    ):
        assert said in refused([table(tmp_path, id=cells)])
    wrong = csv(tmp_path, "id,x\n1,2\n3\n")
    assert f"{wrong}, line 3: has 1 fields, and the header 2" in refused([wrong])
    (tmp_path / "latin.csv").write_bytes("id,x\nJosé,1\n".encode("latin-1"))
    assert "latin.csv, line 2: an id is no UTF-8" in refused([tmp_path / "latin.csv"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = csv(tmp_path, "Id,x\n1,2\n")
    assert refused([file]) == (
        f"{file}, line 1: has no column 'id', of parties.bank.id; there are Id, x: add the column, or name it by parties.bank.id"
    )
    assert "has two columns 'id'; rename one" in refused([csv(tmp_path, "id,id\n1,2\n")])
    assert "none.csv: cannot be read: No such file" in refused([tmp_path / "none.csv"])
    assert "have no columns by name" in refused([csv(tmp_path, "1 4:1\n", "a.libsvm")])
    assert "is no Parquet file, or damaged" in refused([csv(tmp_path, "id\n1\n", "b.parquet")])


def test_the_form_of_ids_is_said_by_example() -> None:
    def form(*rows: Sequence[str]) -> str:
        return form_of([identity(row) for row in rows])

    assert form(["17"], ["-18"], ["x"]) == "ids here look like 17, -18: whole numbers"
    assert form(["017"], ["18"]) == "ids here look like 017, 18: digits behind zeros, which count"
    assert form(["a:1"], ["1.0"]) == "ids here look like a:1, 1.0: texts"
    assert form(["5", "mon"], ["6", "tue"]) == "ids here look like (5, mon), (6, tue): whole numbers and texts"
    assert form(["x" * 99]) == f"ids here look like {'x' * 39}…: texts"
    assert form() == "there is no id here"
    assert form_of([identity(["part-1", "0"])]) == "ids here look like (part-1, 0): texts and whole numbers"
