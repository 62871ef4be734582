"""Run one server in the foreground: a parameter server behind a listener, until it is told to stop."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from fedps.access.audit import Audit
from fedps.config import Job
from fedps.errors import DataError, JobError, LostError
from fedps.events import events
from fedps.events.events import Report
from fedps.events.forms import dated
from fedps.net.listener import serve_to_the_end, try_to_bind
from fedps.net.protection import protect
from fedps.server.beside import InThread, at_once
from fedps.server.resharding import state_folder
from fedps.server.server import ParameterServer
from fedps.storage.disk import Folder
from fedps.storage.log import Log
from fedps.types import ClientId

LOOK, LOOKS = 0.02, 100  # seconds between two looks whether another process has ended, and how often at its port


def run_server(
    job: Job, shard: int, bind: str, run_dir: Path, report: Report, *, stay: bool = True, keep: bool = False,
    cut: Mapping[ClientId, int] | None = None, standby: bool = False,
) -> bool:  # fmt: skip
    """Serve one shard until SIGTERM; return False if the job has come to its end with another process of this shard.

    Args:
        job: the resolved job.
        shard: the server's number, from 0.
        bind: `host:port`; port 0 takes a free one, told in the event `ready`.
        run_dir: the run's folder.
        report: where events go.
        stay: False ends by itself too, once every expected client has come, and left or been lost for so long that it has
            surely not been started again: `reconnect_timeout` and `start_timeout` after its connection broke.
        keep: nobody sees to the run: save what was trained since the last saved epoch, as far as it came, before it ends,
            and leave no log where the job has come to its end.
        cut: the last push of each client that counts, where a run is taken back to an earlier moment.
        standby: while another process serves this shard from the same folder, follow its log, and serve once it has ended.
            That one may be started as late as `start_timeout` after this one; then this one takes its place all the same.

    Raises:
        JobError: the address cannot be bound, or its certificates cannot be used, or nothing is kept that could be followed.
        DataError: the epoch to start from cannot be read, or one cannot be saved; the log is another server's, or damaged.
        LostError: it ended by itself, for all clients were lost and none took leave.
    """
    certificates = protect(job.security, "server", str(shard), [bind])
    disk = log = None
    audit = Audit(run_dir, "server", shard, job, report)
    report = audit.report
    if job.runner.durability == "group":
        disk = Folder(state_folder(run_dir, shard), to_write=not standby)
        if standby:
            _await_primary(disk, shard, job.runner.start_timeout)
        log = Log(disk, partial(_takes, disk))
        if standby and not disk.take():
            print(
                f"server {shard} stands by: it follows the log of the process that serves, and takes its place",
                flush=True,
            )
    elif standby:
        raise JobError("--standby: runner.durability is none, so there is no log to follow; say group")
    try:
        server = ParameterServer(job, shard, run_dir, report, log=log, cut=cut)
    except LostError as end:  # of the log, which another process has removed, or was about to
        print(f"server {shard}: {end}", flush=True)
        if log is not None and disk is not None and disk.take():
            log.forget()
            disk.close()
        return False
    if standby:
        _await_free(bind)
    saves = server.shard.beside = InThread()

    def ready(address: str) -> None:
        print(dated(f"Server[fedps.ParameterServer] is serving on port={address.rpartition(':')[2]}."), flush=True)
        report(events.Ready(address))

    with audit:
        serve_to_the_end(server, bind, ready, stay, audit, saves.finish, certificates)
        server.shard.beside = at_once  # nobody has to be answered any more
        if keep and server.failure is None:
            server.finish()
        server.close()
        if not stay and server.members.abandoned:
            raise LostError(
                f"all clients were lost after epoch {server.barriers.epoch} of {job.runner.epochs}; what they trained by then"
                " is saved: go on from it by runner.warmup_model_path"
            )
        report(events.Stopped(server.refusals.total, server.repeats))
    if keep and log is not None and server.members.done:  # the job has come to its end, and nobody will go on with it
        with suppress(OSError):  # then it is found at its end again
            log.forget()
    if disk is not None:
        disk.close()
    return True


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


def _takes(disk: Folder) -> bool:
    """Wait a little for the process that serves from a folder; return whether there is none any more."""
    taken = disk.take()
    if not taken:
        time.sleep(LOOK)
    return taken


def _await_primary(disk: Folder, shard: int, patience: float) -> None:
    """Wait for the process whose place is to be taken: of two that are started together, who stands by never is the first."""
    deadline, said = time.monotonic() + patience, False
    while disk.is_free() and time.monotonic() < deadline:
        if not said:
            print(f"server {shard} waits up to {patience:g} s for the process that it is to follow", flush=True)
            said = True
        time.sleep(LOOK)


def _await_free(bind: str) -> None:
    """Wait until a process that has just ended listens no more; who then listens anyway is told when we try to."""
    for _ in range(LOOKS):
        with suppress(OSError):
            try_to_bind(bind)
            return
        time.sleep(LOOK)
