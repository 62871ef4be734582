"""Damage is always found: what nobody was told is safe is cut off, a snapshot gives way to the one before, rot is refused."""

import errno
import os
import random
from copy import deepcopy
from pathlib import Path

import pytest

from fedps.errors import DataError
from fedps.storage.disk import Folder
from fedps.storage.frames import HEADER, Frames, Kind
from fedps.storage.log import Log
from tests.simulation.disk import ForgetfulDisk
from tests.storage.counting import Counting, held, numbers


@pytest.fixture
def server() -> Counting:
    return Counting()


@pytest.fixture
def disk(server: Counting) -> ForgetfulDisk:
    """Two snapshots, the log between them, and behind the second one some records of which the last two were flushed last."""
    found = ForgetfulDisk()
    log = Log(found)
    held(log)
    server.live(log)
    assert sorted(found.names()) == ["log-3", "log-8", "snapshot-3", "snapshot-8"]
    for _ in range(3):
        server.push(log)
        server.flush(log)
    server.push(log, 2)
    server.flush(log)
    return found


def recovered(disk: ForgetfulDisk) -> tuple[int | None, str]:
    """Recover a copy; return how many records there are and what was noted, or None and why it was refused."""
    log = Log(deepcopy(disk))
    try:
        return held(log), "\n".join(log.notes)
    except DataError as error:
        return None, str(error)


def test_each_of_a_thousand_flipped_bits_is_found(disk: ForgetfulDisk, server: Counting) -> None:
    whole, fates = server.appended, set()
    for seed in range(1000):
        damaged = deepcopy(disk)
        name, _ = damaged.flip(random.Random(seed))
        count, said = recovered(damaged)
        if name in ("log-3", "snapshot-3"):  # needed only when the newer snapshot is lost
            assert (count, said) == (whole, "")
            damaged.flip(random.Random(seed), "snapshot-8")
            assert recovered(damaged)[0] is None
        elif name == "snapshot-8":
            assert (count, said) == (
                whole,
                "disk/snapshot-8: is damaged and not used; the one before it is, if there is one",
            )
        elif count is None:
            fates.add("refused")
            assert "disk/log-8: is damaged at byte " in said
        else:
            fates.add("cut")
            assert whole - 2 <= count < whole
            assert said.endswith("were torn, and are cut off")
    assert fates == {"refused", "cut"}


def test_of_a_log_that_ends_anywhere_all_whole_records_are_there(disk: ForgetfulDisk, server: Counting) -> None:
    ends = ends_of(disk, "log-8")
    for length in range(len(disk.files["log-8"]) + 1):
        damaged = deepcopy(disk)
        del damaged.files["log-8"][length:]
        whole = [end for end in ends if end <= length]
        count, said = recovered(damaged)
        assert count == 8 + max(len(whole) - 1, 0)
        torn = length - max(whole, default=0)
        assert said == (f"disk/log-8: {torn} bytes behind record {count} were torn, and are cut off" if torn else "")


def ends_of(disk: ForgetfulDisk, name: str) -> list[int]:
    """Where the header and each record end, in bytes."""
    content = memoryview(bytes(disk.files[name]))
    frames = Frames.of(content, Kind.LOG, int(name.partition("-")[2]))
    assert frames is not None
    return [HEADER.size, *[frame.end for frame in frames.behind(content, HEADER.size)]]


@pytest.mark.parametrize("name", ["snapshot-8", "snapshot-3", "log-3"])
def test_any_other_file_that_ends_too_early_is_not_used(name: str, disk: ForgetfulDisk, server: Counting) -> None:
    for length in range(len(disk.files[name])):
        damaged = deepcopy(disk)
        del damaged.files[name][length:]
        count, said = recovered(damaged)
        assert (count, "snapshot-8: is damaged" in said) == (server.appended, name == "snapshot-8")
        if name != "snapshot-8":
            damaged.files["snapshot-8"].clear()
            count, said = recovered(damaged)
            assert (count, "put a copy of the folder in its place" in said) == (None, True)


def test_what_lies_behind_the_records_is_cut_off(disk: ForgetfulDisk, server: Counting) -> None:
    count = server.appended
    for rubbish in (bytes(4096), random.Random(1).randbytes(5000), bytes(disk.files["log-3"]), b"\0"):
        damaged = deepcopy(disk)
        damaged.files["log-8"] += rubbish
        log = Log(damaged)
        assert held(log) == count
        assert log.notes == [f"disk/log-8: {len(rubbish)} bytes behind record {count} were torn, and are cut off"]
        server.push(log, 3)
        server.flush(log)
        assert recovered(damaged) == (count + 3, "")
        damaged = deepcopy(disk)
        damaged.files["snapshot-8"] += rubbish
        assert "snapshot-8: is damaged" in recovered(damaged)[1]


def test_a_damaged_snapshot_is_not_kept_in_the_place_of_a_whole_one(disk: ForgetfulDisk, server: Counting) -> None:
    disk.flip(random.Random(1), "snapshot-8")
    log = server.check(disk)
    compaction = log.compact()
    compaction.write([numbers(0, log.position)])
    compaction.commit(keep=8)
    assert sorted(disk.names()) == ["log-3", "log-8", "snapshot-17", "snapshot-3"]


def test_rot_is_named_with_its_place_and_what_is_whole_before_it_can_be_kept(
    disk: ForgetfulDisk, server: Counting
) -> None:
    third = ends_of(disk, "log-8")[2]
    disk.files["log-8"][third + 30] ^= 1
    count, refused = recovered(disk)
    assert count is None
    assert f"disk/log-8: is damaged at byte {third}, where record 10 begins, though records up to " in refused
    assert f"`truncate -s {third} disk/log-8`" in refused
    del disk.files["log-8"][third:]
    assert recovered(disk) == (10, "")


def test_a_group_of_which_the_first_record_was_lost_by_the_power_is_cut_off(
    disk: ForgetfulDisk, server: Counting
) -> None:
    *_, first, second, _ = ends_of(disk, "log-8")
    disk.files["log-8"][first:second] = bytes(second - first)
    count, said = recovered(disk)
    assert (count, "are cut off" in said) == (server.appended - 2, True)


def test_a_file_that_is_missing_is_missed(disk: ForgetfulDisk, server: Counting) -> None:
    del disk.files["log-3"]
    assert recovered(disk) == (server.appended, "")
    disk.files["snapshot-8"].clear()
    assert "holds records up to 3, and then from 8 on" in recovered(disk)[1]
    del disk.files["snapshot-3"], disk.files["snapshot-8"]
    assert "no whole snapshot is left" in recovered(disk)[1]


def test_logs_that_are_all_missing_are_missed(disk: ForgetfulDisk) -> None:
    del disk.files["log-3"], disk.files["log-8"]
    disk.files["snapshot-8"].clear()
    assert "holds records up to 3, and then from 8 on" in recovered(disk)[1]


def test_another_version_is_refused_by_name_and_not_taken_for_damage(disk: ForgetfulDisk) -> None:
    for name in ("snapshot-8", "log-8"):
        other = deepcopy(disk)
        kind, _, position = name.partition("-")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fedps.storage.frames.VERSION", 2)
            other.files[name][: HEADER.size] = Frames(Kind(kind), int(position), b"12345678").header
        assert f"disk/{name}: is of format 2, and this fedps reads format 1 only" in recovered(other)[1]


def test_files_of_another_log_or_of_another_name_are_refused(disk: ForgetfulDisk) -> None:
    other = ForgetfulDisk()
    log = Log(other)
    held(log)
    Counting().live(log)
    for name in ("snapshot-8", "log-8"):
        mixed = deepcopy(disk)
        mixed.files[name] = other.files[name]
        assert "is of another log than the files beside it" in recovered(mixed)[1]
    disk.files["log-8"] = disk.files["log-3"]
    assert "log-8: is damaged at byte 0" in recovered(disk)[1]


def test_a_record_that_is_too_large_or_comes_before_what_is_there_was_read_is_refused(
    disk: ForgetfulDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedps.storage.log.LARGEST", 10)
    log = Log(disk)
    with pytest.raises(ValueError, match="recover first"):
        log.append([b"x"])
    held(log)
    with pytest.raises(ValueError, match="a record of 11 bytes: at most 10"):
        log.append([b"123456", b"78901"])


def test_the_folder_is_its_owners_alone_and_says_what_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*cannot be opened"):
        Folder(tmp_path / "file" / "log")
    with Folder(tmp_path / "state" / "server-0") as folder:
        log = Log(folder)
        held(log)
        Counting().live(log)
    modes = {f.name: f.stat().st_mode & 0o777 for f in tmp_path.rglob("*") if f.name != "file"}
    assert set(modes.values()) == {0o700, 0o600}
    assert {name for name, mode in modes.items() if mode == 0o700} == {"state", "server-0"}


@pytest.mark.parametrize("name", ["log-0", "snapshot-3000"])
def test_a_sector_that_cannot_be_read_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Folder(tmp_path) as folder:
        log = Log(folder)
        held(log)
        for number in range(3000):
            log.append([b"push %d" % number])
        if name != "log-0":
            compaction = log.compact()
            compaction.write([numbers(0, 3000)])
            compaction.commit(keep=3000)
        log.flush()
    read, bad = os.pread, 8192

    def pread(descriptor: int, size: int, at: int) -> bytes:
        """Read up to the bad sector, as the system does, and then no further."""
        if at <= bad < at + size and Path(f"/proc/self/fd/{descriptor}").readlink().name == name:
            if at == bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            size = bad - at
        return read(descriptor, size, at)

    monkeypatch.setattr(os, "pread", pread)
    told = f"cannot be read: .*Input/output error at byte {bad}: '.*/{name}'; put the disk in order, or put a copy"
    with Folder(tmp_path) as folder, pytest.raises(DataError, match=told):
        held(Log(folder))
