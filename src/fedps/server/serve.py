"""Run one server in the foreground: a parameter server behind a listener, until it is told to stop."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from fedps.config import Job
from fedps.errors import DataError, LostError
from fedps.events import events
from fedps.events.events import Report, dated
from fedps.net.listener import serve_to_the_end
from fedps.server.beside import Done, Work, at_once
from fedps.server.server import ParameterServer
from fedps.storage.disk import Folder
from fedps.storage.log import Log
from fedps.storage.shards import name_of
from fedps.types import ClientId


def run_server(
    job: Job, shard: int, bind: str, run_dir: Path, report: Report, *, stay: bool = True, keep: bool = False,
    cut: Mapping[ClientId, int] | None = None,
) -> None:  # fmt: skip
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
        cut: the last push of each client that counts, where a run is taken back to an earlier moment.

    Raises:
        JobError: the address cannot be bound.
        DataError: the epoch to start from cannot be read, or one cannot be saved; the log is another server's, or damaged.
        LostError: it ended by itself, for all clients were lost and none took leave.
    """
    disk = Folder(state_folder(run_dir, shard)) if job.runner.durability == "group" else None
    server = ParameterServer(job, shard, run_dir, report, log=None if disk is None else Log(disk), cut=cut)
    saves = server.shard.beside = _InThread()

    def ready(address: str) -> None:
        print(dated(f"Server[fedps.ParameterServer] is serving on port={address.rpartition(':')[2]}."), flush=True)
        report(events.Ready(address))

    serve_to_the_end(server, bind, ready, stay, saves.finish)
    server.shard.beside = at_once  # nobody has to be answered any more
    if keep and server.failure is None:
        server.finish()
    server.close()
    if not stay and server.members.abandoned:
        raise LostError(
            f"all clients were lost after epoch {server.barriers.epoch} of {job.runner.epochs}; what they trained by then"
            " is saved: go on from it by runner.warmup_model_path"
        )
    report(events.Stopped(server.refusals.total))
    if disk is not None:
        if server.members.done:  # the job has come to its end, and nobody will go on with it
            for name in disk.names():
                disk.remove(name)
        disk.close()


def state_folder(run_dir: Path, shard: int) -> Path:
    """Return the folder in which a server keeps what outlives its process."""
    return run_dir / "state" / name_of(shard)


def read_cut(path: Path) -> dict[ClientId, int] | None:
    """Return the last push of each client that counts where a run goes on; None if servers keep all that they have.

    Args:
        path: of the file in which the launcher says it.

    Raises:
        DataError: it cannot be read.
    """
    try:
        cut = json.loads(path.read_bytes())
        return {client: int(place["sequence"]) for client, place in cut["clients"].items()} if cut["exact"] else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: does not say from where to go on: {error!r}; resume anew by fedps run --resume"
        ) from error


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
