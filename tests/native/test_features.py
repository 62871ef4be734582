"""Compiled steps of networks of any features: tables that several look up, bags, numbers; beside torch's, to rounding."""

from pathlib import Path

import numpy as np
import pytest

from fedps.data.samples import ClientData
from fedps.models.network import Plan
from fedps.training.compiled import Compiled
from fedps.training.eager import Eager
from fedps.training.learner import Learner
from fedps.training.planning import plan_network
from tests.conftest import MakeJob
from tests.native.alike import assert_alike, assert_same_gradients
from tests.training.test_features import data_of, job_of

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item, self.genre = nn.Embedding(30, 4), nn.Embedding(50, 4), nn.Embedding(7, 4)
        self.first, self.bag = nn.Embedding(50, 1), nn.EmbeddingBag(50, 4, mode="mean")
        self.mixed = nn.Embedding(50, 4)  # by one id, and by bags
        self.top = nn.Sequential(nn.Linear(19, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, user, item, seen, genres, tags, age):
        rows = [self.user(user), self.item(item), self.item(seen), self.genre(genres)]
        rows[1] = rows[1] + self.mixed(item) * self.mixed(tags)
        total = rows[0] + rows[1] + rows[2] + rows[3]
        pairs = (total * total - sum(row * row for row in rows)).sum(1, keepdim=True) / 2
        return (self.top(torch.cat([*rows, age], 1)) + pairs + self.first(item) + self.bag(tags).sum(1, keepdim=True)).squeeze(1)
"""
FEATURES = {
    "user": {"kind": "id", "rows": 30},
    "item": {"kind": "id", "rows": 50},
    "seen": {"kind": "id", "table": "item"},
    "genres": {"kind": "ids", "rows": 7, "pooling": "sum"},
    "tags": {"kind": "ids", "table": "item", "pooling": "mean"},
    "age": {"kind": "number", "dim": 3},
    "label": {"kind": "label"},
}


def both(make_job: MakeJob, folder: Path, local: bool, **hyper: object) -> tuple[Learner, Learner, ClientData]:
    job = job_of(make_job, folder, FEATURES, NET, **hyper)
    plan, data = plan_network(job), data_of(job)
    assert plan.library, plan.reason
    one, other = (Learner(p, job, data, local_optimizer=local) for p in (plan, Plan(plan.network)))
    assert isinstance(one.engine, Compiled)
    assert isinstance(other.engine, Eager)
    return one, other, data


@pytest.mark.parametrize("rule", ["sgd", "adam", "adagrad"])
def test_a_pass_and_the_scores_are_those_of_torch(rule: str, make_job: MakeJob, tmp_path: Path) -> None:
    optimizer = {"class": rule, "learning_rate": 0.05}
    one, other, data = both(make_job, tmp_path, local=True, optimizer=optimizer)
    found, due = (learner.train(data.order(0), 48) for learner in (one, other))
    np.testing.assert_allclose(found.losses, due.losses, rtol=1e-4)
    np.testing.assert_allclose(found.scores, due.scores, rtol=2e-3, atol=1e-4)
    assert_alike(one, other)
    np.testing.assert_allclose(one.score(), other.score(), rtol=2e-3, atol=2e-3)


def test_gradients_for_the_servers_are_those_of_torch(make_job: MakeJob, tmp_path: Path) -> None:
    one, other, data = both(make_job, tmp_path, local=False)
    for learner in (one, other):
        learner.train(data.order(0)[:40], 40)
    assert_same_gradients(one, other)


@pytest.mark.parametrize("condition", ["len(user) > 1000", "len(user) == 1"])
def test_a_network_that_does_otherwise_with_so_many_samples_trains_by_torch(
    condition: str, make_job: MakeJob, tmp_path: Path
) -> None:
    net = NET.replace("        pairs =", f"        if {condition}: total = total.tanh()\n        pairs =")
    plan = plan_network(job_of(make_job, tmp_path, FEATURES, net))
    assert not plan.library
    assert "depends on how many samples there are" in plan.reason


def test_an_embedding_with_padding_of_its_own_trains_by_torch(make_job: MakeJob, tmp_path: Path) -> None:
    net = NET.replace('nn.EmbeddingBag(50, 4, mode="mean")', 'nn.EmbeddingBag(50, 4, mode="mean", padding_idx=49)')
    plan = plan_network(job_of(make_job, tmp_path, FEATURES, net))
    assert not plan.library
    assert "bag has padding_idx" in plan.reason
