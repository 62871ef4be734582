"""The processes of a user's own training script: `python -u SCRIPT.py …` once per role, watched like the built-in ones.

What each is to do stands in its environment; it speaks to the launcher through a socket that it inherits. It leads a
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

from fedps.events.events import Scripted
from fedps.launch.local.processes import AGAIN, Child
from fedps.launch.local.role import RoleSpec


class ScriptProcess(subprocess.Popen[bytes]):
    """A script's process, with the calls of one of `multiprocessing`."""

    @property
    def exitcode(self) -> int | None:
        """None while it lives; negative: the signal it died of."""
        return self.poll()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.poll() is None

    def terminate(self) -> None:
        """Ask it, and what it has started, to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, and what it has started."""
        self._signal(signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(timeout)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def start_script(spec: RoleSpec, log: Path, script: Scripted) -> Child:
    """Start a script in a role; what it prints goes to `log`."""
    ours, theirs = Pipe()
    environ = os.environ | replace(spec, pipe=theirs.fileno()).environ()
    with log.open("ab") as file:
        process = ScriptProcess(
            [sys.executable, "-u", script.script, *script.args], env=environ, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()], process_group=0, cwd=script.folder,
        )  # fmt: skip
    theirs.close()
    return Child(spec.role, spec.name, process, ours, log, spec)


def last_words(log: Path) -> tuple[str, str]:
    """Return what a script's log ends with: its last line, and the traceback or the last lines; empty if it is silent."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - (1 << 16)))
        text = file.read().decode(errors="replace").rstrip()
    text = text[text.rfind(AGAIN) + 1 :].partition("\n")[2] if AGAIN in text else text
    start = text.rfind("Traceback (most recent call last):")
    trace = text[start:] if start >= 0 else "\n".join(text.splitlines()[-10:])
    return (trace.splitlines() or [""])[-1], trace
