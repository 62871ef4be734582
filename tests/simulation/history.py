"""One seed, one history: a whole run on virtual time, with all that goes wrong in it, and what must be so all the same."""

import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from copy import deepcopy
from functools import partial
from itertools import chain
from pathlib import Path
from unittest.mock import patch

import numpy as np

from fedps.coordinator.coordinator import Coordinator
from fedps.errors import RefusedError
from fedps.net.listener import Service
from fedps.server.barriers import Opening
from fedps.server.beside import Done, Work, at_once
from fedps.server.server import ParameterServer
from fedps.storage.log import Log
from fedps.table.store import Store
from fedps.types import ClientId
from tests.simulation.clients import LIMITS, Client
from tests.simulation.disk import FaultyDisk, ForgetfulDisk, Stopped
from tests.simulation.ledger import Ledger
from tests.simulation.network import Host, Line
from tests.simulation.plan import Plan, shared_of
from tests.simulation.world import Act, World

REPLAYED = 6  # connections to a server of which all is said again in the end
LONGEST = 3000.0  # seconds within which every history ends
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
        self._folder = folder
        self.ledger = Ledger(world, plan)
        self.servers = [Host(world, f"server {k}", self._server(k)) for k in range(plan.servers)]
        self.coordinator = Host(world, "coordinator", self._coordinator) if plan.coordinated else None
        self.clients = [
            Client(world, plan, self.ledger, k, self.servers, self.coordinator, self._end) for k in range(plan.clients)
        ]
        self._disks = [ForgetfulDisk() for _ in self.servers]
        self._leads: Coordinator | None = None
        self._saves: list[Iterable[tuple[int, Iterator[Work]]]] = []  # under way, of all processes
        self._cuts: list[Mapping[ClientId, int] | None] = [
            None for _ in self.servers
        ]  # to which each server is to go back
        self._older: list[Client] = []  # whose processes may still run
        self._left = {client.name for client in self.clients}

    def run(self) -> None:
        """Let it happen, and check what came of it.

        Raises:
            WrongError: what must never happen has.
        """
        world = self.world
        for host in self._hosts:
            world.after(world.chance.random(), host.start)
        for client in self.clients:
            world.after(world.chance.random() * world.chance.choice((1, 1, 1, 10)), client.start)
        for _ in range(world.chance.choice((0, 1, 1, 2, 3, 5))):
            world.after(world.chance.random() * self.plan.length, self._fault())
        ends = world.run(lambda: self.ledger.fault is not None or not self._left, LONGEST)
        if self.ledger.fault is not None:
            raise self.ledger.fault
        if not ends:
            self.ledger.wrong(f"it does not end: {', '.join(sorted(self._left))} wait for ever")
        for shard, host in enumerate(self.servers):
            self._check(shard, host)

    @property
    def _hosts(self) -> list[Host]:
        return [*self.servers, *([self.coordinator] if self.coordinator else [])]

    def _end(self, client: Client) -> None:
        """Count a client that does no more: all but the newest process may be told that a newer one speaks."""
        error, older = client.error, client is not self.clients[client.number]
        if error is not None and not (older and isinstance(error, RefusedError) and error.kind == "superseded"):
            self.ledger.wrong(f"{client.name} gave up: {error}")
        if client.ended or client.dead:
            self._left.discard(client.name)

    # Who is started.

    def _server(self, shard: int) -> Callable[[Host], Service]:
        def start(host: Host) -> ParameterServer:
            server = self._made(shard, host, self._log(shard) if self.plan.durable else None, self._cuts[shard])
            self._cuts[shard] = None
            life, decides = host.lives, server.barriers.opening
            self.ledger.begins_anew(shard, host.lives, server.clock)

            def opening() -> Opening | None:
                if (decided := decides()) is not None:
                    self.ledger.opens(shard, decided.clients)
                return decided

            def later(act: Act) -> None:
                """Do something while this process lives, some time soon."""
                chance = self.world.chance
                seconds = chance.random() * (self.plan.saving if chance.random() < 0.1 else self.plan.delay)
                self.world.after(
                    seconds, host.when_awake(lambda: host.do(act) if host.service and host.lives == life else None)
                )

            def beside(work: Work, done: Done) -> None:
                """Do work as another thread does, in one moment of its own; it is told of in another."""
                later(lambda: at_once(work, lambda error: later(lambda: done(error))))

            setattr(server.barriers, "opening", opening)  # noqa: B010  (a method)
            server.shard.beside = beside
            return server

        return start

    def _made(
        self, shard: int, host: Host, log: Log | None, cut: Mapping[ClientId, int] | None = None
    ) -> ParameterServer:
        server = ParameterServer(
            self.plan.job, shard, self._folder, lambda event: self.ledger.hears(shard, event), LIMITS, log, cut,
            monotonic=host.monotonic,
        )  # fmt: skip
        if self.plan.summed_up:  # though its tables are larger than its log
            due = server.durable.due
            setattr(server.durable, "due", lambda size: due(lambda: 0))  # noqa: B010  (a method)
        self._saves.append(server.shard.saves.waiting)
        return server

    def close(self) -> None:
        """Give back what processes hold that have died, or would go on."""
        for _, works in chain.from_iterable(self._saves):
            if isinstance(works, Generator):
                works.close()
        if self._leads is not None:
            self._leads._memory.close()

    def _log(self, shard: int) -> Log:
        """Return the log on a server's disk, after what may have been a power cut; at one of its calls the process may die."""
        chance, disk = self.world.chance, self._disks[shard]
        if chance.random() < 0.5:
            disk.crash(chance)
        fatal = chance.randrange(60) if chance.random() < 0.2 else -1

        def fault(call: int, name: str) -> Stopped | None:
            return Stopped() if call == fatal and self._left else None

        return Log(FaultyDisk(disk, fault, half=chance.random() < 0.5))

    def _coordinator(self, host: Host) -> Coordinator:
        if self._leads is not None:
            self._leads._memory.close()  # as the end of its process does
        self._leads = Coordinator(
            self.plan.job, self.ledger.coordinator_tells, io.StringIO(), run_dir=self._folder,
            monotonic=host.monotonic,
        )  # fmt: skip
        return self._leads

    # What goes wrong.

    def _fault(self) -> Callable[[], None]:
        chance = self.world.chance
        client, host = chance.choice(self.clients), chance.choice(self._hosts)
        return chance.choice(
            (
                lambda: self._cut(client),
                lambda: self._cut(client),
                lambda: client.freeze(chance.choice((0.5, 8.0, 25.0))) if client.alive else None,
                lambda: host.freeze(chance.choice((0.5, 3.0))),
                lambda: host.kill() if host.service and (self.plan.durable or host is self.coordinator) else None,
                lambda: self._kill(client.number),
                lambda: self._replay(host),
                lambda: self._fail(chance.choice(self._disks)),
                self._go_back,
                lambda: host.jump(chance.choice((1.0, 30.0, 1e4))),
            )
        )

    def _cut(self, client: Client) -> None:
        if client.channels:
            self.world.say(f"a connection of {client.name} is cut")
            self.world.chance.choice(client.channels).cut(self.world.chance.choice((0.0, 0.0, 2.0, 40.0)))

    def _kill(self, number: int) -> None:
        client = self.clients[number]
        if not client.alive:
            return
        fate = self.world.chance.random()
        if fate < 0.2:
            client.dead = True
            client.kill()
            self._end(client)
        elif fate < 0.4:  # another process takes its place while it is still there
            self._older.append(client)
            self.clients[number] = client.twin()
            self.clients[number].start()
        else:
            client.kill()
            if self.world.happens(0.1):
                client.moves()
            self.world.after(self.world.chance.choice((0.2, 3.0, 60.0)), client.start)

    def _go_back(self) -> None:
        """Let all processes die, and the run go on from the last moment of which all clients have a checkpoint."""
        of = [set(client.checkpoints) for client in self.clients if client.began]
        common = set.intersection(*of) if of else set()
        if max((0, *chain.from_iterable(of))) <= 1:
            common.add(0)
        if not self.plan.exact or not common:
            return
        epoch, chance = max(common), self.world.chance
        cut = {ClientId(client.name): client.checkpoints.get(epoch, 0) for client in self.clients}
        for client in [*self.clients, *self._older]:
            client.go_back(epoch)
        for host in self.servers:
            if host.service is not None:
                host.kill()
        self.ledger.goes_back(cut)
        self._cuts = [cut for _ in self.servers]
        self._left = {client.name for client in self.clients}
        for client in self.clients:
            self.world.after(chance.random() * chance.choice((1, 10)), client.start)

    def _fail(self, disk: ForgetfulDisk) -> None:
        """Let a disk be full, or broken, for a while."""
        error = self.world.chance.choice((errno.ENOSPC, errno.EIO))
        self.world.say(f"a disk fails: {os.strerror(error)}")
        disk.error = OSError(error, os.strerror(error))
        self.world.after(self.world.chance.choice((0.5, 5.0)), partial(setattr, disk, "error", None))

    def _replay(self, host: Host) -> None:
        """Let somebody say again what was said on a connection."""
        if host.recorded:
            self.world.say(f"somebody plays to {host.name} what was said there")
            session = self.world.chance.choice(host.recorded)
            line = Line(host, lambda _: None, self.plan.delay)
            for data in list(session):
                line.say(data)
            self.world.after(self.world.chance.random() * 5, line.cut)

    # What must be so in the end.

    def _check(self, shard: int, host: Host) -> None:
        """Check a shard's tables, and what another process makes of its disk after a power cut."""
        self.world.run(lambda: host.service is not None, LONGEST)
        server, log = host.service, None
        assert isinstance(server, ParameterServer)
        position = -1  # behind all that has happened, where all of it is on disk
        if self.plan.durable:
            own = server.durable.log
            assert own is not None
            position = own.position if own.durable == own.position else -1
            disk = deepcopy(self._disks[shard])
            disk.error = None
            disk.crash(self.world.chance)
            log = Log(disk)
        self._check_tables(shard, server, host.recorded)
        if log is not None and self.world.happens(0.5):
            another = self._made(shard, host, log)
            self.ledger.begins_anew(shard, host.lives + 1, another.clock)
            whole = log.position == position
            self._check_tables(shard, another, host.recorded)
            if whole and (differs := first_difference(server.shard.store, another.shard.store)):
                self.ledger.wrong(f"shard {shard} recovers another table {differs}, though nothing was lost")

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
        shutil.rmtree(folder)


def live(seed: int, trace: Callable[[str], None] | None = None) -> History:
    """Let the history of a seed happen.

    Raises:
        WrongError: what must never happen has.
    """
    with machine() as folder:
        history = History(seed, folder, trace)
        with closing(history):
            history.run()
    return history
