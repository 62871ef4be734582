"""Compiled steps by every loss, beside torch's, to rounding: several labels, real ones, unknown ones, groups of samples."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedps.config import Job
from fedps.config.sections.features import labels, spaces
from fedps.data.samples import ClientData
from fedps.models.inputs import made_up
from fedps.models.network import Plan
from fedps.training.compiled import Compiled
from fedps.training.eager import Eager
from fedps.training.learner import Learner
from fedps.training.planning import plan_network
from fedps.types import ClientId, Samples
from tests.conftest import MakeJob
from tests.training.test_features import job_of

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: steps are taken by torch here")

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        self.user, self.item, self.top = nn.Embedding(30, 4), nn.Embedding(50, 4), nn.Linear(4, tasks)

    def forward(self, user, item):
        logits = self.top((self.user(user) * self.item(item) * 30).tanh())
        return logits.squeeze(1) if logits.shape[1] == 1 else logits
"""
PAIR = {"user": {"kind": "id", "rows": 30}, "item": {"kind": "id", "rows": 50}}
BINARY, REAL = {"kind": "label"}, {"kind": "label", "of": "real"}
SEVERAL = {"rating": {**REAL, "weight": 0.3}, "click": BINARY, "like": {**BINARY, "weight": 2.5}}
CASES: dict[str, tuple[dict[str, object], str]] = {
    "bce": ({"label": BINARY}, "bce"),
    "bpr": ({"label": BINARY}, "bpr"),
    "sampled_softmax": ({"label": BINARY}, "sampled_softmax"),
    "several": (SEVERAL, "bce"),
    "one real": ({"rating": REAL}, "mse"),
    "several real": ({"rating": {**REAL, "weight": 0.3}, "hours": REAL}, "mse"),
}


def job_with(make_job: MakeJob, folder: Path, case: str, negatives: int = 4) -> Job:
    each, loss = CASES[case]
    job = job_of(make_job, folder, PAIR | each, NET, tasks=len(each))
    hyper = job.hyper_parameters.model_copy(update={"loss": loss})
    runner = job.runner.model_copy(update={"negatives": negatives})
    return job.model_copy(update={"hyper_parameters": hyper, "runner": runner})


def data_of(job: Job, samples: int) -> ClientData:
    """Make up samples, of several labels some unknown."""
    rng, every = np.random.default_rng(3), labels(job.inputs)
    columns = {name: made_up(job.inputs, name, samples, rng) for name in ("user", "item")}
    label = rng.integers(0, 2, (samples, len(every))).astype(np.float32)
    real = [feature.of == "real" for feature in every.values()]
    label[:, real] = 3 * rng.standard_normal((samples, sum(real)))
    if len(every) > 1:
        label[rng.random(label.shape) < 0.3] = np.nan
        label[80:160, 0] = np.nan  # a batch where nobody knows it
    train = Samples(columns, label if len(every) > 1 else label[:, 0])
    return ClientData(train, train.at(np.arange(50)), ClientId("0"), 0, shuffle=False, spaces=spaces(job.inputs))


@pytest.mark.parametrize("case", CASES)
def test_a_pass_its_scores_and_their_histogram_are_those_of_torch(case: str, make_job: MakeJob, tmp_path: Path) -> None:
    job = job_with(make_job, tmp_path, case)
    plan, data = plan_network(job), data_of(job, 230)
    assert plan.library, plan.reason
    one, other = (Learner(p, job, data, local_optimizer=True) for p in (plan, Plan(plan.network)))
    assert isinstance(one.engine, Compiled)
    assert isinstance(other.engine, Eager)
    size = 80  # more than a block; the last batch is short
    found, due = (learner.train(data.order(0), size) for learner in (one, other))
    np.testing.assert_allclose(found.losses, due.losses, rtol=1e-5)
    np.testing.assert_allclose(found.scores, due.scores, rtol=1e-4, atol=1e-5)
    for mine, its in ((s.histogram.positives, s.histogram.negatives) for s in (found, due)):
        assert (mine.sum(), its.sum()) == (due.histogram.positives.sum(), due.histogram.negatives.sum())
    assert found.histogram.auc() == pytest.approx(due.histogram.auc(), abs=1e-3, nan_ok=True)
    for name, table in one.tables.items():
        np.testing.assert_allclose(table.block, other.tables[name].block, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(one.dense.raw, other.dense.raw, rtol=1e-4, atol=1e-5)
    assert one.score().shape == other.score().shape
    np.testing.assert_allclose(one.score(), other.score(), rtol=1e-4, atol=1e-5)


def test_a_group_that_no_block_holds_is_compared_by_torch(make_job: MakeJob, tmp_path: Path) -> None:
    plan = plan_network(job_with(make_job, tmp_path, "sampled_softmax", negatives=64))
    assert not plan.library
    assert plan.reason.startswith("loss sampled_softmax compares 65 samples, of which a block holds 64 (")
