"""A connection within one process: the same calls and the same bytes, without sockets.

A breakpoint in the server is then reached from the worker's own stack.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from numpy.typing import NDArray

from fedps.errors import FedpsError, LostError, RefusedError
from fedps.net.listener import Service
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import Hello, PartyRequest, Refused, Request
from fedps.wire.session import Caller


class LocalServer:
    """Lets threads of one process call a service, one at a time.

    Args:
        service: who answers.

    Attributes:
        failure: what the service failed with; all its connections are closed then, as when its process ends.
    """

    def __init__(self, service: Service) -> None:
        # Services are called by one thread at a time. A reply may make a client call again from within: hence reentrant.
        self.service, self.lock = service, threading.RLock()
        self.failure: Exception | None = None
        self.channels: list[LocalChannel] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="fedps deadlines", daemon=True)
        self._thread.start()

    def _tick(self) -> None:
        while not self._stop.wait(0.05):
            with self.lock:
                try:
                    self.service.tick(time.monotonic())
                except Exception as error:
                    self.fail(error)
                    return

    def fail(self, error: Exception) -> None:
        """Close all connections."""
        self.failure = self.failure or error
        for channel in self.channels[:]:
            channel.close()

    def close(self) -> None:
        """Stop looking at deadlines."""
        self._stop.set()
        self._thread.join(timeout=5)


class LocalChannel:
    """A connection to a `LocalServer`, with the calls of `channel.Channel`."""

    def __init__(self, server: LocalServer, hello: Hello, limits: Limits) -> None:
        self.bytes_sent = self.bytes_received = self.retries = 0
        self.limits, self._server, self._caller = limits, server, Caller(limits)
        self._failure: FedpsError | None = None  # why it is closed
        self._futures: dict[int, Future[Frame]] = {}
        with server.lock:
            server.channels.append(self)
            self._connection = server.service.opened(self._answer, f"thread {threading.current_thread().name}")
        self.welcome = self.request(hello)

    def request(self, message: Request | PartyRequest, arrays: Sequence[NDArray[Any]] = ()) -> "Future[Frame]":
        """Send a request; the future holds the reply, or RefusedError, LimitError or LostError."""
        future: Future[Frame] = Future()
        with self._server.lock:
            try:
                if self._failure is not None:
                    raise self._failure
                ticket, data = self._caller.request(message, arrays)
            except FedpsError as error:
                future.set_exception(error)
                return future
            self._futures[ticket] = future
            self.bytes_sent += len(data)
            try:
                self._connection.received(data)
            except Exception as error:
                self._server.fail(error)
        return future

    def close(self) -> None:
        """Hang up; open requests fail."""
        self._end(LostError("the connection was closed"))

    def _end(self, error: FedpsError) -> None:
        with self._server.lock:
            if self._failure is None:
                self._failure = error
                self._connection.closed()
            futures, self._futures = self._futures, {}
        for future in futures.values():
            future.set_exception(error)

    def _answer(self, data: bytes | None) -> None:
        if self._failure is not None:
            return  # a reply to nobody, as a socket would swallow it
        if data is None:
            self.close()
            return
        self.bytes_received += len(data)
        try:
            frame = self._caller.receive(data)
        except FedpsError as error:
            self._end(error)  # the whole connection is refused; that is not for whoever made the service say so
            return
        if frame is None:
            return  # answers what was asked before a reconnect, which does not happen here
        future = self._futures.pop(frame.ticket)
        if isinstance(frame.message, Refused):
            future.set_exception(RefusedError(frame.message.kind, frame.message.reason, frame.message.newest))
        else:
            future.set_result(frame)
