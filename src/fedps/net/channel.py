"""A client's connection to one server, over gRPC, that comes back by itself.

One long bidirectional stream carries all requests; a reader thread hands replies to those who wait. When the stream
breaks, it is opened again with growing pauses, Hello and the last Join are said again, then all that is unanswered, in
order; the server answers a push it already has without applying it twice.
"""

import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import grpc
from numpy.typing import NDArray

from fedps.errors import LostError, RefusedError, WireError
from fedps.net.listener import METHOD, options
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import Hello, Join, Refused, Request
from fedps.wire.session import Caller

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two tries to connect


class Channel:
    """A connection to one shard.

    Args:
        address: `host:port`.
        hello: said first on every connection.
        limits: what the server may send.
        patience: seconds without a connection after which all open requests fail.

    Attributes:
        bytes_sent, bytes_received: of our messages, without HTTP/2's own.
        retries: how often the connection was opened again.
    """

    def __init__(self, address: str, hello: Hello, limits: Limits, patience: float) -> None:
        self._address, self._hello, self._limits, self._patience = address, hello, limits, patience
        self.bytes_sent = self.bytes_received = self.retries = 0
        self._lock = threading.Lock()
        self._caller = Caller(limits)
        self._futures: dict[int, Future[Frame]] = {}
        self._welcome: Future[Frame] = Future()
        self._join: bytes | None = None
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._connected = self._closed = False
        self._failure: Exception | None = None
        self._last_welcome = -1.0
        self._thread = threading.Thread(target=self._run, name=f"fedps {address}", daemon=True)
        self._thread.start()

    @property
    def welcome(self) -> Future[Frame]:
        """The server's answer to Hello."""
        return self._welcome

    def request(self, message: Request, arrays: Sequence[NDArray[Any]] = ()) -> "Future[Frame]":
        """Send a request; the future holds the reply, or RefusedError or LostError."""
        future: Future[Frame] = Future()
        with self._lock:
            if self._failure is not None:
                future.set_exception(self._failure)
                return future
            ticket, data = self._caller.request(message, arrays)
            self._futures[ticket] = future
            if isinstance(message, Join):
                self._join = data
            if self._connected:
                self._send(data)
        return future

    def close(self) -> None:
        """Hang up; open requests fail."""
        with self._lock:
            self._closed = True
            self._outgoing.put(None)
        self._thread.join(timeout=5)
        self._fail(LostError(f"the connection to {self._address} was closed"))

    def _send(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        self._outgoing.put(data)

    def _run(self) -> None:
        pause, since = FIRST_PAUSE, time.monotonic()
        with grpc.insecure_channel(self._address, options=options(self._limits)) as channel:
            talk = channel.stream_stream(METHOD)
            while not self._closed:
                begun, reason = time.monotonic(), "it hung up"
                try:
                    self._converse(talk)
                    since, pause = time.monotonic(), FIRST_PAUSE
                except grpc.RpcError as error:
                    reason = error.details() or error.code().name
                    if self._last_welcome >= begun:
                        since, pause = time.monotonic(), FIRST_PAUSE
                except RefusedError as error:
                    self._fail(error)
                    return
                except WireError as error:
                    self._fail(LostError(f"the server at {self._address} sent no message of ours: {error}"))
                    return
                if self._closed:
                    return
                if time.monotonic() - since > self._patience:
                    self._fail(LostError(self._unreachable(reason)))
                    return
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
                self.retries += self._welcome.done()

    def _unreachable(self, reason: str) -> str:
        return (
            f"no server answers at {self._address} for {self._patience:g} s ({reason}); is it started, and is the"
            " address right?"
        )

    def _converse(self, talk: Any) -> None:
        """Hold one connection from Hello to its end."""
        self._outgoing = queue.SimpleQueue()
        greeter = Caller(self._limits)
        _, hello = greeter.request(self._hello)
        self._send(hello)
        replies = talk(_drain(self._outgoing))
        try:
            first = next(replies, None)
            if first is None:
                return
            self.bytes_received += len(first)
            self._greeted(greeter.receive(first))
            for data in replies:
                self.bytes_received += len(data)
                self._answer(data)
        finally:
            with self._lock:
                self._connected = False
            replies.cancel()
            self._outgoing.put(None)

    def _greeted(self, frame: Frame) -> None:
        if isinstance(frame.message, Refused):
            raise RefusedError(frame.message.kind, frame.message.reason)
        self._last_welcome = time.monotonic()
        with self._lock:
            unanswered = self._caller.unanswered()
            if self._join is not None and self._join not in unanswered:
                # the server may have been started anew: it must know us before it hears the rest
                self._send(self._join)
            for data in unanswered:
                self._send(data)
            self._connected = True
        if not self._welcome.done():
            self._welcome.set_result(frame)

    def _answer(self, data: bytes) -> None:
        with self._lock:
            try:
                frame = self._caller.receive(data)
            except WireError:
                if self.retries:
                    return  # the answer to a Join or a push that was said again
                raise
            future = self._futures.pop(frame.ticket)
        if isinstance(frame.message, Refused):
            future.set_exception(RefusedError(frame.message.kind, frame.message.reason))
        else:
            future.set_result(frame)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._failure = self._failure or error
            futures = [*self._futures.values(), self._welcome]
            self._futures = {}
        for future in futures:
            if not future.done():
                future.set_exception(error)


def _drain(outgoing: "queue.SimpleQueue[bytes | None]") -> Iterator[bytes]:
    while (data := outgoing.get()) is not None:
        yield data
