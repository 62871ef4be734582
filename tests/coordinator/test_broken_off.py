"""Whole runs with a coordinator, as people start them: killed, and gone on with to the same numbers."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.launch.runs import descendants, events, fedps, pid_of, start, summary_of, write_job

ROUNDS = 25


def selected(run_dir: Path) -> list[int]:
    """Return the rounds that somebody was selected for."""
    return [int(str(e["round"])) for e in events(run_dir) if e["event"] == "selected"]


def await_round(run_dir: Path, round_: int) -> None:
    deadline = time.monotonic() + 100
    while not any(r >= round_ for r in selected(run_dir)):
        assert time.monotonic() < deadline, f"only {selected(run_dir)}"
        time.sleep(0.05)


def figures(run_dir: Path) -> list[Any]:
    summary: Any = summary_of(run_dir)
    rounds = [[r[name] for name in ("round", "loss", "train_auc", "hr@10")] for r in summary["rounds"]]
    return [*rounds, summary["metrics"]]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_goes_on_to_the_same_numbers_whoever_was_killed(tmp_path: Path) -> None:
    job = write_job(tmp_path, epochs=ROUNDS, with_coordinator=True, client_selector="round_robin", clients_per_round=2)
    calm, broken = tmp_path / "calm", tmp_path / "broken"
    assert fedps("run", job, "--run_dir", calm, timeout=300).returncode == 0
    run = start("run", job, "--run_dir", broken, out=tmp_path / "said")
    await_round(broken, 4)
    os.kill(pid_of(broken, "coordinator", "0"), signal.SIGKILL)
    await_round(broken, 8)
    everybody = descendants(run)
    run.kill()
    for process in everybody:
        process.kill()
    psutil.wait_procs(everybody, 10)
    run.wait(10)
    again = fedps("run", "--resume", broken, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert figures(broken) == figures(calm)
    assert set(selected(broken)) == set(range(1, ROUNDS + 1))
