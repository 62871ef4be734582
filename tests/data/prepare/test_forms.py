"""Files of any form: their form is found out and said, what is torn is named by its line."""

import gzip
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from fedps.data.prepare.forms import Hints, Mistakes, Source
from fedps.errors import DataError

PLAIN = "user,item,rating\nann,x,4\nbob,y,5\n"


def opened(path: Path, hints: Hints = Hints()) -> Source:  # noqa: B008
    return Source(path, hints, ["user", "item"])


def cells(source: Source, mistakes: Mistakes | None = None) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {name: [] for name in source.names}
    noted = mistakes or Mistakes()
    for piece in source.pieces(source.names, noted):
        for name, column in zip(source.names, piece.columns, strict=True):
            found[name] += column.to_pylist()
    if mistakes is None:
        noted.check()
    return found


EXPECTED = {"user": ["ann", "bob"], "item": ["x", "y"], "rating": ["4", "5"]}


@pytest.mark.parametrize(
    ("name", "payload", "said"),
    [
        ("a.csv", PLAIN.encode(), "text by commas; user, item, rating"),
        ("a.csv", PLAIN.replace("\n", "\r\n").encode(), "text by commas; user, item, rating; CRLF line ends"),
        ("a.csv", PLAIN.replace("\n", "\r").encode(), "text by commas; user, item, rating; CR line ends"),
        ("a.csv", b"\xef\xbb\xbf" + PLAIN.encode(), "text by commas; user, item, rating; UTF-8 with a mark"),
        ("a.csv", PLAIN.encode("utf-16"), "text by commas; user, item, rating; UTF-16"),
        ("a.csv", PLAIN.replace(",", ";").encode(), "text by semicolons; user, item, rating"),
        ("a.tsv", PLAIN.replace(",", "\t").encode(), "text by tabs; user, item, rating"),
        ("a.txt", PLAIN.replace(",", "|").encode(), "text by bars; user, item, rating"),
        ("a.dat", PLAIN.replace(",", "::").encode(), "text by ::; user, item, rating"),
        ("a.csv.gz", gzip.compress(PLAIN.encode(), mtime=0), "text by commas; packed by gzip; user, item, rating"),
        (
            "a.inter",
            PLAIN.replace("user,item,rating", "user:token,item:token,rating:float").replace(",", "\t").encode(),
            "RecBole's atomic file; user, item, rating",
        ),
        ("a.csv", ("\n\n" + PLAIN).encode(), "text by commas; user, item, rating"),
        ("a.csv", PLAIN.replace("ann", '"ann"').encode(), "text by commas; user, item, rating"),
    ],
)  # fmt: skip
def test_the_form_is_found_out_and_said(name: str, payload: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(payload)
    source = Source(tmp_path / name)
    assert source.told == said
    assert source.header
    assert cells(source) == EXPECTED


def test_a_file_in_an_archive_is_named_where_there_are_several(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/ratings.csv", PLAIN)
    assert cells(opened(path)) == EXPECTED
    assert "ratings.csv in a zip archive" in Source(path).told
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/README", "read me")
    with pytest.raises(
        DataError, match=r"all.zip: holds 2 files: ratings.csv, README; name one, e.g. .*all.zip/ratings"
    ):
        Source(path)
    assert cells(opened(path / "ratings.csv")) == EXPECTED
    with pytest.raises(DataError, match=r"all.zip: holds no visits.csv, but ratings.csv, README"):
        Source(path / "visits.csv")


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"user": [1, 2], "item": ["x", None]}), tmp_path / "a.parquet")
    source = Source(tmp_path / "a.parquet")
    assert (source.told, source.first) == ("Parquet; user, item; 2 rows", [["1", "x"], ["2", ""]])
    assert cells(source) == {"user": [1, 2], "item": ["x", None]}


def test_latin_1_is_known_where_it_can_be_nothing_else(tmp_path: Path) -> None:
    text = "movie,title\n" + "".join(f"{k},Léon {k}\n" for k in range(5))
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    source = Source(tmp_path / "a.csv")
    assert "Latin-1" in source.told
    assert cells(source)["title"][1] == "Léon 1"
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert Source(tmp_path / "a.csv").told == "text by commas; movie, title; UTF-8"


def test_a_byte_that_is_none_of_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("user,item\nann,é\nbob,".encode() + b"caf\xe9\ncid,z\n")
    with pytest.raises(DataError, match=r"a.csv, line 3: byte 0xe9 of 'caf\?' is no UTF-8; .*--encoding latin-1"):
        cells(opened(tmp_path / "a.csv"))
    assert cells(opened(tmp_path / "a.csv", Hints(encoding="latin-1")))["item"][1] == "café"
    for sign in ("", '"', "\n"):
        with pytest.raises(DataError, match=r"--delimiter .*: cuts nothing"):
            opened(tmp_path / "a.csv", Hints(delimiter=sign))
    for encoding in ("klingon", "hex", "undefined"):
        with pytest.raises(DataError, match=f"--encoding {encoding}: is not known"):
            opened(tmp_path / "a.csv", Hints(encoding=encoding))


@pytest.mark.parametrize(
    ("payload", "encoding", "said"),
    [
        (b"user,item\nann,x\nbob,\xe9\n", "ascii", "line 3: byte 0xe9 is no ascii"),
        (b"user,item\rann,x\rbob,\x81\xff\r", "shift_jis", "line 3: byte 0x81 is no shift_jis"),
        (b"user,item\n" + b"ann,\xe9\x81\n" * 3, None, "line 2: byte 0x81 is no cp1252"),
        ("user,item\nann,x\n".encode("utf-16")[:-1], None, "line 2: byte 0x0a is no utf-16-le"),
    ],
)
def test_bytes_that_are_none_of_an_encoding_are_named_with_their_line(
    payload: bytes, encoding: str | None, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_bytes(payload)
    with pytest.raises(DataError, match=f"a.csv, {said}; .*--encoding"):
        cells(opened(tmp_path / "a.csv", Hints(encoding=encoding)))


def test_line_ends_in_quotes_are_no_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('user,item\nann,"two\nlines, ""quoted"""\nbob,y,z\n')
    mistakes = Mistakes()
    assert cells(opened(tmp_path / "a.csv"), mistakes)["item"] == ['two\nlines, "quoted"']
    with pytest.raises(DataError, match=r"a.csv, line 4: 'bob,y,z' has 3 fields, and the header 2"):
        mistakes.check()


def test_all_torn_lines_are_told_at_once_the_first_ten_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\n" + "".join(f"u{k},x,y\n" if k % 2 else f"u{k},x\n" for k in range(40)))
    with pytest.raises(DataError) as raised:
        cells(opened(tmp_path / "a.csv"))
    told = str(raised.value).splitlines()
    assert len(told) == 11 and "line 3" in told[0] and "line 21" in told[9]
    assert told[10] == "… and 10 more such lines"


def test_files_without_a_header_have_numbers_for_names(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    source = Source(tmp_path / "u.data")
    assert (source.header, source.names) == (False, ["1", "2", "3", "4"])
    assert cells(source)["1"] == ["196", "186"]
    (tmp_path / "a.csv").write_text("ann,x\nbob,y\n")
    assert not Source(tmp_path / "a.csv").header
    (tmp_path / "b.csv").write_text("wer;was\nu1;a\nu2;b\n")
    assert Source(tmp_path / "b.csv").names == ["wer", "was"], "digits where a name has none"
    (tmp_path / "b.csv").write_text(",user,item\n0,ann,x\n1,bob,y\n")
    assert opened(tmp_path / "b.csv").names == ["1", "user", "item"], "as pandas writes an index"
    (tmp_path / "b.csv").write_text("u1 a\nu2 b\n")
    assert cells(Source(tmp_path / "b.csv", Hints(delimiter="blank")))["2"] == ["a", "b"]
    assert Source(tmp_path / "a.csv", known=["ANN"]).names == ["ann", "x"], "a column that was named"
    assert Source(tmp_path / "a.csv", Hints(header=True)).names == ["ann", "x"]


@pytest.mark.parametrize("payload", [b"", b"\n \n"])
def test_an_empty_file_is_refused(payload: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(payload)
    with pytest.raises(DataError, match=r"a.csv: is empty"):
        Source(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"BZh91AY&SY", "is packed in a form that is not read"),
        (b"just words\nand more\n", "is not cut by commas, tabs"),
        (b"x," * (1 << 20), "has no line ends, or nothing else: is it text"),
        (b"a\0b\0,\0", "holds zero bytes"),
        (b"PAR1 and no more", "is no Parquet file, or damaged"),
        (b"PK\x03\x04 and no more", "is cut off, or damaged"),
    ],
)
def test_what_is_no_table_is_refused_by_name(payload: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(payload)
    with pytest.raises(DataError, match=f"a.csv: .*{said}"):
        Source(tmp_path / "a.csv")


def test_a_cut_archive_is_told(tmp_path: Path) -> None:
    payload = gzip.compress(
        b"user,item\n" + b"".join(b"u%d,i%d\n" % (k * 7919 % 10**6, k * 31) for k in range(300_000))
    )
    (tmp_path / "a.csv.gz").write_bytes(payload[: len(payload) // 2])
    with pytest.raises(DataError, match=r"a.csv.gz: is cut off, or damaged"):
        cells(opened(tmp_path / "a.csv.gz"))
    with pytest.raises(DataError, match=r"none.csv: there is no such file"):
        Source(tmp_path / "none.csv")


def test_quotes_in_text_by_tabs_mean_something_below_a_header_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('"user"\t"item"\nann\t"a\tb"\n')
    assert cells(opened(tmp_path / "a.tsv")) == {"user": ["ann"], "item": ["a\tb"]}
    (tmp_path / "b.tsv").write_text('1\t"5" disk\n2\t"one\x85\n', encoding="utf-8")
    assert cells(Source(tmp_path / "b.tsv")) == {"1": ["1", "2"], "2": ['"5" disk', '"one\x85']}


def test_no_more_than_a_few_blocks_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.data.read.lines.BLOCK", 100)
    (tmp_path / "a.csv").write_text("user,item\r\n" + "".join(f"u{k},i{k}\r\n" for k in range(500)))
    source = opened(tmp_path / "a.csv")
    pieces = [len(piece.columns[0]) for piece in source.pieces(["item"], Mistakes())]
    assert sum(pieces) == 500 and max(pieces) < 20
