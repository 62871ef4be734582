"""A user's own training script: started once per role, heard when it fails, and told when it does nothing."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedps.config import Job, load_job
from fedps.errors import JobError
from fedps.events.events import Scripted
from fedps.launch.folder import make_run_folder
from fedps.launch.launcher import Launch
from fedps.launch.local import processes as roles
from fedps.launch.local.role import RoleSpec
from fedps.launch.orders import Orders
from fedps.script import Role
from tests.launch.runs import WORKERS, events, fedps, write_job

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_training_script.py"


@pytest.fixture(scope="module")
def fork_server() -> Iterator[None]:
    with roles.fork_server(torch=False):
        yield


def launch(tmp_path: Path, script: str, **runner: Any) -> dict[str, Any]:
    """Run a script in all roles; those of these tests train nobody, so that they need no torch."""
    (tmp_path / "script.py").write_text(f"import sys, time\n{script}\n")
    job = load_job(write_job(tmp_path, **runner))
    orders = Orders(script=Scripted(str(tmp_path / "script.py"), ["--lr", "3"], str(tmp_path)))
    return Launch(job, make_run_folder(job, tmp_path / "run"), time.time(), True, orders).run(in_process=False)


def test_the_example_trains_with_its_own_steps(tmp_path: Path) -> None:
    job, run_dir = write_job(tmp_path, epochs=2), tmp_path / "run"
    done = fedps("run", EXAMPLE, "-m", job, "--coordinator_num=1", "--run_dir", run_dir, "--", "--warm-up", "3")
    assert done.returncode == 0, done.stderr
    for number in range(WORKERS):
        log = (run_dir / "log" / f"workerlog.{number}").read_text()
        assert "round 1: 96 samples in" in log, "three batches of 32"
        assert "round 2: NDCG@10" in log
    assert "fl-ps > recv from client id: 0" in (run_dir / "log" / "coordinatorlog.0").read_text()
    started = {(e["role"], e["id"]) for e in events(run_dir) if e["event"] == "started"}
    assert started - {("check", "0")} == {  # which there is only if no earlier run has planned this network
        ("server", "0"), ("coordinator", "0"), *(("worker", str(k)) for k in range(WORKERS)),
    }  # fmt: skip
    assert (run_dir / "model" / "2").is_dir()


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize(
    ("script", "role", "said"),
    [
        ("import nothing_there", "server 0", "ModuleNotFoundError: No module named 'nothing_there'; its log is "),
        ("def broken(:", "server 0", "SyntaxError: invalid syntax"),
        ("import fedps\nrole = fedps.init()\nassert sys.argv[1:] == ['--lr', '3']\nif role.is_worker(): raise RuntimeError('planted')\nrole.run()",
         "worker ", "RuntimeError: planted"),
        ("import fedps\nrole = fedps.init()\nif not role.is_worker(): role.run()", "worker ", "ended without training; a script"),
        ("pass", "server 0", "ended before the workers did; a script calls fedps.init().run() in every role"),
        ("import fedps\nfedps.init()\nfedps.init()", "server 0", "fedps.init() was called before in this process"),
        ("import fedps\nfedps.init().run_coordinator()", "server 0", "this process is server 0; ask role.is_coordinator()"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "server 0", "died with signal 9; its log is "),
    ],
    ids=["import", "syntax", "worker", "no training", "nothing", "twice", "other role", "killed"],
)  # fmt: skip
def test_what_fails_in_a_script_is_shown(script: str, role: str, said: str, tmp_path: Path) -> None:
    found = launch(tmp_path, script)
    assert found["status"] == "failed"
    assert found["error"].startswith(role)
    assert said in found["error"]
    failed = next(e for e in events(tmp_path / "run") if e["event"] == "failed")
    if "Error" in said and "Syntax" not in said:
        assert 'script.py", line ' in str(failed["traceback"])


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize(
    ("script", "late"),
    [
        ("time.sleep(60)", "server 0"),
        ("import fedps, os\nif os.environ['FEDPS_ROLE'] == 'worker': time.sleep(60)\nfedps.init().run()", "worker "),
    ],
)
def test_a_script_that_never_says_who_it_is_is_given_up(script: str, late: str, tmp_path: Path) -> None:
    found = launch(tmp_path, script, start_timeout=12.0)
    assert found["error"].startswith(late)
    assert "did not come up within 12 s; raise runner.start_timeout or see whether the script calls" in found["error"]


def test_started_by_itself_a_script_says_how_to_start_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import fedps\nfedps.init()\n")
    done = subprocess.run([sys.executable, tmp_path / "mine.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "start it with `fedps run SCRIPT.py -m JOB.yaml`" in done.stderr


@pytest.mark.parametrize("name", ["server", "coordinator", "worker"])
def test_a_role_knows_what_it_is_and_plays_no_other(name: str, tmp_path: Path) -> None:
    job: Job = load_job(write_job(tmp_path))
    role = Role(RoleSpec(name, 1, tmp_path / "job.yaml", tmp_path), job, lambda _: None)
    assert (role.name, role.number, role.run_dir, role.job) == (name, 1, tmp_path, job)
    assert [role.is_server(), role.is_coordinator(), role.is_worker()] == [
        name == r for r in ("server", "coordinator", "worker")
    ]
    calls: dict[str, Callable[[], object]] = {
        "server": role.run_server,
        "coordinator": role.run_coordinator,
        "worker": role.client,
    }
    for other, call in calls.items():
        if other != name:
            with pytest.raises(JobError, match=f"this process is {name} 1; ask role.is_{other}"):
                call()
