"""Each mode against its closed form: a plain loop over the same batches with torch.optim."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedps.config import Job
from fedps.data.read.client import read_client
from fedps.launch.inprocess import run_in_process
from fedps.models.build import build
from fedps.models.describe import describe
from fedps.serving.export import export_run
from fedps.table.rules import initial_rows
from fedps.training.parameters import read_parameters
from fedps.types import ClientId
from tests.columns import columns
from tests.conftest import MakeJob, batches_of

SGD = {"optimizer": {"class": "sgd", "learning_rate": 0.5}}
ADAM = {"optimizer": {"class": "adam", "learning_rate": 0.01}}
Weights = dict[str, torch.Tensor]


def write_clients(folder: Path, *sizes: int) -> Path:
    """Write so many random samples a client; clients share items, not users."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    for k, size in enumerate(sizes):
        user = rng.integers(10 * k, 10 * k + 10, size)
        rows = np.column_stack([user, rng.integers(0, 20, size), rng.integers(0, 2, size)])
        np.savetxt(folder / "train" / f"{k}.csv", rows, fmt="%d", delimiter=",")
    return folder / "train"


def finished(job: Job, folder: Path) -> Weights:
    """Run a job in this process and return its model, private rows joined."""
    run_in_process(job, folder / "run", lambda event: None)
    return load_file(export_run(folder / "run", folder / "out", private=True))


def batches(job: Job, client: str, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    data = read_client(job, ClientId(client))
    for batch in batches_of(data, epoch, job.runner.train_batch_size):
        user, item = (torch.from_numpy(c[batch]) for c in (data.train.user, data.train.item))
        yield user, item, torch.from_numpy(data.train.label[batch])


def optimizer(job: Job, model: nn.Module) -> torch.optim.Optimizer:
    rate = job.hyper_parameters.optimizer.learning_rate
    kind = torch.optim.SGD if job.hyper_parameters.optimizer.name == "sgd" else torch.optim.Adam
    return kind(model.parameters(), lr=rate)


def step(model: nn.Module, opt: torch.optim.Optimizer, batch: tuple[torch.Tensor, ...]) -> None:
    opt.zero_grad()
    nn.functional.binary_cross_entropy_with_logits(model(*batch[:2]), batch[2]).backward()  # type: ignore[no-untyped-call]
    opt.step()


def start(job: Job, folder: Path) -> nn.Module:
    """Return a model at the very start of the run: the seeded rows and the model's own dense weights."""
    model = build(job)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for e in read_parameters(describe(model), job).embeddings:
            weights[e.spec.name].copy_(torch.from_numpy(initial_rows(e.spec, np.arange(e.spec.shape[0]))))
    return model


def close(found: Weights, due: nn.Module, tolerance: float) -> None:
    for name, weight in due.named_parameters():
        np.testing.assert_allclose(found[name].numpy(), weight.detach().numpy(), atol=tolerance, err_msg=name)


SMALL = {"num_users": 40, "num_items": 20}


@pytest.mark.parametrize(
    "mode",
    [
        {"sync_mode": "async"},
        {"sync_mode": "sync"},
        {"sync_mode": "geo", "geo_step": 3},
        {"sync_mode": "geo", "geo_step": 3, "geo_overlap": 10},
        {"sync_mode": "geo", "geo_step": 3, "geo_overlap": 1},
        {"sync_mode": "geo", "geo_step": 3, "geo_merge": "sum"},
        {"sync_mode": "geo", "geo_step": 3, "geo_merge": "original"},
        {"sync_mode": "geo", "geo_step": 3, "geo_merge": "buffered"},
        {"sync_mode": "round"},
    ],
    ids=lambda mode: "-".join(str(v) for v in mode.values()),
)
@pytest.mark.parametrize("private", [["mlp_user.weight"], []], ids=["private", "shared"])
def test_one_client_trains_as_if_alone(
    mode: dict[str, object], private: list[str], make_job: MakeJob, tmp_path: Path
) -> None:
    train = write_clients(tmp_path / "data", 200)
    job = make_job(
        {**SMALL, **SGD},
        train_data_dir=str(train),
        test_data_dir=None,
        epochs=2,
        local_sparse=private,
        **mode,
    )
    alone = start(job, tmp_path)
    opt = optimizer(job, alone)
    for epoch in range(2):
        for batch in batches(job, "0", epoch):
            step(alone, opt, batch)
    close(finished(job, tmp_path), alone, 2e-6)


@pytest.mark.parametrize("mode", ["async", "sync", "geo"])
def test_a_schedule_reaches_what_servers_optimize(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", 200)
    changing = {"optimizer": SGD["optimizer"] | {"schedule": "linear", "warmup": 0.25}}
    job = make_job({**SMALL, **changing}, train_data_dir=str(train), test_data_dir=None, sync_mode=mode, epochs=2)
    alone = start(job, tmp_path)
    opt = optimizer(job, alone)
    (group,) = opt.param_groups
    full = group["lr"]
    for epoch in range(2):
        drawn = list(batches(job, "0", epoch))
        for number, batch in enumerate(drawn):
            done = (epoch + (number + 0.5) / len(drawn)) / 2
            group["lr"] = full * (1 - done) * min(1, done / 0.25)
            step(alone, opt, batch)
    close(finished(job, tmp_path), alone, 2e-6)


@pytest.mark.parametrize("mode", ["async", "sync", "geo", "round"])
def test_adam_follows_torch_adam_of_the_whole_table(mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", 600)
    job = make_job(
        {**SMALL, **ADAM}, train_data_dir=str(train), test_data_dir=None, sync_mode=mode, epochs=2,
        optimizer_state="keep",
    )  # fmt: skip
    alone = start(job, tmp_path)
    before = [p.detach().clone() for p in alone.parameters()]
    opt = optimizer(job, alone)
    for epoch in range(2):
        for batch in batches(job, "0", epoch):
            step(alone, opt, batch)
    moved = max((p.detach() - q).abs().max().item() for p, q in zip(alone.parameters(), before, strict=True))
    close(finished(job, tmp_path), alone, 2e-3 * moved)


def test_sync_applies_the_mean_gradient_of_all_clients(make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", 96, 96, 96)
    job = make_job({**SMALL, **SGD}, train_data_dir=str(train), test_data_dir=None, sync_mode="sync", local_sparse=[])
    model = start(job, tmp_path)
    opt = optimizer(job, model)
    for step_of_all in zip(*(batches(job, c, 0) for c in "012"), strict=True):
        opt.zero_grad()
        losses = [nn.functional.binary_cross_entropy_with_logits(model(u, i), y) for u, i, y in step_of_all]
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        opt.step()
    close(finished(job, tmp_path), model, 2e-6)


def test_sync_in_step_is_one_loop_over_batches_of_all_data(make_job: MakeJob, tmp_path: Path) -> None:
    train = write_clients(tmp_path / "data", 39, 138, 63)  # 80 on average: three steps for all
    plain = {"optimizer": {**ADAM["optimizer"], "shared_learning_rate": 0.01}}
    job = make_job(
        {**SMALL, **plain}, train_data_dir=str(train), test_data_dir=None, sync_mode="sync", local_sparse=[], epochs=2,
    )  # fmt: skip
    model = start(job, tmp_path)
    opt = optimizer(job, model)
    for epoch in range(2):
        for number in range(3):
            parts = []
            for client, step_size in (("0", 13), ("1", 46), ("2", 21)):
                data = read_client(job, ClientId(client))
                order = data.order(epoch)[number * step_size : (number + 1) * step_size]
                parts.append([torch.from_numpy(np.asarray(c)[order]) for c in columns(data.train)])
            step(model, opt, tuple(torch.cat(column) for column in zip(*parts, strict=True)))
    close(finished(job, tmp_path), model, 2e-5)


def local_changes(job: Job, folder: Path, sizes: tuple[int, ...]) -> tuple[nn.Module, list[Weights]]:
    """Train each client apart from the common start; return the start and each one's change."""
    changes = []
    common = start(job, folder)
    origin = {n: p.detach().clone() for n, p in common.named_parameters()}
    for k in range(len(sizes)):
        model = start(job, folder)
        opt = optimizer(job, model)
        for batch in batches(job, str(k), 0):
            step(model, opt, batch)
        changes.append({n: p.detach() - origin[n] for n, p in model.named_parameters()})
    return common, changes


def test_a_round_is_fedavg_weighted_by_samples(make_job: MakeJob, tmp_path: Path) -> None:
    sizes = (100, 200, 50)
    train = write_clients(tmp_path / "data", *sizes)
    job = make_job({**SMALL, **SGD}, train_data_dir=str(train), test_data_dir=None, sync_mode="round", local_sparse=[])
    common, changes = local_changes(job, tmp_path, sizes)
    with torch.no_grad():
        for name, weight in common.named_parameters():
            for size, change in zip(sizes, changes, strict=True):
                weight.add_(change[name], alpha=size / sum(sizes))
    close(finished(job, tmp_path), common, 2e-6)


@pytest.mark.parametrize("merge", ["heat", "adaptive"])
def test_one_geo_window_of_three_clients(merge: str, make_job: MakeJob, tmp_path: Path) -> None:
    sizes = (96, 96, 96)
    train = write_clients(tmp_path / "data", *sizes)
    job = make_job(
        {**SMALL, **SGD},
        train_data_dir=str(train),
        test_data_dir=None,
        geo_step=3,
        geo_merge=merge,
        local_sparse=[],
    )
    common, changes = local_changes(job, tmp_path, sizes)
    with torch.no_grad():
        for name, weight in common.named_parameters():
            deltas = torch.stack([c[name] for c in changes])
            rows = deltas.reshape(3, -1, deltas.shape[-1]) if "mlp_" in name else deltas.reshape(3, 1, -1)
            total = rows.sum(0)
            touched = (rows != 0).any(-1, keepdim=True).float().sum(0).clamp(min=1)
            squares, norm = (rows**2).sum((0, 2))[:, None], (total**2).sum(1, keepdim=True).clamp(min=1e-12)
            factor = {
                "heat": 1 / touched,
                "adaptive": (squares / norm).clamp(1 / 3, 1),
            }[merge]
            weight.add_((factor * total).reshape(weight.shape))
    close(finished(job, tmp_path), common, 2e-6)


@pytest.mark.parametrize("mode", [{"sync_mode": "sync"}, {"sync_mode": "geo"}, {"sync_mode": "round"}])
def test_three_servers_give_the_same_numbers_as_one(mode: dict[str, object], make_job: MakeJob, tmp_path: Path) -> None:
    one = finished(make_job(ADAM, server_num=1, epochs=2, **mode), tmp_path / "one")
    three = finished(make_job(ADAM, server_num=3, epochs=2, **mode), tmp_path / "three")
    assert one.keys() == three.keys()
    for name, weight in one.items():
        assert torch.equal(weight, three[name]), name


def test_a_private_table_and_a_private_layer_stay_out_of_the_servers_files(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(ADAM, local_dense=["predict.weight", "predict.bias"])
    run_in_process(job, tmp_path / "run", lambda event: None)
    shared = load_file(export_run(tmp_path / "run", tmp_path / "out"))
    assert "mlp_item.weight" in shared
    assert not {"mlp_user.weight", "predict.weight", "predict.bias"} & set(shared)
