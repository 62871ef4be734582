"""Samples that are kept: the same as their file's, never older, never trusted, and not beside the data."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedps.cache import cache_folder
from fedps.config import Allow
from fedps.data.read.by_job import read_by_job
from fedps.data.read.cache import FOLDER, MARK, keep, recall, state_of
from fedps.data.read.reader import read_samples
from fedps.errors import DataError
from fedps.types import Samples
from tests.columns import columns
from tests.conftest import MakeJob

LINES = "1,2,1\n3,4,0\n1,5,0\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "a[0]*.csv"
    path.parent.mkdir()
    path.write_text(LINES)
    return path


def listed(samples: Samples | None) -> list[list[float]] | None:
    return None if samples is None else [column.tolist() for column in columns(samples)]


def kept(file: Path) -> list[Path]:
    return sorted((cache_folder() / FOLDER).glob("*"))


def test_what_is_kept_is_what_was_read(file: Path) -> None:
    assert recall(file, 10, 10) is None
    keep(file, read_samples(file, 10, 10), state_of(file))
    assert listed(recall(file, 10, 10)) == listed(read_samples(file, 10, 10))
    [place] = kept(file)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (place, place.parent)] == [0o600, 0o700]


def test_nothing_is_written_beside_the_data_and_files_of_one_name_are_kept_apart(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    other.write_text("7,7,1\n")
    for each in (file, other):
        keep(each, read_samples(each, 10, 10), state_of(each))
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    assert listed(recall(file, 10, 10)) == [[1, 3, 1], [2, 4, 5], [1, 0, 0]]
    assert listed(recall(other, 10, 10)) == [[7], [7], [1]]


def test_what_nobody_used_for_long_goes(file: Path, tmp_path: Path) -> None:
    keep(file, read_samples(file, 10, 10), state_of(file))
    [place] = kept(file)
    other = tmp_path / "other.csv"
    other.write_text("7,7,1\n")
    for used in (True, False):
        os.utime(place, (1, 1))
        if used:
            recall(file, 10, 10)
        other.write_text(other.read_text() + "7,7,1\n")
        keep(other, read_samples(other, 10, 10), state_of(other))
        assert place.exists() == used


def test_a_file_that_changed_is_read_anew(file: Path) -> None:
    keep(file, read_samples(file, 10, 10), state_of(file))
    os.utime(file, ns=(1, 1))
    assert recall(file, 10, 10) is None
    keep(file, read_samples(file, 10, 10), state_of(file))
    assert len(kept(file)) == 1, "the older one is gone"
    file.write_text(LINES.replace("3,4,0", "3,4,0\n3,6,1"))
    assert recall(file, 10, 10) is None


def test_a_file_that_changed_behind_its_size_and_time_is_read_anew(file: Path) -> None:
    """As by `cp -p`, `rsync -t`, `touch -r`, or an archive that is unpacked over it."""
    keep(file, read_samples(file, 10, 10), state_of(file))
    before = file.stat()
    file.write_text(LINES.replace("3,4,0", "3,4,1"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert recall(file, 10, 10) is None
    other = file.with_name("other")
    other.write_text(LINES.replace("3,4,0", "3,8,0"))
    keep(file, read_samples(file, 10, 10), state_of(file))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert recall(file, 10, 10) is None


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    file: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path, *limits: int) -> Samples:
        samples = read_samples(path, 10, 10)
        path.write_text("7,7,1\n")
        return samples

    monkeypatch.setattr("fedps.data.read.by_job.read_samples", read)
    assert listed(read_by_job(make_job(), "train", [file], Allow()).samples) == [[1, 3, 1], [2, 4, 5], [1, 0, 0]]
    assert kept(file) == []
    monkeypatch.undo()


def test_another_jobs_limits_are_checked(file: Path) -> None:
    keep(file, read_samples(file, 10, 10), state_of(file))
    assert recall(file, 3, 10) is None
    assert recall(file, 10, 5) is None


@pytest.mark.parametrize(
    "numbers",
    [
        [], [MARK], [MARK, 0], [MARK, 1, 2, 3], [MARK, 1, 2, 3, 7], [MARK, 1, -1, 3, 1], [MARK, 1, 2, 99, 1],
        [MARK, 2, 2, 3, 1], [MARK, -1, 2, 3, 1], [MARK + 1, 1, 2, 3, 1], [MARK, 1, 2, 3, 1, 0], [0] * 8,
    ],
)  # fmt: skip
def test_a_strange_file_there_is_not_used(numbers: list[int], file: Path) -> None:
    keep(file, read_samples(file, 10, 10), state_of(file))
    [place] = kept(file)
    place.write_bytes(np.array(numbers, "<i4").tobytes())
    assert recall(file, 10, 10) is None
    place.write_bytes(np.array([MARK, 1, 2, 3, 1], "<i4").tobytes())
    assert listed(recall(file, 10, 10)) == [[2], [3], [1]], "the control"


@pytest.mark.parametrize("content", [b"", b"x", b"not numbers"])
def test_bytes_that_are_no_numbers_are_not_used(content: bytes, file: Path) -> None:
    keep(file, read_samples(file, 10, 10), state_of(file))
    kept(file)[0].write_bytes(content)
    assert recall(file, 10, 10) is None


def test_a_truncated_one_is_not_used(file: Path) -> None:
    keep(file, read_samples(file, 10, 10), state_of(file))
    [place] = kept(file)
    place.write_bytes(place.read_bytes()[:-4])
    assert recall(file, 10, 10) is None


def test_samples_stay_when_their_file_is_cut_short(file: Path) -> None:
    """Mapped from it, they would end the process (SIGBUS)."""
    keep(file, read_samples(file, 10, 10), state_of(file))
    program = (
        "import os, pathlib, sys; from fedps.data.read.cache import recall; path, place = map(pathlib.Path, sys.argv[1:]);"
        "samples = recall(path, 10, 10); os.truncate(place, 0); print(samples.user.tolist())"
    )
    command = [sys.executable, "-c", program, str(file), *map(str, kept(file))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[1, 3, 1]\n"), done.stderr


def test_a_job_reads_the_same_twice_and_its_mistakes_too(make_job: MakeJob, file: Path) -> None:
    job = make_job(train_data_dir=str(file.parent), test_data_dir=None, bad_lines="skip")
    first, second = (read_by_job(job, "train", [file], Allow()) for _ in range(2))
    assert listed(first.samples) == listed(second.samples)
    assert len(kept(file)) == 1
    file.write_text(LINES + "1,x,0\n")
    for _ in range(2):
        assert read_by_job(job, "train", [file], Allow()).skipped.lines == 1
    assert recall(file, 120, 220) is None
    with pytest.raises(DataError, match="line 4"):
        read_by_job(make_job(train_data_dir=str(file.parent), test_data_dir=None), "train", [file], Allow())


def test_ids_that_are_too_large_are_not_kept(file: Path) -> None:
    file.write_text(f"1,{2**40},1\n")
    keep(file, read_samples(file, 10, 2**41), state_of(file))
    assert kept(file) == []
