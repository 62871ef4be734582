"""Rounds that end without stragglers: past the job's deadline, or when enough of those that joined are done."""

import time
from pathlib import Path
from typing import Any

import pytest

from fedps.server.server import ParameterServer
from fedps.wire.messages import Barrier, Done
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import Caller, ones, push


def served(
    make_job: MakeJob, folder: Path, events: list[Any], settings: dict[str, Any], **runner: Any
) -> ParameterServer:
    job = make_job(**{"sync_mode": "round", "with_coordinator": True, "epochs": 9, **runner})
    selector = job.selector.model_copy(update=settings)
    job = job.model_copy(update={"selector": selector, "runner": job.runner.model_copy(update={"worker_num": 3})})
    return ParameterServer(job, 0, folder, into(events))


def suspended(events: list[Any]) -> list[str]:
    return [e["client"] for e in events if e["event"] == "suspended"]


@pytest.mark.parametrize("mode", ["round", "async", "geo"])
def test_past_the_deadline_a_straggler_is_left_behind_and_its_push_of_the_round_comes_late(
    make_job: MakeJob, tmp_path: Path, mode: str
) -> None:
    events: list[Any] = []
    server = served(make_job, tmp_path, events, {"deadline": 20.0}, sync_mode=mode, geo_merge="buffered")
    a, b, slow = (Caller(server, name).join() for name in ("a", "b", "slow"))
    for caller in (a, b):
        caller.send(*push(1, [1], ones(1), 0))
    tickets = [caller.send(Barrier(1, "trained")) for caller in (a, b)]
    server.tick(time.monotonic() + 19)
    assert not a.answers(tickets[0]) and not suspended(events)
    server.tick(time.monotonic() + 21)
    assert suspended(events) == ["slow"] and a.answers(tickets[0]) and b.answers(tickets[1])
    server.tick(time.monotonic() + 21)
    assert suspended(events) == ["slow"]  # those that evaluate have all the time they need
    a.send(Barrier(1, "evaluated"))
    assert isinstance(b.ask(Barrier(1, "evaluated")), Done)
    done = slow.ask(*push(1, [1], ones(1), 0))
    assert isinstance(done, Done) and done.late == (mode == "round")


def test_when_enough_are_done_the_round_ends(make_job: MakeJob, tmp_path: Path) -> None:
    events: list[Any] = []
    server = served(make_job, tmp_path, events, {"over_selection": 1.5}, clients_per_round=2)
    a, b, _ = (Caller(server, name).join() for name in ("a", "b", "slow"))
    a.send(*push(1, [1], ones(1), 0))
    first = a.send(Barrier(1, "trained"))
    server.tick(time.monotonic())
    assert not a.answers(first) and not suspended(events)  # two may still come
    b.send(*push(1, [1], ones(1), 0))
    b.send(Barrier(1, "trained"))
    server.tick(time.monotonic())
    assert a.answers(first) and suspended(events) == ["slow"] and server.clock == 1


@pytest.mark.parametrize("mode", ["sync", "geo"])
def test_where_all_are_as_slow_as_the_slowest_nobody_is_a_straggler(
    make_job: MakeJob, tmp_path: Path, mode: str
) -> None:
    events: list[Any] = []
    settings = {"deadline": 1.0, "over_selection": 1.5}
    server = served(make_job, tmp_path, events, settings, clients_per_round=2, sync_mode=mode)
    a, b, _ = (Caller(server, name).join() for name in ("a", "b", "c"))
    for caller in (a, b):
        caller.send(Barrier(1, "trained"))
    server.tick(time.monotonic() + 30)
    assert not suspended(events)
