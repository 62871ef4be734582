"""The rows a client works on: its private tables, and its copies of shared rows.

A client knows all its ids once its data is read, so a local table is one block over the sorted ids it holds; training
speaks of *slots*, positions in that block. Only `keys` of shared tables ever go out.
"""

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace

from fedps.table import rules
from fedps.table.sparse import initial_rows
from fedps.types import Keys, Rule, Slots, TableName, TableSpec, Values


class LocalTable:
    """Rows of one sparse table, with optimizer state beside them.

    Args:
        spec: the table; its rule is the client's own optimizer.
        keys: int64[n], sorted and unique: all ids this client will ever look up.
        column: the input that looks them up.
        optimizes: steps here change the rows; False: they only leave gradients, which the servers apply.
        proximal: FedProx μ: pulls rows back towards what was last received.
        given: float32[rows, dim], where all ids' rows start; None: as the table says.

    Attributes:
        rule: the rule at its present rate.
        steps: pushes so far, as a rule counts them.
        anchor: float32[n, dim], rows as the servers last sent them; None without a proximal term.
    """

    def __init__(
        self, spec: TableSpec, keys: Keys, column: str, optimizes: bool, proximal: float = 0.0,
        given: Values | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.keys, self.column, self.optimizes, self.proximal = spec, keys, column, optimizes, proximal
        self.rule, self.steps = spec.rule, 0
        self._block = np.zeros((len(keys), rules.width(spec.rule, spec.dim)), np.float32)
        self.values[:] = initial_rows(spec, keys) if given is None else given[keys]
        self.anchor: Values | None = self.values.copy() if proximal else None

    @property
    def values(self) -> Values:
        """float32[n, dim]: a view of all rows."""
        return self._block[:, : self.spec.dim]

    @property
    def raw(self) -> Values:
        """float32[n, width]: rows with their optimizer state, as they were last written."""
        return self._block

    @property
    def block(self) -> Values:
        """float32[n, width]: rows with their optimizer state, as they are now."""
        self.settle()
        return self._block

    def settle(self) -> None:
        """Bring all rows up to date where the rule moves them without a push."""
        rules.settle(self.rule, self._block, self.steps)

    def read(self, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""
        rows = self._block[slots]
        rules.settle(self.rule, rows, self.steps)
        self._block[slots] = rows
        return np.ascontiguousarray(rows[:, : self.spec.dim])

    def write(self, slots: Slots, values: Values) -> None:
        """Replace rows by the server's values; optimizer state stays."""
        self._block[slots, : self.spec.dim] = values
        if self.anchor is not None:
            self.anchor[slots] = values

    def set_rate(self, share: float) -> None:
        """Go on with this share of the rule's learning rate."""
        self.rule = at_rate(self.spec.rule, share)

    def train(self, slots: Slots, gradients: Values) -> None:
        """Take one optimizer step on the rows of a batch."""
        self.steps += 1
        rows = self._block[slots]
        if self.anchor is not None:
            rules.settle(self.rule, rows, self.steps - 1)
            gradients = _pulled_back(gradients, self.proximal, rows[:, : self.spec.dim], self.anchor[slots])
        rules.apply(self.rule, rows, gradients, self.steps)
        self._block[slots] = rows

    def forget_state(self) -> None:
        """Drop optimizer state, as each federated round starts anew."""
        self._block[:, self.spec.dim :] = 0
        self.steps = 0


class LocalDense:
    """All dense tensors of one kind laid end to end as one row, with optimizer state.

    Args:
        rule: the client's own optimizer.
        starts: the tensors' initial values, float32[size] each.
        optimizes: as for a table.
        proximal: FedProx μ: pulls them back towards what was last received.

    Attributes:
        places: where each tensor lies in `values`.
        rule: the rule at its present rate.
        steps: pushes so far, as a rule counts them.
        anchor: float32[1, n], the tensors as the servers last sent them; None without a proximal term.
    """

    def __init__(
        self, rule: Rule, starts: Mapping[TableName, Values], optimizes: bool, proximal: float = 0.0
    ) -> None:  # fmt: skip
        ends = np.cumsum([start.size for start in starts.values()], dtype=np.int64).tolist()
        self.places = {
            name: slice(end - start.size, end) for (name, start), end in zip(starts.items(), ends, strict=True)
        }
        self._size = ends[-1] if ends else 0
        self.rule, self._own, self.steps, self.optimizes, self.proximal = rule, rule, 0, optimizes, proximal
        self._block = np.zeros((1, rules.width(rule, self._size)), np.float32)
        self.anchor: Values | None = np.zeros((1, self._size), np.float32) if proximal else None
        self.write(starts)

    @property
    def raw(self) -> Values:
        """float32[1, width]: values with their optimizer state."""
        return self._block

    @property
    def values(self) -> Values:
        """float32[n]: a view; the model's own parameters share it."""
        return self._block[0, : self._size]

    def set_rate(self, share: float) -> None:
        """Go on with this share of the rule's learning rate."""
        self.rule = at_rate(self._own, share)

    def split(self, vector: Values) -> dict[TableName, Values]:
        """Cut a flat float32[n] into its tensors, float32[1, size] views."""
        return {name: vector[place].reshape(1, -1) for name, place in self.places.items()}

    def write(self, tensors: Mapping[TableName, Values]) -> None:
        """Replace some tensors by the servers' values, float32[size] or [1, size] each; optimizer state stays."""
        for name, values in tensors.items():
            self.values[self.places[name]] = values.reshape(-1)
        if self.anchor is not None:
            self.anchor[0] = self.values

    def train(self, gradient: Values) -> None:
        """Take one optimizer step. `gradient`: float32[n]."""
        self.steps += 1
        gradients = gradient.reshape(1, -1)
        if self.anchor is not None:
            gradients = _pulled_back(gradients, self.proximal, self._block[:, : self._size], self.anchor)
        rules.apply(self.rule, self._block, gradients, self.steps)

    def forget_state(self) -> None:
        """Drop optimizer state, as each federated round starts anew."""
        self._block[0, self._size :] = 0
        self.steps = 0


def at_rate(rule: Rule, share: float) -> Rule:
    """Return a rule with this share of its learning rate."""
    return rule if share == 1 else replace(rule, learning_rate=rule.learning_rate * share)


def _pulled_back(gradients: Values, proximal: float, values: Values, anchor: Values) -> Values:
    """Add the gradient of the proximal term μ/2 ‖w - w₀‖² (FedProx: Li et al., MLSys 2020, eq. 2)."""
    return gradients + np.float32(proximal) * (values - anchor)
