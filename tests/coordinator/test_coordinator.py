"""The coordinator's own rules, message by message: who is waited for, how long, and what is refused."""

import io
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from fedps.config import Job
from fedps.coordinator.coordinator import Coordinator
from fedps.coordinator.selectors import AllClients, ClientSelectorBase
from fedps.types import ClientId, ClientInfo
from fedps.wire.messages import Assignment, Join, Refused
from tests.conftest import MakeJob
from tests.coordinator.callers import NONE, Caller, Events
from tests.events.kept import into
from tests.events.kinds import sums
from tests.greeting import hello

LATER = 1000.0  # seconds: past every deadline


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def coordinator(make_job: MakeJob, events: Events) -> Coordinator:
    job = make_job(epochs=3, with_coordinator=True)
    job = job.model_copy(update={"runner": job.runner.model_copy(update={"worker_num": 2})})
    return Coordinator(job, into(events), io.StringIO())


def test_a_round_begins_when_all_have_reported_and_ends_the_same_way(coordinator: Coordinator) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    for round_ in range(3):
        a.report(round_)
        assert len(a.told) == len(b.told) == round_
        b.report(round_)
        assert a.told[round_] == b.told[round_] == Assignment(round_ + 1, "JOIN", 0, True)
    a.report(3)
    b.report(3)
    assert a.told[3].state == b.told[3].state == "FINISH" and not coordinator.over
    a.connection.closed()
    b.connection.closed()
    assert coordinator.over


def test_one_that_never_comes_is_not_waited_for_after_the_start(coordinator: Coordinator) -> None:
    a = Caller(coordinator, "a")
    a.report(0)
    coordinator.tick(time.monotonic())
    assert not a.told
    coordinator.tick(time.monotonic() + LATER)
    assert len(a.told) == 1


def test_one_that_hangs_is_left_behind_and_welcomed_when_it_reports(coordinator: Coordinator, events: Events) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    a.report(1)
    coordinator.tick(time.monotonic())
    assert len(a.told) == 1
    coordinator.tick(time.monotonic() + LATER)
    assert [t.round for t in a.told] == [1, 2] and len(b.told) == 1
    assert [(e["client"], e["round"]) for e in events if e["event"] == "left_behind"] == [("b", 1)]
    b.report(1)  # of the round it was left behind in: it takes part from the next one on
    assert len(b.told) == 1
    a.report(2)
    assert [t.round for t in a.told] == [1, 2, 3] and [t.round for t in b.told] == [1, 3]


def test_while_all_train_nobody_is_left_behind_and_a_newcomer_does_not_hurry_them(coordinator: Coordinator) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    c = Caller(coordinator, "c")
    c.report(0)
    coordinator.tick(time.monotonic() + LATER)
    assert not c.told
    a.report(1)
    b.report(1)
    assert [t.round for t in c.told] == [2] and a.told[-1].round == 2


def test_one_that_is_lost_is_forgotten_after_its_time_to_come_back(coordinator: Coordinator, events: Events) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    b.connection.closed()
    a.report(1)
    coordinator.tick(time.monotonic())
    assert len(a.told) == 1
    coordinator.tick(time.monotonic() + 10.5)
    assert len(a.told) == 2
    assert [e["client"] for e in events if e["event"] == "lost"] == ["b"]


def test_one_that_was_given_up_as_lost_goes_on_when_it_is_back(coordinator: Coordinator) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    b.report(0)
    b.connection.closed()
    a.report(1)
    coordinator.tick(time.monotonic() + 10.5)
    assert len(a.told) == 2
    again = Caller(coordinator, "b")
    again.report(1)
    a.report(2)
    assert [t.round for t in again.told] == [3] and again.told[0].state == "JOIN"


def test_when_all_who_came_are_gone_the_job_is_over(coordinator: Coordinator) -> None:
    Caller(coordinator, "a").connection.closed()
    coordinator.tick(time.monotonic() + 10.5)
    assert not coordinator.over
    coordinator.tick(time.monotonic() + LATER)
    assert coordinator.over


def test_a_broken_connection_changes_nothing_for_who_comes_back(coordinator: Coordinator) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0)
    a.connection.closed()
    again = Caller(coordinator, "a")
    b.report(0)
    assert not b.told  # a's report went with its connection, and a says it again
    again.report(0)
    assert len(again.told) == len(b.told) == 1
    again.connection.closed()
    third = Caller(coordinator, "a")
    third.report(0)  # the answer never reached it: it is given again
    assert third.told == again.told


def test_who_was_told_to_finish_hears_it_again(coordinator: Coordinator) -> None:
    class Ends(AllClients):
        def select(self) -> Mapping[ClientId, Any]:
            return dict.fromkeys(self.clients_info, "FINISH")

    ending = Coordinator(coordinator.job, lambda e: None, io.StringIO(), Ends(coordinator.job))
    a, b = Caller(ending, "a"), Caller(ending, "b")
    a.report(0)
    b.report(0)
    a.connection.closed()
    again = Caller(ending, "a")
    again.report(0)
    assert [t.state for t in again.told] == ["FINISH"]


def test_a_newer_process_of_a_client_takes_the_place_of_the_older(coordinator: Coordinator) -> None:
    older, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    older.report(0)
    newer = Caller(coordinator, "a", "q")
    assert older.hung_up and isinstance(older.replies[-1], Refused) and older.replies[-1].kind == "superseded"
    b.report(0)
    assert not b.told  # what the older one reported went with it
    newer.report(0)
    assert len(newer.told) == len(b.told) == 1 and not older.told
    answer = Caller(coordinator, "a", greet=False).ask(hello(coordinator.job, "a", "p", "coordinator"))
    assert isinstance(answer, Refused) and answer.kind == "superseded"


def test_a_name_that_only_greets_is_not_waited_for_and_does_not_stay(coordinator: Coordinator) -> None:
    a, b, invented = Caller(coordinator, "a"), Caller(coordinator, "b"), Caller(coordinator, "invented")
    for round_ in range(2):
        a.report(round_)
        b.report(round_)
    assert len(a.told) == len(b.told) == 2
    coordinator.tick(time.monotonic() + LATER)
    assert invented.hung_up and not b.hung_up


def test_a_round_is_reported_once_on_a_connection(coordinator: Coordinator) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0, ClientInfo(samples=5))
    a.report(0, ClientInfo(samples=500))
    assert isinstance(a.replies[-1], Refused) and a.replies[-1].kind == "order"
    b.report(0)
    assert len(a.told) == len(b.told) == 1


def test_reports_that_come_again_or_out_of_order_get_the_last_answer_again(coordinator: Coordinator) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    for round_ in range(4):
        a.report(round_)
        b.report(round_)
    for round_ in (3, 0, 2, 1):
        again = Caller(coordinator, "a")
        again.report(round_)
        assert again.told == a.told[-1:] and again.told[0].state == "FINISH"
    early = Caller(coordinator, "c")
    early.report(2)
    assert isinstance(early.replies[-1], Refused) and early.replies[-1].kind == "stale"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"to": "server"}, "other_job"),
        ({"job": "other"}, "other_job"),
        ({"protocol": 1}, "other_job"),
        ({"client": ""}, "malformed"),
        ({"client": "a" * 300}, "malformed"),
    ],
)
def test_a_caller_that_means_somebody_else(coordinator: Coordinator, said: dict[str, Any], kind: str) -> None:
    greeting = hello(coordinator.job, "a", to="coordinator")
    answer = Caller(coordinator, "a", greet=False).ask(replace(greeting, **said))
    assert isinstance(answer, Refused) and answer.kind == kind


GOOD: dict[str, Any] = {
    "samples": 5,
    "trained": 5,
    "seconds": 1.0,
    "loss": 0.5,
    "auc": 0.6,
    "sums": sums(3, 2.0, 1.5),
}


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"samples": -1}, "malformed"),
        ({"trained": -5}, "malformed"),
        ({"seconds": float("nan")}, "malformed"),
        ({"compute_capacity": float("inf")}, "malformed"),
        ({"bandwidth": 1e300}, "malformed"),
        ({"loss": float("nan")}, "not_finite"),
        ({"auc": float("-inf")}, "not_finite"),
        ({"sums": sums(3, 4.0, 1.5)}, "malformed"),
        ({"sums": sums(3, 2.0, 3.5)}, "malformed"),
        ({"device_type": "x" * 300}, "malformed"),
        ({"auc": 1.5}, "malformed"),
        ({"compute_capacity": 1e11}, "malformed"),
        ({"compute_capacity": 1e6}, "malformed"),  # it trained 5 samples in a second
        ({"compute_capacity": 0.001}, "malformed"),
        ({"compute_capacity": 5.0, "seconds": 0.0}, "malformed"),
    ],
)
def test_a_report_that_makes_no_sense(coordinator: Coordinator, events: Events, wrong: Any, kind: str) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0, ClientInfo(**{**GOOD, **wrong}))
    assert isinstance(a.replies[-1], Refused) and a.replies[-1].kind == kind
    assert next(iter(wrong)) in a.replies[-1].reason
    assert [e["kind"] for e in events if e["event"] == "refused"] == [kind]
    b.report(0)
    a.report(0, ClientInfo(**GOOD))
    assert len(a.told) == len(b.told) == 1


@pytest.mark.parametrize("speed", [0.0, 0.5, 5.0, 500.0])  # 0: not stated
def test_a_speed_of_the_right_order_is_taken(coordinator: Coordinator, speed: float) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    a.report(0, ClientInfo(**{**GOOD, "compute_capacity": speed}))
    b.report(0)
    assert len(a.told) == 1


@pytest.mark.parametrize("counts", [np.ones(7, np.int64), np.full(4096, -1)])
def test_a_histogram_that_is_none(coordinator: Coordinator, counts: Any) -> None:
    a = Caller(coordinator, "a")
    a.report(0, arrays=(counts, NONE, NONE, NONE))
    assert isinstance(a.replies[-1], Refused) and "histogram" in a.replies[-1].reason


def test_a_round_that_was_never_assigned_and_words_for_a_server(coordinator: Coordinator) -> None:
    a = Caller(coordinator, "a")
    a.report(5)
    assert isinstance(a.replies[-1], Refused) and a.replies[-1].kind == "stale"
    answer = a.ask(Join((), 0))
    assert isinstance(answer, Refused) and answer.kind == "order"


def test_nothing_is_answered_before_hello_and_strangers_are_sent_away(coordinator: Coordinator) -> None:
    stranger = Caller(coordinator, "a", greet=False)
    stranger.report(0)
    assert isinstance(stranger.replies[-1], Refused)
    coordinator.tick(time.monotonic() + 11)
    assert stranger.hung_up


def test_bytes_that_are_no_message_harm_nobody(coordinator: Coordinator) -> None:
    a, b = Caller(coordinator, "a"), Caller(coordinator, "b")
    rng = np.random.default_rng(0)
    for size in (0, 1, 7, 8, 64, 4096):
        a.connection.received(rng.bytes(size))
    a.report(0)
    b.report(0)
    assert len(a.told) == len(b.told) == 1


def test_a_selector_that_fails_stops_all_decisions(make_job: MakeJob, coordinator: Coordinator) -> None:
    class Fails(ClientSelectorBase):
        def select(self) -> Mapping[ClientId, Any]:
            raise KeyError("gone")

    job: Job = coordinator.job
    failing = Coordinator(job, lambda e: None, io.StringIO(), Fails(job))
    a, b = Caller(failing, "a"), Caller(failing, "b")
    a.report(0)
    b.report(0)
    assert failing.over and isinstance(failing.failure, KeyError) and not a.told
    failing.tick(time.monotonic())
    assert a.hung_up and b.hung_up
