"""Compiled steps of networks of sequences: rows by position, masks, sums, means and softmax over them; beside torch's."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedps.models.network import Plan
from fedps.training.compiled import Compiled
from fedps.training.eager import Eager
from fedps.training.learner import Learner
from fedps.training.planning import plan_network
from tests.conftest import MakeJob
from tests.training.test_features import data_of, job_of

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: steps are taken by torch here")

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item, self.tag = nn.Embedding(30, 8), nn.Embedding(50, 8), nn.Embedding(7, 4)
        self.unit = nn.Sequential(nn.Linear(32, 6), nn.Sigmoid(), nn.Linear(6, 1))
        self.up, self.scale, self.shift = nn.Linear(4, 5, bias=False), nn.Parameter(torch.full((5,), 0.7)), nn.Parameter(torch.ones(1))
        self.top = nn.Linear({width}, 1)

    def forward(self, user, item, history, tags, age):
        u, i, rows, absent = self.user(user), self.item(item), self.item(history), history < 0
        {body}
        return self.top(torch.cat([u, i, pooled, age], 1)).squeeze(1)
"""
FEATURES: dict[str, dict[str, object]] = {
    "user": {"kind": "id", "rows": 30},
    "item": {"kind": "id", "rows": 50},
    "history": {"kind": "ids", "table": "item", "max": 5},
    "tags": {"kind": "ids", "rows": 7, "max": 40},  # so long that a block holds few samples
    "age": {"kind": "number", "dim": 3},
    "label": {"kind": "label"},
}
BODIES = {
    "DIN's attention": (8, """
        targets = i[:, None].expand_as(rows)
        weights = self.unit(torch.cat((targets, rows, targets - rows, targets * rows), 2))
        pooled = (weights.masked_fill(absent[..., None], 0.0) * rows).sum(1)"""),
    "softmax attention": (8, """
        scores = (rows * (u * i)[:, None]).sum(-1).masked_fill(absent, -1e9)
        pooled = (rows * scores.softmax(1).unsqueeze(-1)).sum(1)"""),
    "softmax of several heads": (8, """
        scores = torch.tanh(rows * i.unsqueeze(1)).masked_fill(absent[:, :, None], -30.0)
        pooled = (torch.softmax(scores, dim=-2) * rows[:, :, :1]).sum(dim=1)"""),
    "masked means": (13, """
        more = self.up(self.tag(tags)) * self.scale + self.shift
        there, count = (tags >= 0).float()[..., None], (~(tags == -1)).sum(1, keepdim=True)
        pooled = torch.cat([rows.sum(1) / (history != -1).sum(1, keepdim=True).clamp(min=1), (more * there).sum(1) / (1 + count)], 1)"""),
    "means over all positions": (8, """
        pooled = (rows / (1.5 + i[:, None].square())).mean(1) - rows.mean(2).relu().mean(1, keepdim=True)"""),
    "a product over positions by exponents": (8, """
        pooled = torch.exp(0.1 * (rows * 0.5 - i[:, None]).sum(1) - (tags > -1).float().mean(1)[:, None])"""),
}  # fmt: skip
UNLIKE_OURS = {
    "pooled = rows[:, 0]": "it picks positions",
    "pooled = torch.cat([rows, rows], 1).sum(1)": "it lays positions behind each other",
    "pooled = (rows @ rows.transpose(1, 2) @ rows).sum(1)": "transposes values|bmm",
    "pooled = rows.flatten(1)[:, :8]": "view to shape",
    "pooled = (rows.sum(2) * rows[..., :5].sum(1))[:, :1] + u": "the positions of one value",
    "pooled = rows.sum((1, 2))[:, None] + u": "over dimensions [1, 2] at once",
    "pooled = rows.sum(1) * (user > 3).float()[:, None]": "gt has no operation|computes with",
    "pooled = (rows + self.tag.weight[:5].sum()).sum(1)": "parameter",
}


def net_of(width: int, body: str) -> str:
    return NET.format(width=19 + width, body=body.strip())


@pytest.mark.parametrize("case", BODIES)
def test_a_pass_its_gradients_and_scores_are_those_of_torch(case: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, FEATURES, net_of(*BODIES[case]), optimizer={"class": "sgd", "learning_rate": 0.1})
    plan, data = plan_network(job), data_of(job)
    assert plan.library, plan.reason
    for local in (True, False):
        one, other = (Learner(p, job, data, local_optimizer=local) for p in (plan, Plan(plan.network)))
        assert isinstance(one.engine, Compiled)
        assert isinstance(other.engine, Eager)
        rng = np.random.default_rng(0)
        for name, table in one.tables.items():  # rows start near 0, where all functions are straight
            table.block[:] = other.tables[name].block[:] = rng.standard_normal(table.block.shape)
        found, due = (learner.train(data.order(0), 70) for learner in (one, other))
        np.testing.assert_allclose(found.losses, due.losses, rtol=1e-4)
        np.testing.assert_allclose(found.scores, due.scores, rtol=1e-3, atol=1e-4)
        for name, table in one.tables.items():
            np.testing.assert_allclose(table.block, other.tables[name].block, rtol=1e-3, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(one.dense.values, other.dense.values, rtol=1e-3, atol=1e-4)
        for name, (slots, rows) in one.gradients().rows.items():
            np.testing.assert_array_equal(slots, other.gradients().rows[name][0])
            np.testing.assert_allclose(rows, other.gradients().rows[name][1], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(one.gradients().dense, other.gradients().dense, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(one.score(), other.score(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("body", UNLIKE_OURS)
def test_what_a_sequence_is_trained_by_torch_for_is_named(body: str, make_job: MakeJob, tmp_path: Path) -> None:
    plan = plan_network(job_of(make_job, tmp_path, FEATURES, net_of(8, body)))
    assert not plan.library
    assert any(word in plan.reason for word in UNLIKE_OURS[body].split("|")), plan.reason
