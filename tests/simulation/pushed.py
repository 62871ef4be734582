"""What is pushed in a history, and what tables hold of it.

All values are multiples of `UNIT`, so that sums and weighted means of them are exact.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedps.types import Keys, Values
from tests.simulation.plan import BIASES, COLUMNS, ROWS

UNIT = 840  # divided by any number up to 8 it is whole
MARKED = np.full((1, 1), UNIT, np.float32)


@dataclass(eq=False)
class Pushed:
    """A push to one shard.

    Attributes:
        mark: the row of `marks` that it alone changes.
        client: whose.
        shard: where it went.
        sequence, clock, weight: as it says.
        keys, values: of `rows`.
        bias: of the dense tensor, None where there is none.
        again: whether a process of its client before said one of this sequence: either counts, and not both.
        sent_at: when it was said first.
        answered: whether it was, and so counts unless it was late.
        late: whether it came too late to count.
    """

    mark: int
    client: str
    shard: int
    sequence: int
    clock: int
    weight: float
    keys: Keys
    values: Values
    bias: Values | None
    again: bool
    sent_at: float
    answered: bool = False
    late: bool = False

    @property
    def mark_value(self) -> Values:
        """What it adds to its mark."""
        return MARKED

    def __str__(self) -> str:
        """Name it."""
        return f"push {self.mark} of {self.client} to shard {self.shard}, clock {self.clock}"


class Model(NamedTuple):
    """What one shard's tables hold: float64[ROWS, COLUMNS], float64[BIASES]."""

    rows: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def empty(cls) -> "Model":
        """Return tables without anything in them."""
        return cls(np.zeros((ROWS, COLUMNS)), np.zeros(BIASES))

    def add(self, push: Pushed, share: float = 1.0) -> None:
        """Add a push, or a share of it."""
        self.rows[push.keys] += push.values if share == 1 else push.values.astype(np.float64) * share
        if push.bias is not None:
            self.bias[:] += push.bias[0] if share == 1 else push.bias[0].astype(np.float64) * share

    def copy(self) -> "Model":
        """Return another with the same in it."""
        return Model(self.rows.copy(), self.bias.copy())


def windows_of(pushes: Iterable[Pushed]) -> dict[int, list[Pushed]]:
    """Return pushes by the window that they say, in order."""
    found: dict[int, list[Pushed]] = {}
    for push in pushes:
        found.setdefault(push.clock, []).append(push)
    return dict(sorted(found.items()))


def merged(group: Iterable[Pushed], mode: str) -> tuple[Model, Mapping[Pushed, float]]:
    """Return what a window's pushes come to, and what each adds to its mark."""
    weights = {p: p.weight if mode in ("sync", "round", "touched") else 1.0 for p in group}
    whole, by_row = sum(weights.values()), np.zeros((ROWS, 1))
    for push, weight in weights.items():
        by_row[push.keys] += weight
    summed = Model.empty()
    for push, weight in weights.items():
        summed.add(push, weight)
    if mode != "adaptive":
        summed.rows[:] /= np.maximum(by_row, 1) if mode in ("touched", "heat") else whole
        summed.bias[:] /= whole
    return summed, {p: UNIT * weight / whole if mode in ("sync", "round") else UNIT for p, weight in weights.items()}
