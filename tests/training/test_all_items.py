"""Samples against all items at once: what each pair scored by itself gives, whatever the network and whoever takes its steps."""

from pathlib import Path

import numpy as np
import pytest

from fedps.config import Job
from fedps.data.samples import ClientData
from fedps.models.build import build
from fedps.models.catalogue import has_towers
from fedps.models.describe import describe
from fedps.models.network import Plan
from fedps.training.eager import Eager
from fedps.training.learner import Learner
from fedps.training.planning import plan_network
from fedps.types import Samples, Values
from tests.conftest import MakeJob
from tests.models.test_networks import FEATURES, data_of, job_of
from tests.training import test_features

RANKED = {name: feature for name, feature in FEATURES.items() if name != "genres"}  # nothing of the item but its id
SEQUENCE = {name: FEATURES[name] for name in ("item", "history", "label")}
JOBS = {  # mode → features, loss, and whether it is two towers
    "MF": ({name: FEATURES[name] for name in ("user", "item", "label")}, "bce", False),
    "MF, real": ({"user": FEATURES["user"], "item": FEATURES["item"], "label": {"kind": "label", "of": "real"}}, "mse", False),
    "NCF_NeuMF": ({name: FEATURES[name] for name in ("user", "item", "label")}, "bce", False),
    "DeepFM": (RANKED, "bce", False),
    "DCNv2": (RANKED, "bce", False),
    "DIN": (RANKED, "bce", False),
    "DeepFM, two labels": (RANKED | {"click": {"kind": "label"}}, "bce", False),
    "TwoTower": (RANKED, "in_batch_softmax", True),
    "SASRec": (SEQUENCE, "in_batch_softmax", True),
}  # fmt: skip


def made(folder: Path, name: str) -> tuple[Job, ClientData]:
    features, loss, _ = JOBS[name]
    job = job_of(folder, name.partition(",")[0], features, loss=loss)
    return job, data_of(job, num_items=50, catalogue=True)


def pairs(learner: Learner, samples: int) -> Values:
    """Return the logits of each sample with each item, each pair by itself."""
    data, found = learner.data, list[Values]()
    for k in range(samples):
        test, slots = data.held_out(np.full(50, k))
        items = Samples({**test.columns, "item": np.arange(50)}, test.label)
        found.append(learner.engine.score(items, {**slots, "item": np.arange(50, dtype=np.int32)}))
    return np.stack(found)


@pytest.mark.parametrize("name", JOBS)
def test_scores_are_those_of_each_pair(tmp_path: Path, name: str) -> None:
    job, data = made(tmp_path, name)
    learner = Learner(plan_network(job), job, data, local_optimizer=True)
    if isinstance(learner.engine, Eager):
        assert has_towers(build(job)) is JOBS[name][2]
    for epoch in range(2):
        learner.train(data.order(epoch), 40)
        found = learner.catalogue().score(np.arange(20))
        np.testing.assert_allclose(found, pairs(learner, 20), rtol=1e-5, atol=1e-5)
        assert found.std() > 1e-3


MEETING = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(30, 4), nn.Embedding(50, 4)

    def forward(self, user, item):
        own = self.item(item)
        return {}
"""


@pytest.mark.parametrize(
    ("output", "towers"),
    [
        ("self.user(user), own", True),
        ("self.user(user), own.tanh(), item", True),
        ("self.user(user) * own.sum(1, keepdim=True), own", False),
        ("self.user(user) + item[:, None], own", False),
        ("self.user(user), own * self.user(user)", False),
        ("(self.user(user) * own).sum(1)", False),
    ],
)
def test_only_rows_of_the_item_alone_are_made_once(
    make_job: MakeJob, tmp_path: Path, output: str, towers: bool
) -> None:
    features = {name: FEATURES[name] for name in ("user", "item", "label")}
    job = test_features.job_of(make_job, tmp_path, features, MEETING.format(output))
    assert has_towers(build(job)) is towers
    learner = Learner(Plan(describe(build(job))), job, data_of(job, num_items=50, catalogue=True), local_optimizer=True)
    np.testing.assert_allclose(learner.catalogue().score(np.arange(5)), pairs(learner, 5), rtol=1e-5, atol=1e-6)
