"""A file, several of them or a folder are there whole or not at all, whenever writing stops."""

import os
import shutil
from pathlib import Path

import pytest

from fedps.storage.whole import CLOSED, PUBLIC, STALE, append, make_folder, open_whole, whole_folder, write_whole
from tests.storage.crashes import disk, failing


def held(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


def seen(folder: Path) -> dict[str, str]:
    """What readers look at: temporary files have names that nobody asks for."""
    return {name: text for name, text in held(folder).items() if not name.startswith(".")}


def write_both(folder: Path, text: str) -> None:
    with open_whole(folder / "rows", folder / "record") as (rows, record):
        rows.write(text.encode())
        record.write(text.encode())


def test_a_file_is_its_owners_alone_unless_others_are_to_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_whole(tmp_path / "private", b"x")
        write_whole(tmp_path / "public", [b"x", memoryview(b"y")], PUBLIC)
        make_folder(tmp_path / "a" / "b", CLOSED)
    finally:
        os.umask(before)
    assert held(tmp_path) == {"private": "x", "public": "xy"}
    modes = {f.name: f.stat().st_mode & 0o777 for f in tmp_path.rglob("*")}
    assert modes == {"private": 0o600, "public": 0o644, "a": 0o700, "b": 0o700}


def test_wherever_a_process_stops_a_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with disk(tmp_path) as whole:
        write_whole(path, b"new")
    assert held(tmp_path) == {"file": "new"}
    found = []
    for step in range(whole.steps):
        write_whole(path, b"old")
        with disk(tmp_path, step):
            write_whole(path, b"new")
        found.append(path.read_text())
    assert set(found) == {"old", "new"}
    assert found == sorted(found, reverse=True)


def test_of_two_files_the_second_comes_last_and_none_before_both_are_on_disk(tmp_path: Path) -> None:
    with disk(tmp_path) as whole:
        write_both(tmp_path, "new")
    for step in range(whole.steps):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        with disk(tmp_path, step):
            write_both(tmp_path, "new")
        assert seen(tmp_path) in ({}, {"rows": "new"}, {"rows": "new", "record": "new"})


@pytest.mark.parametrize(("step", "after"), [("open", 0), ("open", 1), ("fsync", 0), ("fsync", 1), ("replace", 0)])
def test_a_disk_that_fails_leaves_the_old_files_and_nothing_else(step: str, after: int, tmp_path: Path) -> None:
    write_both(tmp_path, "old")
    with failing(step, after), pytest.raises(OSError, match="No space left"):
        write_both(tmp_path, "new")
    assert held(tmp_path) == {"rows": "old", "record": "old"}


def test_a_block_that_raises_leaves_the_old_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt), open_whole(tmp_path / "file") as (file,):
        file.write(b"ne")
        raise KeyboardInterrupt
    assert held(tmp_path) == {"file": "old"}


def test_what_a_dead_process_left_goes_once_it_has_lain_still(tmp_path: Path) -> None:
    with disk(tmp_path, 1):
        write_whole(tmp_path / "file", b"x")
    [left] = tmp_path.iterdir()
    (tmp_path / ".file.notes").write_text("another's")
    write_whole(tmp_path / "file", b"x")
    assert left.exists(), "its writer may be slow"
    os.utime(left, (left.stat().st_mtime - 2 * STALE,) * 2)
    write_whole(tmp_path / "another", b"x")
    assert left.exists()
    write_whole(tmp_path / "file", b"x")
    assert sorted(f.name for f in tmp_path.iterdir()) == [".file.notes", "another", "file"]


def test_two_who_write_one_file_at_once_do_not_mix_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open_whole(path) as (one,):
        one.write(b"o")
        with open_whole(path) as (two,):
            two.write(b"two")
        one.write(b"ne")
    assert held(tmp_path) == {"file": "one"}


def test_what_is_added_to_a_file_follows_what_was_whole_in_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"one\n", 0)
    append(path, b"tw", 4)  # as far as a dying process came
    append(path, b"three\n", 4)
    assert held(tmp_path) == {"log": "one\nthree\n"}
    assert path.stat().st_mode & 0o777 == 0o600
    with failing("fsync", 0), pytest.raises(OSError, match="No space left"):
        append(path, b"four\n", 10)
    assert path.read_text().startswith("one\nthree\n")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with whole_folder(tmp_path / "folder") as new:
            (new / text).write_text(text)
            assert text == "old" or held(tmp_path / "folder") == {"old": "old"}
    assert held(tmp_path) == {"folder/new": "new"}
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "folder") as new:
        (new / "file").write_text("old")
    with pytest.raises(OSError, match="No such file"), whole_folder(tmp_path / "folder") as new:
        shutil.rmtree(new)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "folder") as new:
        raise KeyboardInterrupt
    assert held(tmp_path) == {"folder/file": "old"}
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]
