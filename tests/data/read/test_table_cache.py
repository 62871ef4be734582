"""Samples of features that are kept: the same as read, of this file and these features, and only if they are whole."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedps.cache import cache_folder
from fedps.config import Allow, Job, load_job
from fedps.data.read.by_job import Reading, read_by_job
from fedps.data.read.cache import FOLDER, TABLE_MARK, recall_table
from fedps.types import Bags, Samples

FEATURES: dict[str, dict[str, object]] = {
    "user": {"kind": "id", "rows": "open"},
    "words": {"kind": "ids", "rows": 9, "max": 2},
    "dense": {"kind": "number", "dim": 2},
    "label": {"kind": "label"},
}
TEXT = "label,user,words,dense\n" + "".join(f"{k % 2},u{k},{'|'.join('123'[: k % 4])},{k}|1\n" for k in range(300))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))


def job_of(folder: Path, features: object = None, **runner: object) -> Job:
    file = folder / "train" / "a.csv"
    if not file.exists():
        file.parent.mkdir()
        file.write_text(TEXT)
    tree = {"runner": {"train_data_dir": "train", "model": "net.Net", **runner}, "features": features or FEATURES}
    (folder / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_job(folder / "job.yaml")


def read(job: Job) -> Reading:
    return read_by_job(job, "train", [job.runner.train_data_dir / "a.csv"], Allow())


def touched(job: Job) -> Job:
    os.utime(job.runner.train_data_dir / "a.csv", ns=(1, 1))
    return job


def kept() -> list[Path]:
    return sorted((cache_folder() / FOLDER).glob("*.samples"))


def assert_same(one: Samples, other: Samples) -> None:
    assert list(one.columns) == list(other.columns)
    np.testing.assert_array_equal(one.label, other.label)
    for name, column in one.columns.items():
        theirs = other.columns[name]
        for ours, same in zip(column, theirs, strict=True) if isinstance(column, Bags) else [(column, theirs)]:
            assert ours.dtype == same.dtype  # type: ignore[union-attr]
            np.testing.assert_array_equal(ours, same)


def test_what_is_kept_is_what_was_read_and_the_text_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path)
    first = read(job)
    assert len(kept()) == 1
    monkeypatch.setattr("fedps.data.read.by_job.read_table", None)
    again = read(job)
    assert_same(first.samples, again.samples)
    assert first.note == again.note != ""
    monkeypatch.setattr("fedps.data.read.cache.MAPPED", 0)
    assert_same(first.samples, read(job).samples)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: job_of(folder, FEATURES | {"words": FEATURES["words"] | {"max": 1}}),
        lambda folder: job_of(folder, FEATURES | {"words": FEATURES["words"] | {"separator": "/"}}),
        lambda folder: job_of(folder, seed=1),  # of hashes
        lambda folder: touched(job_of(folder)),
    ],
)
def test_other_features_and_files_that_changed_are_read_anew(change: Callable[[Path], Job], tmp_path: Path) -> None:
    read(job_of(tmp_path))
    job = change(tmp_path)
    file = tmp_path / "train" / "a.csv"
    assert recall_table(file, job) is None


def test_a_strange_file_there_is_not_used(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    read(job)
    file, [place] = tmp_path / "train" / "a.csv", kept()
    whole = place.read_bytes()
    length = int(np.frombuffer(whole, "<i4", 2)[1])
    facts = json.loads(whole[8 : 8 + length])
    worse = {
        "cut short": whole[:-64], "longer": whole + bytes(64), "empty": b"", "no header": whole[:6],
        "another mark": np.array([TABLE_MARK + 1], "<i4").tobytes() + whole[4:],
        "no text": whole[:8] + b"x" * length + whole[8 + length :],
        "an id out of range": whole.replace(np.array([1, 2, 2, 3], "<i4").tobytes(), np.array([1, 2, 9, 3], "<i4").tobytes()),
        "another column": whole.replace(b'"words"', b'"wordz"'),
    }  # fmt: skip
    assert [name for name, _, _ in facts["arrays"]] == ["label", "user.", "words.ids", "words.starts", "dense."]
    for name, content in worse.items():
        assert content != whole, name
        place.write_bytes(content)
        assert recall_table(file, job) is None, name
    place.write_bytes(whole)
    assert recall_table(file, job) is not None, "the control"


def test_files_with_skipped_lines_are_not_kept(tmp_path: Path) -> None:
    job = job_of(tmp_path, bad_lines="skip")
    file = tmp_path / "train" / "a.csv"
    file.write_text(TEXT + "2,x,,1|1\n")
    for _ in range(2):
        assert read(job).skipped.lines == 1
    assert not kept()


def test_columns_larger_than_what_is_held_in_memory_are_gathered_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = read(job_of(tmp_path)).samples
    kept()[0].unlink()
    monkeypatch.setattr("fedps.data.read.intake.SPILL", 100)
    monkeypatch.setattr("fedps.data.read.lines.BLOCK", 200)
    assert_same(held, read(job_of(tmp_path)).samples)
    assert len(kept()) == 1
    assert_same(held, read(job_of(tmp_path)).samples)
