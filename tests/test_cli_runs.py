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


def test_runs_are_compared_by_figures_and_by_what_their_jobs_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    figures = [{"round": 1, "hr@10": 0.25, "logloss": None}, {"round": 2, "hr@10": 0.5, "logloss": 0.25}]
    popularity = {"hr@10": 0.125}
    write_run(
        tmp_path / "runs" / "one", 100.0, metrics={"hr@10": 0.5, "logloss": 0.25, "gauc": None}, rounds=figures, popularity=popularity,
    )  # fmt: skip
    two = write_run(tmp_path / "runs" / "two", 200.0, metrics={"hr@10": 0.25, "logloss": 0.25})
    (two / "job.yaml").write_text(
        JOB.replace("epochs: 3", "epochs: 4").replace("mode: MF", "mode: DeepFM, hidden_units: [8, 4]")
    )
    assert here(monkeypatch, "compare", "runs/one", "latest", "--out", "page.html") == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = [line.split() for line in said.out.splitlines()]
    assert lines == [
        ["one", "two"], ["status", "ok", "ok"], ["model", "MF", "DeepFM"], ["epochs", "2/3", "2/4"],
        ["HR@10", "0.5000", "*", "0.2500"], ["HR@10", "by", "popularity", "0.1250"], ["log", "loss", "0.2500", "0.2500"], ["seconds", "in", "all", "12.0", "12.0"],
        ["runner.epochs", "3", "4"], ["hyper_parameters.mode", "MF", "DeepFM"], ["hyper_parameters.hidden_units", "-", "8,", "4"],
        ["written", "to", "page.html"],
    ]  # fmt: skip
    page = (tmp_path / "page.html").read_text()
    assert "<td>HR@10</td><td><b>0.5000</b></td><td>0.2500</td>" in page
    assert page.count("<polyline") == 2, "of one run, its HR@10 over both epochs and its log loss of one"
    assert "dashed: by popularity" in page
    assert "<td>hyper_parameters.hidden_units</td><td>-</td><td>8, 4</td>" in page
    assert here(monkeypatch, "compare", "runs/one", "runs/two", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["run"] for run in told["runs"]] == ["one", "two"]
    assert told["differences"]["runner.epochs"] == [3, 4]


def test_runs_that_go_on_or_are_damaged_are_said_and_compared_as_far_as_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "good", 100.0, metrics={"hr@10": 0.5})
    write_run(tmp_path / "killed", 200.0)
    torn = write_run(tmp_path / "torn", 300.0, metrics={"hr@10": 0.5})
    (torn / "summary.json").write_text("{")
    other = write_run(tmp_path / "other", 400.0, metrics={"hr@10": 0.5})
    (other / "job.yaml").write_text(JOB.replace("epochs: 3", "epochs: 3, train_data_dir: /b"))
    assert here(monkeypatch, "compare", "good", "killed", "torn", "other", "--out", "page.html") == 0
    said = capsys.readouterr()
    assert "note: killed: broken off: it was killed, and has no figures" in said.err
    assert "note: torn: damaged: torn/summary.json: cannot be read: JSONDecodeError" in said.err
    assert "note: they were not trained and tested on the same data: their figures do not compare" in said.err
    assert ["status", "ok", "broken", "off", "damaged", "ok"] in [line.split() for line in said.out.splitlines()]
    assert "killed: broken off" in (tmp_path / "page.html").read_text()


def test_what_cannot_be_compared_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "good", 100.0, metrics={"hr@10": 0.5})
    for words, said in (
        (["good"], "name two runs or more"),
        (["good", "nowhere"], "nowhere: is no run's folder; `fedps runs` lists"),
        (["good", "latest"], "latest: no run is in"),
        (["good", "good", "--out", "no/such/page.html"], "no/such/page.html: cannot be written"),
    ):
        assert here(monkeypatch, "compare", *words) == WRONG
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("loss", "best"), [("bce", "0.2500 *"), ("bpr", "0.2500")])
def test_losses_of_different_kinds_are_not_ranked(
    loss: str, best: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, kind, value in (("one", "bce", 0.5), ("two", loss, 0.25)):
        run = write_run(tmp_path / name, 100.0, metrics={"loss": value})
        (run / "job.yaml").write_text(JOB.replace("mode: MF", f"mode: MF, loss: {kind}"))
    assert here(monkeypatch, "compare", tmp_path / "one", tmp_path / "two") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("training loss"))
    assert line.split(maxsplit=3)[2:] == ["0.5000", best]
