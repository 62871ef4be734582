"""A script's processes: told their part, ended with all they start, and heard to the last word."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedps.config import Allow
from fedps.events.events import Note, Scripted
from fedps.launch.local.processes import Child, stop
from fedps.launch.local.role import RoleSpec
from fedps.launch.local.scripts import last_words, start_script

ECHO = """
import json, os, sys
from multiprocessing.connection import Connection
from fedps.events.events import Note
from fedps.events.forms import encode
told = {k: v for k, v in os.environ.items() if k.startswith("FEDPS_")}
Connection(int(told["FEDPS_PIPE"])).send_bytes(encode(Note(json.dumps({"told": told, "args": sys.argv[1:]}))))
print("a word")
"""


def start(tmp_path: Path, text: str, role: str, number: int, **facts: Any) -> Child:
    (tmp_path / "script.py").write_text(text)
    spec = RoleSpec(role, number, tmp_path / "job.yaml", tmp_path, allow=Allow(commands=True), **facts)
    return start_script(
        spec, tmp_path / f"{role}log.{number}", Scripted(str(tmp_path / "script.py"), ["--lr", "3"], str(tmp_path))
    )


def test_each_role_is_told_its_part(tmp_path: Path) -> None:
    roles = [
        start(tmp_path, ECHO, "server", 1, bind="a:1"),
        start(tmp_path, ECHO, "coordinator", 0, bind="a:2"),
        start(tmp_path, ECHO, "worker", 4, client="north", servers=("a:1", "b:1"), coordinator="a:2"),
    ]
    assert [(role.kind, role.name) for role in roles] == [("server", "1"), ("coordinator", "0"), ("worker", "north")]
    heard = [json.loads(event.note) for role in roles if isinstance(event := role.read(), Note)]
    for role in roles:
        role.process.join(60)
        assert role.read() is None
        assert role.log.read_text() == "a word\n"
    stop(roles)
    told = [h["told"] for h in heard]
    assert [(t["FEDPS_ROLE"], t["FEDPS_ID"], t["FEDPS_BIND"]) for t in told] == [
        ("server", "1", "a:1"), ("coordinator", "0", "a:2"), ("worker", "4", ""),
    ]  # fmt: skip
    assert (told[2]["FEDPS_CLIENT"], told[2]["FEDPS_SERVERS"], told[2]["FEDPS_COORDINATOR"]) == (
        "north",
        "a:1,b:1",
        "a:2",
    )
    assert told[0]["FEDPS_ALLOW"] == "commands"
    assert heard[0]["args"] == ["--lr", "3"]


def test_what_a_script_starts_ends_with_it(tmp_path: Path) -> None:
    text = (
        f"import subprocess, time\nsubprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    role = start(tmp_path, text, "coordinator", 0, bind="a:1")
    deadline = time.monotonic() + 20
    while "up" not in role.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    family = psutil.Process(role.process.pid).children()
    assert len(family) == 1
    stop([role])
    assert role.process.exitcode == -15
    assert not psutil.wait_procs(family, timeout=10)[1]


@pytest.mark.parametrize(
    ("log", "last", "first"),
    [
        ("hello\nTraceback (most recent call last):\n  File\nValueError: bad\n", "ValueError: bad", "Traceback"),
        ("x\n" * 50 + "  File\nSyntaxError: invalid syntax\n", "SyntaxError: invalid syntax", "x"),
        ("", "", ""),
    ],
)
def test_last_words(log: str, last: str, first: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)
    reason, told = last_words(tmp_path / "log")
    assert reason == last
    assert told.startswith(first)
    assert len(told.splitlines()) <= 10
