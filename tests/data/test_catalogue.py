"""Held ids: read, written, searched."""

from pathlib import Path

import numpy as np
import pytest

from fedps.data.catalogue import Catalogue
from fedps.errors import DataError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    keys = ["007", "B0", 'say "hi", twice', "two\nlines", "", "NA", "null"]
    Catalogue(np.arange(7), keys, ["Bond", "", "a,b", "é", "x", "", "nan"]).write(tmp_path / "items.csv")
    read = Catalogue.read(tmp_path / "items.csv")
    assert read.keys == keys
    assert read.titles == ["Bond", "", "a,b", "é", "x", "", "nan"]
    assert read.ids.tolist() == list(range(7))
    assert (read.find("007"), read.find("7"), read.key(3), read.title(2), len(read)) == (
        0,
        None,
        "two\nlines",
        "a,b",
        7,
    )
    assert read.find_all(["NA", "none", "B0"]).tolist() == [5, -1, 1]


def test_ids_of_one_client_have_gaps_and_come_in_order(tmp_path: Path) -> None:
    Catalogue(np.array([9, 2]), ["ann", "bob"]).write(tmp_path / "a.csv", "user")
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == '"user","key"'
    read = Catalogue.read(tmp_path / "a.csv")
    assert (read.ids.tolist(), read.keys, read.titles) == ([2, 9], ["bob", "ann"], [])
    assert (read.find("ann"), read.key(2), read.title(9)) == (9, "bob", "")
    for stranger in (3, 10):
        with pytest.raises(DataError, match=f"id {stranger}: is not among the 2"):
            read.key(stranger)


def test_without_keys_an_id_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text('"item","title"\n0,"Up"\n1,"Down"\n')
    read = Catalogue.read(tmp_path / "items.csv")
    assert (read.keys, read.titles) == (["0", "1"], ["Up", "Down"])
    assert Catalogue.numbered(3).keys == ["0", "1", "2"]


def test_pandas_or_a_person_may_have_written_it(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_bytes("\ufeffitem,key,title,colour\r\n1,b,B,red\r\n\r\n0,a,A,\r\n".encode())
    read = Catalogue.read(tmp_path / "items.csv")
    assert (read.keys, read.titles, read.more) == (["a", "b"], ["A", "B"], {"colour": ["", "red"]})
    read.write(tmp_path / "again.csv")
    assert Catalogue.read(tmp_path / "again.csv").more == read.more


def test_the_nearest_keys_are_named() -> None:
    held = Catalogue(np.arange(4), ["alice", "Bob ", "alicia", "zoe"])
    assert held.nearest("alic")[0] in ("alice", "alicia")
    assert held.nearest("bob") == ["Bob "]
    assert held.nearest("quetzal") == []


def test_of_very_many_keys_those_that_begin_alike_are_compared() -> None:
    held = Catalogue(np.arange(30_000), [f"user{n}" for n in range(29_999)] + ["zoe"])
    assert held.nearest("zo") == ["zoe"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ('item,key\n0,"a\nb"\n1,c\nx,d\n', "line 5: item 'x' is no whole number"),
        ("item,key\n-1,a\n", "line 2: item '-1' is no whole number"),
        ("item,key\n0,a\n1,a\n", "key 'a' stands there twice"),
        ("item,key\n0,a\n0,b\n", "id 0 stands there twice"),
        ("item,key\n0,a\n1\n", "is no file of ids and keys"),
        ("item,key,title,title\n0,a,b,c\n", "line 1: has two columns 'title'; rename one"),
        ("item,key\n0,a\n1,caf\udce9\n", "line 3: is no file of ids and keys: 'utf-8' codec"),
        ("\udcff\n", "line 1: is no file of ids and keys: 'utf-8' codec"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "items.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=why) as raised:
        Catalogue.read(tmp_path / "items.csv")
    assert str(tmp_path / "items.csv") in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        Catalogue.read(tmp_path / "items.csv")
