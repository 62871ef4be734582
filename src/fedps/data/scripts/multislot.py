"""Readers that run as a command: lines in on standard input, MultiSlot text out on standard output.

Subclass `MultiSlotDataGenerator` in a script and name the script in the job, `pipe_command: "python my_reader.py"`. A
sample is one line of text: for each slot `<count> <v1> … <vcount>`, separated by blanks. This module imports nothing
but the standard library, so that a command is up in a few hundredths of a second.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

Slot = tuple[str, list[int | float]]
Sample = Iterable[Slot]  # name and values, in the same order for all samples
Generator = Callable[[], Iterable[Sample | None]] | Iterable[Sample | None]


class MultiSlotDataGenerator:
    """Turns lines into samples; a subclass says how, in `generate_sample`."""

    def __init__(self) -> None:
        self.batch_size_ = 32
        self._names: list[str] = []

    def set_batch(self, batch_size: int) -> None:
        """Say how many samples `generate_batch` is given at once.

        Raises:
            ValueError: it is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"set_batch({batch_size}): must be at least 1")
        self.batch_size_ = batch_size

    def generate_sample(self, line: str | None) -> Generator:
        """Return a generator function, or an iterator, over the samples of a line; a sample of None is left out.

        Args:
            line: with its line end; None when run from memory.
        """
        raise NotImplementedError("write generate_sample(self, line): it returns a function that yields samples")

    def generate_batch(self, samples: list[Sample]) -> Generator:
        """Return a generator function, or an iterator, over what becomes of a batch; here the samples unchanged."""
        return samples

    def run_from_stdin(self) -> None:
        """Turn the lines of standard input into text on standard output.

        Raises:
            ValueError: a sample has another form than `[(name, [number, …]), …]`, or other slots than the first one.
        """
        self._run(sys.stdin)

    def run_from_memory(self) -> None:
        """Write the samples of `generate_sample(None)` to standard output, for tests and timing.

        Raises:
            ValueError: as for `run_from_stdin`.
        """
        self._run([None])

    def _run(self, lines: Iterable[str | None]) -> None:
        batch: list[Sample] = []
        for number, line in enumerate(lines, 1):
            try:
                for sample in _iterate(self.generate_sample(line)):
                    if sample is not None:
                        batch.append(sample if type(sample) is list else list(sample))  # a zip can be gone over once
                if len(batch) >= self.batch_size_:
                    self._write(batch)
                    batch = []
            except Exception as error:
                error.add_note(f"in line {number} of the input: {line!r:.100}")
                raise
        self._write(batch)
        sys.stdout.flush()

    def _write(self, samples: list[Sample]) -> None:
        """Write samples, `batch_size_` after the other, as `generate_batch` leaves them."""
        for start in range(0, len(samples), self.batch_size_):
            batch = _iterate(self.generate_batch(samples[start : start + self.batch_size_]))
            sys.stdout.write("".join([self._gen_str(list(sample)) for sample in batch if sample is not None]))

    def _gen_str(self, sample: list[Slot]) -> str:
        """Return a sample as a line of text; the name is the original's, for scripts that have their own."""
        names, texts = [], []
        for slot in sample:
            if not isinstance(slot, (tuple, list)) or len(slot) != 2:
                raise ValueError(f"sample {sample!r:.100}: must be [(name, [number, …]), …], e.g. [('label', [1])]")
            name, values = slot
            names.append(name)
            if type(values) is list and len(values) == 1 and type(values[0]) is int:  # by far the most
                texts.append(f"1 {values[0]}")
            else:
                texts.append(self._slot(name, values))
        if names != self._names:
            if self._names or not names:
                raise ValueError(f"sample {sample!r:.100}: its slots are not those of the first one, {self._names}")
            self._names = names
        return " ".join(texts) + "\n"

    def _slot(self, name: str, values: list[int | float]) -> str:
        """Return a slot as text, `<count> <v1> … <vcount>`."""
        for value in _filled(name, values):
            if not isinstance(value, (int, float)):
                raise ValueError(f"slot {name!r}: {value!r:.100} is neither int nor float")
        return f"{len(values)} {' '.join(map(str, values))}"


class MultiSlotStringDataGenerator(MultiSlotDataGenerator):
    """The same of values that are texts already, `[(name, ["1926", …]), …]`, which it does not look at."""

    def _slot(self, name: str, values: list[Any]) -> str:
        return " ".join([str(len(_filled(name, values))), *values])


def _iterate(generator: Generator) -> Iterable[Sample | None]:
    return generator() if callable(generator) else generator


def _filled(name: str, values: list[Any]) -> list[Any]:
    """Return a slot's values, if there are some."""
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"slot {name!r}: {values!r:.100}: must be a list of at least one number; pad empty slots")
    return values
