"""What a user's script is told by the launcher: which role it plays, for whom, and where the others are.

It travels in environment variables, so that a script needs no flags of ours; `fedps.script` reads them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedps.config import Allow
from fedps.errors import JobError

PREFIX = "FEDPS_"
ROLES = ("server", "coordinator", "worker")


@dataclass(frozen=True)
class Part:
    """The part that one process of a script plays.

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


def read_part(environ: Mapping[str, str] | None = None) -> Part:
    """Read a script's part from its environment.

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
        return Part(
            told["ROLE"], int(told["ID"]), Path(told["JOB"]), Path(told["RUN_DIR"]), more["CLIENT"], more["BIND"],
            tuple(filter(None, more["SERVERS"].split(","))), more["COORDINATOR"], Allow(**allowed), Path(more["PLAN"]) if more["PLAN"] else None,
            int(told["PIPE"]),
        )  # fmt: skip
    except (KeyError, ValueError, TypeError) as error:
        raise JobError(f"the FEDPS_ variables are not those of `fedps run`: {error}; leave them to it") from None
