"""A script's processes: told their part, ended with all they start, and heard to the last word."""

import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedps.config import Allow
from fedps.events.events import Note
from fedps.launch.local.scripts import Scripted, last_words
from fedps.types import ClientId

ECHO = """
import json, os, sys
from multiprocessing.connection import Connection
from fedps.events.events import Note, encode
told = {k: v for k, v in os.environ.items() if k.startswith("FEDPS_")}
Connection(int(told["FEDPS_PIPE"])).send_bytes(encode(Note(json.dumps({"told": told, "args": sys.argv[1:]}))))
print("a word")
"""


def scripted(tmp_path: Path, text: str) -> Scripted:
    script = tmp_path / "script.py"
    script.write_text(text)
    return Scripted(script, ("--lr", "3"), tmp_path, tmp_path, Allow(commands=True))


def test_each_role_is_told_its_part(tmp_path: Path) -> None:
    starter = scripted(tmp_path, ECHO)
    roles = [
        starter.server(1, "a:1"),
        starter.coordinator("a:2"),
        starter.worker(4, ClientId("north"), ["a:1", "b:1"], "a:2", None),
    ]
    heard = [json.loads(event.note) for role in roles if isinstance(event := role.read(), Note)]
    for role in roles:
        role.process.join(10)
        assert role.read() is None
        role.stop()
        assert role.log.read_text() == "a word\n"
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
    assert [role.log.name for role in roles] == ["serverlog.1", "coordinatorlog.0", "workerlog.4"]


def test_what_a_script_starts_ends_with_it(tmp_path: Path) -> None:
    starter = scripted(
        tmp_path,
        f"import subprocess, time\nsubprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])\n"
        "print('up', flush=True)\ntime.sleep(60)",
    )
    role = starter.coordinator("a:1")
    deadline = time.monotonic() + 20
    while "up" not in role.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    family = psutil.Process(role.process.pid).children()
    assert len(family) == 1
    role.stop()
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
