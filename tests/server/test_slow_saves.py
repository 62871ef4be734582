"""While an epoch is saved, everybody else is served on, and what comes meanwhile is not in the save."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import Job
from fedps.errors import DataError
from fedps.server.beside import Done as Ended
from fedps.server.beside import Work, at_once
from fedps.server.server import ParameterServer
from fedps.storage import epochs, snapshot
from fedps.types import TableSpec
from fedps.wire.frame import Limits
from fedps.wire.messages import Barrier, Done, Pull, Values
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import BIAS, ROWS, Caller, ones, push
from tests.server.test_saving import SERVE, WAIT, one_client, serving


class Slow:
    """Work beside the server, done when the test says so."""

    def __init__(self) -> None:
        self.begun: list[tuple[Work, Ended]] = []

    def __call__(self, work: Work, done: Ended) -> None:
        self.begun.append((work, done))

    def end_all(self) -> None:
        """Do all works that are begun, and those that follow on them."""
        while self.begun:
            at_once(*self.begun.pop(0))


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


def test_while_an_epoch_is_written_all_go_on_and_it_holds_what_all_had_trained(
    make_job: MakeJob, tmp_path: Path
) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2, save_mode="delta"), tmp_path)
    assert scene.one.answers(scene.barrier) == [Done()], "saving holds nobody"
    assert isinstance(scene.silent.ask(*push(2, [5], ones(1))), Done)
    assert isinstance(scene.silent.ask(*push(3, [9], ones(1))), Done)
    assert scene.silent.rows(5, 9) == [[3.0] * 4, [2.0] * 4]
    assert not scene.folder.exists()
    scene.slow.end_all()
    assert scene.saved() == scene.before
    assert [e["epoch"] for e in scene.events if e["event"] == "saved"] == [1]
    for caller, stage in ((scene.silent, "trained"), (scene.one, "evaluated"), (scene.silent, "evaluated")):
        caller.send(Barrier(1, stage))
    for caller in (scene.one, scene.silent):
        caller.send(Barrier(2, "trained"))
    scene.slow.end_all()
    assert snapshot.load(tmp_path / "model" / "2", "server-0")[0]["rows"][1].tolist() == [5, 9]
    assert epochs.read_model(tmp_path / "model" / "2")["rows"].values.tolist() == scene.one.rows(3, 5, 9)


def test_epochs_that_end_faster_than_they_are_written_are_written_one_after_the_other(
    make_job: MakeJob, tmp_path: Path
) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2), tmp_path)
    for caller, stage in ((scene.silent, "trained"), (scene.one, "evaluated"), (scene.silent, "evaluated")):
        caller.send(Barrier(1, stage))
    assert isinstance(scene.silent.ask(*push(2, [5], ones(1))), Done)
    for caller in (scene.one, scene.silent):
        caller.send(Barrier(2, "trained"))
    scene.slow.end_all()
    assert scene.saved() == scene.before
    assert epochs.read_model(tmp_path / "model" / "2")["rows"].values.tolist() == scene.one.rows(3, 5)


def test_an_epoch_ends_once_no_more_than_one_before_it_is_being_written(make_job: MakeJob, tmp_path: Path) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=3), tmp_path)
    both = (scene.one, scene.silent)
    scene.silent.send(Barrier(1, "trained"))
    for epoch in (2, 3):
        for caller in both:
            caller.send(Barrier(epoch - 1, "evaluated"))
        tickets = [caller.send(Barrier(epoch, "trained")) for caller in both]
        assert all(bool(c.answers(t)) is (epoch == 2) for c, t in zip(both, tickets, strict=True))
    scene.slow.end_all()
    assert all(c.answers(t) for c, t in zip(both, tickets, strict=True))
    assert [e["epoch"] for e in scene.events if e["event"] == "saved"] == [1, 2, 3]


def test_a_write_that_fails_is_told_leaves_the_earlier_epoch_and_ends_no_training(
    make_job: MakeJob, tmp_path: Path
) -> None:
    scene = Scene(make_job(sync_mode="async"), tmp_path)
    scene.slow.end_all()
    before, scene = scene.before, Scene(make_job(sync_mode="async"), tmp_path)
    scene.folder.rename(tmp_path / "kept")
    scene.folder.write_text("in the way")
    scene.slow.end_all()
    assert scene.one.answers(scene.barrier) == [Done()] and scene.server.failure is None
    ((epoch, reason),) = [(e["epoch"], e["reason"]) for e in scene.events if e["event"] == "unsaved"]
    assert epoch == 1 and reason.startswith(f"cannot save to {scene.folder}")
    with pytest.raises(DataError, match="cannot save to"):
        scene.server.close()
    scene.folder = tmp_path / "kept"
    assert scene.saved() == before


def test_new_tables_know_nothing_of_pushes_to_the_old_ones(make_job: MakeJob, tmp_path: Path) -> None:
    scene = Scene(make_job(sync_mode="async", epochs=2), tmp_path)
    assert isinstance(scene.silent.ask(*push(2, [5], ones(1))), Done)
    scene.server.shard.declare((TableSpec("rows", "sparse", (100, 4), init=ROWS.init), BIAS))
    scene.slow.end_all()
    assert scene.saved() == scene.before
    assert scene.server.shard.store.pull("rows", np.array([5])).tolist() == [[1.0] * 4]


SLOW_DISK = """
import os, time
from pathlib import Path

sync, gate = os.fsync, Path(GATE)

def slow(descriptor):
    if "/model/" in os.readlink(f"/proc/self/fd/{descriptor}"):  # of what is saved alone
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


def test_a_server_with_a_slow_disk_answers_all_and_ends_once_the_epoch_is_written(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, gate = make_job(sync_mode="async", start_timeout=0.2, durability="none"), tmp_path / "gate"
    monkeypatch.setattr("tests.server.test_saving.SERVE", SLOW_DISK.replace("GATE", repr(str(gate))) + SERVE)
    with serving(tmp_path / "job.yaml", tmp_path / "run", "stay") as (process, address):
        channel = one_client(address, job)
        assert isinstance(channel.request(Barrier(1, "trained")).result(WAIT).message, Done)
        until(gate.with_suffix(".waits").exists)
        rows = channel.request(Pull(("rows",)), [np.array([3])]).result(WAIT)
        assert isinstance(rows.message, Values)
        process.terminate()
        gate.touch()
        output, errors = process.communicate(timeout=WAIT)
        channel.close()
        assert process.returncode == 0, errors
        assert output.count('"event": "saved"') == 1
    assert set(epochs.read_model(tmp_path / "run" / "model" / "1")) == {"rows", "bias"}
