"""Compiled steps of two towers: each item told from those of its batch, beside torch's; and ranking by their rows."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedps.config import Job
from fedps.config.sections.features import spaces
from fedps.data.samples import ClientData
from fedps.models.inputs import made_up
from fedps.models.network import Plan
from fedps.training.compiled import Compiled
from fedps.training.eager import Eager
from fedps.training.learner import Learner, numbered
from fedps.training.planning import plan_network
from fedps.types import ClientId, Samples
from tests.conftest import MakeJob
from tests.training.test_features import job_of

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: steps are taken by torch here")

NET = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item, self.genre = nn.Embedding(30, 6), nn.Embedding(50, 6), nn.Embedding(7, 6)
        self.one, self.other = nn.Linear(15, 10), nn.Linear(6, 10)

    def forward(self, user, item, history, genres, age):
        rows = self.item(history).sum(1) / (history >= 0).sum(1, keepdim=True).clamp(min=1)
        queries = self.one(torch.cat([self.user(user), rows + self.genre(genres), age], 1)).relu()
        return 3 * F.normalize(queries, dim=1), {items}
"""
ITEMS = "F.normalize(self.other(self.item(item)), dim=1)"
FEATURES: dict[str, dict[str, object]] = {
    "user": {"kind": "id", "rows": 30},
    "item": {"kind": "id", "rows": 50},
    "history": {"kind": "ids", "table": "item", "max": 6},
    "genres": {"kind": "ids", "rows": 7, "pooling": "sum", "side": "user"},
    "age": {"kind": "number", "dim": 3, "side": "user"},
    "label": {"kind": "label"},
}
CASES = {
    "corrected": (f"{ITEMS}, item", "in_batch_softmax"),
    "not corrected": (ITEMS, "in_batch_softmax"),
    "items that know of the user": (f"{ITEMS} + self.user(user).sum(1, keepdim=True), item", "in_batch_softmax"),
    "sample by sample": (f"{ITEMS}, item", "bce"),
}


def both(make_job: MakeJob, folder: Path, case: str, local: bool) -> tuple[Learner, Learner, ClientData]:
    items, loss = CASES[case]
    optimizer = {"class": "sgd", "learning_rate": 0.5}
    job = job_of(make_job, folder, FEATURES, NET.replace("{items}", items), loss=loss, optimizer=optimizer)
    plan, data = plan_network(job), data_of(job)
    assert plan.library, plan.reason
    one, other = (Learner(p, job, data, local_optimizer=local) for p in (plan, Plan(plan.network)))
    assert isinstance(one.engine, Compiled)
    assert isinstance(other.engine, Eager)
    rng = np.random.default_rng(0)
    for name, table in one.tables.items():  # rows start near 0, where all functions are straight
        table.block[:] = other.tables[name].block[:] = rng.standard_normal(table.block.shape)
    return one, other, data


def data_of(job: Job, samples: int = 390) -> ClientData:
    """Make up samples whose items occur more and less often, each label 0 that of a sample that does not count."""
    rng, inputs = np.random.default_rng(3), job.inputs
    columns = {name: made_up(inputs, name, samples, rng) for name, f in inputs.items() if f.kind != "label"}
    columns["item"] = (50 * rng.random(samples) ** 2).astype(np.int64)
    every = Samples(columns, rng.integers(0, 2, samples).astype(np.float32))
    return ClientData(
        every, every.at(np.arange(40)), ClientId("0"), 0, shuffle=True, num_items=50, spaces=spaces(inputs), catalogue=True
    )  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case == "not corrected" else case for case in CASES]
)
def test_a_pass_and_all_scores_are_those_of_torch(case: str, make_job: MakeJob, tmp_path: Path) -> None:
    one, other, data = both(make_job, tmp_path, case, local=True)
    size = 150  # more than two tiles; the last batch, of 90, more than one
    found, due = (learner.train(data.order(0), size) for learner in (one, other))
    np.testing.assert_allclose(found.losses, due.losses, rtol=1e-5)
    np.testing.assert_allclose(found.scores, due.scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.histogram.positives, due.histogram.positives)
    for name, table in one.tables.items():
        np.testing.assert_allclose(table.block, other.tables[name].block, rtol=1e-3, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(one.dense.values, other.dense.values, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(one.score(), other.score(), rtol=1e-4, atol=1e-5)
    ranked = [learner.engine.ranker(*numbered(50))(*data.held_out(np.arange(7))) for learner in (one, other)]
    assert ranked[0].shape == (7, 50)
    np.testing.assert_allclose(ranked[0], ranked[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["corrected", pytest.param("not corrected", marks=pytest.mark.slow)])
def test_gradients_for_the_servers_are_those_of_torch(case: str, make_job: MakeJob, tmp_path: Path) -> None:
    one, other, data = both(make_job, tmp_path, case, local=False)
    for learner in (one, other):
        learner.train(data.order(0)[:140], 140)
    found, due = one.gradients(), other.gradients()
    for name, (slots, rows) in found.rows.items():
        np.testing.assert_array_equal(slots, due.rows[name][0])
        np.testing.assert_allclose(rows, due.rows[name][1], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.dense, due.dense, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (f"{ITEMS}, user", "it tells items apart by other ids than those of item"),
        (f"{ITEMS}, item + 0", "add with a factor|as with a sample's value"),
        (f"{ITEMS}.flip(0)", "flip has no operation here"),
    ],
)
def test_what_two_towers_are_trained_by_torch_for_is_named(
    items: str, said: str, make_job: MakeJob, tmp_path: Path
) -> None:
    plan = plan_network(job_of(make_job, tmp_path, FEATURES, NET.replace("{items}", items), loss="in_batch_softmax"))
    assert not plan.library
    assert any(word in plan.reason for word in said.split("|")), plan.reason
