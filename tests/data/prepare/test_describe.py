"""What is known of users and items: features with names that jobs take, of files that are as they should be."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from fedps.config.proposal import propose
from fedps.data.catalogue import Catalogue
from fedps.data.prepare.describe import Facts
from fedps.data.prepare.forms import Source
from fedps.data.prepare.table import Ask, prepare_table
from fedps.errors import DataError

USERS, ITEMS = 12, 120


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for prepared data; beside it lie users.csv and items.csv, which both have a country, and who took what."""
    taken = [f"u{user},i{(user * 7 + k) % ITEMS}\n" for user in range(USERS) for k in range(4)]
    (tmp_path / "taken.csv").write_text("user,item\n" + "".join(taken))
    (tmp_path / "users.csv").write_text("user,country\nu0,a\n" + "".join(f"u{k},{'ab'[k % 2]}\n" for k in range(USERS)))
    items = [f"i{k},{'ab'[k % 2]},{k % 3},{'xyz'[k % 3]}\n" for k in range(ITEMS)]
    (tmp_path / "items.csv").write_text("item,2nd genre,m²,country\n" + "".join(items))
    return tmp_path / "out"


def prepare(out: Path) -> Any:
    home = out.parent
    ask = Ask([home / "taken.csv"], users=home / "users.csv", items=home / "items.csv", clients=2)
    return prepare_table(out, ask, lambda _: None)


def test_features_have_names_that_a_job_takes_and_none_hides_another(out: Path) -> None:
    manifest = prepare(out)
    features = manifest["features"]
    assert list(features) == ["user", "item", "user_country", "item_2nd_genre", "m", "country", "label"]
    assert (features["user_country"]["side"], features["country"]["side"]) == ("user", "item")
    assert list(Catalogue.read(out / "items.csv").more) == ["item_2nd_genre", "m", "country"]
    assert not any(str(out.parent) in line for line in manifest["told"]), (
        "wherever files lie, they are prepared the same"
    )
    assert "mode: DeepFM" in propose(out, out.parent / "job.yaml").text, "a job of them can be written"


def test_a_column_without_a_name_is_called_by_its_side(out: Path) -> None:
    (out.parent / "users.csv").write_text("".join(f"u{k},{'fm'[k % 2]}\n" for k in range(USERS)))
    assert list(prepare(out)["features"])[2] == "user_2"


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_of_two_columns_of_one_name_none_is_chosen(form: str, tmp_path: Path) -> None:
    columns, names = [pa.array(["i0"])] * 3, ["item", "genre", "genre"]
    parquet.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("item,genre,genre\ni0,a,b\n")
    with pytest.raises(DataError, match=rf"a.{form}: has two columns 'genre'; rename one"):
        Facts(Source(tmp_path / f"a.{form}", known=["item"]), "item")


def test_a_list_is_refused_by_its_column(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"item": ["i0"], "genres": [["a", "b"]]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet, column 'genres': list<.*> is none .*several as a\|b"):
        Facts(Source(tmp_path / "a.parquet"), "item")
