"""Wherever a process or the power stops, or a disk fails, what was acknowledged is there, once and in order."""

import errno
import os
import random
import resource
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path

import pytest

from fedps.errors import DataError
from fedps.storage.disk import Disk, Folder
from fedps.storage.log import Log
from tests.simulation.disk import Fault, FaultyDisk, ForgetfulDisk, Stopped, at
from tests.storage.counting import Counting, held, numbers

FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")


def opened(disk: Disk) -> Log:
    log = Log(disk)
    held(log)
    return log


def calls() -> int:
    """How many calls change the disk in a life."""
    disk = FaultyDisk(ForgetfulDisk())
    Counting().live(opened(disk))
    return disk.calls


CALLS = calls()


@pytest.mark.parametrize("half", [False, True])
def test_a_process_that_is_killed_at_any_call_has_lost_nothing(half: bool, tmp_path: Path) -> None:
    for call in range(CALLS):
        server = Counting()
        with Folder(tmp_path / str(call)) as folder:
            with suppress(Stopped):
                server.live(opened(FaultyDisk(folder, at(call, Stopped()), half)))
            log = server.check(folder)
            server.push(log)
            server.flush(log)
            server.check(folder)


@pytest.mark.parametrize("half", [False, True])
def test_the_power_that_is_cut_at_any_call_has_lost_nothing(half: bool) -> None:
    for call in range(CALLS):
        for seed in range(10):
            server, disk, rng = Counting(), ForgetfulDisk(), random.Random(seed)
            with suppress(Stopped):
                server.live(opened(FaultyDisk(disk, at(call, Stopped()), half)))
            disk.crash(rng)
            log = server.check(disk)
            older = deepcopy(disk)
            damage_newest_snapshot(older)
            server.check(older)
            server.live(log)
            disk.crash(rng)
            server.check(disk)
            server.check(disk, back=1)


def test_what_a_killed_process_left_unsynced_is_durable_once_it_is_recovered() -> None:
    for call in range(CALLS):
        server, disk = Counting(), ForgetfulDisk()
        with suppress(Stopped):
            server.live(opened(FaultyDisk(disk, at(call, Stopped()))))
        server.acknowledged = server.check(disk).durable
        disk.crash(random.Random(call))
        server.check(disk)


def test_the_power_may_be_cut_while_a_log_is_recovered_too() -> None:
    for seed in range(300):
        server, disk, rng = Counting(), ForgetfulDisk(), random.Random(seed)
        with suppress(Stopped):
            server.live(opened(FaultyDisk(disk, at(rng.randrange(CALLS), Stopped()))))
        for call in range(4):
            disk.crash(rng)
            with suppress(Stopped):
                server.check(FaultyDisk(disk, at(call, Stopped()), rng.random() < 0.5))
        disk.crash(rng)
        server.live(server.check(disk))
        disk.crash(rng)
        server.check(disk)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("error", [FULL, BROKEN])
def test_a_call_that_fails_is_made_good_by_later_ones(error: OSError, half: bool) -> None:
    for call in range(CALLS):
        server, disk = Counting(), ForgetfulDisk()
        log = opened(FaultyDisk(disk, at(call, error), half))
        server.live(log, patient=True)
        assert server.acknowledged == log.position == log.durable
        disk.crash(random.Random(call))
        server.check(disk)


@pytest.mark.parametrize("error", [FULL, BROKEN])
def test_a_disk_that_fails_for_a_while_loses_nothing_and_goes_on_after_it(error: OSError) -> None:
    for call in range(CALLS):
        server, disk = Counting(), ForgetfulDisk()
        log = opened(FaultyDisk(disk, between(call, call + 30, error), half=True))
        for _ in range(12):
            with suppress(OSError):
                server.live(log, patient=True)
        assert server.acknowledged == log.position
        disk.crash(random.Random(call))
        server.check(disk)
        server.check(disk, back=1)


def test_any_history_of_pushes_saves_failures_and_crashes_keeps_what_was_acknowledged() -> None:
    for seed in range(60):
        history(seed)


@pytest.mark.slow
def test_many_histories_keep_what_was_acknowledged() -> None:
    for seed in range(3000):
        history(seed)


def history(seed: int) -> None:
    """Live through a history of one seed on a disk that forgets, fails and stops at any call."""
    server, disk, rng = Counting(), ForgetfulDisk(), random.Random(seed)
    for _ in range(8):
        stop, failures = rng.randrange(2 * CALLS), {rng.randrange(2 * CALLS) for _ in range(rng.randrange(4))}

        def fault(call: int, name: str, stop: int = stop, failures: set[int] = failures) -> BaseException | None:
            return Stopped() if call == stop else BROKEN if call in failures else None

        with suppress(Stopped, DataError):  # a disk that fails while a log is recovered is told
            log = server.check(FaultyDisk(disk, fault, rng.random() < 0.5))
            for _ in range(2):
                with suppress(OSError):
                    server.live(log, patient=True)
        disk.crash(rng)
    server.check(disk)


def test_records_are_appended_while_others_are_flushed(tmp_path: Path) -> None:
    with Folder(tmp_path / "log") as folder, ThreadPoolExecutor(1) as beside:
        log, acknowledged = opened(folder), list[Future[int]]()
        for number in range(3000):
            log.append([b"push ", str(number).encode()])
            if not acknowledged or acknowledged[-1].done():
                acknowledged.append(beside.submit(log.flush))
            if number % 1000 == 500:
                compaction = log.compact()
                compaction.write([numbers(0, log.position)])
                compaction.commit(0)
        durable = [each.result() for each in acknowledged]
        assert durable == sorted(durable)
        assert log.flush() == 3000
        assert held(Log(folder)) == 3000


def test_a_disk_that_takes_a_part_of_what_it_is_given_is_given_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev, write = os.writev, os.write
    monkeypatch.setattr(os, "writev", lambda file, pieces: write(file, b"".join(pieces)[:7]))
    monkeypatch.setattr(os, "write", lambda file, payload: writev(file, [payload[:3]]))
    with Folder(tmp_path / "log") as folder:
        server = Counting()
        server.live(opened(folder))
        server.check(folder)


def test_a_real_disk_that_is_full_is_cut_back_and_written_again(tmp_path: Path) -> None:
    with Folder(tmp_path / "log") as folder:
        log, server = opened(folder), Counting()
        server.push(log, 10)
        server.flush(log)
        log.append([b"push 10", b" " * 100_000])
        with largest_file(50_000):
            for _ in range(2):
                with pytest.raises(OSError, match="File too large"):
                    log.flush()
                assert (tmp_path / "log" / "log-0").stat().st_size < 1000
        server.push(log, 1)
        server.flush(log)
        assert server.acknowledged == log.durable == 12
        server.check(folder)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def damage_newest_snapshot(disk: ForgetfulDisk) -> None:
    snapshots = [name for name in disk.names() if name in ("snapshot-3", "snapshot-8")]
    if snapshots:
        disk.files[max(snapshots)][40] ^= 1


def between(first: int, last: int, error: OSError) -> Fault:
    return lambda call, name: error if first <= call < last else None
