"""The compiled step against torch, step by step: the three networks, users' own, every rule."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedps.config import Job
from fedps.data.read.client import read_client
from fedps.data.samples import ClientData
from fedps.models.build import build
from fedps.models.network import Plan
from fedps.table import rules
from fedps.table.rules import initial_rows
from fedps.training.compiled import Compiled
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.training.tables import LocalDense, LocalTable
from fedps.types import ClientId, Samples
from tests.conftest import MakeJob, batches_of
from tests.native.alike import assert_alike, assert_same_gradients

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: steps are taken by torch here")

ME = ClientId("3")
RULES = ["adam", "lazy_adam", "sgd", "adagrad", "row_adagrad", "shared_adam"]
NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F

class Towers(nn.Module):
    '''Two towers with biases: slices, products of values, sums of columns, parameters beside values.'''
    def __init__(self, num_users, num_items):
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, 10), nn.Embedding(num_items, 10)
        self.bias, self.scale = nn.Parameter(torch.tensor([0.1])), nn.Parameter(torch.full((9,), 0.5))
        self.up, self.down = nn.Linear(9, 12), nn.Linear(12, 9, bias=False)
        self.mix = nn.Parameter(torch.randn(9, 7) * 0.3)
    def forward(self, user, item):
        u, i = self.user(user), self.item(item)
        left = torch.tanh(self.down(F.silu(self.up(u[:, :9])))) * self.scale
        right = F.gelu(i[:, 1:])
        crossed = (left @ self.mix).square().mean(dim=1) - 0.25 * F.softplus(right @ self.mix).sum(1)
        return (left * right).sum(dim=1) + u[:, 9] + i[:, 0] * 2 + self.bias - crossed / 3

class Listed(Towers):
    '''As one is written for a list of inputs, with a column of logits.'''
    def forward(self, input_data):
        return super().forward(*input_data).unsqueeze(1)

class Crossed(nn.Module):
    '''A deep and cross network: a value of one column times a wide one, one value read many times.'''
    def __init__(self, num_users, num_items):
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, 8), nn.Embedding(num_items, 5)
        self.cross, self.deep, self.out = nn.Linear(13, 1), nn.Linear(13, 6), nn.Linear(19, 1)
        self.shift = nn.Parameter(torch.zeros(13))
    def forward(self, user, item):
        x = torch.cat([self.user(user), self.item(item)], dim=-1)
        crossed = x * self.cross(x) + self.shift + x
        deep = F.leaky_relu(self.deep(crossed), 0.2) * torch.sigmoid(self.deep(x))
        return self.out(torch.cat([crossed, deep], 1)).squeeze(-1) - torch.exp(-x.pow(2).sum(1))
"""


def job_of(make_job: MakeJob, folder: Path, network: str, rule: str = "adam", **runner: object) -> Job:
    (folder / "net.py").write_text(NETWORKS)
    optimizer = {"class": rule, "learning_rate": 0.01, "shared_learning_rate": 0.01, "private_learning_rate": 0.01}
    if network.startswith("NCF"):
        kinds = {"NCF_MLP": ["mlp"], "NCF_GMF": ["mf"], "NCF_NeuMF": ["mf", "mlp"]}[network]
        private = [f"{kind}_user.weight" for kind in kinds]
        return make_job({"mode": network, "optimizer": optimizer}, local_sparse=private, **runner)
    return make_job({"optimizer": optimizer}, model=f"net.{network}", local_sparse=["user.weight"], **runner)


def both(job: Job, local: bool) -> tuple[Learner, Learner]:
    """Return a learner with a compiled step, and one with torch's."""
    plan, data = make_plan(job), read_client(job, ME)
    assert plan.library, plan.reason
    one, other = (Learner(p, job, data, local_optimizer=local) for p in (plan, Plan(plan.network)))
    assert isinstance(one.engine, Compiled)
    return one, other


@pytest.mark.parametrize(
    ("network", "rule"),
    [
        *itertools.product(["NCF_NeuMF", "Towers", "Crossed"], RULES),
        *itertools.product(["NCF_MLP", "NCF_GMF", "Listed"], RULES[:1]),  # parts of these
    ],
)
def test_steps_are_those_of_torch(network: str, rule: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, network, rule)
    one, other = both(job, local=True)
    order = one.data.order(0)
    assert len(order) % 48  # the last batch is short
    for epoch in range(2):
        found, due = (learner.train(one.data.order(epoch), 48) for learner in (one, other))
        np.testing.assert_allclose(found.losses, due.losses, rtol=1e-4)
        np.testing.assert_allclose(found.scores, due.scores, rtol=2e-3, atol=1e-4)
    assert_alike(one, other)
    np.testing.assert_allclose(one.score(), other.score(), rtol=2e-3, atol=2e-3)
    slots = one.data.distinct(("item",), order[:40])
    for name in one.shared:
        np.testing.assert_allclose(one.read(name, slots), other.read(name, slots), rtol=2e-3, atol=3e-4)


@pytest.mark.parametrize("network", ["NCF_MLP", "NCF_NeuMF", "Towers"])
def test_gradients_for_the_servers_are_those_of_torch(network: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, network, sync_mode="async")
    one, other = both(job, local=False)
    for batch in batches_of(one.data, 0, 32):
        for learner in (one, other):
            learner.train(batch, 32)
        assert_same_gradients(one, other)


@pytest.mark.parametrize("network", ["NCF_MLP", "NCF_GMF", "NCF_NeuMF", "Crossed"])
def test_adam_is_torchs_adam_of_whole_tables(network: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, network)
    learner, _ = both(job, local=True)
    model, data = build(job), learner.data
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, table in learner.tables.items():
            weights[name].copy_(torch.from_numpy(initial_rows(table.spec, np.arange(table.spec.shape[0]))))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in list(batches_of(data, 0, 32))[:12]:
        user, item, label = (torch.from_numpy(c[batch]) for c in (data.train.user, data.train.item, data.train.label))
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(user, item), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert learner.train(batch, 32).losses[0] == pytest.approx(float(loss.detach()), rel=1e-4)
    for name, table in learner.tables.items():
        mine = weights[name].detach().numpy()[table.keys]
        difference = np.abs(table.block[:, : table.spec.dim] - mine)
        # where a gradient is next to nothing, ε decides, which the closed form of missed steps does not decay
        assert np.median(difference) < 2e-5, name
        assert np.quantile(difference, 0.99) < 2e-3, name
        assert difference.max() < 0.01, "one step of one component"


@pytest.mark.parametrize("before", [2**24 - 2, 2**24 + 1, 2**25 + 7])
@pytest.mark.parametrize("rule", ["adam", "lazy_adam", "shared_adam"])
def test_where_counting_stands_changes_nothing_once_bias_corrections_have_ended(
    rule: str, before: int, make_job: MakeJob, tmp_path: Path
) -> None:
    job = job_of(make_job, tmp_path, "NCF_MLP", rule)
    for far, near in zip(both(job, local=True), both(job, local=True), strict=True):
        for learner, count in ((far, before), (near, 2**20)):
            trained: list[LocalTable | LocalDense] = [*learner.tables.values(), learner.dense, learner.private_dense]
            for one in trained:
                one.steps = count
                rules.counters(one.rule, one.raw)[:] = 0 if rule == "adam" else count
            for batch in list(batches_of(learner.data, 0, 32))[:12]:
                learner.train(batch, 32)
        for name, table in far.tables.items():
            np.testing.assert_array_equal(table.block[:, :-1], near.tables[name].block[:, :-1], err_msg=name)
            counted = rules.counters(table.rule, table.raw) - rules.counters(table.rule, near.tables[name].raw)
            assert set(counted.ravel().tolist()) <= {0, before - 2**20}
        np.testing.assert_array_equal(far.dense.values, near.dense.values)


def test_training_ends_at_a_loss_that_is_not_finite(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, "NCF_MLP")
    for learner in both(job, local=True):
        learner.dense.values[:] = np.nan
        steps = learner.train(learner.data.order(0), 32)
        assert len(steps.losses) == 1
        assert np.isnan(steps.losses[0])


def test_a_private_layer_trains_here_and_a_shared_one_on_the_servers(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, "NCF_MLP", sync_mode="async", local_dense=["mlp.0.bias", "predict.weight"])
    learners = both(job, local=False)
    starts = [learner.private_dense.values.copy() for learner in learners]
    for learner in learners:
        shared = learner.dense.values.copy()
        learner.train(learner.data.order(0)[:64], 32)
        np.testing.assert_array_equal(learner.dense.values, shared)
    one, other = learners
    assert (one.private_dense.values != starts[0]).any()
    np.testing.assert_allclose(one.private_dense.raw, other.private_dense.raw, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(one.gradients().dense, other.gradients().dense, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rule", [pytest.param("adam", marks=pytest.mark.slow), "sgd"])
def test_over_a_pass_the_steps_part_from_torchs_by_no_more_than_one_rounding_does(
    rule: str, make_job: MakeJob, tmp_path: Path
) -> None:
    """A difference of rules would part them further than a start that is off by its last bit."""
    rng, samples = np.random.default_rng(0), 20_000
    user, item = rng.integers(0, 120, samples), rng.integers(0, 220, samples)
    label = (rng.normal(size=(120, 4))[user] * rng.normal(size=(220, 4))[item]).sum(axis=1) > 1
    job = job_of(make_job, tmp_path, "NCF_MLP", rule)
    plan = make_plan(job)
    data = ClientData(Samples.pairs(user, item, label.astype(np.float32)), None, ME, 0, shuffle=False)
    one, other, moved = (Learner(p, job, data, True) for p in (plan, Plan(plan.network), Plan(plan.network)))
    moved.dense.values[:] = np.nextafter(moved.dense.values, np.float32(1))

    def apart(a: Learner, b: Learner) -> float:
        rows = [np.abs(a.tables[name].block - b.tables[name].block).max() for name in a.tables]
        return float(max(*rows, np.abs(a.dense.values - b.dense.values).max()))

    for learner in (one, other, moved):
        learner.train(np.arange(samples, dtype=np.int32), 64)
    assert apart(one, other) <= 4 * apart(other, moved)
