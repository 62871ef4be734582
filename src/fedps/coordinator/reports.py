"""One client's connection to the coordinator: its reports in, its assignments out; what is wrong is answered, never raised."""

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedps.coordinator.members import Scores
from fedps.coordinator.teacher import check_logits
from fedps.errors import RefusedError, WireError
from fedps.metrics import BUCKETS, Histogram
from fedps.types import ClientId, ClientInfo
from fedps.wire.frame import Frame
from fedps.wire.messages import PROTOCOL, Assignment, Hello, Message, Refused, RoundReport, Welcome
from fedps.wire.session import Peer

if TYPE_CHECKING:
    from fedps.coordinator.coordinator import Coordinator

Send = Callable[[bytes | None], None]
MAX_NAME, MAX_REASON = 256, 600  # characters
MAX_NUMBER = 1e15  # no count, time or speed of a client comes near
MAX_SPEED = 1e10  # samples a second: no machine comes near
OFF = 1000.0  # times that a stated speed may differ from samples over seconds


class Connection:
    """One peer.

    Args:
        coordinator: whom it speaks to.
        send: takes each answer; None hangs up.
        address: the peer's, for events before it has said its name.
    """

    def __init__(self, coordinator: "Coordinator", send: Send, address: str) -> None:
        self.opened_at = time.monotonic()
        self._coordinator, self._send, self._address = coordinator, send, address
        self._peer = Peer(coordinator.limits, with_join=False)
        self._open = True

    @property
    def client(self) -> ClientId | None:
        """Who speaks, once greeted."""
        return self._peer.client

    @property
    def instance(self) -> str | None:
        """The process that speaks, once greeted."""
        return self._peer.instance

    def received(self, data: bytes) -> None:
        """Handle one message."""
        if not self._open:
            return
        try:
            self._handle(self._peer.receive(data))
        except (RefusedError, WireError) as error:
            kind = error.kind if isinstance(error, RefusedError) else "malformed"
            reason = (error.reason if isinstance(error, RefusedError) else str(error))[:MAX_REASON]
            self._coordinator.count_refusal((self.client or self._address)[:MAX_NAME], kind, reason)
            self.reply(self._peer.ticket, Refused(kind, reason))

    def closed(self) -> None:
        """Note that the peer is gone; it may come back within the job's `reconnect_timeout`."""
        if self._open:
            self._open = False
            self._coordinator.forget(self)

    def hang_up(self) -> None:
        """End the connection from this side."""
        if self._open:
            self.closed()
            self._send(None)

    def reply(self, ticket: int, message: Message, arrays: Sequence[NDArray[Any]] = ()) -> None:
        """Answer a request, unless the peer is gone."""
        if self._open:
            self._send(self._peer.reply(ticket, message, arrays))

    def _handle(self, frame: Frame) -> None:
        coordinator, client = self._coordinator, self.client or ClientId("")
        match frame.message:
            case Hello() as hello:
                self._greet(hello)
                self.reply(frame.ticket, Welcome(0, 1, coordinator.round))
            case RoundReport() as said if coordinator.members.get(client) is None:
                self.reply(frame.ticket, Assignment(said.round, "FINISH"))  # its answer was lost with a connection
            case RoundReport() as said:
                check(said.info, measured=coordinator.job.traces is None)
                histograms, logits = frame.arrays[:4], frame.arrays[4] if said.logits else None
                if logits is not None:
                    check_logits(logits, coordinator.teacher)
                scores = Scores(_histogram(*histograms[:2]), _histogram(*histograms[2:]), logits)
                coordinator.reported(client, frame.ticket, said, scores)
            case other:
                raise RefusedError("order", f"{type(other).__name__} is nothing to say to a coordinator")

    def _greet(self, hello: Hello) -> None:
        job = self._coordinator.job.name
        if hello.protocol != PROTOCOL or hello.job != job or hello.to != "coordinator":
            raise RefusedError(
                "other_job",
                f"this is the coordinator of job {job!r} with protocol {PROTOCOL}; you asked for a {hello.to} of"
                f" {hello.job[:99]!r} with {hello.protocol}: check the address and the versions of fedps",
            )
        if not 0 < len(hello.client) <= MAX_NAME or not 0 < len(hello.instance) <= MAX_NAME:
            raise RefusedError("malformed", f"client and instance are names of 1 to {MAX_NAME} characters")
        self._coordinator.greet(self, ClientId(hello.client), hello.instance)


def check(info: ClientInfo, measured: bool = True) -> None:
    """Check that a report makes sense.

    Args:
        info: the report.
        measured: its seconds are those of training alone; those of simulated devices hold transfers too.

    Raises:
        RefusedError: a number that is negative, not finite or absurd; names the field and the value.
    """
    for name in ("compute_capacity", "bandwidth", "samples", "trained", "seconds", "users", "hits", "ndcg"):
        value = getattr(info, name)
        if not 0 <= value <= MAX_NUMBER:
            raise RefusedError("malformed", f"{name}: {value}: must be a number from 0 to {MAX_NUMBER:g}")
    for name in ("loss", "auc"):
        value = getattr(info, name)
        if value is not None and not math.isfinite(value):
            raise RefusedError("not_finite", f"{name}: {value}: has training diverged?")
    if info.auc is not None and not 0 <= info.auc <= 1:
        raise RefusedError("malformed", f"auc: {info.auc}: must be from 0 to 1")
    if info.compute_capacity > MAX_SPEED or (measured and _contradicts(info)):
        raise RefusedError(
            "malformed",
            f"compute_capacity: {info.compute_capacity:g} samples/s: cannot be, of a client that trained {info.trained}"
            f" samples in {info.seconds:g} s",
        )
    if info.hits > info.users or info.ndcg > info.users:
        raise RefusedError("malformed", f"hits {info.hits} and ndcg {info.ndcg} are at most the users, {info.users}")
    if len(info.device_type) > MAX_NAME:
        raise RefusedError("malformed", f"device_type has {len(info.device_type)} characters; {MAX_NAME} are allowed")


def _contradicts(info: ClientInfo) -> bool:
    """Whether a stated speed is orders away from what the client says it did; 0 states none."""
    if not info.trained or not info.compute_capacity:
        return False
    if not info.seconds:
        return True
    ratio = info.compute_capacity / (info.trained / info.seconds)
    return not 1 / OFF <= ratio <= OFF


def _histogram(positives: NDArray[Any], negatives: NDArray[Any]) -> Histogram:
    for counts in (positives, negatives):
        if len(counts) not in (0, BUCKETS) or (len(counts) and not 0 <= counts.min() <= counts.max() <= MAX_NUMBER):
            raise RefusedError("malformed", f"a histogram has {BUCKETS} counts, none negative, or is left out")
    empty: Sequence[int] = np.zeros(BUCKETS, np.int64)  # type: ignore[assignment]
    return Histogram(positives if len(positives) else empty, negatives if len(negatives) else empty)
