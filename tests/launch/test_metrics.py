"""Any metrics in a whole run: what clients tell adds up to what all their samples say, however it travels."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from fedps.config import load_job
from fedps.events import events, forms
from fedps.events.events import Entry, stamp
from fedps.events.ledger import Ledger
from fedps.launch.inprocess import run_in_process
from fedps.launch.progress import Progress
from fedps.metrics import Histogram
from fedps.pages.report import write_report
from fedps.pages.words import facts
from fedps.serving.infer import infer_epochs
from fedps.types import ClientId
from tests.conftest import MakeJob

METRICS = ["auc", "gauc", "logloss", "calibration", "rmse", "mae", "hr@5", "ndcg@20", "mrr@10", "recall@50"]


def measured(found: Mapping[str, Any]) -> dict[str, float]:
    return {name: found[name] for name in (*METRICS, "gauc_left_out")}


@pytest.mark.parametrize("coordinated", [True, False])
def test_merged_figures_are_those_of_the_saved_model_on_all_samples(
    make_job: MakeJob, tmp_path: Path, coordinated: bool
) -> None:
    job, entries = make_job(metrics=METRICS, with_coordinator=coordinated, server_num=2), list[Entry]()
    run_in_process(job, tmp_path / "run", entries.append)
    ledger = Ledger(job, 0.0)
    for entry in entries:
        ledger.take(entry)
    summary = ledger.summary(2e9, None)
    due = measured(infer_epochs(job, tmp_path / "run")["epochs"][0])  # type: ignore[index]
    assert measured(summary["metrics"]) == pytest.approx(due, rel=1e-4)
    assert summary["metrics"]["hr@10"] is None, "it is not asked for"
    (merged,) = [forms.facts(entry.event) for entry in entries if isinstance(entry.event, events.Round)]
    for name in (*METRICS[1:], "gauc_left_out"):
        assert merged[name] == summary["metrics"][name], "whoever adds up comes to the same"
    assert (merged["auc"] == summary["metrics"]["auc"]) is coordinated, "servers are told no counts of scores"
    assert {*METRICS} <= set(summary["clients"]["0"]["metrics"])


def test_what_is_measured_is_told_to_people(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(metrics=["gauc", "full_ndcg@10", "auc"])
    ledger, screen = Ledger(job, 0.0), io.StringIO()
    sums = {"gauc": 6.0, "gauc_samples": 8, "gauc_left_out": 3, "full_users": 4, "full_ndcg@10": 1.0}
    ledger.take(stamp("worker", "<0>", events.Data(9, 4)))
    ledger.take(stamp("worker", "<0>", events.Evaluated(1, sums, {"auc": Histogram([1] * 4096, [1] * 4096)})))
    summary = ledger.summary(2e9, None)
    words = {"GAUC": "0.7500 (3 users of one class left out)", "NDCG@10 of all items": "0.2500", "AUC": "0.5000"}
    assert dict(list(facts(summary).items())[:3]) == words
    progress = Progress(job, [ClientId("0")], quiet=False)
    progress._console = Console(file=screen, width=200)
    progress.evaluated(summary["rounds"][0])
    assert ", AUC 0.5000, GAUC 0.7500 (3 users of one class left out), NDCG@10 of all items 0.2500" in screen.getvalue()
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "events.jsonl").write_text("")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<td>&lt;0&gt;</td><td>9</td><td>4</td><td>0</td><td>0.7500 (3 users" in page


def test_an_auc_that_says_nothing_is_shown_nowhere(make_job: MakeJob, tmp_path: Path) -> None:
    towers = {"mode": "TwoTower", "loss": "in_batch_softmax"}
    job = make_job(towers, metrics=["full_hr@10"], negatives=0, print_interval=1, local_sparse=None)
    entries, ledger, screen = list[Entry](), Ledger(job, 0.0), io.StringIO()
    run_in_process(job, tmp_path / "run", entries.append)
    progress = Progress(job, [ClientId("0"), ClientId("1")], quiet=False)
    progress._console, progress._said = Console(file=screen, width=200), -1e9
    for entry in entries:
        ledger.take(entry)
        progress.take(entry)
    summary = ledger.summary(2e9, None)
    progress._console.print(progress._table())
    progress.evaluated(summary["rounds"][0])
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "run" / "events.jsonl").write_text("")
    assert "loss" in screen.getvalue() and "samples/s, mean over workers" in screen.getvalue()
    logs = "".join(path.read_text() for path in (tmp_path / "run").rglob("*.log"))
    for text in (screen.getvalue(), str(facts(summary)), write_report(tmp_path / "run").read_text(), logs):
        assert "AUC" not in text and "Auc" not in text
    assert {auc for client in summary["clients"].values() for auc in client["first_epoch_auc"].values()} == {None}


TWO = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(20, 4), nn.Embedding(30, 4)
        self.top = nn.Linear(8, 2)

    def forward(self, user, item):
        return self.top(torch.cat([self.user(user), self.item(item)], 1))
"""


@pytest.mark.parametrize("coordinated", [True, False])
def test_figures_of_several_labels_travel_each_under_its_name(tmp_path: Path, coordinated: bool) -> None:
    rng = np.random.default_rng(5)
    for side, samples in (("train", 300), ("test", 120)):
        (tmp_path / side).mkdir()
        for client in "012":
            rows = zip(*(rng.integers(0, n, samples) for n in (20, 30, 2, 2)), strict=True)
            text = "user,item,click,buy\n" + "".join(f"{u},{i},{c},{b}\n" for u, i, c, b in rows)
            (tmp_path / side / f"{client}.csv").write_text(text)
    (tmp_path / "net.py").write_text(TWO)
    tree = {
        "runner": {
            "train_data_dir": "train", "test_data_dir": "test", "train_batch_size": 32, "epochs": 1, "model": "net.Net",
            "with_coordinator": coordinated, "metrics": ["auc", "gauc", "buy/rmse", "click/full_ndcg@5"],
        },
        "features": {
            "user": {"kind": "id", "rows": 20}, "item": {"kind": "id", "rows": 30},
            "click": {"kind": "label"}, "buy": {"kind": "label"},
        },
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree))
    job, entries, ledger = load_job(tmp_path / "job.yaml"), list[Entry](), Ledger(load_job(tmp_path / "job.yaml"), 0.0)
    run_in_process(job, tmp_path / "run", entries.append)
    for entry in entries:
        ledger.take(entry)
    names = ["click/auc", "buy/auc", "click/gauc", "buy/gauc", "buy/rmse", "click/full_ndcg@5"]
    assert sorted(job.metrics) == sorted(names)
    summary = ledger.summary(2e9, None)
    found, due = summary["metrics"], infer_epochs(job, tmp_path / "run")["epochs"][0]  # type: ignore[index]
    assert {name: found[name] for name in names} == pytest.approx({name: due[name] for name in names}, rel=1e-3)
    assert found["click/auc"] != found["buy/auc"] and found["auc"] is None
    (merged,) = [forms.facts(entry.event) for entry in entries if isinstance(entry.event, events.Round)]
    told = names if coordinated else names[2:]
    assert {name: merged[name] for name in told} == {name: found[name] for name in told}
    assert facts(summary)["click: NDCG@5 of all items"] == f"{found['click/full_ndcg@5']:.4f}"
