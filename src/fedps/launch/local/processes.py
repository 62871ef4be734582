"""The processes of a run and how they speak to the launcher: a pipe each, one event a message.

Servers and the coordinator are new processes without torch; workers are forked from a server that has imported it. All
end when their pipe does, so no process outlives the launcher, however it ends.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from fedps.config import Job
from fedps.config.job import VerticalJob
from fedps.errors import FedpsError, JobError
from fedps.events.events import Event, Failed
from fedps.events.forms import decode
from fedps.launch.local import entry
from fedps.launch.local.role import RoleSpec

PRELOAD = "fedps.launch.local.preload"
PRELOAD_TORCH = "FEDPS_PRELOAD_TORCH"  # environment variable by which the fork server knows
LONGEST_SOCKET, SOCKET_NAME = 107, len("/pymp-12345678/listener-12345678")  # bytes of a path, and of its end
UNKNOWN = 255  # the exit code of a worker whose fork server died before it
PATIENCE, LOOK = 10.0, 0.02  # seconds a role gets to stop by itself, and between two looks whether it has
Who = tuple[str, str]  # a role's kind and name
AGAIN = "--- started again: "  # in a log, before what a role says that has been


class Process(Protocol):
    """What the launcher asks of a process: one of `multiprocessing`, or a script's."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    @property
    def exitcode(self) -> int | None:
        """None while it lives; negative: the signal it died of."""

    def is_alive(self) -> bool:
        """Whether it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""


class Child:
    """One process of a run, as the launcher has it.

    Attributes:
        kind, name: e.g. `worker`, "3".
        pipe: carries its events.
        log: the file of what it prints, behind what processes before it have printed.
        spec: what it is to do; None of one that plays no role.
    """

    def __init__(
        self, kind: str, name: str, process: Process, pipe: Connection, log: Path, spec: RoleSpec | None = None
    ) -> None:
        self.kind, self.name, self.process, self.pipe, self.log = kind, name, process, pipe, log
        self.spec = spec
        self.open = True  # the pipe may hold more events

    def read(self) -> Event | None:
        """Return the next event, None at the end of the pipe; what is no event is the role's failure."""
        try:
            return decode(self.pipe.recv_bytes())
        except FedpsError as error:
            return Failed.of(error)
        except (EOFError, OSError):
            self.open = False
            return None


def start_role(spec: RoleSpec, log: Path, job: Job) -> Child:
    """Start a built-in role; what it prints goes to `log`."""
    method = "forkserver" if spec.role == "worker" else "spawn"
    return _start(method, spec.role, spec.name, log, entry.play, job, spec)


def start_party(spec: RoleSpec, log: Path, job: VerticalJob) -> Child:
    """Start a party of vertical training, or what its training is compared with; what it prints goes to `log`."""
    return _start("forkserver", spec.role, spec.name, log, entry.play_party, job, spec)


def start_check(job: Job, log: Path) -> Child:
    """Start the process that looks for mistakes which only the job's network shows."""
    return _start("forkserver", "check", "0", log, entry.check_network, job)


def stop(children: Sequence[Child]) -> list[tuple[Child, Event]]:
    """Ask processes to end, all at once, and after `PATIENCE` seconds end those that do not; return what they still tell."""
    told = list[tuple[Child, Event]]()
    for end in ("terminate", "kill"):
        alive = [child.process for child in children if child.process.is_alive()]
        deadline = time.monotonic() + PATIENCE
        for process in alive:
            getattr(process, end)()
        while any(process.is_alive() for process in alive) and time.monotonic() < deadline:
            told += _heard(children, LOOK)  # who has much to tell does not end before it is read
    while more := _heard(children, 0.0):
        told += more
    for child in children:
        child.open = False
        child.pipe.close()
    return told


def _heard(children: Sequence[Child], timeout: float) -> list[tuple[Child, Event]]:
    """Return the next event of each process that tells one within `timeout` seconds."""
    pipes = {child.pipe: child for child in children if child.open}
    ready = [pipes[pipe] for pipe in wait(list(pipes), timeout)]  # type: ignore[index]
    return [(child, event) for child in ready if (event := child.read()) is not None]


@contextmanager
def fork_server(torch: bool) -> Iterator[None]:
    """Keep the process that workers are forked from; it imports what they share while servers start.

    What roles find in their environment is this process's own again at the end, and the fork server is gone.

    Args:
        torch: whether workers will need it.

    Raises:
        JobError: no socket can be made for it.
    """
    before = dict(os.environ)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # ten workers share the cores; each keeps to one
    os.environ.pop("grpc_proxy", None)  # all roles are on this machine, whatever their addresses
    os.environ.pop(PRELOAD_TORCH, None)
    if torch:
        os.environ[PRELOAD_TORCH] = "1"
    try:
        get_context("forkserver").set_forkserver_preload([PRELOAD])
        _make_socket_folder()
        with _main_module_hidden():
            _fork_server().ensure_running()
        yield
    finally:
        _stop_fork_server()
        for variable in os.environ.keys() - before.keys():
            del os.environ[variable]
        os.environ.update(before)


def _stop_fork_server() -> None:
    """End the fork server at once, though it may be importing still; the workers are gone by now."""
    server = _fork_server()
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Let new processes not run the main module again: a user's script may call `fedps.run` without a guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _make_socket_folder() -> None:
    """Let the fork server's socket lie in a folder with a short name: the system takes `LONGEST_SOCKET` bytes.

    Raises:
        JobError: there is none.
    """
    from multiprocessing import util  # noqa: PLC0415  (only where processes are started)

    usual = tempfile.gettempdir()
    try:
        for folder in (usual, "/tmp", "/var/tmp"):  # noqa: S108  (it makes one of its own there, closed to others)
            if len(os.fsencode(folder)) + SOCKET_NAME <= LONGEST_SOCKET:
                tempfile.tempdir = folder
                with suppress(OSError):
                    util.get_temp_dir()  # one a process, made at the first call and removed at its end
                    return
    finally:
        tempfile.tempdir = usual
    raise JobError(f"TMPDIR {usual}: no socket can be made there or in /tmp; name a folder of a shorter path")


def _fork_server() -> Any:
    from multiprocessing import forkserver  # noqa: PLC0415  (only where processes are started)

    return forkserver._forkserver


def _start(
    method: str, kind: str, name: str, log: Path, life: Callable[..., None], job: Job | VerticalJob, *facts: RoleSpec
) -> Child:
    context: Any = get_context(method)
    ours, theirs = context.Pipe()
    args = (theirs, str(log), job.model_dump_json(by_alias=True), *facts)
    process = context.Process(target=life, args=args, name=f"fedps {kind} {name}")
    with _main_module_hidden():
        process.start()
    theirs.close()
    return Child(kind, name, process, ours, log, *facts)
