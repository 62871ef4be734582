"""A client's model with its tables: what trains, whoever decides when to pull and push.

It holds the private tables, the copies of shared rows and the dense weights, and takes steps on batches by its engine.
The modes move shared values in and out of it.
"""

import math
from collections.abc import Mapping

import numpy as np

from fedps.config import Job
from fedps.data.samples import ClientData, Order
from fedps.models.network import Plan
from fedps.native.compiler import cache_folder
from fedps.training.engine import Engine, Gradients, Rates, Steps
from fedps.training.parameters import Embedding, Parameters, read_parameters
from fedps.training.rules import dense_rule, job_rule
from fedps.training.tables import LocalDense, LocalTable
from fedps.types import NO_KEYS, Keys, Rule, Slots, TableName, TableSpec, Values

ADD = Rule("add")


class Learner:
    """Model, tables and optimizer state of one client.

    Args:
        plan: the job's network.
        job: the job; its optimizer is the client's own rule.
        data: the client's data; tables hold the ids that occur in it.
        local_optimizer: whether shared values are optimized here too (geo, round) or only on servers (sync, async).

    Attributes:
        rate: the share of its learning rate that the last batch took.

    Raises:
        JobError: a name in the job matches nothing, or `use_gpu` finds no CUDA device.
    """

    def __init__(self, plan: Plan, job: Job, data: ClientData, local_optimizer: bool) -> None:
        self.parameters: Parameters = read_parameters(plan.network, job)
        self.rule: Rule = job_rule(job, private=False)
        self.data = data
        self._local = local_optimizer
        shapes, starts = dict(plan.network.dense), plan.network.starts()
        self._shapes = {n: shapes[n] for n in self.parameters.dense}
        self._private_shapes = {n: shapes[n] for n in self.parameters.private_dense}
        rule, own = dense_rule(self.rule), dense_rule(job_rule(job, private=True))
        proximal = job.hyper_parameters.optimizer.proximal
        self.dense = LocalDense(rule if local_optimizer else ADD, _end_to_end(starts, self._shapes), proximal)
        self.private_dense = LocalDense(own, _end_to_end(starts, self._private_shapes))
        self.tables = {
            e.spec.name: LocalTable(self._own_spec(e), data.keys[e.column], 0.0 if e.private else proximal)
            for e in self.parameters.embeddings
        }
        self._columns = {e.spec.name: e.column for e in self.parameters.embeddings}
        self._plan, self._job = plan, job
        self.engine: Engine = self.engine_on(data)
        self.rate = 1.0

    def engine_on(self, data: ClientData) -> Engine:
        """Return what takes steps on samples of the same ids, and so changes this learner's tables."""
        return self._compiled(self._plan, self._job, data) if self._plan.library else self._eager(self._job, data)

    def _compiled(self, plan: Plan, job: Job, data: ClientData) -> Engine:
        from fedps.native.library import Library  # noqa: PLC0415
        from fedps.training.compiled import Compiled  # noqa: PLC0415  (only one of the two is needed)

        here = [*self.private, *(self.shared if self._local else ())]
        places = [self._place(name) for name, _ in plan.network.dense]
        tables = {name: (table, self._columns[name]) for name, table in self.tables.items()}
        dense = ((self.dense, self._local), (self.private_dense, True))
        pairwise = job.hyper_parameters.loss == "bpr"
        return Compiled(Library(cache_folder() / plan.library), data, tables, here, dense, places, pairwise)

    def _eager(self, job: Job, data: ClientData) -> Engine:
        from fedps.models.build import build  # noqa: PLC0415
        from fedps.training.eager import Eager  # noqa: PLC0415  (imports torch)

        runner = job.runner
        return Eager(
            build(job), self.parameters, data, self.tables, self.dense, self.private_dense, self._local,
            gpu=runner.use_gpu, batch=runner.infer_batch_size, loss=job.hyper_parameters.loss,
        )  # fmt: skip

    def _place(self, name: str) -> tuple[int, int]:
        """Return which of the flat vectors holds a dense parameter (0 shared, 1 private), and where it begins there."""
        private = name in self._private_shapes
        at = 0
        for other, shape in (self._private_shapes if private else self._shapes).items():
            if other == name:
                break
            at += math.prod(shape)
        return int(private), at

    def _own_spec(self, embedding: Embedding) -> TableSpec:
        spec = embedding.spec
        rule = spec.rule if embedding.private or self._local else ADD
        return TableSpec(spec.name, spec.kind, spec.shape, rule, spec.init, spec.seed)

    @property
    def shared(self) -> dict[TableName, LocalTable]:
        """The tables whose rows come from the servers."""
        return {e.spec.name: self.tables[e.spec.name] for e in self.parameters.embeddings if not e.private}

    @property
    def private(self) -> dict[TableName, LocalTable]:
        """The tables that never leave this client."""
        return {e.spec.name: self.tables[e.spec.name] for e in self.parameters.embeddings if e.private}

    def server_specs(self, seed: int, changes: Rule = ADD) -> list[TableSpec]:
        """Return the shared tables as the servers keep them: taking changes by a rule, or optimizing gradients."""
        dense = dense_rule(self.rule)
        sparse = [e.spec for e in self.parameters.embeddings if not e.private]
        return [
            *(TableSpec(s.name, "sparse", s.shape, changes if self._local else s.rule, s.init, seed) for s in sparse),
            *(
                TableSpec(n, "dense", shape, changes if self._local else dense, seed=seed)
                for n, shape in self._shapes.items()
            ),
        ]

    def split_dense(self, vector: Values) -> dict[TableName, Values]:
        """Cut a flat float32[n] into its tensors, float32[1, dim] each."""
        out, at = {}, 0
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            out[name] = vector[at : at + size].reshape(1, -1)
            at += size
        return out

    def join_dense(self, tensors: Mapping[TableName, Values]) -> Values:
        """Lay tensors end to end, the inverse of `split_dense`."""
        return _end_to_end(tensors, self._shapes)

    def column(self, table: TableName) -> str:
        """Return the input column that looks up a table."""
        return self._columns[table]

    def train(self, samples: Order, size: int, rates: Rates | None = None) -> Steps:
        """Take a step on each batch of `size` samples; what the servers train only gets its gradients.

        `rates`: for each batch the share of the rules' learning rates to take; left out, all of it.
        """
        rates = np.ones(-(-len(samples) // size)) if rates is None else rates
        self.rate = float(rates[-1])
        return self.engine.train(samples, size, rates)

    def gradients(self) -> Gradients:
        """Return the gradients of the last batch, for shared parameters that the servers train."""
        return self.engine.gradients()

    def read(self, table: TableName, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""
        return self.engine.read(self.tables[table], slots)

    def score(self) -> Values:
        """Return the logits of all held-out samples, float32[n].

        Shared rows count as they were pulled: momentum that a client still owes them is no part of the servers' model.
        """
        for table in self.private.values():
            table.settle()
        return self.engine.score()

    def forget_shared_state(self) -> None:
        """Drop the optimizer state of shared values."""
        for table in self.shared.values():
            table.forget_state()
        self.dense.forget_state()

    def private_block(self) -> dict[TableName, tuple[TableSpec, Keys, Values]]:
        """Return what the client saves for itself: specs, keys and rows with their state; private layers' values."""
        saved = {name: (t.spec, t.keys, t.block) for name, t in self.private.items()}
        at = 0
        for name, shape in self._private_shapes.items():
            spec = TableSpec(name, "dense", shape)
            saved[name] = (spec, NO_KEYS, self.private_dense.values[at : at + spec.dim].reshape(1, -1).copy())
            at += spec.dim
        return saved


def _end_to_end(tensors: Mapping[TableName, Values], names: Mapping[TableName, object]) -> Values:
    return np.concatenate([*(tensors[n].reshape(-1) for n in names), np.empty(0, np.float32)])
