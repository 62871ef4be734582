"""A client that was away takes its place again: behind the others, without a checkpoint, or from a process that is frozen."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedps.client.checkpoint import NEWEST, Moment, checkpoints_of
from fedps.client.life import FLClient
from fedps.config import Job
from fedps.errors import DataError, FedpsError, JobError
from fedps.events import events
from fedps.events.events import Entry
from fedps.events.ledger import Ledger
from fedps.storage import epochs, snapshot
from fedps.types import ClientId
from tests.client.lives import DiedError, Mortal, World, left, same, world
from tests.client.test_modes import ADAM, SMALL, write_clients
from tests.conftest import MakeJob
from tests.launch.runs import start
from tests.ports import free_address

ONE, OTHER = ClientId("0"), ClientId("1")


def job_of(make_job: MakeJob, folder: Path, *sizes: int, **runner: Any) -> Job:
    train = write_clients(folder / "data", *sizes)
    return make_job(
        SMALL | ADAM,
        **{
            "train_data_dir": str(train),
            "test_data_dir": None,
            "train_batch_size": 16,
            "geo_step": 2,
            "epochs": 4,
            **runner,
        },
    )


def epochs_begun(world: World, client: ClientId) -> list[int]:
    return [event.epoch for who, event in world.events if who == client and isinstance(event, events.EpochBegin)]


@contextmanager
def living(client: Mortal) -> Iterator[threading.Thread]:
    """Let a client live beside; it has ended when this ends, and has not failed."""
    failures: list[Exception] = []

    def live() -> None:
        try:
            client.run()
        except FedpsError as error:
            failures.append(error)

    thread = threading.Thread(target=live)
    thread.start()
    yield thread
    thread.join()
    assert not failures


@pytest.mark.parametrize("mode", [{"sync_mode": "async"}, {"geo_merge": "adaptive"}], ids=["async", "geo"])
@pytest.mark.parametrize("kept", [True, False], ids=["with a checkpoint", "without"])
def test_who_comes_back_goes_on_where_the_others_are(
    kept: bool, mode: dict[str, Any], make_job: MakeJob, tmp_path: Path
) -> None:
    job = job_of(make_job, tmp_path, 150, 150, reconnect_timeout=0.2, checkpoint_every=4, **mode)
    reached, back = threading.Event(), threading.Event()

    def train(client: FLClient) -> None:
        if client.assignment.round == 3:
            reached.set()
            assert back.wait(60)
        client.callback_train()

    def go_on(client: FLClient) -> None:
        back.set()
        client.callback_train()

    with world(job, tmp_path / "run") as there:
        other = there.client(OTHER)
        other.register_handlers("train", train)
        with living(other):
            there.live(dies_after=0, within=True, only=[ONE])
            assert reached.wait(60)
            if not kept:
                shutil.rmtree(there.run_dir / "private" / ONE)
            one = there.client(ONE, resume=NEWEST)
            one.register_handlers("train", go_on)
            one.run()
        assert epochs_begun(there, OTHER) == [0, 1, 2, 3]
        assert epochs_begun(there, ONE) == [0, 2, 3]
        assert ("goes on from checkpoint 0-4" in there.logs[ONE].getvalue()) == kept


class Unreported(Mortal):
    """A client that dies when round 2 has ended, before it has reported it, and before its checkpoint is on disk."""

    all_go_on = True  # from the round, before it dies

    def _part(self) -> None:
        dies = self.assignment.round == 2 and not self._resume
        if self.all_go_on or not dies:
            super()._part()
        if dies:
            self._checkpoints.settle()
            for file in (self.run_dir / "private" / self.client / "checkpoint").glob("2-0*"):
                file.unlink()
            raise DiedError


class Unmet(Unreported):
    """One that dies before: the others wait for it where they all go on."""

    all_go_on = False


@pytest.mark.parametrize("kind", [Unreported, Unmet])
def test_a_round_that_the_others_have_ended_is_reported_and_nothing_of_it_pushed(
    kind: type[Mortal], make_job: MakeJob, tmp_path: Path
) -> None:
    job = job_of(make_job, tmp_path, 150, 150, with_coordinator=True, geo_merge="adaptive", step_timeout=30.0)
    with world(job, tmp_path / "run", kind) as there:
        with living(there.client(OTHER, resume=NEWEST)):  # which does not die
            there.live(only=[ONE])
            there.client(ONE, resume=NEWEST).run()
        assert epochs_begun(there, OTHER) == [0, 1, 2, 3]
        assert epochs_begun(there, ONE) == [0, 1, 1, 2, 3]
        members = there.services[0].members
        assert len({known.merged for name in (ONE, OTHER) if (known := members.known_as(name))}) == 1
        assert not [e for _, e in there.events if isinstance(e, events.LeftBehind | events.Suspended)]


def test_where_servers_have_begun_anew_so_does_a_client(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, 150, checkpoint_every=4)
    with world(job, tmp_path / "calm") as calm:
        due = left(calm, calm.live())
    with world(job, tmp_path / "run") as before:
        before.live(dies_after=0, within=True)
    assert list(checkpoints_of(tmp_path / "run", ONE)) == [Moment(0, 4)]
    with world(job, tmp_path / "run") as anew:
        same(left(anew, anew.live(resume=NEWEST)), due)
        assert (
            "checkpoint 0-4 is left out: the servers know of 0 pushes of client 0, not of 2"
            in anew.logs[ONE].getvalue()
        )


def test_one_that_is_named_is_never_left_out_in_silence(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, 150)
    with world(job, tmp_path / "run") as before:
        before.live(dies_after=1)
    with world(job, tmp_path / "run") as anew:
        with pytest.raises(
            JobError, match=r"checkpoint 1-0: the servers know of 0 pushes .*: resume from an earlier one"
        ):
            anew.live(resume="1-0")


def test_without_durability_nothing_is_kept(make_job: MakeJob, tmp_path: Path) -> None:
    with world(job_of(make_job, tmp_path, 50, durability="none", checkpoint_every=2), tmp_path / "run") as there:
        there.live()
    assert checkpoints_of(tmp_path / "run", ONE) == {}


def digests(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.timeout(240)
def test_a_frozen_process_is_replaced_at_once_and_ends_by_itself_when_it_wakes(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """All timeouts are longer than the test may take: whoever waited for one would not come to its end."""
    waits = dict.fromkeys(("step_timeout", "reconnect_timeout"), 1000.0)
    job_of(make_job, tmp_path, 6000, 6000, epochs=400, eval_every=0, save_every=1, keep_epochs=2, **waits)
    job, run_dir, at = tmp_path / "job.yaml", tmp_path / "run", free_address()
    processes: list[subprocess.Popen[Any]] = []

    def work(client: ClientId, name: str) -> subprocess.Popen[Any]:
        command = [sys.executable, "-m", "tests.client.one_life", str(job), str(run_dir), at, client]
        with (tmp_path / name).open("w") as out:
            processes.append(subprocess.Popen(command, stdout=out, stderr=out))
        return processes[-1]

    def await_epoch(epoch: int, *alive: subprocess.Popen[Any]) -> None:
        while not (there := checkpoints_of(run_dir, ONE)) or max(there) < Moment(epoch):
            assert [process.poll() for process in alive] == [None] * len(alive)
            time.sleep(0.02)

    try:
        processes.append(start("server", job, f"--servers={at}", "--run_dir", run_dir, out=tmp_path / "server"))
        other, older = work(OTHER, "other"), work(ONE, "older")
        await_epoch(2, other, older)
        os.kill(older.pid, signal.SIGSTOP)
        (frozen,) = {max(checkpoints_of(run_dir, ONE))}
        newer = work(ONE, "newer")
        await_epoch(frozen.epoch + 3, other, newer)
        for process in (other, newer):
            os.kill(process.pid, signal.SIGSTOP)
        before = digests(run_dir / "private" / ONE)
        os.kill(older.pid, signal.SIGCONT)
        assert older.wait(100) == 1
        assert digests(run_dir / "private" / ONE) == before
        for process in (other, newer):
            os.kill(process.pid, signal.SIGCONT)
        await_epoch(frozen.epoch + 6, other, newer)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert "goes on from checkpoint" in (tmp_path / "newer").read_text()
    assert "a newer process" in (tmp_path / "older").read_text().splitlines()[-1]


def test_a_full_disk_ends_no_training_and_what_it_did_not_take_is_saved_once_there_is_room(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(make_job, tmp_path, 150)
    save, full = snapshot.save_arrays, [2]

    def saved(folder: Path, name: str, *args: Any, **how: Any) -> str:
        if "private" in folder.parts and name in ("tables", "2-0") and full:
            full[:] = [left - 1 for left in full if left > 1]
            raise DataError(f"cannot save to {folder}: no space")
        return save(folder, name, *args, **how)

    with world(job, tmp_path / "run") as there:
        there.live(dies_after=1)
        monkeypatch.setattr(snapshot, "save_arrays", saved)
        there.live(resume=NEWEST)
        log = there.logs[ONE].getvalue()
        ledger = Ledger(job, 0.0)
        for who, event in there.events:
            if isinstance(event, events.Unsaved):
                ledger.take(Entry(1.0, "worker", who, event))
    found = ledger.summary(2.0, None)
    assert found["faults"]["unsaved"] == 2
    assert [warning.partition(": cannot save to ")[0] for warning in found["warnings"]] == [
        "worker 0: epoch 2 is not saved", "worker 0: a checkpoint of epoch 2 is missing",
    ]  # fmt: skip
    assert "round 2 is not saved: cannot save to" in log
    assert "a checkpoint is missing, the next is tried again: cannot save to" in log
    assert list(checkpoints_of(tmp_path / "run", ONE)) == [Moment(1), Moment(3), Moment(4)]
    assert epochs.numbers(tmp_path / "run" / "private" / ONE) == [1, 3, 4]


def test_what_was_never_saved_ends_the_run_with_its_reason(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(folder: Path, *args: Any, **how: Any) -> str:
        raise DataError(f"cannot save to {folder}: no space")

    monkeypatch.setattr(epochs, "save_private", saved)
    with world(job_of(make_job, tmp_path, 50, epochs=2), tmp_path / "run") as there:
        with pytest.raises(DataError, match=r"cannot save to .*private/0/2: no space"):
            there.live()
