"""What came of vertical training: the events of a run as its summary, and when it makes one doubt."""

from pathlib import Path
from typing import Any

import pytest

from fedps.config.vertical import VerticalJob
from fedps.events import events, parties
from fedps.events.events import Entry, Event
from fedps.launch.lift import Tally, introduction
from fedps.pages.lift import rows, said


@pytest.fixture
def job(tmp_path: Path) -> VerticalJob:
    tree = {"name": "job", "folder": str(tmp_path), "vertical": {"active": "shop", "passive": "bank"}, "parties": {}}
    return VerticalJob.model_validate(tree)


def summary_of(job: VerticalJob, *told: Event) -> dict[str, Any]:
    tally = Tally(job, began=100.0)
    for k, event in enumerate(told):
        tally.take(Entry(101.0 + k, "party", "shop", event))
    return tally.summary(200.0, None)


def staged(stage: str, **figures: float | None) -> parties.Staged:
    return parties.Staged(stage, 2, {"loss": 0.5, **figures}, 1000.0, 1 << 20)


def test_a_summary_has_what_each_partys_data_is_worth(job: VerticalJob) -> None:
    summary = summary_of(
        job, parties.Matched(10, 8, 0.5), events.EpochBegin(0), parties.Measured("federated", 1, 2, {"auc": 0.7}),
        parties.Measured("passive", 1, 2, {"auc": 0.5}), staged("federated", auc=0.8, logloss=0.4),
        staged("active", auc=0.75, logloss=0.45), events.Restarted("died", 1), events.Refused("bank", "mismatch", "no", 3),
        parties.Outcome(6, 2, 640),
    )  # fmt: skip
    assert list(summary["vertical"]) == ["active", "federated"] and summary["vertical"]["federated"]["auc"] == 0.8
    assert summary["rounds"] == [{"round": 1, "auc": 0.7}] and summary["metrics"]["auc"] == 0.8
    assert (summary["samples"], summary["held_out"], summary["start_seconds"]) == (6, 2, 2.0)
    assert summary["faults"] == {"restarts": 1, "rejected_messages": 3} and not summary["warnings"]
    assert rows(summary) == [
        ["", "AUC", "log loss", "samples/s", "MiB"], ["shop alone", "0.7500", "0.4500", "1,000", "1.0"],
        ["all together", "0.8000", "0.4000", "1,000", "1.0"], ["finding the common samples", "", "", "", "0.0"],
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "alone", "together"), [("auc", 0.8, 0.8), ("rmse", 0.5, 0.6)])
def test_other_parties_whose_features_are_worth_nothing_are_a_warning(
    job: VerticalJob, name: str, alone: float, together: float
) -> None:
    summary = summary_of(job, staged("federated", **{name: together}), staged("active", **{name: alone}))
    (warning,) = summary["warnings"]
    assert "of all together is no better than" in warning and "of shop alone" in warning


def test_held_out_samples_of_one_label_are_a_warning(job: VerticalJob) -> None:
    (warning,) = summary_of(job, staged("federated", auc=None, logloss=0.4), staged("active", auc=None, logloss=0.4))[
        "warnings"
    ]
    assert warning.startswith("all held-out samples have one label, so there is no AUC")
    assert not summary_of(job, staged("federated", rmse=0.4))["warnings"]


def test_a_run_that_ended_early_has_what_is_known(job: VerticalJob) -> None:
    summary = summary_of(job)
    assert summary["samples"] is None and summary["vertical"] == {} and summary["metrics"] == {}
    assert rows(summary) == [["", "samples/s", "MiB"]]
    assert said({"loss": 0.5, "auc": None, "rmse": 2.0}) == "loss 0.5000, RMSE 2.0000"
    assert introduction(job, "a:1") == "job: shop has the label and listens on a:1; bank dials; network MLP, 3 epoch(s)"
