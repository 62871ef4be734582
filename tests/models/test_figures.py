"""Metrics of held-out samples against plain references over the joined data, and what a client may claim of them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedps.config import Job, load_job
from fedps.config.checks import mistakes_of
from fedps.errors import FedpsError, JobError
from fedps.figures import CANDIDATES, MAX_COUNT, Figures, Totals, fault_of, metrics_in, read_metric, sums_of
from fedps.metrics import Evaluations, evaluate
from fedps.ranking import Catalogue
from fedps.types import Samples, Values
from tests.conftest import MakeJob
from tests.training.test_features import FEATURES, job_of

OF_SAMPLES = ("auc", "gauc", "logloss", "calibration", "rmse", "mae")
OF_CANDIDATES = ("hr@1", "hr@10", "ndcg@5", "ndcg@10", "mrr@10", "mrr@99", "recall@20")
ALL = (*OF_SAMPLES, *OF_CANDIDATES)


def clicks(samples: int, users: int, seed: int) -> tuple[Samples, Values]:
    """Return samples of some users, of whom some have one class alone, and logits with ties."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, samples)
    label = (rng.random(samples) < user / users * 0.6).astype(np.float32)
    logits = np.round(rng.normal(label, 1.5), 1).astype(np.float32)
    return Samples.pairs(user, rng.integers(0, 50, samples), label), logits


def groups(users: int, seed: int) -> tuple[Samples, Values]:
    """Return groups of 100 candidates, the positive first, and logits with ties."""
    rng = np.random.default_rng(seed)
    label = np.zeros((users, CANDIDATES), np.float32)
    label[:, 0] = 1
    items = np.stack([rng.permutation(400)[:CANDIDATES] for _ in range(users)])
    logits = np.round(rng.normal(2 * label, 1.5), 1).astype(np.float32)
    return Samples.pairs(np.repeat(np.arange(users), CANDIDATES), items.reshape(-1), label.reshape(-1)), logits.reshape(
        -1
    )


def told(parts: Sequence[tuple[Samples, Values]], metrics: Sequence[str] = ALL) -> Figures:
    """Return what clients' held-out samples come to, each measured by its own client."""
    merged = Evaluations()
    for samples, logits in parts:
        found = evaluate(logits, samples, metrics)
        assert not fault_of(found.sums, metrics)
        merged.add(found.sums, found.histograms)
    return merged.figures(metrics)


def auc_of(scores: Values, label: Values) -> float | None:
    won = [(p > n) + (p == n) / 2 for p in scores[label > 0] for n in scores[label <= 0]]
    return float(np.mean(won)) if won else None


def gain(kind: str, place: int) -> float:
    return {"ndcg": 1 / math.log2(place + 2), "mrr": 1 / (place + 1)}.get(kind, 1.0)


def of_samples(samples: Samples, logits: Values) -> Figures:
    """The same as their definitions have it."""
    label, predicted = samples.label.astype(float), 1 / (1 + np.exp(-logits.astype(float)))
    users = [samples.user == u for u in np.unique(samples.user)]
    each = [(mask.sum(), auc_of(logits[mask], samples.label[mask])) for mask in users]
    known = [(n, auc) for n, auc in each if auc is not None]
    return {
        "gauc": float(sum(n * auc for n, auc in known) / sum(n for n, _ in known)),
        "gauc_left_out": len(each) - len(known),
        "logloss": float(-np.mean(label * np.log(predicted) + (1 - label) * np.log(1 - predicted))),
        "calibration": float(predicted.mean() / label.mean()),
        "rmse": math.sqrt(np.mean((predicted - label) ** 2)),
        "mae": float(np.mean(np.abs(predicted - label))),
    }


def test_figures_over_clients_are_those_of_the_joined_samples() -> None:
    samples, logits = clicks(900, 60, seed=1)
    of = samples.user % 3  # a user's samples lie with one client
    found = told([(samples.at(np.flatnonzero(of == k)), logits[of == k]) for k in range(3)], OF_SAMPLES)
    due = of_samples(samples, logits)
    assert found["gauc_left_out"] == due["gauc_left_out"] and due["gauc_left_out"]
    for name, value in due.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    assert found["auc"] == pytest.approx(auc_of(logits, samples.label), abs=2e-3)


def test_ranks_over_clients_are_those_of_all_users() -> None:
    samples, logits = groups(60, seed=2)
    found = told([(samples.at(cut), logits[cut]) for cut in (slice(0, 700), slice(700, 6000))], OF_CANDIDATES)
    gains: dict[str, list[float]] = {name: [] for name in OF_CANDIDATES}
    for scores in logits.reshape(-1, CANDIDATES):
        first, tied = int((scores[1:] > scores[0]).sum()), int((scores[1:] == scores[0]).sum())
        for metric in map(read_metric, OF_CANDIDATES):
            places = range(first, first + tied + 1)  # over all orders
            gains[metric.name].append(sum(gain(metric.kind, p) for p in places if p < metric.k) / len(places))
    assert found["recall@20"] is not None and 0.3 < found["recall@20"] < 1
    for name, each in gains.items():
        assert found[name] == pytest.approx(np.mean(each)), name


@given(st.integers(0, 2**32), st.integers(1, 80), st.integers(1, 6), st.permutations(range(4)))
@settings(max_examples=40)
def test_no_split_over_clients_and_no_order_changes_a_digit(
    seed: int, samples: int, users: int, order: list[int]
) -> None:
    data, logits = clicks(samples, users, seed)
    parts = [(data.at(cut), logits[cut]) for k in range(4) for cut in [np.flatnonzero(data.user % 4 == k)]]
    assert told(parts, OF_SAMPLES) == told([parts[k] for k in order], OF_SAMPLES)


def test_users_of_one_class_are_left_out_and_counted() -> None:
    samples = Samples.pairs(np.array([1, 1, 2, 2, 3]), np.arange(5), np.array([1, 0, 1, 1, 0], np.float32))
    found = told([(samples, np.array([2, 1, 0, 5, 9], np.float32))], ["gauc"])
    assert (found["gauc"], found["gauc_left_out"]) == (1.0, 2)
    alone = told([(samples.at(slice(2, 5)), np.array([0, 5, 9], np.float32))], ["gauc"])
    assert (alone["gauc"], alone["gauc_left_out"]) == (None, 2)


def test_without_samples_nothing_is_measured() -> None:
    samples, logits = clicks(0, 3, seed=0)
    assert all(value in (None, 0, 0.5) for value in told([(samples, logits)]).values())


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", ["logloss", "gauc", "rmse"])
def test_a_logit_that_is_not_finite_is_no_figure(logit: float, metric: str) -> None:
    samples, logits = clicks(9, 3, seed=0)
    logits[4] = logit
    with pytest.raises(FedpsError, match="NaN or infinite"):
        evaluate(logits, samples, [metric])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hr@0", "no such metric; write auc, gauc"),
        ("map@10", "no such metric"),
        ("hr10", "no such metric"),
        ("hr@100", "all 100 candidates of a user are among so many; use a smaller k, or full_hr@100"),
        (True, "put the word in quotes"),
    ],
)
def test_what_is_no_metric_is_a_mistake_of_the_job(name: object, why: str, make_job: MakeJob) -> None:
    with pytest.raises(JobError, match=rf"runner.metrics\[1\]: .*{why}"):
        make_job(metrics=["auc", name])


def test_metrics_of_a_job_are_saved_and_read_back(make_job: MakeJob) -> None:
    job = make_job(metrics=["gauc", "full_ndcg@10"])
    job.save(job.folder / "again.yaml")
    assert load_job(job.folder / "again.yaml").runner.metrics == ("gauc", "full_ndcg@10")


def test_each_metric_has_a_name_for_people_and_sums_of_its_own() -> None:
    titles = [metric.title for metric in metrics_in(["loss", "round", "click/auc", "full_mrr@5", "recall@7", "gauc"])]
    assert titles == ["training loss", "click: AUC", "MRR@5 of all items", "recall@7", "GAUC"]
    assert sums_of(["auc", "hr@10", "full_hr@10", "click/rmse", "mae"]) == [
        "users", "hr@10", "full_users", "full_hr@10", "click/test_samples", "click/squared_error", "test_samples", "absolute_error",
    ]  # fmt: skip


HONEST = {
    "users": 3, "hr@10": 2.0, "ndcg@10": 1.5, "full_users": 2, "full_mrr@5": 0.7, "test_samples": 9, "logloss": 4.0,
    "gauc_left_out": 1, "gauc_samples": 7, "gauc": 5.0, "predictions": 4.0, "labels": 3.0,
}  # fmt: skip
ASKED = ["hr@10", "ndcg@10", "full_mrr@5", "logloss", "gauc", "calibration"]


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("users", MAX_COUNT + 1), ("users", -1), ("users", 2.5), ("hr@10", 3.5), ("hr@10", -0.1), ("ndcg@10", 2.5),
        ("full_mrr@5", 2.1), ("logloss", -1.0), ("logloss", 1e11), ("logloss", math.nan), ("gauc", 7.5),
        ("predictions", 9.5), ("labels", math.inf), ("hr@20", 1.0), ("a" * 999, 1),
    ],
)  # fmt: skip
def test_sums_that_no_samples_can_have_are_named(name: str, lie: float) -> None:
    assert fault_of(HONEST, ASKED) == fault_of({}, ASKED) == ""
    assert fault_of(HONEST | {name: lie}, ASKED).strip("'").startswith(name[:50])
    without = {key: value for key, value in HONEST.items() if key != name}
    assert without == HONEST or fault_of(without, ASKED) == f"{name}: is missing"


@given(st.dictionaries(st.sampled_from([*HONEST, "x"]), st.floats() | st.integers(-(2**63), 2**64), max_size=14))
def test_no_claim_that_is_let_in_makes_a_figure_that_is_no_number(claims: dict[str, int | float]) -> None:
    sums = HONEST | claims
    if fault_of(sums, ASKED):
        return
    totals = Totals()
    for _ in range(2):
        totals.add(sums)
    figures = totals.figures(ASKED)
    assert all(value is None or math.isfinite(value) for value in figures.values())
    assert all(0 <= (figures[name] or 0) <= 1 for name in ("hr@10", "ndcg@10", "full_mrr@5", "gauc"))


def test_each_of_several_labels_is_measured_by_itself() -> None:
    clicks_, logits = clicks(400, 30, seed=3)
    rng = np.random.default_rng(4)
    rating = rng.normal(3, 1, 400).astype(np.float32)
    rating[::7] = np.nan  # nobody rated these
    both = Samples(clicks_.columns, np.column_stack([clicks_.label, rating]))
    outputs = np.column_stack([logits, rng.normal(3, 1, 400).astype(np.float32)])
    metrics = ["click/auc", "click/gauc", "click/logloss", "click/full_hr@3", "rating/rmse", "rating/calibration"]
    tasks = {"click": False, "rating": True}
    catalogue = Catalogue(
        50, both, lambda samples: np.tile(np.arange(50, dtype=np.float32)[:, None], (len(samples), 1, 2))
    )
    found, merged = evaluate(outputs, both, metrics, catalogue, tasks=tasks), Evaluations()
    assert not fault_of(found.sums, metrics, tasks)
    merged.add(found.sums, found.histograms)
    figures, known = merged.figures(metrics), ~np.isnan(rating)
    alone = told([(clicks_, logits)], OF_SAMPLES)
    assert {
        f"click/{name}": alone[name] for name in ("auc", "gauc", "logloss", "gauc_left_out")
    }.items() <= figures.items()
    error = outputs[known, 1].astype(float) - rating[known]
    assert figures["rating/rmse"] == pytest.approx(math.sqrt(np.mean(error**2)))
    assert figures["rating/calibration"] == pytest.approx(outputs[known, 1].mean() / rating[known].mean(), rel=1e-5)
    assert figures["click/full_hr@3"] is not None and found.sums["click/full_users"] == len(
        np.unique(clicks_.user[clicks_.label > 0])
    )


@pytest.mark.parametrize(
    ("labels", "given", "due"),
    [
        ({"label": {}}, None, ("auc", "logloss")),
        ({"label": {}}, ["gauc"], ("gauc",)),
        ({"stars": {"of": "real"}}, None, ("rmse", "mae")),
        ({"stars": {"of": "real"}}, ["rmse"], ("rmse",)),
        ({"click": {}, "buy": {}}, ["auc", "buy/gauc"], ("click/auc", "buy/auc", "buy/gauc")),
        ({"click": {}, "stars": {"of": "real"}}, None,
         ("click/auc", "click/logloss", "stars/rmse", "stars/mae")),
    ],
)  # fmt: skip
def test_a_job_measures_each_label_by_what_fits_it(
    labels: dict[str, dict[str, str]], given: list[str] | None, due: tuple[str, ...], make_job: MakeJob, tmp_path: Path
) -> None:
    job = labelled(make_job, tmp_path, labels, given)
    assert job.metrics == due
    assert not [mistake for mistake in mistakes_of(job) if "metrics" in mistake]


@pytest.mark.parametrize(
    ("labels", "given", "said"),
    [
        (
            {"stars": {"of": "real"}},
            ["auc"],
            "'auc': is of labels that are 0 or 1, and this one is real; use rmse, mae",
        ),
        ({"click": {}, "buy": {}}, ["like/auc"], "'like/auc': like is none of several labels; there are click, buy"),
        ({"click": {}}, ["click/auc"], "click is none of several labels; there is but one: leave it out before the /"),
    ],
)
def test_a_metric_that_does_not_fit_a_label_is_a_mistake_of_the_job(
    labels: dict[str, dict[str, str]], given: list[str], said: str, make_job: MakeJob, tmp_path: Path
) -> None:
    (mistake,) = [m for m in mistakes_of(labelled(make_job, tmp_path, labels, given)) if "metrics" in m]
    assert said in mistake


def labelled(make_job: MakeJob, folder: Path, labels: dict[str, dict[str, str]], metrics: list[str] | None) -> Job:
    """Return a job with some labels, looked at no further."""
    features = {"user": {"kind": "id", "rows": 30}, "item": {"kind": "id", "rows": 50}, **FEATURES} | {
        name: {"kind": "label", **keys} for name, keys in labels.items()
    }
    if "label" not in labels:
        del features["label"]
    job = job_of(make_job, folder, features)
    given = {"metrics": tuple(metrics)} if metrics else {}
    return job.model_copy(update={"runner": job.runner.model_copy(update=given)})
