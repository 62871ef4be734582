"""What an outage costs: nothing but the rounds in which clients are away, if it is shorter than the stated patience."""

from pathlib import Path

import pytest

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.types import ClientInfo
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, later, started, with_keys

DONE = ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5)


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    job = make_job(epochs=9, with_coordinator=True, reconnect_timeout=10.0, start_timeout=100.0)
    return with_keys(job, worker_num=2)


def in_round_1(coordinator: Coordinator) -> tuple[Caller, Caller]:
    """Return two clients that were told to train."""
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    return a, b


def test_an_outage_of_all_clients_does_not_end_a_coordinator_and_they_go_on_where_they_were(job: Job) -> None:
    events: Events = []
    coordinator = started(job, events)
    for caller in in_round_1(coordinator):
        caller.connection.closed()
    coordinator.tick(later(11))
    assert sorted(e["client"] for e in events if e["event"] == "lost") == ["a", "b"]
    coordinator.tick(later(105))
    assert not coordinator.over
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(1, DONE)
    assert not a.told
    b.report(1, DONE)
    assert [t.round for t in a.told] == [t.round for t in b.told] == [2]


def test_a_coordinator_ends_when_nobody_comes_back_in_time(job: Job) -> None:
    coordinator = started(job, [])
    for caller in in_round_1(coordinator):
        caller.connection.closed()
    coordinator.tick(later(11))
    coordinator.tick(later(115))
    assert coordinator.over


def test_what_was_reported_since_the_last_round_is_saved_before_a_coordinator_ends(job: Job, tmp_path: Path) -> None:
    coordinator = started(job, [], run_dir=tmp_path)
    a, _ = in_round_1(coordinator)
    a.report(1, DONE)
    coordinator.close()
    (turn,) = started(job, [], run_dir=tmp_path)._planner.history.turns["a"]  # type: ignore[index]
    assert (turn.round, turn.trained, turn.loss) == (1, 5, 0.5)


def test_who_was_lost_may_come_back_to_a_coordinator_that_was_restarted(job: Job, tmp_path: Path) -> None:
    coordinator = started(job, [], run_dir=tmp_path)
    a, b = in_round_1(coordinator)
    b.connection.closed()
    a.report(1, DONE)
    coordinator.tick(later(11))
    assert [t.round for t in a.told] == [1, 2]
    restarted = started(job, [], run_dir=tmp_path)
    a, b = Caller(restarted, "a"), Caller(restarted, "b")
    b.report(1, DONE)
    a.report(2, DONE)
    assert [t.round for t in a.told] == [t.round for t in b.told] == [3]
