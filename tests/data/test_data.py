"""Reading, splitting and preparing; the real data's exact counts where the data is at hand."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedps.data import partition
from fedps.data.movielens import prepare
from fedps.data.prepared import Split
from fedps.data.reader import client_files, read_samples
from fedps.data.synth import synthesize
from fedps.errors import DataError

SHELF = os.environ.get("FEDPS_DATA", "")
needs_ml1m = pytest.mark.skipif(
    not (Path(SHELF) / "ml-1m-notime.zip").is_file(), reason="real ML-1M is not at hand: set FEDPS_DATA"
)
needs_ml100k = pytest.mark.skipif(
    not (Path(SHELF) / "ml-100k.zip").is_file(), reason="real ML-100k is not at hand: set FEDPS_DATA"
)
COUNTS = [518_095, 520_165, 373_605, 315_550, 483_780, 495_635, 402_810, 354_590, 262_710, 1_243_905]


@needs_ml1m
def test_real_ml1m_by_zip_code_has_the_published_counts(tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "ml-1m")
    assert [manifest["clients"][str(k)]["samples"] for k in range(10)] == COUNTS
    assert sum(c["samples"] for c in manifest["clients"].values()) == 4_970_845
    assert (manifest["num_users"], manifest["num_items"], manifest["synthetic"]) == (6040, 3706, False)
    test = [read_samples(f, 6040, 3706) for f in client_files(tmp_path / "ml-1m" / "test").values()]
    assert sum(len(t.label) for t in test) == 604_000
    for client, path in client_files(tmp_path / "ml-1m" / "train").items():
        assert len(read_samples(path, 6040, 3706).label) == COUNTS[int(client)]


@needs_ml100k
def test_ml100k_with_letter_zip_codes(tmp_path: Path) -> None:
    manifest = prepare(tmp_path / "out", str(Path(SHELF) / "ml-100k.zip"))
    users = {k: v["users"] for k, v in manifest["clients"].items()}
    assert list(users.values()) == [96, 97, 101, 62, 77, 121, 78, 67, 56, 170, 18]
    assert users["letter"] == 18


def test_a_prepared_folder_holds_every_positive_with_its_negatives(tmp_path: Path) -> None:
    manifest = synthesize(tmp_path / "out", users=60, items=210, per_user=12, seed=3)
    assert manifest["synthetic"] is True
    positives: dict[int, set[int]] = {}
    held_out = {}
    for path in client_files(tmp_path / "out" / "test").values():
        test = read_samples(path, 60, 210)
        for start in range(0, len(test.label), 100):
            assert test.label[start : start + 100].tolist() == [1.0] + [0.0] * 99
            held_out[int(test.user[start])] = test.item[start : start + 100].tolist()
    for path in client_files(tmp_path / "out" / "train").values():
        train = read_samples(path, 60, 210)
        assert train.label.reshape(-1, 5).tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]] * (len(train.label) // 5)
        for user, item, label in zip(train.user.tolist(), train.item.tolist(), train.label.tolist(), strict=True):
            if label:
                positives.setdefault(user, set()).add(item)
        for user, item, label in zip(train.user.tolist(), train.item.tolist(), train.label.tolist(), strict=True):
            assert label or item not in positives[user]
            assert item != held_out[user][0]
    assert all(not positives[u] & set(items) and len(set(items)) == 100 for u, items in held_out.items())


BAD = {
    "1,2\n": "has 2 fields",
    "1,2,1\n1,x,0\n": "line 2: '1,x,0': item 'x' is no whole number",
    "1,2,2\n": "label 2 is neither 0 nor 1",
    "-1,2,1\n": "user -1 is not in [0, 10)",
    "1,2,1\n3,20,0\n": "line 2: '3,20,0': item 20 is not in [0, 20)",
    "99999999999999999999,2,1\n": "is no whole number",
    "": "is empty",
    "user,item,label\n": "holds no sample",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_line_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_samples(path, 10, 20)
    assert BAD[text] in str(error.value)
    assert str(path) in str(error.value)


def test_a_header_is_recognised_and_never_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("user,item,label\n1,2,1\n3,4,0\n")
    samples = read_samples(path, 10, 20)
    assert [a.tolist() for a in samples] == [[1, 3], [2, 4], [1.0, 0.0]]


def test_clients_stand_in_natural_order(tmp_path: Path) -> None:
    for name in ("10", "2", "b", "1"):
        (tmp_path / f"{name}.csv").write_text("1,2,1\n")
    assert list(client_files(tmp_path)) == ["b", "1", "2", "10"] or list(client_files(tmp_path)) == [
        "1",
        "2",
        "10",
        "b",
    ]


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity"])
def test_a_partition_gives_every_user_once(kind: str) -> None:
    rng, labels = np.random.default_rng(0), [str(k % 3) for k in range(200)]
    parts = {
        "iid": lambda: partition.iid(200, 7, rng),
        "dirichlet": lambda: partition.dirichlet(labels, 7, 0.3, rng),
        "quantity": lambda: partition.quantity(200, 7, 0.3, rng),
    }[kind]()
    assert len(parts) == 7
    assert min(map(len, parts)) >= 1
    assert np.sort(np.concatenate(parts)).tolist() == list(range(200))
    spread = max(map(len, parts)) - min(map(len, parts))
    assert spread <= 1 if kind == "iid" else spread > 10


def test_an_unprepared_folder_is_never_replaced_and_a_prepared_one_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    synthesize(out, users=20, items=210, per_user=5)
    synthesize(out, users=30, items=210, per_user=5, split=Split("iid", 3))
    assert json.loads((out / "manifest.json").read_text())["num_users"] == 30
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="no prepared data"):
        synthesize(tmp_path / "mine", users=20, items=210)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "out"]


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../escape.txt", "x")
    with pytest.raises(DataError, match=r"neither ratings\.dat"):
        prepare(tmp_path / "out", str(tmp_path / "other.zip"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="no such file"):
        prepare(tmp_path / "out", str(tmp_path / "nothing.zip"))
