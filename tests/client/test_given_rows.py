"""What a network brings along is kept: rows that are data start as they are, frozen parameters stay as they are."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from fedps.client.private_rows import save_shared
from fedps.config import Job
from fedps.data.read.client import read_client
from fedps.errors import JobError
from fedps.models.build import build, redrawn
from fedps.models.describe import describe
from fedps.storage.epochs import read_model
from fedps.storage.tables import tensor
from fedps.table.rules import initial_rows
from fedps.training.learner import Learner
from fedps.training.parameters import read_parameters
from fedps.training.plan import make_plan
from fedps.types import ClientId
from tests.client.test_modes import batches, finished, optimizer, step, write_clients
from tests.conftest import MakeJob

compiled_too = pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"))],
    ids=["torch", "compiled"],
)
NET = """
import torch
from torch import nn

GENRES = (torch.arange(20 * 3).reshape(20, 3) % 7 == 0).float()

class Genres(nn.Module):
    '''Tables that are data, of all kinds, and layers, of which some are frozen.'''
    def __init__(self, num_users, num_items, frozen):
        super().__init__()
        self.user = nn.Embedding(num_users, 4)
        with torch.no_grad():
            self.user.weight[7] = 0.25  # a row that is given among drawn ones
        self.item = nn.Embedding(num_items, 4)
        self.genre = nn.Embedding.from_pretrained(GENRES[:num_items].clone(), freeze=frozen)
        self.mix, self.out = nn.Linear(11, 5), nn.Linear(5, 1)
        if frozen:
            self.mix.requires_grad_(False)

    def forward(self, user, item):
        rows = torch.cat([self.user(user), self.item(item), self.genre(item)], 1)
        return self.out(torch.relu(self.mix(rows))).squeeze(1)

class Padded(Genres):
    def __init__(self, num_users, num_items, frozen):
        super().__init__(num_users, num_items, frozen)
        self.item = nn.Embedding(num_items, 4, padding_idx=0, max_norm=1.0)
"""
MODES: list[dict[str, object]] = [
    {"sync_mode": "async"},
    {"sync_mode": "sync"},
    {"sync_mode": "geo", "geo_step": 3},
    {"sync_mode": "geo", "geo_step": 3, "geo_merge": "original"},
    {"sync_mode": "geo", "geo_step": 3, "geo_merge": "buffered"},
    {"sync_mode": "round"},
]
PLACES: dict[str, dict[str, object]] = {
    "shared": {"local_sparse": ["user.weight"], "remote_sparse": ["item.weight", "genre.weight"], "local_dense": []},
    "private": {
        "local_sparse": ["genre.weight", "item.weight"],
        "remote_sparse": ["user.weight"],
        "local_dense": ["mix.weight", "out.bias"],
    },
}


def own_job(
    make_job: MakeJob, folder: Path, frozen: bool, runner: Mapping[str, object], clients: int = 1, decay: float = 0.0
) -> Job:
    (folder / "net.py").write_text(NET)
    train = folder / "data" / "train"
    if not train.is_dir():
        write_clients(folder / "data", *[200] * clients)
    sgd = {"class": "sgd", "learning_rate": 0.5, "weight_decay": decay}
    hyper = {"num_users": 10 * clients, "num_items": 20, "frozen": frozen, "optimizer": sgd}
    keys: dict[str, object] = {"model": "net.Genres", "train_data_dir": str(train), "test_data_dir": None, **runner}
    return make_job(hyper, **keys)


def start_of(job: Job) -> torch.nn.Module:
    """Return the network at the very start of the run."""
    model = build(job)
    with torch.no_grad():
        for e in read_parameters(describe(model, redrawn(model, job)), job).embeddings:
            if e.spec.init.kind != "given":
                rows = initial_rows(e.spec, np.arange(e.spec.shape[0]))
                model.get_parameter(e.spec.name).copy_(torch.from_numpy(rows))
    return model


@compiled_too
@pytest.mark.parametrize(
    ("mode", "place"), [*[(mode, "shared") for mode in MODES], (MODES[2], "private")], ids=lambda value: str(value)
)
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_a_network_starts_from_the_rows_it_was_given_and_keeps_what_is_frozen(
    frozen: bool, mode: dict[str, object], place: str, compiled: bool, make_job: MakeJob, tmp_path: Path
) -> None:
    job = own_job(make_job, tmp_path, frozen, {"compiled_step": compiled, "epochs": 2, **mode, **PLACES[place]})
    assert bool(make_plan(job).library) is compiled
    alone = start_of(job)
    given = alone.get_parameter("genre.weight").detach().clone()
    opt = optimizer(job, alone)
    for epoch in range(2):
        for batch in batches(job, "0", epoch):
            step(alone, opt, batch)
    found = finished(job, tmp_path)
    assert set(found) == {name for name, _ in alone.named_parameters()}
    for name, weight in alone.named_parameters():
        atol, rtol = (1e-4, 1e-7) if weight.requires_grad else (0.0, 0.0)
        np.testing.assert_allclose(found[name].numpy(), weight.detach().numpy(), rtol, atol, err_msg=name)
    assert torch.equal(found["genre.weight"], given) is frozen


def test_what_is_frozen_does_not_decay_and_several_clients_and_servers_agree_on_what_is_given(
    make_job: MakeJob, tmp_path: Path
) -> None:
    job = own_job(make_job, tmp_path, True, {**MODES[2], "server_num": 2, **PLACES["shared"]}, 3, 0.1)
    due, found = build(job), finished(job, tmp_path)
    for name in ("genre.weight", "mix.weight", "mix.bias"):
        assert torch.equal(found[name], due.get_parameter(name)), name
    assert not torch.equal(found["out.weight"], due.get_parameter("out.weight"))


def test_a_warm_start_brings_what_is_frozen_now_from_the_epoch_that_trained_it(
    make_job: MakeJob, tmp_path: Path
) -> None:
    first = own_job(make_job, tmp_path, False, MODES[0] | PLACES["shared"])
    trained = finished(first, tmp_path)
    warm = str(tmp_path / "run" / "model" / "1")
    job = own_job(make_job, tmp_path, True, {**MODES[0], "warmup_model_path": warm, **PLACES["shared"]})
    (tmp_path / "again").mkdir()
    found = finished(job, tmp_path / "again")
    for name in ("genre.weight", "mix.weight", "mix.bias"):
        assert torch.equal(found[name], trained[name]), name
    assert not torch.equal(found["item.weight"], trained["item.weight"])


def test_a_table_counts_as_given_where_a_second_draw_finds_the_same_rows(make_job: MakeJob, tmp_path: Path) -> None:
    job = own_job(make_job, tmp_path, False, PLACES["shared"])
    model = build(job)
    network = describe(model, redrawn(model, job))
    assert set(network.given) == {"user.weight", "genre.weight"}
    assert {e.name: e.init.kind for e in network.embeddings}["item.weight"] == "normal"
    np.testing.assert_array_equal(network.given_rows("user.weight"), model.get_parameter("user.weight").detach())


def test_embeddings_with_options_that_rows_do_not_have_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    job = own_job(make_job, tmp_path, False, PLACES["shared"] | {"model": "net.Padded"})
    with pytest.raises(JobError, match=r"item.weight has padding_idx=0, max_norm=1.0.*leave it out"):
        read_parameters(describe(build(job)), job)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_a_worker_by_hand_keeps_given_and_frozen_values_with_the_rest(
    frozen: bool, make_job: MakeJob, tmp_path: Path
) -> None:
    job = own_job(make_job, tmp_path, frozen, PLACES["shared"])
    learner = Learner(make_plan(job), job, read_client(job, ClientId("0")), local_optimizer=True)
    learner.tables["genre.weight"].values[2:] += 1
    save_shared(learner, job, tmp_path / "run", 1)
    saved = read_model(tmp_path / "run" / "model" / "1")
    due = build(job).get_parameter("genre.weight").detach().clone()
    due[torch.from_numpy(learner.tables["genre.weight"].keys[2:])] += 1
    np.testing.assert_array_equal(tensor(saved["genre.weight"]), due)
    np.testing.assert_array_equal(tensor(saved["mix.weight"]), build(job).get_parameter("mix.weight").detach())
