"""A real server in a process of its own, plain or with TLS, for clients to pull rows from."""

import asyncio
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path

from fedps.access.authority import Authority
from fedps.config import Job
from fedps.net.listener import serve
from fedps.net.tls import Certificates
from fedps.server.server import ParameterServer

CERTS = "certs"  # the folder of an authority, in that of a measurement


def make_certificates(folder: Path, clients: Iterable[str], servers: int = 1) -> None:
    """Make an authority, and a certificate of each server, of the coordinator, and of each client."""
    authority = Authority.init(folder)
    for role, name in [
        *(("server", str(k)) for k in range(servers)),
        ("coordinator", "0"),
        *(("client", c) for c in clients),
    ]:
        authority.issue(role, name)


def rows_job(clients: int, folder: str) -> Job:
    """Return the job of a server and its clients, who train nothing."""
    runner = {"train_data_dir": folder, "worker_num": clients, "sync_mode": "async"}
    return Job.model_validate({"name": "bench", "folder": folder, "runner": runner})


def serve_rows(clients: int, folder: str, tls: bool, ready: Connection) -> None:
    """Be a server for so many clients, until this process is ended.

    Args:
        clients: how many will come.
        folder: where it may write, and where the certificates are.
        tls: whether to use them.
        ready: told the address.
    """
    certificates = Certificates(Path(folder) / CERTS, "server", "0") if tls else None
    server = ParameterServer(rows_job(clients, folder), 0, Path(folder), lambda event: None)

    def tell(address: str) -> None:
        ready.send_bytes(address.encode())

    asyncio.run(serve(server, "127.0.0.1:0", server.limits, tell, asyncio.Event(), certificates))
