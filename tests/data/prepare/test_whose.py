"""Whose the rows of a table are: a column says so, or a file of users, or the site that prepares its own."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from fedps.config import load_job
from fedps.config.shared import first_difference, shared_part
from fedps.data.catalogue import Catalogue
from fedps.errors import DataError
from tests.data.prepare.ratings import ITEMS, USERS, Prepare, lines_of, pairs, rows


def test_a_column_says_who_is_whose(prepare: Prepare, tmp_path: Path) -> None:
    hospital = ["St. Mary's", "north", "Süd"]
    table = pa.table({
        "patient": [row[0] for row in lines_of()], "drug": [row[1] for row in lines_of()],
        "hospital": [hospital[int(row[0][1:]) % 3] for row in lines_of()],
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "visits.parquet")
    manifest = prepare(tmp_path / "visits.parquet")
    assert list(manifest["clients"]) == ["St.-Mary-s", "north", "Süd"]
    assert manifest["partition"] == "hospital"
    assert "client 'hospital' (guessed)" in manifest["told"][1]
    assert {(client, int(user[1:]) % 3) for client, user, _, _ in pairs(tmp_path / "out", "train")} == {
        ("St.-Mary-s", 0), ("north", 1), ("Süd", 2),
    }  # fmt: skip
    assert {p.name for p in (tmp_path / "out" / "users").iterdir()} == {"St.-Mary-s.csv", "north.csv", "Süd.csv"}
    assert len(prepare(tmp_path / "visits.parquet", partition="iid", clients=4)["clients"]) == 4
    assert prepare(tmp_path / "visits.parquet", client="none")["partition"] == "iid"
    with pytest.raises(
        DataError, match=r"--client: .*ratings.csv has no such column, and other files have; name it, or --client none"
    ):
        prepare(tmp_path / "visits.parquet", tmp_path / "ratings.csv")


def test_a_line_without_a_client_is_told_as_such_and_too_long_a_name_is_refused(
    prepare: Prepare, tmp_path: Path
) -> None:
    shops = tmp_path / "shops.csv"
    shops.write_text("user,item,shop\n" + "".join(f"{u},{u}{k},{'s' * (u % 2)}\n" for u in range(6) for k in range(3)))
    assert "lines: 18; left out: 9 without a user, an item or a client" in prepare(shops)["told"]
    shops.write_text(f"user,item,shop\na,x,{'s' * 250}\n")
    with pytest.raises(DataError, match=r"client 's+'…: is too long to name its files; rename it"):
        prepare(shops)


def test_a_user_of_two_clients_is_named_and_refused_or_goes_where_one_says(prepare: Prepare, tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    lines = [f"u{k},i{k % 7},{'north' if k % 2 else 'south'}" for k in range(12)]
    path.write_text("\n".join(["user,item,shop", "ann,i0,north", "ann,i1,south", "ann,i2,south", *lines]) + "\n")
    with pytest.raises(
        DataError, match=r"1 users have lines in several clients: 'ann' in 'north' and 'south'; .*--shared-users"
    ):
        prepare(path)
    for policy, where in (("first", {"north"}), ("largest", {"south"}), ("apart", {"north", "south"})):
        manifest = prepare(path, shared_users=policy)
        both = pairs(tmp_path / "out", "train") + pairs(tmp_path / "out", "test")
        mine = [(client, item) for client, user, item, _ in both if user == "ann"]
        assert {client for client, _ in mine} == where
        assert len(mine) == 3
        assert manifest["num_users"] == 13 + (policy == "apart")
        assert any("several clients" in line for line in manifest["told"])


def test_a_file_of_users_may_say_who_is_whose(prepare: Prepare, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text(
        "userId,country,sex\n" + "".join(f"u{k:02},{'fr' if k < 9 else 'de'},{'fm'[k % 2]}\n" for k in range(USERS))
    )
    manifest = prepare(users=people, client="country")
    assert {client: facts["users"] for client, facts in manifest["clients"].items()} == {"fr": 9, "de": 21}
    assert (manifest["partition"], list(manifest["features"])) == ("country", ["user", "item", "sex", "label"])
    train = rows(tmp_path / "out", "train", "fr")
    assert {row["label"] for row in train} == {"1"}, (
        "training draws negatives, for the user's features stay as they are"
    )
    people.write_text("userId,country\nu00,fr\n")
    with pytest.raises(DataError, match=r"--client country: 29 users have no such cell in --users, e.g. 'u\d\d'"):
        prepare(users=people, client="country")


def test_a_site_prepares_its_own_against_a_shared_catalogue(prepare: Prepare, ratings: Path, tmp_path: Path) -> None:
    (tmp_path / "drugs.csv").write_text(
        "drug,name,kind\n" + "".join(f"B{k:03},Drug {k},{'ab'[k % 2]}\n" for k in range(ITEMS))
    )
    features, jobs = [], []
    for site in ("north", "south"):
        mine = [row for row in lines_of() if (int(row[0][1:]) < 12) == (site == "north")]
        path = tmp_path / f"{site}.csv"
        path.write_text(
            "user,item,stars,time\n" + "".join(f"{','.join(row)}\n" for row in [*mine, ["u00", "b001", "5", "1"]])
        )
        manifest = prepare(path, site=site, catalogue=tmp_path / "drugs.csv")
        features.append((manifest["features"], manifest["num_items"], manifest["values"]))
        assert list(manifest["clients"]) == [site] and "num_users" not in manifest
        assert manifest["counted"]["unknown_items"] == 1
        assert any(
            "unknown items: 1 are not in the catalogue, in 1 lines, e.g. 'b001' (nearest: 'B001')" in t
            for t in manifest["told"]
        )
        items = Catalogue.read(tmp_path / "out" / "items.csv")
        assert (len(items), items.find("B007"), items.title(7)) == (ITEMS, 7, "Drug 7")
        (tmp_path / "out" / "items.csv").rename(tmp_path / "shared.csv")
        with pytest.raises(DataError, match=r"unknown items: 1 .*'b001'.*--unknown-items leave"):
            prepare(path, site=site, catalogue=tmp_path / "shared.csv", unknown_items="refuse")
        (tmp_path / "shared.csv").rename(tmp_path / "out" / "items.csv")
        again = prepare(path, site=site, catalogue=tmp_path / "out" / "items.csv")
        assert again["features"] == manifest["features"], "what was prepared is a catalogue for others"
        (tmp_path / f"{site}.yaml").write_text("runner: {train_data_dir: out/train, metrics: [hr@10]}\n")
        jobs.append(shared_part(load_job(tmp_path / f"{site}.yaml")))
    assert first_difference(*jobs) is None, "both train in one run"
    assert features[0] == features[1]
    assert features[0][0]["user"] == {"kind": "id", "rows": "open", "side": "user"}
