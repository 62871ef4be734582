"""The command line as people use it: real processes, real sockets, and every end a run can come to."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedps.access.audit import verify
from tests.launch.rooms import here
from tests.launch.runs import (
    WORKERS,
    descendants,
    events,
    fedps,
    gone,
    pid_of,
    start_and_wait_for_training,
    summary_of,
    write_job,
    write_long_job,
)
from tests.ports import free_address


def test_the_original_command_line_with_a_coordinator_ends_by_itself(tmp_path: Path) -> None:
    job, run_dir, log = write_job(tmp_path, epochs=2), tmp_path / "run", tmp_path / "log"
    one, two, three = (free_address() for _ in range(3))
    workers = ",".join(f"127.0.0.1:{9000 + k}" for k in range(WORKERS))
    done = fedps(
        "run", f"--worker_num={WORKERS}", f"--workers={workers}", "--server_num=2", f"--servers={one},{two}",
        "--coordinator_num=1", f"--coordinators={three}", "--log_dir", log, "../../../tools/static_fl_trainer.py",
        "-m", job, "--run_dir", run_dir,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "static_fl_trainer.py: is not there; the built-in trainer does its work" in done.stderr
    assert "they dial out and never listen" in done.stderr
    assert all(address in done.stderr for address in (one, two, three))
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["status"], summary["workers"], summary["servers"]) == ("ok", WORKERS, 2)
    assert summary["coordinator"] is True
    assert summary["memory_mib"]["coordinator_max_rss"] >= 0
    assert [r["round"] for r in summary["rounds"]] == [1, 2]
    lines = [f for f in (tmp_path / "data" / "train").glob("*.csv") for _ in f.read_text().splitlines()]
    assert summary["samples"] == 2 * len(lines)
    assert summary["faults"] == {
        "rejected_messages": 0, "late_pushes": 0, "left_behind": [], "retries": 0, "lost_workers": [], "restarts": 0,
        "unsaved": 0,
    }  # fmt: skip
    logs = ["coordinatorlog.0", "serverlog.0", "serverlog.1", *(f"workerlog.{k}" for k in range(WORKERS))]
    there = {p.name for p in log.iterdir()} - {"checklog.0"}  # written if no earlier run has planned this network
    assert sorted(there) == logs
    assert "Epoch 1 Var Auc[1]:[" in (log / "workerlog.0").read_text()
    told = (log / "coordinatorlog.0").read_text()
    endpoints = ", ".join([r"'127\.0\.0\.1:\d+'"] * WORKERS)
    for form in (  # of the eight that the tutorial shows
        rf"Server\[fedps\.Coordinator\] is serving on port={three.partition(':')[2]}\.",
        f"fl-ps > coordinator service addr: 127.0.0.1, {three.partition(':')[2]}, 0",
        "fl-ps > StartCoordinatorServer finished!",
        r"fl-ps > running make_fl_strategy\(loop\) in coordinator",
        *(f"fl-ps > coordinator connect to fl_client: {k}" for k in range(WORKERS)),
        rf">>> all trainer endpoints: \[{endpoints}\]",
        "fl-ps > StartCoordinatorClient finish!",
        *(f"fl-ps > recv from client id: {k}, msg_type: 200" for k in range(WORKERS)),
    ):
        assert re.search(rf"^[-\d]+ [\d:,]+ - INFO - {form}$", told, re.MULTILINE), form
    for number, address in enumerate((one, two)):
        port = address.partition(":")[2]
        line = f" - INFO - Server[fedps.ParameterServer] is serving on port={port}.\n"
        assert line in (log / f"serverlog.{number}").read_text()
    stopped = [e["role"] for e in events(run_dir) if e["event"] == "stopped"]
    assert stopped == ["coordinator", "server", "server"], "in this order"
    assert sorted(p.name for p in (run_dir / "private").iterdir()) == [str(k) for k in range(WORKERS)]
    page = (run_dir / "report.html").read_text()
    assert "<polyline" in page
    assert "http" not in page


def test_in_process_gives_the_numbers_of_processes_and_export_and_infer_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path, epochs=2)
    done = fedps("run", job, "--run_dir", tmp_path / "a", "--json")
    apart = json.loads(done.stdout)
    assert apart == summary_of(tmp_path / "a")
    assert apart["log_dir"] == str(tmp_path / "a" / "log")
    assert "role" not in done.stderr, "--json shows nothing else"
    assert here(monkeypatch, "run", job, "--run_dir", tmp_path / "b", "--json", "--in-process") == 0
    together = json.loads(capsys.readouterr().out)
    assert together["metrics"] == apart["metrics"], "geo merges in an order of its own: runs repeat exactly"
    assert here(monkeypatch, "export", tmp_path / "a", "--out", tmp_path / "out", "--private") == 0
    capsys.readouterr()
    assert here(monkeypatch, "infer", job, "--weights", tmp_path / "out" / "model.safetensors", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    for key in ("auc", "hr@10", "ndcg@10"):
        assert found[key] == pytest.approx(apart["metrics"][key], abs=1e-6)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_in_order_and_leaves_no_process(number: signal.Signals, tmp_path: Path) -> None:
    process = start_and_wait_for_training(tmp_path / "run", write_long_job(tmp_path, with_coordinator=True))
    family = descendants(process)
    assert len(family) >= WORKERS + 2
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert gone(family)
    assert summary_of(tmp_path / "run")["status"] == "failed"
    assert summary_of(tmp_path / "run")["audit"].keys() == {"coordinator-0", "server-0"}, "roles are heard to their end"
    assert verify(tmp_path / "run")[1] == []
    log = tmp_path / "run" / "audit" / "server-0.jsonl"
    *kept, _ = log.read_bytes().splitlines()
    log.write_bytes(b"".join(line + b"\n" for line in kept))
    head = {"entries": len(kept), "digest": hashlib.sha256(kept[-1]).hexdigest(), "coming": []}
    log.with_suffix(".head").write_text(json.dumps(head))
    (fault,) = verify(tmp_path / "run")[1]
    assert str(fault) == f"{log}: entry {len(kept) + 1}: it is not the one of which summary.json says the digest"


def test_a_killed_launcher_leaves_no_process(tmp_path: Path) -> None:
    process = start_and_wait_for_training(tmp_path / "run", write_long_job(tmp_path, with_coordinator=True))
    family = descendants(process)
    process.kill()
    process.communicate(timeout=30)
    assert gone(family)


@pytest.mark.parametrize("role", ["server", "coordinator"])
def test_a_killed_server_or_coordinator_stops_the_run_and_is_named(role: str, tmp_path: Path) -> None:
    job = write_long_job(tmp_path, with_coordinator=role == "coordinator", restarts=0)
    process = start_and_wait_for_training(tmp_path / "run", job)
    family = descendants(process)
    os.kill(pid_of(tmp_path / "run", role, "0"), signal.SIGKILL)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"{role} 0: died with signal 9" in told
    assert gone(family)


def test_a_killed_worker_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    job = write_long_job(tmp_path, geo_step=1, restarts=0)
    run_dir = tmp_path / "run"
    process = start_and_wait_for_training(run_dir, job, "-o", "runner.epochs=15")
    os.kill(pid_of(run_dir, "worker", "1"), signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "worker 1: died with signal 9" in told
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["faults"]["lost_workers"] == ["1"]
    assert summary["status"] == "failed"
    assert summary["rounds"][-1]["selected"] == ["0", "2"]


NETWORK = """
import torch
from torch import nn
class MyNet(nn.Module):
    def __init__(self, num_users, num_items, width):
        super().__init__()
        self.taste = nn.Embedding(num_users, width)
        self.kind = nn.Embedding(num_items, width)
        self.bias = nn.Linear(1, 1)
        {init}
    def forward(self, user, item):
        {forward}
        return (self.taste(user) * self.kind(item)).sum(1)
"""


def write_network(folder: Path, forward: str = "pass", init: str = "pass", name: str = "mynet") -> None:
    (folder / f"{name}.py").write_text(NETWORK.format(init=init, forward=forward))


MISFITS = [
    ({"local_sparse": ["mlp_usr.weight"], "local_dense": ["x"]}, {}, ["'mlp_usr.weight' matches no", "'x' matches no"]),
    ({"model": "mynet_b.MyNet"}, {"init": "self.norm = nn.BatchNorm1d(1)", "forward": "self.norm(torch.rand(len(user), 1))"},
     ["training changes norm.running_mean, norm.running_var", "LayerNorm"]),
    ({"model": "mynet_c.YourNet"}, {}, ["has no class YourNet; there are MyNet"]),
]  # fmt: skip


@pytest.mark.parametrize(("runner", "network", "said"), MISFITS, ids=["names", "buffers", "class"])
def test_a_job_that_does_not_fit_its_network_starts_nothing(
    runner: dict[str, Any], network: dict[str, str], said: list[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_network(tmp_path, **network, name=str(runner.get("model", "none.")).partition(".")[0])
    job = write_job(tmp_path, {"width": 4} if "model" in runner else {}, **runner)
    assert here(monkeypatch, "run", job, "--run_dir", tmp_path / "run", "--in-process") == 2
    told = capsys.readouterr().err
    assert all(sentence in told for sentence in said)
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists(), "nothing was started and nothing is left"


def test_training_that_diverges_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who sees it first is a race: a client by its loss, or a server by values over its limit. Both name the remedy."""
    job = write_job(tmp_path, {"optimizer": {"class": "sgd", "learning_rate": 1e6}}, train_batch_size=16)
    assert here(monkeypatch, "run", job, "--run_dir", tmp_path / "run", "--in-process") == 1
    told = capsys.readouterr().err
    assert "the loss is" in told or "has training diverged?" in told
    assert "ower hyper_parameters.optimizer.learning_rate" in told


def test_your_own_network_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_network(tmp_path, name="mynet_d")
    job = write_job(tmp_path, {"width": 6}, model="mynet_d.MyNet", local_sparse=["embedding_0.w_0"])
    assert here(monkeypatch, "run", job, "--run_dir", tmp_path / "run", "--json", "--in-process") == 0
    assert (tmp_path / "run" / "private" / "0" / "1" / "tables.safetensors").is_file()
    assert here(monkeypatch, "run", job, "--run_dir", tmp_path / "run2", "-o", "hyper_parameters.widht=3") == 2
    assert "hyper_parameters.widht" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_or_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = write_job(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "job.yaml").write_text("")
    (tmp_path / "file").write_text("")
    for folder, said in (("old", "holds job.yaml already: another run?"), ("file/run", "cannot be written")):
        assert here(monkeypatch, "run", job, "--run_dir", tmp_path / folder, "--in-process") == 2
        assert said in capsys.readouterr().err


def test_logs_that_cannot_be_written_leave_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fedps("run", write_job(tmp_path), "--run_dir", tmp_path / "run", "--log_dir", tmp_path / "file" / "log")
    assert done.returncode == 2
    assert "--log_dir" in done.stderr
    assert not (tmp_path / "run").exists()


def test_help_teaches_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fedps.cli import app\n"
        "try: app(['run', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numba', 'grpc', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "--server_num" in done.stdout
    assert "Example:" in done.stdout


def test_a_command_ends_in_silence_once_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "fedps", "config", "schema"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    closed = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m fedps config schema >&-"], capture_output=True, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, "")
