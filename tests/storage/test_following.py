"""A log that another process writes is followed record by record, and taken over where that process has ended."""

import fcntl
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from fedps.errors import DataError, LostError
from fedps.storage import reading
from fedps.storage.disk import Folder
from fedps.storage.frames import FRAME
from fedps.storage.log import Log
from tests.simulation.disk import FaultyDisk, ForgetfulDisk, Stopped, at
from tests.storage.counting import Counting, held, numbers
from tests.storage.test_log_crashes import BROKEN, CALLS


def primary(server: Counting, disk: FaultyDisk, lives: int = 3) -> Callable[[], bool]:
    """Return what lets a server live on for a step, and says whether it has ended, when it is asked."""

    def live() -> Callable[[], None]:
        log = Log(disk)
        held(log)
        steps = (step for _ in range(lives) for step in server.steps(log, patient=True))
        return lambda: next(steps)

    step: Callable[[], None] | None = None

    def ended() -> bool:
        nonlocal step
        try:
            step = step or live()
            step()
        except (Stopped, StopIteration):
            return True
        return False

    return ended


@pytest.mark.parametrize("half", [False, True])
def test_who_follows_a_server_that_is_killed_at_any_call_has_all_that_was_acknowledged(half: bool) -> None:
    for call in range(2 * CALLS):
        server, disk = Counting(), ForgetfulDisk()
        log = Log(disk, primary(server, FaultyDisk(disk, at(call, Stopped()), half)))
        assert server.acknowledged <= held(log) <= server.appended
        server.live(log)
        disk.crash(random.Random(call))
        server.check(disk)


def test_who_follows_a_server_whose_disk_fails_at_any_call_takes_nothing_up_that_was_written_in_vain() -> None:
    for call in range(2 * CALLS):
        server, disk = Counting(), ForgetfulDisk()
        log = Log(disk, primary(server, FaultyDisk(disk, at(call, BROKEN), half=True)))
        with suppress(DataError):  # told by the other as it began
            assert server.acknowledged <= held(log) == len(range(log.position))
            server.live(log)
            server.check(disk)


def test_what_may_not_be_on_disk_yet_is_not_taken_up() -> None:
    disk, taken = ForgetfulDisk(), list[int]()

    def look(call: int, name: str) -> None:
        if name == "sync":  # what is to be synced can be read already
            taken.append(followed(disk))
            assert taken[-1] <= log.durable

    log = Log(FaultyDisk(disk, look))
    held(log)
    Counting().live(log)
    assert taken[-1] > 0


def followed(disk: ForgetfulDisk) -> int:
    """Return how many numbers whoever follows a log has after a few looks."""
    looks, count = iter(range(6)), 0

    def ours() -> bool:
        if next(looks, None) is None:
            raise Stopped
        return False

    with suppress(Stopped):
        for record in Log(disk, ours).recover():
            count += len(bytes(record).split()) - 1
    return count


def test_a_file_that_vanishes_as_it_is_read_is_not_missed() -> None:
    server, disk = Counting(), ForgetfulDisk()
    asks = primary(server, FaultyDisk(disk))
    read, seen = disk.read, list[str]()

    def vanishing(name: str, begin: int = 0, size: int | None = None) -> bytes:
        seen.append(name)
        if seen.count("log-0") == 1:
            raise FileNotFoundError(2, "No such file", name)
        return read(name, begin, size)

    disk.read = vanishing  # type: ignore[method-assign]
    assert server.acknowledged <= held(Log(disk, asks)) <= server.appended


def test_records_are_taken_up_while_the_other_goes_on(tmp_path: Path) -> None:
    with Folder(tmp_path) as theirs, Folder(tmp_path, to_write=False) as ours:
        assert not ours.take()
        server, log = Counting(), Log(theirs)
        held(log)
        followed = Log(ours, ours.take).recover()
        for group in range(3):
            server.push(log, 2)
            server.flush(log)
            if group:  # it is told that the group before was durable
                assert [bytes(next(followed)).split()[1] for _ in range(2)] == [b"%d" % (2 * group - n) for n in (2, 1)]
        theirs.close()
        assert len(list(followed)) == 2
        assert not Folder(tmp_path, to_write=False).take()


def test_a_log_that_its_server_has_removed_is_told(tmp_path: Path) -> None:
    server, disk = Counting(), ForgetfulDisk()
    lives = primary(server, FaultyDisk(disk))

    def ended() -> bool:
        if lives():
            disk.files.clear()
            return True
        return False

    with pytest.raises(LostError, match="disk: the log was removed by its server, whose job has come to its end"):
        held(Log(disk, ended))


def test_who_is_left_too_far_behind_is_told() -> None:
    server, disk = Counting(), ForgetfulDisk()
    log = Log(disk)
    held(log)

    def ended() -> bool:
        for _ in range(3):
            server.push(log)
            compaction = log.compact()
            compaction.write([numbers(0, log.position)])
            compaction.commit(keep=log.position)
        return log.position > 100

    with pytest.raises(DataError, match="disk: its server goes on faster than it is followed: begin anew"):
        held(Log(disk, ended))


def test_what_another_process_may_cut_off_can_still_be_looked_at(tmp_path: Path) -> None:
    with Folder(tmp_path) as theirs, Folder(tmp_path, to_write=False) as ours:
        theirs.append("log-0", [bytes(100_000)])
        content = ours.read("log-0", 10)
        theirs.truncate("log-0", 0)
        assert bytes(content) == bytes(99_990)
        theirs.append("log-0", [b"0123456789"])
        assert bytes(theirs.read("log-0", 7)) == bytes(ours.read("log-0", 7)) == b"789"


def test_whoever_only_looks_keeps_no_server_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Folder(tmp_path, to_write=False) as looks:
        assert looks.is_free()
        with Folder(tmp_path):
            assert not looks.is_free()
        looking = os.open(tmp_path / "lock", os.O_RDONLY)
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(looking, fcntl.LOCK_UN))
        with Folder(tmp_path):
            assert not looks.is_free()
        os.close(looking)


def test_whoever_takes_over_reads_no_more_than_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, begins = Folder.read, list[int]()

    def noted(disk: Folder, name: str, begin: int = 0, size: int | None = None) -> bytes:
        begins.append(begin)
        return read(disk, name, begin, size)

    with Folder(tmp_path) as theirs, Folder(tmp_path, to_write=False) as ours:
        server, log = Counting(), Log(theirs)
        held(log)
        followed = Log(ours, ours.take).recover()
        for _ in range(3):
            server.push(log, 50)
            server.flush(log)
        assert len([next(followed) for _ in range(100)]) == 100
        monkeypatch.setattr(Folder, "read", noted)
        monkeypatch.setattr(reading, "PIECE", 64)
        theirs.close()
        assert len(list(followed)) == 50
    header, *rest = begins
    assert header == 0 and min(rest) > 100 * FRAME.size
