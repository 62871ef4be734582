"""Neural collaborative filtering (He et al., WWW 2017): three networks that score a user with an item.

Sizes and starts are those of PaddleRec's `models/recall/ncf`. Every network takes user int64[B] and item int64[B] and
returns logits float32[B]; the sigmoid belongs to the loss. Embeddings are created in the order in which the original's
aliases count: `embedding_0.w_0` is the user table, `embedding_1.w_0` the item table; in `NcfNeuMf` 0 and 1 are those of the
product, 2 and 3 those of the layers. `row_init` states where each table's rows start, for servers that make rows without
the model.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedps.types import Init

ROW_START = Init("normal", 0.0, 0.01)


class NcfMlp(nn.Module):
    """User row and item row end to end, through layers of ReLU, to one logit (section 3.3).

    Args:
        num_users: rows of the user table.
        num_items: rows of the item table.
        mf_dim: not used here; the three networks are made alike.
        fc_layers: the layers' sizes, input first; each table's rows have half of the first.
    """

    row_init: ClassVar[dict[str, Init]] = {"mlp_user.weight": ROW_START, "mlp_item.weight": ROW_START}

    def __init__(self, num_users: int, num_items: int, mf_dim: int, fc_layers: Sequence[int]) -> None:
        super().__init__()
        self.mlp_user = _table(num_users, fc_layers[0] // 2)
        self.mlp_item = _table(num_items, fc_layers[0] // 2)
        self.mlp = _layers(fc_layers)
        self.predict = _predict(fc_layers[-1], fan_in=2 * fc_layers[-1])

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return logits float32[B]."""
        both = torch.cat((self.mlp_user(user), self.mlp_item(item)), dim=1)
        logits: Tensor = self.predict(self.mlp(both))
        return logits.squeeze(1)


class NcfGmf(nn.Module):
    """Generalized matrix factorization: the weighted sum of user row times item row (section 3.2).

    Args:
        num_users: rows of the user table.
        num_items: rows of the item table.
        mf_dim: floats of a row.
        fc_layers: not used here; the three networks are made alike.
    """

    row_init: ClassVar[dict[str, Init]] = {"mf_user.weight": ROW_START, "mf_item.weight": ROW_START}

    def __init__(self, num_users: int, num_items: int, mf_dim: int, fc_layers: Sequence[int]) -> None:
        super().__init__()
        self.mf_user = _table(num_users, mf_dim)
        self.mf_item = _table(num_items, mf_dim)
        self.predict = _predict(mf_dim, fan_in=mf_dim)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return logits float32[B]."""
        logits: Tensor = self.predict(self.mf_user(user) * self.mf_item(item))
        return logits.squeeze(1)


class NcfNeuMf(nn.Module):
    """Both of the above side by side, each with its own tables, under one last layer (section 3.4).

    Args:
        num_users: rows of the user tables.
        num_items: rows of the item tables.
        mf_dim: floats of a row of the product's tables.
        fc_layers: the layers' sizes, input first; their tables' rows have half of the first.
    """

    row_init: ClassVar[dict[str, Init]] = NcfGmf.row_init | NcfMlp.row_init

    def __init__(self, num_users: int, num_items: int, mf_dim: int, fc_layers: Sequence[int]) -> None:
        super().__init__()
        self.mf_user = _table(num_users, mf_dim)
        self.mf_item = _table(num_items, mf_dim)
        self.mlp_user = _table(num_users, fc_layers[0] // 2)
        self.mlp_item = _table(num_items, fc_layers[0] // 2)
        self.mlp = _layers(fc_layers)
        self.predict = _predict(mf_dim + fc_layers[-1], fan_in=2 * (mf_dim + fc_layers[-1]))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Return logits float32[B]."""
        product = self.mf_user(user) * self.mf_item(item)
        layered = self.mlp(torch.cat((self.mlp_user(user), self.mlp_item(item)), dim=1))
        logits: Tensor = self.predict(torch.cat((product, layered), dim=1))
        return logits.squeeze(1)


def _table(rows: int, dim: int) -> nn.Embedding:
    """Return an embedding float32[rows, dim] with the start that `row_init` states."""
    table = nn.Embedding(rows, dim)
    nn.init.normal_(table.weight, ROW_START.a, ROW_START.b)
    return table


def _layers(sizes: Sequence[int]) -> nn.Sequential:
    """Return Linear and ReLU for each step from size to size; `mlp.0`, `mlp.2`, … hold the weights."""
    steps: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs)
        nn.init.trunc_normal_(linear.weight, std=inputs**-0.5)
        nn.init.zeros_(linear.bias)
        steps += [linear, nn.ReLU()]
    return nn.Sequential(*steps)


def _predict(inputs: int, fan_in: int) -> nn.Linear:
    """Return the last layer, Kaiming uniform for `fan_in` inputs, which the original mostly counts twice."""
    linear = nn.Linear(inputs, 1)
    bound = math.sqrt(6 / fan_in)
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.zeros_(linear.bias)
    return linear
