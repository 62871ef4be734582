"""Networks that tell how likely a click is, from features in any number: DeepFM, DCN-v2 and DIN, and the layers they share.

Every id space has a table `embedding_SPACE`, of rows of `embedding_dim`, which all features of that space look up. Bags are
pooled as their features say; sequences by the mean, unless the network knows better. Each network takes features by name
and returns logits float32[B], or [B, tasks]. Names of keys are FuxiCTR's (Zhu et al., CIKM 2021).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from fedps.config.sections.features import OPEN, Feature, sequences, spaces
from fedps.config.sections.training import HyperParameters
from fedps.types import Init

ROW_START = Init("normal", 0.0, 0.01)
OPEN_ROWS = 1024  # that stand for a table without bounds while a network is made; servers make its rows as ids come
Features = Mapping[str, Feature]  # those that are inputs


class Tables(nn.Module):
    """What networks of features have in common: a table for each id space, looked up by all features of that space.

    Args:
        features: its inputs.

    Attributes:
        features: these.
        row_init: how each table's rows start.
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = dict(features)
        self.row_init: dict[str, Init] = {}

    def add_tables(self, prefix: str, dim: int, of: Iterable[str]) -> None:
        """Make `PREFIX_SPACE` for each id space of some features."""
        found = spaces(self.features)
        for space in dict.fromkeys(found[name] for name in of if name in found):
            rows = self.features[space].rows
            table = nn.Embedding(OPEN_ROWS if rows == OPEN else cast(int, rows), dim)
            nn.init.normal_(table.weight, ROW_START.a, ROW_START.b)
            self.add_module(f"{prefix}_{space}", table)
            self.row_init[f"{prefix}_{space}.weight"] = ROW_START

    def look_up(self, prefix: str, name: str, ids: Tensor) -> Tensor:
        """Return the rows of a feature's ids: float32[B, dim], of a sequence float32[B, max, dim]."""
        rows: Tensor = self.get_submodule(f"{prefix}_{self.features[name].table or name}")(ids)
        return rows

    def pooled(self, prefix: str, name: str, ids: Tensor) -> Tensor:
        """Return one row a sample, float32[B, dim]: of a sequence the mean, zeros where it is empty."""
        rows = self.look_up(prefix, name, ids)
        return rows if rows.dim() == 2 else rows.sum(1) / (ids >= 0).sum(1, keepdim=True).clamp(min=1)

    def field(self, name: str, column: Tensor) -> Tensor:
        """Return what stands for a feature: its row, or its numbers as they are, float32[B, `width`]."""
        return (
            self.pooled("embedding", name, column) if self.features[name].has_ids else column.reshape(len(column), -1)
        )

    def fields(self, columns: Mapping[str, Tensor]) -> Tensor:
        """Return what stands for some features, end to end: float32[B, `width`]."""
        return torch.cat([self.field(name, column) for name, column in columns.items()], 1)

    def width(self, names: Iterable[str], dim: int) -> int:
        """Return how many floats stand for some features, end to end."""
        return sum(dim if self.features[name].has_ids else self.features[name].dim for name in names)


class Machine(Tables):
    """What a factorization machine has of each feature, a weight and a row (Rendle, ICDM 2010).

    The weights are tables `linear_SPACE`, of one float a row. A number's row is its value times a vector.

    Args:
        features: the inputs.
        hyper: `embedding_dim`.
    """

    def __init__(self, features: Features, hyper: HyperParameters) -> None:
        super().__init__(features)
        for prefix, dim in (("embedding", hyper.embedding_dim), ("linear", 1)):
            self.add_tables(prefix, dim, features)
            for name, feature in features.items():
                if not feature.has_ids:
                    vector = nn.Linear(feature.dim, dim, bias=False)
                    nn.init.normal_(vector.weight, ROW_START.a, ROW_START.b)
                    self.add_module(f"{prefix}_{name}", vector)

    def sums(self, columns: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the sum of features' weights, of their rows, and of the squares of these; and the rows end to end."""
        weights = [self.row("linear", name, column) for name, column in columns.items()]
        rows = [self.row("embedding", name, column) for name, column in columns.items()]
        total, squares = (reduce(torch.add, parts) for parts in (rows, [row * row for row in rows]))
        return reduce(torch.add, weights), total, squares, torch.cat(rows, 1)

    def row(self, prefix: str, name: str, column: Tensor) -> Tensor:
        """Return the row of a feature, or of a number its vector times it: float32[B, dim]."""
        if self.features[name].has_ids:
            return self.pooled(prefix, name, column)
        vector: Tensor = self.get_submodule(f"{prefix}_{name}")(column.reshape(len(column), -1))
        return vector


class DeepFM(Machine):
    """A factorization machine and layers side by side, on the same rows (Guo et al., IJCAI 2017, section 2).

    Args:
        features: the inputs.
        hyper: `embedding_dim`, `hidden_units`, `dropout`.
        tasks: how many labels; those of more than one have the machine in common, and the layers but for the last.
    """

    def __init__(self, features: Features, hyper: HyperParameters, tasks: int = 1) -> None:
        super().__init__(features, hyper)
        self.mlp = layers(len(features) * hyper.embedding_dim, hyper, tasks)

    def forward(self, **columns: Tensor) -> Tensor:
        """Return logits float32[B], or [B, tasks]."""
        weight, total, squares, rows = self.sums(columns)
        second = 0.5 * (total * total - squares).sum(1, keepdim=True)
        return one_or_all(weight + second + self.mlp(rows))


class DCNv2(Tables):
    """Cross layers and layers side by side: x' = x0 * (W x + b) + x (Wang et al., WWW 2021, sections 3.2 to 3.5).

    Args:
        features: the inputs; numbers go in as they are.
        hyper: `embedding_dim`, `hidden_units`, `dropout`, `num_cross_layers`, and `low_rank`, where W is a product of two
            such that are so narrow.
        tasks: how many labels; those of more than one have all but the last layer in common.
    """

    def __init__(self, features: Features, hyper: HyperParameters, tasks: int = 1) -> None:
        super().__init__(features)
        self.add_tables("embedding", hyper.embedding_dim, features)
        width = self.width(features, hyper.embedding_dim)
        self.cross = nn.ModuleList(_cross(width, hyper.low_rank) for _ in range(hyper.num_cross_layers))
        self.mlp = layers(width, hyper)
        self.predict = nn.Linear(width + hyper.hidden_units[-1], tasks)

    def forward(self, **columns: Tensor) -> Tensor:
        """Return logits float32[B], or [B, tasks]."""
        start = crossed = self.fields(columns)
        for layer in self.cross:
            crossed = start * layer(crossed) + crossed
        return one_or_all(self.predict(torch.cat((crossed, self.mlp(start)), 1)))


class DIN(Tables):
    """A sequence is summed up by how each of its rows goes with the row it is compared with (Zhou et al., KDD 2018, 4.3).

    A sequence is compared with the feature whose table it shares: a history with the item. As there, weights are no softmax,
    so that they tell how much there is; its Dice, a batch norm whose statistics clients would have to share, is ReLU here.

    Args:
        features: the inputs, with a sequence at least; numbers go in as they are.
        hyper: `embedding_dim`, `hidden_units`, `dropout`, `attention_hidden_units`.
        tasks: how many labels; those of more than one have all but the last layer in common.
    """

    def __init__(self, features: Features, hyper: HyperParameters, tasks: int = 1) -> None:
        super().__init__(features)
        self.targets = sequences(features)
        self.add_tables("embedding", hyper.embedding_dim, features)
        for name in self.targets:
            self.add_module(f"attention_{name}", stacked([4 * hyper.embedding_dim, *hyper.attention_hidden_units], 1))
        self.mlp = layers(self.width(features, hyper.embedding_dim), hyper, tasks)

    def forward(self, **columns: Tensor) -> Tensor:
        """Return logits float32[B], or [B, tasks]."""
        rows = {name: self.field(name, column) for name, column in columns.items() if name not in self.targets}
        for name, target in self.targets.items():
            rows[name] = self.attended(name, columns[name], rows[target])
        return one_or_all(self.mlp(torch.cat([rows[name] for name in columns], 1)))

    def attended(self, name: str, ids: Tensor, target: Tensor) -> Tensor:
        """Return the sum of a sequence's rows, each weighted by how it goes with the target: float32[B, dim].

        Args:
            name: the sequence.
            ids: its ids, int64[B, max].
            target: a row for each sample, float32[B, dim].
        """
        rows = self.look_up("embedding", name, ids)
        targets = target[:, None].expand_as(rows)
        weights = self.get_submodule(f"attention_{name}")(torch.cat((targets, rows, targets - rows, targets * rows), 2))
        total: Tensor = (weights.masked_fill((ids < 0)[..., None], 0.0) * rows).sum(1)
        return total


def layers(inputs: int, hyper: HyperParameters, outputs: int = 0) -> nn.Sequential:
    """Return layers of `hidden_units`, each with ReLU and `dropout`, and a last one of some outputs."""
    return stacked([inputs, *hyper.hidden_units], outputs, hyper.dropout)


def stacked(sizes: Sequence[int], outputs: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """Return Linear, ReLU and dropout from size to size, and a last Linear of some outputs, if there are to be any."""
    steps: list[nn.Module] = []
    for inputs, size in pairwise(sizes):
        steps += [nn.Linear(inputs, size), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*steps, *([nn.Linear(sizes[-1], outputs)] if outputs else []))


def one_or_all(logits: Tensor) -> Tensor:
    """Return logits float32[B, tasks], of a single task float32[B]."""
    return logits.squeeze(1) if logits.shape[1] == 1 else logits


def _cross(width: int, rank: int | None) -> nn.Module:
    if rank is None:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
