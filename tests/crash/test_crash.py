"""Roles killed at the most telling of their durable calls, and calls that fail; `make crash` goes through all of them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.roles import Fault, why_not

WHY = why_not()
FAULTS = [
    "SIGKILL@server-0:state/server-0/log-#:fdatasync:3",
    "SIGKILL@server-0:state/server-0/snapshot-#.part:rename:1",
    "ENOSPC@server-0:state/server-0/log-#:writev:4",
    "SIGKILL@coordinator-0:coordinator.db-wal:fdatasync:2",
    "SIGKILL@worker-0:private/0/checkpoint/.1-0.json.worker-0-1.part:rename:1",
    "ENOSPC@worker-0:private/0/checkpoint/.1-4.safetensors.worker-0-1.part:write:1",
    "ENOSPC+@worker-0:private/0/2/.tables.safetensors.worker-0-1.part:write:1",
    "EIO@server-0:events-server-0.jsonl:write:4",
    "SIGKILL@server-0:state/server-0/over:fsync:1",
    "SIGKILL@launcher:events.jsonl:write:20",
    "ENOSPC+@launcher:events.jsonl:write:5",
    "EIO@launcher:.summary.json.launcher-1.part:write:1",
    "SIGKILL@resumed:.resume.json.resumed-1.part:rename:1",
]


@pytest.mark.slow
@pytest.mark.skipif(WHY is not None, reason=str(WHY))
def test_whoever_dies_or_fails_at_a_durable_call_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.crash", "--keep", str(tmp_path), "--only", *FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    came = dict(line.split(": ")[:2] for line in done.stdout.splitlines() if "@" in line)
    assert came.keys() == set(FAULTS)
    assert not [fault for fault, outcome in came.items() if outcome.startswith("not reached")]


def test_a_fault_has_a_name() -> None:
    for name in (*FAULTS, "ENOSPC+@worker-0:a:write:1"):
        assert str(Fault.named(name)) == name
