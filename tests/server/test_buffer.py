"""Changes that are merged as they come, so many at a time: weights, versions, and nobody waits."""

import time
from pathlib import Path

import numpy as np
import pytest

from fedps.server.gate import BufferGate, Offered, WindowGate, make_gate
from fedps.server.merge import Contribution, buffered, staleness
from fedps.server.server import ParameterServer
from fedps.storage import epochs as saved
from fedps.types import ClientId, Rule, TableSpec
from fedps.wire.messages import Barrier, Done, Join, Leave, Pull, Values
from tests.conftest import MakeJob
from tests.server.callers import BIAS, ROWS, Caller, ones, push


@pytest.fixture
def server(make_job: MakeJob, tmp_path: Path) -> ParameterServer:
    job = make_job(sync_mode="geo", geo_merge="buffered", buffer=2, step_timeout=5.0, epochs=2)
    server = ParameterServer(job, 0, tmp_path / "run", lambda event: None)
    server.members.expect(2)
    return server


def version(caller: Caller) -> int:
    """Return the version that a pull tells."""
    ticket = caller.send(Pull(("rows",)), np.array([3]))
    (answer,) = caller.answers(ticket)
    assert isinstance(answer, Values)
    return answer.clock


def test_the_mean_counts_each_change_by_its_weight_and_an_absent_row_as_zero() -> None:
    one = Contribution(np.array([1, 4]), np.array([[2.0, 0.0], [1.0, 1.0]], np.float32), staleness(0))
    other = Contribution(np.array([1]), np.array([[0.0, 8.0]], np.float32), staleness(3))
    merged = buffered([one, other])
    assert merged.keys.tolist() == [1, 4]
    np.testing.assert_allclose(merged.values, [[1.0, 2.0], [0.5, 0.5]])
    assert [staleness(n) for n in (0, 3, 99)] == [1.0, 0.5, 0.1]


def test_a_buffer_is_merged_when_it_is_full_whoever_filled_it(server: ParameterServer) -> None:
    a = Caller(server, "a").join()
    assert version(a) == 0
    assert a.ask(*push(1, [3], ones(1))) == Done(clock=0)
    assert a.rows(3) == [[1.0] * 4], "one change is in the buffer, and the other client has not even come"
    assert a.ask(*push(2, [3, 5], ones(2))) == Done(clock=1)
    assert a.rows(3, 5) == [[2.0] * 4, [1.5] * 4]
    assert version(a) == 1


def test_what_started_from_older_values_counts_less(server: ParameterServer) -> None:
    a, b = Caller(server, "a").join(), Caller(server, "b").join()
    for number in range(1, 7):  # three merges while b trains
        a.ask(*push(number, [3], ones(1), clock=(number - 1) // 2))
    assert a.rows(3) == [[4.0] * 4]
    done = b.ask(*push(1, [7], ones(1), clock=0))
    assert done == Done(clock=3), "it is not late: it counts"
    a.ask(*push(7, [3], ones(1), clock=3))
    np.testing.assert_allclose(a.rows(3, 7), [[4.5] * 4, [1 + 0.5 / 2] * 4])


def test_a_version_that_a_server_forgot_when_it_died_counts_as_its_newest(server: ParameterServer) -> None:
    a = Caller(server, "a").join()
    assert a.ask(*push(1, [3], ones(1), clock=7)) == Done(clock=0)
    assert a.ask(*push(2, [7], ones(1))) == Done(clock=1)
    assert a.rows(3, 7) == [[1.5] * 4] * 2


def test_what_is_left_in_the_buffer_is_merged_before_a_save(server: ParameterServer, tmp_path: Path) -> None:
    a, b = Caller(server, "a").join(), Caller(server, "b").join()
    a.ask(*push(1, [3], ones(1)))
    a.send(Barrier(1, "trained"))
    assert a.rows(3) == [[1.0] * 4]
    assert b.ask(Barrier(1, "trained")) == Done(clock=1)
    assert a.rows(3) == [[2.0] * 4], "one change is its own mean"
    assert saved.read_model(tmp_path / "run" / "model" / "1")["rows"].values.tolist() == [[2.0] * 4]
    a.send(Barrier(1, "evaluated"))
    assert b.ask(Barrier(1, "evaluated")) == Done(clock=1), "an empty buffer is no version"


@pytest.mark.parametrize("fate", ["silent", "left", "lost"])
def test_nobody_waits_for_one_that_is_gone_and_its_change_counts(fate: str, server: ParameterServer) -> None:
    a, b = Caller(server, "a").join(), Caller(server, "b").join()
    b.ask(*push(1, [5], ones(1)))
    if fate == "left":
        b.ask(Leave())
    elif fate == "lost":
        b.connection.closed()
    a.ask(*push(1, [3], ones(1)))
    assert a.rows(3, 5) == [[1.5] * 4, [1.5] * 4]
    ticket = a.send(Barrier(1, "trained"))
    server.tick(time.monotonic() + 60)
    assert a.answers(ticket) == [Done(clock=1)]


def test_its_size_is_half_of_the_workers_where_the_job_names_none(make_job: MakeJob) -> None:
    for workers, size, due in ((None, None, 5), (10, 3, 3), (10, 1, 1)):
        gate = make_gate(make_job(geo_merge="buffered", worker_num=workers, buffer=size).runner)
        assert isinstance(gate, BufferGate)
        one = {"rows": Contribution(np.array([1]), ones(1), 1.0)}
        for _ in range(due):
            assert gate.close(set(), 0.0) is None
            gate.offer(Offered(ClientId("a"), 1, 0, one), 0.0)
            assert gate.clock == 0
        assert gate.close(set(), 0.0) is not None
        assert gate.rest() is None
    assert isinstance(make_gate(make_job(geo_merge="adaptive").runner), WindowGate)


def test_tables_that_are_made_anew_lose_what_is_in_the_buffer(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(sync_mode="geo", geo_merge="buffered", buffer=2)
    server = ParameterServer(job, 0, tmp_path / "run", lambda event: None)
    server.members.expect(3)
    wrong = TableSpec("rows", "sparse", (100, 4), Rule("sgd"), ROWS.init)
    Caller(server, "wrong").join(wrong, BIAS).ask(*push(1, [3], ones(1)))
    assert server.shard.gate is not None and server.shard.gate.bytes > 0
    right = [Caller(server, name) for name in "ab"]
    tickets = [caller.send(Join((ROWS, BIAS), 0)) for caller in right]
    assert [caller.answers(ticket) for caller, ticket in zip(right, tickets, strict=True)] == [[Done()], [Done()]]
    assert (server.shard.gate.bytes, server._budget.used, server.shard.gate.rest()) == (0, 0, None)
