"""What a run's folder says of it in any state, and who still writes to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedps.events import events
from fedps.events.events import stamp
from fedps.events.journal import JOURNAL, Journal, is_written
from fedps.events.past import look_at

JOB = "name: films\nrunner: {sync_mode: geo, epochs: 3, model: null}\nhyper_parameters: {mode: MF}\n"
SUMMARY: dict[str, Any] = {
    "status": "ok", "error": None, "metrics": {"hr@10": 0.5, "ndcg@10": None, "loss": 0.3, "train_auc": 0.9},
    "rounds": [{"round": 2}], "wall_seconds": 12.0,
}  # fmt: skip


def test_a_run_that_ended_is_as_its_summary_says(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    past = look_at(tmp_path)
    assert (past.status, past.error, past.epochs, past.model) == ("ok", "", 2, "MF")
    assert past.metrics == {"hr@10": 0.5}, "of held-out samples, what was measured"
    assert (past.said("runner", "epochs"), past.said("runner", "none"), past.said("none", "none")) == (3, None, None)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY | {"status": "failed", "error": "worker 3: gone"}))
    assert look_at(tmp_path)[2:4] == ("failed", "worker 3: gone")


def test_a_run_is_running_as_long_as_its_journal_is_open(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    assert look_at(tmp_path).status == "by hand"
    journal = Journal(tmp_path / JOURNAL)
    for epoch in (1, 2):
        journal.write(stamp("worker", "0", events.Evaluated(epoch, {}, {})))
    assert is_written(tmp_path / JOURNAL)
    assert look_at(tmp_path)[2:4] == ("running", "")
    assert look_at(tmp_path).epochs == 2
    journal.close()
    assert look_at(tmp_path).status == "broken off"
    assert not is_written(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("job.yaml", "runner: [", "line 1: not valid YAML"),
        ("job.yaml", "", "is empty"),
        ("summary.json", '{"status": "o', r"summary.json: cannot be read: JSONDecodeError"),
        ("summary.json", "[]", r"summary.json: cannot be read: KeyError"),
        (
            "summary.json",
            json.dumps(SUMMARY | {"rounds": [{"round": None}]}),
            "summary.json: cannot be read: TypeError",
        ),
        ("summary.json", '{"status": "ok", "error": null}', r"summary.json: cannot be read: KeyError: 'metrics'"),
    ],
)
def test_what_is_damaged_is_said(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / name).write_text(text)
    past = look_at(tmp_path)
    assert past.status == "damaged"
    assert said in past.error
