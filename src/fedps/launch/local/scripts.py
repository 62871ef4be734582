"""The processes of a user's own training script: `python -u SCRIPT.py …` once per role, watched like the built-in ones.

Each is told its part by its environment, and speaks to the launcher through a socket that it inherits. It leads a
process group of its own: Ctrl-C at the terminal is the launcher's to handle, and what a script has started ends with it.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

from fedps.config import Allow
from fedps.launch.local.environment import Part
from fedps.launch.local.processes import Role
from fedps.types import ClientId


class ScriptProcess:
    """A script's process, with the calls of one of `multiprocessing`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """None while it lives; negative: the signal it died of."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.exitcode is None

    def terminate(self) -> None:
        """Ask it, and what it has started, to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, and what it has started."""
        self._signal(signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class Scripted:
    """Starts a script in every role.

    Args:
        script: the file.
        args: given to it in every role.
        run_dir: the run's folder; it holds the resolved job.
        log_dir: the folder of the roles' logs.
        allow: what the person who started the run allows.
    """

    def __init__(self, script: Path, args: tuple[str, ...], run_dir: Path, log_dir: Path, allow: Allow) -> None:
        self._command = [sys.executable, "-u", str(script), *args]
        self._run_dir, self._log_dir, self._allow = run_dir, log_dir, allow

    def server(self, shard: int, bind: str) -> Role:
        """Start the script as one server, which listens on `bind`."""
        return self._start(str(shard), self._part("server", shard, bind=bind))

    def coordinator(self, bind: str) -> Role:
        """Start the script as the coordinator, which listens on `bind`."""
        return self._start("0", self._part("coordinator", 0, bind=bind))

    def worker(
        self, number: int, client: ClientId, servers: list[str], coordinator: str | None, plan: Path | None
    ) -> Role:
        """Start the script as the worker of one client."""
        part = replace(self._part("worker", number), client=client, plan=plan)
        return self._start(client, replace(part, servers=tuple(servers), coordinator=coordinator or ""))

    def _part(self, role: str, number: int, bind: str = "") -> Part:
        return Part(role, number, self._run_dir / "job.yaml", self._run_dir, bind=bind, allow=self._allow)

    def _start(self, name: str, part: Part) -> Role:
        log = self._log_dir / f"{part.role}log.{part.number}"
        ours, theirs = Pipe()
        part = replace(part, pipe=theirs.fileno())
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603  (the user's own script, named on the command line)
                self._command, env=os.environ | part.environ(), stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()], process_group=0,
            )  # fmt: skip
        theirs.close()
        return Role(part.role, name, ScriptProcess(process), ours, log)


def last_words(log: Path) -> tuple[str, str]:
    """Return what a script's log ends with: its last line, and the traceback or the last lines; empty if it is silent."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - (1 << 16)))
        text = file.read().decode(errors="replace").rstrip()
    start = text.rfind("Traceback (most recent call last):")
    told = text[start:] if start >= 0 else "\n".join(text.splitlines()[-10:])
    return (told.splitlines() or [""])[-1], told
