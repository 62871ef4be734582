"""A client that comes late, to a job or to a barrier, neither loses its work nor spoils that of the others."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.server.server import ParameterServer
from fedps.storage import epochs as saved
from fedps.wire.messages import Alive, Barrier, Done
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import Caller, ones, push

LATER = 1000.0


def served(
    make_job: MakeJob, folder: Path, events: list[Any], monotonic: Callable[[], float] = time.monotonic, **runner: Any
) -> ParameterServer:
    job = make_job(sync_mode="sync", epochs=9, **runner)
    job = job.model_copy(update={"runner": job.runner.model_copy(update={"worker_num": 3})})
    return ParameterServer(job, 0, folder, into(events), monotonic=monotonic)


@pytest.mark.parametrize("mode", ["all", "delta", "base"])
def test_one_that_ends_an_earlier_epoch_late_leaves_its_save_alone(
    make_job: MakeJob, tmp_path: Path, mode: str
) -> None:
    events: list[Any] = []
    server = served(make_job, tmp_path, events, save_mode=mode)
    a, b, slow = (Caller(server, name).join() for name in ("a", "b", "slow"))

    def step(number: int) -> None:
        for caller in (a, b):
            caller.send(*push(number, [1, 2], ones(2), number - 1))

    step(1)
    server.tick(time.monotonic() + LATER)
    assert [e["client"] for e in events if e["event"] == "suspended"] == ["slow"]
    for stage in ("trained", "evaluated"):
        for caller in (a, b):
            caller.send(Barrier(1, stage))
    first = saved.read_model(tmp_path / "model" / "1")["rows"].values.copy()
    step(2)
    for caller in (a, b):
        caller.send(Barrier(2, "trained"))
    a.send(Barrier(2, "evaluated"))
    slow.send(Barrier(1, "trained"))
    b.send(Barrier(2, "evaluated"))
    assert [e["epoch"] for e in events if e["event"] == "saved"] == [1, 2]
    assert np.array_equal(saved.read_model(tmp_path / "model" / "1")["rows"].values, first)
    assert not np.array_equal(saved.read_model(tmp_path / "model" / "2")["rows"].values, first)


def test_one_that_joins_long_after_it_connected_begins_where_the_others_are(make_job: MakeJob, tmp_path: Path) -> None:
    server = served(make_job, tmp_path, [])
    late = Caller(server, "late")  # connected, with the clock of its Welcome, 0
    a, b = (Caller(server, name).join() for name in ("a", "b"))
    server.tick(time.monotonic() + 125)  # the job begins without it
    for caller in (a, b):
        caller.send(*push(1, [1], ones(1), 0))
    assert server.clock == 1
    late.join(clock=0)
    done = late.ask(*push(1, [1], ones(1), server.clock))
    assert isinstance(done, Done) and not done.late
    for caller in (a, b):
        caller.send(*push(2, [1], ones(1), 1))
    assert server.clock == 2


def test_one_that_was_left_behind_and_is_in_time_again_loses_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    events: list[Any] = []
    server = served(make_job, tmp_path, events)
    a, b, slow = (Caller(server, name).join() for name in ("a", "b", "slow"))
    for caller in (a, b):
        caller.send(*push(1, [1], ones(1), 0))
    server.tick(time.monotonic() + LATER)
    assert server.clock == 1 and events[-1]["client"] == "slow"
    missed = slow.ask(*push(1, [1], ones(1), 0))
    assert isinstance(missed, Done) and missed.late and missed.clock == 1
    for caller in (a, b):
        caller.send(*push(2, [1], ones(1), 1))
    assert server.clock == 1, "it is waited for again"
    done = slow.ask(*push(2, [1], ones(1), 1))
    assert isinstance(done, Done) and not done.late and server.clock == 2


def suspended(events: list[Any]) -> list[str]:
    return [e["client"] for e in events if e["event"] == "suspended"]


@pytest.mark.parametrize("at", ["a window", "a barrier"])
def test_one_that_is_at_work_is_not_silent_for_as_long_as_a_job_may_ask_of_it(
    at: str, make_job: MakeJob, tmp_path: Path
) -> None:
    events: list[Any] = []
    now = 0.0
    server = served(make_job, tmp_path, events, lambda: now, step_timeout=10.0)
    a, b, busy = (Caller(server, name).join() for name in ("a", "b", "busy"))
    for caller in (a, b):
        caller.send(*push(1, [1], ones(1), 0) if at == "a window" else (Barrier(1, "trained"),))
    for now in range(0, 590, 8):
        assert isinstance(busy.ask(Alive()), Done)
        server.tick(now)
        assert suspended(events) == []
    for now in range(590, 650, 8):
        busy.ask(Alive())
        server.tick(now)
    assert suspended(events) == ["busy"], "words without a push count for so long, and no longer"


def test_one_that_worked_and_then_fell_silent_is_left_behind(make_job: MakeJob, tmp_path: Path) -> None:
    events: list[Any] = []
    now = 0.0
    server = served(make_job, tmp_path, events, lambda: now, step_timeout=10.0)
    a, b, busy = (Caller(server, name).join() for name in ("a", "b", "busy"))
    for caller in (a, b):
        caller.send(*push(1, [1], ones(1), 0))
    now = 9.0
    busy.ask(Alive())
    for seconds, due in ((18, []), (20, ["busy"])):
        server.tick(seconds)
        assert suspended(events) == due
