"""A disk that is really full: a small file system of its own, and a limit on how large files may grow.

Nothing that was acknowledged is lost, who asks is told, reads go on, what was saved stays, and all goes on when there is room.
"""

import io
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from fedps.client.checkpoint import Checkpoints, Moment, checkpoints_of
from fedps.coordinator.coordinator import RETRY
from fedps.server.server import ParameterServer
from fedps.storage import epochs
from fedps.types import ClientId
from fedps.wire.messages import Done, Refused
from tests.conftest import MakeJob
from tests.coordinator.callers import with_keys
from tests.coordinator.test_full_disk import DONE
from tests.coordinator.test_full_disk import World as Coordinated
from tests.launch.runs import events, fedps, start, write_job
from tests.server.callers import Caller, ones, push
from tests.server.homes import Home, meet, tables

PAGE = 4096  # bytes of which a file system may still have room in a file's last page
LITTLE = 1500  # bytes: a file may be so large, and no larger
FILLER = "filler"
START = 1.0  # of all values, to which each push adds one


class Disk(Protocol):
    """A folder whose disk is full at times of our own."""

    path: Path

    def fill(self, least: int = 0) -> None:
        """Let there be no room, but for files of `least` bytes, which may be there already."""

    def empty(self) -> None:
        """Let there be room again."""


class Small:
    """A file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, least: int = 0) -> None:
        with (self.path / FILLER).open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(PAGE))
                except OSError:
                    return

    def empty(self) -> None:
        (self.path / FILLER).unlink(missing_ok=True)


class Limited:
    """A folder in which files may not grow."""

    def __init__(self, path: Path) -> None:
        self.path, self._before = path, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, least: int = 0) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(LITTLE, least), self._before[1]))

    def empty(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Small]:
    size = getattr(request, "param", 2)  # MiB
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "fedps-test", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield Small(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(params=["small", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "small":
        yield request.getfixturevalue("small")
        return
    limited = Limited(tmp_path)
    yield limited
    limited.empty()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_no_acknowledged_push_is_lost_and_reads_go_on(disk: Disk, make_job: MakeJob) -> None:
    home = Home(make_job(sync_mode="async", epochs=3), disk.path)
    server = home.server()
    a = Caller(server, "a").join()
    disk.fill(max(len(content) for content in contents(disk.path).values()))
    for number in range(1, 50):  # until the last page is full
        ticket = a.send(*push(number, range(100), ones(100)))
        if not a.answers(ticket):
            break
    acknowledged = number - 1
    refused = a.ask(*push(number + 1, range(100), ones(100)))
    assert isinstance(refused, Refused) and refused.kind == "no_space"
    assert a.rows(3) == [[START + number] * 4], "reads go on"
    found = home.server()  # the process dies, and another finds the disk as full
    assert pushes_in(found) in (acknowledged, number)
    disk.empty()
    a = Caller(found, "a").join()
    if pushes_in(found) == acknowledged:
        assert a.ask(*push(number, range(100), ones(100))) == Done()
    assert a.ask(*push(number + 1, range(100), ones(100))) == Done()
    assert a.rows(3) == [[START + number + 1] * 4]
    assert found.failure is None and tables(home.server()) == tables(found)
    home.close()


def test_what_waits_for_room_is_acknowledged_once_there_is(disk: Disk, make_job: MakeJob) -> None:
    home = Home(make_job(sync_mode="async", epochs=3), disk.path)
    server = home.server()
    a = Caller(server, "a").join()
    disk.fill()
    tickets = [a.send(*push(number, range(100), ones(100))) for number in range(1, 4)]
    answers = [a.answers(ticket) for ticket in tickets]
    disk.empty()
    server.tick(time.monotonic() + 1)
    waited = [ticket for ticket, answer in zip(tickets, answers, strict=True) if not answer]
    assert waited and [a.answers(ticket) for ticket in waited] == [[Done()]] * len(waited)
    assert tables(home.server()) == tables(server)
    home.close()


def pushes_in(server: ParameterServer) -> float:
    """Return how many pushes all rows have."""
    keys, rows = server.shard.store.export()["rows"][1:]
    return float(rows[0, 0]) - START if len(keys) else 0.0


def test_a_snapshot_that_finds_no_room_is_told_and_the_log_goes_on(disk: Disk, make_job: MakeJob) -> None:
    home = Home(make_job(sync_mode="async", epochs=3), disk.path)
    server = home.server()
    a = Caller(server, "a").join()
    assert a.ask(*push(1, range(100), ones(100))) == Done()
    server.sum_up()
    assert a.ask(*push(2, [3], ones(1))) == Done()
    before = sorted(path.name for path in (disk.path / "state").glob("snapshot-*"))
    disk.fill()
    server.sum_up()
    disk.empty()
    (note,) = [e["note"] for e in home.events if e["event"] == "note" and "snapshot" in e["note"]]
    assert "a snapshot of the tables cannot be written" in note
    assert sorted(path.name for path in (disk.path / "state").glob("snapshot-*")) == before
    server.tick(time.monotonic() + 1)
    assert a.ask(*push(3, [3], ones(1))) == Done()
    assert tables(home.server()) == tables(server)
    home.close()


def test_an_epoch_that_finds_no_room_is_told_and_the_one_before_stays(
    disk: Disk, make_job: MakeJob, tmp_path: Path
) -> None:
    model = disk.path / "saved"
    model.mkdir()
    home = Home(make_job(sync_mode="async", epochs=3, model_save_path=str(model)), tmp_path)
    server = home.server()
    a, b = (Caller(server, name).join() for name in "ab")
    assert a.ask(*push(1, range(100), ones(100))) == Done()
    meet(1, a, b)
    before = contents(model / "1")
    assert before
    server.sum_up()  # so that the log is short
    disk.fill()
    assert a.ask(*push(2, [3], ones(1))) == Done()
    meet(2, a, b)
    disk.empty()
    ((epoch, reason),) = [(e["epoch"], e["reason"]) for e in home.events if e["event"] == "unsaved"]
    assert epoch == 2 and ("free space" in reason or "raise the limit" in reason)
    assert contents(model / "1") == before and not contents(model / "2")
    assert a.ask(*push(3, [3], ones(1))) == Done()
    meet(3, a, b)
    assert contents(model / "3")
    home.close()


def test_a_checkpoint_that_finds_no_room_is_told_and_those_before_stay(disk: Disk, make_job: MakeJob) -> None:
    log, client = io.StringIO(), ClientId("0")
    checkpoints = Checkpoints(make_job(), client, disk.path, log)
    state: dict[str, Any] = {"learner/rows": np.ones((1000, 4), np.float32)}
    checkpoints.save(Moment(1), 1, state)
    checkpoints.settle()
    before = contents(disk.path / "private")
    disk.fill()
    checkpoints.save(Moment(2), 2, state)
    checkpoints.settle()
    disk.empty()
    assert "a checkpoint is missing, the next is tried again" in log.getvalue()
    assert contents(disk.path / "private") == before
    checkpoints.save(Moment(3), 3, state)
    checkpoints.settle()
    assert checkpoints_of(disk.path, client) == {Moment(1): 1, Moment(3): 3}


def test_a_round_that_finds_no_room_is_told_to_nobody_before_it_is_saved(disk: Disk, make_job: MakeJob) -> None:
    job = with_keys(make_job(epochs=9, with_coordinator=True, step_timeout=60.0), worker_num=2)
    world = Coordinated(job, disk.path)
    assert world.told == [[1, 2], [1, 2]]
    disk.fill()
    for caller in (world.a, world.b):
        caller.report(2, DONE)
    for _ in range(5):
        world.wait(RETRY)
    disk.empty()
    assert world.told == [[1, 2], [1, 2]]
    assert len(world.notes) == 1 and "the coordinator's state cannot be written" in world.notes[0]
    world.wait(RETRY)
    assert world.told == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.slow
@pytest.mark.parametrize("small", [64], indirect=True)
def test_a_run_whose_disk_is_full_for_a_while_comes_to_the_numbers_of_another(small: Small, tmp_path: Path) -> None:
    job = write_job(tmp_path, epochs=40, geo_merge="heat", with_coordinator=True, keep_epochs=2, step_timeout=100.0)
    calm, run_dir = tmp_path / "calm", small.path / "run"
    done = fedps("run", job, "--run_dir", calm, timeout=200)
    assert done.returncode == 0, done.stderr
    process = start("run", job, "--run_dir", run_dir)
    try:
        while not (run_dir / "events.jsonl").exists() or not any(e["event"] == "saved" for e in events(run_dir)):
            assert process.poll() is None
            time.sleep(0.05)
        small.fill()
        time.sleep(3)
        assert process.poll() is None, process.communicate()
        small.empty()
        _, said = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "No space left on device: free space" in said
    assert [(e["role"], e["id"]) for e in events(run_dir) if e["event"] in ("failed", "restarted", "lost")] == []
    ours, theirs = (epochs.read_model(folder / "model" / "40") for folder in (run_dir, calm))
    assert {name: table.block.tobytes() for name, table in ours.items()} == {
        name: table.block.tobytes() for name, table in theirs.items()
    }
