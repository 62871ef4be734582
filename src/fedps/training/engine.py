"""What takes training steps: compiled code (`compiled`), or torch (`eager`). Both change the same tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedps.data.samples import Order
from fedps.metrics import Histogram
from fedps.training.rules import Rates
from fedps.training.tables import LocalTable
from fedps.types import Column, Samples, Slots, State, TableName, Values


class Steps(NamedTuple):
    """What some batches came to.

    Training ends early at a loss that is not finite; then the last of `losses` is.

    Attributes:
        losses: float64[K], each batch's mean.
        scores: float32[n], every sample's: a probability, of a real label a number; NaN where the loss compares no samples.
        histogram: how the scores are spread.
    """

    losses: NDArray[np.float64]
    scores: Values
    histogram: Histogram

    @staticmethod
    def joined(parts: Sequence["Steps"]) -> "Steps":
        """Return what batches that were trained in several goes came to together."""
        if len(parts) == 1:
            return parts[0]
        histogram = Histogram()
        for part in parts:
            histogram.merge(part.histogram)
        return Steps(np.concatenate([p.losses for p in parts]), np.concatenate([p.scores for p in parts]), histogram)


class Gradients(NamedTuple):
    """Of one batch, for what is not trained here: each table's distinct slots (sorted) and rows; dense, float32[n]."""

    rows: dict[TableName, tuple[Slots, Values]]
    dense: Values


class Ranker(Protocol):
    """Scores samples with every item, on rows as they stood when it was made."""

    def __call__(self, test: Samples, slots: Mapping[str, Column], rest: Callable[[], None] = lambda: None) -> Values:
        """Return logits, float32[n, items], or [n, items, tasks]; arguments as for `Engine.score`."""


class Engine(Protocol):
    """Takes steps for a learner."""

    def train(self, samples: Order, size: int, rates: Rates) -> Steps:
        """Take a step on each batch of `size` samples; the last may be shorter. Tables go on with the last batch's rate."""

    def gradients(self) -> Gradients:
        """Return the gradients of the last batch, for shared parameters that the servers train."""

    def score(self, test: Samples, slots: Mapping[str, Column], rest: Callable[[], None] = lambda: None) -> Values:
        """Return the logits of samples, float32[n], or [n, tasks], on the rows as they stand.

        Args:
            test: n samples.
            slots: for each feature of ids the places of theirs among the data's keys, int32[n], or bags of such.
            rest: called now and then, between two goes of some samples.
        """

    def ranker(self, items: Samples, slots: Mapping[str, Column]) -> Ranker:
        """Return what scores samples with each of some items in the place of theirs.

        Args:
            items: a sample an item, of the features that tell of it (`of_item`).
            slots: of those that are ids, as for `score`.
        """

    def read(self, table: LocalTable, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""

    def forward(self, samples: Order, rate: float) -> Values:
        """Return what a part of a network makes of some training samples, float32[B, outputs].

        They stay open until their `backward`, and several may be.

        Args:
            samples: positions in the data.
            rate: the share of their learning rates at which tables move on by themselves.
        """

    def backward(self, gradient: Values, rate: float) -> None:
        """Take a step on the samples that have been open for longest, through the network's weights as they stand now.

        Args:
            gradient: of the loss by what `forward` returned of them, float32[B, outputs].
            rate: the share of its learning rates to take.
        """

    def state(self) -> State:
        """Return what it carries from one step to the next beside the tables."""

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
