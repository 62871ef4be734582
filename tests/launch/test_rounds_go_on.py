"""Rounds with real processes: a worker that dies or hangs is left behind, and one that comes back is welcomed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.launch.runs import events, pid_of, start_and_wait_for_training, summary_of, write_long_job


def wait_until(found: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 40
    while not found():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


def told(run_dir: Path, event: str, client: str) -> list[dict[str, Any]]:
    """Return such events of a client, or about it."""
    return [e for e in events(run_dir) if e["event"] == event and client in (e["id"], e.get("client"))]


def rounds(run_dir: Path) -> int:
    return sum(e["event"] == "selected" for e in events(run_dir))


def trained_rounds(run_dir: Path, client: str) -> set[int]:
    return {0, *(e["epoch"] + 1 for e in told(run_dir, "epoch_end", client))}


def test_a_worker_that_hangs_is_left_behind_and_welcomed_back(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = write_long_job(tmp_path, with_coordinator=True, round_iterations=5)
    process = start_and_wait_for_training(run_dir, job)
    try:
        hung = pid_of(run_dir, "worker", "1")
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: bool(told(run_dir, "left_behind", "1")), "left behind")
        then = rounds(run_dir)
        wait_until(lambda: rounds(run_dir) > then + 3, "rounds without it")
        os.kill(hung, signal.SIGCONT)
        (left,) = {e["round"] for e in told(run_dir, "left_behind", "1")}
        wait_until(lambda: max(trained_rounds(run_dir, "1")) > left + 3, "rounds with it again")
        assert left + 2 not in trained_rounds(run_dir, "1")
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_worker_that_dies_is_forgotten_and_the_rounds_go_on(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = write_long_job(tmp_path, with_coordinator=True, round_iterations=5, sync_mode="sync", restarts=0)
    process = start_and_wait_for_training(run_dir, job)
    try:
        os.kill(pid_of(run_dir, "worker", "1"), signal.SIGKILL)
        wait_until(lambda: bool(told(run_dir, "lost", "1")), "lost")
        then = rounds(run_dir)
        wait_until(lambda: rounds(run_dir) > then + 3, "rounds without it")
        assert [e["selected"] for e in events(run_dir) if e["event"] == "selected"][-1] == ["0", "2"]
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_worker_that_hangs_for_good_does_not_hold_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = write_long_job(tmp_path, with_coordinator=True, round_iterations=5, restarts=0)
    text = job.read_text().replace("epochs: 10000", "epochs: 60")
    job.write_text(text)
    process = start_and_wait_for_training(run_dir, job)
    hung = pid_of(run_dir, "worker", "1")
    try:
        os.kill(hung, signal.SIGSTOP)
        said = process.communicate(timeout=90)
        assert process.returncode == 1, said
        summary = summary_of(run_dir)
        assert str(summary["error"]).startswith("worker 1: hangs: it has said nothing for long")
        assert not psutil.pid_exists(hung)
    finally:
        if psutil.pid_exists(hung):
            os.kill(hung, signal.SIGCONT)
            process.terminate()
            process.communicate(timeout=60)
