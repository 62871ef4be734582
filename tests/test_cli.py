"""The command line as people use it: real processes, real sockets, and every end a run can come to."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from tests.conftest import MakeJob

FEDPS = [sys.executable, "-m", "fedps"]


def fedps(*args: object, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FEDPS, *map(str, args)], capture_output=True, text=True, timeout=timeout, check=False)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


@pytest.fixture
def job_file(make_job: MakeJob, tmp_path: Path) -> Path:
    make_job(epochs=2, server_num=2)
    return tmp_path / "job.yaml"


@pytest.fixture
def long_job(make_job: MakeJob, tmp_path: Path) -> Path:
    make_job(epochs=500, eval_every=0, print_interval=1, step_timeout=3.0, reconnect_timeout=1.0)
    return tmp_path / "job.yaml"


def start_and_wait_for_training(job: Path, run_dir: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*FEDPS, "run", str(job), "--run_dir", str(run_dir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        events = run_dir / "events.jsonl"
        if events.exists() and events.read_text().count('"first_batch"') == 10:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    raise AssertionError("no training within a minute")


def pid_of(run_dir: Path, role: str, name: str) -> int:
    for line in (run_dir / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if (event["event"], event["role"], event["id"]) == ("started", role, name):
            return int(event["pid"])
    raise AssertionError(f"{role} {name} has not started")


def test_a_run_of_ten_workers_and_two_servers_ends_by_itself(job_file: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    done = fedps("run", "-m", job_file, "--run_dir", run_dir, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary == json.loads((run_dir / "summary.json").read_text())
    assert summary["status"] == "ok"
    assert (summary["workers"], summary["servers"], summary["coordinator"]) == (10, 2, False)
    assert summary["samples"] == 2 * sum(len(f.read_text().splitlines()) for f in train_files(job_file))
    assert summary["samples_per_second"] == pytest.approx(summary["samples"] / summary["train_seconds"])
    assert [r["round"] for r in summary["rounds"]] == [1, 2]
    assert all(0.3 < r["auc"] < 1 and 0 <= r["hr@10"] <= 1 for r in summary["rounds"])
    assert summary["bytes"]["sent_by_clients"] > 100_000
    assert list(summary["clients"]) == [str(k) for k in range(10)]
    assert all(0 < max(c["first_epoch_auc"].values()) < 1 for c in summary["clients"].values())
    assert summary["faults"] == {"rejected_messages": 0, "retries": 0, "lost_workers": [], "restarts": 0}
    assert (run_dir / "log" / "workerlog.9").read_text().startswith("time: [")
    assert "Epoch 1 Var Auc[1]:[" in (run_dir / "log" / "workerlog.0").read_text()
    assert sorted(p.name for p in (run_dir / "private").iterdir()) == [str(k) for k in range(10)]
    page = (run_dir / "report.html").read_text()
    assert "<polyline" in page
    assert "http" not in page


def train_files(job: Path) -> list[Path]:
    return sorted(Path(yaml.safe_load(job.read_text())["runner"]["train_data_dir"]).glob("*.csv"))


def test_in_process_gives_the_numbers_of_processes_and_export_and_infer_agree(job_file: Path, tmp_path: Path) -> None:
    apart = json.loads(fedps("run", job_file, "--run_dir", tmp_path / "a", "--json").stdout)
    together = json.loads(fedps("run", job_file, "--run_dir", tmp_path / "b", "--json", "--in-process").stdout)
    assert together["metrics"] == apart["metrics"], "geo merges in an order of its own: runs repeat exactly"
    exported = fedps("export", tmp_path / "a", "--out", tmp_path / "out", "--private")
    assert exported.returncode == 0, exported.stderr
    weights = tmp_path / "out" / "model.safetensors"
    found = json.loads(fedps("infer", job_file, "--weights", weights, "--json").stdout)
    for key in ("auc", "hr@10", "ndcg@10"):
        assert found[key] == pytest.approx(apart["metrics"][key], abs=1e-6)


def test_ctrl_c_leaves_no_process(long_job: Path, tmp_path: Path) -> None:
    process = start_and_wait_for_training(long_job, tmp_path / "run")
    family = descendants(process)
    assert len(family) >= 11
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert gone(family)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_a_killed_launcher_leaves_no_process(long_job: Path, tmp_path: Path) -> None:
    process = start_and_wait_for_training(long_job, tmp_path / "run")
    family = descendants(process)
    process.kill()
    process.communicate(timeout=30)
    assert gone(family)


def test_a_killed_server_stops_the_run_and_is_named(long_job: Path, tmp_path: Path) -> None:
    process = start_and_wait_for_training(long_job, tmp_path / "run")
    family = descendants(process)
    os.kill(pid_of(tmp_path / "run", "server", "0"), signal.SIGKILL)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "server 0: died with signal 9" in told
    assert gone(family)


def test_a_killed_worker_is_named_and_the_others_go_on(make_job: MakeJob, tmp_path: Path) -> None:
    make_job(epochs=6, eval_every=0, print_interval=1, step_timeout=3.0, reconnect_timeout=1.0, train_batch_size=8)
    run_dir = tmp_path / "run"
    process = start_and_wait_for_training(tmp_path / "job.yaml", run_dir)
    os.kill(pid_of(run_dir, "worker", "3"), signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "worker 3: died with signal 9" in told
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["faults"]["lost_workers"] == ["3"]
    assert summary["status"] == "failed"
    assert summary["rounds"][-1]["selected"] == [c for c in map(str, range(10)) if c != "3"]


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


def write_network(folder: Path, forward: str = "pass", init: str = "pass") -> None:
    (folder / "mynet.py").write_text(NETWORK.format(init=init, forward=forward))


def test_a_worker_that_fails_stops_the_start_and_shows_its_traceback(make_job: MakeJob, tmp_path: Path) -> None:
    write_network(tmp_path, forward='if len(user) > 3: raise RuntimeError("planted")')  # the check uses fewer samples
    make_job({"width": 4}, model="mynet.MyNet", local_sparse=["taste.weight"])
    done = fedps("run", tmp_path / "job.yaml", "--run_dir", tmp_path / "run")
    assert done.returncode == 1
    assert "RuntimeError: planted" in done.stderr
    assert 'mynet.py", line ' in done.stderr
    assert any("Traceback" in log.read_text() for log in (tmp_path / "run" / "log").glob("workerlog.*"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["error"].startswith("worker ")
    assert "RuntimeError: planted" in summary["error"]


@pytest.mark.parametrize("where", [[], ["--in-process"]], ids=["processes", "in process"])
@pytest.mark.parametrize(
    ("runner", "network", "said"),
    [
        ({"local_sparse": ["mlp_usr.weight"], "local_dense": ["x"]}, {}, ["'mlp_usr.weight' matches no", "'x' matches no"]),
        ({"model": "mynet.MyNet"}, {"init": "self.norm = nn.BatchNorm1d(1)", "forward": "self.norm(torch.rand(len(user), 1))"},
         ["training changes norm.running_mean, norm.running_var", "LayerNorm"]),
        ({"model": "mynet.YourNet"}, {}, ["has no network YourNet; there are MyNet"]),
    ],
    ids=["names", "buffers", "class"],
)  # fmt: skip
def test_a_job_that_does_not_fit_its_network_starts_nothing(
    runner: dict[str, object], network: dict[str, str], said: list[str], where: list[str], make_job: MakeJob, tmp_path: Path
) -> None:  # fmt: skip
    write_network(tmp_path, **network)
    make_job({"width": 4} if "model" in runner else {}, **runner)
    done = fedps("run", tmp_path / "job.yaml", "--run_dir", tmp_path / "run", *where)
    assert done.returncode == 2, done.stderr
    for sentence in said:
        assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists(), "nothing was started and nothing is left"


def test_bad_data_is_told_with_client_file_and_line(small_data: Path, make_job: MakeJob, tmp_path: Path) -> None:
    shutil.copytree(small_data / "train", tmp_path / "train")
    with (tmp_path / "train" / "4.csv").open("a") as file:
        file.write("3,7,2\n")
    lines = len((tmp_path / "train" / "4.csv").read_text().splitlines())
    make_job(train_data_dir=str(tmp_path / "train"))
    done = fedps("run", tmp_path / "job.yaml", "--run_dir", tmp_path / "run")
    assert done.returncode == 1
    assert f"worker 4: {tmp_path / 'train' / '4.csv'}, line {lines}: '3,7,2': label 2 is neither 0 nor 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_nan_names_the_worker(make_job: MakeJob, tmp_path: Path) -> None:
    make_job({"optimizer": {"class": "sgd", "learning_rate": 1e30}}, train_batch_size=16)
    done = fedps("run", tmp_path / "job.yaml", "--run_dir", tmp_path / "run")
    assert done.returncode == 1
    assert "the loss is" in done.stderr or "[not_finite]" in done.stderr
    assert "worker " in done.stderr


def test_your_own_network_trains(make_job: MakeJob, tmp_path: Path) -> None:
    write_network(tmp_path)
    make_job({"width": 6}, model="mynet.MyNet", local_sparse=["embedding_0.w_0"])
    done = fedps("run", tmp_path / "job.yaml", "--run_dir", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "private" / "0" / "1" / "tables.safetensors").is_file()
    wrong = fedps("run", tmp_path / "job.yaml", "--run_dir", tmp_path / "run2", "-o", "hyper_parameters.widht=3")
    assert wrong.returncode == 2
    assert "hyper_parameters.widht" in wrong.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-o", "runner.geo_stepp=5"], "runner.geo_stepp: 5: there is no such key; did you mean 'geo_step'?"),
        (["-o", "runner.epochs=many"], "runner.epochs: 'many'"),
        (["--worker_num=3"], "runner.worker_num: 3:"),
        (["-o", "runner.train_data_dir=nowhere"], "there is no such folder"),
        (["-o", "runner.sync_mode=off"], "YAML reads off"),
        (["-o", "hyper_parameters.mf_dimm=5"], "did you mean 'mf_dim'?"),
        (["-o", "nonsense"], "write key=value"),
    ],
    ids=lambda a: str(a)[:30],
)
def test_a_wrong_job_is_told_before_anything_starts(args: list[str], said: str, job_file: Path, tmp_path: Path) -> None:
    done = fedps("run", job_file, "--run_dir", tmp_path / "run", *args)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_all_mistakes_are_told_at_once(job_file: Path) -> None:
    done = fedps("config", "check", job_file, "-o", "runner.epochs=0", "-o", "runner.sed=1", "-o", "limitz.x=1")
    assert done.returncode == 2
    assert all(key in done.stderr for key in ("runner.epochs", "runner.sed", "limitz"))


def test_a_run_folder_that_holds_a_run_or_cannot_be_written_is_refused(job_file: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "job.yaml").write_text("")
    (tmp_path / "file").write_text("")
    for folder, said in (("old", "holds a run already"), ("file/run", "cannot be written")):
        done = fedps("run", job_file, "--run_dir", tmp_path / folder)
        assert done.returncode == 2
        assert said in done.stderr


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
