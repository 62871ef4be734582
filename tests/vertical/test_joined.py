"""Training in one place: what parties' features are worth together and alone, when it ends, and what is kept of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config.sections.features import spaces
from fedps.config.vertical import VerticalJob, side_job
from fedps.data.samples import ClientData
from fedps.errors import FedpsError, JobError
from fedps.types import ClientId, Samples, within
from fedps.vertical import joined
from fedps.vertical.half import Half
from fedps.vertical.joined import Measured, Trained, best_of, measure, train_joined
from tests.vertical.parties import vertical_job

PARTIES: dict[str, Any] = {
    "shop": {"item": {"kind": "id", "rows": 20}, "label": {"kind": "label"}},
    "bank": {"user": {"kind": "id", "rows": "open"}, "age": {"kind": "number"}},
}
LEARNS = {"optimizer": {"learning_rate": 0.05}}


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile nothing."""
    monkeypatch.setenv("CXX", "no-compiler")


def taste(job: VerticalJob, samples: int = 1280, test: int = 1000, seed: int = 0) -> dict[str, ClientData]:
    """Make up samples whose label follows from the item, which one party knows, and the age, which the other does."""
    rng, items = np.random.default_rng(seed), np.random.default_rng(7).standard_normal(20)
    item, user, age = (
        rng.integers(0, 20, samples + test),
        rng.integers(0, 50, samples + test),
        rng.standard_normal(samples + test),
    )
    worth = 2 * items[item] + 2 * age
    liked = rng.random(samples + test) < 1 / (1 + np.exp(-worth))
    label = (worth if job.vertical.loss == "mse" else liked).astype(np.float32)
    columns: Mapping[str, Any] = {"shop": {"item": item}, "bank": {"user": user - 2**40, "age": age.astype(np.float32)}}
    found = {}
    for party in job.order:
        every = Samples(columns[party], label if party == "shop" else np.zeros_like(label))
        train, held = every.at(slice(samples)), every.at(slice(samples, None))
        of = spaces(side_job(job, party).inputs)
        found[party] = ClientData(train, held if test else None, ClientId(party), 0, shuffle=False, spaces=of)
    return found


def auc(trained: Trained) -> float:
    found = trained.epochs[trained.best].auc
    assert found is not None
    return found


@pytest.mark.parametrize("network", ["DeepFM", "TwoTower"])
def test_features_are_worth_more_together(tmp_path: Path, network: str) -> None:
    """Parties' features tell more together than those of either alone."""
    job = vertical_job(tmp_path, PARTIES, LEARNS, network=network, epochs=3, train_batch_size=128)
    data = taste(job)
    together, shop, bank = (auc(train_joined(job, data, parties)) for parties in (None, ["shop"], ["bank"]))
    assert together > max(shop, bank) + 0.05
    assert max(shop, bank) > 0.6


def test_steps_ahead_of_gradients_still_learn(tmp_path: Path) -> None:
    """With batches under way at once the passive party's weights lag, so numbers differ, and little is lost."""
    job = vertical_job(tmp_path, PARTIES, LEARNS, network="DeepFM", epochs=3, train_batch_size=128)
    data = taste(job)
    one, again, several = (train_joined(job, data, ahead=ahead) for ahead in (1, 1, 4))
    np.testing.assert_array_equal(one.scores, again.scores)
    assert not np.array_equal(one.scores, several.scores)
    assert auc(several) > auc(one) - 0.02


def test_real_labels_are_told_by_their_error(tmp_path: Path) -> None:
    job = vertical_job(tmp_path, PARTIES, LEARNS, network="MLP", loss="mse", epochs=3, train_batch_size=64)
    trained = train_joined(job, data := taste(job))
    found = trained.epochs[trained.best]
    label = data["shop"].test.label
    assert found.auc is None and found.logloss is None
    assert found.rmse == pytest.approx(float(np.sqrt(np.mean((trained.scores - label) ** 2))), rel=1e-5)
    assert found.rmse < 0.5 * label.std()


def test_it_ends_when_epochs_are_no_better_and_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With patience 2, the epochs after the best are two; what is kept is what that one left."""
    aucs = iter([0.6, 0.7, 0.65, 0.69, 0.9])
    due = train_joined(
        short := vertical_job(tmp_path, PARTIES, network="DeepFM", epochs=2, train_batch_size=256), taste(short)
    )
    monkeypatch.setattr(joined, "measure", lambda *_: {"auc": next(aucs)})
    job = vertical_job(tmp_path, PARTIES, network="DeepFM", epochs=5, patience=2, train_batch_size=256)
    trained = train_joined(job, taste(job))
    assert [epoch.auc for epoch in trained.epochs] == [0.6, 0.7, 0.65, 0.69]
    assert trained.best == 1
    for part, state in due.states.items():
        for name, value in state.items():
            np.testing.assert_equal(trained.states[part][name], value)


def test_without_held_out_samples_the_last_epoch_is_kept(tmp_path: Path) -> None:
    job = vertical_job(tmp_path, PARTIES, network="MLP", epochs=3, patience=1)
    trained = train_joined(job, taste(job, 100, 0))
    assert (len(trained.epochs), trained.best, len(trained.scores)) == (3, 2, 0)
    assert trained.epochs[-1].auc is None


def test_the_best_has_the_highest_auc_or_the_lowest_error() -> None:
    def epochs(**figures: list[float]) -> list[Measured]:
        [(name, values)] = figures.items()
        return [Measured(k, 0.0, **{name: value}) for k, value in enumerate(values)]

    assert best_of(epochs(auc=[0.6, 0.7, 0.7]), "bce") == 1
    assert best_of(epochs(rmse=[0.6, 0.5, 0.7]), "mse") == 1
    assert best_of([Measured(0, 0.0), Measured(1, 0.0)], "bce") == 1


def test_parts_predict_on_other_samples(tmp_path: Path) -> None:
    """A part takes weights up by id: of samples that it was trained beside it says the same, though there are others."""
    job = vertical_job(tmp_path, PARTIES, network="DeepFM", epochs=1)
    data = taste(job)
    half, other = Half(job, "bank", data["bank"]), Half(job, "bank", taste(job, 10, 40, seed=3)["bank"])
    half.forward(np.arange(500, dtype=np.int32))
    half.backward(np.random.default_rng(0).standard_normal((500, half.width)).astype(np.float32))
    held = data["bank"].test
    some = ClientData(held.at(slice(0)), held.at(slice(7)), ClientId("bank"), 0, shuffle=False, spaces={"user": "user"})
    fresh = Half(job, "bank", some)
    for predicting in (fresh, other):
        predicting.load(half.model())
    np.testing.assert_allclose(fresh.score(slice(None)), half.score(slice(7)), rtol=1e-6)
    mine, its = (within(part.model(), "embedding_user.weight") for part in (half, other))
    _, at, there = np.intersect1d(mine["keys"], its["keys"], return_indices=True)
    assert len(at)
    np.testing.assert_array_equal(mine["rows"][at], its["rows"][there])


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    job = vertical_job(tmp_path, {"shop": {"label": {"kind": "label"}}, "bank": PARTIES["bank"]})
    with pytest.raises(JobError, match="none of those that are to be trained has features"):
        train_joined(job, taste(vertical_job(tmp_path, PARTIES)), ["shop"])
    wild = vertical_job(tmp_path, PARTIES, {"optimizer": {"class": "sgd", "learning_rate": 1e6}}, network="MLP")
    with (
        pytest.raises(FedpsError, match="epoch 1: a batch's loss is nan: lower the learning rate"),
        np.errstate(all="ignore"),
    ):
        train_joined(wild, taste(wild))


def test_scores_must_be_numbers() -> None:
    with pytest.raises(FedpsError, match="NaN or infinite"):
        measure(np.array([np.nan, 1], np.float32), np.ones(2, np.float32), "mse")
