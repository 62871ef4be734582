"""Where a training loop's time goes, for `dataset_debug`: reading, steps and their parts, in the original's lines."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Batch = TypeVar("Batch")
EVERY = 100  # batches between two tellings, as in the original


class StepTimer:
    r"""Times a loop over batches: what the iterator takes is reading, the rest of the loop is the step.

        timer = StepTimer()
        for batch in timer.reading(batches, len):
            with timer.part("pull"):        # parts of a step, if one wants them apart
                ...
            if timer.due():
                print(*timer.lines(), sep="\n", file=log)

    Everything counts from the start of the loop on.
    """

    def __init__(self) -> None:
        self.batches = self.samples = 0
        self._began = 0.0
        self._steps = 0
        self._read = 0.0
        self._parts: dict[str, float] = {}

    def reading(
        self, batches: Iterable[Batch], size: Callable[[Batch], int], count: Callable[[Batch], int] = lambda _: 1
    ) -> Iterator[Batch]:
        """Yield batches, and time how long each is waited for.

        Args:
            batches: what is read, one by one or several together.
            size: tells how many samples are in what is yielded.
            count: tells how many batches.
        """
        self._began = self._began or time.perf_counter()
        source = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._read += time.perf_counter() - asked
            self.batches += count(batch)
            self.samples += size(batch)
            yield batch

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of the step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - began

    def due(self) -> bool:
        """Count a step, and say whether it is time for `lines` again: every `EVERY` steps.

        Batches may be read ahead of their steps, so they say nothing of it.
        """
        self._steps += 1
        return self._steps % EVERY == 0

    def lines(self) -> list[str]:
        """Return the original's lines: mean seconds of each part, mean read time, share of reading, samples a second.

        Before the first batch there are none.
        """
        if not self.batches:
            return []
        total = time.perf_counter() - self._began
        parts = [
            f"op_name:[{k}][{name}], op_mean_time:[{seconds / self.batches:f}s]"
            for k, (name, seconds) in enumerate(self._parts.items())
        ]
        return [
            *parts,
            f"mean read time: {self._read / self.batches:f}s",
            f"IO percent: {100 * self._read / total:f}",
            f"{self.samples / total:6.2f} instances/s",
        ]
