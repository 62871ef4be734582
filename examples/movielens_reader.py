"""Readers in Python, in the same process: class `Reader` for reader_type DataLoader, class `RecDataset` for RecDataset.

In the job: `reader_type: RecDataset` and `train_reader_path: movielens_reader` (this file's name, without its ending,
beside the job file). For held-out samples: `infer_reader_type` and `infer_reader_path`.

What they yield is user, item and label, in this order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Sample = tuple[int, int, int]


class RecDataset:
    """Yields the samples of files of lines user,item,label.

    Args:
        file_list: paths of this client's files.
        config: the job by dotted key, e.g. `runner.train_batch_size`.
    """

    def __init__(self, file_list: Sequence[str], config: Mapping[str, Any]) -> None:
        self.file_list, self.num_items = file_list, config["hyper_parameters.num_items"]

    def __iter__(self) -> Iterator[Sample]:
        for path in self.file_list:
            with Path(path).open(encoding="utf-8") as file:
                for line in file:
                    user, item, label = map(int, line.split(","))
                    if item < self.num_items:  # your own rules go here
                        yield user, item, label


class Reader:
    """The same, in the form that DataLoader asks for."""

    def init(self, config: Mapping[str, Any]) -> None:
        """Take in the job."""
        self.config = config

    def dataloader(self, file_list: Sequence[str]) -> Callable[[], Iterator[Sample]]:
        """Return a function that yields samples."""
        return lambda: iter(RecDataset(file_list, self.config))
