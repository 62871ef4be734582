"""Whole runs as people start them: real processes, watched from outside."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from fedps.data.prepare.synth import synthesize
from fedps.data.prepare.write import Split

FEDPS = [sys.executable, "-m", "fedps"]
WORKERS = 3
# Before a command: it heeds signals, which one that a test starts in the background may have inherited as ignored. Not by
# `preexec_fn`: that forks, and gRPC, if a test before has used it here, may end the child before it becomes the command.
HEEDING = [
    sys.executable, "-S", "-c",
    "import os, signal, sys; [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGHUP)];"
    " os.execv(sys.argv[1], sys.argv[1:])",
]  # fmt: skip


def fedps(*args: object, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run([*FEDPS, *map(str, args)], capture_output=True, text=True, timeout=timeout, check=False)


def start(*args: object, out: Path | None = None) -> subprocess.Popen[str]:
    """Start a command; what it says goes to `out`, or to pipes."""
    command = [*HEEDING, *FEDPS, *map(str, args)]
    if out is None:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with out.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, text=True)


def write_job(folder: Path, hyper: Mapping[str, object] | None = None, **runner: Any) -> Path:
    """Write a job of three clients, and their data beside it; return the job file."""
    if not (folder / "data").exists():
        synthesize(folder / "data", users=30, items=220, per_user=30, split=Split("iid", WORKERS), seed=1)
    tree = {
        "runner": {
            "train_data_dir": "data/train", "test_data_dir": "data/test", "train_batch_size": 32, "geo_step": 5,
            "local_sparse": ["embedding_0.w_0"], "epochs": 1, **runner,
        },
        "hyper_parameters": {"num_users": 30, "num_items": 220, "fc_layers": [16, 8, 4], **(hyper or {})},
    }  # fmt: skip
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def write_long_job(folder: Path, **runner: Any) -> Path:
    """Write one that does not end by itself within a test."""
    return write_job(
        folder, epochs=10_000, eval_every=0, print_interval=1, step_timeout=3.0, reconnect_timeout=1.0, **runner
    )


def events(run_dir: Path) -> list[dict[str, object]]:
    """Return the events that are whole by now."""
    path = run_dir / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def start_and_wait_for_training(run_dir: Path, *args: object) -> subprocess.Popen[str]:
    """Start a run and return once all its workers train."""
    process = start("run", *args, "--run_dir", run_dir)
    deadline = time.monotonic() + 200  # s: a step may have to be compiled, on a machine with much else to do
    while time.monotonic() < deadline:
        if sum(e["event"] == "first_batch" for e in events(run_dir)) == WORKERS:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.kill()
    raise AssertionError("no training in time")


def pid_of(run_dir: Path, role: str, name: str) -> int:
    """Return the process number of a role."""
    for event in events(run_dir):
        if (event["event"], event["role"], event["id"]) == ("started", role, name):
            return int(str(event["pid"]))
    raise AssertionError(f"{role} {name} has not started")


def summary_of(run_dir: Path) -> dict[str, Any]:
    """Return a run's summary."""
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return all that a process has started."""
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    """Whether all of these end in time."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]
