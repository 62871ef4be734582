"""One dense tensor with its optimizer state: a table with a single row."""

import numpy as np

from fedps.errors import TableError
from fedps.table import kernels, rules
from fedps.types import RULES, TableSpec, Values

ONLY = np.zeros(1, np.int64)  # the slot of the single row


class DenseTable:
    """A tensor of a model, whole, kept flat.

    Args:
        spec: its shape and rule; it starts from the values that the first worker seeds.
    """

    def __init__(self, spec: TableSpec) -> None:
        self.spec, self.seeded, self.steps = spec, False, 0
        self._rule, self._constants = RULES.index(spec.rule.name), kernels.constants(spec.rule)
        self.block = np.zeros((1, rules.width(spec.rule, spec.dim)), np.float32)

    @property
    def rate(self) -> float:
        """The learning rate of the last push."""
        return float(self._constants[kernels.LEARNING_RATE])

    def seed(self, values: Values) -> bool:
        """Set the start, float32[1, dim]; only the first call counts. Returns whether it did."""
        if self.seeded:
            return False
        self.block[:, : self.spec.dim] = values
        self.seeded = True
        return True

    def load(self, block: Values, steps: int) -> None:
        """Take over the tensor with its state, float32[1, width]; starts that are offered later do not count.

        Raises:
            TableError: it is of another width.
        """
        if block.shape != self.block.shape:
            raise TableError(f"table {self.spec.name!r}: {block.shape} floats, but {self.block.shape} are due")
        self.block[:] = block
        self.seeded, self.steps = True, steps

    def pull(self) -> Values:
        """Return the values, float32[1, dim], a copy.

        Raises:
            TableError: nobody has seeded it yet.
        """
        if not self.seeded:
            raise TableError(f"table {self.spec.name!r} has no values yet: seed it first")
        return self.block[:, : self.spec.dim].copy()

    def push(self, values: Values, rate: float = 1.0) -> None:
        """Apply the rule. `values`: float32[1, dim]; `rate`: the share of its learning rate to take."""
        self.steps += 1
        self._constants[kernels.LEARNING_RATE] = rate * self.spec.rule.learning_rate
        kernels.change(self.block, ONLY, values, self._constants, self._rule, self.steps)
