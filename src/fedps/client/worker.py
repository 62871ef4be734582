"""A worker's life: read the client's data, build the model, join the servers, train, leave.

It dials out and never listens. Everything that can be wrong on this side is found before the first byte is sent.
"""

import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import torch

from fedps.client.learner import Learner
from fedps.client.modes import build_mode
from fedps.client.parameters import read_parameters
from fedps.client.shard import ClientData
from fedps.client.trainer import Trainer
from fedps.config import Job
from fedps.data.reader import client_files, read_samples
from fedps.errors import DataError
from fedps.models.build import build
from fedps.net.channel import Channel
from fedps.net.inprocess import LocalChannel
from fedps.net.shards import Shards
from fedps.tracking import Report
from fedps.types import ClientId
from fedps.wire.frame import Limits
from fedps.wire.messages import Hello

Connect = Callable[[int, Hello], Channel | LocalChannel]


def prepare_thread() -> None:
    """Set torch up for a thread that trains: one core, and denormals flushed, whose arithmetic is many times slower."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def run_worker(
    job: Job,
    client: ClientId,
    servers: Sequence[str],
    run_dir: Path,
    report: Report,
    connect: Connect | None = None,
    log: TextIO | None = None,
) -> None:
    """Train one client from start to end, in a thread that `prepare_thread` has set up.

    Args:
        job: the resolved job.
        client: whose data to train on: a file of `runner.train_data_dir`.
        servers: `host:port` of every server, in the order of their numbers.
        run_dir: the run's folder.
        report: where events go.
        connect: how to reach shard k; by default over the network.
        log: where lines for people go; by default standard output.

    Raises:
        FedpsError: bad data, a wrong name in the job, a server that is gone or refuses.
    """
    data = read_client(job, client)
    report({"event": "data", "samples": len(data), "test_users": len(data.test_slots["user"]) // 100})
    learner = Learner(build(job), job, data, local_optimizer=job.runner.sync_mode in ("geo", "round"))
    hello = Hello(job.name, client, secrets.token_hex(8))
    reach = connect or network(job, servers)
    shards = Shards([reach(k, hello) for k in range(job.runner.server_num)], learner.server_specs(job.runner.seed))
    try:
        clock = shards.join()
        shards.seed(learner.split_dense(learner.dense.values.copy()))
        mode = build_mode(job, learner, shards, len(data))
        Trainer(job, client, data, learner, shards, mode, run_dir, report, log or sys.stdout).run(clock)
        shards.leave()
    finally:
        shards.close()
    report(
        {"event": "done", "bytes_sent": shards.bytes_sent, "bytes_received": shards.bytes_received}
        | {"retries": shards.retries}
    )


def check(job: Job) -> dict[str, list[str]]:
    """Build the job's network and sort its parameters, as every worker will; return the names by where they live.

    Raises:
        JobError: the network cannot be made, or a table's name matches nothing.
    """
    found = read_parameters(build(job), job)
    tables = {private: [e.spec.name for e in found.embeddings if e.private is private] for private in (True, False)}
    return {"private": [*tables[True], *found.private_dense], "shared": [*tables[False], *found.dense]}


def read_client(job: Job, client: ClientId) -> ClientData:
    """Read a client's training samples, and its held-out ones where the job names a folder of them."""
    runner, hyper = job.runner, job.hyper_parameters
    files = client_files(runner.train_data_dir)
    if client not in files:
        raise DataError(
            f"runner.train_data_dir: no file of client {client!r} in {runner.train_data_dir}; there are {', '.join(files)}"
        )
    train = read_samples(files[client], hyper.num_users, hyper.num_items)
    test = None
    if runner.test_data_dir is not None:
        held_out = client_files(runner.test_data_dir).get(client)
        test = read_samples(held_out, hyper.num_users, hyper.num_items) if held_out else None
    return ClientData(train, test, client, runner.seed, runner.shuffle)


def network(job: Job, servers: Sequence[str]) -> Connect:
    """Return how to reach the servers over the network."""
    limits = Limits(message_bytes=job.limits.message_mib << 20)
    deadline = job.runner.start_timeout + job.runner.step_timeout

    def reach(shard: int, hello: Hello) -> Channel:
        return Channel(servers[shard], hello, limits, deadline)

    return reach
