"""Clients of a parameter server within one process: they send frames and keep the replies."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.server.server import ParameterServer
from fedps.types import NO_KEYS, Init, Rule, TableSpec
from fedps.wire.frame import Frame, Limits, decode, encode
from fedps.wire.messages import Done, Join, Message, Pull, Push, Refused, Seed, Welcome
from tests.greeting import hello

ROWS = TableSpec("rows", "sparse", (100, 4), Rule("add"), Init("constant", 1.0))
BIAS = TableSpec("bias", "dense", (3,), Rule("add"))
LIMITS = Limits()


class Stranger:
    """A connection on which nothing was said yet.

    Attributes:
        hung_up: whether the server ended it.
    """

    def __init__(self, server: ParameterServer) -> None:
        self.server, self.hung_up, self._ticket = server, False, 0
        self.replies: list[Frame] = []
        self.connection = server.opened(self._take, "test")

    def _take(self, data: bytes | None) -> None:
        if data is None:
            self.hung_up = True
        else:
            self.replies.append(decode(data, LIMITS))

    def send(self, message: Message, *arrays: object) -> int:
        """Say something; return its ticket."""
        self._ticket += 1
        self.connection.received(encode(self._ticket, message, [np.asarray(a) for a in arrays]))
        return self._ticket

    def answers(self, ticket: int) -> list[Message]:
        """Return what has answered a ticket, or nothing that could be read."""
        return [r.message for r in self.replies if r.ticket in (ticket, 0)]

    def ask(self, message: Message, *arrays: object) -> Message:
        """Say something and return its answer, which must be there."""
        found = self.answers(self.send(message, *arrays))
        assert found, f"no reply yet to {message}"
        return found[0]


class Caller(Stranger):
    """A client that has said Hello."""

    def __init__(self, server: ParameterServer, client: str, instance: str = "p") -> None:
        super().__init__(server)
        assert isinstance(self.ask(hello(server.job, client, instance)), Welcome)

    def join(self, *tables: TableSpec, clock: int = 0) -> "Caller":
        """Take part, and offer a start for the dense table."""
        assert isinstance(self.ask(Join(tables or (ROWS, BIAS), clock)), Done)
        assert isinstance(self.ask(Seed("bias"), np.zeros((1, 3), np.float32)), Done)
        return self

    def rows(self, *keys: int) -> list[list[float]]:
        """Return rows as they are now."""
        ticket = self.send(Pull(("rows",)), np.array(keys, np.int64))
        return next(r.arrays[0].tolist() for r in self.replies if r.ticket == ticket)


class Hostile:
    """Says whatever it is given; when it is hung up on, it comes back and begins anew.

    Args:
        server: whom to talk to.
        opening: the frames that begin each connection.

    Attributes:
        answers: how many came.
    """

    def __init__(self, server: ParameterServer, opening: Sequence[bytes]) -> None:
        self.answers = 0
        self._server, self._opening = server, opening
        self._open()

    def say(self, data: bytes) -> None:
        """Send a frame."""
        if self._hung_up:
            self._open()
        self.connection.received(data)

    def _open(self) -> None:
        self._hung_up = False
        self.connection = self._server.opened(self._take, "fuzz")
        for data in self._opening:
            self.connection.received(data)

    def _take(self, data: bytes | None) -> None:
        self._hung_up = data is None
        self.answers += data is not None


def push(
    sequence: int, keys: object, values: object, clock: int = 0, rate: float = 1.0
) -> tuple[Push, object, object, object, object]:
    bias = np.zeros((1, 3), np.float32)
    return Push(("rows", "bias"), sequence, clock, rate=rate), np.asarray(keys, np.int64), values, NO_KEYS, bias


def ones(n: int, value: float = 1.0) -> NDArray[np.float32]:
    return np.full((n, 4), value, np.float32)


def state(server: ParameterServer, rows: int = 100) -> tuple[bytes, bytes]:
    """Return the tables' bytes: all rows, whether made yet or not, and the dense tensor."""
    everything: NDArray[Any] = np.arange(rows)
    return server.shard.store.pull("rows", everything).tobytes(), server.shard.store.pull("bias", NO_KEYS).tobytes()


def two(server: ParameterServer) -> tuple[Caller, Caller]:
    """Let clients a and b join."""
    return Caller(server, "a").join(), Caller(server, "b").join()


def step(server: ParameterServer, *callers: Caller, number: int) -> None:
    """Let callers push a step, from 1 on, which is then applied."""
    for caller in callers:
        assert isinstance(caller.ask(*push(number, [3], ones(1), clock=number - 1)), Done)
    assert server.clock == number


def is_refused(answer: object, kind: str) -> bool:
    """Whether an answer is a refusal of a kind."""
    return isinstance(answer, Refused) and answer.kind == kind
