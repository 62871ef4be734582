"""Columns are guessed by what they are usually called, and what cannot be guessed is asked for with what there is."""

from pathlib import Path

import pytest

from fedps.data.prepare.columns import ALL_NAMES, column_of, columns_of
from fedps.data.prepare.forms import Source
from fedps.errors import DataError

ROLES = ("user", "item", "rating", "time", "client")


def source(folder: Path, text: str) -> Source:
    (folder / "a.csv").write_text(text)
    return Source(folder / "a.csv", known=ALL_NAMES)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("userId,movieId,rating,timestamp", ("userId", "movieId", "rating", "timestamp")),
        ("reviewerID,asin,overall,unixReviewTime", ("reviewerID", "asin", "overall", "unixReviewTime")),
        ("User-ID,ISBN,Book-Rating", ("User-ID", "ISBN", "Book-Rating")),
        ("user_id,business_id,stars,date", ("user_id", "business_id", "stars", "date")),
        ("timestamp,visitorid,event,itemid", ("visitorid", "itemid", None, "timestamp")),
        ("patient,drug,hospital,when", ("patient", "drug", None, "when", "hospital")),
        ("anon_user_id,shop_product_id", ("anon_user_id", "shop_product_id")),
        ("client,user,item", ("user", "item", None, None, "client")),
        ("InvoiceNo,StockCode,CustomerID,ItemID,InvoiceDate", ("CustomerID", "ItemID", None, "InvoiceDate")),
    ],
)
def test_usual_names_are_known(header: str, expected: tuple[str | None, ...], tmp_path: Path) -> None:
    row = ",".join(f"a{k}" for k in range(header.count(",") + 1))
    found, guessed = columns_of(source(tmp_path, f"{header}\n{row}\n"), {}, ROLES)
    assert found == {role: name for role, name in zip(ROLES, expected, strict=False) if name is not None}
    assert guessed == list(found)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("1::2::5::978300760", {"user": "1", "item": "2", "rating": "3", "time": "4"}),
        ("1::2::978300760", {"user": "1", "item": "2", "time": "3"}),
        ("u1::i1", {"user": "1", "item": "2"}),
        ("u1::i1::word::4", {"user": "1", "item": "2", "rating": "4"}),
        ("u1::i1::5::2000", {"user": "1", "item": "2", "rating": "3", "time": "4"}),
    ],
)
def test_without_names_the_order_counts(rows: str, expected: dict[str, str], tmp_path: Path) -> None:
    found, _ = columns_of(source(tmp_path, f"{rows}\n{rows}\n"), {}, ROLES)
    assert found == expected


def test_a_column_that_was_named_is_meant_and_looked_for_by_its_letters_last(tmp_path: Path) -> None:
    table = source(tmp_path, "User ID,user_id,thing\na1,b1,c1\n")
    assert columns_of(table, {"user": "user_id", "item": "THING"}, ROLES)[0] == {"user": "user_id", "item": "thing"}
    with pytest.raises(
        DataError, match=r"a.csv: has no column 'userid', given by --user; nearest: .*there are 'User ID', 'user_id'"
    ):
        columns_of(table, {"user": "userid", "item": "thing"}, ROLES)
    with pytest.raises(DataError, match=r"which column is the item\? --item COLUMN"):
        columns_of(table, {}, ROLES)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has two columns 'user'; rename one"):
        columns_of(source(tmp_path, "user,user,item\na1,b1,c1\n"), {"user": "user", "item": "item"}, ROLES)


def test_a_title_has_its_usual_names(tmp_path: Path) -> None:
    assert column_of(source(tmp_path, "asin,Product Title\nB1,x\n"), "title") == "Product Title"
    assert column_of(source(tmp_path, "asin,word\nB1,x\n"), "title") is None
