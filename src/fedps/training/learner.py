"""A client's model with its tables: what trains, whoever decides when to pull and push.

It holds the private tables, the copies of shared rows and the dense weights, and takes steps on batches by its engine.
The modes move shared values in and out of it.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from msgspec.structs import replace

from fedps.cache import cache_folder
from fedps.config import Job
from fedps.data.samples import ClientData, Order
from fedps.errors import needing_torch
from fedps.models.network import Plan
from fedps.ranking import Catalogue
from fedps.training.engine import Engine, Gradients, Steps
from fedps.training.parameters import Parameters, read_parameters
from fedps.training.rules import Rates, dense_rule, job_rule
from fedps.training.tables import Local, LocalDense, LocalTable
from fedps.types import NO_KEYS, Column, Keys, Rule, Samples, Slots, State, TableName, TableSpec, Values, under, within

if TYPE_CHECKING:
    from torch import nn

    from fedps.training.draws import Stream

ADD = Rule("add")


class Part(NamedTuple):
    """A network that is trained in place of the job's own.

    Attributes:
        make: makes it, as `build` would.
        outputs: floats that it returns of a sample, if the gradients of these come from elsewhere (`forward` and
            `backward` train it then); 0: it returns logits.
    """

    make: "Callable[[], nn.Module]"
    outputs: int = 0


class Learner:
    """Model, tables and optimizer state of one client.

        learner = Learner(plan, job, data, local_optimizer=True)
        steps = learner.train(data.order(0), 512)  # one pass, in batches of 512

    Args:
        plan: the job's network, made ready.
        job: the job; its optimizer is the client's own rule.
        data: the client's data; tables have rows for the ids that occur in it.
        local_optimizer: whether shared values are optimized here too (geo, round) or only on servers (sync, async).
        part: what the plan is of, if it is not the job's network.

    Attributes:
        parameters: the network's, sorted by where they live.
        rule: of shared rows that have no other of their own.
        tables: every sparse table, in the network's order.
        shared, private: those whose rows come from the servers, and those that never leave this client.
        frozen: those that come from the servers once, as nobody trains them; a frozen private table is in `private`.
        dense, private_dense: the dense tensors that come from the servers, and those that never leave this client.
        frozen_dense: those that nobody trains, shared and private.
        engine: takes the steps.
        rate: the share of its learning rate that the last batch took.

    Raises:
        JobError: a name in the job matches nothing, or `use_gpu` finds no CUDA device.
        OSError: the compiled step cannot be loaded.
    """

    def __init__(
        self, plan: Plan, job: Job, data: ClientData, local_optimizer: bool, part: Part | None = None
    ) -> None:  # fmt: skip
        self._plan, self._job, self._part = plan, job, part
        self._stream: Stream | None = None  # of all engines by torch
        self.parameters: Parameters = read_parameters(plan.network, job)
        self.rule: Rule = job_rule(job, private=False)
        self.data, self.rate = data, 1.0
        starts, proximal = plan.network.starts(), job.hyper_parameters.optimizer.proximal
        rule, own = dense_rule(self.rule), dense_rule(job_rule(job, private=True))
        frozen = {name: starts.pop(name) for name in plan.network.frozen if name in starts}
        self.dense = LocalDense(
            rule if local_optimizer else ADD, _named(self.parameters.dense, starts), local_optimizer, proximal
        )
        self.private_dense = LocalDense(own, _named(self.parameters.private_dense, starts), optimizes=True)
        self.frozen_dense = LocalDense(ADD, frozen, optimizes=False)
        self.shared: dict[TableName, LocalTable] = {}
        self.private: dict[TableName, LocalTable] = {}
        self.frozen: dict[TableName, LocalTable] = {}
        for e in self.parameters.embeddings:
            optimizes = not e.spec.frozen and (e.private or local_optimizer)
            spec = e.spec if optimizes else replace(e.spec, rule=ADD)
            home = self.private if e.private else self.frozen if spec.frozen else self.shared
            pull_back, given = proximal if home is self.shared else 0.0, self._given(spec)
            home[spec.name] = LocalTable(spec, data.keys[e.space], e.features, optimizes, pull_back, given)
        every = self.shared | self.private | self.frozen
        self.tables = {e.spec.name: every[e.spec.name] for e in self.parameters.embeddings}
        self.engine: Engine = self.engine_on(data)

    def engine_on(self, data: ClientData) -> Engine:
        """Return what takes steps on samples of the same ids, and so changes this learner's tables."""
        return self._compiled(data) if self._plan.library else self._eager(data)

    def _compiled(self, data: ClientData) -> Engine:
        from fedps.training.compiled import Compiled, loss_of  # noqa: PLC0415  (only one of the two is needed)

        names = [name for name, _ in self._plan.network.dense]
        return Compiled(
            cache_folder() / self._plan.library,
            data,
            self.tables,
            self._flats,
            names,
            self._plan.network.inputs,
            loss_of(self._job, self._part.outputs if self._part else 0),
            self._plan.items,
        )

    def _eager(self, data: ClientData) -> Engine:
        with needing_torch():
            from fedps.models.build import build  # noqa: PLC0415
            from fedps.training.draws import Stream  # noqa: PLC0415
            from fedps.training.eager import Eager  # noqa: PLC0415

        modules = {e.spec.name: e.module for e in self.parameters.embeddings}
        self._stream = self._stream or Stream(self._job.runner, self.data.client)
        model = self._part.make() if self._part else build(self._job)
        return Eager(model, modules, data, self.tables, self._flats, self._job, self._stream)

    @property
    def _flats(self) -> tuple[LocalDense, LocalDense, LocalDense]:
        return self.dense, self.private_dense, self.frozen_dense

    def _given(self, spec: TableSpec) -> Values | None:
        """Return the rows of a table whose start is data."""
        return self._plan.network.given_rows(spec.name) if spec.init.kind == "given" else None

    def server_starts(self) -> dict[TableName, Values]:
        """Return what servers cannot make: the shared dense tensors' starts, and all rows of tables that are given."""
        tables = {name: self._given(table.spec) for name, table in (self.shared | self.frozen).items()}
        frozen = _named(self.parameters.dense, self.frozen_dense.split(self.frozen_dense.values))
        given = {name: rows for name, rows in tables.items() if rows is not None}
        return self.dense.split(self.dense.values.copy()) | frozen | given

    def server_specs(self, seed: int, changes: Rule = ADD) -> list[TableSpec]:
        """Return the shared tables as the servers keep them.

        Args:
            seed: the job's.
            changes: the rule by which they take changes; gradients they take by the job's optimizer.
        """
        local, network = self.dense.optimizes, self._plan.network
        shapes, dense = dict(network.dense), changes if local else dense_rule(self.rule)
        sparse = [replace(e.spec, seed=seed) for e in self.parameters.embeddings if not e.private]
        specs = [replace(s, rule=changes) if local else s for s in sparse]
        specs += [
            TableSpec(name, "dense", shapes[name], dense, seed=seed, frozen=name in network.frozen)
            for name in self.parameters.dense
        ]
        return [replace(s, rule=ADD) if s.frozen else s for s in specs]

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
        found = self.engine.gradients()
        return found._replace(rows={name: rows for name, rows in found.rows.items() if name in self.shared})

    def forward(self, samples: Order, rate: float = 1.0) -> Values:
        """Return what a part of a network makes of some training samples, as `Engine.forward`."""
        return self.engine.forward(samples, rate)

    def backward(self, gradient: Values, rate: float = 1.0) -> None:
        """Take a step on the samples that have been open for longest, as `Engine.backward`."""
        self.rate = rate
        self.engine.backward(gradient, rate)

    def read(self, table: TableName, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""
        return self.engine.read(self.tables[table], slots)

    def score(self, rest: Callable[[], None] = lambda: None) -> Values:
        """Return the logits of all held-out samples, float32[n].

        Shared rows count as they were pulled: momentum that a client still owes them is no part of the servers' model.

        Args:
            rest: called now and then, as scoring goes on.
        """
        self.settle_private()
        return self.engine.score(self.data.test, self.data.test_slots, rest)

    def catalogue(self, rest: Callable[[], None] = lambda: None) -> Catalogue:
        """Return all items, each to be scored in the place of a held-out sample's, on rows as they stand when the first is.

        The data knows all items as keys.

        Args:
            rest: called now and then, as scoring goes on.
        """
        items, slots = numbered(self._job.hyper_parameters.num_items)
        ranker = cache(lambda: self.engine.ranker(items, slots))
        return Catalogue(
            len(items.label), self.data.train, lambda samples: ranker()(*self.data.held_out(samples), rest)
        )

    def settle_private(self) -> None:
        """Bring all private rows up to date; rounding makes it count when that is done, so it is at each epoch's end."""
        for table in self.private.values():
            table.settle()

    def forget_shared_state(self) -> None:
        """Drop the optimizer state of shared values."""
        for table in self.shared.values():
            table.forget_state()
        self.dense.forget_state()

    def state(self) -> State:
        """Return all that training has changed here: every value with its optimizer's state; what servers keep frozen, they have."""
        parts = {name: one.state() for name, one in self._trained().items()} | {"engine": self.engine.state()}
        return {"rate": self.rate, **under(parts)}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, of a learner of the same job and data."""
        self.rate = state["rate"]
        for name, one in self._trained().items():
            one.restore(within(state, name))
            one.set_rate(self.rate)
        self.engine.restore(within(state, "engine"))

    def _trained(self) -> dict[str, Local]:
        """Return what training may change, by name."""
        flats = dict(zip(("shared", "private", "frozen"), self._flats, strict=True))
        return {f"tables/{n}": t for n, t in (self.shared | self.private).items()} | {
            f"dense/{kind}": flat for kind, flat in flats.items()
        }

    def private_block(self) -> dict[TableName, tuple[TableSpec, Keys, Values]]:
        """Return what the client saves for itself: specs, keys and rows with their state; private layers' values."""
        saved = {name: (t.spec, t.keys, t.block) for name, t in self.private.items()}
        shapes = dict(self._plan.network.dense)
        layers = self.private_dense.split(self.private_dense.values.copy())
        layers |= self.frozen_dense.split(self.frozen_dense.values.copy())
        for name, values in _named(self.parameters.private_dense, layers).items():
            saved[name] = (
                TableSpec(name, "dense", shapes[name], frozen=name in self.frozen_dense.places),
                NO_KEYS,
                values,
            )
        return saved


def numbered(count: int) -> tuple[Samples, dict[str, Column]]:
    """Return items of which nothing is known but their number, from 0 on, and their slots where all items are keys."""
    items = np.arange(count)
    return Samples({"item": items}, np.zeros(count, np.float32)), {"item": items.astype(np.int32)}


def _named(names: Iterable[TableName], values: Mapping[TableName, Values]) -> dict[TableName, Values]:
    """Return those of some values that have one of these names, in the names' order."""
    return {name: values[name] for name in names if name in values}
