"""What is measured of a client's training: loss and AUC, and where its time goes."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from fedps.client.windows import Window
from fedps.metrics import Histogram
from fedps.training.engine import Steps
from fedps.types import State

T = TypeVar("T")
EVERY = 100  # batches between two reports, as in the original
SUMS = ("batches", "samples", "loss", "waited", "_recent", "_recent_batches")  # of a `Meter`


class Meter:
    """Loss and AUC of one round's training, and of the batches since the last print.

    AUC is cumulative over the process, as the original prints it.

    Attributes:
        total, round: score histograms, of the process and of this round.
        batches, samples: of this round so far.
        loss: summed over this round's samples.
        waited: seconds of this round in which the servers were waited for.
    """

    def __init__(self) -> None:
        self.total, self.round = Histogram(), Histogram()
        self.batches = self.samples = 0
        self.loss = self.waited = self._recent = 0.0
        self._recent_batches = 0

    def state(self) -> State:
        """Return all of it."""
        counts = {"total": self.total.counts, "round": self.round.counts}
        return counts | {name: getattr(self, name) for name in SUMS}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self.total, self.round = Histogram(*state["total"]), Histogram(*state["round"])
        for name in SUMS:
            setattr(self, name, state[name])

    def begin_round(self) -> None:
        """Forget the last round's sums."""
        self.round, self.batches, self.samples, self.loss, self.waited = Histogram(), 0, 0, 0.0, 0.0

    def wait(self, exchange: Callable[[], T]) -> T:
        """Wait for the servers, and note how long that takes."""
        began = time.perf_counter()
        try:
            return exchange()
        finally:
            self.waited += time.perf_counter() - began

    def add(self, samples: int, steps: Steps, size: int) -> None:
        """Take in the steps of some samples in batches of `size`."""
        batches, left = len(steps.losses), samples % size
        sizes = np.full(batches, size)
        if left:
            sizes[-1] = left
        self.batches += batches
        self.samples += samples
        self.loss += float(steps.losses @ sizes)
        self._recent += float(steps.losses.sum())
        self._recent_batches += batches
        self.total.merge(steps.histogram)
        self.round.merge(steps.histogram)

    def recent(self) -> float:
        """Return the mean loss of the batches since the last call."""
        loss = self._recent / self._recent_batches
        self._recent, self._recent_batches = 0.0, 0
        return loss


class StepTimer:
    r"""Times a loop over windows, for `dataset_debug`: its iterator is reading, its body steps and exchanges with servers.

        timer = StepTimer()
        for window in timer.reading(windows):
            ...                                      # for each of its batches:
            with timer.step():
                ...                                  # whatever takes it: torch or compiled code
            if timer.due():
                print(*timer.lines(), sep="\n", file=log)

    Everything counts from the start of the first loop on.
    """

    def __init__(self) -> None:
        self.batches = self.samples = 0
        self._began = 0.0
        self._steps = 0
        self._read = self._stepped = self._body = 0.0

    def reading(self, windows: Iterable[Window]) -> Iterator[Window]:
        """Yield windows, and time how long each is waited for."""
        self._began = self._began or time.perf_counter()
        source = iter(windows)
        while True:
            began = time.perf_counter()
            try:
                window = next(source)
            except StopIteration:
                return
            self._read += time.perf_counter() - began
            self.batches += window.batches
            self.samples += window.samples
            began = time.perf_counter()
            yield window
            self._body += time.perf_counter() - began

    @contextmanager
    def step(self) -> Iterator[None]:
        """Time a step: gathering rows, forward, backward and optimizer, in one."""
        began = time.perf_counter()
        yield
        self._stepped += time.perf_counter() - began

    def due(self) -> bool:
        """Count a step, and say whether it is time for `lines` again: every `EVERY` steps.

        Batches may be read ahead of their steps, so they say nothing of it.
        """
        self._steps += 1
        return self._steps % EVERY == 0

    def lines(self) -> list[str]:
        """Return the original's lines, none before the first batch: mean times of the parts, samples a second.

        A window's exchange counts once the window has ended.
        """
        if not self.batches:
            return []
        total = time.perf_counter() - self._began
        return [
            f"op_name:[0][step], op_mean_time:[{self._stepped / max(self._steps, 1):f}s]",
            f"op_name:[1][exchange], op_mean_time:[{max(self._body - self._stepped, 0.0) / self.batches:f}s]",
            f"mean read time: {self._read / self.batches:f}s",
            f"IO percent: {100 * self._read / total:f}",
            f"{self.samples / total:6.2f} instances/s",
        ]
