"""Run one server in the foreground: a parameter server behind a listener, until it is told to stop."""

import asyncio
import signal
from pathlib import Path

from fedps.config import Job
from fedps.net.listener import serve
from fedps.server.server import ParameterServer
from fedps.tracking import Report


def run_server(job: Job, shard: int, bind: str, run_dir: Path, report: Report) -> None:
    """Serve one shard until SIGTERM.

    Args:
        job: the resolved job.
        shard: the server's number, from 0.
        bind: `host:port`; port 0 takes a free one, told in the event `ready`.
        run_dir: the run's folder.
        report: where events go.

    Raises:
        JobError: the address cannot be bound.
    """
    asyncio.run(_serve(job, shard, bind, run_dir, report))


async def _serve(job: Job, shard: int, bind: str, run_dir: Path, report: Report) -> None:
    server = ParameterServer(job, shard, run_dir, report)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(server, bind, server.limits, lambda address: report({"event": "ready", "address": address}), stop)
    report({"event": "stopped", "rejected": server.rejected})
