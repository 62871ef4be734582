"""A quorum: a slow client costs the others one deadline, at a window or at a barrier, and no second one."""

from pathlib import Path
from typing import Any

import pytest

from fedps.server.server import ParameterServer
from fedps.wire.messages import Alive, Barrier, Done
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import Caller, ones, push


class World:
    """Four clients and a slow one, which says all the time that it is at work, at times of our own."""

    def __init__(self, make_job: MakeJob, folder: Path, quorum: float, mode: str = "sync") -> None:
        self.now, self.events = 0.0, list[dict[str, Any]]()
        job = make_job(sync_mode=mode, epochs=9, quorum=quorum, step_timeout=60.0)
        job = job.model_copy(update={"runner": job.runner.model_copy(update={"worker_num": 5})})
        self.server = ParameterServer(job, 0, folder, into(self.events), monotonic=lambda: self.now)
        self.fast = [Caller(self.server, name).join() for name in "abcd"]
        self.slow = Caller(self.server, "slow").join()
        self.pushes = 0

    def wait(self, seconds: int) -> None:
        for _ in range(seconds // 2):
            self.now += 2
            self.slow.ask(Alive())
            self.server.tick(self.now)

    def step(self) -> bool:
        """Let the fast ones push; return whether their window is merged at once."""
        clock = self.server.clock
        self.pushes += 1
        for caller in self.fast:
            caller.send(*push(self.pushes, [1], ones(1), clock))
        return self.server.clock > clock

    def stand(self, epoch: int, stage: str = "trained") -> bool:
        """Let the fast ones come to a barrier; return whether it opens at once."""
        for caller in self.fast:
            caller.send(Barrier(epoch, stage))
        return self.open(epoch, stage)

    def open(self, epoch: int, stage: str = "trained") -> bool:
        return all(self.server.members.here[c].last_barrier == Barrier(epoch, stage) for c in "abcd")  # type: ignore[index]

    @property
    def suspended(self) -> list[Any]:
        return [e["client"] for e in self.events if e["event"] == "suspended"]


def test_a_slow_client_costs_the_windows_of_the_others_one_deadline(make_job: MakeJob, tmp_path: Path) -> None:
    world = World(make_job, tmp_path, 0.8)
    assert not world.step()
    world.wait(58)
    assert world.suspended == [] and world.server.clock == 0
    world.wait(4)
    assert world.suspended == ["slow"] and world.server.clock == 1
    for sequence in (1, 2):
        late = world.slow.ask(*push(sequence, [1], ones(1), sequence - 1))
        assert isinstance(late, Done) and late.late
        assert world.step(), "it is not waited for again"
    world.slow.ask(*push(3, [1], ones(1), world.server.clock))
    clock = world.server.clock
    assert world.step() and world.server.clock == clock + 1  # its push is in it, though nobody waited
    assert world.suspended == ["slow"]


def test_without_a_quorum_one_that_is_at_work_is_waited_for(make_job: MakeJob, tmp_path: Path) -> None:
    world = World(make_job, tmp_path, 1.0)
    world.step()
    world.wait(200)
    assert world.suspended == [] and world.server.clock == 0
    world = World(make_job, tmp_path / "more", 0.9)  # four of five are less
    world.step()
    world.wait(200)
    assert world.suspended == [] and world.server.clock == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_slow_client_costs_the_barriers_of_the_others_one_deadline(
    make_job: MakeJob, tmp_path: Path, mode: str
) -> None:
    world = World(make_job, tmp_path, 0.8, mode)
    assert not world.stand(1)
    world.wait(58)
    assert world.suspended == []
    world.wait(4)
    assert world.suspended == ["slow"] and world.open(1)
    world.stand(1, "evaluated")
    world.slow.ask(*push(1, [1], ones(1), world.server.clock))
    assert world.stand(2) and world.stand(2, "evaluated"), "it is not waited for again"
    world.slow.send(Barrier(1, "trained"))  # it comes after them, and goes on with them
    assert world.stand(3)
    world.slow.send(Barrier(1, "evaluated"))
    assert world.stand(3, "evaluated") and world.stand(4) and world.stand(4, "evaluated"), "nor now: it was late again"
    for epoch in (2, 3):
        world.slow.send(Barrier(epoch, "trained"))
        assert world.stand(epoch + 3)
        world.slow.send(Barrier(epoch, "evaluated"))
        assert world.stand(epoch + 3, "evaluated")
    assert not world.stand(7), "it was in time, and is waited for again"
    world.slow.send(Barrier(4, "trained"))
    assert world.open(7) and world.suspended == ["slow"]
