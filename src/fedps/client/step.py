"""One training step: rows and a batch in, loss and gradients out.

The model's embeddings are replaced by `CompactRows`: during a step they hold only the batch's distinct rows, so a
model of millions of rows costs no more than the rows it touches. Dense parameters are views of two flat vectors (the
shared and the private ones), so that pulling, pushing and optimizing them is one array operation each.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedps.client.parameters import Parameters
from fedps.client.tables import Slots
from fedps.models.loss import cross_entropy, own_loss
from fedps.types import Values

Ids = tuple[Slots, Slots]  # a batch's user and item ids, int64[B] each


class Gradients(NamedTuple):
    """What a step found: loss, scores float32[B] (probabilities), row gradients float32[U, dim], flat dense ones."""

    loss: float
    scores: Values
    rows: dict[str, Values]
    dense: Values
    private_dense: Values


class CompactRows(nn.Module):
    """Stands in for an embedding: looks its rows up by position instead of by id."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: torch.Tensor = torch.empty(0)
        self.index: torch.Tensor = torch.empty(0, dtype=torch.int64)

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """Return rows[index]; the ids are not needed, their positions were found before."""
        return functional.embedding(self.index, self.rows)


class Step:
    """A model made ready to train on rows that are handed to it.

    Args:
        model: the network, as built; its embeddings are taken out, its dense parameters become views.
        parameters: which is which.
    """

    def __init__(self, model: nn.Module, parameters: Parameters) -> None:
        self._model = model
        self._loss = own_loss(model) or cross_entropy
        self._tables: dict[str, CompactRows] = {}
        for embedding in parameters.embeddings:
            compact = CompactRows()
            model.set_submodule(embedding.module, compact)
            self._tables[embedding.spec.name] = compact
        weights = dict(model.named_parameters())
        self._dense = [weights[n] for n in parameters.dense]
        self._private = [weights[n] for n in parameters.private_dense]

    def attach(self, dense: Values, private_dense: Values) -> None:
        """Make the model's dense parameters views of these flat vectors, float32[n] each."""
        for tensors, flat in ((self._dense, dense), (self._private, private_dense)):
            at = 0
            for tensor in tensors:
                piece = torch.from_numpy(flat[at : at + tensor.numel()]).view(tensor.shape)
                at += tensor.numel()
                tensor.data = piece

    def gradients(self, ids: Ids, rows: Mapping[str, Values], index: Mapping[str, Slots], label: Values) -> Gradients:
        """Return loss (the network's own `loss`, or `cross_entropy`) and all gradients of one batch."""
        leaves = self._load(rows, index)
        for leaf in leaves:
            leaf.requires_grad_()
        logits = self._model(*(torch.from_numpy(column) for column in ids))
        loss = self._loss(logits, torch.from_numpy(label))
        wanted = [*leaves, *self._dense, *self._private]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        whole = [g if g is not None else torch.zeros_like(w) for g, w in zip(found, wanted, strict=True)]
        of_rows, of_dense = whole[: len(leaves)], whole[len(leaves) :]
        cut = len(self._dense)
        return Gradients(
            float(loss.detach()),
            torch.sigmoid(logits.detach()).numpy(),
            {name: g.numpy() for name, g in zip(self._tables, of_rows, strict=True)},
            _flat(of_dense[:cut]),
            _flat(of_dense[cut:]),
        )

    @torch.no_grad()
    def scores(self, ids: Ids, rows: Mapping[str, Values], index: Mapping[str, Slots]) -> Values:
        """Return logits, float32[B], without training."""
        self._load(rows, index)
        self._model.eval()
        logits = self._model(*(torch.from_numpy(column) for column in ids))
        self._model.train()
        found: Values = logits.numpy()
        return found

    def _load(self, rows: Mapping[str, Values], index: Mapping[str, Slots]) -> list[torch.Tensor]:
        for name, table in self._tables.items():
            table.rows, table.index = torch.from_numpy(rows[name]), torch.from_numpy(index[name])
        return [table.rows for table in self._tables.values()]


def flat(tensors: list[nn.Parameter]) -> Values:
    """Return tensors laid end to end, float32[n]."""
    return _flat([t.detach() for t in tensors])


def _flat(tensors: list[torch.Tensor]) -> Values:
    if not tensors:
        return np.empty(0, np.float32)
    return torch.cat([t.reshape(-1) for t in tensors]).numpy()
