"""A network that tells the next item of a sequence: SASRec."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedps.config.sections.features import sequences
from fedps.config.sections.training import HyperParameters
from fedps.models.ctr import Features, Tables


class SASRec(Tables):
    """Self-attention over the items so far, and the product of what it comes to with the next item's row (Kang and McAuley, ICDM 2018).

    No position looks ahead, so training can learn from all of them at once: with `in_batch_softmax` and `train_positions:
    all`, as suits data with a sample a user, what follows each item is told from all other items of the batch. Data with a
    sample for each item of a user would show the same steps over and over: there `last` is due. Other losses take each
    sample's own item.

    Args:
        features: `item`, and a sequence of items; others are left.
        hyper: `embedding_dim`, `num_blocks`, `num_heads`, `dropout`, `train_positions`, `loss`.
    """

    def __init__(self, features: Features, hyper: HyperParameters, tasks: int = 1) -> None:
        super().__init__(features)
        dim, [self.sequence] = hyper.embedding_dim, [n for n, target in sequences(features).items() if target == "item"]
        self.takes = ("item", self.sequence)
        self.add_tables("embedding", dim, self.takes)
        longest = features[self.sequence].max
        assert longest is not None  # noqa: S101  (a sequence has one)
        self.positions = nn.Parameter(0.01 * torch.randn(longest, dim))
        self.dropout = nn.Dropout(hyper.dropout)
        self.blocks = nn.ModuleList(Block(dim, hyper.num_heads, hyper.dropout) for _ in range(hyper.num_blocks))
        self.norm = nn.LayerNorm(dim)
        self.every = hyper.loss == "in_batch_softmax" and hyper.train_positions == "all"
        self.candidates = self.takes if self.every else ("item",)

    def forward(self, **columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows float32[M, dim] of what went before, rows of what came next, and the items' ids int64[M].

        M is B, or in training, where all positions count, the number of those: of an empty sequence there is one.
        """
        ids, item = columns[self.sequence], columns["item"]
        next_row = self.look_up("embedding", "item", item)
        if not (self.training and self.every):
            fresh = torch.cat(
                (ids.new_ones(1, dtype=torch.bool), (ids[1:] != ids[:-1]).any(1))
            )  # each once, however many
            after, last = self.encode(self.look_up("embedding", self.sequence, ids[fresh])), _last(ids[fresh])
            users = after[torch.arange(len(last), device=last.device), last]
            return users[fresh.cumsum(0) - 1], next_row, item
        rows, last = self.look_up("embedding", self.sequence, ids), _last(ids)
        after = self.encode(rows)
        place = torch.arange(rows.shape[1], device=last.device)
        at_end, counts = (place == last[:, None]), place <= last[:, None]
        next_rows = torch.where(at_end[..., None], next_row[:, None], rows.roll(-1, 1))
        next_ids = torch.where(at_end, item[:, None], ids.roll(-1, 1))
        return after[counts], next_rows[counts], next_ids[counts]

    def encode(self, rows: Tensor) -> Tensor:
        """Return what each position knows of itself and those before, float32[B, max, dim]; padding stands behind, unseen.

        Args:
            rows: of the items, float32[B, max, dim].
        """
        scaled = rows * rows.shape[2] ** 0.5
        after = self.dropout(scaled + self.positions)
        for block in self.blocks:
            after = block(after)
        normed: Tensor = self.norm(after)
        return normed


def _last(ids: Tensor) -> Tensor:
    """Return where each sequence ends, int64[B]; an empty one at its first place."""
    return (ids >= 0).sum(1).clamp(min=1) - 1


class Block(nn.Module):
    """Attention to what went before, then two layers for each position, each added to what it is made of (section III-B, III-C).

    Args:
        dim: floats of a row.
        heads: of attention, dim / heads floats each.
        dropout: share of values left out after each of the two.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.layers_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows: Tensor) -> Tensor:
        """Return float32[B, max, dim] of float32[B, max, dim]."""
        normed = self.attention_norm(rows)
        query, key, value = (
            layer(normed).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        rows = rows + self.dropout(attended)
        out: Tensor = rows + self.dropout(self.layers(self.layers_norm(rows)))
        return out
