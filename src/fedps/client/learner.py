"""A client's model with its tables: what trains, whoever decides when to pull and push.

It holds the private tables, the copies of shared rows and the dense weights, and can take one step on a batch. The
modes move shared values in and out of it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import nn

from fedps.client.parameters import Embedding, Parameters, dense_rule, local_rule, read_parameters
from fedps.client.shard import Batch, ClientData
from fedps.client.step import Gradients, Step, flat
from fedps.client.tables import LocalDense, LocalTable, Slots
from fedps.config import Job
from fedps.types import NO_KEYS, Rule, TableName, TableSpec, Values


class Found(NamedTuple):
    """One step's result: loss, scores float32[B], the distinct slots of each table, gradients."""

    slots: dict[TableName, Slots]
    gradients: Gradients


class Learner:
    """Model, tables and optimizer state of one client.

    Args:
        model: the network as built.
        job: the job; its optimizer is the client's own rule.
        data: the client's data; tables hold the ids that occur in it.
        local_optimizer: whether shared values are optimized here too (geo, round) or only on servers (sync, async).
    """

    def __init__(self, model: nn.Module, job: Job, data: ClientData, local_optimizer: bool) -> None:
        self.parameters: Parameters = read_parameters(model, job)
        self.rule: Rule = local_rule(job)
        self._local = local_optimizer
        weights = dict(model.named_parameters())
        self._shapes = {n: tuple(weights[n].shape) for n in self.parameters.dense}
        self._private_shapes = {n: tuple(weights[n].shape) for n in self.parameters.private_dense}
        shared = flat([weights[n] for n in self.parameters.dense])
        private = flat([weights[n] for n in self.parameters.private_dense])
        rule = dense_rule(self.rule)
        self.dense = LocalDense(rule if local_optimizer else Rule("add"), shared)
        self.private_dense = LocalDense(rule, private)
        self.tables = {
            e.spec.name: LocalTable(self._own_spec(e), data.keys[e.column]) for e in self.parameters.embeddings
        }
        self.step = Step(model, self.parameters)
        self.step.attach(self.dense.values, self.private_dense.values)

    def _own_spec(self, embedding: Embedding) -> TableSpec:
        spec = embedding.spec
        rule = spec.rule if embedding.private or self._local else Rule("add")
        return TableSpec(spec.name, spec.kind, spec.shape, rule, spec.init, spec.seed)

    @property
    def shared(self) -> dict[TableName, LocalTable]:
        """The tables whose rows come from the servers."""
        return {e.spec.name: self.tables[e.spec.name] for e in self.parameters.embeddings if not e.private}

    @property
    def private(self) -> dict[TableName, LocalTable]:
        """The tables that never leave this client."""
        return {e.spec.name: self.tables[e.spec.name] for e in self.parameters.embeddings if e.private}

    def server_specs(self, seed: int) -> list[TableSpec]:
        """Return the shared tables as the servers keep them: adding changes, or optimizing gradients."""
        add, dense = Rule("add"), dense_rule(self.rule)
        sparse = [e.spec for e in self.parameters.embeddings if not e.private]
        return [
            *(TableSpec(s.name, "sparse", s.shape, add if self._local else s.rule, s.init, seed) for s in sparse),
            *(
                TableSpec(n, "dense", shape, add if self._local else dense, seed=seed)
                for n, shape in self._shapes.items()
            ),
        ]

    def split_dense(self, vector: Values) -> dict[TableName, Values]:
        """Cut a flat float32[n] into its tensors, float32[1, dim] each."""
        out, at = {}, 0
        for name, shape in self._shapes.items():
            size = int(np.prod(shape))
            out[name] = vector[at : at + size].reshape(1, -1)
            at += size
        return out

    def join_dense(self, tensors: Mapping[TableName, Values]) -> Values:
        """Lay tensors end to end, the inverse of `split_dense`."""
        return np.concatenate([tensors[n].reshape(-1) for n in self._shapes] or [np.empty(0, np.float32)])

    def column(self, table: TableName) -> str:
        """Return the input column that looks up a table."""
        return next(e.column for e in self.parameters.embeddings if e.spec.name == table)

    def distinct(self, batch: Batch) -> dict[str, tuple[Slots, Slots]]:
        """Return for each column the batch's distinct slots, int64[U] sorted, and the index of each sample in them."""
        return {c: np.unique(s, return_inverse=True) for c, s in batch.slots.items()}

    def gradients(self, batch: Batch, distinct: Mapping[str, tuple[Slots, Slots]]) -> Found:
        """Compute one batch's loss and gradients on the rows as they are now; train the private ones."""
        columns = {name: self.column(name) for name in self.tables}
        slots = {name: distinct[c][0] for name, c in columns.items()}
        rows = {name: table.read(slots[name]) for name, table in self.tables.items()}
        index = {name: distinct[c][1] for name, c in columns.items()}
        found = self.step.gradients(batch.ids, rows, index, batch.label)
        for name, table in self.private.items():
            table.train(slots[name], found.rows[name])
        if len(found.private_dense):
            self.private_dense.train(found.private_dense)
        return Found(slots, found)

    def train_shared(self, found: Found) -> None:
        """Take the optimizer step on the copies of shared rows and dense weights."""
        for name, table in self.shared.items():
            table.train(found.slots[name], found.gradients.rows[name])
        self.dense.train(found.gradients.dense)

    def forget_shared_state(self) -> None:
        """Drop the optimizer state of shared values."""
        for table in self.shared.values():
            table.forget_state()
        self.dense.forget_state()

    def private_block(self) -> dict[TableName, tuple[TableSpec, Slots, Values]]:
        """Return what the client saves for itself: specs, keys and rows with their state; private layers' values."""
        saved = {name: (t.spec, t.keys, t.block) for name, t in self.private.items()}
        at = 0
        for name, shape in self._private_shapes.items():
            spec = TableSpec(name, "dense", shape)
            saved[name] = (spec, NO_KEYS, self.private_dense.values[at : at + spec.dim].reshape(1, -1).copy())
            at += spec.dim
        return saved
