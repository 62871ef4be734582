"""Samples are read as they stand or not at all; a bad line is named with its file and number."""

import bz2
import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedps.data.read.reader import Skipped, read_first, read_samples
from fedps.errors import DataError, MalformedError
from tests.columns import columns

GOOD = [[1, 3], [2, 4], [1.0, 0.0]]


def read(tmp_path: Path, text: str | bytes) -> list[list[float]]:
    path = tmp_path / "c.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [column.tolist() for column in columns(read_samples(path, 10, 20))]


@pytest.mark.parametrize(
    "text",
    [
        "1,2,1\n3,4,0\n",
        "1,2,1\n3,4,0",
        "1,2,1\r\n3,4,0\r\n",
        "\ufeff1,2,1\n3,4,0\n",
        "\n1,2,1\n\n\n3,4,0\n\n",
        " 1, 2 ,1  \n3,4,0\t\n",
        '"1","2","1"\n"3",4,"0"\n',
        "01,002,1\n3,4,0\n",
    ],
)  # fmt: skip
def test_forms_of_the_same_samples(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text) == GOOD


@pytest.mark.parametrize(
    "header",
    ["user,item,label", "\ufeffuser,item,label", '"user_id","item_id","rating"', "\n\nUser , Item , Label ", "index,x,max", "user_id,item_id,user_rating", "0,1,2", '"0", 1 ,2', "用户,物品,标签"],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_header_is_recognised_and_never_trained_on(header: str, end: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"{header}{end}1,2,1{end}3,4,0{end}") == GOOD


BAD: dict[str | bytes, str] = {
    "1,2\n": "line 1: '1,2': has 2 fields",
    "7\n": "line 1: '7': has 1 field;",
    "1,2,1\n1,2,1,5\n": "line 2: '1,2,1,5': has 4 fields",
    "1,2,1\n1,x,0\n": "line 2: '1,x,0': item 'x' is no whole number",
    "user,item,label\n1,x,0\n": "line 2: '1,x,0': item 'x' is no whole number",
    "a,2,1\n": "line 1: 'a,2,1': user 'a' is no whole number",
    "user,item,label,time\n1,2,1,9\n": "line 1: 'user,item,label,time': names 4 columns; a line is user,item,label: say what each is",
    "1,2,1\n0,1,2\n": "line 2: '0,1,2': label 2 is neither 0 nor 1",
    "0,1,2\n": "holds no sample",
    "1,2,1\nuser,item,label\n": "line 2: 'user,item,label': user 'user' is no whole number",
    "user,item,label\nuser,item,label\n": "line 2: 'user,item,label': user",
    "nan,nan,nan\n1,2,1\n": "line 1: 'nan,nan,nan': user 'nan'",
    "1,2,2\n": "label 2 is neither 0 nor 1",
    "1,2,-1\n": "label -1 is neither 0 nor 1",
    "1,2,0.5\n": "label '0.5' is no whole number",
    "1,2,true\n": "label 'true' is no whole number",
    "1,2,\n": "label '' is no whole number",
    "-1,2,1\n": "user -1 is not in [0, 10)",
    "10,2,1\n": "user 10 is not in [0, 10); correct it or raise hyper_parameters.num_users",
    "1,2,1\n\n\r\n3,20,0\n": "line 4: '3,20,0': item 20 is not in [0, 20)",
    "1.0,2,1\n": "user '1.0' is no whole number",
    "1e1,2,1\n": "user '1e1' is no whole number",
    "0x1,2,1\n": "user '0x1' is no whole number",
    "1,2,1\n1,0X2,1\n": "line 2: '1,0X2,1': item '0X2'",
    "99999999999999999999,2,1\n": "is no whole number of at most 18 digits; hash users to numbers below hyper_parameters.n",
    "9223372036854775807,2,1\n": "is no whole number of at most 18 digits",
    "1;2;1\n": "has 1 field;",
    '1,"2\n",1\n': "line 1: '1,2': has 2 fields",
    "1,2,1\n  \n": "line 2: '  ': has 1 field",
    b"1,2,1\n\xff\xfe,2,1\n": "line 2:",
    b"1,2,1\n1,\x002,1\n": "line 2:",
    "1,2,1\n".encode("utf-16"): "is text in UTF-16: save it as UTF-8; a line is user,item,label",
    "1,2,1\n".encode("utf-16-le"): "holds zero bytes, as text in UTF-16 does: save it as UTF-8",
    "1,2,1\n".encode("utf-16-be"): "holds zero bytes, as text in UTF-16 does: save it as UTF-8",
    b"PK\x03\x04" + bytes(range(256)) * 50: "is a zip archive, or a spreadsheet: unpack it, or save it as CSV",
    gzip.compress(b"1,2,1\n", mtime=0): "is packed by gzip: unpack it",
    bz2.compress(b"1,2,1\n"): "is packed by bzip2: unpack it",
    lzma.compress(b"1,2,1\n"): "is packed by xz: unpack it",
    b"PAR1" + bytes(99): "is Parquet: write it as CSV",
    "item,user,label\n2,1,1\n": "line 1: 'item,user,label': names its columns in another order; a line is user,item,label",
    "\ufeff\nItem_ID, User_ID ,Rating\r\n2,1,1\n": "names its columns in another order",
    "userId,movieId,rating,timestamp\n1,2,3,4\n": "line 1: 'userId,movieId,rating,timestamp': names 4 columns; a line is user",
    "label,user,item\n1,1,2\n": "names its columns in another order",
    "1,\u00a02,1\n": "line 1: '1,\\xa02,1': item '\\xa02' is no whole number of at most 18 digits",
    "١,٢,١\n": "user '١' is no whole number of at most 18 digits",
    "": "holds no sample",
    "\n\n": "holds no sample",
    "user,item,label": "holds no sample",
    "user,item,label\n\n": "holds no sample",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_line_is_named(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, text)
    assert BAD[text] in str(error.value)
    assert str(tmp_path / "c.csv") in str(error.value)
    assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_a_folder_or_nothing_instead_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_samples(tmp_path, 10, 20)
    with pytest.raises(DataError, match=r"nothing\.csv: cannot be read: No such file"):
        read_samples(tmp_path / "nothing.csv", 10, 20)


@given(st.binary(max_size=60) | st.text('0123456789,-."\r\n xue', max_size=60).map(str.encode))
def test_any_bytes_are_samples_in_range_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(payload)
    try:
        samples = read_samples(path, 10, 20)
    except DataError as error:
        assert str(path) in str(error)
        assert "cannot be read" not in str(error), "the line is found"
    else:
        assert ((samples.user >= 0) & (samples.user < 10) & (samples.item >= 0) & (samples.item < 20)).all()
        assert np.isin(samples.label, [0, 1]).all()
        assert len(samples.user) == len(samples.item) == len(samples.label) >= 1


def test_what_is_read_may_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("1,2,1\n")
    samples = read_samples(tmp_path / "c.csv", 10, 20)
    samples.user[0] = 5
    assert [column.dtype.name for column in columns(samples)] == ["int64", "int64", "float32"]


def test_malformed_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("user,item,label\n1,2,1\nx\n3,4\n\n99,1,1\n3,4,0\n1,0x2,1\n1,2,2\n")
    skipped = Skipped()
    samples = read_samples(path, 10, 20, skipped)
    assert [column.tolist() for column in columns(samples)] == GOOD
    assert [column.dtype.name for column in columns(samples)] == ["int64", "int64", "float32"]
    assert (skipped.lines, skipped.first) == (5, f"{path}, line 3: 'x': has 1 field; a line is user,item,label")


def test_all_malformed_lines_are_told_together_the_first_in_full_the_others_by_number(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("user,item,label\n1,2,1\n99,77,3\n" + "3,x,0\n" * 30)
    for read_it in (read_samples, read_first):
        with pytest.raises(MalformedError) as error:
            read_it(path, 10, 20)
        told = str(error.value).splitlines()
        assert told[0] == (
            f"{path}, line 3: '99,77,3': user 99 is not in [0, 10); correct it or raise hyper_parameters.num_users;"
            " and item 77 is not in [0, 20); correct it or raise hyper_parameters.num_items;"
            " and label 3 is neither 0 nor 1"
        )
        assert told[1] == f"{path}, line 4: '3,x,0': item 'x' is no whole number of at most 18 digits"
        assert (len(told), told[-1]) == (21, "and 11 more malformed lines")


def test_a_large_file_is_not_searched_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.data.read.reader.AT_ONCE", 4)
    path = tmp_path / "c.csv"
    path.write_text("1,2,1\n" * 5 + "x\ny\n" + "1,2,1\n" * 5 + "z\n")
    with pytest.raises(MalformedError) as error:
        read_samples(path, 10, 20)
    assert error.value.lines == 2


def test_where_nothing_is_malformed_nothing_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("1,2,1\n")
    skipped = Skipped()
    assert len(read_samples(path, 10, 20, skipped).label) == 1
    assert (skipped.lines, skipped.first) == (0, "")


def test_a_file_of_malformed_lines_alone_is_an_error_even_when_they_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("x\ny\n")
    with pytest.raises(DataError, match=r"holds no sample; .*all lines were skipped, the first: .*line 1: 'x'"):
        read_samples(path, 10, 20, Skipped())
