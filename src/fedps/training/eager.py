"""Steps by torch: any network trains so, on the CPU or, with `runner.use_gpu`, on CUDA.

The model's embeddings are replaced by `CompactRows`: during a step they hold only the batch's distinct rows, so a model
of millions of rows costs no more than the rows it touches. Dense parameters are views of two flat vectors (the shared
and the private ones), so that pulling, pushing and optimizing them is one array operation each.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedps.config import Job
from fedps.config.sections.features import first_binary, labels
from fedps.data.samples import ClientData, Order
from fedps.metrics import Histogram
from fedps.models.catalogue import AllItems, has_towers
from fedps.models.inputs import features_of, inputs_of, look_up, pooling_of, tensors
from fedps.models.loss import items_of, predictions, training_loss
from fedps.training.draws import Stream, cuda
from fedps.training.engine import Gradients, Ranker, Steps
from fedps.training.rules import Rates
from fedps.training.tables import LocalDense, LocalTable
from fedps.types import NO_BAGS, Bags, Column, Keys, Samples, Slots, State, TableName, Values, taken

LEAST = 4096  # samples scored at once: smaller pieces are slow, and give the same scores


class CompactRows(nn.Module):
    """Stands in for an embedding: looks its rows up by position instead of by id.

    Args:
        pooling: how the rows of a sample's ids are joined; None: not at all.
        padding_idx: an id that stands for none, beside -1.
    """

    def __init__(self, pooling: str | None = None, padding_idx: int | None = None) -> None:
        super().__init__()
        self._pooling, self._padding_idx = pooling, padding_idx
        self.rows: torch.Tensor = torch.empty(0)
        self.keys: torch.Tensor = torch.empty(0, dtype=torch.int64)  # the ids of the rows, sorted
        self.known: dict[
            int, torch.Tensor
        ] = {}  # places of the ids of whole features, found before, by the tensors of these

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of ids that came with the batch, rearranged or not."""
        index = self.known.get(id(ids))
        if index is not None:
            return functional.embedding(index, self.rows)
        padding = ids < 0 if self._padding_idx is None else (ids < 0) | (ids == self._padding_idx)
        index = torch.searchsorted(self.keys, ids).clamp_(max=max(0, len(self.keys) - 1))
        rows = self.rows if len(self.rows) else self.rows.new_zeros((1, self.rows.shape[1]))
        return look_up(rows, index.masked_fill_(padding, 0), padding, self._pooling if ids.dim() > 1 else None)


class Taken(NamedTuple):
    """A batch as the network takes it: its inputs; each table's distinct slots, and rows, by which it can be derived."""

    inputs: list[torch.Tensor]
    slots: dict[TableName, Slots]
    leaves: list[torch.Tensor]


class Open(NamedTuple):
    """Samples whose `backward` is to come: where the stream stood before them; of the first its batch and output, which hold."""

    samples: Order
    before: State
    made: tuple[Taken, torch.Tensor] | None


class Backward(NamedTuple):
    """One batch: loss, scores float32[B] (`scored`: there are any), each table's slots and gradients, those of each dense."""

    loss: float
    scores: Values
    scored: bool
    slots: dict[TableName, Slots]
    rows: dict[TableName, Values]
    dense: list[Values]


class Eager:
    """A learner's steps, by torch.

    Args:
        model: the network, as built; its embeddings are taken out, its dense parameters become views.
        modules: where in it the embedding of each table is.
        data: what is trained on.
        tables: the learner's tables by name.
        dense: its dense parameters: shared, private, and those that stay as they are.
        job: its loss is made small, on CUDA or not; so many samples are scored at once, if that is enough to be fast.
        stream: what the network draws from.

    Raises:
        JobError: there is no CUDA device.
    """

    def __init__(
        self, model: nn.Module, modules: Mapping[TableName, str], data: ClientData,
        tables: Mapping[TableName, LocalTable], dense: Sequence[LocalDense], job: Job,
        stream: Stream,
    ) -> None:  # fmt: skip
        self._device = cuda() if job.runner.use_gpu else torch.device("cpu")
        self._model, self._data, self._tables, self._dense, self._stream = model, data, tables, dense, stream
        self._batch, self._labels = job.runner.infer_batch_size, labels(features_of(model))
        self._in_batch = job.hyper_parameters.loss == "in_batch_softmax"
        self._loss, self._inputs = (
            training_loss(model, job, partial(data.frequencies, items_of(model))),
            inputs_of(model),
        )
        self._towers = has_towers(model)
        self._compact = {name: compact_rows(model, modules[name], table.features) for name, table in tables.items()}
        for name, compact in self._compact.items():
            model.set_submodule(modules[name], compact)
        weights = dict(model.named_parameters())
        self._weights = [[weights[name] for name in flat.places] for flat in dense]
        if self._device.type == "cpu":
            for tensors, flat in zip(self._weights, dense, strict=True):
                for tensor, view in _views(tensors, flat.values):
                    tensor.data = view
        else:
            model.to(self._device)
        self._last: Backward  # batch
        self._open = deque[Open]()

    def train(self, samples: Order, size: int, rates: Rates) -> Steps:
        """Take a step on each batch of `size` samples; the last may be shorter."""
        losses, scores, histogram = [], [], Histogram()
        for start, share in zip(range(0, len(samples), size), rates.tolist(), strict=True):
            self._set_rate(share)
            step = self._last = self._backward(samples[start : start + size])
            losses.append(step.loss)
            scores.append(step.scores)
            if not math.isfinite(step.loss):
                break
            self._count(histogram, step, samples[start : start + size])
            self._take(step.slots, step.rows, step.dense)
        return Steps(np.array(losses), np.concatenate(scores), histogram)

    def forward(self, samples: Order, rate: float) -> Values:
        """Return what a part of a network makes of some training samples; arguments as for an `Engine`."""
        self._set_rate(rate)
        before, batch, first = self._stream.state(), self._batch_of(samples), not self._open
        with self._stream, torch.set_grad_enabled(first):  # behind others' steps it is made again
            output = self._model(*batch.inputs)
        self._open.append(Open(samples, before, (batch, output) if first else None))
        made: Values = output.detach().cpu().numpy().reshape(len(samples), -1)
        return made

    def backward(self, gradient: Values, rate: float) -> None:
        """Take a step on the samples that have been open for longest; arguments as for an `Engine`."""
        self._set_rate(rate)
        oldest = self._open.popleft()
        batch, output = oldest.made or self._again(oldest)
        writable = gradient if gradient.flags.writeable else gradient.copy()  # torch warns of any other
        slope = torch.from_numpy(writable).to(self._device).reshape(output.shape)
        with self._stream:
            rows, dense = self._derived(output, batch.leaves, slope)
        self._take(batch.slots, rows, dense)

    def _again(self, one: Open) -> tuple[Taken, torch.Tensor]:
        """Return what the network makes now of samples since whose forward a step was taken; its draws are the same."""
        now, batch = self._stream.state(), self._batch_of(one.samples)
        self._stream.restore(one.before)
        with self._stream:
            output = self._model(*batch.inputs)
        self._stream.restore(now)
        return batch, output

    def _take(
        self, slots: Mapping[TableName, Slots], rows: Mapping[TableName, Values], dense: Sequence[Values]
    ) -> None:
        """Take a step, by gradients, on what is optimized here."""
        for name, table in self._tables.items():
            if table.optimizes:
                table.train(slots[name], rows[name])
        for flat, gradient in zip(self._dense, dense, strict=False):  # none of what is frozen
            if flat.optimizes and flat.places:
                flat.train(gradient)

    def _count(self, histogram: Histogram, step: Backward, samples: Order) -> None:
        """Count the scores of a batch in, of the label that they are of, where it is known and its classes are told apart."""
        column, binary = first_binary(self._labels)
        if self._in_batch or not (binary and step.scored):
            return
        label = self._data.train.label[samples]
        if label.ndim == 1:
            histogram.add(step.scores, label)
        else:
            known = ~np.isnan(label[:, column])
            histogram.add(step.scores[known], label[known, column])

    def _set_rate(self, share: float) -> None:
        for table in self._tables.values():
            table.set_rate(share)
        for flat in self._dense:
            flat.set_rate(share)

    def gradients(self) -> Gradients:
        """Return the gradients of the last batch, for shared parameters that the servers train."""
        last = self._last
        rows = {n: (last.slots[n], last.rows[n]) for n, table in self._tables.items() if not table.optimizes}
        return Gradients(rows, last.dense[0])

    @torch.no_grad()
    def score(self, test: Samples, slots: Mapping[str, Column], rest: Callable[[], None] = lambda: None) -> Values:
        """Return the logits of samples, float32[n], or [n, tasks], on the rows as they stand; arguments as for an `Engine`."""
        size, pieces = max(self._batch, LEAST), []
        self._model.eval()
        rows = self._rows()
        for start in range(0, len(test.label), size):
            cut = slice(start, start + size)
            places = {f: taken(slots[f], cut) for f in self._inputs if f in slots}
            inputs, _ = self._load(test.at(cut), rows, dict.fromkeys(self._tables, places))
            with self._stream:
                pieces.append(self._model(*inputs).float().cpu().numpy())
            rest()
        self._model.train()
        return np.concatenate([*pieces, np.empty((0, *pieces[0].shape[1:]) if pieces else 0, np.float32)])

    def ranker(self, items: Samples, slots: Mapping[str, Column]) -> Ranker:
        """Return what scores samples with each of some items in the place of theirs; arguments as for an `Engine`."""
        rows, every = self._rows(), AllItems(self._model, items.columns, self._towers, self._device)

        def rank(test: Samples, slots: Mapping[str, Column], rest: Callable[[], None] = lambda: None) -> Values:
            self._model.eval()
            inputs, _ = self._load(test, rows, {name: {} for name in self._tables})
            with self._stream:
                scores: Values = every(inputs, rest).float().cpu().numpy()
            self._model.train()
            return scores

        return rank

    def read(self, table: LocalTable, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""
        return table.read(slots)

    def state(self) -> State:
        """Return where its stream stands."""
        return self._stream.state()

    def restore(self, state: State) -> None:
        """Go on from what `state` returned; a stream that another engine or device did not have begins anew."""
        self._stream.restore(state)

    def _rows(self) -> dict[TableName, tuple[Keys, Values]]:
        """Return all rows of all tables, as they stand."""
        return {n: (t.keys, np.ascontiguousarray(t.values)) for n, t in self._tables.items()}

    def _backward(self, samples: Order) -> Backward:
        batch, label = self._batch_of(samples), torch.from_numpy(self._data.train.label[samples]).to(self._device)
        with self._stream:
            output = self._model(*batch.inputs)
            loss, scores = self._loss(output, label), predictions(output, label, self._labels)
            rows, dense = self._derived(loss, batch.leaves)
        return Backward(
            float(loss.detach()),
            np.full(len(samples), np.nan, np.float32) if scores is None else scores.cpu().numpy(),
            scores is not None,
            batch.slots,
            rows,
            dense,
        )

    def _batch_of(self, samples: Order) -> Taken:
        data = self._data
        distinct = {f: data.distinct(f, samples) for f in {table.features for table in self._tables.values()}}
        slots = {n: distinct[table.features] for n, table in self._tables.items()}
        rows = {n: (table.keys[slots[n]], table.read(slots[n])) for n, table in self._tables.items()}
        places = {f: self._places(f, slots, samples) for f, slots in distinct.items()}
        inputs, leaves = self._load(
            data.train.at(samples), rows, {n: places[table.features] for n, table in self._tables.items()}
        )
        return Taken(inputs, slots, [leaf.requires_grad_() for leaf in leaves])

    def _derived(
        self, result: torch.Tensor, leaves: Sequence[torch.Tensor], slope: torch.Tensor | None = None
    ) -> tuple[dict[TableName, Values], list[Values]]:
        """Return the gradients of a batch's rows, and of dense parameters: of a loss, or of an output with that of the loss."""
        shared, private, _ = self._weights
        wanted = [*leaves, *shared, *private]
        gradients = torch.autograd.grad(
            result, wanted, slope, materialize_grads=True
        )  # zeros for what the result does not use
        ends = len(leaves), len(leaves) + len(shared)
        rows = {name: g.cpu().numpy() for name, g in zip(self._compact, gradients[: ends[0]], strict=True)}
        return rows, [_flat(gradients[ends[0] : ends[1]]), _flat(gradients[ends[1] :])]

    def _places(self, features: tuple[str, ...], distinct: Slots, samples: Order) -> dict[str, Slots]:
        """Return for features of one id a sample where a batch's ids stand among its distinct ones, int32[B]."""
        slots = {f: column for f in features if not isinstance(column := self._data.slots[f], Bags)}
        return {f: np.searchsorted(distinct, column[samples]).astype(np.int32) for f, column in slots.items()}

    def _load(
        self,
        batch: Samples,
        rows: Mapping[TableName, tuple[Keys, Values]],
        places: Mapping[TableName, Mapping[str, Column]],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Hand rows to the stand-ins; on CUDA, dense weights go there too, as they may have been pulled since.

        Args:
            batch: the samples that the network is to be called with.
            rows: of each table, ids int64[U] and values float32[U, dim].
            places: where a feature's ids stand among these, of features that have one a sample.

        Returns:
            what the network is called with, and each table's rows.
        """
        inputs = [tensor.to(self._device) for tensor in tensors(self._model, batch.columns)]
        for name, compact in self._compact.items():
            keys, values = rows[name]
            compact.rows = torch.from_numpy(values).to(self._device)
            compact.keys = torch.from_numpy(keys).to(self._device)
            compact.known = {
                id(tensor): torch.from_numpy(place.astype(np.int64)).to(self._device)
                for feature, tensor in zip(self._inputs, inputs, strict=True)
                if not isinstance(place := places[name].get(feature, NO_BAGS), Bags)
            }
        if self._device.type != "cpu":
            for tensors_, flat in zip(self._weights, self._dense, strict=True):
                for tensor, view in _views(tensors_, flat.values):
                    tensor.data.copy_(view)
        return inputs, [compact.rows for compact in self._compact.values()]


def compact_rows(model: nn.Module, module: str, features: Sequence[str]) -> CompactRows:
    """Return what stands in for a network's embedding, which some features look up."""
    layer, every = model.get_submodule(module), features_of(model)
    pooling = pooling_of(layer, {feature: every[feature] for feature in features})
    return CompactRows(pooling, cast("int | None", layer.padding_idx))


def _views(tensors: list[nn.Parameter], flat: Values) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
    """Yield dense parameters, each with its own part of a flat vector, float32[n], in its shape."""
    at = 0
    for tensor in tensors:
        yield tensor, torch.from_numpy(flat[at : at + tensor.numel()]).view(tensor.shape)
        at += tensor.numel()


def _flat(tensors: Sequence[torch.Tensor]) -> Values:
    if not tensors:
        return np.empty(0, np.float32)
    return torch.cat([t.reshape(-1) for t in tensors]).cpu().numpy()
