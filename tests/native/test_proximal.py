"""FedProx: shared values are held to what was pulled, by compiled steps and by torch's, with equal numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedps.config import Job, load_job
from fedps.errors import JobError
from fedps.models.build import build
from fedps.table import rules
from fedps.training.learner import Learner
from tests.client.test_modes import SMALL, batches, close, finished, start, write_clients
from tests.conftest import MakeJob
from tests.native.test_steps import both, pytestmark  # noqa: F401  (skipped without a compiler, as there)

MU, RATE = 0.7, 0.05
PRIVATE = "mlp_user.weight"


def held(make_job: MakeJob, rule: str = "sgd", proximal: float = MU, **runner: object) -> Job:
    rates = dict.fromkeys(("learning_rate", "shared_learning_rate", "private_learning_rate"), RATE)
    return make_job({"optimizer": {"class": rule, "proximal": proximal, **rates}}, local_sparse=[PRIVATE], **runner)


def pull(learner: Learner, seed: int) -> None:
    """Write values to some shared rows, and to the dense tensors, as a pull does."""
    rng = np.random.default_rng(seed)
    for table in learner.shared.values():
        slots = np.flatnonzero(rng.random(len(table.keys)) < 0.6).astype(np.int32)
        table.write(slots, rng.normal(0, 0.1, (len(slots), table.spec.dim)).astype(np.float32))
    learner.dense.write(learner.dense.split(rng.normal(0, 0.3, len(learner.dense.values)).astype(np.float32)))


@pytest.mark.parametrize("rule", ["adam", "lazy_adam", "sgd", "adagrad", "row_adagrad", "shared_adam"])
def test_both_engines_take_the_same_steps(rule: str, make_job: MakeJob) -> None:
    one, other = both(held(make_job, rule), local=True)
    free, _ = both(held(make_job, rule, 0.0), local=True)
    for window in range(3):
        for learner in (one, other, free):
            pull(learner, window)
        order = one.data.order(window)
        found, due, _ = (learner.train(order, 48) for learner in (one, other, free))
        np.testing.assert_allclose(found.losses, due.losses, rtol=1e-3)
    for name, table in one.tables.items():
        its = other.tables[name]
        np.testing.assert_allclose(table.block, its.block, rtol=2e-3, atol=3e-4, err_msg=name)
        np.testing.assert_array_equal(rules.counters(table.rule, table.raw), rules.counters(its.rule, its.raw))
    np.testing.assert_allclose(one.dense.raw, other.dense.raw, rtol=2e-3, atol=3e-4)
    assert np.abs(one.dense.values - free.dense.values).max() > 1e-3, "it does something"


def test_steps_are_those_of_torch_on_the_loss_with_its_penalty(make_job: MakeJob) -> None:
    """A row is held in the steps that look it up; rows of one's own are not held at all."""
    job = held(make_job)
    for learner in both(job, local=True):
        pull(learner, 5)
        model, data, order = build(job), learner.data, learner.data.order(0)[:128]
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, table in learner.tables.items():
                weights[name][torch.from_numpy(table.keys)] = torch.from_numpy(table.values.copy())
            for name, value in learner.dense.split(learner.dense.values.copy()).items():
                weights[name].copy_(torch.from_numpy(value).view_as(weights[name]))
        anchors = {n: w.detach().clone() for n, w in weights.items()}
        for number in range(4):
            batch = order[32 * number : 32 * number + 32]
            user, item = (torch.from_numpy(c[batch]).long() for c in (data.train.user, data.train.item))
            loss = functional.binary_cross_entropy_with_logits(
                model(user, item), torch.from_numpy(data.train.label[batch])
            )
            for name, weight in weights.items():
                if name == PRIVATE:
                    continue
                rows = torch.unique(item) if name == "mlp_item.weight" else slice(None)
                loss = loss + MU / 2 * (weight[rows] - anchors[name][rows]).square().sum()
            model.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for weight in weights.values():
                    assert weight.grad is not None
                    weight.sub_(RATE * weight.grad)
        learner.train(order, 32)
        for name, table in learner.tables.items():
            np.testing.assert_allclose(table.values, weights[name].detach().numpy()[table.keys], atol=2e-5)
        dense = np.concatenate([weights[name].detach().numpy().reshape(-1) for name in learner.parameters.dense])
        np.testing.assert_allclose(learner.dense.values, dense, atol=2e-5)


def test_without_it_nothing_is_kept(make_job: MakeJob) -> None:
    free, kept = (both(held(make_job, proximal=mu), local=True)[0] for mu in (0.0, MU))
    assert {table.anchor is None for table in free.tables.values()} == {True}
    assert free.dense.anchor is free.private_dense.anchor is None
    assert kept.private[PRIVATE].anchor is None
    assert kept.shared["mlp_item.weight"].anchor is not None
    assert kept.dense.anchor is not None


@pytest.mark.parametrize("mode", [{"sync_mode": "geo", "geo_step": 3, "geo_overlap": 0}, {"sync_mode": "round"}])
def test_each_window_is_held_to_its_own_start(mode: dict[str, object], make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", 200)
    settings = {"class": "sgd", "learning_rate": 0.5, "proximal": MU}
    job = make_job(
        {**SMALL, "optimizer": settings}, train_data_dir=str(train), test_data_dir=None, epochs=2, local_sparse=[], **mode
    )  # fmt: skip
    alone = start(job, tmp_path)
    for epoch in range(2):
        for number, (user, item, label) in enumerate(batches(job, "0", epoch)):
            if number % 3 == 0 if mode["sync_mode"] == "geo" else number == 0:
                anchors = {n: w.detach().clone() for n, w in alone.named_parameters()}
            alone.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(alone(user, item), label)
            for name, weight in alone.named_parameters():
                rows = {"mlp_user.weight": user, "mlp_item.weight": item}.get(name)
                moved = weight - anchors[name] if rows is None else (weight - anchors[name])[torch.unique(rows)]
                loss = loss + MU / 2 * moved.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for weight in alone.parameters():
                    assert weight.grad is not None
                    weight.sub_(0.5 * weight.grad)
    close(finished(job, tmp_path), alone, 5e-6)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_where_servers_optimize_it_is_an_error(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    held(make_job, sync_mode="geo")
    with pytest.raises(JobError) as caught:
        load_job(tmp_path / "job.yaml", [f"runner.sync_mode={mode}"])
    assert any(
        m.startswith(f"hyper_parameters.optimizer.proximal: {MU}: in {mode} the servers optimize")
        for m in caught.value.mistakes
    )
