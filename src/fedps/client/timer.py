"""Where a training loop's time goes, for `dataset_debug`: reading and steps, in the original's lines."""

import time
from collections.abc import Iterable, Iterator

from fedps.client.windows import Window

EVERY = 100  # batches between two reports, as in the original


class StepTimer:
    r"""Times a loop over windows: what the iterator takes is reading, the rest of the loop is the step.

        timer = StepTimer()
        for window in timer.reading(windows):
            ...                                      # for each of its batches:
            if timer.due():
                print(*timer.lines(), sep="\n", file=log)

    Everything counts from the start of the first loop on.
    """

    def __init__(self) -> None:
        self.batches = self.samples = 0
        self._began = 0.0
        self._steps = 0
        self._read = 0.0

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
            yield window

    def due(self) -> bool:
        """Count a step, and say whether it is time for `lines` again: every `EVERY` steps.

        Batches may be read ahead of their steps, so they say nothing of it.
        """
        self._steps += 1
        return self._steps % EVERY == 0

    def lines(self) -> list[str]:
        """Return the original's lines: mean read time, share of reading, samples a second; none before the first batch."""
        if not self.batches:
            return []
        total = time.perf_counter() - self._began
        return [
            f"mean read time: {self._read / self.batches:f}s",
            f"IO percent: {100 * self._read / total:f}",
            f"{self.samples / total:6.2f} instances/s",
        ]
