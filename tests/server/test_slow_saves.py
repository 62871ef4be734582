"""While an epoch is saved, everybody else is served on, and what comes meanwhile is not in the save."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import Job
from fedps.errors import DataError
from fedps.net.channel import Channel
from fedps.server.beside import Done as Ended
from fedps.server.beside import Work
from fedps.server.server import ParameterServer
from fedps.storage import epochs, snapshot
from fedps.types import TableSpec
from fedps.wire.frame import Limits
from fedps.wire.messages import Barrier, Done, Pull, Refused, Values
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.greeting import hello
from tests.net.echo import LIMITS
from tests.server.callers import BIAS, ROWS, Caller, ones, push
from tests.server.test_saving import SERVE, WAIT, one_client, serving


class Slow:
    """Work beside the server, done when the test says so."""

    def __init__(self) -> None:
        self.begun: list[tuple[Work, Ended]] = []

    def __call__(self, work: Work, done: Ended) -> None:
        self.begun.append((work, done))

    def end(self) -> None:
        """Do the oldest work, and say that it has ended."""
        work, done = self.begun.pop(0)
        try:
            work()
        except Exception as error:
            done(error)
        else:
            done(None)


class Scene:
    """A server with two clients, of which one has come to the first barrier and the other is silent."""

    def __init__(self, job: Job, folder: Path, limits: Limits | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self.server = ParameterServer(job, 0, folder, into(self.events), limits)
        self.server.members.expect(2)
        self.slow = self.server.shard.beside = Slow()
        self.folder = folder / "model" / "1"
        self.one, self.silent = (Caller(self.server, name).join(ROWS, BIAS) for name in "ab")
        for caller, key in ((self.one, 3), (self.silent, 5)):
            assert isinstance(caller.ask(*push(1, [key], ones(1))), Done)
        self.before = self.one.rows(3, 5)
        self.server.members.suspend(next(c for c in self.server.members.here if c == "b"))
        self.barrier = self.one.send(Barrier(1, "trained"))

    def saved(self) -> list[list[float]]:
        rows: list[list[float]] = epochs.read_model(self.folder)["rows"].values.tolist()
        return rows


def pulled(caller: Caller, ticket: int) -> list[list[float]]:
    return next(reply.arrays[0].tolist() for reply in caller.replies if reply.ticket == ticket)


@pytest.mark.parametrize("returns", [False, True])
def test_one_that_is_lost_while_its_epoch_is_saved_keeps_nobody(
    returns: bool, make_job: MakeJob, tmp_path: Path
) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2, reconnect_timeout=5.0), tmp_path)
    scene.one.connection.closed()
    scene.server.tick(time.monotonic() + 6)
    if returns:
        Caller(scene.server, "a", "new process").join(ROWS, BIAS)
    while scene.slow.begun:
        scene.slow.end()
    back = Caller(scene.server, "a", "newest process").join(ROWS, BIAS)
    assert back.ask(Barrier(1, "trained")) == Done(0)


def test_while_tables_are_copied_others_are_answered_and_pushes_wait(make_job: MakeJob, tmp_path: Path) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2), tmp_path)
    one, silent = scene.one, scene.silent
    assert not one.answers(scene.barrier)
    Caller(scene.server, "c")  # greets
    assert isinstance(silent.ask(*push(2, [5], ones(1, np.nan))), Refused)
    assert isinstance(silent.ask(*push(2, [5], ones(1))), Done)
    assert isinstance(silent.ask(*push(3, [9], ones(1))), Done)
    pull = silent.send(Pull(("rows",)), np.array([5, 9]))
    assert not silent.answers(pull)
    scene.slow.end()
    assert pulled(silent, pull) == [[3.0] * 4, [2.0] * 4], "the pushes before it count"
    assert not one.answers(scene.barrier)


def test_while_a_copy_is_written_the_tables_are_in_use_again(make_job: MakeJob, tmp_path: Path) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2), tmp_path)
    scene.slow.end()
    assert isinstance(scene.silent.ask(*push(2, [5], ones(1))), Done)
    assert scene.silent.rows(5) == [[3.0] * 4]
    assert not scene.one.answers(scene.barrier)
    assert not scene.folder.exists()
    scene.slow.end()
    assert scene.one.answers(scene.barrier) == [Done()]
    assert scene.saved() == scene.before
    assert [e["epoch"] for e in scene.events if e["event"] == "saved"] == [1]
    assert not scene.slow.begun


def test_pushes_that_come_during_a_save_are_in_the_next_one(make_job: MakeJob, tmp_path: Path) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2, save_mode="delta"), tmp_path)
    assert isinstance(scene.silent.ask(*push(2, [5], ones(1))), Done)  # while the tables are copied
    scene.slow.end()
    assert isinstance(scene.silent.ask(*push(3, [9], ones(1))), Done)  # while they are written
    scene.slow.end()
    assert scene.saved() == scene.before
    for caller, stage in ((scene.silent, "trained"), (scene.one, "evaluated"), (scene.silent, "evaluated")):
        caller.send(Barrier(1, stage))
    for caller in (scene.one, scene.silent):
        caller.send(Barrier(2, "trained"))
    scene.slow.end()
    scene.slow.end()
    assert snapshot.load(tmp_path / "model" / "2", "server-0")[0]["rows"][1].tolist() == [5, 9]
    assert epochs.read_model(tmp_path / "model" / "2")["rows"].values.tolist() == scene.one.rows(3, 5, 9)


def test_a_late_push_is_answered_and_one_in_time_is_kept(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(sync_mode="sync", epochs=2)
    server = ParameterServer(job, 0, tmp_path, lambda event: None)
    server.members.expect(2)
    slow = server.shard.beside = Slow()
    one, silent = (Caller(server, name).join(ROWS, BIAS) for name in "ab")
    for caller in (one, silent):
        assert isinstance(caller.ask(*push(1, [3], ones(1))), Done)
    before = one.rows(3)
    server.members.suspend(next(c for c in server.members.here if c == "b"))
    barrier = one.send(Barrier(1, "trained"))
    assert silent.ask(*push(2, [3], ones(1))) == Done(clock=1, late=True)
    assert silent.ask(*push(3, [3], ones(1), clock=1)) == Done(clock=1)
    slow.end()
    assert one.rows(3) == before
    slow.end()
    assert one.answers(barrier)
    assert epochs.read_model(tmp_path / "model" / "1")["rows"].values.tolist() == before


def test_a_write_that_fails_says_so_and_leaves_the_earlier_epoch(make_job: MakeJob, tmp_path: Path) -> None:
    scene = Scene(make_job(sync_mode="async"), tmp_path)
    scene.slow.end()
    scene.slow.end()
    before, scene = scene.before, Scene(make_job(sync_mode="async"), tmp_path)
    scene.slow.end()
    scene.folder.rename(tmp_path / "kept")
    scene.folder.write_text("in the way")
    scene.slow.end()
    assert isinstance(scene.server.failure, DataError)
    assert str(scene.server.failure).startswith(f"cannot save to {scene.folder}")
    assert not scene.one.answers(scene.barrier)
    scene.folder = tmp_path / "kept"
    assert scene.saved() == before


def test_what_is_kept_while_tables_are_copied_is_bounded(make_job: MakeJob, tmp_path: Path) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2), tmp_path, Limits(total_bytes=10_000))
    answers = [scene.silent.ask(*push(2 + k, range(90), ones(90))) for k in range(9)]
    refused = [a for a in answers if isinstance(a, Refused)]
    assert {a.kind for a in refused} == {"too_large", "stale"}, "the one too many, and those after it"
    held = len(answers) - len(refused)
    assert held > 0
    scene.slow.end()
    assert scene.silent.rows(0) == [[1.0 + held] * 4]
    assert isinstance(scene.silent.ask(*push(2 + held, range(90), ones(90))), Done)


def test_new_tables_know_nothing_of_pushes_to_the_old_ones(make_job: MakeJob, tmp_path: Path) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2), tmp_path)
    assert isinstance(scene.silent.ask(*push(2, [5], ones(1))), Done)
    scene.server.shard.declare((TableSpec("rows", "sparse", (100, 4), init=ROWS.init), BIAS))
    scene.slow.end()
    scene.slow.end()
    assert scene.saved() == scene.before
    assert scene.server.shard.store.pull("rows", np.array([5])).tolist() == [[1.0] * 4]


SLOW_DISK = """
import os, time
from pathlib import Path

sync, gate = os.fsync, Path(GATE)

def slow(descriptor):
    gate.with_suffix(".waits").touch()
    while not gate.exists():
        time.sleep(0.01)
    sync(descriptor)

os.fsync = slow
"""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("ending", ["go on", "SIGTERM"])
def test_a_server_with_a_slow_disk_answers_all_but_the_barrier(
    ending: str, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, gate = make_job(sync_mode="async", start_timeout=0.2), tmp_path / "gate"
    monkeypatch.setattr("tests.server.test_saving.SERVE", SLOW_DISK.replace("GATE", repr(str(gate))) + SERVE)
    with serving(tmp_path / "job.yaml", tmp_path / "run", "stay") as (process, address):
        channel = one_client(address, job)
        barrier = channel.request(Barrier(1, "trained"))
        until(gate.with_suffix(".waits").exists)
        other = Channel(address, hello(job, "1"), LIMITS, patience=WAIT)
        assert other.request(Pull(("rows",)), [np.array([3])]).exception(WAIT) is not None  # it has not joined
        rows = channel.request(Pull(("rows",)), [np.array([3])]).result(WAIT)
        assert isinstance(rows.message, Values)
        assert not barrier.done()
        if ending == "SIGTERM":
            process.terminate()
        gate.touch()
        if ending == "go on":
            assert isinstance(barrier.result(WAIT).message, Done)
            process.terminate()
        output, errors = process.communicate(timeout=WAIT)
        other.close()
        channel.close()
        assert process.returncode == 0, errors
        assert output.count('"event": "saved"') == 1
    assert set(epochs.read_model(tmp_path / "run" / "model" / "1")) == {"rows", "bias"}
