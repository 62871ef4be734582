"""A client whose device is simulated: it trains for real, unless its device would not have come to the end of the round."""

import math
from collections.abc import Callable

from fedps.client.trainer import Trained
from fedps.config import Job
from fedps.errors import JobError
from fedps.events import events
from fedps.events.events import Report
from fedps.simulation.device import Device
from fedps.simulation.traces import read_traces
from fedps.training.learner import Learner
from fedps.types import ClientId
from fedps.wire.messages import Assignment


def find_device(job: Job, client: ClientId) -> Device | None:
    """Return the client's simulated device, None if the job simulates nothing.

    Raises:
        JobError: the traces cannot be read, or there is none for this client.
    """
    if job.traces is None:
        return None
    traces = read_traces(job.traces)
    if client not in traces:
        raise JobError(f"simulation.traces: {job.traces}: has no trace for client {client!r}; add one")
    return Device(traces[client], client, job.runner.seed)


class Simulated:
    """Trains a client's rounds as its simulated device would.

    Args:
        job: the job.
        device: the client's.
        learner: what is trained.
        moved: returns the bytes sent to and received from the servers so far.
        report: where events go.
    """

    def __init__(self, job: Job, device: Device, learner: Learner, moved: Callable[[], int], report: Report) -> None:
        self._job, self._device, self._learner, self._moved, self._report = job, device, learner, moved, report
        self._last: tuple[int, int] | None = None  # samples and bytes of the last round that was trained

    def train(self, told: Assignment, train: Callable[[], Trained | None]) -> None:
        """Train, if the device gets to the end of the round, and tell how long it took the device.

        Args:
            told: what to do.
            train: trains, and returns what came of it.
        """
        size = told.batch_size or self._job.runner.train_batch_size
        held = len(self._learner.data)
        samples = told.iterations * size or held
        deadline = told.deadline or math.inf
        fate = self._device.begin(told.round, samples, self._forecast(samples), deadline)
        if not fate:
            before = self._moved()
            trained = train()
            done = trained.samples if trained else 0, self._moved() - before
            self._last = done if done[0] else self._last
            self._device.done(*done, deadline)
        self._report(events.Simulated(told.round, self._device.seconds, fate))

    def _forecast(self, samples: int) -> int:
        """Return the bytes that training will move: in proportion to the last time, at first every shared value once."""
        if self._last is not None:
            return self._last[1] * samples // self._last[0]
        tables = self._learner.shared.values()  # a pull sends keys and brings values, a push sends both
        rows = sum(len(table.keys) * (2 * table.keys.itemsize + 2 * 4 * table.spec.dim) for table in tables)
        return rows + 2 * self._learner.dense.values.nbytes
