"""Clients that die right behind a checkpoint, servers that outlive them, and others that go on from there."""

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.client.greeting import COORDINATOR
from fedps.client.life import FLClient
from fedps.config import Job
from fedps.config.files import client_files_of
from fedps.coordinator.coordinator import Coordinator
from fedps.events.events import Event
from fedps.metrics import Histogram
from fedps.models.network import Plan
from fedps.net.inprocess import LocalChannel, LocalServer
from fedps.server.server import ParameterServer
from fedps.storage import epochs
from fedps.training.plan import make_plan
from fedps.types import ClientId, Stateful, under
from fedps.wire.frame import Limits

Arrays = dict[str, NDArray[Any]]


class DiedError(Exception):
    """What a client dies of."""


class Mortal(FLClient):
    """A client that dies right behind its first checkpoint of an epoch's end or, with `within`, of the epoch behind it."""

    dies_after: int | None = None
    within = False

    def _keep(self, batch: int = 0) -> None:
        super()._keep(batch)
        self._checkpoints.settle()
        if self.dies_after == self.assignment.round - (batch > 0) and self.within == (batch > 0):
            raise DiedError


class World:
    """A job's servers, which stay, and its clients, of which several lives may follow on each other."""

    def __init__(self, job: Job, run_dir: Path, stack: ExitStack, kind: type[Mortal]) -> None:
        self.job, self.run_dir, self.kind = job, run_dir, kind
        self.plan: Plan = make_plan(job)
        self.events: list[tuple[str, Event]] = []
        self.logs: dict[ClientId, io.StringIO] = {}
        self.services = [
            ParameterServer(job, k, run_dir, lambda event, k=k: self.events.append((f"server {k}", event)))  # type: ignore[misc]
            for k in range(job.runner.server_num)
        ]
        self.servers = [stack.enter_context(closing(LocalServer(service))) for service in self.services]
        if job.runner.with_coordinator:
            (run_dir / "log").mkdir(parents=True, exist_ok=True)
            coordinator = Coordinator(
                job, lambda e: self.events.append(("coordinator", e)), io.StringIO(), None, run_dir
            )
            self.servers.append(stack.enter_context(closing(LocalServer(coordinator))))
        self.names = list(client_files_of(job))

    def client(self, name: ClientId, dies_after: int | None = None, within: bool = False, resume: str = "") -> Mortal:
        """Return a client's next process."""
        log = self.logs[name] = io.StringIO()

        def connect(shard: int, hello: Any) -> LocalChannel:
            server = self.servers[-1 if shard == COORDINATOR else shard]
            return LocalChannel(server, hello, Limits(self.job.limits.message_mib << 20))

        client = self.kind(
            self.job, name, [], self.run_dir, lambda event: self.events.append((name, event)), connect=connect,
            log=log, plan=self.plan, resume=resume, number=self.names.index(name),
        )  # fmt: skip
        client.dies_after, client.within = dies_after, within
        return client

    def live(
        self, dies_after: int | None = None, within: bool = False, resume: str = "", only: Sequence[ClientId] = ()
    ) -> dict[ClientId, Mortal]:  # fmt: skip
        """Let all clients, or some, live side by side, to their end or until they die."""
        clients = {name: self.client(name, dies_after, within, resume) for name in only or self.names}
        failures: list[BaseException] = []

        def live(client: Mortal) -> None:
            try:
                client.run()
            except DiedError:
                if client.trainer._dump:
                    client.trainer._dump.end()
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=live, args=[client]) for client in clients.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return clients


@contextmanager
def world(job: Job, run_dir: Path, kind: type[Mortal] = Mortal) -> Iterator[World]:
    """Let there be servers, and clients of a kind."""
    with ExitStack() as stack:
        yield World(job, run_dir, stack, kind)


def told(world: World, *kinds: type[Event]) -> list[tuple[str, str]]:
    """Return what was told of some kinds, but for what took how long, in an order that does not depend on that."""
    return sorted((who, _timeless(event)) for who, event in world.events if isinstance(event, kinds))


def left(world: World, clients: dict[ClientId, Mortal]) -> Arrays:
    """Return all values that a job leaves, on servers and clients, with all of their state."""
    found: Arrays = {}
    for name, client in clients.items():
        parts: dict[str, Stateful] = {"learner": client.learner, "mode": client._mode, "shards": client.shards}
        state = under({part: one.state() for part, one in parts.items()})
        found |= {f"{name}/{key}": np.array(value) for key, value in state.items()}
    for epoch in epochs.numbers(world.run_dir / "model"):
        for table, saved in epochs.read_model(world.run_dir / "model" / str(epoch)).items():
            found |= {f"{epoch}/{table}/keys": saved.keys, f"{epoch}/{table}/rows": saved.block}
    return found


def same(ours: Arrays, theirs: Arrays) -> None:
    """Make sure that all values are the same, to the bit."""
    assert ours.keys() == theirs.keys()
    differ = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert not differ


def _timeless(event: Event) -> str:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    spread = fields.pop("histograms", {}) | {"": fields.pop("histogram", Histogram())}
    counts = {name: histogram.counts.tobytes() for name, histogram in spread.items()}
    plain = {name: value for name, value in fields.items() if name not in ("seconds", "waited")}
    return f"{type(event).__name__} {plain} {counts}"
