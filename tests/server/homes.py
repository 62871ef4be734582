"""A server's folder, its processes one after the other, and what clients do there."""

import errno
from pathlib import Path
from typing import Any

import numpy as np

from fedps.config import Job
from fedps.server.server import ParameterServer
from fedps.storage.disk import Folder
from fedps.storage.log import Log
from fedps.wire.messages import Barrier, Done
from tests.events.kept import into
from tests.server.callers import Caller, push


class Home:
    """A server's folder, in which one process after the other serves; each dies without a word."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder, self.events = job, folder, list[dict[str, Any]]()
        self._disk: Folder | None = None

    def server(self, cut: dict[str, int] | None = None, job: Job | None = None) -> ParameterServer:
        """Start a process in the place of the one before."""
        if self._disk is not None:
            self._disk.close()
        self._disk = Folder(self.folder / "state")
        log = Log(self._disk)
        server = ParameterServer(job or self.job, 0, self.folder, into(self.events), log=log, cut=cut)  # type: ignore[arg-type]
        server.members.expect(2)
        return server

    def fill(self, only: str = "") -> None:
        """Let the disk be full from now on, `only` for files whose names begin so."""
        assert self._disk is not None
        append = self._disk.append
        self._disk.append = lambda name, pieces: (  # type: ignore[method-assign]
            self._full(name) if name.startswith(only) else append(name, pieces)
        )

    def empty(self) -> None:
        """Let there be space again."""
        del self._disk.append  # type: ignore[union-attr]

    def _full(self, name: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    def close(self) -> None:
        """End the last process."""
        if self._disk is not None:
            self._disk.close()


def tables(server: ParameterServer) -> dict[str, Any]:
    """Return all rows with their state."""
    return {n: (keys.tolist(), rows.tobytes()) for n, (_, keys, rows) in server.shard.store.export().items()}


def train(server: ParameterServer, a: Caller, b: Caller, first: int, last: int) -> None:
    """Let both push so many windows."""
    rng = np.random.default_rng(first)
    for number in range(first, last + 1):
        pushes = []
        for caller in (a, b):
            keys = np.sort(rng.choice(100, 5, replace=False))
            pushes.append(
                (
                    caller,
                    caller.send(*push(number, keys, rng.normal(size=(5, 4)).astype(np.float32), clock=server.clock)),
                )
            )
        for caller, ticket in pushes:
            if server.shard.gate is None or server.shard.gate.lockstep:
                assert [type(answer) for answer in caller.answers(ticket)] == [Done]


def meet(epoch: int, *callers: Caller) -> None:
    """Let all meet at the end of an epoch."""
    for stage in ("trained", "evaluated"):
        tickets = [caller.send(Barrier(epoch, stage)) for caller in callers]
        assert all(caller.answers(ticket) for caller, ticket in zip(callers, tickets, strict=True))
