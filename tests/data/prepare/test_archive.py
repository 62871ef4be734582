"""Archives and files as they come from the net: torn, false, huge or of another kind."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import pytest

from fedps.data.prepare import source
from fedps.data.prepare.source import Archive, lines, read_file, whole
from fedps.errors import DataError
from tests.memory import allocating_less_than

TEXT = b"1::2::3::4\n" * 2000


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, payload in files.items():
            out.writestr(name, payload)
    return path


def test_files_are_found_by_their_bare_names(tmp_path: Path) -> None:
    packed = zipped(
        tmp_path / "a.zip", {"ml-1m/": b"", "ml-1m/ratings.dat": b"\xef\xbb\xbf" + TEXT, "x_ratings.dat": b"no"}
    )
    assert Archive(packed).read("ratings.dat") == TEXT
    assert Archive(packed).read("users.dat") is None
    (tmp_path / "ratings.dat").write_bytes(TEXT)
    assert Archive(tmp_path).read("ratings.dat") == TEXT
    assert Archive(tmp_path).read("users.dat") is None


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b"<!DOCTYPE html><html>404", "no zip archive, or a torn one .*<!DOCTYPE html>"),
        (b"", "no zip archive"),
        (b"PK\x05\x06" + bytes(18), None),
        (b"PK\x03\x04 and no more", "no zip archive, or a torn one"),
    ],
)
def test_what_is_no_archive_is_named(payload: bytes, named: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(payload)
    if named is None:
        assert Archive(path).read("ratings.dat") is None, "an empty archive"
        return
    with pytest.raises(DataError, match=named) as error:
        Archive(path).read("ratings.dat")
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "begin", [b"\x1f\x8b\x08", b"BZh91AY", b"\xfd7zXZ\0", b"7z\xbc\xaf'\x1c", b"Rar!\x1a\x07"], ids=repr
)
def test_another_kind_of_archive_is_to_be_unpacked(begin: bytes, tmp_path: Path) -> None:
    (tmp_path / "ml-1m.tar").write_bytes(begin + bytes(99))
    with pytest.raises(DataError, match=r"ml-1m\.tar: is no zip archive.*; unpack it, and name the folder$"):
        Archive(tmp_path / "ml-1m.tar").read("ratings.dat")


def test_what_a_mac_or_windows_makes_of_an_archive_is_read(tmp_path: Path) -> None:
    mac = {"ml-1m/ratings.dat": TEXT, "__MACOSX/ml-1m/._ratings.dat": b"\0", "__MACOSX/ml-1m/ratings.dat": b"\0"}
    assert Archive(zipped(tmp_path / "mac.zip", mac)).read("ratings.dat") == TEXT
    assert Archive(tmp_path / "mac.zip").names == ["ratings.dat"]
    windows = zipped(tmp_path / "windows.zip", {"ml-1m\\ratings.dat": TEXT, "ml-1m/": b"", "ml-1m.zip": b""})
    assert Archive(windows).read("ratings.dat") == TEXT
    assert Archive(windows).names == ["ml-1m.zip", "ratings.dat"]


def test_text_in_utf_16_and_with_any_line_ends_is_read(tmp_path: Path) -> None:
    for text in ("1,Amélie\r\n2,b", "1,Amélie\r2,b\r", "\n1,Amélie\n2,b\n"):
        for payload in (
            text.encode("utf-16"),
            b"\xfe\xff" + text.encode("utf-16-be"),
            text.encode(),
            text.encode("latin-1"),
        ):
            (tmp_path / "movies.csv").write_bytes(payload)
            zipped(tmp_path / "a.zip", {"movies.csv": payload})
            for path in (tmp_path, tmp_path / "a.zip"):
                found = Archive(path).read("movies.csv")
                assert found is not None
                assert [fields for _, fields in lines(found, "a", ",", 2, quoted=True)] == [["1", "Amélie"], ["2", "b"]]
    assert [fields for _, fields in lines(b"1,a\n2,b\r\r\n", "a", ",", 2, quoted=True)] == [["1", "a"], ["2", "b"]]


def test_an_archive_torn_anywhere_is_named(tmp_path: Path) -> None:
    whole_one = zipped(tmp_path / "whole.zip", {"ratings.dat": bytes(range(256)) * 20}).read_bytes()
    for cut in range(0, len(whole_one) - 1, 7):
        (tmp_path / "a.zip").write_bytes(whole_one[:cut])
        with pytest.raises(DataError, match=r"a\.zip: "):
            Archive(tmp_path / "a.zip").read("ratings.dat")


def test_no_changed_byte_gets_out_as_another_error(tmp_path: Path) -> None:
    sound = zipped(tmp_path / "whole.zip", {"ratings.dat": TEXT[:500]}).read_bytes()
    refused = 0
    for place in range(len(sound)):
        (tmp_path / "a.zip").write_bytes(sound[:place] + bytes([sound[place] ^ 0x55]) + sound[place + 1 :])
        try:
            assert Archive(tmp_path / "a.zip").read("ratings.dat") in (TEXT[:500], None)
        except DataError:
            refused += 1
    assert refused > len(sound) // 4


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    packed = bytearray(zipped(tmp_path / "a.zip", {"ratings.dat": TEXT}).read_bytes())
    packed[6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(packed)
    with pytest.raises(DataError, match="torn or encrypted"):
        Archive(tmp_path / "a.zip").read("ratings.dat")


def test_two_files_of_a_name_are_named(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "a.zip", {"a/ratings.dat": TEXT, "b/ratings.dat": TEXT})
    with pytest.raises(DataError, match=r"holds ratings\.dat 2 times"):
        Archive(packed).read("ratings.dat")


def test_a_huge_member_is_refused_by_what_it_says_and_never_unpacked_beyond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 16 << 20
    packed = zipped(tmp_path / "a.zip", {"ratings.dat": bytes(size)}).read_bytes()
    monkeypatch.setattr(source, "LIMIT", size - 1)
    with pytest.raises(DataError, match=rf"ratings\.dat would unpack to {size} bytes; at most {size - 1}"):
        Archive(tmp_path / "a.zip").read("ratings.dat")
    (tmp_path / "b.zip").write_bytes(packed.replace(struct.pack("<I", size), struct.pack("<I", 100)))
    with allocating_less_than(size // 4):
        with pytest.raises(DataError, match=r"b\.zip: is a torn"):
            Archive(tmp_path / "b.zip").read("ratings.dat")


def test_a_packing_without_a_bound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="packed by method 12"):
        Archive(zipped(tmp_path / "a.zip", {"ratings.dat": TEXT}, zipfile.ZIP_BZIP2)).read("ratings.dat")


def test_plain_and_gzipped_files_are_told_apart_by_content(tmp_path: Path) -> None:
    (tmp_path / "plain.gz").write_bytes(TEXT)
    (tmp_path / "packed").write_bytes(gzip.compress(TEXT))
    assert read_file(tmp_path / "plain.gz") == read_file(tmp_path / "packed") == TEXT


def test_a_torn_or_missing_file_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(TEXT)
    for cut in (len(packed) - 1, len(packed) // 2, 11, 3):
        (tmp_path / "a.gz").write_bytes(packed[:cut])
        with pytest.raises(DataError, match=r"a\.gz: cannot be read"):
            read_file(tmp_path / "a.gz")
    (tmp_path / "a.gz").write_bytes(packed[:20] + b"\xff\xff\xff" + packed[23:])
    with pytest.raises(DataError, match=r"a\.gz: cannot be read"):
        read_file(tmp_path / "a.gz")
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_file(path)


def test_a_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LIMIT", 1000)
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as file:
        file.write(bytes(1001))
    (tmp_path / "a.gz").write_bytes(out.getvalue())
    (tmp_path / "b").write_bytes(bytes(1001))
    for name in ("a.gz", "b"):
        with pytest.raises(DataError, match="more than 1000 bytes"):
            read_file(tmp_path / name)
    (tmp_path / "b").write_bytes(bytes(1000))
    assert len(read_file(tmp_path / "b")) == 1000


def test_lines_carry_their_place_and_only_line_feeds_end_them() -> None:
    payload = b"1::L\xe9on\x85\x0c::x\r\n\n  \n2::b::y"
    assert list(lines(payload, "f", "::", 3)) == [
        ("f, line 1", ["1", "Léon\x85\x0c", "x"]),
        ("f, line 4", ["2", "b", "y"]),
    ]
    with pytest.raises(DataError, match="f, line 2: '3::4': has 2 fields separated by '::'; 3 are expected"):
        list(lines(b"1::2::3\n3::4\n", "f", "::", 3))


@pytest.mark.parametrize("text", ["", "x", "-1", "1.0", "+1", "1_0", "²", "٣", "9" * 19])
def test_what_is_no_whole_number_is_named(text: str) -> None:
    with pytest.raises(DataError, match=r"f, line 3: user .* is no whole number"):
        whole(text, "f, line 3", "user")
    assert whole(" 007 ", "f, line 3", "user") == 7


def test_a_file_that_was_never_packed_is_not_to_be_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4.0,964982703\n")
    with pytest.raises(DataError, match=r"is no zip archive.* the folder that this file lies in: ") as caught:
        Archive(tmp_path / "ratings.csv").read("ratings.csv")
    assert "fetch it again" not in str(caught.value)
