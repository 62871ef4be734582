"""One role of a run, and what its process is to do: the same for a built-in role and for a user's script.

The launcher hands a built-in role its `RoleSpec`; a script reads it from environment variables, so that it needs no
flags of ours (`fedps.script` lists them).
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedps.config import Allow, Job
from fedps.config.files import client_files_of
from fedps.errors import JobError
from fedps.events.events import Report
from fedps.types import ClientId

if TYPE_CHECKING:
    from fedps.client.life import FLClient
    from fedps.coordinator.selectors import ClientSelectorBase

PREFIX = "FEDPS_"
ROLES = ("server", "coordinator", "worker")
NEWEST = "newest"  # for a worker: take up its newest checkpoint


@dataclass(frozen=True)
class RoleSpec:
    """What one process is to do.

    Args:
        role: `server`, `coordinator` or `worker` (FEDPS_ROLE).
        number: of the role, from 0 (FEDPS_ID).
        job: file of the resolved job (FEDPS_JOB).
        run_dir: the run's folder (FEDPS_RUN_DIR).
        client: whom a worker trains for (FEDPS_CLIENT).
        bind: `host:port` on which a server or the coordinator listens (FEDPS_BIND).
        servers: `host:port` of every server; a worker's (FEDPS_SERVERS).
        coordinator: `host:port` of the coordinator, if there is one; a worker's (FEDPS_COORDINATOR).
        allow: what the person who started the run allows (FEDPS_ALLOW).
        plan: file of the job's network, made ready by the launcher; a worker's (FEDPS_PLAN).
        resume: what to take up of the run's folder (FEDPS_RESUME): a worker nothing, its `newest` checkpoint, or that of a
            name; where a whole run goes on, a server the file of its cut, and the coordinator a round.
        pipe: file descriptor of a script's socket to the launcher (FEDPS_PIPE).
    """

    role: str
    number: int
    job: Path
    run_dir: Path
    client: str = ""
    bind: str = ""
    servers: tuple[str, ...] = ()
    coordinator: str = ""
    allow: Allow = field(default_factory=Allow)
    plan: Path | None = None
    resume: str = ""
    pipe: int = -1

    @property
    def name(self) -> str:
        """The role's id: a worker's is that of its client."""
        return self.client or str(self.number)

    def environ(self) -> dict[str, str]:
        """Return the variables that say this."""
        values = {
            "ROLE": self.role,
            "ID": str(self.number),
            "JOB": str(self.job),
            "RUN_DIR": str(self.run_dir),
            "CLIENT": self.client,
            "BIND": self.bind,
            "SERVERS": ",".join(self.servers),
            "COORDINATOR": self.coordinator,
            "ALLOW": ",".join(name for name, allowed in self.allow._asdict().items() if allowed),
            "PLAN": str(self.plan or ""),
            "RESUME": self.resume,
            "PIPE": str(self.pipe),
        }
        return {PREFIX + name: value for name, value in values.items()}


def read_role(environ: Mapping[str, str] | None = None) -> RoleSpec:
    """Read what this process is to do from its environment.

    Raises:
        JobError: the script was not started by `fedps run`, or the variables make no sense.
    """
    variables = os.environ if environ is None else environ
    if PREFIX + "ROLE" not in variables:
        raise JobError(
            "this script was started by itself: start it with `fedps run SCRIPT.py -m JOB.yaml`, once for all roles"
        )
    try:
        role, number, job, run_dir, pipe = (variables[PREFIX + n] for n in ("ROLE", "ID", "JOB", "RUN_DIR", "PIPE"))
        client, bind, servers, coordinator, allow, plan, resume = (
            variables.get(PREFIX + n, "")
            for n in ("CLIENT", "BIND", "SERVERS", "COORDINATOR", "ALLOW", "PLAN", "RESUME")
        )
        if role not in ROLES:
            raise ValueError(f"FEDPS_ROLE {role!r} is none of {', '.join(ROLES)}")
        return RoleSpec(
            role, int(number), Path(job), Path(run_dir), client, bind, tuple(filter(None, servers.split(","))), coordinator,
            Allow(**dict.fromkeys(filter(None, allow.split(",")), True)), Path(plan) if plan else None, resume,
            int(pipe),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        raise JobError(f"the FEDPS_ variables are not those of `fedps run`: {error}; leave them to it") from None


def runs_own_classes(job: Job) -> bool:
    """Tell whether roles run classes of the user's own, besides the network."""
    from fedps.data.read.own import own_readers  # noqa: PLC0415  (each role imports its own room)

    own_selector = job.runner.with_coordinator and "." in job.runner.client_selector
    return own_selector or job.runner.fl_client is not None or bool(own_readers(job))


def check_classes(job: Job) -> None:
    """Make sure that all such classes are there, and that the selector can be made.

    Raises:
        JobError: all that are not, each with its key.
    """
    from fedps.coordinator.selectors import make_selector  # noqa: PLC0415
    from fedps.data.read.own import find_reader, own_readers  # noqa: PLC0415

    looks: list[Callable[[], object]] = [partial(find_reader, job, *reader) for reader in own_readers(job)]
    if job.runner.with_coordinator:
        looks.append(partial(make_selector, job))
    if job.runner.fl_client is not None:
        from fedps.client.own_client import client_class  # noqa: PLC0415

        looks.append(partial(client_class, job))
    mistakes = []
    for look in looks:
        try:
            look()
        except JobError as error:
            mistakes += error.mistakes
    if mistakes:
        raise JobError(mistakes)


class Role:
    """One role of a run; a training script plays it step by step, or as it is built in.

    Args:
        spec: what the process is to do.
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
        """Live the role's whole life, as it is built in."""
        if self.is_worker():
            self.client().run()
        else:
            self.run_server() if self.is_server() else self.run_coordinator()

    def run_server(self) -> None:
        """Serve until the launcher says stop.

        Raises:
            JobError: this is no server, or its address cannot be bound.
            DataError: what it is to go on from is missing, damaged, or another server's.
        """
        self._must_be("server", "run_server")
        from fedps.server.serve import read_cut, run_server  # noqa: PLC0415  (each role imports its own room)

        cut = read_cut(self.run_dir / self._spec.resume) if self._spec.resume else None
        run_server(self._expecting(), self.number, self._spec.bind, self.run_dir, self._report, cut=cut)

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

        run_coordinator(
            self._expecting(), self._spec.bind, self._report, selector=selector, stay=True, run_dir=self.run_dir,
            resume_at=int(self._spec.resume) if self._spec.resume else None,
        )  # fmt: skip

    def client(self, kind: "type[FLClient] | None" = None) -> "FLClient":
        """Return the worker's life: register your handlers, then call its `run`.

        Args:
            kind: a class of your own, derived from `fedps.FLClient`; by default the job's `fl_client`.

        Raises:
            JobError: this is no worker, or there is no such class.
        """
        self._must_be("worker", "client")
        from fedps.client.own_client import client_class, make_client  # noqa: PLC0415

        return make_client(kind or client_class(self.job), self.begin)

    def begin(self, client: "FLClient") -> None:
        """Give a client of your own class its part of the run.

        Raises:
            JobError: this is no worker.
        """
        self._must_be("worker", "begin")
        from fedps.client.life import FLClient  # noqa: PLC0415
        from fedps.training.plan import read_plan  # noqa: PLC0415

        spec, name = self._spec, ClientId(self._spec.client)
        FLClient.__init__(
            client, self.job, name, spec.servers, self.run_dir, self._report, coordinator=spec.coordinator or None,
            allow=spec.allow, number=spec.number, plan=read_plan(spec.plan) if spec.plan else None, resume=spec.resume,
        )  # fmt: skip

    def _expecting(self) -> Job:
        """Return the job, for which no others come than the clients of its data, unless it names them itself."""
        if self.job.security.clients is not None:
            return self.job
        security = self.job.security.model_copy(update={"clients": tuple(client_files_of(self.job))})
        return self.job.model_copy(update={"security": security})

    def _must_be(self, role: str, call: str) -> None:
        if self.name != role:
            raise JobError(f"role.{call}(): this process is {self.name} {self.number}; ask role.is_{role}() first")
