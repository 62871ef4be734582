"""Run one server in the foreground: a parameter server behind a listener, until it is told to stop."""

import asyncio
from pathlib import Path

from fedps.config import Job
from fedps.errors import LostError
from fedps.events import events
from fedps.events.events import Report, dated
from fedps.net.listener import serve_to_the_end
from fedps.server.beside import Done, Work, at_once
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
        LostError: it ended by itself, for all clients were lost and none took leave.
    """
    server = ParameterServer(job, shard, run_dir, report)
    saves = server.shard.beside = _InThread()

    def ready(address: str) -> None:
        print(dated(f"Server[fedps.ParameterServer] is serving on port={address.rpartition(':')[2]}."), flush=True)
        report(events.Ready(address))

    serve_to_the_end(server, bind, ready, stay, saves.finish)
    if server.failure is not None:
        raise server.failure
    if keep:
        server.shard.beside = at_once  # nobody has to be answered any more
        server.finish()
    server.refusals.flush()
    if not stay and server.members.abandoned:
        raise LostError(
            f"all clients were lost after epoch {server.barriers.epoch} of {job.runner.epochs}; what they trained by then"
            " is saved: go on from it by runner.warmup_model_path"
        )
    report(events.Stopped(server.refusals.total))


class _InThread:
    """Lets work be done in a thread, so that the loop goes on; how it went is told in the loop's own turn."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, work: Work, done: Done) -> None:
        """Begin work, and call `done` when it has ended."""
        task = asyncio.get_running_loop().create_task(self._do(work, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait until all work has ended, what follows on it too."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _do(self, work: Work, done: Done) -> None:
        try:
            await asyncio.to_thread(work)
        except Exception as error:
            done(error)
        else:
            done(None)
