"""Party A's reader: of a line in Criteo's form the 26 categories, each as one id. Run by `pipe_command`.

It is written as for PaddlePaddle, but for the import. `hash` is Python's own: fedps starts commands with a fixed
PYTHONHASHSEED, so that a text has the same id in every process.
"""

from collections.abc import Callable, Iterator

from fedps import MultiSlotDataGenerator

IDS = 1000001
CATEGORIES = range(14, 40)  # columns; 0 is the label, 1 to 13 are numbers


class CriteoCategories(MultiSlotDataGenerator):
    """One sample a line."""

    def generate_sample(self, line: str | None) -> Callable[[], Iterator[list[tuple[str, list[int | float]]]]]:
        """Return a function that yields the line's sample."""

        def reader() -> Iterator[list[tuple[str, list[int | float]]]]:
            cells = (line or "").rstrip("\n").split("\t")
            yield [(f"C{column - 13}", [hash(str(column) + cells[column]) % IDS]) for column in CATEGORIES]

        return reader


if __name__ == "__main__":
    CriteoCategories().run_from_stdin()
