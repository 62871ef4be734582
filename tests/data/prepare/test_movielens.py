"""MovieLens in the NCF split; the real data's exact counts where the data is at hand."""

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedps.config.files import files_in
from fedps.data.catalogue import Catalogue
from fedps.data.prepare.movielens import prepare
from fedps.data.prepare.write import Split
from fedps.data.read.reader import read_samples
from fedps.errors import DataError
from fedps.types import Samples

SHELF = Path(os.environ.get("FEDPS_DATA", "/nowhere"))
needs_ml1m = pytest.mark.skipif(
    not (SHELF / "ml-1m-notime.zip").is_file() or not (SHELF / "ncf" / "ml-1m.test.negative.gz").is_file(),
    reason="real ML-1M and NCF's test files are not at hand: set FEDPS_DATA",
)
needs_ml100k = pytest.mark.skipif(
    not (SHELF / "ml-100k.zip").is_file(), reason="real ML-100k is not at hand: set FEDPS_DATA"
)
MakeArchive = Callable[..., Path]  # of the fixture `archive`
COUNTS = [518_095, 520_165, 373_605, 315_550, 483_780, 495_635, 402_810, 354_590, 262_710, 1_243_905]


def read_side(out: Path, side: str) -> Samples:
    manifest = json.loads((out / "manifest.json").read_text())
    parts = [read_samples(f, manifest["num_users"], manifest["num_items"]) for f in files_in(out / side)]
    return Samples.joined(parts)


def held_out(out: Path) -> dict[int, int]:
    test = read_side(out, "test")
    return dict(zip(test.user[::100].tolist(), test.item[::100].tolist(), strict=True))


@needs_ml1m
def test_real_ml1m_is_the_published_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    manifest = prepare(out)
    assert [manifest["clients"][str(k)]["samples"] for k in range(10)] == COUNTS
    assert sum(c["samples"] for c in manifest["clients"].values()) == 4_970_845
    assert (manifest["num_users"], manifest["num_items"], manifest["synthetic"]) == (6040, 3706, False)
    assert "held out as published" in capsys.readouterr().err
    for path in files_in(out / "train"):
        assert len(read_samples(path, 6040, 3706).label) == COUNTS[int(path.stem)]
    train, test = read_side(out, "train"), read_side(out, "test")
    positives = np.loadtxt(SHELF / "ncf" / "ml-1m.test.rating.gz", np.int64)[:, :2]
    with gzip.open(SHELF / "ncf" / "ml-1m.test.negative.gz", "rt") as file:
        negatives = np.array([line.split("\t")[1:] for line in file], np.int64)
    order = np.argsort(test.user[::100])
    groups = test.item.reshape(-1, 100)[order]
    assert (test.user.reshape(-1, 100)[order] == np.arange(6040)[:, None]).all()
    assert (test.label.reshape(-1, 100) == [1.0] + [0.0] * 99).all()
    assert (groups[:, 0] == positives[np.argsort(positives[:, 0]), 1]).all()
    assert (groups[:, 1:] == negatives).all()
    known = np.zeros((6040, 3706), bool)
    known[train.user[train.label == 1], train.item[train.label == 1]] = True
    assert known.sum() == 994_169
    known[positives[:, 0], positives[:, 1]] = True
    assert known.sum() == 1_000_209
    assert not known[train.user[train.label == 0], train.item[train.label == 0]].any()


@needs_ml100k
def test_ml100k_with_letter_zip_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = prepare(tmp_path / "out", str(SHELF / "ml-100k.zip"))
    users = {k: v["users"] for k, v in manifest["clients"].items()}
    assert list(users.values()) == [96, 97, 101, 62, 77, 121, 78, 67, 56, 170, 18]
    assert users["letter"] == 18
    assert (manifest["num_users"], manifest["num_items"]) == (943, 1682)
    assert (manifest["test_positives"], manifest["test_negatives"]) == ("latest", "drawn")
    assert capsys.readouterr().err == "", "test files of ML-1M are none of ML-100k's"
    assert sum(c["positives"] for c in manifest["clients"].values()) == 100_000 - 943


def test_ids_go_by_first_appearance_and_the_latest_is_held_out(archive: MakeArchive, tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "out", str(archive()))
    assert (manifest["num_users"], manifest["num_items"], manifest["source"]) == (6, 151, "tiny.zip")
    assert (manifest["test_positives"], manifest["test_negatives"]) == ("latest", "drawn")
    assert held_out(tmp_path / "out") == dict.fromkeys(range(6), 150)
    train = read_side(tmp_path / "out", "train")
    taken = train.label == 1
    assert (train.item[taken] // 25 == train.user[taken]).all()
    assert np.bincount(train.user[taken]).tolist() == [25] * 6
    titles = (tmp_path / "out" / "items.csv").read_text().splitlines()
    assert titles[:3] == ['"item","key","title"', '0,"100","First of 1"', '1,"101",""']
    assert titles[151] == '150,"7","Léon (1994)"'
    assert (tmp_path / "out" / "users" / "2.csv").read_text().splitlines() == ['"user","key"', '1,"2"']
    assert (manifest["items"], manifest["users"]) == ("items.csv", "users")


def test_of_equal_times_the_last_in_the_file_is_held_out(archive: MakeArchive, tmp_path: Path) -> None:
    rows = [f"{u}::{100 * u + k}::3::{-5 if k == 24 else 0}\n" for u in (2, 1) for k in range(25)]
    rows += [f"{3 + m // 1050}::{m}::3::{m}\n" for m in range(1000, 1100)]
    prepare(tmp_path / "out", str(archive({"ratings.dat": "".join(rows)})))
    assert held_out(tmp_path / "out") == {1: 23, 0: 48, 2: 99, 3: 149}


def test_a_folder_of_the_same_files_gives_the_same(archive: MakeArchive, files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ml-1m").mkdir()
    for name in ("ratings.dat", "users.dat", "movies.dat"):
        (tmp_path / "ml-1m" / name).write_text(files[name].replace("\n", "\r\n") + "\r\n", "latin-1", newline="")
    prepare(tmp_path / "a", str(archive()))
    prepare(tmp_path / "b", str(tmp_path / "ml-1m"))
    a, b = ({p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.csv")} for n in "ab")
    assert [v for _, v in sorted((str(k), v) for k, v in a.items())] == [
        v for _, v in sorted((str(k), v) for k, v in b.items())
    ]


def test_zip_codes_are_matched_by_user_id(archive: MakeArchive, files: dict[str, str], tmp_path: Path) -> None:
    users = files["users.dat"].splitlines(keepends=True)
    strangers = "9::M::1::0::01234\n"  # without ratings, of no concern
    prepare(tmp_path / "out", str(archive({"users.dat": strangers + "".join(reversed(users))})))
    shards = {f.stem: set(read_samples(f, 6, 151).user.tolist()) for f in files_in(tmp_path / "out" / "test")}
    assert shards == {str(u + 1): {u} for u in range(6)}


def test_gaps_in_user_ids_close_and_each_client_knows_who_is_who(
    archive: MakeArchive, files: dict[str, str], tmp_path: Path
) -> None:
    far = 10**15
    changes = {
        name: "".join(f"{far}::{line[3:]}" if line.startswith("4::") else line for line in files[name].splitlines(True))
        for name in ("ratings.dat", "users.dat")
    }
    manifest = prepare(tmp_path / "out", str(archive(changes)))
    assert manifest["num_users"] == 6
    users = [Catalogue.read(tmp_path / "out" / "users" / f"{client}.csv") for client in manifest["clients"]]
    keys = {user: one.key(user) for one in users for user in one.ids.tolist()}
    assert keys == {0: "1", 1: "2", 2: "3", 3: "5", 4: "6", 5: str(far)}
    assert set(read_samples(tmp_path / "out" / "test" / "4.csv", 6, 151).user.tolist()) == {5}


def test_published_files_beside_that_fit_are_used_and_said(
    archive: MakeArchive, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ncf").mkdir()
    (tmp_path / "ncf" / "ml-1m.test.rating").write_text(files["test.rating"])
    (tmp_path / "ncf" / "ml-1m.test.negative.gz").write_bytes(gzip.compress(files["test.negative"].encode()))
    manifest = prepare(tmp_path / "out", str(archive(name="any-name.zip")))
    assert held_out(tmp_path / "out") == {u: 25 * u for u in range(6)}
    assert (manifest["test_positives"], manifest["test_negatives"]) == ("ml-1m.test.rating", "given")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"held out as published: {tmp_path / 'ncf' / 'ml-1m.test.rating'}" in told


def test_published_files_beside_that_do_not_fit_are_not_used_and_said(
    archive: MakeArchive, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ncf").mkdir()
    (tmp_path / "ncf" / "ml-1m.test.rating").write_text(files["test.rating"])
    (tmp_path / "ncf" / "ml-1m.test.negative").write_text(files["test.negative"])
    ratings = "".join(reversed(files["ratings.dat"].splitlines(keepends=True)))  # items appear in another order
    manifest = prepare(tmp_path / "out", str(archive({"ratings.dat": ratings}, "ml-1m.zip")))
    assert manifest["test_positives"] == "latest"
    assert "not used, for it does not fit" in capsys.readouterr().err
    (tmp_path / "ncf" / "ml-1m.test.rating").write_text("0\t1\n")
    with pytest.raises(DataError, match=r"ml-1m\.test\.rating, line 1: .* has 2 fields"):
        prepare(tmp_path / "out", str(archive()))


def test_given_test_files_win(
    archive: MakeArchive, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ncf").mkdir()
    (tmp_path / "ncf" / "ml-1m.test.rating").write_text(files["test.rating"])
    (tmp_path / "ncf" / "ml-1m.test.negative").write_text(files["test.negative"])
    mine = tmp_path / "mine.rating"
    mine.write_text("".join(f"{u}\t{25 * u + 3}\t4\t0\n" for u in range(6)))
    manifest = prepare(tmp_path / "out", str(archive()), test_rating=mine)
    assert held_out(tmp_path / "out") == {u: 25 * u + 3 for u in range(6)}
    assert (manifest["test_positives"], manifest["test_negatives"]) == ("mine.rating", "drawn")
    with pytest.raises(DataError, match="give the --test-rating FILE"):
        prepare(tmp_path / "out", str(archive()), test_negatives=tmp_path / "ncf" / "ml-1m.test.negative")
    assert capsys.readouterr().err == ""


CHANGES: list[tuple[dict[str, str | bytes | None], str]] = [
    ({"ratings.dat": None}, r"holds neither ratings\.dat"),
    ({"ratings.dat": ""}, r"ratings\.dat: is empty"),
    ({"ratings.dat": "\n\n"}, r"ratings\.dat: is empty"),
    ({"ratings.dat": "1::2::3::4\n\n1::2::3\n"}, r"ratings\.dat, line 3: '1::2::3': has 3 fields separated by '::'; 4"),
    ({"ratings.dat": "1::2::3::4\n1::x::3::5\n"}, r"ratings\.dat, line 2: movie 'x' is no whole number"),
    ({"ratings.dat": "1::2::3::4\n-1::2::3::5\n"}, r"ratings\.dat, line 2: user '-1' is no whole number"),
    ({"ratings.dat": "1::-2::3::4\n"}, r"ratings\.dat, line 1: movie '-2' is no whole number"),
    ({"ratings.dat": "1::0x2::3::4\n"}, r"ratings\.dat, line 1: movie '0x2' is no whole number"),
    ({"ratings.dat": "1::2::3::never\n"}, r"ratings\.dat, line 1: time 'never' is no whole number"),
    ({"ratings.dat": "1::2::x::4\n"}, r"ratings\.dat, line 1: rating 'x' is no number from 0 on"),
    ({"ratings.dat": "1::2::nan::4\n"}, r"ratings\.dat, line 1: rating 'nan' is no number from 0 on"),
    ({"ratings.dat": "1::2::-1.5::4\n"}, r"ratings\.dat, line 1: rating '-1.5' is no number from 0 on"),
    ({"ratings.dat": "1::2::::4\n"}, r"ratings\.dat, line 1: rating '' is no number from 0 on"),
    ({"ratings.dat": "1,2,3,4\n"}, r"ratings\.dat, line 1: '1,2,3,4': has 1 fields"),
    ({"ratings.dat": f"1::{2**63}::3::4\n"}, r"ratings\.dat, line 1: movie '9223372036854775808' is no whole"),
    (
        {"ratings.dat": "1::2::3::4\n1::3::3::5\n1::2::3::6\n"},
        r"user 1 rated movie 2 more than once \(again in rating 3\)",
    ),
    ({"ratings.dat": b"\x00\xff\xfe"}, r"ratings\.dat, line 1: "),
    ({"ratings.dat": "<html>not found</html>"}, r"ratings\.dat, line 1: "),
    ({"users.dat": None}, r"holds no users\.dat, which tells users' zip codes"),
    ({"users.dat": "1::F::1::1::01234\n"}, r"users\.dat: has no line for user 2, who is among the ratings"),
    ({"users.dat": "1::F::1::01234\n"}, r"users\.dat, line 1: '1::F::1::01234': has 4 fields"),
    ({"users.dat": "x::F::1::1::01234\n"}, r"users\.dat, line 1: user 'x' is no whole number"),
    ({"users.dat": "1::F::1::1::0\n1::F::1::1::9\n"}, r"users\.dat, line 2: user 1 has a line already"),
    ({"movies.dat": "1::Léon\n"}, r"movies\.dat, line 1: '1::Léon': has 2 fields"),
    ({"movies.dat": "one::Léon::Crime\n"}, r"movies\.dat, line 1: movie 'one' is no whole number"),
]


@pytest.mark.parametrize(("changes", "named"), CHANGES)
def test_what_is_wrong_in_an_archive_is_named(
    changes: dict[str, str | bytes | None], named: str, archive: MakeArchive, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"tiny\.zip: .*{named}"):
        prepare(tmp_path / "out", str(archive(changes)))
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.zip"]


def test_a_user_who_took_nearly_everything_is_named(
    archive: MakeArchive, files: dict[str, str], tmp_path: Path
) -> None:
    most = "".join(f"1::{m}::3::4\n" for u in range(2, 6) for m in range(100 * u, 100 * u + 25))
    with pytest.raises(DataError, match=r"user 0 \(counted from 0\) took 126 of 151 items, so 25 are left"):
        prepare(tmp_path / "out", str(archive({"ratings.dat": files["ratings.dat"] + most})))


def test_ml100k_is_read_from_its_own_files(tmp_path: Path) -> None:
    rows = [f"{u}\t{m}\t3\t{m}" for u in (5, 1, 2) for m in range(100 * u, 100 * u + 60)]
    texts = {
        "u.data": "\n".join(rows),
        "u.user": "5|24|M|other|V5A2B\n2|9|F|none|T8H1N\n1|53|F|writer|85711\n",
        "u.item": "500|Four, Rooms|01-Jan-1995||http://x" + "|0" * 19 + "\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    manifest = prepare(tmp_path / "out", str(tmp_path))
    assert {k: v["users"] for k, v in manifest["clients"].items()} == {"8": 1, "letter": 2}
    assert held_out(tmp_path / "out") == {2: 59, 0: 119, 1: 179}
    assert (tmp_path / "out" / "items.csv").read_text().splitlines()[1] == '0,"500","Four, Rooms"'
    for bad in ("1,2\t3\t4\t5", "1\t2\t3"):
        (tmp_path / "u.data").write_text("\n".join([*rows, bad]))
        with pytest.raises(DataError, match=r"u\.data, line 181: "):
            prepare(tmp_path / "out", str(tmp_path))


def test_titles_are_not_needed(archive: MakeArchive, tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "out", str(archive({"movies.dat": None})), Split("iid", 2))
    assert (tmp_path / "out" / "items.csv").read_text().splitlines()[:2] == ['"item","key"', '0,"100"']
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest


def test_an_archive_of_something_else_writes_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:
        packed.writestr("../escape.txt", "x")
    with pytest.raises(DataError, match=r"neither ratings\.dat"):
        prepare(tmp_path / "out", str(tmp_path / "other.zip"))
    assert [p.name for p in tmp_path.iterdir()] == ["other.zip"]


def latest(folder: Path, files: dict[str, str], header: str = "userId,movieId,rating,timestamp") -> Path:
    """Write the tiny archive's ratings and titles as ml-latest has them, in half stars, without users."""
    folder.mkdir()
    ratings = [line.split("::") for line in files["ratings.dat"].splitlines()]
    rows = [f"{user},{movie},{float(stars) - 0.5},{time}" for user, movie, stars, time in ratings]
    (folder / "ratings.csv").write_text("\r\n".join([header, *rows]) + "\r\n")
    titles = [line.split("::")[:2] for line in files["movies.dat"].splitlines()]
    rows = [f'{movie},"{title}, The",Drama' for movie, title in titles]
    (folder / "movies.csv").write_text("\n".join(["movieId,title,genres", *rows]) + "\n", encoding="utf-8")
    return folder


def test_ml_latest_gives_the_same_samples(archive: MakeArchive, files: dict[str, str], tmp_path: Path) -> None:
    split = Split("iid", 2)
    prepare(tmp_path / "a", str(archive()), split)
    prepare(tmp_path / "b", str(latest(tmp_path / "ml-latest", files)), split)
    for side in ("train", "test"):
        for file in files_in(tmp_path / "a" / side):
            assert file.read_bytes() == (tmp_path / "b" / side / file.name).read_bytes()
    assert "Léon (1994), The" in (tmp_path / "b" / "items.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
def test_ml_latest_as_a_spreadsheet_saves_it_gives_the_same_samples(
    end: str, files: dict[str, str], tmp_path: Path
) -> None:
    folder, split = latest(tmp_path / "ml-latest", files), Split("iid", 2)
    prepare(tmp_path / "a", str(folder), split)
    for file in folder.iterdir():
        file.write_bytes(end.join(file.read_text(encoding="utf-8").splitlines()).encode("utf-16"))
    prepare(tmp_path / "b", str(folder), split)
    for file in (tmp_path / "a").rglob("*.csv"):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_half_stars_without_users_are_enough_where_nobody_asks_for_zip_codes(
    archive: MakeArchive, files: dict[str, str], tmp_path: Path
) -> None:
    halves = files["ratings.dat"].replace("::3::", "::3.5::")
    source = str(archive({"ratings.dat": halves, "users.dat": None}))
    assert prepare(tmp_path / "out", source, Split("quantity", 2))["num_users"] == 6
    for kind in ("zipcode", "dirichlet"):
        with pytest.raises(DataError, match=r"holds no users\.dat, which tells .*; use --partition iid or quantity"):
            prepare(tmp_path / "no", source, Split(kind, 2))


def test_another_header_is_named(files: dict[str, str], tmp_path: Path) -> None:
    folder = latest(tmp_path / "other", files, "user,item,rating,time")
    with pytest.raises(
        DataError, match=r"ratings\.csv, line 1: 'user,item,rating,time': is not MovieLens' header userId"
    ):
        prepare(tmp_path / "out", str(folder), Split("iid", 2))
