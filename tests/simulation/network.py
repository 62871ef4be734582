"""A network that delays, cuts and forgets, between processes that freeze and die.

Within a connection messages arrive in the order in which they were sent. A cut loses the last of those under way, in each
direction as many as it likes, and each end learns of it in its own time. Messages of different connections overtake each
other. What a client does with a connection that breaks is what `net.channel` does, without its threads.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from fedps.errors import DataError, FedpsError, LostError, RefusedError, WireError
from fedps.net.channel import FIRST_PAUSE, LONGEST_PAUSE, NO_SPACE_PAUSE
from fedps.net.listener import Connection, Role
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import Hello, Refused, Request, Welcome
from fedps.wire.session import Caller
from tests.simulation.disk import Stopped
from tests.simulation.world import Act, Process, World

TICK = 1.0  # seconds between two looks of a service at its deadlines
SLOWEST_NEWS = 8.0  # seconds after which an end knows that its connection is cut


class Host(Process):
    """A process that serves: it can be killed at any moment, and is started again.

    Args:
        world: where it is.
        name: its name, for the trace.
        start: starts it; whoever answers then has what outlived the process before.

    Attributes:
        service: who answers, None while it is down.
        lives: how often it was started.
        ahead: seconds by which its clock, which is no other's, is ahead of the world's.
        lines: the connections to it that are open.
        recorded: what was said on each connection that ever was, for those that would say it again.
    """

    def __init__(self, world: World, name: str, start: Callable[["Host"], Role]) -> None:
        super().__init__(world, name)
        self._start = start
        self.service: Role | None = None
        self.lives, self.ahead = 0, 0.0
        self.lines: dict[Line, None] = {}
        self.recorded: list[list[bytes]] = []

    def monotonic(self) -> float:
        """Return the time by its clock."""
        return self.world.now + self.ahead

    def jump(self, seconds: float) -> None:
        """Let its clock jump."""
        self.world.say(f"the clock of {self.name} jumps by {seconds:g} s")
        self.ahead += seconds

    def start(self) -> None:
        """Start the process, unless another has taken its place; its machine may have started anew, too, and its clock with it."""
        if self.service is not None:
            return
        self.lives, self.ahead = self.lives + 1, self.world.chance.choice((self.ahead, 1e-3, 1e6))
        self.world.say(f"{self.name} starts")
        self.do(self._begin)

    def take_over(self, service: Role) -> None:
        """Let a process that stood by serve in the place of one that has died."""
        self.lives += 1
        self.world.say(f"another process takes the place of {self.name}")
        self.service = service
        self._tick(self.lives)

    def _begin(self) -> None:
        try:
            self.service = self._start(self)
        except DataError as error:  # its disk fails
            self.world.say(f"{self.name} cannot start: {error}")
            self.kill()
        else:
            self._tick(self.lives)

    def _tick(self, life: int) -> None:
        if (service := self.service) is not None and life == self.lives:
            self.world.after(TICK, partial(self._tick, life), self)
            self.do(service.tick, self.monotonic())
            if service.failure is not None and service is self.service:
                self.world.say(f"{self.name} cannot go on: {service.failure}")
                self.kill()

    def do(self, act: Callable[..., None], *arguments: Any) -> None:
        """Let the process do something, which may be its last."""
        try:
            act(*arguments)
        except Stopped:
            self.kill()

    def kill(self) -> None:
        """End the process: it forgets everything, and its connections break."""
        self.world.say(f"{self.name} is killed")
        self.service = None
        self.thaw()
        for line in list(self.lines):
            line.cut(server_gone=True)
        away = self.world.chance.choice((0.1, 2.0, 8.0))
        self.world.outages += away
        self.world.after(away, self.start)


class Line:
    """One connection to a host.

    Args:
        host: whom it leads to.
        hear: takes each answer, and None when the client learns that the connection is over. Not called any more after that.
        delay: seconds that a message takes, about.

    Attributes:
        life: which of the host's lives it leads to, 0 before it is open.
    """

    def __init__(self, host: Host, hear: Callable[[bytes | None], None], delay: float) -> None:
        self._world, self._host, self._hear, self._delay = host.world, host, hear, delay
        self._connection: Connection | None = None
        self._arrived = [0.0, 0.0]  # when the last message to the server arrives, and the last to the client
        self._lost_from = [float("inf"), float("inf")]  # what would arrive later does not
        self._over = False  # the client knows
        self._said: list[bytes] = []
        self.life = 0
        self._world.at(self._way(0), self._open, host)

    def say(self, data: bytes) -> None:
        """Send a message to the server."""
        at = self._way(0)
        self._world.at(at, partial(self._at_server, data, at), self._host)

    def cut(self, server_gone: bool = False, client_gone: bool = False) -> None:
        """Break the connection; an end that is gone itself learns nothing any more."""
        world = self._world
        for way in (0, 1):
            if self._lost_from[way] == float("inf"):
                self._lost_from[way] = world.now + world.chance.random() * 2 * self._delay
        if server_gone:
            self._connection = None
            self._host.lines.pop(self, None)
        else:
            world.at(self._lost_from[0] + self._news(), self._closed_at_server, self._host)
        if client_gone:
            self._over = True
        else:
            world.at(self._lost_from[1] + self._news(), self._closed_at_client)

    def _news(self) -> float:
        chance = self._world.chance.random()
        return chance * self._delay if chance < 0.8 else chance * SLOWEST_NEWS

    def _way(self, way: int) -> float:
        """Return when a message that is sent now arrives."""
        chance = self._world.chance
        delay = self._delay * (0.5 + chance.random())
        if chance.random() < 0.02:
            delay *= 20
        at, last = self._world.now + delay, self._arrived[way]
        if at < last:
            return last
        self._arrived[way] = at
        return at

    def _open(self) -> None:
        host = self._host
        if host.service is None or self._lost_from[0] < self._world.now:
            self._world.after(self._delay, self._closed_at_client)
            return
        host.lines[self], self.life = None, host.lives
        host.recorded.append(self._said)
        self._connection = host.service.opened(self._answer, f"line {len(host.recorded)}")

    def _at_server(self, data: bytes, arrived: float) -> None:
        if (connection := self._connection) is not None and arrived <= self._lost_from[0]:
            self._said.append(data)
            self._host.do(connection.received, data)

    def _answer(self, data: bytes | None) -> None:
        if data is None:
            self._host.lines.pop(self, None)
            self._connection = None
        at = self._way(1)
        self._world.at(at, partial(self._at_client, data, at))

    def _at_client(self, data: bytes | None, arrived: float) -> None:
        if data is None:
            self._closed_at_client()
        elif not self._over and arrived <= self._lost_from[1]:
            self._hear(data)

    def _closed_at_server(self) -> None:
        if (connection := self._connection) is not None:
            self._host.lines.pop(self, None)
            self._connection = None
            self._host.do(connection.closed)

    def _closed_at_client(self) -> None:
        if not self._over:
            self._over = True
            self._hear(None)


class Reply:
    """What a request will be answered, or why it never will be.

    Attributes:
        frame: the answer, None before it came.
        error: why none comes.
        life: which of the host's lives answered.
    """

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.error: FedpsError | None = None
        self.life = 0
        self.then: Act | None = None  # done once, when either is there

    @property
    def there(self) -> bool:
        """Whether it is known how the request ended."""
        return self.frame is not None or self.error is not None

    def resolve(self, frame: Frame | None, error: FedpsError | None = None) -> None:
        """Say how the request ended."""
        self.frame, self.error = frame, error
        if self.then is not None:
            then, self.then = self.then, None
            then()


class Channel:
    """A client's connection to one host, which comes back by itself: `net.channel.Channel` on virtual time.

    Args:
        process: the client's: while it is frozen, nothing reaches it.
        host: whom it calls.
        hello: said first on every connection.
        limits: what the server may send.
        delay: seconds that a message takes, about.
        patience: seconds without a connection after which all open requests fail, outages that there were not counted: these
            may follow on each other for longer than any client waits, and it is no fault of its servers that it gives up then.
    """

    def __init__(
        self, process: Process, host: Host, hello: Hello, limits: Limits, delay: float, patience: float
    ) -> None:  # fmt: skip
        self.welcome = Reply()
        self._process, self._host, self._hello, self._limits = process, host, hello, limits
        self._delay, self._patience = delay, patience
        self._caller, self._greeter = Caller(limits), Caller(limits)
        self._replies: dict[int, Reply] = {}
        self._failure: FedpsError | None = None
        self._line: Line | None = None
        self._blocked_until, self._retries = 0.0, False
        self._greeted, self._pause, self._since = False, FIRST_PAUSE, host.world.now
        self._connect()

    def request(self, message: Request, arrays: Sequence[NDArray[Any]] = ()) -> Reply:
        """Send a request."""
        reply = Reply()
        if self._failure is not None:
            reply.resolve(None, self._failure)
            return reply
        ticket, data = self._caller.request(message, arrays)
        self._replies[ticket] = reply
        if self._greeted and self._line is not None:  # else it goes out with all that is unanswered
            self._line.say(data)
        return reply

    def cut(self, seconds: float = 0.0) -> None:
        """Break the connection, and let none be made for so long."""
        self._host.world.outages += seconds
        self._blocked_until = self._host.world.now + seconds
        if self._line is not None:
            self._line.cut()

    def close(self) -> None:
        """Hang up, as the end of its process does."""
        self._failure = self._failure or LostError("the connection was closed")
        if self._line is not None:
            self._line.cut(client_gone=True)
            self._line = None

    def _connect(self) -> None:
        if self._failure is None:
            line = self._line = Line(self._host, lambda data: self._process.act(self._hear, line, data), self._delay)
            self._greeter = Caller(self._limits)
            line.say(self._greeter.request(self._hello)[1])
            if self._host.world.now < self._blocked_until:
                line.cut()

    def _hear(self, line: Line, data: bytes | None) -> None:
        if line is not self._line:
            return
        try:
            if data is None:
                self._broken()
            elif self._greeted:
                self._answer(data, line.life)
            else:
                self._greet(self._greeter.receive(data))
        except FedpsError as error:
            self._fail(error)

    def _broken(self) -> None:
        world, self._line = self._host.world, None
        if self._greeted:
            self._greeted, self._pause, self._since = False, FIRST_PAUSE, world.now
        if world.now - self._since > self._patience + world.outages:
            raise LostError(f"no server answers at {self._host.name} for {self._patience:g} s")
        world.after(self._pause * (0.5 + world.chance.random() / 2), self._connect, self._process)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _greet(self, frame: Frame | None) -> None:
        assert frame is not None and self._line is not None
        if isinstance(frame.message, Refused):
            raise RefusedError(frame.message.kind, frame.message.reason, frame.message.newest)
        if not isinstance(frame.message, Welcome):
            raise WireError("Hello was answered by another message than Welcome")
        for data in self._caller.unanswered():
            self._line.say(data)
        self._greeted = True
        if not self.welcome.there:
            self.welcome.resolve(frame)

    def _answer(self, data: bytes, life: int) -> None:
        frame = self._caller.receive(data)
        if self._caller.put_off and not self._retries:
            self._retries = True
            self._host.world.after(NO_SPACE_PAUSE, self._say_again, self._process)
        if frame is None:
            return
        reply, said = self._replies.pop(frame.ticket), frame.message
        reply.life = life
        if isinstance(said, Refused):
            reply.resolve(None, RefusedError(said.kind, said.reason))
        else:
            reply.resolve(frame)

    def _say_again(self) -> None:
        self._retries = False
        if self._greeted and self._line is not None:
            for data in self._caller.again():
                self._line.say(data)

    def _fail(self, error: FedpsError) -> None:
        self.close()
        self._failure = error
        replies, self._replies = [*self._replies.values(), self.welcome], {}
        for reply in replies:
            if not reply.there:
                reply.resolve(None, error)
