"""What outlives the processes of a server, or of the coordinator: one after the other serves, and one may stand by."""

import io
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from fedps.coordinator.coordinator import Coordinator
from fedps.errors import DataError, LostError
from fedps.server.barriers import Opening
from fedps.server.beside import Done, Work, at_once
from fedps.server.server import ParameterServer
from fedps.storage.log import Log
from fedps.types import ClientId
from tests.simulation.clients import LIMITS
from tests.simulation.disk import FaultyDisk, ForgetfulDisk, Stopped
from tests.simulation.ledger import Ledger
from tests.simulation.network import Host
from tests.simulation.plan import Plan
from tests.simulation.world import Act, World

LOOKS = 0.5  # seconds after which a server that stands by looks again


class Lead:
    """What outlives the processes of the coordinator.

    Args:
        world, plan, ledger: of the history.
        folder: of the run.

    Attributes:
        host: the process that serves.
    """

    def __init__(self, world: World, plan: Plan, ledger: Ledger, folder: Path) -> None:
        self.host = Host(world, "coordinator", self._start)
        self._plan, self._ledger, self._folder = plan, ledger, folder
        self._resume_at: int | None = None  # the round to which the next process is to go back
        self._process: Coordinator | None = None

    def go_back(self, round_: int) -> None:
        """Let the process die, and the next go back to a round."""
        self._resume_at = round_
        if self.host.service is not None:
            self.host.kill()

    def close(self) -> None:
        """Give back what the process holds, as its end does."""
        if self._process is not None:
            self._process._memory.close()

    def _start(self, host: Host) -> Coordinator:
        self.close()
        self._process = Coordinator(
            self._plan.job, self._ledger.coordinator_tells, io.StringIO(), run_dir=self._folder, monotonic=host.monotonic,
            resume_at=self._resume_at,
        )  # fmt: skip
        self._resume_at = None
        return self._process


class Home:
    """What outlives the processes of one server.

    Args:
        world, plan, ledger: of the history.
        shard: the server's number.
        folder: of the run.
        over: whether the history is.

    Attributes:
        disk: where it keeps its log.
        host: the process that serves.
    """

    def __init__(
        self, world: World, plan: Plan, ledger: Ledger, shard: int, folder: Path, over: Callable[[], bool]
    ) -> None:
        self.disk, self.host = ForgetfulDisk(), Host(world, f"server {shard}", self._start)
        self._world, self._plan, self._ledger, self._over = world, plan, ledger, over
        self._shard, self._folder = shard, folder
        self._cut: Mapping[ClientId, int] | None = None  # to which the next process is to go back
        self._blackouts = 0  # how often all processes here have died
        self._saves: list[Iterable[tuple[int, Iterator[Work]]]] = []  # under way, of all processes

    def made(self, log: Log | None, cut: Mapping[ClientId, int] | None = None) -> ParameterServer:
        """Return a process that takes up a log."""
        server = ParameterServer(
            self._plan.job, self._shard, self._folder, lambda event: self._ledger.hears(self._shard, event), LIMITS, log,
            cut, monotonic=self.host.monotonic,
        )  # fmt: skip
        if self._plan.summed_up:  # though its tables are larger than its log
            due = server.durable.due
            setattr(server.durable, "due", lambda size: due(lambda: 0))  # noqa: B010  (a method)
        self._saves.append(server.shard.saves.waiting)
        return server

    def go_back(self, cut: Mapping[ClientId, int]) -> None:
        """Let all processes die, and the next go back to where only pushes up to a cut count."""
        self._blackouts, self._cut = self._blackouts + 1, cut
        if self.host.service is not None:
            self.host.kill()

    def stand_by(self) -> None:
        """Let another process follow the log, and take the place of the one that serves once it dies; meanwhile the world goes on."""
        host, blackouts, gone = self.host, self._blackouts, False
        if not self._plan.durable or host.service is None:
            return

        def ours() -> bool:
            nonlocal gone
            if not gone:
                passed = list[bool]()
                self._world.after(LOOKS, lambda: passed.append(True))
                goes_on = self._world.run(lambda: bool(passed) or self._over())
                if not goes_on or self._over() or self._blackouts != blackouts:
                    raise Stopped
                gone = host.service is None
            return gone

        self._world.say(f"another process follows {host.name}")
        try:
            server = self.made(self._log(ours))
        except (Stopped, DataError, LostError) as end:
            self._world.say(f"the one that follows {host.name} ends: {end}")
        else:
            host.take_over(server)
            self._put_up(server)

    def close(self) -> None:
        """Give back what processes hold that have died, or would go on."""
        for _, works in chain.from_iterable(self._saves):
            if isinstance(works, Generator):
                works.close()

    def _start(self, _: Host) -> ParameterServer:
        log, chance = None, self._world.chance
        if self._plan.durable:
            if chance.random() < 0.5:
                self._blackouts += 1
                self.disk.crash(chance)
            log = self._log()
        server = self.made(log, self._cut)
        self._cut = None
        self._put_up(server)
        return server

    def _log(self, ours: Callable[[], bool] = lambda: True) -> Log:
        """Return the log that is on the disk; at one of its calls the process may die."""
        chance = self._world.chance
        fatal = chance.randrange(60) if chance.random() < 0.2 else -1

        def fault(call: int, name: str) -> Stopped | None:
            return Stopped() if call == fatal and not self._over() else None

        return Log(FaultyDisk(self.disk, fault, half=chance.random() < 0.5), ours)

    def _put_up(self, server: ParameterServer) -> None:
        """Let a process that is ready be watched, and work beside its loop take its time."""
        host, life, decides = self.host, self.host.lives, server.barriers.opening
        self._ledger.begins_anew(self._shard, life, server.clock)

        def opening() -> Opening | None:
            if (decided := decides()) is not None:
                self._ledger.opens(self._shard, decided.clients)
            return decided

        def later(act: Act) -> None:
            """Do something while this process lives, some time soon."""
            chance = self._world.chance
            seconds = chance.random() * (self._plan.saving if chance.random() < 0.1 else self._plan.delay)
            self._world.after(seconds, lambda: host.do(act) if host.service and host.lives == life else None, host)

        def beside(work: Work, done: Done) -> None:
            """Do work as another thread does, in one moment of its own; it is told of in another."""
            later(lambda: at_once(work, lambda error: later(lambda: done(error))))

        setattr(server.barriers, "opening", opening)  # noqa: B010  (a method)
        server.shard.beside = beside
