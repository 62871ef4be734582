"""A client's model with its tables: what trains, whoever decides when to pull and push.

It holds the private tables, the copies of shared rows and the dense weights, and takes steps on batches by its engine.
The modes move shared values in and out of it.
"""

import numpy as np
from msgspec.structs import replace

from fedps.cache import cache_folder
from fedps.config import Job
from fedps.data.samples import ClientData, Order
from fedps.models.network import Plan
from fedps.training.engine import Engine, Gradients, Steps
from fedps.training.parameters import Parameters, read_parameters
from fedps.training.rules import Rates, dense_rule, job_rule
from fedps.training.tables import LocalDense, LocalTable
from fedps.types import NO_KEYS, Keys, Rule, Slots, TableName, TableSpec, Values

ADD = Rule("add")


class Learner:
    """Model, tables and optimizer state of one client.

        learner = Learner(plan, job, data, local_optimizer=True)
        steps = learner.train(data.order(0), 512)  # one pass, in batches of 512

    Args:
        plan: the job's network, made ready.
        job: the job; its optimizer is the client's own rule.
        data: the client's data; tables have rows for the ids that occur in it.
        local_optimizer: whether shared values are optimized here too (geo, round) or only on servers (sync, async).

    Attributes:
        parameters: the network's, sorted by where they live.
        rule: of shared rows that have no other of their own.
        tables: every sparse table, in the network's order.
        shared, private: those whose rows come from the servers, and those that never leave this client.
        dense, private_dense: the dense tensors that come from the servers, and those that never leave this client.
        engine: takes the steps.
        rate: the share of its learning rate that the last batch took.

    Raises:
        JobError: a name in the job matches nothing, or `use_gpu` finds no CUDA device.
        OSError: the compiled step cannot be loaded.
    """

    def __init__(self, plan: Plan, job: Job, data: ClientData, local_optimizer: bool) -> None:
        self._plan, self._job = plan, job
        self.parameters: Parameters = read_parameters(plan.network, job)
        self.rule: Rule = job_rule(job, private=False)
        self.data, self.rate = data, 1.0
        starts, proximal = plan.network.starts(), job.hyper_parameters.optimizer.proximal
        rule, own = dense_rule(self.rule), dense_rule(job_rule(job, private=True))
        self.dense = LocalDense(
            rule if local_optimizer else ADD, {n: starts[n] for n in self.parameters.dense}, local_optimizer, proximal
        )
        self.private_dense = LocalDense(own, {n: starts[n] for n in self.parameters.private_dense}, optimizes=True)
        self.shared: dict[TableName, LocalTable] = {}
        self.private: dict[TableName, LocalTable] = {}
        for e in self.parameters.embeddings:
            optimizes = e.private or local_optimizer
            spec = e.spec if optimizes else replace(e.spec, rule=ADD)
            table = LocalTable(spec, data.keys[e.column], e.column, optimizes, 0.0 if e.private else proximal)
            (self.private if e.private else self.shared)[spec.name] = table
        every = self.shared | self.private
        self.tables = {e.spec.name: every[e.spec.name] for e in self.parameters.embeddings}
        self.engine: Engine = self.engine_on(data)

    def engine_on(self, data: ClientData) -> Engine:
        """Return what takes steps on samples of the same ids, and so changes this learner's tables."""
        return self._compiled(data) if self._plan.library else self._eager(data)

    def _compiled(self, data: ClientData) -> Engine:
        from fedps.native.library import Library  # noqa: PLC0415
        from fedps.training.compiled import Compiled  # noqa: PLC0415  (only one of the two is needed)

        library = Library(cache_folder() / self._plan.library)
        names = [name for name, _ in self._plan.network.dense]
        pairwise = self._job.hyper_parameters.loss == "bpr"
        return Compiled(library, data, self.tables, (self.dense, self.private_dense), names, pairwise)

    def _eager(self, data: ClientData) -> Engine:
        from fedps.models.build import build  # noqa: PLC0415
        from fedps.training.eager import Eager  # noqa: PLC0415  (imports torch)

        modules = {e.spec.name: e.module for e in self.parameters.embeddings}
        runner, loss = self._job.runner, self._job.hyper_parameters.loss
        return Eager(
            build(self._job), modules, data, self.tables, (self.dense, self.private_dense),
            gpu=runner.use_gpu, batch=runner.infer_batch_size, loss=loss,
        )  # fmt: skip

    def server_specs(self, seed: int, changes: Rule = ADD) -> list[TableSpec]:
        """Return the shared tables as the servers keep them.

        Args:
            seed: the job's.
            changes: the rule by which they take changes; gradients they take by the job's optimizer.
        """
        local, shapes = self.dense.optimizes, dict(self._plan.network.dense)
        sparse = [e.spec for e in self.parameters.embeddings if not e.private]
        rule = changes if local else dense_rule(self.rule)
        return [
            *(replace(spec, rule=changes if local else spec.rule, seed=seed) for spec in sparse),
            *(TableSpec(name, "dense", shapes[name], rule, seed=seed) for name in self.parameters.dense),
        ]

    def train(self, samples: Order, size: int, rates: Rates | None = None) -> Steps:
        """Take a step on each batch; what the servers train only gets its gradients.

        Args:
            samples: int32[n], positions in the data.
            size: samples of a batch; the last may be shorter.
            rates: float64[K], for each batch the share of the rules' learning rates to take; None takes all of it.
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
        self.settle_private()
        return self.engine.score()

    def settle_private(self) -> None:
        """Bring all private rows up to date; rounding makes it count when that is done, so it is at each epoch's end."""
        for table in self.private.values():
            table.settle()

    def forget_shared_state(self) -> None:
        """Drop the optimizer state of shared values."""
        for table in self.shared.values():
            table.forget_state()
        self.dense.forget_state()

    def private_block(self) -> dict[TableName, tuple[TableSpec, Keys, Values]]:
        """Return what the client saves for itself: specs, keys and rows with their state; private layers' values."""
        saved = {name: (t.spec, t.keys, t.block) for name, t in self.private.items()}
        shapes = dict(self._plan.network.dense)
        for name, values in self.private_dense.split(self.private_dense.values.copy()).items():
            saved[name] = (TableSpec(name, "dense", shapes[name]), NO_KEYS, values)
        return saved
