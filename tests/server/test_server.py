"""The server against good, bad and hostile messages: whatever comes, the others are served and the tables stay right."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, Rule, TableSpec
from fedps.wire.messages import Barrier, Done, Hello, Join, Leave, Pull, Push, Refused, Seed, Values
from tests.conftest import MakeJob
from tests.server.callers import Caller, Stranger, ones, push


@pytest.fixture
def server(make_job: MakeJob, tmp_path: Path) -> ParameterServer:
    job = make_job(sync_mode="async")
    return ParameterServer(job, 0, tmp_path / "run", lambda event: None)


def test_a_push_changes_rows_and_its_repeat_does_not(server: ParameterServer) -> None:
    caller = Caller(server, "0").join()
    assert isinstance(caller.ask(*push(1, [3, 5], ones(2))), Done)
    assert isinstance(caller.ask(*push(1, [3, 5], ones(2))), Done)
    assert caller.rows(3, 4) == [[2.0] * 4, [1.0] * 4]


BAD = {
    "not_finite nan": (push(1, [3, 5], np.array([[0] * 4, [0, 0, 0, np.nan]], np.float32)), "not_finite"),
    "not_finite inf": (push(1, [3], ones(1, np.inf)), "not_finite"),
    "opposite infinities": (push(1, [3, 4], np.array([[np.inf] * 4, [-np.inf] * 4], np.float32)), "not_finite"),
    "unsorted": (push(1, [5, 3], ones(2)), "bad_keys"),
    "repeated": (push(1, [5, 5], ones(2)), "bad_keys"),
    "negative": (push(1, [-1, 5], ones(2)), "bad_keys"),
    "too large": (push(1, [5, 100], ones(2)), "bad_keys"),
    "huge": (push(1, [2**62], ones(1)), "bad_keys"),
    "narrow": (push(1, [5], np.ones((1, 3), np.float32)), "mismatch"),
    "short": (push(1, [5, 6], ones(1)), "mismatch"),
    "gap": (push(3, [5], ones(1)), "stale"),
    "weight": (
        (Push(("rows", "bias"), 1, 0, float("nan")), [5], ones(1), NO_KEYS, np.zeros((1, 3), np.float32)),
        "malformed",
    ),
    "unknown table": ((Push(("nothing",), 1, 0), np.array([1]), ones(1)), "unknown_table"),
    "missing table": ((Push(("rows",), 1, 0), np.array([1]), ones(1)), "mismatch"),
    "part": ((Push(("rows",), 1, 0, 1.0, 1, 2), np.array([1]), ones(1)), "malformed"),
    "reply": ((Done(),), "order"),
    "other spec": ((Join((TableSpec("rows", "sparse", (100, 5), Rule("add")),), 0),), "mismatch"),
    "pull out of range": ((Pull(("rows",)), np.array([100])), "bad_keys"),
    "seed of another size": ((Seed("bias"), np.zeros((1, 4), np.float32)), "mismatch"),
    "arrays do not fit": ((Pull(("rows",)), np.zeros((1, 4), np.float32)), "malformed"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_whole_and_the_others_are_served(name: str, server: ParameterServer) -> None:
    bad, honest = Caller(server, "bad").join(), Caller(server, "good").join()
    request, kind = BAD[name]
    reply = bad.ask(*request)  # type: ignore[arg-type]
    assert isinstance(reply, Refused)
    assert reply.kind == kind, reply
    assert server.refusals.total == 1
    assert isinstance(honest.ask(*push(1, [3], ones(1))), Done)
    assert honest.rows(3, 5, 99) == [[2.0] * 4, [1.0] * 4, [1.0] * 4]


def test_nothing_may_be_said_before_hello_and_join(server: ParameterServer) -> None:
    caller = Caller(server, "0")
    reply = caller.ask(Pull(("rows",)), np.array([1]))
    assert isinstance(reply, Refused)
    assert reply.kind == "order"


def test_another_job_is_refused_and_not_told_what_this_one_is_called(server: ParameterServer) -> None:
    message = Stranger(server).ask(Hello("elsewhere", "1", "p", 1))
    assert isinstance(message, Refused)
    assert message.kind == "other_job"
    assert repr(server.job.name) not in message.reason.replace("'elsewhere'", "")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_junk_is_answered_and_harms_nobody(junk: bytes) -> None:
    stranger = Stranger(FUZZED[0])
    stranger.connection.received(junk)
    assert isinstance(stranger.replies[0].message, Refused)


FUZZED: list[ParameterServer] = []


@pytest.fixture(autouse=True)
def _fuzzed(server: ParameterServer) -> None:
    FUZZED[:] = [server]


@pytest.fixture
def windowed(make_job: MakeJob, tmp_path: Path) -> ParameterServer:
    job = make_job(sync_mode="geo", step_timeout=5.0, reconnect_timeout=2.0, start_timeout=30.0)
    server = ParameterServer(job, 0, tmp_path / "run", lambda event: None)
    server.members.expect(2)
    return server


def test_a_window_is_applied_when_all_are_in_and_a_pull_waits_for_it(windowed: ParameterServer) -> None:
    a, b = Caller(windowed, "a").join(), Caller(windowed, "b").join()
    ticket = a.send(Pull(("rows",), after=0), np.array([3]))
    a.ask(*push(1, [3], ones(1)))
    assert all(r.ticket != ticket for r in a.replies)
    b.ask(*push(1, [4], ones(1)))
    answered = next(r for r in a.replies if r.ticket == ticket)
    assert isinstance(answered.message, Values)
    assert answered.arrays[0].tolist() == [[2.0] * 4]


def test_one_that_leaves_or_is_lost_or_silent_is_not_waited_for(windowed: ParameterServer) -> None:
    import time

    a, b = Caller(windowed, "a").join(), Caller(windowed, "b").join()
    a.ask(*push(1, [3], ones(1)))
    windowed.tick(time.monotonic() + 6)  # b is silent past step_timeout
    assert windowed.clock == 1
    late = b.ask(*push(1, [3], ones(1)))
    assert late == Done(clock=1, late=True)
    a.ask(*push(2, [3], ones(1), clock=1))
    assert windowed.clock == 1
    b.connection.closed()
    windowed.tick(time.monotonic() + 3)  # b's connection broke and did not come back
    assert windowed.clock == 2
    assert a.rows(3) == [[3.0] * 4]


def test_a_barrier_lets_all_go_on_together_and_saves(windowed: ParameterServer, tmp_path: Path) -> None:
    a, b = Caller(windowed, "a").join(), Caller(windowed, "b").join()
    ticket = a.send(Barrier(1, "trained"))
    b.ask(*push(1, [3], ones(1)))  # a stands at the barrier: the window is b's alone
    assert windowed.clock == 1
    assert all(r.ticket != ticket for r in a.replies)
    b.ask(Barrier(1, "trained"))
    assert any(r.ticket == ticket for r in a.replies)
    assert (tmp_path / "run" / "model" / "1" / "server-0.safetensors").is_file()


def test_a_half_sent_push_is_not_applied(windowed: ParameterServer) -> None:
    a, b = Caller(windowed, "a").join(), Caller(windowed, "b").join()
    bias = np.zeros((1, 3), np.float32)
    half = Push(("rows", "bias"), 1, 0, 1.0, 0, 2)
    a.ask(half, np.array([3]), ones(1), NO_KEYS, bias)
    a.connection.closed()
    windowed.members.leave("a")  # type: ignore[arg-type]
    b.ask(*push(1, [4], ones(1)))
    assert b.rows(3, 4) == [[1.0] * 4, [2.0] * 4]
    assert isinstance(b.ask(Leave()), Done)
