"""The server's door: one bidirectional gRPC stream a connection, raw bytes, no generated code.

An asyncio server holds a thousand idle streams at little cost, where a thread pool would pin a thread to each. Whoever
answers is a `Service`: it is handed connections and bytes, all from one thread, and knows nothing of gRPC.
"""

import asyncio
import gc
import logging
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio

from fedps.errors import IdentityError, JobError
from fedps.net.handshakes import Handshakes
from fedps.types import Identity
from fedps.wire.frame import Limits

if TYPE_CHECKING:
    from fedps.net.tls import Certificates

METHOD = "/fedps.Shard/Talk"
TICK = 0.05  # seconds between two looks at deadlines
BACKLOG_REPLIES, BACKLOG_BYTES = 1024, 32 << 20  # replies that may wait for a slow reader before we stop reading
LOOK_EVERY = 1.0  # seconds between two looks whether peers' certificates still count
GRACE = 0.2  # seconds that open streams get when the server stops
# A silent connection carries a ping so often: firewalls forget one that is silent for some minutes, the quickest for 30 s.
KEEPALIVE = 20.0  # seconds
# What may pass until a ping is answered: on a slow line it waits for what is under way, some MiB in the system's buffers.
PATIENCE = 60.0  # seconds
IDLE = [  # milliseconds: sockets that never speak HTTP/2, or hold no stream, do not stay
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 60_000),
]
# Bytes of a TLS record that is sent. Each connection keeps one: of a thousand that are silent, 12 MB less than by default.
RECORD = ("grpc.tsi.max_frame_size", 4096)


class Connection(Protocol):
    """One peer's connection, seen from the answering side."""

    def received(self, data: bytes) -> None:
        """Take one message; whatever is wrong with it is answered, never raised."""

    def dismiss(self, reason: str) -> None:
        """Tell the peer that its certificate does not count, and hang up."""

    def closed(self) -> None:
        """The peer is gone; nothing can be sent any more."""


class Refusals(Protocol):
    """Counts what is refused."""

    def add(self, who: str, kind: str, reason: str, times: int = 1) -> None:
        """Count a refusal, or several of one kind."""


class Service(Protocol):
    """Answers messages. All calls come from one thread."""

    @property
    def refusals(self) -> Refusals:
        """What counts refusals, those of the service and those before it."""

    def opened(self, send: Callable[[bytes | None], None], peer: str, identity: Identity | None = None) -> Connection:
        """Begin a connection. `send` may be called at any later time, from the same thread; None hangs up.

        `identity`: whom the peer's certificate names; None: it is in the clear.
        """

    def tick(self, now: float) -> None:
        """Look at deadlines. `now`: seconds, monotonic."""


class Role(Service, Protocol):
    """A service that comes to an end: a server, a coordinator.

    Attributes:
        limits: what one peer may send.
    """

    limits: Limits

    @property
    def failure(self) -> Exception | None:
        """Why it cannot go on, None while it can."""

    @property
    def over(self) -> bool:
        """Whether there is nobody left to serve."""


def options(limits: Limits) -> list[tuple[str, int]]:
    """Return gRPC settings for both ends: large frames, our message limit, keepalive, no shared ports."""
    return [
        ("grpc.http2.max_frame_size", 4 << 20),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", int(1000 * KEEPALIVE)),
        ("grpc.keepalive_timeout_ms", int(1000 * PATIENCE)),
        ("grpc.http2.min_ping_interval_without_data_ms", int(1000 * KEEPALIVE / 2)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


class Door(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Gives each stream its connection, and each connection its stream."""

    def __init__(self, service: Service, limits: Limits, certificates: "Certificates | None" = None) -> None:
        self._service, self._limits, self._certificates = service, limits, certificates
        self._ca = certificates and certificates.ca
        self._open: dict[Connection, tuple[Outbox, Identity | None]] = {}
        self._backlog, self._looked = Backlog(limits.total_bytes), 0.0

    def service(self, details: Any) -> Any:
        """Return the handler of our one method, None for any other."""
        if details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._talk)

    def tick(self, now: float) -> None:
        """Hang up on those whose certificates count no more, on all if it is ours; `now`: seconds, monotonic."""
        if self._certificates is None or now - self._looked < LOOK_EVERY:
            return
        self._looked, own, wall = now, self._certificates.own, time.time()  # this reads the files anew
        ours = self._certificates.fault(own, wall)
        before, self._ca = self._ca, self._certificates.ca
        for connection, (outbox, identity) in list(self._open.items()):
            if wall >= own.expires or self._ca != before:
                outbox.put(
                    None
                )  # they dial until it is renewed: only a handshake shows it to them; or that another authority counts
            elif ours:
                connection.dismiss(ours)
            elif identity is not None:
                self._check(connection, identity)

    async def _talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        if len(self._open) >= self._limits.connections:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{len(self._open)} connections are open, which is this server's limit",
            )
        identity, outbox = await self._identify(context), Outbox(self._backlog)
        if self._certificates is not None and identity is not None:
            await context.send_initial_metadata(self._certificates.prove(context.invocation_metadata(), identity))
        connection = self._service.opened(outbox.put, context.peer(), identity)
        self._open[connection] = outbox, identity
        reading = asyncio.create_task(_read(requests, connection, outbox))
        try:
            if identity is not None:
                self._check(connection, identity)
            while (reply := await outbox.get()) is not None:
                yield reply
            if reading.done() and (failure := reading.result()):  # else it was the service that hung up
                await context.abort(grpc.StatusCode.ABORTED, f"it failed on a message: {failure!r}; see its log")
        finally:
            reading.cancel()
            outbox.drop()
            del self._open[connection]
            connection.closed()

    async def _identify(self, context: Any) -> Identity | None:
        """Return whom a peer's certificate names; one that names nobody of ours ends the stream."""
        if self._certificates is None:
            return None
        try:
            return self._certificates.peer(context.auth_context())
        except IdentityError as error:
            self._service.refusals.add(context.peer(), "identity", str(error))
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise

    def _check(self, connection: Connection, identity: Identity) -> None:
        if self._certificates is not None and (why := self._certificates.fault(identity, time.time())):
            connection.dismiss(why)


class Backlog:
    """Replies on their way to all peers.

    Args:
        limit: bytes of them from which on nobody is read from who has not read all of its own.

    Attributes:
        bytes: how many there are.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0


class Outbox:
    """Replies on their way to one peer, who alone waits for them; None ends the connection.

    A thousand peers are silent most of the time, so nothing is made to wait by before somebody does.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog, self._bytes = backlog, 0
        self._replies = deque[bytes | None]()
        self._reader: asyncio.Future[None] | None = None
        self._full: asyncio.Event | None = None  # set once there is room again; None while there is

    def put(self, reply: bytes | None) -> None:
        """Add a reply; never waits."""
        self._replies.append(reply)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._weigh(len(reply or b""))

    async def get(self) -> bytes | None:
        """Wait for the next reply and take it out."""
        while not self._replies:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        reply = self._replies.popleft()
        self._weigh(-len(reply or b""))
        return reply

    async def room(self) -> None:
        """Wait until the peer has read enough: who does not read is not read from."""
        if self._full is not None:
            await self._full.wait()

    def drop(self) -> None:
        """Count no more what the peer will never read."""
        self._backlog.bytes -= self._bytes

    def _weigh(self, change: int) -> None:
        self._bytes += change
        self._backlog.bytes += change
        crowded = self._backlog.bytes > self._backlog.limit and self._bytes > 0
        if crowded or self._bytes > BACKLOG_BYTES or len(self._replies) > BACKLOG_REPLIES:
            self._full = self._full or asyncio.Event()
        elif self._full is not None:
            self._full.set()
            self._full = None


async def _read(requests: AsyncIterator[bytes], connection: Connection, outbox: Outbox) -> Exception | None:
    """Hand over all requests in order; return what the service failed with, if it did."""
    failure = None
    try:
        async for data in requests:
            connection.received(data)
            await outbox.room()
    except Exception as error:  # a fault of ours: it costs this connection, not the server
        logging.getLogger(__name__).exception("a message from a client broke the service")
        failure = error
    outbox.put(None)
    return failure


class Log(Protocol):
    """What is written beside the answers, and holds none up."""

    @property
    def pending(self) -> bool:
        """Whether there is something to write."""

    def write(self) -> None:
        """Write it; called in a thread."""


def serve_to_the_end(
    role: Role, bind: str, ready: Callable[[str], None], stay: bool, audit: Log,
    last: Callable[[], Awaitable[None]] | None = None, certificates: "Certificates | None" = None,
) -> None:  # fmt: skip
    """Listen until SIGTERM, until a role cannot go on, or has nobody left to serve unless it is to stay.

    Args:
        role: who answers.
        bind: `host:port`; port 0 takes a free one.
        ready: called with the real address, once connections are taken.
        stay: go on when nobody is left.
        audit: is written now and then.
        last: awaited when all connections are closed.
        certificates: of the role; None: connections are in the clear.

    Raises:
        JobError: the address cannot be bound.
    """

    async def end(stop: asyncio.Event, count: Callable[[], None]) -> None:
        while role.failure is None and (stay or not role.over):
            count()
            await (asyncio.to_thread(audit.write) if audit.pending else asyncio.sleep(TICK))
        stop.set()

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        with counted(role.refusals) if certificates else nullcontext(lambda: None) as count:
            ending = asyncio.create_task(end(stop, count))
            try:
                await serve(role, bind, role.limits, ready, stop, certificates)
            finally:
                ending.cancel()
                if last is not None:
                    await last()

    gc.freeze()  # what is there outlives all requests: to look through it for garbage would stop them for 40 ms
    asyncio.run(run())


@contextmanager
def counted(refusals: Refusals) -> Iterator[Callable[[], None]]:
    """Count handshakes that fail as refusals; each call tells of those since the last."""
    handshakes = Handshakes()

    def count() -> None:
        for why, times in handshakes.take().items():
            refusals.add(f"a stranger who {why}", "identity", "the TLS handshake failed", times)

    try:
        yield count
    finally:
        handshakes.close()
        count()


async def serve(
    service: Service, bind: str, limits: Limits, ready: Callable[[str], None], stop: asyncio.Event,
    certificates: "Certificates | None" = None,
) -> None:  # fmt: skip
    """Listen until `stop` is set.

    Args:
        service: who answers.
        bind: `host:port`; port 0 takes a free one.
        limits: what one peer may send.
        ready: called with the real address, once connections are taken.
        stop: set it to end.
        certificates: of who answers; None: connections are in the clear.

    Raises:
        JobError: the address cannot be bound.
    """
    try:
        try_to_bind(bind)  # gRPC says what is wrong with an address to standard error alone, above our own words
    except (socket.gaierror, ValueError, OverflowError):
        pass  # gRPC may know better
    except OSError as error:
        raise JobError(f"cannot listen on {bind}: {error.strerror or error}; choose another") from None
    server = grpc.aio.server(options=[*options(limits), *IDLE, RECORD])
    door = Door(service, limits, certificates)
    server.add_generic_rpc_handlers((door,))
    try:
        if certificates is None:
            port = server.add_insecure_port(bind)
        else:
            port = server.add_secure_port(bind, certificates.server())
    except RuntimeError:
        port = 0
    if port == 0:
        raise JobError(f"cannot listen on {bind}: the port is in use or not ours to take; choose another")
    await server.start()
    ready(f"{bind.rpartition(':')[0]}:{port}")
    try:
        while not stop.is_set():
            door.tick(time.monotonic())
            service.tick(time.monotonic())
            try:
                await asyncio.wait_for(stop.wait(), TICK)
            except TimeoutError:
                continue
    finally:
        await server.stop(GRACE)


def try_to_bind(address: str) -> None:
    """Take an address, `host:port`, as who listens does, and let it go.

    Raises:
        OSError: somebody listens there, or it is not ours to take.
    """
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just closed is free
        door.bind((host.strip("[]"), int(port)))
