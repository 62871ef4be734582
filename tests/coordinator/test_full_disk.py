"""A disk that is full, or fails, as a round is written: loud, nothing lost, and nobody told what is not saved."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job
from fedps.coordinator.coordinator import RETRY, Coordinator
from fedps.coordinator.resuming import STATE
from fedps.coordinator.selectors import AllClients
from fedps.errors import FedpsError
from fedps.types import ClientInfo
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, started, with_keys

DONE = ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5)


class Grows(AllClients):
    """Keeps more each round."""

    def state(self) -> Any:
        return "x" * 20_000 * self.round


class World:
    """A coordinator whose disk may be full, at times of our own."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.now, self.events, self.folder = 0.0, list[dict[str, Any]](), folder
        self.coordinator = self.start(job)
        self.a, self.b = (Caller(self.coordinator, name) for name in "ab")
        for round_ in range(2):
            for caller in (self.a, self.b):
                caller.report(round_, DONE)

    def start(self, job: Job) -> Coordinator:
        events: Events = self.events
        return started(job, events, Grows(job), self.folder, monotonic=lambda: self.now)

    def room(self, pages: int) -> None:
        """Let the database have no more than so many pages."""
        assert self.coordinator._memory._db is not None
        self.coordinator._memory._db.execute(f"PRAGMA max_page_count = {pages}")

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)

    def saved(self) -> int:
        with closing(sqlite3.connect(self.folder / STATE)) as db:
            number: int = db.execute("SELECT max(number) FROM rounds").fetchone()[0]
        return number

    @property
    def told(self) -> list[list[int]]:
        return [[t.round for t in caller.told] for caller in (self.a, self.b)]

    @property
    def notes(self) -> list[str]:
        return [e["note"] for e in self.events if e["event"] == "note"]


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    return with_keys(make_job(epochs=9, with_coordinator=True, step_timeout=60.0), worker_num=2)


def test_clients_wait_until_there_is_room_again_and_are_told_once(job: Job, tmp_path: Path) -> None:
    world = World(job, tmp_path)
    assert world.told == [[1, 2], [1, 2]]
    world.room(1)
    world.a.report(2, DONE)
    world.b.report(2, DONE)
    for _ in range(20):
        world.wait(RETRY)
    assert world.told == [[1, 2], [1, 2]] and world.saved() == 2
    assert (
        len(world.notes) == 1
        and f"round 3 waits: the coordinator's state cannot be written: {tmp_path / STATE}: " in world.notes[0]
    )
    assert "free space" in world.notes[0] and world.coordinator.failure is None
    world.b.connection.closed()
    world.b = Caller(world.coordinator, "b")  # who comes meanwhile says it again, or knows nothing
    world.b.report(2, DONE)
    c = Caller(world.coordinator, "c")
    c.report(0)
    world.room(1 << 20)
    world.wait(RETRY / 2)
    world.wait(RETRY)
    assert world.told == [[1, 2, 3], [3]] and not c.told and world.saved() == 3
    assert [e["round"] for e in world.events if e["event"] == "selected"] == [1, 2, 3]  # decided once
    for caller in (world.a, world.b):
        caller.report(3, DONE)
    assert world.told == [[1, 2, 3, 4], [3, 4]] and [t.round for t in c.told] == [4]


def test_after_its_patience_it_ends_and_the_next_goes_on_with_what_is_saved(job: Job, tmp_path: Path) -> None:
    world = World(job, tmp_path)
    world.room(1)
    world.a.report(2, DONE)
    world.b.report(2, DONE)
    for _ in range(62):
        world.wait(RETRY)
    failure = world.coordinator.failure
    assert isinstance(failure, FedpsError) and str(tmp_path / STATE) in str(failure)
    assert "free space" in str(failure) and "started again with the same --run_dir goes on" in str(failure)
    world.wait(1)
    assert world.a.hung_up and world.told == [[1, 2], [1, 2]] and world.saved() == 2
    with pytest.raises(FedpsError, match="cannot be written"):
        world.coordinator.close()
    coordinator = world.start(job)
    world.a, world.b = (Caller(coordinator, name) for name in "ab")
    world.a.report(2, DONE)
    world.b.report(1)  # another process, whose checkpoint is older
    assert world.told == [[], [2]]
    world.b.report(2, DONE)
    assert world.told == [[3], [2, 3]]


def test_what_could_not_be_written_is_written_at_the_end(job: Job, tmp_path: Path) -> None:
    world = World(job, tmp_path)
    world.room(1)
    world.a.report(2, DONE)
    world.b.report(2, DONE)
    world.room(1 << 20)
    world.coordinator.close()  # told to end while clients wait
    assert world.saved() == 3 and world.told == [[1, 2], [1, 2]]
    coordinator = world.start(job)
    again = [Caller(coordinator, name) for name in "ab"]
    for caller in again:
        caller.report(2, DONE)
    assert [[t.round for t in caller.told] for caller in again] == [[3], [3]]


def test_a_disk_that_fails_is_named(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(job, tmp_path)
    db = world.coordinator._memory._db

    class Broken:
        in_transaction = False

        def execute(self, *arguments: Any) -> Any:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

    monkeypatch.setattr(world.coordinator._memory, "_db", Broken())
    world.a.report(2, DONE)
    world.b.report(2, DONE)
    assert f"{tmp_path / STATE}: disk I/O error: see to this disk" in world.notes[0]
    monkeypatch.setattr(world.coordinator._memory, "_db", db)
    world.wait(RETRY)
    assert world.told == [[1, 2, 3], [1, 2, 3]]
