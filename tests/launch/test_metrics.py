"""Any metrics in a whole run: what clients tell adds up to what all their samples say, however it travels."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedps.events import events
from fedps.events.events import Entry, stamp
from fedps.events.ledger import Ledger
from fedps.launch.inprocess import run_in_process
from fedps.launch.progress import Progress
from fedps.metrics import Histogram
from fedps.pages.report import facts, write_report
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
    (merged,) = [events.facts(entry.event) for entry in entries if isinstance(entry.event, events.Round)]
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
    assert "<td>&lt;0&gt;</td><td>9</td><td>4</td><td>0.7500 (3 users" in page
