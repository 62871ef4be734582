"""A run under a storm, from start to end, and what must be true of it whatever fell."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from tests.chaos.counted import Pushes, answered, counted
from tests.chaos.storm import Fault
from tests.chaos.stormy import Schedule

MARK = "FEDPS_CHAOS"  # in the environment of all processes of a run


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
        code: exit code.
        told: what the command said.
        run_dir: its folder; beside it lies what was noted.
        left: processes that outlived it, which are killed.
        seconds: that it took.
    """

    code: int
    told: str
    run_dir: Path
    left: list[str]
    seconds: float

    @property
    def folder(self) -> Path:
        """What was noted."""
        return self.run_dir.with_name(f"{self.run_dir.name}.chaos")

    @property
    def summary(self) -> dict[str, Any]:
        """The run's summary."""
        summary: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text())
        return summary

    @property
    def fell(self) -> list[dict[str, Any]]:
        """The blows that fell."""
        return lines_of(self.folder / "fell.jsonl")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What the run's roles told."""
        return lines_of(self.run_dir / "events.jsonl")

    @property
    def answered(self) -> Pushes:
        """The pushes that clients were told are done."""
        return answered(self.folder)

    @property
    def counted(self) -> Pushes:
        """The pushes that servers have taken."""
        return counted(self.folder)

    @property
    def carried(self) -> int:
        """Bytes that passed between clients and servers."""
        return int((self.folder / "carried").read_text())


def run_under(
    faults: Sequence[Fault], total: int, job: Path, run_dir: Path, settings: Sequence[str] = (), timeout: float = 600
) -> Outcome:
    """Run a job under a storm.

    Args:
        faults: what is to fall.
        total: bytes of a calm run.
        job: file of the job.
        run_dir: the run's folder.
        settings: overrides, `key=value`.
        timeout: seconds after which the run hangs.
    """
    storm, mark = run_dir.with_name(f"{run_dir.name}.storm.json"), uuid.uuid4().hex
    storm.parent.mkdir(parents=True, exist_ok=True)
    storm.write_bytes(msgspec.json.encode(Schedule(list(faults), total)))
    overrides = [word for setting in ("runner.restarts=1000", *settings) for word in ("-o", setting)]
    command = [
        sys.executable,
        "-m",
        "tests.chaos.stormy",
        str(storm),
        "run",
        str(job),
        "--run_dir",
        str(run_dir),
        *overrides,
    ]
    said, began = run_dir.with_name(f"{run_dir.name}.said"), time.monotonic()
    with said.open("w") as file:
        process = subprocess.Popen(command, env={**os.environ, MARK: mark}, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = 124
            process.kill()
            process.wait()
    seconds = time.monotonic() - began
    return Outcome(code, said.read_text(), run_dir, _end_what_is_left(mark), seconds)


def faults_of(outcome: Outcome) -> list[str]:
    """Say all that is not as it must be, nothing if all is."""
    if outcome.code:
        return [f"exit code {outcome.code}: {outcome.told[-2000:]}", *outcome.left]
    summary, wrong = outcome.summary, [f"outlived the run: {process}" for process in outcome.left]
    told, there = outcome.answered, outcome.counted
    if lost := told.keys() - there.keys():
        wrong.append(f"{len(lost)} pushes were answered and are counted nowhere, as {min(lost)}")
    if twice := sorted(push for push, often in there.items() if often > 1):
        wrong.append(f"{len(twice)} pushes are counted more than once, as {twice[0]}")
    restarted = [event for event in outcome.events if event["event"] == "restarted"]
    kills = [blow for blow in outcome.fell if blow["kind"] == "kill"]
    if not len(restarted) == summary["faults"]["restarts"] <= len(kills):
        wrong.append(f"{len(kills)} kills, {len(restarted)} events, and in the summary {summary['faults']}")
    if summary["status"] != "ok" or summary["faults"]["lost_workers"]:
        wrong.append(f"status {summary['status']}, lost {summary['faults']['lost_workers']}")
    return wrong


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return what a file of lines of JSON holds."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _end_what_is_left(mark: str) -> list[str]:
    """Kill the processes of a run that do not end after it, and say which they are."""
    ours = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                ours.append(process)
    left = []
    for process in psutil.wait_procs(ours, timeout=20)[1]:
        with suppress(psutil.Error):
            left.append(f"{process.pid} {' '.join(process.cmdline())}")
            process.kill()
    return left
