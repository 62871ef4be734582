"""One client in a process of its own that pulls rows: by the product's own client, or over a bare socket."""

import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np

from bench.echo import EchoClient
from fedps.config import Job
from fedps.config.shared import shared_part
from fedps.net.channel import Channel
from fedps.net.shards import Shards
from fedps.net.tls import Certificates
from fedps.types import Init, Keys, Rule, TableSpec
from fedps.wire.frame import Limits
from fedps.wire.messages import Hello

Kind = Literal["fedps", "tls", "socket"]
PATIENCE = 60.0  # seconds
REQUESTS = 8  # sets of ids, taken in turn


@dataclass(frozen=True)
class Case:
    """What a client is to do.

    Args:
        kind: by what it pulls.
        address: the server's.
        job: the server's job.
        certs: folder of an authority, for `tls`.
        rows: of the table.
        dim: floats of a row.
        ids: ids of a request, one size after another.
        seconds: how long to pull, for each of these sizes.
    """

    kind: Kind
    address: str
    job: Job
    certs: str
    rows: int
    dim: int
    ids: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Pulls:
    """What it did for one size: each pull's seconds, and when the first began and the last ended."""

    taken: list[float]
    began: float
    ended: float


class Puller(Protocol):
    """Pulls rows."""

    def pull(self, keys: Keys) -> object:
        """Ask for rows and wait for them."""

    def close(self) -> None:
        """Hang up."""


class RowsClient:
    """The product's client, as a worker has it."""

    def __init__(self, case: Case, number: int) -> None:
        certificates = Certificates(Path(case.certs), "client", str(number)) if case.kind == "tls" else None
        hello = Hello(case.job.name, str(number), f"process {number}", 1, shared=shared_part(case.job))
        channel = Channel(case.address, hello, Limits(), PATIENCE, certificates)
        spec = TableSpec("rows", "sparse", (case.rows, case.dim), Rule("add"), Init("constant", 0.5))
        self._shards = Shards([channel], [spec], PATIENCE)
        self._shards.join()

    def pull(self, keys: Keys) -> object:
        """Pull rows and wait for them."""
        return self._shards.pull({"rows": keys}).result(PATIENCE)

    def close(self) -> None:
        """Hang up."""
        self._shards.close()


def pull_apart(case: Case, number: int, barrier: Barrier, answer: Connection) -> None:
    """Be one client, in step with the others; answer with what came of each size of request.

    Args:
        case: what to do.
        number: which client this is.
        barrier: of all clients.
        answer: told a `list[Pulls]`, as JSON.
    """
    client: Puller = EchoClient(case.address, 4 * case.dim) if case.kind == "socket" else RowsClient(case, number)
    done = []
    for ids in case.ids:
        rng = np.random.default_rng((number, ids))
        requests = [np.sort(rng.choice(case.rows, ids, replace=False)) for _ in range(REQUESTS)]
        for keys in requests:  # rows are made when first asked for
            client.pull(keys)
        barrier.wait(PATIENCE)
        done.append(_pull(client, requests, case.seconds))
        barrier.wait(PATIENCE + case.seconds)
    client.close()
    answer.send_bytes(msgspec.json.encode(done))


def _pull(client: Puller, requests: list[Keys], seconds: float) -> Pulls:
    taken: list[float] = []
    began = now = time.monotonic()  # one clock for all processes of a machine
    while now - began < seconds:
        client.pull(requests[len(taken) % len(requests)])
        before, now = now, time.monotonic()
        taken.append(now - before)
    return Pulls(taken, began, now)
