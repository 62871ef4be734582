"""Whole runs whose servers have an optimizer of their own, or a buffer, against the same written out."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedps.launch.inprocess import run_in_process
from fedps.storage import epochs as saved
from fedps.training.rules import server_rule
from tests.client.test_modes import SGD, SMALL, close, finished, local_changes, write_clients
from tests.conftest import MakeJob
from tests.events.kept import into

SIZES = (96, 96, 96)
RATE, BETA1, BETA2, TAU = 0.05, 0.9, 0.8, 0.01


def moved(name: str, mean: torch.Tensor) -> torch.Tensor:
    """Return how far a first change moves a value."""
    if name == "momentum":
        return RATE * mean
    m, square, start = (1 - BETA1) * mean, mean**2, torch.full_like(mean, TAU**2)
    v = {
        "adagrad": start + square,
        "adam": BETA2 * start + (1 - BETA2) * square,
        "yogi": start - (1 - BETA2) * square * torch.sign(start - square),
    }[name]
    return RATE * m / (v.sqrt() + TAU)


@pytest.mark.parametrize("name", ["momentum", "adagrad", "adam", "yogi"])
def test_a_round_ends_with_the_servers_own_step_along_the_mean_change(
    name: str, make_job: MakeJob, tmp_path: Path
) -> None:
    train = write_clients(tmp_path / "data", *SIZES)
    job = make_job(
        {**SMALL, **SGD}, train_data_dir=str(train), test_data_dir=None, sync_mode="round", local_sparse=[]
    )  # fmt: skip
    common, changes = local_changes(job, tmp_path, SIZES)
    with torch.no_grad():
        for key, weight in common.named_parameters():
            weight.add_(moved(name, torch.stack([c[key] for c in changes]).mean(0)))
    settings = {"name": name, "learning_rate": RATE, "beta1": BETA1, "beta2": BETA2, "tau": TAU}
    job = job.model_copy(update={"server_optimizer": job.server_optimizer.model_copy(update=settings)})
    close(finished(job, tmp_path), common, 5e-5)  # tau in float32 under small changes
    kept = saved.read_model(tmp_path / "run" / "model" / "1")["mlp_item.weight"]
    assert kept.spec.rule == server_rule(job.server_optimizer)
    assert kept.block.shape[1] == kept.spec.dim * (2 if name == "momentum" else 3)
    assert np.abs(kept.block[:, kept.spec.dim :]).max() > 0, "its state is saved"


def test_a_buffer_that_never_fills_is_the_mean_of_all_at_the_end(make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", *SIZES)
    job = make_job(
        {**SMALL, **SGD}, train_data_dir=str(train), test_data_dir=None, geo_step=3, geo_merge="buffered", buffer=4,
        local_sparse=[],
    )  # fmt: skip
    common, changes = local_changes(job, tmp_path, SIZES)
    with torch.no_grad():
        for key, weight in common.named_parameters():
            weight.add_(torch.stack([c[key] for c in changes]).mean(0))
    close(finished(job, tmp_path), common, 2e-6)


def test_buffered_over_three_servers_trains_every_sample(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(geo_merge="buffered", buffer=2, geo_step=2, server_num=3, epochs=2)
    events: list[dict[str, object]] = []
    run_in_process(job, tmp_path / "run", into(events))
    epochs = {e["epoch"] for e in events if e.get("event") == "epoch_end"}
    assert epochs == {0, 1}
    assert not [e for e in events if e.get("event") in ("refused", "suspended", "lost")]
    for shard in range(3):
        assert (tmp_path / "run" / "model" / "2" / f"server-{shard}.safetensors").is_file()
        assert load_file(tmp_path / "run" / "model" / "2" / f"server-{shard}.safetensors")
