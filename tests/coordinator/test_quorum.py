"""A quorum: a slow client costs the others its deadline once, and is waited for again when it has been in time."""

import pytest

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.errors import JobError
from fedps.types import ClientInfo
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, started, with_keys

DONE = ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5)


class World:
    """Five clients of which one is slow, at times of our own."""

    def __init__(self, job: Job, quorum: float) -> None:
        self.now, self.events = 0.0, list[dict[str, object]]()
        events: Events = self.events
        more = with_keys(job, worker_num=5, quorum=quorum)
        self.coordinator: Coordinator = started(more, events, monotonic=lambda: self.now)
        self.fast = [Caller(self.coordinator, name) for name in "abcd"]
        self.slow = Caller(self.coordinator, "slow")
        for caller in (*self.fast, self.slow):
            caller.report(0)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.coordinator.tick(self.now)

    def play(self, round_: int) -> bool:
        """Let the fast ones report a round; return whether they are told the next at once."""
        for caller in self.fast:
            caller.report(round_, DONE)
        return self.fast[0].told[-1].round > round_

    @property
    def left(self) -> list[object]:
        return [(e["client"], e["round"]) for e in self.events if e["event"] == "left_behind"]


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    return make_job(epochs=9, with_coordinator=True, step_timeout=60.0)


def test_a_slow_client_is_waited_for_once(job: Job) -> None:
    world = World(job, 0.8)
    assert not world.play(1)
    world.wait(0.4)
    assert world.left == []
    world.wait(0.2)  # the servers have waited for it before the others could report
    assert world.left == [("slow", 1)] and world.fast[0].told[-1].round == 2
    world.slow.report(1, DONE)
    world.play(2)
    for round_ in (3, 5):
        assert world.slow.told[-1].round == round_
        assert world.play(round_), "it is not waited for again"
        world.wait(30)
        world.slow.report(round_, DONE)
        assert world.play(round_ + 1)
    assert world.left == [("slow", 1), ("slow", 3), ("slow", 5)]
    turns = world.coordinator._planner.history.turns["slow"]  # type: ignore[index]
    assert [(t.round, t.late, t.trained) for t in turns] == [(1, True, 5), (3, True, 5), (5, True, 5)]


@pytest.mark.parametrize("when", ["before the others", "with them"])
def test_one_that_is_in_time_again_is_waited_for(job: Job, when: str) -> None:
    world = World(job, 0.8)
    world.play(1)
    world.wait(61)
    world.slow.report(1, DONE)
    world.play(2)
    if when == "before the others":
        world.slow.report(3, DONE)
        assert world.play(3)
    else:
        assert world.play(3)
        world.wait(0.2)
        world.slow.report(3, DONE)
        assert world.play(4)
    next_ = world.slow.told[-1].round
    assert next_ == (4 if when == "before the others" else 5) and not world.play(next_)
    world.slow.report(next_, DONE)
    assert world.fast[0].told[-1].round == next_ + 1


def test_others_are_waited_for_as_long_as_a_quorum_took(job: Job) -> None:
    world = World(job, 0.8)
    for caller in world.fast:
        caller.report(1, DONE)
        world.wait(2)  # they may have much to write before they report
    world.wait(3)
    assert world.left == []
    world.wait(2)
    assert world.left == [("slow", 1)]


def test_so_many_are_waited_for_as_are_a_quorum_though_they_were_late(job: Job) -> None:
    world = World(job, 1.0)
    world.play(1)
    world.wait(61)
    world.slow.report(1, DONE)
    world.play(2)
    assert world.slow.told[-1].round == 3 and not world.play(3)  # all are: as without a quorum
    world.slow.report(3, DONE)
    assert world.fast[0].told[-1].round == 4


@pytest.mark.parametrize("quorum", [0, -0.5, 1.5, "most"])
def test_a_quorum_is_a_share(make_job: MakeJob, quorum: object) -> None:
    with pytest.raises(JobError, match=r"runner\.quorum"):
        make_job(quorum=quorum)
