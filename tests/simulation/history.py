"""One seed, one history: a whole run on virtual time, with all that goes wrong in it, and what must be so all the same."""

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from pathlib import Path
from unittest.mock import patch

import numpy as np

from fedps.errors import DataError, RefusedError
from fedps.server.beside import at_once
from fedps.server.server import ParameterServer
from fedps.storage.log import Log
from fedps.table.store import Store
from tests.simulation.clients import Client
from tests.simulation.faults import Faults
from tests.simulation.homes import Home, Lead
from tests.simulation.ledger import Ledger
from tests.simulation.plan import Plan, shared_of
from tests.simulation.world import World

REPLAYED = 6  # connections to a server of which all is said again in the end
SUMMED_UP = 1 << 10  # bytes of a log behind which a snapshot is written, where any is
MEMORY = 8 << 30  # bytes of the machine that servers see: what this one has is no part of a history


class History:
    """A run, from the first greeting to the last leave.

    Args:
        seed: all follows from it.
        folder: of the run.
        trace: takes a line for each thing that happens.
    """

    def __init__(self, seed: int, folder: Path, trace: Callable[[str], None] | None = None) -> None:
        self.world = world = World(seed, trace)
        self.plan = plan = Plan(world)
        world.say(str(plan))
        self.ledger = ledger = Ledger(world, plan)
        self.homes = [Home(world, plan, ledger, k, folder, self._over) for k in range(plan.servers)]
        self.lead = Lead(world, plan, ledger, folder) if plan.coordinated else None
        hosts, leads = [home.host for home in self.homes], self.lead.host if self.lead else None
        self.clients = [Client(world, plan, ledger, k, hosts, leads, self._end) for k in range(plan.clients)]
        self.faults = Faults(world, plan, ledger, self.homes, self.lead, self.clients, self._count)
        self._left = {client.name for client in self.clients}

    def run(self) -> None:
        """Let it happen, and check what came of it.

        Raises:
            WrongError: what must never happen has.
        """
        world = self.world
        for home in self._roles:
            world.after(world.chance.random(), home.host.start)
        for client in self.clients:
            world.after(world.chance.random() * world.chance.choice((1, 1, 1, 10)), client.start)
        self.faults.draw()
        ends = world.run(self._over)
        if self.ledger.fault is not None:
            raise self.ledger.fault
        if not ends:
            self.ledger.wrong(f"it does not end: {', '.join(sorted(self._left))} wait for ever")
        for shard, home in enumerate(self.homes):
            self._check(shard, home)
        self.ledger.check_same()

    def close(self) -> None:
        """Give back what processes hold that have died, or would go on."""
        for home in self._roles:
            home.close()

    @property
    def _roles(self) -> list[Home | Lead]:
        return [*self.homes, *([self.lead] if self.lead else [])]

    def _over(self) -> bool:
        return not self._left or self.ledger.fault is not None

    def _end(self, client: Client) -> None:
        """Note that a client's process does no more: all but the newest may be told that a newer one speaks, and count no more."""
        error, older = client.error, client is not self.clients[client.number]
        if error is not None and not (older and isinstance(error, RefusedError) and error.kind == "superseded"):
            self.ledger.wrong(f"{client.name} gave up: {error}")
        if not older:
            self._count(client)

    def _count(self, client: Client) -> None:
        """Count a client among those that have something left to do, or not."""
        if client.ended or client.dead:
            self._left.discard(client.name)
        else:
            self._left.add(client.name)

    # What must be so in the end.

    def _check(self, shard: int, home: Home) -> None:
        """Check a shard's tables, and what another process makes of its disk after a power cut."""
        host, log = home.host, None
        self.world.run(lambda: host.service is not None)
        server = host.service
        assert isinstance(server, ParameterServer)
        position = -1  # behind all that has happened, where all of it is on disk
        if own := server.durable.log:
            position = own.position if own.durable == own.position else -1
            disk = deepcopy(home.disk)
            disk.error = None
            disk.crash(self.world.chance)
            log = Log(disk)
        self._check_tables(shard, server, host.recorded)
        if log is not None and self.world.happens(0.5):
            another = self._recovered(shard, home, log)
            self.ledger.begins_anew(shard, host.lives + 1, another.clock)
            whole = log.position == position
            self._check_tables(shard, another, host.recorded)
            if whole and (differs := first_difference(server.shard.store, another.shard.store)):
                self.ledger.wrong(f"shard {shard} recovers another table {differs}, though nothing was lost")

    def _recovered(self, shard: int, home: Home, log: Log) -> ParameterServer:
        try:
            return home.made(log)
        except DataError as error:
            self.ledger.wrong(f"shard {shard} cannot be recovered: {error}")
            raise

    def _check_tables(self, shard: int, server: ParameterServer, sessions: list[list[bytes]]) -> None:
        server.shard.beside = at_once
        server.shard.merge_rest()
        self.ledger.check(shard, server)
        if self.world.happens(0.15):
            self.world.say(f"somebody plays to shard {shard} all that was said there")
            for session in self.world.chance.sample(sessions, min(REPLAYED, len(sessions))):
                _play_again(server, session)
                _play_again(server, [*session[:2], *self.world.chance.sample(session[2:], len(session[2:]))])
            self.ledger.check(shard, server)


def _play_again(server: ParameterServer, session: list[bytes]) -> None:
    connection = server.opened(lambda _: None, "somebody")
    for data in session:
        connection.received(data)
    connection.closed()


def first_difference(one: Store, other: Store) -> str | None:
    """Return the name of a table whose rows or state differ in any bit, None where none does."""
    ours, theirs = one.export(), other.export()
    if ours.keys() != theirs.keys():
        return ", ".join(ours.keys() ^ theirs.keys())
    for name, (_, keys, rows) in ours.items():
        if not (np.array_equal(keys, theirs[name][1]) and np.array_equal(rows, theirs[name][2])):
            return name
    return None


@contextmanager
def machine() -> Iterator[Path]:
    """Let servers see a machine of their own, on which nothing takes time; yield a folder for runs."""
    in_memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fedps-", dir=in_memory if in_memory.is_dir() else None))
    gc.freeze()  # what is there already outlives all histories: it is not looked through for garbage again and again
    try:
        with (
            patch("fedps.server.memory.free_memory", lambda: MEMORY),
            patch("fedps.server.durable.LEAST", SUMMED_UP),
            patch("fedps.server.server.shared_part", shared_of),
            patch("fedps.coordinator.coordinator.shared_part", shared_of),
            patch("tests.greeting.shared_part", shared_of),
        ):
            yield folder
    finally:
        gc.unfreeze()
        shutil.rmtree(folder)


def live(seed: int, trace: Callable[[str], None] | None = None) -> History:
    """Let the history of a seed happen.

    Raises:
        WrongError: what must never happen has.
    """
    with machine() as folder:
        return happen(seed, folder, trace)


def happen(seed: int, runs: Path, trace: Callable[[str], None] | None = None) -> History:
    """Let the history of a seed happen on the machine that has this folder for runs; nothing is left there.

    Raises:
        WrongError: what must never happen has.
    """
    folder = runs / str(seed)
    folder.mkdir()
    try:
        history = History(seed, folder, trace)
        with closing(history):
            history.run()
    finally:
        shutil.rmtree(folder)
    return history
