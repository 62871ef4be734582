"""Party B's reader: of a line in Criteo's form the label and the 13 numbers, scaled. Run by `pipe_command`."""

from collections.abc import Callable, Iterator

from fedps import MultiSlotDataGenerator

LEAST = (0, -3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
RANGE = (20, 603, 100, 50, 64000, 500, 100, 50, 500, 10, 10, 10, 50)


class CriteoNumbers(MultiSlotDataGenerator):
    """One sample a line."""

    def generate_sample(self, line: str | None) -> Callable[[], Iterator[list[tuple[str, list[int | float]]]]]:
        """Return a function that yields the line's sample: slots count by their order, whatever they are called."""

        def reader() -> Iterator[list[tuple[str, list[int | float]]]]:
            label, *numbers = (line or "").rstrip("\n").split("\t")[:14]
            scaled = [
                (float(cell) - least) / range_ if cell else 0.0
                for cell, least, range_ in zip(numbers, LEAST, RANGE, strict=True)
            ]
            yield [("label", [int(label)]), ("dense_feature", list(scaled))]

        return reader


if __name__ == "__main__":
    CriteoNumbers().run_from_stdin()
