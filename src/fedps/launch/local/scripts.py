"""The processes of a user's own training script: `python -u SCRIPT.py …` once per role, watched like the built-in ones.

What each is to do, and where the others are, stands in its environment, so that a script needs no flags of ours;
`fedps.script` reads it. It speaks to the launcher through a socket that it inherits. It leads a process group of its
own: Ctrl-C at the terminal is the launcher's to handle, and what a script has started ends with it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from pathlib import Path

from fedps.config import Allow
from fedps.errors import JobError
from fedps.launch.local.processes import Role
from fedps.types import ClientId

PREFIX = "FEDPS_"
ROLES = ("server", "coordinator", "worker")


@dataclass(frozen=True)
class RoleSpec:
    """What one process of a script is to do.

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
        pipe: file descriptor of the socket to the launcher (FEDPS_PIPE).
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
    pipe: int = -1

    def environ(self) -> dict[str, str]:
        """Return the variables that say this."""
        said = {
            "ROLE": self.role,
            "ID": str(self.number),
            "JOB": str(self.job),
            "RUN_DIR": str(self.run_dir),
            "CLIENT": self.client,
            "BIND": self.bind,
            "SERVERS": ",".join(self.servers),
            "COORDINATOR": self.coordinator,
            "ALLOW": ",".join(name for name, given in self.allow._asdict().items() if given),
            "PLAN": str(self.plan or ""),
            "PIPE": str(self.pipe),
        }
        return {PREFIX + name: value for name, value in said.items()}


class ScriptProcess:
    """A script's process, with the calls of one of `multiprocessing`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """None while it lives; negative: the signal it died of."""
        return self._process.poll()

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.exitcode is None

    def terminate(self) -> None:
        """Ask it, and what it has started, to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, and what it has started."""
        self._signal(signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class Scripted:
    """Starts a script in every role.

    Args:
        script: the file.
        args: given to it in every role.
        run_dir: the run's folder; it holds the resolved job.
        log_dir: the folder of the roles' logs.
        allow: what the person who started the run allows.
    """

    def __init__(self, script: Path, args: tuple[str, ...], run_dir: Path, log_dir: Path, allow: Allow) -> None:
        self._command = [sys.executable, "-u", str(script), *args]
        self._run_dir, self._log_dir, self._allow = run_dir, log_dir, allow

    def server(self, shard: int, bind: str) -> Role:
        """Start the script as one server, which listens on `bind`."""
        return self._start(str(shard), self._spec("server", shard, bind=bind))

    def coordinator(self, bind: str) -> Role:
        """Start the script as the coordinator, which listens on `bind`."""
        return self._start("0", self._spec("coordinator", 0, bind=bind))

    def worker(
        self, number: int, client: ClientId, servers: list[str], coordinator: str | None, plan: Path | None
    ) -> Role:
        """Start the script as the worker of one client."""
        spec = replace(self._spec("worker", number), client=client, plan=plan)
        return self._start(client, replace(spec, servers=tuple(servers), coordinator=coordinator or ""))

    def _spec(self, role: str, number: int, bind: str = "") -> RoleSpec:
        return RoleSpec(role, number, self._run_dir / "job.yaml", self._run_dir, bind=bind, allow=self._allow)

    def _start(self, name: str, spec: RoleSpec) -> Role:
        log = self._log_dir / f"{spec.role}log.{spec.number}"
        ours, theirs = Pipe()
        spec = replace(spec, pipe=theirs.fileno())
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603  (the user's own script, named on the command line)
                self._command, env=os.environ | spec.environ(), stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()], process_group=0,
            )  # fmt: skip
        theirs.close()
        return Role(spec.role, name, ScriptProcess(process), ours, log)


def last_words(log: Path) -> tuple[str, str]:
    """Return what a script's log ends with: its last line, and the traceback or the last lines; empty if it is silent."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - (1 << 16)))
        text = file.read().decode(errors="replace").rstrip()
    start = text.rfind("Traceback (most recent call last):")
    told = text[start:] if start >= 0 else "\n".join(text.splitlines()[-10:])
    return (told.splitlines() or [""])[-1], told


def read_role(environ: Mapping[str, str] | None = None) -> RoleSpec:
    """Read what this process is to do from its environment.

    Raises:
        JobError: the script was not started by `fedps run`, or the variables make no sense.
    """
    there = os.environ if environ is None else environ
    if PREFIX + "ROLE" not in there:
        raise JobError(
            "this script was started by itself: start it with `fedps run SCRIPT.py -m JOB.yaml`, once for all roles"
        )
    try:
        told = {name: there[PREFIX + name] for name in ("ROLE", "ID", "JOB", "RUN_DIR", "PIPE")}
        more = {
            name: there.get(PREFIX + name, "") for name in ("CLIENT", "BIND", "SERVERS", "COORDINATOR", "ALLOW", "PLAN")
        }
        allowed = dict.fromkeys(filter(None, more["ALLOW"].split(",")), True)
        if told["ROLE"] not in ROLES:
            raise ValueError(f"FEDPS_ROLE {told['ROLE']!r} is none of {', '.join(ROLES)}")
        return RoleSpec(
            told["ROLE"], int(told["ID"]), Path(told["JOB"]), Path(told["RUN_DIR"]), more["CLIENT"], more["BIND"],
            tuple(filter(None, more["SERVERS"].split(","))), more["COORDINATOR"], Allow(**allowed), Path(more["PLAN"]) if more["PLAN"] else None,
            int(told["PIPE"]),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        raise JobError(f"the FEDPS_ variables are not those of `fedps run`: {error}; leave them to it") from None
