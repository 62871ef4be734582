"""A network of any features trains as torch trains it whole: bags, sequences, numbers, tables that features share."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from fedps.config import Job, load_job
from fedps.config.sections.features import spaces
from fedps.data.samples import ClientData
from fedps.errors import JobError
from fedps.models.build import build
from fedps.models.describe import describe
from fedps.models.inputs import made_up, tensors
from fedps.table.rules import initial_rows
from fedps.training.learner import Learner
from fedps.training.parameters import read_parameters
from fedps.training.planning import plan_network
from fedps.types import ClientId, Samples
from tests.conftest import MakeJob

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item, self.genre = nn.Embedding(30, 4), nn.Embedding(50, 4), nn.Embedding(7, 4)
        self.bag = nn.EmbeddingBag(7, 4, mode="mean")
        self.place = nn.Embedding(5, 4)
        self.top = nn.Linear(19, 1)

    def forward(self, user, item, genres, history, age):
        last = self.item(torch.cat([item[:, None], history[:, :3]], 1)) + self.place(torch.arange(4))
        rows = [self.user(user), self.item(item), self.genre(genres), last.tanh().mean(1), age]
        return self.top(torch.cat([*rows, ], 1)).squeeze(1) + self.bag(genres).sum(1)
"""
FEATURES: dict[str, dict[str, object]] = {
    "user": {"kind": "id", "rows": 30},
    "item": {"kind": "id", "rows": 50},
    "genres": {"kind": "ids", "rows": 7, "pooling": "sum"},
    "history": {"kind": "ids", "table": "item", "max": 6},
    "age": {"kind": "number", "dim": 3},
    "label": {"kind": "label"},
}


def job_of(make_job: MakeJob, folder: Path, features: object = None, net: str = NET, **hyper: object) -> Job:
    (folder / "net.py").write_text(net)
    job = make_job({"optimizer": {"class": "sgd", "learning_rate": 0.5}, **hyper}, model="net.Net", local_sparse=None)
    tree = yaml.safe_load((folder / "job.yaml").read_text()) | {"features": features or FEATURES}
    for side in ("train", "test"):
        (folder / side).mkdir(exist_ok=True)
        (folder / side / "0.csv").touch()
        tree["runner"][f"{side}_data_dir"] = side
    del tree["runner"]["local_sparse"], tree["hyper_parameters"]["num_users"], tree["hyper_parameters"]["num_items"]
    (folder / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert job.name
    return load_job(folder / "job.yaml")


def data_of(job: Job, samples: int = 200) -> ClientData:
    rng, inputs = np.random.default_rng(3), job.inputs
    columns = {name: made_up(inputs, name, samples, rng) for name, f in inputs.items() if f.kind != "label"}
    every = Samples(columns, rng.integers(0, 2, samples).astype(np.float32))
    return ClientData(every, every.at(np.arange(50)), ClientId("0"), 0, shuffle=True, spaces=spaces(inputs))


def test_a_pass_and_the_scores_are_torchs_of_the_whole_network(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path)
    data = data_of(job)
    learner, model = Learner(plan_network(job), job, data, local_optimizer=True), build(job)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, table in learner.tables.items():
            weights[name].copy_(torch.from_numpy(initial_rows(table.spec, np.arange(table.spec.shape[0]))))
    assert set(learner.tables) == {"user.weight", "item.weight", "genre.weight", "bag.weight"}
    assert set(learner.private) == {"user.weight"}
    optimizer, order = torch.optim.SGD(model.parameters(), lr=0.5), data.order(0)
    for start in range(0, len(order), 32):
        batch = data.train.at(order[start : start + 32])
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(*tensors(model, batch.columns)), torch.from_numpy(batch.label)
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found = learner.train(order[start : start + 32], 32)
        assert found.losses[0] == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, table in learner.tables.items():
        np.testing.assert_allclose(table.values, weights[name].detach().numpy()[table.keys], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        due = model.eval()(*tensors(model, data.test.columns)).numpy()
    np.testing.assert_allclose(learner.score(), due, rtol=1e-4, atol=1e-5)


def test_who_looks_up_an_embedding_is_found_through_slices_and_joins(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path)
    network = describe(build(job))
    assert {e.name: (e.features, e.space) for e in network.embeddings} == {
        "user.weight": (("user",), "user"), "item.weight": (("item", "history"), "item"),
        "genre.weight": (("genres",), "genres"), "bag.weight": (("genres",), "genres"),
    }  # fmt: skip
    assert network.inputs == ("user", "item", "genres", "history", "age")
    assert "place.weight" in dict(network.dense), "positions are no feature"
    assert {e.spec.name: e.private for e in read_parameters(network, job).embeddings}["user.weight"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": None}, "forward takes 'age', which is no feature; there are user, item, genres, history"),
        ({"more": {"kind": "number"}}, "features.more: net.Net does not take it: add 'more' to the arguments of forward"),
        ({"history": {"kind": "ids", "rows": 50, "max": 6}},
         "item.weight is looked up by item and history, whose ids are not the same: set features.item.table: history"),
        ({"history": {"kind": "ids", "table": "item"}}, "features.history.max: is missing: a sequence needs"),
        ({"history": {"kind": "ids", "table": "user", "max": 6}}, "user is of the user's side, whose tables are private"),
        ({"age": {"kind": "number", "pooling": "sum"}}, "features.age.pooling: a feature of kind number has no such key"),
        ({"item": {"kind": "id"}}, "features.item: give rows"),
        ({"item": {"kind": "word", "rows": 3}}, "features.item.kind: 'word': must be one of id, ids, number, label"),
        ({"item": {"kind": "id", "row": 3}}, "features.item.row: 3: there is no such key; did you mean"),
        ({"l2": {"kind": "label"}}, r"returns torch.float32 \(2,\); logits of shape \[B, 2\], one for each label, are due"),
    ],
)  # fmt: skip
def test_features_that_do_not_fit_are_named(
    change: dict[str, object], said: str, make_job: MakeJob, tmp_path: Path
) -> None:
    features = {k: v for k, v in (FEATURES | change).items() if v is not None}
    with pytest.raises(JobError, match=said):
        job = job_of(make_job, tmp_path, features)
        read_parameters(describe(build(job)), job)


def test_one_embedding_pools_all_that_looks_it_up_alike(make_job: MakeJob, tmp_path: Path) -> None:
    features = FEATURES | {"genres": {"kind": "ids", "table": "item", "pooling": "sum"}}
    job = job_of(make_job, tmp_path, features, NET.replace("self.genre(genres)", "self.item(genres)"))
    said = r"genres \(pooling: sum\) and history \(no pooling\) look up one embedding: give each its own, or leave pooling out"
    with pytest.raises(JobError, match=said):
        build(job)


@pytest.mark.parametrize(
    ("change", "of"),
    [
        ("self.user(user.clamp(min=0))", "user"),
        ("self.user((age[:, 0] * 2).long().clamp(0, 9))", "age"),
        ("self.user.weight[user]", "user"),
        ("nn.functional.embedding(user, self.user.weight)", "user"),
    ],
)
def test_an_embedding_looked_up_by_what_is_computed_from_the_users_is_not_shared_in_silence(
    change: str, of: str, make_job: MakeJob, tmp_path: Path
) -> None:
    net, features = (
        NET.replace("self.user(user)", change),
        FEATURES | {"age": {**FEATURES["age"], "side": "user"}},
    )
    job = job_of(make_job, tmp_path, features, net)
    with pytest.raises(
        JobError, match=f"runner.local_dense: user.weight is looked up by what the network computes from {of},"
    ):
        read_parameters(describe(build(job)), job)
    kept = job.model_copy(update={"runner": job.runner.model_copy(update={"local_dense": ("user.weight",)})})
    assert read_parameters(describe(build(kept)), kept).private_dense == ("user.weight",)


def test_a_bag_by_its_maximum_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="an EmbeddingBag has mode max: use mean or sum, or pool in forward"):
        build(job_of(make_job, tmp_path, net=NET.replace('mode="mean"', 'mode="max"')))
