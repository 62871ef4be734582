"""A small service for tests of `net`: every row reads as its key plus all that was pushed to it.

Run as a script it serves one port until it is killed: `python echo.py HOST:PORT`.
"""

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedps.errors import LimitError, RefusedError, WireError
from fedps.net.listener import serve
from fedps.net.tls import Certificates
from fedps.types import Identity, TableSpec
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import (
    Barrier,
    Done,
    Hello,
    Join,
    Message,
    Pull,
    Push,
    Refused,
    Seed,
    Values,
    Welcome,
)
from fedps.wire.session import Peer

Send = Callable[[bytes | None], None]
HELLO = Hello("job", "7", "process", 1)
LIMITS = Limits()


class Counts:
    """Keeps what is refused, as `(who, kind, reason)`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def add(self, who: str, kind: str, reason: str, times: int = 1) -> None:
        """Count them."""
        self.told += [(who, kind, reason)] * times


class EchoServer:
    """One shard.

    Attributes:
        heard: every message, in order.
        connections: how many were opened; `open`: how many are.
        ticks: how often deadlines were looked at.
    """

    def __init__(self, shard: int = 0, shards: int = 1, clock: int = 0, limits: Limits = LIMITS) -> None:
        self.shard, self.shards, self.clock, self.limits = shard, shards, clock, limits
        self.heard: list[Message] = []
        self.connections = self.open = self.ticks = 0
        self.refusals = Counts()
        self.specs: dict[str, TableSpec] = {}
        self.pushed: dict[tuple[str, int], NDArray[np.float32]] = {}
        self.waiting: list[tuple[int, Callable[[], None]]] = []  # pulls, by the clock they wait for

    def opened(self, send: Send, peer: str, identity: Identity | None = None) -> "EchoConnection":
        """Begin a connection."""
        self.connections += 1
        self.open += 1
        return EchoConnection(self, send)

    def tick(self, now: float) -> None:
        """Count."""
        self.ticks += 1

    def rows(self, table: str, keys: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32[U, dim]; a dense table has one row, of key 0."""
        spec = self.specs[table]
        keys = keys if spec.kind == "sparse" else np.zeros(1, np.int64)
        out = np.repeat(keys.astype(np.float32)[:, None], spec.dim, axis=1)
        for at, key in enumerate(keys.tolist() if self.pushed else ()):
            out[at] += self.pushed.get((table, key), np.float32(0))
        return out

    def add(self, table: str, keys: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Add values to rows."""
        places = keys.tolist() if self.specs[table].kind == "sparse" else [0]
        for key, value in zip(places, values, strict=True):
            self.pushed[table, key] = self.pushed.get((table, key), np.float32(0)) + value

    def move_on(self) -> None:
        """Open the next window, and answer those who waited for it."""
        self.clock += 1
        self.answer_waiting()

    def answer_waiting(self) -> None:
        """Answer the pulls whose window is closed."""
        ready = [answer for clock, answer in self.waiting if clock < self.clock]
        self.waiting = [w for w in self.waiting if w[0] >= self.clock]
        for answer in ready:
            answer()


class EchoConnection:
    """One connection; parts of a push are forgotten with it, as a real server does."""

    def __init__(self, server: EchoServer, send: Send) -> None:
        self._server, self._send, self._peer = server, send, Peer(server.limits)
        self._parts: list[tuple[Push, Sequence[NDArray[Any]]]] = []

    def received(self, data: bytes) -> None:
        """Answer one message."""
        try:
            frame = self._peer.receive(data)
            self._server.heard.append(frame.message)
            self._handle(frame)
        except RefusedError as error:
            self._reply(self._peer.ticket, Refused(error.kind, error.reason))
        except WireError as error:
            kind = "too_large" if isinstance(error, LimitError) else "malformed"
            self._reply(self._peer.ticket, Refused(kind, str(error)))

    def dismiss(self, reason: str) -> None:
        """Tell the peer, and hang up."""
        self._reply(0, Refused("identity", reason))
        self._send(None)

    def closed(self) -> None:
        """Count."""
        self._server.open -= 1

    def _handle(self, frame: Frame) -> None:
        server, ticket = self._server, frame.ticket
        match frame.message:
            case Hello(job="another"):
                raise RefusedError("other_job", "this server runs another job")
            case Hello():
                self._reply(ticket, Welcome(server.shard, server.shards, server.clock))
            case Join(tables):
                for spec in tables:
                    if server.specs.setdefault(spec.name, spec) != spec:
                        raise RefusedError("mismatch", f"table {spec.name!r} was declared otherwise")
                self._reply(ticket, Done(server.clock))
            case Seed(table):
                self._check(table)
                server.add(table, np.zeros(1, np.int64), frame.arrays[0])
                self._reply(ticket, Done(server.clock))
            case Pull(names, after):
                self._check(*names)
                server.waiting.append((after, lambda: self._pulled(ticket, names, frame.arrays)))
                server.answer_waiting()
            case Push(tables):
                self._check(*tables)
                self._reply(ticket, self._take(frame.message, frame.arrays))
            case Barrier(stage="broken"):
                raise ZeroDivisionError("a fault of the service")
            case Barrier(stage="junk"):
                self._send(b"junk")
            case Barrier(stage="never"):
                pass
            case _:
                self._reply(ticket, Done(server.clock))

    def _check(self, *tables: str) -> None:
        for table in tables:
            if table not in self._server.specs:
                raise RefusedError("unknown_table", f"no table {table!r} here")

    def _pulled(self, ticket: int, tables: tuple[str, ...], arrays: Sequence[NDArray[Any]]) -> None:
        rows = [self._server.rows(t, k) for t, k in zip(tables, arrays, strict=True)]
        self._reply(ticket, Values(tables), rows)

    def _take(self, push: Push, arrays: Sequence[NDArray[Any]]) -> Done:
        if push.part != len(self._parts):
            raise RefusedError("malformed", f"part {push.part} where {len(self._parts)} is due")
        for table, keys, values in zip(push.tables, arrays[::2], arrays[1::2], strict=True):
            if len(keys) != len(values) and self._server.specs[table].kind == "sparse":
                raise RefusedError("bad_keys", f"{len(keys)} keys and {len(values)} rows")
        self._parts.append((push, arrays))
        if push.part + 1 == push.parts:
            parts, self._parts = self._parts, []
            for part, pairs in parts:
                for table, keys, values in zip(part.tables, pairs[::2], pairs[1::2], strict=True):
                    self._server.add(table, keys, values)
            self._server.move_on()
        return Done(self._server.clock, late=push.weight == 0.25)

    def _reply(self, ticket: int, message: Message, arrays: Sequence[NDArray[Any]] = ()) -> None:
        self._send(self._peer.reply(ticket, message, arrays))


@contextmanager
def served(
    service: Any, bind: str = "127.0.0.1:0", limits: Limits = LIMITS, certificates: Certificates | None = None
) -> Iterator[str]:
    """Serve on a real socket from another thread; yield the address."""
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    address: list[str] = []

    def note(text: str) -> None:
        address.append(text)
        ready.set()

    thread = threading.Thread(
        target=lambda: loop.run_until_complete(serve(service, bind, limits, note, stop, certificates))
    )
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


if __name__ == "__main__":
    print("starting", flush=True)
    asyncio.run(
        serve(EchoServer(), sys.argv[1], LIMITS, lambda _: print("ready", flush=True), asyncio.Event()),
    )
