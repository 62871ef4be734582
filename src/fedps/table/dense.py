"""One dense tensor with its optimizer state: a table with a single row."""

import numpy as np

from fedps.errors import TableError
from fedps.table import rules
from fedps.types import TableSpec, Values


class DenseTable:
    """A tensor of a model, whole, kept flat.

    Args:
        spec: its shape and rule; it starts from the values that the first worker seeds.
    """

    def __init__(self, spec: TableSpec) -> None:
        self.spec, self.seeded, self.steps = spec, False, 0
        self.block = np.zeros((1, rules.width(spec.rule, spec.dim)), np.float32)

    def seed(self, values: Values) -> bool:
        """Set the start, float32[1, dim]; only the first call counts. Returns whether it did."""
        if self.seeded:
            return False
        self.block[:, : self.spec.dim] = values
        self.seeded = True
        return True

    def pull(self) -> Values:
        """Return the values, float32[1, dim], a copy.

        Raises:
            TableError: nobody has seeded it yet.
        """
        if not self.seeded:
            raise TableError(f"table {self.spec.name!r} has no values yet: seed it first")
        return self.block[:, : self.spec.dim].copy()

    def push(self, values: Values) -> None:
        """Apply the rule. `values`: float32[1, dim]."""
        self.steps += 1
        rules.apply(self.spec.rule, self.block, values, self.steps)
