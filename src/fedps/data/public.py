"""Public samples: what all clients and the coordinator may know, and the pairs that a round of distillation is about."""

import zlib

import numpy as np
from numpy.typing import NDArray

from fedps.config import Job
from fedps.data.read.reader import read_samples
from fedps.errors import DataError
from fedps.types import Samples, Values

DRAW = zlib.crc32(b"fedps.data.public")


class Public:
    """The public samples of a job.

    Args:
        job: the job; it names a file of them.

    Attributes:
        samples: all of them, in the file's order.
        round_size: how many pairs a round is about.

    Raises:
        DataError: the file cannot be read, a line is malformed or an id out of range; names file and line.
    """

    def __init__(self, job: Job) -> None:
        hyper = job.hyper_parameters
        assert job.public_data is not None  # noqa: S101  (who asks has looked)
        try:
            self.samples: Samples = read_samples(job.public_data, hyper.num_users, hyper.num_items)
        except DataError as error:
            raise DataError(f"distillation.public_data: {error}") from error
        self._users, user = np.unique(self.samples.user, return_inverse=True)
        self._items, item = np.unique(self.samples.item, return_inverse=True)
        self._labelled, first = np.unique(user * len(self._items) + item, return_index=True)
        self._label = self.samples.label[first]
        self._seed, self._pairs = job.runner.seed, len(self._users) * len(self._items)
        self.round_size = min(job.distillation.samples, self._pairs)

    def of_round(self, round_: int) -> Samples:
        """Draw the pairs that a round is about, of all public users and all public items; everybody draws the same.

        Returns:
            `round_size` samples; their labels are NaN where the file has none.
        """
        draw = np.random.default_rng((self._seed, DRAW, round_))
        places = np.sort(draw.choice(self._pairs, self.round_size, replace=False))
        user, item = np.divmod(places, len(self._items))
        return Samples.pairs(self._users[user], self._items[item], self._labels_of(places))

    def _labels_of(self, places: NDArray[np.int64]) -> Values:
        at = np.minimum(np.searchsorted(self._labelled, places), len(self._labelled) - 1)
        return np.where(self._labelled[at] == places, self._label[at], np.float32(np.nan))
