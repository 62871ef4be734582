"""A client's connection to one server, over gRPC, that comes back by itself.

One long bidirectional stream carries all requests; a reader thread hands replies to those who wait. When the stream
breaks, it is opened again with growing pauses, Hello and the last Join are said again, then all that is unanswered, in
order; the server answers a push it already has without applying it twice. A server that is not up yet is the same case,
and so is a server that no longer takes our certificate where the folder holds a newer one.
"""

import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from numpy.typing import NDArray

from fedps.config import Job
from fedps.errors import FedpsError, IdentityError, LimitError, LostError, RefusedError, WireError
from fedps.net.listener import METHOD, options
from fedps.net.protection import protect
from fedps.types import ClientId
from fedps.wire.frame import Frame, Limits
from fedps.wire.messages import Hello, PartyRequest, Refused, Request, Welcome
from fedps.wire.session import Caller

if TYPE_CHECKING:
    from fedps.net.tls import Certificates

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds between two tries to connect
NO_SPACE_PAUSE = 0.5  # seconds after which what found no space on the server's disk is said again

# Ends of a greeted connection that trying again would only repeat: a reply over the limit, a server that failed on a
# request of ours (`listener` says so).
FINAL = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED)

# What gRPC says of a handshake that failed, and what that means; a date may mend itself, what is wrong stays wrong.
DATES = {
    "certificate has expired": "the certificate that it shows has expired: renew it there by `fedps certs renew`",
    "certificate is not yet valid": "the certificate that it shows is not valid yet: set the clocks of both machines",
}
WRONG = {
    "Hostname Verification Check failed": "it shows the certificate of another",
    "unsupported certificate purpose": "it shows a certificate that is none to listen with",
    "unable to get local issuer certificate": "the certificate that it shows is of another authority than ours",
    "certificate signature failure": "the certificate that it shows is of another authority than ours",
    "WRONG_VERSION_NUMBER": "it speaks in the clear: start it with --certs, too",
}
WRONG_PATIENCE = (
    10.0  # seconds after which one who shows nothing better is given up: another may be about to take its place
)


class Channel:
    """A connection to one shard.

    Args:
        address: `host:port`.
        hello: said first on every connection.
        limits: what the server may send.
        patience: seconds without a connection after which all open requests fail.
        certificates: of who dials; None: the connection is in the clear.
        name: of who is dialled, which its certificate must say; a server's is its number.

    Attributes:
        limits: as given.
        bytes_sent, bytes_received: of our messages, without HTTP/2's own.
        retries: how often the connection was opened again.
    """

    def __init__(
        self, address: str, hello: Hello, limits: Limits, patience: float,
        certificates: "Certificates | None" = None, name: str = "0",
    ) -> None:  # fmt: skip
        self._line = _Line(address, limits, hello.to, name, certificates)
        self.address, self._hello, self.limits, self._patience = address, hello, limits, patience
        self._who = "active party" if hello.to == "party" else "server"
        self.bytes_sent = self.bytes_received = self.retries = 0
        # Guards what callers and the reader share: the session, the futures, the queue of the stream now open. Futures are
        # resolved outside of it, for whoever waits on one may go on with a request at once.
        self._lock = threading.Lock()
        self._caller = Caller(limits)
        self._futures: dict[int, Future[Frame]] = {}
        self._welcome: Future[Frame] = Future()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._replies: Any = None  # the stream now open
        self._greeted = False  # whether it has brought the Welcome
        self._closed = threading.Event()
        self._failure: Exception | None = None
        self._retry: threading.Timer | None = None
        self._thread = threading.Thread(target=self._run, name=f"fedps {address}", daemon=True)
        self._thread.start()

    @property
    def welcome(self) -> Future[Frame]:
        """The server's answer to Hello."""
        return self._welcome

    def request(self, message: Request | PartyRequest, arrays: Sequence[NDArray[Any]] = ()) -> "Future[Frame]":
        """Send a request; the future holds the reply, or RefusedError, LimitError or LostError."""
        future: Future[Frame] = Future()
        with self._lock:
            if self._failure is not None:
                future.set_exception(self._failure)
                return future
            try:
                ticket, data = self._caller.request(message, arrays)
            except LimitError as error:
                future.set_exception(error)
                return future
            self._futures[ticket] = future
            if self._greeted:  # else it goes out with all that is unanswered, once the server has greeted
                self._send(data)
        return future

    def close(self) -> None:
        """Hang up; open requests fail."""
        with self._lock:
            self._closed.set()
            self._outgoing.put(None)
        self._thread.join(timeout=1)
        if self._thread.is_alive() and self._replies is not None:
            self._replies.cancel()  # the server does not hang up by itself
        self._thread.join(timeout=4)
        self.fail(LostError(f"the connection to {self.address} was closed"))

    def _send(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        self._outgoing.put(data)

    def _run(self) -> None:
        try:
            with closing(self._line):
                self._stay()
        except WireError as error:
            self.fail(LostError(f"the {self._who} at {self.address} sent no message of ours: {error}"))
        except FedpsError as error:
            self.fail(error)
        except Exception as error:  # whoever waits for a reply must hear of it
            self.fail(LostError(f"the connection to {self.address} broke: {error!r}"))

    def _stay(self) -> None:
        """Connect, again and again, until closed or out of patience."""
        pause, since = FIRST_PAUSE, time.monotonic()
        while not self._closed.is_set():
            try:
                reason, greeted = self._converse(self._line.talk())
            except RefusedError as error:
                if error.kind != "identity" or not self._line.outdated:
                    raise
                reason, greeted = "our certificate was renewed", True
            if greeted:
                pause, since = FIRST_PAUSE, time.monotonic()
            patience = min(self._patience, WRONG_PATIENCE) if _said(WRONG, reason) else self._patience
            if not self._closed.is_set() and time.monotonic() - since > patience:
                raise LostError(
                    f"no {self._who} answers at {self.address} for {patience:g} s ({self._line.meaning(reason)}); is it started, and"
                    f" is the address right?{_path(self.address)}"
                )
            self._closed.wait(
                pause * random.uniform(0.5, 1.0)
            )  # so that clients of a server that is back do not all come at once
            pause = min(2 * pause, LONGEST_PAUSE)
            self.retries += self._welcome.done() and not self._closed.is_set()

    def _converse(self, talk: Any) -> tuple[str, bool]:
        """Hold one connection from Hello to its end; say why it ended, and whether it was greeted."""
        with self._lock:
            if self._closed.is_set():
                return "closed", False
            self._outgoing = queue.SimpleQueue()  # what the broken stream had not sent is unanswered, and said again
            greeter = Caller(self.limits)
            self._send(greeter.request(self._hello)[1])
            self._replies = talk(_drain(self._outgoing))
        reason, greeted = "it hung up", False
        try:
            for data in self._replies:
                self.bytes_received += len(data)
                if greeted:
                    self._answer(data)
                elif why := self._line.doubt(self._replies):
                    reason = why
                    break
                else:
                    self._greet(greeter.receive(data))
                    greeted = True
        except grpc.RpcError as error:
            reason = error.details() or error.code().name
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise RefusedError("identity", reason) from None
            if greeted and error.code() in FINAL:
                raise LostError(f"the {self._who} at {self.address} ended the connection: {reason}") from None
        finally:
            with self._lock:
                self._greeted = False
            self._replies.cancel()
            self._outgoing.put(None)
        return reason, greeted

    def _greet(self, frame: Frame | None) -> None:
        if frame is None or not isinstance(frame.message, Welcome | Refused):
            raise WireError("Hello was answered by another message than Welcome")
        if isinstance(frame.message, Refused):
            raise RefusedError(frame.message.kind, frame.message.reason, frame.message.newest)
        with self._lock:
            for data in self._caller.unanswered():
                self._send(data)
            self._greeted = True
        if not self._welcome.done():
            self._welcome.set_result(frame)

    def _answer(self, data: bytes) -> None:
        with self._lock:
            frame = self._caller.receive(data)
            if frame is None:
                if self._caller.put_off and self._retry is None:
                    self._retry = threading.Timer(NO_SPACE_PAUSE, self._say_again)
                    self._retry.daemon = True
                    self._retry.start()
                return
            future = self._futures.pop(frame.ticket)
        if isinstance(frame.message, Refused):
            future.set_exception(RefusedError(frame.message.kind, frame.message.reason))
        else:
            future.set_result(frame)

    def _say_again(self) -> None:
        """Say again what found no space; a connection that is new says it by itself."""
        with self._lock:
            self._retry = None
            if self._greeted and not self._closed.is_set():
                for data in self._caller.again():
                    self._send(data)

    def fail(self, error: Exception) -> None:
        """Let all that is open, and all that follows, fail with this, unless it fails already."""
        with self._lock:
            self._failure = self._failure or error
            futures = [*self._futures.values(), self._welcome]
            self._futures = {}
        for future in futures:
            if not future.done():
                future.set_exception(error)


class _Line:
    """Dials an address, and anew once the certificates have changed by which it was dialled."""

    def __init__(self, address: str, limits: Limits, role: str, name: str, certificates: "Certificates | None") -> None:
        self._address, self._options, self._certificates = address, _options(address, limits), certificates
        self._role, self._name = role, name
        self._channel: Any = None
        self._edition = 0  # of the certificates, with which it was dialled

    def talk(self) -> Any:
        """Return what opens a stream.

        Raises:
            RefusedError: our own certificate does not count any more.
        """
        if self._channel is None or self.outdated:
            self.close()
            self._channel = self._dial()
        if self._certificates is None:
            return self._channel.stream_stream(METHOD)
        self._asked = self._certificates.ask()
        return partial(self._channel.stream_stream(METHOD), metadata=self._asked)

    def doubt(self, replies: Any) -> str | None:
        """Say why who answers does not prove to be who was dialled; `replies`: a stream that has brought one.

        Raises:
            RefusedError: its certificate was revoked.
        """
        if self._certificates is None:
            return None
        try:
            self._certificates.check_proof(self._role, self._name, self._asked, replies.initial_metadata())
        except IdentityError as error:
            return f"it does not prove who it is: {error}"
        return None

    @property
    def outdated(self) -> bool:
        """Whether there are newer certificates than those it was dialled with."""
        return self._certificates is not None and self._certificates.edition != self._edition

    def meaning(self, reason: str) -> str:
        """Return in words for people what gRPC says of a connection that does not come about."""
        closed = "Socket closed" in reason
        if self._certificates is None:
            return f"{reason}: it may want certificates, by --certs" if closed else reason
        meant = _said(DATES, reason) or _said(WRONG, reason) or reason
        if closed:
            meant = f"it hangs up: if it runs, its events say why; it may not know the authority of {self._certificates.own}"
        return f"{meant}; it is to be {self._role} {self._name}, of the authority in {self._certificates.folder}"

    def close(self) -> None:
        """Hang up."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _dial(self) -> Any:
        if self._certificates is None:
            return grpc.insecure_channel(self._address, options=self._options)
        self._edition = self._certificates.edition
        if why := self._certificates.fault(self._certificates.own, time.time()):
            raise RefusedError("identity", f"{why} (its folder is {self._certificates.folder})")
        credentials, settings = self._certificates.client(self._role, self._name)
        return grpc.secure_channel(self._address, credentials, options=[*self._options, *settings])


def network(
    job: Job, client: ClientId, servers: Sequence[str], coordinator: str | None = None
) -> Callable[[int, Hello], Channel]:
    """Return how a client reaches the servers and the coordinator over the network.

    Raises:
        JobError: its certificates cannot be used, or there are none where it takes some.
    """
    limits = Limits(message_bytes=job.limits.message_mib << 20, line=job.limits.line_kib << 10)
    deadline = job.runner.start_timeout + job.runner.step_timeout
    addresses = [*servers, coordinator or ""]  # the last has the number -1
    certificates = protect(job.security, "client", client, filter(None, addresses))
    return lambda number, hello: Channel(addresses[number], hello, limits, deadline, certificates, str(max(number, 0)))


def _options(address: str, limits: Limits) -> list[tuple[str, int]]:
    """Add to the common settings that no proxy is asked but one for gRPC, and that not for our own machine."""
    return [*options(limits), ("grpc.enable_http_proxy", int(_through_proxy(address)))]


def _through_proxy(address: str) -> bool:
    """Whether the environment wants gRPC to go through a proxy; `http_proxy` speaks of the web."""
    host = address.rpartition(":")[0]
    ours = host in ("localhost", "[::1]") or host.startswith("127.")
    return not ours and bool(os.environ.get("grpc_proxy"))  # noqa: SIM112  (as gRPC reads it)


def _path(address: str) -> str:
    """Say in an error what the environment's proxies have to do with it."""
    if _through_proxy(address):
        return "; it is asked through the proxy that grpc_proxy names, unless no_proxy names its host"
    if os.environ.get("http_proxy") or os.environ.get("https_proxy"):
        return "; it is asked directly, whatever http_proxy and no_proxy say: set grpc_proxy if it lies behind a proxy"
    return ""


def _said(meanings: Mapping[str, str], reason: str) -> str | None:
    return next((words for said, words in meanings.items() if said in reason), None)


def _drain(outgoing: "queue.SimpleQueue[bytes | None]") -> Iterator[bytes]:
    while (data := outgoing.get()) is not None:
        yield data
