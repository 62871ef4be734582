"""A worker: the process, or thread, in which one client lives."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import torch

from fedps.client.fl_client import Connect, FLClient, Handler, Key, network
from fedps.client.parameters import read_parameters
from fedps.client.reading import read_client
from fedps.config import Allow, Job
from fedps.models.build import build
from fedps.tracking import Report
from fedps.types import ClientId

__all__ = ["Connect", "check", "network", "prepare_thread", "read_client", "run_worker"]


def prepare_thread() -> None:
    """Set torch up for a thread that trains: one core, and denormals flushed, whose arithmetic is many times slower."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def run_worker(
    job: Job, client: ClientId, servers: Sequence[str], run_dir: Path, report: Report, *,
    coordinator: str | None = None, connect: Connect | None = None, log: TextIO | None = None,
    allow: Allow = Allow(), handlers: Mapping[Key, Handler] | None = None, number: int = 0,  # noqa: B008
) -> None:  # fmt: skip
    """Train one client from start to end, in a thread that `prepare_thread` has set up.

    Args:
        job: the resolved job.
        client: whose data to train on.
        servers: `host:port` of every server, in the order of their numbers.
        run_dir: the run's folder.
        report: where events go.
        coordinator: its `host:port`, None without one.
        connect: how to reach them; by default over the network.
        log: where lines for people go; by default standard output.
        allow: what the person who started this allows.
        number: of the worker; dumps carry it.
        handlers: steps of the client's life to replace.

    Raises:
        FedpsError: bad data, a wrong name in the job, a server or coordinator that is gone or refuses.
    """
    life = FLClient(
        job, client, servers, run_dir, report, coordinator=coordinator, connect=connect, log=log, allow=allow,
        number=number,
    )  # fmt: skip
    for key, handler in (handlers or {}).items():
        life.register_handlers(key, handler)
    life.run()


def check(job: Job) -> dict[str, list[str]]:
    """Build the job's network and sort its parameters, as every worker will; return the names by where they live.

    Raises:
        JobError: the network cannot be made, or a table's name matches nothing.
    """
    found = read_parameters(build(job), job)
    tables = {private: [e.spec.name for e in found.embeddings if e.private is private] for private in (True, False)}
    return {"private": [*tables[True], *found.private_dense], "shared": [*tables[False], *found.dense]}
