"""Parties in processes of their own: two commands make one model, who dies is started again, and Ctrl-C leaves nobody behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fedps.data.prepare.parties import synthesize_parties
from tests.launch.rooms import here
from tests.ports import free_address

PATIENCE = 150.0  # seconds
pytestmark = pytest.mark.timeout(2 * PATIENCE)
OWN = """
import os
import signal
from pathlib import Path

import torch
from torch import nn


class Users(nn.Module):
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(40, 4)

    def forward(self, user):
        Users.calls += 1
        died = Path(__file__).with_name("died")
        if Users.calls == 30 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.user(user)


class Items(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(30, 4)

    def forward(self, item):
        return self.item(item)


class Top(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, items, users):
        return self.layer(torch.cat([items, users], 1))
"""
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile nothing: what is trained is small."""
    monkeypatch.setenv("CXX", "no-compiler")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a job of parties, by default both, with keys of its section vertical."""
    synthesize_parties(tmp_path / "data", users=40, items=30, per_user=20)
    features: dict[str, Any] = {
        "items": {"item": {"kind": "id", "rows": 30}, "label": {"kind": "label"}},
        "users": {"user": {"kind": "id", "rows": 40}},
    }

    def write(*parties: str, own: dict[str, dict[str, str]] | None = None, **vertical: object) -> Path:
        names, classes = parties or ("items", "users"), own or {}
        tree = {
            "vertical": {"active": "items", "passive": "users", "train_batch_size": 32, "lift": [], **vertical},
            "hyper_parameters": {"embedding_dim": 4, "hidden_units": [4], "optimizer": {"learning_rate": 0.01}},
            "parties": {
                name: {"data": f"{tmp_path}/data/{name}.csv", "features": features[name], **classes.get(name, {})}
                for name in names
            },
        }  # fmt: skip
        folder = tmp_path / "-".join(names)
        folder.mkdir(exist_ok=True)
        (folder / "job.yaml").write_text(yaml.safe_dump(tree))
        return folder / "job.yaml"

    return write


def events_of(run: Path) -> Iterator[dict[str, Any]]:
    for line in (run / "events.jsonl").read_text().splitlines() if (run / "events.jsonl").exists() else ():
        if line.endswith("}"):
            yield json.loads(line)


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fedps", "vertical", *map(str, words)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid) if is_alive(pid) else None
    except ProcessLookupError:
        return None


@pytest.mark.slow
def test_a_party_that_dies_is_started_again_and_the_model_is_that_of_one_that_did_not(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"items": {"bottom": "net.Items", "top": "net.Top"}, "users": {"bottom": "net.Users"}}
    job = write(own=own, network="own", lift=["joined"], epochs=2, checkpoint_every=5)
    (job.parent / "net.py").write_text(OWN)
    assert here(monkeypatch, "vertical", "run", job, "--run_dir", tmp_path / "run", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (job.parent / "died").exists() and summary["faults"]["restarts"] >= 1
    figures = [{key: of[key] for key in ("auc", "logloss", "epoch")} for of in summary["vertical"].values()]
    assert figures[0] == figures[1]


def test_two_commands_make_one_model(write: Write, tmp_path: Path) -> None:
    at = free_address()
    runs = {name: tmp_path / f"run-{name}" for name in ("users", "items")}
    both = [
        start("party", name, write(name, epochs=1, address=at), "--run_dir", run) for name, run in runs.items()
    ]  # in any order
    said = [party.communicate(timeout=PATIENCE)[0] for party in both]
    assert [party.returncode for party in both] == [0, 0], said
    summary = json.loads((runs["items"] / "summary.json").read_text())
    assert summary["status"] == "ok" and summary["vertical"]["federated"]["auc"] > 0.4
    assert "all together" in said[1] and "kind: label" not in (runs["users"] / "parties/users/job.yaml").read_text()
    for name, run in runs.items():
        assert [folder.name for folder in (run / "parties").iterdir()] == [name]
        assert any((run / "parties" / name / "model").iterdir())


@pytest.mark.slow
def test_ctrl_c_ends_all(write: Write, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = start("run", write(epochs=100_000), "--run_dir", run)
    deadline = time.monotonic() + PATIENCE
    while not any(event["event"] == "measured" for event in events_of(run)) and launcher.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    launcher.send_signal(signal.SIGINT)
    said, _ = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 130, said
    deadline = time.monotonic() + PATIENCE
    pids = [event["pid"] for event in events_of(run) if event["event"] == "started"]
    assert len(pids) == 2 and not [pid for pid in pids if is_alive(pid)]
    assert json.loads((run / "summary.json").read_text())["error"] == "launcher: stopped by a signal"
    while there := [p.cmdline() for p in psutil.process_iter() if group_of(p.pid) == launcher.pid]:
        assert time.monotonic() < deadline, there
        time.sleep(0.1)
