"""A prepared folder is whole or not there, and replaces nothing but what was prepared before."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedps.config.files import files_in
from fedps.data.prepare.synth import synthesize
from fedps.data.prepare.write import Interactions, Split, write
from fedps.data.read.cache import keep, state_of
from fedps.data.read.reader import read_samples
from fedps.errors import DataError


def interactions(per_user: int = 3, users: int = 4, items: int = 120) -> Interactions:
    """Users who took the first items; their last is held out."""
    user, item = np.repeat(np.arange(users), per_user), np.tile(np.arange(per_user), users)
    codes = [f"{u % 10}0000" for u in range(users)]
    held_out = np.full(users, per_user)
    return Interactions(user, item, users, items, np.arange(users), held_out, None, "made here", codes)


def small(out: Path, users: int = 20) -> None:
    synthesize(out, users=users, items=210, per_user=5)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_manifest_tells_what_the_files_hold(tmp_path: Path) -> None:
    returned = write(tmp_path / "deep" / "er" / "out", interactions(), Split(), 4, 0)
    out = tmp_path / "deep" / "er" / "out"
    assert json.loads((out / "manifest.json").read_text()) == returned
    told = {"users": 1, "positives": 3, "samples": 15, "test_users": 1}
    assert returned["clients"] == dict.fromkeys("0123", told)
    assert (returned["num_users"], returned["num_items"], returned["source"]) == (4, 120, "made here")
    assert set(tree(out)) == {"manifest.json", *(f"{s}/{c}.csv" for s in ("train", "test") for c in "0123")}
    assert len(read_samples(out / "train" / "2.csv", 4, 120).label) == 15


@pytest.mark.parametrize("split", [Split("iid", 3), Split("dirichlet", 3, 0.1), Split("quantity", 3, 0.1), Split()])
def test_each_positive_reaches_one_client(split: Split, tmp_path: Path) -> None:
    data = interactions(users=30)
    write(tmp_path / "out", data, split, 2, 0)
    found = [read_samples(f, 30, 120) for f in files_in(tmp_path / "out" / "train")]
    pairs = [(u, i) for s in found for u, i, y in zip(s.user.tolist(), s.item.tolist(), s.label, strict=True) if y]
    assert sorted(pairs) == list(zip(data.user.tolist(), data.item.tolist(), strict=True))


def test_a_rule_of_ones_own_says_who_is_whose(tmp_path: Path) -> None:
    def odd_and_even(data: Interactions) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
        users = np.arange(data.num_users)
        return {"odd": users[users % 2 == 1], "even": users[users % 2 == 0]}

    manifest = write(tmp_path / "out", interactions(users=5), odd_and_even, 2, 0)
    assert manifest["partition"] == "odd_and_even"
    assert {name: c["users"] for name, c in manifest["clients"].items()} == {"odd": 2, "even": 3}
    assert set(read_samples(tmp_path / "out" / "test" / "odd.csv", 5, 120).user.tolist()) == {1, 3}
    with pytest.raises(DataError, match=r"user 0 has no client \(3 such users\)"):
        write(tmp_path / "other", interactions(users=5), lambda data: {"odd": np.array([1, 3])}, 2, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_without_negatives_only_positives_are_written(tmp_path: Path) -> None:
    manifest = write(tmp_path / "out", interactions(), Split("iid", 2), 0, 0)
    assert {c["samples"] for c in manifest["clients"].values()} == {6}
    train = read_samples(tmp_path / "out" / "train" / "0.csv", 4, 120)
    assert train.label.tolist() == [1.0] * 6


@pytest.mark.parametrize(
    ("split", "per_positive", "seed", "per_user", "named"),
    [
        (Split("iid", 5), 4, 0, 3, "--clients 5: there are only 4 users"),
        (Split("iid", 0), 4, 0, 3, "--clients 0"),
        (Split("quantity", 2, 0), 4, 0, 3, "--alpha 0"),
        (Split("zip"), 4, 0, 3, "--partition 'zip'"),
        (Split(), -1, 0, 3, "--negatives -1"),
        (Split(), 4, -1, 3, "--seed -1"),
        (Split(), 4, 0, 21, r"user 0 \(counted from 0\) took 22 of 120 items"),
        (Split("iid", 2), 4, 0, 0, "client 0: its 2 users have nothing to train on"),
    ],
)
def test_what_cannot_be_split_so_leaves_nothing_behind(
    split: Split, per_positive: int, seed: int, per_user: int, named: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=named):
        write(tmp_path / "out", interactions(per_user), split, per_positive, seed)
    assert list(tmp_path.iterdir()) == []


def test_a_user_with_too_few_items_left_is_named_with_what_would_help(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"user 0 .*took 22 of 120 items, so 98 are left.*--test-negatives FILE"):
        write(tmp_path / "out", interactions(21), Split(), 4, 0)
    full = replace(interactions(3, items=4), test_negatives=np.zeros((4, 99), np.int64))
    with pytest.raises(DataError, match=r"user 0 .*took 4 of 4 items, so 0 are left to draw 1.*--negatives 0"):
        write(tmp_path / "out", full, Split(), 4, 0)
    write(tmp_path / "out", full, Split(), 0, 0)


def test_prepared_data_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small(out)
    first = next(iter(files_in(out / "train")))
    keep(first, read_samples(first, 20, 210), state_of(first))
    synthesize(out, users=30, items=210, per_user=5, split=Split("iid", 3))
    assert json.loads((out / "manifest.json").read_text())["num_users"] == 30
    assert len(tree(out)) == 7, "of the old data nothing is left"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_job_beside_the_data_outlives_it(tmp_path: Path) -> None:
    small(tmp_path / "out")
    (tmp_path / "out" / "job.yaml").write_text("runner: {train_data_dir: train, epochs: 7}")
    small(tmp_path / "out", users=30)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["num_users"] == 30
    assert (tmp_path / "out" / "job.yaml").read_text() == "runner: {train_data_dir: train, epochs: 7}"


def test_of_a_link_the_folder_it_points_to_is_replaced(tmp_path: Path) -> None:
    small(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    small(tmp_path / "link", users=30)
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "real" / "manifest.json").read_text())["num_users"] == 30


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    small(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["num_users"] == 20


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"thesis.txt": "years of work"}, "no manifest.json"),
        ({"manifest.json": "{}", "app.js": "x"}, "no manifest.json of fedps"),
        ({"manifest.json": '{"format": "fedps.prepared/2", "clients": {}}'}, "no manifest.json of fedps"),
        ({"manifest.json": '{"clients": {"0": {}}, "num_users": 3}'}, "no manifest.json of fedps"),
        ({"manifest.json": "[1]"}, "no manifest.json of fedps"),
        ({"manifest.json": '{"format": "fedps.prepared/1"}'}, "no manifest.json of fedps"),
        ({"manifest.json": "\x00"}, "no manifest.json of fedps"),
    ],
)
def test_what_others_wrote_is_never_replaced(files: dict[str, str], named: str, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(DataError, match=f"is no prepared data: .*{named}"):
        small(tmp_path / "mine")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("added", ["notes.txt", "train/extra.csv", "train/0/0.csv", "model/0.bin"])
def test_prepared_data_with_something_added_is_kept(added: str, tmp_path: Path) -> None:
    small(tmp_path / "out")
    (tmp_path / "out" / added).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / added).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(DataError, match=f"holds {added.removesuffix('/0.csv').removesuffix('/0.bin')}"):
        small(tmp_path / "out", users=30)
    assert tree(tmp_path) == before


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DataError, match="it is no folder"):
        small(tmp_path / "out")
    with pytest.raises(DataError, match="cannot be written"):
        small(tmp_path / "out" / "inside")
    assert (tmp_path / "out").read_text() == "mine"


def test_failing_halfway_keeps_the_old_data(tmp_path: Path) -> None:
    small(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(DataError, match="nothing to train on"):
        write(tmp_path / "out", interactions(0), Split(), 4, 0)
    assert tree(tmp_path) == before


def test_a_process_killed_while_writing_leaves_the_old_data(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small(out)
    before = tree(out)
    code = f"from pathlib import Path; from fedps.data.prepare.synth import synthesize; synthesize(Path({str(out)!r}), 3000, 1500)"
    writer = subprocess.Popen([sys.executable, "-c", code])
    try:
        limit = time.monotonic() + 60
        while not list(tmp_path.glob(".out.*/new/train/*.csv")) and time.monotonic() < limit and writer.poll() is None:
            time.sleep(0.005)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(30)
    if writer.returncode == -signal.SIGKILL and list(tmp_path.glob(".out.*/new")):
        assert tree(out) == before
    else:  # it was faster than the signal
        assert json.loads((out / "manifest.json").read_text())["num_users"] == 3000
    for left in tmp_path.glob(".out.*"):
        shutil.rmtree(left)
