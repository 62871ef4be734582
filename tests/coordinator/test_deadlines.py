"""Rounds that go on without stragglers: past a deadline, or when enough of those that joined have reported."""

import pytest

from fedps.config import Job
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy, Turns
from fedps.types import ClientId, ClientInfo
from fedps.wire.messages import Assignment
from tests.conftest import MakeJob
from tests.coordinator.callers import Caller, Events, later, started, with_keys


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    return with_keys(make_job(epochs=5, with_coordinator=True), worker_num=4)


def left_behind(events: Events) -> list[tuple[str, int]]:
    return [(e["client"], e["round"]) for e in events if e["event"] == "left_behind"]


class Keeps(ClientSelectorBase):
    """Lets all join with the strategies it is given, and keeps what it saw."""

    strategies: dict[str, FLStrategy] = {}  # noqa: RUF012
    seen: list[dict[ClientId, Turns]]

    def select(self) -> dict[ClientId, FLStrategy]:
        self.seen = [*getattr(self, "seen", []), dict(self.history)]
        return {c: self.strategies.get(c, FLStrategy()) for c in self.clients_info}


def test_a_strategy_arrives_whole(job: Job) -> None:
    selector = Keeps(job)
    selector.strategies = {
        "a": FLStrategy("JOIN", 7, 0.05, 64, 9.0, {"note": [1, "x"]}, 3),
        "b": FLStrategy("WAIT", deadline=1),
    }
    coordinator = started(with_keys(job, worker_num=2, selector={"deadline": 30.0}), [], selector)
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    assert a.told == [Assignment(1, "JOIN", 7, True, 0.05, 64, 9.0, {"note": [1, "x"]}, 3)]
    assert b.told == [Assignment(1, "WAIT")]


def test_past_the_deadline_the_round_goes_on_and_the_late_one_is_welcomed(job: Job) -> None:
    events: Events = []
    selector = Keeps(job)
    selector.strategies = {"c": FLStrategy(deadline=100.0)}
    coordinator = started(with_keys(job, worker_num=3, selector={"deadline": 20.0}), events, selector)
    a, b, c = (Caller(coordinator, name) for name in "abc")
    for caller in (a, b, c):
        caller.report(0)
    a.report(1, ClientInfo(samples=5, trained=5, seconds=1.0, loss=0.5))
    coordinator.tick(later(19))
    assert left_behind(events) == []
    coordinator.tick(later(21))  # b's is past, c has a longer one of its own
    assert left_behind(events) == [("b", 1)] and len(a.told) == 1
    c.report(1)
    assert [t.round for t in a.told] == [t.round for t in c.told] == [1, 2] and len(b.told) == 1
    b.report(1, ClientInfo(samples=5, trained=4, seconds=30.0, loss=0.7))
    a.report(2)
    c.report(2)
    assert [t.round for t in b.told] == [1, 3]
    first, second, third = selector.seen
    assert not first and second[ClientId("b")] == ((1, 0, 0.0, None, None, False, True),)
    assert third[ClientId("b")] == ((1, 4, 30.0, 0.7, None, False, True),)
    assert second[ClientId("a")] == ((1, 5, 1.0, 0.5, None, False, False),)


def test_with_over_selection_the_round_goes_on_when_enough_have_reported(job: Job) -> None:
    events: Events = []
    over = with_keys(job, client_selector="round_robin", clients_per_round=2, selector={"over_selection": 1.5})
    coordinator = started(over, events)
    callers = {name: Caller(coordinator, name) for name in "abcd"}
    for caller in callers.values():
        caller.report(0)
    a, b, c, d = callers.values()
    assert [x.told[0].state for x in (a, b, c, d)] == ["JOIN", "JOIN", "JOIN", "WAIT"]
    a.report(1)
    d.report(1)
    coordinator.tick(later(5))
    assert len(a.told) == 1  # one of two: d sat out
    b.report(1, ClientInfo(samples=5, dropped=True))
    coordinator.tick(later(5))
    assert len(a.told) == 1  # who dropped out does not count
    c.report(1)
    assert [len(x.told) for x in (a, b, c, d)] == [2, 2, 2, 2] and left_behind(events) == []
    assert [x.told[1].state for x in (a, b, c, d)] == ["JOIN", "JOIN", "WAIT", "JOIN"]
    a.report(2)
    c.report(2)
    d.report(2)
    coordinator.tick(later(0.1))
    assert len(a.told) == 2  # others may come at the same time: they get a moment
    coordinator.tick(later(1))
    assert left_behind(events) == [("b", 2)] and [len(x.told) for x in (a, b, c, d)] == [3, 2, 3, 3]


def test_who_sat_out_is_waited_for_though_enough_have_reported(job: Job) -> None:
    events: Events = []
    over = with_keys(job, client_selector="round_robin", clients_per_round=2, selector={"over_selection": 1.5})
    coordinator = started(over, events)
    a, b, c, d = (Caller(coordinator, name) for name in "abcd")
    for caller in (a, b, c, d):
        caller.report(0)
    a.report(1)
    b.report(1)
    coordinator.tick(later(1))
    assert left_behind(events) == [("c", 1)] and len(a.told) == 1
    d.report(1)
    assert len(a.told) == len(d.told) == 2


def test_one_that_is_lost_in_a_round_has_that_in_its_history_and_may_come_back(job: Job) -> None:
    selector = Keeps(job)
    coordinator = started(with_keys(job, worker_num=2), [], selector)
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    b.connection.closed()
    a.report(1)
    coordinator.tick(later(10.5))
    assert len(a.told) == 2
    (turn,) = selector.seen[-1][ClientId("b")]
    assert turn.round == 1 and turn.late
    again = Caller(coordinator, "b")
    again.report(1)
    a.report(2)
    assert [t.round for t in again.told] == [3]


def test_a_deadline_that_all_pass_holds_nobody_up_and_leaves_nobody_who_comes_with_the_others(job: Job) -> None:
    events: Events = []
    coordinator = started(with_keys(job, worker_num=2, selector={"deadline": 0.001}), events)
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    coordinator.tick(later(5))
    assert left_behind(events) == []  # nobody has reported: there is nobody to go on with
    a.report(1)
    coordinator.tick(later(0.1))
    b.report(1)
    assert left_behind(events) == [] and len(a.told) == len(b.told) == 2
