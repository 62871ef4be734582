"""A loss of the user's own is what training makes small."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from fedps.config import Job
from fedps.data.read.client import read_client
from fedps.launch.inprocess import run_in_process
from fedps.models.build import build
from fedps.models.describe import describe
from fedps.serving.export import export_run
from fedps.table.rules import initial_rows
from fedps.training.parameters import read_parameters
from fedps.types import ClientId
from tests.conftest import MakeJob, batches_of

NET = """
import torch
from torch import nn

class Dot(nn.Module):
    def __init__(self, num_users, num_items):
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, 4), nn.Embedding(num_items, 4)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, user, item):
        return (self.user(user) * self.item(item)).sum(1) + self.bias

class Squared(Dot):
    def loss(self, logits, label):
        return (torch.sigmoid(logits) - label).square().mean()

class Paired(Dot):
    def loss(self, logits, label):
        assert label.view(-1, 2).tolist() == [[1, 0]] * (len(label) // 2)
        return -torch.log(torch.sigmoid(logits[0::2] - logits[1::2])).mean()
"""


def job_of(make_job: MakeJob, tmp_path: Path, network: str, loss: str = "bce") -> Job:
    (tmp_path / "train").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.integers(0, 12, 300), rng.integers(0, 9, 300), rng.integers(0, 2, 300)])
    np.savetxt(tmp_path / "train" / "0.csv", rows, fmt="%d", delimiter=",")
    (tmp_path / "net.py").write_text(NET)
    return make_job(
        {"num_users": 12, "num_items": 9, "optimizer": {"class": "sgd", "learning_rate": 0.5}, "loss": loss},
        model=f"net.{network}", train_data_dir="train", test_data_dir=None, local_sparse=[], sync_mode="async",
    )  # fmt: skip


def trained(job: Job, out: Path) -> dict[str, torch.Tensor]:
    run_in_process(job, out, lambda event: None)
    return load_file(export_run(out, out / "export", private=True))


def expected(job: Job) -> dict[str, torch.Tensor]:
    """Train by a plain loop of torch."""
    model = build(job)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for e in read_parameters(describe(model), job).embeddings:
            weights[e.spec.name].copy_(torch.from_numpy(initial_rows(e.spec, np.arange(e.spec.shape[0]))))
    opt = torch.optim.SGD(model.parameters(), lr=0.5)
    data = read_client(job, ClientId("0"))
    for batch in batches_of(data, 0, job.runner.train_batch_size):
        opt.zero_grad()
        logits = model(*(torch.from_numpy(c[batch]) for c in (data.train.user, data.train.item)))
        (torch.sigmoid(logits) - torch.from_numpy(data.train.label[batch])).square().mean().backward()  # type: ignore[no-untyped-call]
        opt.step()
    return {name: w.detach() for name, w in weights.items()}


def test_training_follows_the_networks_own_loss(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, "Squared")
    found, due = trained(job, tmp_path / "own"), expected(job)
    plain = trained(job_of(make_job, tmp_path, "Dot"), tmp_path / "plain")
    for name, weight in due.items():
        np.testing.assert_allclose(found[name].numpy(), weight.numpy(), atol=1e-5, err_msg=name)
        assert float((plain[name] - weight).abs().max()) > 1e-3


def test_with_bpr_a_loss_of_your_own_gets_pairs(make_job: MakeJob, tmp_path: Path) -> None:
    own = trained(job_of(make_job, tmp_path, "Paired", "bpr"), tmp_path / "own")
    built_in = trained(job_of(make_job, tmp_path, "Dot", "bpr"), tmp_path / "built-in")
    for name, weight in own.items():
        np.testing.assert_allclose(built_in[name].numpy(), weight.numpy(), atol=1e-5, err_msg=name)
