"""Clients that come back, go twice, or say things out of turn; servers that disagree on who was late."""

import time
from pathlib import Path

import numpy as np
import pytest

from fedps.server.gate import Offered, WindowGate
from fedps.server.merge import Contribution, mean
from fedps.server.server import ParameterServer
from fedps.storage.log import Log
from fedps.types import NO_KEYS, ClientId, Init, Rule, TableSpec
from fedps.wire.messages import Barrier, Done, Join, Leave, Pull, Push, Refused, Seed, Values
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import BIAS, ROWS, Caller, is_refused, ones, push, step, two
from tests.simulation.disk import ForgetfulDisk

TRAINED, EVALUATED = Barrier(1, "trained"), Barrier(1, "evaluated")


def test_a_connection_that_breaks_in_a_window_is_taken_up_by_the_next(server: ParameterServer) -> None:
    a, b = two(server)
    step(server, a, b, number=1)
    a.connection.closed()
    again = Caller(server, "a").join()
    assert again.ask(*push(1, [3], ones(1))) == Done(1)  # a repeat
    step(server, again, b, number=2)
    assert again.rows(3) == [[1.0 + 2] * 4]  # geo adaptive: agreeing changes are averaged
    a.connection.closed()  # noticed late, and twice: the new connection is not harmed
    server.tick(time.monotonic() + 3)
    step(server, again, b, number=3)


def test_a_new_process_of_a_crashed_client_counts_its_pushes_on(server: ParameterServer) -> None:
    a, b = two(server)
    step(server, a, b, number=1)
    a.connection.closed()
    fresh = Caller(server, "a", "new process").join(clock=1)
    assert fresh.ask(*push(1, [3], ones(1), clock=1)) == Done(1)  # one of the first process, repeated
    fresh.ask(*push(4, [3], ones(1), clock=1))  # as far as it got at another shard
    b.ask(*push(2, [3], ones(1), clock=1))
    assert server.clock == 2


@pytest.mark.parametrize("kept", [True, False], ids=["with a log", "without"])
def test_a_push_whose_window_is_open_is_not_replaced_by_the_next_process(
    kept: bool, make_job: MakeJob, tmp_path: Path
) -> None:
    log = Log(ForgetfulDisk()) if kept else None
    server = ParameterServer(make_job(sync_mode="geo", geo_merge="heat"), 0, tmp_path, into([]), log=log)
    server.members.expect(2)
    a, b = two(server)
    a.send(*push(1, [3], ones(1)))
    fresh = Caller(server, "a", "new process")
    assert fresh.ask(Join((ROWS, BIAS), 0)) == Done(0, sequence=0), "nothing is merged yet: it says the same again"
    fresh.send(*push(1, [3], 9 * ones(1)))
    b.send(*push(1, [3], ones(1)))
    assert server.clock == 1
    assert b.rows(3) == [[1.0 + 1] * 4], "what was pushed first counts"
    assert Caller(server, "a", "third process").ask(Join((ROWS, BIAS), 1)) == Done(1, sequence=1)


def test_what_is_said_behind_a_join_that_is_said_again_does_not_wait_for_the_disk(
    make_job: MakeJob, tmp_path: Path
) -> None:
    server = ParameterServer(make_job(sync_mode="async"), 0, tmp_path, into([]), log=Log(ForgetfulDisk()))
    a = Caller(server, "a").join()
    server.shard.beside = lambda work, done: None  # never ends
    b = Caller(server, "b")
    assert not b.answers(b.send(Join((ROWS, BIAS), 0))), "not before it is on disk"
    a.connection.closed()
    again = Caller(server, "a")
    again.send(Join((ROWS, BIAS), 0))
    assert again.rows(3) == [[1.0] * 4]


def test_a_window_that_all_have_passed_over_keeps_no_pull_waiting(server: ParameterServer) -> None:
    server.members.expect(1)
    old = Caller(server, "a").join()
    fresh = Caller(server, "a", "new process").join(clock=1)  # at another server, the process before had ended window 0
    assert isinstance(fresh.ask(Pull(("rows",), after=0), np.array([3])), Values)
    assert old.hung_up


def test_who_waits_for_a_window_is_not_waited_for_in_it(server: ParameterServer) -> None:
    a, b = two(server)
    a.connection.closed()  # what it pushed went to another server alone, which has ended window 0 with it
    fresh = Caller(server, "a", "new process").join()
    ticket = fresh.send(Pull(("rows",), after=0), np.array([3]))
    assert isinstance(b.ask(*push(1, [3], ones(1))), Done)
    assert server.clock == 1
    (answer,) = fresh.answers(ticket)
    assert isinstance(answer, Values) and (answer.tables, answer.clock) == (("rows",), 1)
    step(server, fresh, b, number=2)


def test_who_waits_though_there_was_no_space_for_its_push_is_waited_for(server: ParameterServer) -> None:
    a, b = two(server)
    server.durable._failed_at = 0.0
    assert is_refused(a.ask(*push(1, [3], ones(1))), "no_space")
    server.durable._failed_at = None
    waits = a.send(Pull(("rows",), after=0), np.array([3]))
    b.send(*push(1, [3], ones(1)))
    assert a.answers(waits) == [] and server.clock == 0
    a.send(*push(1, [3], ones(1)))
    assert isinstance(a.answers(waits)[0], Values) and server.clock == 1


def test_a_process_given_up_as_lost_goes_on_where_it_was(server: ParameterServer) -> None:
    a, b = two(server)
    step(server, a, b, number=1)
    a.connection.closed()
    server.tick(time.monotonic() + 3)
    assert server.members.get(ClientId("a")) is None
    again = Caller(server, "a").join()
    assert again.ask(*push(1, [3], ones(1))) == Done(1)
    assert again.rows(3) == [[2.0] * 4]
    step(server, again, b, number=2)


@pytest.mark.parametrize("joined", [False, True])
def test_a_client_that_hangs_up_after_hello_does_not_block_its_name(joined: bool, server: ParameterServer) -> None:
    gone = Caller(server, "a")
    if joined:
        gone.join()
    gone.connection.closed()
    assert isinstance(Caller(server, "a", "another process").ask(Join((ROWS, BIAS), 0)), Done)


def test_who_breaks_again_before_it_joined_again_is_lost_in_the_end(server: ParameterServer) -> None:
    a, b = two(server)
    again = Caller(server, "a")  # hello only
    a.connection.closed()
    again.connection.closed()
    b.ask(*push(1, [3], ones(1)))
    assert server.clock == 0
    server.tick(time.monotonic() + 3)
    assert server.clock == 1


def test_the_answer_to_a_repeated_push_says_again_that_it_came_late(server: ParameterServer) -> None:
    a, b = two(server)
    server.members.suspend(ClientId("a"))
    step(server, b, number=1)
    first = a.ask(*push(1, [3], ones(1), clock=0))
    assert first == Done(1, late=True)
    a.connection.closed()  # before the answer came
    again = Caller(server, "a").join()
    assert again.ask(*push(1, [3], ones(1), clock=0)) == first
    for caller, number in ((again, 2), (b, 2)):
        done = caller.ask(*push(number, [3], ones(1), clock=1))
        assert isinstance(done, Done) and not done.late
    assert server.clock == 2, "no window more is lost"


def test_the_parts_of_a_late_push_are_answered_the_same_again(server: ParameterServer) -> None:
    a, b = two(server)
    server.members.suspend(ClientId("a"))
    step(server, b, number=1)

    def parts(caller: Caller) -> list[object]:
        bias = np.zeros((1, 3), np.float32)
        first = caller.ask(Push(("rows", "bias"), 1, 0, part=0, parts=2), np.array([3]), ones(1), NO_KEYS, bias)
        return [first, caller.ask(Push(("rows",), 1, 0, part=1, parts=2), np.array([4]), ones(1))]

    assert parts(a)[-1] == Done(1, late=True)
    a.connection.closed()
    assert parts(Caller(server, "a").join())[-1] == Done(1, late=True)


def test_a_process_given_up_as_lost_is_told_again_that_its_push_came_late(server: ParameterServer) -> None:
    a, b = two(server)
    server.members.suspend(ClientId("a"))
    step(server, b, number=1)
    assert a.ask(*push(1, [3], ones(1), clock=0)) == Done(1, late=True)
    a.connection.closed()
    server.tick(time.monotonic() + 3)
    step(server, b, number=2)
    assert Caller(server, "a").join(clock=2).ask(*push(1, [3], ones(1), clock=0)) == Done(2, late=True)


def test_joining_and_leaving_twice_changes_nothing(server: ParameterServer) -> None:
    a, b = two(server)
    step(server, a, b, number=1)
    a.join(clock=5)
    assert isinstance(b.ask(*push(2, [3], ones(1), clock=1)), Done)
    assert server.clock == 1  # a is still waited for
    for _ in range(2):
        assert isinstance(a.ask(Leave()), Done)
    assert server.clock == 2
    assert is_refused(a.ask(*push(2, [3], ones(1), clock=2)), "order")
    assert is_refused(a.ask(TRAINED), "order")
    step(server, b, number=3)


def test_a_barrier_that_opened_while_a_connection_was_broken_is_answered_at_once(server: ParameterServer) -> None:
    a, b = two(server)
    a.send(TRAINED)
    a.connection.closed()
    assert isinstance(b.ask(TRAINED), Done)
    again = Caller(server, "a").join()
    assert isinstance(again.ask(TRAINED), Done)
    waiting = again.send(EVALUATED)
    assert again.answers(waiting) == []
    assert isinstance(b.ask(EVALUATED), Done)
    assert len(again.answers(waiting)) == 1
    assert is_refused(again.ask(TRAINED), "stale")


def test_a_barrier_opens_for_the_connection_that_is_there_then(server: ParameterServer) -> None:
    a, b = two(server)
    old = a.send(TRAINED)
    a.connection.closed()
    again = Caller(server, "a").join()
    waiting = again.send(TRAINED)
    assert isinstance(b.ask(TRAINED), Done)
    assert (a.answers(old), again.answers(waiting)) == ([], [Done(0)])


def test_clients_at_different_stages_meet_at_the_same(server: ParameterServer, events: list[dict[str, object]]) -> None:
    a, b = two(server)
    a.send(TRAINED)
    b.ask(TRAINED)
    c = Caller(server, "c").join()
    ahead = [caller.send(EVALUATED) for caller in (a, b)]
    assert isinstance(c.ask(TRAINED), Done)  # it alone goes on: the others wait with a still model
    assert [caller.answers(t) for caller, t in zip((a, b), ahead, strict=True)] == [[], []]
    assert isinstance(c.ask(EVALUATED), Done)
    assert [len(caller.answers(t)) for caller, t in zip((a, b), ahead, strict=True)] == [1, 1]
    assert [e["epoch"] for e in events if e["event"] == "saved"] == [1]


def test_who_has_trained_the_next_epoch_waits_for_those_that_have_not(
    server: ParameterServer, events: list[dict[str, object]]
) -> None:
    a, b = two(server)
    a.send(TRAINED)
    b.ask(TRAINED)
    c = Caller(server, "c").join()
    evaluated = [caller.send(EVALUATED) for caller in (a, b)]
    early = c.send(Barrier(2, "trained"))
    assert [len(caller.answers(t)) for caller, t in zip((a, b), evaluated, strict=True)] == [1, 1]
    assert c.answers(early) == [] and [e["epoch"] for e in events if e["event"] == "saved"] == [1]
    a.send(Barrier(2, "trained"))
    assert isinstance(b.ask(Barrier(2, "trained")), Done)
    assert len(c.answers(early)) == 1 and [e["epoch"] for e in events if e["event"] == "saved"] == [1, 2]


def test_who_stands_at_a_barrier_pushes_nothing_and_stands_nowhere_else(server: ParameterServer) -> None:
    a, _ = two(server)
    a.send(TRAINED)
    assert is_refused(a.ask(*push(1, [3], ones(1))), "order")
    assert is_refused(a.ask(EVALUATED), "order")


def test_a_client_that_never_comes_to_the_barrier_does_not_hold_the_others(
    server: ParameterServer, events: list[dict[str, object]]
) -> None:
    a, b = two(server)
    ticket = a.send(TRAINED)
    for number in range(100):
        b.send(Pull(("rows",)), np.array([number]))  # talks, but does nothing
    server.tick(time.monotonic() + 4)
    assert a.answers(ticket) == []
    server.tick(time.monotonic() + 6)
    assert len(a.answers(ticket)) == 1
    assert [e["client"] for e in events if e["event"] == "suspended"] == ["b"]
    a.ask(Leave())
    assert isinstance(b.ask(TRAINED), Done)  # it is back, and nobody else is left to wait for


def test_late_starters_have_the_whole_deadline(server: ParameterServer) -> None:
    a = Caller(server, "a").join()
    a.ask(*push(1, [3], ones(1)))
    server.tick(time.monotonic() + 20)  # longer than step_timeout, before all have come
    server._complete_at = time.monotonic() + 20  # b joins then
    b = Caller(server, "b").join()
    server.tick(time.monotonic() + 21)
    member = server.members.get(ClientId("b"))
    assert member is not None and not member.suspended
    step(server, b, number=1)


@pytest.mark.parametrize("sequence", [0, -1, -(2**63)])
def test_pushes_are_counted_from_1(sequence: int, server: ParameterServer) -> None:
    a, _ = two(server)
    assert is_refused(a.ask(*push(sequence, [3], ones(1))), "stale")


@pytest.mark.parametrize("clock", [-1, -(2**63)])
def test_a_clock_before_all_others_is_late_and_applied_nowhere(clock: int, server: ParameterServer) -> None:
    a, b = two(server)
    assert a.ask(*push(1, [3], ones(1), clock)) == Done(0, late=True)
    a.ask(*push(2, [4], ones(1)))
    b.ask(*push(1, [4], ones(1)))
    assert a.rows(3, 4) == [[1.0] * 4, [2.0] * 4]


@pytest.mark.parametrize("after", [-1, -2, -(2**63)])
def test_a_pull_after_no_window_is_answered_now(after: int, server: ParameterServer) -> None:
    a, _ = two(server)
    assert isinstance(a.ask(Pull(("rows",), after), np.array([3])), Values)


def test_a_pull_that_fails_when_its_window_closes_is_its_own_clients_fault(server: ParameterServer) -> None:
    a, b = Caller(server, "a"), Caller(server, "b")
    for caller in (a, b):
        caller.ask(Join((ROWS, BIAS), 0))  # nobody has seeded the dense table
    failing, fine = a.send(Pull(("bias",), 0), np.empty(0, np.int64)), b.send(Pull(("rows",), 0), np.array([3]))
    a.ask(*push(1, [3], ones(1)))
    assert isinstance(b.ask(*push(1, [3], ones(1))), Done)
    assert is_refused(a.answers(failing)[0], "mismatch")
    assert isinstance(b.answers(fine)[0], Values)


@pytest.mark.parametrize("values", [[np.nan] * 3, [np.inf] * 3, [1e38] * 3])
def test_a_start_that_would_spoil_the_model_is_refused(values: list[float], server: ParameterServer) -> None:
    a = Caller(server, "a")
    a.ask(Join((ROWS, BIAS), 0))
    assert isinstance(a.ask(Seed("bias"), np.array([values], np.float32)), Refused)
    assert isinstance(a.ask(Seed("bias"), np.ones((1, 3), np.float32)), Done)
    assert isinstance(a.ask(Pull(("bias",)), np.empty(0, np.int64)), Values)
    assert a.replies[-1].arrays[0].tolist() == [[1.0] * 3]


def test_windows_that_all_skip_do_not_stop_a_server_that_fell_behind(server: ParameterServer) -> None:
    """Another server found a client late and sent it on; here nobody will ever push the windows between."""
    a, b = two(server)
    a.ask(*push(1, [3], ones(1), clock=2))
    assert server.clock == 0
    b.ask(*push(1, [3], ones(1), clock=2))
    assert server.clock == 3
    assert a.rows(3) == [[2.0] * 4]


def test_one_that_jumped_ahead_is_not_waited_for_before(server: ParameterServer) -> None:
    a, b = two(server)
    a.ask(*push(1, [3], ones(1), clock=2))
    for number in (1, 2, 3):
        b.ask(*push(number, [3], ones(1), clock=number - 1))
        assert server.clock == number


def test_a_window_merges_pushes_of_different_tables() -> None:
    gate = WindowGate(mean)
    one = Contribution(np.array([1]), np.ones((1, 2), np.float32), 1.0)
    gate.offer(Offered(ClientId("a"), 1, 0, {"x": one}), 0.0)
    gate.offer(Offered(ClientId("b"), 4, 0, {"x": one, "y": one}), 0.0)
    merged = gate.close({ClientId("a"), ClientId("b")}, 1.0)
    assert merged is not None and list(merged.changes) == ["x", "y"] and merged.pushes == (("a", 1), ("b", 4))
    assert merged.changes["y"].rows.values.tolist() == [[1.0, 1.0]]


def test_a_full_table_refuses_a_push_before_any_of_it_is_applied(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedps.server.shard.places", lambda spec: 8)
    job = make_job(sync_mode="async")
    server = ParameterServer(job, 0, tmp_path / "run", lambda event: None)
    any_id = TableSpec("rows", "sparse", (2**62, 4), Rule("add"), Init("constant", 1.0))
    a = Caller(server, "a").join(any_id, BIAS)
    server.shard.store._table("rows")._places = 8  # type: ignore[union-attr]
    bias = np.ones((1, 3), np.float32)
    message, *_ = push(1, [], ones(0))
    refused = a.ask(message, np.arange(9), ones(9), np.empty(0, np.int64), bias)
    assert isinstance(refused, Refused) and "pass the limit of 8" in refused.reason
    a.ask(Pull(("bias",)), np.empty(0, np.int64))
    assert a.replies[-1].arrays[0].tolist() == [[0.0] * 3]
    assert isinstance(a.ask(*push(1, [2**61], ones(1))), Done)
    assert a.rows(2**61) == [[2.0] * 4]
