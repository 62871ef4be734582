"""`fedps runs`: what runs there are, the newest first."""

import json
from pathlib import Path

import pytest

from fedps.cli import WRONG
from fedps.events.journal import JOURNAL
from tests.events.test_past import JOB, SUMMARY
from tests.launch.rooms import here


def write_run(folder: Path, began: float, **summary: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(JOB)
    (folder / JOURNAL).write_text(json.dumps({"time": began}) + "\n")
    if summary:
        (folder / "summary.json").write_text(json.dumps(SUMMARY | summary))
    return folder


def test_runs_are_listed_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert here(monkeypatch, "runs") == 0
    assert "no run is in" in capsys.readouterr().out
    write_run(tmp_path / "runs" / "good", 86_400.0, status="ok")
    write_run(tmp_path / "runs" / "killed", 172_800.0)
    (tmp_path / "runs" / "not a run").mkdir()
    assert here(monkeypatch, "runs") == 0
    head, first, second = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["run", "started", "model", "mode", "status", "epochs", "time"]
    assert (first[0], first[3:]) == ("killed", ["MF", "geo", "broken", "off", "0/3"])
    assert (second[0], second[3:]) == ("good", ["MF", "geo", "ok", "2/3", "HR@10", "0.5000", "12", "s"])
    assert here(monkeypatch, "runs", "runs", "--json") == 0
    killed, good = json.loads(capsys.readouterr().out)
    assert (killed["status"], killed["metrics"], killed["wall_seconds"]) == ("broken off", {}, None)
    assert (good["run"], good["started"], good["job"], good["metrics"]) == ("good", 86_400.0, "films", {"hr@10": 0.5})
    assert here(monkeypatch, "runs", "nowhere") == WRONG
    assert "nowhere: there is no such folder" in capsys.readouterr().err
