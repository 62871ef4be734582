"""What goes wrong on a client is said: pushes that came too late, values that no server sees, assignments that are none."""

import io
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.client.life import FLClient
from fedps.client.modes import Mode, build_mode
from fedps.client.trainer import Trainer
from fedps.config import Job
from fedps.data.read.client import read_client
from fedps.errors import FedpsError, JobError
from fedps.events import events
from fedps.events.events import Entry, Event
from fedps.launch.inprocess import run_in_process
from fedps.net.shards import Shards
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.types import Keys, TableName, Values
from fedps.wire.frame import Frame
from fedps.wire.messages import Done
from tests.client.test_modes import SMALL, write_clients
from tests.client.test_schedule import ME, trainer_of
from tests.conftest import MakeJob


class Ticket:
    """A pull or a push that is answered at once."""

    def __init__(self, answer: Any, clock: int = 0) -> None:
        done = Future[Frame]()
        done.set_result(answer)
        self._answer, self.clocks, self.futures = answer, {0: clock}, {done}
        self.seconds = 0.0  # nothing is under way

    def result(self, timeout: float) -> Any:
        return self._answer


class Answering(Shards):
    """Servers that answer each push as they are told to, and keep the clock that it was of; a pull says which is open."""

    def __init__(self, learner: Learner, answers: list[Done]) -> None:
        self._learner, self._answers, self.clocks = learner, answers, list[int]()
        self._dense = learner.dense.split(learner.dense.values.copy())
        self._open = 0

    def pull(self, wanted: Mapping[TableName, Keys], after: int = -1) -> Any:
        def rows(name: TableName, keys: Keys) -> Values:
            return np.zeros((len(keys), self._learner.tables[name].spec.dim), np.float32)

        found = {n: self._dense[n] if n in self._dense else rows(n, keys) for n, keys in wanted.items()}
        return Ticket(found, self._open)

    def push(self, changes: Any, clock: Any, weight: float = 1.0, rate: float = 1.0) -> Any:
        self.clocks.append(clock)
        done = self._answers.pop(0) if self._answers else Done(clock + 1)
        self._open = max(self._open, done.clock)
        return Ticket(done)


def trainer_with(job: Job, answers: list[Done]) -> tuple[Trainer, Answering, list[Event], io.StringIO]:
    said, log = list[Event](), io.StringIO()
    learner = Learner(make_plan(job), job, read_client(job, ME), local_optimizer=job.runner.sync_mode == "geo")
    shards = Answering(learner, answers)
    mode: Mode = build_mode(job, learner, shards, len(learner.data))
    return Trainer(job, ME, learner, mode, said.append, log), shards, said, log


MODES = [{"sync_mode": "sync", "pace": "own"}, {"sync_mode": "geo", "geo_step": 1, "geo_overlap": 0, "pace": "own"}]


@pytest.mark.parametrize("mode", MODES, ids=["sync", "geo"])
def test_a_client_goes_on_at_the_servers_clock_though_a_repeated_answer_does_not_say_late(
    mode: dict[str, Any], make_job: MakeJob
) -> None:
    trainer, shards, _, _ = trainer_with(make_job(**mode), [Done(1), Done(7)])
    trainer.train(1, iterations=4)
    assert shards.clocks == [0, 1, 7, 8], "the push after the repeated one would be late as well"


@pytest.mark.parametrize("mode", MODES, ids=["sync", "geo"])
def test_a_client_ahead_of_an_open_window_stays_ahead(mode: dict[str, Any], make_job: MakeJob) -> None:
    trainer, shards, _, _ = trainer_with(make_job(**mode), [Done(0), Done(0), Done(1)])
    trainer.train(1, iterations=4)
    assert shards.clocks == [0, 1, 2, 3]


@pytest.mark.parametrize("mode", MODES, ids=["sync", "geo"])
def test_pushes_that_came_too_late_are_counted_and_said(mode: dict[str, Any], make_job: MakeJob) -> None:
    trainer, shards, said, log = trainer_with(make_job(**mode), [Done(3, late=True), Done(4), Done(9, late=True)])
    trainer.train(1, iterations=3)
    trainer.train(2, iterations=2)
    assert shards.clocks == [0, 3, 4, 9, 10]
    assert [e.late for e in said if isinstance(e, events.EpochEnd)] == [2, 0]
    assert "pushes that came after their window was closed: 2; what they changed is lost" in log.getvalue()


@pytest.mark.parametrize("where", ["a table", "a layer"])
def test_private_values_that_are_no_numbers_end_the_run(where: str, make_job: MakeJob, tmp_path: Path) -> None:
    """A step may leave them behind that no later batch looks up, so that no loss shows them."""

    def train(client: FLClient) -> None:
        client.callback_train()
        if where == "a table":
            client.learner.private["mlp_user.weight"].values[3, 1] = np.nan
        else:
            client.learner.private_dense.values[0] = np.inf

    job = make_job(
        SMALL,
        train_data_dir=str(write_clients(tmp_path / "data", 30)),
        test_data_dir=None,
        local_dense=["predict.bias"],
    )
    with pytest.raises(FedpsError, match=r"client '0': \S+, which is private, has a NaN or an infinity after round 1"):
        run_in_process(job, tmp_path / "run", lambda entry: None, handlers={"train": train})
    assert not list((tmp_path / "run").glob("private/*/[0-9]*")), "nothing broken is saved"


def test_an_assignment_of_fewer_batches_than_none_is_refused(make_job: MakeJob) -> None:
    trainer, _, _ = trainer_of(make_job())
    with pytest.raises(JobError, match="an assignment's iterations -3: must be 0, for a pass, or more"):
        trainer.train(1, iterations=-3)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
def test_long_training_and_long_evaluation_give_signs_of_life_to_servers_and_launcher(
    compiled: bool, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(compiled_step=compiled, print_interval=10**9, infer_batch_size=64, step_timeout=900.0, epochs=2)
    quiet, busy = list[Entry](), list[Entry]()
    run_in_process(job, tmp_path / "quiet", quiet.append)
    monkeypatch.setattr("fedps.client.trainer.SIGNS", 10**12)  # each is due
    monkeypatch.setattr("fedps.training.compiled.GO", 64)
    monkeypatch.setattr("fedps.training.eager.LEAST", 64)
    told = list[str]()
    tell = Shards.alive

    def alive(shards: Shards) -> None:
        told.append("alive")
        tell(shards)

    monkeypatch.setattr(Shards, "alive", alive)
    run_in_process(job, tmp_path / "busy", busy.append)

    mine = [entry.event for entry in busy if (entry.role, entry.id) == ("worker", ME)]
    kinds = [type(event) for event in mine]
    begin = kinds.index(events.EvaluateBegin)
    end = kinds.index(events.Evaluated)
    goes = -(-len(read_client(job, ME).test.label) // 64)
    assert kinds[begin + 1 : end] == [events.AtWork] * goes
    assert kinds[:begin].count(events.AtWork) > 1, "nor does training wait for something to print"
    assert len(told) == [type(entry.event) for entry in busy].count(events.AtWork), "servers and launcher hear the same"
    figures = [
        {entry.id: entry.event for entry in entries if isinstance(entry.event, events.Evaluated)}
        for entries in (quiet, busy)
    ]
    for who, event in figures[0].items():
        theirs = figures[1][who]
        assert event.sums == theirs.sums
        np.testing.assert_array_equal(event.histograms["auc"].positives, theirs.histograms["auc"].positives)
