"""The rows a client works on: its private tables, and its copies of shared rows.

A client knows all its ids once its data is read, so a local table is one block over the sorted ids it holds; training
speaks of *slots*, positions in that block. Only `keys` of shared tables ever go out.
"""

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace

from fedps.table import rules
from fedps.types import Keys, Rule, Slots, State, TableName, TableSpec, Values


class Local:
    """Values that a client trains, with the optimizer's state beside them: rows, and what tables and tensors share.

    Args:
        rule: the client's own optimizer.
        rows: how many; dense tensors are one.
        dim: floats of a row's values.
        optimizes: steps here change the rows; False: they only leave gradients, which the servers apply.
        proximal: FedProx μ: pulls rows back towards what was last received.

    Attributes:
        raw: float32[rows, width]: rows with their optimizer state, as they were last written; the same array for good.
        own: the rule.
        rule: the rule at its present rate.
        steps: pushes so far, as a rule counts them.
        anchor: float32[rows, dim], rows as the servers last sent them; None without a proximal term.
    """

    def __init__(self, rule: Rule, rows: int, dim: int, optimizes: bool, proximal: float) -> None:
        self.own = self.rule = rule
        self.dim, self.optimizes, self.proximal, self.steps = dim, optimizes, proximal, 0
        self.raw: Values = np.zeros((rows, rules.width(rule, dim)), np.float32)
        self.anchor: Values | None = np.zeros((rows, dim), np.float32) if proximal else None

    def set_rate(self, share: float) -> None:
        """Go on with this share of the rule's learning rate."""
        self.rule = self.own if share == 1 else replace(self.own, learning_rate=self.own.learning_rate * share)

    def forget_state(self) -> None:
        """Drop optimizer state, as each federated round starts anew."""
        self.raw[:, self.dim :] = 0
        self.steps = 0

    def state(self) -> State:
        """Return all that changes here but the rate, as it lies: rows that momentum still moves are not brought up to date."""
        anchor = {} if self.anchor is None else {"anchor": self.anchor}
        return {"rows": self.raw, "steps": self.steps, **anchor}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned."""
        self.raw[:], self.steps = state["rows"], state["steps"]
        if self.anchor is not None:
            self.anchor[:] = state["anchor"]

    def _step(self, rows: Values, gradients: Values, anchor: Values | None) -> None:
        """Take one optimizer step on some rows, float32[U, width], in place."""
        self.steps += 1
        if anchor is not None:  # the gradient of the term μ/2 ‖w - w₀‖² (FedProx: Li et al., MLSys 2020, eq. 2)
            rules.settle(self.rule, rows, self.steps - 1)
            gradients = gradients + np.float32(self.proximal) * (rows[:, : self.dim] - anchor)
        rules.apply(self.rule, rows, gradients, self.steps)


class LocalTable(Local):
    """Rows of one sparse table.

    Args:
        spec: the table; its rule is the client's own optimizer.
        keys: int64[n], sorted and unique: all ids this client will ever look up.
        features: the inputs that look them up.
        optimizes, proximal: as for `Local`.
        given: float32[rows, dim], where all ids' rows start; None: as the table says.
    """

    def __init__(
        self, spec: TableSpec, keys: Keys, features: tuple[str, ...], optimizes: bool, proximal: float = 0.0,
        given: Values | None = None,
    ) -> None:  # fmt: skip
        super().__init__(spec.rule, len(keys), spec.dim, optimizes, proximal)
        self.spec, self.keys, self.features = spec, keys, features
        self.values[:] = rules.initial_rows(spec, keys) if given is None else given[keys]
        if self.anchor is not None:
            self.anchor[:] = self.values

    @property
    def values(self) -> Values:
        """float32[n, dim]: a view of all rows."""
        return self.raw[:, : self.dim]

    @property
    def block(self) -> Values:
        """float32[n, width]: rows with their optimizer state, as they are now."""
        self.settle()
        return self.raw

    def settle(self) -> None:
        """Bring all rows up to date where the rule moves them without a push."""
        rules.settle(self.rule, self.raw, self.steps)

    def read(self, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""
        rows = self.raw[slots]
        rules.settle(self.rule, rows, self.steps)
        self.raw[slots] = rows
        return np.ascontiguousarray(rows[:, : self.dim])

    def write(self, slots: Slots, values: Values) -> None:
        """Replace rows by the server's values; optimizer state stays."""
        self.raw[slots, : self.dim] = values
        if self.anchor is not None:
            self.anchor[slots] = values

    def train(self, slots: Slots, gradients: Values) -> None:
        """Take one optimizer step on the rows of a batch."""
        rows = self.raw[slots]
        self._step(rows, gradients, None if self.anchor is None else self.anchor[slots])
        self.raw[slots] = rows


class LocalDense(Local):
    """All dense tensors of one kind laid end to end as one row.

    Args:
        rule, optimizes, proximal: as for `Local`.
        starts: the tensors' initial values, float32[size] each.

    Attributes:
        places: where each tensor lies in `values`.
    """

    def __init__(
        self, rule: Rule, starts: Mapping[TableName, Values], optimizes: bool, proximal: float = 0.0
    ) -> None:  # fmt: skip
        ends = np.cumsum([start.size for start in starts.values()], dtype=np.int64).tolist()
        self.places = {
            name: slice(end - start.size, end) for (name, start), end in zip(starts.items(), ends, strict=True)
        }
        super().__init__(rule, 1, ends[-1] if ends else 0, optimizes, proximal)
        self.write(starts)

    @property
    def values(self) -> Values:
        """float32[n]: a view; the model's own parameters share it."""
        return self.raw[0, : self.dim]

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
        self._step(self.raw, gradient.reshape(1, -1), self.anchor)
