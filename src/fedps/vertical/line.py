"""A passive party's line to the active one: what it asks, for how long it waits, and signs of life while it is at work."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from numpy.typing import NDArray

from fedps.access.conversation import in_a_line
from fedps.config.sections.vertical import Vertical
from fedps.errors import FedpsError, LostError, WireError
from fedps.net.channel import Channel
from fedps.wire.frame import Frame
from fedps.wire.messages import Alive, GiveUp, PartyReply, PartyRequest

Arrays = Sequence[NDArray[Any]]
Reply = TypeVar("Reply", bound=PartyReply)
SIGNS = 4  # of life, in `step_timeout`
PARTING = 2.0  # seconds for last words


class Line:
    """Asks the active party, and waits for its replies.

    Args:
        channel: to it.
        vertical: the job's section of that name.
    """

    def __init__(self, channel: Channel, vertical: Vertical) -> None:
        self._channel, self.active = channel, vertical.active
        self._step, self._start = vertical.step_timeout, vertical.start_timeout

    def ask(self, message: PartyRequest, arrays: Arrays = ()) -> "Future[Frame]":
        """Ask, and do not wait."""
        return self._channel.request(message, arrays)

    def wait(self, future: "Future[Frame]", due: type[Reply]) -> tuple[Reply, Arrays]:
        """Wait for a reply in the middle of a stage, where the active party may wait for another that was started again.

        Raises:
            RefusedError: the active party refuses, and says why.
            LostError: it does not answer.
            WireError: it answers what was not asked.
        """
        return self._due(future, due, self._start + self._step)

    def await_all(self, future: "Future[Frame]", due: type[Reply]) -> tuple[Reply, Arrays]:
        """Wait for a reply that waits for all parties' work, as long as the active one shows signs of life; else as `wait`."""
        with self.at_work():
            return self._due(future, due, None)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Show signs of life until the block ends, which may take longer than a step."""
        over = threading.Event()
        signs = threading.Thread(target=self._show_signs, args=[over], name="fedps signs of life", daemon=True)
        signs.start()
        try:
            yield
        finally:
            over.set()
            signs.join()

    def give_up(self, error: Exception) -> None:
        """Tell the active party why this one cannot go on, as far as that is its business."""
        why = str(error) if isinstance(error, LostError | WireError) else "its log says why"
        with suppress(FedpsError, TimeoutError):
            self.ask(GiveUp(in_a_line(why))).result(PARTING)

    def _due(self, future: "Future[Frame]", due: type[Reply], patience: float | None) -> tuple[Reply, Arrays]:
        try:
            frame = future.result(patience)
        except TimeoutError:
            raise LostError(
                f"the active party {self.active} has not answered for {patience:g} s: see its log"
            ) from None
        if not isinstance(frame.message, due):
            raise WireError(
                f"the active party {self.active} has answered {type(frame.message).__name__}, due {due.__name__}"
            )
        return frame.message, frame.arrays

    def _show_signs(self, over: threading.Event) -> None:
        """Say that this party is at work; where the other shows no sign itself, nothing more is expected of it."""
        sign: Future[Frame] | None = None
        since = time.monotonic()
        while not over.wait(self._step / SIGNS):
            if sign is None or sign.done():
                sign, since = self.ask(Alive()), time.monotonic()
            elif time.monotonic() - since > self._step + self._start:
                self._channel.fail(
                    LostError(
                        f"the active party {self.active} gives no sign of life for {self._step + self._start:g} s: see its log"
                    )
                )
