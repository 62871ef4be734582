"""Anybody's table of interactions: guessed, counted, told, cleaned, split, dealt out, and written so that jobs run on it."""

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fedps.data.catalogue import Catalogue
from fedps.errors import DataError
from tests.data.prepare.ratings import ITEMS, USERS, Prepare, lines_of, pairs, rows

SHELF = Path(os.environ.get("FEDPS_DATA", "/nowhere"))


def test_each_user_s_latest_is_held_out_and_all_others_are_trained_on(prepare: Prepare, tmp_path: Path) -> None:
    manifest = prepare()
    train, test = pairs(tmp_path / "out", "train"), pairs(tmp_path / "out", "test")
    latest = {(user, item) for user, item, stars, _ in lines_of() if stars == "1"}
    assert {(user, item) for _, user, item, label in test if label == "1"} == latest
    assert {(user, item) for _, user, item, _ in train} == {(user, item) for user, item, _, _ in lines_of()} - latest
    assert len(test) == 100 * USERS and {label for *_, label in train} == {"1"}
    groups = [test[k : k + 100] for k in range(0, len(test), 100)]
    taken = {(user, item) for user, item, _, _ in lines_of()}
    for group in groups:
        assert len({user for _, user, _, _ in group}) == 1
        assert len({item for _, _, item, _ in group}) == 100
        assert not {(user, item) for _, user, item, label in group if label == "0"} & taken
    assert len(manifest["clients"]) == 10
    assert (manifest["num_users"], manifest["num_items"], manifest["split"]) == (USERS, 150, "leave-one-out")
    assert manifest["columns"] == {"user": "userId", "item": "asin", "rating": "stars", "time": "timestamp"}
    assert "user 'userId' (guessed), item 'asin' (guessed)" in manifest["told"][1]
    assert "every line counts" in manifest["told"][1]


def test_the_same_data_in_other_forms_is_prepared_the_same(prepare: Prepare, ratings: Path, tmp_path: Path) -> None:
    prepare()
    files = {p.relative_to(tmp_path / "out"): p.read_bytes() for p in (tmp_path / "out").rglob("*.csv")}
    table = [line.split(",") for line in ratings.read_text().splitlines()]
    (tmp_path / "a.dat").write_text("".join(f"{'::'.join(row)}\r\n" for row in table[1:]))
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (tmp_path / "b.inter").write_text(head + "".join("\t".join(row) + "\n" for row in table[1:]))
    columns = dict(zip(("user", "item", "rating", "time"), zip(*table[1:], strict=True), strict=True))
    typed = {**columns, "time": pa.array(map(int, columns["time"])).cast(pa.timestamp("s"))}
    parquet.write_table(pa.table({name: pa.array(c) for name, c in typed.items()}), tmp_path / "c.parquet")
    for name in ("a.dat", "b.inter", "c.parquet"):
        prepare(tmp_path / name)
        assert files == {p.relative_to(tmp_path / "out"): p.read_bytes() for p in (tmp_path / "out").rglob("*.csv")}, (
            name
        )


def test_only_what_fulfils_the_condition_is_taken(prepare: Prepare, tmp_path: Path) -> None:
    manifest = prepare(positive=">= 4")
    assert manifest["counted"]["not_positive"] == USERS
    both = pairs(tmp_path / "out", "train") + [p for p in pairs(tmp_path / "out", "test") if p[3] == "1"]
    assert {(user, item) for _, user, item, _ in both} == {(u, i) for u, i, stars, _ in lines_of() if stars == "5"}


def test_a_split_by_time_holds_out_the_latest_of_all(prepare: Prepare, tmp_path: Path) -> None:
    late = tmp_path / "late.csv"
    late.write_text("userId,asin,stars,timestamp\nnew,B001,5,9000\n")
    manifest = prepare(tmp_path / "ratings.csv", late, split="time", share=0.252)
    test = {(user, item) for _, user, item, label in pairs(tmp_path / "out", "test") if label == "1"}
    assert test == {(u, i) for u, i, _, time in lines_of() if int(time) >= 6000}
    assert manifest["num_users"] == USERS, "who comes after the cut has nothing to learn from"
    assert any("1 lines of 1 users who have none before the cut" in line for line in manifest["told"])


def test_a_split_by_ratio_holds_out_a_share_of_each_user(prepare: Prepare, tmp_path: Path) -> None:
    prepare(split="ratio", share=0.25, candidates=False)
    test = pairs(tmp_path / "out", "test")
    assert {label for *_, label in test} == {"1"}
    assert set(Counter(user for _, user, _, _ in test).values()) == {2}


def test_recbole_s_three_files_are_told_apart_by_their_endings(prepare: Prepare, tmp_path: Path) -> None:
    head = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    (tmp_path / "ml.inter").write_text(head + "".join("\t".join(row) + "\n" for row in lines_of()))
    (tmp_path / "ml.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token\n"
        + "".join(f'B{k:03}\tItem "{k}\tkind {k % 3}\n' for k in range(ITEMS))
    )
    (tmp_path / "ml.user").write_text(
        "user_id:token\tage:token\n" + "".join(f"u{k:02}\t{20 + k % 5}\n" for k in range(USERS))
    )
    manifest = prepare(tmp_path / "ml.inter", tmp_path / "ml.item", tmp_path / "ml.user")
    assert list(manifest["features"]) == ["user", "item", "age", "class", "label"]
    assert manifest["source"] == "ml.inter"
    items = Catalogue.read(tmp_path / "out" / "items.csv")
    assert items.title(items.find("B009") or 0) == 'Item "9', "its quotes mean nothing"


def test_what_is_known_of_users_and_items_becomes_features_of_the_kind_that_cells_show(
    prepare: Prepare, tmp_path: Path
) -> None:
    (tmp_path / "users.csv").write_text(
        "user id,sex,age,zip code,hobbies,same\n"
        + "".join(
            f"u{k:02},{'FM'[k % 2]},{20 + k * 1.5},{10000 + k},{'a;b' if k % 2 else 'b;c'},x\n"
            for k in range(USERS - 1)
        )
    )
    (tmp_path / "items.csv").write_text(
        "asin,name,genres,price,year\n"
        + "".join(
            f'B{k:03},"Item {k}, the",{"Drama|Crime" if k % 2 else "Drama"},{k / 3:.2f},{1990 + k % 5}\n'
            for k in range(ITEMS)
        )
    )
    manifest = prepare(users=tmp_path / "users.csv", items=tmp_path / "items.csv", partition="zipcode")
    features = manifest["features"]
    assert {name: (f["kind"], f.get("rows"), f.get("side")) for name, f in features.items()} == {
        "user": ("id", USERS, "user"), "item": ("id", 150, "item"), "sex": ("id", "open", "user"),
        "age": ("number", None, "user"), "hobbies": ("ids", "open", "user"), "genres": ("ids", 2, "item"),
        "price": ("number", None, "item"), "year": ("id", 5, "item"), "label": ("label", None, None),
    }  # fmt: skip
    assert manifest["values"] == {"genres": ["Crime", "Drama"], "year": ["1990", "1991", "1992", "1993", "1994"]}
    assert "user column 'same': left out: all cells are the same" in manifest["told"]
    assert any(line.startswith("users: 1 of 30 have no line in") for line in manifest["told"])
    items = Catalogue.read(tmp_path / "out" / "items.csv")
    assert items.title(items.find("B007") or 0) == "Item 7, the"
    assert items.more["genres"][items.find("B007") or 0] == "Drama|Crime"
    assert set(manifest["clients"]) == {"1", "letter"}, "who has no zip code is of the client `letter`"
    train = rows(tmp_path / "out", "train", "1")
    users = Catalogue.read(tmp_path / "out" / "users" / "1.csv")
    for row in train:
        user, item = int(users.key(int(row["user"]))[1:]), int(items.key(int(row["item"]))[1:])
        assert (row["sex"], row["hobbies"]) == ("FM"[user % 2], "a|b" if user % 2 else "b|c")
        assert row["genres"] == ("1|0" if item % 2 else "1")
        assert row["year"] == str(item % 5)
    assert Counter(row["label"] for row in train) == {"1": len(train) // 5, "0": len(train) * 4 // 5}
    assert abs(np.mean([float(row["price"]) for row in train])) < 0.5, "by its distance from the mean"


def test_ratings_have_their_own_labels_and_sequences_what_was_taken_before(prepare: Prepare, tmp_path: Path) -> None:
    manifest = prepare(task="ratings", positive=">3")
    every = [
        row
        for side in ("train", "valid", "test")
        for client in manifest["clients"]
        for row in rows(tmp_path / "out", side, client)
    ]
    assert len(every) == len(lines_of())
    assert sum(row["label"] == "0" for row in every) == USERS
    (tmp_path / "items.csv").write_text("asin,kind\n" + "".join(f"B{k:03},{k % 3}\n" for k in range(ITEMS)))
    manifest = prepare(task="sequences", items=tmp_path / "items.csv")
    assert any(line.startswith("sequences: of what is known") for line in manifest["told"])
    users, items = (Catalogue.read(tmp_path / "out" / name) for name in ("users/0.csv", "items.csv"))
    for row in rows(tmp_path / "out", "test", "0"):
        mine = [item for user, item, _, _ in lines_of() if user == users.key(int(row["user"]))]
        assert [items.key(int(item)) for item in [*row["history"].split("|"), row["item"]]] == mine
    assert manifest["features"]["history"]["table"] == "item"


def test_what_comes_again_or_has_too_little_is_left_out_counted_and_told(
    prepare: Prepare, ratings: Path, tmp_path: Path
) -> None:
    with ratings.open("a") as file:
        file.write("u00,B000,5,99999\n,B001,3,1\nu01,,3,1\nsolo,B001,4,5\n  ,B001,4,5\n U00,B001,4,5\n")
    manifest = prepare()
    counted = manifest["counted"]
    assert (counted["lines"], counted["no_id"], counted["repeated"], counted["users_with_one"]) == (246, 3, 1, 2)
    test = {user: item for _, user, item, label in pairs(tmp_path / "out", "test") if label == "1"}
    assert test["u00"] == "B000", "of lines that come again the latest counts"
    assert "solo" not in test
    assert any("user ids: 1 differ from others by case or blanks only" in line for line in manifest["told"])
    assert not any("u00" in line for line in manifest["told"]), "who is whose user is nobody's business"
    manifest = prepare(core=2)
    assert "users_with_one" in manifest["counted"] and manifest["counted"]["users_with_one"] == 0
    left = Counter(item for _, _, item, _ in pairs(tmp_path / "out", "train")) + Counter(
        item for _, _, item, label in pairs(tmp_path / "out", "test") if label == "1"
    )
    assert min(left.values()) >= 2
    with pytest.raises(DataError, match="no interaction is left"):
        prepare(core=1000)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"user": "usrId"}, r"ratings.csv: has no column 'usrId', given by --user; nearest: 'userId'; there are 'userId', 'asin'"),
        ({"split": "half"}, "--split half: there are leave-one-out, time, ratio"),
        ({"core": -1}, "--core -1: must be 0 or more"),
        ({"negatives": -1}, "--negatives -1"),
        ({"task": "ratings"}, "--task ratings: say which ratings are positive"),
        ({"positive": "good"}, "--positive 'good': is no condition"),
        ({"share": 2.0}, "--share 2: must be between 0 and 1"),
        ({"partition": "zipcode"}, "--partition zipcode: needs a column of zip codes"),
        ({"clients": 1000}, "--clients 1000: there are only 30 users"),
        ({"seed": -1}, "--seed -1"),
        ({"user": "asin", "item": "asin"}, "column 'asin' is named for user and item"),
        ({"time": "none", "split": "time"}, "--split time: no column tells the time"),
        ({"user": "x", "item": "y"}, r"'x', given by --user.*\n.*'y', given by --item"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_with_a_remedy(
    asked: dict[str, Any], said: str, prepare: Prepare, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        prepare(**asked)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "asked", "said"),
    [
        (
            "u00,B001,good,5",
            {"positive": ">=4"},
            r"line 242: rating in column 'stars': 'good' is no number; correct it",
        ),
        ("u00,B001,5,yesterday", {}, r"line 242: time 'yesterday' is no number, as the times above are; "),
        ("u00,B001,5", {}, r"line 242: 'u00,B001,5' has 3 fields, and the header 4"),
        ("u00,B001,5,1,7", {}, r"line 242: .*has 5 fields"),
    ],
)
def test_a_cell_that_is_none_is_named_with_its_line(
    line: str, asked: dict[str, Any], said: str, prepare: Prepare, ratings: Path
) -> None:
    with ratings.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=f"ratings.csv, {said}"):
        prepare(**asked)


def test_a_rating_of_nothing_is_not_taken_for_a_purchase(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text(
        "user,item,click\n" + "".join(f"u{k % 9},i{k % 31},{k % 2}\n" for k in range(200))
    )
    with pytest.raises(DataError, match=r"column 'click' holds '0': was such an item taken\?.*--positive"):
        prepare(tmp_path / "clicks.csv")
    assert prepare(tmp_path / "clicks.csv", positive=">= 1")["counted"]["not_positive"] > 0
    prepare(tmp_path / "clicks.csv", rating="none")


def test_of_a_small_catalogue_held_out_items_stand_alone(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_text("user,item\n" + "".join(f"u{k % 9},i{k % 31}\n" for k in range(200)))
    manifest = prepare(tmp_path / "small.csv")
    assert manifest["test_negatives"] == "none"
    assert any("measure full_hr@10" in line for line in manifest["told"])
    assert {label for *_, label in pairs(tmp_path / "out", "test")} == {"1"}


def test_ids_of_every_kind_stay_what_they_are(prepare: Prepare, tmp_path: Path) -> None:
    keys = ["007", "7", "NA", "null", "é", 'say "hi"', "a,b", "two\nlines", " x", "x"]
    with (tmp_path / "odd.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item"])
        writer.writerows((f"u{k % 5}", key) for k, key in enumerate(keys * 5))
        writer.writerows((key, "item") for key in keys)
    prepare(tmp_path / "odd.csv")
    assert set(Catalogue.read(tmp_path / "out" / "items.csv").keys) == {*keys, "item"}
    users = [key for path in (tmp_path / "out" / "users").iterdir() for key in Catalogue.read(path).keys]
    assert set(users) == {*keys, *(f"u{k}" for k in range(5))}


def test_dates_order_as_numbers_do(prepare: Prepare, tmp_path: Path) -> None:
    dates = ["2026-01-02T10:00:00Z", "2025-12-31T23:59:59Z", "2026-01-02T10:00:01Z"]
    rows = [f"u{user},i{user + 7 * k},{date}" for user in range(20) for k, date in enumerate(dates)]
    (tmp_path / "dated.csv").write_text("user,item,date\n" + "\n".join(rows) + "\n")
    prepare(tmp_path / "dated.csv", candidates=False)
    assert {(u, i) for _, u, i, _ in pairs(tmp_path / "out", "test")} == {(f"u{u}", f"i{u + 14}") for u in range(20)}


@pytest.mark.skipif(not (SHELF / "ml-100k.zip").is_file(), reason="real ML-100k is not at hand: set FEDPS_DATA")
def test_real_ml_100k_of_its_own_archive(prepare: Prepare, tmp_path: Path) -> None:
    manifest = prepare(SHELF / "ml-100k.zip" / "u.data", items=SHELF / "ml-100k.zip" / "u.item")
    assert (manifest["num_users"], manifest["num_items"], manifest["counted"]["lines"]) == (943, 1682, 100_000)
    items = Catalogue.read(tmp_path / "out" / "items.csv")
    assert items.title(items.find("50") or 0) == "Star Wars (1977)"
