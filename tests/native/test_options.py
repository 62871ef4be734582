"""Pairs, weight decay and changing rates: the compiled step against ours by torch, and against plain torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedps.config import Job
from fedps.models.build import build
from fedps.table.rules import initial_rows
from tests.conftest import MakeJob
from tests.native.alike import assert_alike
from tests.native.test_steps import both, job_of, pytestmark  # noqa: F401  (skipped without a compiler, as there)

RATES = np.array([1.0, 0.25, 2.0, 0.5])
PRIVATE = ["mlp_user.weight"]


def options(make_job: MakeJob, rule: str = "sgd", loss: str = "bpr", **runner: object) -> Job:
    optimizer = {"class": rule, "learning_rate": 0.05, "private_learning_rate": 0.05, "weight_decay": 0.02}
    return make_job({"optimizer": optimizer, "loss": loss}, local_sparse=PRIVATE, negatives=3, **runner)


@pytest.mark.parametrize("rule", ["adam", "lazy_adam", "sgd", "adagrad", "row_adagrad", "shared_adam"])
@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_both_engines_take_the_same_steps(rule: str, loss: str, make_job: MakeJob) -> None:
    one, other = both(options(make_job, rule, loss), local=True)
    order = one.data.order(0)
    assert len(order) % 96, "the last batch is short, and no whole number of blocks"
    rates = np.linspace(1, 0.1, -(-len(order) // 96))
    found, due = (learner.train(order, 96, rates) for learner in (one, other))
    np.testing.assert_allclose(found.losses, due.losses, rtol=1e-4)
    np.testing.assert_allclose(found.scores, due.scores, rtol=2e-3, atol=1e-4)
    assert found.histogram.positives.sum() == due.histogram.positives.sum() == int(one.data.train.label[order].sum())
    slots = one.data.distinct(("item",), order[:40])
    for name in one.shared:  # rows go on at the last batch's rate, whoever reads them
        np.testing.assert_allclose(one.read(name, slots), other.read(name, slots), rtol=2e-3, atol=3e-4)
    assert_alike(one, other)
    found, due = (learner.train(order[:192], 96) for learner in (one, other))
    np.testing.assert_allclose(found.losses, due.losses, rtol=1e-4)
    assert_alike(one, other)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_sgds_steps_are_plain_torchs(loss: str, make_job: MakeJob) -> None:
    """Rows decay at the steps that touch them, dense tensors at each."""
    job = options(make_job, loss=loss)
    for learner in both(job, local=True):
        model, data, order = build(job), learner.data, learner.data.order(0)[:128]
        weights = dict(model.named_parameters())
        with torch.no_grad():
            for name, table in learner.tables.items():
                weights[name].copy_(torch.from_numpy(initial_rows(table.spec, np.arange(table.spec.shape[0]))))
        losses = []
        for number, rate in enumerate(RATES.tolist()):
            batch = order[32 * number : 32 * number + 32]
            user, item = (torch.from_numpy(c[batch]).long() for c in (data.train.user, data.train.item))
            logits, label = model(user, item), torch.from_numpy(data.train.label[batch])
            model.zero_grad()
            if loss == "bpr":
                value = -functional.logsigmoid(logits[0::2] - logits[1::2]).mean()
            else:
                value = functional.binary_cross_entropy_with_logits(logits, label)
            value.backward()  # type: ignore[no-untyped-call]
            losses.append(float(value.detach()))
            with torch.no_grad():
                for name, weight in weights.items():
                    assert weight.grad is not None
                    ids = {"mlp_user.weight": user, "mlp_item.weight": item}.get(name)
                    touched = torch.ones(len(weight), dtype=torch.bool)
                    if ids is not None:
                        touched = torch.zeros(len(weight), dtype=torch.bool).index_fill(0, ids, value=True)
                    weight[touched] -= 0.05 * rate * (weight.grad[touched] + 0.02 * weight[touched])
        steps = learner.train(order, 32, RATES)
        np.testing.assert_allclose(steps.losses, losses, rtol=1e-4)
        for name, table in learner.tables.items():
            np.testing.assert_allclose(table.values, weights[name].detach().numpy()[table.keys], atol=2e-5)
        dense = np.concatenate([weights[name].detach().numpy().reshape(-1) for name in learner.parameters.dense])
        np.testing.assert_allclose(learner.dense.values, dense, atol=2e-5)


@pytest.mark.parametrize("network", ["Towers", pytest.param("Crossed", marks=pytest.mark.slow)])
def test_pairs_train_a_network_of_your_own(network: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, network, negatives=1)
    hyper = job.hyper_parameters.model_copy(update={"loss": "bpr"})
    one, other = both(job.model_copy(update={"hyper_parameters": hyper}), local=True)
    found, due = (learner.train(learner.data.order(0), 64) for learner in (one, other))
    np.testing.assert_allclose(found.losses, due.losses, rtol=1e-3)
    assert_alike(one, other)


def test_gradients_for_the_servers_are_without_decay(make_job: MakeJob) -> None:
    """There the servers' rule adds it, on the rows as they stand there."""
    one, other = both(options(make_job, "adam", sync_mode="async"), local=False)
    for learner in (one, other):
        learner.train(learner.data.order(0)[:64], 64)
    assert one.server_specs(0)[0].rule.weight_decay == 0.02
    found, due = one.gradients(), other.gradients()
    np.testing.assert_allclose(found.dense, due.dense, rtol=1e-3, atol=1e-5)
    for name, (slots, rows) in found.rows.items():
        np.testing.assert_array_equal(slots, due.rows[name][0])
        np.testing.assert_allclose(rows, due.rows[name][1], rtol=1e-3, atol=1e-5)


def test_a_pair_too_far_apart_to_be_wrong_costs_nothing(make_job: MakeJob) -> None:
    """σ and its logarithm hold at the ends: a large difference gives no NaN and, the right way round, no gradient."""
    for learner in both(options(make_job), local=False):
        flat = learner.dense.values
        flat[:] *= 1e4
        steps = learner.train(learner.data.order(0)[:64], 64)
        assert np.isfinite(steps.losses).all()
        assert np.isfinite(learner.gradients().dense).all()
