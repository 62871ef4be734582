"""Steps by torch: any network trains so, on the CPU or, with `runner.use_gpu`, on CUDA.

The model's embeddings are replaced by `CompactRows`: during a step they hold only the batch's distinct rows, so a model
of millions of rows costs no more than the rows it touches. Dense parameters are views of two flat vectors (the shared
and the private ones), so that pulling, pushing and optimizing them is one array operation each.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from fedps.data.samples import ClientData, Order
from fedps.errors import JobError
from fedps.metrics import Histogram
from fedps.models.loss import LOSSES, own_loss
from fedps.training.engine import Gradients, Steps
from fedps.training.parameters import Parameters
from fedps.training.rates import Rates
from fedps.training.tables import LocalDense, LocalTable
from fedps.types import COLUMNS, ClientId, Slots, TableName, Values

LEAST = 4096  # samples scored at once: smaller pieces are slow, and give the same scores


class CompactRows(nn.Module):
    """Stands in for an embedding: looks its rows up by position instead of by id."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: torch.Tensor = torch.empty(0)
        self.index: torch.Tensor = torch.empty(0, dtype=torch.int64)

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """Return rows[index]; the ids are not needed, their positions were found before."""
        return functional.embedding(self.index, self.rows)


class Found(NamedTuple):
    """One batch: loss, scores float32[B], each table's distinct slots and row gradients, flat dense gradients."""

    loss: float
    scores: Values
    slots: dict[TableName, Slots]
    rows: dict[TableName, Values]
    dense: Values
    private_dense: Values


class Eager:
    """A learner's steps, by torch.

    Args:
        model: the network, as built; its embeddings are taken out, its dense parameters become views.
        parameters: which is which.
        data: what is trained on.
        tables: the learner's tables by name.
        dense, private_dense: its dense parameters.
        local: whether shared values are trained here too, or only on servers.
        gpu: train on CUDA.
        batch: samples scored at once, if that is enough to be fast.
        loss: the built-in loss, if the network has none of its own.

    Raises:
        JobError: there is no CUDA device.
    """

    def __init__(
        self, model: nn.Module, parameters: Parameters, data: ClientData, tables: Mapping[TableName, LocalTable],
        dense: LocalDense, private_dense: LocalDense, local: bool, gpu: bool, batch: int,
        loss: str = "bce",
    ) -> None:  # fmt: skip
        self._device = cuda() if gpu else torch.device("cpu")
        self._model, self._data, self._tables, self._local = model, data, tables, local
        self._dense, self._private_dense, self._batch = dense, private_dense, batch
        self._columns = {e.spec.name: e.column for e in parameters.embeddings}
        self._private = {e.spec.name for e in parameters.embeddings if e.private}
        self._loss = own_loss(model) or LOSSES[loss]
        self._compact: dict[str, CompactRows] = {}
        for embedding in parameters.embeddings:
            compact = CompactRows()
            model.set_submodule(embedding.module, compact)
            self._compact[embedding.spec.name] = compact
        weights = dict(model.named_parameters())
        self._shared_weights = [weights[n] for n in parameters.dense]
        self._private_weights = [weights[n] for n in parameters.private_dense]
        if self._device.type == "cpu":
            _attach(self._shared_weights, dense.values)
            _attach(self._private_weights, private_dense.values)
        else:
            model.to(self._device)
        self._found: Found | None = None

    def train(self, samples: Order, size: int, rates: Rates) -> Steps:
        """Take a step on each batch of `size` samples; the last may be shorter."""
        losses, scores, histogram = [], [], Histogram()
        for start, share in zip(range(0, len(samples), size), rates.tolist(), strict=True):
            self._set_rate(share)
            found = self._found = self._step(samples[start : start + size])
            losses.append(found.loss)
            scores.append(found.scores)
            if not math.isfinite(found.loss):
                break
            histogram.add(found.scores, self._data.train.label[samples[start : start + size]])
            for name, table in self._tables.items():
                if self._local or name in self._private:
                    table.train(found.slots[name], found.rows[name])
            if self._local:
                self._dense.train(found.dense)
            if len(found.private_dense):
                self._private_dense.train(found.private_dense)
        return Steps(np.array(losses), np.concatenate(scores), histogram)

    def _set_rate(self, share: float) -> None:
        for table in self._tables.values():
            table.set_rate(share)
        self._dense.set_rate(share)
        self._private_dense.set_rate(share)

    def gradients(self) -> Gradients:
        """Return the gradients of the last batch, for shared parameters that the servers train."""
        found = self._found
        assert found is not None  # noqa: S101  (whoever asks has trained)
        shared = {n: (found.slots[n], found.rows[n]) for n in self._tables if not (self._local or n in self._private)}
        return Gradients(shared, found.dense)

    @torch.no_grad()
    def score(self) -> Values:
        """Return the logits of all held-out samples, float32[n], on the rows as they stand."""
        test, size = self._data.test, max(self._batch, LEAST)
        self._model.eval()
        rows, pieces = {n: np.ascontiguousarray(t.values) for n, t in self._tables.items()}, []
        for start in range(0, len(test.label), size):
            cut = slice(start, start + size)
            index = {n: self._data.test_slots[column][cut] for n, column in self._columns.items()}
            self._load(rows, index)
            pieces.append(self._model(*self._ids(test.user[cut], test.item[cut])).float().cpu().numpy())
        self._model.train()
        return np.concatenate([*pieces, np.empty(0, np.float32)])

    def read(self, table: LocalTable, slots: Slots) -> Values:
        """Return rows as they are now, float32[U, dim]."""
        return table.read(slots)

    def _step(self, samples: Order) -> Found:
        data = self._data
        distinct = {c: np.unique(data.slots[c][samples], return_inverse=True) for c in COLUMNS}
        slots = {n: distinct[c][0] for n, c in self._columns.items()}
        rows = {n: table.read(slots[n]) for n, table in self._tables.items()}
        leaves = self._load(rows, {n: distinct[c][1] for n, c in self._columns.items()})
        for leaf in leaves:
            leaf.requires_grad_()
        logits = self._model(*self._ids(data.train.user[samples], data.train.item[samples]))
        loss = self._loss(logits, torch.from_numpy(data.train.label[samples]).to(self._device))
        wanted = [*leaves, *self._shared_weights, *self._private_weights]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        whole = [g if g is not None else torch.zeros_like(w) for g, w in zip(found, wanted, strict=True)]
        of_rows, of_dense = whole[: len(leaves)], whole[len(leaves) :]
        cut = len(self._shared_weights)
        return Found(
            float(loss.detach()),
            torch.sigmoid(logits.detach()).cpu().numpy(),
            slots,
            {name: g.cpu().numpy() for name, g in zip(self._compact, of_rows, strict=True)},
            _flat(of_dense[:cut]),
            _flat(of_dense[cut:]),
        )

    def _ids(self, *columns: NDArray[Any]) -> list[torch.Tensor]:
        return [torch.from_numpy(column.astype(np.int64)).to(self._device) for column in columns]

    def _load(self, rows: Mapping[str, Values], index: Mapping[str, NDArray[Any]]) -> list[torch.Tensor]:
        """Hand rows to the stand-ins; on CUDA, dense weights go there too, as they may have been pulled since."""
        for name, compact in self._compact.items():
            compact.rows = torch.from_numpy(rows[name]).to(self._device)
            compact.index = torch.from_numpy(index[name].astype(np.int64)).to(self._device)
        if self._device.type != "cpu":
            _copy(self._shared_weights, self._dense.values)
            _copy(self._private_weights, self._private_dense.values)
        return [compact.rows for compact in self._compact.values()]


def prepare_torch(seed: int, client: ClientId) -> None:
    """Set this thread up to train one client: a core of its own, and dropout's stream from the job's seed.

    Denormals are flushed: arithmetic on them is many times slower.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(zlib.crc32(f"{seed} {client}".encode()))  # dropout knows no stream but torch's own


def cuda() -> torch.device:
    """Return the CUDA device to train on.

    Raises:
        JobError: there is none.
    """
    if not torch.cuda.is_available():
        raise JobError(
            "runner.use_gpu: true, but torch finds no CUDA device here: set it to false, or install a driver and a torch"
            f" built for CUDA (this is torch {torch.__version__})"
        )
    return torch.device("cuda")


def _attach(tensors: list[nn.Parameter], flat: Values) -> None:
    """Make dense parameters views of a flat vector, float32[n]."""
    at = 0
    for tensor in tensors:
        tensor.data = torch.from_numpy(flat[at : at + tensor.numel()]).view(tensor.shape)
        at += tensor.numel()


@torch.no_grad()
def _copy(tensors: list[nn.Parameter], flat: Values) -> None:
    at = 0
    for tensor in tensors:
        tensor.copy_(torch.from_numpy(flat[at : at + tensor.numel()]).view(tensor.shape))
        at += tensor.numel()


def _flat(tensors: list[torch.Tensor]) -> Values:
    if not tensors:
        return np.empty(0, np.float32)
    return torch.cat([t.reshape(-1) for t in tensors]).cpu().numpy()
