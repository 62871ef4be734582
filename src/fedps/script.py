"""Your own training script: `fedps run SCRIPT.py -m JOB.yaml` starts it once for each role, and this is what it calls.

    import fedps

    role = fedps.init()          # which role am I?
    if role.is_worker():
        client = role.client()   # the worker's life, whose steps you may replace
        client.register_handlers("train", my_train)
        client.run()
    else:
        role.run()               # a server or the coordinator, as built in

The launcher tells each process its part in environment variables:

    FEDPS_ROLE          server, coordinator or worker
    FEDPS_ID            the role's number, from 0
    FEDPS_CLIENT        worker: the client it trains for
    FEDPS_JOB           file of the resolved job
    FEDPS_RUN_DIR       the run's folder
    FEDPS_BIND          server, coordinator: where to listen, host:port
    FEDPS_SERVERS       worker: every server's host:port, separated by commas
    FEDPS_COORDINATOR   worker: the coordinator's host:port, empty without one
    FEDPS_RESUME        worker: the checkpoint to go on from, `newest` where it is started again
    FEDPS_ALLOW         what the person who started the run allows: commands, private_dump
    FEDPS_PIPE          file descriptor over which events go to the launcher
"""

import atexit
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType

from fedps.config import Job
from fedps.config.source import read
from fedps.errors import JobError
from fedps.events.events import Failed, Report
from fedps.launch.local.entry import attach
from fedps.launch.local.role import Role, read_role

__all__ = ["Role", "init"]


def init() -> Role:
    """Return the role that this process of your script plays; call it once, before anything that takes long.

    Raises:
        JobError: the script was not started by `fedps run SCRIPT.py -m JOB.yaml`.
    """
    spec = read_role()
    try:
        os.set_inheritable(spec.pipe, False)
        outbox = attach(Connection(spec.pipe))
        os.environ["FEDPS_PIPE"] = "-1"  # taken: neither a second call nor a child of ours has it
    except OSError:
        raise JobError("fedps.init() was called before in this process, or not by what `fedps run` started") from None
    atexit.register(outbox.close)
    sys.excepthook = _hook(outbox.report)
    return Role(spec, Job.model_validate(read(spec.job)), outbox.report)


def _hook(report: Report) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """Return what prints an exception that your script did not catch, and tells the launcher."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        report(Failed(Failed.of(error).error, "".join(traceback.format_exception(error))))

    return hook
