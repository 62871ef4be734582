"""Roles of a run as their commands start them, but forked from a process that has imported all: one costs no second.

So are the processes that a launcher starts. Each role may be traced from its first instruction on by strace, which kills it
at a call of the system or lets the call fail.
"""

import ctypes
import multiprocessing.util
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, NoReturn

import fedps.cli
import fedps.client.life
import fedps.coordinator.serve
import fedps.launch.launcher
import fedps.launch.one_role
import fedps.launch.resuming
import fedps.native.library
import fedps.server.serve
import fedps.training.compiled
from fedps.server import durable
from fedps.storage import whole

CALLS = (
    "write", "writev", "pwrite64", "pwritev", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2", "unlink",
    "unlinkat",
)  # fmt: skip
KILL = "SIGKILL"
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
LINE = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)")  # of a trace: thread, if there are several, call, the rest
DESCRIPTOR = re.compile(r"^\d+<([^>]*)>")
NUMBERED = re.compile(r"(snapshot|log)-\d+")  # files of a server's log: where each begins depends on who comes first
MOST = 64  # of their numbers
WRONG = 2  # the code with which a command ends that refuses to begin
QUOTED = re.compile(r'"([^"]*)"')


class Call(NamedTuple):
    """A call that makes something durable: the `nth` of its kind for a path by one thread.

    Attributes:
        role: whose, as `worker-1`.
        path: in the role's own folder; `#` stands for whatever number a file of a log has.
        name: of the system's call.
        nth: from 1.
    """

    role: str
    path: str
    name: str
    nth: int

    def __str__(self) -> str:
        """Return it as `--only` takes it."""
        return f"{self.role}:{self.path}:{self.name}:{self.nth}"


class Fault(NamedTuple):
    """What befalls a role at a call: it is killed right before, or the call fails; `lasting`: so do all that follow it."""

    call: Call
    kind: str
    lasting: bool = False

    def __str__(self) -> str:
        """Return it as `--only` takes it."""
        return f"{self.kind}{'+' if self.lasting else ''}@{self.call}"

    @staticmethod
    def named(text: str) -> "Fault":
        """Return the fault of a name."""
        kind, _, call = text.partition("@")
        role, path, name, count = call.split(":")
        return Fault(Call(role, path, name, int(count)), kind.rstrip("+"), kind.endswith("+"))


def why_not() -> str | None:
    """Say why nothing can be traced here, None if it can."""
    command = ["strace", "-f", "-o", os.devnull, "-e", "trace=write", "-e", "inject=write:error=EIO:when=1", "true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError as error:
        return f"strace cannot be run: {error.strerror}; install the package of that name"
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()}"


class Role:
    """One role, whose processes follow on each other.

    Args:
        name: as `worker-1`.
        words: its command, behind `fedps`.
        folder: the run's.
        again: the command of those that follow one which has ended otherwise than by refusing to begin; by default the same.

    Attributes:
        log: of what it says.
        lives: how many of its processes have been started.
        pid: of the process that is there, 0 if none is.
        code: how the last one ended.
    """

    def __init__(self, name: str, words: Sequence[object], folder: Path, again: Sequence[object] = ()) -> None:
        self.name, self.folder, self.log, self.lives = name, folder, folder.with_suffix(".log"), 0
        self.pid = 0
        self.code: int | None = None
        self._words, self._again = ([str(word) for word in said] for said in (words, again or words))
        self._strace: subprocess.Popen[bytes] | None = None

    @property
    def said(self) -> str:
        """What its processes have said."""
        return self.log.read_text() if self.log.exists() else ""

    def start(self, *trace: object) -> None:
        """Start its next process, traced if strace is told how."""
        words = self._words if self.code in (None, WRONG) else self._again
        self.lives, self.code = self.lives + 1, None
        gate, opener = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(opener)
            self._be(words, gate)
        os.close(gate)
        if trace:
            command = ["strace", "-qq", "-p", str(self.pid), *map(str, trace)]
            self._strace = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
            while self._strace.poll() is None and _tracer(self.pid) == 0:
                time.sleep(0.002)
        os.write(opener, b"!")
        os.close(opener)

    def ended(self) -> bool:
        """Whether its process has ended; `code` tells how."""
        if self.pid:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid, self.code = 0, os.waitstatus_to_exitcode(status)
                self.let_go()
        return not self.pid

    def let_go(self) -> None:
        """Trace no longer: calls succeed from now on."""
        if self._strace is not None:
            self._strace.terminate()
            self._strace.wait()
            self._strace = None

    @property
    def traced(self) -> bool:
        """Whether it is traced."""
        return self._strace is not None

    def kill(self) -> None:
        """End it, whatever it does."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid, self.code = 0, -signal.SIGKILL
        self.let_go()

    def _be(self, words: Sequence[str], gate: int) -> NoReturn:
        code = 1
        try:
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
            os.read(gate, 1)
            os.setsid()
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            _name_parts(f"{self.name}-{self.lives}")
            sys.argv = ["fedps", *words]
            fedps.cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def calls_of(role: str, trace: Path, run_dir: Path) -> list[Call]:
    """Return the calls in a trace that make something in a role's folder durable, those of one path behind each other."""
    counts: dict[tuple[str, str], dict[str, int]] = {}  # of each path and call: how many of each thread
    for line in trace.read_text(errors="replace").splitlines():
        if " = -1 ENOENT" in line:  # of what never was
            continue
        match = LINE.match(line)
        if match is None or (path := _path(match[3])) is None or not path.startswith(f"{run_dir}/"):
            continue
        if path.endswith("-shm"):  # of SQLite: memory that processes share, and nobody reads after them
            continue
        general = NUMBERED.sub(r"\1-#", path.removeprefix(f"{run_dir}/"))
        of_thread = counts.setdefault((general, match[2]), {})
        of_thread[match[1]] = of_thread.get(match[1], 0) + 1
    return [
        Call(role, path, name, k + 1)
        for (path, name), of_thread in counts.items()
        for k in range(max(of_thread.values()))
    ]


def paths_of(call: Call, run_dir: Path) -> list[Path]:
    """Return the files that a call may be for."""
    numbers = range(MOST) if "#" in call.path else [0]
    return [run_dir / call.path.replace("#", str(number)) for number in numbers]


def _path(arguments: str) -> str | None:
    """Return the file that a call is for: a descriptor's, or the first that is named, by which strace tells calls apart."""
    if found := DESCRIPTOR.match(arguments):
        return found[1]
    named = QUOTED.findall(arguments)
    return named[0] if named else None


def _tracer(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])


def _name_parts(process: str) -> None:
    """Let temporary files have names that are known beforehand, and logs be summed up after every few records."""
    vars(whole)["secrets"] = SimpleNamespace(token_hex=lambda _: process)
    vars(durable).update(LEAST=0, GROWTH=0.3)


def fork_all() -> None:
    """Let `multiprocessing` fork from now on, in this process, what it would start as a new interpreter."""
    vars(multiprocessing.util)["spawnv_passfds"] = _fork


def _fork(_: object, args: Sequence[bytes | str], passed: Sequence[int]) -> int:
    """Fork what `multiprocessing` would start as a new interpreter, which runs some code; return its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        for below, above in pairwise([*sorted({0, 1, 2, *map(int, passed)}), os.sysconf("SC_OPEN_MAX")]):
            os.closerange(below + 1, above)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        words = [os.fsdecode(word) for word in args]
        sys.argv = words[words.index("-c") :]
        exec(sys.argv.pop(1), {})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
