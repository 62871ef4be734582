"""What the processes of a run do from start to end: each enters, plays its role, and tells the launcher of it.

Each role imports its own room, so that servers and the coordinator are up before torch is loaded, and never load it.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from msgspec.structs import replace

from fedps.config import Allow, Job
from fedps.errors import JobError
from fedps.events.events import Checked, Event, Failed, Report, Started, encode
from fedps.types import ClientId


def serve_shard(pipe: Connection, log: str, job_json: str, run_dir: str, shard: int, bind: str) -> None:
    """Live as a server, until told to stop."""
    report = _enter(pipe, log)
    from fedps.server.serve import run_server  # noqa: PLC0415

    _live(lambda: run_server(_job(job_json), shard, bind, Path(run_dir), report), report)


def coordinate(pipe: Connection, log: str, job_json: str, run_dir: str, bind: str) -> None:
    """Live as the coordinator, until told to stop."""
    report = _enter(pipe, log)
    from fedps.coordinator.serve import run_coordinator  # noqa: PLC0415

    _live(lambda: run_coordinator(_job(job_json), bind, report, stay=True, run_dir=Path(run_dir)), report)


def train_client(
    pipe: Connection, log: str, job_json: str, run_dir: str, number: int, client: str, servers: list[str],
    coordinator: str | None, allow: Allow, plan: str,
) -> None:  # fmt: skip
    """Live as the worker of one client."""
    report = _enter(pipe, log)
    from fedps.client.life import FLClient  # noqa: PLC0415
    from fedps.training.plan import read_plan  # noqa: PLC0415

    _live(
        lambda: FLClient(
            _job(job_json), ClientId(client), servers, Path(run_dir), report, coordinator=coordinator, allow=allow,
            number=number, plan=read_plan(Path(plan)) if plan else None,
        ).run(),
        report,
    )  # fmt: skip


def check_network(pipe: Connection, log: str, job_json: str) -> None:
    """Build the job's network and its plan once, before any role does; its mistakes go out as one event."""
    report = _enter(pipe, log)
    from fedps.training.plan import described, keep_plan, make_plan  # noqa: PLC0415

    def look() -> None:
        try:
            plan = make_plan(job := _job(job_json))
            report(replace(described(plan, job), plan=str(keep_plan(plan) or "")))
        except JobError as error:
            report(Checked(error.mistakes))

    _live(look, report)


def attach(pipe: Connection) -> Report:
    """Leave Ctrl-C to the launcher, end when it ends, and return how to tell it what happens here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock = threading.Lock()

    def report(event: Event) -> None:
        with lock:
            pipe.send_bytes(encode(event))

    threading.Thread(target=_end_with, args=[pipe], daemon=True).start()
    report(Started(os.getpid()))
    return report


def _enter(pipe: Connection, log: str) -> Report:
    """Write to the log from now on, and attach to the launcher."""
    file = Path(log).open("w", buffering=1, encoding="utf-8")  # noqa: SIM115  (open as long as the process lives)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    return attach(pipe)


def _end_with(pipe: Connection) -> None:
    try:
        pipe.recv_bytes()  # the launcher never writes: this returns when it is gone
    except (EOFError, OSError):
        os._exit(1)


def _live(life: Callable[[], None], report: Report) -> None:
    try:
        life()
    except Exception as error:
        print(traceback.format_exc(), flush=True)
        report(Failed.of(error))
        raise SystemExit(1) from None


def _job(job_json: str) -> Job:
    return Job.model_validate_json(job_json)
