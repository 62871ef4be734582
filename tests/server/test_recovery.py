"""A server that dies goes on where its log says it was."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedps.config import Job
from fedps.server.server import ParameterServer
from fedps.storage.disk import Folder
from fedps.storage.log import Log
from fedps.types import Init, Rule, TableSpec
from fedps.wire.messages import Barrier, Done
from tests.conftest import MakeJob
from tests.events.kept import into
from tests.server.callers import BIAS, ROWS, Caller, push

ADAM = TableSpec("rows", "sparse", (100, 4), Rule("adam"), Init("uniform", -1.0, 1.0))
MODES: list[dict[str, Any]] = [
    {"sync_mode": "async"},
    {"sync_mode": "sync"},
    {"sync_mode": "geo", "geo_merge": "adaptive"},
    {"sync_mode": "geo", "geo_merge": "mean"},
    {"sync_mode": "geo", "geo_merge": "buffered", "buffer": 3},
    {"sync_mode": "round"},
]


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

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()


@pytest.fixture
def home(make_job: MakeJob, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Home]:
    settings = getattr(request, "param", {"sync_mode": "async"})
    home = Home(make_job(**settings, epochs=3), tmp_path)
    yield home
    home.close()


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
    for stage in ("trained", "evaluated"):
        tickets = [caller.send(Barrier(epoch, stage)) for caller in callers]
        assert all(caller.answers(ticket) for caller, ticket in zip(callers, tickets, strict=True))


@pytest.mark.parametrize("home", MODES, indirect=True, ids=lambda mode: "-".join(map(str, mode.values())))
def test_the_tables_are_those_of_a_server_that_did_not_die(home: Home, tmp_path: Path) -> None:
    rows = ADAM if home.job.runner.sync_mode in ("sync", "async") else ROWS
    whole = ParameterServer(home.job, 0, tmp_path / "other", lambda event: None)
    whole.members.expect(2)
    died = home.server()
    for server in (whole, died):
        a, b = (Caller(server, name).join(rows, BIAS) for name in "ab")
        train(server, a, b, 1, 4)
        meet(1, a, b)
        train(server, a, b, 5, 7)
    a, b = (Caller(whole, name) for name in "ab")
    for at in (8, 11, 13):
        if at == 11:
            died.sum_up()
            for server in (died, whole):
                a, b = (Caller(server, name, "p").join(rows, BIAS) for name in "ab")
                train(server, a, b, at - 1, at - 1)
        died = home.server()
        assert tables(died) == tables(whole)
        assert (died.clock, died.barriers.epoch) == (whole.clock, whole.barriers.epoch)
        for server in (died, whole):
            a, b = (Caller(server, name, "p").join(rows, BIAS) for name in "ab")
            train(server, a, b, at, at + 1)
    for server in (died, whole):
        meet(2, *(Caller(server, name, "p").join(rows, BIAS) for name in "ab"))
    assert tables(home.server()) == tables(whole)
