"""Halves and the top train as one network would: by torch and by compiled steps, with several batches open, from any state."""

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedps.config.sections.features import spaces
from fedps.config.vertical import VerticalJob, side_job
from fedps.data.samples import ClientData, Order
from fedps.models.inputs import tensors
from fedps.storage.snapshot import Tables
from fedps.types import Bags, ClientId, Samples, State, Values, ids_of, within
from fedps.vertical.half import Half, Top
from fedps.vertical.networks import make_bottom, make_top
from tests.vertical.parties import ITEM, USER, batches, data_of, vertical_job

SGD = {"optimizer": {"class": "sgd", "learning_rate": 0.5}}
Parts = tuple[dict[str, ClientData], dict[str, Half], Top]


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile nothing."""
    monkeypatch.setenv("CXX", "no-compiler")


def parts_of(job: VerticalJob) -> Parts:
    data = {party: data_of(job, party) for party in job.order}
    halves = {party: Half(job, party, data[party]) for party in job.order}
    return data, halves, Top(job, {party: half.width for party, half in halves.items()}, 100)


def step(job: VerticalJob, parts: Parts, samples: Order) -> float:
    data, halves, top = parts
    stepped = top.step(
        [half.forward(samples) for half in halves.values()], data[job.vertical.active].train.label[samples]
    )
    for half, gradient in zip(halves.values(), stepped.gradients, strict=True):
        half.backward(gradient)
    return stepped.loss


def logits_of(parts: Parts) -> Values:
    _, halves, top = parts
    return top.score([half.score(slice(None)) for half in halves.values()])


def assert_same(one: State, other: State) -> None:
    """Compare what two halves, or tops, hold, to the bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, Mapping):
            assert_same(value, other[name])
        else:
            np.testing.assert_array_equal(value, other[name], err_msg=name)


@torch.no_grad()
def lay(module: nn.Module, tables: Tables, prefix: str = "") -> None:
    """Give a module the weights of a half's, or a top's, tables."""
    weights = dict(module.named_parameters())
    for name, (spec, keys, rows) in tables.items():
        weight = weights[name.removeprefix(prefix)]
        values = torch.from_numpy(np.ascontiguousarray(rows[:, : spec.dim]))
        if spec.kind == "dense":
            weight.copy_(values.reshape(weight.shape))
        else:
            weight[torch.from_numpy(keys)] = values


@pytest.mark.usefixtures("torch_alone")
@pytest.mark.parametrize(
    ("network", "loss"), [("MLP", "bce"), ("DeepFM", "bce"), ("DCNv2", "mse"), ("TwoTower", "bce")]
)
def test_a_step_is_that_of_one_network(tmp_path: Path, network: str, loss: str) -> None:
    """After some steps, logits are those of the parts joined in one module and trained by torch.optim.SGD."""
    job = vertical_job(tmp_path, hyper=SGD, network=network, loss=loss)
    parts = data, halves, top = parts_of(job)
    bottoms = {party: made for party in job.order if (made := make_bottom(job, party)) is not None}
    whole = make_top(job, {party: half.width for party, half in halves.items()})
    for party, bottom in bottoms.items():
        lay(bottom, halves[party].tables())
    lay(whole, top.tables(), "top.")
    every = [*whole.parameters(), *(w for bottom in bottoms.values() for w in bottom.parameters())]
    optimizer = torch.optim.SGD(every, 0.5)

    def forward(samples: Samples | None, places: Order | slice) -> torch.Tensor:
        cuts = []
        for party, bottom in bottoms.items():
            columns = (data[party].test if samples is None else data[party].train).at(places).columns
            cuts.append(bottom(*tensors(bottom, columns)))
        result: torch.Tensor = whole(*cuts)
        return result

    criterion = nn.functional.mse_loss if loss == "mse" else nn.functional.binary_cross_entropy_with_logits
    for samples in batches(100, 32):
        optimizer.zero_grad()
        label = torch.from_numpy(data["shop"].train.label[samples])
        expected = criterion(forward(data["shop"].train, samples), label)
        expected.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert step(job, parts, samples) == pytest.approx(float(expected.detach()), rel=1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(logits_of(parts), forward(None, slice(None)).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("torch_alone")
def test_a_gradient_goes_through_the_weights_as_they_stand(tmp_path: Path) -> None:
    """Batches that were opened before others' steps end where they would, had they been opened after; draws included."""
    job = vertical_job(tmp_path, hyper={"dropout": 0.3}, network="TwoTower")
    data, orders, rng = data_of(job, "bank"), batches(100, 32), np.random.default_rng(0)
    ahead, behind = Half(job, "bank", data), Half(job, "bank", data)
    gradients = [rng.standard_normal((len(order), ahead.width)).astype(np.float32) for order in orders]
    cuts = [ahead.forward(order) for order in orders]
    for order, gradient, cut in zip(orders, gradients, cuts, strict=True):
        later = behind.forward(order)
        behind.backward(gradient)
        ahead.backward(gradient)
        assert np.array_equal(cut, later) == (order is orders[0])
    assert_same(ahead.state(), behind.state())


@pytest.mark.usefixtures("torch_alone")
def test_training_goes_on_from_a_state_to_the_bit(tmp_path: Path) -> None:
    """Momentum, streams of dropout, and the schedule's place go along."""
    optimizer = {"learning_rate": 0.01, "schedule": "linear"}
    job = vertical_job(tmp_path, hyper={"dropout": 0.3, "optimizer": optimizer}, epochs=2)
    parts, orders = parts_of(job), batches(100, 32, 2)
    for order in orders[:4]:
        step(job, parts, order)
    saved = {party: copy.deepcopy(half.state()) for party, half in parts[1].items()}, copy.deepcopy(parts[2].state())
    again = parts_of(job)
    for party, half in again[1].items():
        half.restore(saved[0][party])
    again[2].restore(saved[1])
    for order in orders[4:]:
        assert step(job, parts, order) == step(job, again, order)
    np.testing.assert_array_equal(logits_of(parts), logits_of(again))
    for party, half in parts[1].items():
        assert_same(half.state(), again[1][party].state())
    assert_same(parts[2].state(), again[2].state())


@pytest.mark.usefixtures("torch_alone")
def test_tables_are_private_and_may_be_open(tmp_path: Path) -> None:
    """Of an open id space a party has the rows that its samples name, of any 64 bits; of a bag and a sequence too."""
    town = {
        "phone": {"kind": "id", "rows": "open"},
        "visits": {"kind": "ids", "table": "phone", "pooling": "sum"},
        "walk": {"kind": "ids", "rows": 9, "max": 3},
        "age": {"kind": "number", "dim": 2},
    }
    job = vertical_job(tmp_path, {"shop": ITEM, "town": town}, network="DeepFM")
    phones = np.array([5, -(2**62), 2**61, 5], np.int64)
    visits = Bags(np.array([7, 5, -(2**62), 8]), np.array([0, 2, 2, 3, 4]))
    walk, age = Bags(np.array([1, 2, 8]), np.array([0, 0, 2, 3, 3])), np.ones((4, 2), np.float32)
    samples = Samples({"phone": phones, "visits": visits, "walk": walk, "age": age}, np.zeros(4, np.float32))
    spaces = {"phone": "phone", "visits": "phone", "walk": "walk"}
    half = Half(
        job, "town", ClientData(samples.at(slice(3)), samples, ClientId("town"), 0, shuffle=False, spaces=spaces)
    )
    order = np.array([2, 0, 1], np.int32)
    np.testing.assert_allclose(half.forward(order), half.score(slice(None))[order], rtol=1e-5)
    half.backward(np.ones((3, half.width), np.float32))
    tables = half.tables()
    assert {name for name, (spec, _, _) in tables.items() if spec.kind == "sparse"} == {
        "embedding_phone.weight", "linear_phone.weight", "embedding_walk.weight", "linear_walk.weight",
    }  # fmt: skip
    np.testing.assert_array_equal(tables["embedding_phone.weight"][1], np.unique([*phones, *ids_of(visits)]))


@pytest.mark.usefixtures("torch_alone")
@pytest.mark.parametrize("rule", ["adam", "shared_adam", "sgd", "row_adagrad"])
def test_gradients_of_zero_leave_a_half_as_it_was_drawn(tmp_path: Path, rule: str) -> None:
    job = vertical_job(tmp_path, network="DeepFM", hyper={"optimizer": {"class": rule, "learning_rate": 0.5}})
    half = Half(job, "bank", data_of(job, "bank"))
    drawn = copy.deepcopy(half.model())
    for samples in batches(100, 32):
        half.backward(np.zeros_like(half.forward(samples)))
    assert_same(half.model(), drawn)


@pytest.mark.usefixtures("torch_alone")
def test_torchs_generator_stays_where_it_is(tmp_path: Path) -> None:
    """Making and training parts draws from streams of their own."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    job = vertical_job(tmp_path, hyper={"dropout": 0.3})
    step(job, parts_of(job), batches(100, 32)[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("torch_alone")
def test_a_loss_that_is_no_number_changes_nothing(tmp_path: Path) -> None:
    """What a party sends may be NaN: the top says so by its loss, and stays as it was."""
    top = Top(vertical_job(tmp_path), {"shop": 3, "bank": 2}, 10)
    cuts, label = [np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)], np.ones(4, np.float32)
    top.step(cuts, label)
    before = copy.deepcopy(within(top.state(), "dense"))
    cuts[1][2] = np.nan
    assert np.isnan(top.step(cuts, label).loss)
    assert_same(within(top.state(), "dense"), before)


def test_compiled_steps_are_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a compiler, both parts take compiled steps: the same numbers but for rounding, also two batches ahead."""
    job = vertical_job(tmp_path, {"bank": {**USER, "label": {"kind": "label"}}, "shop": ITEM}, network="DeepFM")
    data, orders = data_of(job, "bank"), batches(100, 32, 2)

    def train() -> tuple[list[float], Values, set[str]]:
        half, losses = Half(job, "bank", data), list[float]()
        top = Top(job, {"bank": half.width}, 100)
        cuts = [half.forward(order) for order in orders[:2]]
        for k, order in enumerate(orders):
            stepped = top.step([cuts[k]], data.train.label[order])
            half.backward(stepped.gradients[0])
            losses.append(stepped.loss)
            cuts += [half.forward(order) for order in orders[k + 2 : k + 3]]
        return losses, top.score([half.score(slice(None))]), {half.reason, top.reason}

    compiled = train()
    assert compiled[2] == {""}
    monkeypatch.setenv("CXX", "no-compiler")
    by_torch = train()
    assert all("no C++ compiler" in reason for reason in by_torch[2])
    np.testing.assert_allclose(compiled[0], by_torch[0], rtol=1e-4)
    np.testing.assert_allclose(compiled[1], by_torch[1], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("torch_alone")
def test_a_model_scores_other_samples_than_it_was_trained_on(tmp_path: Path) -> None:
    job = vertical_job(tmp_path, network="DeepFM")
    parts = parts_of(job)
    for samples in batches(100, 3):
        step(job, parts, samples)
    trained = logits_of(parts)
    data, halves, top = parts
    again: dict[str, Half] = {}
    for party in job.order:  # of the held-out samples alone, from the last to the first
        last = data[party].test.at(np.arange(len(trained))[::-1])
        own = spaces(side_job(job, party).inputs)
        again[party] = Half(job, party, ClientData(last, last, ClientId(party), 0, shuffle=False, spaces=own))
        again[party].load(halves[party].model())
    anew = Top(job, {party: half.width for party, half in again.items()}, 1)
    anew.load(top.model())
    np.testing.assert_allclose(
        anew.score([half.score(slice(None)) for half in again.values()])[::-1], trained, rtol=1e-6
    )
