"""Full rankings against brute force: every item scored and sorted for every user, every order of ties taken."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedps.config.checks import mistakes_of
from fedps.config.sections.features import spaces
from fedps.data.read.client import read_client, read_held_out, read_trained
from fedps.data.samples import ClientData
from fedps.errors import FedpsError
from fedps.events import events
from fedps.events.events import Entry
from fedps.events.forms import facts
from fedps.events.ledger import Ledger
from fedps.figures import Totals, read_metric
from fedps.launch.inprocess import run_in_process
from fedps.metrics import evaluate
from fedps.models.build import build
from fedps.models.inputs import tensors
from fedps.models.network import Plan
from fedps.ranking import BLOCK, Catalogue, rank_catalogue
from fedps.serving.infer import infer_epochs
from fedps.training.compiled import Compiled
from fedps.training.eager import Eager
from fedps.training.learner import Learner
from fedps.training.plan import make_plan
from fedps.training.planning import plan_network
from fedps.types import ClientId, Keys, Samples, Values
from tests.conftest import MakeJob
from tests.training.test_features import FEATURES, data_of, job_of

METRICS = ("full_hr@3", "full_ndcg@3", "full_mrr@3", "full_recall@3", "full_ndcg@10", "full_mrr@40")


def gain(name: str, order: list[int], wanted: set[int]) -> float:
    """Return what one order of items is worth, by the metric's definition."""
    metric = read_metric(name)
    hits = [place for place, item in enumerate(order[: metric.k]) if item in wanted]
    best = sum(1 / math.log2(place + 2) for place in range(min(metric.k, len(wanted))))
    return {
        "hr": float(bool(hits)),
        "mrr": 1 / (hits[0] + 1) if hits else 0.0,
        "recall": len(hits) / len(wanted),
        "ndcg": sum(1 / math.log2(place + 2) for place in hits) / best,
    }[metric.kind]


def ranked(scores: Values, train: Samples, test: Samples) -> dict[str, float]:
    """Return the sums over users of scores float32[users, items]."""

    def score(samples: Keys) -> Values:
        found: Values = scores[test.user[samples]]
        return found

    catalogue = Catalogue(scores.shape[1], train, score)
    metrics = [read_metric(name) for name in METRICS]
    return rank_catalogue(catalogue, test, test.label > 0, train.label > 0, metrics)


@given(
    levels=st.lists(st.integers(0, 2), min_size=2, max_size=6),
    wanted=st.sets(st.integers(0, 5), min_size=1),
    taken=st.sets(st.integers(0, 5)),
)
def test_places_are_those_of_all_orders_of_ties(levels: list[int], wanted: set[int], taken: set[int]) -> None:
    wanted = {item for item in wanted if item < len(levels)}
    taken = {item for item in taken if item < len(levels)}
    if not wanted:
        return
    train = Samples.pairs(np.zeros(len(taken), int), np.array(sorted(taken), int), np.ones(len(taken), np.float32))
    test = Samples.pairs(np.zeros(len(wanted), int), np.array(sorted(wanted), int), np.ones(len(wanted), np.float32))
    found = ranked(np.array([levels], np.float32), train, test)
    rivals = [item for item in range(len(levels)) if item not in taken or item in wanted]
    orders = [sorted(order, key=lambda i: -levels[i]) for order in itertools.permutations(rivals)]
    assert found.pop("full_users") == 1
    for name, value in found.items():
        assert value == pytest.approx(np.mean([gain(name, order, wanted) for order in orders]), abs=1e-12), name


def test_users_without_a_held_out_positive_are_not_ranked_and_negatives_are_rivals() -> None:
    scores = np.arange(12, dtype=np.float32).reshape(3, 4)  # the last item is best
    train = Samples.pairs(np.array([0, 0, 1, 2]), np.array([3, 2, 3, 3]), np.array([1, 0, 1, 1], np.float32))
    test = Samples.pairs(np.array([2, 0, 1, 0]), np.array([0, 1, 2, 1]), np.array([0, 1, 1, 1], np.float32))
    found = ranked(scores, train, test)
    assert found["full_users"] == 2, "user 2 has a negative alone"
    assert found["full_mrr@3"] == 1 / 2 + 1, "user 0 has not taken item 2, user 1 has taken item 3"


def test_a_constant_scorer_gets_what_chance_gets() -> None:
    test = Samples.pairs(np.arange(9), np.arange(9), np.ones(9, np.float32))
    found = ranked(np.zeros((9, 50), np.float32), test.at(slice(0, 0)), test)
    assert found["full_hr@3"] / 9 == pytest.approx(3 / 50)


def test_a_score_that_is_not_finite_is_refused() -> None:
    test = Samples.pairs(np.arange(2), np.arange(2), np.ones(2, np.float32))
    scores = np.zeros((2, 5), np.float32)
    scores[1, 4] = np.nan
    with pytest.raises(FedpsError, match="NaN or infinite"):
        ranked(scores, test.at(slice(0, 0)), test)


@pytest.mark.parametrize("items", [7, BLOCK // 3, BLOCK + 5])
def test_pairs_are_scored_in_blocks_of_a_bounded_size(items: int) -> None:
    users, sizes = 50 if items == 7 else 8, []
    test = Samples.pairs(np.arange(users), np.arange(users) % 7, np.ones(users, np.float32))

    def score(samples: Keys) -> Values:
        sizes.append(len(samples) * items)
        return np.tile(-np.arange(items, dtype=np.float32), (len(samples), 1))

    metrics = [read_metric("full_mrr@7")]
    found = rank_catalogue(
        Catalogue(items, test.at(slice(0, 0)), score), test, test.label > 0, test.label[:0] > 0, metrics
    )
    assert found["full_mrr@7"] == pytest.approx(sum(1 / (user % 7 + 1) for user in range(users)))
    assert sum(sizes) == users * items and max(sizes) <= max(BLOCK, items)


@pytest.mark.parametrize("negatives", [None, 2])
def test_both_engines_rank_every_item(make_job: MakeJob, negatives: int | None) -> None:
    job = make_job({"fc_layers": [16, 8, 4]}, metrics=METRICS, negatives=negatives)
    data, plan = read_client(job, ClientId("3")), make_plan(job)
    data.hold(2)
    sums = []
    for each, engine in ((plan, Compiled), (Plan(plan.network), Eager)):
        learner = Learner(each, job, data, local_optimizer=True)
        assert isinstance(learner.engine, engine)
        learner.train(data.order(0), 32)
        found = evaluate(learner.score(), data.test, METRICS, learner.catalogue())
        users = np.unique(data.test.user[data.test.label > 0])
        assert found.sums["full_users"] == len(users) > 5
        sums.append(found.sums)
        rows = learner.catalogue().score(np.arange(2))
        assert np.isfinite(rows).all() and rows.shape == (2, job.hyper_parameters.num_items)
    for name, value in sums[0].items():
        assert value == pytest.approx(sums[1][name], rel=2e-2, abs=0.05), name


def brute(folder: Path, job: Any) -> dict[str, float]:
    """Return the figures of a finished run's model, from the tensors that it saved."""
    from fedps.models.build import build
    from fedps.serving.saved_network import SavedNetwork

    tests = {c: r.samples for c, r in read_held_out(job).items()}
    trained, totals = read_trained(job), Totals()
    network = SavedNetwork(job)
    network.load(folder / "model" / "1")
    for client, test in tests.items():
        network.score({client: test}, 1, folder / "private")  # takes on the client's own rows
        model = network._model
        assert type(model) is type(build(job))
        for user in np.unique(test.user[test.label > 0]):
            wanted = set(test.item[(test.user == user) & (test.label > 0)].tolist())
            mine = (trained[client].user == user) & (trained[client].label > 0)
            with torch.inference_mode():
                items = torch.arange(220)
                scores = model(torch.full((220,), int(user)), items).numpy()
            left = set(range(220)) - (set(trained[client].item[mine].tolist()) - wanted)
            order = sorted(left, key=lambda item: -scores[item])
            totals.add({name: gain(name, order, wanted) for name in METRICS} | {"full_users": 1})
    return {name: value or 0.0 for name, value in totals.figures(METRICS).items()}


@pytest.mark.parametrize("mode", [{"sync_mode": "geo"}, {"sync_mode": "async", "with_coordinator": True}])
def test_a_run_tells_full_rankings_apart_and_learns_the_same(
    make_job: MakeJob, tmp_path: Path, mode: dict[str, Any]
) -> None:
    job, entries = make_job(metrics=["hr@10", *METRICS], **mode), list[Entry]()
    run_in_process(job, tmp_path / "run", entries.append)
    ledger = Ledger(job, 0.0)
    for entry in entries:
        ledger.take(entry)
    found, due = ledger.summary(2e9, None)["metrics"], brute(tmp_path / "run", job)
    for name in METRICS:
        assert found[name] == pytest.approx(due[name], abs=0.01), name
    assert found["full_recall@3"] < found["hr@10"], "of 220 items, not of 100 candidates"
    again = infer_epochs(job, tmp_path / "run")["epochs"][0]  # type: ignore[index]
    for name in ("hr@10", *METRICS):
        assert again[name] == pytest.approx(found[name], abs=0.01), name
    (merged,) = [facts(entry.event) for entry in entries if isinstance(entry.event, events.Round)]
    assert {name: merged[name] for name in METRICS} == {name: found[name] for name in METRICS}


def test_ranking_all_items_changes_nothing_that_is_learned(make_job: MakeJob, tmp_path: Path) -> None:
    figures = []
    for metrics in (["hr@10", "auc"], ["hr@10", "auc", "full_ndcg@10"]):
        job, entries = make_job(metrics=metrics, epochs=2), list[Entry]()
        ledger = Ledger(job, 0.0)
        run_in_process(job, tmp_path / str(len(metrics)), entries.append)
        for entry in entries:
            ledger.take(entry)
        rounds = ledger.summary(2e9, None)["rounds"]
        figures.append([{name: r[name] for name in ("loss", "train_auc", "auc", "hr@10")} for r in rounds])
    assert figures[0] == figures[1] and len(figures[0]) == 2


SEQUENCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(30, 4), nn.Embedding(50, 4)
        self.top = nn.Linear(3, 1)

    def forward(self, user, item, history, age):
        taste = self.user(user) + self.item(history).sum(1)
        return (taste * self.item(item)).sum(1) + self.top(age).squeeze(1) * self.item(item)[:, 0]
"""


def test_what_is_no_item_stays_as_in_the_users_first_held_out_positive(make_job: MakeJob, tmp_path: Path) -> None:
    features = {name: FEATURES[name] for name in ("user", "item", "history", "age", "label")}
    job = job_of(make_job, tmp_path, features, SEQUENCE)
    data = data_of(job)
    data = ClientData(
        data.train, data.test, ClientId("0"), 0, shuffle=True, num_items=50, spaces=spaces(job.inputs), catalogue=True
    )
    learner = Learner(plan_network(job), job, data, local_optimizer=True)
    learner.train(data.order(0), 32)
    model = build(job)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, table in learner.tables.items():
            weights[name][torch.from_numpy(table.keys)] = torch.from_numpy(np.ascontiguousarray(table.values))
        for name, place in learner.dense.places.items():
            weights[name].copy_(torch.from_numpy(learner.dense.values[place]).view(weights[name].shape))
    test, users = data.test, dict[int, int]()
    for k in np.flatnonzero(test.label > 0):
        users.setdefault(int(test.user[k]), int(k))
    due = []
    for user, first in sorted(users.items()):
        same = test.at(np.full(50, first))
        with torch.inference_mode():
            scores = model(*tensors(model, {**same.columns, "item": np.arange(50)})).numpy()
        wanted = set(test.item[(test.user == user) & (test.label > 0)].tolist())
        taken = set(data.train.item[(data.train.user == user) & (data.train.label > 0)].tolist()) - wanted
        order = sorted(set(range(50)) - taken, key=lambda item: -scores[item])
        due.append([gain(name, order, wanted) for name in METRICS])
    found = evaluate(learner.score(), test, METRICS, learner.catalogue()).sums
    assert len(due) == found["full_users"] > 10
    np.testing.assert_allclose([found[name] for name in METRICS], np.sum(due, axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("item", "metric", "said"),
    [
        ({"kind": "id", "rows": "open"}, "full_hr@10", "item is open: nobody knows them all"),
        ({"kind": "id", "rows": 50}, "full_hr@10", None),
        ({"kind": "number"}, "full_hr@10", "needs a feature 'item' of kind id"),
        ({"kind": "number"}, "hr@10", "needs a feature 'item' of kind id"),
        ({"kind": "number"}, "gauc", None),
    ],
)
def test_what_cannot_be_ranked_is_a_mistake_of_the_job(
    item: dict[str, object], metric: str, said: str | None, make_job: MakeJob, tmp_path: Path
) -> None:
    features = {"user": {"kind": "id", "rows": 9}, "item": item, "label": {"kind": "label"}}
    job = job_of(make_job, tmp_path, features)
    wrong = job.model_copy(update={"runner": job.runner.model_copy(update={"metrics": ("auc", metric)})})
    mistakes = [mistake for mistake in mistakes_of(wrong) if "metrics" in mistake]
    assert [said in mistake for mistake in mistakes if said] == [True] * (said is not None)
    assert bool(mistakes) is (said is not None)


def test_items_of_which_more_is_known_than_an_id_are_not_ranked(make_job: MakeJob, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, FEATURES)
    full = job.model_copy(update={"runner": job.runner.model_copy(update={"metrics": ("full_hr@10",)})})
    (mistake,) = [mistake for mistake in mistakes_of(full) if "metrics" in mistake]
    assert "genres, age may tell of that one" in mistake
