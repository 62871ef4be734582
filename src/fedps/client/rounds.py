"""A client's rounds: where its assignments come from, and what a simulated device makes of them.

They come from the coordinator or, without one, from the job's own schedule.
"""

import math
import platform
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

import numpy as np
from msgspec.structs import replace

from fedps.access.same_table import Witness
from fedps.client.trainer import Trained
from fedps.config import Job, Runner
from fedps.errors import JobError, WireError
from fedps.events import events
from fedps.events.events import Report
from fedps.metrics import Counts, Evaluation, Histogram
from fedps.net.shards import Shards, Transport
from fedps.simulation.device import Device
from fedps.simulation.traces import read_traces
from fedps.training.learner import Learner
from fedps.types import ClientId, ClientInfo, State, Values
from fedps.wire.messages import Assignment, Figures, RoundReport


class Rounds(Protocol):
    """Says what to do, round after round; the last assignment is FINISH."""

    def next(self, trained: Trained | None, evaluated: Evaluation | None, bandwidth: float) -> Assignment:
        """Return the next assignment, given what came of the last round (None: it sat out, was not evaluated)."""

    def state(self) -> State:
        """Return what is kept from one round to the next."""

    def restore(self, state: State) -> None:
        """Go on from what `state` returned; of the state of a client that begins in the middle, `round` is the last that ended."""


class Schedule:
    """No coordinator: every client trains in every epoch."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._round = runner, 0

    def next(self, trained: Trained | None, evaluated: Evaluation | None, bandwidth: float) -> Assignment:
        """Return JOIN for the next epoch, FINISH after the last."""
        self._round += 1
        done = self._round > self._runner.epochs
        return Assignment(self._round, "FINISH" if done else "JOIN", 0, self._runner.evaluates_after(self._round))

    def state(self) -> State:
        """Return the epoch under way."""
        return {"round": self._round}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self._round = state["round"]


class Coordinated:
    """A coordinator decides: each round it gets this client's report, and answers when all have reported.

    Args:
        channel: the connection to it.
        samples: this client has.
        log: takes lines for people.
        report: takes an event for each assignment.
        amend: changes what is said of this client, as a simulation does; by default what was measured is said.
        learn: takes soft targets, float32[S], and before them the round whose public pairs they are of.
        witness: says what servers gave this client.
    """

    def __init__(
        self, channel: Transport, samples: int, log: TextIO, report: Report,
        amend: Callable[[ClientInfo], ClientInfo] | None = None,
        learn: Callable[[int, Values], None] | None = None, witness: Witness | None = None,
    ) -> None:  # fmt: skip
        self._channel, self._samples, self._log, self._report = channel, samples, log, report
        self._amend, self._learn = amend or (lambda info: info), learn
        self._round, self._speed, self._witness = 0, 0.0, witness or Witness(1)

    def next(self, trained: Trained | None, evaluated: Evaluation | None, bandwidth: float) -> Assignment:
        """Report, and wait, without limit of time, for what to do next.

        Raises:
            LostError: the coordinator is gone for longer than it may be.
            RefusedError: it refuses the report.
        """
        self._channel.welcome.result()  # a coordinator that is not up yet is waited for, as a server is
        began = time.monotonic()
        logits = [] if trained is None or trained.logits is None else [trained.logits]
        info, seen = self._amend(self._info(trained, evaluated, bandwidth)), self._witness.report()
        message = RoundReport(self._round, info, bool(logits), seen[0])
        frame = self._channel.request(message, [*_histograms(trained, evaluated), *logits, *seen[1:]]).result()
        seconds = time.monotonic() - began
        due = frame.message
        if not isinstance(due, Assignment):
            raise WireError(f"a report was answered by {type(due).__name__}")
        self._round = due.round
        self._witness.begin(due.secret)
        if due.targets_of > 0 and self._learn is not None:
            self._learn(due.targets_of, frame.arrays[0])
        print(f"fl-ps > rpc service call cost time: {1000 * seconds:.1f} ms", file=self._log)
        strategy = {"iteration_num": due.iterations, "next_state": due.state, "round": due.round}
        print(f"fl-ps > recved fl strategy: {strategy}", file=self._log, flush=True)
        self._report(events.Assigned(due.round, due.state, due.evaluate, seconds))
        return due

    def state(self) -> State:
        """Return the round that was assigned last, and the speed that was measured last."""
        return {"round": self._round, "speed": self._speed}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self._round, self._speed = state["round"], state["speed"]

    def _info(self, trained: Trained | None, evaluated: Evaluation | None, bandwidth: float) -> ClientInfo:
        if trained is not None and trained.seconds > 0:
            self._speed = trained.samples / trained.seconds
        device = f"{platform.system()} {platform.machine()}"
        info = ClientInfo(device, self._speed, bandwidth, self._samples)
        if trained is not None:
            info = replace(
                info, trained=trained.samples, seconds=trained.seconds, loss=trained.loss, auc=trained.histogram.auc()
            )
        if evaluated is not None:
            info = replace(info, sums=dict(evaluated.sums))
        return info


def _histograms(trained: Trained | None, evaluated: Evaluation | None) -> list[Counts]:
    """Return the counts of positives and of negatives as a report brings them, empty where there is no histogram."""
    none, found = np.empty(0, np.int64), list[Counts]()
    for spread in ([trained.histogram] if trained else [], list(evaluated.histograms.values()) if evaluated else []):
        found.append(np.concatenate([none, *(histogram.positives for histogram in spread)]))
        found.append(np.concatenate([none, *(histogram.negatives for histogram in spread)]))
    return found


def figures_of(trained: Trained | None, evaluated: Evaluation | None) -> Figures:
    """Return what an epoch came to, as sums that add up over clients."""
    samples, loss = (trained.samples, trained.samples * trained.loss) if trained else (0, 0.0)
    return Figures(samples, loss, dict(evaluated.sums) if evaluated else {})


def outcome(trained: Trained | None, evaluated: Evaluation | None) -> State:
    """Return what came of a round as a checkpoint has it."""
    state: dict[str, Any] = {}
    if trained is not None:
        state = {"trained": trained[:3], "histogram": trained.histogram.counts}
        state |= {} if trained.logits is None else {"logits": trained.logits}
    if evaluated is not None:
        state |= {"sums": dict(evaluated.sums), "aucs": list(evaluated.histograms)}
        state |= {f"evaluated/{name}": histogram.counts for name, histogram in evaluated.histograms.items()}
    return state


def outcome_of(state: State) -> tuple[Trained | None, Evaluation | None]:
    """Return what came of a round that `outcome` returned."""
    trained = evaluated = None
    if "trained" in state:
        samples, seconds, loss = state["trained"]
        trained = Trained(samples, seconds, loss, Histogram(*state["histogram"]), state.get("logits"))
    if "sums" in state:
        spread = {name: Histogram(*state[f"evaluated/{name}"]) for name in state["aucs"]}
        evaluated = Evaluation(state["sums"], spread)
    return trained, evaluated


class Simulated:
    """Trains a client's rounds for real, unless its simulated device would not have come to the end of the round.

    Args:
        job: the job; its traces say what the device is like.
        client: whose device.
        report: where events go.

    Attributes:
        device: the client's.

    Raises:
        JobError: the traces cannot be read, or there is none for this client.
    """

    def __init__(self, job: Job, client: ClientId, report: Report) -> None:
        assert job.traces is not None  # noqa: S101  (who asks has looked)
        traces = read_traces(job.traces)
        if client not in traces:
            raise JobError(f"simulation.traces: {job.traces}: has no trace for client {client!r}; add one")
        self.device = Device(traces[client], client, job.runner.seed)
        self._size, self._report = job.runner.train_batch_size, report
        self._last: tuple[int, int] | None = None  # samples and bytes of the last round that was trained
        self._moved: Callable[[], int] = lambda: 0  # bytes of this round so far
        self._before = 0  # of these, what a process before this one moved

    def state(self) -> State:
        """Return what the device goes on from."""
        device = {"seconds": self.device.seconds, "fate": self.device.fate}
        return {**device, "last": self._last, "begun/moved": self._moved()}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self.device.seconds, self.device.fate = state["seconds"], state["fate"]
        self._last, self._before = tuple(state["last"]) if state["last"] else None, state.get("begun/moved", 0)

    def play(
        self, due: Assignment, train: Callable[[], Trained | None], learner: Learner, shards: Shards
    ) -> None:  # fmt: skip
        """Train, if that is due and the device gets to the end of the round, and report how long it took the device.

        Args:
            due: what to do.
            train: trains, and returns what came of it.
            learner: what is trained.
            shards: counts the bytes that go to and come from the servers.
        """
        if due.state != "JOIN":
            self.device.rest()
            return
        samples = due.iterations * (due.batch_size or self._size) or len(learner.data)
        deadline = due.deadline or math.inf
        fate = self.device.begin(due.round, samples, self._forecast(samples, learner), deadline)
        if not fate:
            before = shards.bytes_sent + shards.bytes_received - self._before
            self._moved, self._before = lambda: shards.bytes_sent + shards.bytes_received - before, 0
            trained, moved = train(), self._moved()
            self._moved = lambda: 0
            if trained:
                self._last = trained.samples, moved
            self.device.done(trained.samples if trained else 0, moved, deadline)
        self._report(events.Simulated(due.round, self.device.seconds, fate))

    def _forecast(self, samples: int, learner: Learner) -> int:
        """Return the bytes that training will move: in proportion to the last time, at first every shared value once."""
        if self._last is not None:
            return self._last[1] * samples // self._last[0]
        tables = learner.shared.values()  # a pull sends keys and brings values, a push sends both
        rows = sum(len(table.keys) * (2 * table.keys.itemsize + 2 * 4 * table.spec.dim) for table in tables)
        return rows + 2 * learner.dense.values.nbytes
