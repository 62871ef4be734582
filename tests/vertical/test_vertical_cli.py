"""`fedps vertical` from its commands to its folder: it trains, says what each party's data is worth, and predicts."""

import csv
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedps.config.vertical import VerticalJob, load_vertical
from fedps.data.prepare.parties import synthesize_parties
from fedps.errors import JobError
from fedps.events.journal import Journal
from fedps.launch.one_party import be_party
from tests.launch.rooms import here
from tests.ports import free_address

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile nothing: what is trained is small."""
    monkeypatch.setenv("CXX", "no-compiler")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Return a job of two parties on small data, of which each has something to say of the label."""
    manifest = synthesize_parties(tmp_path / "data", users=60, items=50, per_user=40, seed=3)
    tree = {
        "vertical": {
            "active": "items", "passive": "users", "network": "DeepFM", "train_batch_size": 64, "epochs": 2,
            "lift": ["active", "passive", "joined"], "start_timeout": 30,
        },
        "ids": {"psi_key": "for our eyes"},
        "hyper_parameters": {"embedding_dim": 4, "hidden_units": [8], "optimizer": {"learning_rate": 0.02}},
        "parties": {
            name: {"data": f"data/{name}.csv", "features": facts["features"], "secret": "for our eyes"}
            for name, facts in manifest["parties"].items()
        },
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return tmp_path / "job.yaml"


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_job_trains_says_what_each_partys_data_is_worth_and_predicts(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert here(monkeypatch, "vertical", "run", str(job), "--run_dir", str(run), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((run / "summary.json").read_text()) and summary["status"] == "ok"
    lift = summary["vertical"]
    assert list(lift) == ["active", "passive", "federated", "joined"]
    assert lift["federated"]["auc"] > max(lift["active"]["auc"], lift["passive"]["auc"]) + 0.02
    assert lift["joined"]["auc"] == pytest.approx(lift["federated"]["auc"], abs=1e-6)
    assert summary["samples"] == 1920 and summary["held_out"] == 480 and summary["matching"]["bytes"] > 2400 * 64
    assert {folder.stat().st_mode & 0o777 for folder in (run, *(run / "parties").iterdir())} == {0o700}
    assert not [file for file in (run / "parties").rglob("*") if file.is_file() and file.stat().st_mode & 0o077]
    page = (run / "report.html").read_text()
    assert "joined in one place" in page and "for our eyes" not in page

    assert here(monkeypatch, "doctor", str(run)) == 0
    assert "users: its part of the model of epoch 2" in capsys.readouterr().out
    assert here(monkeypatch, "runs", str(tmp_path)) == 0
    assert "DeepFM  vertical  ok      2/2" in capsys.readouterr().out

    for words in (
        ["recommend", str(run), "--user", "1"], ["export", str(run), "--out", str(tmp_path / "out")],
        ["serve", str(run)], ["run", "--resume", str(run)],
    ):  # fmt: skip
        assert here(monkeypatch, *words) == 2
        assert f"{run}: is of vertical training, where each party keeps its own part" in capsys.readouterr().err
    assert here(monkeypatch, "infer", str(job), "--run_dir", str(run)) == 2
    assert f"`fedps vertical predict {job}` scores samples" in capsys.readouterr().err

    known, unknown = rows_of(tmp_path / "data" / "items.csv")[:30], {"id": "new", "item": "3", "genres": "1|2"}
    write_rows(tmp_path / "fresh.csv", [{k: row[k] for k in ("id", "item", "genres")} for row in known] + [unknown])
    words = ["vertical", "predict", str(job), "--run_dir", str(run), "--out", str(tmp_path / "scores.csv"), "--json"]
    assert here(monkeypatch, *words, "-o", f"parties.items.data={tmp_path / 'fresh.csv'}") == 0
    assert json.loads(capsys.readouterr().out) == {
        "federated": 30, "alone": 1, "none": 0, "out": str(tmp_path / "scores.csv"),
    }  # fmt: skip
    scores = rows_of(tmp_path / "scores.csv")
    assert [row["id"] for row in scores] == [row["id"] for row in [*known, unknown]]
    assert [row["by"] for row in scores] == ["federated"] * 30 + ["alone"]
    told = np.array([[float(row["score"]), float(k["label"])] for row, k in zip(scores, known, strict=False)])
    assert told[told[:, 1] == 1, 0].mean() > told[told[:, 1] == 0, 0].mean() + 0.1

    write_rows(tmp_path / "fresh.csv", [unknown])
    assert here(monkeypatch, *words, "-o", f"parties.items.data={tmp_path / 'fresh.csv'}") == 0
    assert json.loads(capsys.readouterr().out)["alone"] == 1
    write_rows(tmp_path / "fresh.csv", [{k: row[k] for k in ("id", "item", "genres")} for row in known] + [unknown])

    run.chmod(0o755)
    words = ["vertical", "party", "items", str(job), "--run_dir", str(run), "--predict", str(tmp_path / "fresh.csv")]
    away = ["-o", f"vertical.address={free_address()}", "-o", "vertical.start_timeout=0.5"]
    assert here(monkeypatch, *words, *away, "--out", str(tmp_path / "alone.csv")) == 0
    said = capsys.readouterr().err
    assert "party users has not come for 0.5 s" in said and "31 of 31 samples are scored by items alone" in said
    assert {row["by"] for row in rows_of(tmp_path / "alone.csv")} == {"alone"}
    assert run.stat().st_mode & 0o777 == 0o700


def test_a_party_that_is_started_twice_leaves_the_first_ones_job_alone(job: Path, tmp_path: Path) -> None:
    resolved, run = load_vertical(job, ["vertical.address=127.0.0.1:7070"], "items"), tmp_path / "run"
    (tmp_path / "clients" / "private").mkdir(parents=True)
    with pytest.raises(JobError, match=r"clients: holds a run of clients and servers; choose another folder"):
        be_party(resolved, "items", tmp_path / "clients")
    run.mkdir()
    with closing(Journal(run / "events-party-items.jsonl", alone=True)):
        with pytest.raises(JobError, match="party items is at work there already"):
            be_party(resolved, "items", run)
    assert not (run / "parties" / "items" / "job.yaml").exists()


def test_a_party_without_a_secret_draws_one_and_keeps_it(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, run = list[str | None](), tmp_path / "run"
    at = ["vertical.address=127.0.0.1:7070"]

    def side(job: VerticalJob, party: str, *_: object) -> None:
        met.append(job.parties[party].secret)

    monkeypatch.setattr("fedps.vertical.passive.run_passive", side)
    own, none = (load_vertical(job, [*at, *more], "users") for more in ([], ["parties.users.secret=null"]))
    for each in (none, none, own):
        be_party(each, "users", run)
    kept = run / "parties" / "users" / "secret"
    assert met == [kept.read_text()] * 2 + ["for our eyes"] and len(kept.read_text()) == 64
    assert kept.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr("fedps.vertical.predict.predict_passive", side)
    for folder in (run, tmp_path / "of-another-run"):  # scores are of the weights that were trained
        be_party(none, "users", folder, predicts=True)
    assert met[3:] == [kept.read_text(), None]


def test_parties_without_a_common_id_end_at_once_and_both_say_so(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    users = rows_of(tmp_path / "data" / "users.csv")
    write_rows(tmp_path / "data" / "users.csv", [row | {"id": f"0{row['id']}"} for row in users])
    assert here(monkeypatch, "vertical", "run", str(job), "--run_dir", str(tmp_path / "run")) == 2
    said = capsys.readouterr().err
    assert "error: party items: no ids are common to this party and users: ids here look like" in said
    assert "error: party users: no ids are common to this party and items: ids here look like 0" in said
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_asked_for_is_told(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> str:
        assert here(monkeypatch, "vertical", *words) == 2
        return capsys.readouterr().err

    assert "did you mean 'users'?" in told("party", "user", str(job))
    assert "nobody could find a free port; name one" in told("party", "users", str(job))
    assert "is for scores: name the new samples by --predict" in told("party", "items", str(job), "--out", "scores.csv")
    assert "holds no run of vertical training" in told("predict", str(job), "--run_dir", str(tmp_path))
    exposed = told("run", str(job), "-o", "vertical.address=0.0.0.0:7070")
    assert "party items: 0.0.0.0:7070 is not on this machine's loopback" in exposed
    assert here(monkeypatch, "run", str(job)) == 2
    assert f"`fedps vertical run {job}` trains it" in capsys.readouterr().err
