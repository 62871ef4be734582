"""What goes wrong in a history."""

import errno
import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

from fedps.types import ClientId
from tests.simulation.clients import Client
from tests.simulation.disk import ForgetfulDisk
from tests.simulation.homes import Home, Lead
from tests.simulation.ledger import Ledger
from tests.simulation.network import Host, Line
from tests.simulation.plan import Plan
from tests.simulation.world import Act, World


class Faults:
    """Draws what goes wrong, and when.

    Args:
        world, plan, ledger: of the history.
        homes: of its servers.
        lead: the coordinator's home, None where there is none.
        clients: the newest process of each.
        goes_on: told of a client that will come again, or will not.
    """

    def __init__(
        self, world: World, plan: Plan, ledger: Ledger, homes: Sequence[Home], lead: Lead | None,
        clients: list[Client], goes_on: Callable[[Client], None],
    ) -> None:  # fmt: skip
        self._world, self._plan, self._ledger, self._homes = world, plan, ledger, homes
        self._lead, self._clients, self._goes_on = lead, clients, goes_on
        self._hosts = [home.host for home in homes] + ([lead.host] if lead else [])
        self._older: list[Client] = []  # whose processes may still run

    def draw(self) -> None:
        """Draw what is to go wrong."""
        chance, length = self._world.chance, self._plan.length
        for _ in range(chance.choice((0, 1, 1, 2, 3, 5))):
            self._world.after(chance.random() * length, self._one())
        if self._plan.exact and chance.random() < 0.2:
            self._world.after((0.3 + chance.random()) * length, self._go_back)
        if (
            self._plan.durable and chance.random() < 0.1
        ):  # one at most: while one follows, what another follows would stand still
            self._world.after(1 + chance.random() * length, partial(self._stand_by, chance.choice(self._homes)))

    def _one(self) -> Act:
        chance = self._world.chance
        client, host = chance.choice(self._clients), chance.choice(self._hosts)
        return chance.choice(
            (
                lambda: self._cut(client),
                lambda: self._cut(client),
                lambda: client.freeze(chance.choice((0.5, 8.0, 25.0))) if client.alive else None,
                lambda: host.freeze(chance.choice((0.5, 3.0))),
                lambda: self._kill_host(host),
                lambda: self._kill(client.number),
                lambda: self._replay(host),
                lambda: self._fail(chance.choice(self._homes).disk),
                lambda: host.jump(chance.choice((1.0, 30.0, 1e4))),
            )
        )

    def _cut(self, client: Client) -> None:
        if client.channels:
            self._world.say(f"a connection of {client.name} is cut")
            self._world.chance.choice(client.channels).cut(self._world.chance.choice((0.0, 0.0, 2.0, 40.0)))

    def _kill_host(self, host: Host) -> None:
        if host.service and (self._plan.durable or (self._lead is not None and host is self._lead.host)):
            host.kill()

    def _kill(self, number: int) -> None:
        client = self._clients[number]
        if not client.alive:
            return
        fate = self._world.chance.random()
        if fate < 0.2:
            client.dead = True
            client.kill()
            self._goes_on(client)
        elif fate < 0.4:  # another process takes its place while it is still there
            self._older.append(client)
            self._clients[number] = client.twin()
            self._clients[number].start()
        else:
            client.kill()
            if self._world.happens(0.1):
                client.moves()
            self._world.after(self._world.chance.choice((0.2, 3.0, 60.0)), partial(self._start, number))

    def _start(self, number: int) -> None:
        """Start the next process of a client, in whichever's place: none but the newest is ever started again."""
        self._clients[number].start()

    def _stand_by(self, home: Home) -> None:
        """Let a process stand by for one that will die."""
        self._world.after(self._world.chance.random() * 5, lambda: home.host.kill() if home.host.service else None)
        home.stand_by()

    def _go_back(self) -> None:
        """Let all processes die, and the run go on from the last moment of which all clients have a checkpoint."""
        kept = [set(client.checkpoints) for client in self._clients if client.began]
        common = set.intersection(*kept) if kept else set()
        if max((0, *chain.from_iterable(kept))) <= 1:
            common.add(0)
        if not common:
            return
        epoch, chance = max(common), self._world.chance
        cut = {ClientId(client.name): client.checkpoints.get(epoch, 0) for client in self._clients}
        for client in [*self._clients, *self._older]:
            client.go_back(epoch)
        for home in self._homes:
            home.go_back(cut)
        if self._lead is not None:
            self._lead.go_back(epoch)
        self._ledger.goes_back(cut, epoch)
        for client in self._clients:
            self._goes_on(client)
            self._world.after(chance.random() * chance.choice((1, 10)), partial(self._start, client.number))

    def _fail(self, disk: ForgetfulDisk) -> None:
        """Let a disk be full, or broken, for a while."""
        error = self._world.chance.choice((errno.ENOSPC, errno.EIO))
        self._world.say(f"a disk fails: {os.strerror(error)}")
        disk.error = OSError(error, os.strerror(error))
        seconds = self._world.chance.choice((0.5, 5.0, 40.0))
        self._world.outages += seconds
        self._world.after(seconds, partial(setattr, disk, "error", None))

    def _replay(self, host: Host) -> None:
        """Let somebody say again what was said on a connection."""
        if host.recorded:
            self._world.say(f"somebody plays to {host.name} what was said there")
            session = self._world.chance.choice(host.recorded)
            line = Line(host, lambda _: None, self._plan.delay)
            for data in list(session):
                line.say(data)
            self._world.after(self._world.chance.random() * 5, line.cut)
