"""The processes of a run and how they speak to the launcher: a pipe each, one JSON event a message.

Servers are new processes without torch; workers are forked from a server that has imported it. Both end when their
pipe does, so no process outlives the launcher, however it ends.
"""

import json
import os
import signal
import sys
import threading
import traceback
import zlib
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path
from typing import Any

from fedps.config import Job
from fedps.errors import DataError, FedpsError, JobError
from fedps.tracking import Report
from fedps.types import ClientId

PRELOAD = ["fedps.launch.preload"]
PATIENCE = 10.0  # seconds a role gets to stop by itself


class Role:
    """One process of a run.

    Attributes:
        kind, name: e.g. `worker`, "3".
        pipe: carries its events.
    """

    def __init__(self, kind: str, name: str, process: Any, pipe: Connection) -> None:
        self.kind, self.name, self.pipe = kind, name, pipe
        self.process: SpawnProcess | ForkServerProcess = process
        self.open = True  # the pipe may hold more events

    def read(self) -> dict[str, Any] | None:
        """Return the next event, None at the end of the pipe."""
        try:
            event: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            self.open = False
            return None
        return event

    def stop(self) -> None:
        """Ask the process to end, then end it."""
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(PATIENCE)
        self.pipe.close()


def prepare_fork_server() -> None:
    """Start the process that workers are forked from; it imports torch while servers start."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # ten workers share the cores; each keeps to one
    get_context("forkserver").set_forkserver_preload(PRELOAD)
    _fork_server().ensure_running()


def stop_fork_server() -> None:
    """End the fork server; the workers are gone by now."""
    _fork_server()._stop()


def _fork_server() -> Any:
    from multiprocessing import forkserver  # noqa: PLC0415  (only where processes are started)

    return forkserver._forkserver


def start_server(job: Job, shard: int, run_dir: Path) -> Role:
    """Start one server on a free port of 127.0.0.1."""
    return _start("spawn", "server", str(shard), serve_shard, (job.model_dump_json(by_alias=True), shard, str(run_dir)))


def start_worker(job: Job, number: int, client: ClientId, servers: list[str], run_dir: Path) -> Role:
    """Start the worker of one client."""
    facts = (job.model_dump_json(by_alias=True), number, client, servers, str(run_dir))
    return _start("forkserver", "worker", client, train_client, facts)


def start_check(job: Job, run_dir: Path) -> Role:
    """Start the process that looks for mistakes which only the job's network shows."""
    return _start("forkserver", "check", "0", check_network, (job.model_dump_json(by_alias=True), str(run_dir)))


def _start(method: str, kind: str, name: str, target: Callable[..., None], facts: tuple[Any, ...]) -> Role:
    context: Any = get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *facts), name=f"fedps {kind} {name}")
    process.start()
    theirs.close()
    return Role(kind, name, process, ours)


def serve_shard(pipe: Connection, job_json: str, shard: int, run_dir: str) -> None:
    """Live as a server."""
    report = _enter(pipe, Path(run_dir) / "log" / f"serverlog.{shard}")
    from fedps.server.serve import run_server  # noqa: PLC0415  (each role imports its own room)

    job = Job.model_validate_json(job_json)
    _live(lambda: run_server(job, shard, "127.0.0.1:0", Path(run_dir), report), report)


def train_client(pipe: Connection, job_json: str, number: int, client: str, servers: list[str], run_dir: str) -> None:
    """Live as a worker."""
    report = _enter(pipe, Path(run_dir) / "log" / f"workerlog.{number}")
    import torch  # noqa: PLC0415  (the fork server has it)

    from fedps.client.worker import prepare_thread, run_worker  # noqa: PLC0415

    job = Job.model_validate_json(job_json)
    prepare_thread()
    torch.manual_seed(zlib.crc32(f"{job.runner.seed} {client}".encode()))  # dropout knows no stream but torch's own
    _live(lambda: run_worker(job, ClientId(client), servers, Path(run_dir), report), report)


def check_network(pipe: Connection, job_json: str, run_dir: str) -> None:
    """Build the job's network once, before any role does; its mistakes go out as one event."""
    report = _enter(pipe, Path(run_dir) / "log" / "checklog.0")
    from fedps.client.worker import check  # noqa: PLC0415

    def look() -> None:
        try:
            report({"event": "checked", "mistakes": [], **check(Job.model_validate_json(job_json))})
        except JobError as error:
            report({"event": "checked", "mistakes": error.mistakes})

    _live(look, report)


def _enter(pipe: Connection, log: Path) -> Report:
    """Leave Ctrl-C to the launcher, write to the log, end with the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file = log.open("a", buffering=1, encoding="utf-8")
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    lock = threading.Lock()

    def report(event: dict[str, object]) -> None:
        with lock:
            pipe.send_bytes(json.dumps(event).encode())

    threading.Thread(target=_end_with, args=[pipe], daemon=True).start()
    report({"event": "started", "pid": os.getpid()})
    return report


def _end_with(pipe: Connection) -> None:
    try:
        pipe.recv_bytes()  # the launcher never writes: this returns when it is gone
    except (EOFError, OSError):
        os._exit(1)


def _live(life: Callable[[], None], report: Report) -> None:
    try:
        life()
    except Exception as error:
        told = traceback.format_exc()
        print(told, flush=True)
        reason = str(error) if isinstance(error, FedpsError) else f"{type(error).__name__}: {error}"
        theirs = isinstance(error, JobError | DataError)  # a mistake of theirs, that its sentence tells whole
        report({"event": "failed", "error": reason, "traceback": "" if theirs else told})
        raise SystemExit(1) from None
