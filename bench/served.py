"""A real server in a process of its own, plain or with TLS, for clients to pull rows from."""

import asyncio
import shutil
import subprocess
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from bench.apart import BenchError
from fedps.config import Job
from fedps.net.listener import serve
from fedps.server.server import ParameterServer

KEY, CERTIFICATE = "key.pem", "certificate.pem"


def make_certificate(folder: Path) -> None:
    """Write a key and a certificate for 127.0.0.1 that last a day.

    Raises:
        BenchError: there is no openssl command, or it fails.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise BenchError("there is no openssl command here to make a certificate with")
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    files = ["-keyout", str(folder / KEY), "-out", str(folder / CERTIFICATE)]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    done = subprocess.run([*command, *files, *names], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BenchError(f"openssl made no certificate: {done.stderr[-300:]}")


def rows_job(clients: int, folder: str) -> Job:
    """Return the job of a server and its clients, who train nothing."""
    runner = {"train_data_dir": folder, "worker_num": clients, "sync_mode": "async"}
    return Job.model_validate({"name": "bench", "folder": folder, "runner": runner})


def serve_rows(clients: int, folder: str, tls: bool, ready: Connection) -> None:
    """Be a server for so many clients, until this process is ended.

    Args:
        clients: how many will come.
        folder: where it may write, and where key and certificate are.
        tls: whether to use them.
        ready: told the address.
    """
    credentials = None
    if tls:
        credentials = grpc.ssl_server_credentials(
            [tuple((Path(folder) / name).read_bytes() for name in (KEY, CERTIFICATE))]
        )
    server = ParameterServer(rows_job(clients, folder), 0, Path(folder), lambda event: None)

    def tell(address: str) -> None:
        ready.send_bytes(address.encode())

    asyncio.run(serve(server, "127.0.0.1:0", server.limits, tell, asyncio.Event(), credentials))
