"""Compiled steps of wide layers, whose products go by panels: beside torch's, to rounding, for blocks whole and cut short."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedps.data.samples import ClientData
from fedps.models.network import Plan
from fedps.native import program as op
from fedps.native.source import write
from fedps.training.learner import Learner, numbered
from fedps.training.plan import make_plan
from fedps.types import ClientId, Samples
from tests.conftest import MakeJob

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: steps are taken by torch here")

USERS, ITEMS, SAMPLES = 120, 220, 1300
NET = """
import torch
from torch import nn

class Wide(nn.Module):
    '''Layers whose sizes are no whole vectors or tiles; weights kept either way; a value that two of them read.'''
    def __init__(self, num_users, num_items):
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, 60), nn.Embedding(num_items, 41)
        self.up, self.down, self.out = nn.Linear(101, 300), nn.Linear(75, 101, bias=False), nn.Linear(101, 1)
        self.cross, self.mix = nn.Linear(101, 101), nn.Parameter(torch.randn(300, 75) * 0.1)
    def forward(self, user, item):
        x = torch.cat([self.user(user), self.item(item)], dim=-1)
        deep = self.down(torch.relu(self.up(x)) @ self.mix)
        return self.out(deep + x * self.cross(x) + x).squeeze(-1)
"""


def both(make_job: MakeJob, folder: Path, local: bool, net: str = NET, **runner: object) -> tuple[Learner, Learner]:
    """Return a learner with a compiled step, and one with torch's."""
    (folder / "net.py").write_text(net)
    optimizer = {"class": "sgd", "learning_rate": 0.05, "private_learning_rate": 0.05}
    job = make_job({"optimizer": optimizer}, model="net.Wide", local_sparse=["user.weight"], **runner)
    plan, rng = make_plan(job), np.random.default_rng(0)
    assert plan.library, plan.reason
    user, item, label = (rng.integers(0, count, SAMPLES) for count in (USERS, ITEMS, 2))
    every = Samples.pairs(user, item, label.astype(np.float32))
    data = ClientData(every, every, ClientId("3"), 0, shuffle=False, num_items=ITEMS, catalogue=True)
    one, other = (Learner(p, job, data, local_optimizer=local) for p in (plan, Plan(plan.network)))
    return one, other


@pytest.mark.parametrize("size", [100, 600])  # samples of a batch: less than a block, and several with a short one
def test_gradients_of_wide_layers_are_those_of_torch(size: int, make_job: MakeJob, tmp_path: Path) -> None:
    one, other = both(make_job, tmp_path, local=False, sync_mode="async")
    for learner in (one, other):
        learner.train(np.arange(size, dtype=np.int32), size)
    found, due = one.gradients(), other.gradients()
    np.testing.assert_allclose(found.dense, due.dense, rtol=1e-4, atol=1e-7)
    for name, (slots, rows) in found.rows.items():
        np.testing.assert_array_equal(slots, due.rows[name][0])
        np.testing.assert_allclose(rows, due.rows[name][1], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("size", [90, 500])
def test_a_pass_through_wide_layers_is_that_of_torch(size: int, make_job: MakeJob, tmp_path: Path) -> None:
    one, other = both(make_job, tmp_path, local=True)
    found, due = (learner.train(np.arange(SAMPLES, dtype=np.int32), size) for learner in (one, other))
    np.testing.assert_allclose(found.losses, due.losses, rtol=1e-5)
    np.testing.assert_allclose(found.scores, due.scores, rtol=1e-4)
    for name, table in one.tables.items():
        np.testing.assert_allclose(table.block, other.tables[name].block, rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(one.dense.raw, other.dense.raw, rtol=1e-4, atol=1e-6)


def test_all_items_are_ranked_where_the_part_of_a_layer_that_is_of_one_side_is_wide(
    make_job: MakeJob, tmp_path: Path
) -> None:
    net = NET.replace("60)", "70)").replace("41)", "80)").replace("101", "150")
    found, due = (
        learner.engine.ranker(*numbered(ITEMS))(*learner.data.held_out(np.arange(9)))
        for learner in both(make_job, tmp_path, local=True, net=net)
    )
    assert found.shape == (9, ITEMS)
    np.testing.assert_allclose(found, due, rtol=1e-4, atol=1e-6)


def test_products_go_by_panels_where_both_sides_are_wide() -> None:
    rows = op.Lookup(0, 0, 64)
    for width, layer in ((64, "WideLinear<64, 64, true, SAMPLES * 1>"), (63, " Linear<64, 63, true>")):
        layers = (op.Linear(0, 0, -1, True, width), op.Linear(1, 1, -1, True, 1))
        text = write(op.Program((64,), (64 * width, width), (rows, *layers)))
        assert layer in text
        assert ("SAMPLES = 256" in text) == layer.startswith("Wide")
