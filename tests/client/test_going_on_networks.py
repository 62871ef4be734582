"""What else a client goes on from, to the bit: torch's dropout, normalization, sequences, soft targets, a simulated device, a dump."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fedps.client.checkpoint import NEWEST
from fedps.config import Job, load_job
from fedps.data.read.client import read_client
from fedps.events import events
from fedps.simulation.traces import Trace, write_traces
from fedps.training.draws import prepare_torch
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.types import ClientId, State
from tests.client.lives import Mortal, left, same, told, world
from tests.client.test_modes import ADAM, SMALL, write_clients
from tests.conftest import MakeJob
from tests.distilling import distilling

FIGURES = (events.EpochEnd, events.Evaluated, events.Round)
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_users, num_items):
        super().__init__()
        self.user, self.item = nn.Embedding(num_users, 6), nn.Embedding(num_items, 6)
        self.normal, self.drop, self.top = nn.LayerNorm(12), nn.Dropout(0.3), nn.Linear(12, 1)

    def forward(self, user, item):
        rows = torch.cat([self.user(user), self.item(item)], 1)
        return self.top(self.drop(self.normal(rows))).squeeze(1)
"""
SEQUENCES: dict[str, dict[str, Any]] = {
    "user": {"kind": "id", "rows": 40, "optional": True},
    "item": {"kind": "id", "rows": 30},
    "history": {"kind": "ids", "table": "item", "max": 6},
    "label": {"kind": "label"},
}


def goes_on(job: Job, folder: Path, within: bool) -> Path:
    """Let a job be broken off and go on; make sure that it comes to what an unbroken one does; return its folder."""
    with world(job, folder / "unbroken") as calm:
        due = left(calm, calm.live())
    with world(job, folder / "broken") as broken:
        broken.live(dies_after=1, within=within)
        same(left(broken, broken.live(resume=NEWEST)), due)
        assert told(broken, *FIGURES) == told(calm, *FIGURES)
        assert told(broken, events.Simulated) == told(calm, events.Simulated)
    return folder


def job_of(make_job: MakeJob, folder: Path, *sizes: int, **runner: Any) -> Job:
    train = write_clients(folder / "data", *sizes)
    return make_job(
        SMALL | ADAM, train_data_dir=str(train), test_data_dir=str(train), train_batch_size=16, geo_step=2, epochs=3,
        metrics=["auc"], checkpoint_every=4, **runner,
    )  # fmt: skip


@pytest.mark.parametrize("within", [False, True], ids=["at an epoch's end", "within an epoch"])
def test_dropout_and_normalization(within: bool, make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    job = job_of(make_job, tmp_path, 150, 150, model="net.Net", local_sparse=["user.weight"])
    goes_on(job, tmp_path, within)


def test_what_a_client_draws_is_its_own_whoever_draws_between(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    job = job_of(make_job, tmp_path, 64, 64, model="net.Net", local_sparse=["user.weight"])
    plan = make_plan(job)

    def learner(client: str) -> Learner:
        return Learner(plan, job, read_client(job, ClientId(client)), local_optimizer=True)

    def losses(between: Callable[[Learner], object]) -> list[float]:
        one = learner("0")
        prepare_torch(job.runner.seed, ClientId("0"))
        order, found = one.data.order(0), list[float]()
        for start in range(0, 64, 16):
            found.extend(one.train(order[start : start + 16], 16).losses)
            between(one)
        return found

    other = learner("1")
    alone = losses(lambda one: None)
    assert losses(lambda one: other.train(other.data.order(0), 16)) == alone
    assert losses(lambda one: torch.rand(7)) == alone

    def die(one: Learner) -> None:
        state = deepcopy(one.state())
        one.train(one.data.order(0), 16)
        one.restore(state)

    assert losses(die) == alone
    before = torch.get_rng_state()
    other.train(other.data.order(1), 16)
    assert torch.equal(torch.get_rng_state(), before), "nobody else's draws change"


@pytest.mark.parametrize("within", [False, True], ids=["at an epoch's end", "within an epoch"])
@pytest.mark.parametrize(
    ("runner", "hyper"),
    [
        ({"negatives": 2}, {"mode": "DIN", "hidden_units": [8], "attention_hidden_units": [8]}),
        ({}, {"mode": "SASRec", "loss": "in_batch_softmax", "num_blocks": 1, "num_heads": 1, "dropout": 0.2}),
    ],
    ids=["DIN", "SASRec"],
)
def test_sequences(runner: dict[str, Any], hyper: dict[str, Any], within: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "data").mkdir()
    lines = ["user,item,history,label"]
    for _ in range(120):
        history = "|".join(map(str, rng.integers(0, 30, rng.integers(1, 6))))
        lines.append(f"{rng.integers(40)},{rng.integers(30)},{history},1")
    (tmp_path / "data" / "0.csv").write_text("\n".join(lines) + "\n")
    tree = {
        "runner": {
            "train_data_dir": "data", "test_data_dir": "data", "train_batch_size": 16, "geo_step": 2, "epochs": 3,
            "checkpoint_every": 2, "metrics": ["full_hr@10"], **runner,
        },
        "features": SEQUENCES,
        "hyper_parameters": {"embedding_dim": 8, "optimizer": {"class": "adam", "learning_rate": 0.01}, **hyper},
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    goes_on(load_job(tmp_path / "job.yaml"), tmp_path, within)


@pytest.mark.parametrize("sync_mode", ["geo", "sync"])
def test_a_round_that_a_coordinator_assigns(sync_mode: str, make_job: MakeJob, tmp_path: Path) -> None:
    goes_on(
        job_of(make_job, tmp_path, 150, 230, with_coordinator=True, sync_mode=sync_mode), tmp_path, sync_mode == "geo"
    )


def test_soft_targets(make_job: MakeJob, tmp_path: Path) -> None:
    job = distilling(make_job, tmp_path, {"samples": 40, "teacher": "mean"}, epochs=3)
    goes_on(job, tmp_path, within=False)


@pytest.mark.parametrize("within", [False, True], ids=["at an epoch's end", "within an epoch"])
def test_a_simulated_device(within: bool, make_job: MakeJob, tmp_path: Path) -> None:
    job_of(make_job, tmp_path, 230, 150, with_coordinator=True)
    write_traces(tmp_path / "traces.json", {ClientId(k): Trace(100.0, 1e5, 0.0) for k in "01"}, {})
    goes_on(load_job(tmp_path / "job.yaml", ["simulation.traces=traces.json"]), tmp_path, within)


def test_a_dump_is_that_of_an_unbroken_run(make_job: MakeJob, tmp_path: Path) -> None:
    fields = {"need_dump": True, "dump_fields": ["item", "label", "score"], "dump_param": ["predict.bias"]}
    job = job_of(make_job, tmp_path, 230, **fields)
    with world(job, tmp_path / "unbroken") as calm, world(job, tmp_path / "broken") as broken:
        calm.live()
        broken.live(dies_after=1, within=True)
        with (broken.run_dir / "dump" / "epoch_1" / "part-000-00000").open("a") as file:
            file.write("what was dumped behind the checkpoint")
        broken.live(resume=NEWEST)
    due, found = (sorted((w.run_dir / "dump").glob("*/*")) for w in (calm, broken))
    assert [path.parent.name for path in found] == ["epoch_0", "epoch_1", "epoch_2"]
    assert [path.read_text() for path in found] == [path.read_text() for path in due]


def test_a_class_of_ones_own_keeps_what_it_adds(make_job: MakeJob, tmp_path: Path) -> None:
    class Counting(Mortal):
        def __init__(self, *args: Any, **how: Any) -> None:
            super().__init__(*args, **how)
            self.losses: list[float] = []

        def callback_train(self) -> None:
            super().callback_train()
            assert self.trained
            self.losses.append(self.trained.loss)

        def state(self) -> State:
            return {**super().state(), "losses": self.losses}

        def restore(self, state: State) -> None:
            super().restore(state)
            self.losses = state["losses"]

    job, found = job_of(make_job, tmp_path, 60), list[list[float]]()
    for folder, deaths in (("unbroken", ()), ("broken", (1, 2))):
        with world(job, tmp_path / folder, Counting) as there:
            for epoch in deaths:
                there.live(dies_after=epoch, resume=NEWEST)
            (client,) = there.live(resume=NEWEST).values()
            assert isinstance(client, Counting)
            found.append(client.losses)
    assert found[0] == found[1]
    assert len(found[0]) == 3
