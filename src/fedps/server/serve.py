"""Run one server in the foreground: a parameter server behind a listener, until it is told to stop."""

import asyncio
import signal
from pathlib import Path

from fedps.config import Job
from fedps.events import events
from fedps.events.events import Report
from fedps.net.listener import serve
from fedps.server.server import ParameterServer

LOOK = 0.05  # seconds between two looks at whether to end


def run_server(job: Job, shard: int, bind: str, run_dir: Path, report: Report, *, stay: bool = True) -> None:
    """Serve one shard until SIGTERM.

    Args:
        job: the resolved job.
        shard: the server's number, from 0.
        bind: `host:port`; port 0 takes a free one, told in the event `ready`.
        run_dir: the run's folder.
        report: where events go.
        stay: False ends by itself too, once every expected client has come and left.

    Raises:
        JobError: the address cannot be bound.
        DataError: the epoch to start from cannot be read, or one cannot be saved.
    """
    asyncio.run(_serve(job, shard, bind, run_dir, report, stay))


async def _serve(job: Job, shard: int, bind: str, run_dir: Path, report: Report, stay: bool) -> None:
    server = ParameterServer(job, shard, run_dir, report)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    ending = asyncio.create_task(_end(server, stop, stay))
    try:
        await serve(server, bind, server.limits, lambda address: report(events.Ready(address)), stop)
    finally:
        ending.cancel()
    if server.failure is not None:
        raise server.failure
    server.refusals.flush()
    report(events.Stopped(server.refusals.total))


async def _end(server: ParameterServer, stop: asyncio.Event, stay: bool) -> None:
    """Stop a server that cannot go on or, unless it is to stay, has nobody left to serve."""
    while not (server.failure or (server.over and not stay)):
        await asyncio.sleep(LOOK)
    stop.set()
