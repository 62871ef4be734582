"""What a party trains of a vertical network: its bottom (`Half`), and at the active party what joins all (`Top`).

One step, at the active party:

    half, top = Half(job, "shop", data), Top(job, {"shop": half.width, "bank": 81}, samples)
    cut = half.forward(batch)
    stepped = top.step([cut, theirs], label)
    half.backward(stepped.gradients[0])

A passive party says its cut and waits for the gradient.

Both are learners (`training.learner`) of a part of the network. A bottom's tables and layers are all private, and the
gradient of its output comes from elsewhere. A top's tables are what the parties sent, a row a sample, and leave the gradients
of these rows as tables do that servers train. So both take compiled steps where there is a compiler, and torch's elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedps.config import Job
from fedps.config.sections.features import Feature
from fedps.config.vertical import VerticalJob
from fedps.data.samples import ClientData, Order
from fedps.errors import JobError
from fedps.models.build import redrawn
from fedps.models.describe import describe
from fedps.models.inputs import adapt
from fedps.models.network import Network
from fedps.storage.snapshot import Tables
from fedps.training.draws import one_core
from fedps.training.learner import Learner, Part
from fedps.training.planning import plan_model
from fedps.training.rules import rates_at
from fedps.types import ClientId, Init, Samples, State, Values, under, within
from fedps.vertical.networks import ADDING, TOP, make_bottom, make_top, part_job, width_of

AT_ONCE = 8192  # held-out samples that are scored at once, at most


class Half:
    """A party's bottom with its tables, which never leave it, and their optimizer.

    Args:
        job: the job.
        party: whose; it has features.
        data: its samples, in the order on which all parties agreed.

    Attributes:
        width: floats that it sends of a sample.
        reason: why it is trained by torch, which is a few times slower; empty if its steps are compiled.

    Raises:
        JobError: it has no features, or the network cannot be made of them.
    """

    def __init__(self, job: VerticalJob, party: str, data: ClientData) -> None:
        one_core()
        bottom, own = make_bottom(job, party), part_job(job, party)
        if bottom is None:
            raise JobError(f"parties.{party}.features: has none but labels, so it trains nothing: give it features")
        self.width = width_of(bottom)
        network = describe(bottom.eval(), redrawn(bottom, own, {}))
        own = _with(own, local_sparse=_tables(network), local_dense=[name for name, _ in network.dense])
        part = Part(lambda: _made(make_bottom(job, party)), self.width)
        plan = plan_model(bottom, network, own, part)
        self.reason, self._learner = plan.reason, Learner(plan, own, data, local_optimizer=True, part=part)
        self._share = _schedule(job, len(data.train.label))
        self._steps = 0

    def forward(self, samples: Order) -> Values:
        """Return what the party sends of some training samples, float32[B, width]; it stays open until its `backward`.

        Several may be open, each computed from the weights as they stood then.
        """
        return self._learner.forward(samples, self._share(self._steps))

    def backward(self, gradient: Values) -> None:
        """Take a step on the batch that has been open for longest.

        Args:
            gradient: of what was sent of it, float32[B, width]; it goes on through the weights as they stand now.
        """
        gradient = np.ascontiguousarray(gradient, np.float32)
        self._learner.backward(gradient, self._share(self._steps))
        self._steps += 1

    def score(self, places: slice) -> Values:
        """Return what the party sends of some held-out samples, float32[n, width]."""
        self._learner.settle_private()
        data = self._learner.data
        test, slots = data.held_out(np.arange(len(data.test.label))[places])
        return self._learner.engine.score(test, slots).reshape(len(test.label), self.width)

    def tables(self) -> Tables:
        """Return its rows and layers, by their parameters' names."""
        return self._learner.private_block()

    def model(self) -> State:
        """Return what predicts, without what only training needs: rows with their ids, and layers."""
        return _model_of(self.tables())

    def load(self, model: State) -> None:
        """Take up what `model` returned of the same job, whatever samples these are; ids that it lacks stay as they start."""
        _load(self._learner, model)

    def state(self) -> State:
        """Return all that training has changed; no batch is open."""
        return {**self._learner.state(), "steps": self._steps}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, of a half of the same job and data."""
        self._learner.restore(state)
        self._steps = state["steps"]


class Stepped(NamedTuple):
    """What a step of the top came to.

    Attributes:
        loss: the batch's mean; if it is not finite, nothing was changed and the gradients mean nothing.
        scores: float32[B]: probabilities, with mse numbers.
        gradients: of what each party sent, float32[B, width], in the order in which it came; of several it may be the same array.
    """

    loss: float
    scores: Values
    gradients: list[Values]


class Top:
    """What joins the parties' parts at the active party, with its optimizer.

    Args:
        job: the job.
        widths: of each party that has features, in the order of `job.order`.
        samples: that an epoch trains on.

    Attributes:
        reason: as a half's.

    Raises:
        JobError: the network does not take so many parties, or its own class cannot be made.
    """

    def __init__(self, job: VerticalJob, widths: Mapping[str, int], samples: int) -> None:
        one_core()
        self._adds, self._parties = job.vertical.network in ADDING, len(widths)
        widths = dict([*widths.items()][:1]) if self._adds else widths
        rows, names = (
            max(min(job.vertical.train_batch_size, samples), AT_ONCE),
            [f"cut_{k}" for k in range(len(widths))],
        )
        kind = "real" if job.vertical.loss == "mse" else "binary"
        features = {name: Feature(kind="id", rows=rows) for name in names}
        features["label"] = Feature(kind="label", of=kind)
        own = part_job(job, TOP).model_copy(update={"features": features})

        def make() -> nn.Module:
            whole = _OfRows(make_top(job, widths), list(widths.values()), rows)
            adapt(job.vertical.network, whole, features, classic=False)
            return whole

        top, self._rows = make(), np.arange(rows, dtype=np.int32)
        network = describe(top.eval())
        own = _with(own, model=None, remote_sparse=_tables(network), local_dense=[name for name, _ in network.dense])
        label = np.zeros(rows, np.float32)
        self._data = ClientData(
            Samples(dict.fromkeys(names, self._rows), label), None, ClientId(job.vertical.active), own.runner.seed,
            shuffle=False, spaces={name: name for name in names},
        )  # fmt: skip
        part = Part(make)
        plan = plan_model(top, network, own, part)
        self.reason, self._learner = plan.reason, Learner(plan, own, self._data, local_optimizer=False, part=part)
        self._cuts = list(self._learner.shared.values())
        self._share = _schedule(job, samples)
        self._steps = 0

    def step(self, cuts: Sequence[Values], label: Values) -> Stepped:
        """Take a step on a batch.

        Args:
            cuts: what each party sent, float32[B, width], in the order of `widths`.
            label: float32[B].
        """
        count = self._lay(cuts)
        self._data.train.label[:count] = label
        steps = self._learner.train(self._rows[:count], count, np.array([self._share(self._steps)]))
        self._steps += 1
        rows = self._learner.gradients().rows
        gradients = [rows[table.spec.name][1] for table in self._cuts]
        gradients = gradients * self._parties if self._adds else gradients
        return Stepped(float(steps.losses[0]), steps.scores, gradients)

    def score(self, cuts: Sequence[Values]) -> Values:
        """Return the logits, with mse the numbers, of held-out samples, float32[n]."""
        found, count = [], len(cuts[0])
        for start in range(0, count, len(self._rows)):
            samples = self._rows[: self._lay([cut[start : start + len(self._rows)] for cut in cuts])]
            places = dict.fromkeys(self._data.slots, samples)
            found.append(self._learner.engine.score(Samples(places, self._data.train.label[: len(samples)]), places))
        return np.concatenate([*found, np.empty(0, np.float32)])

    def tables(self) -> Tables:
        """Return its layers, by their parameters' names."""
        return self._learner.private_block()

    def model(self) -> State:
        """Return what predicts, without what only training needs: its layers."""
        return _model_of(self.tables())

    def load(self, model: State) -> None:
        """Take up what `model` returned of a top of the same job."""
        _load(self._learner, model)

    def state(self) -> State:
        """Return all that training has changed."""
        learner = self._learner
        parts = under({"dense": learner.private_dense.state(), "engine": learner.engine.state()})
        return {**parts, "rate": learner.rate, "steps": self._steps}

    def restore(self, state: State) -> None:
        """Go on from what `state` returned, of a top of the same job."""
        learner = self._learner
        learner.private_dense.restore(within(state, "dense"))
        learner.engine.restore(within(state, "engine"))
        learner.rate, self._steps = state["rate"], state["steps"]

    def _lay(self, cuts: Sequence[Values]) -> int:
        """Lay what the parties sent into the tables, or their sum into the one; return of how many samples it is."""
        cuts = [reduce(np.add, cuts)] if self._adds else cuts
        for table, cut in zip(self._cuts, cuts, strict=True):
            table.values[: len(cut)] = cut
        return len(cuts[0])


class _OfRows(nn.Module):
    """A top that looks up what the parties sent, by the samples' places in the batch."""

    def __init__(self, top: nn.Module, widths: Sequence[int], rows: int) -> None:
        super().__init__()
        self.cuts = nn.ModuleList(nn.Embedding(rows, width, _weight=torch.zeros(rows, width)) for width in widths)
        self.row_init = {
            f"cuts.{k}.weight": Init("normal", 0.0, 1.0) for k in range(len(widths))
        }  # until there are any
        self.top = top

    def forward(self, **places: Tensor) -> Tensor:
        """Return float32[B]. `places`: int64[B] each."""
        rows = [cut(at) for cut, at in zip(self.cuts, places.values(), strict=True)]
        logits: Tensor = self.top(*(row.squeeze(1) if row.shape[1] == 1 else row for row in rows))
        return logits


def _model_of(tables: Tables) -> State:
    return under(
        {name: {"keys": keys, "rows": rows[:, : spec.dim].copy()} for name, (spec, keys, rows) in tables.items()}
    )


def _load(learner: Learner, model: State) -> None:
    for name, table in learner.private.items():
        saved = within(model, name)
        _, own, theirs = np.intersect1d(table.keys, saved["keys"], assume_unique=True, return_indices=True)
        table.values[own] = saved["rows"][theirs]
    for flat in (learner.private_dense, learner.frozen_dense):
        flat.write({name: model[f"{name}/rows"] for name in flat.places if f"{name}/rows" in model})


def _made(bottom: nn.Module | None) -> nn.Module:
    assert bottom is not None  # noqa: S101  (it was there a moment ago)
    return bottom


def _tables(network: Network) -> list[str]:
    return [embedding.name for embedding in network.embeddings]


def _with(job: Job, **runner: object) -> Job:
    return job.model_copy(update={"runner": job.runner.model_copy(update=runner)})


def _schedule(job: VerticalJob, samples: int) -> Callable[[int], float]:
    """Return what tells the share of the learning rates to take at a step, counted from 0, of an epoch of so many samples."""
    optimizer, vertical = job.hyper_parameters.optimizer, job.vertical
    each = max(1, -(-samples // vertical.train_batch_size))
    return lambda step: float(rates_at(optimizer, vertical.epochs, np.array([(step + 0.5) / each]))[0])
