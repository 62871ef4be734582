"""The processes of a run and how they speak to the launcher: a pipe each, one event a message.

Servers and the coordinator are new processes without torch; workers are forked from a server that has imported it. All
end when their pipe does, so no process outlives the launcher, however it ends.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from fedps.config import Allow, Job
from fedps.errors import FedpsError
from fedps.events.events import Event, Failed, decode
from fedps.launch.local import entry as lives
from fedps.types import ClientId

PRELOAD = ("fedps.launch.local.preload", "fedps.cli")  # the command's module, which each process names as its main one
PRELOAD_TORCH = "FEDPS_PRELOAD_TORCH"  # environment variable by which the fork server knows
PATIENCE = 10.0  # seconds a role gets to stop by itself


class Process(Protocol):
    """What a role needs of its process, which may be one of `multiprocessing` or a script's."""

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


class Role:
    """One process of a run.

    Attributes:
        kind, name: e.g. `worker`, "3".
        pipe: carries its events.
        log: the file of what it prints.
    """

    def __init__(self, kind: str, name: str, process: Process, pipe: Connection, log: Path) -> None:
        self.kind, self.name, self.process, self.pipe, self.log = kind, name, process, pipe, log
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

    def stop(self) -> None:
        """Ask the process to end, then end it."""
        stop([self])


class Starter(Protocol):
    """Starts the roles of one run."""

    def server(self, shard: int, bind: str) -> Role:
        """Start one server, which listens on `bind`."""

    def coordinator(self, bind: str) -> Role:
        """Start the coordinator, which listens on `bind`."""

    def worker(
        self, number: int, client: ClientId, servers: list[str], coordinator: str | None, plan: Path | None
    ) -> Role:
        """Start the worker of one client; `plan`: the file of the job's network, made ready, if it was kept."""


class BuiltIn:
    """Starts the built-in roles.

    Args:
        job: the resolved job.
        run_dir: the run's folder.
        log_dir: the folder of the roles' logs.
        allow: what the person who started the run allows.
    """

    def __init__(self, job: Job, run_dir: Path, log_dir: Path, allow: Allow) -> None:
        self._job, self._run_dir, self._log_dir, self._allow = (
            job.model_dump_json(by_alias=True),
            run_dir,
            log_dir,
            allow,
        )

    def server(self, shard: int, bind: str) -> Role:
        """Start one server, which listens on `bind`."""
        log = self._log_dir / f"serverlog.{shard}"
        facts = (self._job, str(self._run_dir), shard, bind)
        return _start("spawn", "server", str(shard), log, lives.serve_shard, facts)

    def coordinator(self, bind: str) -> Role:
        """Start the coordinator, which listens on `bind`."""
        log = self._log_dir / "coordinatorlog.0"
        return _start("spawn", "coordinator", "0", log, lives.coordinate, (self._job, str(self._run_dir), bind))

    def worker(
        self, number: int, client: ClientId, servers: list[str], coordinator: str | None, plan: Path | None
    ) -> Role:
        """Start the worker of one client."""
        log = self._log_dir / f"workerlog.{number}"
        facts = (self._job, str(self._run_dir), number, client, servers, coordinator, self._allow, str(plan or ""))
        return _start("forkserver", "worker", client, log, lives.train_client, facts)


def start_check(job: Job, log_dir: Path) -> Role:
    """Start the process that looks for mistakes which only the job's network shows."""
    facts = (job.model_dump_json(by_alias=True),)
    return _start("forkserver", "check", "0", log_dir / "checklog.0", lives.check_network, facts)


def stop(roles: Sequence[Role]) -> None:
    """Ask processes to end, all at once, and after `PATIENCE` seconds end those that do not."""
    for end in ("terminate", "kill"):
        alive = [role.process for role in roles if role.process.is_alive()]
        deadline = time.monotonic() + PATIENCE
        for process in alive:
            getattr(process, end)()
        for process in alive:
            process.join(max(0.0, deadline - time.monotonic()))
    for role in roles:
        role.pipe.close()


def prepare_fork_server(torch: bool) -> None:
    """Start the process that workers are forked from; it imports what they share while servers start.

    Args:
        torch: whether workers will need it.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # ten workers share the cores; each keeps to one
    os.environ.pop(PRELOAD_TORCH, None)
    if torch:
        os.environ[PRELOAD_TORCH] = "1"
    get_context("forkserver").set_forkserver_preload([*PRELOAD])
    _fork_server().ensure_running()


def stop_fork_server() -> None:
    """End the fork server at once, though it may be importing still; the workers are gone by now."""
    server = _fork_server()
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGKILL)
    server._stop()


def _fork_server() -> Any:
    from multiprocessing import forkserver  # noqa: PLC0415  (only where processes are started)

    return forkserver._forkserver


def _start(method: str, kind: str, name: str, log: Path, life: Callable[..., None], facts: tuple[Any, ...]) -> Role:
    context: Any = get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=life, args=(theirs, str(log), *facts), name=f"fedps {kind} {name}")
    process.start()
    theirs.close()
    return Role(kind, name, process, ours, log)
