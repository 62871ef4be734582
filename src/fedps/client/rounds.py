"""Where a client's assignments come from: the coordinator, or, without one, the job's own schedule."""

import platform
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from fedps.client.trainer import Trained
from fedps.config import Runner
from fedps.errors import WireError
from fedps.metrics import Evaluation, Histogram
from fedps.net.channel import Channel
from fedps.net.inprocess import LocalChannel
from fedps.types import ClientInfo, Values
from fedps.wire.messages import Assignment, RoundReport


class Rounds(Protocol):
    """Tells what to do, round after round; the last answer is FINISH."""

    def next(self, trained: Trained | None, evaluated: Evaluation | None, bandwidth: float) -> Assignment:
        """Return the next assignment, given what came of the last round (None: it sat out, was not evaluated)."""

    def stops_after(self, round_: int) -> bool:
        """Whether all clients meet after this round."""


class Schedule:
    """No coordinator: every client trains in every epoch, and all meet where the job evaluates."""

    def __init__(self, runner: Runner) -> None:
        self._epochs, self._every, self._round = runner.epochs, runner.eval_every, 0

    def next(self, trained: Trained | None, evaluated: Evaluation | None, bandwidth: float) -> Assignment:
        """Return JOIN for the next epoch, FINISH after the last."""
        self._round += 1
        done = self._round > self._epochs
        return Assignment(self._round, "FINISH" if done else "JOIN", 0, self.stops_after(self._round))

    def stops_after(self, round_: int) -> bool:
        """Whether all meet, to evaluate one and the same model."""
        return round_ == self._epochs or (self._every > 0 and round_ % self._every == 0)


class Coordinated:
    """A coordinator decides: each round it hears what was measured, and answers when all have reported.

    Args:
        channel: the connection to it.
        samples: this client holds.
        log: takes lines for people.
        answered: told each assignment and the seconds it took to come.
        amend: changes what is said of this client, as a simulation does; by default what was measured is said.
        taught: takes soft targets, float32[S], and before them the round whose public pairs they are of.
    """

    def __init__(
        self, channel: Channel | LocalChannel, samples: int, log: TextIO, answered: Callable[[Assignment, float], None],
        amend: Callable[[ClientInfo], ClientInfo] | None = None,
        taught: Callable[[int, Values], None] | None = None,
    ) -> None:  # fmt: skip
        self._channel, self._samples, self._log, self._answered = channel, samples, log, answered
        self._amend, self._taught = amend or (lambda info: info), taught
        self._round, self._speed = 0, 0.0

    def next(self, trained: Trained | None, evaluated: Evaluation | None, bandwidth: float) -> Assignment:
        """Report, and wait, without limit of time, for what to do next.

        Raises:
            LostError: the coordinator is gone for longer than it may be.
            RefusedError: it refuses the report.
        """
        self._channel.welcome.result()  # a coordinator that is not up yet is waited for, as a server is
        began = time.monotonic()
        logits = [] if trained is None or trained.logits is None else [trained.logits]
        said = RoundReport(self._round, self._amend(self._info(trained, evaluated, bandwidth)), bool(logits))
        frame = self._channel.request(said, [*_histograms(trained, evaluated), *logits]).result()
        seconds = time.monotonic() - began
        told = frame.message
        if not isinstance(told, Assignment):
            raise WireError(f"a report was answered by {type(told).__name__}")
        self._round = told.round
        if told.taught > 0 and self._taught is not None:
            self._taught(told.taught, frame.arrays[0])
        print(f"fl-ps > rpc service call cost time: {1000 * seconds:.1f} ms", file=self._log)
        strategy = {"iteration_num": told.iterations, "next_state": told.state, "round": told.round}
        print(f"fl-ps > recved fl strategy: {strategy}", file=self._log, flush=True)
        self._answered(told, seconds)
        return told

    def stops_after(self, round_: int) -> bool:
        """Every round ends with all clients together: nobody waits for one that sat out."""
        return True

    def _info(self, trained: Trained | None, evaluated: Evaluation | None, bandwidth: float) -> ClientInfo:
        facts: dict[str, Any] = {"device_type": f"{platform.system()} {platform.machine()}", "samples": self._samples}
        if trained is not None and trained.seconds > 0:
            self._speed = trained.samples / trained.seconds
        facts |= {"compute_capacity": self._speed, "bandwidth": bandwidth}
        if trained is not None:
            facts |= {"trained": trained.samples, "seconds": trained.seconds}
            facts |= {"loss": trained.loss, "auc": trained.histogram.auc()}
        if evaluated is not None:
            facts |= {"users": evaluated.users, "hits": evaluated.hits, "ndcg": evaluated.ndcg}
        return ClientInfo(**facts)


def _histograms(trained: Trained | None, evaluated: Evaluation | None) -> list[NDArray[np.int64]]:
    return [counts for found in (trained, evaluated) for counts in _counts(found.histogram if found else None)]


def _counts(histogram: Histogram | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    empty = np.empty(0, np.int64)
    return (histogram.positives, histogram.negatives) if histogram else (empty, empty)
