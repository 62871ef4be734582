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
from typing import TYPE_CHECKING

from fedps.config import Job
from fedps.config.source import read
from fedps.errors import JobError
from fedps.events.events import Failed, Report
from fedps.launch.local.entry import attach
from fedps.launch.local.scripts import RoleSpec, read_role
from fedps.types import ClientId

if TYPE_CHECKING:
    from fedps.client.life import FLClient
    from fedps.coordinator.selectors import ClientSelectorBase


def init() -> "Role":
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
    sys.excepthook = _told_to(outbox.report)
    return Role(spec, Job.model_validate(read(spec.job)), outbox.report)


class Role:
    """One role of a run, played by your script.

    Args:
        spec: what the launcher said.
        job: the resolved job.
        report: where events go.

    Attributes:
        name: `server`, `coordinator` or `worker`.
        number: of the role, from 0.
        run_dir: the run's folder.
    """

    def __init__(self, spec: RoleSpec, job: Job, report: Report) -> None:
        self._spec, self.job, self._report = spec, job, report
        self.name, self.number, self.run_dir = spec.role, spec.number, spec.run_dir

    def is_server(self) -> bool:
        """Whether this is a server."""
        return self.name == "server"

    def is_coordinator(self) -> bool:
        """Whether this is the coordinator."""
        return self.name == "coordinator"

    def is_worker(self) -> bool:
        """Whether this is a client's worker."""
        return self.name == "worker"

    def run(self) -> None:
        """Live the role's whole life as it is built in."""
        if self.is_worker():
            self.client().run()
        else:
            self.run_server() if self.is_server() else self.run_coordinator()

    def run_server(self) -> None:
        """Serve until the launcher says stop.

        Raises:
            JobError: this is no server, or its address cannot be bound.
        """
        self._must_be("server", "run_server")
        from fedps.server.serve import run_server  # noqa: PLC0415  (each role imports its own room)

        run_server(self.job, self.number, self._spec.bind, self.run_dir, self._report)

    def run_coordinator(self, selector: "ClientSelectorBase | None" = None) -> None:
        """Coordinate until the launcher says stop.

        Args:
            selector: decides who trains; by default the job's `client_selector`.

        Raises:
            JobError: this is no coordinator, or its address cannot be bound.
            Exception: what the selector raised.
        """
        self._must_be("coordinator", "run_coordinator")
        from fedps.coordinator.serve import run_coordinator  # noqa: PLC0415

        run_coordinator(self.job, self._spec.bind, self._report, selector=selector, stay=True, run_dir=self.run_dir)

    def client(self) -> "FLClient":
        """Return the worker's life: register your handlers, then call its `run`.

        Raises:
            JobError: this is no worker.
        """
        self._must_be("worker", "client")
        from fedps.client.life import FLClient  # noqa: PLC0415
        from fedps.training.plan import read_plan  # noqa: PLC0415

        spec, name = self._spec, ClientId(self._spec.client)
        return FLClient(
            self.job, name, spec.servers, self.run_dir, self._report, coordinator=spec.coordinator or None,
            allow=spec.allow, number=spec.number, plan=read_plan(spec.plan) if spec.plan else None,
        )  # fmt: skip

    def _must_be(self, role: str, call: str) -> None:
        if self.name != role:
            raise JobError(f"role.{call}(): this process is {self.name} {self.number}; ask role.is_{role}() first")


def _told_to(report: Report) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """Return a hook that tells the launcher what your script did not catch, and prints it."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        report(Failed(Failed.of(error).error, "".join(traceback.format_exception(error))))

    return hook
