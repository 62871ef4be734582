"""Whole runs over real sockets, with servers that give one client other values than the others, or with honest ones."""

import io
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedps.access.audit import Audit
from fedps.client.life import FLClient
from fedps.config import Job
from fedps.config.files import client_files_of
from fedps.coordinator.coordinator import Coordinator
from fedps.events import events
from fedps.events.events import Event
from fedps.net.tls import Certificates
from fedps.server.server import ParameterServer
from fedps.training.plan import make_plan
from fedps.types import ClientId
from fedps.wire.messages import Values
from tests.chaos.wires import Wire
from tests.net.echo import served

ROWS = 220  # of the table of items


class Lie(NamedTuple):
    """What a server gives one client: a bit of one float is turned over.

    Attributes:
        victim: who gets it.
        table: of the float.
        place: which row of a table, or which float of a tensor, modulo those that there are.
        round: from which on, in all pulls of it.
        once: in one pull alone.
    """

    victim: ClientId
    table: str
    place: int
    round: int = 1
    once: bool = False


@dataclass
class Outcome:
    """What came of a run."""

    errors: dict[ClientId, Exception] = field(default_factory=dict)
    failure: Exception | None = None
    events: list[tuple[str, Event]] = field(default_factory=list)
    lies: int = 0
    lied_in: int = 0  # the round of the first

    def told(self, kind: type[Event]) -> list[Any]:
        """Return the events of a kind, in their order."""
        return [event for _, event in self.events if type(event) is kind]


def deceive(server: ParameterServer, outcome: Outcome, lie: Lie) -> None:
    """Let a server lie."""
    honest = server.shard.pull

    def pull(member: Any, wanted: Any, keys: Sequence[Any]) -> tuple[Values, Sequence[Any]]:
        answer, arrays = honest(member, wanted, keys)
        deceived = server.members.get(lie.victim) is member and server.barriers.epoch >= lie.round - 1
        if not deceived or lie.table not in answer.tables or (lie.once and outcome.lies):
            return answer, arrays
        at = answer.tables.index(lie.table)
        changed = np.array(arrays[at])
        sparse = server.shard.store.spec(lie.table).kind == "sparse"
        floats = changed[keys[at] == lie.place % ROWS, :1] if sparse else changed[:, [lie.place % changed.shape[1]]]
        if not floats.size:
            return answer, arrays
        outcome.lied_in = outcome.lied_in or len(outcome.told(events.Compared)) + 1
        outcome.lies += 1
        floats.view(np.uint8)[:, 0] ^= 1
        where = (keys[at] == lie.place % ROWS, slice(1)) if sparse else (slice(1), [lie.place % changed.shape[1]])
        changed[where] = floats
        return answer, [*arrays[:at], changed, *arrays[at + 1 :]]

    server.shard.pull = pull  # type: ignore[method-assign, assignment]


class Cut(Wire):
    """A wire that breaks each time it has carried so many bytes."""

    def __init__(self, target: str, every: int) -> None:
        self._every = self._due = every
        super().__init__(target)

    def carried(self, talk: int, up: bool, data: bytes) -> None:
        super().carried(talk, up, data)
        if self.bytes > self._due:
            self._due = self.bytes + self._every
            self.cut(talk)


def run(
    job: Job, folder: Path, prepare: Callable[[ParameterServer, Outcome], None] = lambda server, outcome: None,
    cut_every: int = 0,
) -> Outcome:  # fmt: skip
    """Run a job: servers and coordinator each behind a socket, each client in a thread.

    Args:
        job: with a coordinator.
        folder: of the run.
        prepare: is given each server before it serves.
        cut_every: bytes after which the connections to a server are cut, and dialled anew; 0: they stay.
    """
    outcome, plan = Outcome(), make_plan(job)

    def tells(who: str) -> Callable[[Event], None]:
        return lambda event: outcome.events.append((who, event))

    def certificates(role: str, name: str) -> Certificates | None:
        return Certificates(job.security.certs, role, name) if job.security.certs else None

    def live(client: FLClient) -> None:
        try:
            client.run()
        except Exception as error:
            outcome.errors[client.client] = error

    with ExitStack() as stack:
        addresses = []
        for k in range(job.runner.server_num):
            server = ParameterServer(job, k, folder, tells(f"server {k}"))
            prepare(server, outcome)
            address = stack.enter_context(served(server, certificates=certificates("server", str(k))))
            addresses.append(stack.enter_context(closing(Cut(address, cut_every))).address if cut_every else address)
        audit = stack.enter_context(Audit(folder, "coordinator", 0, job, tells("coordinator")))
        coordinator = Coordinator(job, audit.report, io.StringIO(), run_dir=folder)
        stack.callback(coordinator._memory.close)
        leads = stack.enter_context(served(coordinator, certificates=certificates("coordinator", "0")))
        clients = [
            FLClient(
                job, name, addresses, folder, tells(name), coordinator=leads, log=io.StringIO(), plan=plan, number=k
            )
            for k, name in enumerate(client_files_of(job))
        ]
        threads = [threading.Thread(target=live, args=[client]) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        outcome.failure = coordinator.failure
    return outcome
