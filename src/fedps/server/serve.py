"""Run one server in the foreground: a parameter server behind a listener, until it is told to stop."""

from pathlib import Path

from fedps.config import Job
from fedps.events import events
from fedps.events.events import Report
from fedps.net.listener import serve_to_the_end
from fedps.server.server import ParameterServer


def run_server(
    job: Job, shard: int, bind: str, run_dir: Path, report: Report, *, stay: bool = True, keep: bool = False
) -> None:
    """Serve one shard until SIGTERM.

    Args:
        job: the resolved job.
        shard: the server's number, from 0.
        bind: `host:port`; port 0 takes a free one, told in the event `ready`.
        run_dir: the run's folder.
        report: where events go.
        stay: False ends by itself too, once every expected client has come, and left or been lost for so long that it has
            surely not been started again: `reconnect_timeout` and `start_timeout` after its connection broke.
        keep: save what was trained since the last saved epoch, as far as it came, before it ends.

    Raises:
        JobError: the address cannot be bound.
        DataError: the epoch to start from cannot be read, or one cannot be saved.
    """
    server = ParameterServer(job, shard, run_dir, report)
    serve_to_the_end(server, bind, lambda address: report(events.Ready(address)), stay)
    if server.failure is not None:
        raise server.failure
    if keep:
        server.finish()
    server.refusals.flush()
    report(events.Stopped(server.refusals.total))
