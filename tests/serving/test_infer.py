"""Weights from a file, scored on all clients' held-out samples, against figures worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedps.config import Job
from fedps.data.read.client import read_held_out
from fedps.errors import DataError, FedpsError, JobError
from fedps.models.build import build
from fedps.serving.infer import infer, load_weights
from fedps.serving.predictions import logits_of, measure
from fedps.types import Samples
from tests.conftest import MakeJob

ITEMS = 220
GMF = {"mode": "NCF_GMF", "mf_dim": 1}


@pytest.fixture
def gmf_job(make_job: MakeJob) -> Job:
    """A job whose score is whatever the item table says."""
    return make_job(GMF, local_sparse=[])


def every_sample(job: Job) -> Samples:
    return Samples.joined([reading.samples for reading in read_held_out(job).values()])


def scorer(folder: Path, score_of_item: torch.Tensor) -> Path:
    """Write GMF weights whose logit is the item's given score."""
    tensors = {
        "mf_user.weight": torch.ones(120, 1),
        "mf_item.weight": score_of_item.reshape(ITEMS, 1),
        "predict.weight": torch.ones(1, 1),
        "predict.bias": torch.zeros(1),
    }
    path = folder / "model.safetensors"
    save_file(tensors, path)
    return path


def test_every_users_positive_is_ranked_among_its_own_candidates(gmf_job: Job, tmp_path: Path) -> None:
    score = torch.linspace(-3, 3, ITEMS)
    found = infer(gmf_job, scorer(tmp_path, score))
    assert gmf_job.runner.test_data_dir is not None
    places = []
    for path in gmf_job.runner.test_data_dir.glob("*.csv"):
        for rows in np.loadtxt(path, np.int64, delimiter=",").reshape(-1, 100, 3):
            places.append(sum(item > rows[0, 1] for item in rows[1:, 1]))
    gains = [1 / math.log2(place + 2) for place in places if place < 10]
    assert found["users"] == len(places) == 120
    assert found["samples"] == 12_000
    assert found["hr@10"] == pytest.approx(len(gains) / 120)
    assert found["ndcg@10"] == pytest.approx(sum(gains) / 120)
    assert len(gains) > 3


def test_a_constant_scorer_gets_what_chance_gets(gmf_job: Job, tmp_path: Path) -> None:
    found = infer(gmf_job, scorer(tmp_path, torch.full((ITEMS,), 0.25)))
    assert found["hr@10"] == pytest.approx(0.10)
    assert found["auc"] == 0.5


def test_ranks_survive_scores_whose_probabilities_round_to_one(gmf_job: Job, tmp_path: Path) -> None:
    near, far = torch.linspace(-3, 3, ITEMS), torch.linspace(100, 106, ITEMS)
    modest, extreme = (infer(gmf_job, scorer(tmp_path, score)) for score in (near, far))
    assert extreme["hr@10"] == modest["hr@10"]
    assert extreme["ndcg@10"] == modest["ndcg@10"]


@pytest.mark.parametrize("batch_size", [1_000, 77, 1_000_000])
def test_the_batch_size_changes_nothing(batch_size: int, make_job: MakeJob) -> None:
    job = make_job()
    test = every_sample(job)
    due, found = (measure([test], logits_of(build(job), test, size)).measures for size in (100, batch_size))
    for name, close in (("users", 0), ("hr@10", 1e-4), ("ndcg@10", 1e-4), ("auc", 1e-4)):
        assert found[name] == pytest.approx(due[name], abs=close)


def test_dropout_is_off_while_scoring(make_job: MakeJob) -> None:
    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
            dropped: torch.Tensor = self.drop(item.float() / ITEMS)
            return dropped

    model = Noisy()
    test = every_sample(make_job())
    first, second = (measure([test], logits_of(model, test, 4096)).measures for _ in range(2))
    assert first == second


def test_weights_of_other_precision_are_taken(gmf_job: Job, tmp_path: Path) -> None:
    model = build(gmf_job)
    half = {n: torch.full(p.shape, 0.5, dtype=torch.float16) for n, p in model.named_parameters()}
    save_file(half, tmp_path / "half.safetensors")
    load_weights(model, tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 and bool((p == 0.5).all()) for p in model.parameters())


def test_rows_of_open_ids_are_not_read_from_one_file(gmf_job: Job, tmp_path: Path) -> None:
    model, path = build(gmf_job), tmp_path / "open.safetensors"
    tensors = {name: weight.detach()[:3].contiguous() for name, weight in model.named_parameters()}
    save_file(tensors | {"mf_item.weight.ids": torch.tensor([-7, 0, 1 << 40])}, path)
    with pytest.raises(
        JobError, match=r"mf_item.weight: their rows are of open ids, which the job counts: set rows: open for the"
    ):
        load_weights(model, path)


def test_all_misfits_of_a_weights_file_are_told_at_once(gmf_job: Job, tmp_path: Path) -> None:
    tensors = {"mf_user.weight": torch.ones(120, 2), "predict.weight": torch.ones(1, 1), "extra": torch.ones(3)}
    save_file(tensors, tmp_path / "other.safetensors")
    model = build(gmf_job)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(JobError) as caught:
        load_weights(model, tmp_path / "other.safetensors")
    told = [m.removeprefix(f"{tmp_path / 'other.safetensors'}: ") for m in caught.value.mistakes]
    assert [m[:30] for m in told] == [
        "mf_user.weight has shape (120,",
        "lacks mf_item.weight; it holds",
        "lacks predict.bias; it holds e",
        "extra is no parameter of the j",
    ]
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_weights_of_a_smaller_catalogue_are_taken_over_by_id(make_job: MakeJob, tmp_path: Path) -> None:
    path, job = scorer(tmp_path, torch.linspace(-3, 3, ITEMS)), make_job(GMF | {"num_items": ITEMS + 30})
    model = build(job)
    start = model.get_parameter("mf_item.weight").detach().clone()
    assert load_weights(model, path) == {"mf_item.weight": 30}
    grown = model.get_parameter("mf_item.weight")
    assert torch.equal(grown[:ITEMS, 0], torch.linspace(-3, 3, ITEMS))
    assert torch.equal(grown[ITEMS:], start[ITEMS:])
    assert infer(job, path)["note"] == f"{path}: rows are taken over by id; 30 new ids of mf_item.weight start fresh"
    with pytest.raises(JobError, match=r"mf_user\.weight has shape \(120, 1\); the job's network has \(120, 2\)"):
        load_weights(build(make_job(GMF | {"mf_dim": 2})), path)


def test_a_weights_file_that_is_not_there(gmf_job: Job, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"--weights .*none\.safetensors: there is no such file"):
        infer(gmf_job, tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_torn_weights_file_is_named(keep: int, gmf_job: Job, tmp_path: Path) -> None:
    path = scorer(tmp_path, torch.zeros(ITEMS))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.safetensors: is no safetensors file"):
        infer(gmf_job, path)


def test_weights_that_are_not_finite_are_told(gmf_job: Job, tmp_path: Path) -> None:
    with pytest.raises(FedpsError, match="diverged"):
        infer(gmf_job, scorer(tmp_path, torch.full((ITEMS,), math.nan)))


def test_a_job_without_a_test_folder_says_which_key(make_job: MakeJob) -> None:
    with pytest.raises(JobError, match=r"runner\.test_data_dir: is missing"):
        read_held_out(make_job(test_data_dir=None))
