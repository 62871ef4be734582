"""Clients of one round whose windows differ in length: what is merged with what, and that nobody is waited for in vain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedps.config import Job
from fedps.coordinator.selectors import ClientSelectorBase, FLStrategy
from fedps.launch.inprocess import run_in_process
from fedps.serving.export import export_run
from fedps.types import ClientId
from tests.client.test_modes import SGD, SMALL, Weights, batches, close, optimizer, start, step, write_clients
from tests.conftest import MakeJob
from tests.events.kept import into

SIZES = (192, 128, 32)  # 6, 4 and 1 batches
STEPS = (3, 1, 5)  # so 2, 4 and 1 windows


class Windows(ClientSelectorBase):
    """Lets all train, with windows of so many batches each, by the order of their names; 0: the job's."""

    def __init__(self, job: Job, *steps: int) -> None:
        super().__init__(job)
        self._steps = steps

    def select(self) -> Mapping[ClientId, Any]:
        names = sorted(self.clients_info)
        return {c: FLStrategy(geo_step=s or None) for c, s in zip(names, self._steps, strict=True)}


def ran(job: Job, folder: Path, *steps: int) -> tuple[Weights, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    run_in_process(job, folder / "run", into(events), selector=Windows(job, *steps))
    return load_file(export_run(folder / "run", folder / "out", private=True)), events


def merged(changes: list[Weights], name: str, how: str) -> torch.Tensor:
    """Return what a parameter's changes of one window come to; `touched_*` tell which rows each client pushed."""
    deltas, table = torch.stack([change[name] for change in changes]), name.partition(".")[0]
    sparse = f"touched_{table}" in changes[0]
    rows = deltas.reshape(len(changes), -1, deltas.shape[-1]) if sparse else deltas.reshape(len(changes), 1, -1)
    total = rows.sum(0)
    count = sum(change[f"touched_{table}"] for change in changes) if sparse else torch.tensor([len(changes)])
    touched = torch.as_tensor(count)[:, None].clamp(min=1)
    squares, norm = (rows**2).sum((0, 2))[:, None], (total**2).sum(1, keepdim=True).clamp(min=1e-12)
    factor = {"heat": 1 / touched, "adaptive": (squares / norm).clamp(1 / len(changes), 1)}[how]
    return (factor * total).reshape(deltas.shape[1:])


def by_hand(job: Job, folder: Path) -> nn.Module:
    """Train in turn: window by window, each client that has batches left takes its own number of them."""
    common = start(job, folder)
    left = [list(batches(job, str(k), 0)) for k in range(len(SIZES))]
    while any(left):
        changes = []
        for k, mine in enumerate(left):
            model = start(job, folder)
            model.load_state_dict(common.state_dict())
            opt = optimizer(job, model)
            for batch in mine[: STEPS[k]]:
                step(model, opt, batch)
            if mine:
                before = dict(common.named_parameters())
                taken = mine[: STEPS[k]]
                users, items = (torch.cat([batch[c] for batch in taken]) for c in (0, 1))
                changes.append({n: (p - before[n]).detach() for n, p in model.named_parameters()})
                changes[-1]["touched_mlp_user"] = torch.bincount(users, minlength=40).clamp(max=1)
                changes[-1]["touched_mlp_item"] = torch.bincount(items, minlength=20).clamp(max=1)
            left[k] = mine[STEPS[k] :]
        with torch.no_grad():
            for name, weight in common.named_parameters():
                weight.add_(merged(changes, name, job.runner.geo_merge))
    return common


@pytest.mark.parametrize("merge", ["heat", "adaptive"])
def test_windows_of_one_number_are_merged_whatever_their_length(merge: str, make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", *SIZES)
    job = make_job(
        {**SMALL, **SGD}, train_data_dir=str(train), test_data_dir=None, geo_step=100, geo_merge=merge, geo_overlap=0,
        local_sparse=[], with_coordinator=True,
    )  # fmt: skip
    found, _ = ran(job, tmp_path, *STEPS)
    close(found, by_hand(job, tmp_path), 2e-6)


def test_a_step_for_all_is_the_jobs_own(make_job: MakeJob, tmp_path: Path) -> None:
    adam = {"optimizer": {"class": "adam", "learning_rate": 0.01}}
    jobs = (make_job(adam, epochs=2, with_coordinator=True, geo_step=step) for step in (4, 9))
    own, assigned = (ran(job, tmp_path / str(k), *[4] * 10)[0] for k, job in enumerate(jobs))
    assert all(torch.equal(own[name], assigned[name]) for name in own)


@pytest.mark.parametrize("merge", ["adaptive", "heat", "mean", "original"])
def test_nobody_is_left_behind_and_the_run_repeats(merge: str, make_job: MakeJob, tmp_path: Path) -> None:
    steps = (1, 1000, 2, 3, 0, 7, 11, 1, 5, 13)
    found = []
    for again in "ab" if merge in ("adaptive", "heat") else "a":
        job = make_job(epochs=3, with_coordinator=True, geo_merge=merge, geo_overlap=4, server_num=2)
        weights, events = ran(job, tmp_path / again, *steps)
        trained = [e["samples"] for e in events if e["event"] == "epoch_end"]
        assert len(trained) == 30 and sum(trained) == 3 * sum(e["samples"] for e in events if e["event"] == "data")
        assert not [e for e in events if e["event"] in ("suspended", "left_behind", "lost", "refused")]
        found.append(weights)
    assert all(np.array_equal(found[0][name], found[-1][name]) for name in found[0])
