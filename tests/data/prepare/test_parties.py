"""MovieLens as two parties have it: joined by the ids that both files hold, it is the source."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from fedps.data.prepare.parties import prepare_parties, synthesize_parties
from tests.data.prepare.conftest import FILES, MakeArchive
from tests.data.prepare.test_featured import MOVIES, USERS

SHELF = Path(os.environ.get("FEDPS_DATA", "/nowhere"))


def by_id(file: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in csv.DictReader(file.read_text().splitlines())}


def test_each_file_has_one_side_of_every_rating_in_an_order_of_its_own(archive: MakeArchive, tmp_path: Path) -> None:
    stars = FILES["ratings.dat"].replace("3::103::4", "3::103::3")
    manifest = prepare_parties(tmp_path / "out", str(archive(USERS | MOVIES | {"ratings.dat": stars})), seed=0)
    users, items = (by_id(tmp_path / "out" / f"{name}.csv") for name in ("users", "items"))
    assert sorted(users) == sorted(items) and list(users) != list(items) and len(users) == 156
    assert list(users["0"]) == ["id", "user", "gender", "age", "occupation", "zip"]
    assert list(items["0"]) == ["id", "item", "genres", "label"]
    joined = [users[k] | items[k] for k in users]
    assert {row["genres"] for row in joined if row["item"] == "150"} == {"0|1"}
    assert {(row["gender"], row["age"], row["zip"]) for row in joined if row["user"] == "1"} == {("0", "2", "20042")}
    assert sum(row["label"] == "0" for row in joined) == sum("::3::" in line for line in stars.splitlines())
    assert manifest["parties"]["items"]["features"]["label"] == {"kind": "label"}
    prepare_parties(tmp_path / "out", str(archive(USERS | MOVIES)), seed=1)  # what was prepared may be prepared anew


def test_of_the_twin_each_side_tells_something_and_both_together_more(tmp_path: Path) -> None:
    synthesize_parties(tmp_path / "out", users=60, items=50, per_user=40)
    users, items = (by_id(tmp_path / "out" / f"{name}.csv") for name in ("users", "items"))
    label = np.array([float(items[k]["label"]) for k in users])
    means = [
        np.var([label[[row[column] == value for row in rows]].mean() for value in {row[column] for row in rows}])
        for rows, column in ((list(users.values()), "user"), ([items[k] for k in users], "item"))
    ]
    assert min(means) > 0.01 and 0.2 < label.mean() < 0.8


@pytest.mark.slow
@pytest.mark.skipif(not (SHELF / "ml-1m-notime.zip").exists(), reason="no ML-1M here")
def test_of_ml_1m(tmp_path: Path) -> None:
    manifest = prepare_parties(tmp_path / "out", str(SHELF / "ml-1m-notime.zip"), seed=0)
    rows = {name: feature.get("rows") for name, feature in manifest["parties"]["users"]["features"].items()}
    assert rows == {"user": 6040, "gender": 2, "age": 7, "occupation": 21, "zip": "open"}
    assert manifest["parties"]["items"]["samples"] == 1_000_209
