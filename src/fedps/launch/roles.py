"""The processes of a run and how they speak to the launcher: a pipe each, one JSON event a message.

Servers are new processes without torch; workers are forked from a server that has imported it. Both end when their
pipe does, so no process outlives the launcher, however it ends.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from fedps.config import Job
from fedps.errors import FedpsError
from fedps.tracking import Report
from fedps.types import ClientId

PRELOAD = ["fedps.launch.preload"]
PATIENCE = 10.0  # seconds a role gets to stop by itself
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Role:
    """One process of a run.

    Attributes:
        kind, name: e.g. `worker`, "3".
        log: the file that its output goes to.
        pipe: carries its events.
        open: the pipe may hold more of them.
    """

    def __init__(self, kind: str, name: str, log: Path, process: Any, pipe: Connection) -> None:
        self.kind, self.name, self.log, self.pipe = kind, name, log, pipe
        self.process: SpawnProcess | ForkServerProcess = process
        self.open = True

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def read(self) -> dict[str, Any] | None:
        """Return the next event, None at the end of the pipe."""
        try:
            event: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self.open = False
            return None
        return event


def stop(roles: Sequence[Role]) -> None:
    """Ask processes to end, all at once; end those that do not within `PATIENCE`; close their pipes."""
    for role in roles:
        role.process.terminate()
    deadline = time.monotonic() + PATIENCE
    for role in roles:
        role.process.join(max(0.0, deadline - time.monotonic()))
    for role in roles:
        role.process.kill()
        role.process.join()
        role.pipe.close()
        role.open = False


@contextmanager
def fork_server() -> Iterator[None]:
    """Run the process that workers are forked from; it imports torch while servers start.

    Afterwards none of the processes that multiprocessing started for it is left.
    """
    for variable in ONE_THREAD:
        os.environ.setdefault(variable, "1")  # ten workers share the cores; each keeps to one
    server, tracker = _processes_of_multiprocessing()
    ours = tracker._fd is None
    get_context("forkserver").set_forkserver_preload(PRELOAD)
    server.ensure_running()
    try:
        yield
    finally:
        server._stop()
        if ours:
            tracker._stop()


def _processes_of_multiprocessing() -> tuple[Any, Any]:
    """Return the fork server and the resource tracker, which the library gives no public way to stop."""
    from multiprocessing import forkserver, resource_tracker  # noqa: PLC0415  (only where processes are started)

    return forkserver._forkserver, resource_tracker._resource_tracker  # type: ignore[attr-defined]


def start_server(job: Job, shard: int, run_dir: Path) -> Role:
    """Start one server on a free port of 127.0.0.1."""
    log = run_dir / "log" / f"serverlog.{shard}"
    return _start("spawn", "server", str(shard), log, serve_shard, (job.model_dump_json(by_alias=True), shard, run_dir))


def start_worker(job: Job, number: int, client: ClientId, servers: list[str], run_dir: Path) -> Role:
    """Start the worker of one client; `number` names its log."""
    log = run_dir / "log" / f"workerlog.{number}"
    facts = (job.model_dump_json(by_alias=True), client, servers, run_dir)
    return _start("forkserver", "worker", client, log, train_client, facts)


def _start(
    method: str, kind: str, name: str, log: Path, target: Callable[..., None], facts: tuple[object, ...]
) -> Role:
    context: Any = get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, log, *facts), name=f"fedps {kind} {name}", daemon=True)
    with _no_main_script():
        process.start()
    theirs.close()
    return Role(kind, name, log, process, ours)


@contextmanager
def _no_main_script() -> Iterator[None]:
    """Keep a child from importing the launcher's main script again.

    Roles need nothing of it: this saves them the command line's imports, and lets a script start a run without the
    guard `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def serve_shard(pipe: Connection, log: Path, job_json: str, shard: int, run_dir: Path) -> None:
    """Live as a server."""

    def life(report: Report) -> None:
        from fedps.server.serve import run_server  # noqa: PLC0415  (each role imports its own room)

        run_server(Job.model_validate_json(job_json), shard, "127.0.0.1:0", run_dir, report)

    play(pipe, log, life)


def train_client(pipe: Connection, log: Path, job_json: str, client: str, servers: list[str], run_dir: Path) -> None:
    """Live as a worker."""

    def life(report: Report) -> None:
        from fedps.client.worker import run_worker  # noqa: PLC0415

        run_worker(Job.model_validate_json(job_json), ClientId(client), servers, run_dir, report)

    play(pipe, log, life)


def play(pipe: Connection, log: Path, life: Callable[[Report], None]) -> None:
    """Live a role's life in this process: output to its log, events to the pipe, the end of either with the other.

    Args:
        pipe: to the launcher.
        log: where standard output and error go.
        life: the role; what it raises is logged and reported as the event `failed`.

    Raises:
        SystemExit: the life failed; the process ends with code 1.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher too, which stops roles in order
    _write_to(log)
    lock = threading.Lock()

    def report(event: dict[str, object]) -> None:
        with lock:
            pipe.send_bytes(json.dumps(event).encode())

    threading.Thread(target=_end_with, args=[pipe], name="fedps launcher watch", daemon=True).start()
    report({"event": "started", "pid": os.getpid()})
    try:
        life(report)
    except Exception as error:
        event = failure(error)
        print(event["traceback"], flush=True)
        report(event)
        raise SystemExit(1) from None


def failure(error: Exception) -> dict[str, object]:
    """Return the event that tells of an error: our own by their text, others by type and text."""
    reason = str(error) if isinstance(error, FedpsError) else f"{type(error).__name__}: {error}"
    return {"event": "failed", "error": reason, "traceback": "".join(traceback.format_exception(error))}


def _write_to(log: Path) -> None:
    file = log.open("a", buffering=1, encoding="utf-8")
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file


def _end_with(pipe: Connection) -> None:
    try:
        pipe.recv_bytes()  # the launcher never writes: this returns when it is gone
    except (EOFError, OSError):
        os._exit(1)
