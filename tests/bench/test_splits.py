"""The same samples in other files: none lost, none twice, no user in two files of one client."""

from pathlib import Path

import pytest

from bench.splits import deal, shorten


@pytest.fixture
def train(tmp_path: Path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    for client in range(4):
        lines = [f"{10 * client + user},{item},{item % 2}" for item in range(5) for user in range(6)]
        (folder / f"{client}.csv").write_text("\n".join(lines) + "\n")
    return folder


def lines_of(folder: Path) -> list[str]:
    return sorted(line for file in folder.iterdir() for line in file.read_text().splitlines())


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 8, 11])
def test_every_sample_is_dealt_once(workers: int, train: Path, tmp_path: Path) -> None:
    deal(train, tmp_path / "out", workers)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(f"{k}.csv" for k in range(workers))
    assert lines_of(tmp_path / "out") == lines_of(train)
    assert all(file.stat().st_size for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("workers", [3, 4, 11])
def test_a_user_is_in_one_file(workers: int, train: Path, tmp_path: Path) -> None:
    deal(train, tmp_path / "out", workers)
    users = [
        {line.partition(",")[0] for line in file.read_text().splitlines()} for file in (tmp_path / "out").iterdir()
    ]
    assert sum(map(len, users)) == len(set.union(*users)) == 24


def test_shorter_files(train: Path, tmp_path: Path) -> None:
    shorten(train, tmp_path / "out", 8)
    for file in train.iterdir():
        assert (tmp_path / "out" / file.name).read_text().splitlines() == file.read_text().splitlines()[::8]
