"""Clients of a simulated run: what `client.life` and `client.modes` say to servers and coordinator, without any training.

A client trains nothing: it knows what it would have learned, and pushes that. It checks what it pulls against the
`ledger`, and says its requests to that, so that in the end nothing is missing and nothing is there twice.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from fedps.client.checkpoint import KEPT
from fedps.errors import FedpsError, RefusedError
from fedps.server.members import EVALUATED, TRAINED
from fedps.types import NO_KEYS, ClientInfo
from fedps.wire.frame import Limits
from fedps.wire.messages import (
    Alive,
    Assignment,
    Barrier,
    Done,
    Join,
    Leave,
    Pull,
    Push,
    Request,
    RoundReport,
    Seed,
    Values,
    Welcome,
)
from tests.greeting import hello
from tests.simulation.ledger import Ledger
from tests.simulation.network import Channel, Host, Reply
from tests.simulation.plan import BIAS, BIASES, Plan
from tests.simulation.pushed import Pushed
from tests.simulation.world import Process, World

LIMITS = Limits()
NO_COUNTS = (NO_KEYS,) * 4  # of a report that measured nothing
Course = Generator[Sequence[Reply] | float, None, None]  # yields what to wait for: replies, or seconds


class Pulled(NamedTuple):
    """A pull under way: its replies by shard, and what it must show at least."""

    replies: list[Reply]
    least: list[Any]


class Client(Process):
    """One client: its process, which may freeze, die and be started again, and what outlives that.

    Args:
        world, plan, ledger: of the history.
        number: counted from 0.
        servers: whom it trains with.
        coordinator: who tells it when, None where nobody does.
        over: called when it has ended, or gives up.

    Attributes:
        alive: whether its process runs.
        ended: whether it has done all it had to.
        dead: whether it will not be started again.
        error: why its process gave up, None if it did not.
        checkpoints: the epochs behind which it has kept all it needs, each with the number of its last push by then.
    """

    def __init__(
        self, world: World, plan: Plan, ledger: Ledger, number: int, servers: Sequence[Host], coordinator: Host | None,
        over: Callable[["Client"], None],
    ) -> None:  # fmt: skip
        super().__init__(world, f"client-{number}")
        self.plan, self.ledger, self.number = plan, ledger, number
        self.alive = self.ended = self.dead = False
        self.error: FedpsError | None = None
        self._servers, self._coordinator, self._over = servers, coordinator, over
        self._lives = 0
        self._claims = [0]  # numbers that its processes took, in the folder that they share
        self._number = 0
        self._saved = 0  # the last epoch that it has saved what is private after
        self.checkpoints: dict[int, int] = {}
        self.channels: list[Channel] = []

    @property
    def process(self) -> str:
        """The name of its process."""
        return f"{self.name}/{self._lives}"

    def twin(self) -> "Client":
        """Return another that takes its place, though this one goes on."""
        other = Client(
            self.world, self.plan, self.ledger, self.number, self._servers, self._coordinator, self._over
        )  # fmt: skip
        other._lives, other._saved, other._claims = self._lives, self._saved, self._claims
        other.checkpoints = self.checkpoints
        return other

    @property
    def began(self) -> bool:
        """Whether a process of it ever did."""
        return self._lives > 0

    def go_back(self, epoch: int) -> None:
        """Let the next process go on behind an epoch, whatever was done since."""
        self.kill()
        self.ended = self.dead = False
        self._saved = epoch
        self.checkpoints = {done: sequence for done, sequence in self.checkpoints.items() if done <= epoch}

    # A process: it starts, freezes, dies.

    def start(self) -> None:
        """Start a process, which ends any that there is."""
        self.kill()
        self._lives += 1
        self.alive, self.error = True, None
        self.thaw()
        self.world.say(f"{self.process} starts")
        self.ledger.begins(self.process)
        self.channels = []
        self._claim()
        self._clock, self._sequence, self._joined = 0, 0, False
        self._unconfirmed: list[tuple[Pushed, Reply]] = []
        self._course = self._live()
        self._go_on(self._lives)

    def kill(self) -> None:
        """End the process at once."""
        if self.alive:
            self.world.say(f"{self.process} dies")
            self._end()

    def _end(self) -> None:
        self.alive = False
        self.ledger.gone(self.process)
        for channel in self.channels:
            channel.close()

    def _go_on(self, life: int) -> None:
        """Go on until there is something to wait for."""
        while self.alive and life == self._lives:
            try:
                awaited = next(self._course)
            except StopIteration:
                self.world.say(f"{self.process} has ended")
                self.ended = True
                self._end()
                self._over(self)
                return
            except FedpsError as error:
                self.world.say(f"{self.process} gives up: {error}")
                self.error = error
                self._end()
                self._over(self)
                return
            if isinstance(awaited, float):
                self.world.after(awaited, partial(self._go_on, life), self)
                return
            if not _settled(awaited):
                self._wait_for(awaited, life)
                return

    def _wait_for(self, replies: Sequence[Reply], life: int) -> None:
        def look() -> None:
            if _settled(replies):
                for reply in replies:
                    reply.then = None
                self._go_on(life)

        for reply in replies:
            reply.then = None if reply.there else look

    def moves(self) -> None:
        """Let the next process find another folder than those before, as on another machine."""
        self._claims = [0]

    def _claim(self, known: int = 0) -> None:
        self._number = max([known, *self._claims]) + 1
        self._claims.append(self._number)

    # A life, as `client.life.FLClient` lives it.

    def _greet(self) -> Course:
        """Connect to all, as `client.greeting` does."""
        plan = self.plan
        while True:
            said = hello(plan.job, self.name, self.process, number=self._number)
            self.channels = [Channel(self, host, said, LIMITS, plan.delay, plan.patience) for host in self._servers]
            if self._coordinator is not None:
                said = replace(said, to="coordinator")
                self.channels.append(Channel(self, self._coordinator, said, LIMITS, plan.delay, plan.patience))
            try:
                yield from self._answers([channel.welcome for channel in self.channels])
                return
            except RefusedError as error:
                if not error.newest or max(self._claims) > self._number:
                    raise
                self._claim(error.newest)
                for channel in self.channels:
                    channel.close()

    def _live(self) -> Course:
        yield from self._greet()
        round_ = self._saved
        while True:
            if self._coordinator is not None:
                due = yield from self._report(self.channels[-1], round_)
                if due is None:
                    break
                round_, trains = due
            else:
                round_, trains = round_ + 1, True
                if round_ > self.plan.epochs:
                    break
            yield from self._join()
            if trains:
                for _ in range(self.plan.windows_of(self.number, round_)):
                    yield from self._window()
                yield from self._confirm()
            yield from self._meet(round_)
        yield from self._join()
        self.ledger.gone(self.process)
        yield from self._all(Leave())

    def _report(
        self, channel: Channel, round_: int
    ) -> Generator[Sequence[Reply] | float, None, tuple[int, bool] | None]:
        reply = channel.request(RoundReport(round_, ClientInfo(samples=10 + self.number)), NO_COUNTS)
        [said] = yield from self._answers([reply])
        assert isinstance(said, Assignment)
        self.ledger.assigned(self.process, said)
        return None if said.state == "FINISH" else (said.round, said.state == "JOIN")

    def _join(self) -> Course:
        if self._joined:
            return
        servers = self.channels[: len(self._servers)]
        welcomes = yield from self._answers([channel.welcome for channel in servers])
        clock = max(w.clock for w in welcomes if isinstance(w, Welcome))
        replies = [channel.request(Join(self.plan.tables(shard), clock)) for shard, channel in enumerate(servers)]
        since = self.world.now
        joined: list[Done] = yield from self._answers(replies)
        self._clock = max([clock, *(done.clock for done in joined)])
        self._sequence = max([self._sequence, *(done.sequence for done in joined)])
        self._joined = True
        self.ledger.joined(self.process, since)
        half = BIASES // 2
        start = np.full((1, BIASES), self.plan.start, np.float32)
        seeds = [(0, start)] if self.world.happens(0.5) else [(0, start[:, :half]), (half, start[:, half:])]
        yield from self._answers([servers[0].request(Seed("bias", first), [part]) for first, part in seeds])

    def _window(self) -> Course:
        """Pull, train, push: see `client.modes`."""
        pulled = self._pull(self._clock - 1 if self.plan.gated else -1)
        yield from self._confirm()
        versions = yield from self._see(pulled)
        yield self.plan.pause(self.world, self.number)
        if self.world.happens(0.1):
            yield from self._all(Alive())
        self._push(versions)

    def _pull(self, after: int) -> Pulled:
        replies, least = [], []
        for shard, channel in enumerate(self._up):
            tables, keys = ["rows"], [self.plan.row_keys(shard)]
            if shard == BIAS:
                tables, keys = [*tables, "bias"], [*keys, NO_KEYS]
            if self.plan.adam:
                tables, keys = [*tables, "steps"], [*keys, self.plan.row_keys(shard)]
            replies.append(channel.request(Pull(tuple(tables), after), keys))
            least.append(self.ledger.least(shard))
        return Pulled(replies, least)

    def _see(self, pulled: Pulled, after: int = -1) -> Generator[Sequence[Reply] | float, None, list[int]]:
        """Check what came, and return which version each shard showed."""
        yield from self._answers(pulled.replies)
        versions = []
        for shard, (reply, least) in enumerate(zip(pulled.replies, pulled.least, strict=True)):
            frame = reply.frame
            assert frame is not None and isinstance(frame.message, Values)
            versions.append(frame.message.clock)
            self.ledger.saw(self.process, reply.life, shard, frame.message, frame.arrays, least)
        return versions

    def _push(self, versions: Sequence[int]) -> None:
        self._sequence += 1
        weight = float(self.plan.weight(self.world))
        for shard, channel in enumerate(self._up):
            clock = versions[shard] if self.plan.merge == "buffered" else self._clock
            pushed = self.ledger.draws(self.name, self.number, shard, self._sequence, clock, weight)
            parts = list(self._cut(pushed))
            for part, pieces in enumerate(parts):
                names = tuple(name for name, _, _ in pieces)
                push = Push(names, self._sequence, clock, weight, part, len(parts))
                reply = channel.request(push, [array for _, *arrays in pieces for array in arrays])
            self._unconfirmed.append((pushed, reply))
        self._clock += 1

    def _cut(self, pushed: Pushed) -> Iterator[list[tuple[str, Any, Any]]]:
        """Yield what each part of a push brings: tables with keys and values; the last part brings some of each large table."""
        parts = min(self.world.chance.choice((1, 1, 1, 2, 3)), max(1, len(pushed.keys)))
        ends = [len(pushed.keys) * k // parts for k in range(parts + 1)]
        floats = [BIASES * k // parts for k in range(parts + 1)]
        for part, (first, end) in enumerate(pairwise(ends)):
            pieces: list[tuple[str, Any, Any]] = [("rows", pushed.keys[first:end], pushed.values[first:end])]
            if self.plan.adam:
                pieces.append(("steps", pushed.keys[first:end], pushed.values[first:end]))
            if part == 0:
                pieces.append(("marks", np.array([pushed.mark]), pushed.mark_value))
            if pushed.bias is not None:
                at = NO_KEYS if parts == 1 else np.array(floats[part : part + 2])
                pieces.append(("bias", at, pushed.bias[:, floats[part] : floats[part + 1]]))
            yield pieces

    def _confirm(self) -> Course:
        """Wait until what was pushed is answered."""
        pushed, self._unconfirmed = self._unconfirmed, []
        answers = yield from self._answers([reply for _, reply in pushed])
        for (push, _), done in zip(pushed, answers, strict=True):
            assert isinstance(done, Done)
            self._clock = max(self._clock, done.clock)
            self.ledger.answered(push, done.late)
        if new := [push.sent_at for push, _ in pushed if not push.again]:  # one that comes again is no sign of work
            self.ledger.acts(self.process, min(new))

    def _meet(self, round_: int) -> Course:
        """Meet the others, see one and the same model, save what is private, and go on together."""
        yield from self._stand(round_, TRAINED)
        yield from self._see(self._pull(-1))
        yield self.plan.pause(self.world, self.number)
        self._saved = max(self._saved, round_)
        self.checkpoints[round_] = self._sequence
        self.checkpoints = dict(sorted(self.checkpoints.items())[-KEPT:])
        self._clock = yield from self._stand(round_, EVALUATED)

    def _stand(self, round_: int, stage: str) -> Generator[Sequence[Reply] | float, None, int]:
        since, replies = self.world.now, [channel.request(Barrier(round_, stage)) for channel in self._up]
        self.ledger.stands(self.process, replies)
        opened = yield from self._answers(replies)
        self.ledger.acts(self.process, since)
        return max(done.clock for done in opened if isinstance(done, Done))

    @property
    def _up(self) -> Sequence[Channel]:
        return self.channels[: len(self._servers)]

    def _all(self, message: Request) -> Generator[Sequence[Reply] | float, None, list[Any]]:
        return (yield from self._answers([channel.request(message) for channel in self._up]))

    def _answers(self, replies: Sequence[Reply]) -> Generator[Sequence[Reply] | float, None, list[Any]]:
        """Wait for all replies, and return what they say."""
        if replies:
            yield replies
        for reply in replies:
            if reply.error is not None:
                raise reply.error
        return [reply.frame.message for reply in replies if reply.frame is not None]


def _settled(replies: Sequence[Reply]) -> bool:
    """Whether all replies are there, or one that says that something is wrong."""
    there = True
    for reply in replies:
        if reply.error is not None:
            return True
        there = there and reply.frame is not None
    return there
