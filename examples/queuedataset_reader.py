"""A reader that runs as a command: lines user,item,label in on standard input, MultiSlot text out.

In the job: `reader_type: QueueDataset` and `pipe_command: "python queuedataset_reader.py"`. It is run once for each of
a client's files, in the job file's folder, and only if the run was started with `--allow-commands`.

    python examples/queuedataset_reader.py < .data/ml-1m/train/3.csv | head -3
"""

from collections.abc import Callable, Iterator

from fedps import MultiSlotDataGenerator


class Reader(MultiSlotDataGenerator):
    """One sample a line; names of columns and blank lines have none."""

    def generate_sample(self, line: str | None) -> Callable[[], Iterator[list[tuple[str, list[int | float]]]]]:
        """Return a function that yields the line's samples: here one, or none."""

        def reader() -> Iterator[list[tuple[str, list[int | float]]]]:
            fields = (line or "").strip().split(",")
            if not fields[0][:1].isdigit():
                return
            user, item, label = map(int, fields)
            yield [("user_input", [user]), ("item_input", [item]), ("label", [label])]

        return reader


if __name__ == "__main__":
    Reader().run_from_stdin()
