"""The built-in networks of features: what they return, what trains in them, and that training is torch's of the whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from fedps.config import Job, load_job
from fedps.config.sections.features import spaces
from fedps.coordinator.selectors.fedcs import upload_bytes
from fedps.data.samples import ClientData
from fedps.errors import JobError
from fedps.models.build import build
from fedps.models.describe import describe
from fedps.models.inputs import example, inputs_of, made_up, tensors
from fedps.models.loss import InBatchSoftmax, items_of, logits_of, training_loss
from fedps.table.rules import initial_rows
from fedps.training.learner import Learner
from fedps.training.parameters import read_parameters
from fedps.training.plan import find_plan, make_plan
from fedps.training.planning import plan_network
from fedps.types import ClientId, Samples

FEATURES: dict[str, dict[str, object]] = {
    "user": {"kind": "id", "rows": 30},
    "gender": {"kind": "id", "rows": 2, "side": "user"},
    "age": {"kind": "number", "side": "user"},
    "item": {"kind": "id", "rows": 50},
    "genres": {"kind": "ids", "rows": 7, "pooling": "mean", "side": "item"},
    "history": {"kind": "ids", "table": "item", "max": 6},
    "label": {"kind": "label"},
}
PAIR, SEQUENCE = ("user", "item", "label"), ("item", "history", "label")
TAKEN = {"MF": PAIR, "TwoTower": (*FEATURES,), "DeepFM": (*FEATURES,), "DCNv2": (*FEATURES,), "DIN": (*FEATURES,)}
TAKEN |= {"SASRec": SEQUENCE}
SMALL = {"embedding_dim": 4, "hidden_units": [8, 5], "attention_hidden_units": [6], "num_heads": 2}
TRAININGS = [  # mode, loss, and whether there is a sequence
    *((mode, "bce", True) for mode in TAKEN), ("MF", "bpr", True), ("TwoTower", "in_batch_softmax", True),
    ("SASRec", "in_batch_softmax", True), ("DeepFM", "bce", False), ("DCNv2", "bce", False),
]  # fmt: skip


def without(*names: str) -> dict[str, object]:
    return {name: feature for name, feature in FEATURES.items() if name not in names}


def job_of(
    folder: Path, mode: str, features: object = None, runner: dict[str, object] | None = None, **hyper: object
) -> Job:
    features = {name: FEATURES[name] for name in TAKEN[mode]} if features is None else features
    for side in ("train", "test"):
        (folder / side).mkdir(exist_ok=True)
        (folder / side / "0.csv").touch()
    tree = {
        "runner": {"train_data_dir": "train", "test_data_dir": "test", "train_batch_size": 32, **(runner or {})},
        "hyper_parameters": {"mode": mode, "optimizer": {"class": "sgd", "learning_rate": 0.5}, **SMALL, **hyper},
        "features": features,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return load_job(folder / "job.yaml")


def data_of(job: Job, samples: int = 200, **more: Any) -> ClientData:
    rng, inputs = np.random.default_rng(3), job.inputs
    columns = {name: made_up(inputs, name, samples, rng) for name, f in inputs.items() if f.kind != "label"}
    tasks = [f for f in inputs.values() if f.kind == "label"]
    label = rng.integers(0, 2, (samples, len(tasks))).astype(np.float32)
    every = Samples(columns, label[:, 0] if len(tasks) == 1 else label)
    return ClientData(every, every.at(np.arange(50)), ClientId("0"), 0, shuffle=True, spaces=spaces(inputs), **more)


def whole(job: Job, learner: Learner) -> nn.Module:
    """Return the network as torch has it, with the rows that the learner's tables start from."""
    model = build(job)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, table in learner.tables.items():
            weights[name].copy_(torch.from_numpy(initial_rows(table.spec, np.arange(table.spec.shape[0]))))
    return model


@pytest.mark.parametrize(
    ("mode", "loss", "sequence"), [one if one[2] else pytest.param(*one, marks=pytest.mark.slow) for one in TRAININGS]
)
def test_training_and_scores_are_torchs_of_the_whole_network(
    mode: str, loss: str, sequence: bool, tmp_path: Path
) -> None:
    job = job_of(tmp_path, mode, None if sequence else without("history"), loss=loss)
    data = data_of(job, pairs=loss == "bpr")
    learner = Learner(plan_network(job), job, data, local_optimizer=True)
    model = whole(job, learner)
    makes_small = training_loss(model, job, lambda: data.frequencies(items_of(model)))
    optimizer, order = torch.optim.SGD(model.parameters(), lr=0.5), data.order(0)
    for start in range(0, len(order), 32):
        batch = data.train.at(order[start : start + 32])
        optimizer.zero_grad()
        due = makes_small(model(*tensors(model, batch.columns)), torch.from_numpy(batch.label))
        due.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found = learner.train(order[start : start + 32], 32)
        assert found.losses[0] == pytest.approx(float(due.detach()), rel=1e-4)
    weights = dict(model.named_parameters())
    for name, table in learner.tables.items():
        rows = weights[name].detach().numpy()[table.keys]
        np.testing.assert_allclose(table.values, rows, rtol=1e-3, atol=1e-4)
        still = (mode, loss, name) == ("MF", "bpr", "bias_user.weight")  # it is the same for both of a pair
        assert np.allclose(rows, initial_rows(table.spec, table.keys), atol=1e-7) is still, name
    with torch.no_grad():
        scores = model.eval()(*tensors(model, data.test.columns)).numpy()
    assert scores.shape == (50,)
    np.testing.assert_allclose(learner.score(), scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", TAKEN)
def test_every_id_space_has_tables_whose_rows_start_small(mode: str, tmp_path: Path) -> None:
    job = job_of(tmp_path, mode)
    network = describe(build(job))
    due = {f"embedding_{space}.weight": space for space in spaces({n: job.inputs[n] for n in network.inputs}).values()}
    due |= {name.replace("embedding", "linear"): s for name, s in due.items()} if mode == "DeepFM" else {}
    due |= {name.replace("embedding", "bias"): s for name, s in due.items()} if mode == "MF" else {}
    assert {e.name: e.space for e in network.embeddings} == due
    assert {e.init.kind for e in network.embeddings} == {"normal"}
    assert {e.init.b for e in network.embeddings} == {0.01}
    assert not network.faults
    assert not [name for name, _ in network.dense if name.startswith("embedding_") and "age" not in name]


@pytest.mark.parametrize("mode", ["DeepFM", pytest.param("DCNv2", marks=pytest.mark.slow), "DIN"])
def test_several_labels_get_a_logit_each_and_an_unknown_one_teaches_nothing(mode: str, tmp_path: Path) -> None:
    features = FEATURES | {"stars": {"kind": "label", "of": "real", "weight": 0.25}}
    job = job_of(tmp_path, mode, features)
    model = build(job)
    logits = model(*example(model, 5)).detach()
    assert logits.shape == (5, 2)
    label = torch.tensor([[1, 4], [0, 2], [1, torch.nan], [torch.nan, 1], [0, torch.nan]])
    loss = training_loss(model, job, lambda: pytest.fail("not asked for"))(logits, label)
    seen, stars = [0, 1, 2, 4], [0, 1, 3]
    due = nn.functional.binary_cross_entropy_with_logits(logits[seen, 0], label[seen, 0])
    assert float(loss) == pytest.approx(float(due + 0.25 * nn.functional.mse_loss(logits[stars, 1], label[stars, 1])))
    learner = Learner(plan_network(job), job, data_of(job), local_optimizer=True)
    steps = learner.train(np.arange(64, dtype=np.int32), 32)
    assert steps.scores.shape == (64,)
    assert len(steps.histogram) == 64
    assert learner.score().shape == (50, 2)


def test_real_labels_are_learned_by_their_squared_error(tmp_path: Path) -> None:
    features = {n: FEATURES[n] for n in PAIR} | {"label": {"kind": "label", "of": "real"}}
    job = job_of(tmp_path, "MF", features)
    assert job.hyper_parameters.loss == "mse"
    learner = Learner(plan_network(job), job, data_of(job), local_optimizer=True)
    steps = learner.train(np.arange(64, dtype=np.int32), 32)
    assert not len(steps.histogram), "numbers are no probabilities"
    assert steps.losses[0] == pytest.approx(
        float((steps.scores[:32] - learner.data.train.label[:32]).__pow__(2).mean()), rel=1e-5
    )


def test_an_open_space_has_no_rows_of_its_own(tmp_path: Path) -> None:
    features = FEATURES | {"item": {"kind": "id", "rows": "open"}}
    network = describe(build(job_of(tmp_path, "DeepFM", features)))
    shapes = {e.name: e.shape for e in network.embeddings}
    assert shapes["embedding_item.weight"] == (0, 4)
    assert shapes["linear_item.weight"] == (0, 1)


def columns_of(model: nn.Module, samples: int) -> dict[str, Tensor]:
    return dict(zip(inputs_of(model), example(model, samples), strict=True))


@torch.no_grad()
def test_din_pays_no_attention_to_padding(tmp_path: Path) -> None:
    model = build(job_of(tmp_path, "DIN")).eval()
    columns = columns_of(model, 8)
    assert (columns["history"] < 0).any()
    logits = model(*columns.values())
    longer = nn.functional.pad(columns["history"], (0, 3), value=-1)
    torch.testing.assert_close(model(*(columns | {"history": longer}).values()), logits)
    rows = model.get_submodule("embedding_item")
    target, history = rows(columns["item"]), columns["history"]
    for k in range(8):
        ids = history[k][history[k] >= 0]
        own = torch.stack(
            [torch.cat((target[k], r, target[k] - r, target[k] * r)) for r in rows(ids)] or [torch.zeros(16)]
        )
        weights = model.get_submodule("attention_history")(own)[: len(ids)]
        found = model.attended("history", history[k : k + 1], target[k : k + 1])[0]  # type: ignore[operator]
        torch.testing.assert_close(found, (weights * rows(ids)).sum(0))


@torch.no_grad()
def test_sasrec_looks_at_no_later_item_and_at_no_padding(tmp_path: Path) -> None:
    model = build(job_of(tmp_path, "SASRec"))
    history = torch.tensor([[3, 4, 5, 6, 7, 8]])
    rows = model.get_submodule("embedding_item")
    encode: Any = model.encode
    before = encode(rows(history))
    changed = encode(rows(torch.tensor([[3, 4, 5, 6, 9, 1]])))
    torch.testing.assert_close(changed[:, :4], before[:, :4])
    assert not torch.allclose(changed[:, 4:], before[:, 4:])
    torch.testing.assert_close(encode(rows(torch.tensor([[3, 4, 5, -1, -1, -1]])))[:, :3], before[:, :3])


@torch.no_grad()
def test_sasrec_learns_what_follows_each_item_and_scores_what_follows_the_last(tmp_path: Path) -> None:
    model = build(job_of(tmp_path, "SASRec", loss="in_batch_softmax"))
    columns = {
        "item": torch.tensor([9, 8, 7]),
        "history": torch.tensor([[1, 2, 3, -1, -1, -1], [-1] * 6, [6, 5, 4, 3, 2, 1]]),
    }
    inputs = [columns[name] for name in inputs_of(model)]
    queries, items, ids = model(*inputs)
    assert ids.tolist() == [2, 3, 9, 8, 5, 4, 3, 2, 1, 7]
    rows = model.get_submodule("embedding_item")
    torch.testing.assert_close(items, rows(ids))
    last = [2, 3, 9]
    torch.testing.assert_close(model.eval()(*inputs), (queries * items).sum(1)[last])
    twice = [torch.cat((column, column[2:], column[2:])) for column in inputs]
    torch.testing.assert_close(model(*twice), model(*inputs)[[0, 1, 2, 2, 2]])
    only = build(job_of(tmp_path, "SASRec", loss="in_batch_softmax", train_positions="last"))
    assert [part.tolist() for part in only(*inputs)][2] == [9, 8, 7]


def test_in_batch_softmax_is_the_papers_formula() -> None:
    rng = torch.Generator().manual_seed(1)
    queries, items = (torch.randn(6, 4, generator=rng) for _ in range(2))
    ids, label = torch.tensor([4, 7, 4, 9, 2, 7]), torch.tensor([1, 1, 0, 1, torch.nan, 1])
    counts = {2: 1, 4: 5, 7: 3, 9: 1}
    loss = InBatchSoftmax((np.array(list(counts)), np.array(list(counts.values()))))
    total = weights = 0.0
    for i in range(6):
        weight = 1.0 if label[i].isnan() else float(label[i])
        terms = {}
        for j in range(6):
            if j == i or ids[j] != ids[i]:
                terms[j] = float(queries[i] @ items[j]) - np.log(counts[int(ids[j])] / 10)
        total -= weight * (terms[i] - np.log(sum(np.exp(t) for t in terms.values())))
        weights += weight
    assert float(loss((queries, items, ids), label)) == pytest.approx(total / weights, rel=1e-5)
    plain = nn.functional.cross_entropy(queries @ items.T, torch.arange(6))
    assert float(loss((queries, items), torch.ones(6))) == pytest.approx(float(plain))


def test_a_sampled_softmax_tells_each_positive_from_its_own_negatives(tmp_path: Path) -> None:
    job = job_of(tmp_path, "MF", runner={"negatives": 3}, loss="sampled_softmax")
    data = data_of(job, negatives=3, num_items=50, grouped=True)
    learner = Learner(plan_network(job), job, data, local_optimizer=True)
    model, order = whole(job, learner), data.order(0)
    groups = order.reshape(-1, 4)
    assert (np.diff(groups, axis=1) == 1).all()
    assert (data.train.label[groups] == [1, 0, 0, 0]).all()
    assert groups[0, 0] != order.min(), "groups are shuffled"
    with torch.no_grad():
        logits = model(*tensors(model, data.train.at(order[:32]).columns)).reshape(-1, 4)
    assert learner.train(order[:32], 32).losses[0] == pytest.approx(
        float(-logits.log_softmax(1)[:, 0].mean()), rel=1e-5
    )


NETS = """
import torch
from torch import nn

class Towers(nn.Module):
    def __init__(self, embedding_dim=3):
        super().__init__()
        self.user, self.item = nn.Embedding(30, embedding_dim), nn.Embedding(50, embedding_dim)

    def forward(self, user, item):
        return self.user(user), self.item(item)

class Dot(Towers):
    def forward(self, user, item):
        return (self.user(user) * self.item(item)).sum(1)

class Judged(Dot):
    def forward(self, user, item):
        score = super().forward(user, item)
        return torch.stack([score, score.exp()], 1) if self.training else score

    def loss(self, output, label):
        mean, spread = output.unbind(1)
        return ((mean - label) ** 2 / spread + spread.log()).mean()
"""


def own_job(folder: Path, net: str, **hyper: object) -> Job:
    (folder / "towers_net.py").write_text(NETS)
    job = job_of(folder, "MF", runner={"model": f"towers_net.{net}"}, **hyper)
    tree = yaml.safe_load((folder / "job.yaml").read_text())
    tree["hyper_parameters"] = {k: v for k, v in tree["hyper_parameters"].items() if k not in SMALL}
    (folder / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert job.name
    return load_job(folder / "job.yaml")


@pytest.mark.parametrize("loss", ["bce", "in_batch_softmax"])
def test_ones_own_two_towers(loss: str, tmp_path: Path) -> None:
    job = own_job(tmp_path, "Towers", loss=loss)
    data, model = data_of(job), build(job)
    assert model.get_parameter("user.weight").shape == (30, 3), "its own default stands"
    learner = Learner(plan_network(job), job, data, local_optimizer=True)
    reference = whole(job, learner)
    output = reference(*tensors(reference, data.train.at(np.arange(32)).columns))
    due = training_loss(reference, job, lambda: data.frequencies(items_of(reference)))(
        output, torch.from_numpy(data.train.label[:32])
    )
    assert learner.train(np.arange(32, dtype=np.int32), 32).losses[0] == pytest.approx(float(due.detach()), rel=1e-5)
    assert logits_of(output).shape == (32,)
    assert learner.score().shape == (50,)


def test_ones_own_loss_takes_whatever_the_network_returns_in_training(tmp_path: Path) -> None:
    job = own_job(tmp_path, "Judged")
    learner = Learner(plan_network(job), job, data_of(job), local_optimizer=True)
    steps = learner.train(np.arange(64, dtype=np.int32), 32)
    assert np.isfinite(steps.losses).all()
    assert np.isnan(steps.scores).all()
    assert not len(steps.histogram)
    assert learner.score().shape == (50,)


@pytest.mark.parametrize(
    ("mode", "features", "hyper", "said"),
    [
        ("DIN", without("history"), {}, "mode DIN needs a sequence: of kind ids, without pooling, table: the feature"),
        ("SASRec", {n: FEATURES[n] for n in PAIR}, {}, "mode SASRec needs a sequence: of kind ids, without pooling, table: item"),
        ("SASRec", FEATURES, {}, "features.gender: hyper_parameters.mode SASRec takes item, history alone: leave the feature out"),
        ("MF", without("user"), {}, "features.user: is missing: hyper_parameters.mode MF takes a user and an item, of kind id"),
        ("TwoTower", without("item", "history"), {}, "features.item: is missing: hyper_parameters.mode TwoTower takes an item"),
        ("TwoTower", {n: FEATURES[n] for n in ("item", "genres", "label")}, {}, "all are of the item's side"),
        ("TwoTower", FEATURES | {"more": {"kind": "label"}}, {}, "mode TwoTower learns one label; there are label, more"),
        ("DeepFM", None, {"loss": "in_batch_softmax"}, "mode DeepFM scores a pair as a whole: use TwoTower or SASRec"),
        ("DeepFM", None, {"loss": "sampled_softmax"}, "runner.negatives: is missing: loss sampled_softmax"),
        ("DeepFM", None, {"loss": "mse"}, "features.label is binary: use bce"),
        ("DeepFM", FEATURES | {"more": {"kind": "label"}}, {"loss": "bpr"}, "takes one binary label; there are label, more"),
        ("DeepFM", FEATURES | {"label": {"kind": "label", "of": "real"}}, {"loss": "bce"}, "features.label is real: use mse"),
        ("SASRec", None, {"num_heads": 3}, "hyper_parameters.num_heads: 3: must divide embedding_dim, which is 4"),
        ("DeepFM", FEATURES | {"seen": {"kind": "ids", "table": "item", "pooling": "sum"}}, {},
         "features.seen.pooling: sum: history, which looks up the same table, has none"),
    ],
)  # fmt: skip
def test_a_job_that_a_network_cannot_take_is_told_without_torch(
    mode: str, features: object, hyper: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=said):
        job_of(tmp_path, mode, features, None, **hyper)


def test_the_loss_of_ones_own_network_needs_what_it_returns(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"forward\(user, item\) returns \(2,\) of two samples in training; with loss in_batch_s"
    ):
        build(own_job(tmp_path, "Dot", loss="in_batch_softmax"))


def test_groups_of_samples_fill_a_batch(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"a batch is a positive and its negatives: make it a multiple of 5, e.g. 35"):
        job_of(tmp_path, "MF", runner={"negatives": 4}, loss="sampled_softmax")


@pytest.mark.parametrize("mode", TAKEN)
def test_what_a_client_uploads_is_known_without_the_network(mode: str, tmp_path: Path) -> None:
    job = job_of(tmp_path, mode)
    shared = [e.spec.shape for e in read_parameters(describe(build(job)), job).embeddings if not e.private]
    assert upload_bytes(job) == 4 * sum(rows * dim for rows, dim in shared)


def test_a_plan_is_found_again_by_all_that_it_hangs_on(tmp_path: Path) -> None:
    job = job_of(tmp_path, "DeepFM", without("history"))
    plan = make_plan(job)
    assert plan.library and find_plan(job) == plan
    summed = without("history") | {"genres": {"kind": "ids", "rows": 7, "pooling": "sum", "side": "item"}}
    assert find_plan(job_of(tmp_path, "DeepFM", summed)) is None
    assert find_plan(job_of(tmp_path, "DeepFM", without("history"), embedding_dim=5)) is None
    assert find_plan(job_of(tmp_path, "DCNv2", without("history"))) is None
