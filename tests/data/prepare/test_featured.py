"""Samples of many features: MovieLens as ratings and as sequences, and files of fields."""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest
from pyarrow import parquet

from fedps.data.catalogue import Catalogue
from fedps.data.prepare.clicks import synthesize_clicks
from fedps.data.prepare.featured import prepare_fields, prepare_ratings, prepare_sequences
from fedps.data.prepare.write import Split
from fedps.errors import DataError
from tests.data.prepare.conftest import FILES, MakeArchive

SHELF = Path(os.environ.get("FEDPS_DATA", "/nowhere"))
USERS = {"users.dat": "".join(f"{u}::{'FM'[u % 2]}::{25 + 10 * (u % 3)}::{u}::{u}0042\n" for u in range(1, 7))}
MOVIES = {
    "movies.dat": "7::Léon (1994)::Crime|Drama\n" + "".join(f"{100 * u}::First of {u}::Drama\n" for u in range(1, 7))
}


def rows(out: Path, side: str) -> dict[str, list[dict[str, str]]]:
    return {file.stem: list(csv.DictReader(file.read_text().splitlines())) for file in sorted((out / side).iterdir())}


def test_a_rating_has_what_is_known_of_its_user_and_its_item(archive: MakeArchive, tmp_path: Path) -> None:
    stars = FILES["ratings.dat"].replace("3::103::4", "3::103::3").replace("1::103::4::", "1::103::3::")
    source = archive(USERS | MOVIES | {"ratings.dat": stars})
    manifest = prepare_ratings(tmp_path / "out", str(source), Split(), seed=0)
    by_side = {side: rows(tmp_path / "out", side) for side in ("train", "valid", "test")}
    every = [row for sides in by_side.values() for mine in sides.values() for row in mine]
    assert len(every) == 156
    assert list(by_side["train"]) == ["1", "2", "3", "4", "5", "6"]
    assert all({row["user"] for row in mine} == {str(int(c) - 1)} for c, mine in by_side["train"].items())
    of_leon = [row for row in every if row["item"] == "150"]
    assert {row["genres"] for row in of_leon} == {"0|1"}
    assert [row["label"] for row in every if (row["user"], row["item"]) == ("0", "3")] == ["0"]
    assert sum(row["label"] == "1" for row in every) == 155
    assert {(row["gender"], row["age"], row["occupation"]) for row in every if row["user"] == "1"} == {("0", "2", "1")}
    assert manifest["features"] == json.loads((tmp_path / "out" / "manifest.json").read_text())["features"]
    assert manifest["features"]["genres"] == {"kind": "ids", "rows": 2, "pooling": "mean", "side": "item"}
    assert manifest["clients"]["1"]["samples"] == len(by_side["train"]["1"])
    items, users = (Catalogue.read(tmp_path / "out" / name) for name in ("items.csv", "users/2.csv"))
    assert (items.title(150), items.find("7"), items.key(0)) == ("Léon (1994)", 150, "100")
    assert (users.ids.tolist(), users.keys) == ([1], ["2"])
    prepare_ratings(tmp_path / "out", str(source), Split(), seed=1)  # what was prepared may be prepared anew


def test_a_sequence_is_what_a_user_took_before_the_item_that_came_next(archive: MakeArchive, tmp_path: Path) -> None:
    prepare_sequences(tmp_path / "out", str(archive(USERS | MOVIES)), Split(), seed=0)
    (train,), (test,) = (rows(tmp_path / "out", side)["2"] for side in ("train", "test"))
    assert Catalogue.read(tmp_path / "out" / "items.csv").title(150) == "Léon (1994)"
    assert Catalogue.read(tmp_path / "out" / "users" / "2.csv").key(1) == "2"
    assert (train["item"], train["history"]) == ("49", "|".join(map(str, range(25, 49))))
    assert (test["item"], test["history"]) == ("150", "|".join(map(str, range(25, 50))))


def test_fields_are_numbered_anew_and_the_first_is_the_user(tmp_path: Path) -> None:
    lines = [f"{(-1) ** k} {10 + k % 6}:1 {100 + k % 7}:1 {500 - k % 2}:1" for k in range(60)]
    with gzip.open(tmp_path / "some.libfm.gz", "wt") as file:
        file.write("\n".join(lines))
    manifest = prepare_fields(tmp_path / "out", [tmp_path / "some.libfm.gz"], 3, seed=0)
    assert {name: f.get("rows") for name, f in manifest["features"].items()} == {
        "user": 6, "item": 7, "field_2": 2, "label": None,
    }  # fmt: skip
    sides = [rows(tmp_path / "out", side) for side in ("train", "valid", "test")]
    every = [row for side in sides for mine in side.values() for row in mine]
    assert sorted((int(r["user"]), int(r["item"]), int(r["field_2"]), int(r["label"])) for r in every) == sorted(
        (k % 6, k % 7, 1 - k % 2, 1 - k % 2) for k in range(60)
    )
    items = Catalogue.read(tmp_path / "out" / "items.csv")
    assert items.keys == [str(100 + k) for k in range(7)]
    users = [{row["user"] for row in mine} for mine in sides[0].values()]
    assert len(users) == 3 and sum(map(len, users)) == 6, "a user is one client's"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 3:1", "has 1 fields; the lines above have 2"),
        ("1 3:1 4:2", "a field is index:1"),
        ("x 3:1 4:1", "label 'x'"),
        ("1 3:x 4:1", "a field is index:1"),
        ("inf 3:1 4:1", "label 'inf'"),
        (f"1 {10**30}:1 4:1", "a field is index:1"),
    ],
)
def test_a_malformed_line_of_fields_is_named(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "some.libfm").write_text(f"1 3:1 4:1\n{line}\n")
    with pytest.raises(DataError, match=r"some.libfm, line 2: ") as error:
        prepare_fields(tmp_path / "out", [tmp_path / "some.libfm"], 1, seed=0)
    assert said in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not (SHELF / "ml-100k.zip").is_file(), reason="real ML-100k is not at hand: set FEDPS_DATA")
def test_real_ml_100k_has_its_ages_and_genres(tmp_path: Path) -> None:
    manifest = prepare_ratings(tmp_path / "out", str(SHELF / "ml-100k.zip"), Split(), seed=0)
    sizes = {name: f.get("rows") for name, f in manifest["features"].items()}
    assert sizes == {
        "user": 943, "item": 1682, "gender": 2, "age": 61, "occupation": 21, "genres": 19, "label": None,
    }  # fmt: skip
    every = [
        row for side in ("train", "valid", "test") for mine in rows(tmp_path / "out", side).values() for row in mine
    ]
    assert (len(every), sum(row["label"] == "1" for row in every)) == (100_000, 55_375)


@pytest.mark.parametrize(("text", "said"), [("", "lines have no fields"), ("1 3:1\n", "lines have 1 fields")])
def test_files_without_a_user_and_an_item_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "some.libfm").write_text(text)
    with pytest.raises(DataError, match=f"some.libfm: {said}; as many are due in each, at least two"):
        prepare_fields(tmp_path / "out", [tmp_path / "some.libfm"], 1, seed=0)
    assert not (tmp_path / "out").exists()


def test_made_up_clicks_are_the_same_for_a_seed_and_say_that_they_are_made_up(tmp_path: Path) -> None:
    manifest = synthesize_clicks(tmp_path / "a", samples=2000, clients=2, values=10_000, seed=3)
    synthesize_clicks(tmp_path / "b", samples=2000, clients=2, values=10_000, seed=3)
    one, other = (parquet.read_table(tmp_path / name / "train" / "1.parquet") for name in "ab")
    assert one.equals(other)
    assert manifest["synthetic"] and manifest["features"]["C26"] == {"kind": "id", "rows": "open"}
    assert (one.num_rows, one.num_columns) == (900, 13 + 26 + 1)
    distinct = [len(set(one[f"C{k}"].to_pylist())) for k in (1, 26)]
    assert distinct[0] <= 10 and distinct[1] > 100, "few values in the first slot, many in the last"
    assert 0.1 < sum(one["label"].to_pylist()) / 900 < 0.9
