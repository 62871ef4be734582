"""A parameter server behind TLS, in a process of its own: `python -m tests.net.guarded FOLDER BIND CLIENTS [CERTS]`.

It serves with the certificates of `FOLDER/CERTS`, by default `certs`, and writes its events to `FOLDER/events`, a line each.
"""

import sys
from contextlib import closing
from pathlib import Path

import msgspec

from fedps.config import Job
from fedps.events.events import Event
from fedps.server.serve import run_server


def guarded_job(folder: Path, clients: int, certs: str = "certs") -> Job:
    """Return a job whose server changes tables with each push."""
    runner = {"train_data_dir": folder, "worker_num": clients, "sync_mode": "async", "durability": "none"}
    security = {"certs": folder / certs}
    return Job.model_validate({"name": "guarded", "folder": folder, "runner": runner, "security": security})


def main(folder: Path, bind: str, clients: int, certs: str = "certs") -> None:
    with closing((folder / "events").open("ab", buffering=0)) as file:

        def report(event: Event) -> None:
            file.write(msgspec.json.encode(event) + b"\n")

        run_server(guarded_job(folder, clients, certs), 0, bind, folder, report)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
