"""Learning rates over a job: closed forms, what a trainer makes of them, and rounds with a rate and a batch of their own."""

import io

import numpy as np
import pytest

from fedps.client.trainer import Signs, Trainer
from fedps.client.windows import Window
from fedps.config import Job, Optimizer, notes_of
from fedps.data.read.client import read_client
from fedps.errors import JobError
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.training.rules import rates_at
from fedps.types import ClientId, State
from tests.conftest import MakeJob

ME = ClientId("3")
AT = np.array([0.0, 1.0, 2.5, 5.0, 10.0, 12.0])  # of ten epochs; a round after the last goes on at its rate


@pytest.mark.parametrize(
    ("settings", "due"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [1, 0.9, 0.75, 0.5, 0, 0]),
        ({"schedule": "linear", "final": 0.2}, [1, 0.92, 0.8, 0.6, 0.2, 0.2]),
        ({"schedule": "cosine"}, [1, 0.5 + np.cos(0.1 * np.pi) / 2, 0.5 + np.sqrt(0.5) / 2, 0.5, 0, 0]),
        ({"schedule": "cosine", "final": 0.5}, [1, 0.75 + np.cos(0.1 * np.pi) / 4, 0.75 + np.sqrt(0.5) / 4, 0.75, 0.5, 0.5]),
        ({"schedule": "step", "step_epochs": 2, "step_factor": 0.1}, [1, 1, 0.1, 0.01, 1e-5, 1e-6]),
        ({"warmup": 0.5}, [0, 0.2, 0.5, 1, 1, 1]),
        ({"schedule": "linear", "warmup": 0.25}, [0, 0.36, 0.75, 0.5, 0, 0]),
    ],
)  # fmt: skip
def test_a_schedule_is_its_formula(settings: dict[str, object], due: list[float]) -> None:
    np.testing.assert_allclose(rates_at(Optimizer.model_validate(settings), 10, AT), due, atol=1e-12)


class Watching:
    """A mode without servers that keeps the windows it is given."""

    def __init__(self, window: int | None = 3, lead: int = 1) -> None:
        self.window, self.lead, self.windows = window, lead, list[Window]()

    def begin(self, window: Window) -> None:
        self.windows.append(window)

    def settle(self) -> None:
        assert self.windows

    def end(self, window: Window) -> None:
        assert window is self.windows[-1]

    def finish(self) -> int:
        assert self.windows
        return 0

    def start_at(self, clock: int) -> None:
        raise NotImplementedError

    def state(self) -> State:
        raise NotImplementedError

    def restore(self, state: State) -> None:
        raise NotImplementedError


def trainer_of(job: Job) -> tuple[Trainer, Learner, Learner]:
    """Return a trainer, its learner, and a twin of that to be trained by hand."""
    plan = make_plan(job)
    one, other = (Learner(plan, job, read_client(job, ME), local_optimizer=True) for _ in range(2))
    return Trainer(job, ME, one, Watching(), lambda event: None, io.StringIO()), one, other


def assert_same(one: Learner, other: Learner) -> None:
    for name, table in one.tables.items():
        np.testing.assert_array_equal(table.block, other.tables[name].block)
    np.testing.assert_array_equal(one.dense.raw, other.dense.raw)


@pytest.mark.parametrize("compiled", [True, False])
def test_each_batch_takes_the_rate_of_its_moment(compiled: bool, make_job: MakeJob) -> None:
    optimizer = {"class": "lazy_adam", "schedule": "linear", "final": 0.1}
    job = make_job({"optimizer": optimizer}, epochs=2, print_interval=4, negatives=1, compiled_step=compiled)
    trainer, one, other = trainer_of(job)
    for epoch in range(2):
        done = trainer.train(epoch + 1)
        order = other.data.order(epoch)
        assert done.samples == len(order)
        batches = -(-len(order) // 32)
        at = (epoch + (np.arange(batches) + 0.5) / batches) / 2
        other.train(order, 32, 1 - 0.9 * at)
        assert_same(one, other)


def test_a_round_may_have_a_rate_and_a_batch_size_of_its_own(make_job: MakeJob) -> None:
    optimizer = {"class": "sgd", "learning_rate": 0.5, "private_learning_rate": 0.25, "schedule": "cosine"}
    trainer, one, other = trainer_of(make_job({"optimizer": optimizer}, epochs=3))
    order = np.concatenate([other.data.order(0), other.data.order(1)])
    done = trainer.train(1, iterations=4, learning_rate=0.05, batch_size=20)
    assert done.samples == 80
    other.train(order[:80], 20, np.full(4, 0.1))  # the private table's rate changes with the job's
    assert_same(one, other)
    trainer.train(2, iterations=2)  # and the job's own again
    other.train(order[80:144], 32, 0.5 + np.cos(np.pi * (1 + np.array([0.25, 0.75])) / 3) / 2)
    assert_same(one, other)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"window": 0}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], loss: str, make_job: MakeJob) -> None:
    trainer, _, _ = trainer_of(make_job({"loss": loss}))
    with pytest.raises(JobError, match=f"an assignment's {next(iter(settings)).replace('window', 'geo_step')}"):
        trainer.train(1, **settings)  # type: ignore[arg-type]


def test_pairs_need_even_batches(make_job: MakeJob) -> None:
    trainer, _, _ = trainer_of(make_job({"loss": "bpr"}))
    with pytest.raises(JobError, match=r"assignment's batch_size 33: .* make it even, e\.g\. 34"):
        trainer.train(1, batch_size=33)
    with pytest.raises(JobError, match=r"runner\.train_batch_size: 33: .* make it even, e\.g\. 34"):
        make_job({"loss": "bpr"}, train_batch_size=33)


@pytest.mark.parametrize("mode", ["sync", "async", "round"])
def test_only_geo_has_windows_of_so_many_batches(mode: str, make_job: MakeJob) -> None:
    trainer, _, _ = trainer_of(make_job(sync_mode=mode))
    with pytest.raises(JobError, match=f"geo_step 5: {mode} has no windows of so many batches: leave it out"):
        trainer.train(1, window=5)


def test_a_round_may_have_windows_of_its_own(make_job: MakeJob) -> None:
    job = make_job({"optimizer": {"class": "lazy_adam"}}, epochs=9)
    _, learner, _ = trainer_of(job)
    mode = Watching()
    trainer = Trainer(job, ME, learner, mode, lambda event: None, io.StringIO())
    drawn = []
    for round_, window in ((1, None), (2, 2), (3, 50), (4, None)):
        mode.windows.clear()
        trainer.train(round_, iterations=7, window=window)
        drawn.append([w.batches for w in mode.windows])
    assert drawn == [[3, 3, 1], [2, 2, 2, 1], [7], [3, 3, 1]]


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        ({"schedule": "exponential"}, "schedule"),
        ({"warmup": 1.0}, "warmup"),
        ({"final": 1.5}, "final"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"step_epochs": 0}, "step_epochs"),
        ({"step_factor": 0}, "step_factor"),
    ],
)
def test_a_wrong_value_is_named(optimizer: dict[str, object], said: str, make_job: MakeJob) -> None:
    with pytest.raises(JobError, match=rf"hyper_parameters\.optimizer\.{said}"):
        make_job({"optimizer": optimizer})


def test_a_key_of_another_schedule_is_noted(make_job: MakeJob) -> None:
    job = make_job({"optimizer": {"schedule": "linear", "final": 0.1, "step_epochs": 2}})
    assert notes_of(job) == [
        "hyper_parameters.optimizer.step_epochs: 2: has no effect with schedule linear, only with step"
    ]


@pytest.mark.parametrize("compiled", [True, False])
def test_how_often_a_sign_of_life_is_given_changes_no_figure(
    compiled: bool, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(print_interval=7, compiled_step=compiled)
    (seldom, one, _), (often, other, _) = trainer_of(job), trainer_of(job)
    signs: list[None] = []
    monkeypatch.setattr(often, "_signs", Signs(0.0, lambda: signs.append(None)))  # after each batch
    first, second = seldom.train(1), often.train(1)
    assert len(signs) == -(-first.samples // 32)
    assert first.loss == second.loss
    np.testing.assert_array_equal(first.histogram.positives, second.histogram.positives)
    assert_same(one, other)
