"""What was durable is found again, in order and whole, whatever happens to the disk; what was not may be."""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from fedps.errors import DataError, LostError
from fedps.storage.disk import Disk, Folder
from fedps.storage.log import Log
from fedps.storage.reading import OVER
from tests.simulation.disk import FaultyDisk, ForgetfulDisk, Stopped, at, from_on


@pytest.fixture(params=["folder", "forgetful"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "forgetful":
        yield ForgetfulDisk()
        return
    with Folder(tmp_path / "log") as folder:
        yield folder


def records(log: Log, back: int = 0) -> list[bytes]:
    return [bytes(record) for record in log.recover(back)]


def opened(disk: Disk) -> Log:
    log = Log(disk)
    records(log)
    return log


def add(log: Log, *numbers: int) -> None:
    for number in numbers:
        log.append([b"record ", str(number).encode()])
    log.flush()


def named(*numbers: int) -> list[bytes]:
    return [f"record {number}".encode() for number in numbers]


def sum_up(log: Log, keep: int = 0) -> None:
    compaction = log.compact()
    compaction.write([b"sum of ", str(log.position).encode()])
    compaction.commit(keep)


def test_records_are_found_as_they_were_appended_and_more_come_behind_them(disk: Disk) -> None:
    log = opened(disk)
    assert (log.position, log.durable, log.bytes, log.pending_bytes) == (0, 0, 0, 0)
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert log.append([b"rows", rows.data, b""]) == 1
    assert log.append([]) == 2
    assert (log.position, log.durable) == (2, 0)
    assert log.pending_bytes == log.bytes > rows.nbytes
    assert log.flush() == log.durable == 2
    assert log.pending_bytes == 0
    again = Log(disk)
    assert records(again) == [b"rows" + rows.tobytes(), b""]
    assert (again.position, again.durable, again.bytes, again.notes) == (2, 2, log.bytes, [])
    add(again, 2)
    assert records(Log(disk))[2:] == named(2)


def test_a_snapshot_stands_for_the_records_before_it_and_one_can_go_back_before_it(disk: Disk) -> None:
    log = opened(disk)
    add(log, 0, 1)
    sum_up(log)
    assert log.bytes == 0
    add(log, 2)
    assert records(Log(disk)) == [b"sum of 2", *named(2)]
    assert records(Log(disk), back=1) == named(0, 1, 2)
    with pytest.raises(DataError, match="no whole snapshot is left"):
        records(Log(disk), back=2)


def test_records_go_on_while_a_snapshot_is_written_and_if_it_is_abandoned(disk: Disk) -> None:
    log = opened(disk)
    add(log, 0)
    compaction = log.compact()
    add(log, 1)
    compaction.write([b"half"])
    assert records(Log(disk)) == named(0, 1)
    before = log.bytes
    compaction.abandon()
    assert log.bytes > before
    add(log, 2)
    assert records(Log(disk)) == named(0, 1, 2)
    assert not [name for name in disk.names() if "snapshot" in name]
    sum_up(log)
    assert records(Log(disk)) == [b"sum of 3"]


def test_a_snapshot_goes_to_disk_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedps.storage.log.GULP", 1000)
    disk = ForgetfulDisk()
    compaction = opened(disk).compact()
    for _ in range(50):
        compaction.write([bytes(90)])
        assert len(disk.files["snapshot-0.part"]) - disk.safe["snapshot-0.part"] < 1200


def test_a_snapshot_that_was_left_half_is_begun_anew() -> None:
    disk = ForgetfulDisk()
    log = opened(disk)
    add(log, 0)
    compaction = log.compact()
    compaction.write([b"half"])
    disk.error = OSError(28, "No space left on device")
    compaction.abandon()
    disk.error = None
    sum_up(log)
    assert records(Log(disk)) == [b"sum of 1"]


def test_records_behind_a_snapshot_that_was_the_last_thing_written_are_found(disk: Disk) -> None:
    log = opened(disk)
    add(log, 0)
    sum_up(log)
    add(opened(disk), 1)
    assert records(Log(disk)) == [b"sum of 1", *named(1)]
    assert records(Log(disk), back=1) == named(0, 1)


def test_of_snapshots_the_last_two_stay_and_what_leads_to_where_one_may_have_to_go_back(disk: Disk) -> None:
    log = opened(disk)
    for number in range(6):
        add(log, number)
        sum_up(log, keep=log.position)
    assert sorted(disk.names()) == ["log-5", "snapshot-5", "snapshot-6"]
    for number in range(6, 9):
        add(log, number)
        sum_up(log, keep=6)
    assert sorted(disk.names()) == ["log-6", "log-7", "log-8", "snapshot-6", "snapshot-8", "snapshot-9"]
    assert records(Log(disk), back=2) == [b"sum of 6", *named(6, 7, 8)]


def summed_up_twice(disk: Disk) -> None:
    """Leave a log of five records, with snapshots at 2 and at 4."""
    log = opened(disk)
    add(log, 0, 1)
    sum_up(log)
    add(log, 2, 3)
    sum_up(log)
    add(log, 4)


def test_what_is_cut_off_is_forgotten_snapshots_too(disk: Disk) -> None:
    summed_up_twice(disk)
    log = Log(disk)
    for record in log.recover(back=1):
        if bytes(record) == b"record 2":
            break
    log.cut(log.position, [b"record ", b"20"])
    assert log.position == log.durable == 4
    add(log, 30)
    assert records(Log(disk)) == [b"sum of 2", *named(2, 20, 30)]
    sum_up(log, keep=5)
    add(log, 40)
    assert records(Log(disk)) == [b"sum of 5", *named(40)]
    assert sorted(disk.names()) == ["log-2", "log-3", "log-5", "snapshot-2", "snapshot-5"]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("position", [1, 2, 3, 4])
def test_records_are_cut_off_and_another_is_in_their_place_or_all_is_as_it_was(position: int, half: bool) -> None:
    found = list[list[bytes]]()
    for call in range(20):
        disk = ForgetfulDisk()
        summed_up_twice(disk)
        disk.files.pop("snapshot-2"), disk.files.pop("snapshot-4")
        log = Log(FaultyDisk(disk, from_on(call, Stopped()), half))
        with suppress(Stopped):
            records(log)
            log.cut(position, [b"another"])
        disk.crash(random.Random(call))
        found.append(records(Log(disk)))
        assert "cut" not in str(disk.names())
    before, after = named(0, 1, 2, 3, 4), [*named(0, 1, 2, 3, 4)[:position], b"another"]
    assert found == [before] * (done := found.index(after)) + [after] * (20 - done)
    assert done == 5 - half


def test_what_fails_is_written_again_in_order_and_counts_only_then(tmp_path: Path) -> None:
    disk = ForgetfulDisk()
    log = opened(disk)
    add(log, 0)
    disk.error = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        add(log, 1)
    with pytest.raises(OSError, match="No space"):
        add(log, 2)
    assert log.durable == 1
    disk.error = None
    add(log, 3)
    disk.crash(random.Random(1))
    assert records(Log(disk)) == named(0, 1, 2, 3)


def test_what_a_process_left_that_could_not_sync_it_is_on_disk_before_more_comes() -> None:
    disk, fails = ForgetfulDisk(), set[str]()
    error = OSError(5, "Input/output error")
    log = opened(FaultyDisk(disk, lambda call, name: error if name in fails else None))
    add(log, 0, 1)
    add(log, 2)
    fails |= {"sync", "truncate"}
    with pytest.raises(OSError, match="Input/output"):
        add(log, 3)
    log = Log(disk)  # of the next process, which reads what the disk has lost
    assert records(log) == named(0, 1, 2, 3)
    add(log, 4)
    disk.crash(random.Random(1))
    assert records(Log(disk)) == named(0, 1, 2, 3, 4)


def test_a_folder_writes_again_what_stands_there(tmp_path: Path) -> None:
    with Folder(tmp_path / "log") as folder:
        folder.append("a", [b"0123456789"])
        folder.rewrite("a", 4)
        folder.append("a", [b"more"])
        assert bytes(folder.read("a")) == b"0123456789more"


def test_a_real_folder_syncs_files_by_the_descriptor_that_wrote_them_and_the_names_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()

    def noted(call: Callable[[int], None]) -> Callable[[int], None]:
        def do(descriptor: int) -> None:
            call(descriptor)
            done.append(f"{call.__name__} {Path(f'/proc/self/fd/{descriptor}').readlink().name} {descriptor}")

        return do

    with Folder(tmp_path / "disk") as folder:
        monkeypatch.setattr(os, "fsync", noted(os.fsync))
        monkeypatch.setattr(os, "fdatasync", noted(os.fdatasync))
        folder.append("a", [b"1"])
        folder.sync("a")
        (file, written), (names, _) = (each.rsplit(" ", 1) for each in done)
        assert (file, names) == ("fdatasync a", "fsync disk")
        folder.append("a", [b"2"])
        folder.sync("a")
        folder.truncate("a", 1)
        folder.rename("a", "b")
        folder.remove("b")
        said = [f"fdatasync a {written}", f"fsync a {written}", "fsync disk", "fsync disk"]
        assert [each.rsplit(" ", 1)[0] if "disk" in each else each for each in done[2:]] == said
        assert folder.names() == []


def test_what_is_appended_while_others_are_written_waits_for_the_next_flush() -> None:
    disk = ForgetfulDisk()

    def append(call: int, name: str) -> None:
        if name == "sync" and log.position < 4:
            log.append([b"record ", str(log.position).encode()])

    log = opened(FaultyDisk(disk, append))
    add(log, 0)
    assert (log.position, log.durable) == (3, 1)
    assert log.flush() == 3
    assert log.flush() == log.position == 4
    assert records(Log(disk)) == named(0, 1, 2, 3)


def test_two_servers_on_one_log_are_refused_by_name(tmp_path: Path) -> None:
    with Folder(tmp_path / "log"):
        with pytest.raises(DataError, match=r"log: two servers on one log"):
            Folder(tmp_path / "log")
    Folder(tmp_path / "log").close()


def test_a_log_that_is_removed_is_found_at_its_end_or_as_removed_whoever_dies_at_it() -> None:
    found = list[int | str]()
    for call in range(8):
        disk = ForgetfulDisk()
        log = opened(disk)
        for number in range(3):
            add(log, number)
            sum_up(log)
        add(log, 3)
        assert len(disk.names()) == 6
        with suppress(Stopped):
            Log(FaultyDisk(disk, at(call, Stopped()))).forget()
        try:
            found.append(opened(disk).position)
        except LostError as error:
            assert "whose job has come to its end" in str(error)
            found.append("removed")
            Log(disk).forget()
            assert disk.files == {OVER: b""}
            with pytest.raises(LostError, match="to begin anew, remove this folder"):
                opened(disk)
    assert found == [*[4] * 5, *["removed"] * 3]


def test_a_log_without_a_snapshot_and_one_without_records_behind_it_are_removed() -> None:
    for summed_up in (False, True):
        disk = ForgetfulDisk()
        log = opened(disk)
        add(log, 0)
        if summed_up:
            sum_up(log)
        log.forget()
        assert disk.files == {OVER: b""}
