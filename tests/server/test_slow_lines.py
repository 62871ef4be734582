"""Deadlines grow with bytes: who has much to send or to be sent is not silent while its line carries it."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS
from fedps.wire.messages import Done, Pull, Push
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import LIMITS, Caller, ones, push

ALL = np.arange(100)  # rows of 16 bytes


@pytest.fixture
def events() -> list[dict[str, object]]:
    return []


@pytest.fixture
def server(make_job: MakeJob, tmp_path: Path, events: list[dict[str, object]]) -> ParameterServer:
    job = make_job(sync_mode="geo", step_timeout=5.0)
    server = ParameterServer(job, 0, tmp_path / "run", into(events), replace(LIMITS, line=160))  # bytes a second
    server.members.expect(2)
    return server


def suspended(events: list[dict[str, object]]) -> list[object]:
    return [event["client"] for event in events if event["event"] == "suspended"]


def test_who_was_answered_much_has_time_to_read_it_and_to_bring_as_much(
    server: ParameterServer, events: list[dict[str, object]]
) -> None:
    good, far = Caller(server, "good").join(), Caller(server, "far").join()
    far.ask(Pull(("rows",)), ALL)  # 10 s on its line, and 10 s for a push of them
    good.ask(*push(1, [3], ones(1)))
    now = time.monotonic()
    server.tick(now + 20)
    assert suspended(events) == []
    server.tick(now + 30)
    assert suspended(events) == ["far"]


def test_who_was_answered_little_has_no_more_time(server: ParameterServer, events: list[dict[str, object]]) -> None:
    good, far = Caller(server, "good").join(), Caller(server, "far").join()
    far.ask(Pull(("rows",)), ALL[:1])
    good.ask(*push(1, [3], ones(1)))
    server.tick(time.monotonic() + 8)
    assert suspended(events) == ["far"]


def test_a_largest_push_is_waited_for_in_all_windows_after_it(
    server: ParameterServer, events: list[dict[str, object]]
) -> None:
    good, far = Caller(server, "good").join(), Caller(server, "far").join()
    bias = np.zeros((1, 3), np.float32)
    parts = [Push(("rows", "bias"), 1, 0, 1.0, 0, 2), Push(("rows",), 1, 0, 1.0, 1, 2)]
    assert isinstance(far.ask(parts[0], ALL[:50], ones(50), NO_KEYS, bias), Done)
    far.send(parts[1], ALL[50:], ones(50))  # 2412 bytes in all: 15 s
    good.ask(*push(1, [3], ones(1)))
    assert server.clock == 1
    good.ask(*push(2, [3], ones(1), clock=1))
    now = time.monotonic()
    server.tick(now + 18)
    assert suspended(events) == []
    server.tick(now + 25)
    assert suspended(events) == ["far"]


def test_no_line_moves_a_deadline_by_more_than_an_hour(
    server: ParameterServer, events: list[dict[str, object]]
) -> None:
    good, far = Caller(server, "good").join(), Caller(server, "far").join()
    for _ in range(1000):
        far.ask(Pull(("rows",)), ALL)
    good.ask(*push(1, [3], ones(1)))
    now = time.monotonic()
    server.tick(now + 3500)
    assert suspended(events) == []
    server.tick(now + 3700)
    assert suspended(events) == ["far"]
